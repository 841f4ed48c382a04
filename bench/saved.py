"""The state of a run that is not finished: `results/SUITE/partial/<hash>.ckpt`, and `<hash>.work`.

A checkpoint is a line of JSON, which says whose it is and has a digest of the rest, and plain data
and tensors as torch saves them; they are read as such and nothing else, no code among them.
`.work` counts what processes have done for the run, those that were killed included.

One process at a time works for a run, and `.work` is its own: it makes that file anew and looks at
it before the next step every second.  So whoever is taken for dead and lives, on a machine that
was out of reach or under a driver that was killed, finds another's file there and ends.  Even in
between nothing tears: a state is replaced whole, and the state of either process is a good one.
"""

import errno
import hashlib
import io
import json
import os
import pickle
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from bench.atomic import replace_file
from bench.errors import Damaged, RecordError
from bench.quarantine import set_aside
from bench.train.checkpoint import Checkpoints, State, Work
from bench.train.journal import Entry

KINDS = (".jsonl", ".ckpt", ".work")  # files of a run in partial/
NOBODY = "0" * 64  # in place of a digest, until there is one
_COUNT = re.compile(rb"(\d{20}) (\d{13}\.\d{6})\n")


@dataclass(frozen=True)
class Saving:
    """Where a run saves its state, and how often.

    Attributes:
        folder: `partial/` of the driver's results.  On a machine that does not have those results
            the state goes into its folder for temporary files, and serves those who come back.
        name: The record's hash.
        owner: Whose state it is and which code made it, as plain data.
        minutes: Between two states.
    """

    folder: Path
    name: str
    owner: Entry
    minutes: float

    @property
    def path(self) -> Path:
        """The checkpoint."""
        away = Path(tempfile.gettempdir()) / f"augbench-{os.getuid()}"
        return (self.folder if self._here else away) / f"{self.name}.ckpt"

    @property
    def _here(self) -> bool:
        """Whether this machine has the driver's results."""
        return self.folder.parent.parent.is_dir()

    def clear_away(self) -> None:
        """After the run: removes what no driver will remove."""
        if not self._here:
            for kind in KINDS:
                self.path.with_suffix(kind).unlink(missing_ok=True)

    def begun(self) -> bool:
        """Whether there is a state to go on from, as far as its first line tells."""
        return self.path.is_file() and owner_of(self.path) == self.owner

    def open(self, say: Callable[[str], None]) -> Checkpoints:
        """What is there, and where more goes.

        A state of other code stays until the run has one of its own; a damaged one is set aside.

        Args:
            say: Is told in a sentence why a state is not gone on from.
        """
        saved, place = None, self.path.parent
        if not self._here and place.exists() and place.stat().st_uid != os.getuid():
            say(f"{place} belongs to somebody else: the run goes on without checkpoints")
            return Checkpoints()
        try:
            saved = read(self.path, self.owner)
        except RecordError as error:
            aside = set_aside(self.path, self.folder.parent if self._here else self.path.parent)
            say(f"{error}; it is now {aside}, and the run goes on without it")
        work = Worked(self.path.with_suffix(".work"))
        known = Work(**saved["worked"]) if saved else Work()
        earlier = Work(*map(max, vars(known).values(), vars(work.read()).values()))
        write = partial(write_state, self.path, self.owner)
        return Checkpoints(write, 60 * self.minutes, saved, earlier, work.note)


class Worked:
    """A count of work that outlives its process; a few bytes, put in their place at every step.

    Args:
        path: The file, made when there is something to count; whoever made the last one counts.
        every: Seconds between two looks at whether that is still this one.
    """

    def __init__(self, path: Path, every: float = 1.0) -> None:
        self._path, self._every = path, every
        self._file, self._looked = -1, 0.0

    def note(self, work: Work) -> None:
        """Writes the count; no kill of the process undoes that, a power cut may.

        Raises:
            SystemExit: If another process has begun to count, or the run is finished.
        """
        text = f"{work.flops:020d} {work.seconds:020.6f}\n".encode()
        if self._file < 0:
            replace_file(self._path, lambda file: file.write(text))
            self._file = os.open(self._path, os.O_WRONLY)
        if (now := time.monotonic()) - self._looked >= self._every:
            self._looked = now
            if not self._own():
                raise SystemExit(
                    "augbench: another process goes on with this run, and this one ends"
                )
        os.pwrite(self._file, text, 0)

    def _own(self) -> bool:
        """Whether the file is still the one that this process made."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except OSError as error:  # the latter where another machine has replaced it
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return False
            raise

    def read(self) -> Work:
        """The count; nothing if there is none, or no count."""
        found = _COUNT.fullmatch(self._path.read_bytes() if self._path.is_file() else b"")
        return Work(int(found[1]), float(found[2])) if found else Work()

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)


def write_state(path: Path, owner: Entry, state: State) -> None:
    """Replaces a checkpoint, atomically and durably.

    Raises:
        OSError: If the disk refuses; the old one stays.
    """

    def fill(file: IO[bytes]) -> None:
        file.write(_header(owner, NOBODY))
        hashed: Any = _Hashed(file)
        torch.save(state | {"entries": json.dumps(state["entries"])}, hashed)
        file.seek(0)
        file.write(_header(owner, hashed.digest.hexdigest()))

    replace_file(path, fill)


def read(path: Path, owner: Entry) -> State | None:
    """The state in a checkpoint; None if there is none, or other code has made it.

    Raises:
        RecordError: If the file is damaged.
    """
    if not path.is_file():
        return None
    raw = path.read_bytes()
    line, _, content = raw.partition(b"\n")
    found = _parsed(line)
    if found is None or hashlib.sha256(content).hexdigest() != found["digest"]:
        raise RecordError(f"{path} is damaged")
    if found["owner"] != owner:
        return None
    try:
        state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise RecordError(f"{path} holds what no checkpoint holds") from error
    return state | {"entries": json.loads(state["entries"])}


def owner_of(path: Path) -> Entry | None:
    """Whose state a checkpoint holds; None if its first line does not say so."""
    with path.open("rb") as file:
        found = _parsed(file.readline().rstrip(b"\n"))
    return found["owner"] if found else None


def check(path: Path) -> None:
    """Holds that a file's first line is a checkpoint's, of the run that its name says.

    Raises:
        Damaged: If it is not.
    """
    owner = owner_of(path)
    if not isinstance(owner, dict) or owner.get("run") != path.stem or "cell" not in owner:
        raise Damaged(f"{path} does not say whose state it holds")


def check_work(path: Path) -> None:
    """Holds that a file is a count of work, or empty: its process was killed as it began.

    Raises:
        Damaged: If it is not.
    """
    text = path.read_bytes()
    if text and not _COUNT.fullmatch(text):
        raise Damaged(f"{path} holds no count of work")


class _Hashed:
    """A file to write to, and the digest of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def _header(owner: Entry, digest: str) -> bytes:
    return json.dumps({"digest": digest, "owner": owner}, sort_keys=True).encode() + b"\n"


def _parsed(line: bytes) -> Entry | None:
    """What a header says; None if it is none."""
    try:
        found: Entry = json.loads(line)
        return found if found.keys() == {"digest", "owner"} else None
    except (ValueError, AttributeError):
        return None
