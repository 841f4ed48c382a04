"""Spaces of a search: parameters laid out over the unit cube, and what a training makes of them.

A proposer knows only the cube and which of its sides have steps; ranges and logarithms are the
space's own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.augment.policy import Policy
from bench.train.learner import Learner
from bench.train.losses import Loss, cross_entropy
from bench.train.session import Session
from bench.train.task import Task

Point = tuple[float, ...]  # each coordinate in [0, 1]
Values = dict[str, float]  # by name of the parameter
Setting = tuple[float, float, float]  # rate, momentum, decay
Scale = Callable[[float], float]
# Of a session, a learner and the stream of its draws: makes the learner ready, gives its loss.
Prepare = Callable[[Session, Learner, str], Loss]


@dataclass(frozen=True)
class Dimension:
    """One parameter.

    Attributes:
        name: What the trace calls it.
        scale: Its value at a place in [0, 1].
        levels: How many values it has, each on an equal part of [0, 1]; None if it is continuous.
    """

    name: str
    scale: Scale
    levels: int | None = None

    def centre(self, place: float) -> float:
        """The middle of the part that a place lies in; the place itself without levels."""
        if self.levels is None:
            return place
        return (_part(place, self.levels) + 0.5) / self.levels


def uniform(low: float, high: float) -> Scale:
    """Evenly from `low` to `high`."""
    return lambda place: low + place * (high - low)


def log_uniform(low: float, high: float) -> Scale:
    """Evenly in the logarithm from `low` to `high`, both above 0."""
    return lambda place: math.exp(uniform(math.log(low), math.log(high))(place))


def one_of(name: str, values: Sequence[float]) -> Dimension:
    """A parameter with these values, in their order."""
    return Dimension(name, lambda place: values[_part(place, len(values))], len(values))


def _part(place: float, parts: int) -> int:
    return min(int(place * parts), parts - 1)


def plainly(session: Session, learner: Learner, stream: str) -> Loss:
    """Leaves a learner as it is; cross-entropy."""
    return cross_entropy


@dataclass(frozen=True)
class Candidate:
    """What a training is given.

    Attributes:
        policy: Augments its images.
        setting: Rate, momentum and decay at a share of the training in [0, 1); None leaves them to
            the recipe's optimiser and schedule.
        prepare: Changes the learner before the training, and gives its loss; for candidates
            without a setting.
    """

    policy: Policy
    setting: Callable[[float], Setting] | None = None
    prepare: Prepare = plainly


@dataclass(frozen=True)
class Space:
    """What a search is over.

    Attributes:
        dimensions: The sides of the cube.
        candidate: What the values of a point mean on a task.
        least: The fewest steps of a training in which every parameter matters.
        deviations: What it searches, and how it differs from its paper's, in words.
    """

    dimensions: tuple[Dimension, ...]
    candidate: Callable[[Task, Values], Candidate]
    least: int = 1
    deviations: tuple[str, ...] = ()

    def values(self, point: Point) -> Values:
        """The parameters at a point, by name."""
        pairs = zip(self.dimensions, point, strict=True)
        return {dimension.name: dimension.scale(place) for dimension, place in pairs}

    @property
    def size(self) -> int | None:
        """How many points it has; None if they are not finitely many."""
        return size(self.dimensions)


def size(dimensions: Sequence[Dimension]) -> int | None:
    """How many points there are; None if they are not finitely many."""
    levels = [dimension.levels for dimension in dimensions]
    return None if None in levels else math.prod(many for many in levels if many is not None)
