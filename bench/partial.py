"""The finished parts of a run that is not finished: `results/SUITE/partial/<hash>.jsonl`.

The first line says whose they are, each further one is an entry of the run's journal
(`bench.train.journal`).  A line carries a digest of the run's name, its own number and its text.
So the last line, torn by a kill, is dropped, and a damaged, moved or missing one is never trusted.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from bench.atomic import replace_file
from bench.errors import Damaged
from bench.train.journal import Entry


@dataclass
class Partial:
    """A run's file, read and, when the run goes on, continued.

    Attributes:
        path: Where it is, or will be.
        owner: Whose parts these are and which code made them, as plain data.
        entries: What the file holds, if the same code made it.
        foreign: Whether other code made what it holds.
    """

    path: Path
    owner: Entry
    entries: list[Entry] = field(default_factory=list)
    foreign: bool = False
    _file: FileIO | None = None

    @classmethod
    def read(cls, path: Path, owner: Entry) -> "Partial":
        """Reads what there is.

        Raises:
            Damaged: If a line before the last is damaged.
        """
        first, *entries = _lines(path) or [owner]
        foreign = first != owner
        return cls(path, owner, [] if foreign else entries, foreign)

    def append(self, entry: Entry) -> None:
        """Adds an entry, durably.

        The first one writes the file anew, with what is known: that leaves out a torn line, and a
        second driver gets a file of its own.

        Raises:
            OSError: If the disk refuses.
        """
        if self._file is None:
            known = [_line(self.path, n, e) for n, e in enumerate([self.owner, *self.entries])]
            replace_file(self.path, lambda file: file.write(b"".join(known)))
            self._file = self.path.open("ab", buffering=0)
        self.entries.append(entry)
        try:
            _write_all(self._file, _line(self.path, len(self.entries), entry))
            os.fsync(self._file.fileno())
        except OSError as error:
            error.filename = str(self.path)
            raise

    def close(self) -> None:
        """Lets go of the file, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None


def check(path: Path) -> None:
    """Holds that a file is one of these.

    Raises:
        Damaged: If it is not, or a line before the last is damaged.
    """
    if not _lines(path):
        raise Damaged(f"{path} does not say whose parts it holds")


def owner(path: Path) -> Entry | None:
    """Whose parts a file holds; None if its first line does not say so."""
    with path.open("rb") as file:
        found: Entry | None = _entry(path, 0, file.readline().rstrip(b"\n"))
    return found


def _lines(path: Path) -> list[Any]:
    """The sound lines of a file, parsed; none if there is no file.

    Raises:
        Damaged: If something follows a line that is not sound.
    """
    if not path.is_file():
        return []
    found: list[Any] = []
    raw = path.read_bytes().split(b"\n")
    for number, text in enumerate(raw[:-1]):
        entry = _entry(path, number, text)
        if entry is None:
            if any(raw[number + 1 :]):
                raise Damaged(f"{path} is damaged in line {number + 1}")
            break
        found.append(entry)
    return found


def _write_all(file: FileIO, content: bytes) -> None:
    """Writes all of it: a disk that gets full in the middle takes a part, and then says so."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _line(path: Path, number: int, entry: Entry) -> bytes:
    text = json.dumps(entry, sort_keys=True, allow_nan=False)
    return f'{{"digest": "{_digest(path, number, text)}", "entry": {text}}}\n'.encode()


def _entry(path: Path, number: int, line: bytes) -> Any:
    """The entry that a line holds; None if the line is not what `_line` wrote."""
    try:
        entry = json.loads(line)["entry"]
        return entry if _line(path, number, entry) == line + b"\n" else None
    except (ValueError, KeyError, TypeError):
        return None


def _digest(path: Path, number: int, text: str) -> str:
    return hashlib.sha256(f"{path.stem} {number} {text}".encode()).hexdigest()[:16]
