"""Error against budget: one line a method, a column a budget.

What a method is worth depends on what it may spend, and a table of one budget cannot say so.
"""

from collections.abc import Sequence
from math import inf, isnan

from bench.report import notes
from bench.report.table import Leaderboard, Row
from bench.report.text import NOTHING, percent

SCALED = "ˢ"
RULE = (
    "Mean test error over tasks in percent ± its 95 % half-width, at each budget; in brackets the "
    f"place. {SCALED}: the budget is below the least with which the method does what its paper "
    f"describes. {notes.IMPUTED}: failed runs have borrowed a score. {NOTHING}: unranked."
)


def heads(boards: Sequence[Leaderboard]) -> list[str]:
    """The columns."""
    return ["method", *(f"{board.budget:g} RT" for board in boards)]


def lines(boards: Sequence[Leaderboard]) -> list[list[str]]:
    """The rows, by error at the largest budget; those without one there come last.

    Args:
        boards: A suite's leaderboards, the smallest budget first.
    """
    rows = [{row.spec: row for row in board.rows} for board in boards]
    specs = sorted({spec for found in rows for spec in found}, key=lambda s: (_error(rows, s), s))
    return [[_name(rows, spec), *(_cell(found.get(spec)) for found in rows)] for spec in specs]


def _error(rows: Sequence[dict[str, Row]], spec: str) -> float:
    row = rows[-1].get(spec)
    return inf if row is None or _empty(row) else row.scores["error"].mean


def _name(rows: Sequence[dict[str, Row]], spec: str) -> str:
    controls = any(found[spec].clean_labels == "training" for found in rows if spec in found)
    return f"{spec} {notes.PRIVILEGED}" if controls else spec


def _cell(row: Row | None) -> str:
    if row is None or _empty(row):
        return NOTHING
    marks = (SCALED if row.scaled else "") + (f" {notes.IMPUTED}" if row.failures else "")
    place = f" [{row.place.place}]" if row.place else ""
    return f"{percent(row.scores['error'])}{marks}{place}"


def _empty(row: Row) -> bool:
    return bool(row.unranked) or isnan(row.scores["error"].mean)
