"""CUDA devices by name, and who holds them: one campaign alone, or several on the FLOPs track.

Seconds are worth nothing on a device that others use too.  A campaign locks a file for each of
its devices, and the kernel releases the locks of whoever dies.  Only campaigns look at them.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from bench.errors import ConfigError

LOCKS = Path("/tmp")  # not TMPDIR: everyone on the machine has to find the same file


def visible() -> list[str]:
    """Names of the CUDA devices that this process may see, as CUDA_VISIBLE_DEVICES gives them."""
    if not torch.cuda.is_available():
        return []
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return names.split(",") if names else [str(i) for i in range(torch.cuda.device_count())]


@contextmanager
def held(slots: Iterable[str | None], alone: bool) -> Iterator[None]:
    """Holds devices against campaigns that need them alone, or against all others.

    Args:
        slots: Names from `visible`; None for the CPU, which nobody holds.
        alone: Whether nobody else may hold them.

    Raises:
        ConfigError: If one of them is held so that this is not possible.
    """
    with ExitStack() as stack:
        for name in sorted({slot for slot in slots if slot is not None}):
            handle = _open(LOCKS / f"augbench-{_identity(name)}.lock")
            stack.callback(os.close, handle)
            kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                why = "--track gpu takes a device alone"
                who = "other runs use it" if alone else "its runs hold it"
                raise ConfigError(f"CUDA device {name} is taken: {why}, and {who}") from error
        yield


def _open(path: Path) -> int:
    """A file to lock, which belongs to whoever came first and which nobody writes."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o444)
    except FileExistsError:
        return os.open(path, flags)


def _identity(name: str) -> str:
    """A device's UUID: the same in every process, whichever devices it sees."""
    return str(torch.cuda.get_device_properties(visible().index(name)).uuid)
