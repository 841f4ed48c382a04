"""From a request on the command line to records on disk: expand, resume, run, report.

`plan` checks everything that a person can get wrong before any work starts.  `complete` runs what
has no finished record yet, and is the only writer of records.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from bench import progress
from bench.config import RunConfig, Suite, SuiteTask, TaskConfig, load_suite, run_hash, validated
from bench.data.sources import fingerprint
from bench.errors import ConfigError
from bench.executor import LocalProcesses, Started
from bench.plugins import Plugin, Selected, select
from bench.record import Record, read_record, record_path, write_record
from bench.runner import DataOptions
from bench.train.prepare import Prepared, prepare
from bench.train.recipe import Recipe
from bench.train.reference import reference_price
from bench.worker import Done, Job, Tick

DEFAULT_METHODS = (
    "none", "none[length=filled]", "standard", "standard[length=filled]",
    "cutout", "cutout[length=filled]",
)  # fmt: skip
DEFAULT_EPOCHS = 30
Cell = tuple[Any, ...]


@dataclass(frozen=True)
class Request:
    """The options of `augbench run`."""

    suite: str | None
    data: str | None
    methods: tuple[str, ...]
    distort: tuple[str, ...]
    budgets: tuple[str, ...]
    seeds: int | None
    network: str | None
    size: int | None
    steps: int | None
    name: str | None
    track: str | None
    jobs: int | None
    devices: str | None
    threads: int
    compiled: bool
    root: Path | None
    memory_limit: int
    skip_corrupt: bool
    results: Path


@dataclass(frozen=True)
class Campaign:
    """What is to be done, and what is done already."""

    request: Request
    suite: Suite
    jobs: list[Job]
    finished: list[Job]
    slots: list[str | None]
    device: Literal["cpu", "cuda"]


def plan(request: Request, plugins: dict[str, Plugin]) -> Campaign:
    """Expands a request into runs, and finds those that have a record.

    Raises:
        ConfigError, DataError: If anything in the request or the data is wrong.
    """
    data = DataOptions(request.root, request.memory_limit, request.skip_corrupt)
    slots, device = _slots(request)
    suite = _suite(request, data, device)
    selected = {text: select(plugins, text) for text in suite.methods}
    jobs: list[Job] = []
    finished: list[Job] = []
    prints: dict[str, tuple[str, str]] = {}
    existing = _Existing.read(request.results, suite.name)
    for config in suite.runs(device=device, threads=request.threads, compiled=request.compiled):
        where = config.task.data
        if where not in prints:
            prints[where] = canonical(where), fingerprint(where, request.root)
        job = _job(config, selected[config.method], data, *prints[where])
        existing.check(job, request.results)
        (finished if existing.finished(job) else jobs).append(job)
    _rehearse(jobs, data)
    return Campaign(request, suite, jobs, finished, slots, device)


def complete(campaign: Campaign) -> bool:
    """Runs what is left, writes its records, then the leaderboard.

    Returns:
        Whether every run has a record without a failure.
    """
    request, suite = campaign.request, campaign.suite
    executor = LocalProcesses(campaign.slots)
    troubles: list[str] = []
    with progress.display(len(campaign.jobs), len(campaign.finished)) as screen:
        for job, event in executor.run(campaign.jobs):
            label = _label(job.config)
            if isinstance(event, Started):
                screen.started(job.name, label)
            elif isinstance(event, Tick):
                screen.tick(job.name, event.phase, event.share, event.error)
            elif isinstance(event, Done):
                line, bad = _settle(job, event, request.results)
                screen.finished(job.name, f"{label}: {line}")
                if bad:
                    troubles.append(f"{label}: {line}")
    for trouble in troubles:
        progress.say(f"FAILED  {trouble}")
    publish(request.results, suite.name, suite.reference)
    return not troubles


def publish(
    results: Path, suite: str, reference: str | None = None, picture: Path | None = None
) -> None:
    """Writes a suite's leaderboard files and prints its tables, also as an SVG if wanted."""
    from bench.report import console, leaderboard

    try:
        reference = reference or load_suite(suite).reference
    except ConfigError:
        reference = reference or None  # a suite of the user's own, known by its records alone
    tables, paths = leaderboard.write(results, suite, reference=reference)
    for table in tables:
        progress.table(table.title, *console.rows(table), console.notes(table), picture)
    for path in paths:
        progress.say(f"wrote {path}")


