"""The records that a suite has already: which runs are finished, and which are superseded."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import partial as parts
from bench import saved, sidefile
from bench.data.sources import canonical
from bench.environment import libraries
from bench.errors import ConfigError, Damaged, RecordError
from bench.partial import Partial, owner
from bench.record import Record, read_record, record_path, write_record
from bench.train.journal import Entry
from bench.worker import Job

Cell = tuple[Any, ...]
Meet = Callable[[Damaged, list[Path]], None]


def refuse(error: Damaged, paths: list[Path]) -> None:
    """Trusts no file that is damaged, and goes no further."""
    raise error


@dataclass(frozen=True)
class Archive:
    """The records in a suite's folder, by hash."""

    results: Path
    suite: str
    records: dict[str, Record]

    @classmethod
    def read(cls, results: Path, suite: str, meet: Meet = refuse) -> "Archive":
        """Reads them all, and looks at the files of unfinished runs.

        Args:
            results: The folder that holds `SUITE/runs`.
            suite: The suite's name.
            meet: Given what is wrong with a file, and the file, with what else goes with it.  Its
                record is then as good as none.

        Raises:
            RecordError: If a file cannot be read, or is of another schema.
        """
        place, found = results / suite, []
        for path in sorted((place / "runs").glob("*.json")):
            try:
                found.append(_own(path, suite))
            except Damaged as error:
                meet(error, [path, *filter(Path.exists, [sidefile.beside(path)])])
        for path, damage in _damaged_parts(place / "partial"):
            meet(damage, [path])
        return cls(results, suite, {record.hash: record for record in found})

    def hold(self, jobs: Iterable[Job], meet: Meet = refuse) -> int:
        """Holds what finished jobs left beside their records against the digests in these.

        Args:
            jobs: Which ones.
            meet: As for `read`.

        Returns:
            How many such files are not here: they are published apart from their records.
        """
        absent = 0
        for job in jobs:
            record = self.records.get(job.name)
            path = record_path(self.results, self.suite, job.name)
            side = sidefile.beside(path)
            if record is None or record.side_file is None:
                continue
            if not side.exists():
                absent += 1
                continue
            try:
                sidefile.read(side, record.side_file, ())
            except Damaged as error:
                meet(error, [path, side])
                del self.records[job.name]
        return absent

    def finished(self, job: Job) -> bool:
        """Whether the job has a record of success; a failed one is run again."""
        record = self.records.get(job.name)
        return record is not None and record.status == "ok"

    def older(self, job: Job) -> bool:
        """Whether the job's record was made by other code in `bench/`."""
        return self.records[job.name].bench != job.origin.bench

    def check(self, job: Job) -> None:
        """Refuses to mix two recipes under one task name.

        Raises:
            ConfigError: If records of this task were made with other settings.
        """
        wanted = _recorded(job)["task"]
        for record in self.records.values():
            task = record.config["task"]
            same = all(task[part] == wanted[part] for part in ("data", "distort", "network"))
            if same and task != wanted:
                changed = next(part for part in wanted if task[part] != wanted[part])
                raise ConfigError(
                    f"{self.results / self.suite}/runs holds runs of {_where(task)} with "
                    f"{changed} = {task[changed]}, not {wanted[changed]}: they cannot share a "
                    "leaderboard; choose another --name or move those records away"
                )

    def add(self, record: Record, arrays: sidefile.SideArrays | None = None) -> Path:
        """Writes a record, and moves older ones of its cell aside.

        There are older ones when the method's source, the machine's kind or a flag has changed.

        Args:
            record: To be written.
            arrays: For its side file, if there are any.
        """
        path = record_path(self.results, self.suite, record.hash)
        cell = cell_of(record.config)
        # First aside, then write: a kill in between leaves a run to be made again, never two
        # records of one cell.
        for other in list(self.records.values()):
            if other.hash != record.hash and cell_of(other.config) == cell:
                old = path.with_stem(other.hash)
                aside = self.results / self.suite / "superseded" / old.name
                aside.parent.mkdir(exist_ok=True)
                old.replace(aside)
                del self.records[other.hash]
        if arrays:
            # Before the record that names its digest: a kill or a full disk in between leaves a
            # file that nobody names, and that the next try replaces.
            digest = sidefile.write(sidefile.beside(path), arrays)
            record = record.model_copy(update={"side_file": digest})
        write_record(path, record)
        self.records[record.hash] = record
        if record.status == "ok":
            for partial in self._partials(cell):
                for kind in saved.KINDS:
                    partial.with_suffix(kind).unlink(missing_ok=True)
            path_of = self._folder / record.hash
            path_of.with_suffix(".work").unlink(missing_ok=True)
        return path

    def partial(self, job: Job) -> Partial:
        """The finished parts of a job that was killed, or where they will be.

        Raises:
            RecordError: If its file is damaged.
        """
        cell = cell_of(_recorded(job))
        code = {"bench": job.origin.bench, "libraries": libraries()}
        path = self._folder / f"{job.name}.jsonl"
        return Partial.read(path, {"run": job.name, "cell": list(cell), "code": code})

    def saving(self, job: Job, owner: Entry, minutes: float) -> saved.Saving:
        """Where a job's state goes; its owner is that of its finished parts."""
        return saved.Saving(self._folder.absolute(), job.name, owner, minutes)

    def foreign(self, job: Job) -> bool:
        """Whether other code than the job's has left parts or states of the same cell."""
        own, owner = self._folder / job.name, self.partial(job).owner
        return any(
            path.stem != own.name or (path.suffix == ".ckpt" and saved.owner_of(path) != owner)
            for path in self._partials(cell_of(_recorded(job)))
        )

    @property
    def place(self) -> Path:
        """The suite's folder."""
        return self.results / self.suite

    @property
    def _folder(self) -> Path:
        return self.place / "partial"

    def _partials(self, cell: Cell) -> list[Path]:
        """A cell's files of parts and states; of a file that names no cell nothing is known."""
        owners = {path: owner(path) for path in sorted(self._folder.glob("*.jsonl"))}
        owners |= {path: saved.owner_of(path) for path in sorted(self._folder.glob("*.ckpt"))}
        return [path for path, of in owners.items() if of and tuple(of["cell"]) == cell]


