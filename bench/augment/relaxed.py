"""The operations once more, on float images, for methods that differentiate through them.

The engine (`engine`) works on uint8 and has no gradients.  Each function here is the twin of one
of its operations: float images (B, C, H, W) of values 0..255, one magnitude per image in the
catalogue's unit, and magnitude 0 leaves the image as it is, bit for bit.  Means and results are
not rounded to whole numbers, whose derivatives would be zero; the clip to 0..255 stays.  All
functions work in reverse mode, in forward mode, in one on top of the other and under `vmap`.

Not every operation can pass a gradient to its magnitude: `TWINS` says which ones do, and how far
each lies from the engine.  The others still have a gradient to their gate, the share at which the
result is mixed in (`mix`), and so to the probability of the operation (`relaxed_gate`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch.autograd import forward_ad
from torch.nn import functional as F

from bench.augment import pointwise
from bench.augment.engine import BLACK, Fill
from bench.augment.sampler import Padding, operation_matrix, warp

Tensor = torch.Tensor
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # Pillow's weights of red, green and blue


@dataclass(frozen=True)
class Surround:
    """What an operation needs beside its magnitude.

    Attributes:
        place: (B, 2) float in [0, 1): x and y of Cutout's centre as shares of the image.
        fill: Colours outside a warped image and in a Cutout square.
        padding: Whether warps see `fill.outside` outside the image, or its nearest pixel.
    """

    place: Tensor | None = None
    fill: Fill = BLACK
    padding: Padding = "fill"


PLAIN = Surround()
Kernel = Callable[[Tensor, Tensor, Surround], Tensor]


@dataclass(frozen=True)
class Twin:
    """The differentiable form of an operation.

    Attributes:
        kernel: What computes it from images, magnitudes (B,) and surround.
        magnitude: `gradient` where derivatives reach the magnitude; `constant` where the operation
            is a step function of it, so that they would be zero almost everywhere; `none` where
            the operation has no magnitude.
        pixels: Whether derivatives to the pixels are `exact` (almost everywhere) or
            `straight-through`: those of the identity, in place of a step function's zero.
        tolerance: The greatest difference from the engine on whole-number images in grey levels,
            as (constant, multiple of the magnitude's size); None where the engine takes the
            nearest pixel and the twin interpolates, which agree for warps by whole pixels, or
            where the engine has no such operation.
    """

    kernel: Kernel
    magnitude: Literal["gradient", "constant", "none"]
    pixels: Literal["exact", "straight-through"] = "exact"
    tolerance: tuple[float, float] | None = (0.0, 0.0)


def apply(
    images: Tensor,
    name: str,
    magnitude: Tensor | None = None,
    gate: Tensor | None = None,
    surround: Surround = PLAIN,
) -> Tensor:
    """Applies the twin of a named operation.

    Args:
        images: (B, C, H, W) float with C 1 or 3, values 0..255.
        name: In `TWINS`: an operation of the catalogue, `scale-x` or `scale-y`.
        magnitude: (B,) float in the catalogue's unit, signed; None for operations without one.
        gate: (B,) float in [0, 1], the share of the result; None for all of it.
        surround: Colours, padding and places.

    Returns:
        (B, C, H, W) like `images`.

    Raises:
        KeyError: If there is no such twin.
        TypeError: If the images are not floats.
        ValueError: If a magnitude is missing or not wanted, or if a derivative is to be taken with
            respect to one that the operation is a step function of: it would silently be zero.
    """
    if name not in TWINS:
        raise KeyError(f"{name} has no differentiable twin; these have: {', '.join(TWINS)}")
    if not images.is_floating_point():
        raise TypeError(f"the twins take float images of values 0..255, not {images.dtype}")
    twin = TWINS[name]
    if (magnitude is None) != (twin.magnitude == "none"):
        raise ValueError(f"{name} takes {'no' if magnitude is not None else 'a'} magnitude")
    if magnitude is None:
        magnitude = images.new_zeros(len(images))
    elif twin.magnitude == "constant" and _tracked(magnitude):
        raise ValueError(
            f"{name} is a step function of its magnitude, which therefore has no gradient: detach "
            "the magnitude and learn the gate, or choose another operation"
        )
    changed = twin.kernel(images, magnitude, surround)
    return changed if gate is None else mix(images, changed, gate)


# Gates


def mix(images: Tensor, changed: Tensor, gate: Tensor) -> Tensor:
    """images + gate·(changed - images), exact at gates 0 and 1; gate is (B,) float in [0, 1]."""
    return torch.lerp(images, changed, _column(gate, images))


def relaxed_gate(
    logit: Tensor, noise: Tensor, temperature: float = 1.0, hard: bool = True
) -> Tensor:
    """Relaxed Bernoulli variables, a function of their logits and of given noise.

    The gate is open where logit + noise > 0, which has probability σ(logit).  The relaxed gate is
    σ((logit + noise) / temperature).

    Args:
        logit: Floats of any shape.
        noise: Logistic noise of the same shape (`logistic`).
        temperature: Of the relaxation, positive.
        hard: Whether the value is 0 or 1 and only its derivative is the relaxed gate's
            (straight-through).  No finite difference can confirm such a derivative.

    Returns:
        Like `logit`.

    Source: Maddison et al. 2017, "The Concrete Distribution", appendix B.  Gumbel-softmax over
    [log σ(l), log(1 - σ(l))], as in AutoDO, is the same: the difference of the two logarithms is l
    and that of two Gumbel variables is logistic.  So no logarithm is taken and none underflows.
    """
    score = logit + noise
    soft = torch.sigmoid(score / temperature)
    if not hard:
        return soft
    return (score.detach() > 0).to(soft.dtype) + (soft - soft.detach())


def logistic(uniform: Tensor) -> Tensor:
    """Logistic noise from uniform floats in [0, 1), finite at 0 as well."""
    smallest = torch.finfo(uniform.dtype).tiny
    return uniform.clamp_min(smallest).log() - torch.log1p(-uniform)


# Blends: d + (1 + m)·(s - d) with the source s and a weaker image d, written as s + m·(s - d)


def brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Away from black by `magnitude` (B,), the enhancer's factor - 1."""
    return _clipped(torch.addcmul(images, _column(magnitude, images), images))


def contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Away from the mean grey, which is not rounded here, by `magnitude` (B,)."""
    mean = luma(images).mean((1, 2, 3), keepdim=True)
    return _clipped(torch.addcmul(images, _column(magnitude, images), images - mean))


def color(images: Tensor, magnitude: Tensor) -> Tensor:
    """Away from the grey image by `magnitude` (B,); one channel is its own grey image."""
    return _clipped(torch.addcmul(images, _column(magnitude, images), images - luma(images)))


def sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Away from the smoothed image by `magnitude` (B,)."""
    return _clipped(torch.addcmul(images, -_column(magnitude, images), _smoothing(images)))


def luma(images: Tensor) -> Tensor:
    """Grey images (B, 1, H, W), not rounded; one channel is its own."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]).unsqueeze(1)


def smooth(images: Tensor) -> Tensor:
    """The 3×3 mean with centre weight 5; the border of one pixel stays."""
    return images + _smoothing(images)


def blur(images: Tensor) -> Tensor:
    """The mean of the 16 pixels on the border of the 5×5 square; the border of two stays."""
    if min(images.shape[-2:]) < 5:
        return images
    ring = _box(images, 5) - _box(images[..., 1:-1, 1:-1], 3)
    return images + F.pad(ring / 16 - images[..., 2:-2, 2:-2], (2, 2, 2, 2))


def _smoothing(images: Tensor) -> Tensor:
    """What SMOOTH adds to an image: nothing on the border, so that the border stays exactly."""
    if min(images.shape[-2:]) < 3:
        return torch.zeros_like(images)
    inner = images[..., 1:-1, 1:-1]
    return F.pad((_box(images, 3) - 9 * inner) / 13, (1, 1, 1, 1))


def _box(images: Tensor, side: int) -> Tensor:
    """Sums over squares of `side` pixels, (B, C, H - side + 1, W - side + 1)."""
    for axis in (2, 3):
        length = images.shape[axis] - side + 1
        images = reduce(torch.add, [images.narrow(axis, i, length) for i in range(side)])
    return images


# Single values


def invert(images: Tensor) -> Tensor:
    """255 - x."""
    return 255 - images


def solarize(images: Tensor, amount: Tensor) -> Tensor:
    """Inverts the values that are at least 256 - amount; `amount` (B,) is a constant."""
    bright = images >= 256 - _column(amount.detach(), images)
    return torch.lerp(images, 255 - images, bright.to(images.dtype))


def solarize_add(images: Tensor, amount: Tensor) -> Tensor:
    """Adds `amount` (B,), which is not cut to whole numbers, to values below 128, up to 255."""
    dark = (images < 128).to(images.dtype)
    return torch.addcmul(images, dark, _column(amount, images)).clamp_max(255)


def posterize(images: Tensor, removed: Tensor) -> Tensor:
    """Clears the lowest bits, trunc(`removed`) of them (B,), a constant; straight-through.

    At 8 bits the image is black and passes no derivative.
    """
    step = _column(2 ** removed.detach().long(), images)
    value = images.detach()
    value = torch.where(step > 1, (value / step).floor() * step, value)
    return value + (images - images.detach()) * (step < 256)


def autocontrast(images: Tensor) -> Tensor:
    """Stretches each channel to 0..255; a channel of one value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = low == high
    # The inner choice keeps 0/0 out of the branch not taken, whose derivative is computed too.
    span = torch.where(flat, 1.0, high - low)
    return torch.where(flat, images, (images - low) / span * 255)


def equalize(images: Tensor) -> Tensor:
    """The engine's table of the values cut to whole numbers; straight-through.

    A histogram has no derivative.  Not under a `vmap` over images; over tangents it works.
    """
    whole = images.detach().clamp(0, 255).to(torch.uint8)
    return pointwise.equalize(whole).to(images.dtype) + (images - images.detach())


def cutout(images: Tensor, side: Tensor, centre: Tensor, fill: Sequence[int] = (0,)) -> Tensor:
    """Fills the engine's square around a centre, with hard edges.

    A soft edge would be another operation: its hole of side² pixels, not (side + 1)², has no
    gradient at 0.

    Args:
        images: (B, C, H, W) float.
        side: (B,) float, in pixels; a square of side + 1 pixels where it fits, none where it is 0.
            A constant.
        centre: (B, 2) float: x and y as shares of width and height, in [0, 1).
        fill: One value, or one per channel.
    """
    height, width = images.shape[-2:]
    columns = _hole(side.detach(), centre[:, 0], width)[:, None, None, :]
    rows = _hole(side.detach(), centre[:, 1], height)[:, None, :, None]
    hole = rows & columns
    if len(fill) != images.shape[1]:
        return images.masked_fill(hole, fill[0])
    parts = zip(images.split(1, 1), fill, strict=True)
    return torch.cat([part.masked_fill(hole, value) for part, value in parts], 1)


def _hole(side: Tensor, centre: Tensor, length: int) -> Tensor:
    """(B, length) bool, the pixels of the square along an axis; as `erase`, on the device."""
    side, centre = side.double(), centre.double()
    first = (centre * length - side / 2).clamp_min(0).trunc()
    last = (first + side).clamp_max(length)
    along = torch.arange(length, dtype=torch.float64, device=side.device)
    last = torch.where(side > 0, last, -1.0)
    inside: Tensor = (along >= first[:, None]) & (along <= last[:, None])
    return inside


def _column(numbers: Tensor, images: Tensor) -> Tensor:
    """One number per image as (B, 1, 1, 1), of the images' type."""
    return numbers.to(images.dtype).view(-1, 1, 1, 1)


def _clipped(images: Tensor) -> Tensor:
    return images.clamp(0, 255)


def _tracked(numbers: Tensor) -> bool:
    """Whether a derivative is being taken with respect to a tensor, in either mode."""
    return numbers.requires_grad or forward_ad.unpack_dual(numbers).tangent is not None


# The table


def _warp(name: str) -> Twin:
    def kernel(images: Tensor, magnitude: Tensor, surround: Surround) -> Tensor:
        matrix = operation_matrix(name, magnitude, *images.shape[-2:])
        return warp(images, matrix, surround.padding, surround.fill.outside)

    return Twin(kernel, "gradient", tolerance=None)


def _plain(function: Callable[[Tensor], Tensor], tolerance: float = 0.0) -> Twin:
    return Twin(lambda x, m, s: function(x), "none", tolerance=(tolerance, 0.0))


def _cutout(images: Tensor, magnitude: Tensor, surround: Surround) -> Tensor:
    if surround.place is None:
        raise ValueError("cutout needs a place")
    return cutout(images, magnitude, surround.place, surround.fill.hole)


TWINS: dict[str, Twin] = {
    "identity": _plain(lambda images: images),
    **{name: _warp(name) for name in ("shear-x", "shear-y", "translate-x", "translate-y")},
    **{name: _warp(name) for name in ("rotate", "scale-x", "scale-y")},
    "flip-lr": _plain(lambda images: images.flip(3)),
    "flip-ud": _plain(lambda images: images.flip(2)),
    "invert": _plain(invert),
    "solarize": Twin(lambda x, m, s: solarize(x, m), "constant"),
    "posterize": Twin(lambda x, m, s: posterize(x, m), "constant", "straight-through"),
    "solarize-add": Twin(lambda x, m, s: solarize_add(x, m), "gradient", tolerance=(1.0, 0.0)),
    "autocontrast": _plain(autocontrast, 1.0),
    "equalize": Twin(lambda x, m, s: equalize(x), "none", "straight-through"),
    "brightness": Twin(lambda x, m, s: brightness(x, m), "gradient", tolerance=(1.0, 0.0)),
    "contrast": Twin(lambda x, m, s: contrast(x, m), "gradient", tolerance=(1.0, 1.0)),
    "color": Twin(lambda x, m, s: color(x, m), "gradient", tolerance=(1.0, 0.5)),
    "sharpness": Twin(lambda x, m, s: sharpness(x, m), "gradient", tolerance=(1.0, 0.5)),
    "smooth": _plain(smooth, 0.5),
    "blur": _plain(blur, 0.5),
    "cutout": Twin(_cutout, "constant"),
}