def projection(campaign: Campaign) -> str:
    """What a campaign would cost: runs, RT, and time on this machine (an upper bound)."""
    lines, total = [], 0.0
    tasks: dict[str, list[Job]] = {}
    for job in campaign.jobs:
        tasks.setdefault(job.config.task.model_dump_json(), []).append(job)
    for jobs in tasks.values():
        config = jobs[0].config
        price = reference_price(_prepared(config, jobs[0].data).task, timed_steps=5)
        rt = sum(job.config.budget for job in jobs)
        total += rt * price.seconds
        lines.append(
            f"{canonical(config.task.data)} · {config.task.distort} · {config.task.network}: "
            f"{len(jobs)} runs, at most {rt:g} RT of {price.flops / 1e12:.3g} TFLOP or "
            f"{price.seconds:.3g} s"
        )
    done, left, slots = len(campaign.finished), len(campaign.jobs), len(campaign.slots)
    lines.append(f"{done + left} runs, {done} of them finished; {left} to run, {slots} at a time")
    lines.append(f"projected time on this machine: at most {total / slots / 60:.1f} minutes")
    return "\n".join(lines)


def canonical(data: str) -> str:
    """A source's name without its path, as records hold it: `folder:A/birds` → `folder:birds`."""
    kind, colon, path = data.partition(":")
    return f"{kind}:{Path(path).expanduser().absolute().name}" if colon else data


# Expanding


def _suite(request: Request, data: DataOptions, device: str) -> Suite:
    if (request.suite is None) == (request.data is None):
        raise ConfigError("run needs either --suite NAME or --data SOURCE")
    own = {"network": request.network, "size": request.size, "steps": request.steps}
    own |= {"name": request.name}
    if request.suite is not None:
        extra = [f"--{name}" for name, value in own.items() if value is not None]
        if extra or request.distort:
            wrong = extra[0] if extra else "--distort"
            raise ConfigError(f"{wrong} goes with --data; a suite fixes its tasks")
        suite = load_suite(request.suite)
    else:
        suite = _own_suite(request, data)
    changes: dict[str, Any] = {}
    if request.methods:
        changes["methods"] = list(request.methods)
    if request.budgets:
        changes["budgets"] = [_budget(text) for text in request.budgets]
    if request.seeds is not None:
        changes["seeds"] = request.seeds
    if request.track is not None:
        changes["track"] = request.track
    suite = validated(Suite, suite.model_dump() | changes, "run")
    if suite.track == "gpu" and device != "cuda":
        raise ConfigError("--track gpu needs a CUDA device; --track portable binds on FLOPs")
    return suite


