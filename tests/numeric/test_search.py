"""Search: spaces, proposals, the plan, trials that fail, the choice and what trains in the end."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

import baselines
import baselines._search
from baselines import _optimiser_space
from baselines._ask_tell import Grid, Random
from baselines._optimiser_space import logarithmic, steps, wide
from baselines._search import Search, Training, Trial
from baselines._space import Candidate, Point, Space, Values, log_uniform, one_of, uniform
from baselines.search import SearchBaseline, SearchConfig
from bench.check import conformance, small_config
from bench.errors import ConfigError, PlanError
from bench.plugins import Plugin, Selected, discover, select
from bench.rng import generator
from bench.stage import stage
from bench.train.heavy_ball import HeavyBall
from bench.train.learner import Learner
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.task import Task, standard

PLUGINS = discover([Path(baselines.__path__[0])])
DRAWS = 500
STARTS, FACTORS = (0.05, 0.1, 0.2, 0.4, 0.6), (0.1, 0.2, 0.4)
MOMENTA, DECAYS = (0.45, 0.9, 0.99), (2.5e-4, 5e-4, 1e-3)


def session_of(small: Prepared, budget: float = 2.0, seed: int = 0) -> Session:
    selected = Selected(Plugin(SearchBaseline, Path(__file__), ""), SearchConfig(), "search", None)
    config = small_config(selected, budget).model_copy(update={"seed": seed})
    session = stage(small, config).session
    session._observe = None
    return session


def run(session: Session, **options: Any) -> Any:
    return SearchBaseline(SearchConfig(**options)).run(session)


class Watched(Grid):
    """A grid that remembers what it was told."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.told: list[tuple[Point, float | None]] = []

    def tell(self, point: Point, error: float | None) -> None:
        self.told.append((point, error))


def rates(*values: float) -> Space:
    """A constant rate, one of these."""

    def candidate(task: Task, values: Values) -> Candidate:
        return Candidate(standard(task), lambda progress: (values["rate"], 0.5, 1e-4))

    return Space((one_of("rate", values),), candidate)


def search_of(session: Session, space: Space, **options: Any) -> Search:
    proposer = Watched(space.dimensions, session.rng("proposals"))
    return Search(session, space, proposer, trials=space.size or 0, **options)


def proposed(space: Space, count: int = DRAWS, seed: int = 0) -> list[Values]:
    proposer = Random(space.dimensions, generator("proposals", seed))
    return [space.values(proposer.ask()) for _ in range(count)]


def column(drawn: list[Values], name: str) -> torch.Tensor:
    return torch.tensor([values[name] for values in drawn], dtype=torch.float64)


def follows(values: torch.Tensor, low: float, high: float) -> bool:
    """Whether values look uniform on a range, and none lies outside."""
    inside = bool((values >= low).all() and (values <= high).all())
    return inside and stats.kstest(values.numpy(), "uniform", (low, high - low)).pvalue > 1e-3


# Spaces and proposals


def test_the_papers_ranges() -> None:
    drawn = proposed(wide(7))
    names = [f"rate_{window}" for window in range(1, 8)]
    assert list(drawn[0]) == [*names, "momentum", "decay"]
    assert all(follows(column(drawn, name), -1, 1) for name in names)
    assert follows(column(drawn, "momentum"), -1.5, 1.5)
    assert follows(column(drawn, "decay"), -4e-3, 4e-3)


def test_logarithmic_ranges() -> None:
    drawn = proposed(logarithmic(2))
    for name in ("rate_1", "rate_2"):
        assert follows(column(drawn, name).log10(), -3, 0)
    assert follows((1 - column(drawn, "momentum")).log10(), -2, 0)
    assert follows(column(drawn, "decay").log10(), -5, -2)
    assert not follows(column(drawn, "rate_1"), 1e-3, 1)


def test_the_ends_of_a_range_are_its_own() -> None:
    assert [log_uniform(1e-3, 1)(place) for place in (0, 0.5, 1)] == pytest.approx(
        [1e-3, 10**-1.5, 1]
    )
    assert [uniform(-1.5, 1.5)(place) for place in (0, 0.5, 1)] == [-1.5, 0, 1.5]


