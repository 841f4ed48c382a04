"""The engine by worked examples, its coefficients, its refusals, and which engine is used."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from bench.augment import engine, erase, geometry, native, pillow
from bench.augment.engine import Fill, Program
from bench.augment.geometry import Frame
from bench.augment.operations import FAMILY, INDEX, OPERATIONS
from bench.errors import ConfigError
from tests.oracle.images import from_pillow, to_pillow

Tensor = torch.Tensor
Rows = list[list[int]]
both = pytest.mark.parametrize("which", ["native", "tensors"])


def steps(*parts: tuple[str, float], count: int = 1) -> Program:
    """The same operations for each image, Cutout in the middle."""
    shape = (count, len(parts))
    operation = torch.tensor([INDEX[name] for name, _ in parts], dtype=torch.int64)
    magnitude = torch.tensor([m for _, m in parts], dtype=torch.float64)
    place = torch.full((*shape, 2), 0.5, dtype=torch.float64)
    return Program(operation.expand(shape), magnitude.expand(shape), place)


def grey(rows: Rows) -> Tensor:
    return torch.tensor([[rows]], dtype=torch.uint8)


def execute(which: str, images: Tensor, program: Program, fill: Fill = engine.BLACK) -> Tensor:
    with patch.dict(os.environ, {native.SWITCH: which}):
        return engine.execute(images, program, fill)


# Worked examples


EXAMPLES: list[tuple[str, float, Rows, Rows]] = [
    ("identity", 5, [[1, 2]], [[1, 2]]),
    ("translate-x", 1, [[1, 2, 3]], [[2, 3, 9]]),
    ("translate-x", -2, [[1, 2, 3]], [[9, 9, 1]]),
    ("translate-x", 0.5, [[1, 2, 3]], [[2, 3, 9]]),
    ("translate-x", 0.49, [[1, 2, 3]], [[1, 2, 3]]),
    ("translate-y", 1, [[1], [2], [3]], [[2], [3], [9]]),
    ("translate-y", 4096, [[1], [2], [3]], [[9], [9], [9]]),
    ("shear-x", 1, [[1, 2, 3], [4, 5, 6], [7, 8, 0]], [[2, 3, 9], [6, 9, 9], [9, 9, 9]]),
    ("shear-y", -1, [[1, 2, 3], [4, 5, 6], [7, 8, 0]], [[1, 9, 9], [4, 2, 9], [7, 5, 3]]),
    ("rotate", 90, [[1, 2], [3, 4]], [[2, 4], [1, 3]]),
    ("rotate", -90, [[1, 2], [3, 4]], [[3, 1], [4, 2]]),
    ("rotate", 180, [[1, 2, 3], [4, 5, 6]], [[6, 5, 4], [3, 2, 1]]),
    ("rotate", 90, [[1, 2, 3, 4]], [[9, 3, 9, 9]]),
    ("flip-lr", 0, [[1, 2], [3, 4]], [[2, 1], [4, 3]]),
    ("flip-ud", 0, [[1, 2], [3, 4]], [[3, 4], [1, 2]]),
    ("invert", 0, [[0, 1, 255]], [[255, 254, 0]]),
    ("solarize", 128, [[0, 127, 128, 255]], [[0, 127, 127, 0]]),
    ("solarize", 127.5, [[0, 128, 129, 255]], [[0, 128, 126, 0]]),
    ("solarize", 256, [[0, 7, 255]], [[255, 248, 0]]),
    ("posterize", 4, [[15, 16, 255]], [[0, 16, 240]]),
    ("posterize", 7.9, [[127, 128, 255]], [[0, 128, 128]]),
    ("posterize", 8, [[15, 128, 255]], [[0, 0, 0]]),
    ("solarize-add", 130, [[0, 127, 128, 200]], [[130, 255, 128, 200]]),
    ("autocontrast", 0, [[10, 20, 30]], [[0, 127, 255]]),
    ("autocontrast", 0, [[10, 10]], [[10, 10]]),
    ("equalize", 0, [[10, 20, 30]], [[10, 20, 30]]),  # too few pixels for a step
    ("brightness", 1, [[0, 60, 200]], [[0, 120, 255]]),
    ("brightness", -0.5, [[0, 61, 200]], [[0, 30, 100]]),
    ("brightness", -2, [[0, 61, 200]], [[0, 0, 0]]),
    ("contrast", -1, [[0, 1]], [[1, 1]]),  # a mean of one half is rounded up
    ("contrast", 1, [[100, 120]], [[90, 130]]),
    ("color", 1, [[3, 200]], [[3, 200]]),  # grey already
    ("smooth", 0, [[0, 0, 0], [0, 130, 0], [0, 0, 26]], [[0, 0, 0], [0, 52, 0], [0, 0, 26]]),
    ("smooth", 0, [[0, 255, 0], [1, 2, 3]], [[0, 255, 0], [1, 2, 3]]),
    ("sharpness", 1, [[0, 0, 0], [0, 130, 0], [0, 0, 26]], [[0, 0, 0], [0, 208, 0], [0, 0, 26]]),
    ("sharpness", -0.5, [[0] * 3, [0, 130, 0], [0, 0, 26]], [[0] * 3, [0, 91, 0], [0, 0, 26]]),
    (
        *("blur", 0, [[16, 8, 8, 8, 16], [8, 255, 255, 255, 8], [8, 255, 0, 255, 8]]),
        [[16, 8, 8, 8, 16], [8, 255, 255, 255, 8], [8, 255, 0, 255, 8]],
    ),
    ("cutout", 2, [[1] * 6] * 6, [[1] * 6] * 2 + [[1, 1, 5, 5, 5, 1]] * 3 + [[1] * 6]),
    ("cutout", 0.5, [[1] * 4], [[1, 5, 1, 1]]),
    ("cutout", 99, [[1] * 3] * 2, [[5] * 3] * 2),
]  # fmt: skip


@both
@pytest.mark.parametrize(("name", "magnitude", "before", "after"), EXAMPLES)
def test_examples(which: str, name: str, magnitude: float, before: Rows, after: Rows) -> None:
    images, fill = grey(before), Fill((9,), (5,))
    assert execute(which, images, steps((name, magnitude)), fill).tolist() == [[after]]
    (image,) = to_pillow(images)
    assert from_pillow([pillow.apply(image, name, magnitude, fill=fill)]).tolist() == [[after]]


def test_there_is_an_example_of_each() -> None:
    assert {name for name, *_ in EXAMPLES} == set(INDEX)


@both
def test_blurring_by_hand(which: str) -> None:
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[..., 0, :], image[..., 1, 1] = 16, 255  # five of the ring's 16 pixels, one within it
    out = execute(which, image, steps(("blur", 0)))
    assert out[0, 0, 2, 2] == 5
    out[0, 0, 2, 2] = 0
    assert torch.equal(out, image)


@both
def test_equalizing_by_hand(which: str) -> None:
    """600 pixels of 0, 300 of 5, 120 of 9: step (1020 - 120) // 255 = 3."""
    values = torch.tensor([0] * 600 + [5] * 300 + [9] * 120, dtype=torch.uint8)
    out = execute(which, values.view(1, 1, 30, 34), steps(("equalize", 0)))
    expected = {0: 1 // 3, 5: (1 + 600) // 3, 9: min(255, (1 + 900) // 3)}
    assert out.flatten().tolist() == [expected[v] for v in values.tolist()]


@both
def test_colour_by_hand(which: str) -> None:
    """Luma of pure red is 76; without colour a pixel is its luma."""
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert execute(which, red, steps(("color", -1))).flatten().tolist() == [76, 76, 76]
    assert execute(which, red, steps(("color", -0.5))).flatten().tolist() == [165, 38, 38]


@both
def test_channels_are_stretched_one_by_one(which: str) -> None:
    image = torch.tensor([[10, 20], [0, 255], [7, 7]], dtype=torch.uint8).view(1, 3, 1, 2)
    found = execute(which, image, steps(("autocontrast", 0)))
    assert found.view(3, 2).tolist() == [[0, 255], [0, 255], [7, 7]]


@both
def test_slots_are_done_in_order(which: str) -> None:
    images = grey([[1, 2, 3]])
    there = steps(("translate-x", 1), ("identity", 0), ("translate-x", -1))
    assert execute(which, images, there, Fill((9,))).tolist() == [[[[9, 2, 3]]]]
    back = steps(("translate-x", -1), ("translate-x", 1))
    assert execute(which, images, back, Fill((9,))).tolist() == [[[[1, 2, 9]]]]
    inverted = steps(("translate-x", 1), ("invert", 0))
    assert execute(which, images, inverted, Fill((9,))).tolist() == [[[[253, 252, 246]]]]


@both
def test_images_have_programs_of_their_own(which: str) -> None:
    images = grey([[1, 2, 3]]).expand(4, -1, -1, -1)
    names = ["invert", "flip-lr", "identity", "posterize"]
    operation = torch.tensor([[INDEX[name]] for name in names])
    magnitude = torch.ones((4, 1), dtype=torch.float64)
    program = Program(operation, magnitude, torch.zeros((4, 1, 2), dtype=torch.float64))
    assert len(program) == 4
    found = execute(which, images, program).flatten(1).tolist()
    assert found == [[254, 253, 252], [3, 2, 1], [1, 2, 3], [0, 2, 2]]


@both
def test_one_colour_or_one_per_channel(which: str) -> None:
    images = torch.zeros((1, 3, 2, 2), dtype=torch.uint8)
    program = steps(("translate-x", 5), ("cutout", 0.5))
    for outside, hole in [((7,), (1, 2, 3)), ((7, 8, 9), (4,))]:
        found = execute(which, images, program, Fill(outside, hole))
        assert found[0, :, 1, 1].tolist() == list(outside * 3)[:3]
        assert found[0, :, 0, 0].tolist() == list(hole * 3)[:3]


@both
@pytest.mark.parametrize("slots", [0, 2])
def test_doing_nothing_gives_a_copy(which: str, slots: int) -> None:
    images = grey([[1, 2], [3, 4]])
    found = execute(which, images, steps(*[("identity", 0.0)] * slots))
    assert torch.equal(found, images)
    assert found.data_ptr() != images.data_ptr()


# Refusals


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros((1, 3, 4, 4)),
        torch.zeros((1, 2, 4, 4), dtype=torch.uint8),
        torch.zeros((1, 4, 4, 4), dtype=torch.uint8),
        torch.zeros((3, 4, 4), dtype=torch.uint8),
        torch.zeros((1, 3, 4, 4), dtype=torch.int8),
    ],
)
def test_what_is_no_batch_of_images(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"is no .* batch of images"):
        engine.execute(images, steps(("invert", 0)))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_programs_of_another_length(count: int) -> None:
    images = torch.zeros((2, 3, 4, 4), dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"{count} programs for 2 images"):
        engine.execute(images, steps(("invert", 0), count=count))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (1, 40_000), (40_000, 1)])