def _own_suite(request: Request, data: DataOptions) -> Suite:
    """A suite for `--data`, with defaults that suit the data's size."""
    assert request.data is not None
    with progress.decoding() as report:
        source = data.source(request.data, request.size, report)
    side = source.train.images.shape[-1]
    batch = 128 if len(source.train) >= 4096 else 64
    steps = request.steps or max(100, DEFAULT_EPOCHS * len(source.train) // batch)
    task = SuiteTask(
        data=request.data,
        distort=list(request.distort) or ["clean"],
        network=request.network or ("small-cnn" if side < 32 else "wrn-16-1"),
        size=request.size,
        recipe=Recipe(steps=steps, batch_size=batch, warmup=0.05),
    )
    name = request.name or re.sub(r"[^A-Za-z0-9._-]+", "-", source.name)
    content = {"name": name, "budgets": [3.0], "seeds": 3, "methods": list(DEFAULT_METHODS)}
    return validated(Suite, content | {"tasks": [task.model_dump()]}, "run")


def _budget(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:rt)?", text.strip().lower())
    if not match or float(match[1]) <= 0:
        raise ConfigError(f"--budget {text!r}: write a positive number of RT, e.g. 3rt")
    return float(match[1])


def _slots(request: Request) -> tuple[list[str | None], Literal["cpu", "cuda"]]:
    """Where runs go: CUDA devices one each, or the CPU's cores."""
    if request.devices in (None, "cpu"):
        if request.devices is None and torch.cuda.is_available():
            return [str(i) for i in range(torch.cuda.device_count())], "cuda"
        cores = len(os.sched_getaffinity(0))
        jobs = request.jobs or max(1, cores // request.threads)
        return [None] * jobs, "cpu"
    wanted = str(request.devices).split(",")
    have = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device in wanted:
        if not device.isdecimal() or int(device) >= have:
            raise ConfigError(
                f"--devices {request.devices!r}: {device!r} is not one of this machine's {have} "
                "CUDA devices (numbers from 0), nor cpu"
            )
    return list(wanted), "cuda"


def _job(config: RunConfig, selected: Selected, data: DataOptions, name: str, print_: str) -> Job:
    config = config.model_copy(update={"method": selected.spec})
    hash_ = run_hash(config, name, print_, selected.plugin.source)
    return Job(hash_, config, selected.plugin.path, data)


@dataclass(frozen=True)
class _Existing:
    """The records that a suite's folder holds already, by cell."""

    records: dict[Cell, Record]

    @classmethod
    def read(cls, results: Path, suite: str) -> "_Existing":
        """Reads them all.

        Raises:
            RecordError: If a file there is no record: nobody but its owner may delete it.
        """
        folder = results / suite / "runs"
        paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
        found = [read_record(path) for path in paths]
        return cls({_cell(record.config): record for record in found})

    def finished(self, job: Job) -> bool:
        """Whether the job has a record of success; a failed one is run again."""
        record = self.records.get(_cell(_recorded(job)))
        return record is not None and record.hash == job.name and record.status == "ok"

    def check(self, job: Job, results: Path) -> None:
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
                    f"{results / job.config.suite}/runs holds runs of {_where(task)} with "
                    f"{changed} = {task[changed]}, not {wanted[changed]}: they cannot share a "
                    "leaderboard; choose another --name or move those records away"
                )


def _recorded(job: Job) -> dict[str, Any]:
    """A job's configuration as its record will hold it."""
    content = job.config.model_dump(mode="json")
    content["task"]["data"] = canonical(content["task"]["data"])
    return content


def _where(task: dict[str, Any]) -> str:
    return " · ".join(task[part] for part in ("data", "distort", "network"))


def _cell(config: dict[str, Any]) -> Cell:
    """What a record is a result of; a new one of the same cell supersedes the old."""
    task = config["task"]
    where = [task[part] for part in ("data", "distort", "network")]
    return (*where, *(config[part] for part in ("method", "budget", "seed", "track")))


def _rehearse(jobs: list[Job], data: DataOptions) -> None:
    """Loads and prepares each task that will run once, so that its errors come before any work.

    It also builds the decoded cache of a large data set once, before several processes want it.
    """
    tasks = {job.config.task.model_dump_json(): job.config for job in jobs}
    for config in tasks.values():
        _prepared(config, data)


def _prepared(config: RunConfig, data: DataOptions) -> Prepared:
    task: TaskConfig = config.task
    with progress.decoding() as report:
        source = data.source(task.data, task.size, report)
    return prepare(
        source,
        distort=task.distort,
        network=task.network,
        recipe=task.recipe,
        seed=config.seed,
        device=torch.device(config.device),
        val_fraction=task.val_fraction,
    )


# Running


def _settle(job: Job, done: Done, results: Path) -> tuple[str, bool]:
    """Writes a finished run's record; returns a line about it and whether it failed."""
    if done.skipped is not None:
        return f"skipped: {done.skipped}", False
    if done.record is None:
        return f"{done.refused}", True
    record, path = done.record, record_path(results, job.config.suite, job.name)
    write_record(path, record)
    _supersede(results, record)
    if record.failure is not None:
        return f"{record.failure.type}: {record.failure.message} (see {path})", True
    assert record.scores is not None
    assert record.bill is not None
    return (
        f"error {100 * record.scores.error:.2f} %, {record.bill.seconds:.1f} s, "
        f"{100 * record.bill.flops_share:.1f} % of the FLOPs",
        False,
    )


def _supersede(results: Path, record: Record) -> None:
    """Moves older records of the same cell aside: a method's source or the machine changed."""
    cell = _cell(record.config)
    for path in sorted((results / record.suite / "runs").glob("*.json")):
        if path.stem != record.hash and _cell(json.loads(path.read_bytes())["config"]) == cell:
            aside = results / record.suite / "superseded" / path.name
            aside.parent.mkdir(exist_ok=True)
            path.replace(aside)


def _label(config: RunConfig) -> str:
    task = config.task
    return (
        f"{canonical(task.data)} · {task.distort} · {config.method} · {config.budget:g} RT · "
        f"seed {config.seed}"
    )
