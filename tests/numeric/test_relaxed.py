"""The differentiable twins against finite differences, `grid_sample` and the exact engine."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torch.nn import functional as F

from bench.augment.engine import Fill, Program, execute
from bench.augment.operations import INDEX, OPERATIONS
from bench.augment.relaxed import (
    TWINS,
    Surround,
    apply,
    logistic,
    luma,
    mix,
    relaxed_gate,
)
from bench.augment.sampler import (
    Padding,
    affine_matrix,
    compose,
    operation_matrix,
    positions,
    sample_bilinear,
    warp,
)

Tensor = torch.Tensor
WARPS = [name for name, twin in TWINS.items() if twin.tolerance is None]
SMOOTH = [name for name, twin in TWINS.items() if twin.magnitude == "gradient"]
CONSTANT = [name for name, twin in TWINS.items() if twin.magnitude == "constant"]
EXACT = [name for name, twin in TWINS.items() if twin.pixels == "exact"]
# Strong enough to matter; no coordinate is whole, no value is clipped, no value crosses 128.
STRENGTH = {"translate-x": 1.3, "translate-y": -1.7, "rotate": 17.0, "solarize-add": 7.3}
FILL = Fill((20, 60, 90), (7, 8, 9))
paddings = pytest.mark.parametrize("padding", ["fill", "border"])


def noise(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=rng, dtype=torch.float64)


PLACES = noise(300, 2, seed=5)


def wavy(count: int, channels: int, height: int, width: int) -> Tensor:
    """Smooth images of values 60..120, all different, float64."""
    y = torch.linspace(0, 1, height, dtype=torch.float64).view(-1, 1)
    x = torch.linspace(0, 1, width, dtype=torch.float64)
    phase = noise(count, channels, 1, 1) * 6
    return 90 + 15 * torch.sin(3 * x + 2 * y + phase) + 15 * torch.cos(4 * y - x + 2 * phase)


def strength(name: str, count: int) -> Tensor:
    """Magnitudes of both signs (but those of one sign), all different."""
    spread = 1 + 0.1 * torch.arange(count, dtype=torch.float64)
    signs = 1.0 if name == "solarize-add" else (-1.0) ** torch.arange(count)
    return STRENGTH.get(name, 0.23) * spread * signs


def surround(count: int, padding: Padding = "fill", fill: Fill = FILL) -> Surround:
    return Surround(PLACES[:count], fill, padding)


def twin_of(name: str, padding: Padding = "fill") -> Callable[[Tensor, Tensor], Tensor]:
    def run(images: Tensor, magnitude: Tensor) -> Tensor:
        wanted = None if TWINS[name].magnitude == "none" else magnitude
        return apply(images, name, wanted, surround=surround(len(images), padding))

    return run


def by_engine(images: Tensor, name: str, magnitude: Tensor, around: Surround) -> Tensor:
    operation = torch.full((len(images), 1), INDEX[name])
    assert around.place is not None
    program = Program(operation, magnitude[:, None], around.place[:, None].contiguous())
    return execute(images, program, around.fill).double()


# The sampler


def coordinates(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Columns and rows (count, 3, 5) in and around images of 4×6, none near a whole number."""
    whole = torch.floor(noise(2, count, 3, 5, seed=seed) * 11 - 3)
    x, y = whole + 0.1 + 0.8 * noise(2, count, 3, 5, seed=seed + 1)
    return x, y


