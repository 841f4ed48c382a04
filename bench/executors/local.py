"""Runs jobs in processes of this machine, one process a run."""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from bench import memory
from bench.executors import Executor
from bench.executors.devices import held
from bench.worker import Done, Job, Lost, Message, receive, work

# What every run imports sooner or later, some of it lazily: two seconds that forks then share.
PRELOADED = ("bench.worker", "sklearn.datasets", "torch._dynamo")


@dataclass(frozen=True)
class _Running:
    process: ForkServerProcess
    connection: Connection
    slot: str | None


class LocalProcesses(Executor):
    """Runs jobs in processes of this machine.

    A fork server imports torch once; each run is a fresh fork of it, so that nothing that ran
    before can touch its bits, and starting costs a fraction of a second.

    Args:
        slots: One entry a process at a time: a CUDA device's name, or None on the CPU.
        alone: Whether nothing else may run on these devices.
    """

    def __init__(self, slots: Sequence[str | None], alone: bool = False) -> None:
        self._free = deque(slots)
        self._alone = alone
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self._running: dict[str, _Running] = {}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Holds the devices; kills what still runs in the end."""
        with held(self._free, self._alone):
            try:
                yield
            finally:
                for running in self._running.values():
                    running.process.kill()
                    running.process.join()

    def room(self) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    def start(self, job: Job) -> None:
        """Forks a process for a job."""
        slot = self._free.popleft()
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=work, args=(job, theirs, slot), daemon=True)
        process.start()
        theirs.close()
        self._running[job.name] = _Running(process, ours, slot)

    def messages(self) -> Iterator[tuple[str, Message]]:
        """Waits for messages; an end of file without a `Done` is a dead worker."""
        ready: list[Any] = wait([running.connection for running in self._running.values()])
        for name, running in list(self._running.items()):
            if running.connection not in ready:
                continue
            try:
                message = receive(running.connection)
            except (EOFError, OSError):  # the latter in the middle of a message
                running.process.join()
                message = Lost(_cause(running.process.exitcode))
            if isinstance(message, Done | Lost):
                self._end(name)
            yield name, message

    def _end(self, name: str) -> None:
        running = self._running.pop(name)
        running.process.join()
        running.connection.close()
        self._free.append(running.slot)


def _cause(code: int | None) -> str:
    """How a process ended, from its exit code."""
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    hint = f" (often: out of memory; then {memory.ADVICE['cpu']})" if code == -9 else ""
    return f"the run's process ended by {how}{hint}"
