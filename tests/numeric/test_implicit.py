"""The implicit hypergradient against Hessians, solved and unrolled inner problems, differences."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.augment.per_point import Noise, PerPoint
from bench.check import small_config
from bench.plugins import Plugin, Selected
from bench.stage import stage
from bench.train.learner import Learner
from bench.train.prepare import Prepared
from bench.train.session import Session
from methods._implicit import (
    Losses,
    curvature,
    last_linear,
    neumann,
    outer,
    read,
    slope,
    surrogate,
)
from methods._points import Rows, Tables, divergence
from methods.autodo import Autodo, AutodoConfig, Phases
from tests.numeric.small_policies import numbers

Tensor = torch.Tensor
KINDS: dict[str, tuple[bool, bool]] = {  # soft labels, symmetric
    "cross-entropy": (False, False),
    "divergence": (True, False),
    "symmetric": (True, True),
}


def uniform(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=rng, dtype=torch.float64)


def losses_of(kind: str, weighted: bool, classes: int, count: int) -> Losses:
    soft, symmetric = KINDS[kind]
    given = torch.arange(count) % classes
    base: Losses = lambda logits: F.cross_entropy(logits, given, reduction="none")  # noqa: E731
    if soft:
        base = divergence(numbers(count, classes, seed=5), symmetric)
    weight = 0.2 + uniform(count) if weighted else torch.ones(count, dtype=torch.float64)
    return lambda logits: weight * base(logits)


def flat(product: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """A linear map as a matrix."""
    units = torch.eye(like.numel(), dtype=like.dtype).view(-1, *like.shape)
    return torch.stack([product(unit).flatten() for unit in units], 1)


# The parts


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_and_curvature_are_those_of_the_loss(kind: str, weighted: bool) -> None:
    count, width, classes = 9, 4, 3
    losses = losses_of(kind, weighted, classes, count)
    features, bias = numbers(count, width), numbers(classes, seed=1)
    weight = numbers(classes, width, seed=2).requires_grad_()

    def mean(weight: Tensor) -> Tensor:
        return losses(features @ weight.T + bias).mean()

    logits = features @ weight.T + bias
    found = outer(slope(losses, logits), features)
    (expected,) = torch.autograd.grad(mean(weight), weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)

    hessian = torch.autograd.functional.hessian(mean, weight.detach())
    matrix = flat(curvature(losses, logits, features), weight.detach())
    size = classes * width
    torch.testing.assert_close(matrix, hessian.view(size, size), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-10, atol=1e-13)


def test_curvature_is_a_constant_that_can_be_asked_for_again() -> None:
    losses, features = losses_of("symmetric", True, 3, 9), numbers(9, 4).requires_grad_()
    product = curvature(losses, features @ numbers(3, 4, seed=2).T, features)
    v = numbers(3, 4, seed=3)
    once = product(v)
    assert torch.equal(once, product(v))
    assert not once.requires_grad


def test_a_slope_passes_gradients_on() -> None:
    """To logits, weights and soft labels: its derivatives are those of the loss's derivative."""
    label, weight = numbers(4, 3).requires_grad_(), (0.2 + uniform(4)).requires_grad_()
    logits = numbers(4, 3, seed=1).requires_grad_()

    def delta(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        base = divergence(label, symmetric=True)
        return slope(lambda at: weight * base(at), logits)

    assert torch.autograd.gradcheck(delta, [logits, label, weight])


@pytest.mark.parametrize("terms", [0, 1, 5, 12])
def test_the_series_is_the_explicit_one(terms: int) -> None:
    rate, v = 0.3, numbers(3, 4)
    root = numbers(12, 12, seed=1)
    matrix = root @ root.T / 12
    found, length = neumann(lambda x: (matrix @ x.flatten()).view(3, 4), v, terms, rate)
    step = torch.eye(12, dtype=torch.float64) - rate * matrix
    powers = [torch.linalg.matrix_power(step, k) for k in range(terms + 1)]
    expected = rate * sum(power @ v.flatten() for power in powers)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-12, atol=1e-14)
    last = (powers[-1] @ v.flatten()).norm() / v.norm()
    torch.testing.assert_close(length, last, rtol=1e-12, atol=1e-14)


