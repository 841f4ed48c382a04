"""Forward-mode hypergradients against unrolled reverse mode and differences, in float64."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from bench.augment.relaxed import apply
from bench.check import small_config
from bench.errors import ConfigError, UnmeteredCompute
from bench.networks.flops import FlopCounter
from bench.plugins import Plugin, Selected
from bench.stage import stage
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.state import snapshot
from methods._tangents import Columns, ForwardSGD, Loss, Setting
from methods.ohl import Ohl, OhlConfig

Tensor = torch.Tensor
STEPS = 24
RATES, MOMENTA, DECAYS, AUGMENTS, OPS = 3, 2, 2, 2, 2  # windows, and numbers of the loss in each
N = RATES + MOMENTA + DECAYS + AUGMENTS * OPS
PLAIN = Setting(0.05, 0.9, 5e-3)
CONSTANT = Columns()


class Small(nn.Module):
    """Strided convolutions, BatchNorm, a linear head, all smooth."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.deep = nn.Conv2d(4, 5, 3, stride=2, bias=False)
        self.after = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.softplus(self.norm(self.stem(x)))
        return self.head(F.softplus(self.after(self.deep(x))).mean((2, 3)))


@dataclass(frozen=True)
class Images:
    """A batch with its noise, so that every pass augments it alike."""

    x: Tensor
    y: Tensor
    noise: Tensor

    def plain(self, net: Callable[[Tensor], Tensor]) -> Tensor:
        return F.cross_entropy(net((self.x - 120) / 60), self.y)

    def augmented(self, net: Callable[[Tensor], Tensor], augment: Tensor) -> Tensor:
        """Brightness and rotation of sizes that the hyperparameters set."""
        size = torch.sigmoid(augment)
        x = apply(self.x, "brightness", 0.5 * size[0] * self.noise[0])
        x = apply(x, "rotate", 40 * size[1] * self.noise[1])
        return F.cross_entropy(net((x - 120) / 60), self.y)


def batches(count: int, dtype: torch.dtype = torch.float64) -> list[Images]:
    rng = torch.Generator().manual_seed(0)

    def one() -> Images:
        # In mid-range, where brightness clips nothing.
        x = 60 + 90 * torch.rand((12, 3, 9, 9), generator=rng, dtype=torch.float64)
        y = torch.randint(4, (12,), generator=rng)
        x = x + 8 * y[:, None, None, None] * torch.linspace(-1, 1, 9, dtype=torch.float64)
        noise = 2 * torch.rand((2, 12), generator=rng, dtype=torch.float64) - 1
        return Images(x.to(dtype), y, noise.to(dtype))

    return [one() for _ in range(count)]


def network(make: Callable[[], nn.Module] = Small) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


@pytest.fixture
def data() -> list[Images]:
    return batches(STEPS + 1)


# A training under λ = (rates, momenta, decays, numbers of the loss)


def start() -> Tensor:
    values = [0.2, 0.1, 0.05, 0.8, 0.6, 5e-3, 2e-2, -0.3, 0.4, 0.1, -0.8]
    return torch.tensor(values, dtype=torch.float64)


def columns_at(step: int) -> Columns:
    """Windows of equal length, or nearly."""

    def window(count: int) -> int:
        return count * step // STEPS

    first = RATES + MOMENTA + DECAYS + OPS * window(AUGMENTS)
    return Columns(
        window(RATES),
        RATES + window(MOMENTA),
        RATES + MOMENTA + window(DECAYS),
        tuple(range(first, first + OPS)),
    )


def setting_at(step: int, values: Tensor) -> Setting:
    own = columns_at(step)
    assert own.rate is not None
    assert own.momentum is not None
    assert own.decay is not None
    augment = values[own.augment[0] : own.augment[-1] + 1]
    return Setting(values[own.rate], values[own.momentum], values[own.decay], augment)


def trained(
    sgd: ForwardSGD, data: list[Images], values: Tensor, differentiated: bool = True
) -> Iterator[int]:
    """Goes on by one step each time that it is asked."""
    for step, images in enumerate(data[:STEPS]):
        own = columns_at(step) if differentiated else None
        sgd.step(images.augmented, setting_at(step, values), own)
        yield step


