"""The engine and `bench.augment.pillow`, bit for bit against Pillow's own functions.

Every comparison is with the engine in C and with the one on tensors.
"""

import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from bench.augment import blend, engine, erase, geometry, native, pillow, pointwise
from bench.augment.engine import Fill, Program
from bench.augment.operations import INDEX, OPERATIONS
from bench.augment.space import GRID, Entry, Space, draw_of
from tests.conftest import ROOT
from tests.oracle import images as sets
from tests.oracle.images import PILLOW, Tensor

ENGINES = ("native", "tensors")
NAMES = [operation.name for operation in OPERATIONS]
WITH_MAGNITUDE = [operation.name for operation in OPERATIONS if operation.unit is not None]
FILLS = {
    3: [Fill(), Fill((10, 200, 30), (125, 123, 114)), Fill((255,), (7,))],
    1: [Fill(), Fill((77,), (201,)), Fill((255,), (7,))],
}
SIZES = [(33, 47), (8, 8), (3, 5), (4, 7), (5, 4), (2, 2), (1, 1), (1, 6), (224, 224)]
every = pytest.mark.parametrize("name", NAMES)


# Pillow, written out once more


def cutout_as_published(
    image: Image.Image, side: float, place: list[float], colour: object
) -> Image.Image:
    """CutoutAbs of AutoAugment's descendants, with the centre given."""
    if side <= 0:
        return image
    w, h = image.size
    x0 = int(max(0, place[0] * w - side / 2.0))
    y0 = int(max(0, place[1] * h - side / 2.0))
    x1 = min(w, x0 + side)
    y1 = min(h, y0 + side)
    image = image.copy()
    ImageDraw.Draw(image).rectangle((x0, y0, x1, y1), fill=colour)
    return image


def solarize_add_as_published(image: Image.Image, m: float) -> Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    added = np.clip(pixels + int(m), 0, 255)
    return Image.fromarray(np.where(pixels < 128, added, pixels).astype(np.uint8))


def posterize(image: Image.Image, m: float) -> Image.Image:
    if int(m) < 8:
        return ImageOps.posterize(image, 8 - int(m))
    return Image.fromarray(np.zeros_like(np.asarray(image)))  # which Pillow refuses


def affine(image: Image.Image, matrix: tuple[float, ...], colour: object) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=colour)


Direct = Callable[[Image.Image, float, object], Image.Image]  # image, magnitude, colour outside
DIRECT: dict[str, Direct] = {
    "identity": lambda image, m, c: image,
    "shear-x": lambda image, m, c: affine(image, (1, m, 0, 0, 1, 0), c),
    "shear-y": lambda image, m, c: affine(image, (1, 0, 0, m, 1, 0), c),
    "translate-x": lambda image, m, c: affine(image, (1, 0, m, 0, 1, 0), c),
    "translate-y": lambda image, m, c: affine(image, (1, 0, 0, 0, 1, m), c),
    "rotate": lambda image, m, c: image.rotate(m, fillcolor=c),
    "flip-lr": lambda image, m, c: ImageOps.mirror(image),
    "flip-ud": lambda image, m, c: ImageOps.flip(image),
    "invert": lambda image, m, c: ImageOps.invert(image),
    "solarize": lambda image, m, c: ImageOps.solarize(image, 256 - m),
    "posterize": lambda image, m, c: posterize(image, m),
    "solarize-add": lambda image, m, c: solarize_add_as_published(image, m),
    "autocontrast": lambda image, m, c: ImageOps.autocontrast(image),
    "equalize": lambda image, m, c: ImageOps.equalize(image),
    "brightness": lambda image, m, c: ImageEnhance.Brightness(image).enhance(1 + m),
    "contrast": lambda image, m, c: ImageEnhance.Contrast(image).enhance(1 + m),
    "color": lambda image, m, c: ImageEnhance.Color(image).enhance(1 + m),
    "sharpness": lambda image, m, c: ImageEnhance.Sharpness(image).enhance(1 + m),
    "smooth": lambda image, m, c: image.filter(ImageFilter.SMOOTH),
    "blur": lambda image, m, c: image.filter(ImageFilter.BLUR),
}