def test_no_terms_are_the_gradient_itself() -> None:
    def never(x: Tensor) -> Tensor:
        raise AssertionError("nothing is to be multiplied")

    v = numbers(3, 4)
    found, length = neumann(never, v, 0, 0.01)
    assert torch.equal(found, 0.01 * v)
    assert float(length) == 1


def test_many_terms_invert() -> None:
    """On the subspace that H does not annihilate, where gradients of such losses lie."""
    count, width, classes = 40, 4, 3
    losses = losses_of("divergence", True, classes, count)
    features, weight = numbers(count, width), numbers(classes, width, seed=2)
    product = curvature(losses, features @ weight.T, features)
    matrix = flat(product, weight)
    roots = torch.linalg.eigvalsh(matrix)
    assert (roots[:width].abs() < 1e-12).all()  # equal changes of all classes' rows
    val = numbers(20, width, seed=7)
    v = outer(slope_of_val(val @ weight.T), val)
    terms = int(40 * roots[-1] / roots[width])
    found, length = neumann(product, v, terms, 1 / float(roots[-1]))
    expected = torch.linalg.pinv(matrix, hermitian=True) @ v.flatten()
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-9, atol=1e-12)
    assert length < 1e-12
    _, longer = neumann(product, v, 60, 4 / float(roots[-1]))  # beyond 2: it explodes
    assert longer > 1


def slope_of_val(logits: Tensor) -> Tensor:
    given = torch.arange(len(logits)) % logits.shape[1]
    delta = logits.softmax(1)
    return delta - F.one_hot(given, logits.shape[1])


# The hypergradient of a problem that is solved


class Problem:
    """A convex head on features of warped images, with λ in the images, weights and labels.

    Args:
        symmetric: Of the divergence.  Only the plain one is convex everywhere.
    """

    count, side, width, classes = 14, 6, 5, 3

    def __init__(self, symmetric: bool = False) -> None:
        torch.manual_seed(0)
        count, pixels = self.count, self.side**2
        along = torch.arange(self.side, dtype=torch.float64)
        phase = 0.7 * (
            uniform(count, 1, 1, 1) * along + uniform(count, 1, 1, 1, seed=1) * along[:, None]
        ) + 6 * uniform(count, 1, 1, 1, seed=2)
        self.images, self.symmetric = phase.sin(), symmetric
        self.encoder = numbers(pixels, self.width, seed=3) / 4
        self.val = torch.tanh(numbers(20, self.width, seed=4))
        policy = PerPoint(count, spread="deviation")
        self.draw: Noise = policy.sample(torch.arange(count), torch.Generator().manual_seed(0))
        self.tables = Tables(policy, torch.arange(count) % 3, 3, True, "learned", 0.1, symmetric)
        self.rows = [
            numbers(count, 7, seed=5),
            numbers(count, 7, seed=6),
            numbers(count, 1, seed=7),
            numbers(count, 3, seed=8) / 2,
        ]

    def leaves(self) -> list[Tensor]:
        return [row.clone().requires_grad_() for row in self.rows]

    def features(self, rows: Sequence[Tensor]) -> Tensor:
        policy = self.tables.policy
        warped = policy.warped(self.images, self.draw, rows[0], rows[1], hard=False)
        return torch.tanh(warped.flatten(1) @ self.encoder)

    def losses(self, rows: Sequence[Tensor]) -> Losses:
        return self.tables.losses(Rows(*rows), self.tables.given)

    def loss(self, weight: Tensor, rows: Sequence[Tensor]) -> Tensor:
        return self.losses(rows)(self.features(rows) @ weight.T).mean()

    def val_loss(self, weight: Tensor) -> Tensor:
        given = torch.arange(len(self.val)) % self.classes
        return F.cross_entropy(self.val @ weight.T, given)

    def solve(self, rows: Sequence[Tensor], start: Tensor | None = None) -> Tensor:
        """argmin of the loss by Newton's method; the shortest one, as classes' sum is free."""
        weight = torch.zeros(self.classes, self.width, dtype=torch.float64)
        weight = weight if start is None else start.clone()
        rows = [row.detach() for row in rows]
        features, losses = self.features(rows), self.losses(rows)
        for _ in range(60):
            logits = (features @ weight.T).requires_grad_()
            gradient = outer(slope(losses, logits).detach(), features)
            matrix = flat(curvature(losses, logits, features), weight)
            inverse = torch.linalg.pinv(matrix, rtol=1e-11, hermitian=True)
            move = (inverse @ gradient.flatten()).view_as(weight)
            weight = weight - move * min(1.0, 1 / float(move.norm()))
            if gradient.norm() < 1e-15:
                break
        assert gradient.norm() < 1e-12
        return weight

    def hypergradient(self, weight: Tensor, terms: int, rate: float | None) -> list[Tensor]:
        """By the functions under test; the rate by default is what converges best."""
        rows = self.leaves()
        features, losses = self.features(rows), self.losses(rows)
        logits = features @ weight.T
        product = curvature(self.losses([row.detach() for row in rows]), logits, features)
        if rate is None:
            rate = 1 / float(torch.linalg.eigvalsh(flat(product, weight))[-1])
        v = outer(slope_of_val(self.val @ weight.T), self.val)
        inverse, _ = neumann(product, v, terms, rate)
        return list(torch.autograd.grad(surrogate(losses, logits, features, inverse), rows))


