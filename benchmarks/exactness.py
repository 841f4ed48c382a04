"""The engine's bits against Pillow's, next to those of torchvision and kornia.

    python benchmarks/exactness.py [--quick] [--data PATH] [--out docs/exactness.md]

Every operation at a grid of magnitudes on photos, awkward images and CIFAR-10 (where it is found);
each library gets the same images and, of the same magnitudes, those that it can express, by the
function that comes closest to Pillow's.  Then ours alone on more sizes, magnitudes and random
programs, the engine in C and the one on tensors.  Prints and writes a Markdown page; a few
minutes on one core.

kornia is left out where it is not installed: pip install ".[peers]"

Figure: `mismatches`, the images that came out of ours other than out of Pillow, over all
comparisons.
"""

import argparse
import math
import os
import platform
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import PIL
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional as v1
from torchvision.transforms.v2 import functional as v2

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.augment import native, pillow  # noqa: E402
from bench.augment.engine import Fill, Program, execute  # noqa: E402
from bench.augment.operations import OPERATIONS  # noqa: E402
from tests.oracle import images as sets  # noqa: E402

Tensor = torch.Tensor
Floats = NDArray[np.float64]
Apply = Callable[[Tensor, float], Tensor]
NEAREST = v1.InterpolationMode.NEAREST
NAMES = [operation.name for operation in OPERATIONS]
ENHANCERS = ("brightness", "contrast", "color", "sharpness")
COLOURED = Fill((10, 200, 30), (125, 123, 114))
ENGINES = ("native", "tensors")
SIZES = ((33, 47), (8, 8), (3, 5), (1, 1), (224, 224))
FURTHEST = dict.fromkeys(("shear-x", "shear-y", *ENHANCERS), 1.0)  # for the other libraries


@dataclass
class Count:
    """How often, and how far, images differ from Pillow's.

    Attributes:
        images: Compared.
        differing: Of them.
        largest: Difference of a value.
    """

    images: int = 0
    differing: int = 0
    largest: int = 0

    def add(self, found: Tensor, expected: Tensor) -> None:
        """Compares two batches."""
        gap = (found.int() - expected.int()).abs().flatten(1).amax(1)
        self.images += len(gap)
        self.differing += int((gap > 0).sum())
        self.largest = max(self.largest, int(gap.max()))

    def __str__(self) -> str:
        if not self.differing:
            return "0"
        return f"{self.differing:,} ({self.differing / self.images:.2%}), by up to {self.largest}"


@dataclass(frozen=True)
class Library:
    """One column of the table.

    Attributes:
        name: With its version.
        functions: What comes closest to Pillow, on (B, 3, H, W) uint8.
        accepts: Whether it can express an operation's magnitude.
    """

    name: str
    functions: dict[str, Apply]
    accepts: Callable[[str, float], bool] = field(default=lambda name, magnitude: True)


TOTAL: list[Count] = []  # of ours, over both tables


# The libraries


def torchvision_functions(f: object) -> dict[str, Apply]:
    """Of torchvision's functions on tensors, version 1 or 2, the calls that its policies make."""

    def affine(x: Tensor, translate: list[int], shear: list[float]) -> Tensor:
        return f.affine(
            *(x, 0.0, translate, 1.0, shear), interpolation=NEAREST, fill=[0.0], center=[0, 0]
        )

    def slope(m: float) -> float:
        return math.degrees(math.atan(m))

    return {
        "identity": lambda x, m: x,
        "shear-x": lambda x, m: affine(x, [0, 0], [slope(m), 0.0]),
        "shear-y": lambda x, m: affine(x, [0, 0], [0.0, slope(m)]),
        "translate-x": lambda x, m: affine(x, [-int(m), 0], [0.0, 0.0]),
        "translate-y": lambda x, m: affine(x, [0, -int(m)], [0.0, 0.0]),
        "rotate": lambda x, m: f.rotate(x, m, interpolation=NEAREST, fill=[0.0]),
        "flip-lr": lambda x, m: f.hflip(x),
        "flip-ud": lambda x, m: f.vflip(x),
        "invert": lambda x, m: f.invert(x),
        "solarize": lambda x, m: f.solarize(x, 256 - m),
        "posterize": lambda x, m: f.posterize(x, 8 - int(m)),
        "autocontrast": lambda x, m: f.autocontrast(x),
        "equalize": lambda x, m: f.equalize(x),
        "brightness": lambda x, m: f.adjust_brightness(x, 1 + m),
        "contrast": lambda x, m: f.adjust_contrast(x, 1 + m),
        "color": lambda x, m: f.adjust_saturation(x, 1 + m),
        "sharpness": lambda x, m: f.adjust_sharpness(x, 1 + m),
    }


