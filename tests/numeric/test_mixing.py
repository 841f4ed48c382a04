"""Mixing in numbers: distributions, densities, linearity, Pillow's AugMix, and its divergence."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from scipy import stats

from bench.augment.augmix import LOWEST, AugMix, AugMixDraw, Chains, dirichlet
from bench.augment.mixing import CutMix, Mixup, beta, beta_log_density
from bench.augment.policy import Batch
from bench.augment.space import Space
from bench.augment.spaces import space
from bench.train.losses import jensen_shannon

FINE = 1e-3  # p-value; seeds are fixed, so a pass stays a pass
SPACE = space("augmix")


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=rng(seed), dtype=torch.float64)


# Distributions


@pytest.mark.parametrize(("a", "b"), [(1, 1), (0.1, 0.1), (0.2, 0.2), (2.5, 2.5), (8, 8), (1, 2)])
def test_beta_variates_are_beta(a: float, b: float) -> None:
    values = beta(a, b, uniform(20_000, seed=1)).numpy()
    assert stats.kstest(values, stats.beta(a, b).cdf).pvalue > FINE


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_lambda_is_beta_by_image_and_by_batch(kind: type[Mixup | CutMix], alpha: float) -> None:
    by_image = kind(alpha, 3, per="image").sample(torch.arange(10_000), rng(2)).share
    policy, generator = kind(alpha, 3), rng(3)
    by_batch = torch.stack([policy.sample(torch.arange(2), generator).share for _ in range(4000)])
    for values in (by_image, by_batch[:, 0]):
        assert stats.kstest(values.numpy(), stats.beta(alpha, alpha).cdf).pvalue > FINE


def test_a_wrong_distribution_would_show() -> None:
    values = beta(1.1, 1.1, uniform(20_000, seed=1)).numpy()
    assert stats.kstest(values, stats.beta(1, 1).cdf).pvalue < FINE


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])  # below, much of a sum rounds to 1
@pytest.mark.parametrize("width", [2, 3, 5])
def test_dirichlet_variates_are_dirichlet(alpha: float, width: int) -> None:
    weights = dirichlet(alpha, uniform(20_000, width - 1, seed=4))
    assert torch.allclose(weights.sum(-1), torch.ones(20_000, dtype=torch.float64))
    assert (weights >= 0).all()
    for i in range(width):
        marginal = stats.beta(alpha, alpha * (width - 1))
        assert stats.kstest(weights[:, i].numpy(), marginal.cdf).pvalue > FINE
    for i, j in itertools.combinations(range(width), 2) if width > 2 else ():
        pair = stats.beta(2 * alpha, alpha * (width - 2))
        together = (weights[:, i] + weights[:, j]).numpy()
        assert stats.kstest(together, pair.cdf).pvalue > FINE


def test_tiny_alphas_break_no_stick() -> None:
    weights = dirichlet(1e-4, uniform(2000, 2))
    assert weights.isfinite().all()
    assert torch.allclose(weights.sum(-1), torch.ones(2000, dtype=torch.float64))


def test_augmix_s_weights_and_blends_are_independent() -> None:
    draw = AugMix(SPACE).sample(torch.arange(10_000), rng(5))
    columns = torch.cat([draw.weights[..., :2].flatten(1), draw.blend], 1).T
    correlation = torch.corrcoef(columns)
    # Two weights of one mixture are bound by their sum: -1/(W - 1).
    for i, j in itertools.combinations(range(6), 2):
        expected = -0.5 if (i, j) in ((0, 1), (2, 3)) else 0.0
        assert abs(correlation[i, j] - expected) < 0.05
    assert stats.kstest(draw.blend.flatten().numpy(), "uniform").pvalue > FINE


# Densities


@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_mixing_s_density_integrates_to_one(
    kind: type[Mixup | CutMix], probability: float
) -> None:
    policy, count, cells = kind(2.0, 3, probability, per="image"), 4, 4000
    total = 0.0
    share = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    draw = policy.sample(torch.arange(count), rng(0))
    for gate in (False, True):
        values = torch.zeros(cells, dtype=torch.float64)
        for first in range(0, cells, count):
            one = type(draw)(
                draw.partner, share[first : first + count], torch.full((count,), gate), draw.place
            )
            values[first : first + count] = policy.log_prob(one).double().exp()
        # A closed gate says nothing of partner and λ; an open one sums over all partners.
        total += values.mean().item() * (count if gate else 1)
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_the_beta_density_is_scipy_s(alpha: float) -> None:
    at = torch.tensor([0.01, 0.3, 0.5, 0.99], dtype=torch.float64)
    expected = stats.beta(alpha, alpha).logpdf(at.numpy())
    assert beta_log_density(alpha, alpha, at).tolist() == pytest.approx(expected.tolist())


def test_the_ends_are_certain_of_a_finite_density() -> None:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert beta_log_density(1.0, 1.0, ends).tolist() == [0, 0]


@pytest.mark.parametrize("depth", [None, 2])
def test_chains_density_sums_to_one(depth: int | None) -> None:
    """By enumeration: every depth, operation and sign; a level's density times its range."""
    three = [SPACE.entries[SPACE.index(n)] for n in ("autocontrast", "rotate", "solarize")]
    policy = Chains(Space("s", tuple(three), 10, True, ""), 2.0, depth)
    slots = depth or 3
    one = policy.sample(torch.arange(1), rng(0))
    lengths = [depth] if depth else [1, 2, 3]
    rows = [(n, ops) for n in lengths for ops in itertools.product(range(3), repeat=n)]
    total = 0.0
    for length, ops in rows:
        op = torch.tensor([[*ops, *[0] * (slots - length)]])
        gate = torch.arange(slots)[None] < length
        density = policy.log_prob(type(one)(op, one.level, gate, one.sign, one.place))
        volume = math.prod((2.0 - LOWEST) if i > 0 else 1.0 for i in ops)
        signs = math.prod(2 if i == 1 else 1 for i in ops)
        total += density.double().exp().item() * volume * signs
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("alpha", [0.7, 1.0, 2.0])
def test_augmix_s_density_is_the_product_of_its_parts(alpha: float) -> None:
    policy = AugMix(SPACE, alpha=alpha)
    draw = policy.sample(torch.arange(4), rng(1))
    chains = policy.chains.log_prob(draw.chains).view(4, 6).sum(1).tolist()
    for row, value in enumerate(policy.log_prob(draw).tolist()):
        expected = chains[row]
        for view in range(2):
            weights = draw.weights[row, view].numpy()
            expected += stats.dirichlet([alpha] * 3).logpdf(weights / weights.sum())
            expected += stats.beta(alpha, alpha).logpdf(draw.blend[row, view].item())
        assert value == pytest.approx(expected, rel=1e-5)


