"""The state of a run, which rehearsals undo, parts book and checkpoints hold.

    for done in session.steps(total):      # a checkpoint may be made before each step
        ...

A killed run begins anew and repeats itself: objects are made again, finished parts are taken from
the journal, loops that have ended are left out.  When it comes to the loop in which the checkpoint
was made, everything that changes gets its state back, and the loop goes on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from bench.errors import RecordError
from bench.rng import Streams
from bench.train.batches import BatchIterator
from bench.train.checkpoint import Checkpoints, State, Work, same_loop
from bench.train.journal import Journal
from bench.train.learner import Learner
from bench.train.meter import Meter
from bench.train.state import Kept, Registry, Stateful, on_host, restore, snapshot
from bench.train.task import Task
from bench.train.trace import Trace

Observer = Callable[[Learner, float], None]


@dataclass(frozen=True)
class Scope:
    """What there is when a loop begins; what it makes itself is its own affair."""

    learners: int
    batches: int
    kept: dict[str, Kept]


class Running:
    """What changes during a run, and what can be done with it; see `Session`."""

    def __init__(
        self,
        task: Task,
        meter: Meter,
        seed: int,
        observe: Observer | None,
        journal: Journal | None,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.task, self.seed = task, seed
        self.prices: dict[str, float] = {}
        self.plans: list[dict[str, int]] = []
        self.tallies: dict[str, int] = {"steps": 0, "images_seen": 0, "policy_updates": 0}
        self.trace = self._outer = Trace()  # a part has one of its own
        self._meter = meter
        self._observe = observe
        self._observer: object = observe  # in parts too, where it sees nothing
        self._journal = self._main = journal or Journal()
        self._checkpoints = checkpoints or Checkpoints()
        self._streams = Streams("run", seed)
        self._counters: dict[str, int] = {}
        self._learners: Registry[Learner] = Registry()
        self._batches: Registry[BatchIterator] = Registry()
        self._kept: dict[str, Kept] = {}
        self._title = ""  # of the part that is being done
        self._mark: Any = None  # the ledger when it began
        self._plain = False  # whether loops are no places for checkpoints
        self._ended: list[State] = []  # loops outside of parts

    def keep(self, **objects: Kept) -> None:
        """Registers what the method changes while it runs, beside learners and batches.

        Rehearsals put these objects back, and checkpoints hold them: tensors, generators, what
        has a `state_dict`, and dicts, lists and tuples of these.  Dicts and lists may also hold
        numbers and texts.
        """
        self._kept.update(objects)

    # Loops

    def steps(self, total: int) -> Iterator[int]:
        """The numbers 0, 1, ..., total - 1 for a loop, before each of which a run can be saved.

        A killed run goes on from there.  So whatever a step changes for later ones, or for what
        follows the loop, must exist before the loop and be a learner, batches, or given to `keep`;
        and the loop ends by itself or by the budget's end.  Of loops in one another the outer one
        counts, and in a part or phase the first one.
        """
        rehearsed = self._meter.ledger.account != "run"
        if self._plain or not self._checkpoints.on or not total or rehearsed:
            yield from range(total)
            return
        scope = Scope(self._learners.count, self._batches.count, dict(self._kept))
        first, complete = self._first(total), False
        if first == total:
            return
        self._plain = True
        try:
            for done in range(first, total):
                self._point(done, total, scope)
                yield done
            complete = True
        finally:
            self._plain = bool(self._title)
            self._leave(total, scope, complete)

    def _first(self, total: int) -> int:
        """Where a loop begins: at its end if it has ended in the process that was killed."""
        checkpoints = self._checkpoints
        if checkpoints.saved is None:
            return 0
        ended: list[State] = checkpoints.saved["ended"]
        if not self._title and len(self._ended) < len(ended):
            loop = ended[len(self._ended)]
            same_loop(loop, "", total)
            self._restore(loop["state"])
            self._ended.append(loop)
            if loop["crossed"] is not None:
                self._meter.ledger.cross(loop["crossed"])
            return total
        saved = checkpoints.step(self._title, total)
        self._restore(saved["state"])
        for trace, points in zip(self._traces(), saved["traces"], strict=True):
            trace.load_state_dict(points)
        self._mark = saved["mark"]
        done: int = saved["done"]
        return done

    def _point(self, done: int, total: int, scope: Scope) -> None:
        """A place for a checkpoint."""
        checkpoints, clock = self._checkpoints, self._meter.ledger.clock
        checkpoints.note(self._worked())
        began = clock.now()
        if not checkpoints.due(began):
            return
        with clock.pause():
            place = {"title": self._title, "total": total, "done": done}
            inside = self._journal.past if self._title else []
            known = {"entries": self._main.past, "inside": inside, "ended": self._ended}
            traces = [on_host(trace.state_dict()) for trace in self._traces()]
            known |= {"mark": self._mark, "traces": traces}
            worked = {"worked": vars(self._worked())}
            checkpoints.put(place | known | worked | {"state": self._state(scope)}, clock.now())
            checkpoints.seconds += clock.now() - began

    def _leave(self, total: int, scope: Scope, complete: bool) -> None:
        """A loop has ended: by itself, by the budget, or in a way that nobody can repeat."""
        ledger = self._meter.ledger
        if not complete and ledger.crossed is None:
            self._checkpoints.write = None
        if self._title or not self._checkpoints.on:
            return
        crossed = None if complete else ledger.number_of(ledger.crossed)
        with ledger.clock.pause():
            loop = {"title": "", "total": total, "crossed": crossed}
            self._ended.append(loop | {"state": self._state(scope)})

    # States

    def _traces(self) -> list[Trace]:
        """The run's trace, and that of the part that is being done."""
        return [self._outer] if self.trace is self._outer else [self._outer, self.trace]

    def _state(self, scope: Scope) -> State:
        """Everything that changes, as far as it is from before a loop."""
        self._meter.collect()
        same = {name: one for name, one in self._kept.items() if scope.kept.get(name) is one}
        learners = ((n, one) for n, one in self._learners.alive() if n < scope.learners)
        batches = ((n, one) for n, one in self._batches.alive() if n < scope.batches)
        state = {
            "learners": {number: snapshot(one) for number, one in learners},
            "batches": {number: snapshot(one) for number, one in batches},
            "kept": {name: snapshot(one) for name, one in same.items()},
            "dice": self._dice(),
            "books": self._books(),
            "ledger": self._meter.ledger.state_dict(),
            "meter": self._meter.state_dict(),
        }
        if isinstance(self._observer, Stateful):
            state["observer"] = self._observer.state_dict()
        found: State = on_host(state)
        return found

    def _restore(self, state: State) -> None:
        """Puts everything back; what is not there any more, nobody asks for."""
        if missing := state["kept"].keys() - self._kept.keys():
            raise RecordError(
                f"the killed run kept {min(missing)!r}, and this one does not: it does not repeat "
                "itself; move its files out of partial/ and it begins anew"
            )
        for kind, registry in (("learners", self._learners), ("batches", self._batches)):
            for number, one in registry.alive():
                if number in state[kind]:
                    restore(one, state[kind][number])
        for name, value in state["kept"].items():
            restore(self._kept[name], value)
        self._throw(state["dice"])
        self._put_back(state["books"])
        with self._meter.ledger.clock.pause():
            self._meter.collect()
            self._meter.ledger.load_state_dict(state["ledger"])
        self._meter.load_state_dict(state["meter"])
        if isinstance(self._observer, Stateful):
            self._observer.load_state_dict(state["observer"])

    def _dice(self) -> dict[str, torch.Tensor]:
        """The state of every generator; those of torch, which dropout asks, in brackets."""
        found = {"[host]": torch.get_rng_state()}
        if self.task.device.type == "cuda":
            found["[device]"] = torch.cuda.get_rng_state(self.task.device)
        return found | self._streams.state_dict()

    def _throw(self, dice: dict[str, torch.Tensor]) -> None:
        own = {name: state for name, state in dice.items() if not name.startswith("[")}
        self._streams.load_state_dict(own)
        torch.set_rng_state(dice["[host]"])
        if "[device]" in dice:
            torch.cuda.set_rng_state(dice["[device]"], self.task.device)

    def _books(self) -> dict[str, Any]:
        return {
            "counters": dict(self._counters),
            "made": [self._learners.count, self._batches.count],
            "tallies": dict(self.tallies),
            "plans": list(self.plans),
            "prices": dict(self.prices),
        }

    def _put_back(self, books: dict[str, Any]) -> None:
        self._counters, self.tallies = dict(books["counters"]), dict(books["tallies"])
        self._learners.count, self._batches.count = books["made"]
        self.plans, self.prices = list(books["plans"]), dict(books["prices"])

    def _next(self, name: str) -> int:
        self._counters[name] = self._counters.get(name, 0) + 1
        return self._counters[name] - 1

    def _worked(self) -> Work:
        """What all processes have done for this run so far."""
        earlier, ledger = self._checkpoints.earlier, self._meter.ledger
        return Work(earlier.flops + ledger.computed, earlier.seconds + ledger.clock.worked)

    @property
    def redone(self) -> Work:
        """What processes have done that is not in the books: work that kills have undone."""
        worked, ledger = self._worked(), self._meter.ledger
        booked = sum(ledger.flops(account) for account in ("run", "rehearsal", "harness"))
        seconds = worked.seconds - ledger.clock.elapsed
        return Work(max(0, worked.flops - booked), max(0.0, seconds))

    @property
    def checkpoint_seconds(self) -> float:
        """What checkpoints of this process have taken, off the clock."""
        return self._checkpoints.seconds
