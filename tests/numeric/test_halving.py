"""Successive halving: Optuna's verdicts, rungs, continued trainings, the plan, what is chosen."""

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch

import baselines
from baselines import halving as halving_method
from baselines._ask_tell import Random
from baselines._halving import Climber, Halving, work
from baselines._pruners import Ladder, dealt, halving, hyperband, passed, study
from baselines._search import Training
from baselines._space import Candidate, Point, Space, Values, one_of
from baselines._spaces import space_of
from baselines.halving import HalvingConfig, SuccessiveHalving, brackets
from bench.check import small_config
from bench.errors import ConfigError, PlanError
from bench.plugins import Plugin, Selected, discover, select
from bench.rng import generator
from bench.stage import stage
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.task import Task, standard

PLUGINS = discover([Path(baselines.__path__[0])])
SCHEDULERS = "sha", "asha", "hyperband"
SMALL: dict[str, Any] = {"trials": 3, "least": 0.3}


def session_of(small: Prepared, budget: float = 2.0, **rest: Any) -> Session:
    plugin = Plugin(SuccessiveHalving, Path(__file__), "")
    selected = Selected(plugin, HalvingConfig(), "halving", None)
    session = stage(small, small_config(selected, budget)).session
    session._observe = None
    vars(session).update(rest)
    return session


def run(session: Session, **options: Any) -> Any:
    return SuccessiveHalving(HalvingConfig(**(SMALL | options))).run(session)


def rates(*values: float) -> Space:
    """A constant rate, one of these."""

    def candidate(task: Task, values: Values) -> Candidate:
        return Candidate(standard(task), lambda progress: (values["rate"], 0.5, 1e-4))

    return Space((one_of("rate", values),), candidate)


class InOrder(Random):
    """All points in order; remembers what it was told."""

    told: list[tuple[Point, float | None]]

    def ask(self) -> Point:
        self.told = getattr(self, "told", [])
        many = self.dimensions[0].levels or 0
        return ((len(self.told) % many + 0.5) / many,)

    def tell(self, point: Point, error: float | None) -> None:
        self.told.append((point, error))


def search_of(
    session: Session, space: Space, sizes: Sequence[int], factor: int = 3, **options: Any
) -> tuple[Halving, list[InOrder]]:
    """A search whose brackets have so many trials, and its proposers."""
    made: list[InOrder] = []

    def propose(rung: int) -> InOrder:
        made.append(InOrder(space.dimensions, session.rng(f"proposals {rung}")))
        return made[-1]

    numbers = iter(range(sum(sizes)))
    each = [[next(numbers) for _ in range(size)] for size in sizes]
    return Halving(session, space, propose, each, factor, **options), made


def scripted(search: Halving, errors: Any) -> None:
    """Makes a search see these errors: a function of a trial's number and its steps."""

    def climb(each: Climber, target: int) -> None:
        assert each.training is not None
        search.left["train"] -= target - each.done
        search.left["validate"] -= 1
        each.done, each.error = target, errors(each.number, target)
        each.reports[target] = math.inf if each.error is None else each.error

    search._climb = climb  # type: ignore[method-assign]


def column(session: Session, name: str) -> list[Any]:
    return session.trace.export()[name]["value"]


def reports_of(session: Session) -> list[tuple[int, int, bool]]:
    """Trial, steps and whether it went on, for every report."""
    names = "rung_trial", "rung_steps", "rung_promoted"
    rows = zip(*(column(session, name) for name in names), strict=True)
    return [(int(trial), int(steps), bool(ahead)) for trial, steps, ahead in rows]


# Optuna's verdicts


