"""AutoDO's warps against explicit 3×3 matrices and torch's `grid_sample`, and their gradients."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from bench.augment import per_point
from bench.augment.per_point import BEYOND, WARPS, Noise, PerPoint, View, blurred
from bench.augment.sampler import warp
from tests.numeric.small_policies import numbers

Tensor = torch.Tensor
VIEWS: tuple[View, ...] = ("direct", "upsampled", "released")
# Degrees, shares of the side, slopes, factors - 1: AutoDO, section 5.1, and its code.
RANGES = {"rotate": 30, "translate": 0.45, "shear": 0.3, "scale": 0.5}
SIDE = 12


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(count: int, channels: int = 2, side: int = SIDE, seed: int = 0) -> Tensor:
    """Waves of random length, direction and phase, float64 within 0..255."""
    parts = torch.rand(3, count, channels, 4, 1, 1, generator=rng(seed), dtype=torch.float64)
    along = torch.arange(side, dtype=torch.float64) / side
    phase = 5 * (parts[0] * along + parts[1] * along[:, None]) + 2 * math.pi * parts[2]
    return 127.5 + 30 * phase.sin().sum(2)


def setting(count: int = 9, side: int = SIDE) -> tuple[Tensor, Noise, Tensor, Tensor]:
    """Smooth images, a draw, and logits of gates and magnitudes of each image; float64."""
    draw = PerPoint().sample(torch.arange(count), rng())
    return smooth(count, side=side), draw, numbers(count, 7, seed=1), numbers(count, 7, seed=2)


def levels_of(draw: Noise, gates: Tensor, magnitudes: Tensor, spread: str, hard: bool) -> Tensor:
    score = gates + draw.gate.double()
    gate = (score > 0).double() if hard else torch.sigmoid(score)
    share = torch.sigmoid(magnitudes)
    return gate * draw.size.double() * (0.5 * share.sqrt() if spread == "variance" else share)


# The reference: S·T·R of matrices from the input to the output, pixel coordinates, grid_sample


def square(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def forward_matrix(levels: Tensor, side: int, pivot: float) -> Tensor:
    """From input to output pixels, (B, 3, 3); shifts are shares of `side`."""
    zero, one = torch.zeros_like(levels[:, 0]), torch.ones_like(levels[:, 0])
    turn = torch.deg2rad(RANGES["rotate"] * levels[:, 0])
    x, y = (RANGES["translate"] * side * levels[:, i] for i in (1, 2))
    a, b = (RANGES["shear"] * levels[:, i] for i in (3, 4))
    wide, tall = (1 + RANGES["scale"] * levels[:, i].clamp_min(-1.8) for i in (5, 6))
    cosine, sine = turn.cos(), turn.sin()
    scaling = square([[wide, zero, zero], [zero, tall, zero], [zero, zero, one]])
    turning = square([[cosine, sine, zero], [-sine, cosine, zero], [zero, zero, one]])
    shift = square([[one, zero, -x], [zero, one, -y], [zero, zero, one]])
    shear = square([[one, -a, zero], [-b, one, zero], [zero, zero, one]])
    there = square([[one, zero, one * pivot], [zero, one, one * pivot], [zero, zero, one]])
    return there @ shear @ shift @ turning @ scaling @ torch.linalg.inv(there)


def sampled(images: Tensor, matrix: Tensor) -> Tensor:
    """Images warped by matrices from input to output pixels."""
    side = images.shape[-1]
    along = torch.arange(side, dtype=torch.float64)
    y, x = torch.meshgrid(along, along, indexing="ij")
    place = torch.stack([x, y, torch.ones_like(x)], -1)
    source = torch.einsum("bij,hwj->bhwi", torch.linalg.inv(matrix), place)[..., :2]
    grid = (2 * source + 1) / side - 1
    return F.grid_sample(images, grid, "bilinear", "border", align_corners=False)


def resized(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def direct(images: Tensor, levels: Tensor) -> Tensor:
    side = images.shape[-1]
    return sampled(images, forward_matrix(levels, side, (side - 1) / 2))


def upsampled(images: Tensor, levels: Tensor) -> Tensor:
    side = images.shape[-1]
    matrix = forward_matrix(levels, 4 * side, (4 * side - 1) / 2)
    return resized(sampled(resized(images, 4 * side), matrix), side)


def released(images: Tensor, levels: Tensor) -> Tensor:
    """The code's: shifts and pivot of the small image, in pixels of the large one."""
    side = images.shape[-1]
    matrix = forward_matrix(levels, side, side / 2)
    return resized(sampled(resized(images, 4 * side), matrix), side)


