"""Log-probabilities: they add up to one over all draws, and their gradients are right."""

import math
from collections.abc import Callable

import pytest
import torch

from bench.augment.choice import Uniform, uniformaugment
from bench.augment.learnable import Categorical, Gated, Learnable, OpsAndLevels, pairs
from bench.augment.per_point import BEYOND, Noise, PerPoint
from bench.augment.spaces import space
from tests.numeric.small_policies import SMALL, discrete, effect, every_draw, learnable, numbers

Tensor = torch.Tensor


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", discrete())
def test_probabilities_of_all_draws_add_up_to_one(name: str) -> None:
    policy = discrete()[name]
    draw = every_draw(policy)
    assert len(set(effect(draw, policy.space))) == len(draw)
    log_prob = policy.log_prob(draw)
    assert log_prob.dtype == torch.float64
    assert log_prob.shape == (len(draw),)
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", learnable())
def test_the_expected_score_is_zero(name: str) -> None:
    policy = learnable()[name]
    parameters = [p.requires_grad_() for p in policy.parameters()]
    total = policy.log_prob(every_draw(policy)).exp().sum()
    for gradient in torch.autograd.grad(total, parameters, allow_unused=True):
        assert gradient is None or float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("policy", learnable().values())
def test_gradients_equal_finite_differences(policy: Learnable) -> None:
    index = torch.arange(64) % 4
    draw = policy.sample(index, rng(1))
    weight = numbers(64, seed=3)
    parameters = [p.requires_grad_() for p in policy.parameters()]
    value = (weight * policy.log_prob(draw)).sum()
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    step = 1e-5
    for parameter, gradient in zip(parameters, found, strict=True):
        flat = parameter.detach().view(-1)
        expected = torch.zeros_like(flat)
        for i in range(len(flat)):
            ends = []
            for side in (step, -step):
                flat[i] += side
                ends.append(float((weight * policy.log_prob(draw)).sum().detach()))
                flat[i] -= side
            expected[i] = (ends[0] - ends[1]) / (2 * step)
        gradient = torch.zeros_like(flat) if gradient is None else gradient.reshape(-1)
        assert torch.allclose(gradient, expected, rtol=1e-7, atol=1e-7)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in found)


def test_the_density_of_continuous_levels_integrates_to_one() -> None:
    continuous = uniformaugment(SMALL)
    # Every draw of one level stands for an interval of them as long as the whole.
    likeness = Uniform(SMALL, keep=0.5, levels="discrete", most=1)
    draw = every_draw(likeness)
    draw.level[:] = draw.level.clamp(max=0) + 0.7
    effects = effect(draw, SMALL)
    first = [effects.index(each) for each in dict.fromkeys(effects)]
    widths = (draw.gate & SMALL.has_magnitude[draw.op]).double().sum(1) * math.log(SMALL.top)
    total = (continuous.log_prob(draw) + widths).exp()[first].sum()
    assert float(total) == pytest.approx(1, abs=1e-9)


# Warps of each image

SPREADS: dict[str, Callable[[Tensor], Tensor]] = {
    "variance": lambda logit: 0.5 * logit.sigmoid().sqrt(),
    "deviation": torch.sigmoid,
}


@pytest.mark.parametrize("spread", SPREADS)
def test_the_density_of_each_warp_integrates_to_one(spread: str) -> None:
    """All but what a normal distribution has beyond three standard deviations."""
    policy = PerPoint(gates=numbers(1, 7), magnitudes=numbers(1, 7, seed=1), spread=spread)
    size = torch.linspace(-BEYOND, BEYOND, 2001)
    count = len(size)
    closed = torch.full((count, 7), -60.0)
    # The warps are independent: one of them at a time, the others do not happen.
    shut = policy.log_prob(Noise(closed[:1], torch.zeros(1, 7), torch.zeros(1)))[0].exp()
    inside = math.erf(BEYOND / math.sqrt(2))
    assert 1 - inside == pytest.approx(0.003, abs=0.001)
    for warp in range(7):
        gate, along = closed.clone(), torch.full((count, 7), 0.7)
        gate[:, warp], along[:, warp] = 60.0, size
        density = policy.log_prob(Noise(gate, along, torch.zeros(count))).exp()
        level = size.double() * SPREADS[spread](policy.magnitudes[0, warp].double())
        odds = policy.gates[0, warp].double().exp()
        area = float(torch.trapezoid(density, level) / shut)
        assert area == pytest.approx(float(odds) * inside, rel=1e-5)


def test_the_density_of_a_draw_by_hand() -> None:
    policy = PerPoint(5, gates=numbers(5, 7), magnitudes=numbers(5, 7, seed=1))
    index = torch.arange(40) % 5
    draw = policy.sample(index, rng(3))
    found = policy.log_prob(draw)
    assert found.dtype == torch.float64
    for row, value in enumerate(found.tolist()):
        expected = 0.0
        for warp in range(7):
            logit = float(policy.gates[index[row], warp])
            if float(draw.gate[row, warp]) + logit > 0:
                spread = 0.5 * math.sqrt(
                    torch.sigmoid(policy.magnitudes[index[row], warp].double())
                )
                expected -= math.log1p(math.exp(-logit))
                expected -= float(draw.size[row, warp]) ** 2 / 2
                expected -= math.log(spread * math.sqrt(2 * math.pi))
            else:
                expected -= math.log1p(math.exp(logit))
        assert value == pytest.approx(expected, abs=1e-9)


