"""The differentiable twins: identity at 0, range, purity, independence, types, exact cases."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.augment.engine import Fill, Program, execute
from bench.augment.operations import INDEX
from bench.augment.relaxed import TWINS, Surround, apply, logistic, mix, relaxed_gate
from bench.augment.sampler import (
    Padding,
    affine_matrix,
    compose,
    operation_matrix,
    sample_bilinear,
    warp,
)

Tensor = torch.Tensor
quick = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**40)
SIDES = st.integers(1, 9)
CHANNELS = st.sampled_from([1, 3])
SHIFTS = st.lists(st.tuples(*[st.integers(-12, 12)] * 2), min_size=3, max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.float64])
PADDINGS = st.sampled_from(["fill", "border"])
every = pytest.mark.parametrize("name", list(TWINS))
with_magnitude = pytest.mark.parametrize(
    "name", [name for name, twin in TWINS.items() if twin.magnitude != "none"]
)
REACH = {"rotate": 180.0, "translate-x": 6.0, "translate-y": 6.0, "solarize": 256.0}
REACH |= {"posterize": 8.0, "solarize-add": 255.0, "cutout": 9.0}
ONE_SIDED = ("solarize", "posterize", "solarize-add", "cutout")


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(
    shape: tuple[int, int, int, int], seed: int, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Values 0..255, a third of them whole, some images saturated."""
    values = torch.rand(shape, generator=rng(seed), dtype=dtype) * 255
    values[::3] = values[::3].round()
    values[1::3] = values[1::3].mul(3).sub(255).clamp(0, 255)
    return values


def magnitudes(name: str, count: int, seed: int) -> Tensor | None:
    if TWINS[name].magnitude == "none":
        return None
    share = torch.rand(count, generator=rng(seed + 1), dtype=torch.float64)
    share = share if name in ONE_SIDED else 2 * share - 1
    return share * REACH.get(name, 0.9)


def around(count: int, channels: int, seed: int, padding: Padding = "fill") -> Surround:
    colour = torch.randint(256, (2, channels), generator=rng(seed + 2)).tolist()
    place = torch.rand(count, 2, generator=rng(seed + 3), dtype=torch.float64)
    return Surround(place, Fill(tuple(colour[0]), tuple(colour[1])), padding)


@with_magnitude
@quick
@given(SEEDS, SIDES, SIDES, CHANNELS, DTYPES, PADDINGS)
def test_magnitude_0_is_the_identity(
    name: str,
    seed: int,
    height: int,
    width: int,
    channels: int,
    dtype: torch.dtype,
    padding: Padding,
) -> None:
    images = pictures((4, channels, height, width), seed, dtype)
    out = apply(
        images, name, torch.zeros(4, dtype=dtype), surround=around(4, channels, seed, padding)
    )
    assert torch.equal(out, images)


@quick
@given(SEEDS, SIDES, SIDES, CHANNELS, DTYPES, PADDINGS)
def test_the_fused_matrix_of_zeros_is_the_identity(
    seed: int, height: int, width: int, channels: int, dtype: torch.dtype, padding: Padding
) -> None:
    images = pictures((4, channels, height, width), seed, dtype)
    matrix = affine_matrix(*torch.zeros(7, 4, dtype=dtype))
    assert torch.equal(warp(images, matrix, padding, (9.0,)), images)
    assert torch.equal(compose(matrix, matrix), matrix)


@every
@quick
@given(SEEDS, SIDES, SIDES, CHANNELS, DTYPES, PADDINGS)
def test_shape_type_range_and_purity(
    name: str,
    seed: int,
    height: int,
    width: int,
    channels: int,
    dtype: torch.dtype,
    padding: Padding,
) -> None:
    images = pictures((6, channels, height, width), seed, dtype)
    magnitude = magnitudes(name, 6, seed)
    kept = images.clone(), None if magnitude is None else magnitude.clone()
    before = torch.get_rng_state()
    out = apply(images, name, magnitude, surround=around(6, channels, seed, padding))
    assert (out.shape, out.dtype) == (images.shape, dtype)
    assert out.min() >= -1e-4
    assert out.max() <= 255 + 1e-4
    assert torch.equal(images, kept[0])
    assert magnitude is None or torch.equal(magnitude, kept[1])
    assert torch.equal(torch.get_rng_state(), before)


@every
@quick
@given(SEEDS, CHANNELS, PADDINGS)
def test_images_do_not_see_each_other(
    name: str, seed: int, channels: int, padding: Padding
) -> None:
    images = pictures((6, channels, 7, 5), seed)
    magnitude, settled = magnitudes(name, 6, seed), around(6, channels, seed, padding)
    gate = torch.rand(6, generator=rng(seed), dtype=torch.float64)
    whole = apply(images, name, magnitude, gate, settled)
    assert settled.place is not None
    for row in (0, 3, 5):
        one = slice(row, row + 1)
        alone = apply(
            images[one],
            name,
            None if magnitude is None else magnitude[one],
            gate[one],
            Surround(settled.place[one], settled.fill, padding),
        )
        torch.testing.assert_close(alone, whole[one], rtol=1e-13, atol=1e-11)


@every
@quick
@given(SEEDS, PADDINGS)
def test_gradients_do_not_cross_images(name: str, seed: int, padding: Padding) -> None:
    images = pictures((3, 3, 7, 5), seed).requires_grad_()
    magnitude = magnitudes(name, 3, seed)
    inputs = [images]
    if magnitude is not None and TWINS[name].magnitude == "gradient":
        inputs.append(magnitude.requires_grad_())
    out = apply(images, name, magnitude, surround=around(3, 3, seed, padding))
    for slope in torch.autograd.grad(out[1].square().sum(), inputs):
        assert slope.isfinite().all()
        assert not slope[0].any()
        assert not slope[2].any()