def test_sides_that_no_image_has(size: tuple[int, int]) -> None:
    images = torch.zeros((1, 1, *size), dtype=torch.uint8)
    with pytest.raises(ValueError, match="sides of 1 to 32767"):
        engine.execute(images, steps(("contrast", 0.5)))


@pytest.mark.parametrize(
    "part",
    [
        {"operation": torch.zeros((1, 2), dtype=torch.int32)},
        {"magnitude": torch.zeros((1, 2))},
        {"magnitude": torch.zeros((1, 1), dtype=torch.float64)},
        {"place": torch.zeros((1, 2), dtype=torch.float64)},
        {"operation": torch.zeros(2, dtype=torch.int64)},
    ],
)
def test_what_is_no_program(part: dict[str, Tensor]) -> None:
    good = {
        "operation": torch.zeros((1, 2), dtype=torch.int64),
        "magnitude": torch.zeros((1, 2), dtype=torch.float64),
        "place": torch.zeros((1, 2, 2), dtype=torch.float64),
    }
    Program(**good)
    with pytest.raises(ValueError, match="is no part of a program"):
        Program(**good | part)


@pytest.mark.parametrize(
    ("name", "magnitude"),
    [
        ("posterize", -1),
        ("posterize", 9),
        ("solarize", 257),
        ("solarize-add", -5),
        ("translate-x", math.inf),
        ("rotate", math.nan),
        ("shear-y", 8.1),
        ("color", -101),
    ],
)
def test_magnitudes_outside_the_catalogue(name: str, magnitude: float) -> None:
    images = torch.zeros((1, 3, 4, 4), dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"{name} with magnitude"):
        engine.execute(images, steps((name, magnitude)))