def test_it_is_the_derivative_of_the_solved_problem() -> None:
    problem = Problem()
    best = problem.solve(problem.rows)
    features = problem.features(problem.rows)
    matrix = flat(curvature(problem.losses(problem.rows), features @ best.T, features), best)
    roots = torch.linalg.eigvalsh(matrix)
    found = problem.hypergradient(best, int(25 * roots[-1] / roots[problem.width]), None)
    step = 1e-4
    for number, gradient in enumerate(found):
        assert gradient.abs().max() > 1e-4
        for seed in range(3):  # in random directions, and along the gradient
            way = gradient if seed == 0 else numbers(*gradient.shape, seed=20 + seed)
            way = way / way.norm()
            ends = []
            for side in (-2, -1, 1, 2):
                rows = list(problem.rows)
                rows[number] = rows[number] + side * step * way
                ends.append(float(problem.val_loss(problem.solve(rows, best))))
            expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
            along = float((gradient * way).sum())
            assert along == pytest.approx(expected, rel=1e-5, abs=1e-10)


@pytest.mark.parametrize("terms", [0, 1, 5, 20])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_short_series_is_as_many_unrolled_steps(terms: int, symmetric: bool) -> None:
    """T + 1 steps of gradient descent that begin where they end, at the solution."""
    problem, rate = Problem(symmetric), 0.7
    weight = best = problem.solve(problem.rows)
    rows = problem.leaves()
    for _ in range(terms + 1):
        weight = weight if weight.requires_grad else weight.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(problem.loss(weight, rows), weight, create_graph=True)
        weight = weight - rate * gradient
    torch.testing.assert_close(weight.detach(), best, rtol=0, atol=1e-12)
    expected = torch.autograd.grad(problem.val_loss(weight), rows)
    found = problem.hypergradient(best, terms, rate)
    for one, other in zip(found, expected, strict=True):
        scale = float(other.abs().max())
        assert scale > 1e-6
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9 * scale)


# Through a network


class Smooth(nn.Module):
    """A small network for 8×8 digits, with CELU, and with BatchNorm and dropout if wanted."""

    def __init__(self, noisy: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if noisy else nn.Identity()
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2)
        self.drop = nn.Dropout(0.5 if noisy else 0.0)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.celu(self.norm(self.conv1(x)))
        return self.head(self.drop(F.celu(self.conv2(x)).mean((2, 3))))


def session_of(
    small: Prepared, network: Callable[[], nn.Module] | None = None, **options: Any
) -> tuple[Session, Autodo]:
    """A session on the small task, perhaps with another network."""
    task = small.task if network is None else replace(small.task, network=network)
    small = replace(small, task=task)
    config = AutodoConfig(**options)
    selected = Selected(Plugin(Autodo, Path(__file__), ""), config, "autodo", None)
    session = stage(small, small_config(selected, 4.0)).session
    session._observe = None
    return session, Autodo(config)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the harness holds in single precision is double."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("view", ["direct", "upsampled"])