@paddings
def test_the_sampler_s_derivatives(padding: Padding) -> None:
    images, (x, y) = wavy(2, 2, 4, 6), coordinates(2)
    inputs = tuple(tensor.requires_grad_() for tensor in (images, x, y))

    def run(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return sample_bilinear(images, x, y, padding, (10.0, 20.0))

    assert gradcheck(
        run, inputs, check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip
    assert gradgradcheck(
        run, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True
    )


@pytest.mark.parametrize(("padding", "theirs"), [("fill", "zeros"), ("border", "border")])
@pytest.mark.parametrize("shape", [(4, 6), (1, 5), (5, 1), (1, 1)])
def test_the_sampler_is_grid_sample(padding: Padding, theirs: str, shape: tuple[int, int]) -> None:
    height, width = shape
    images, (x, y) = wavy(3, 3, height, width).requires_grad_(), coordinates(3, 7)
    x, y = x.requires_grad_(), y.requires_grad_()
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], 3)
    expected = F.grid_sample(images, grid, "bilinear", theirs, align_corners=False)
    found = sample_bilinear(images, x, y, padding)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)
    weights = noise(*found.shape)
    ours = torch.autograd.grad((weights * found).sum(), (images, x, y))
    others = torch.autograd.grad((weights * expected).sum(), (images, x, y))
    for one, other in zip(ours, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-9)


@paddings
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_coordinates_beyond_all_bounds_end_nothing(padding: Padding, value: float) -> None:
    images = wavy(1, 1, 4, 6)
    x = torch.full((1, 1, 1), value, dtype=torch.float64)
    found = sample_bilinear(images, x, torch.zeros_like(x), padding, (7.0,)).item()
    edge = images[0, 0, 0, -1 if value > 0 else 0].item()
    if math.isnan(value):
        assert math.isnan(found)
    else:
        assert found == (7.0 if padding == "fill" else edge)


def test_rows_and_columns_broadcast() -> None:
    images, (x, y) = wavy(2, 1, 4, 6), coordinates(2)
    x, y = x[:, :1], y[:, :, :1]
    whole = sample_bilinear(images, x.expand(2, 3, 5), y.expand(2, 3, 5))
    assert torch.equal(sample_bilinear(images, x, y), whole)


# Matrices


