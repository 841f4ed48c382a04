"""One run in one process: load the method, execute, send the record home.

The worker never writes records.  Before the method starts it sends the record that holds if
it dies, so that a killed run is a failure with a name rather than a hole.
"""

import os
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench import plugins, runner
from bench.config import RunConfig
from bench.environment import Origin
from bench.errors import ConfigError, DataError
from bench.record import Failure, Record

PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """A run to be made, with everything a process needs to make it.

    Attributes:
        name: The record's hash.
        plugin: The method's file.
        origin: The code of the campaign.
        attempt: 1 at first, 2 for the retry.
    """

    name: str
    config: RunConfig
    plugin: Path
    data: runner.DataOptions
    origin: Origin
    attempt: int = 1


@dataclass(frozen=True)
class Done:
    """How a job ended: a record, a reason for skipping, or a sentence for the user."""

    record: Record | None = None
    skipped: str | None = None
    refused: str | None = None


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


def work(job: Job, connection: Connection, device: str | None) -> None:
    """Runs a job and sends `Begun`, `Tick`s and one `Done`.

    Args:
        job: What to run.
        connection: To the driver.
        device: A CUDA device number to confine the process to.
    """
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    threading.Thread(target=_die_with_parent, daemon=True).start()
    last = 0.0

    def progress(phase: str, share: float, error: float | None) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_SECONDS:
            last = time.monotonic()
            connection.send(Tick(phase, share, error))

    try:
        selected = plugins.select(plugins.discover([], [job.plugin]), job.config.method)
        result = runner.execute(
            job.config,
            selected,
            job.data,
            progress,
            attempts=job.attempt,
            begun=lambda record: connection.send(Begun(record)),
            origin=job.origin,
        )
    except (ConfigError, DataError) as error:
        connection.send(Done(refused=str(error)))
        return
    if isinstance(result, runner.Skipped):
        connection.send(Done(skipped=result.reason))
    else:
        connection.send(Done(record=result))


def died(attempt: int, code: int | None) -> Failure:
    """What a run's record says when its process ended without one."""
    cause = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    hint = " (often: out of memory)" if code == -9 else ""
    return Failure(
        type="WorkerDied",
        message=f"the run's process ended by {cause}{hint}",
        traceback="",
        attempts=attempt,
    )


def _die_with_parent() -> None:
    """A worker without a driver has nobody to send its record to."""
    parent: Any = parent_process()
    if parent is not None:
        parent.join()
        print("augbench: the driver is gone, the run ends", file=sys.stderr)
        os._exit(1)