@pytest.mark.usefixtures("double")
def test_the_surrogate_of_a_network_against_finite_differences(
    small: Prepared, symmetric: bool, view: str
) -> None:
    """⟨∇_W L(λ), u⟩ with soft gates and frozen noise; all of it in double precision."""
    torch.manual_seed(0)
    session, method = session_of(small, lambda: Smooth().double(), symmetric=symmetric, view=view)
    learner = session.learner()
    batch = next(session.batches("train", 6))
    tables = method.tables(session.task)
    draw = tables.policy.sample(batch.index, torch.Generator().manual_seed(0))
    u = numbers(10, 6, seed=1)
    start = [
        numbers(6, 7, seed=2),
        numbers(6, 7, seed=3),
        numbers(6, 1, seed=4),
        numbers(6, 10, seed=5),
    ]
    images = batch.images.double()
    images = F.avg_pool2d(images, 3, 1, 1)

    def parts(rows: list[Tensor]) -> tuple[Losses, Tensor, Tensor]:
        warped = tables.policy.warped(images, draw, rows[0], rows[1], hard=False)
        features, logits = read(learner, warped)
        assert features.dtype == logits.dtype == torch.float64
        return tables.losses(Rows(*rows), batch.targets), logits, features

    rows = [row.clone().requires_grad_() for row in start]
    with session.metered("x"):
        losses, logits, features = parts(rows)
        value = surrogate(losses, logits, features, u)
        found = torch.autograd.grad(value, rows, retain_graph=True)
        # It is what autograd makes of the loss and the head's weights.
        loss = losses(logits).mean()
        head = last_linear(learner.network)
        assert head is not None
        (gradient,) = torch.autograd.grad(loss, head.weight)
    torch.testing.assert_close(value.detach(), -(gradient * u).sum(), rtol=1e-10, atol=1e-12)

    step = 1e-5
    for number, each in enumerate(found):
        assert each.abs().max() > 1e-6
        for seed in range(3):
            way = numbers(*each.shape, seed=30 + seed)
            ends = []
            for side in (step, -step):
                moved = [row.clone() for row in start]
                moved[number] += side * way
                moved = [row.requires_grad_() for row in moved]
                with session.metered("x", order=1):
                    ends.append(float(surrogate(*parts(moved), u).detach()))
            expected = (ends[0] - ends[1]) / (2 * step)
            scale = float(each.norm() * way.norm())
            assert float((each * way).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7 * scale)


def test_read_gives_the_heads_input_and_output_in_evaluation_mode(small: Prepared) -> None:
    session, _ = session_of(small, lambda: Smooth(noisy=True))
    learner = session.learner()
    network = learner.network
    network.norm.eval()
    network.drop.train()
    modes = {name: module.training for name, module in network.named_modules()}
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    hooks = [len(module._forward_pre_hooks) for module in network.modules()]
    images = next(session.batches("train")).images
    with session.metered("x"):
        features, logits = read(learner, images)
        network.eval()
        pixels = learner.pixels(images)
        hidden = F.celu(network.conv2(F.celu(network.norm(network.conv1(pixels)))))
        network.norm.eval()
        network.drop.train()
        network.train(modes[""])
        for name, module in network.named_modules():
            module.training = modes[name]
    torch.testing.assert_close(features, hidden.mean((2, 3)))
    assert features.shape == (len(images), 6)
    head = network.head
    torch.testing.assert_close(logits, features @ head.weight.T + head.bias)
    assert features.requires_grad
    assert logits.requires_grad
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert [len(module._forward_pre_hooks) for module in network.modules()] == hooks
    for name, value in network.named_buffers():
        assert torch.equal(value, buffers[name])


def test_read_restores_modes_and_hooks_after_an_error(small: Prepared) -> None:
    session, _ = session_of(small, lambda: Smooth(noisy=True))
    learner = session.learner()
    hooks = [len(module._forward_pre_hooks) for module in learner.network.modules()]
    learner.network.train()
    with pytest.raises(RuntimeError), session.metered("x"):
        read(learner, torch.zeros(2, 3, 8, 8))
    assert all(module.training for module in learner.network.modules())
    assert [len(module._forward_pre_hooks) for module in learner.network.modules()] == hooks


