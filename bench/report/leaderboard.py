"""Builds the leaderboards of a suite from its records and writes them: pure and re-runnable."""

from collections.abc import Sequence
from math import nan
from pathlib import Path

from bench.atomic import write_text
from bench.errors import RecordError
from bench.record import Record, read_records
from bench.report.checks import check, conditions
from bench.report.matrix import Runs, matrix
from bench.report.paper import Published
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
    numbers: Sequence[Published] | None = None,
) -> list[Leaderboard]:
    """One leaderboard per budget, the smallest first.

    Args:
        records: The suite's records, in any order.
        suite: The suite's name, which every record must bear.
        reference: Specification of the row that Δ is taken against; by default filled `standard`.
        budget: The one budget to show, in RT; by default every budget there is.
        track: The track to show, where a suite ran on both.
        numbers: The papers' numbers to choose from; by default all of `paper.published()`.

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
        tables.append(_table(part, reference, conditions(part), numbers))
    return tables


def write(
    results: Path,
    suite: str,
    *,
    reference: str | None = None,
    budget: float | None = None,
    track: str | None = None,
    numbers: Sequence[Published] | None = None,
) -> tuple[list[Leaderboard], list[Path]]:
    """Writes `leaderboard.csv` and `leaderboard.md` of a suite from its records on disk.

    Args:
        results: The folder that holds `SUITE/runs`.
        suite: The suite's name.
        reference: As for `build`; so are `budget`, `track` and `numbers`.

    Returns:
        The tables, for a terminal to show, and the paths of the files.

    Raises:
        RecordError: If a record cannot be read, or the records may not be mixed.
    """
    records = read_records(results, suite)
    tables = build(
        records, suite=suite, reference=reference, budget=budget, track=track, numbers=numbers
    )
    return tables, save(tables, results / suite)


def save(tables: Sequence[Leaderboard], folder: Path) -> list[Path]:
    """Writes tables as `leaderboard.csv` and `leaderboard.md` into a folder; returns the paths."""
    texts = {"leaderboard.csv": csv(tables), "leaderboard.md": markdown(tables)}
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _table(
    records: Sequence[Record],
    wanted: str | None,
    said: list[str],
    numbers: Sequence[Published] | None,
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
        rows=table_rows(records, runs, reference, numbers),
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
