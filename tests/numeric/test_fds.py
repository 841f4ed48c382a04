"""FDS: the schedule and its sign steps, heavy-ball SGD, the plan, horizons and placebos."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench.check import small_config
from bench.errors import PlanError
from bench.plugins import Plugin, Selected
from bench.stage import stage
from bench.train.heavy_ball import HeavyBall
from bench.train.prepare import Prepared
from bench.train.recipe import Recipe
from bench.train.session import Session
from methods._schedule import OPTIMISER, Kind, Schedule
from methods._tangents import ForwardSGD, Setting
from methods.fds import Fds, FdsConfig, Search

Tensor = torch.Tensor
SMALL: dict[str, Any] = {"outer": 2, "rates": 3, "momenta": 2}


def session_of(small: Prepared, config: FdsConfig, budget: float = 6.0) -> Session:
    selected = Selected(Plugin(Fds, Path(__file__), ""), config, "fds", None)
    session = stage(small, small_config(selected, budget)).session
    session._observe = None
    return session


def search_of(small: Prepared, budget: float = 6.0, **options: Any) -> Search:
    config = FdsConfig(**(SMALL | options))
    return Search(session_of(small, config, budget), config)


RECIPE = Recipe(steps=100, lr=0.3, momentum=0.8, weight_decay=1e-3)


def schedule_of(*windows: int) -> Schedule:
    starts, steps = (0.5, 0.25, 0.125), (0.1, 0.2, 0.4)
    return Schedule(list(map(Kind, OPTIMISER, windows, starts, steps)), RECIPE)


def start_of(search: Search) -> Tensor:
    return Schedule(search.config.kinds(), search.task.recipe).values


# The schedule


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=3), st.integers(9, 60))
def test_windows_share_the_training_evenly(windows: list[int], steps: int) -> None:
    schedule = schedule_of(*windows)
    used = [schedule.at(done / steps)[1] for done in range(steps)]
    first = 0
    for name, many in zip(("rate", "momentum", "decay"), windows, strict=True):
        columns = [getattr(one, name) for one in used]
        assert columns == sorted(columns)
        assert set(columns) == set(range(first, first + many))
        counts = [columns.count(column) for column in set(columns)]
        assert max(counts) - min(counts) <= 1
        assert schedule.spans(steps)[first : first + many].tolist() == [
            columns.count(column) for column in range(first, first + many)
        ]
        first += many


def test_a_step_trains_with_its_windows_values() -> None:
    schedule = schedule_of(2, 1, 3)
    schedule.values = torch.arange(6, dtype=torch.float64)
    setting, columns = schedule.at(0.7)
    assert (setting.rate, setting.momentum, setting.decay) == (1.0, 2.0, 5.0)
    assert (columns.rate, columns.momentum, columns.decay) == (1, 2, 5)


def test_values_move_against_the_sign_and_steps_halve_when_it_turns() -> None:
    schedule = schedule_of(2, 1, 1)
    nothing, nan = 0.0, math.nan
    moved = []
    for found in ([3.0, -7.0, nothing, 1.0], [-1.0, -1.0, 2.0, nan], [-1.0, nothing, -1.0, -5.0]):
        schedule.move(torch.tensor(found))
        moved.append(schedule.values.tolist())
    assert moved[0] == pytest.approx([0.4, 0.6, 0.25, -0.275])
    # The first turned: half a step; the third had no sign yet, so it has not turned.
    assert moved[1] == pytest.approx([0.45, 0.7, 0.05, -0.275])
    assert moved[2] == pytest.approx([0.5, 0.7, 0.15, -0.075])
    assert schedule.steps.tolist() == pytest.approx([0.05, 0.1, 0.1, 0.2])


def test_a_zero_between_two_signs_does_not_hide_that_they_differ() -> None:
    schedule = schedule_of(1, 1, 1)
    for found in (1.0, 0.0, -1.0):
        schedule.move(torch.tensor([found, 0.0, 0.0]))
    assert schedule.steps.tolist() == [0.05, 0.2, 0.4]


def test_the_schedule_with_the_least_validation_loss() -> None:
    schedule = schedule_of(1, 1, 1)
    schedule.choose()
    assert schedule.values.tolist() == [0.5, 0.25, 0.125]
    for loss in (2.0, math.nan, 1.0, 1.0):
        schedule.judge(loss)
        schedule.move(torch.ones(3))
    again = schedule_of(1, 1, 1)
    again.load_state_dict(schedule.state_dict())
    again.choose()
    assert again.values.tolist() == pytest.approx([0.3, -0.15, -0.675])


def test_the_mean_of_all_outer_steps() -> None:
    schedule = schedule_of(1, 1, 1)
    for sign in (1.0, 1.0):
        schedule.move(torch.full((3,), sign))
        schedule.remember()
    schedule.settle()
    assert schedule.values.tolist() == pytest.approx([0.35, -0.05, -0.475])


# Heavy ball


def test_heavy_ball_is_the_trajectory_that_is_differentiated(small: Prepared) -> None:
    """Also where the momentum is 0 at first: v is kept all the same."""
    session = session_of(small, FdsConfig(**SMALL))
    one, other = session.learner(), session.learner()
    other.network.load_state_dict(one.network.state_dict())
    ball, batches = HeavyBall(one), session.batches("train")
    sgd = ForwardSGD(other.network, columns=0)
    for step in range(6):
        setting = Setting(0.1 / (1 + step), 0.0 if step < 2 else 0.8, 1e-3 * step)
        batch = next(batches)
        with session.metered("x"):
            one.loss(batch.images, batch.targets).backward()
            ball.step(setting.rate, setting.momentum, setting.decay)
        with session.metered("y"):
            images = other.pixels(batch.images)
            sgd.step(
                lambda net, x=images, y=batch.targets: F.cross_entropy(net(x), y), setting, None
            )
    sgd.write()
    mine, theirs = one.network.state_dict(), other.network.state_dict()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5)


# The search


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"horizon": "window"},
        {"skipped": 0.2},
        {"learns": "augmentation", "skipped": 0.2},
        {"learns": "joint"},
    ],
)
def test_the_plan_is_what_runs(small: Prepared, options: dict[str, Any]) -> None:
    search = search_of(small, **options)
    seen: list[int] = []
    whole = search.inner

    def spied(progress: float, carry: bool = True) -> Tensor:
        _, columns = search.schedule.at(progress)
        seen.append(search.sgd.due(columns if carry else None))
        return whole(progress, carry)

    search.inner = spied  # type: ignore[method-assign]
    search.trial(12)
    expected = search.pace.work(12)
    checks = expected.pop("check")
    assert {f"inner_{n}": seen.count(n) for n in set(seen)} == expected
    assert checks == search.pace.checks * (3 if options.get("horizon") == "window" else 1)
    if "skipped" in options:
        # The two that are skipped; and the first step, if only its own columns begin there.
        assert expected["inner_0"] == (2 if "learns" in options else 3)


def test_it_takes_the_longest_trainings_that_the_budget_pays_for(small: Prepared) -> None:
    search = search_of(small)
    prices = search._prices()
    steps = search.pace.longest(prices, search.config.outer, search.session.remaining)

    def cost(count: int) -> float:
        work = search.pace.work(count)
        inner = sum(times * prices[name] for name, times in work.items())
        return search.config.outer * inner + count * prices["train"]

    assert cost(steps) <= search.session.remaining < cost(steps + 1)
    # 1 + 2n passes a step, in comparison with a plain one.
    assert prices["inner_5"] / prices["train"] == pytest.approx(11, rel=0.02)


def test_a_budget_without_a_step_for_each_window_is_refused(small: Prepared) -> None:
    search = search_of(small, budget=1.0, outer=10)
    with pytest.raises(PlanError, match="3 windows: allow more budget"):
        search.run()


def test_one_window_looks_the_same_to_both_horizons(small: Prepared) -> None:
    found = []
    for horizon in ("whole", "window"):
        search = search_of(small, rates=1, momenta=1, rate=0.05, horizon=horizon)
        search.trial(6)
        found.append(search.schedule.signs)
        assert (search.schedule.values != start_of(search)).all()
    assert torch.equal(*found)


def test_from_zero_only_the_rate_moves_at_first(small: Prepared) -> None:
    search = search_of(small)
    search.trial(6)
    rates, others = search.schedule.values.split([3, 3])
    assert (rates == 0.1).all(), "a step downhill lowers the validation loss"
    assert (others == 0).all()


def moved(search: Search, found: Tensor) -> Tensor:
    """The hypergradient that moves the schedule when `found` is what there is."""
    seen: list[Tensor] = []
    search.schedule.move = seen.append  # type: ignore[method-assign]
    search._update(found, torch.zeros(()))
    return seen[0]


def test_the_shuffled_placebo_gives_the_signs_to_others(small: Prepared) -> None:
    found = torch.arange(6.0)
    assert torch.equal(moved(search_of(small), found), found)
    given = moved(search_of(small, placebo="shuffled"), found)
    assert not torch.equal(given, found)
    assert torch.equal(given.sort().values, found)


def test_the_uniform_placebo_pays_for_everything_and_stays(small: Prepared) -> None:
    bills, kept = [], []
    for placebo in (None, "uniform"):
        search = search_of(small, rate=0.05, momentum=0.5, placebo=placebo)
        search.trial(6)
        bills.append(search.session.remaining)
        kept.append(torch.equal(search.schedule.values, start_of(search)))
        updates = search.session.tallies["policy_updates"]
        assert updates == (1 if placebo is None else 0)
    assert bills[0] == bills[1]
    assert kept == [False, True]


def test_the_best_schedule_is_the_one_that_ended_with_the_least_loss(small: Prepared) -> None:
    """Far too large steps: whatever the search ends with is worse than what it began with."""
    search = search_of(small, budget=30.0, final="best", outer=4, rate=0.1, rate_step=20.0)
    tried, judged = [], []
    update = search._update

    def spied(found: Tensor, loss: Tensor) -> None:
        tried.append(search.schedule.values.clone())
        judged.append(float(loss))
        update(found, loss)

    search._update = spied  # type: ignore[method-assign]
    search.run()
    assert search.schedule.values.tolist() == tried[judged.index(min(judged))].tolist()
    trace = search.session.trace.export()
    assert trace["search_val_loss"]["value"] == pytest.approx(judged)
    plain = search.session.validate(search.learner)
    assert plain.nll < 3


def test_the_validation_loss_is_that_of_the_trained_weights(small: Prepared) -> None:
    search = search_of(small, rate=0.05)
    seen: list[float] = []
    search._update = lambda found, loss: seen.append(float(loss))  # type: ignore[method-assign]
    search.trial(6)
    search.sgd.write()
    val = small.task.val
    size = min(500, len(val))
    assert search.pace.checks * size == len(val)
    with search.session.metered("here"), torch.no_grad():
        expected = search.scout.loss(val.images, val.labels)  # in training mode, as the check
    assert seen[0] == pytest.approx(float(expected), rel=1e-4)


def test_redrawn_validation_images_are_not_trained_on(small: Prepared) -> None:
    search = search_of(small, validation="redrawn")
    aside = next(search.judges).images.flatten(1)
    rows = {bytes(row.numpy()) for row in aside}
    total = 0
    for _ in range(20):
        batch = next(search.scouts)
        total += len(batch)
        assert not rows & {bytes(row.flatten().numpy()) for row in batch.images}
    assert total > len(small.task.train) / 2
    assert Fds.declared(search.config) == "none"
    assert Fds.declared(FdsConfig()) == "hypergradient"


def test_a_run_ends_with_the_networks_that_the_schedule_trained(small: Prepared) -> None:
    config = FdsConfig(**SMALL, rate=0.05, placebo="replay")
    fitted = Fds(config).run(session := session_of(small, config))
    plan = session.plans[0]
    inner = sum(count for name, count in plan.items() if name.startswith("inner"))
    assert inner == 2 * plan["train"]
    assert session.tallies["steps"] == inner + plan["train"]
    assert any("mean schedule" in text for text in fitted.deviations)
    trace = session.trace.export()
    assert len(trace["rate"]["value"]) == 2
    assert len(trace["rate"]["value"][0]) == 3


# Augmentation


def test_a_recipe_gives_what_is_not_learned(small: Prepared) -> None:
    search = search_of(small, learns="augmentation", warps=2, gate=-1.0, logits="each")
    recipe = small.task.recipe
    search.schedule.values[:14] = torch.arange(14)
    setting, columns = search.schedule.at(0.75)
    assert (setting.rate, setting.momentum) == (recipe.rate(0.75), recipe.momentum)
    assert setting.decay == recipe.weight_decay
    assert setting.augment is not None
    assert setting.augment.tolist() == [*range(7, 14), *[0.0] * 7]
    assert columns.all == (*range(7, 14), *range(21, 28))


@pytest.mark.parametrize("logits", ["shared", "each"])
def test_soft_gates_and_magnitudes_have_the_derivatives_of_differences(
    small: Prepared, logits: str
) -> None:
    search = search_of(small, learns="augmentation", logits=logits)
    search.task = SimpleNamespace(normalise=lambda images: images / 255)  # type: ignore[assignment]
    batch = next(search.scouts)
    rng = torch.Generator().manual_seed(0)
    ramp = torch.randn(batch.images[0].numel(), 3, generator=rng, dtype=torch.float64) / 8

    def net(images: Tensor) -> Tensor:
        return torch.tanh(images.flatten(1) @ ramp)

    batch = replace(batch, targets=batch.targets % 3)
    loss = search._warped_loss(batch)
    here = 0.3 * torch.randn(len(search.schedule) // 3, generator=rng, dtype=torch.float64)
    here.requires_grad_()
    (found,) = torch.autograd.grad(loss(net, here), here)
    length, expected = 1e-6, []
    with torch.no_grad():
        for unit in torch.eye(len(here), dtype=torch.float64):
            up, down = loss(net, here + length * unit), loss(net, here - length * unit)
            expected.append((up - down) / (2 * length))
    assert found.abs().min() > 1e-7
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("gates", ["hard", "soft"])
def test_the_last_training_warps_as_the_schedule_says(small: Prepared, gates: str) -> None:
    search = search_of(small, learns="augmentation", warps=2, gates=gates)
    search.schedule.values = torch.tensor([-30.0, 30.0, 0.0, 1.0], dtype=torch.float64)
    assert search.warps is not None
    search.train(0.1)
    batch = next(search.batches)
    noise = search.warps.sample(batch.index, session_of(small, search.config).rng("x"))
    shut = search.warps.levels(noise, *search.warps.rows(batch.index), hard=gates == "hard")
    assert shut.abs().max() < (1e-9 if gates == "soft" else 0) + 1e-12
    search.train(0.9)
    assert (search.warps.gates == 30).all()
    assert (search.warps.magnitudes == 1).all()
    made = search.warps.apply(batch, noise).images
    opened = search.warps.warped(
        batch.images, noise, *search.warps.rows(batch.index), hard=gates == "hard"
    )
    assert torch.equal(made, opened)
    assert search.policy.policies[1] is search.warps  # type: ignore[attr-defined]


def test_an_augmentation_that_ruins_images_is_weakened(small: Prepared) -> None:
    """From far too strong, every outer step says less of it."""
    search = search_of(small, learns="augmentation", warps=1, gate=1.0, magnitude=2.0, outer=1)
    search.trial(30)
    assert (search.schedule.values < torch.tensor([1.0, 2.0])).all()


def test_a_network_without_forward_mode_is_skipped(small: Prepared) -> None:
    class Stepped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(small.task.channels, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.hardsigmoid(self.head(x.mean((2, 3))))

    assert Fds().skip(small.task, 3.0) is None
    told = Fds().skip(replace(small.task, network=Stepped), 3.0)
    assert told is not None
    assert "cannot carry derivatives through the network" in told
    assert "\n" not in told
