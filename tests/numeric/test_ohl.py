"""OHL: the score-function estimate, the plan, selection, placebos, and the planted test (slow)."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.augment.learnable import Categorical, pairs
from bench.augment.spaces import space
from bench.check import small_config
from bench.errors import BudgetExhausted, PlanError
from bench.plugins import Plugin, Selected
from bench.stage import stage
from bench.train.prepare import Prepared
from bench.train.session import Session
from benchmarks import ohl_planted
from methods import ohl
from methods.ohl import Ohl, OhlConfig, Periods, Update, score

Tensor = torch.Tensor


def session_of(small: Prepared, config: OhlConfig, budget: float = 4.0) -> Session:
    selected = Selected(Plugin(Ohl, Path(__file__), ""), config, "ohl", None)
    session = stage(small, small_config(selected, budget)).session
    session._observe = None
    return session


def small_policy(logits: list[float]) -> Categorical:
    elements = torch.arange(len(logits))[:, None]
    return Categorical(space("ohl"), elements=elements, weigh="sigmoid", logits=logits)


def accuracy(draws: tuple[int, ...]) -> float:
    """Of a network that was trained with these draws: any function of them."""
    return sum((2 + k) * 0.05 * (at + 1) for at, k in enumerate(draws)) + 0.1 * (draws[0] == 1)


def test_the_estimate_is_right_on_average() -> None:
    """All outcomes of 2 trajectories of 2 draws from 3 elements, weighed by their probability.

    A trajectory's own accuracy is in the mean that it is compared with, which shrinks the
    expectation by (N - 1) / N; Adam does not see a factor.
    """
    policy = small_policy([0.3, -0.7, 1.2])
    leaf = policy.logits.requires_grad_()
    p = policy.log_probabilities().exp()
    outcomes = list(itertools.product(range(3), repeat=2))
    objective = sum(p[a] * p[b] * accuracy((a, b)) for a, b in outcomes)
    (exact,) = torch.autograd.grad(objective, leaf, retain_graph=True)

    expected = torch.zeros(3, dtype=torch.float64)
    for one, two in itertools.product(outcomes, repeat=2):
        likelihood = torch.stack([p[k] for k in (*one, *two)]).prod().item()
        counts = torch.stack([torch.bincount(torch.tensor(t), minlength=3) for t in (one, two)])
        values = torch.tensor([accuracy(one), accuracy(two)], dtype=torch.float64)
        expected += likelihood * score(leaf.detach(), counts, values)
    torch.testing.assert_close(expected, exact / 2, rtol=1e-10, atol=1e-12)


def test_the_closed_form_is_the_log_probabilities_gradient() -> None:
    rng = torch.Generator().manual_seed(0)
    policy = small_policy(torch.randn(5, generator=rng).tolist())
    leaf = policy.logits.requires_grad_()
    values = torch.rand(4, generator=rng, dtype=torch.float64)
    draws = [policy.sample(torch.arange(60), rng) for _ in range(4)]
    centred = values - values.mean()
    total = sum(a * policy.log_prob(d).sum() for a, d in zip(centred, draws, strict=True)) / 4
    (expected,) = torch.autograd.grad(total, leaf)
    counts = torch.stack([torch.bincount(d.choice, minlength=5) for d in draws])
    torch.testing.assert_close(score(leaf.detach(), counts, values), expected)


@pytest.mark.parametrize("budget", [3.0, 2.2, 1.01, 0.5, 0.0])
def test_the_plan_fills_the_budget_and_ends_with_a_check(budget: float) -> None:
    step, check, interval = 0.03, 0.11, 7
    plan = ohl.affordable(budget, step, check, interval)
    assert plan["check"] == -(-plan["step"] // interval)
    spent = plan["step"] * step + plan["check"] * check
    assert spent <= budget + 1e-9
    # One more step would not fit, with the check that it might need.
    more = (plan["step"] + 1) * step + -(-(plan["step"] + 1) // interval) * check
    assert more > budget


def caught(small: Prepared, **options: Any) -> tuple[Session, Periods, list[dict[str, Any]]]:
    """A run's periods: counts, accuracies and the winner of each."""
    config = OhlConfig(copies=3, interval=4, **options)
    session = session_of(small, config)
    policy = Ohl(config)._start(session.task)
    frozen = config.placebo == "uniform"
    periods = Periods(session, session.learner(), policy, config, frozen)
    seen: list[dict[str, Any]] = []
    accuracies, broadcast = periods.copies.accuracies, periods.copies.broadcast

    def measured(arrays: Any) -> Tensor:
        values = accuracies(arrays)
        seen.append({"counts": periods.counts.clone(), "accuracies": values.clone()})
        return values

    def broadcasted(best: int) -> None:
        seen[-1]["best"] = best
        broadcast(best)

    periods.copies.accuracies = measured  # type: ignore[method-assign]
    periods.copies.broadcast = broadcasted  # type: ignore[method-assign]
    periods.train()
    return session, periods, seen[1:]  # the first is the rehearsal


