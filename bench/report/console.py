"""A leaderboard as rows of plain text, for a terminal's table."""

from bench.report import notes as sentences
from bench.report.render import adjusted_p, delta, name
from bench.report.table import Leaderboard, Row
from bench.report.text import NOTHING, percent, share, span

HEADERS = [
    "place",
    "method",
    "Δ %",
    "p",
    "W/T/L",
    "error %",
    "time",
    "FLOPs",
    "Δ placebo",
    "failed",
]


def rows(leaderboard: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """The headers and the lines of a compact table; time and FLOPs are shares of the budget.

    The text is plain: whoever prints it with markup must escape it, as names may hold brackets.
    """
    return list(HEADERS), [_line(leaderboard, row) for row in leaderboard.rows]


def notes(leaderboard: Leaderboard) -> list[str]:
    """The sentences below that table, as plain text."""
    return sentences.brief(leaderboard)


def _line(board: Leaderboard, row: Row) -> list[str]:
    place = row.place
    return [
        f"{place.place} [{span(place.low, place.high)}]" if place else NOTHING,
        " ".join(name(row).split()),
        delta(board, row),
        adjusted_p(row),
        "/".join(map(str, row.outcome)) if row.outcome else NOTHING,
        percent(row.scores["error"]),
        share(row.work["seconds_share"]),
        share(row.work["flops_share"]),
        percent(row.delta_placebo, signed=True),
        f"{row.failures}/{row.expected}",
    ]
