"""Parameters for each training image, found by its row: AutoDO's augmentation model."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from bench.augment.choice import dice
from bench.augment.engine import BLACK, Fill
from bench.augment.learnable import Learnable, Values, coin, parameter
from bench.augment.space import Draw, Space

Tensor = torch.Tensor


@dataclass(frozen=True)
class Located(Draw):
    """A draw that knows its images.

    Attributes:
        index: (B,) int64, rows of the training set.
    """

    index: Tensor


class PerPoint(Learnable):
    """Every training image has a probability and a strength for each operation, done in order.

    The gate of row a opens for image i with the probability σ(gates[i, a]); the level is
    ε · σ(magnitudes[i, a]) · top with a standard normal ε, so it may be negative or beyond top.

    Args:
        space: The table; draws no signs, as levels have them.
        fill: Colours.
        points: Images in the training set; with 1 all share one row.
        gates: (points, A) logits, or one value for all.
        magnitudes: (points, A) logits, or one value for all.

    Raises:
        ValueError: If the space draws signs.

    Source: AutoDO, section 4 and its code (the standard deviation is σ(logit), not its root).
    """

    kind = "per-point"
    learned = ("gates", "magnitudes")

    def __init__(
        self,
        space: Space,
        fill: Fill = BLACK,
        *,
        points: int,
        gates: Values = 0.0,
        magnitudes: Values = 0.0,
    ) -> None:
        super().__init__(space, fill)
        if space.has_sign.any():
            raise ValueError(f"space {space.name!r} draws signs; levels have them here")
        self.points = points
        self.indexed = points > 1
        self.gates = parameter(gates, points, len(space))
        self.magnitudes = parameter(magnitudes, points, len(space))

    @torch.no_grad()
    def sample(self, index: Tensor, rng: torch.Generator) -> Located:
        """Always the same number of random values an image."""
        gates, spread = self._of(index)
        gate = dice(rng, *gates.shape) < gates.sigmoid()
        level = torch.randn(gates.shape, generator=rng, dtype=torch.float64) * spread
        op = torch.arange(len(self.space)).expand(gates.shape)
        place = dice(rng, *gates.shape, 2)
        return Located(op, level, gate, torch.zeros_like(gate), place, index)

    def log_prob(self, draw: Located) -> Tensor:
        """Log-density of gates and levels, (B,) float64."""
        gates, spread = self._of(draw.index)
        score = draw.level / spread
        density = -(score.square() + math.log(2 * math.pi)) / 2 - spread.log()
        counts = draw.gate & self.space.has_magnitude[draw.op]
        return (coin(draw.gate, gates) + torch.where(counts, density, 0.0)).sum(1)

    def numbers(self) -> dict[str, Any]:
        """The number of images and their parameters."""
        return {"points": self.points} | super().numbers()

    def _of(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the gates and standard deviations of the levels, (B, A)."""
        row = index if self.points > 1 else torch.zeros_like(index)
        return self.gates[row], self.magnitudes[row].sigmoid() * self.space.top
