"""Warps with gradients: bilinear sampling by gathers, and affine matrices.

torch's `grid_sample` has no forward mode over reverse mode, so the sampler here is made of
gathers, which are linear in the pixels, and of weights, which are linear in the coordinates from
one pixel to the next: reverse mode, forward mode, `vmap`, and any of these on top of each other.

Coordinates are pixels: the centre of the first pixel is (0, 0), that of the last one
(width - 1, height - 1).  Matrices (B, 2, 3) map output to input, as Pillow's do, but measure from
the centre of the image:

    x_in = a·x + b·y + c        y_in = d·x + e·y + f

so a rotation needs no offset and a matrix fits images of any size.  In whole-pixel cases (shifts
by whole pixels, turns by right angles of squares) every coordinate is exact in float32 and
float64, every weight is 0 or 1, and the sampled value is the pixel, bit for bit.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional as F

Tensor = torch.Tensor
Padding = Literal["fill", "border"]
BLACK = (0.0,)


def warp(
    images: Tensor, matrix: Tensor, padding: Padding = "fill", fill: Sequence[float] = BLACK
) -> Tensor:
    """Samples each image where its matrix points.

    Args:
        images: (B, C, H, W) float.
        matrix: (B, 2, 3) float, output to input, from the centre of the image.
        padding: As `sample_bilinear`.
        fill: As `sample_bilinear`.

    Returns:
        (B, C, H, W) like `images`.
    """
    x, y = positions(matrix.to(images.dtype), *images.shape[-2:])
    return sample_bilinear(images, x, y, padding, fill)


def sample_bilinear(
    images: Tensor,
    x: Tensor,
    y: Tensor,
    padding: Padding = "fill",
    fill: Sequence[float] = BLACK,
) -> Tensor:
    """Interpolates images between their pixels.

    The derivative jumps where a coordinate is a whole number; there it is the one towards greater
    coordinates (but at the last row and column of border padding, the one from inside).

    Args:
        images: (B, C, H, W) float.
        x: Columns to sample at, floats that broadcast with `y` to (B, H', W').
        y: Rows, likewise.  A coordinate that is not a number gives a value that is none.
        padding: What lies outside: `fill`, a colour, into which the outermost pixels fade over
            the distance of one pixel; or `border`, the nearest pixel.  These are `grid_sample`'s
            zeros and border, with align_corners=False.
        fill: The colour: one value, or one per channel.

    Returns:
        (B, C, H', W') like `images`.

    Cost: about three times the time of `grid_sample` on a CPU.  On CUDA the derivative to the
    pixels is summed in no fixed order; all else gives the same bits every time.
    """
    count, channels = images.shape[:2]
    if padding == "fill":
        images, x, y = _bordered(images, fill), x + 1, y + 1
    height, width = images.shape[-2:]
    column, right = _between(x, width)
    row, down = _between(y, height)
    corner = row * width + column
    shape = (count, channels, *corner.shape[1:])
    index = corner.flatten(1).unsqueeze(1).expand(-1, channels, -1)
    flat = images.flatten(2)

    def pixels(offset: int) -> Tensor:
        # The neighbours of all corners are the corners of the image that begins further on.
        return flat[:, :, offset:].gather(2, index).view(shape)

    next_column, next_row = min(1, width - 1), width * min(1, height - 1)
    right, down = right.unsqueeze(1), down.unsqueeze(1)
    above = torch.lerp(pixels(0), pixels(next_column), right)
    below = torch.lerp(pixels(next_row), pixels(next_row + next_column), right)
    return torch.lerp(above, below, down)


def positions(matrix: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where each output pixel comes from.

    Args:
        matrix: (B, 2, 3) float, output to input, from the centre of the image.
        height: Of the images, in pixels.
        width: Likewise.

    Returns:
        Columns and rows, each (B, H, W), in pixels from the centre of the first pixel.
    """
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    across = torch.arange(width, dtype=matrix.dtype, device=matrix.device) - centre_x
    along = torch.arange(height, dtype=matrix.dtype, device=matrix.device) - centre_y

    def coordinate(row: Tensor, centre: float) -> Tensor:
        a, b, c = row[:, :, None].unbind(1)
        return (a * across + (c + centre)).unsqueeze(1) + (b * along).unsqueeze(2)

    x, y = matrix.unbind(1)
    return coordinate(x, centre_x), coordinate(y, centre_y)