def colour_of(fill: tuple[int, ...], image: Image.Image) -> object:
    if image.mode == "L":
        return fill[0]
    return fill * 3 if len(fill) == 1 else fill


def directly(image: Image.Image, program: Program, row: int, fill: Fill) -> Image.Image:
    """A row of a program by Pillow's functions, one after the other."""
    for slot in range(program.operation.shape[1]):
        name = NAMES[program.operation[row, slot]]
        magnitude = program.magnitude[row, slot].item()
        if name == "cutout":
            place = program.place[row, slot].tolist()
            image = cutout_as_published(image, magnitude, place, colour_of(fill.hole, image))
        else:
            image = DIRECT[name](image, magnitude, colour_of(fill.outside, image))
    return image


def differing(found: Tensor, expected: Tensor, program: Program) -> list[str]:
    """The first images that differ, with what was done to them."""
    assert found.shape == expected.shape
    assert found.dtype == torch.uint8
    rows = (found != expected).flatten(1).any(1).nonzero().flatten().tolist()
    steps = [
        [
            (NAMES[op], m)
            for op, m in zip(program.operation[r], program.magnitude[r].tolist(), strict=True)
        ]
        for r in rows[:5]
    ]
    return [f"{len(rows)} of {len(found)} differ"] * bool(rows) + [
        f"image {r}: {step}" for r, step in zip(rows, steps, strict=False)
    ]


def execute(images: Tensor, program: Program, fill: Fill = Fill()) -> Tensor:  # noqa: B008
    """What both engines give."""
    found = []
    for name in ENGINES:
        with patch.dict(os.environ, {native.SWITCH: name}):
            found.append(engine.execute(images, program, fill))
    assert differing(*found, program) == [], "the engines disagree"
    return found[0]


def check(images: Tensor, program: Program, fill: Fill) -> None:
    """Engines, `bench.augment.pillow` and Pillow's own functions give the same bits."""
    originals = sets.to_pillow(images)
    rows = range(len(images))
    direct = sets.from_pillow([directly(originals[r], program, r, fill) for r in rows])
    wrapped = sets.from_pillow([pillow.execute(originals[r], program, r, fill) for r in rows])
    assert differing(wrapped, direct, program) == []
    assert differing(execute(images, program, fill), direct, program) == []


def spread(grid: np.ndarray, count: int, turn: int, turns: int) -> np.ndarray:
    """A magnitude for each image; every magnitude comes up where turns * count suffice."""
    return grid[(np.arange(count) * turns + turn) % len(grid)]


# Every operation


@pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc")) is None, reason="no C compiler, so no engine in C"
)
def test_both_engines_are_here() -> None:
    """Otherwise the comparisons below see one engine twice."""
    found = []
    for name in ENGINES:
        with patch.dict(os.environ, {native.SWITCH: name}):
            found.append(native.engine_name())
    assert found == list(ENGINES)


def test_the_tables_of_this_test_are_complete() -> None:
    assert [*DIRECT, "cutout"] == NAMES
    for name in NAMES:
        magnitudes = sets.grid(name, 32, 32)
        operation = OPERATIONS[INDEX[name]]
        assert magnitudes.min() >= operation.low
        assert magnitudes.max() <= operation.high
        assert (len(magnitudes) > 40) == (operation.unit is not None) or name == "posterize"
        assert 0 in magnitudes


def test_there_are_enough_real_images() -> None:
    assert len(sets.photos(32, 32)) == 704
    assert len(torch.unique(sets.photos(32, 32).flatten(1), dim=0)) == 704
    assert len(sets.awkward(32, 32)) > 40


@every
def test_an_operation_on_photos(name: str) -> None:
    images = torch.cat([sets.photos(32, 32), sets.awkward(32, 32)])
    turns = 3 if name in WITH_MAGNITUDE else 1
    for turn in range(turns):
        magnitudes = spread(sets.grid(name, 32, 32), len(images), turn, turns)
        check(images, sets.single(name, magnitudes, turn), FILLS[3][turn])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [*SIZES, (32, 32)], ids=lambda size: "×".join(map(str, size)))