def expressible(name: str, magnitude: float) -> bool:
    """Which magnitudes the other libraries take: whole shifts, thresholds to 255, factors >= 0."""
    if name in ("translate-x", "translate-y", "posterize"):
        return magnitude == int(magnitude)
    if name == "solarize":
        return magnitude >= 1
    return magnitude >= -1 if name in ENHANCERS else True


def kornia_functions() -> dict[str, Apply]:
    """Of kornia's functions, the ones that come closest to Pillow's.

    brightness multiplies, contrast and color mix with the mean and the grey image; `adjust_`
    functions of the plain names mean other things.  A shear gets the matrix of Pillow's, which
    starts at the upper left corner of the image, in coordinates of pixel centres.
    """
    from kornia import enhance
    from kornia.geometry import transform

    def each(x: Tensor, *row: float) -> Tensor:
        return torch.tensor(row).expand(len(x), -1)

    def shear(x: Tensor, across: float, down: float) -> Tensor:
        rows = [[1.0, -across, -across / 2], [-down, 1.0, -down / 2]]
        matrix = torch.tensor(rows).expand(len(x), 2, 3)
        return transform.warp_affine(x, matrix, x.shape[-2:], mode="nearest", align_corners=True)

    def on_floats(function: Apply) -> Apply:
        def run(images: Tensor, m: float) -> Tensor:
            return (function(images / 255.0, m) * 255).round().clamp(0, 255).to(torch.uint8)

        return run

    found: dict[str, Apply] = {
        "identity": lambda x, m: x,
        "shear-x": lambda x, m: shear(x, m, 0.0),
        "shear-y": lambda x, m: shear(x, 0.0, m),
        "translate-x": lambda x, m: transform.translate(x, each(x, -m, 0.0), mode="nearest"),
        "translate-y": lambda x, m: transform.translate(x, each(x, 0.0, -m), mode="nearest"),
        "rotate": lambda x, m: transform.rotate(x, each(x, m)[:, 0], mode="nearest"),
        "flip-lr": lambda x, m: transform.hflip(x),
        "flip-ud": lambda x, m: transform.vflip(x),
        "invert": lambda x, m: enhance.invert(x),
        "solarize": lambda x, m: enhance.solarize(x, (256 - m) / 255),
        "posterize": lambda x, m: enhance.posterize(x, 8 - int(m)),
        "autocontrast": lambda x, m: enhance.normalize_min_max(x).clamp(0, 1),
        "equalize": lambda x, m: enhance.equalize(x),
        "brightness": lambda x, m: enhance.adjust_brightness_accumulative(x, 1 + m),
        "contrast": lambda x, m: enhance.adjust_contrast_with_mean_subtraction(x, 1 + m),
        "color": lambda x, m: enhance.adjust_saturation_with_gray_subtraction(x, 1 + m),
        "sharpness": lambda x, m: enhance.sharpness(x, 1 + m),
    }
    return {name: on_floats(function) for name, function in found.items()}


def libraries() -> tuple[list[Library], list[str]]:
    """The other libraries that are installed, and why the rest is left out."""
    version = torchvision.__version__.split("+")[0]
    found = [
        Library(f"torchvision {version}, tensors", torchvision_functions(v1), expressible),
        Library(f"torchvision {version}, v2 tensors", torchvision_functions(v2), expressible),
    ]
    try:
        import kornia
    except ImportError as error:
        return found, [f"kornia is left out: it is not installed here ({error})."]
    return [*found, Library(f"kornia {kornia.__version__}", kornia_functions(), expressible)], []


# Comparisons


@dataclass(frozen=True)
class Pictures:
    """Images for the engine, and the same for Pillow."""

    tensor: Tensor
    originals: Sequence[Image.Image]

    @classmethod
    def of(cls, *parts: Tensor) -> "Pictures":
        """Batches of one size, joined."""
        joined = torch.cat(parts)
        return cls(joined, sets.to_pillow(joined))

    def reference(self, program: Program, fill: Fill) -> Tensor:
        """What Pillow gives."""
        rows = enumerate(self.originals)
        return sets.from_pillow([pillow.execute(image, program, r, fill) for r, image in rows])

    def compare(self, program: Program, fill: Fill, count: Count) -> Tensor:
        """Counts what the engine in C and the one on tensors give; returns what Pillow gives."""
        expected = self.reference(program, fill)
        for name in ENGINES:
            with patch.dict(os.environ, {native.SWITCH: name}):
                if native.engine_name() == name:
                    count.add(execute(self.tensor, program, fill), expected)
        return expected