def finished(sgd: ForwardSGD, data: list[Images], differentiated: bool = True) -> ForwardSGD:
    for _ in trained(sgd, data, start().to(sgd.weights.dtype), differentiated):
        pass
    return sgd


def validation_loss(values: Tensor, data: list[Images], clip: float = torch.inf) -> Tensor:
    """The same training in plain differentiable PyTorch, and its validation loss."""
    net = network()
    theta = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}
    v = {name: torch.zeros_like(p) for name, p in theta.items()}

    def call(x: Tensor) -> Tensor:
        buffers = {name: b.clone() for name, b in net.named_buffers()}
        return functional_call(net, (theta, buffers), (x,))

    for step, images in enumerate(data[:STEPS]):
        now = setting_at(step, values)
        loss = images.augmented(call, now.augment)  # type: ignore[arg-type]
        found = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        for (name, p), g in zip(theta.items(), found, strict=True):
            v[name] = now.momentum * v[name] + g.clamp(-clip, clip) + now.decay * p
        theta = {name: p - now.rate * v[name] for name, p in theta.items()}
    return data[STEPS].plain(call)


def reverse_mode(data: list[Images], clip: float = torch.inf) -> Tensor:
    values = start().requires_grad_()
    (found,) = torch.autograd.grad(validation_loss(values, data, clip), values)
    return found


def differences(data: list[Images], length: float = 1e-5) -> Tensor:
    out = []
    for unit in torch.eye(N, dtype=torch.float64):
        ahead = validation_loss(start() + length * unit, data)
        behind = validation_loss(start() - length * unit, data)
        out.append((ahead - behind).detach() / (2 * length))
    return torch.stack(out)


# Hypergradients

KINDS: dict[str, dict[str, Any]] = {
    "batched": {},
    "chunks": {"chunk": 4},
    "looped": {"batched": False},
}


@pytest.mark.parametrize("kind", KINDS)
def test_hypergradients_are_those_of_reverse_mode(kind: str, data: list[Images]) -> None:
    sgd = finished(ForwardSGD(network(), N, **KINDS[kind]), data)
    found = sgd.hypergradient(data[STEPS].plain)
    torch.testing.assert_close(found, reverse_mode(data), rtol=1e-9, atol=0)


def test_hypergradients_are_those_of_central_differences(data: list[Images]) -> None:
    found = finished(ForwardSGD(network(), N), data).hypergradient(data[STEPS].plain)
    torch.testing.assert_close(found, differences(data), rtol=1e-6, atol=0)


def test_the_published_equation_for_momentum_is_caught(data: list[Images]) -> None:
    sgd = ForwardSGD(network(), N)
    before = sgd.velocity.clone()
    for step in trained(sgd, data, start()):
        # It has the new velocity where the old one belongs; C reaches Z times the rate.
        row = sgd.rows[columns_at(step).momentum]  # type: ignore[index]
        sgd.C[row] += sgd.velocity - before
        sgd.Z[row] -= setting_at(step, start()).rate * (sgd.velocity - before)
        before = sgd.velocity.clone()
    found, expected = sgd.hypergradient(data[STEPS].plain), reverse_mode(data)
    error = (found / expected - 1).abs()
    assert error[RATES : RATES + MOMENTA].min() > 1e-2
    momenta = torch.zeros(N, dtype=torch.bool)
    momenta[RATES : RATES + MOMENTA] = True
    assert error[~momenta].max() < 1e-9


def test_a_clipped_gradient_is_differentiated_through_the_clamp(data: list[Images]) -> None:
    clip = 0.02
    free = reverse_mode(data)
    expected = reverse_mode(data, clip)
    assert ((free - expected).abs() > 0.05 * free.abs()).any()  # so it binds
    for kind in KINDS.values():
        sgd = finished(ForwardSGD(network(), N, gradient_clip=clip, **kind), data)
        found = sgd.hypergradient(data[STEPS].plain)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_single_precision_is_close(data: list[Images]) -> None:
    double = finished(ForwardSGD(network(), N), data)
    single = finished(ForwardSGD(network().float(), N), batches(STEPS, torch.float32))
    assert single.Z.dtype == torch.float32
    found = single.hypergradient(batches(STEPS + 1, torch.float32)[STEPS].plain)
    expected = double.hypergradient(data[STEPS].plain)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(single.weights.double(), double.weights, rtol=0, atol=1e-5)


