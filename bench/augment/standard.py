"""The standard augmentation of the small-image literature: crop, flip, Cutout, random erasing.

Each is one call of the engine, with an own draw for each image.
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


@dataclass(frozen=True)
class ErasingDraw:
    """First and last column, first and last row of boxes, (4, B) int64; last < first for none."""

    boxes: torch.Tensor


class Erasing(Policy):
    """Fills a box of random area and shape, which lies inside the image, in some images.

    Area and shape are drawn up to ten times, until a box fits; if none does, nothing happens.

    Args:
        shape: Height and width of the images.
        fill: One uint8 value per channel: the rounded mean, which is zero after normalisation.
        probability: That an image gets a box.
        area: Least and greatest area, as shares of the image's.
        ratio: Least and greatest height by width; its logarithm is uniform.

    Source: Zhong et al., "Random Erasing Data Augmentation", 2020, as torchvision's RandomErasing
    with its defaults.
    """

    TRIES = 10

    def __init__(
        self,
        shape: tuple[int, int],
        fill: tuple[int, ...],
        probability: float = 0.5,
        area: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
    ) -> None:
        # Descriptions give lists.
        self.shape, self.fill = (shape[0], shape[1]), tuple(fill)
        self.probability = probability
        self.area, self.ratio = (area[0], area[1]), (ratio[0], ratio[1])
        self.colours = Fill(hole=self.fill)

    def sample(self, index: torch.Tensor, rng: torch.Generator) -> ErasingDraw:
        """Always the same number of random values an image."""
        (height, width), count = self.shape, len(index)
        coin, down, across = torch.rand((3, count), generator=rng, dtype=torch.float64)
        tries = torch.rand((2, count, self.TRIES), generator=rng, dtype=torch.float64)
        area = height * width * _between(self.area, tries[0])
        ratio = _between((math.log(self.ratio[0]), math.log(self.ratio[1])), tries[1]).exp()
        tall = (area * ratio).sqrt().round().long()
        wide = (area / ratio).sqrt().round().long()
        fits = (tall < height) & (wide < width)
        first = fits.byte().argmax(1, keepdim=True)  # 0 where none fits
        tall, wide = tall.gather(1, first)[:, 0], wide.gather(1, first)[:, 0]
        top = (down * (height - tall + 1)).long()
        left = (across * (width - wide + 1)).long()
        done = (coin < self.probability) & fits.any(1)
        boxes = torch.stack([left, left + wide - 1, top, top + tall - 1])
        nothing = torch.tensor([[0], [-1], [0], [-1]])
        return ErasingDraw(torch.where(done, boxes, nothing))

    def apply(self, batch: Batch, draw: ErasingDraw) -> Batch:
        """Fills the boxes."""
        images = engine.erase_boxes(batch.images, draw.boxes.numpy(), self.colours)
        return replace(batch, images=images)

    def transform(self, image: Image, draw: ErasingDraw, row: int) -> Image:
        """Fills the box of one image.

        Raises:
            ConfigError: If it has another size than the images that the policy was made for.
        """
        if (image.height, image.width) != self.shape:
            height, width = self.shape
            raise ConfigError(
                f"an image of {image.width}×{image.height} pixels: this policy's erasing is for "
                f"{width}×{height}; resize it first"
            )
        left, right, top, bottom = draw.boxes[:, row].tolist()
        out = image.copy()
        if right >= left and bottom >= top:
            colour = self.fill if len(self.fill) > 1 else self.fill[0]
            out.paste(colour, (left, top, right + 1, bottom + 1))
        return out

    def log_prob(self, draw: ErasingDraw) -> torch.Tensor:
        """Zeros: up to a term that depends on no parameter, as boxes have many causes."""
        return torch.zeros(draw.boxes.shape[1])

    def explain(self, draw: ErasingDraw, row: int) -> list[str]:
        """The box's size and place."""
        left, right, top, bottom = draw.boxes[:, row].tolist()
        if right < left or bottom < top:
            return []
        return [f"erase {right - left + 1}×{bottom - top + 1} at {left},{top}"]

    def describe(self) -> dict[str, Any]:
        """Name, shape, fill and the numbers."""
        numbers = {"probability": self.probability, "area": self.area, "ratio": self.ratio}
        listed = {name: list(v) if isinstance(v, tuple) else v for name, v in numbers.items()}
        shape, fill = list(self.shape), list(self.fill)
        return {"policy": "erasing", "shape": shape, "fill": fill, **listed}


def _between(ends: tuple[float, float], uniform: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in [0, 1) moved to an interval."""
    return ends[0] + (ends[1] - ends[0]) * uniform