@every
def test_an_operation_on_other_sizes(name: str, size: tuple[int, int], channels: int) -> None:
    patches = [sets.some_photos(24, *size, channels), sets.awkward(*size, channels)]
    images = torch.cat(patches)[:: 12 if size[0] > 200 else 1]
    turns = 2 if name in WITH_MAGNITUDE else 1
    for turn in range(turns):
        magnitudes = np.random.default_rng(turn).choice(sets.grid(name, *size), len(images))
        check(images, sets.single(name, magnitudes, turn), FILLS[channels][turn + turns - 1])


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (33, 47), (300, 200)])
def test_translations_beside_half_a_pixel(size: tuple[int, int], axis: str) -> None:
    """The closest that a space comes; nearer by far, Pillow's repeated + 1.0 would round up."""
    halves = np.arange(-size[0], size[0] + 1) + 0.5
    magnitudes = np.concatenate([halves - 1 / GRID, halves, halves + 1 / GRID])
    images = sets.some_photos(len(magnitudes), *size)
    magnitudes = np.resize(magnitudes, len(images)) if size[0] < 200 else magnitudes[::40]
    images = images[torch.arange(len(magnitudes)) % len(images)]
    check(images, sets.single(f"translate-{axis}", magnitudes), Fill((1, 2, 3)))


@pytest.mark.parametrize("name", ["translate-x", "translate-y"])
def test_spaces_keep_translations_away_from_there(name: str) -> None:
    """No space gives a shift like 1.4999999999999998, where engine and Pillow would differ."""
    images = sets.some_photos(40, 12, 12)
    halves = np.arange(-20, 20) + 0.5
    nearly = np.concatenate([np.nextafter(halves, -math.inf), np.nextafter(halves, math.inf)])
    for magnitude, half in zip(nearly, [*halves, *halves], strict=True):
        space = Space("test", (Entry(name, high=magnitude),), 1.0, False, "")
        program = space.program(draw_of([[0]] * len(images), [[1.0]] * len(images)), 12)
        assert (program.magnitude == half).all()
        check(images[:4], sets.rows_of(program, slice(0, 4)), Fill((1, 2, 3)))


def test_three_colours_on_grey_images() -> None:
    """The first value counts where there is one channel, as in `bench.augment.pillow`."""
    images = sets.some_photos(20, 9, 9, 1)
    fill = Fill((50, 60, 70), (80, 90, 100))
    for name in ("rotate", "cutout"):
        check(images, sets.single(name, np.full(len(images), 5.0)), fill)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), name=st.sampled_from(WITH_MAGNITUDE))
def test_any_magnitude_there_is(data: st.DataObject, name: str) -> None:
    operation = OPERATIONS[INDEX[name]]
    magnitude = data.draw(st.floats(operation.low, operation.high))
    if name.startswith("translate"):
        magnitude = round(magnitude * GRID) / GRID
    place = data.draw(st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2))
    images = torch.cat([sets.some_photos(2, 11, 8), sets.awkward(11, 8)[-3:]])
    program = sets.single(name, np.full(len(images), magnitude))
    program.place[:] = torch.tensor(place)
    check(images, program, FILLS[3][1])


# Programs


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("slots", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(32, 32), (17, 12), (2, 3)])
def test_random_programs(size: tuple[int, int], slots: int, channels: int) -> None:
    images = torch.cat([sets.some_photos(150, *size, channels), sets.awkward(*size, channels)])
    program = sets.random_program(len(images), slots, *size, seed=slots)
    check(images, program, FILLS[channels][slots % 3])


@pytest.mark.parametrize("size", [(32, 32), (9, 14)])
def test_long_chains_of_warps(size: tuple[int, int]) -> None:
    images = sets.some_photos(120, *size)
    program = sets.random_program(3 * len(images), 8, *size, seed=5)
    check(images, sets.rows_of(program, slice(0, None, 3)), FILLS[3][1])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_of_one(channels: int) -> None:
    images = torch.cat([sets.some_photos(30, 10, 10, channels), sets.awkward(10, 10, channels)])
    program = sets.random_program(len(images), 3, 10, 10, seed=8)
    together = execute(images, program, FILLS[channels][1])
    for row in range(len(images)):
        rows = slice(row, row + 1)
        alone = execute(images[rows], sets.rows_of(program, rows), FILLS[channels][1])
        assert torch.equal(alone, together[rows])