@pytest.mark.parametrize("number", [-1, len(OPERATIONS)])
def test_operations_outside_the_catalogue(number: int) -> None:
    images, program = torch.zeros((1, 3, 4, 4), dtype=torch.uint8), steps(("invert", 0))
    program.operation[:] = number
    with pytest.raises(ValueError, match=f"operation {number}"):
        engine.execute(images, program)


@pytest.mark.parametrize("size", [(64, 9000), (9000, 64)])
@pytest.mark.parametrize("name", ["shear-x", "shear-y"])
def test_a_warp_that_overflows_is_refused_and_the_rest_is_exact(
    name: str, size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (1, 1, *size), generator=generator).to(torch.uint8)
    along = size[1] if name == "shear-y" else size[0]
    if along == 9000:
        with pytest.raises(ValueError, match=r"range of 16\.16"):
            engine.execute(images, steps((name, 8.0)))
    slope = 1.1 if along == 9000 else 8.0
    out = engine.execute(images, steps((name, slope)))
    expected = pillow.apply(Image.fromarray(images[0, 0].numpy()), name, slope)
    assert np.array_equal(out[0, 0].numpy(), np.array(expected))


# Coefficients


def pillow_rotation(degrees: float, width: int, height: int) -> tuple[list[int], list[int]]:
    """Image.rotate in Python, then affine_fixed of Geometry.c; columns and rows it reads."""
    angle = -math.radians(degrees % 360.0)
    a, b = round(math.cos(angle), 15), round(math.sin(angle), 15)
    d, e = round(-math.sin(angle), 15), round(math.cos(angle), 15)
    x, y = width / 2.0, height / 2.0
    c, f = a * -x + b * -y + 0.0 + x, d * -x + e * -y + 0.0 + y

    def fix(v: float) -> int:
        return math.floor(v * 65536.0 + 0.5)

    first = [fix(a), fix(b), fix(c + a * 0.5 + b * 0.5)]
    return first, [fix(d), fix(e), fix(f + d * 0.5 + e * 0.5)]


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (224, 224), (1, 6), (4095, 4096)])
def test_coefficients_of_rotations(size: tuple[int, int]) -> None:
    """NumPy's trigonometry and rounding end in the integers of Python's."""
    height, width = size
    rng = np.random.default_rng(height)
    degrees = np.concatenate([rng.uniform(-360, 360, 4000), np.arange(-359, 360) + 0.5])
    names = np.full(len(degrees), "rotate")
    found = geometry.coefficients(names, degrees, Frame(height, width)).T.tolist()
    expected = [pillow_rotation(angle, width, height) for angle in degrees.tolist()]
    assert found == [[*first, *second] for first, second in expected]