def test_the_matrices_derivatives() -> None:
    inputs = [(noise(2, seed=i) - 0.5).requires_grad_() for i in range(7)]
    assert gradcheck(affine_matrix, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(affine_matrix, inputs, check_fwd_over_rev=True)
    matrices = [noise(2, 2, 3, seed=i).requires_grad_() for i in range(2)]
    assert gradcheck(compose, matrices, check_forward_ad=True)


def square(rows: Tensor) -> Tensor:
    """(B, 2, 3) as (B, 3, 3)."""
    last = torch.tensor([0.0, 0.0, 1.0], dtype=rows.dtype).expand(len(rows), 1, 3)
    return torch.cat([rows, last], 1)


def test_the_fused_matrix_is_autodo_s() -> None:
    """M = S·T·R maps input to output there; x to the right, y down, angles counter-clockwise."""
    angle, x, y, a, b, wide, tall = (noise(9, seed=i) - 0.5 for i in range(7))
    angle = 360 * angle
    found = affine_matrix(angle, x, y, a, b, wide, tall)
    radians, zero, one = torch.deg2rad(angle), torch.zeros(9), torch.ones(9)
    cosine, sine = radians.cos(), radians.sin()

    def matrix(*numbers: Tensor) -> Tensor:
        return torch.stack([n.double() for n in numbers], 1).view(-1, 3, 3)

    scale = matrix(1 + wide, zero, zero, zero, 1 + tall, zero, zero, zero, one)
    turn = matrix(cosine, sine, zero, -sine, cosine, zero, zero, zero, one)
    shift = matrix(one, zero, -x, zero, one, -y, zero, zero, one)
    shear = matrix(one, -a, zero, -b, one, zero, zero, zero, one)
    product = square(found) @ (shear @ shift @ turn @ scale)
    torch.testing.assert_close(product, torch.eye(3).double().expand(9, 3, 3))


def test_the_fused_matrix_composes_single_ones() -> None:
    values = {
        "rotate": 50 * noise(4),
        "translate-x": noise(4, seed=1),
        "translate-y": noise(4, seed=2),
        "shear-x": noise(4, seed=3),
        "scale-x": noise(4, seed=5),
        "scale-y": noise(4, seed=6),
    }
    zero = torch.zeros(4, dtype=torch.float64)
    # Height 0 puts the pivot of the single shear on the centre.
    single = {name: operation_matrix(name, value, 0, 0) for name, value in values.items()}
    expected = single["scale-x"]
    for name in ("scale-y", "rotate", "translate-x", "translate-y", "shear-x"):
        expected = compose(expected, single[name])
    found = affine_matrix(
        *(values[name] for name in ("rotate", "translate-x", "translate-y", "shear-x")),
        *(zero, values["scale-x"], values["scale-y"]),
    )
    torch.testing.assert_close(found, expected)


def test_composition_is_that_of_maps() -> None:
    first, second = noise(3, 2, 3), noise(3, 2, 3, seed=1)
    torch.testing.assert_close(square(compose(first, second)), square(first) @ square(second))


def test_a_composed_warp_is_two_warps_where_neither_interpolates() -> None:
    images = wavy(1, 3, 8, 8)
    turn = operation_matrix("rotate", torch.tensor([90.0]).double(), 8, 8)
    shift = operation_matrix("translate-x", torch.tensor([2.0]).double(), 8, 8)
    twice = warp(warp(images, turn), shift)
    assert torch.equal(warp(images, compose(turn, shift)), twice)
    assert not torch.equal(warp(images, compose(shift, turn)), twice)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_right_angles_are_exact(dtype: torch.dtype) -> None:
    quarters = torch.arange(-9, 10)
    matrix = operation_matrix("rotate", 90.0 * quarters.to(dtype), 5, 5)
    cosine = torch.tensor([1.0, 0.0, -1.0, 0.0], dtype=dtype)[quarters % 4]
    sine = torch.tensor([0.0, 1.0, 0.0, -1.0], dtype=dtype)[quarters % 4]
    expected = torch.stack([cosine, -sine, 0 * sine, sine, cosine, 0 * sine], 1).view(-1, 2, 3)
    assert torch.equal(matrix, expected)


def test_turns_are_sine_and_cosine() -> None:
    degrees = torch.linspace(-720, 720, 1001, dtype=torch.float64)
    matrix = operation_matrix("rotate", degrees, 5, 5)
    torch.testing.assert_close(matrix[:, 0, 0], torch.deg2rad(degrees).cos())
    torch.testing.assert_close(matrix[:, 1, 0], torch.deg2rad(degrees).sin())


def test_an_unknown_warp() -> None:
    with pytest.raises(KeyError, match="brightness is not a warp"):
        operation_matrix("brightness", torch.zeros(1), 4, 4)


# Derivatives of the twins


def test_no_test_magnitude_lies_on_a_kink() -> None:
    for name in WARPS:
        for size in ((5, 6), (8, 8)):
            less, more = (
                torch.cat(
                    positions(operation_matrix(name, strength(name, 3) + step, *size), *size)
                )
                for step in (-1e-4, 1e-4)
            )
            assert torch.equal(less.floor(), more.floor())
            assert not torch.equal(less, more)
    for name in set(SMOOTH) - set(WARPS):
        out = twin_of(name)(wavy(3, 3, 8, 8), strength(name, 3))
        assert out.min() > 1
        assert out.max() < 254


@paddings
@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_to_the_magnitude(name: str, padding: Padding) -> None:
    images, magnitude = wavy(2, 3, 5, 6), strength(name, 2).requires_grad_()

    def run(magnitude: Tensor) -> Tensor:
        return twin_of(name, padding)(images, magnitude)

    assert gradcheck(
        run, magnitude, check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip
    assert gradgradcheck(run, magnitude, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", EXACT)
def test_derivatives_to_the_pixels(name: str, channels: int) -> None:
    images, magnitude = wavy(1, channels, 5, 6).requires_grad_(), strength(name, 1)
    magnitude = {"solarize": torch.tensor([166.0]), "cutout": torch.tensor([2.0])}.get(
        name, magnitude
    )

    def run(images: Tensor) -> Tensor:
        fill = FILL if channels == 3 else Fill()
        wanted = None if TWINS[name].magnitude == "none" else magnitude
        return apply(images, name, wanted, surround=surround(1, "fill", fill))

    assert gradcheck(run, images, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert gradgradcheck(run, images, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("name", sorted(set(TWINS) - set(EXACT)))
def test_straight_through_pixels(name: str) -> None:
    images = wavy(2, 3, 5, 6)
    tangent = noise(*images.shape)
    magnitude = torch.tensor([2.0, 8.0]).double()
    _, found = jvp(lambda images: twin_of(name)(images, magnitude), (images,), (tangent,))
    assert torch.equal(found[0], tangent[0])
    black = name == "posterize"  # with no bit left
    assert torch.equal(found[1], torch.zeros_like(tangent[1]) if black else tangent[1])


def test_autocontrast_of_a_channel_of_one_value_passes_derivatives() -> None:
    images = wavy(1, 3, 5, 6)
    images[:, 1] = 70
    slope = torch.autograd.functional.jacobian(lambda x: apply(x, "autocontrast")[0, 1], images)
    assert torch.equal(slope[:, :, 0, 1].reshape(30, 30), torch.eye(30).double())
    assert not slope[:, :, 0, (0, 2)].any()


@paddings
@pytest.mark.parametrize("name", SMOOTH)
def test_tangents_are_finite_differences_and_vmap_over_them(name: str, padding: Padding) -> None:
    images, magnitude = wavy(3, 3, 8, 8), strength(name, 3)
    tangents = noise(5, 3) - 0.5

    def run(magnitude: Tensor) -> Tensor:
        return twin_of(name, padding)(images, magnitude) / 255

    def column(tangent: Tensor) -> Tensor:
        return jvp(run, (magnitude,), (tangent,))[1]

    step = 1e-6
    together = vmap(column)(tangents)
    for tangent, found in zip(tangents, together, strict=True):
        torch.testing.assert_close(column(tangent), found, rtol=1e-14, atol=1e-15)
        ahead, behind = run(magnitude + step * tangent), run(magnitude - step * tangent)
        torch.testing.assert_close(found, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)
        with forward_ad.dual_level():
            dual = run(forward_ad.make_dual(magnitude, tangent))
            torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, found)
    torch.testing.assert_close(jacfwd(run)(magnitude), jacrev(run)(magnitude))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SMOOTH)
def test_the_derivative_at_zero_is_finite_and_not_zero(name: str, dtype: torch.dtype) -> None:
    magnitude = torch.zeros(3, dtype=dtype, requires_grad=True)
    images = wavy(3, 3, 8, 8).to(dtype)
    out = twin_of(name)(images, magnitude)
    weights = noise(*out.shape).to(dtype)
    (slope,) = torch.autograd.grad((weights * out).sum(), magnitude)
    assert slope.isfinite().all()
    assert (slope.abs() > 1e-3).all()
    step = 1e-4 if dtype == torch.float64 else 1e-2  # to the right, where the kink's slope is
    beyond = twin_of(name)(images, torch.full_like(magnitude, step)) - images
    secant = (weights * beyond).sum((1, 2, 3)) / step
    rotated = name in ("rotate", "scale-x", "scale-y")  # these move pixels to either side
    if not rotated:
        torch.testing.assert_close(slope, secant, rtol=2e-2, atol=1e-2)


# In a chain, as the methods use them


def chain(parameters: Tensor, draws: Tensor, images: Tensor) -> Tensor:
    """Rotation, translation, brightness and contrast with soft gates; 8 shared parameters."""
    out = images
    for i, (name, reach) in enumerate(
        {"rotate": 30.0, "translate-x": 3.0, "brightness": 0.5, "contrast": 0.5}.items()
    ):
        magnitude = reach * torch.sigmoid(parameters[i]) * draws[i]
        gate = relaxed_gate(parameters[4 + i].expand(len(images)), draws[4 + i], 0.5, hard=False)
        out = apply(out, name, magnitude, gate)
    return out


def loss(weights: Tensor, parameters: Tensor, draws: Tensor, images: Tensor) -> Tensor:
    """A small smooth network on augmented images."""
    inputs = chain(parameters, draws, images).flatten(1) / 255 - 0.4
    return torch.log_softmax(F.softplus(inputs @ weights), 1)[:, 0].square().mean()


def test_forward_over_reverse_through_a_chain() -> None:
    """FDS: the tangent of the weights' gradient along (weights, parameters), many at once."""
    images, draws = wavy(6, 3, 6, 6), noise(8, 6) - 0.3
    weights, parameters = noise(108, 4) - 0.5, noise(8, seed=3) - 0.5
    along_weights, along = noise(5, 108, 4, seed=4) - 0.5, noise(5, 8, seed=5) - 0.5

    def slope(weights: Tensor, parameters: Tensor) -> Tensor:
        return grad(loss)(weights, parameters, draws, images)

    def column(one: Tensor, other: Tensor) -> Tensor:
        return jvp(slope, (weights, parameters), (one, other))[1]

    found = vmap(column)(along_weights, along)
    step = 1e-6
    for one, other, tangent in zip(along_weights, along, found, strict=True):
        ahead = slope(weights + step * one, parameters + step * other)
        behind = slope(weights - step * one, parameters - step * other)
        torch.testing.assert_close(tangent, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


def test_reverse_over_reverse_through_a_chain() -> None:
    """AutoDO: the derivative of ⟨∂L/∂weights, u⟩ with respect to the parameters."""
    images, draws, u = wavy(6, 3, 6, 6), noise(8, 6) - 0.3, noise(108, 4, seed=9)
    weights = (noise(108, 4) - 0.5).requires_grad_()
    parameters = (noise(8, seed=3) - 0.5).requires_grad_()

    def inner(parameters: Tensor) -> Tensor:
        value = loss(weights, parameters, draws, images)
        return (torch.autograd.grad(value, weights, create_graph=True)[0] * u).sum()

    assert gradcheck(inner, parameters)


def test_gates_multiply_the_magnitudes_of_a_fused_warp() -> None:
    """AutoDO: closed gates leave the image alone, and derivatives reach gates and magnitudes."""
    images = wavy(2, 3, 8, 8)
    reach = torch.tensor([30.0, 3.6, 3.6, 0.3, 0.3, 0.5, 0.5]).double()[:, None]
    magnitude, logit = (noise(7, 2) - 0.5).requires_grad_(), noise(7, 2).requires_grad_()

    def run(magnitude: Tensor, logit: Tensor, draw: Tensor, hard: bool) -> Tensor:
        gates = relaxed_gate(logit, draw, hard=hard)
        return warp(images, affine_matrix(*(gates * magnitude * reach)), "border")

    closed = torch.full((7, 2), -50.0).double()
    assert torch.equal(run(magnitude, logit, closed, True), images)
    draw = logistic(noise(7, 2, seed=4))
    assert gradcheck(lambda m, p: run(m, p, draw, False), (magnitude, logit))
    hard = run(magnitude, logit, draw, True).square().sum()
    slopes = torch.autograd.grad(hard, (magnitude, logit))
    opened = (logit + draw > 0).double()
    assert torch.equal(slopes[0] != 0, opened == 1)
    assert slopes[1].isfinite().all()
    assert (slopes[1] != 0).all()


# Against the engine


def pictures(count: int, channels: int) -> Tensor:
    """Whole numbers, uint8: noise, saturated, dark, narrow, constant and smooth images, 16×16."""
    rng = torch.Generator().manual_seed(1)
    shape = (count, channels, 16, 16)
    found = torch.randint(256, shape, generator=rng, dtype=torch.uint8)
    found[1::6] = found[1::6].clamp(200, 255)
    found[2::6] //= 5
    found[3::6] = found[3::6] % 8 + 120
    found[4::6] = found[4::6, :, :1, :1]
    found[5::6] = (wavy(count, channels, 16, 16)[5::6] * 2 - 80).round().to(torch.uint8)
    return found


def magnitudes(name: str, count: int) -> Tensor:
    operation = OPERATIONS[INDEX[name]]
    low, high = (-1.0, 3.0) if operation.low == -100 else (operation.low, operation.high)
    if name == "cutout":
        high = 20
    whole = noise(count, seed=2) * (high - low) + low
    if name in ("solarize-add", "brightness", "contrast", "color", "sharpness"):
        return whole
    return torch.where(torch.arange(count) % 2 == 0, whole, whole.round())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name in INDEX if name not in WARPS])
def test_the_twin_is_the_engine_s_within_its_tolerance(
    name: str, dtype: torch.dtype, channels: int
) -> None:
    count = 240
    images, magnitude = pictures(count, channels), magnitudes(name, count)
    around = surround(count, "fill", FILL if channels == 3 else Fill((9,), (4,)))
    expected = by_engine(images, name, magnitude, around)
    wanted = None if TWINS[name].magnitude == "none" else magnitude
    found = apply(images.to(dtype), name, wanted, surround=around)
    assert found.dtype == dtype
    tolerance = TWINS[name].tolerance
    assert tolerance is not None
    allowed = tolerance[0] + tolerance[1] * magnitude.abs().view(-1, 1, 1, 1)
    rounding = 0.0 if tolerance == (0.0, 0.0) else 2e-4
    off = (found.double() - expected).abs()
    assert (off <= allowed + rounding).all(), off.max()


def test_which_operations_have_twins() -> None:
    assert set(TWINS) == {*INDEX, "scale-x", "scale-y"}
    for name, number in INDEX.items():
        assert (TWINS[name].magnitude == "none") is (OPERATIONS[number].unit is None), name
    assert set(CONSTANT) == {"solarize", "posterize", "cutout"}


@pytest.mark.parametrize("name", [name for name in WARPS if name in INDEX])
@pytest.mark.parametrize("kind", ["smooth", "fading", "noise"])
def test_interpolation_stays_near_the_nearest_pixel(name: str, kind: str) -> None:
    """Half a pixel along each axis: half the steps from pixel to pixel, and to the fill colour."""
    count, side = 200, 24
    images = (wavy(count, 3, side, side) * 2 - 60).round()
    if kind == "fading":
        window = torch.sin(torch.linspace(0, math.pi, side).double())
        images = (images * window * window[:, None]).round()
    if kind == "noise":
        images = (noise(count, 3, side, side) * 255).round()
    reach = {"rotate": 180.0, "translate-x": 12.0, "translate-y": 12.0}.get(name, 0.7)
    magnitude = (2 * noise(count) - 1) * reach
    around = surround(count, "fill", Fill((0,)))
    expected = by_engine(images.to(torch.uint8), name, magnitude, around)
    found = apply(images, name, magnitude, surround=around)
    bordered = F.pad(images, (1, 1, 1, 1))
    across = bordered.diff(dim=3).abs().amax((1, 2, 3))
    along = bordered.diff(dim=2).abs().amax((1, 2, 3))
    # The engine rounds its coefficients to 1/65536, so it may be a hair beyond half a pixel.
    bound = (0.5 + 1e-3) * (across + along)
    off = (found - expected).abs()
    assert (off.amax((1, 2, 3)) <= bound).all()
    if kind == "fading":
        assert off.max() < 15
        assert off.mean() < 3


@pytest.mark.parametrize("name", ["translate-x", "translate-y"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shifts_by_whole_pixels_are_the_engine_s(name: str, dtype: torch.dtype) -> None:
    magnitude = torch.arange(-20.0, 21.0, dtype=torch.float64)
    images = pictures(len(magnitude), 3)[:, :, :, :13].contiguous()
    around = surround(len(magnitude))
    found = apply(images.to(dtype), name, magnitude, surround=around)
    assert torch.equal(found.double(), by_engine(images, name, magnitude, around))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [15, 16])
def test_right_angles_are_the_engine_s(side: int, dtype: torch.dtype) -> None:
    magnitude = 90 * torch.arange(-4.0, 5.0, dtype=torch.float64)
    images = pictures(9, 3)[:, :, :side, :side].contiguous()
    around = surround(9)
    found = apply(images.to(dtype), "rotate", magnitude, surround=around)
    assert torch.equal(found.double(), by_engine(images, "rotate", magnitude, around))
    oblong = images[:, :, :9].to(dtype)
    assert torch.equal(apply(oblong, "rotate", magnitude.sign() * 180)[1], oblong[1].flip(1, 2))


def test_padding_is_what_lies_outside() -> None:
    images, far = wavy(1, 3, 4, 6), torch.tensor([40.0])
    edge = apply(images, "translate-x", far, surround=surround(1, "border"))
    colour = apply(images, "translate-x", far, surround=surround(1, "fill"))
    assert torch.equal(edge, images[..., -1:].expand_as(images))
    assert torch.equal(colour[0, :, 0, 0], torch.tensor(FILL.outside).double())


def test_scales_grow_the_content() -> None:
    images = torch.zeros(2, 1, 16, 16)
    images[:, :, 4:12, 4:12] = 255
    grown = apply(images, "scale-x", torch.tensor([1.0, -0.5]))
    assert grown.sum((1, 2, 3)).tolist() == pytest.approx([2 * 64 * 255, 64 * 255 / 2], rel=0.04)
    assert torch.equal(grown.flip(3), grown)
    assert grown[0, 0, 8, 1] == 255
    assert grown[1, 0, 8, 5] == 0
    tall = apply(images.mT, "scale-y", torch.tensor([1.0, -0.5]))
    assert torch.equal(tall, grown.mT)


def test_luma_is_pillow_s() -> None:
    assert luma(torch.full((1, 3, 1, 1), 255.0, dtype=torch.float64)).item() == 255


# Gates


def test_open_and_closed_gates_are_exact() -> None:
    images, changed = 250 * noise(3, 3, 4, 4) + 5, noise(3, 3, 4, 4, seed=1) / 7
    assert not torch.equal(images + (changed - images), changed)
    mixed = mix(images, changed, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(mixed[0], images[0])
    assert torch.equal(mixed[1], changed[1])
    torch.testing.assert_close(mixed[2], 0.75 * images[2] + 0.25 * changed[2])


@pytest.mark.parametrize("name", list(TWINS))
def test_every_twin_has_a_gradient_to_its_gate(name: str) -> None:
    images, gate = wavy(2, 3, 6, 6), torch.tensor([0.3, 0.6]).double().requires_grad_()
    magnitude = {"solarize": 166.0, "posterize": 3.0, "cutout": 2.0}.get(name)
    numbers = strength(name, 2) if magnitude is None else torch.full((2,), magnitude)
    wanted = None if TWINS[name].magnitude == "none" else numbers

    def run(gate: Tensor) -> Tensor:
        return apply(images, name, wanted, gate, surround(2))

    assert gradcheck(run, gate, check_forward_ad=True)
    changed = apply(images, name, wanted, None, surround(2))
    slope = jvp(run, (gate,), (torch.ones_like(gate),))[1]
    torch.testing.assert_close(slope, changed - images)
    assert (slope.abs().amax((1, 2, 3)) > 0.01).all() or name == "identity"


def test_a_gate_opens_as_often_as_its_logit_says() -> None:
    draws = logistic(torch.rand(200_000, generator=torch.Generator().manual_seed(3)))
    for logit in (-3.0, -1.4, 0.0, 2.0):
        for temperature in (0.3, 2.0):
            opened = relaxed_gate(torch.full_like(draws, logit), draws, temperature)
            share = 1 / (1 + math.exp(-logit))
            slack = 5 * math.sqrt(share * (1 - share) / len(draws))
            assert abs(opened.mean().item() - share) < slack
            assert set(opened.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_gates_are_two_class_gumbel_softmax(temperature: float) -> None:
    logit = torch.linspace(-9, 9, 40, dtype=torch.float64).requires_grad_()
    gumbel = -(-noise(40, 2).log()).log()
    classes = torch.stack([F.logsigmoid(logit), F.logsigmoid(-logit)], 1)
    theirs = torch.softmax((classes + gumbel) / temperature, 1)[:, 0]
    draws = gumbel[:, 0] - gumbel[:, 1]
    soft = relaxed_gate(logit, draws, temperature, hard=False)
    torch.testing.assert_close(soft, theirs)
    hard = relaxed_gate(logit, draws, temperature)
    assert torch.equal(hard, (theirs > 0.5).double())
    weights = noise(40, seed=2)
    expected = torch.autograd.grad((weights * theirs).sum(), logit)[0]
    for gate in (soft, hard):
        found = torch.autograd.grad((weights * gate).sum(), logit)[0]
        torch.testing.assert_close(found, expected)
    tangent = jvp(lambda p: relaxed_gate(p, draws, temperature), (logit,), (weights,))[1]
    torch.testing.assert_close(tangent, expected)


def test_soft_gates_derivatives() -> None:
    inputs = (noise(6) - 0.5).requires_grad_(), (noise(6, seed=1) - 0.5).requires_grad_()
    assert gradcheck(
        lambda p, n: relaxed_gate(p, n, 0.5, hard=False), inputs, check_forward_ad=True
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_and_noise_are_finite(dtype: torch.dtype) -> None:
    logit = torch.tensor([-1e4, -100.0, 100.0, 1e4], dtype=dtype, requires_grad=True)
    uniform = torch.tensor([0.0, 1 - torch.finfo(dtype).eps / 2], dtype=dtype)
    draws = logistic(uniform)
    assert draws.isfinite().all()
    for draw in draws:
        gate = relaxed_gate(logit, draw.expand(4))
        assert torch.autograd.grad(gate.sum(), logit)[0].isfinite().all()
        assert gate.tolist() == (logit + draw > 0).tolist()


def test_logistic_noise_is_the_logit() -> None:
    uniform = noise(100)
    torch.testing.assert_close(torch.sigmoid(logistic(uniform)), uniform)


# What it refuses


def test_errors() -> None:
    images = wavy(1, 3, 4, 4)
    with pytest.raises(KeyError, match="smear has no differentiable twin"):
        apply(images, "smear")
    with pytest.raises(TypeError, match="uint8"):
        apply(images.to(torch.uint8), "invert")
    with pytest.raises(ValueError, match="invert takes no magnitude"):
        apply(images, "invert", torch.zeros(1))
    with pytest.raises(ValueError, match="rotate takes a magnitude"):
        apply(images, "rotate")
    with pytest.raises(ValueError, match="cutout needs a place"):
        apply(images, "cutout", torch.ones(1))


@pytest.mark.parametrize("name", CONSTANT)
def test_a_gradient_that_would_be_zero_is_refused(name: str) -> None:
    images, magnitude = wavy(2, 3, 6, 6), torch.tensor([3.0, 4.0]).double()

    def run(magnitude: Tensor) -> Tensor:
        return apply(images, name, magnitude, surround=surround(2))

    asked: list[Callable[[], object]] = [
        lambda: run(magnitude.clone().requires_grad_()),
        lambda: jvp(run, (magnitude,), (magnitude,)),
        lambda: grad(lambda m: run(m).sum())(magnitude),
        lambda: vmap(lambda v: jvp(run, (magnitude,), (v,))[1])(torch.eye(2).double()),
    ]
    for ask in asked:
        with pytest.raises(ValueError, match=f"{name} is a step function of its magnitude"):
            ask()
    assert not jvp(lambda m: run(m.detach()), (magnitude,), (magnitude,))[1].any()
