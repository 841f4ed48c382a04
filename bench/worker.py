"""One run in one process: load the method, execute, send the record home, and its arrays.

The worker never writes records.  Before the method starts it sends the record that holds if
it dies, so that a killed run is a failure with a name rather than a hole.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench import disk, memory, plugins, runner
from bench.config import RunConfig
from bench.environment import Origin
from bench.errors import ConfigError, DataError
from bench.record import Record
from bench.saved import Saving
from bench.sidefile import SideArrays
from bench.train.checkpoint import Checkpoints, joined
from bench.train.journal import Entry, Journal

PROGRESS_SECONDS = 0.2
PIECE = 64 << 20  # bytes of an array in one message
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Job:
    """A run to be made, with everything a process needs to make it.

    Attributes:
        name: The record's hash.
        plugin: The method's file.
        source: The digest of the method's source.
        origin: The code of the campaign.
        attempt: 1 at first, 2 for the retry.
        keep_features: Whether to keep features of test images.
        journal: What is finished of the run already.
        saving: Where its state goes while it runs, and may be found; None for nowhere.
    """

    name: str
    config: RunConfig
    plugin: Path
    source: str
    data: runner.DataOptions
    origin: Origin
    attempt: int = 1
    keep_features: bool = False
    journal: tuple[Entry, ...] = ()
    saving: Saving | None = None


@dataclass(frozen=True, eq=False)
class Done:
    """How a job ended: a record, a reason for skipping, or a sentence for the user.

    Attributes:
        arrays: What goes into the side file before the record is written.
    """

    record: Record | None = None
    skipped: str | None = None
    refused: str | None = None
    arrays: SideArrays = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """A job's process has begun."""


@dataclass(frozen=True)
class Begun:
    """Sent before the method starts: the failed record that holds if the process dies."""

    record: Record


@dataclass(frozen=True)
class Tick:
    """Progress: phase, share of the budget, validation error."""

    phase: str
    share: float
    error: float | None


@dataclass(frozen=True)
class Part:
    """An entry for the run's journal."""

    entry: Entry


@dataclass(frozen=True)
class Lost:
    """Said by an executor: a job's process has ended without a `Done`, and how."""

    cause: str


Message = Started | Begun | Tick | Part | Done | Lost


@dataclass(frozen=True)
class _Parcel:
    """A `Done` without its arrays, and the name, type and shape of those that follow."""

    done: Done
    forms: list[tuple[str, str, tuple[int, ...]]]


def send(connection: Connection, done: Done) -> None:
    """Sends a `Done`, its arrays as bytes after it, in pieces.

    Pickled with it, a table of gigabytes would be copied once more here and twice there.
    """
    forms = [(name, array.dtype.str, array.shape) for name, array in done.arrays.items()]
    connection.send(_Parcel(replace(done, arrays={}), forms))
    for array in done.arrays.values():
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        for start in range(0, len(raw), PIECE):
            connection.send_bytes(raw[start : start + PIECE])


def receive(connection: Connection) -> Message:
    """The next message, whole.

    Raises:
        EOFError, OSError: If the worker ends before it has sent all of it.
    """
    message: Started | Begun | Tick | Part | _Parcel = connection.recv()
    if not isinstance(message, _Parcel):
        return message
    arrays = {}
    for name, kind, shape in message.forms:
        arrays[name] = np.empty(shape, kind)
        raw = arrays[name].reshape(-1).view(np.uint8).data
        start = 0
        while start < len(raw):
            start += connection.recv_bytes_into(raw, start)
    return replace(message.done, arrays=arrays)


def work(job: Job, connection: Connection, device: str | None) -> None:
    """Runs a job in this process, and sends what it has to say.

    Args:
        job: What to run.
        connection: To the driver.
        device: The name of a CUDA device to confine the process to.
    """
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    threading.Thread(target=_die_with_parent, daemon=True).start()
    connection.send(Started())
    send(connection, make(job, connection.send))


def make(job: Job, tell: Callable[[Message], None], seconds: float = PROGRESS_SECONDS) -> Done:
    """Runs a job.

    Args:
        job: What to run.
        tell: Given `Begun`, `Tick`s and `Part`s.
        seconds: Between two `Tick`s, at least.
    """
    last = 0.0

    def progress(phase: str, share: float, error: float | None) -> None:
        nonlocal last
        if time.monotonic() - last > seconds:
            last = time.monotonic()
            tell(Tick(phase, share, error))

    def begun(record: Record) -> None:
        if record.hash != job.name:
            raise ConfigError(f"run {job.name}: its method or its data are not what they were")
        tell(Begun(record))

    journal, checkpoints = _known(job, lambda entry: tell(Part(entry)))
    try:
        selected = plugins.select(plugins.discover([], [job.plugin]), job.config.method)
        result = runner.execute(
            job.config,
            selected,
            job.data,
            progress,
            attempts=job.attempt,
            begun=begun,
            origin=job.origin,
            keep_features=job.keep_features,
            journal=journal,
            checkpoints=checkpoints,
        )
    except (ConfigError, DataError) as error:
        return Done(refused=str(error))
    except (MemoryError, RuntimeError) as error:  # while loading data: others are in the record
        if (short := memory.advice(error)) is None:
            raise
        return Done(refused=f"its data cannot be loaded: {short}")
    if job.saving:
        job.saving.clear_away()
    if isinstance(result, runner.Skipped):
        return Done(skipped=result.reason)
    return Done(record=result.record, arrays=result.arrays)


def _known(job: Job, write: Callable[[Entry], None]) -> tuple[Journal, Checkpoints]:
    """What killed processes have left of a run, and where this one's goes."""
    checkpoints = _opened(job.saving) if job.saving else Checkpoints()
    entries, checkpoints.saved = joined(job.journal, checkpoints.saved)
    return Journal(entries, write, len(job.journal)), checkpoints


def _opened(saving: Saving) -> Checkpoints:
    """A run's checkpoints; where the disk takes none, that is said once, and the run goes on."""
    said: list[str] = []

    def complain(error: Exception) -> None:
        if (trouble := disk.trouble(error)) is None:
            raise error
        trouble.filename = trouble.filename or str(saving.path)
        if not said:
            said.append(f"{disk.sentence(trouble)}; the run goes on without")
            _say(said[0])

    try:
        checkpoints = saving.open(_say)
    except (OSError, RuntimeError) as error:
        complain(error)
        return Checkpoints()
    if checkpoints.write is not None:
        checkpoints.write = _forgiving(checkpoints.write, complain)
    checkpoints.note = _forgiving(checkpoints.note, complain)
    return checkpoints


def _forgiving(
    write: Callable[[Kept], None], complain: Callable[[Exception], None]
) -> Callable[[Kept], None]:
    def attempt(what: Kept) -> None:
        try:
            write(what)
        except (OSError, RuntimeError) as error:  # the latter is torch's own word for the former
            complain(error)

    return attempt


def _say(sentence: str) -> None:
    print(f"augbench: {sentence}", file=sys.stderr)


def _die_with_parent() -> None:
    """A worker without a driver has nobody to send its record to."""
    parent: Any = parent_process()
    if parent is not None:
        parent.join()
        try:
            _say("the driver is gone, the run ends")
        finally:  # also if nobody is left to read that
            os._exit(1)
