"""Shears, translations, rotations, flips and crops: one gather of pixels for each image.

Pillow's nearest warp walks the output and asks, in 16.16 fixed point, which pixel lies there:

    x_in = (A2 + A0 * x + A1 * y) >> 16        y_in = (A5 + A3 * x + A4 * y) >> 16

The six integers of an image come from double precision on the host; the device computes in
integers only, so every device gives the same bits.  Chains of warps compose as maps of indices
(never as matrices, which would round otherwise), and cost one gather together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Tensor = torch.Tensor
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
ONE = 1 << 16
HALF = 1 << 15


@dataclass(frozen=True)
class Frame:
    """Height and width of the images, in pixels."""

    height: int
    width: int


def shear_x(images: Tensor, slope: Tensor, fill: Sequence[int] = (0,)) -> Tensor:
    """x_in = x + slope * y; images (B, C, H, W) uint8, slope (B,) float64 on the host."""
    return _one("shear-x", images, slope, fill)


def shear_y(images: Tensor, slope: Tensor, fill: Sequence[int] = (0,)) -> Tensor:
    """y_in = y + slope * x."""
    return _one("shear-y", images, slope, fill)


def translate_x(images: Tensor, pixels: Tensor, fill: Sequence[int] = (0,)) -> Tensor:
    """x_in = x + pixels: the content moves left."""
    return _one("translate-x", images, pixels, fill)


def translate_y(images: Tensor, pixels: Tensor, fill: Sequence[int] = (0,)) -> Tensor:
    """y_in = y + pixels: the content moves up."""
    return _one("translate-y", images, pixels, fill)


def rotate(images: Tensor, degrees: Tensor, fill: Sequence[int] = (0,)) -> Tensor:
    """Counter-clockwise about the centre; corners take the fill colour."""
    return _one("rotate", images, degrees, fill)


def flip_lr(images: Tensor) -> Tensor:
    """Left becomes right."""
    return images.flip(3)


def flip_ud(images: Tensor) -> Tensor:
    """Up becomes down."""
    return images.flip(2)


def crop_coefficients(top: Tensor, left: Tensor, flip: Tensor, pad: int, frame: Frame) -> Integers:
    """The six integers (6, B) of a padded crop followed by a flip."""
    mirrored = flip.numpy()
    zero = np.zeros(len(mirrored), np.int64)
    column = left.numpy() - pad + np.where(mirrored, frame.width - 1, 0)
    row = top.numpy() - pad
    step = np.where(mirrored, -ONE, ONE)
    return np.stack([step, zero, column * ONE + HALF, zero, zero + ONE, row * ONE + HALF])


def coefficients(name: NDArray[np.str_], magnitude: Floats, frame: Frame) -> Integers:
    """The six integers (6, B) of named operations (B,) at signed magnitudes (B,)."""
    matrix = np.zeros((6, len(name)))
    matrix[0] = matrix[4] = 1.0
    for row, operation in ((1, "shear-x"), (2, "translate-x"), (3, "shear-y"), (5, "translate-y")):
        np.copyto(matrix[row], magnitude, where=name == operation)
    mirrored, flipped = name == "flip-lr", name == "flip-ud"
    matrix[0, mirrored], matrix[2, mirrored] = -1.0, frame.width
    matrix[4, flipped], matrix[5, flipped] = -1.0, frame.height
    out = fixed_point(matrix)
    turned = np.flatnonzero(name == "rotate")
    out[:, turned] = _rotation(magnitude[turned], frame)
    return out


def fixed_point(matrix: Floats) -> Integers:
    """Pillow's integers (6, B) of matrices (6, B): rows (a, b, c), (d, e, f), output to input.

    Where b = d = 0 Pillow takes another path, which truncates c + a/2 in double precision; for
    a = e = ±1, the only scales here, that is a shift by whole pixels.
    """
    a, b, c, d, e, f = matrix
    start = np.stack([c + a * 0.5, f + e * 0.5])
    middle = np.stack([c + a * 0.5 + b * 0.5, f + d * 0.5 + e * 0.5])
    shift = (b == 0) & (d == 0)
    origin = np.where(shift, np.floor(start) * ONE + HALF, np.floor(middle * ONE + 0.5))
    out = np.floor(matrix * ONE + 0.5)
    out[2], out[5] = origin
    return out.astype(np.int64)


def _rotation(degrees: Floats, frame: Frame) -> Integers:
    """Pillow's rotation: exact copies at right angles where they fit, else the affine path."""
    height, width = frame.height, frame.width
    angle = np.mod(degrees, 360.0)
    radians = -np.radians(angle)
    a, b = np.round(np.cos(radians), 15), np.round(np.sin(radians), 15)
    d, e = np.round(-np.sin(radians), 15), np.round(np.cos(radians), 15)
    centre_x, centre_y = width / 2.0, height / 2.0
    c = a * -centre_x + b * -centre_y + 0.0 + centre_x
    f = d * -centre_x + e * -centre_y + 0.0 + centre_y
    out = fixed_point(np.stack([a, b, c, d, e, f]))
    last_x, last_y = (width - 1) * ONE + HALF, (height - 1) * ONE + HALF
    exact = {0.0: (ONE, 0, HALF, 0, ONE, HALF), 180.0: (-ONE, 0, last_x, 0, -ONE, last_y)}
    if width == height:
        exact[90.0] = (0, -ONE, last_x, ONE, 0, HALF)
        exact[270.0] = (0, ONE, HALF, -ONE, 0, last_y)
    for special, integers in exact.items():
        out[:, angle == special] = np.array(integers)[:, None]
    return out