def affine_matrix(
    angle: Tensor,
    translate_x: Tensor,
    translate_y: Tensor,
    shear_x: Tensor,
    shear_y: Tensor,
    scale_x: Tensor,
    scale_y: Tensor,
) -> Tensor:
    """One warp of seven: scales, then turns, then shifts, then shears, about the image's centre.

    Each argument is (B,), in the unit and with the sign of the catalogue's operation; 0 leaves the
    image as it is, so a gate may multiply it.

    Args:
        angle: Degrees counter-clockwise.
        translate_x: Pixels to the left.
        translate_y: Pixels upwards.
        shear_x: Slope of x over y.
        shear_y: Slope of y over x.  Both shears are one matrix; their product must not be 1.
        scale_x: Factor - 1, greater than -1; the content grows by the factor.
        scale_y: Likewise.

    Returns:
        (B, 2, 3), output to input: (S·T·R)⁻¹.

    Source: AutoDO (Gudovskiy et al. 2021), `custom_models/automodels.py`, M = S·T·R with R the
    rotation of the scaled image.  Deviations: shears pivot on the centre, not on the first pixel;
    shifts and shears have this catalogue's signs, which a symmetric distribution does not notice.
    """
    sine, cosine = _turn(angle)
    share = 1 / (1 - shear_x * shear_y)
    slope_x, slope_y = shear_x * share, shear_y * share
    wide, tall = 1 / (1 + scale_x), 1 / (1 + scale_y)
    return _matrix(
        (cosine * share - sine * slope_y) * wide,
        (cosine * slope_x - sine * share) * wide,
        (cosine * translate_x - sine * translate_y) * wide,
        (sine * share + cosine * slope_y) * tall,
        (sine * slope_x + cosine * share) * tall,
        (sine * translate_x + cosine * translate_y) * tall,
    )


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The matrix (B, 2, 3) of warping by `first`, then by `second`, both (B, 2, 3).

    One warp by it blurs once and keeps what the first warp would have pushed out of the image, so
    it is not the same as two warps.
    """
    # Sums of products, not a matrix product: a device may compute that in reduced precision.
    product: Tensor = (first[:, :, :2, None] * second[:, None]).sum(2)
    return torch.cat([product[:, :, :2], product[:, :, 2:] + first[:, :, 2:]], 2)


def operation_matrix(name: str, magnitude: Tensor, height: int, width: int) -> Tensor:
    """The matrix (B, 2, 3) of a named warp at magnitudes (B,), for images of a size.

    The names are the catalogue's, and `scale-x` and `scale-y` (factor - 1, greater than -1; the
    content grows by the factor).  A shear pivots on the image's upper left corner, as Pillow's.
    """
    zero, one = torch.zeros_like(magnitude), torch.ones_like(magnitude)
    match name:
        case "shear-x":
            return _matrix(one, magnitude, magnitude * (height / 2), zero, one, zero)
        case "shear-y":
            return _matrix(one, zero, zero, magnitude, one, magnitude * (width / 2))
        case "translate-x":
            return _matrix(one, zero, magnitude, zero, one, zero)
        case "translate-y":
            return _matrix(one, zero, zero, zero, one, magnitude)
        case "rotate":
            sine, cosine = _turn(magnitude)
            return _matrix(cosine, -sine, zero, sine, cosine, zero)
        case "scale-x":
            return _matrix(1 / (1 + magnitude), zero, zero, zero, one, zero)
        case "scale-y":
            return _matrix(one, zero, zero, zero, 1 / (1 + magnitude), zero)
    raise KeyError(f"{name} is not a warp")


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    return torch.stack([a, b, c, d, e, f], -1).view(-1, 2, 3)


def _turn(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Sine and cosine, exact at right angles: the functions themselves see -45..45 degrees."""
    quarters = (degrees.detach() / 90).round()
    rest = (degrees - 90 * quarters) * (math.pi / 180)
    sine, cosine = rest.sin(), rest.cos()
    turn = quarters.remainder(4)  # 0, 1, 2 or 3
    odd = turn.remainder(2)
    up, over = (2 - turn) * odd, (1 - turn) * (1 - odd)  # sine and cosine of the quarters
    return sine * over + cosine * up, cosine * over - sine * up


def _between(coordinate: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The pixel before a coordinate, int64 in 0..length - 2, and how far on it lies, 0..1."""
    inside = coordinate.clamp(0, length - 1)
    # Bounded as a whole number too: NaN passes the first bounds, and as an index it would end a
    # CUDA process.
    before = inside.detach().long().clamp(0, max(0, length - 2))
    return before, inside - before


def _bordered(images: Tensor, fill: Sequence[float]) -> Tensor:
    """Images with a border of one pixel in the fill colour, (B, C, H + 2, W + 2)."""
    border = (1, 1, 1, 1)
    channels = images.shape[1]
    if len(fill) != channels or len(set(fill)) == 1:
        return F.pad(images, border, value=fill[0])
    parts = zip(images.split(1, 1), fill, strict=True)
    return torch.cat([F.pad(part, border, value=value) for part, value in parts], 1)
