"""Policies over a space: the base class that draws operations from a table and applies them."""

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from PIL.Image import Image

from bench.augment import pillow
from bench.augment.engine import BLACK, Fill, execute
from bench.augment.policy import Batch, Policy
from bench.augment.space import Draw, Space
from bench.errors import ConfigError

Tensor = torch.Tensor


class TablePolicy(Policy):
    """A policy whose draws are rows and levels of a space.

    Args:
        space: The table.
        fill: Colours outside warped images and in Cutout squares.
    """

    def __init__(self, space: Space, fill: Fill = BLACK) -> None:
        self.space = space
        self.fill = fill

    @abstractmethod
    def sample(self, index: Tensor, rng: torch.Generator) -> Draw:
        """Draws rows, levels, gates, signs and places for each image."""

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Carries the draw out, bit for bit as Pillow would."""
        program = self.space.program(draw, batch.images.shape[-1])
        return replace(batch, images=execute(batch.images, program, self.fill))

    def transform(self, image: Image, draw: Draw, row: int) -> Image:
        """Carries one row of the draw out with Pillow's own operations."""
        if image.width != image.height:
            raise ConfigError(
                f"an image of {image.width}×{image.height} pixels: shares of a side need a square"
            )
        program = self.space.program(draw, image.width)
        return pillow.execute(image, program, row, self.fill)

    def explain(self, draw: Draw, row: int) -> list[str]:
        """The operations done to one image, in order, with levels in percent of their range."""
        said = []
        for op, level, gate, sign in zip(
            draw.op[row], draw.level[row], draw.gate[row], draw.sign[row], strict=True
        ):
            entry = self.space.entries[op]
            text = entry.label
            if self.space.has_magnitude[op]:
                minus = "-" if sign and self.space.has_sign[op] else ""
                text += f" {minus}{100 * level / self.space.top:.0f} %"
            if gate:
                said.append(text)
        return said

    def describe(self) -> dict[str, Any]:
        """Name of the space and colours; subclasses add their numbers."""
        fill = {"outside": list(self.fill.outside), "hole": list(self.fill.hole)}
        return {"space": self.space.name, "table": self.space.digest, "fill": fill}
