"""Files that are replaced whole: a reader finds the old content or the new, whatever happens."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

Filled = TypeVar("Filled")


def write_text(path: Path, text: str) -> None:
    """Replaces a text file as `replace_file` does, with the same errors."""
    replace_file(path, lambda file: file.write(text.encode()))


def replace_file(path: Path, fill: Callable[[IO[bytes]], Filled]) -> Filled:
    """Replaces a file atomically and durably.

    Args:
        path: The file; its folder is made where it is missing.
        fill: Writes the content into a binary file, which it may also seek and read.

    Returns:
        What `fill` returns.

    Raises:
        OSError: If the disk refuses; the temporary file is removed, and the file holds its old
            content or the whole new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w+b") as file:
            filled = fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # a full disk names no file
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)
    return filled