def test_proposals_follow_from_the_seed_alone(small: Prepared) -> None:
    assert proposed(wide(7), 5) == proposed(wide(7), 5)
    assert proposed(wide(7), 5) != proposed(wide(7), 5, seed=1)
    tried = []
    for seed, disturb in ((0, False), (0, True), (1, False)):
        session = session_of(small, seed=seed)
        if disturb:
            torch.rand(7, generator=session.rng("policy"))
        run(session, trials=2, rates=2)
        tried.append(session.trace.export()["trial_rate_1"]["value"])
    assert tried[0] == tried[1] != tried[2]


def test_the_grid_has_the_papers_points() -> None:
    space = steps()
    grid = Grid(space.dimensions, generator("unused"))
    points = [tuple(space.values(grid.ask()).values()) for _ in range(135)]
    assert points == list(product(STARTS, FACTORS, MOMENTA, DECAYS))
    with pytest.raises(ValueError, match="all 135 points"):
        grid.ask()
    with pytest.raises(ValueError, match="finitely many"):
        Grid(wide(1).dimensions, generator("unused"))


def test_random_points_of_a_grid_are_drawn_without_replacement() -> None:
    space = steps()
    proposer = Random(space.dimensions, generator("proposals"))
    drawn = [tuple(space.values(proposer.ask()).values()) for _ in range(135)]
    everything = list(product(STARTS, FACTORS, MOMENTA, DECAYS))
    assert sorted(drawn) == sorted(everything)
    assert drawn != everything
    with pytest.raises(ValueError, match="all 135 points"):
        proposer.ask()


def test_the_grids_rate_drops_three_times(small: Prepared) -> None:
    values = {"rate": 0.4, "factor": 0.2, "momentum": 0.9, "decay": 5e-4}
    setting = steps().candidate(small.task, values).setting
    places = {0.0: 0, 0.29: 0, 0.3: 1, 0.31: 1, 0.59: 1, 0.61: 2, 0.79: 2, 0.81: 3, 0.99: 3}
    for progress, drops in places.items():
        assert setting(progress) == pytest.approx((0.4 * 0.2**drops, 0.9, 5e-4))
    assert [setting(step / 60)[0] for step in (17, 18)] == pytest.approx([0.4, 0.08])


@pytest.mark.parametrize(("space", "many"), [(wide(7), 7), (logarithmic(3), 3), (steps(), 4)])
def test_every_parameter_matters_in_the_shortest_training(
    small: Prepared, space: Space, many: int
) -> None:
    values = {dimension.name: 0.5 + i for i, dimension in enumerate(space.dimensions)}
    setting = space.candidate(small.task, values).setting
    least = space.least
    assert len({setting(done / least)[0] for done in range(least)}) == many
    assert len({setting(done / (least - 1))[0] for done in range(least - 1)}) == many - 1
    assert setting(0.0)[1:] == setting(0.99)[1:] == (values["momentum"], values["decay"])


def test_windows_share_the_training_in_order(small: Prepared) -> None:
    values = {"rate_1": 1.0, "rate_2": 2.0, "rate_3": 3.0, "momentum": 0.1, "decay": 0.2}
    setting = wide(3).candidate(small.task, values).setting
    assert [setting(done / 9)[0] for done in range(9)] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


# The plan


@pytest.mark.parametrize("budget", [2.0, 2.9])
@pytest.mark.parametrize("fraction", [None, 0.5])
def test_the_plan_is_what_runs(small: Prepared, budget: float, fraction: float | None) -> None:
    session = session_of(small, budget)
    run(session, trials=3, rates=2, final_fraction=fraction)
    searched, last = session.plans
    assert searched.keys() == {"train", "validate"}
    assert searched["validate"] == session.tallies["trials"] == 3
    assert session.tallies["steps"] == searched["train"] + last["train"]
    train, validate = session.prices["train"], session.prices["validate"]
    spent = budget - session.remaining
    assert spent == pytest.approx(3 * validate + session.tallies["steps"] * train)
    assert spent <= budget
    each = searched["train"] // 3
    assert 3 * each == searched["train"]
    if fraction is None:
        assert last["train"] == each
        assert budget - spent < 4 * train
    else:
        assert 0 <= fraction * budget - last["train"] * train < train
        assert 0 <= (1 - fraction) * budget - 3 * (each * train + validate) < 3 * train
    costs = session.trace.export()["trial_cost"]["value"]
    assert costs == pytest.approx([each * train + validate] * 3)


