"""Search over regularisation: spaces, what a candidate trains with, the recipe's own optimiser."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

import baselines
import bench.train.dropout as dropping
from baselines._ask_tell import Grid, Random
from baselines._regularisation_space import dropouts, separate, shared
from baselines._search import Training
from baselines.search import SearchBaseline, SearchConfig
from bench.augment.regularisers import Regularisers
from bench.check import small_config
from bench.errors import ConfigError
from bench.networks import build
from bench.plugins import Plugin, Selected, discover, select
from bench.rng import generator
from bench.stage import stage
from bench.train.heavy_ball import HeavyBall
from bench.train.loops import training_step
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.task import Task, standard

Tensor = torch.Tensor
PLUGINS = discover([Path(baselines.__path__[0])])
RATES, STRENGTHS = (0, 0.1, 0.2, 0.3, 0.5), (0, 0.05, 0.1, 0.2, 0.4)


def session_of(small: Prepared, budget: float = 2.0) -> Session:
    selected = Selected(Plugin(SearchBaseline, Path(__file__), ""), SearchConfig(), "search", None)
    session = stage(small, small_config(selected, budget)).session
    session._observe = None
    return session


def policy_in(candidate: Any) -> Regularisers:
    (first, *_) = candidate.policy.policies
    assert isinstance(first, Regularisers)
    return first


def training_of(session: Session, values: dict[str, float]) -> Training:
    candidate = shared().candidate(session.task, values)
    return Training(session, session.learner(), session.batches("train"), candidate)


def test_every_strength_is_uniform_over_its_range(small: Prepared) -> None:
    count = dropouts(small.task)
    space = separate(small.task.size, count)
    assert count == 4
    assert len(space.dimensions) == 7 + 4
    assert space.size is None
    proposer = Random(space.dimensions, generator("proposals"))
    drawn = [space.values(proposer.ask()) for _ in range(500)]
    for name, top in {
        "hue": 0.5,
        "cutout_length": 6,
        "input_scale": 0.3,
        "dropout_2": 0.9,
    }.items():
        values = torch.tensor([one[name] for one in drawn]).numpy()
        assert stats.kstest(values, "uniform", (0, top)).pvalue > 1e-3
    candidate = space.candidate(small.task, drawn[0])
    made = policy_in(candidate)
    expected = torch.tensor(list(drawn[0].values()), dtype=torch.float64)
    torch.testing.assert_close(made.strengths(made.entries), expected)
    assert not made.sigma.any()
    assert candidate.setting is None


def test_the_grid_has_one_rate_and_one_strength(small: Prepared) -> None:
    space = shared()
    grid = Grid(space.dimensions, generator("unused"))
    points = [space.values(grid.ask()) for _ in range(space.size or 0)]
    assert [tuple(point.values()) for point in points] == [
        (rate, strength) for rate in RATES for strength in STRENGTHS
    ]
    made = policy_in(space.candidate(small.task, {"dropout": 0.3, "strength": 0.2}))
    strengths = made.strengths(made.entries)
    torch.testing.assert_close(strengths[:7], 0.2 * made.tops[:7])
    torch.testing.assert_close(strengths[7:], torch.full_like(strengths[7:], 0.3))


def test_nothing_at_all_is_the_standard_training(small: Prepared) -> None:
    """To the bit: the recipe's optimiser and schedule, no jitter, no holes, no dropout."""
    session, plain = session_of(small), session_of(small)
    training = training_of(session, {"dropout": 0.0, "strength": 0.0})
    learner, batches, policy = plain.learner(), plain.batches("train"), standard(small.task)
    # The regularisers draw from the same stream first: crops are taken from a stream of their own.
    crops = training.candidate.policy.policies[1]  # type: ignore[attr-defined]
    sample = crops.sample
    crops.sample = lambda index, rng: sample(index, session.rng("crops"))
    policy.sample = lambda index, rng: sample(index, plain.rng("crops"))  # type: ignore[method-assign]
    for done in range(6):
        training.step(done / 6)
        training_step(plain, learner, policy, batches, done / 6)
    assert training.learner.digest() == learner.digest()
    assert not hasattr(training, "ball")


def test_a_candidate_drops_and_jitters_by_its_values(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    whole = dropping.drop

    def dropped(x: Tensor, rate: Tensor, *rest: Any) -> Tensor:
        rates.append(float(rate.view(-1)[0]))
        return whole(x, rate, *rest)

    monkeypatch.setattr(dropping, "drop", dropped)
    session = session_of(small)
    training = training_of(session, {"dropout": 0.3, "strength": 0.4})
    training.step(0.0)
    assert rates
    assert rates == pytest.approx([0.3] * len(rates))
    rates.clear()
    session.validate(training.learner)
    assert not rates


def test_a_search_runs_under_the_recipe(small: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("heavy ball")

    monkeypatch.setattr(HeavyBall, "step", forbidden)
    session = session_of(small, 2.0)
    fresh = session_of(small).learner().digest()
    for options in ({"space": "regularisers"}, {"space": "regularisers-grid"}):
        session = session_of(small, 2.0)
        fitted = SearchBaseline(SearchConfig(trials=3, **options)).run(session)
        assert fitted.learner.digest() != fresh
        trace = session.trace.export()
        errors = trace["trial_error"]["value"]
        assert len(errors) == session.tallies["trials"] == 3
        best = errors.index(min(errors))
        for name in [name for name in trace if name.startswith("trial_")]:
            if name not in ("trial_error", "trial_cost", "trial_bill"):
                chosen = trace[name.replace("trial_", "chosen_")]["value"]
                assert chosen == [trace[name]["value"][best]]
        assert fitted.policy.describe()["of"][0]["policy"] == "regularisers"
        assert any("under the recipe's own optimiser" in said for said in fitted.deviations)
        assert not any("the paper about 100" in said for said in fitted.deviations)


def test_trials_leave_the_last_trainings_draws_alone(small: Prepared) -> None:
    session, fresh = session_of(small), session_of(small)
    candidate = shared().candidate(session.task, {"dropout": 0.1, "strength": 0.1})
    Training(session, session.learner(), session.batches("train"), candidate, "search").step(0.0)
    assert torch.equal(session.rng("policy").get_state(), fresh.rng("policy").get_state())
    assert not torch.equal(session.rng("search").get_state(), fresh.rng("search").get_state())


def test_a_network_that_is_no_chain_is_skipped(small: Prepared) -> None:
    task: Task = replace(small.task, network=lambda: build("wrn-10-1", 10, 1, 8))
    for space in ("regularisers", "regularisers-grid"):
        method = SearchBaseline(SearchConfig(space=space, trials=3))
        assert "need a chain of layers" in (method.skip(task, 4.0) or "")
        assert method.skip(small.task, 4.0) is None
        assert method.policy(small.task).describe()["of"][0]["policy"] == "regularisers"
    assert SearchBaseline(SearchConfig()).skip(task, 4.0) is None


def test_options(small: Prepared) -> None:
    grid = SearchConfig(proposer="grid", space="regularisers-grid")
    assert grid.count() == 25
    assert SearchBaseline(grid).minimum(small.task) == 26
    with pytest.raises(ConfigError, match="space=regularisers has no windows"):
        select(PLUGINS, "search[space=regularisers,rates=3]")
    with pytest.raises(ConfigError, match="cannot search space=regularisers: a grid"):
        select(PLUGINS, "search[space=regularisers,proposer=grid]")
    with pytest.raises(ConfigError, match="25 points, and proposer=random tries none twice"):
        select(PLUGINS, "search[space=regularisers-grid,trials=26]")
