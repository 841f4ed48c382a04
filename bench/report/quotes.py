"""The papers' numbers as text: in a table's cell, in the CSV's column, in their own section."""

from collections.abc import Iterable, Sequence

from bench.report.beside import Beside
from bench.report.paper import Published, networks
from bench.report.table import Row
from bench.report.text import NOTHING

HEADS = (
    "method",
    "task",
    "paper's error %",
    "table: row, column",
    "trained on",
    "network",
    "epochs",
    "runs (±)",
    "weights",
    "comparable",
    "note",
)

RULE = (
    "Beside a method on a task stands the nearest number that a paper has of it: of the task's "
    "data set and no other; of the same distortion, else of the clean set; a test error, else a "
    "validation error, else a loss; of the same network, else of its family, else of another, the "
    "smallest first; the closest variant of the method; measured rather than quoted.  All of the "
    "papers' numbers: bench/paper.toml."
)
"""How `bench.report.beside` chooses, for readers."""

SPREADS = {"std": "standard deviation", "ci95": "95 % interval", "unknown": "not explained"}


def short(found: Sequence[Beside]) -> str:
    """The numbers in a cell: `2.44 ± 0.07 (GAR, Table 2); ...`; marks what compares."""
    return "; ".join(
        f"{_score(one.published)} ({one.published.place}{', comparable' * one.comparable})"
        for one in found
    )


def full(found: Sequence[Beside]) -> str:
    """The numbers with all that is known of them, for the CSV: a line of text.

    Numbers are separated by ` | `, the parts of one by `; `, always in the order: score; place,
    row and column; data set and distortion; network; training images; epochs; runs and kind of
    spread; which weights; origin; whether it compares, or why not.
    """
    return " | ".join("; ".join(_parts(one)) for one in found)


def _parts(one: Beside) -> list[str]:
    number = one.published
    return [
        _score(number),
        f"{number.place}, {number.row}, {number.column}",
        f"{number.data} {number.distort}",
        _network(number),
        f"{number.images or 'unknown'} images",
        f"{number.epochs or 'unknown'} epochs",
        f"{number.runs or 'unknown'} runs ({number.spread_kind or 'no spread'})",
        f"weights {number.selection}",
        number.origin,
        _verdict(one).replace("; ", ", "),
    ]


def lines(rows: Iterable[Row]) -> list[list[str]]:
    """The lines of the section's table, under `HEADS`."""
    return [_line(one) for row in rows for one in row.published]


def _line(one: Beside) -> list[str]:
    number = one.published
    images = f", {number.images:,} images" if number.images else ""
    return [
        one.spec,
        one.setting.task,
        _score(number),
        f"{number.place}: {number.row}, {number.column}",
        f"{number.data}, {number.distort}{images}",
        _network(number),
        str(number.epochs or NOTHING),
        _runs(number),
        number.selection,
        _verdict(one),
        number.note,
    ]


def _score(number: Published) -> str:
    kind = f"{number.metric} " if number.metric == "loss" else ""
    return kind + number.score + (" (validation)" if number.split == "validation" else "")


def _network(number: Published) -> str:
    network = number.network
    return networks().get(network, network) if network else "unknown network"


def _runs(number: Published) -> str:
    runs = str(number.runs or NOTHING)
    return f"{runs} ({SPREADS[number.spread_kind]})" if number.spread_kind else runs


def _verdict(one: Beside) -> str:
    return "yes" if one.comparable else f"no: {', '.join(one.differences)}"