def test_at_rates_of_zero_only_rates_have_hypergradients(data: list[Images]) -> None:
    sgd = ForwardSGD(network(), 3)
    for images in data[:5]:
        sgd.step(images.plain, Setting(0.0), Columns(0, 1, 2))
    found = sgd.hypergradient(data[STEPS].plain)
    assert found[0] != 0
    assert found[1] == 0
    assert found[2] == 0


# The trajectory


@pytest.mark.parametrize("as_tensors", [False, True])
def test_weights_and_buffers_are_those_of_an_ordinary_training(
    data: list[Images], as_tensors: bool
) -> None:
    net, plain = network(), network()
    sgd = ForwardSGD(net, 3)
    optimiser = torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.5)
    untouched = snapshot(net)
    for step, images in enumerate(data[:STEPS]):
        rate, momentum, decay = 0.1 + 0.01 * step, 0.9 - 0.02 * step, 1e-3 * step
        now = [torch.tensor(x) if as_tensors else x for x in (rate, momentum, decay)]
        loss = sgd.step(images.plain, Setting(*now), Columns(0, 1, 2))
        for group in optimiser.param_groups:
            group.update(lr=float(now[0]), momentum=float(now[1]), weight_decay=float(now[2]))
        expected = images.plain(plain)
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-11, atol=0)
        optimiser.zero_grad()
        expected.backward()
        optimiser.step()
    sgd.hypergradient(data[STEPS].plain)  # counts on no buffer
    assert all(torch.equal(value, untouched[name]) for name, value in net.state_dict().items())
    sgd.write()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-11, atol=1e-13)
    assert net.get_buffer("norm.num_batches_tracked") == STEPS


def test_frozen_parameters_stay(data: list[Images]) -> None:
    net = network()
    net.get_submodule("stem").requires_grad_(False)
    before = snapshot(net)
    sgd = ForwardSGD(net, 1)
    for images in data[:2]:
        sgd.step(images.plain, PLAIN, Columns(rate=0))
    sgd.write()
    same = {n for n, value in net.named_parameters() if torch.equal(value, before[n])}
    assert same == {"stem.weight", "stem.bias"}


# What a step computes


@pytest.mark.parametrize("clip", [torch.inf, 0.02])
def test_batched_is_looped(clip: float, data: list[Images]) -> None:
    made = [
        ForwardSGD(network(), N, gradient_clip=clip, product_clip=clip, **kind)
        for kind in KINDS.values()
    ]
    for _ in zip(*(trained(sgd, data, start()) for sgd in made), strict=True):
        one, *others = (sgd.state_dict() for sgd in made)
        for other in others:
            assert other["rows"] == one["rows"]
            for name in ("weights", "velocity", "Z", "C", "buffers"):
                torch.testing.assert_close(other[name], one[name], rtol=1e-9, atol=1e-12)


def expense(step: Callable[[], object]) -> int:
    with FlopCounter() as counter:
        step()
    return counter.total


@pytest.mark.parametrize("kind", ["batched", "looped"])
def test_only_columns_in_use_are_computed(kind: str, data: list[Images]) -> None:
    sgd = ForwardSGD(network(), N, **KINDS[kind])
    steps = trained(sgd, data, start())
    due, flops = [], []
    for step in range(STEPS):
        due.append(sgd.due(columns_at(step)))
        flops.append(expense(lambda: next(steps)))
        assert not sgd.Z[len(sgd.rows) :].any()
    # The loss's two at once, the others a step later; then at 8, 12 and 16 more of them.
    assert due == [2] + [5] * 8 + [6] * 3 + [8] + [10] * 4 + [11] * 7
    each = {
        (b - a) / (m - n)
        for n, a in zip(due, flops, strict=True)
        for m, b in zip(due, flops, strict=True)
        if n < m
    }
    assert len(each) == 1  # so many FLOPs a column


