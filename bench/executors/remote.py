"""What a job needs on another machine, and what it relies on there.

A plug-in's files travel with the job, and so do the folder that it was asked for in and the
variables AUGBENCH_*.  This project lies there too, in the same version, and so do the data: at the
same path, or where that machine's own AUGBENCH_DATA says.  What differs is refused.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.environment import ROOT, bench_digest
from bench.errors import ConfigError, DataError
from bench.executors.devices import visible
from bench.executors.local import LocalProcesses
from bench.plugins import digest, sources
from bench.worker import Done, Job, Lost, Message

PREFIX = "AUGBENCH_"


@dataclass(frozen=True)
class Sent:
    """A job on its way to another machine.

    Attributes:
        job: With its method's path below the project, or below a folder with `files`.
        folder: Where relative paths begin, if there is such a folder there.
        variables: Of the environment; those that the other machine has itself count.
        files: A plug-in's file and the helpers beside it.
    """

    job: Job
    folder: str
    variables: dict[str, str]
    files: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, job: Job) -> "Sent":
        """Packs a job of this process."""
        variables = {name: text for name, text in os.environ.items() if name.startswith(PREFIX)}
        if job.plugin.is_relative_to(ROOT) and (job.plugin.parent / "__init__.py").exists():
            job, files = replace(job, plugin=job.plugin.relative_to(ROOT)), {}
        else:
            files = {path.name: path.read_bytes() for path in sources(job.plugin)}
            job = replace(job, plugin=Path(job.plugin.name))
        return cls(job, str(Path.cwd()), variables, files)

    @contextmanager
    def unpacked(self) -> Iterator[Job]:
        """The job as this machine can run it; the process changes to its folder.

        Raises:
            ConfigError: If this machine has other code.
        """
        here = platform.node()
        if bench_digest() != self.job.origin.bench:
            raise ConfigError(
                f"bench/ on {here} is another version than the driver's: install the same there"
            )
        with TemporaryDirectory(prefix="augbench-") as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            plugin = Path(folder if self.files else ROOT) / self.job.plugin
            if not plugin.is_file() or digest(plugin) != self.job.source:
                raise ConfigError(
                    f"{self.job.plugin} on {here} is missing, or another version than the "
                    "driver's: install the same there"
                )
            for name, text in self.variables.items():
                os.environ.setdefault(name, text)
            job = replace(self.job, plugin=plugin)
            if Path(self.folder).is_dir():
                os.chdir(self.folder)
            else:  # then this machine has no place for states of runs either
                job = replace(job, saving=None)
            yield job


def hosted(sent: Sent) -> Iterator[Message]:
    """Runs a job in a process of its own on this machine, and yields what it sends."""
    try:
        with sent.unpacked() as job:
            slots = visible()[:1] if job.config.device == "cuda" else [None]
            place = LocalProcesses(slots, alone=job.config.track == "gpu")
            with place.opened():
                place.start(job)
                while True:
                    for _, message in place.messages():
                        yield message
                        if isinstance(message, Done | Lost):
                            return
    except (ConfigError, DataError) as error:
        yield Done(refused=str(error))