def thinned(name: str, height: int, width: int, most: int) -> Floats:
    """At most this many magnitudes, evenly spaced among those of the grid that papers reach."""
    grid = sets.grid(name, height, width)
    distinct = np.unique(grid[np.abs(grid) <= FURTHEST.get(name, math.inf)])
    return distinct[np.unique(np.linspace(0, len(distinct) - 1, most).round().astype(int))]


def against_libraries(all_: Pictures, others: Sequence[Library], most: int) -> Iterator[list[str]]:
    """Rows of the first table."""
    for name in NAMES:
        magnitudes = thinned(name, *all_.tensor.shape[-2:], most)
        mine, theirs = Count(), [Count() for _ in others]
        for magnitude in magnitudes:
            program = sets.single(name, np.full(len(all_.tensor), magnitude))
            expected = all_.compare(program, Fill(), mine)
            for library, count in zip(others, theirs, strict=True):
                if name in library.functions and library.accepts(name, magnitude):
                    count.add(library.functions[name](all_.tensor, float(magnitude)), expected)
        TOTAL.append(mine)
        cells = [str(count) if count.images else "—" for count in theirs]
        yield [name, str(len(magnitudes)), str(mine), *cells]


def more_of_ours(all_: Pictures, quick: bool) -> Iterator[list[str]]:
    """Rows of the second table."""
    yield dense(Pictures.of(all_.tensor[::4]))
    for height, width in SIZES:
        for channels in (3, 1):
            yield other_size(height, width, channels, 2 if quick else 12)
    for slots in range(1, 6):
        count = Count()
        for seed in range(1 if quick else 8):
            program = sets.random_program(len(all_.tensor), slots, 32, 32, seed)
            all_.compare(program, COLOURED, count)
        yield ["those above", f"random programs of {slots} operations", *cells_of(count)]


def dense(some: Pictures) -> list[str]:
    """All magnitudes that there are."""
    magnitudes, count = 0, Count()
    for name in NAMES:
        grid = np.unique(sets.grid(name, 32, 32, dense=True))
        magnitudes += len(grid)
        for number, magnitude in enumerate(grid):
            program = sets.single(name, np.full(len(some.tensor), magnitude), number)
            some.compare(program, COLOURED, count)
    what = f"{magnitudes:,} pairs of operation and magnitude"
    return ["a quarter of those above", what, *cells_of(count)]


def other_size(height: int, width: int, channels: int, turns: int) -> list[str]:
    """Photos and awkward images of another size."""
    parts = [f(height, width, channels) for f in (partial(sets.some_photos, 24), sets.awkward)]
    some, count = Pictures.of(*(part[:: 12 if height > 200 else 1] for part in parts)), Count()
    fill = Fill(COLOURED.outside[:channels], COLOURED.hole[:channels])
    for name in NAMES:
        for turn in range(turns):
            grid = sets.grid(name, height, width)
            drawn = np.random.default_rng(turn).choice(grid, len(some.tensor))
            some.compare(sets.single(name, drawn, turn), fill, count)
    which = f"photos and awkward, {height}×{width}, {'RGB' if channels == 3 else 'grey'}"
    return [which, "every operation, magnitudes at random", *cells_of(count)]


def cells_of(count: Count) -> list[str]:
    """Its cells, and a line in the total."""
    TOTAL.append(count)
    return [f"{count.images:,}", str(count)]


def pictures(data: Path | None) -> tuple[Tensor, str]:
    """The images of the first table, and what they are."""
    photos, awkward = sets.photos(32, 32), sets.awkward(32, 32)
    parts, words = [photos, awkward], f"{len(photos)} patches of scikit-learn's two photos"
    places = [data, Path(os.environ.get("AUGBENCH_DATA", "data")), ROOT.parent / "shared" / "data"]
    folder = next((p / "cifar10-jpeg-small" for p in places if p and is_cifar(p)), None)
    if folder is not None:
        parts.append(sets.cifar(folder, 600))
        words += ", the first 600 training images of CIFAR-10 (JPEG, small)"
    words += f" and {len(awkward)} awkward images (constants, two levels, gradients, noise …)"
    return torch.cat(parts), words


def is_cifar(place: Path) -> bool:
    """Whether a folder holds CIFAR-10 (JPEG, small)."""
    return (place / "cifar10-jpeg-small").is_dir()


# The page

