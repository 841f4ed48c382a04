"""Proposers: where in the unit cube to try next.  Those here learn nothing from what they hear.

point = proposer.ask()
proposer.tell(point, error)     # None for a trial that failed
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import product
from typing import ClassVar

import torch

from baselines._space import Dimension, Point, size


class Proposer(ABC):
    """Asked and told in turn; what it proposes follows from that and from its generator alone.

    Args:
        dimensions: The sides of the cube; where one has levels, points lie in their middles.
        rng: The only randomness that it may use.

    Attributes:
        measure: What the numbers of `importance` are; None for proposers without a model.
        repeats: Whether it can be asked for more points than a space has.

    Raises:
        ValueError: If it refuses the space.
    """

    measure: ClassVar[str | None] = None
    repeats: ClassVar[bool] = False

    def __init__(self, dimensions: Sequence[Dimension], rng: torch.Generator) -> None:
        if (why := self.refuses(dimensions)) is not None:
            raise ValueError(why)
        self.dimensions, self.rng = tuple(dimensions), rng

    @classmethod
    def refuses(cls, dimensions: Sequence[Dimension]) -> str | None:
        """Why it cannot search a space, in a sentence; None if it can."""
        return None

    @abstractmethod
    def ask(self) -> Point:
        """The next point.

        Raises:
            ValueError: If every point there is has been proposed, and none may be again.
        """

    def tell(self, point: Point, error: float | None) -> None:  # noqa: B027 - some never learn
        """What a point came to: a validation error in [0, 1], or None if its trial failed."""

    def importance(self) -> dict[str, float] | None:
        """Share of each parameter, in sum 1, by `measure`; None if it cannot be said (yet)."""
        return None


class Sequential(Proposer):
    """Draws places one after the other, and skips points that were proposed before."""

    def __init__(self, dimensions: Sequence[Dimension], rng: torch.Generator) -> None:
        super().__init__(dimensions, rng)
        self._asked: set[Point] = set()

    @property
    def exhausted(self) -> bool:
        """Whether every point there is has been proposed."""
        return len(self._asked) == size(self.dimensions)

    @abstractmethod
    def draw(self) -> torch.Tensor:
        """Places in [0, 1), one for each dimension, float64."""

    def ask(self) -> Point:
        """A point that was not proposed before."""
        if self.exhausted:
            raise ValueError(f"all {len(self._asked)} points have been proposed")
        while True:
            pairs = zip(self.dimensions, self.draw().tolist(), strict=True)
            point = tuple(dimension.centre(place) for dimension, place in pairs)
            if point not in self._asked:
                self._asked.add(point)
                return point


class Random(Sequential):
    """Uniform."""

    def draw(self) -> torch.Tensor:
        """Independent places."""
        return torch.rand(len(self.dimensions), dtype=torch.float64, generator=self.rng)


class Sobol(Sequential):
    """A scrambled Sobol sequence: places that fill the cube more evenly than chance does.

    Source: Owen, "Scrambling Sobol' and Niederreiter-Xing points", 1998, as in torch.
    """

    def __init__(self, dimensions: Sequence[Dimension], rng: torch.Generator) -> None:
        super().__init__(dimensions, rng)
        # With a seed the engine has a generator of its own.
        self._engine = torch.quasirandom.SobolEngine(
            len(self.dimensions), scramble=True, seed=seed_of(rng)
        )

    def draw(self) -> torch.Tensor:
        """The sequence's next places."""
        return self._engine.draw(dtype=torch.float64)[0]


class Grid(Proposer):
    """Every point of a space with finitely many, in order; the last parameter changes fastest."""

    def __init__(self, dimensions: Sequence[Dimension], rng: torch.Generator) -> None:
        super().__init__(dimensions, rng)
        parts = [dimension.levels or 0 for dimension in dimensions]
        places = [[(part + 0.5) / many for part in range(many)] for many in parts]
        self._points = product(*places)

    @classmethod
    def refuses(cls, dimensions: Sequence[Dimension]) -> str | None:
        """Spaces with infinitely many points."""
        return "a grid goes over finitely many points" if size(dimensions) is None else None

    def ask(self) -> Point:
        """The next point in order."""
        point = next(self._points, None)
        if point is None:
            raise ValueError(f"all {size(self.dimensions)} points have been proposed")
        return point


def seed_of(rng: torch.Generator) -> int:
    """A seed for a generator that is not torch's, below 2^31."""
    return int(torch.randint(2**31 - 1, (), generator=rng))
