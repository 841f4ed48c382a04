"""Runs jobs on a Ray cluster.  What they send streams to the driver: no file system is shared.

A Ray worker keeps a fork server, as the driver does on one machine, and makes a process for each
run.  So a run starts as fast as there, and its bits depend on nothing that ran before.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from bench.errors import ConfigError
from bench.executors import Executor
from bench.executors.remote import Sent, hosted
from bench.worker import Done, Job, Lost, Message


class RayCluster(Executor):
    """Runs jobs on a Ray cluster.

    Args:
        address: Of its head; by default what Ray finds, or else a cluster of this machine alone.
        gpus: A run's share of GPUs, e.g. 0.25 for four runs a device.
        limit: How many runs may be submitted at a time; by default all.
    """

    def __init__(
        self, address: str | None = None, gpus: float = 0, limit: int | None = None
    ) -> None:
        self._address, self._limit = address, limit
        # The executor itself tries again, with what is finished.  Given GPUs here, and not with a
        # job, Ray ends the worker after it: a process sees the devices that it saw first.
        self._hosted = ray.remote(num_returns="streaming", max_retries=0, num_gpus=gpus)(hosted)
        self._streams: dict[str, Any] = {}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Connects, if this process is not connected; cancels what still runs in the end."""
        ours = not ray.is_initialized()
        if ours:
            self._connect()
        try:
            yield
        finally:
            for stream in self._streams.values():
                ray.cancel(stream, force=True)
            if ours:
                ray.shutdown()

    def room(self) -> bool:
        """Whether more may be submitted: Ray itself knows what may run."""
        return self._limit is None or len(self._streams) < self._limit

    def start(self, job: Job) -> None:
        """Submits a job."""
        task = self._hosted.options(num_cpus=job.config.threads, name=job.name)
        self._streams[job.name] = task.remote(Sent.of(job))

    def messages(self) -> Iterator[tuple[str, Message]]:
        """Waits for messages; an error in their place is a dead worker or node."""
        ready, _ = ray.wait(list(self._streams.values()))
        for name in [name for name, stream in self._streams.items() if stream in ready]:
            message = _next(self._streams[name])
            if isinstance(message, Done | Lost):
                del self._streams[name]
            yield name, message

    def _connect(self) -> None:
        try:
            ray.init(
                self._address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError) as error:
            said = str(error).splitlines()[0]
            raise ConfigError(
                f"--address {self._address!r}: no Ray cluster answers there: {said}"
            ) from error


def _next(stream: Any) -> Message:
    """The next message of a stream.  Ray's own texts name machines, and records do not."""
    try:
        message: Message = ray.get(next(stream))
        return message
    except ray.exceptions.RayTaskError as error:
        return Done(refused=f"the run cannot begin on a worker's machine: {error.cause}")
    except (ray.exceptions.RayError, StopIteration) as error:
        return Lost(f"the run's Ray worker ended ({type(error).__name__})")