REFERENCES: dict[View, Callable[[Tensor, Tensor], Tensor]] = {
    "direct": direct,
    "upsampled": upsampled,
    "released": released,
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("spread", ["variance", "deviation"])
@pytest.mark.parametrize("hard", [True, False])
def test_images_equal_grid_samples(view: View, spread: str, hard: bool) -> None:
    images, draw, gates, magnitudes = setting(40)
    policy = PerPoint(40, spread=spread, view=view)  # type: ignore[arg-type]
    levels = levels_of(draw, gates, magnitudes, spread, hard)
    found = policy.warped(images, draw, gates, magnitudes, hard=hard)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, REFERENCES[view](images, levels), rtol=0, atol=1e-9)
    torch.testing.assert_close(policy.levels(draw, gates, magnitudes, hard), levels)


@pytest.mark.parametrize("view", VIEWS)
def test_a_shared_row_and_single_precision(view: View) -> None:
    images, draw, gates, magnitudes = setting(40)
    policy = PerPoint(gates=gates[:1], magnitudes=magnitudes[:1], view=view)
    levels = levels_of(draw, policy.gates.double(), policy.magnitudes.double(), "variance", True)
    found = policy.warped(images, draw, *policy.rows(draw.index))
    assert found.dtype == torch.float32
    expected = REFERENCES[view](images, levels)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-3)


def test_rough_images_of_an_odd_side() -> None:
    _, draw, gates, magnitudes = setting(40)
    images = 255 * torch.rand(40, 3, 17, 17, generator=rng(3), dtype=torch.float64)
    levels = levels_of(draw, gates, magnitudes, "variance", True)
    found = PerPoint(40).warped(images, draw, gates, magnitudes)
    torch.testing.assert_close(found, direct(images, levels), rtol=0, atol=1e-9)


# No warp


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [1, 8, 9, 32])
def test_closed_gates_leave_every_bit(dtype: torch.dtype, side: int) -> None:
    images = 255 * torch.rand(5, 3, side, side, generator=rng(), dtype=dtype)
    draw = PerPoint().sample(torch.arange(5), rng())
    shut = torch.full((1, 7), -80.0, dtype=dtype)
    found = PerPoint().warped(images, draw, shut, torch.zeros_like(shut))
    assert torch.equal(found, images)
    assert blurred(images, "direct") is images


@pytest.mark.parametrize("view", ["upsampled", "released"])
@pytest.mark.parametrize("side", [8, 9, 32])
def test_closed_gates_blur_a_view_of_larger_images(view: View, side: int) -> None:
    images = 255 * torch.rand(5, 3, side, side, generator=rng())
    draw = PerPoint().sample(torch.arange(5), rng())
    shut = torch.full((1, 7), -80.0)
    found = PerPoint(view=view).warped(images, draw, shut, torch.zeros_like(shut))
    assert torch.equal(found, resized(resized(images, 4 * side), side))
    assert torch.equal(found, blurred(images, view))
    away = (found - images).norm() / (images - 127.5).norm()
    assert 0.2 < away < 0.35  # a quarter of white noise is lost


# The released code's geometry