def _own(path: Path, suite: str) -> Record:
    """A record of the suite.

    Raises:
        RecordError: See `read_record`.
        Damaged: Also if it is another suite's.
    """
    record = read_record(path)
    if record.suite != suite:
        raise Damaged(f"{path} is a record of the suite {record.suite}, not of {suite}")
    try:
        cell_of(record.config)
    except (KeyError, TypeError) as error:
        raise Damaged(f"{path} is no augbench record: its configuration is none") from error
    return record


def _damaged_parts(folder: Path) -> Iterator[tuple[Path, Damaged]]:
    """Files of unfinished runs that are not what was written there, and why.

    The content of a checkpoint is looked at by the run that goes on from it.
    """
    checks = {".jsonl": parts.check, ".ckpt": saved.check, ".work": saved.check_work}
    for path in sorted(folder.glob("[!.]*")):
        try:
            if path.suffix in checks:
                checks[path.suffix](path)
        except Damaged as error:
            yield path, error
        except OSError as error:
            raise RecordError(f"{path} cannot be read: {error.strerror}") from error


def remove_halves(suite: Path) -> None:
    """Removes temporary files of writers that were killed: no reader has ever seen them."""
    for folder in ("", "runs", "points", "partial"):
        for path in (suite / folder).glob(".*.tmp"):
            path.unlink(missing_ok=True)


def _recorded(job: Job) -> dict[str, Any]:
    """A job's configuration as its record will hold it."""
    content = job.config.model_dump(mode="json")
    content["task"]["data"] = canonical(content["task"]["data"])
    return content


def _where(task: dict[str, Any]) -> str:
    return " · ".join(task[part] for part in ("data", "distort", "network"))


def cell_of(config: dict[str, Any]) -> Cell:
    """What a record is a result of; a new one of the same cell supersedes the old."""
    task = config["task"]
    where = [task[part] for part in ("data", "distort", "network")]
    return (*where, *(config[part] for part in ("method", "budget", "seed", "track")))
