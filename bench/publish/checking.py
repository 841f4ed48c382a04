"""All checks of a suite, in order: files, records, suite, tables, and one record trained again."""

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from bench.config import Suite, find_suite, folder_name, load_suite
from bench.data.sources import canonical
from bench.errors import RecordError
from bench.plugins import Plugin
from bench.publish import coverage, files, rerun, tables
from bench.publish.compare import Comparison
from bench.publish.findings import Findings
from bench.publish.identities import violations
from bench.publish.tables import Tables
from bench.record import Record
from bench.runner import DataOptions

SEED_BITS = 40  # nobody guesses which record will be drawn


@dataclass(frozen=True)
class Request:
    """What to check.

    Attributes:
        suite: A suite's name, or a TOML file.
        results: The folder that holds `SUITE/runs`.
        root: Where data sets lie.
        seed: Of the draw of the record to train again; None: a fresh one.
        record: The beginning of the hash of that record; None: draw it.
        minutes: Longest run to train again; 0 trains none.
    """

    suite: str
    results: Path
    root: Path | None = None
    seed: int | None = None
    record: str | None = None
    minutes: float = 5.0


@dataclass
class Checked:
    """A suite after its check.

    Attributes:
        name: The suite's name.
        suite: Its TOML's content; None for a suite of `augbench run --data`.
        records: Those that can be read.
        tables: As the records give them; None if they give none.
        findings: What was found.
        specs: Canonical name of a data set to how the TOML names it.
        seed: Of the draw.
        rerun: How the re-run compares, if there was one.
    """

    name: str
    suite: Suite | None
    records: list[Record]
    tables: Tables | None = None
    findings: Findings = field(default_factory=Findings)
    specs: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    rerun: Comparison | None = None


def named(suite: str, results: Path) -> tuple[str, Suite | None]:
    """A suite's name and its TOML; a suite of a person's own data has records and no TOML.

    Raises:
        ConfigError: If there is neither.
    """
    known = suite.endswith(".toml") or find_suite(suite) is not None
    if not known and (results / folder_name(suite) / "runs").is_dir():
        return folder_name(suite), None
    found = load_suite(suite)
    return found.name, found


def refresh(request: Request) -> list[Path]:
    """Writes the suite's tables anew, in its folder and in documents; returns what changed.

    Raises:
        ConfigError, RecordError: If the suite or its records do not allow it.
    """
    name, suite = named(request.suite, request.results)
    reference = suite.reference if suite is not None else None
    made = tables.made(request.results, name, reference)
    return tables.refresh(request.results, name, suite, made)


def check(
    request: Request, plugins: dict[str, Plugin], say: Callable[[str], None] = lambda line: None
) -> Checked:
    """Looks for everything that would make a published number wrong.

    Args:
        request: What to check.
        plugins: The methods as they are now.
        say: Told what takes time.

    Raises:
        ConfigError: If the request is wrong.
        RecordError: If there are no records.
    """
    name, suite = named(request.suite, request.results)
    data, folder = DataOptions(request.root), request.results / name / "runs"
    done = Checked(name, suite, [])
    findings = done.findings
    done.records = records = files.readable(folder, findings)
    broken = {record.hash: violations(record) for record in records}
    problems = [f"{name}: {text}" for name, texts in broken.items() for text in texts]
    findings.verify(f"{len(records)} records agree with themselves", problems)
    done.specs = {canonical(task.data): task.data for task in suite.tasks} if suite else {}
    here = files.hashes(records, done.specs, request.root, findings)
    files.side_files(folder, records, findings)
    files.history(folder, findings)
    _suite(done, plugins, data)
    _tables(done, request)
    findings.notes += _provenance(records)
    if request.minutes > 0 or request.record is not None:
        _rerun(done, request, plugins, here, data, say)
    else:
        findings.unverified.append("no record was trained again, as was asked for")
    return done


def _suite(done: Checked, plugins: dict[str, Plugin], data: DataOptions) -> None:
    records, findings = done.records, done.findings
    mixed = coverage.mixtures(records, done.suite, done.name)
    findings.verify("one protocol, track and suite", mixed)
    findings.verify(
        "records of one task and seed are of the same data, RT and weights' errors",
        coverage.disagreements(records),
    )
    coverage.descriptions(records, plugins, findings)
    found = coverage.cells(record for record in records if files.configured(record))
    if done.suite is None:
        findings.unverified.append(
            f"completeness: {done.name} has no TOML that says which runs it should have"
        )
        return
    coverage.check(found, coverage.wanted(done.suite, plugins), done.suite, data, findings)


def _tables(done: Checked, request: Request) -> None:
    reference = done.suite.reference if done.suite is not None else None
    try:
        done.tables = tables.made(request.results, done.name, reference)
    except RecordError as error:
        done.findings.problems.append(f"the records give no tables: {error}")
        return
    tables.check(request.results, done.name, done.suite, done.tables, done.findings)


def _provenance(records: list[Record]) -> list[str]:
    """Under which code records were made, where that is not one clean commit."""
    notes = []
    benches = {record.bench for record in records}
    if len(benches) > 1:
        notes.append(f"the records were made by {len(benches)} versions of bench/")
    dirty = [r for r in records if str(r.environment.get("git", "unknown"))[-1:] in "+n"]
    if dirty:
        notes.append(
            f"{len(dirty)} records were made with files that differ from every commit, or outside "
            "a checkout: their code cannot be looked up"
        )
    return notes


def _rerun(
    done: Checked,
    request: Request,
    plugins: dict[str, Plugin],
    here: Collection[str],
    data: DataOptions,
    say: Callable[[str], None],
) -> None:
    done.seed = request.seed if request.seed is not None else secrets.randbits(SEED_BITS)
    choice = rerun.choose(
        [record for record in done.records if files.data_of(record) in here],
        plugins,
        seed=done.seed,
        name=request.record,
        minutes=request.minutes,
        findings=done.findings,
    )
    if choice is None:
        return
    record = choice.record
    say(
        f"training {record.hash} again ({record.method.spec}, seed {record.seed}; it took "
        f"{choice.seconds:.0f} s); drawn with --seed {done.seed}"
    )
    name = str(files.data_of(record))
    done.rerun = rerun.check(
        choice, done.records, done.specs.get(name, name), plugins[record.method.name], data,
        done.findings,
    )  # fmt: skip