def test_coefficients_by_hand() -> None:
    names = np.array(["shear-x", "shear-y", "translate-x", "translate-y", "flip-lr", "flip-ud"])
    magnitudes = np.array([0.25, -1.0, 2.5, -3.25, 0.0, 0.0])
    found = geometry.coefficients(names, magnitudes, Frame(4, 7)).T.tolist()
    one, half = 65536, 32768
    assert found == [
        [one, 16384, half + 8192, 0, one, half],
        [one, 0, half, -one, one, 0],
        [one, 0, 3 * one + half, 0, one, half],
        [one, 0, half, 0, one, -3 * one + half],
        [-one, 0, 6 * one + half, 0, one, half],
        [one, 0, half, 0, -one, 3 * one + half],
    ]


def test_boxes_by_hand() -> None:
    """Both ends belong to the square, so one of side 4 has up to five columns."""
    sides = np.array([4.0, 4.0, 4.0, 0.0, 1.5])
    centres = np.array([[0.5, 0.5], [0.0, 0.0], [0.9, 0.9], [0.5, 0.5], [0.5, 0.25]])
    found = erase.boxes(sides, centres, Frame(10, 20)).T.tolist()
    assert found[:3] == [[8, 12, 3, 7], [0, 4, 0, 4], [16, 20, 7, 10]]
    assert found[3][1] < found[3][0]
    assert found[4] == [9, 10, 1, 2]


