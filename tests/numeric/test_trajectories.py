"""N copies as one program against N learners one after the other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.check import small_config
from bench.errors import ConfigError
from bench.plugins import Plugin, Selected
from bench.stage import stage
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.trajectories import Sequential, Stacked, Trajectories, trajectories
from methods.ohl import Ohl, OhlConfig

Tensor = torch.Tensor
N = 3


def session_of(prepared: Prepared, budget: float = 50.0) -> Session:
    selected = Selected(Plugin(Ohl, Path(__file__), ""), OhlConfig(), "ohl", None)
    session = stage(prepared, small_config(selected, budget)).session
    session._observe = None
    return session


class Small(nn.Module):
    """Strided, grouped and plain convolutions, BatchNorm, pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 8, 3, stride=2, groups=2, bias=False)
        self.after = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.softplus(self.norm(self.stem(x)))
        return self.head(F.softplus(self.after(self.deep(x))).mean((2, 3)))


@pytest.fixture
def prepared(small: Prepared) -> Prepared:
    return replace(small, task=replace(small.task, network=Small))


def both(prepared: Prepared, momentum: str = "winner") -> tuple[Sequential, Stacked]:
    made = []
    for kind in (Sequential, Stacked):
        session = session_of(prepared)
        made.append(kind(session, session.learner(), N, momentum))
    return made[0], made[1]  # type: ignore[return-value]


def data(prepared: Prepared, steps: int) -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(0)
    shape = (N, 24, *prepared.task.train.images.shape[1:])
    return [
        (
            torch.randint(256, shape, dtype=torch.uint8, generator=rng),
            torch.randint(10, (24,), generator=rng),
        )
        for _ in range(steps)
    ]


def states(copies: Trajectories) -> list[dict[str, Tensor]]:
    """Weights and buffers of each copy."""
    if isinstance(copies, Sequential):
        return [learner.network.state_dict() for learner in copies.learners]
    assert isinstance(copies, Stacked)
    both = copies.weights | copies.buffers
    return [{name: value[i].detach() for name, value in both.items()} for i in range(N)]


def momenta(copies: Trajectories) -> list[list[Tensor]]:
    if isinstance(copies, Sequential):
        return [
            [s["momentum_buffer"] for s in learner.optimiser.state.values()]
            for learner in copies.learners
        ]
    assert isinstance(copies, Stacked)
    values = [s["momentum_buffer"] for s in copies.optimiser.state.values()]
    return [[value[i] for value in values] for i in range(N)]


def close(one: Trajectories, other: Trajectories) -> None:
    for a, b in zip(states(one), states(other), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=2e-5)
    for mine, theirs in zip(momenta(one), momenta(other), strict=True):
        for x, y in zip(mine, theirs, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-3, atol=2e-4)


def differ(copies: Trajectories) -> None:
    first, second, *_ = states(copies)
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("momentum", ["winner", "own", "zero"])
def test_stacked_is_sequential(prepared: Prepared, momentum: str) -> None:
    one, other = both(prepared, momentum)
    batches = data(prepared, 6)
    for step, (images, targets) in enumerate(batches):
        losses = [copies.step(images, targets, step / 8) for copies in (one, other)]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
        if step == 3:
            close(one, other)
            differ(one)
            for copies in (one, other):
                copies.broadcast(1)
    close(one, other)
    found = [copies.accuracies(prepared.task.val) for copies in (one, other)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1.01 / len(prepared.task.val))


