"""Blocks of a run that are undone, as rehearsals, or left out when it is repeated, as parts."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from bench.errors import BudgetExhausted
from bench.rng import Streams, key
from bench.train.journal import Entry, Journal, plain, relog, series
from bench.train.running import Running
from bench.train.state import restore, snapshot
from bench.train.trace import Trace


class Parts(Running):
    """A run with parts; see `Session`."""

    def once(self, name: str, work: Callable[[], Any], **inputs: Any) -> Any:
        """Does a part of the run, or takes its result from the journal of a killed process.

        After either, bill, clock, tallies, trace and the numbers of learners and batches are the
        same.  So the work must follow from its inputs, with learners and batches of its own, and
        leave nothing but what it returns.  Its random streams are its own, torch's global ones
        included; it reaches no milestone, and a part within it is not kept by itself.

        Args:
            name: What it is; the k-th part of a name has the same streams in every process.
            work: Does it.
            inputs: What it follows from, as plain data.

        Returns:
            What `work` returned, as JSON gives it back.

        Raises:
            RecordError: If the killed process did something else at this point.
            ValueError: If JSON cannot hold the inputs or the result, e.g. NaN.
        """

        def alone() -> Entry:
            with self._apart(title) as trace:
                result = work()
            return {"result": result, "trace": series(trace)}

        title = f"{name} {self._next(f'part {name}')}"
        entry = self._journal.take(title, inputs)
        entry = self._taken(entry) if entry else self._new(title, inputs, alone)
        relog(self.trace, entry["trace"])
        return entry["result"]

    def phase(self, name: str, work: Callable[[], Any], **inputs: Any) -> Any:
        """Does a part that leaves more than its result: networks that it has trained, for example.

        A process that goes on from a checkpoint takes the results of the phases before it, without
        their work: what they changed comes back at the checkpoint's loop, and not before.  So
        between phases only their results, `remaining`, tallies, random streams and fresh learners
        can be relied on.

        Args:
            name: As for `once`; so are `work`, `inputs`, what it returns and raises.
            work: Does it, as a plain call would.
            inputs: What it follows from.
        """

        def here() -> Entry:
            before = self._dice()
            result = work()
            dice = {k: v for k, v in self._dice().items() if not _same(before.get(k), v)}
            return {"phase": True, "result": result, "dice": _texts(dice)}

        title = f"{name} {self._next(f'phase {name}')}"
        if self._title or not self._checkpoints.on or self._meter.ledger.account != "run":
            return plain(work())
        entry = self._journal.take(title, inputs, phase=True)
        entry = self._taken(entry) if entry else self._new(title, inputs, here)
        self._throw(self._dice() | _tensors(entry["dice"]))
        return entry["result"]

    def _taken(self, entry: Entry) -> Entry:
        """Books a part that is done, and ends the slice that it ended."""
        ledger = self._meter.ledger
        ledger.book(entry["spent"])
        self._put_back(entry["books"])
        if entry["crossed"] is not None:
            ledger.cross(entry["crossed"])
        return entry

    def _new(self, title: str, inputs: dict[str, Any], work: Callable[[], Entry]) -> Entry:
        """Does a part and notes it, also if it ends because a slice does."""
        meter, ledger = self._meter, self._meter.ledger
        meter.collect()
        names = "_title", "_plain", "_mark", "_journal", "_kept"
        outer = {name: getattr(self, name) for name in names}
        within = Journal() if self._title else Journal(self._checkpoints.inside(title))
        self._plain = self._plain or bool(self._title)
        self._title, self._mark, self._journal = title, ledger.mark(), within
        self._kept = dict(self._kept)  # what a part keeps, it keeps for itself
        entry: Entry = {"name": title, "inputs": inputs, "crossed": None}
        turned: BudgetExhausted | None = None
        try:
            entry |= work()
        except BudgetExhausted as exhausted:
            turned = exhausted
            entry |= {"result": None, "trace": {}, "crossed": ledger.number_of(turned.scope)}
        finally:
            mark = self._mark
            vars(self).update(outer)
        meter.collect()
        entry |= {"spent": ledger.since(mark), "books": self._books()}
        entry = self._journal.add(entry)
        if turned is not None:
            raise turned
        return entry

    @contextmanager
    def _apart(self, title: str) -> Iterator[Trace]:
        """Streams, trace and kept objects of a block's own."""
        names = "run", self.seed, title
        outside = {f"[{name}]": one for name, one in self._kept.items()}  # checkpoints need it too
        own = {"_streams": Streams(*names), "trace": Trace(), "_kept": outside}
        outer = {name: getattr(self, name) for name in (*own, "_observe")}
        devices = [self.task.device] if self.task.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(key(*names, "global"))
            try:
                vars(self).update(own, _observe=None)
                yield self.trace
            finally:
                vars(self).update(outer)

    @contextmanager
    def _rehearsal(self) -> Iterator[None]:
        ledger = self._meter.ledger
        devices = [self.task.device] if self.task.device.type == "cuda" else []
        with ledger.clock.pause(), ledger.on_account("rehearsal"):
            began = ledger.clock.now()
            names = dict(self._kept)
            learners, batches = self._learners.alive(), self._batches.alive()
            made = [one for _, one in learners], [one for _, one in batches]
            kept = [self._streams, *made[0], *made[1], *names.values()]
            states = [snapshot(one) for one in kept]
            books, trace = self._books(), self.trace.mark()
            journal, self._journal = self._journal, Journal()
            try:
                with torch.random.fork_rng(devices=devices):
                    yield
            finally:
                for one, state in zip(kept, states, strict=True):
                    restore(one, state)
                self._put_back(books)
                self._kept, self._journal = names, journal
                self.trace.rewind(trace)
                ledger.clock.synchronise()
                ledger.rehearsal_seconds += ledger.clock.now() - began


def _same(one: torch.Tensor | None, other: torch.Tensor) -> bool:
    return one is not None and torch.equal(one, other)


def _texts(dice: dict[str, torch.Tensor]) -> dict[str, str]:
    """States of generators as JSON can hold them."""
    return {name: base64.b64encode(one.numpy().tobytes()).decode() for name, one in dice.items()}


def _tensors(texts: dict[str, str]) -> dict[str, torch.Tensor]:
    raw = {name: np.frombuffer(base64.b64decode(text), np.uint8) for name, text in texts.items()}
    return {name: torch.from_numpy(one.copy()) for name, one in raw.items()}