def test_the_best_copy_wins_and_everything_drawn_is_counted(small: Prepared) -> None:
    session, _, seen = caught(small)
    batch = session.task.recipe.batch_size
    lengths = [4] * (len(seen) - 1)
    lengths.append(session.plans[0]["step"] - sum(lengths))
    for period, length in zip(seen, lengths, strict=True):
        assert period["counts"].sum(1).tolist() == [length * batch] * 3
        assert period["best"] == int(period["accuracies"].argmax())
    assert session.tallies["policy_updates"] == len(seen) == session.plans[0]["check"]
    assert session.tallies["images_seen"] == 3 * batch * session.plans[0]["step"]


def test_copies_differ_in_the_operations_only(small: Prepared) -> None:
    table = space("ohl-unsigned")
    same = Categorical(table, elements=[[table.index("invert"), 0]], weigh="sigmoid")
    for policy, equal in ((same, True), (Ohl(OhlConfig())._start(small.task), False)):
        config = OhlConfig(copies=3)
        session = session_of(small, config)
        periods = Periods(session, session.learner(), policy, config, frozen=True)
        seen: list[Tensor] = []
        step = periods.copies.step

        def caught(images: Tensor, *rest: Any, seen: Any = seen, step: Any = step) -> Tensor:
            seen.append(images)
            return step(images, *rest)

        periods.copies.step = caught  # type: ignore[method-assign]
        periods.step(0.0)
        assert all(torch.equal(seen[0][0], own) for own in seen[0]) is equal


def test_the_learner_is_the_last_winner(small: Prepared) -> None:
    _, periods, _ = caught(small, stacked=True)
    copies: Any = periods.copies
    for name, value in periods.learner.network.named_parameters():
        assert torch.equal(value, copies.weights[name][0])


def run(small: Prepared, **options: Any) -> tuple[Session, dict[str, Any]]:
    config = OhlConfig(copies=3, interval=4, **options)
    session = session_of(small, config)
    return session, Ohl(config).run(session).policy.describe()["of"][1]


def test_uniform_never_moves_but_selects(small: Prepared) -> None:
    session, policy = run(small, placebo="uniform")
    assert set(policy["logits"]) == {0.0}
    assert session.tallies["policy_updates"] == 0
    assert session.plans == run(small)[0].plans
    _, _, seen = caught(small, placebo="uniform")
    assert len({period["best"] for period in seen}) > 1


def test_shuffled_moves_by_the_same_accuracies_in_other_places(small: Prepared) -> None:
    _, real = run(small)
    session, placebo = run(small, placebo="shuffled")
    assert real["logits"] != placebo["logits"]
    policy = Categorical(space("ohl"), elements=pairs(space("ohl")), weigh="sigmoid")
    update = Update(session, policy, OhlConfig(placebo="shuffled"))
    counts = torch.zeros(3, 36**2, dtype=torch.int64)
    counts[0, 0] = counts[1, 1] = counts[2, 2] = 10
    moved = set()
    for _ in range(12):
        update(counts, torch.tensor([0.1, 0.2, 0.6], dtype=torch.float64))
        moved.add(tuple(policy.logits.grad[:3].sign().tolist()))  # type: ignore[index]
    assert len(moved) == 3


def test_replay_trains_under_the_mean_of_the_first_half(small: Prepared) -> None:
    session, policy = run(small, placebo="replay")
    assert len(session.plans) == 2
    assert session.tallies["policy_updates"] == session.plans[0]["check"]
    assert len(set(policy["logits"])) > 10