def test_a_stacked_step_costs_what_the_sequential_ones_cost(prepared: Prepared) -> None:
    made = both(prepared)
    (images, targets), *_ = data(prepared, 1)
    for copies in made:
        copies.step(images, targets, 0.0)
        copies.accuracies(prepared.task.val)
        with copies.recalibrated([images[0]]):
            pass
    bills = []
    for copies in made:
        bill: dict[str, int] = {}
        for label, _, item in copies.session._meter.ledger.items("run"):
            bill[label] = bill.get(label, 0) + item.flops
        bills.append(bill)
    assert bills[0] == bills[1]
    assert set(bills[0]) == {"train", "validate", "recalibrate"}


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("momentum", ["winner", "own", "zero"])
def test_a_broadcast_makes_all_copies_the_winner(
    prepared: Prepared, stacked: bool, momentum: str
) -> None:
    session = session_of(prepared)
    learner = session.learner()
    copies = trajectories(session, learner, N, stacked, momentum)
    for step, (images, targets) in enumerate(data(prepared, 3)):
        copies.step(images, targets, step / 3)
    winner = {name: value.clone() for name, value in states(copies)[2].items()}
    before = [[value.clone() for value in values] for values in momenta(copies)]
    copies.broadcast(2)
    for state in states(copies):
        assert all(torch.equal(state[name], winner[name]) for name in winner)
    assert all(torch.equal(v, winner[n]) for n, v in learner.network.state_dict().items())
    for own, now in zip(before, momenta(copies), strict=True):
        wanted = {"winner": before[2], "own": own, "zero": [torch.zeros_like(v) for v in own]}
        assert all(torch.equal(x, y) for x, y in zip(wanted[momentum], now, strict=True))
    if momentum == "winner":  # and they stay independent
        copies.step(*data(prepared, 1)[0], 0.5)
        differ(copies)


@pytest.mark.parametrize("stacked", [False, True])
def test_recalibration_is_the_mean_of_batch_statistics_for_a_while(
    prepared: Prepared, stacked: bool
) -> None:
    session = session_of(prepared)
    copies = trajectories(session, session.learner(), N, stacked)
    for images, targets in data(prepared, 2):
        copies.step(images, targets, 0.0)
    before = [{name: value.clone() for name, value in s.items()} for s in states(copies)]
    clean = [images[0] for images, _ in data(prepared, 4)]
    with copies.recalibrated(clean):
        for old, state in zip(before, states(copies), strict=True):
            stem = nn.Conv2d(1, 6, 3, padding=1)
            stem.load_state_dict({n[5:]: v for n, v in old.items() if n.startswith("stem")})
            outputs = [stem(session.task.normalise(images)) for images in clean]
            mean = torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0)
            variance = torch.stack([y.var((0, 2, 3)) for y in outputs]).mean(0)
            torch.testing.assert_close(state["norm.running_mean"], mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(state["norm.running_var"], variance, rtol=1e-4, atol=1e-5)
    for old, state in zip(before, states(copies), strict=True):
        assert all(torch.equal(old[name], state[name]) for name in old)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_rehearsal_leaves_no_trace(prepared: Prepared, stacked: bool) -> None:
    session = session_of(prepared)
    copies = trajectories(session, session.learner(), N, stacked)
    batches = data(prepared, 2)
    copies.step(*batches[0], 0.0)
    before: list[Any] = [{n: v.clone() for n, v in s.items()} for s in states(copies)]
    session.price("step", lambda: (copies.step(*batches[1], 0.0), copies.broadcast(1)))
    for old, state in zip(before, states(copies), strict=True):
        assert all(torch.equal(old[name], state[name]) for name in old)


@pytest.mark.parametrize("stacked", [False, True])
def test_statistics_come_back_when_recalibration_is_cut_short(
    prepared: Prepared, stacked: bool
) -> None:
    session = session_of(prepared)
    copies = trajectories(session, session.learner(), N, stacked)
    (images, targets), *_ = data(prepared, 1)
    copies.step(images, targets, 0.0)
    before = [{name: value.clone() for name, value in s.items()} for s in states(copies)]
    with pytest.raises(RuntimeError), copies.recalibrated([images[0], images[0][:, :, :0]]):
        pass
    for old, state in zip(before, states(copies), strict=True):
        assert all(torch.equal(old[name], state[name]) for name in old)


class Unsaved(Small):
    """With a buffer that no state has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.ones(10), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.offset


def test_buffers_that_no_state_has_do_not_stop_a_broadcast(small: Prepared) -> None:
    session = session_of(replace(small, task=replace(small.task, network=Unsaved)))
    copies = trajectories(session, session.learner(), N, stacked=True)
    copies.step(*data(small, 1)[0], 0.0)
    copies.broadcast(1)


class Cumulative(Small):
    """With statistics that are means over everything so far."""

    def __init__(self) -> None:
        super().__init__()
        self.norm.momentum = None  # type: ignore[assignment]


def test_cumulative_statistics_cannot_be_stacked(small: Prepared) -> None:
    session = session_of(replace(small, task=replace(small.task, network=Cumulative)))
    with pytest.raises(ConfigError, match="stacked=false"):
        trajectories(session, session.learner(), N, stacked=True)
