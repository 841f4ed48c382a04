"""The standard augmentation of the small-image literature: padded crop, horizontal flip, Cutout.

Both are one call of the engine, with an own draw for each image.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import ImageOps
from PIL.Image import Image

from bench.augment import engine
from bench.augment.engine import Fill
from bench.augment.geometry import Frame, crop_coefficients
from bench.augment.policy import Batch, Policy
from bench.errors import ConfigError


@dataclass(frozen=True)
class CropFlipDraw:
    """Offsets (B,) int64 into the padded image, and whether to flip, (B,) bool; on the host."""

    top: torch.Tensor
    left: torch.Tensor
    flip: torch.Tensor


class CropFlip(Policy):
    """Pads by `pad` black pixels, crops back to size at random, flips horizontally half the time.

    Args:
        pad: Padding on each side, in pixels.
        flip: Whether horizontal flips keep the label.

    Source: He et al. 2016, section 4.2 (pad 4 on 32×32), as every paper here uses it.
    """

    def __init__(self, pad: int, flip: bool) -> None:
        self.pad = pad
        self.flip = flip

    def sample(self, index: torch.Tensor, rng: torch.Generator) -> CropFlipDraw:
        """Uniform offsets in 0..2·pad and fair coins; always the same number of random values."""
        offsets = torch.randint(2 * self.pad + 1, (2, len(index)), generator=rng)
        coins = torch.rand(len(index), generator=rng) < 0.5
        return CropFlipDraw(offsets[0], offsets[1], coins & self.flip)

    def apply(self, batch: Batch, draw: CropFlipDraw) -> Batch:
        """Pads, crops and flips; one gather moves the pixels."""
        frame = Frame(*batch.images.shape[-2:])
        moves = crop_coefficients(draw.top, draw.left, draw.flip, self.pad, frame)
        return replace(batch, images=engine.warp(batch.images, moves))

    def transform(self, image: Image, draw: CropFlipDraw, row: int) -> Image:
        """Pads, crops and flips one image."""
        padded = ImageOps.expand(image, self.pad)
        left, top = int(draw.left[row]), int(draw.top[row])
        out = padded.crop((left, top, left + image.width, top + image.height))
        return ImageOps.mirror(out) if draw.flip[row] else out

    def log_prob(self, draw: CropFlipDraw) -> torch.Tensor:
        """The same for every draw: uniform over (2·pad + 1)² offsets and, if it flips, 2 sides."""
        value = -2 * math.log(2 * self.pad + 1) - (math.log(2) if self.flip else 0.0)
        return torch.full((len(draw.top),), value)

    def explain(self, draw: CropFlipDraw, row: int) -> list[str]:
        """Offsets from the centre, and the flip."""
        down, right = int(draw.top[row]) - self.pad, int(draw.left[row]) - self.pad
        return [f"crop {right:+d},{down:+d}" + (" flip" if draw.flip[row] else "")]

    def describe(self) -> dict[str, Any]:
        """Name, padding and whether it flips."""
        return {"policy": "crop-flip", "pad": self.pad, "flip": self.flip}


@dataclass(frozen=True)
class CutoutDraw:
    """Centres (B,) int64 in pixels; on the host."""

    row: torch.Tensor
    column: torch.Tensor


class Cutout(Policy):
    """Fills one square per image; its centre is uniform over the image, so it may stick out.

    Args:
        side: Side of the square in pixels; rows centre - side//2 up to, without, centre + side//2.
        shape: Height and width of the images.
        fill: One uint8 value per channel: the data set's rounded mean, because the papers put
            zeros after normalisation.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout", 2017 (16 pixels on CIFAR-10).  Deviation: the mean is rounded to a uint8 value.
    """

    def __init__(self, side: int, shape: tuple[int, int], fill: tuple[int, ...]) -> None:
        self.side = side
        self.shape = shape
        self.fill = fill
        self.colours = Fill(hole=fill)

    def sample(self, index: torch.Tensor, rng: torch.Generator) -> CutoutDraw:
        """Uniform centres."""
        height, width = self.shape
        row = torch.randint(height, (len(index),), generator=rng)
        column = torch.randint(width, (len(index),), generator=rng)
        return CutoutDraw(row, column)

    def apply(self, batch: Batch, draw: CutoutDraw) -> Batch:
        """Fills the squares, clipped at the border."""
        half = self.side // 2
        column, row = draw.column.numpy(), draw.row.numpy()
        boxes = np.stack([column - half, column + half - 1, row - half, row + half - 1])
        return replace(batch, images=engine.erase_boxes(batch.images, boxes, self.colours))

    def transform(self, image: Image, draw: CutoutDraw, row: int) -> Image:
        """Fills the square of one image.

        Raises:
            ConfigError: If it has another size than the images that the policy was made for.
        """
        if (image.height, image.width) != tuple(self.shape):
            height, width = self.shape
            raise ConfigError(
                f"an image of {image.width}×{image.height} pixels: this policy's Cutout is for "
                f"{width}×{height}; resize it first"
            )
        half, out = self.side // 2, image.copy()
        left, top = int(draw.column[row]) - half, int(draw.row[row]) - half
        out.paste(
            self.fill if len(self.fill) > 1 else self.fill[0],
            (left, top, left + 2 * half, top + 2 * half),
        )
        return out

    def log_prob(self, draw: CutoutDraw) -> torch.Tensor:
        """The same for every draw: uniform over the pixels."""
        return torch.full((len(draw.row),), -math.log(math.prod(self.shape)))

    def explain(self, draw: CutoutDraw, row: int) -> list[str]:
        """The centre of the square."""
        return [f"cutout {int(draw.column[row])},{int(draw.row[row])}"]

    def describe(self) -> dict[str, Any]:
        """Name, side, the images' shape and fill."""
        shape, fill = list(self.shape), list(self.fill)
        return {"policy": "cutout", "side": self.side, "shape": shape, "fill": fill}
