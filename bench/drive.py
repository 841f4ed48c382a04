"""From a request on the command line to records on disk: expand, resume, run, report.

`plan` checks everything that a person can get wrong before any work starts, and takes the suite's
folder for this process alone.  `complete` runs what has no finished record yet, and is the only
writer of records.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from bench import disk, progress
from bench.archive import Archive, refuse, remove_halves
from bench.augment import native
from bench.config import (
    RunConfig,
    Suite,
    TaskConfig,
    find_suite,
    folder_name,
    load_suite,
    run_hash,
)
from bench.data.sources import canonical, fingerprint
from bench.environment import Origin
from bench.errors import ConfigError, Damaged
from bench.executors import Executor
from bench.executors.choice import executor_of
from bench.lock import Lock
from bench.outline import outlined
from bench.partial import Partial
from bench.plugins import Plugin, Selected, select
from bench.quarantine import set_aside
from bench.request import Request, slots_of, suite_of
from bench.runner import DataOptions
from bench.train import features
from bench.train.prepare import Prepared, prepare
from bench.worker import Done, Job, Part, Started, Tick

if TYPE_CHECKING:
    from bench.report.table import Leaderboard


@dataclass(frozen=True)
class Campaign:
    """What is to be done, and what is done already.

    Attributes:
        lock: Keeps other drivers out of the suite's folder; None for a dry run, which only reads.
    """

    request: Request
    suite: Suite
    archive: Archive
    jobs: list[Job]
    finished: list[Job]
    slots: list[str | None]
    device: Literal["cpu", "cuda"]
    partials: dict[str, Partial]
    executor: Executor
    lock: Lock | None


def plan(request: Request, plugins: dict[str, Plugin]) -> Campaign:
    """Expands a request into runs, and finds those that have a record.

    Files among the records that cannot be trusted are set aside, unless nothing but a plan is
    wanted.

    Raises:
        ConfigError, DataError: If anything in the request or the data is wrong, or another process
            is at work in the suite's folder.
        RecordError: If a record cannot be read, or is damaged and only a plan is wanted.
        DiskError: If the suite's folder cannot be written.
    """
    data = DataOptions(request.root, request.memory_limit, request.skip_corrupt)
    slots, device = slots_of(request)
    suite = suite_of(request, data, device)
    if suite.track == "gpu" and device == "cpu":
        slots, device = ["0"], "cuda"  # a dry run, on another machine than will run it
    executor = executor_of(request, suite, slots)
    selected = {text: select(plugins, text) for text in suite.methods}
    with ExitStack() as undone, disk.sentences():
        place = request.results / suite.name
        lock = None if request.dry_run else Lock(place)
        if lock is not None:
            undone.callback(lock.release)
            remove_halves(place)
        archive = Archive.read(request.results, suite.name, _meeting(request, place))
        jobs = _expanded(request, suite, device, selected, data, archive)
        absent = archive.hold(jobs.values(), _meeting(request, place))
        left = [job for job in jobs.values() if not archive.finished(job)]
        finished = [job for job in jobs.values() if archive.finished(job)]
        _say_notes(request, archive, left, finished, absent, device)
        _rehearse([job for job in left if not _outlined(job, request)], data)
        left, partials = _continued(left, archive, request.checkpoint_minutes)
        undone.pop_all()
    return Campaign(
        request, suite, archive, left, finished, slots, device, partials, executor, lock
    )


def _meeting(request: Request, place: Path) -> Callable[[Damaged, list[Path]], None]:
    """What is done about files that cannot be trusted."""

    def meet(error: Damaged, paths: list[Path]) -> None:
        now = " and ".join(str(set_aside(path, place)) for path in paths)
        progress.say(f"note: {error}; it is now {now}, and is not used")

    return refuse if request.dry_run else meet


def _expanded(
    request: Request,
    suite: Suite,
    device: Literal["cpu", "cuda"],
    selected: dict[str, Selected],
    data: DataOptions,
    archive: Archive,
) -> dict[str, Job]:
    """A suite's runs by hash: two specifications may mean the same run."""
    origin, prints = Origin.read(), dict[str, tuple[str, str]]()
    jobs: dict[str, Job] = {}
    for config in suite.runs(device=device, threads=request.threads, compiled=request.compiled):
        where = config.task.data
        if where not in prints:
            prints[where] = canonical(where), fingerprint(where, request.root)
        job = _job(config, selected[config.method], data, origin, prints[where])
        job = replace(job, keep_features=request.keep_features)
        archive.check(job)
        jobs[job.name] = job
    return jobs


def _say_notes(
    request: Request,
    archive: Archive,
    left: Sequence[Job],
    finished: Sequence[Job],
    absent: int,
    device: str,
) -> None:
    if old := sum(archive.older(job) for job in finished):
        progress.say(
            f"note: {old} finished runs were made by another version of bench/; to make them "
            f"anew, move them out of {request.results / archive.suite}/runs"
        )
    if absent:
        progress.say(f"note: {absent} finished runs are without their file in points/")
    if finished and request.keep_features:
        progress.say(f"note: --keep-features keeps none of the {len(finished)} finished runs'")
    if left and device == "cpu" and not native.available():
        progress.say(
            "note: augmentation runs on tensors, some times slower and with the same results: "
            "no C compiler was found"
        )


