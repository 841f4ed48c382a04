"""Executors run jobs somewhere and yield what they send: jobs in, events out.  They write nothing.

A place to run in is four methods: `opened`, `room`, `start` and `messages`.  What every place has
to promise stands here once: a retry, which goes on from the journal, and one `Done` for each job.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from bench.record import Failure, Record
from bench.worker import Begun, Done, Job, Lost, Message, Part, Started, Tick

ATTEMPTS = 2

Event = tuple[Job, Started | Tick | Part | Done]


class Executor(ABC):
    """Makes records out of jobs, anywhere."""

    def run(self, jobs: Iterable[Job]) -> Generator[Event, None, None]:
        """Runs jobs in order, once more after a failure; ends what still runs if closed early.

        Raises:
            ConfigError: If there is no such place, or it is taken.
        """
        waiting, tries, shown = deque(jobs), dict[str, _Try](), set[str]()
        if not waiting:
            return
        with self.opened():
            while waiting or tries:
                while waiting and self.room():
                    job = waiting.popleft()
                    tries[job.name] = _Try(job)
                    self.start(job)
                for name, message in self.messages():
                    event = tries[name].hear(message)
                    job = tries[name].job
                    if name not in shown:
                        shown.add(name)
                        yield job, Started()
                    if isinstance(event, Done) and tries.pop(name).again(event):
                        waiting.appendleft(replace(job, attempt=job.attempt + 1))
                    elif event is not None:
                        yield job, event

    @abstractmethod
    def opened(self) -> AbstractContextManager[None]:
        """Takes the place; in the end, lets go of it and of everything that still runs there.

        Raises:
            ConfigError: If there is no such place, or it is taken.
        """

    @abstractmethod
    def room(self) -> bool:
        """Whether one more job may be started now."""

    @abstractmethod
    def start(self, job: Job) -> None:
        """Begins to run a job, or has it wait for its turn there."""

    @abstractmethod
    def messages(self) -> Iterator[tuple[str, Message]]:
        """Waits until jobs have sent something, and yields it beside their names.

        Each job that was started ends with one `Done` or one `Lost`.
        """


@dataclass
class _Try:
    """One try at a job, as far as its messages tell."""

    job: Job
    fallback: Record | None = None
    lost: bool = False

    def hear(self, message: Message) -> Tick | Part | Done | None:
        """What the driver should know of a message."""
        if isinstance(message, Begun):
            self.fallback = message.record
        if isinstance(message, Started | Begun):
            return None
        if isinstance(message, Lost):
            self.lost = True
            return self._end(message.cause)
        if isinstance(message, Part):  # the retry goes on from there
            self.job = replace(self.job, journal=(*self.job.journal, message.entry))
        return message

    def again(self, done: Done) -> bool:
        """Whether a job that ended like this is tried once more."""
        failed = done.record is not None and done.record.status == "failed"
        return (failed or self.lost) and self.job.attempt < ATTEMPTS

    def _end(self, cause: str) -> Done:
        if self.fallback is None:
            return Done(refused=f"run {self.job.name}: {cause} while loading data")
        failure = Failure(
            type="WorkerDied", message=cause, traceback="", attempts=self.job.attempt
        )
        return Done(record=self.fallback.model_copy(update={"failure": failure}))
