"""Whether a user's own run may stand beside committed ones, and if not, why."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from bench.record import Record
from bench.report.checks import content


def mismatch(run: Record, committed: Iterable[Record]) -> str:
    """Why no committed run stands for the same task, seed and budget as a run; empty if one does.

    It is the first aspect that none shares, each asked of those that share the former ones.
    """
    peers = list(committed)
    for value, sentence in ASPECTS:
        mine = value(run)
        same = [peer for peer in peers if mine is None or value(peer) in (None, mine)]
        if not same:
            mine, theirs = _apart(mine, [value(peer) for peer in peers])
            return sentence.format(mine=mine, theirs=theirs)
        peers = same
    return ""


def _apart(mine: Any, theirs: Sequence[Any]) -> tuple[str, str]:
    """Two sides in words; of tables only what differs."""
    if not isinstance(mine, dict):
        return listed([mine]), listed(theirs)
    other = next(each for each in theirs if each is not None)
    keys = [key for key in mine | other if mine.get(key) != other.get(key)]
    first, second = (listed([f"{key} {side.get(key)}" for key in keys]) for side in (mine, other))
    return first, second


def task_name(record: Record) -> str:
    """The task's name, also of a run that failed before it had a task."""
    if record.task is not None:
        return record.task.name
    task = record.config.get("task", {})
    return " · ".join(str(task.get(part)) for part in ("data", "distort", "network"))


def _content(part: int) -> Callable[[Record], Any]:
    """One of the things that a task's name leaves out; None of a run without a task."""
    return lambda record: None if record.task is None else content(record.task)[part]


ASPECTS: tuple[tuple[Callable[[Record], Any], str], ...] = (
    (lambda record: record.protocol, "protocol {mine}, and the committed runs have {theirs}"),
    (lambda record: record.track, "{mine} track, and the committed runs are on {theirs}"),
    (lambda record: record.budget, "{mine} RT, and the committed runs have {theirs}"),
    (task_name, "no committed run is on {mine}"),
    (lambda record: record.seed, "the committed runs there have seeds {theirs} only"),
    (_content(0), "other images than those committed under the same name"),
    (_content(1), "{mine} images, and the committed runs have {theirs}"),
    (_content(2), "other class counts than those committed"),
    (_content(3), "a recipe with {mine}, and the committed runs have {theirs}"),
    (
        lambda record: record.bill and record.bill.rt_flops,
        "1 RT of {mine} FLOPs, and the committed runs have {theirs}",
    ),
)
"""What must agree, and how it is said that it does not."""


def listed(values: Collection[object]) -> str:
    """Different values, numbers in their order."""
    numbers = sorted({value for value in values if isinstance(value, int | float)})
    texts = sorted({value for value in values if isinstance(value, str)})
    return ", ".join([*(f"{value:.15g}" for value in numbers), *texts])
