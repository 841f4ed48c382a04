"""Checkpoints: where a run's state goes now and then, and the state that a killed process left.

A state is plain data and tensors: what is done (the journal, loops that have ended), where the run
stands (a loop and a step of it), and everything that changes (`bench.train.running`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.errors import RecordError
from bench.train.journal import Entry, lasting

State = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What processes have done for a run, whether or not it counts in the end."""

    flops: int = 0
    seconds: float = 0.0


def nowhere(what: Any) -> None:
    """Keeps a state, or a count of work, nowhere."""


@dataclass
class Checkpoints:
    """When to write a run's state, and the one to begin from.

    Attributes:
        write: Is given a state, to be kept where no kill reaches it; None for none.
        every: Seconds between two states.
        saved: What a killed process left, until it is put back.
        earlier: What killed processes have done.
        note: Is given what all processes have done so far, before every step.
        written: How many states have been written.
        seconds: What that took, off the run's clock.
    """

    write: Callable[[State], None] | None = None
    every: float = math.inf
    saved: State | None = None
    earlier: Work = field(default_factory=Work)
    note: Callable[[Work], None] = nowhere
    written: int = 0
    seconds: float = 0.0
    _last: float | None = None

    @property
    def on(self) -> bool:
        """Whether there is a state to go on from, or there may be one."""
        return self.write is not None or self.saved is not None

    def due(self, now: float) -> bool:
        """Whether the time for a state has come; the first call starts the wait."""
        if self._last is None:
            self._last = now
        return self.write is not None and now - self._last >= self.every

    def put(self, state: State, now: float) -> None:
        """Writes a state; the next wait starts at `now`."""
        assert self.write is not None
        self.write(state)
        self.written, self._last = self.written + 1, now

    def inside(self, title: str) -> Sequence[Entry]:
        """What a part had agreed on in the process that was killed within it."""
        here = self.saved is not None and self.saved["title"] == title
        found: Sequence[Entry] = self.saved["inside"] if self.saved and here else ()
        return found

    def step(self, title: str, total: int) -> State:
        """The state to go on from, which a loop has come to: it is used once.

        Raises:
            RecordError: If it belongs to another loop.
        """
        assert self.saved is not None
        same_loop(self.saved, title, total)
        state, self.saved = self.saved, None
        return state


def same_loop(state: State, title: str, total: int) -> None:
    """Holds a loop against the one that a state tells of.

    Raises:
        RecordError: If they are not the same.
    """
    if (state["title"], state["total"]) != (title, total):
        said = [
            f"a loop of {steps} steps" + (f" in {part}" if part else "")
            for part, steps in ((state["title"], state["total"]), (title, total))
        ]
        raise RecordError(
            f"the killed run went on with {said[0]}, and the run with {said[1]}: it does not "
            "repeat itself on this machine; move its files out of partial/ and it begins anew"
        )


def joined(entries: Sequence[Entry], saved: State | None) -> tuple[Sequence[Entry], State | None]:
    """The longer one of a journal that a driver wrote and the one in a state.

    Returns:
        Entries to begin with, and the state, or None if the journal has left it behind.
    """
    if saved is not None and lasting(saved["entries"])[: len(entries)] == list(entries):
        return saved["entries"], saved
    return entries, None
