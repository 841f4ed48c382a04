"""Images and magnitudes for comparisons with Pillow: real photos, awkward images, dense grids."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.augment.engine import Program
from bench.augment.operations import INDEX, OPERATIONS

Tensor = torch.Tensor
Floats = NDArray[np.float64]
# Versions of Pillow that test_engine_pillow.py has passed with; the slow tests too with 10.3.0,
# 11.3.0, 12.3.0 and 13.0.0.
PILLOW = (
    *("10.3.0", "10.4.0", "11.0.0", "11.1.0", "11.2.1", "11.3.0"),
    *("12.0.0", "12.1.1", "12.2.0", "12.3.0", "13.0.0"),
)
SIGNED = [operation.name for operation in OPERATIONS if operation.signed]


def photos(height: int, width: int, channels: int = 3) -> Tensor:
    """Patches of scikit-learn's two photos, in full size, a half, a third and a fifth.

    Patches of one photo share no pixels at the same scale; 704 of them are 32×32.

    Returns:
        (N, channels, height, width) uint8.
    """
    found = []
    for photo in _photos():
        for step in (1, 2, 3, 5):
            reduced = photo[::step, ::step, :channels]
            rows, columns = reduced.shape[0] // height, reduced.shape[1] // width
            cut = reduced[: rows * height, : columns * width]
            patches = cut.reshape(rows, height, columns, width, channels).transpose(0, 2, 4, 1, 3)
            found.append(patches.reshape(-1, channels, height, width))
    return torch.from_numpy(np.concatenate(found))


def some_photos(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    """At most `count` of the patches, evenly spaced."""
    patches = photos(height, width, channels)
    return patches[torch.linspace(0, len(patches) - 1, min(count, len(patches))).long()]


def awkward(height: int, width: int, channels: int = 3) -> Tensor:
    """Constants, two levels, narrow ranges, gradients, noise, single outliers.

    Returns:
        (N, channels, height, width) uint8.
    """
    rng = np.random.default_rng([height, width, channels])
    shape = (height, width, channels)
    y, x = np.mgrid[:height, :width]
    checks, blank = ((x + y) % 2)[..., None], np.zeros(shape, np.int64)
    found = [blank + level for level in (0, 1, 2, 100, 127, 128, 254, 255)]
    found += [blank + np.array([0, 128, 255])[:channels], blank + np.array([7, 7, 250])[:channels]]
    for low, high in [(0, 255), (0, 1), (254, 255), (100, 101), (127, 128), (3, 250)]:
        found.append(blank + np.where(checks, high, low))
        found.append(np.where(rng.random(shape) < 0.5, high, low))
    for low, high in [(0, 3), (120, 126), (250, 256), (5, 251), (0, 40), (200, 256), (64, 192)]:
        found.append(rng.integers(low, high, shape))
    slopes = [x, y, x + y, 255 - x, 7 * x, 11 * y, x * y, 255 * x // max(1, width - 1)]
    found += [blank + slope[..., None] % 256 for slope in slopes]
    for base, odd in [(0, 255), (255, 0), (128, 129), (0, 1), (30, 40)]:
        image = blank + base
        image[rng.integers(height), rng.integers(width), rng.integers(channels)] = odd
        found.append(image)
    found += [rng.integers(0, 256, shape) for _ in range(8)]
    found += [(255 * rng.beta(0.3, 0.3, shape)).astype(np.int64) for _ in range(4)]
    stacked = np.stack(found).astype(np.uint8).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(stacked))


def cifar(folder: Path, count: int) -> Tensor:
    """The first training images of CIFAR-10 (JPEG), (count, 3, 32, 32) uint8."""
    import io

    import pyarrow.parquet as parquet

    path = next(iter(sorted(folder.glob("train-*.parquet"))))
    column = parquet.read_table(path, columns=["img"]).column("img")[:count].to_pylist()
    decoded = [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in column]
    return from_pillow(decoded)


def to_pillow(images: Tensor) -> list[Image.Image]:
    """(B, C, H, W) as images of mode L or RGB."""
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    return [Image.fromarray(row[..., 0] if row.shape[2] == 1 else row) for row in pixels]


def from_pillow(images: Iterable[Image.Image]) -> Tensor:
    """Images of one size and mode as (B, C, H, W)."""
    pixels = np.stack([np.asarray(image) for image in images])
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def grid(name: str, height: int, width: int, dense: bool = False) -> Floats:
    """Magnitudes of an operation that cover its range, its corners and the grids of papers.

    Args:
        name: Of the operation; [0] where it has no magnitude.
        height: Of the images.
        width: Of the images.
        dense: About four times as many.
    """
    more = 4 if dense else 1
    levels = np.arange(31) / 30
    match name:
        case "shear-x" | "shear-y":
            found = [np.linspace(0, 1, 30 * more + 1), 0.3 * levels, [1.25, 1.5, 2, 3, 5.5, 8]]
            found += [2.0 ** -np.arange(14, 22), [1e-3, 1e-9, 1e-12, 1 / 3, 0.99999]]
        case "translate-x" | "translate-y":
            side = width if name == "translate-x" else height
            whole = np.arange(0, side + 4, 1 if side < 100 or dense else 9).astype(float)
            found = [whole, whole + 0.5, whole + 0.25, [4096.0]]
            found += [np.nextafter(whole, 9e9)]
            found += [0.45 * side * levels, np.linspace(0, side, 10 * more + 1), [1e-9, 1e-20]]
        case "rotate":
            found = [np.linspace(0, 360, 72 * more + 1), 30 * levels, 135 * levels]
            found += [[90 + 1e-12, 180 - 1e-12, 1e-14, 1e-13, 1e-7, 1e-3, 89.9999, 359.99999]]
        case "solarize":
            found = [np.arange(257.0), 256 * levels, np.arange(0, 256, 64 / more) + 0.5]
            found += [[1e-9, 0.999999, 127.25, 128.75, 255.5, 255.999999]]
        case "posterize":
            found = [np.arange(9.0), [0.5, 1.99, 3.2, 7.999], 4 * levels]
        case "solarize-add":
            found = [np.arange(256.0), 110 * levels, [0.5, 127.9]]
        case "brightness" | "contrast" | "color" | "sharpness":
            found = [np.linspace(-3, 8, 44 * more + 1), 1.8 * levels - 0.9, 0.9 * levels]
            found += [-0.9 * levels, [-1.0, 1e-9, -1e-9, 1e-3, -1e-3, -0.999999, 99.0, -99.0]]
        case "cutout":
            found = [np.arange(0, 2 * max(height, width) + 2, 1 if max(height, width) < 50 else 9)]
            found += [np.arange(6) + 0.5, 0.2 * width * levels, [0.01, 0.99, 1.999, 4096.0]]
        case _:
            return np.zeros(1)
    joined = np.concatenate(found)
    return np.concatenate([joined, -joined]) if name in SIGNED else joined


def places(shape: tuple[int, ...], seed: int) -> Tensor:
    """Centres of Cutout squares: half of them anywhere, the others at borders and on pixels."""
    rng = np.random.default_rng(seed)
    anywhere = rng.random((*shape, 2))
    corners = np.array([0.0, 0.5, np.nextafter(1.0, 0), 0.25, 1 / 32, 31 / 32])
    return torch.from_numpy(
        np.where(rng.random((*shape, 2)) < 0.5, anywhere, rng.choice(corners, (*shape, 2)))
    )


def single(name: str, magnitudes: Floats, seed: int = 0) -> Program:
    """The program that applies one operation, at a magnitude for each image."""
    shape = (len(magnitudes), 1)
    operation = torch.full(shape, INDEX[name], dtype=torch.int64)
    return Program(operation, torch.from_numpy(magnitudes[:, None].copy()), places(shape, seed))


def random_program(count: int, slots: int, height: int, width: int, seed: int) -> Program:
    """Operations and magnitudes of the grids at random; a tenth of the slots at magnitude 0.

    Every third image has nothing but warps and identities.
    """
    rng = np.random.default_rng(seed)
    operation = rng.integers(0, len(OPERATIONS), (count, slots))
    warps = [INDEX[name] for name in ("identity", *SIGNED, "flip-lr", "flip-ud")]
    operation[::3] = rng.choice(warps, operation[::3].shape)
    magnitude = np.zeros(operation.shape)
    for number, entry in enumerate(OPERATIONS):
        where = operation == number
        magnitude[where] = rng.choice(grid(entry.name, height, width), where.sum())
    magnitude[rng.random(magnitude.shape) < 0.1] = 0
    where_to = places(operation.shape, seed)
    return Program(torch.from_numpy(operation), torch.from_numpy(magnitude), where_to)


def rows_of(program: Program, rows: Tensor | slice) -> Program:
    """The program of some of the images."""
    return Program(program.operation[rows], program.magnitude[rows], program.place[rows])


@lru_cache(maxsize=1)
def _photos() -> list[NDArray[np.uint8]]:
    from sklearn.datasets import load_sample_images

    return load_sample_images().images