PAGE = """# Exactness

{about}

## Against other libraries

{explanation}

{first}

{peers}

## Ours alone

{second}

Comparisons of ours, over both tables: {total:,}.  Mismatches: {mismatches:,}.

## Limits

- Nearest-neighbour warps only, and images of one or three channels.
- Where a warp reads coordinates of 32,768 or more anywhere in an image, Pillow leaves fixed-point
  arithmetic and some pixels differ.  With sides of up to 4,096 pixels that takes a shear by more
  than 6.
- Translations by a hair less than a whole number and a half, such as 1.4999999999999998: Pillow
  adds 1 from pixel to pixel, and such a sum rounds up on the way.  Spaces put translations on a
  grid of 2⁻²⁰ pixels, where all sums are exact.
- posterize to 0 bits is black, as in older Pillows; Pillow 13 refuses it.  solarize-add and cutout
  are no functions of Pillow's; they follow TensorFlow's and AutoAugment's published code.
- A Pillow that was built to fuse multiplication and addition, as compilers for other processors
  may do, can differ from the x86-64 wheels, and so from the engine.
"""
ABOUT = """Made by `python benchmarks/exactness.py` with {versions}.  The engine gives Pillow's
bits: the tests of `tests/oracle/test_engine_pillow.py` have passed with Pillow {covered} (x86-64
wheels), and one of them fails where a Pillow outside this range is installed."""
EXPLANATION = """How many images differ from Pillow's in any value, and by how much at most.  Every
column but ours has only the magnitudes that the library can express: whole translations, solarize
thresholds up to 255; — where it has no such operation.  Ours counts {engines}.  Images, all
32×32 RGB: {images}.  Magnitudes: at most {most} for each operation, over the range that papers use
(shears and enhancers up to 1) and their grids; corners are filled with black."""
PEERS = """torchvision's functions are called on a uint8 tensor, as its AutoAugment classes do.
kornia computes on floats in [0, 1]; we round 255 times its result.  Of its functions those that
mean what Pillow means are taken: `adjust_brightness_accumulative` (its `adjust_brightness` adds),
`adjust_contrast_with_mean_subtraction`, `adjust_saturation_with_gray_subtraction`,
`normalize_min_max` for autocontrast; shears by `warp_affine` with Pillow's matrix for pixel
centres.  To differ from Pillow is no error of theirs: neither library promises its bits, and
kornia's autocontrast makes a channel of one value black, where Pillow leaves it.  kornia comes
with `pip install ".[peers]"`."""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def wrapped(text: str, **parts: object) -> str:
    """A paragraph of the page."""
    return textwrap.fill(text.format(**parts), 99, break_long_words=False, break_on_hyphens=False)


def page(given: argparse.Namespace) -> str:
    """Compares everything and writes it down."""
    images, words = pictures(given.data)
    images = images[::10] if given.quick else images
    words += ", every tenth of them" if given.quick else ""
    others, missing = libraries()
    most = 16 if given.quick else 64
    heads = ["operation", "magnitudes", "ours", *(library.name for library in others)]
    all_ = Pictures.of(images)
    first = table(heads, list(against_libraries(all_, others, most)))
    heads = ["images", "what", "comparisons", "differing"]
    second = table(heads, list(more_of_ours(all_, given.quick)))
    engines = [name for name in ENGINES if name == "tensors" or native.available()]
    texts = {"native": "the engine in C", "tensors": "the one on tensors"}
    versions = f"Pillow {PIL.__version__}, torch {torch.__version__}, {platform.machine()}, no GPU"
    covered = f"{', '.join(sets.PILLOW[:-1])} and {sets.PILLOW[-1]}"
    return PAGE.format(
        about=wrapped(ABOUT, versions=versions, covered=covered),
        explanation=wrapped(
            EXPLANATION,
            engines=" and ".join(texts[name] for name in engines),
            images=words,
            most=most,
        ),
        first=first,
        peers="\n\n".join(wrapped(line) for line in [*missing, PEERS]),
        second=second,
        total=sum(count.images for count in TOTAL),
        mismatches=sum(count.differing for count in TOTAL),
    )


def main() -> None:
    """Prints the page and the figure, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of it; no page by default")
    parser.add_argument("--data", type=Path, help="folder of cifar10-jpeg-small [AUGBENCH_DATA]")
    parser.add_argument("--out", type=Path, help="the page (default docs/exactness.md)")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    text = page(given)
    print(text)
    out = given.out or (None if given.quick else ROOT / "docs" / "exactness.md")
    if out is not None:
        out.write_text(text, encoding="utf-8")
    print(f"figure mismatches {sum(count.differing for count in TOTAL)} count")


if __name__ == "__main__":
    main()
