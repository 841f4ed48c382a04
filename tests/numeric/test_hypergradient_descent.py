"""Hypergradient descent: its derivatives, the trajectory, restarts and placebos."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn
from torch.func import functional_call

from baselines._hypergradient import HypergradientSGD
from baselines.hypergradient_descent import (
    HypergradientConfig,
    HypergradientDescent,
    Restarts,
    Training,
)
from bench.check import small_config
from bench.errors import Diverged, PlanError
from bench.plugins import Plugin, Selected
from bench.stage import run_method, stage
from bench.train.heavy_ball import HeavyBall, heavy_ball_step
from bench.train.meter import unguarded
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.task import standard

Tensor = torch.Tensor
SETTING = (0.3, 0.8, 0.05)


def selected(config: HypergradientConfig) -> Selected:
    plugin = Plugin(HypergradientDescent, Path(__file__), "")
    return Selected(plugin, config, "hypergradient-descent", None)


def session_of(small: Prepared, config: HypergradientConfig, budget: float = 2.0) -> Session:
    session = stage(small, small_config(selected(config), budget)).session
    session._observe = None
    return session


def training_of(small: Prepared, start: tuple[float, ...] = SETTING, **options: Any) -> Training:
    config = HypergradientConfig(**options)
    return Training(session_of(small, config), config, torch.tensor(start, dtype=torch.float64))


def smooth() -> nn.Module:
    """In the memory format that learners have."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4))
    return net.double().to(memory_format=torch.channels_last)


