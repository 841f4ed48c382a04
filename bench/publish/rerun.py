"""Trains one record again, in a process of its own as `augbench run` does, and compares."""

import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.archive import Archive
from bench.environment import Origin
from bench.errors import ConfigError, DataError, RecordError
from bench.executors.local import LocalProcesses
from bench.plugins import Plugin
from bench.publish.compare import Comparison, compare
from bench.publish.findings import Findings
from bench.publish.identities import configuration, violations
from bench.record import Record, read_record
from bench.runner import DataOptions
from bench.worker import Done, Job

DEATH = "WorkerDied"


@dataclass(frozen=True)
class Choice:
    """The record to train again.

    Attributes:
        record: Itself.
        seconds: What it took when it was made, unbilled work included.
        among: How many could have been drawn.
        of: How many records there are.
    """

    record: Record
    seconds: float
    among: int
    of: int


def choose(
    records: Sequence[Record],
    plugins: dict[str, Plugin],
    *,
    seed: int,
    name: str | None,
    minutes: float,
    findings: Findings,
) -> Choice | None:
    """Draws a record that can be repeated here, or takes the one that is named.

    Args:
        records: The suite's.
        plugins: The methods as they are now.
        seed: Of the draw.  Whoever knows it before can edit the other records.
        name: The beginning of a record's hash, which decides in place of the draw.
        minutes: Longer runs are left out of the draw.
        findings: Says why nothing was drawn.

    Raises:
        ConfigError: If no record, or more than one, begins with `name`, or it cannot be repeated.
    """
    if name is not None:
        named = [record for record in records if record.hash.startswith(name)]
        if len(named) != 1:
            raise ConfigError(f"--record {name!r}: {len(named)} records begin so")
        if reason := _obstacle(named[0], plugins):
            raise ConfigError(f"--record {name!r} cannot be repeated: {reason}")
        return Choice(named[0], _seconds(named[0], records), 1, len(records))
    possible = {r.hash: r for r in records if not _obstacle(r, plugins)}
    times = {hash_: _seconds(one, records) for hash_, one in possible.items()}
    short = sorted(hash_ for hash_, seconds in times.items() if seconds <= 60 * minutes)
    if not short:
        least = min(times.values(), default=None)
        reason = (
            "no record can be repeated with the methods, data and device that are here"
            if least is None
            else f"the shortest takes {least / 60:.1f} minutes and {minutes:g} are allowed"
        )
        findings.unverified.append(f"no record was trained again: {reason}")
        return None
    drawn = random.Random(seed).choice(short)
    return Choice(possible[drawn], times[drawn], len(short), len(records))


def _obstacle(record: Record, plugins: dict[str, Plugin]) -> str | None:
    """Why a re-run would prove nothing, if it would."""
    plugin = plugins.get(record.method.name)
    if plugin is None:
        return f"there is no method {record.method.name}"
    if plugin.source != record.method.source:
        return f"the source of {record.method.name} has changed since"
    try:
        config = configuration(record)
    except ConfigError as error:
        return str(error)
    if config.device == "cuda" and not torch.cuda.is_available():
        return "it ran on a CUDA device, and there is none"
    return None


def _seconds(record: Record, records: Sequence[Record]) -> float:
    """What a run took; what others of its row took, where it failed and has no bill.

    Failed runs are drawn too: a bad score is hidden by calling it a failure.
    """
    row = [record] if record.bill else row_of(record, records)
    bills = [one.bill for one in row if one.bill is not None]
    times = [b.seconds + b.rehearsal_seconds + b.evaluation_seconds for b in bills]
    return max(times, default=math.inf)


def row_of(record: Record, records: Sequence[Record]) -> list[Record]:
    """The records of the same method at the same budget."""
    spec, budget = record.method.spec, record.budget
    return [one for one in records if (one.method.spec, one.budget) == (spec, budget)]


def repeat(record: Record, spec: str, plugin: Plugin, data: DataOptions) -> Record:
    """Trains a record again, its result written and read as any other.

    Args:
        record: What to repeat.
        spec: Its data set, as it is found here.
        plugin: Its method.
        data: How to load data.

    Raises:
        DataError: If the data cannot be loaded.
        RecordError: If the method declines what it once did.
    """
    config = configuration(record)
    task = config.task.model_copy(update={"data": spec})
    config = config.model_copy(update={"task": task})
    job = Job(record.hash, config, plugin.path, plugin.source, data, Origin.read())
    done = None
    slot = "0" if config.device == "cuda" else None
    for _, event in LocalProcesses([slot]).run([job]):
        done = event if isinstance(event, Done) else done
    assert done is not None  # an executor yields one for each job
    if done.refused is not None:
        raise DataError(f"{record.hash} cannot be repeated: {done.refused}")
    if done.record is None:
        raise RecordError(f"{record.hash} cannot be repeated: skipped: {done.skipped}")
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder), record.suite, {})
        return read_record(archive.add(done.record, done.arrays))


def check(
    choice: Choice,
    records: Sequence[Record],
    spec: str,
    plugin: Plugin,
    data: DataOptions,
    findings: Findings,
) -> Comparison | None:
    """Trains the chosen record again and files what that shows."""
    record = choice.record
    what = f"re-run of {record.hash} ({record.method.spec}, seed {record.seed})"
    try:
        again = repeat(record, spec, plugin, data)
    except RecordError as error:
        findings.problems.append(str(error))
        return None
    except DataError as error:
        findings.unverified.append(str(error))
        return None
    if again.failure is not None and again.failure.type == DEATH:
        findings.unverified.append(f"{what}: {again.failure.message}")
        return None
    found = compare(record, again, row_of(record, records))
    if found.environment:
        findings.notes.append(f"{what}: not an equal environment: {'; '.join(found.environment)}")
    drawn = f", drawn from {choice.among} of {choice.of} records" if choice.among > 1 else ""
    problems = [f"{what}: {problem}" for problem in found.problems]
    problems += [f"{what}: the re-run breaks an identity: {text}" for text in violations(again)]
    if problems or found.decided:
        findings.verify(f"{what}: {found.verdict}{drawn}", problems)
    else:
        findings.unverified.append(f"{what}: {found.verdict}")
    return found