def test_a_budget_in_which_a_window_would_have_no_step_is_refused(small: Prepared) -> None:
    with pytest.raises(PlanError, match="each needs 7: allow more budget, or fewer trials"):
        run(session_of(small, 1.0), trials=8)
    with pytest.raises(PlanError, match="pay for 0 steps in each of 100 trials"):
        run(session_of(small, 1.0))


@pytest.mark.parametrize(
    ("options", "minimum"),
    [
        ({}, 101),
        ({"trials": 9}, 10),
        ({"proposer": "grid", "space": "optimiser-steps"}, 136),
        ({"trials": 9, "final_fraction": 0.5}, 18),
        ({"trials": 9, "final_fraction": 0.05}, 20),
    ],
)
def test_the_faithful_budget(small: Prepared, options: dict[str, Any], minimum: float) -> None:
    method = SearchBaseline(SearchConfig(**options))
    assert method.minimum(small.task) == pytest.approx(minimum)


# Trials and choice


def test_the_best_point_trains_in_the_end(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[tuple[float, ...]] = []
    step = HeavyBall.step

    def spied(ball: HeavyBall, *setting: float) -> None:
        settings.append(setting)
        step(ball, *setting)

    errors = iter([0.5, 0.2, 0.2, 0.3])
    monkeypatch.setattr(HeavyBall, "step", spied)
    monkeypatch.setattr(Search, "judge", lambda search, training: next(errors))
    session = session_of(small, 3.0)
    first = session_of(small).learner().digest()
    space = logarithmic(3)
    search = Search(session, space, Random(space.dimensions, session.rng("proposals")), 4)
    assert search.learner.digest() == first, "pairs with other methods' first"
    candidate = search.run()
    best = search.tried[1].values  # the first of two equals
    assert search.best().values == best
    final = session.plans[1]["train"]
    schedule = space.candidate(small.task, best).setting
    assert settings[-final:] == [schedule(done / final) for done in range(final)]
    assert len({setting[0] for setting in settings[-final:]}) == 3
    assert candidate.setting(0.5) == schedule(0.5)
    trace = session.trace.export()
    assert trace["trial_error"]["value"] == [0.5, 0.2, 0.2, 0.3]
    assert trace["best_error"]["value"] == [0.5, 0.2, 0.2, 0.2]
    for name, value in best.items():
        assert trace[f"trial_{name}"]["value"] == [trial.values[name] for trial in search.tried]
        assert trace[f"chosen_{name}"]["value"] == [value]


def test_the_trace_has_the_proposers_shares_of_the_parameters(small: Prepared) -> None:
    class Weighing(Watched):
        def importance(self) -> dict[str, float] | None:
            return {"rate": float(len(self.told))}

    session = session_of(small)
    search = search_of(session, rates(0.1, 0.2))
    search.proposer = Weighing(search.space.dimensions, session.rng("proposals"))
    search.run()
    trace = session.trace.export()
    assert trace["importance_rate"]["value"] == [2.0], "once, after all trials"
    assert trace["importance_rate"]["step"] == trace["chosen_rate"]["step"]
    session = session_of(small)
    search_of(session, rates(0.1, 0.2)).run()
    assert not any(name.startswith("importance") for name in session.trace.export())


def test_no_trial_is_averaged_away(small: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    many = 130  # more than a curve has points
    errors = [(7 * i % many) / many for i in range(many)]
    monkeypatch.setattr(Search, "judge", lambda *_: errors[int(session.tallies["trials"])])
    monkeypatch.setattr(Training, "step", lambda *_: torch.zeros(()))
    session = session_of(small, 3.0)
    session.tallies["trials"] = 0
    search = search_of(session, rates(*(0.01 * (i + 1) for i in range(many))))
    for _ in range(many):
        search.trial(1, 1.0)
    search.choose()
    trace = session.trace.export()
    assert trace["trial_rate"]["value"] == [0.01 * (i + 1) for i in range(many)]
    assert trace["trial_error"]["value"] == errors
    assert trace["best_error"]["value"] == [min(errors[: i + 1]) for i in range(many)]
    assert all(trace[name]["whole"] for name in ("trial_cost", "trial_bill", "chosen_rate"))


def test_it_finds_the_rate_that_learns(small: Prepared) -> None:
    session = session_of(small, 3.0)
    search = search_of(session, rates(1e-7, 0.1, 1e-6))
    search.run()
    assert session.trace.export()["chosen_rate"]["value"] == [0.1]
    useless, useful, _ = (trial.error for trial in search.tried)
    assert useful < 0.6 < 0.8 < useless  # type: ignore[operator]
    told = [error for _, error in search.proposer.told]  # type: ignore[attr-defined]
    assert told == [trial.error for trial in search.tried]


def test_every_trial_has_weights_and_an_order_of_its_own(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, weights = session_of(small), set()
    made: list[list[int]] = []
    whole, batches = Search._training, Session.batches

    def watched(search: Search, values: Values, learner: Learner, *rest: Any) -> Training:
        weights.add(learner.digest())
        return whole(search, values, learner, *rest)

    def peeked(session: Session, split: Any) -> Any:
        """The order, and its first images."""
        found = batches(session, split)
        made.append(next(found).index.tolist())
        return found

    monkeypatch.setattr(Search, "_training", watched)
    monkeypatch.setattr(Session, "batches", peeked)
    search_of(session, rates(0.1, 0.2)).run()
    assert len(weights) == len(made) == len({tuple(index) for index in made}) == 3


def test_trials_leave_the_last_trainings_crops_alone(small: Prepared) -> None:
    """They pair with the crops of methods that train once."""
    session, fresh = session_of(small), session_of(small)
    search = search_of(session, rates(0.1, 0.2))
    search.trial(5, 0.5)
    assert torch.equal(session.rng("policy").get_state(), fresh.rng("policy").get_state())
    assert torch.equal(session.rng("search").get_state(), fresh.rng("search").get_state())


def test_a_trial_that_diverges_is_billed_and_told_as_failed(small: Prepared) -> None:
    session = session_of(small, 3.0)
    search = search_of(session, rates(1e30, 0.1, 1e30))
    search.run()
    errors = [trial.error for trial in search.tried]
    assert [error is None for error in errors] == [True, False, True]
    assert [error for _, error in search.proposer.told] == errors  # type: ignore[attr-defined]
    assert session.tallies["trials"] == 3
    assert session.tallies["failed_trials"] == 2
    trace = session.trace.export()
    assert trace["trial_error"]["value"] == errors
    assert trace["best_error"]["value"] == [None, errors[1], errors[1]]
    assert trace["chosen_rate"]["value"] == [0.1]
    costs = trace["trial_cost"]["value"]
    assert costs == pytest.approx([costs[1]] * 3)


def test_one_loss_that_is_not_finite_is_enough(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, scales = baselines._search.heavy_ball_step, iter([1.0, math.inf, 1.0])
    monkeypatch.setattr(
        baselines._search, "heavy_ball_step", lambda *args: whole(*args) * next(scales)
    )
    search = search_of(session_of(small), rates(0.1))
    training = search._training({"rate": 0.1}, search.learner, search.batches)
    training.step(0.0)
    assert search.judge(training) is not None
    training.step(0.3)
    training.step(0.6)
    assert search.session.validate(training.learner).finite
    assert search.judge(training) is None


def test_a_validation_loss_that_is_not_finite_is_enough(small: Prepared) -> None:
    search = search_of(session_of(small), rates(0.1))
    training = search._training({"rate": 0.1}, search.learner, search.batches)
    training.step(0.0)
    for weight in training.learner.network.parameters():
        weight.data.fill_(math.nan)
    assert bool(training.finite)
    assert search.judge(training) is None


def test_if_all_trials_fail_the_first_is_taken_and_the_run_says_so(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_optimiser_space, "steps", lambda: rates(1e30, 1e31))
    session = session_of(small)
    fitted = run(session, proposer="grid", space="optimiser-steps")
    assert session.trace.export()["chosen_rate"]["value"] == [1e30]
    assert "every trial failed; the last training has the first one's parameters" in (
        fitted.deviations
    )
    monkeypatch.setattr(_optimiser_space, "steps", lambda: rates(1e30, 0.1))
    fitted = run(session_of(small), proposer="grid", space="optimiser-steps")
    assert not any("failed" in text for text in fitted.deviations)


def test_a_trial_that_the_budget_cuts_off_has_failed(small: Prepared) -> None:
    session = session_of(small)
    search = search_of(session, rates(0.1, 0.2))
    with session.slice(0.1):  # 12 steps
        search.trial(20, 0.5)
        assert session.tallies["steps"] == 6, "training ends with its share"
        assert search.tried[0].error is not None
        search.trial(20, 1.0)
    assert search.tried[1] == Trial({"rate": 0.2}, None)
    assert len(search.proposer.told) == 2  # type: ignore[attr-defined]


def test_trials_that_cost_more_than_planned_leave_each_other_their_shares(small: Prepared) -> None:
    """As where the clock binds: no price is exact there."""
    session = session_of(small, 3.0)
    whole = session.price

    def halved(label: str, step: Any) -> float:
        session.prices[label] = whole(label, step) / 2
        return session.prices[label]

    session.price = halved  # type: ignore[method-assign]
    search = search_of(session, rates(0.1, 0.2, 0.3))
    search.run()
    assert all(trial.error is not None for trial in search.tried)
    costs = session.trace.export()["trial_cost"]["value"]
    assert max(costs) < 1.15 * min(costs)
    assert session.tallies["steps"] < sum(plan["train"] for plan in session.plans)
    assert len(session.trace.export()["train_loss"]["value"]) > session.plans[1]["train"] / 3


def test_a_step_waits_for_no_device(small: Prepared) -> None:
    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kw: Any = None) -> Any:
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kw or {}))

    counts = []
    for steps_ in (4, 12):
        search = search_of(session_of(small), rates(0.1))
        with Reads() as reads:
            search.trial(steps_, 1.0)
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0


# Options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "proposer=grid",
            "proposer=grid cannot search space=optimiser-wide: a grid goes over finitely many "
            "points; it can search optimiser-steps, regularisers-grid, randaugment",
        ),
        ("proposer=grid,space=optimiser-steps,trials=3", "each of its 135 points once; leave"),
        ("space=optimiser-steps,trials=136", "135 points, and proposer=random tries none twice"),
        ("space=optimiser-steps,rates=3", "rates=3: space=optimiser-steps has no windows"),
        ("proposer=simplex", "proposer: 'simplex'"),
        ("space=optimiser", "space: 'optimiser'"),
        ("final_fraction=1", "final_fraction: '1'"),
        ("trials=0", "trials: '0'"),
    ],
)
def test_options_that_contradict_each_other_are_one_sentence(options: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select(PLUGINS, f"search[{options}]")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_how_many_trials_there_are() -> None:
    assert SearchConfig().count() == 100
    assert SearchConfig(trials=7).count() == 7
    assert SearchConfig(space="optimiser-steps").count() == 100
    grid = {"proposer": "grid", "space": "optimiser-steps"}
    assert SearchConfig(**grid).count() == SearchConfig(**grid, trials=135).count() == 135


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trials": 2}, "2 trials, the paper about 100"),
        ({"space": "optimiser-log"}, "logarithmic ranges of useful values"),
        ({"space": "optimiser-steps"}, "draws 2 of the 135 points that the paper tries"),
        ({"rates": 3}, "3 windows of the learning rate, the paper 7"),
        ({"final_fraction": 0.5}, "have shares of the budget, not equal length"),
    ],
)
def test_a_run_names_what_differs_from_the_paper(
    small: Prepared, options: dict[str, Any], said: str
) -> None:
    deviations = run(session_of(small), **({"trials": 2} | options)).deviations
    assert any(said in text for text in deviations)


@pytest.mark.slow
def test_a_grid_keeps_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract tests cannot pay for 135 points."""
    monkeypatch.setattr(_optimiser_space, "steps", lambda: rates(0.05, 0.1))
    findings = conformance("search[proposer=grid,space=optimiser-steps]", PLUGINS)
    assert [finding for finding in findings if not finding.ok] == []