def measured(view: View, *wanted: tuple[str, float], side: int = 32) -> tuple[float, float]:
    """How far a centred blob moves, in pixels to the right and down, when levels are set."""
    gates, size = torch.full((1, 7), -80.0, dtype=torch.float64), torch.zeros(1, 7)
    for name, level in wanted:
        gates[0, WARPS.index(name)], size[0, WARPS.index(name)] = 80.0, level
    policy = PerPoint(spread="deviation", view=view)  # σ(80) = 1: sizes are levels
    along = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    blob = torch.exp(-(along**2 + along[:, None] ** 2) / 8)[None, None]
    draw = Noise(torch.zeros(1, 7), size, torch.zeros(1, dtype=torch.int64))
    mass = policy.warped(blob, draw, gates, torch.full_like(gates, 80.0))[0, 0]
    return float((mass.sum(0) * along).sum() / mass.sum()), float(
        (mass.sum(1) * along).sum() / mass.sum()
    )


@pytest.mark.parametrize(
    ("wanted", "drift"),
    [
        ([("rotate", 0.5)], 4.4),  # 15 degrees
        ([("scale-x", 0.5), ("scale-y", 0.5)], 4.2),  # a factor of 1.25
    ],
)
def test_turns_and_scales_about_another_point_drift(
    wanted: list[tuple[str, float]], drift: float
) -> None:
    assert math.hypot(*measured("released", *wanted)) == pytest.approx(drift, abs=0.05)
    for view in ("direct", "upsampled"):
        assert math.hypot(*measured(view, *wanted)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("name", "axis"), [("translate-x", 0), ("translate-y", 1)])
@pytest.mark.parametrize("level", [0.5, -0.5])
def test_shifts_of_the_released_code_are_a_quarter(name: str, axis: int, level: float) -> None:
    for view, pixels in (("direct", 7.2), ("upsampled", 7.2), ("released", 1.8)):
        moved = measured(view, (name, level))  # type: ignore[arg-type]
        assert moved[axis] == pytest.approx(-2 * level * pixels, abs=0.02)
        assert moved[1 - axis] == pytest.approx(0, abs=1e-6)


def test_sides_of_images_do_not_matter() -> None:
    for side in (16, 32, 64):
        moved = measured("direct", ("translate-x", 0.25), side=side)
        assert moved[0] == pytest.approx(-0.25 * 0.45 * side, abs=0.05)


# Gradients


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("spread", ["variance", "deviation"])
def test_gradients_equal_finite_differences(view: View, spread: str) -> None:
    images, draw, gates, magnitudes = setting(3)
    policy = PerPoint(3, spread=spread, view=view)  # type: ignore[arg-type]
    weight = smooth(3, seed=9) - 127.5

    def value(gates: Tensor, magnitudes: Tensor) -> Tensor:
        return (weight * policy.warped(images, draw, gates, magnitudes, hard=False)).sum()

    leaves = [gates.requires_grad_(), magnitudes.requires_grad_()]
    found = torch.autograd.grad(value(*leaves), leaves)
    step = 1e-6
    with torch.no_grad():
        for leaf, gradient in zip(leaves, found, strict=True):
            expected = torch.zeros_like(leaf)
            for at in range(leaf.numel()):
                ends = []
                for side in (step, -step):
                    leaf.view(-1)[at] += side
                    ends.append(value(*leaves))
                    leaf.view(-1)[at] -= side
                expected.view(-1)[at] = (ends[0] - ends[1]) / (2 * step)
            assert expected.abs().min() > 0
            size = float(expected.abs().max())
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6 * size)


@pytest.mark.parametrize("view", VIEWS)
def test_gradients_equal_grid_samples(view: View) -> None:
    images, draw, gates, magnitudes = setting(20)
    leaves = [gates.requires_grad_(), magnitudes.requires_grad_()]
    weight = smooth(20, seed=9) - 127.5
    levels = levels_of(draw, *leaves, "variance", hard=False)
    expected = torch.autograd.grad((weight * REFERENCES[view](images, levels)).sum(), leaves)
    made = PerPoint(20, view=view).warped(images, draw, *leaves, hard=False)
    found = torch.autograd.grad((weight * made).sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8 * float(other.abs().max()))