def batch_of(number: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(number)
    images = torch.randn(6, 2, 4, 4, dtype=torch.float64, generator=rng)
    return images, torch.randint(4, (6,), generator=rng)


def loss_of(net: nn.Module, number: int) -> Tensor:
    images, labels = batch_of(number)
    return F.cross_entropy(net(images), labels)


def ball_of(net: nn.Module) -> HeavyBall:
    return HeavyBall(SimpleNamespace(network=net))  # type: ignore[arg-type]


# Derivatives


@pytest.mark.parametrize("side", [0, 1, 2], ids=["rate", "momentum", "decay"])
def test_the_hypergradient_is_the_loss_after_the_step_by_the_steps_hyperparameters(
    side: int,
) -> None:
    """Central differences through the other implementation of the step, on the next batch."""
    torch.manual_seed(0)
    net = smooth()
    sgd = HypergradientSGD(net, torch.tensor(SETTING))
    for number in range(3):
        loss_of(net, number).backward()
        if number == 2:
            before, velocity = copy.deepcopy(net), sgd.past[0].clone()
        sgd.step(sgd.gradient())
    loss_of(net, 3).backward()
    found = sgd.hypergradient(sgd.gradient())

    def loss_with(change: float) -> float:
        other = copy.deepcopy(before)
        ball = ball_of(other)
        sizes = [p.numel() for p in ball.weights]
        for own, part in zip(ball.velocity, velocity.split(sizes), strict=True):
            own.copy_(part.view_as(own))
        loss_of(other, 2).backward()
        setting = [value + change * (k == side) for k, value in enumerate(sgd.values.tolist())]
        ball.step(*setting)
        return loss_of(other, 3).item()

    step = 1e-5
    expected = (loss_with(step) - loss_with(-step)) / (2 * step)
    assert abs(expected) > 1e-3
    assert found[side].item() == pytest.approx(expected, rel=1e-7)


def test_without_learning_it_is_heavy_ball() -> None:
    """Also where the momentum is 0 at first, and with a weight that has no gradient."""
    torch.manual_seed(0)
    one = smooth()
    one.idle = nn.Parameter(torch.ones(3, dtype=torch.float64))
    other = copy.deepcopy(one)
    sgd, ball = HypergradientSGD(one, torch.zeros(3)), ball_of(other)
    for number in range(8):
        setting = (0.2 / (1 + number), 0.0 if number < 3 else 0.8, 0.01 * number)
        sgd.values.copy_(torch.tensor(setting))
        loss_of(one, number).backward()
        sgd.step(sgd.gradient())
        loss_of(other, number).backward()
        ball.step(*sgd.values.tolist())
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    assert one.idle[0] != 1


def test_a_training_that_hardly_learns_is_a_heavy_ball_training(small: Prepared) -> None:
    options = {"rate": 0.05, "momentum": 0.8, "decay": 1e-3}
    setting = (0.05, 0.8, 1e-3)
    training = training_of(small, setting, outer_rate=1e-12, **options)
    session = session_of(small, training.config)
    learner, policy, batches = session.learner(), standard(small.task), session.batches("train")
    ball = HeavyBall(learner)
    for _ in range(6):
        mine = training.step()
        theirs = heavy_ball_step(session, learner, ball, policy, batches, setting)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def reference(
    training: Training, net: nn.Module, calls: list[tuple[Tensor, Tensor]]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The same in float64, with each hypergradient by reverse mode through the step.

    Args:
        training: Gives start and options.
        net: As it was at the start.
        calls: Images and labels of each loss that the training computed, in order.

    Returns:
        The hyperparameters of each step, and the last weights and buffers.
    """
    config, judged = training.config, training.judges is not None
    net = unguarded(copy.deepcopy(net)).double()
    names = [name for name, _ in net.named_parameters()]
    weights = {name: p.detach() for name, p in net.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in weights.items()}
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    values, used = torch.tensor(SETTING, dtype=torch.float64).requires_grad_(), []

    def loss(call: tuple[Tensor, Tensor], at: dict[str, Tensor], own: dict[str, Tensor]) -> Tensor:
        pixels = training.learner.pixels(call[0]).double()
        return F.cross_entropy(functional_call(net, (at, own), (pixels,)), call[1])

    for k in range(0, len(calls), 1 + judged):
        if k:
            apart = {name: b.clone() for name, b in buffers.items()}
            (found,) = torch.autograd.grad(loss(calls[k], weights, apart), values)
            moved = values.detach() - config.outer_rate * found.clamp(-config.clip, config.clip)
            values = moved.requires_grad_()
        leaves = {name: p.detach().requires_grad_() for name, p in weights.items()}
        value = loss(calls[k + judged], leaves, buffers)
        slopes = dict(zip(names, torch.autograd.grad(value, list(leaves.values())), strict=True))
        rate, momentum, decay = values
        for name in names:
            w = leaves[name].detach()
            velocity[name] = momentum * velocity[name].detach() + slopes[name] + decay * w
            weights[name] = w - rate * velocity[name]
        used.append(values.detach())
    return used, {name: p.detach() for name, p in weights.items()} | buffers


@pytest.mark.parametrize("signal", ["train", "val"])
@pytest.mark.parametrize("clip", [1.0, 0.03])
def test_a_training_is_online_descent_of_all_three(
    small: Prepared, signal: str, clip: float
) -> None:
    training = training_of(small, signal=signal, clip=clip)
    net, whole = copy.deepcopy(training.learner.network), training.learner.loss
    calls: list[tuple[Tensor, Tensor]] = []

    def spied(images: Tensor, targets: Tensor) -> Tensor:
        calls.append((images, targets))
        return whole(images, targets)

    training.learner.loss = spied  # type: ignore[method-assign]
    mine = []
    for _ in range(5):
        training.step()
        mine.append(training.sgd.values.clone())
    expected, state = reference(training, net, calls)
    torch.testing.assert_close(torch.stack(mine), torch.stack(expected), rtol=1e-3, atol=1e-5)
    for name, value in training.learner.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), state[name], rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(training.sgd.mean(), torch.stack(mine).mean(0))
    moves = torch.stack(mine).diff(dim=0).abs() / training.config.outer_rate
    assert (moves[1:] > 1e-5).all()
    assert bool((moves > 0.999 * clip).any()) is (clip < 1)


def test_from_zero_the_rate_comes_first(small: Prepared) -> None:
    """The first gradient has no step before it, and the second a step of length 0."""
    training = training_of(small, (0.0, 0.0, 0.0))
    seen = []
    for _ in range(3):
        training.step()
        seen.append(training.sgd.values.tolist())
    assert seen[0] == [0, 0, 0]
    assert seen[1][0] > 0, "a step downhill would have lowered the loss"
    assert seen[1][1:] == [0, 0]
    assert 0 not in seen[2]


def test_the_rate_alone(small: Prepared) -> None:
    training = training_of(small, learns="rate")
    for _ in range(3):
        training.step()
    assert training.sgd.values[0] != SETTING[0]
    assert training.sgd.values[1:].tolist() == list(SETTING[1:])


def test_no_step_reads_the_device(small: Prepared) -> None:
    """There is nothing to read on torch's device without data: it would raise."""
    training = training_of(small, placebo="shuffled")
    net = smooth().to("meta")
    training.sgd = HypergradientSGD(net, torch.tensor(SETTING))
    training.rates = training.rates.to("meta")
    gradient = training.sgd.gradient()
    training._move(training.sgd.hypergradient(gradient))
    training.sgd.step(gradient)
    assert training.sgd.mean().is_meta


def test_a_rehearsal_leaves_everything_as_it_was(small: Prepared) -> None:
    training, plain = (training_of(small, signal="val") for _ in range(2))
    training.step(), plain.step()
    training.session.price("train", training.step)
    for _ in range(2):
        assert torch.equal(training.step(), plain.step())
    for name, value in plain.sgd.state_dict().items():
        other = training.sgd.state_dict()[name]
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other))


