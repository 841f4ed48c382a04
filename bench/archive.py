"""The records that a suite has already: which runs are finished, and which are superseded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import saved, sidefile
from bench.data.sources import canonical
from bench.environment import libraries
from bench.errors import ConfigError
from bench.partial import Partial, owner
from bench.record import Record, read_record, record_path, write_record
from bench.train.journal import Entry
from bench.worker import Job

Cell = tuple[Any, ...]


@dataclass(frozen=True)
class Archive:
    """The records in a suite's folder, by cell: task, method, budget, seed and track."""

    results: Path
    suite: str
    records: dict[Cell, Record]

    @classmethod
    def read(cls, results: Path, suite: str) -> "Archive":
        """Reads them all.

        Raises:
            RecordError: If a file there is no record: nobody but its owner may delete it.
        """
        folder = results / suite / "runs"
        paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
        found = [read_record(path) for path in paths]
        return cls(results, suite, {cell_of(record.config): record for record in found})

    def finished(self, job: Job) -> bool:
        """Whether the job has a record of success; a failed one is run again."""
        record = self.records.get(cell_of(_recorded(job)))
        return record is not None and record.hash == job.name and record.status == "ok"

    def older(self, job: Job) -> bool:
        """Whether the job's record was made by other code in `bench/`."""
        return self.records[cell_of(_recorded(job))].bench != job.origin.bench

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
        for other in sorted(path.parent.glob("*.json")):
            if other != path and cell_of(json.loads(other.read_bytes())["config"]) == cell:
                aside = self.results / self.suite / "superseded" / other.name
                aside.parent.mkdir(exist_ok=True)
                other.replace(aside)
        if arrays:
            # Before the record that names its digest: a kill or a full disk in between leaves a
            # file that nobody names, and that the next try replaces.
            digest = sidefile.write(sidefile.beside(path), arrays)
            record = record.model_copy(update={"side_file": digest})
        write_record(path, record)
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
    def _folder(self) -> Path:
        return self.results / self.suite / "partial"

    def _partials(self, cell: Cell) -> list[Path]:
        """A cell's files of parts and states; of a file that names no cell nothing is known."""
        owners = {path: owner(path) for path in sorted(self._folder.glob("*.jsonl"))}
        owners |= {path: saved.owner_of(path) for path in sorted(self._folder.glob("*.ckpt"))}
        return [path for path, of in owners.items() if of and tuple(of["cell"]) == cell]


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