def test_a_step_without_tangents_costs_a_plain_one(data: list[Images]) -> None:
    sgd, other = ForwardSGD(network(), N), ForwardSGD(network(), N)
    for images in data[:3]:
        for each in (sgd, other):
            each.step(images.plain, PLAIN, Columns(0, 1, 2))
    before = snapshot(sgd)
    assert sgd.due(None) == 0
    flops = expense(lambda: sgd.step(data[3].plain, PLAIN, None))
    other.step(data[3].plain, PLAIN, Columns(3, 4, 5))
    plain = network()
    assert flops == expense(lambda: data[3].plain(plain).backward())
    torch.testing.assert_close(sgd.weights, other.weights, rtol=1e-12, atol=1e-14)
    for name in ("Z", "C"):
        assert torch.equal(getattr(sgd, name), before[name])
        assert not torch.equal(getattr(other, name), before[name])
    assert sgd.rows == before["rows"]
    # They go on from there, as if the weights had been moved by somebody else.
    sgd.step(data[4].plain, PLAIN, Columns(0, 1, 2))
    assert not torch.equal(sgd.Z, before["Z"])


def test_a_reset_starts_a_new_window(data: list[Images]) -> None:
    sgd = ForwardSGD(network(), N)
    steps = trained(sgd, data, start())
    for _ in range(10):
        next(steps)
    sgd.reset()
    fresh = ForwardSGD(network(), N)
    state = snapshot(sgd)
    assert not any(state[name].any() for name in ("Z", "C"))
    fresh.load_state_dict(state)
    assert sgd.due(columns_at(10)) == OPS
    for step in range(10, 14):
        fresh.step(data[step].augmented, setting_at(step, start()), columns_at(step))
        next(steps)
    assert torch.equal(sgd.Z, fresh.Z)
    found = sgd.hypergradient(data[STEPS].plain)
    assert found[0] == 0  # its window is over
    assert found[1] != 0


def test_a_product_clipped_away_leaves_the_other_terms(data: list[Images]) -> None:
    sgd = ForwardSGD(network(), 1, product_clip=0.0)
    Z = C = torch.zeros_like(sgd.weights)
    for images in data[:4]:
        sgd.step(images.plain, PLAIN, Columns(rate=0))
        C = PLAIN.momentum * C + PLAIN.decay * Z
        Z = Z - PLAIN.rate * C - sgd.velocity
    torch.testing.assert_close(sgd.C[0], C, rtol=1e-12, atol=0)
    torch.testing.assert_close(sgd.Z[0], Z, rtol=1e-12, atol=0)


class Waiting(TorchDispatchMode):
    """Refuses to fetch a value from the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default
        assert func is not torch.ops.aten.nonzero.default
        return func(*args, **(kwargs or {}))


def test_a_step_waits_for_nothing(data: list[Images]) -> None:
    sgd = ForwardSGD(network(), N, chunk=4, gradient_clip=3.0, product_clip=10.0)
    values = start()
    with pytest.raises(AssertionError), Waiting():
        float(values[0])
    with Waiting():
        for step in range(STEPS):
            sgd.step(data[step].augmented, setting_at(step, values), columns_at(step))


# Networks of other kinds


class Dropping(nn.Module):
    """Drops units."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(243, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(torch.tanh(self.hidden(x.flatten(1))), 0.5, self.training))


