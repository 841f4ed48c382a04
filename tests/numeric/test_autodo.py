"""AutoDO: RMSprop on rows, the tables, the plan, what moves when, variants and placebos."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from bench.augment.per_point import WARPS, PerPoint
from bench.check import small_config
from bench.errors import Diverged, PlanError
from bench.method import Fitted
from bench.plugins import Plugin, Selected
from bench.stage import stage
from bench.train.prepare import Prepared
from bench.train.session import Session
from benchmarks import autodo_planted
from methods import autodo
from methods._points import Mean, Moments, RMSprop, Rows, Tables, divergence, loss_weights
from methods.autodo import Autodo, AutodoConfig, Phases, affordable, waiting
from tests.numeric.small_policies import numbers

Tensor = torch.Tensor
quick = settings(max_examples=60, deadline=None)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def session_of(
    small: Prepared,
    config: AutodoConfig,
    network: Callable[[], nn.Module] | None = None,
    budget: float = 2.5,
) -> Session:
    """A session on the small task, perhaps with another network."""
    if network is not None:
        small = replace(small, task=replace(small.task, network=network))
    selected = Selected(Plugin(Autodo, Path(__file__), ""), config, "autodo", None)
    session = stage(small, small_config(selected, budget)).session
    session._observe = None
    return session


# RMSprop


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_is_torchs_with_zeros_for_absent_rows(dtype: torch.dtype) -> None:
    many, size = 41, 8
    start = [numbers(many, 3).to(dtype), numbers(many, 1, seed=1).to(dtype)]
    ours = RMSprop([table.clone() for table in start], "dense")
    theirs = [table.clone().requires_grad_() for table in start]
    reference = torch.optim.RMSprop(theirs, lr=1.0)
    generator, steps = rng(), 0
    for _ in range(6):
        for row in torch.randperm(many, generator=generator).split(size)[: many // size]:
            steps += 1
            rate = 0.05 * (1 + math.cos(steps / 10))
            gradients = [
                torch.randn(len(row), table.shape[1], generator=generator, dtype=dtype)
                * 10 ** (-4 * torch.rand((), generator=generator, dtype=dtype))
                for table in start
            ]
            ours.step(row, gradients, rate)
            for table, gradient in zip(theirs, gradients, strict=True):
                table.grad = torch.zeros_like(table).index_copy_(0, row, gradient)
            reference.param_groups[0]["lr"] = rate
            reference.step()
    for table, other in zip(ours.tables, theirs, strict=True):
        torch.testing.assert_close(table, other.detach(), rtol=2e-5, atol=2e-6)


def moved(moments: Moments, batches: int, epochs: int, lr: float = 0.05) -> list[float]:
    """How far row 0 goes in each epoch of as many batches, under constant gradients."""
    table = torch.zeros(batches, 2, dtype=torch.float64)
    optimiser, out = RMSprop([table], moments), []
    for _ in range(epochs):
        before = table[0].clone()
        for row in range(batches):
            gradient = torch.tensor([[3.0, -1e-3]], dtype=torch.float64)
            optimiser.step(torch.tensor([row]), [gradient], lr)
        change = table[0] - before
        assert change[0] < 0 < change[1]
        assert float(change[1]) == pytest.approx(-float(change[0]), rel=1e-3)  # sign descent
        out.append(-float(change[0]))
    return out


@pytest.mark.parametrize(("batches", "times"), [(20, 4.27), (86, 7.61), (156, 8.9)])
def test_a_dense_step_grows_with_the_data_set(batches: int, times: float) -> None:
    """The figures of P = 20, 86 and 156 batches an epoch."""
    steps = moved("dense", batches, 1 + 1400 // batches)
    assert steps[0] == pytest.approx(10 * 0.05, rel=1e-6)
    expected = 0.05 / math.sqrt(0.01 / (1 - 0.99**batches))
    assert steps[-1] == pytest.approx(expected, rel=1e-3)
    assert expected / 0.05 == pytest.approx(times, abs=0.01)


def test_a_lazy_step_is_the_rate() -> None:
    for batches in (1, 7):
        steps = moved("lazy", batches, 1000)
        assert steps[0] == pytest.approx(10 * 0.05, rel=1e-6)
        assert steps[-1] == pytest.approx(0.05, rel=1e-3)
    # A row that is there in every batch does not know the difference.
    assert moved("dense", 1, 50) == pytest.approx(moved("lazy", 1, 50), rel=1e-6)


@pytest.mark.parametrize("moments", ["dense", "lazy"])
def test_its_state_can_be_taken_and_put_back(moments: Moments) -> None:
    def work(optimiser: RMSprop, seed: int) -> Tensor:
        generator = rng(seed)
        for _ in range(5):
            row = torch.randperm(9, generator=generator)[:3]
            optimiser.step(row, [torch.randn(3, 2, generator=generator)], 0.1)
        return optimiser.tables[0].clone()

    optimiser = RMSprop([torch.zeros(9, 2)], moments)
    kept = work(optimiser, 0)
    state = copy.deepcopy(optimiser.state_dict())
    first = work(optimiser, 1)
    optimiser.load_state_dict(state)
    optimiser.tables[0].copy_(kept)
    assert torch.equal(work(optimiser, 1), first)


def test_a_gradient_of_nothing_moves_nothing() -> None:
    table = torch.ones(4, 2)
    optimiser = RMSprop([table], "dense")
    for _ in range(3):
        optimiser.step(torch.arange(4), [torch.zeros(4, 2)], 0.05)
    assert torch.equal(table, torch.ones(4, 2))


# Tables


def tables_of(
    classes: int = 10, smoothing: float = 0.1, labels: str = "learned", **options: Any
) -> Tables:
    given_ = torch.arange(2 * classes) % classes
    options = {"weighted": True, "symmetric": True} | options
    policy = PerPoint(len(given_))
    return Tables(policy, given_, classes, labels=labels, smoothing=smoothing, **options)


@quick
@given(st.integers(2, 300), st.floats(1e-3, 0.999))
def test_first_labels_are_smoothed_ones(classes: int, smoothing: float) -> None:
    tables = tables_of(classes, smoothing)
    assert tables.labels is not None
    expected = (1 - smoothing) * F.one_hot(tables.given, classes) + smoothing / classes
    torch.testing.assert_close(
        tables.labels.double().softmax(1), expected.double(), rtol=2e-5, atol=1e-7
    )


@pytest.mark.parametrize("labels", ["hard", "smooth", "learned"])
def test_weights_begin_at_one(labels: str) -> None:
    tables = tables_of(labels=labels)
    assert tables.weights is not None
    torch.testing.assert_close(loss_weights(tables.weights), torch.ones(20), rtol=1e-6, atol=0)
    row, logits = torch.arange(3, 9), numbers(6, 10).float()
    plain = tables_of(labels=labels, weighted=False)
    assert plain.weights is None
    losses = [t.losses(t.take(row), t.given[row])(logits) for t in (tables, plain)]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
    tables.weights[4] = 2.0
    double = tables.losses(tables.take(row), tables.given[row])(logits) / losses[1]
    assert float(double[1]) == pytest.approx(math.log2(1 + math.exp(2)), rel=1e-5)
    assert double[[0, 2, 3, 4, 5]].tolist() == pytest.approx([1.0] * 5, rel=1e-6)


def test_given_labels_have_the_cross_entropy() -> None:
    tables = tables_of(labels="hard", weighted=False)
    row, logits = torch.arange(3, 9), numbers(6, 10).float()
    found = tables.losses(tables.take(row), tables.given[row])(logits)
    assert torch.equal(found, F.cross_entropy(logits, tables.given[row], reduction="none"))


def test_divergences_are_torchs() -> None:
    label, logits = numbers(50, 7), 3 * numbers(50, 7, seed=1)
    y, p = label.log_softmax(1), logits.log_softmax(1)
    there = F.kl_div(p, y, reduction="none", log_target=True).sum(1)
    back = F.kl_div(y, p, reduction="none", log_target=True).sum(1)
    plain, symmetric = (divergence(label, both)(logits) for both in (False, True))
    torch.testing.assert_close(plain, there, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(symmetric, (there + back) / 2, rtol=1e-12, atol=1e-14)
    assert (plain > 0).all()
    assert divergence(label, True)(label + 5).abs().max() < 1e-12
    # The plain one is the cross-entropy with soft targets, but for their entropy.
    entropy = -(y.exp() * y).sum(1)
    expected = F.cross_entropy(logits, label.softmax(1), reduction="none") - entropy
    torch.testing.assert_close(plain, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
def test_labels_that_stay_are_the_first_of_those_that_move(symmetric: bool) -> None:
    static = tables_of(labels="smooth", symmetric=symmetric)
    learned = tables_of(labels="learned", symmetric=symmetric)
    assert static.labels is None
    assert len(static.all().learned()) == 3
    row, logits = torch.arange(5, 12), numbers(7, 10).float()
    both = [t.losses(t.take(row), t.given[row])(logits) for t in (static, learned)]
    assert torch.equal(*both)


def test_rows_and_states() -> None:
    tables = tables_of()
    for seed, table in enumerate(tables.all().learned()):
        table.copy_(numbers(*table.shape, seed=seed))
    rows = tables.take(torch.tensor([7, 3]))
    for part, table in zip(rows.learned(), tables.all().learned(), strict=True):
        assert torch.equal(part, table[[7, 3]])
    leaves = rows.leaves().learned()
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in leaves)
    state = {name: table.clone() for name, table in tables.state_dict().items()}
    for table in tables.all().learned():
        table.zero_()
    tables.load_state_dict(state)
    for part, table in zip(rows.learned(), tables.all().learned(), strict=True):
        assert torch.equal(part, table[[7, 3]])


def test_the_mean_over_time() -> None:
    tables = [torch.zeros(3, 2), torch.zeros(3, 1)]
    mean, seen = Mean(tables), []
    for seed in range(4):
        for number, table in enumerate(tables):
            table.copy_(numbers(*table.shape, seed=10 * number + seed))
        seen.append([table.clone() for table in tables])
        mean.add()
        if seed == 1:
            state = copy.deepcopy(mean.state_dict())
    mean.put()
    for table, values in zip(tables, zip(*seen, strict=True), strict=True):
        torch.testing.assert_close(table, torch.stack(values).mean(0))
    mean.load_state_dict(state)
    mean.put()
    for table, values in zip(tables, zip(*seen[:2], strict=True), strict=True):
        torch.testing.assert_close(table, torch.stack(values).mean(0))


# The plan


prices = st.floats(1e-4, 0.2)


@quick
@given(st.floats(0, 5), prices, prices, st.floats(0, 0.999))
@example(1.0, 1 / 64, 1 / 8, 0.75)
@example(0.5, 1 / 60, 1.02 / 60, 0.99)
def test_the_plan_fills_the_budget(budget: float, step: float, hyper: float, start: float) -> None:
    def cost(total: int) -> float:
        return total * step + (total - waiting(total, start)) * hyper

    total = affordable(budget, step, hyper, start)
    assert total >= 0
    assert cost(total) <= budget * (1 + 1e-8)
    assert cost(total + 1) > budget * (1 - 1e-8)
    first = waiting(total, start)
    assert 0 <= first <= total
    assert first - 1 < start * total <= first


def test_a_plan_of_even_prices() -> None:
    assert affordable(1.0, 0.01, 0.01, 0.0) == 50
    assert affordable(1.75, 0.01, 0.01, 0.25) == 100
    assert affordable(1.0, 0.01, 0.0, 0.25) == 100
    assert affordable(0.0, 0.01, 0.01, 0.25) == 0
    assert waiting(200, 0.25) == 50
    assert waiting(7, 0.0) == 0


def followed(session: Session, phases: Phases) -> str:
    """Trains; the steps in their order: `s` of the network, `h` of λ."""
    said: list[str] = []
    step, hyper = phases.step, phases.hyper

    def noted(letter: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            if session._meter.ledger.account == "run":
                said.append(letter)
            return work(*arguments)

        return run

    phases.step, phases.hyper = noted("s", step), noted("h", hyper)  # type: ignore[method-assign]
    phases.train()
    return "".join(said)


def phases_of(
    small: Prepared, network: Callable[[], nn.Module] | None = None, budget: float = 2.5, **o: Any
) -> tuple[Session, Phases]:
    config = AutodoConfig(**o)
    session, method = session_of(small, config, network, budget), Autodo(config)
    learner = method.learner(session)
    return session, Phases(method, session, learner, method.tables(session.task))


@pytest.mark.parametrize("start", [0.0, 0.25, 0.6])
def test_every_epoch_begins_with_a_pass_once_lambda_moves(small: Prepared, start: float) -> None:
    session, phases = phases_of(small, start=start)
    said = followed(session, phases)
    (plan,) = session.plans
    total, epoch = plan["step"], len(small.task.train) // 32
    first = math.ceil(start * total)
    expected, passes = "s" * first, 0
    while (left := total - expected.count("s")) > 0:
        count = min(epoch, left)
        expected, passes = expected + "h" * count + "s" * count, passes + 1
    assert said == expected
    assert plan["hyper"] == said.count("h") == session.tallies["policy_updates"]
    assert session.tallies["steps"] == total
    ledger = session._meter.ledger
    left = ledger.budget - ledger.spent
    assert 0 <= left < session.prices["step"] + session.prices["hyper"]
    assert len(session.trace._series["strength"]) == passes > 0


@pytest.mark.parametrize("schedule", ["task", "own"])
def test_the_rate_of_lambda_follows_the_schedule(small: Prepared, schedule: str) -> None:
    session, phases = phases_of(small, schedule=schedule, lr=0.03, start=0.4)
    rates, done = [], []
    step = phases.optimiser.step

    def caught(row: Tensor, gradients: list[Tensor], rate: float) -> None:
        if session._meter.ledger.account == "run":
            rates.append(rate)
            done.append(session.tallies["steps"])
        step(row, gradients, rate)

    phases.optimiser.step = caught  # type: ignore[method-assign]
    phases.train()
    total, recipe = session.plans[0]["step"], session.task.recipe
    if schedule == "task":
        expected = [at / total for at in done]
    else:
        expected = [number / len(rates) for number in range(len(rates))]
    wanted = [0.03 * 0.5 * (1 + math.cos(math.pi * at)) for at in expected]
    assert recipe.warmup == 0
    assert rates == pytest.approx(wanted)


def test_a_rehearsal_leaves_no_trace(small: Prepared) -> None:
    session, phases = phases_of(small)
    before = [table.clone() for table in phases.tables.all().learned()]
    session.price("hyper", lambda: phases.hyper(1.0))
    for table, value in zip(phases.tables.all().learned(), before, strict=True):
        assert torch.equal(table, value)
    assert int(phases.optimiser.steps) == int(phases.optimiser.seen.sum()) == 0
    assert not any(square.any() for square in phases.optimiser.squares)


@pytest.mark.parametrize(
    ("placebo", "budget"), [(None, 0.04), ("uniform", 0.04), ("replay", 0.07)]
)
def test_a_budget_without_a_step_is_refused(small: Prepared, placebo: Any, budget: float) -> None:
    config = AutodoConfig(placebo=placebo)
    with pytest.raises(PlanError, match="pay for nothing"):
        Autodo(config).run(session_of(small, config, budget=budget))


def test_a_replay_in_which_lambda_never_moved_trains_under_the_first(small: Prepared) -> None:
    """So late a start, or so short a training, that no pass was made."""
    config = AutodoConfig(placebo="replay", start=0.999, erase=False)
    session = session_of(small, config, budget=1.0)
    fitted = Autodo(config).run(session)
    assert session.plans[0]["hyper"] == 0
    described = fitted.policy.describe()["of"][-1]
    assert described["mean_magnitudes"] == [0.0] * 7


# Whose λ moves


def run(small: Prepared, budget: float = 1.0, **options: Any) -> tuple[Session, Fitted, Tables]:
    """A run, and the tables that it ended with."""
    config = AutodoConfig(**options)
    made: list[Tables] = []

    class Watched(Autodo):
        def tables(self, task: Any) -> Tables:
            made.append(super().tables(task))
            return made[-1]

    session = session_of(small, config, budget=budget)
    fitted = Watched(config).run(session)
    (tables,) = made
    return session, fitted, tables


def start_of(small: Prepared, **options: Any) -> list[Tensor]:
    return Autodo(AutodoConfig(**options)).tables(small.task).all().learned()


def test_all_four_tables_move_in_rows_that_were_in_hyper_batches(small: Prepared) -> None:
    config = AutodoConfig(start=0.8)
    session = session_of(small, config)
    method = Autodo(config)
    tables = method.tables(session.task)
    phases = Phases(method, session, session.learner(), tables)
    before = [table.clone() for table in tables.all().learned()]
    assert len(before) == 4
    seen = torch.zeros(len(session.task.train), dtype=torch.bool)
    step = phases.optimiser.step

    def caught(row: Tensor, gradients: list[Tensor], rate: float) -> None:
        assert len(set(row.tolist())) == len(row) == 32
        if session._meter.ledger.account == "run":
            seen[row] = True
        step(row, gradients, rate)

    phases.optimiser.step = caught  # type: ignore[method-assign]
    phases.train()
    assert 0 < seen.sum() < len(seen)
    changed = []
    for table, value in zip(tables.all().learned(), before, strict=True):
        assert table.isfinite().all()
        changed.append((table != value).any(1))
    gates, magnitudes, weights, labels = changed
    assert all(torch.equal(each, seen) for each in (gates, weights, labels))
    # Of an image whose seven gates are all closed the sizes have no gradient.
    assert not (magnitudes & ~seen).any()
    assert 0.8 < float(magnitudes.sum() / seen.sum()) < 1


@pytest.mark.parametrize(
    ("variant", "shapes"),
    [
        ("sha", [(1, 7), (1, 7)]),
        ("a", [(634, 7), (634, 7)]),
        ("aw", [(634, 7), (634, 7), (634, 1)]),
        ("static", [(634, 7), (634, 7), (634, 1)]),
        ("aws", [(634, 7), (634, 7), (634, 1), (634, 10)]),
    ],
)
def test_variants_have_their_tables_and_move_them(
    small: Prepared, variant: str, shapes: list[tuple[int, int]]
) -> None:
    session, fitted, tables = run(small, variant=variant)
    found = tables.all().learned()
    assert [tuple(table.shape) for table in found] == shapes
    for table, value in zip(found, start_of(small, variant=variant), strict=True):
        assert (table != value).any()
        assert table.isfinite().all()
    assert session.tallies["policy_updates"] == session.plans[0]["hyper"] > 0
    assert fitted.policy.describe()["of"][-1]["points"] == shapes[0][0]
    assert ("weights" in session.trace._series) is (len(shapes) > 2)
    series = session.trace.export()
    assert len(series["probability"]["value"][-1]) == len(series["strength"]["value"][-1]) == 7
    if variant == "sha":
        torch.testing.assert_close(
            torch.tensor(series["probability"]["value"][-1]), found[0].sigmoid()[0]
        )
    if len(shapes) > 2:
        weights = loss_weights(found[2])
        labels = small.task.train.labels
        expected = [float(weights[labels == k].mean()) for k in range(10)]
        assert series["weights"]["value"][-1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("variant", "kind"),
    [("sha", "hard"), ("a", "hard"), ("aw", "hard"), ("static", "smooth"), ("aws", "learned")],
)
def test_the_network_descends_the_loss_of_its_variant(
    small: Prepared, variant: str, kind: str
) -> None:
    session, phases = phases_of(small, variant=variant)
    tables = phases.tables
    for seed, table in enumerate(tables.all().learned()):
        table.copy_(numbers(*table.shape, seed=seed))
    seen: list[Tensor] = []
    call, descend = phases.learner._call, phases.learner.descend

    def called(pixels: Tensor) -> Tensor:
        seen.append(call(pixels))
        return seen[-1]

    def descended(loss: Tensor, progress: float) -> None:
        seen.append(loss.detach().clone())
        descend(loss, progress)

    phases.learner._call = called  # type: ignore[assignment]
    phases.learner.descend = descended  # type: ignore[method-assign]
    order = session._streams  # the batch that comes next, without taking it
    state = copy.deepcopy((phases.batches.state_dict(), order.state_dict()))
    batch = next(phases.batches)
    phases.batches.load_state_dict(state[0])  # type: ignore[attr-defined]
    order.load_state_dict(state[1])
    phases.step(0.0)
    logits, loss = seen[0].detach(), seen[1]
    row, given_ = batch.index, batch.targets
    if kind == "hard":
        each = F.cross_entropy(logits, given_, reduction="none")
    else:
        label = 0.9 * F.one_hot(given_, 10) + 0.01
        if tables.labels is not None:
            label = tables.labels[row].softmax(1)
        p = logits.log_softmax(1)
        there = F.kl_div(p, label, reduction="none").sum(1)
        back = F.kl_div(label.log(), p, reduction="none", log_target=True).sum(1)
        each = (there + back) / 2
    if tables.weights is not None:
        each = each * F.softplus(tables.weights[row, 0]) / math.log(2)
    torch.testing.assert_close(loss, each.mean(), rtol=1e-5, atol=1e-6)


def test_the_first_learner_and_order_pair_with_other_methods(small: Prepared) -> None:
    for placebo in (None, "replay"):
        config = AutodoConfig(celu=False, placebo=placebo)
        session = session_of(small, config)
        plain = session_of(small, config)
        fitted: list[Any] = []
        train = Phases.train

        def caught(self: Phases, *a: Any, seen: list[Any] = fitted, **o: Any) -> None:
            if o.get("milestones", True):
                seen.append((self.learner.digest(), next(self.batches).index))
            elif self.mean is not None:
                self.mean.add()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Phases, "train", caught)
            Autodo(config).run(session)
        assert Phases.train is train
        ((digest, index),) = fitted
        assert digest == plain.learner().digest()
        assert torch.equal(index, next(plain.batches("train")).index)


# Placebos


def bill(session: Session) -> dict[str, tuple[int, int]]:
    items = session._meter.ledger.items("run")
    return {f"{label} {key}": (item.calls, item.flops) for label, key, item in items}


def test_uniform_computes_everything_and_moves_nothing(small: Prepared) -> None:
    real, _, moved_ = run(small)
    session, fitted, tables = run(small, placebo="uniform")
    for table, value in zip(tables.all().learned(), start_of(small), strict=True):
        assert torch.equal(table, value)
    assert session.tallies["policy_updates"] == 0
    assert session.prices == real.prices
    assert session.plans == real.plans
    assert bill(session) == bill(real)
    first = Autodo(AutodoConfig()).policy(session.task)
    assert fitted.policy.describe() == first.describe()
    assert not torch.equal(moved_.policy.gates, tables.policy.gates)


def gradients_of(phases: Phases) -> tuple[Tensor, list[Tensor]]:
    seen: list[tuple[Tensor, list[Tensor]]] = []
    phases.optimiser.step = lambda row, each, rate: seen.append((row, each))
    phases.hyper(1.0)
    return seen[0]


def test_shuffled_gives_the_same_rows_to_other_images(small: Prepared) -> None:
    row, real = gradients_of(phases_of(small)[1])
    again, placebo = gradients_of(phases_of(small, placebo="shuffled")[1])
    assert torch.equal(row, again)
    joined, mixed = torch.cat(real, 1), torch.cat(placebo, 1)
    assert not torch.equal(joined, mixed)
    match = (joined[None] == mixed[:, None]).all(2)  # whole rows, so one order for all tables
    assert (match.sum(0) == 1).all()
    assert (match.sum(1) == 1).all()
    session, _, _ = run(small, placebo="shuffled")
    learned, _, _ = run(small)
    assert bill(session) == bill(learned)
    assert session.tallies == learned.tallies


def test_there_is_nothing_to_shuffle_in_one_row() -> None:
    with pytest.raises(ValueError, match="nothing to shuffle"):
        AutodoConfig(variant="sha", placebo="shuffled")


def test_a_shared_row_moves_by_the_sum_over_images(small: Prepared) -> None:
    _, phases = phases_of(small, variant="sha")
    row, (gates, magnitudes) = gradients_of(phases)
    assert row.tolist() == [0]
    assert gates.shape == magnitudes.shape == (1, 7)
    _, phases = phases_of(small, variant="a")
    row, (each, sizes) = gradients_of(phases)
    assert len(row) == 32
    torch.testing.assert_close(each.sum(0, keepdim=True), gates, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(sizes.sum(0, keepdim=True), magnitudes, rtol=1e-3, atol=1e-6)


def test_replay_trains_under_the_mean(small: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Tensor]] = []
    used: list[Tensor] = []
    add, put, step = Mean.add, Mean.put, Phases.step

    def added(self: Mean) -> None:
        seen.append([table.clone() for table in self.tables])
        add(self)

    def kept(self: Mean) -> None:
        put(self)
        used.clear()

    def stepped(self: Phases, progress: float) -> None:
        used.append(self.tables.policy.gates.clone())
        step(self, progress)

    monkeypatch.setattr(Mean, "add", added)
    monkeypatch.setattr(Mean, "put", kept)
    monkeypatch.setattr(Phases, "step", stepped)
    session, fitted, tables = run(small, 2.5, placebo="replay")
    assert [set(plan) for plan in session.plans] == [{"step", "hyper"}, {"step"}]
    assert session.tallies["policy_updates"] == session.plans[0]["hyper"]
    assert len(seen) > 1
    for table, values in zip(tables.all().learned(), zip(*seen, strict=True), strict=True):
        torch.testing.assert_close(table, torch.stack(values).mean(0))
    assert len(used) > session.plans[1]["step"]
    assert all(torch.equal(gates, tables.policy.gates) for gates in used)
    assert any("half of the budget" in said for said in fitted.deviations)


# Options


def test_options_change_what_they_name(small: Prepared) -> None:
    outcomes = {}
    for name, options in {
        "default": {},
        "start": {"start": 0.5},
        "terms": {"terms": 0},
        "rate": {"rate": 5.0},
        "lr": {"lr": 0.01},
        "schedule": {"schedule": "own"},
        "smoothing": {"smoothing": 0.05},
        "symmetric": {"symmetric": False},
        "gate": {"gate": 0.2},
        "spread": {"spread": "deviation"},
        "upsampled": {"view": "upsampled"},
        "released": {"view": "released"},
        "ops": {"ops": 3},
        "level": {"level": 7.0},
        "erase": {"erase": False},
        "celu": {"celu": False},
    }.items():
        _, _, tables = run(small, 0.5, **options)
        outcomes[name] = tuple(tables.policy.magnitudes.flatten().tolist())
    assert len(set(outcomes.values())) == len(outcomes)


def test_moments_matter_from_the_second_sight_on(small: Prepared) -> None:
    for budget, equal in ((0.4, True), (1.2, False)):  # less than an epoch, and more
        dense, lazy = (
            run(small, budget, moments=moments, start=0.0)[2] for moments in ("dense", "lazy")
        )
        assert torch.equal(dense.policy.gates, lazy.policy.gates) is equal


def test_terms_are_a_different_work(small: Prepared) -> None:
    assert phases_of(small)[0].prices == {}
    prices_ = {}
    for terms in (0, 5, 50):
        session, phases = phases_of(small, terms=terms)
        prices_[terms] = session.price("hyper", lambda phases=phases: phases.hyper(1.0))
    assert prices_[0] < prices_[5] < prices_[50]
    assert prices_[5] < 1.05 * prices_[0]  # small products beside three passes


def test_the_policy_before_training(small: Prepared) -> None:
    described = Autodo(AutodoConfig()).policy(small.task).describe()["of"]
    inner = [part["policy"] for part in described[0]["of"]]
    assert inner == ["uniform", "crop-flip", "erasing"]
    assert described[0]["of"][0]["most"] == 15
    assert described[0]["of"][2]["fill"] == [round(255 * small.task.mean[0])]
    assert described[1]["policy"] == "per-point"
    plain = Autodo(AutodoConfig(ops=0, erase=False)).policy(small.task).describe()["of"]
    assert [part["policy"] for part in plain[0]["of"]] == ["crop-flip"]
    for gate in (0.25, 0.2):
        policy = Autodo(AutodoConfig(gate=gate)).warps(small.task)
        torch.testing.assert_close(policy.probability(), torch.full((634, 7), gate))
    strengths = [
        float(Autodo(AutodoConfig(spread=spread)).warps(small.task).strength()[0, 0])
        for spread in ("variance", "deviation")
    ]
    assert strengths == pytest.approx([0.5 * math.sqrt(0.5), 0.5])


def test_celu_takes_the_place_of_relu_and_nothing_else(small: Prepared) -> None:
    config = AutodoConfig()
    own = Autodo(config).learner(session_of(small, config))
    plain = session_of(small, config).learner()
    kinds = [type(module) for module in own.network.modules()]
    assert nn.ReLU not in kinds
    assert kinds.count(nn.CELU) == 3
    assert all(module.alpha == 1 for module in own.network.modules() if type(module) is nn.CELU)
    swapped = [nn.CELU if type(m) is nn.ReLU else type(m) for m in plain.network.modules()]
    assert kinds == swapped
    assert own.digest() == plain.digest()
    same = AutodoConfig(celu=False)
    without = Autodo(same).learner(session_of(small, same))
    assert [type(m) for m in without.network.modules()] == [
        type(m) for m in plain.network.modules()
    ]


def test_a_network_without_relu_modules_is_said(small: Prepared) -> None:
    def silent() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    config = AutodoConfig(terms=0, ops=0, erase=False)
    session = session_of(small, config, silent, budget=0.5)
    said = Autodo(config).run(session).deviations
    assert any("no ReLU modules" in text for text in said)
    assert not any("no ReLU modules" in text for text in run(small)[1].deviations)


def nested() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True)), nn.ReLU())


def test_nested_modules_are_reached() -> None:
    network = autodo.with_celu(nested())
    found = [m for m in network.modules() if isinstance(m, nn.CELU)]
    assert [module.inplace for module in found] == [True, False]
    assert not any(isinstance(m, nn.ReLU) for m in network.modules())


def test_a_module_of_two_names_is_replaced_under_both() -> None:
    act = nn.ReLU()
    network = autodo.with_celu(nn.Sequential(nn.Linear(2, 2), act, nn.Linear(2, 2), act))
    assert isinstance(network[1], nn.CELU)
    assert network[1] is network[3]


@pytest.mark.parametrize(
    ("network", "skipped"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), True),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Linear(12, 10)), False),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softplus()), True),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), False),
        (None, False),
        # Its last linear layer is as wide as the classes, and yet not what the logits come from.
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)), True),
    ],
)
def test_a_network_that_does_not_end_in_a_linear_layer_is_skipped(
    small: Prepared, network: Callable[[], nn.Module] | None, skipped: bool
) -> None:
    task = small.task if network is None else replace(small.task, network=network)
    state = torch.get_rng_state()
    said = Autodo(AutodoConfig()).skip(task, 4.0)
    assert torch.equal(state, torch.get_rng_state())
    assert said == ("the network does not end in a linear layer" if skipped else None)


def test_budgets_that_make_sense(small: Prepared) -> None:
    for start, placebo, expected in ((0.25, None, 1.75), (0.5, "uniform", 1.5)):
        config = AutodoConfig(start=start, placebo=placebo)  # type: ignore[arg-type]
        assert Autodo(config).minimum(small.task) == pytest.approx(expected)
    replay = AutodoConfig(placebo="replay")
    assert Autodo(replay).minimum(small.task) > 2


@pytest.mark.parametrize("variant", ["sha", "a", "aw", "static", "aws"])
def test_what_was_learned_about_each_image_is_handed_on(small: Prepared, variant: str) -> None:
    _, fitted, tables = run(small, 0.5, variant=variant)
    points = fitted.points
    assert points is not None
    assert points.operations == WARPS
    rows = tables.take(torch.arange(634))
    gates, sizes = (each.expand(634, 7).sigmoid() for each in (rows.gates, rows.magnitudes))
    torch.testing.assert_close(points.probability, gates)
    torch.testing.assert_close(points.strength, 0.5 * sizes.sqrt())
    assert (points.weights is None) is (variant in ("sha", "a"))
    if points.weights is not None:
        torch.testing.assert_close(points.weights, loss_weights(rows.weights))
    assert (points.labels is None) is (variant != "aws")
    if points.labels is not None:
        torch.testing.assert_close(points.labels, rows.labels.softmax(1))


def test_losses_have_gradients_to_their_rows() -> None:
    tables = tables_of()
    rows: Rows = tables.take(torch.arange(6)).leaves()
    value = tables.losses(rows, tables.given[:6])(numbers(6, 10).float()).sum()
    weights, labels = rows.weights, rows.labels
    assert weights is not None
    assert labels is not None
    for gradient in torch.autograd.grad(value, [weights, labels]):
        assert (gradient != 0).any()


def test_frozen_lambda_takes_the_same_steps_in_vain(small: Prepared) -> None:
    """So that it pays for them on the clock too; mean squares move, tables do not."""
    session, phases = phases_of(small, placebo="uniform")
    before = [table.clone() for table in phases.tables.all().learned()]
    phases.hyper(1.0)
    assert any(square.any() for square in phases.optimiser.squares)
    for table, old in zip(phases.tables.all().learned(), before, strict=True):
        assert torch.equal(table, old)
    assert session.tallies["policy_updates"] == 0


def test_a_hypergradient_that_is_not_finite_ends_the_run(small: Prepared) -> None:
    _, phases = phases_of(small)
    with torch.no_grad():
        phases.learner.network.head.bias[0] = math.nan
    with pytest.raises(Diverged, match="hypergradient"):
        phases.move(0, 0, 4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 15))
def test_autodo_finds_wrong_labels(seed: int) -> None:
    """On other seeds than those that the threshold was read from."""
    assert autodo_planted.separation(seed, AutodoConfig()).passes


@pytest.mark.slow
def test_its_placebo_does_not() -> None:
    config = AutodoConfig(placebo="shuffled")
    assert not any(autodo_planted.separation(seed, config).passes for seed in (10, 11))