def test_the_last_linear_layer() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5), nn.ReLU()))
    assert last_linear(network) is network[1][0]
    assert last_linear(nn.Sequential(nn.Conv2d(3, 4, 1))) is None


# The whole of a step of λ


def caught(phases: Phases) -> tuple[Tensor, list[Tensor]]:
    """Rows and gradients that a step of λ gives to RMSprop, which does not move."""
    seen: list[tuple[Tensor, list[Tensor]]] = []
    phases.optimiser.step = lambda row, gradients, rate: seen.append((row, gradients))
    phases.hyper(1.0)
    return seen[0]


def by_autograd(phases: Phases, learner: Learner, terms: int, rate: float) -> list[Tensor]:
    """The same with the head's weight as a leaf, and the series by differentiating twice."""
    session, tables, config = phases.session, phases.tables, phases.config
    head = last_linear(learner.network)
    assert head is not None
    batch, val = next(phases.hyper_batches), next(phases.val_batches)
    fixed = phases.before.sample(batch.index, session.rng("hyper before"))
    draw = tables.policy.sample(batch.index, session.rng("hyper policy"))
    images = phases.before.apply(batch, fixed).images
    rows = tables.take(batch.index).leaves()
    learner.network.eval()
    if config.view != "direct":
        plain = F.interpolate(val.images.float(), scale_factor=4, mode="bilinear")
        val = replace(val, images=F.interpolate(plain, size=8, mode="bilinear"))
    loss = F.cross_entropy(learner(val.images), val.targets)
    (term,) = torch.autograd.grad(loss, head.weight)
    warped = tables.policy.warped(images, draw, rows.gates, rows.magnitudes)
    losses = tables.losses(rows, batch.targets)
    (gradient,) = torch.autograd.grad(
        losses(learner(warped)).mean(), head.weight, create_graph=True
    )
    total = term
    for _ in range(terms):
        (product,) = torch.autograd.grad(gradient, head.weight, term, retain_graph=True)
        term = term - rate * product
        total = total + term
    learner.network.train()
    value = -rate * (gradient * total).sum()
    return list(torch.autograd.grad(value, rows.learned()))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"terms": 0},
        {"terms": 3, "rate": 0.5, "view": "upsampled", "symmetric": False},
        {"variant": "aw", "view": "released"},
        {"variant": "a"},
        {"variant": "sha", "spread": "deviation"},
        {"variant": "static"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("double")
def test_a_step_of_lambda_has_the_hypergradient(small: Prepared, options: dict[str, Any]) -> None:
    """In double precision, against autograd with the network's own head as the inner problem."""
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        session, method = session_of(small, lambda: Smooth(noisy=True).double(), **options)
        learner, tables = session.learner(), method.tables(session.task)
        policy = tables.policy
        policy.gates, policy.magnitudes = policy.gates.double(), policy.magnitudes.double()
        # Not as at the start, where all weights are 1 and curvature without them is the same.
        for seed, table in enumerate(tables.all().learned()):
            table += 0.7 * numbers(*table.shape, seed=seed)
        made.append((Phases(method, session, learner, tables), learner))
    row, found = caught(made[0][0])
    phases, learner = made[1]
    with phases.session.metered("x"):
        expected = by_autograd(phases, learner, phases.config.terms, phases.config.rate)
    assert len(row) == (1 if options.get("variant") == "sha" else 32)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        other = other / phases.config.rate  # a step leaves out the series' factor
        scale = float(other.abs().max())
        assert scale > 0
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7 * scale)


def test_nothing_but_lambda_gets_gradients(small: Prepared) -> None:
    session, method = session_of(small)
    learner = session.learner()
    phases = Phases(method, session, learner, method.tables(session.task))
    state = {name: value.clone() for name, value in learner.network.state_dict().items()}
    before = [table.clone() for table in phases.tables.all().learned()]
    phases.hyper(1.0)
    assert all(parameter.grad is None for parameter in learner.network.parameters())
    assert all(table.grad is None for table in phases.tables.all().learned())
    assert not any(table.requires_grad for table in phases.tables.all().learned())
    for name, value in learner.network.state_dict().items():
        assert torch.equal(value, state[name])
    assert learner.network.training
    assert not learner.optimiser.state
    after = phases.tables.all().learned()
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