class Attentive(nn.Module):
    """Attends from row to row."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(27, 24), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.transpose(1, 2).flatten(2)).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v).mean(1))


@pytest.mark.parametrize("make", [Dropping, Attentive])
def test_any_order_of_columns_gives_the_same(
    make: Callable[[], nn.Module], data: list[Images]
) -> None:
    found = []
    for kind in KINDS.values():
        sgd = ForwardSGD(network(make), N, **kind)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            found.append(finished(sgd, data).Z)
            found.append(torch.rand(5, dtype=torch.float64))  # the dice, thrown as often
    for Z, after in zip(found[2::2], found[3::2], strict=True):
        torch.testing.assert_close(Z, found[0], rtol=1e-9, atol=1e-12)
        assert torch.equal(after, found[1])


def test_half_precision_stays_outside() -> None:
    data, precise = batches(4, torch.float32), torch.get_float32_matmul_precision()
    inside = []

    def noting(loss: Loss) -> Loss:
        def noted(net: Callable[[Tensor], Tensor]) -> Tensor:
            inside.append(torch.backends.cuda.matmul.fp32_precision)
            return loss(net)

        return noted

    made = [ForwardSGD(network().float(), 3) for _ in range(2)]
    hypergradients = []
    try:
        torch.set_float32_matmul_precision("high")
        for half, sgd in zip((False, True), made, strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                for images in data[:3]:
                    sgd.step(noting(images.plain), PLAIN, Columns(0, 1, 2))
                hypergradients.append(sgd.hypergradient(noting(data[3].plain)))
                assert torch.is_autocast_enabled("cpu") == half
        with pytest.raises(ZeroDivisionError):
            made[0].step(lambda net: 1 / 0, PLAIN, CONSTANT)  # type: ignore[arg-type,return-value]
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(precise)
    assert set(inside) == {"ieee"}
    assert torch.equal(made[0].Z, made[1].Z)
    assert torch.equal(hypergradients[0], hypergradients[1])


# Keeping it


def test_a_restored_state_goes_on_with_the_same_bits(data: list[Images]) -> None:
    sgd = ForwardSGD(network(), N)
    steps = trained(sgd, data, start())
    for _ in range(7):
        next(steps)
    kept = snapshot(sgd)
    for _ in steps:
        pass
    expected = sgd.hypergradient(data[STEPS].plain)
    for other in (sgd, ForwardSGD(network(), N)):
        other.load_state_dict(kept)
        for step in range(7, STEPS):
            other.step(data[step].augmented, setting_at(step, start()), columns_at(step))
        assert torch.equal(other.hypergradient(data[STEPS].plain), expected)
    assert kept["rows"] != sgd.rows


def test_columns_that_do_not_fit_are_refused(data: list[Images]) -> None:
    sgd = ForwardSGD(network(), 3)
    before = snapshot(sgd)
    with pytest.raises(ConfigError, match=r"no column 3, only 0\.\.2"):
        sgd.step(data[0].plain, PLAIN, Columns(rate=3))
    for augment in (None, torch.zeros(3, dtype=torch.float64)):
        with pytest.raises(ConfigError, match="no 2 hyperparameters"):
            sgd.step(data[0].plain, replace(PLAIN, augment=augment), Columns(augment=(0, 1)))
    state = sgd.state_dict()
    assert torch.equal(state["weights"], before["weights"])
    assert state["rows"] == {}
    for layers in ([nn.Linear(2, 2), nn.Linear(2, 2).double()], [nn.ReLU()]):
        with pytest.raises(ConfigError, match="of one type"):
            ForwardSGD(nn.Sequential(*layers), 1)


# In a session


def session_of(prepared: Prepared) -> Session:
    selected = Selected(Plugin(Ohl, Path(__file__), ""), OhlConfig(), "ohl", None)
    session = stage(prepared, small_config(selected, 50.0)).session
    session._observe = None
    return session


def test_steps_are_metered(small: Prepared) -> None:
    session = session_of(small)
    learner = session.learner()
    batch = next(session.batches("train"))
    sgd = ForwardSGD(learner.network, N)
    session.keep(sgd=sgd)

    def loss(net: Callable[[Tensor], Tensor]) -> Tensor:
        return F.cross_entropy(net(learner.pixels(batch.images)), batch.targets)

    def step(own: Columns) -> None:
        with session.metered("inner", columns=sgd.due(own)):
            sgd.step(loss, PLAIN, own)

    with pytest.raises(UnmeteredCompute):
        sgd.step(loss, PLAIN, CONSTANT)
    before = snapshot(sgd)
    session.price("step", lambda: (step(Columns(rate=0)), step(Columns(rate=1))))
    assert torch.equal(sgd.weights, before["weights"])
    assert sgd.rows == {}
    for column in (*range(N), 0, 1):
        step(Columns(rate=column))
    with session.metered("outer"):
        sgd.hypergradient(loss)
    ledger = session._meter.ledger
    bill = {(label, key): item for label, key, item in ledger.items("run")}
    with FlopCounter() as counter, session.metered("plain"):
        loss(learner.network).backward()
    assert bill["outer", ()].flops == counter.total
    for n in range(N + 1):
        item = bill["inner", (("columns", n),)]
        ratio = item.flops / counter.total / (2 if n == N else 1)
        assert (ratio == 1) if n == 0 else 1 + 1.5 * n < ratio <= 1 + 2 * n
    sgd.write()
    session.validate(learner)
