"""The executor that a request asks for.  Only the one that is asked for is imported."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.config import Suite
from bench.errors import ConfigError
from bench.executors import Executor
from bench.executors.local import LocalProcesses
from bench.request import Request


def executor_of(request: Request, suite: Suite, slots: Sequence[str | None]) -> Executor:
    """The executor of a request.

    Raises:
        ConfigError: If its library is missing, or an option is wrong.
    """
    if request.executor == "ray":
        with _extra("ray", "ray"):
            from bench.executors.ray import RayCluster
        return RayCluster(request.address, request.gpus or 0, request.jobs)
    if request.executor == "slurm":
        with _extra("slurm", "submitit"):
            from bench.executors.slurm import SlurmArray
        if request.gpus is not None and request.gpus % 1:
            raise ConfigError(f"--gpus {request.gpus:g}: Slurm gives whole GPUs")
        return SlurmArray(
            folder=request.results / suite.name / "slurm",
            threads=request.threads,
            gpus=int(request.gpus or 0),
            partition=request.partition,
            minutes=request.minutes or SlurmArray.minutes,
            limit=request.jobs,
        )
    return LocalProcesses(slots, alone=suite.track == "gpu")


@contextmanager
def _extra(name: str, module: str) -> Iterator[None]:
    """Says how to install a library that is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ConfigError(
            f"--executor {name} needs {module}: python -m pip install -e '.[{name}]'"
        ) from error
