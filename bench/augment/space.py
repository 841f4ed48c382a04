"""A space: a table of operations with ranges, the data that a policy draws from.

A draw names, for each image, rows of the table and levels on the table's scale; the space turns it
into a program of operations and magnitudes for the engine.  So a paper's search space is data, and
a policy is a distribution over draws.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench.augment.engine import Program
from bench.augment.operations import IDENTITY, INDEX, OPERATIONS

Tensor = torch.Tensor
# Translations are whole multiples of 1/GRID pixel.  Pillow adds 1.0 from pixel to pixel, which
# rounds along the way where a coordinate is a hair's breadth below a whole number.
GRID = float(1 << 20)
Whole = Literal["", "truncated", "rounded"]


@dataclass(frozen=True)
class Entry:
    """An operation with its range, one row of a space.

    The magnitude at a level is low + (high - low) * level / top, in the operation's unit.

    Attributes:
        operation: Its name in the catalogue.
        low: Magnitude at level 0.
        high: Magnitude at the space's top level.
        whole: Whether the magnitude is cut or rounded to a whole number (after `side`).
        side: Whether low and high are shares of the image's side instead of pixels.
        signed: Whether a signed space negates it too, though the catalogue does not call the
            operation signed.
        name: As it is shown; the operation's name by default.
    """

    operation: str
    low: float = 0.0
    high: float = 0.0
    whole: Whole = ""
    side: bool = False
    signed: bool = False
    name: str = ""

    @property
    def label(self) -> str:
        """The name to show."""
        return self.name or self.operation


@dataclass(frozen=True)
class Draw:
    """What a policy has drawn for each image, in order; on the host.

    Attributes:
        op: (B, L) int64, rows of the space's table.
        level: (B, L) float64, 0..top of the space.
        gate: (B, L) bool; a closed gate leaves the image as it is.
        sign: (B, L) bool; whether the magnitude is negated, where the operation is signed.
        place: (B, L, 2) float64 in [0, 1), where a Cutout goes.
    """

    op: Tensor
    level: Tensor
    gate: Tensor
    sign: Tensor
    place: Tensor

    def __len__(self) -> int:
        return len(self.op)


@dataclass(frozen=True)
class Space:
    """A table of operations with ranges.

    Attributes:
        name: What commands call it.
        entries: Its rows.
        top: The highest level, e.g. 30 for levels 0..30.
        signed: Whether magnitudes of operations that the catalogue or the row calls signed are
            negated with probability one half.
        source: Paper, table and what was settled where they are unclear.
    """

    name: str
    entries: tuple[Entry, ...]
    top: float
    signed: bool
    source: str

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def operations(self) -> NDArray[np.int64]:
        """The catalogue number of each row, (K,)."""
        return np.array([INDEX[entry.operation] for entry in self.entries])

    @cached_property
    def has_magnitude(self) -> Tensor:
        """Which rows have a magnitude that the level changes, (K,) bool."""
        return torch.tensor([entry.low != entry.high for entry in self.entries])

    @cached_property
    def has_sign(self) -> Tensor:
        """Which rows are negated at random, (K,) bool."""
        rows = zip(self.entries, self.operations, strict=True)
        return torch.tensor([self.signed and (e.signed or OPERATIONS[i].signed) for e, i in rows])

    def magnitude(self, op: Tensor, level: Tensor, side: int, smooth: bool = False) -> Tensor:
        """Magnitudes of rows at levels, before the sign.

        Args:
            op: int64 rows of the table, any shape.
            level: float64, like `op`.
            side: The image's side in pixels.
            smooth: Without cuts to whole numbers and to the grid of translations, which let no
                gradient through; for the differentiable twins.

        Returns:
            float64, like `op`.
        """
        low, high, scale, cut, near = self._columns(side)
        value = low[op] + (high[op] - low[op]) * level / self.top
        value = value * scale[op]
        if smooth:
            return value
        value = torch.where(cut[op], value.trunc(), value)
        value = torch.where(near[op], value.round(), value)
        return torch.where(self._shifts[op], (value * GRID).round() / GRID, value)

    def program(self, draw: Draw, side: int) -> Program:
        """The engine's program of a draw, for images of a side in pixels."""
        magnitude = self.magnitude(draw.op, draw.level, side)
        negative = draw.sign & self.has_sign[draw.op]
        magnitude = torch.where(negative, -magnitude, magnitude)
        operation = torch.from_numpy(self.operations)[draw.op]
        return Program(torch.where(draw.gate, operation, IDENTITY), magnitude, draw.place)

    def index(self, label: str) -> int:
        """The row of this label.

        Raises:
            ValueError: If there is none.
        """
        labels = [entry.label for entry in self.entries]
        if label not in labels:
            raise ValueError(f"operation {label!r}: {self.name} has {', '.join(labels)}")
        return labels.index(label)

    @cached_property
    def digest(self) -> str:
        """Changes when the table does."""
        content = repr((self.entries, self.top, self.signed)).encode()
        return hashlib.sha256(content).hexdigest()[:16]

    @cached_property
    def _shifts(self) -> Tensor:
        names = [entry.operation for entry in self.entries]
        return torch.tensor([name in ("translate-x", "translate-y") for name in names])

    def _columns(self, side: int) -> tuple[Tensor, ...]:
        entries = self.entries
        numbers = [
            [entry.low for entry in entries],
            [entry.high for entry in entries],
            [float(side) if entry.side else 1.0 for entry in entries],
        ]
        flags = [
            [entry.whole == "truncated" for entry in entries],
            [entry.whole == "rounded" for entry in entries],
        ]
        return (
            *(torch.tensor(column, dtype=torch.float64) for column in numbers),
            *(torch.tensor(column) for column in flags),
        )


def draw_of(
    rows: Sequence[Sequence[int]],
    levels: Sequence[Sequence[float]],
    signs: Sequence[Sequence[bool]] | None = None,
) -> Draw:
    """A draw written out by hand, with open gates and centred places; for tests and examples."""
    op = torch.tensor(rows, dtype=torch.int64)
    sign = torch.zeros_like(op, dtype=torch.bool) if signs is None else torch.tensor(signs)
    place = torch.full((*op.shape, 2), 0.5, dtype=torch.float64)
    level = torch.tensor(levels, dtype=torch.float64)
    return Draw(op, level, torch.ones_like(sign), sign, place)