def complete(campaign: Campaign) -> bool:
    """Runs what is left, writes its records, then the leaderboard.

    Returns:
        Whether every run has a record without a failure.
    """
    request, suite, place = campaign.request, campaign.suite, campaign.archive.place
    request.results.mkdir(parents=True, exist_ok=True)  # by it workers know where they are
    try:
        with disk.sentences():
            troubles = _carried_out(campaign)
            for trouble in troubles:
                progress.say(f"FAILED  {trouble}")
            publish(request.results, suite.name, suite.reference)
        return not troubles
    finally:
        remove_halves(place)  # of workers that had to be ended
        if campaign.lock is not None:
            campaign.lock.release()


def _carried_out(campaign: Campaign) -> list[str]:
    """Runs what is left; returns a line about each run that failed."""
    troubles: list[str] = []
    with (
        progress.display(len(campaign.jobs), len(campaign.finished)) as screen,
        closing(campaign.executor.run(campaign.jobs)) as events,
    ):
        for job, event in events:
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
    return troubles


def publish(
    results: Path, suite: str, reference: str | None = None, picture: Path | None = None
) -> None:
    """Writes a suite's leaderboard files and prints its tables, also as an SVG if wanted."""
    from bench.report import leaderboard

    suite, reference = _compared(suite, reference)
    tables, paths = leaderboard.write(results, suite, reference=reference)
    _show(tables, paths, picture)


def beside(
    results: Path,
    suite: str,
    own: Sequence[Path],
    reference: str | None = None,
    picture: Path | None = None,
    output: Path | None = None,
) -> None:
    """Prints a suite's tables with a user's own records; writes none but into `output`.

    Raises:
        ConfigError: If no own record can join, or `output` holds records itself.
    """
    from bench.report import leaderboard
    from bench.report.own import tabulate

    if output is not None and (output / "runs").is_dir():
        raise ConfigError(f"--output {output}: its tables must come from the records in it alone")
    suite, reference = _compared(suite, reference)
    tables = tabulate(results, suite, own, reference)
    try:
        paths = [] if output is None else leaderboard.save(tables, output)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"--output {output}: {error.strerror}") from error
    _show(tables, paths, picture)


def _compared(suite: str, reference: str | None) -> tuple[str, str | None]:
    """A suite's folder, and the row to compare with: by default the one that its TOML names."""
    suite = folder_name(suite)
    if reference is None and find_suite(suite) is not None:
        reference = load_suite(suite).reference
    return suite, reference


def _show(tables: "Iterable[Leaderboard]", paths: Iterable[Path], picture: Path | None) -> None:
    from bench.report import console

    for table in tables:
        progress.table(table.title, *console.rows(table), console.notes(table), picture)
    for path in paths:
        progress.say(f"wrote {path}")


def prepared(config: RunConfig, data: DataOptions, device: str = "cpu") -> Prepared:
    """Loads, splits and distorts the data of a run.

    Raises:
        ConfigError, DataError: If the data are not there or unreadable, or the network is unknown.
    """
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


def _job(
    config: RunConfig,
    selected: Selected,
    data: DataOptions,
    origin: Origin,
    identity: tuple[str, str],
) -> Job:
    config = config.model_copy(update={"method": selected.spec})
    plugin = selected.plugin
    hash_ = run_hash(config, *identity, plugin.source)
    return Job(hash_, config, plugin.path, plugin.source, data, origin)


def _continued(
    jobs: list[Job], archive: Archive, minutes: float
) -> tuple[list[Job], dict[str, Partial]]:
    """The jobs with what is finished of them, and their files; says what it found."""
    partials = {job.name: archive.partial(job) for job in jobs}
    jobs = [replace(job, journal=tuple(partials[job.name].entries)) for job in jobs]
    if begun := sum(bool(job.journal) for job in jobs):
        progress.say(f"note: {begun} unfinished runs continue from their finished parts")
    if minutes:
        jobs = [
            replace(job, saving=archive.saving(job, partials[job.name].owner, minutes))
            for job in jobs
        ]
    if begun := sum(job.saving is not None and job.saving.begun() for job in jobs):
        progress.say(f"note: {begun} unfinished runs continue from a checkpoint")
    if old := sum(partials[job.name].foreign or archive.foreign(job) for job in jobs):
        progress.say(
            f"note: {old} unfinished runs were begun by another version of the code or of a "
            "library; their finished parts are not used"
        )
    return jobs, partials


def _outlined(job: Job, request: Request) -> bool:
    """Whether a job's data need not be there, because nothing but a plan is wanted."""
    return request.dry_run and outlined(job.config.task.data)


def _rehearse(jobs: list[Job], data: DataOptions) -> None:
    """Loads and prepares each task that will run once, so that its errors come before any work.

    It also builds the decoded cache of a large data set once, before several processes want it.
    """
    tasks = {job.config.task.model_dump_json(): job.config for job in jobs}
    keep = any(job.keep_features for job in jobs)
    for config in tasks.values():
        ready = prepared(config, data)
        if keep:
            with torch.device("meta"):
                features.check(ready.task.network())


def _settle(done: Done, archive: Archive) -> tuple[str, bool]:
    """Writes a finished run's record; returns a line about it and whether it failed."""
    if done.skipped is not None:
        return f"skipped: {done.skipped}", False
    if done.record is None:
        return f"{done.refused}", True
    record = done.record
    size = len(record.model_dump_json(indent=1))
    with disk.sentences(size + sum(array.nbytes for array in done.arrays.values())):
        path = archive.add(record, done.arrays)
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
