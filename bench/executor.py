"""Runs jobs in local processes, one process a run, and yields what they send.

An executor's whole interface is `run(jobs)`: events in, events out.  It writes nothing.
"""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, Protocol

from bench.record import Record
from bench.worker import Begun, Done, Job, Part, Tick, died, receive, work

ATTEMPTS = 2
# What every run imports sooner or later, some of it lazily: two seconds that forks then share.
PRELOADED = ("bench.worker", "sklearn.datasets", "torch._dynamo")

Event = tuple[Job, "Started | Tick | Part | Done"]


@dataclass(frozen=True)
class Started:
    """A job's process has begun."""


class Executor(Protocol):
    """Makes records out of jobs, anywhere."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """Runs every job once more after a failure, and yields exactly one `Done` for each."""


@dataclass
class _Running:
    job: Job
    process: ForkServerProcess
    connection: Connection
    slot: str | None
    fallback: Record | None = None


class LocalProcesses:
    """Runs jobs in processes of this machine.

    A fork server imports torch once; each run is a fresh fork of it, so that nothing that ran
    before can touch its bits, and starting costs a fraction of a second.

    Args:
        slots: One entry a process at a time: a CUDA device number, or None on the CPU.
    """

    def __init__(self, slots: list[str | None]) -> None:
        self._free = deque(slots)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self._running: list[_Running] = []

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """Runs jobs in order, as slots become free; kills what still runs if left early."""
        waiting = deque(jobs)
        try:
            while waiting or self._running:
                while waiting and self._free:
                    yield self._start(waiting.popleft()), Started()
                for running, event in self._receive():
                    if isinstance(event, Done) and self._failed(event, running.job):
                        waiting.appendleft(replace(running.job, attempt=running.job.attempt + 1))
                    else:
                        yield running.job, event
        finally:
            for running in self._running:
                running.process.kill()
                running.process.join()

    @staticmethod
    def _failed(event: Done, job: Job) -> bool:
        failed = event.record is not None and event.record.status == "failed"
        return failed and job.attempt < ATTEMPTS

    def _start(self, job: Job) -> Job:
        slot = self._free.popleft()
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=work, args=(job, theirs, slot), daemon=True)
        process.start()
        theirs.close()
        self._running.append(_Running(job, process, ours, slot))
        return job

    def _receive(self) -> Iterator[tuple[_Running, Tick | Part | Done]]:
        """Waits for messages; an end of file without a `Done` is a dead worker."""
        ready: list[Any] = wait([running.connection for running in self._running])
        for running in [r for r in self._running if r.connection in ready]:
            try:
                message = receive(running.connection)
            except (EOFError, OSError):  # the latter in the middle of a message
                yield running, self._end(running, None)
                continue
            if isinstance(message, Begun):
                running.fallback = message.record
            elif isinstance(message, Done):
                yield running, self._end(running, message)
            else:
                if isinstance(message, Part):  # the retry goes on from there
                    finished = (*running.job.journal, message.entry)
                    running.job = replace(running.job, journal=finished)
                yield running, message

    def _end(self, running: _Running, message: Done | None) -> Done:
        running.process.join()
        running.connection.close()
        self._running.remove(running)
        self._free.append(running.slot)
        if message is not None:
            return message
        failure = died(running.job.attempt, running.process.exitcode)
        if running.fallback is None:
            return Done(refused=f"run {running.job.name}: {failure.message} while loading data")
        return Done(record=running.fallback.model_copy(update={"failure": failure}))
