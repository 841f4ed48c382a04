"""Runs jobs as Slurm array jobs, through submitit, from a folder that all machines see.

A run's process leaves its messages in a folder of its own, one file each.  Its finished parts
stay there until it is done.  So a run that Slurm preempts, or whose time is up, is put back into
the queue and goes on from them, or from a later checkpoint, with the same job number.

Messages are pickled, as submitit pickles jobs: whoever can write to that folder can run code.  It
is made for one campaign, and only its owner may enter it.

Nobody adopts the jobs of a driver that was killed.  They end by themselves: as soon as another
driver is at work among the same records and has removed their folder, else some minutes later.
"""

import os
import pickle
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import submitit

from bench.atomic import replace_file
from bench.errors import ConfigError, DataError
from bench.executors import Executor
from bench.executors.devices import held, visible
from bench.executors.remote import Sent
from bench.worker import Done, Job, Lost, Message, Part, Started, Tick, make

POLL_SECONDS = 0.5
TICK_SECONDS = 5.0
SILENCE_SECONDS = 600.0  # after which a driver is gone: it gives a sign whenever it looks
GONE = "augbench: the driver is gone, the run ends"


class Mailbox:
    """A folder of messages, each a file that appears whole, in the order of their names.

    Args:
        folder: It is made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._read: set[Path] = set()

    def put(self, message: Message) -> Path:
        """Adds a message after those that are there."""
        last = max((int(path.stem) for path in self._paths()), default=-1)
        path = self.folder / f"{last + 1:08d}.message"
        replace_file(path, lambda file: pickle.dump(message, file))
        return path

    def parts(self) -> list[Part]:
        """The finished parts that are there, read or not."""
        found = [pickle.loads(path.read_bytes()) for path in self._paths()]
        return [message for message in found if isinstance(message, Part)]

    def unread(self) -> Iterator[Message]:
        """New messages; only finished parts stay."""
        os.utime(self.folder)  # has a network file system look again
        for path in self._paths():
            if path in self._read:
                continue
            message = pickle.loads(path.read_bytes())
            if isinstance(message, Part):
                self._read.add(path)
            else:
                path.unlink()
            yield message

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.message"))


@dataclass(frozen=True)
class Task:
    """What runs in a Slurm job.

    Attributes:
        sent: The job.
        box: Folder of its messages.
        driver: A file that the driver touches as long as it lives.
    """

    sent: Sent
    box: Path
    driver: Path

    def __call__(self) -> None:
        """Runs the job in this process, and leaves its messages.

        Raises:
            SystemExit: If the driver is gone, which gives signs as long as it lives.
        """
        box = Mailbox(self.box)
        self._tell(box, Started())
        try:
            with self.sent.unpacked() as job:
                finished = (part.entry for part in box.parts())
                job = replace(job, journal=(*job.journal, *finished))
                slots = visible()[:1] if job.config.device == "cuda" else []
                with held(slots, alone=job.config.track == "gpu"):
                    done = make(job, lambda message: self._tell(box, message), TICK_SECONDS)
        except (ConfigError, DataError) as error:
            done = Done(refused=str(error))
        self._tell(box, done)

    def checkpoint(self) -> Any:
        """What Slurm shall run in this job's place once it is interrupted: the same again."""
        return submitit.helpers.DelayedSubmission(self)

    def _tell(self, box: Mailbox, message: Message) -> None:
        if not self.driver.exists():  # another one has removed what this one had left
            raise SystemExit(GONE)
        path = box.put(message)
        # Both times are the file system's own.
        age = path.stat().st_mtime - self.driver.stat().st_mtime
        if isinstance(message, Started | Tick) and age > SILENCE_SECONDS:
            raise SystemExit(GONE)


@dataclass
class _Submitted:
    job: Any
    box: Mailbox


@dataclass
class SlurmArray(Executor):
    """Runs jobs on a Slurm cluster, one array job for all that are started together.

    Attributes:
        folder: Where messages and logs go; every machine has to see it.
        threads: CPU cores a run.
        gpus: Whole GPUs a run.
        partition: Slurm's partition; by default Slurm's.
        minutes: Time limit of a job.  A run that needs more is queued again, and goes on.
        limit: How many runs may go on at a time.
        cluster: `slurm`, or submitit's `local` for processes of this machine.
    """

    folder: Path
    threads: int = 1
    gpus: int = 0
    partition: str | None = None
    minutes: int = 240
    limit: int | None = None
    cluster: str = "slurm"
    _new: list[Job] = field(default_factory=list)
    _running: dict[str, _Submitted] = field(default_factory=dict)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Makes the folder; in the end cancels what still runs, and removes it."""
        if self.cluster == "slurm" and shutil.which("srun") is None:
            raise ConfigError("--executor slurm: this machine has no Slurm: srun was not found")
        for left in self.folder.glob("slurm-*"):  # by drivers that were killed: see `bench.lock`
            shutil.rmtree(left, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._place = Path(mkdtemp(prefix="slurm-", dir=self.folder)).resolve()
        try:
            yield
        finally:
            for submitted in self._running.values():
                submitted.job.cancel(check=False)
            shutil.rmtree(self._place, ignore_errors=True)

    def room(self) -> bool:
        """Always: Slurm itself knows what may run."""
        return True

    def start(self, job: Job) -> None:
        """Keeps a job for the next array."""
        self._new.append(job)

    def messages(self) -> Iterator[tuple[str, Message]]:
        """Looks for messages, twice a second; a job that ended without a `Done` is lost."""
        self._submit()
        while True:
            (self._place / "driver").touch()
            heard = False
            for name, submitted in list(self._running.items()):
                over = submitted.job.done()  # first: all that it has left is then there
                for message in submitted.box.unread():
                    heard = True
                    if isinstance(message, Done):
                        del self._running[name]
                    yield name, message
                if over and name in self._running:
                    heard = True
                    del self._running[name]
                    yield name, Lost(f"the run's Slurm job ended as {submitted.job.state}")
            if heard:
                return
            time.sleep(POLL_SECONDS)

    def _submit(self) -> None:
        if not self._new:
            return
        (self._place / "driver").touch()
        boxes = [self._place / f"{job.name}-{job.attempt}" for job in self._new]
        tasks = [
            Task(Sent.of(job), box, self._place / "driver")
            for job, box in zip(self._new, boxes, strict=True)
        ]
        submitted = self._executor().submit_array(tasks)
        for job, box, one in zip(self._new, boxes, submitted, strict=True):
            self._running[job.name] = _Submitted(one, Mailbox(box))
        self._new = []

    def _executor(self) -> Any:
        executor = submitit.AutoExecutor(self._place, cluster=self.cluster)
        slurm: dict[str, Any] = {"slurm_additional_parameters": {"requeue": True}}
        slurm |= {"slurm_partition": self.partition} if self.partition else {}
        slurm |= {"slurm_array_parallelism": self.limit} if self.limit else {}
        executor.update_parameters(
            name="augbench",
            timeout_min=self.minutes,
            cpus_per_task=self.threads,
            gpus_per_node=self.gpus,
            **slurm,
        )
        return executor