# Placebos


def moved(training: Training, found: list[float]) -> list[float]:
    before = training.sgd.values.clone()
    training._move(torch.tensor(found, dtype=torch.float64))
    return ((before - training.sgd.values) / training.config.outer_rate).tolist()


def test_moves_are_clipped_and_placebos_permute_or_drop_them(small: Prepared) -> None:
    found = [0.25, -0.5, 7.0]
    assert moved(training_of(small), found) == pytest.approx([0.25, -0.5, 1.0])
    assert moved(training_of(small, clip=None), found) == pytest.approx(found)
    assert moved(training_of(small, placebo="uniform"), found) == [0, 0, 0]
    shuffling = training_of(small, placebo="shuffled")
    given = [moved(shuffling, found) for _ in range(20)]
    assert all(sorted(one) == pytest.approx([-0.5, 0.25, 1.0]) for one in given)
    assert len({tuple(round(value, 6) for value in one) for one in given}) == 6


def test_the_uniform_placebo_pays_for_everything(small: Prepared) -> None:
    bills = []
    for placebo in (None, "uniform"):
        training = training_of(small, placebo=placebo, signal="val")
        training.step()
        bills.append(training.session.remaining)
        assert training.session.tallies["policy_updates"] == (placebo is None)
    assert bills[0] == bills[1]


@pytest.mark.parametrize("options", [{}, {"restarts": 2, "start": "log", "signal": "val"}])
def test_a_replay_trains_the_network_that_pairs_under_the_mean(
    small: Prepared, options: dict[str, Any]
) -> None:
    config = HypergradientConfig(placebo="replay", **options)
    restarts = Restarts(session := session_of(small, config, 1.0), config)
    assert restarts.replay is not None
    pair = session_of(small, config).learner().digest()
    assert restarts.replay.learner.digest() == pair != restarts.training.learner.digest()
    assert restarts.run() is restarts.replay.learner
    assert torch.equal(restarts.replay.sgd.values, restarts.mean)
    plan = session.plans[0]
    assert plan["train"] == config.restarts * plan["replay"]
    assert restarts.replay.sgd.count == plan["replay"]
    if not options:
        torch.testing.assert_close(restarts.mean, restarts.training.sgd.mean())


# Restarts


def test_restarts_have_equal_length_and_the_best_network_is_final(small: Prepared) -> None:
    config = HypergradientConfig(restarts=3, start="log")
    session = session_of(small, config, 2.0)
    networks, errors, counts = [], [], []
    whole = session.validate

    def spied(learner: Any) -> Any:
        metrics = whole(learner)
        networks.append(learner.digest())
        errors.append(metrics.error)
        return metrics

    restarts = Restarts(session, config)
    assert restarts.learner.digest() == session_of(small, config).learner().digest()
    session.validate = spied  # type: ignore[method-assign]
    judge = restarts._judge

    def judged(number: int) -> dict[str, Any]:
        counts.append(restarts.training.sgd.count)
        return judge(number)

    restarts._judge = judged  # type: ignore[method-assign]
    learner = restarts.run()
    del networks[0], errors[0]  # the rehearsal's, which was free
    assert learner.digest() == networks[errors.index(min(errors))]
    assert len(errors) == 3
    prices, steps = session.prices, session.plans[0]["train"] // 3
    assert counts == [steps] * 3
    assert session.tallies["steps"] == 3 * steps
    spent = 3 * (steps * prices["train"] + prices["validate"])
    assert 2 - session.remaining == pytest.approx(spent)
    assert 0 <= session.remaining < 3 * prices["train"]
    starts = session.trace.export()["start"]["value"]
    assert len({tuple(start) for start in starts}) == 3


def test_the_first_of_the_best_finite_networks_is_chosen_with_its_mean(small: Prepared) -> None:
    config = HypergradientConfig(restarts=4, start="log")
    restarts = Restarts(session := session_of(small, config), config)
    judged = iter([(0.1, False), (0.5, True), (0.3, True), (0.3, True)])

    def validate(learner: Any) -> SimpleNamespace:
        error, finite = next(judged)
        return SimpleNamespace(error=error, finite=finite)

    session.validate = validate  # type: ignore[method-assign, assignment]
    trainings = [restarts.training] + [training_of(small) for _ in range(3)]
    for number, restarts.training in enumerate(trainings):
        restarts.training.sgd.total.fill_(number)
        restarts.training.sgd.count = 2
        restarts._note(restarts._judge(number))
    assert restarts.learner.digest() == trainings[2].learner.digest()
    assert restarts.mean.tolist() == [1, 1, 1]
    assert restarts.lost == 1


