"""From a request on the command line to records on disk: expand, resume, run, report.

`plan` checks everything that a person can get wrong before any work starts.  `complete` runs what
has no finished record yet, and is the only writer of records.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from bench import progress
from bench.archive import Archive
from bench.augment import native
from bench.config import SUITES, RunConfig, Suite, TaskConfig, load_suite, run_hash
from bench.data.sources import canonical, fingerprint
from bench.environment import Origin
from bench.executor import LocalProcesses, Started
from bench.partial import Partial
from bench.plugins import Plugin, Selected, select
from bench.request import Request, slots_of, suite_of
from bench.runner import DataOptions
from bench.train import features
from bench.train.prepare import Prepared, prepare
from bench.train.reference import reference_price
from bench.worker import Done, Job, Part, Tick


@dataclass(frozen=True)
class Campaign:
    """What is to be done, and what is done already."""

    request: Request
    suite: Suite
    archive: Archive
    jobs: list[Job]
    finished: list[Job]
    slots: list[str | None]
    device: Literal["cpu", "cuda"]
    partials: dict[str, Partial]


def plan(request: Request, plugins: dict[str, Plugin]) -> Campaign:
    """Expands a request into runs, and finds those that have a record.

    Raises:
        ConfigError, DataError: If anything in the request or the data is wrong.
        RecordError: If a record, or the file of a run that was killed, is damaged.
    """
    data = DataOptions(request.root, request.memory_limit, request.skip_corrupt)
    slots, device = slots_of(request)
    suite = suite_of(request, data, device)
    selected = {text: select(plugins, text) for text in suite.methods}
    archive, origin = Archive.read(request.results, suite.name), Origin.read()
    prints: dict[str, tuple[str, str]] = {}
    jobs: dict[str, Job] = {}  # by hash: two specifications may mean the same run
    for config in suite.runs(device=device, threads=request.threads, compiled=request.compiled):
        where = config.task.data
        if where not in prints:
            prints[where] = canonical(where), fingerprint(where, request.root)
        job = _job(config, selected[config.method], data, origin, prints[where])
        job = replace(job, keep_features=request.keep_features)
        archive.check(job)
        jobs[job.name] = job
    left = [job for job in jobs.values() if not archive.finished(job)]
    finished = [job for job in jobs.values() if archive.finished(job)]
    if old := sum(archive.older(job) for job in finished):
        progress.say(
            f"note: {old} finished runs were made by another version of bench/; to make them "
            f"anew, move them out of {request.results / suite.name}/runs"
        )
    if finished and request.keep_features:
        progress.say(f"note: --keep-features keeps none of the {len(finished)} finished runs'")
    if left and device == "cpu" and not native.available():
        progress.say(
            "note: augmentation runs on tensors, some times slower and with the same results: "
            "no C compiler was found"
        )
    _rehearse(left, data)
    left, partials = _continued(left, archive)
    return Campaign(request, suite, archive, left, finished, slots, device, partials)


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
            elif isinstance(event, Part):
                campaign.partials[job.name].append(event.entry)
            elif isinstance(event, Done):
                campaign.partials[job.name].close()
                line, bad = _settle(event, campaign.archive)
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

    if reference is None and (SUITES / f"{suite}.toml").is_file():
        reference = load_suite(suite).reference
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
        task = _prepared(config, jobs[0].data, campaign.device).task
        price = reference_price(task, timed_steps=5, compiled=config.compile)
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


def _job(
    config: RunConfig,
    selected: Selected,
    data: DataOptions,
    origin: Origin,
    identity: tuple[str, str],
) -> Job:
    config = config.model_copy(update={"method": selected.spec})
    hash_ = run_hash(config, *identity, selected.plugin.source)
    return Job(hash_, config, selected.plugin.path, data, origin)


def _continued(jobs: list[Job], archive: Archive) -> tuple[list[Job], dict[str, Partial]]:
    """The jobs with what is finished of them, and their files; says what it found."""
    partials = {job.name: archive.partial(job) for job in jobs}
    jobs = [replace(job, journal=tuple(partials[job.name].entries)) for job in jobs]
    if begun := sum(bool(job.journal) for job in jobs):
        progress.say(f"note: {begun} unfinished runs continue from their finished parts")
    if old := sum(partials[job.name].foreign or archive.foreign(job) for job in jobs):
        progress.say(
            f"note: {old} unfinished runs were begun by another version of the code or of a "
            "library; their finished parts are not used"
        )
    return jobs, partials


def _rehearse(jobs: list[Job], data: DataOptions) -> None:
    """Loads and prepares each task that will run once, so that its errors come before any work.

    It also builds the decoded cache of a large data set once, before several processes want it.
    """
    tasks = {job.config.task.model_dump_json(): job.config for job in jobs}
    keep = any(job.keep_features for job in jobs)
    for config in tasks.values():
        prepared = _prepared(config, data)
        if keep:
            with torch.device("meta"):
                features.check(prepared.task.network())


def _prepared(config: RunConfig, data: DataOptions, device: str = "cpu") -> Prepared:
    task: TaskConfig = config.task
    with progress.decoding() as report:
        source = data.source(task.data, task.size, report)
    return prepare(
        source,
        distort=task.distort,
        network=task.network,
        recipe=task.recipe,
        seed=config.seed,
        device=torch.device(device),
        val_fraction=task.val_fraction,
    )


def _settle(done: Done, archive: Archive) -> tuple[str, bool]:
    """Writes a finished run's record; returns a line about it and whether it failed."""
    if done.skipped is not None:
        return f"skipped: {done.skipped}", False
    if done.record is None:
        return f"{done.refused}", True
    record, path = done.record, archive.add(done.record, done.arrays)
    if record.failure is not None:
        return f"{record.failure.type}: {record.failure.message} (see {path})", True
    assert record.scores is not None
    assert record.bill is not None
    return (
        f"error {100 * record.scores.error:.2f} %, {record.bill.seconds:.1f} s, "
        f"{100 * record.bill.flops_share:.1f} % of the FLOPs",
        False,
    )


def _label(config: RunConfig) -> str:
    task = config.task
    return (
        f"{canonical(task.data)} · {task.distort} · {config.method} · {config.budget:g} RT · "
        f"seed {config.seed}"
    )
