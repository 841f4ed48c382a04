"""Fixed distributions over a space: RandAugment and its kin, and lists of sub-policies.

Notation: B images, L slots, A rows of the space.

The log-probability of a draw is that of what it does: the operations in its slots, which gates
are open, and behind an open gate the level, if the operation has a magnitude, and the sign, if it
has one.  What changes nothing is summed out.  A level from an interval counts with its density on
the level scale.  Where a Cutout goes is uniform on the unit square: its density is 1.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch

from bench.augment import spaces
from bench.augment.engine import BLACK, Fill
from bench.augment.space import Draw, Space
from bench.augment.table import TablePolicy
from bench.errors import ConfigError

Tensor = torch.Tensor
Levels = Literal["continuous", "discrete"] | float
Step = tuple[str, float, float]


def dice(rng: torch.Generator, *shape: int) -> Tensor:
    """Independent uniform numbers in [0, 1), float64, on the host."""
    return torch.rand(shape, generator=rng, dtype=torch.float64)


def distinct(uniform: Tensor, many: int) -> Tensor:
    """Ordered draws without replacement, by the first swaps of a Fisher-Yates shuffle.

    Args:
        uniform: (B, L) in [0, 1).
        many: How many there are to draw from; at least L.

    Returns:
        (B, L) int64 below `many`, different in a row; every ordered choice is equally likely.
    """
    urn = torch.arange(many).repeat(len(uniform), 1)
    for slot in range(uniform.shape[1]):
        at = slot + (uniform[:, slot, None] * (many - slot)).long()
        drawn = urn.gather(1, at)
        urn.scatter_(1, at, urn[:, slot, None].clone())
        urn[:, slot, None] = drawn
    return urn[:, : uniform.shape[1]].contiguous()


def parts(description: dict[str, Any]) -> tuple[Space, Fill, dict[str, Any]]:
    """Space, colours and numbers of a policy's description.

    Raises:
        ConfigError: If there is no space of its name, or its table has changed.
    """
    numbers = {name: value for name, value in description.items() if name != "policy"}
    fill = {name: tuple(colour) for name, colour in numbers.pop("fill").items()}
    space, table = spaces.space(numbers.pop("space")), numbers.pop("table")
    if space.digest != table:
        raise ConfigError(f"space {space.name!r} has another table than the policy was made for")
    return space, Fill(**fill), numbers


class Described(TablePolicy):
    """A policy that its description rebuilds.

    A constructor takes the space, the fill and, by name, what `numbers` gives.
    """

    kind: ClassVar[str]

    @abstractmethod
    def numbers(self) -> dict[str, Any]:
        """What sets the policy apart on its space, as plain data."""

    def describe(self) -> dict[str, Any]:
        """Kind, space, fill and numbers."""
        return {"policy": self.kind} | super().describe() | self.numbers()

    @classmethod
    def rebuild(cls, description: dict[str, Any]) -> Self:
        """The policy that gave this description.

        Raises:
            ConfigError: If there is no space of its name, or its table has changed.
        """
        space, fill, numbers = parts(description)
        return cls(space, fill, **numbers)

    def _signs(self, draw: Draw) -> Tensor:
        """Log-probabilities of the signs, (B, L) float64."""
        return -math.log(2) * (draw.gate & self.space.has_sign[draw.op]).double()


class Uniform(Described):
    """Operations drawn uniformly, each kept with one probability, at random levels or a fixed one.

    Args:
        space: The table.
        fill: Colours.
        ops: Operations an image, L.
        replacement: Whether one operation may come twice.
        keep: The probability that an operation is done.
        levels: "continuous" (uniform on an interval), "discrete" (uniform over 0, 1, ...), or
            the level of all.
        most: The highest level drawn; the space's top by default.

    Raises:
        ValueError: If a number is out of range.
    """

    kind = "uniform"

    def __init__(
        self,
        space: Space,
        fill: Fill = BLACK,
        *,
        ops: int = 2,
        replacement: bool = True,
        keep: float = 1.0,
        levels: Levels = "discrete",
        most: float | None = None,
    ) -> None:
        super().__init__(space, fill)
        self.ops, self.replacement, self.keep, self.levels = ops, replacement, keep, levels
        self.most = space.top if most is None else most
        fixed = 0.0 if isinstance(levels, str) else levels
        if ops < 1 or not (replacement or ops <= len(space)):
            raise ValueError(f"ops={ops}: the space has {len(space)} operations")
        if not 0 <= keep <= 1:
            raise ValueError(f"keep={keep} is not a probability")
        if isinstance(levels, str) and levels not in ("continuous", "discrete"):
            raise ValueError(f"levels={levels!r}: continuous, discrete or a number are allowed")
        if not (0 < self.most <= space.top and 0 <= fixed <= space.top):
            raise ValueError(f"levels={levels}, most={most}: levels go from 0 to {space.top:g}")

    def sample(self, index: Tensor, rng: torch.Generator) -> Draw:
        """Always the same number of random values an image."""
        shape, many = (len(index), self.ops), len(self.space)
        op, level, gate, sign = dice(rng, 4, *shape)
        op = (op * many).long() if self.replacement else distinct(op, many)
        return Draw(op, self._level(level), gate < self.keep, sign < 0.5, dice(rng, *shape, 2))

    def log_prob(self, draw: Draw) -> Tensor:
        """Log-probability of what each image's draw does, (B,) float64."""
        many = len(self.space)
        order = many**self.ops if self.replacement else math.perm(many, self.ops)
        keep = torch.tensor([1 - self.keep, self.keep], dtype=torch.float64).log()
        drawn = (draw.gate & self.space.has_magnitude[draw.op]).double()
        slots = keep[draw.gate.long()] - math.log(self._spread()) * drawn + self._signs(draw)
        return slots.sum(1) - math.log(order)

    def numbers(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("ops", "replacement", "keep", "levels", "most")
        return {name: getattr(self, name) for name in names}

    def _level(self, uniform: Tensor) -> Tensor:
        if not isinstance(self.levels, str):
            return torch.full_like(uniform, self.levels)
        level = uniform * self._spread()
        return level if self.levels == "continuous" else level.floor()

    def _spread(self) -> float:
        """How long the interval of levels is, or how many levels there are."""
        if not isinstance(self.levels, str):
            return 1.0
        return self.most if self.levels == "continuous" else int(self.most) + 1.0


def randaugment(space: Space, n: int, m: float, fill: Fill = BLACK) -> Uniform:
    """N operations, with replacement, at level M.

    Source: Cubuk et al., "RandAugment", 2020.
    """
    return Uniform(space, fill, ops=n, levels=m)


def uniformaugment(space: Space, fill: Fill = BLACK, gar: bool = False) -> Uniform:
    """Two operations, each done with a probability that is itself uniform, at uniform levels.

    Args:
        space: The table.
        fill: Colours.
        gar: GAR's version: distinct operations, whole levels, and one half as the probability.

    Source: LingChen et al., "UniformAugment", 2020; GAR, Algorithm 3.  A coin whose probability of
    heads is uniform, thrown once, is a fair coin, so both versions keep one half.
    """
    levels: Levels = "discrete" if gar else "continuous"
    return Uniform(space, fill, replacement=not gar, keep=0.5, levels=levels)


def trivialaugment(space: Space, fill: Fill = BLACK) -> Uniform:
    """One operation at a uniform whole level.

    Source: Müller and Hutter, "TrivialAugment", 2021.
    """
    return Uniform(space, fill, ops=1)


@dataclass(frozen=True)
class Choice(Draw):
    """A draw that chose from a list.

    Attributes:
        choice: (B,) int64, which element.
    """

    choice: Tensor


class SubPolicies(Described):
    """One sub-policy an image, out of a list; each step of it is done with its own probability.

    Args:
        space: The table.
        fill: Colours.
        steps: K sub-policies of L steps: an operation's label, a probability and a level.

    Raises:
        ValueError: If a label is not in the space, or sub-policies differ in length.
    """

    kind = "sub-policies"

    def __init__(
        self, space: Space, fill: Fill = BLACK, *, steps: Sequence[Sequence[Step]]
    ) -> None:
        super().__init__(space, fill)
        self.steps = steps
        self.op = torch.tensor([[space.index(name) for name, _, _ in each] for each in steps])
        numbers = [[step[1:] for step in each] for each in steps]
        self.probability, self.level = torch.tensor(numbers, dtype=torch.float64).unbind(-1)

    def sample(self, index: Tensor, rng: torch.Generator) -> Choice:
        """Always the same number of random values an image."""
        many, slots = self.op.shape
        choice = (dice(rng, len(index)) * many).long()
        gate, sign = dice(rng, 2, len(index), slots)
        gate = gate < self.probability[choice]
        place = dice(rng, len(index), slots, 2)
        return Choice(self.op[choice], self.level[choice], gate, sign < 0.5, place, choice)

    def log_prob(self, draw: Choice) -> Tensor:
        """Log-probability of the sub-policy, its gates and its signs, (B,) float64."""
        probability = self.probability[draw.choice]
        gate = torch.where(draw.gate, probability, 1 - probability).log()
        return (gate + self._signs(draw)).sum(1) - math.log(len(self.op))

    def numbers(self) -> dict[str, Any]:
        """The steps."""
        return {"steps": [[list(step) for step in each] for each in self.steps]}