@pytest.mark.parametrize(("ruined", "chosen"), [((0,), 1), ((1,), 0), ((0, 1), 0)])
def test_a_restart_that_diverges_is_chosen_only_among_its_like(
    small: Prepared, ruined: tuple[int, ...], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = iter([1e30 if number in ruined else 0.05 for number in range(2)])
    learners = []

    def start(self: Restarts) -> Tensor:
        return torch.tensor([next(starts), 0.0, 0.0], dtype=torch.float64)

    judge = Restarts._judge

    def judged(self: Restarts, number: int) -> dict[str, Any]:
        learners.append(self.training.learner.digest())
        return judge(self, number)

    monkeypatch.setattr(Restarts, "_start", start)
    monkeypatch.setattr(Restarts, "_judge", judged)
    config = HypergradientConfig(restarts=2, start="log", placebo="uniform")
    session = session_of(small, config, 0.5)
    fitted = HypergradientDescent(config).run(session)
    assert fitted.learner.digest() == learners[chosen]
    assert f"{len(ruined)} of 2 restarts diverged" in fitted.deviations
    assert session.tallies["steps"] == session.plans[0]["train"]


def test_a_single_training_that_diverges_is_a_failed_run(small: Prepared) -> None:
    config = HypergradientConfig(rate=1e30, placebo="uniform")
    fitted = HypergradientDescent(config).run(session_of(small, config, 0.1))
    assert "1 of 1 restarts diverged" in fitted.deviations
    with pytest.raises(Diverged):
        run_method(HypergradientDescent(config), small, small_config(selected(config), 0.1))


def test_starts_lie_in_their_ranges(small: Prepared) -> None:
    config = HypergradientConfig(start="wide")
    restarts = Restarts(session_of(small, config), config)
    wide = torch.stack([restarts._start() for _ in range(300)])
    bounds = torch.tensor([1, 1.5, 4e-3], dtype=torch.float64)
    assert (wide.abs() <= bounds).all()
    assert (wide.amax(0) > 0.9 * bounds).all()
    assert (wide.amin(0) < -0.9 * bounds).all()
    restarts.config = HypergradientConfig(start="log")
    rate, momentum, decay = torch.stack([restarts._start() for _ in range(300)]).unbind(1)
    for values, low, high in ((rate, 1e-3, 1), (1 - momentum, 1e-2, 1), (decay, 1e-5, 1e-2)):
        places = (values / low).log() / math.log(high / low)
        assert places.min() >= 0
        assert places.max() <= 1
        assert places.mean().item() == pytest.approx(0.5, abs=0.06)


# Options


def test_what_it_does_with_validation_labels() -> None:
    for options, declared in (
        ({}, "none"),
        ({"restarts": 2, "start": "log"}, "selection"),
        ({"restarts": 2, "start": "log", "signal": "val"}, "hypergradient"),
        ({"signal": "val"}, "hypergradient"),
        ({"placebo": "replay"}, "none"),
    ):
        assert HypergradientDescent.declared(HypergradientConfig(**options)) == declared


@pytest.mark.parametrize(
    ("options", "minimum"),
    [
        ({}, 1),
        ({"restarts": 8, "start": "wide"}, 8),
        ({"restarts": 8, "start": "wide", "signal": "val"}, 16),
        ({"signal": "val", "placebo": "replay"}, 3),
    ],
)
def test_the_smallest_faithful_budget(
    small: Prepared, options: dict[str, Any], minimum: float
) -> None:
    method = HypergradientDescent(HypergradientConfig(**options))
    assert method.minimum(small.task) == minimum


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"restarts": 2}, "would all start alike"),
        ({"start": "wide", "momentum": 0.9}, "start=wide draws"),
        ({"learns": "rate", "placebo": "shuffled"}, "nothing to permute"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        HypergradientConfig(**options)


def test_a_budget_without_a_step_for_each_training_is_refused(small: Prepared) -> None:
    config = HypergradientConfig(restarts=200, start="log")
    with pytest.raises(PlanError, match="one step in each of 200 trainings"):
        Restarts(session_of(small, config, 1.0), config).run()