@pytest.mark.parametrize(("count", "factor"), [(1, 3), (2, 3), (3, 3), (9, 3), (10, 3), (7, 2)])
def test_a_complete_rung_lets_the_best_go_on(count: int, factor: int) -> None:
    ladder, rng = Ladder(4, factor, 2), generator("values", count)
    for _ in range(4):
        values = torch.rand(count, generator=rng).tolist()
        best = sorted(range(count), key=lambda i: values[i])[: max(1, count // factor)]
        reports = {i: {ladder.steps(0): values[i]} for i in range(count)}
        assert passed(halving(ladder), reports) == set(best)


def test_a_second_rung_compares_second_values_alone() -> None:
    ladder, rng = Ladder(1, 3, 3), generator("values")
    values = torch.rand(2, 9, generator=rng).tolist()
    reports = {2 * i: {1: values[0][i], 3: values[1][i]} for i in range(9)}  # others are gone
    best = sorted(range(9), key=lambda i: values[1][i])[:3]
    assert passed(halving(ladder), reports) == {2 * i for i in best}
    assert set(best) != set(sorted(range(9), key=lambda i: values[0][i])[:3])


def test_verdicts_on_equals_and_failures() -> None:
    pruner = halving(Ladder(1, 3, 1))

    def of(*values: float) -> set[int]:
        return passed(pruner, {i: {1: value} for i, value in enumerate(values)})

    assert of(0.5, 0.5, 0.5, 0.4, 0.6, 0.7) == {0, 1, 2, 3}, "the second least is shared"
    assert of(math.inf, math.inf, math.inf, 0.1, 0.2, 0.3) == {3, 4}, "they keep their places"
    assert of(math.nan, math.nan, math.nan, 0.1, 0.2, 0.3) == {3}, "they lose their places"


def test_what_optuna_says_one_trial_after_the_other() -> None:
    """Why a complete rung cannot be asked about in one study."""
    ladder, rng = Ladder(2, 3, 2), generator("values")
    found, seen = study(halving(ladder)), []
    for value in torch.rand(12, generator=rng).tolist():
        seen.append(value)
        trial = found.ask()
        trial.report(value, 1)
        assert not trial.should_prune(), "before the rung"
        trial.report(value, 2)
        place = max(len(seen) // 3 - 1, 0)
        assert trial.should_prune() is (value > sorted(seen)[place])
        assert not trial.should_prune(), "a second question is about the next rung"


def test_hyperbands_brackets() -> None:
    """The hash is not documented: what is found by asking is compared with its source."""
    for factor, top, count in ((3, 2, 17), (2, 3, 30), (3, 5, 40)):
        shares = [math.ceil((top + 1) * factor**s / (s + 1)) for s in range(top, -1, -1)]
        found = dealt(factor, top, count)
        assert len(found) == top + 1
        assert sorted(number for each in found for number in each) == list(range(count))
        for number in range(count):
            left = zlib.crc32(f"halving_{number}".encode()) % sum(shares)
            bracket = next(s for s in range(top + 1) if left < sum(shares[: s + 1]))
            assert number in found[bracket]
    assert brackets(3, 2) == [9, 5, 3]
    assert brackets(3, 4) == [81, 34, 15, 8, 5]  # the paper's Table 1


def test_a_bracket_is_judged_by_itself() -> None:
    ladder = Ladder(2, 3, 2)
    low, middle, _ = dealt(3, 2, 17)
    values = {number: (number * 7 % 17) / 17 for number in (*low, *middle)}
    reports = {number: {2: values[number]} for number in low}
    best = sorted(low, key=lambda number: values[number])
    assert passed(hyperband(ladder), reports) == set(best[: len(low) // 3])
    reports = {number: {6: values[number]} for number in middle}
    assert passed(hyperband(ladder), reports) == {min(middle, key=lambda number: values[number])}


# Rungs


def test_rungs_are_cut_to_the_best_third(small: Prepared) -> None:
    errors = {number: (number * 4 % 9) / 10 for number in range(9)}
    session = session_of(small, 4.0)
    search, _ = search_of(session, rates(*range(1, 10)), [9, 0, 0])
    scripted(search, lambda number, steps: errors[number] + steps / 1e4)
    search._price()
    search.ladder = search._plan()
    search._together(0, range(9))
    first = search.ladder.first
    order = sorted(range(9), key=lambda number: errors[number])
    seen = reports_of(session)
    assert [trial for trial, steps, _ in seen if steps == first] == list(range(9))
    assert {trial for trial, steps, ahead in seen if steps == first and ahead} == set(order[:3])
    assert {trial for trial, steps, _ in seen if steps == 3 * first} == set(order[:3])
    assert [t for t, steps, ahead in seen if steps == 3 * first and ahead] == order[:1]
    assert [(t, ahead) for t, steps, ahead in seen if steps == 9 * first] == [(order[0], False)]
    assert search.best().number == order[0]
    assert search.left == {"train": 0, "validate": 0}
    assert all(each.training is None for each in search.tried)


def test_networks_of_trials_that_are_behind_are_let_go_of(small: Prepared) -> None:
    session = session_of(small, 4.0)
    search, _ = search_of(session, rates(*range(1, 10)), [9, 0, 0])
    held = []
    scripted(search, lambda number, steps: number / 10)
    climb = search._climb

    def counted(each: Climber, target: int) -> None:
        climb(each, target)
        held.append(sum(one.training is not None for one in search.tried))

    search._climb = counted  # type: ignore[method-assign]
    search._price()
    search.ladder = search._plan()
    search._together(0, range(9))
    assert max(held) == 4
    assert held[-1] == 1


def test_of_equals_as_many_go_on_as_the_plan_pays_for(small: Prepared) -> None:
    session = session_of(small, 4.0)
    search, _ = search_of(session, rates(*range(1, 10)), [9, 0, 0])
    scripted(search, lambda number, steps: 0.5)
    search._price()
    search.ladder = search._plan()
    search._together(0, range(9))
    assert [t for t, _, ahead in reports_of(session) if ahead] == [0, 1, 2, 0]


def test_failed_trials_do_not_go_on(small: Prepared) -> None:
    session = session_of(small, 4.0)
    search, _ = search_of(session, rates(*range(1, 10)), [9, 0, 0])
    scripted(search, lambda number, steps: None if number > 1 else number / 10)
    search._price()
    search.ladder = search._plan()
    search._together(0, range(9))
    assert [t for t, _, ahead in reports_of(session) if ahead] == [0, 1, 0]
    assert session.tallies["failed_trials"] == 7
    assert search.best().number == 0


def test_one_after_the_other_follows_optunas_rule(small: Prepared) -> None:
    session = session_of(small, 20.0)
    search, _ = search_of(session, rates(*range(1, 61)), [27, 0, 0], asynchronous=True)
    values = torch.rand(3, 60, generator=generator("values")).tolist()

    def error(number: int, steps: int) -> float:
        rung = round(math.log(steps / search.ladder.first, 3))
        return values[rung][number]

    scripted(search, error)
    search._price()
    search.ladder = ladder = search._plan()
    search._one_by_one()
    seen: dict[int, list[float]] = {}
    for trial, steps, ahead in reports_of(session):
        rung = seen.setdefault(steps, [])
        rung.append(error(trial, steps))
        place = max(len(rung) // 3 - 1, 0)
        assert ahead is (steps < ladder.whole and rung[-1] <= sorted(rung)[place])
    assert 15 <= len(search.tried) <= 40
    assert len(seen[ladder.whole]) >= 1
    assert search.left["train"] >= 0
    assert search.left["validate"] >= 0
    short = search.left["train"] < ladder.whole or search.left["validate"] < 3
    assert short, "another one could not be paid for up to the top"


def test_a_space_of_few_points_ends_an_asynchronous_search(small: Prepared) -> None:
    session = session_of(small, 6.0)
    search, _ = search_of(session, rates(1, 2, 3), [3, 0], asynchronous=True)
    scripted(search, lambda number, steps: number / 10)
    search._price()
    search.ladder = search._plan()
    search.left = {"train": 10**6, "validate": 10**6}
    search._one_by_one()
    assert len(search.tried) == 3


# Trainings


@pytest.mark.parametrize("name", ["randaugment", "optimiser-log", "recipe-log"])
def test_a_trial_that_goes_on_is_the_training_that_was_never_stopped(
    small: Prepared, name: Any
) -> None:
    """Weights, momentum, batches, draws and rate: bit for bit."""
    session, space, ends = session_of(small, 2.5), space_of(name, small.task), {}

    def propose(rung: int) -> Random:
        return Random(space.dimensions, session.rng("proposals"))

    search = Halving(session, space, propose, [range(4), (), ()], 2)
    judged = search._judged

    def watched(each: Climber, ahead: bool) -> None:
        assert each.training is not None or not ahead
        if each.training is not None:
            ends[each.number, each.done] = each.training.learner.digest()
        judged(each, ahead)

    search._judged = watched  # type: ignore[method-assign]
    search.run()
    (number,) = {trial for trial, steps, _ in reports_of(session) if steps == search.ladder.whole}
    assert len({trial for trial, steps in ends if steps == search.ladder.steps(1)}) == 2
    fresh = session_of(small, 2.5)
    pairs = [(fresh.learner(), fresh.batches("train")) for _ in range(number + 2)]
    values = search.tried[number].values
    candidate = space.candidate(small.task, values)
    training = Training(fresh, *pairs[-1], candidate, f"trial {number}")
    whole = search.ladder.whole
    for done in range(whole):
        training.step(done / whole)
        if (number, done + 1) in ends:
            assert training.learner.digest() == ends[number, done + 1]
    assert (number, whole) in ends


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("fraction", [None, 0.5])
def test_the_plan_is_what_runs_and_fills_the_budget(
    small: Prepared, scheduler: str, fraction: float | None
) -> None:
    budget = 2.0
    session = session_of(small, budget)
    run(session, scheduler=scheduler, final_fraction=fraction)
    searched, last = session.plans
    train, validate = session.prices["train"], session.prices["validate"]
    reports = reports_of(session)
    ends = {trial: max(s for t, s, _ in reports if t == trial) for trial, _, _ in reports}
    trained, checked = sum(ends.values()), len(reports)
    spent = budget - session.remaining
    assert session.tallies["steps"] == trained + last["train"]
    assert spent == pytest.approx((trained + last["train"]) * train + checked * validate)
    assert 0 <= budget - spent < train
    assert trained <= searched["train"]
    assert checked <= searched["validate"]
    if scheduler != "asha":
        assert {"train": trained, "validate": checked} == searched
    if fraction is None:
        assert last["train"] >= max(ends.values())
    else:
        assert last["train"] * train >= fraction * budget - train
    assert session.tallies["trials"] == len(ends)
    assert sum(column(session, "trial_cost")) == pytest.approx(spent - last["train"] * train)
    assert column(session, "trial_steps") == [
        steps for trial, steps, ahead in reports if not ahead
    ]


def test_one_step_more_up_to_the_lowest_rung_would_not_fit(small: Prepared) -> None:
    session = session_of(small)
    search, _ = search_of(session, rates(0.1, 0.2, 0.3), [3, 0])
    search._price()
    search.ladder = ladder = search._plan()
    units, checks = work([3, 0], 3)

    def cost(first: int) -> float:
        return (units + 3) * first * search.train + checks * search.check

    assert cost(ladder.first) <= session.remaining < cost(ladder.first + 1)


def test_the_work_of_brackets() -> None:
    assert work([27, 0, 0], 3) == (27 + 9 * 2 + 3 * 6, 27 + 9 + 3)
    assert work([9, 5, 3], 3) == ((9 + 3 * 2 + 6) + (5 * 3 + 6) + 3 * 9, (9 + 3 + 1) + 6 + 3)
    assert work([0, 0, 2], 2) == (8, 2)
    assert work([5, 0], 4) == (5 + 3, 6)
    assert work([9, 0, 0], 3, asynchronous=True) == (21 + 9, 13 + 3)


def test_a_whole_training_has_one_schedule(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, list[float]] = {}
    step = Training.step

    def spied(training: Training, progress: float) -> torch.Tensor:
        seen.setdefault(id(training), []).append(progress)
        return step(training, progress)

    kept: list[Training] = []
    monkeypatch.setattr(Training, "step", spied)
    session = session_of(small)
    search, _ = search_of(session, rates(0.1, 0.2, 0.3), [3, 0])
    climb = search._climb

    def keeping(each: Climber, target: int) -> None:
        assert each.training is not None
        kept.append(each.training)
        climb(each, target)

    search._climb = keeping  # type: ignore[method-assign]
    search.run()
    whole = search.ladder.whole
    lengths = Counter(len(seen[id(training)]) for training in set(kept))
    assert lengths == {search.ladder.first: 2, whole: 1}
    for training in kept:
        found = seen[id(training)]
        assert found == [done / whole for done in range(len(found))]


def test_it_finds_the_rate_that_learns(small: Prepared) -> None:
    values = [1e-7, 1e-6, 1e-7, 1e-6, 0.1, 1e-7]
    session = session_of(small, 3.0)
    search, proposers = search_of(session, rates(*values), [6, 0], factor=3)
    search.run()
    assert column(session, "chosen_rate") == [0.1]
    told = [error for _, error in proposers[0].told]
    first = [e for e, s in zip(column(session, "rung_error"), reports_of(session), strict=True)]
    assert told == first[:6], "the proposer hears the lowest rung"
    assert told.index(min(told)) == 4  # type: ignore[type-var]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_trials_that_diverge_are_billed_and_end(small: Prepared, asynchronous: bool) -> None:
    session = session_of(small, 3.0)
    space = rates(1e30, 0.1, 1e30)
    search, proposers = search_of(session, space, [3, 0], asynchronous=asynchronous)
    search.run()
    failed = [each.number for each in search.tried if each.error is None]
    assert [number % 3 != 1 for number in range(len(search.tried))] == [
        number in failed for number in range(len(search.tried))
    ]
    assert session.tallies["failed_trials"] == len(failed)
    assert not any(ahead for trial, _, ahead in reports_of(session) if trial in failed)
    costs = dict(zip(column(session, "trial_number"), column(session, "trial_cost"), strict=True))
    ladder = search.ladder
    once = ladder.first * search.train + search.check
    assert all(costs[number] == pytest.approx(once) for number in failed)
    assert [error is None for _, error in proposers[0].told][:3] == [True, False, True]
    assert column(session, "chosen_rate") == [0.1]


def test_if_all_trials_fail_the_first_is_taken_and_the_run_says_so(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(small)
    monkeypatch.setattr(halving_method, "space_of", lambda *_: rates(1e30, 1e31, 1e32))
    fitted = run(session)
    assert "every trial failed; the last training has the first one's parameters" in (
        fitted.deviations
    )


def test_less_loss_decides_between_equal_errors(small: Prepared) -> None:
    session = session_of(small)
    search, _ = search_of(session, rates(0.1), [3, 0])
    metrics = session.validate(search.learner)
    images = len(small.task.val)
    found = []
    for wrong, nll in product((3, 4), (0.0, 0.1, 5.0, 1e6)):
        vary = vars(metrics) | {"error": wrong / images, "nll": nll}
        found.append(search._value(type(metrics)(**vary)))
    assert all(low < high for low, high in pairwise(found))


def test_a_recorded_plan_is_followed(small: Prepared) -> None:
    first = session_of(small, 2.0)
    fitted = run(first)
    again = session_of(small, 2.0, _replay=first.plans)
    assert run(again).learner.digest() == fitted.learner.digest()
    assert again.plans == first.plans


def test_trials_that_cost_more_than_planned_leave_the_last_training_its_share(
    small: Prepared,
) -> None:
    """As where the clock binds: no price is exact there."""
    session = session_of(small, 3.0)
    whole = session.price

    def halved(label: str, step: Any) -> float:
        session.prices[label] = whole(label, step) / 2
        return session.prices[label]

    session.price = halved  # type: ignore[method-assign]
    search, _ = search_of(session, rates(0.1, 0.2, 0.3), [3, 0])
    search.run()
    assert all(each.error is not None for each in search.tried)
    steps = len(session.trace.export(10**6)["train_loss"]["value"])
    assert steps > session.plans[1]["train"] / 3


# Options


def test_tpe_proposes(small: Prepared) -> None:
    session = session_of(small)
    run(session, proposer="tpe", space="recipe-log")
    assert session.tallies["trials"] == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("least=0.5", "least=0.5: with eta=3 a trial is first judged after at most 1/3"),
        ("trials=8", "trials=8 cannot be cut to one in 3 2 times: allow 9, or a larger least"),
        ("trials=94", "trials=94: randaugment has 93 points, and none is tried twice"),
        ("scheduler=bohb", "scheduler: 'bohb'"),
        ("proposer=grid", "proposer: 'grid'"),
        ("eta=1", "eta: '1'"),
    ],
)
def test_options_that_contradict_each_other_are_one_sentence(options: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select(PLUGINS, f"halving[{options}]")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_defaults_and_the_faithful_budget(small: Prepared) -> None:
    assert HalvingConfig().top == 2
    assert HalvingConfig(least=1 / 9).top == 2
    assert HalvingConfig(least=0.112).top == 1
    assert HalvingConfig(least=1 / 243, space="recipe-log").top == 5
    assert HalvingConfig().count() == 27
    assert HalvingConfig(scheduler="hyperband").count() == 17

    def minimum(**options: Any) -> float:
        return SuccessiveHalving(HalvingConfig(**options)).minimum(small.task)

    assert minimum() == pytest.approx(7 + 1)
    assert minimum(scheduler="asha") == pytest.approx(8 + 1)
    assert minimum(trials=9) == pytest.approx(21 / 9 + 1)
    assert minimum(final_fraction=0.5) == pytest.approx(14)
    assert minimum(final_fraction=0.1) == pytest.approx(10)
    sizes = [len(each) for each in dealt(3, 2, 17)]
    assert minimum(scheduler="hyperband") == pytest.approx(work(sizes, 3)[0] / 9 + 1)


def test_a_budget_that_pays_for_too_little_is_refused(small: Prepared) -> None:
    with pytest.raises(PlanError, match="steps up to the lowest rung"):
        run(session_of(small, 1.0), trials=27, least=0.1)
    with pytest.raises(PlanError, match="each training needs 7"):
        run(session_of(small, 0.3), space="optimiser-log")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "a trial's learning-rate schedule runs over a whole training"),
        ({"scheduler": "asha"}, "each judged once, when it arrives"),
        ({"scheduler": "hyperband"}, "trials to the brackets, the paper 3, 2"),
    ],
)
def test_a_run_names_what_differs_from_the_paper(
    small: Prepared, options: dict[str, Any], said: str
) -> None:
    assert any(said in text for text in run(session_of(small), **options).deviations)