def test_the_expected_score_of_warps_is_zero() -> None:
    """But for the cut: a squared normal number that ends at 9 has the mean 0.995."""
    policy = PerPoint(gates=0.4, magnitudes=numbers(1, 7))
    draw = policy.sample(torch.zeros(100_000, dtype=torch.int64), rng(4))
    leaves = [policy.gates.requires_grad_(), policy.magnitudes.requires_grad_()]
    mean = policy.log_prob(draw).mean()
    for gradient in torch.autograd.grad(mean, leaves):
        assert float(gradient.abs().max()) < 0.01


def test_a_shared_row_serves_every_point() -> None:
    policy = PerPoint(gates=[[9.0, -9.0, 9.0, -9.0, 9.0, -9.0, 9.0]])
    draw = policy.sample(torch.tensor([7, 123456]), rng(9))
    levels = policy.levels(draw, *policy.rows(draw.index))
    assert (levels != 0).tolist() == [[True, False] * 3 + [True]] * 2
    assert draw.index.tolist() == [7, 123456]
    assert policy.log_prob(draw).shape == (2,)


# Closed forms


def test_gars_formula() -> None:
    policy = learnable()["ops-and-levels"]
    assert isinstance(policy, OpsAndLevels)
    draw = policy.sample(torch.arange(200), rng(4))
    found = policy.log_prob(draw).tolist()
    for row, value in enumerate(found):
        r = int(draw.count[row])
        expected = float(policy.counts.log_softmax(0)[r - 1]) - math.log(math.perm(3, r))
        for j in range(r):
            a, keep = int(draw.op[row, j]), torch.sigmoid(policy.keeps[draw.op[row, j]])
            if draw.gate[row, j]:
                levels = policy.levels[a].log_softmax(0)
                expected += float(keep.log())
                expected += float(levels[int(draw.level[row, j])]) if a > 0 else 0.0
                expected -= math.log(2) if a == 1 else 0.0
            else:
                expected += float((1 - keep).log())
        assert value == pytest.approx(expected, abs=1e-12)
    assert not draw.gate[torch.arange(3) >= draw.count[:, None]].any()


def test_ohls_gradient() -> None:
    elements = space("ohl")
    policy = Categorical(elements, elements=pairs(elements), weigh="sigmoid", logits=numbers(1296))
    draw = policy.sample(torch.arange(300), rng(5))
    score = torch.sigmoid(policy.logits)
    p = score / score.sum()
    counts = draw.choice.bincount(minlength=1296)
    expected = (1 - score) * (counts - 300 * p)
    policy.logits.requires_grad_()
    (found,) = torch.autograd.grad(policy.log_prob(draw).sum(), [policy.logits])
    assert torch.allclose(found, expected.detach(), rtol=0, atol=1e-12)
    assert torch.equal(policy.elements[draw.choice], draw.op)


def test_marginals_are_row_sums() -> None:
    policy = learnable()["categorical-sigmoid"]
    assert isinstance(policy, Categorical)
    expected = policy.log_probabilities().exp().view(3, 3).sum(1)
    assert torch.allclose(policy.marginals(), expected.detach())
    assert not policy.marginals().requires_grad


def test_pbas_walk_stops_after_the_limit() -> None:
    policy = Gated(space("pba"), probabilities=20.0)
    draw = policy.sample(torch.arange(500), rng(6))
    assert torch.equal(draw.gate.sum(1), draw.limit)
    assert torch.equal(draw.walked.sum(1), draw.limit)
    assert torch.equal(draw.op[:, 0][draw.gate[:, 0]], (draw.order[:, 0] % 15)[draw.gate[:, 0]])
    shy = Gated(space("pba"), probabilities=-40.0)
    draw = shy.sample(torch.arange(500), rng(6))
    assert not draw.gate.any()
    assert torch.equal(draw.walked.all(1), draw.limit > 0)


def test_hbas_start_applies_something_to_four_fifths() -> None:
    """Of the images with a limit above 0: 1 - 0.95³⁰."""
    policy = Gated(space("pba"), probabilities=math.log(0.05 / 0.95))
    draw = policy.sample(torch.arange(40_000), rng(7))
    share = draw.gate.any(1)[draw.limit > 0].double().mean()
    assert float(share) == pytest.approx(1 - 0.95**30, abs=0.01)


def test_logits_of_each_image() -> None:
    policy = Gated(SMALL, copies=2)
    certain = torch.full((50, 6), -40.0, dtype=torch.float64)
    certain[torch.arange(50), torch.arange(50) % 6] = 40.0
    size = torch.linspace(-3, 3, 50, dtype=torch.float64)[:, None].expand(50, 6)
    draw = policy.sample_with(certain, size, torch.arange(50), rng(8))
    done = draw.gate[:, 0]
    assert torch.equal(done, draw.limit > 0)
    assert torch.equal(draw.op[done, 0], (torch.arange(50) % 6 % 3)[done])
    assert torch.allclose(draw.level[done, 0], 2 * size[done, 0].sigmoid())
    assert not draw.gate[:, 1].any()
