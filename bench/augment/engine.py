"""The engine: carries out a program, a different sequence of operations for every image, batched.

On the host, whatever needs double precision becomes whole numbers, once for the program: the
fixed-point coefficients of warps, the boxes of Cutout squares.  Then the images are worked on
where they are: by `native` in the processor's memory, by `tensors` on any device, to the same
bits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.augment import erase, geometry, native, tensors
from bench.augment.geometry import Frame
from bench.augment.operations import (
    FAMILY,
    HAS_MAGNITUDE,
    IDENTITY,
    INDEX,
    LEAST,
    MOST,
    NAMES,
    OPERATIONS,
    Family,
)

Tensor = torch.Tensor
CUTOUT = INDEX["cutout"]
LONGEST = 32767  # pixels; beyond it Pillow warps in another way


@dataclass(frozen=True)
class Program:
    """What is done to each image, in order; on the host.

    Attributes:
        operation: (B, L) int64, indices into `OPERATIONS`.
        magnitude: (B, L) float64, signed, in the operation's unit; without meaning where it has
            none.
        place: (B, L, 2) float64 in [0, 1): x and y of Cutout's centre as shares of the image.

    Raises:
        ValueError: If shapes or types are others.
    """

    operation: Tensor
    magnitude: Tensor
    place: Tensor

    def __post_init__(self) -> None:
        shape = self.operation.shape
        wanted = ((self.operation, torch.int64, shape), (self.magnitude, torch.float64, shape))
        for part, dtype, size in (*wanted, (self.place, torch.float64, (*shape, 2))):
            if part.dtype != dtype or part.shape != size or len(shape) != 2:
                raise ValueError(
                    f"{tuple(part.shape)} {part.dtype} is no part of a program: operations and "
                    "magnitudes are (B, L) int64 and float64, places (B, L, 2) float64"
                )

    def __len__(self) -> int:
        return len(self.operation)


@dataclass(frozen=True)
class Fill:
    """Colours, one value or one per channel: outside a warped image, and in a Cutout square."""

    outside: tuple[int, ...] = (0,)
    hole: tuple[int, ...] = (0,)


BLACK = Fill()


def execute(images: Tensor, program: Program, fill: Fill = BLACK) -> Tensor:
    """Applies each image's program to it.

    Args:
        images: (B, C, H, W) uint8 with C 1 or 3, on any device; not changed.
        program: Of B images.
        fill: Colours.

    Returns:
        (B, C, H, W) uint8, bit for bit what Pillow gives (see `operations`).

    Raises:
        ValueError: If these are no such images, the program is of another length, or an operation
            or a magnitude is none of the catalogue's.
    """
    _check(images, len(program))
    magnitude = program.magnitude.numpy()
    operation = program.operation.numpy()
    _check_program(operation, magnitude)
    nothing = HAS_MAGNITUDE[operation] & (magnitude == 0)
    operation = np.where(nothing, IDENTITY, operation)
    frame = Frame(*images.shape[-2:])
    whole = _whole_numbers(operation, magnitude, program.place.numpy(), frame)
    colours = _colours(fill, images.shape[1])
    return _run(images, operation, magnitude, whole, colours)


def warp(images: Tensor, coefficients: NDArray[np.int64], fill: Fill = BLACK) -> Tensor:
    """Applies one ready-made warp (6, B) to each image; the rest is as in `execute`."""
    narrow = _narrow(coefficients, Frame(*images.shape[-2:])) if len(images) else coefficients
    return _one(images, "rotate", narrow, fill)


def erase_boxes(images: Tensor, boxes: NDArray[np.int64], fill: Fill = BLACK) -> Tensor:
    """Fills one box (4, B) of each image: first and last column, first and last row."""
    return _one(images, "cutout", boxes, fill)


def _one(images: Tensor, name: str, numbers: NDArray[np.integer[Any]], fill: Fill) -> Tensor:
    _check(images, numbers.shape[1])
    operation = np.full((len(images), 1), INDEX[name])
    whole = np.zeros((len(images), 1, 6), np.int32)
    whole[:, 0, : len(numbers)] = numbers.T
    return _run(
        images, operation, np.ones(operation.shape), whole, _colours(fill, images.shape[1])
    )


def _run(
    images: Tensor,
    operation: NDArray[np.int64],
    magnitude: NDArray[np.float64],
    whole: NDArray[np.int32],
    colours: NDArray[np.uint8],
) -> Tensor:
    in_memory = images.device.type == "cpu" and native.available()
    run = native.run if in_memory else tensors.run
    return run(images, operation, magnitude, whole, colours)


def _check_program(operation: NDArray[np.int64], magnitude: NDArray[np.float64]) -> None:
    known = (operation >= 0) & (operation < len(OPERATIONS))
    if not known.all():
        raise ValueError(f"operation {operation[~known][0]}: they go from 0 to {len(OPERATIONS)}")
    inside = (magnitude >= LEAST[operation]) & (magnitude <= MOST[operation])
    outside = ~inside & HAS_MAGNITUDE[operation]  # so that NaN is outside too
    if outside.any():
        one = OPERATIONS[operation[outside][0]]
        raise ValueError(
            f"{one.name} with magnitude {magnitude[outside][0]}: {one.low:g} to {one.high:g} "
            f"{one.unit} are allowed"
        )


def _check(images: Tensor, programs: int) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        shape = tuple(images.shape)
        raise ValueError(f"{shape} {images.dtype} is no (B, 1 or 3, H, W) uint8 batch of images")
    if not (0 < images.shape[2] <= LONGEST and 0 < images.shape[3] <= LONGEST):
        size = tuple(images.shape[2:])
        raise ValueError(f"images of {size} pixels: sides of 1 to {LONGEST} are allowed")
    if len(images) != programs:
        raise ValueError(f"{programs} programs for {len(images)} images")


def _whole_numbers(
    operation: NDArray[np.int64],
    magnitude: NDArray[np.float64],
    place: NDArray[np.float64],
    frame: Frame,
) -> NDArray[np.int32]:
    """(B, L, 6): the coefficients of a warp; first and last column and row of a Cutout."""
    out = np.zeros((*operation.shape, 6), np.int32)
    warps = FAMILY[operation] == Family.GEOMETRY
    if warps.any():
        names = NAMES[operation[warps]]
        out[warps] = _narrow(geometry.coefficients(names, magnitude[warps], frame), frame).T
    squares = operation == CUTOUT
    if squares.any():
        out[squares, :4] = erase.boxes(magnitude[squares], place[squares], frame).T
    return out


def _narrow(warp: NDArray[np.int64], frame: Frame) -> NDArray[np.int32]:
    """Coefficients (6, B) as int32, if no coordinate of an image can overflow in 16.16."""
    far = np.abs(warp)
    x = far[0] * frame.width + far[1] * frame.height + far[2]
    y = far[3] * frame.width + far[4] * frame.height + far[5]
    if max(x.max(), y.max()) >= 1 << 31:
        raise ValueError(
            f"a warp this strong of images of {frame.height}×{frame.width} pixels leaves the "
            "range of 16.16 fixed-point coordinates"
        )
    return warp.astype(np.int32)


def _colours(fill: Fill, channels: int) -> NDArray[np.uint8]:
    """(2, 4): outside, hole; per channel."""
    out = np.zeros((2, 4), np.uint8)
    for row, colour in enumerate((fill.outside, fill.hole)):
        out[row, :channels] = colour if len(colour) == channels else colour[0]
    return out