# Pixels and targets


def photos(count: int, side: int, channels: int = 3) -> torch.Tensor:
    shape = (count, channels, side, side)
    return torch.randint(256, shape, generator=rng(6), dtype=torch.uint8)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Float64, so that only the mixing rounds."""
    mean = torch.tensor([0.49, 0.48, 0.45], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.25, 0.24, 0.26], dtype=torch.float64).view(3, 1, 1)
    return (images.double() / 255 - mean) / std


def test_mixup_of_raw_pixels_is_mixup_of_normalised_ones() -> None:
    images, policy = photos(6, 8), Mixup(1.0, 6, per="image")
    batch = Batch(images, torch.arange(6), torch.arange(6))
    draw = policy.sample(batch.index, rng(7))
    share, x = draw.share.view(-1, 1, 1, 1), normalised(images)
    expected = share * x + (1 - share) * x[draw.partner]
    found = normalised(policy.apply(batch, draw).images)
    assert (found - expected).abs().max() < 1e-5


def test_the_loss_of_mixed_targets_is_the_mixed_loss() -> None:
    policy, logits = Mixup(1.0, 5), torch.randn(8, 5, generator=rng(8), dtype=torch.float64)
    batch = Batch(photos(8, 4), torch.arange(8) % 5, torch.arange(8))
    draw = policy.sample(batch.index, rng(9))
    mixed = policy.apply(batch, draw)
    lam, other = draw.share[0].item(), batch.targets[draw.partner]
    expected = lam * F.cross_entropy(logits, batch.targets)
    expected += (1 - lam) * F.cross_entropy(logits, other)
    found = F.cross_entropy(logits, mixed.targets.double())
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def original_operation(image: Image.Image, label: str, level: float, minus: bool) -> Image.Image:
    """The original code's operations, with nearest resampling, on square images."""
    side, sign = image.size[0], -1 if minus else 1
    whole = {"posterize": 4, "rotate": 30, "solarize": 256}
    number = int(level * whole.get(label, side / 3) / 10)
    slope = sign * level * 0.3 / 10
    matrices = {
        "shear-x": (1, slope, 0, 0, 1, 0),
        "shear-y": (1, 0, 0, slope, 1, 0),
        "translate-x": (1, 0, sign * number, 0, 1, 0),
        "translate-y": (1, 0, 0, 0, 1, sign * number),
    }
    if label in matrices:
        return image.transform(image.size, Image.Transform.AFFINE, matrices[label])
    if label == "rotate":
        return image.rotate(sign * number)
    if label == "posterize":
        return ImageOps.posterize(image, 4 - number)
    if label == "solarize":
        return ImageOps.solarize(image, 256 - number)
    return {"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}[label](image)


def original_view(
    pixels: torch.Tensor, policy: AugMix, draw: AugMixDraw, row: int, view: int
) -> torch.Tensor:
    """The original code's `aug` on normalised pixels, the random numbers given; float64."""
    grey = len(pixels) == 1
    array = pixels[0].numpy() if grey else pixels.permute(1, 2, 0).numpy()
    mix = np.zeros(array.shape)
    for chain in range(policy.width):
        number = (row * policy.views + view) * policy.width + chain
        image = Image.fromarray(array)
        for slot in range(int(draw.chains.gate[number].sum())):
            label = SPACE.entries[draw.chains.op[number, slot]].label
            level = draw.chains.level[number, slot].item()
            image = original_operation(image, label, level, bool(draw.chains.sign[number, slot]))
        mix += draw.weights[row, view, chain].item() * (np.asarray(image) / 127.5 - 1)
    m = draw.blend[row, view].item()
    mixed = torch.from_numpy((1 - m) * (array / 127.5 - 1) + m * mix)
    return mixed[None] if grey else mixed.permute(2, 0, 1)


@pytest.mark.parametrize(
    ("side", "channels", "options"),
    [(32, 3, {}), (8, 1, {}), (32, 3, {"severity": 9.9, "depth": 4, "width": 2, "views": 3})],
    ids=["cifar", "digits", "severe"],
)
def test_augmix_is_the_original_with_nearest_resampling(
    side: int, channels: int, options: dict[str, float]
) -> None:
    count, policy = 24, AugMix(SPACE, **options)  # type: ignore[arg-type]
    images = photos(count, side, channels)
    batch = Batch(images, torch.zeros(count), torch.arange(count))
    draw = policy.sample(batch.index, rng(10))
    views = policy.apply(batch, draw).views
    for row, view in itertools.product(range(count), range(policy.views)):
        expected = original_view(images[row], policy, draw, row, view)
        found = views[view][row].double() / 127.5 - 1
        assert (found - expected).abs().max() < 1e-5


# The divergence


def entropy(p: torch.Tensor) -> torch.Tensor:
    return -torch.xlogy(p, p).sum(-1)


def test_equal_predictions_do_not_diverge() -> None:
    logits = torch.randn(1, 6, 10, generator=rng(11), dtype=torch.float64).expand(3, -1, -1)
    assert jensen_shannon(logits).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_disjoint_predictions_diverge_by_the_log_of_their_number(views: int) -> None:
    logits = 1e3 * torch.eye(views, dtype=torch.float64)[:, None].expand(-1, 4, -1)
    assert jensen_shannon(logits).item() == pytest.approx(math.log(views), rel=1e-12)


def test_two_coins() -> None:
    p, q = 0.2, 0.7
    logits = torch.tensor([[[p, 1 - p]], [[q, 1 - q]]], dtype=torch.float64).log()
    middle = (p + q) / 2
    coin = [-x * math.log(x) - (1 - x) * math.log(1 - x) for x in (middle, p, q)]
    assert jensen_shannon(logits).item() == pytest.approx(coin[0] - (coin[1] + coin[2]) / 2)


def test_it_is_the_entropy_of_the_mixture_less_the_mean_entropy() -> None:
    logits = 3 * torch.randn(3, 16, 10, generator=rng(12), dtype=torch.float64)
    p = logits.softmax(-1)
    expected = (entropy(p.mean(0)) - entropy(p).mean(0)).mean()
    assert jensen_shannon(logits).item() == pytest.approx(expected.item(), rel=1e-5)


def original_divergence(logits: torch.Tensor) -> torch.Tensor:
    """As in google-research/augmix, cifar.py."""
    views = logits.softmax(-1).unbind(0)
    mixture = torch.clamp(sum(views) / 3.0, 1e-7, 1).log()
    return sum(F.kl_div(mixture, p, reduction="batchmean") for p in views) / 3.0


@pytest.mark.parametrize("scale", [1.0, 8.0, 30.0])  # the last one clamps
def test_value_and_gradient_are_the_original_s(scale: float) -> None:
    logits = scale * torch.randn(3, 16, 10, generator=rng(13), dtype=torch.float64)
    logits.requires_grad_()
    found, expected = jensen_shannon(logits), original_divergence(logits)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-15)


def test_the_gradient_is_the_finite_difference() -> None:
    logits = torch.randn(3, 4, 5, generator=rng(14), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(jensen_shannon, logits)


def test_the_gradient_is_finite_where_a_softmax_underflows() -> None:
    logits = torch.tensor([[[0.0, 200.0]], [[0.0, -200.0]], [[0.0, 0.0]]], requires_grad=True)
    jensen_shannon(logits).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    again = logits.detach().requires_grad_()
    original_divergence(again).backward()
    assert again.grad is not None
    assert not again.grad.isfinite().all(), "which is why it is not written with F.kl_div"
