"""Which of the papers' numbers stand beside a measured one, and whether the two compare.

Beside a method on a task stands the nearest number that any paper has of it: of the task's data
set, and of no other; of its distortion, else of the clean set; a test error before a validation
error, and that before a loss; of its network, else of one of its family, else of another, the
smallest first; of the closest variant of the method; measured by the paper rather than quoted.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.record import Record
from bench.report.paper import Published, networks, published

HOW_MUCH = ("length", "restarts", "trials")
"""Options that say how long a method runs, not what it is: the number may be of another value."""

RANKS = {"test": {"error": 0, "accuracy": 0, "loss": 2}, "validation": {"error": 1, "loss": 3}}
"""What may stand beside a test error, by split and metric, the best first."""

SAME_LENGTH, SAME_SIZE = 0.1, 0.05
"""Relative differences of epochs and of training images that still count as equal."""


@dataclass(frozen=True)
class Setting:
    """What a number was measured on, as far as a paper's may share it.

    Attributes:
        data: The task's source, e.g. `cifar10` or `parquet:cifar10-jpeg-small`.
        network: Its name, e.g. `wrn-28-10`.
        images: Training images; None if not known.
        epochs: How often all of the run's steps went through them; None if not known.
    """

    data: str
    distort: str
    network: str
    images: int | None = None
    epochs: float | None = None

    @property
    def task(self) -> str:
        """The task's name in tables."""
        return f"{self.data} · {self.distort} · {self.network}"


@dataclass(frozen=True)
class Beside:
    """A paper's number beside a measured one.

    Attributes:
        spec: The method that was measured, and `setting` where.
        differences: What keeps the two from being compared, a few words each.
    """

    spec: str
    setting: Setting
    published: Published
    differences: tuple[str, ...]

    @property
    def comparable(self) -> bool:
        """Whether nothing that is known to matter differs."""
        return not self.differences


def setting(record: Record) -> Setting | None:
    """Where a run was measured; None if it failed before it had a task."""
    task = record.task
    if task is None:
        return None
    images, batch = task.sizes.get("train"), task.recipe.get("batch_size")
    epochs = record.steps * batch / images if images and batch and record.steps else None
    return Setting(task.data, task.distort, task.network, images, epochs)


def beside(spec: str, where: Setting, numbers: Sequence[Published] | None = None) -> list[Beside]:
    """The papers' scores of a method on a setting's data set, the nearest first.

    Args:
        spec: The method's canonical specification.
        where: What it was measured on.
        numbers: Those to choose from; by default all of `published()`.

    Returns:
        Nothing where no paper has the method or the data set (handwritten digits, own images).
    """
    of = published() if numbers is None else numbers
    found = [number for number in of if _eligible(spec, where, number)]
    found.sort(key=lambda number: _distance(spec, where, number))  # stable: else the file's order
    return [
        Beside(spec, where, number, tuple(_differences(spec, where, number))) for number in found
    ]


def nearest(
    spec: str, settings: Iterable[Setting], numbers: Sequence[Published] | None = None
) -> tuple[Beside, ...]:
    """The nearest number for each setting, those of equal distortion first; no number twice."""
    firsts = [found[0] for where in settings if (found := beside(spec, where, numbers))]
    firsts.sort(key=lambda one: one.published.distort != one.setting.distort)
    once: dict[Published, Beside] = {}
    for first in firsts:
        once.setdefault(first.published, first)
    return tuple(once.values())


def of_records(
    records: Iterable[Record], numbers: Sequence[Published] | None = None
) -> tuple[Beside, ...]:
    """The papers' numbers for the runs of one method, at most one a task."""
    runs = sorted(records, key=lambda record: record.status != "ok")
    settings: dict[str, Setting] = {}
    for record in runs:
        if (where := setting(record)) is not None:
            settings.setdefault(where.task, where)
    ordered = [settings[task] for task in sorted(settings)]
    return nearest(runs[0].method.spec, ordered, numbers)


def _eligible(spec: str, where: Setting, number: Published) -> bool:
    return (
        _variant(spec, number) is not None
        and re.fullmatch(rf"([a-z]+:)?{number.data}(-.*)?", where.data) is not None
        and number.distort in (where.distort, "clean")
        and number.metric in RANKS.get(number.split or "", {})
    )


def _distance(spec: str, where: Setting, number: Published) -> tuple[int, ...]:
    """The criteria of this module's first lines, in their order; smaller is nearer."""
    order = [*networks()]
    kin = number.network is not None and _family(number.network) == _family(where.network)
    return (
        number.distort != where.distort,
        RANKS[number.split or ""][number.metric],
        0 if number.network == where.network else 1 if kin else 2,
        order.index(number.network) if number.network in order else len(order),
        _variant(spec, number) or 0,
        number.origin != "measured",
    )


def _variant(spec: str, number: Published) -> int | None:
    """Where the method stands among those that the number belongs to; None if it does not."""
    kinds = [_kind(one) for one in number.specs]
    return kinds.index(_kind(spec)) if _kind(spec) in kinds else None


def _kind(spec: str) -> tuple[str, frozenset[str]]:
    """A method's name and its options, without those that say how long it runs."""
    name, _, inner = spec.removesuffix("]").partition("[")
    options = (option for option in inner.split(",") if option)
    return name, frozenset(each for each in options if each.partition("=")[0] not in HOW_MUCH)


def _family(network: str) -> str:
    """`wrn-28-10` and `wrn-10-1` are of one family, `timm:resnet50` and `resnet-18` of another."""
    return re.split(r"[-\d]", network.removeprefix("timm:"))[0]


def _differences(spec: str, where: Setting, number: Published) -> Iterator[str]:
    """What is known to keep the two numbers from being compared."""
    if where.data != number.data:
        yield "other images"
    if where.distort != number.distort:
        yield "another distortion"
    if where.network != number.network:
        yield "another network" if number.network else "network not stated"
    yield from _amounts(where, number)
    if number.split != "test":
        yield "validation images"
    if number.metric == "loss":
        yield "a loss"
    if _variant(spec, number):
        yield f"that of {number.specs[0]}"
    if number.differs:
        yield number.differs
    if number.selection != "last epoch":
        stated = number.selection != "unknown"
        yield f"weights {number.selection}" if stated else "weights' selection not stated"
    if number.origin == "quoted":
        yield "quoted"


def _amounts(where: Setting, number: Published) -> Iterator[str]:
    """What is different about the amount of data and of training, or is not stated."""
    for mine, theirs, tolerance, what in (
        (where.images, number.images, SAME_SIZE, "training images"),
        (where.epochs, number.epochs, SAME_LENGTH, "epochs in all"),
    ):
        if theirs is None:
            yield f"{what.removesuffix(' in all')} not stated"
        elif mine is None:
            yield f"{what} not known here"
        elif abs(mine / theirs - 1.0) > tolerance:
            yield f"{mine:,.0f} {what} here"