def test_the_mean_distribution_is_the_mean_of_the_distributions(small: Prepared) -> None:
    session = session_of(small, OhlConfig())
    policy = Ohl(OhlConfig())._start(session.task)
    update = Update(session, policy, OhlConfig(lr=0.5))
    rng, seen = torch.Generator().manual_seed(0), []
    for _ in range(5):
        counts = torch.randint(20, (8, 36**2), generator=rng)
        update(counts, torch.rand(8, generator=rng, dtype=torch.float64))
        seen.append(policy.log_probabilities().detach().exp())
    mean = update.mean().log_probabilities().exp()
    torch.testing.assert_close(mean, torch.stack(seen).mean(0), rtol=1e-9, atol=1e-12)


def test_one_copy_neither_learns_nor_checks(small: Prepared) -> None:
    session, _ = run(small)
    config = OhlConfig(copies=1, placebo="uniform")
    single = session_of(small, config)
    policy = Ohl(config).run(single).policy.describe()["of"][1]
    assert set(policy["logits"]) == {0.0}
    labels = {item[0] for item in single._meter.ledger.items("run")}
    assert labels == {"augment", "train"}
    assert "validate" in {item[0] for item in session._meter.ledger.items("run")}


def test_the_trace_has_the_marginals_of_first_elements(small: Prepared) -> None:
    session, policy = run(small)
    last = session.trace.export(1000)["marginals"]["value"][-1]
    p = torch.tensor(policy["logits"], dtype=torch.float64).sigmoid()
    torch.testing.assert_close(
        torch.tensor(last, dtype=torch.float64), p.view(36, 36).sum(1) / p.sum()
    )


def test_options_change_what_they_name(small: Prepared) -> None:
    outcomes = {
        name: tuple(run(small, **options)[1]["logits"])
        for name, options in {
            "default": {},
            "start": {"start": 1.0},
            "signs": {"signs": False},
            "own momentum": {"momentum": "own"},
            "no momentum": {"momentum": "zero"},
            "recalibrated": {"recalibrate": 2},
            "beta1": {"beta1": 0.9},
            "lr": {"lr": 0.5},
        }.items()
    }
    assert len(set(outcomes.values())) == len(outcomes)


def test_one_copy_can_only_be_a_placebo() -> None:
    for placebo in (None, "shuffled", "replay"):
        with pytest.raises(ValueError, match="copies=1"):
            OhlConfig(copies=1, placebo=placebo)


def test_a_budget_without_a_period_is_refused(small: Prepared) -> None:
    config = OhlConfig(copies=8)
    with pytest.raises(PlanError, match="pay for nothing"):
        Ohl(config).run(session_of(small, config, budget=0.57))


@pytest.mark.parametrize("stacked", [False, True])
def test_a_period_that_is_cut_short_ends_in_the_first_copy(
    small: Prepared, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = OhlConfig(copies=3, interval=4, stacked=stacked)
    session = session_of(small, config)
    policy = Ohl(config)._start(session.task)
    periods = Periods(session, session.learner(), policy, config)
    step, done = periods.step, []

    def cut(progress: float) -> None:
        if len(done) == 7:  # one is the rehearsal's: 4 steps, an update, 2 steps
            raise BudgetExhausted("the end", session._meter.ledger._fences[-1])
        done.append(progress)
        step(progress)

    monkeypatch.setattr(periods, "step", cut)
    periods.train()
    copies: Any = periods.copies
    weights = dict(periods.learner.network.named_parameters())
    first = (
        {name: value[0] for name, value in copies.weights.items()}
        if stacked
        else dict(copies.learners[0].network.named_parameters())
    )
    assert all(torch.equal(weights[name], first[name]) for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 15))
def test_ohl_gives_up_the_operation_that_hurts(seed: int) -> None:
    """On other seeds than those that the band was read from."""
    assert ohl_planted.passes(ohl_planted.marginals(seed, OhlConfig(interval=4)))


@pytest.mark.slow
def test_its_placebo_does_not() -> None:
    config = OhlConfig(interval=4, placebo="shuffled")
    assert not any(ohl_planted.passes(ohl_planted.marginals(seed, config)) for seed in (10, 11))
