"""Disks that take no more: one sentence about what could not be written, and how much it was."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import DiskError

FULL = {errno.ENOSPC, errno.EDQUOT}
DENIALS = {errno.EACCES, errno.EPERM}
REFUSALS = FULL | DENIALS | {errno.EROFS, errno.EFBIG}


@contextmanager
def sentences(needed: int | None = None) -> Iterator[None]:
    """Turns what a disk says while a file is written into one sentence.

    Args:
        needed: Size of the file in bytes, if it is known.

    Raises:
        DiskError: If the disk refuses the file.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise DiskError(sentence(error, needed)) from error


def sentence(error: OSError, needed: int | None = None) -> str:
    """What could not be written where, and why; with the room that there is, if that is why."""
    known = needed is not None or error.errno not in DENIALS
    what = "cannot be written" if known else "cannot be read or written"
    said = f"{error.filename or 'a file'} {what}: {error.strerror}"
    if error.errno not in FULL or not error.filename:
        return said
    room = f"{_size(_free(Path(error.filename)))} free"
    return f"{said} ({f'{_size(needed)} needed, ' if needed is not None else ''}{room})"


def trouble(error: BaseException) -> OSError | None:
    """The disk's refusal behind an error that a library made of it; None if there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in REFUSALS:
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _free(path: Path) -> int:
    place = next(folder for folder in path.absolute().parents if folder.is_dir())
    return shutil.disk_usage(place).free


def _size(count: int) -> str:
    """A number of bytes for people."""
    if count < 10_000:
        return f"{count} bytes"
    power = 1 if count < 10_000_000 else 2 if count < 10_000_000_000 else 3
    return f"{count / 1000**power:.1f} {('kB', 'MB', 'GB')[power - 1]}"