# The catalogue


def test_the_catalogue_is_in_order() -> None:
    names = [operation.name for operation in OPERATIONS]
    assert len(set(names)) == len(names) == 21
    assert [INDEX[name] for name in names] == list(range(len(names)))
    assert (np.diff(FAMILY) >= 0).all(), "a family is a span of numbers"
    assert names[0] == "identity"
    for operation in OPERATIONS:
        assert operation.low <= 0 <= operation.high
        assert not operation.signed or operation.low == -operation.high < 0


def test_the_source_in_c_numbers_operations_alike() -> None:
    text = native.SOURCE.read_text(encoding="utf-8")
    found = re.search(r"enum \{([^}]*)\}", text)
    assert found is not None
    names = [name.strip().lower().replace("_", "-") for name in found[1].split(",")]
    assert names == [operation.name for operation in OPERATIONS]


# Which engine


@pytest.fixture
def no_library() -> Iterator[None]:
    """The library is looked for anew, in the test and after it."""
    native._library.cache_clear()
    yield
    native._library.cache_clear()


def program_and_images() -> tuple[Tensor, Program]:
    images = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
    return images, steps(("rotate", 30), ("color", 0.5), ("cutout", 1))


def test_without_a_compiler_tensors_do_it(
    no_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, program = program_and_images()
    expected = engine.execute(images, program)
    native._library.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(native, "run", lambda *_: pytest.fail("there is no library"))
    assert not native.available()
    assert native.engine_name() == "tensors"
    assert torch.equal(engine.execute(images, program), expected)


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "tensors")
    monkeypatch.setattr(native, "run", lambda *_: pytest.fail("this engine is switched off"))
    assert native.engine_name() == "tensors"
    engine.execute(*program_and_images())


def compiler(folder: Path, script: str) -> str:
    """A compiler of our own, which counts its calls in a file."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_a_compiler_that_fails(
    no_library: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", compiler(tmp_path, "echo unknown flag >&2; exit 1"))
    with pytest.raises(ConfigError, match=r"cannot compile native\.c .*unknown flag"):
        native.available()
    assert not list((tmp_path / "cache").rglob("*.so")), "no half a library stays behind"


@pytest.mark.skipif(native.engine_name() != "native", reason="no C compiler, so no engine in C")
def test_the_library_is_compiled_once(
    no_library: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    script = (
        f'[ "$1" = --version ] || echo call >> {calls}\nexec {os.environ.get("CC", "cc")} "$@"'
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", compiler(tmp_path, script))
    images, program = program_and_images()
    first = engine.execute(images, program)
    native._library.cache_clear()
    assert torch.equal(engine.execute(images, program), first)
    assert calls.read_text().split() == ["call"]
    assert len(list((tmp_path / "cache").rglob("native-*.so"))) == 1
