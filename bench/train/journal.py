"""The journal of a run: its finished parts in order, so that a killed run need not redo them.

A part is work that draws on nothing but its inputs and leaves nothing but its result and what it
cost, e.g. one trial of a search.  The method runs again from its beginning and asks for the same
parts; those with an entry are taken from there, the first without one is where work goes on.
"""

import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from bench.errors import RecordError
from bench.train.trace import Trace

Entry = dict[str, Any]  # plain data: equal after a journey through JSON


def forget(entry: Entry) -> None:
    """Keeps an entry nowhere: a run that cannot be continued."""


class Journal:
    """What is done of a run.

    Args:
        entries: Those of the process that was killed, in order.
        write: Given every new entry, in order, to be kept where no kill reaches it.
        written: How many of the entries it has been given already; all by default.

    Attributes:
        past: All entries so far, in order.
    """

    def __init__(
        self,
        entries: Iterable[Entry] = (),
        write: Callable[[Entry], None] = forget,
        written: int | None = None,
    ) -> None:
        self._left = deque(entries)
        self._write = write
        self._written = len(self._left) if written is None else written
        self._waiting: list[Entry] = []
        self.past: list[Entry] = []

    def take(self, name: str, inputs: dict[str, Any], phase: bool = False) -> Entry | None:
        """The entry of the run's next part; None if that part is not finished.

        A phase is done again where the journal goes on without it.

        Raises:
            RecordError: If the journal goes on with something else.
        """
        if not self._left or (phase and not self._left[0].get("phase")):
            return None
        entry = self._left.popleft()
        given = plain(inputs)
        if entry["name"] != name or entry["inputs"] != given:
            raise RecordError(
                f"the journal of the killed run goes on with {_said(entry)}, and the run with "
                f"{_said({'name': name, 'inputs': given})}: it does not repeat itself on this "
                "machine; move its files out of partial/ and it begins anew"
            )
        self._wait(entry)
        return entry

    def add(self, entry: Entry) -> Entry:
        """Writes a finished part, and before it all that was agreed since the last one.

        A phase is not written: without a checkpoint nobody could go on from its end.

        Returns:
            The entry as plain data.
        """
        entry = plain(entry)
        self._wait(entry)
        if lasting([entry]):
            for one in self._waiting:
                self._write(one)
            self._waiting = []
        return entry

    def _wait(self, entry: Entry) -> None:
        """The entry is past; and will be written if it has to be."""
        self.past.append(entry)
        if lasting([entry]):
            if not self._written:
                self._waiting.append(entry)
            self._written = max(0, self._written - 1)

    def agree(self, name: str, value: Any) -> Any:
        """The value that the killed process had for this, or the one given if it had none.

        For what another process may measure otherwise.  It is written with the next part: a run
        without finished parts leaves no journal.
        """
        entry = self.take(name, {})
        if entry is None:
            entry = plain({"name": name, "inputs": {}, "result": value})
            self._wait(entry)
        return entry["result"]


def lasting(entries: Iterable[Entry]) -> list[Entry]:
    """Those that are worth something without a checkpoint: all but phases."""
    return [entry for entry in entries if not entry.get("phase")]


def plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples become lists, floats stay the same bits.

    Raises:
        ValueError: If JSON cannot hold it, as NaN.
    """
    return json.loads(json.dumps(value, allow_nan=False))


def series(trace: Trace) -> dict[str, Any]:
    """Every point of a trace as plain data; numbers that are not finite become None."""
    return trace.export(points=sys.maxsize)


def relog(trace: Trace, found: dict[str, Any]) -> None:
    """Appends what `series` told."""
    for name, points in found.items():
        for step, value in zip(points["step"], points["value"], strict=True):
            trace.append(step, {name: _number(value)}, whole=points.get("whole", False))


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(one) for one in value]
    return math.nan if value is None else value


def _said(entry: Entry) -> str:
    inputs = ", ".join(f"{name}={value}" for name, value in entry["inputs"].items())
    return f"{entry['name']} ({inputs})" if inputs else str(entry["name"])