@pytest.mark.parametrize("view", VIEWS)
def test_hard_gates_have_the_derivative_of_soft_ones(view: View) -> None:
    """The values of open and closed gates; ∂image/∂level there, times ∂level/∂logit if soft."""
    # Derivatives jump at whole coordinates: all images are turned, and no pivot is a pixel.
    side = SIDE + 1 if view == "released" else SIDE
    images, draw, gates, magnitudes = setting(20, side)
    gates[:, 0] = 80.0
    leaves = [gates.requires_grad_(), magnitudes.requires_grad_()]
    weight = smooth(20, side=side, seed=9) - 127.5
    with torch.no_grad():
        levels = levels_of(draw, *leaves, "variance", hard=True)
    assert (levels == 0).any()
    levels.requires_grad_()
    reference = REFERENCES[view](images, levels)
    (slope,) = torch.autograd.grad((weight * reference).sum(), levels)
    soft = levels_of(draw, *leaves, "variance", hard=False)
    (by_gate,) = torch.autograd.grad(soft, leaves[0], slope, retain_graph=True)
    hard = levels_of(draw, *leaves, "variance", hard=True)
    (by_magnitude,) = torch.autograd.grad(hard, leaves[1], slope)

    made = PerPoint(20, view=view).warped(images, draw, *leaves)
    torch.testing.assert_close(made.detach(), reference.detach(), rtol=0, atol=1e-9)
    found = torch.autograd.grad((weight * made).sum(), leaves)
    for one, other in zip(found, (by_gate, by_magnitude), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8 * float(other.abs().max()))


def test_pixels_have_gradients_too() -> None:
    images, draw, gates, magnitudes = setting(4)
    policy = PerPoint(4, view="upsampled")
    assert torch.autograd.gradcheck(
        lambda pixels: policy.warped(pixels, draw, gates, magnitudes),
        [images[:, :1, :5, :5].clone().requires_grad_()],
    )


# Extremes


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("spread", ["variance", "deviation"])
@pytest.mark.parametrize("hard", [True, False])
def test_extreme_logits_stay_finite(view: View, spread: str, hard: bool) -> None:
    policy = PerPoint(spread=spread, view=view)  # type: ignore[arg-type]
    draw = policy.sample(torch.arange(30), rng())
    images = smooth(30).float()
    for gate in (-80.0, 80.0):
        for magnitude in (-80.0, 80.0):
            leaves = [torch.full((1, 7), v, requires_grad=True) for v in (gate, magnitude)]
            made = policy.warped(images, draw, *leaves, hard=hard)
            assert ((made >= 0) & (made <= 255)).all()
            for gradient in torch.autograd.grad(made.square().sum(), leaves):
                assert gradient.isfinite().all()
    policy.gates[:], policy.magnitudes[:] = 80.0, -80.0
    assert policy.log_prob(draw).isfinite().all()


@pytest.mark.parametrize("view", VIEWS)
def test_warps_never_fold_or_mirror_an_image(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is drawn, the map from output to input keeps its orientation."""
    matrices: list[Tensor] = []

    def seen(images: Tensor, matrix: Tensor, padding: str) -> Tensor:
        matrices.append(matrix)
        return warp(images, matrix, padding)  # type: ignore[arg-type]

    monkeypatch.setattr(per_point, "warp", seen)
    policy = PerPoint(gates=80.0, magnitudes=80.0, spread="deviation", view=view)
    draw = policy.sample(torch.arange(20_000), rng(1))
    corner = torch.tensor([-BEYOND, BEYOND])
    draw.size[:128] = torch.cartesian_prod(*[corner] * 7)
    images = torch.zeros(20_000, 1, 2, 2, dtype=torch.float64)
    policy.warped(images, draw, policy.gates.double(), policy.magnitudes.double())
    (matrix,) = matrices
    area = torch.linalg.det(matrix[:, :, :2])
    # From shears that cancel and scales of 2.5 both, to shears that add up and scales of 0.1.
    assert float(area.min()) == pytest.approx(1 / (1 + 0.9**2) / 2.5**2)
    assert float(area.max()) == pytest.approx(1 / (1 - 0.9**2) / 0.1**2)