@pytest.mark.parametrize("slots", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_empty_batch(channels: int, slots: int) -> None:
    images = torch.empty((0, channels, 6, 5), dtype=torch.uint8)
    found = execute(images, sets.random_program(0, slots, 6, 5, seed=0))
    assert found.shape == images.shape
    assert found.dtype == torch.uint8


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every second column": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "a window": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 4))[..., 1:-4, 3:-2],
    "channels in front": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every second image": lambda x: x.repeat_interleave(2, 0)[::2],
}


def laid_out(images: Tensor, layout: str) -> Tensor:
    found = LAYOUTS[layout](images)
    assert torch.equal(found, images)
    assert not found.is_contiguous() or images.shape[1] == 1
    return found


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_in_any_layout(layout: str, channels: int) -> None:
    images = torch.cat([sets.some_photos(60, 12, 9, channels), sets.awkward(12, 9, channels)])
    for slots in (1, 3):
        program = sets.random_program(len(images), slots, 12, 9, seed=slots)
        expected = execute(images, program, FILLS[channels][1])
        found = execute(laid_out(images, layout), program, FILLS[channels][1])
        assert differing(found, expected, program) == []


def test_one_image_many_times() -> None:
    """Memory that rows of a batch share is read, never written."""
    images = sets.some_photos(3, 16, 16)[1:2].expand(200, -1, -1, -1)
    program = sets.random_program(200, 3, 16, 16, seed=3)
    before = images.clone()
    check(images, program, FILLS[3][1])
    assert torch.equal(images, before)


# The functions with a name of their own

Named = Callable[[Tensor, Tensor, Program, Fill], Tensor]  # images, magnitude, program, fill
FUNCTIONS: dict[str, Named] = {
    "shear-x": lambda x, m, p, f: geometry.shear_x(x, m, f.outside),
    "shear-y": lambda x, m, p, f: geometry.shear_y(x, m, f.outside),
    "translate-x": lambda x, m, p, f: geometry.translate_x(x, m, f.outside),
    "translate-y": lambda x, m, p, f: geometry.translate_y(x, m, f.outside),
    "rotate": lambda x, m, p, f: geometry.rotate(x, m, f.outside),
    "flip-lr": lambda x, m, p, f: geometry.flip_lr(x),
    "flip-ud": lambda x, m, p, f: geometry.flip_ud(x),
    "invert": lambda x, m, p, f: pointwise.invert(x),
    "solarize": lambda x, m, p, f: pointwise.solarize(x, m),
    "posterize": lambda x, m, p, f: pointwise.posterize(x, m),
    "solarize-add": lambda x, m, p, f: pointwise.solarize_add(x, m),
    "autocontrast": lambda x, m, p, f: pointwise.autocontrast(x),
    "equalize": lambda x, m, p, f: pointwise.equalize(x),
    "brightness": lambda x, m, p, f: blend.brightness(x, 1 + m),
    "contrast": lambda x, m, p, f: blend.contrast(x, 1 + m),
    "color": lambda x, m, p, f: blend.color(x, 1 + m),
    "sharpness": lambda x, m, p, f: blend.sharpness(x, 1 + m),
    "smooth": lambda x, m, p, f: blend.smooth(x),
    "blur": lambda x, m, p, f: blend.blur(x),
    "cutout": lambda x, m, p, f: erase.cutout(x, m, p.place[:, 0], f.hole),
}


