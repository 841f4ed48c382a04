"""The engine on CUDA: the CPU's bits (which are Pillow's), and never a wait for the device."""

from unittest.mock import patch

import numpy as np
import pytest
import torch

from bench.augment import blend, engine, erase, geometry, pointwise, tensors
from bench.augment.engine import Fill, Program
from bench.augment.operations import OPERATIONS
from tests.oracle import images as sets
from tests.oracle.images import Tensor, rows_of

pytestmark = pytest.mark.gpu
NAMES = [operation.name for operation in OPERATIONS]
SIZES = [(32, 32), (33, 47), (8, 8), (5, 4), (3, 5), (2, 2), (1, 1), (224, 224)]
FILLS = {
    1: [Fill(), Fill((77,), (201,))],
    3: [Fill(), Fill((10, 200, 30), (125, 123, 114))],
}
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: "×".join(map(str, size)))
channels_ = pytest.mark.parametrize("channels", [1, 3])


def pictures(count: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Awkward images first, then noise of all contrasts."""
    awkward = sets.awkward(*size, channels)[:count]
    rng = torch.Generator().manual_seed(count)
    shape = (count - len(awkward), channels, *size)
    noise = torch.randint(256, shape, generator=rng, dtype=torch.uint8)
    contrast = torch.rand((len(noise), channels, 1, 1), generator=rng)
    return torch.cat([awkward, (noise * contrast + 60 * (1 - contrast)).to(torch.uint8)])


def check(images: Tensor, program: Program, fill: Fill) -> None:
    there = engine.execute(images.cuda(), program, fill)
    assert there.is_cuda
    differing = (there.cpu() != engine.execute(images, program, fill)).flatten(1).any(1)
    rows = differing.nonzero().flatten()[:5].tolist()
    assert not rows, [
        [(NAMES[op], m) for op, m in zip(*step, strict=True)]
        for row in rows
        for step in [(program.operation[row].tolist(), program.magnitude[row].tolist())]
    ]


@channels_
@sizes
@pytest.mark.parametrize("name", NAMES)
def test_every_operation(name: str, size: tuple[int, int], channels: int) -> None:
    magnitudes = sets.grid(name, *size, dense=size == (32, 32))
    count = max(len(magnitudes), 60) if size[0] < 200 else 60
    chosen = magnitudes[np.arange(count) * len(magnitudes) // count]
    program = sets.single(name, np.random.default_rng(0).permutation(chosen))
    check(pictures(count, channels, size), program, FILLS[channels][size[0] % 2])


@channels_
@sizes
@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8])
def test_random_programs(slots: int, size: tuple[int, int], channels: int) -> None:
    count = 3000 if size[0] < 200 else 200
    program = sets.random_program(count, slots, *size, seed=slots)
    check(pictures(count, channels, size), program, FILLS[channels][1])


def test_a_large_batch() -> None:
    check(
        pictures(20000, 3, (32, 32)),
        sets.random_program(20000, 2, 32, 32, seed=1),
        FILLS[3][1],
    )


def test_every_pair_of_values_blended() -> None:
    """Product and sum round one after the other on the device too."""
    level = torch.arange(256.0)
    source = level.view(1, 1, 256, 1).expand(1, 1, 256, 256)
    weaker = level.view(1, 1, 1, 256).expand(1, 1, 256, 256)
    for factor in 1 + sets.grid("color", 32, 32, dense=True):
        number = torch.tensor([factor])
        here = blend.blend(source.clone(), weaker, number)
        there = blend.blend(source.cuda(), weaker.cuda(), number.cuda())
        assert torch.equal(there.cpu(), here), factor


def test_every_sum_of_smooth() -> None:
    """The device may divide by 13 as it likes."""
    total = torch.arange(3316)
    images = torch.zeros(3316, 1, 3, 3, dtype=torch.uint8)
    centre = (total.sub(2040).clamp_min(0) + 4) // 5
    left = total - 5 * centre
    images[:, 0, 1, 1] = centre.to(torch.uint8)
    ring = [(r, c) for r in range(3) for c in range(3) if (r, c) != (1, 1)]
    for row, column in ring:
        value = left.clamp_max(255)
        images[:, 0, row, column] = value.to(torch.uint8)
        left = left - value
    assert not left.any()
    assert torch.equal(blend.smooth(images.cuda()).cpu(), blend.smooth(images))


def test_functions_by_name() -> None:
    images = pictures(200, 3, (17, 23))
    there = images.cuda()
    amount = torch.linspace(-5, 5, 200, dtype=torch.float64)
    place = sets.places((200,), 0)
    top, left = torch.randint(9, (2, 200), generator=torch.Generator().manual_seed(0))
    numbers = geometry.crop_coefficients(top, left, top > left, 4, geometry.Frame(17, 23))
    cases = [
        lambda x: geometry.rotate(x, 20 * amount, (1, 2, 3)),
        lambda x: geometry.shear_x(x, amount, (1, 2, 3)),
        lambda x: geometry.translate_y(x, amount, (4,)),
        lambda x: geometry.flip_lr(x),
        lambda x: pointwise.solarize(x, 25 * (amount + 5)),
        lambda x: pointwise.posterize(x, amount.abs()),
        lambda x: pointwise.solarize_add(x, 25 * (amount + 5)),
        pointwise.invert,
        pointwise.autocontrast,
        pointwise.equalize,
        lambda x: blend.brightness(x, amount.to(x.device)),
        lambda x: blend.contrast(x, amount.to(x.device)),
        lambda x: blend.color(x, amount.to(x.device)),
        lambda x: blend.sharpness(x, amount.to(x.device)),
        blend.smooth,
        blend.blur,
        lambda x: erase.cutout(x, amount.abs(), place, (9, 8, 7)),
        lambda x: engine.warp(x, numbers),
    ]
    for number, case in enumerate(cases):
        assert torch.equal(case(there).cpu(), case(images)), number
    assert torch.equal(there.cpu(), images), "what goes in is not changed"


@channels_
def test_layouts_and_chunks(channels: int) -> None:
    images = pictures(300, channels, (16, 12))
    program = sets.random_program(300, 3, 16, 12, seed=4)
    expected = engine.execute(images, program)
    device = images.cuda()
    wide = device.repeat_interleave(2, 3)[..., ::2]
    last = device.contiguous(memory_format=torch.channels_last)
    for layout in (wide, last, device.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(engine.execute(layout, program).cpu(), expected)
    for chunk in (1, 5000, 70000):
        with patch.dict(tensors.CHUNK_BYTES, cuda=chunk):
            assert torch.equal(engine.execute(device, program).cpu(), expected)
    for rows in (slice(0, 0), slice(7, 8)):
        found = engine.execute(device[rows], rows_of(program, rows))
        assert torch.equal(found.cpu(), expected[rows])


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_execution_does_not_wait_for_the_device(slots: int) -> None:
    """No hidden synchronisation: torch raises at any.

    Tables that are kept for the device are made in the first call.
    """
    images = pictures(600, 3, (32, 32)).cuda()
    every = sets.single("identity", np.zeros(600))
    operation = torch.arange(600).view(600, 1) % len(NAMES)
    engine.execute(images, Program(operation, torch.ones_like(every.magnitude), every.place))
    programs = [sets.random_program(600, slots, 32, 32, seed) for seed in range(5)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [engine.execute(images, program, FILLS[3][1]) for program in programs]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for program, there in zip(programs, found, strict=True):
        assert torch.equal(there.cpu(), engine.execute(images.cpu(), program, FILLS[3][1]))


def test_a_stream_of_its_own() -> None:
    """Numbers copied from the host arrive before the kernels that read them, on any stream."""
    images = pictures(2000, 3, (32, 32))
    programs = [sets.random_program(2000, 2, 32, 32, seed) for seed in range(6)]
    device = images.cuda()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        found = [engine.execute(device, program) for program in programs]
    torch.cuda.synchronize()
    for program, there in zip(programs, found, strict=True):
        assert torch.equal(there.cpu(), engine.execute(images, program))
