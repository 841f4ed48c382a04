"""Proposers: where in the unit cube to try next.

point = proposer.ask()
proposer.tell(point, error)     # None for a trial that failed
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import product

import torch

from baselines._space import Dimension, Point, size


class Proposer(ABC):
    """Asked and told in turn; what it proposes follows from that and from its generator alone.

    Args:
        dimensions: The sides of the cube; where one has levels, points lie in their middles.
        rng: The only randomness that it may use.
    """

    def __init__(self, dimensions: Sequence[Dimension], rng: torch.Generator) -> None:
        self.dimensions, self.rng = tuple(dimensions), rng

    @abstractmethod
    def ask(self) -> Point:
        """The next point.

        Raises:
            ValueError: If every point there is has been proposed.
        """

    def tell(self, point: Point, error: float | None) -> None:  # noqa: B027 - some never learn
        """What a point came to: a validation error in [0, 1], or None if its trial failed."""


class Random(Proposer):
    """Uniform, and never the same point twice."""

    def __init__(self, dimensions: Sequence[Dimension], rng: torch.Generator) -> None:
        super().__init__(dimensions, rng)
        self._asked: set[Point] = set()

    def ask(self) -> Point:
        """A point that was not proposed before."""
        if len(self._asked) == size(self.dimensions):
            raise ValueError(f"all {len(self._asked)} points have been proposed")
        while True:
            places = torch.rand(len(self.dimensions), dtype=torch.float64, generator=self.rng)
            pairs = zip(self.dimensions, places.tolist(), strict=True)
            point = tuple(dimension.centre(place) for dimension, place in pairs)
            if point not in self._asked:
                self._asked.add(point)
                return point


class Grid(Proposer):
    """Every point of a space with finitely many, in order; the last parameter changes fastest."""

    def __init__(self, dimensions: Sequence[Dimension], rng: torch.Generator) -> None:
        super().__init__(dimensions, rng)
        if size(dimensions) is None:
            raise ValueError("a grid goes over finitely many points")
        parts = [dimension.levels or 0 for dimension in dimensions]
        places = [[(part + 0.5) / many for part in range(many)] for many in parts]
        self._points = product(*places)

    def ask(self) -> Point:
        """The next point in order."""
        point = next(self._points, None)
        if point is None:
            raise ValueError(f"all {size(self.dimensions)} points have been proposed")
        return point
