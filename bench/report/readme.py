"""Tables inside documents: what stands between `<!-- leaderboard SUITE -->` and `<!-- end -->`.

A suite with several budgets names one, `<!-- leaderboard SUITE 3rt -->`, or shows errors at all of
them, `<!-- leaderboard SUITE ladder -->`.
"""

import re
from collections.abc import Callable, Collection, Sequence

from bench.errors import RecordError
from bench.report import console, ladder
from bench.report.table import Leaderboard
from bench.report.text import markdown

COLUMNS = ("place", "method", "Δ %", "W/T/L", "error %", "time", "FLOPs")
BLOCK = re.compile(r"(<!-- leaderboard (\S+)(?: (\S+))? -->\n)(.*?)(<!-- end -->)", re.S)
LADDER = "ladder"


def block(
    boards: Sequence[Leaderboard], listed: Collection[str] | None = None, which: str | None = None
) -> str:
    """A suite's table for a document, in Markdown.

    Args:
        boards: The suite's leaderboards.
        listed: Methods to show; placebos and ablations beyond the suite stand in the whole table
            alone.  None shows all.
        which: A board's budget, as the marker writes it, or `ladder`; None if there is one board.

    Raises:
        RecordError: If that does not choose a table.
    """
    if which == LADDER:
        rows = [
            row
            for row in ladder.lines(boards)
            if (listed is None or row[0].partition(" ")[0] in listed) and "placebo=" not in row[0]
        ]
        return _table(ladder.heads(boards), rows)
    chosen = [b for b in boards if which in (None, f"{b.budget:g}rt")]
    if len(chosen) != 1:
        have = ", ".join(f"{board.budget:g}rt" for board in boards)
        raise RecordError(
            f"a table of {boards[0].suite} must name one of the budgets {have}, or {LADDER}"
        )
    headers, rows = console.rows(chosen[0])
    method = headers.index("method")
    rows = [r for r in rows if listed is None or r[method].partition(" ")[0] in listed]
    keep = [headers.index(name) for name in COLUMNS]
    return _table(COLUMNS, [[row[i] for i in keep] for row in rows])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *(map(markdown, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def names(text: str) -> list[str]:
    """The suites whose tables stand in a document, in order."""
    return [found[2] for found in BLOCK.finditer(text)]


def rewritten(text: str, suite: str, table: Callable[[str | None], str]) -> str:
    """A document with a suite's tables made anew; `table` gets what a marker names."""

    def fill(found: re.Match[str]) -> str:
        return found[1] + (table(found[3]) if found[2] == suite else found[4]) + found[5]

    return BLOCK.sub(fill, text)