def warp(images: Tensor, chain: NDArray[np.integer[Any]], fill: Sequence[int]) -> Tensor:
    """Warps each image by its own chain of warps, with one gather.

    Args:
        images: (B, C, H, W) uint8.
        chain: (D, B, 6), the coefficients of each warp, the first one applied first.
        fill: Colour outside the image: one value, or one per channel.
    """
    count, channels, height, width = images.shape
    numbers = torch.from_numpy(np.moveaxis(chain, 2, 1).astype(np.int32))
    index = source_index(numbers.to(images.device, non_blocking=True), height, width)
    source = bordered(images, fill)
    picked = source.view(-1).index_select(0, index.view(-1)).view(count, height, width)
    return unpacked(picked, channels)


def source_index(chain: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel comes from, (B, H, W) int32 into bordered images laid end to end.

    Coordinates are clamped to the border of one pixel around the image, which holds the fill
    colour; from there a further warp of the chain cannot come back, as Pillow's fill cannot.

    Args:
        chain: (D, 6, B) int32, the first warp first.
        height: Of the images.
        width: Of the images.
    """
    device, count = chain.device, chain.shape[2]
    x = torch.arange(width, dtype=torch.int32, device=device).view(1, 1, -1)
    y = torch.arange(height, dtype=torch.int32, device=device).view(1, -1, 1)
    outside: Tensor | None = None
    for link in reversed(range(len(chain))):
        a0, a1, a2, a3, a4, a5 = chain[link].view(6, -1, 1, 1).unbind(0)
        new_x = (a1 * y + a2 + a0 * x).bitwise_right_shift_(16).clamp_(-1, width)
        new_y = (a4 * y + a5 + a3 * x).bitwise_right_shift_(16).clamp_(-1, height)
        if outside is not None:
            new_x.masked_fill_(outside, -1)  # what already lies outside stays there
        x, y = new_x, new_y
        if len(chain) > 1:
            outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    stride, size = width + 2, (width + 2) * (height + 2)
    base = torch.arange(count, dtype=torch.int32, device=device).view(-1, 1, 1) * size
    return x.add_(y, alpha=stride).add_(base + (stride + 1))


def bordered(images: Tensor, fill: Sequence[int]) -> Tensor:
    """Images with a border of one pixel in the fill colour, three channels packed in an int32."""
    count, channels, height, width = images.shape
    colour = list(fill[:channels]) if len(fill) >= channels else [fill[0]] * channels
    if channels == 1:
        return torch.nn.functional.pad(images, (1, 1, 1, 1), value=colour[0])
    packed = sum(value << (8 * i) for i, value in enumerate(colour))
    size = (count, height + 2, width + 2)
    out = torch.full(size, packed, dtype=torch.int32, device=images.device)
    red, green, blue = images.to(torch.int32).unbind(1)
    out[:, 1:-1, 1:-1] = red.add_(green, alpha=1 << 8).add_(blue, alpha=1 << 16)
    return out


def unpacked(picked: Tensor, channels: int) -> Tensor:
    """(B, H, W) packed pixels as (B, C, H, W) uint8."""
    if channels == 1:
        return picked.unsqueeze(1)
    size = (len(picked), channels, *picked.shape[1:])
    out = torch.empty(size, dtype=torch.uint8, device=picked.device)
    out[:, 0] = picked
    out[:, 1] = picked >> 8
    out[:, 2] = picked >> 16
    return out


def _one(name: str, images: Tensor, magnitude: Tensor, fill: Sequence[int]) -> Tensor:
    names = np.full(len(images), name)
    integers = coefficients(names, magnitude.double().numpy(), Frame(*images.shape[-2:]))
    return warp(images, integers.T[None], fill)
