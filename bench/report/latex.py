"""Leaderboards as LaTeX tables (booktabs), for papers."""

from collections.abc import Iterable, Sequence

from bench.report import notes
from bench.report.render import adjusted_p, delta
from bench.report.statistics import Effect
from bench.report.table import Cell, Leaderboard, Row
from bench.report.text import NOTHING, percent, share, span

ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "±": r"$\pm$", "−": r"$-$", "×": r"$\times$", "·": r"$\cdot$", "–": "--", "Δ": r"$\Delta$",
    "†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}", "°": r"\textdegree{}", "¶": r"\P{}",
    "[": "{[}", "]": "{]}",
}  # fmt: skip
"""Brackets too: after a row's end, LaTeX would read one as that end's option."""

HEADS = (
    "place", "method", "Δ %", "p", "W/T/L", "error %", "balanced %", "tail %", "time", "FLOPs",
    "Δ placebo %",
)  # fmt: skip


def escape(text: str) -> str:
    """Text that LaTeX sets as it is, on one line; what cannot be shown becomes `?`."""
    line = " ".join(text.split())
    return "".join(ESCAPES.get(char, char if char.isprintable() else "?") for char in line)


def leaderboard(board: Leaderboard) -> str:
    """The main table of one budget, all rows."""
    return _table(HEADS, [_line(board, row) for row in board.rows], board.title, _notes(board))


def per_task(board: Leaderboard) -> str:
    """Mean test error of each row on each task."""
    lines = [
        [notes.label(row), *(_cell(row.cells[task]) for task in board.tasks)] for row in board.rows
    ]
    said = ["Test error in %, mean ± 95 % half-width over seeds."]
    return _table(["method", *board.tasks], lines, f"{board.title}, by task", said)


def _line(board: Leaderboard, row: Row) -> list[str]:
    place = row.place
    return [
        f"{place.place} [{span(place.low, place.high)}]" if place else NOTHING,
        f"{notes.label(row)} {notes.marks(row)}".strip(),
        delta(board, row),
        adjusted_p(row),
        "/".join(map(str, row.outcome)) if row.outcome else NOTHING,
        *(percent(row.scores[key]) for key in ("error", "balanced_error", "tail_error")),
        share(row.work["seconds_share"]),
        share(row.work["flops_share"]),
        percent(row.delta_placebo, signed=True),
    ]


def _cell(found: Cell) -> str:
    return percent(Effect(found.mean, found.half)) if found.runs else NOTHING


def _notes(board: Leaderboard) -> list[str]:
    _, reason = notes.admitted(board)
    return [reason, *notes.header(board), *notes.footnotes(board)]


def _table(
    heads: Sequence[str], lines: Iterable[Sequence[str]], title: str, said: Iterable[str]
) -> str:
    """A table with its notes as comments, which a caption may take up."""
    columns = "".join("l" if head == "method" else "r" for head in heads)
    rows = [" & ".join(map(escape, line)) + r" \\" for line in lines]
    return "\n".join(
        [
            f"% {' '.join(title.split())}; needs the packages booktabs and textcomp",
            *(f"% {' '.join(text.split())}" for text in said),
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(escape, heads)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )
