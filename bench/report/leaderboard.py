"""Builds the leaderboards of a suite from its records and writes them: pure and re-runnable."""

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path

from bench.errors import RecordError
from bench.record import Record, read_records, write_text
from bench.report.checks import check, conditions
from bench.report.matrix import Runs, matrix
from bench.report.render import csv, markdown
from bench.report.rows import table_rows
from bench.report.statistics import Admission
from bench.report.statistics import admission as admitted
from bench.report.table import Leaderboard


def build(
    records: Sequence[Record],
    *,
    suite: str,
    reference: str | None = None,
    budget: float | None = None,
    track: str | None = None,
    paper: Mapping[str, str] | None = None,
) -> list[Leaderboard]:
    """One leaderboard per budget, the smallest first.

    Args:
        records: The suite's records, in any order.
        suite: The suite's name, which every record must bear.
        reference: Specification of the row that Δ is taken against; by default filled `standard`.
        budget: The one budget to show, in RT; by default every budget there is.
        track: The track to show, where a suite ran on both.
        paper: Method specification to the paper's own number, as text.

    Raises:
        RecordError: If the records may not be mixed (see `checks.check`), or none is of the budget
            or track asked for.
    """
    chosen = _filtered(records, suite, budget, track)
    check(chosen, suite)
    chosen.sort(key=lambda record: (record.method.spec, record.seed, record.hash))
    tables = []
    for size in sorted({record.budget for record in chosen}):
        part = [record for record in chosen if record.budget == size]
        tables.append(_table(part, reference, paper or {}, conditions(part)))
    return tables


def write(
    results: Path,
    suite: str,
    *,
    reference: str | None = None,
    budget: float | None = None,
    track: str | None = None,
    paper: Mapping[str, str] | None = None,
) -> tuple[list[Leaderboard], list[Path]]:
    """Writes `leaderboard.csv` and `leaderboard.md` of a suite from its records on disk.

    Args:
        results: The folder that holds `SUITE/runs`.
        suite: The suite's name.
        reference: As for `build`; so are `budget`, `track` and `paper`.

    Returns:
        The tables, for a terminal to show, and the paths of the files.

    Raises:
        RecordError: If a record cannot be read, or the records may not be mixed.
    """
    records = read_records(results, suite)
    tables = build(
        records, suite=suite, reference=reference, budget=budget, track=track, paper=paper
    )
    paths = []
    for name, text in (("leaderboard.csv", csv(tables)), ("leaderboard.md", markdown(tables))):
        paths.append(results / suite / name)
        write_text(paths[-1], text)
    return tables, paths


def _table(
    records: Sequence[Record],
    wanted: str | None,
    paper: Mapping[str, str],
    said: list[str],
) -> Leaderboard:
    """The table of records that share suite, track and budget."""
    runs = matrix(records)
    name, reference = _reference(runs.specs, wanted, records[0].budget)
    verdict, pair = _admission(runs)
    return Leaderboard(
        suite=records[0].suite,
        track=records[0].track,
        budget=records[0].budget,
        reference=name if reference is not None else "",
        wanted=name,
        tasks=runs.tasks,
        seeds=sorted({seed for _, seed in runs.pairs}),
        rows=table_rows(records, runs, reference, paper),
        conditions=said,
        admission=verdict,
        admitted_by=pair,
    )


def _reference(specs: Sequence[str], wanted: str | None, budget: float) -> tuple[str, int | None]:
    """The reference's name and its row, None if absent; by default filled `standard`.

    At 1 RT plain `standard` will do: natural and filled length are the same there.
    """
    names = [wanted] if wanted is not None else ["standard[length=filled]"]
    if wanted is None and budget == 1.0:
        names.append("standard")
    present = [name for name in names if name in specs]
    return (present[0], specs.index(present[0])) if present else (names[0], None)


def _admission(runs: Runs) -> tuple[Admission, tuple[str, str] | None]:
    """Whether the suite tells `standard` from `none`: filled rows if both exist, else natural."""
    for pair in (("standard[length=filled]", "none[length=filled]"), ("standard", "none")):
        if all(spec in runs.specs for spec in pair):
            rows = [runs.specs.index(spec) for spec in pair]
            return admitted(*runs.finished("error", *rows)), pair
    return Admission(False, "", nan, nan), None


def _filtered(
    records: Sequence[Record], suite: str, budget: float | None, track: str | None
) -> list[Record]:
    chosen = list(records)
    for option, wanted in (("track", track), ("budget", budget)):
        if wanted is None:
            continue
        found = sorted({getattr(record, option) for record in chosen})
        chosen = [record for record in chosen if getattr(record, option) == wanted]
        if not chosen:
            allowed = ", ".join(str(each) for each in found)
            raise RecordError(f"suite {suite} has no records of {option} {wanted}, only {allowed}")
    return chosen