@pytest.mark.parametrize("layout", [None, "channels last", "transposed", "a window"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_by_name(name: str, channels: int, layout: str | None) -> None:
    images = torch.cat([sets.some_photos(40, 13, 10, channels), sets.awkward(13, 10, channels)])
    magnitudes = np.random.default_rng(1).choice(sets.grid(name, 13, 10), len(images))
    program, fill = sets.single(name, magnitudes), FILLS[channels][1]
    originals = sets.to_pillow(images)
    direct = [directly(image, program, row, fill) for row, image in enumerate(originals)]
    given_ = laid_out(images, layout) if layout else images
    found = FUNCTIONS[name](given_, program.magnitude[:, 0], program, fill)
    assert differing(found, sets.from_pillow(direct), program) == []
    assert torch.equal(given_, images)


def test_every_operation_has_a_function() -> None:
    assert ["identity", *FUNCTIONS] == NAMES


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "pad"),
    [((32, 32), 4), ((33, 47), 4), ((8, 8), 0), ((3, 5), 1), ((2, 2), 5), ((1, 1), 2)],
)
def test_crop_with_padding_and_flip(size: tuple[int, int], pad: int, channels: int) -> None:
    height, width = size
    images = sets.photos(*size, channels)[:1200]
    count = len(images)
    rng = torch.Generator().manual_seed(pad)
    top, left = torch.randint(2 * pad + 1, (2, count), generator=rng)
    flip = torch.rand(count, generator=rng) < 0.5
    expected = []
    for image, y, x, mirror in zip(sets.to_pillow(images), top, left, flip, strict=True):
        wide = ImageOps.expand(image, border=pad, fill=0)
        cut = wide.crop((int(x), int(y), int(x) + width, int(y) + height))
        expected.append(ImageOps.mirror(cut) if mirror else cut)
    numbers = geometry.crop_coefficients(top, left, flip, pad, geometry.Frame(*size))
    for name in ENGINES:
        with patch.dict(os.environ, {native.SWITCH: name}):
            found = engine.warp(images, numbers)
        assert torch.equal(found, sets.from_pillow(expected))


# Exhaustively


def test_every_pair_of_values_blended() -> None:
    """All source and degenerate values, at factors that the enhancers are asked for."""
    level = torch.arange(256, dtype=torch.uint8)
    source, weaker = level.view(1, 1, 256, 1), level.view(1, 1, 1, 256)
    sources, weakers = source.expand(1, 1, 256, 256), weaker.expand(1, 1, 256, 256)
    (over,), (under,) = sets.to_pillow(sources), sets.to_pillow(weakers)
    for factor in 1 + sets.grid("color", 32, 32, dense=True):
        expected = sets.from_pillow([Image.blend(under, over, factor)])
        number = torch.tensor([factor])
        found = blend.blend(sources.float().clone(), weakers.float(), number)
        assert torch.equal(found, expected), factor


def test_every_stretch_of_autocontrast() -> None:
    pairs = [(low, high) for high in range(256) for low in range(high + 1)]
    bounds = torch.tensor(pairs, dtype=torch.uint8).view(-1, 2, 1, 1, 1)
    level = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    images = torch.minimum(torch.maximum(level, bounds[:, 0]), bounds[:, 1])
    expected = sets.from_pillow([ImageOps.autocontrast(image) for image in sets.to_pillow(images)])
    program = sets.single("autocontrast", np.zeros(len(images)))
    assert differing(execute(images, program), expected, program) == []