@every
@quick
@given(SEEDS, CHANNELS)
def test_the_memory_s_order_changes_nothing(name: str, seed: int, channels: int) -> None:
    images = pictures((3, channels, 6, 7), seed)
    last = images.contiguous(memory_format=torch.channels_last)
    magnitude, settled = magnitudes(name, 3, seed), around(3, channels, seed)
    out = apply(last, name, magnitude, surround=settled)
    kept = out.is_contiguous() or out.is_contiguous(memory_format=torch.channels_last)
    assert kept
    torch.testing.assert_close(
        out, apply(images, name, magnitude, surround=settled), rtol=1e-13, atol=1e-11
    )


@quick
@given(
    SEEDS, st.lists(st.tuples(st.integers(-12, 12), st.integers(-12, 12)), min_size=3, max_size=3)
)
def test_shifts_by_whole_pixels_are_the_engine_s(seed: int, by: list[tuple[int, int]]) -> None:
    images = torch.randint(256, (3, 3, 6, 9), generator=rng(seed), dtype=torch.uint8)
    pixels, settled = torch.tensor(by, dtype=torch.float64), around(3, 3, seed)
    operation = torch.tensor([[INDEX["translate-x"], INDEX["translate-y"]]]).expand(3, 2)
    program = Program(operation.contiguous(), pixels, torch.zeros(3, 2, 2).double())
    expected = execute(images, program, settled.fill).float()
    first, second = (
        operation_matrix(name, pixels[:, i], 6, 9)
        for i, name in enumerate(("translate-x", "translate-y"))
    )
    fused = warp(images.float(), compose(first, second), "fill", settled.fill.outside)
    # A fused warp keeps what leaves the image on the way, but these two directions lose the same.
    assert torch.equal(fused, expected)


@quick
@given(SEEDS, SIDES, st.integers(-8, 8))
def test_right_angles_of_squares_are_the_engine_s(seed: int, side: int, quarters: int) -> None:
    images = torch.randint(256, (2, 3, side, side), generator=rng(seed), dtype=torch.uint8)
    angle = torch.full((2,), 90.0 * quarters)
    found = apply(images.float(), "rotate", angle, surround=around(2, 3, seed))
    assert torch.equal(found, images.rot90(quarters, (2, 3)).float())


@quick
@given(SEEDS, SIDES, SIDES, PADDINGS)
def test_samples_lie_between_pixels_and_fill(
    seed: int, height: int, width: int, padding: Padding
) -> None:
    images = pictures((2, 1, height, width), seed, torch.float32)
    x, y = torch.randn(2, 2, 4, 4, generator=rng(seed)) * 8
    out = sample_bilinear(images, x, y, padding, (100.0,)).flatten(1)
    pixels = images.flatten(1)
    if padding == "fill":
        pixels = torch.cat([pixels, torch.full((2, 1), 100.0)], 1)
    assert (out >= pixels.amin(1, keepdim=True) - 1e-4).all()
    assert (out <= pixels.amax(1, keepdim=True) + 1e-4).all()


@quick
@given(SEEDS, DTYPES)
def test_inverse_warps_compose_to_nothing(seed: int, dtype: torch.dtype) -> None:
    numbers = torch.rand(2, 4, generator=rng(seed), dtype=torch.float64).to(dtype)
    angle, shift = 360 * numbers[0] - 180, 9 * numbers[1]
    for name, value in (("rotate", angle), ("translate-y", shift), ("shear-x", numbers[0])):
        there, back = (operation_matrix(name, sign * value, 8, 8) for sign in (1, -1))
        nothing = torch.eye(2, 3, dtype=dtype).expand(4, 2, 3)
        torch.testing.assert_close(compose(there, back), nothing, rtol=1e-5, atol=1e-5)


@quick
@given(SEEDS, DTYPES)
def test_gates_mix(seed: int, dtype: torch.dtype) -> None:
    images, changed = (pictures((4, 3, 5, 5), number, dtype) for number in (seed, seed + 9))
    gate = torch.tensor([0.0, 1.0, 0.3, 0.9], dtype=dtype)
    out = mix(images, changed, gate)
    assert torch.equal(out[0], images[0])
    assert torch.equal(out[1], changed[1])
    low, high = torch.minimum(images, changed), torch.maximum(images, changed)
    assert (out >= low - 1e-4).all()
    assert (out <= high + 1e-4).all()


@quick
@given(SEEDS, DTYPES, st.floats(0.05, 5))
def test_gates_are_pure_monotone_and_agree(
    seed: int, dtype: torch.dtype, temperature: float
) -> None:
    noise = logistic(torch.rand(50, generator=rng(seed), dtype=dtype))
    logit = torch.randn(50, generator=rng(seed + 1), dtype=dtype)
    before = torch.get_rng_state()
    soft = relaxed_gate(logit, noise, temperature, hard=False)
    hard = relaxed_gate(logit, noise, temperature)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(hard, relaxed_gate(logit, noise, temperature))
    assert (soft.dtype, hard.dtype) == (dtype, dtype)
    assert ((soft >= 0) & (soft <= 1)).all()
    assert torch.equal(hard, (soft > 0.5).to(dtype))
    assert (relaxed_gate(logit + 0.5, noise, temperature, hard=False) >= soft).all()