def sums(places: list[tuple[int, int]], weights: list[int], side: int) -> Tensor:
    """Small images, one for each weighted sum that pixels at these places can have."""
    whole = 255 * sum(weights)
    found = torch.zeros(whole + 1, 1, side, side, dtype=torch.uint8)
    for total in range(whole + 1):
        left = total
        for number, ((row, column), weight) in enumerate(zip(places, weights, strict=True)):
            rest = 255 * sum(weights[number + 1 :])
            value = max(0, -((rest - left) // weight)) if left > rest else 0
            found[total, 0, row, column] = value
            left -= value * weight
        assert left == 0
    return found


def test_every_sum_of_the_filters() -> None:
    inner = [(1, 1)] + [(r, c) for r in range(3) for c in range(3) if (r, c) != (1, 1)]
    ring = [(r, c) for r in range(5) for c in range(5) if r in (0, 4) or c in (0, 4)]
    cases = [
        (sums(inner, [5] + [1] * 8, 3), "smooth", ImageFilter.SMOOTH),
        (sums(ring, [1] * 16, 5), "blur", ImageFilter.BLUR),
    ]
    for images, name, kind in cases:
        expected = [image.filter(kind) for image in sets.to_pillow(images)]
        program = sets.single(name, np.zeros(len(images)))
        found = execute(images, program)
        assert differing(found, sets.from_pillow(expected), program) == []


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_colour_turned_to_grey(step: int) -> None:
    level = torch.arange(0, 256, step, dtype=torch.uint8)
    colours = torch.cartesian_prod(level, level, level).T.reshape(1, 3, len(level) ** 2, -1)
    (image,) = sets.to_pillow(colours)
    expected = sets.from_pillow([image.convert("L")])
    assert torch.equal(blend.grey(colours).to(torch.uint8).view_as(expected), expected)
    found = execute(colours, sets.single("color", np.array([-1.0])))
    assert torch.equal(found, expected.expand_as(found))


# The long way


@pytest.mark.slow
@every
def test_every_magnitude_on_every_photo(name: str) -> None:
    everything(sets.photos(32, 32), name, sets.grid(name, 32, 32, dense=True))


@pytest.mark.slow
@every
def test_every_magnitude_on_cifar(name: str, cifar_small: Path) -> None:
    everything(sets.cifar(cifar_small, 500), name, sets.grid(name, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(33, 47), (224, 224), (96, 64)])
@every
def test_every_magnitude_on_larger_images(name: str, size: tuple[int, int]) -> None:
    images = torch.cat([sets.some_photos(6, *size), sets.awkward(*size)[::8]])
    everything(images, name, sets.grid(name, *size))


def everything(images: Tensor, name: str, magnitudes: np.ndarray) -> None:
    originals = sets.to_pillow(images)
    for number, magnitude in enumerate(magnitudes):
        fill = FILLS[3][number % 3]
        program = sets.single(name, np.full(len(images), magnitude), number)
        direct = [directly(image, program, row, fill) for row, image in enumerate(originals)]
        found = execute(images, program, fill)
        assert differing(found, sets.from_pillow(direct), program) == []


@pytest.mark.slow
@pytest.mark.parametrize("slots", [2, 3, 5])
def test_random_programs_on_cifar(slots: int, cifar_small: Path) -> None:
    images = sets.cifar(cifar_small, 2000)
    for seed in range(10):
        program = sets.random_program(len(images), slots, 32, 32, seed)
        check(images, program, FILLS[3][seed % 3])


# Versions


def test_this_pillow_has_been_compared() -> None:
    """Elsewhere the engine is as likely exact, but nobody has looked."""
    running = tuple(map(int, re.findall(r"\d+", PIL.__version__)[:2]))
    first, last = (tuple(map(int, version.split(".")[:2])) for version in (PILLOW[0], PILLOW[-1]))
    assert first <= running <= last, (
        f"Pillow {PIL.__version__} is outside {PILLOW[0]}..{PILLOW[-1]}, the versions that the "
        "engine has been compared with.  Run tests/oracle/test_engine_pillow.py --slow with it; "
        "where all other tests pass, add it to PILLOW in tests/oracle/images.py."
    )


def test_what_may_be_installed_has_been_compared() -> None:
    requirement = re.search(
        r'"pillow>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert requirement is not None
    assert PILLOW[0].startswith(requirement[1])


def test_the_page_says_so() -> None:
    text = " ".join((ROOT / "docs" / "exactness.md").read_text(encoding="utf-8").split())
    assert f"{', '.join(PILLOW[:-1])} and {PILLOW[-1]} (x86-64 wheels)" in text
    assert re.search(r"Comparisons of ours, over both tables: [\d,]{9,}\. Mismatches: 0\.", text)
    rows = re.findall(r"^\| ([\w-]+) \| \d+ \| (.*?) \|", text.replace("| |", "|\n|"), re.M)
    assert [name for name, _ in rows] == NAMES
    assert {ours for _, ours in rows} == {"0"}
