"""Leaderboards as CSV (every row, for machines) and Markdown (for readers)."""

from collections.abc import Iterable, Sequence
from math import isnan

import pandas as pd

from bench.report import ladder, notes, quotes
from bench.report.statistics import Effect
from bench.report.table import Cell, Leaderboard, Row
from bench.report.text import NOTHING, cell, count, number, p_value, percent, seconds, share, span
from bench.report.text import markdown as escape

SHOWN = 8
"""Rows of the main Markdown table; the CSV has all."""

MAIN = (
    "place",
    "method",
    "Δ vs reference",
    "p",
    "W/T/L",
    "error %",
    "balanced %",
    "tail %",
    "device-seconds (of budget)",
    "FLOPs (of budget)",
    "Δ vs own placebo",
    "clean labels",
    "failures",
    "seeds",
    "paper",
    "record hash",
)

TEXTS = ("suite", "track", "method", "unranked", "placebo", "clean_labels", "flags", "paper")
"""Columns of the CSV that hold text, where a spreadsheet might find a formula."""


def csv(boards: Sequence[Leaderboard]) -> str:
    """All rows of all tables with all columns; errors, shares and Δ in percent."""
    lines = [_record(board, row) for board in boards for row in board.rows]
    if any(row.joined for board in boards for row in board.rows):
        made = (row.joined for board in boards for row in board.rows)
        lines = [line | {"joined": cell(text)} for line, text in zip(lines, made, strict=True)]
    return str(pd.DataFrame(lines, dtype=str).to_csv(index=False, lineterminator="\n"))


def _record(board: Leaderboard, row: Row) -> dict[str, str]:
    place = row.place
    texts = {"suite": board.suite, "track": board.track, "budget": number(board.budget)}
    texts |= {
        "place": number(place.place if place else None),
        "place_low": number(place.low if place else None),
        "place_high": number(place.high if place else None),
        "method": row.spec,
        "is_reference": number(row.spec == board.reference),
        "average_rank": number(place.average_rank if place else None),
        "unranked": row.unranked,
    }
    texts |= _effect("delta", row.delta) | {
        "p_adjusted": number(row.p_adjusted),
        "in_family": number(row.family),
        "delta_boot_low_pct": number(100.0 * row.boot[0]),
        "delta_boot_high_pct": number(100.0 * row.boot[1]),
    }
    outcome = row.outcome or (None, None, None)
    texts |= dict(zip(("wins", "ties", "losses"), map(number, outcome), strict=True))
    texts |= _scores(row) | _work(row)
    texts |= {"placebo": row.placebo} | _effect("delta_placebo", row.delta_placebo)
    texts |= _provenance(row)
    return texts | {name: cell(texts[name]) for name in TEXTS}


def _effect(name: str, effect: Effect) -> dict[str, str]:
    return {
        f"{name}_pct": number(100.0 * effect.mean),
        f"{name}_half_pct": number(100.0 * effect.half),
        "p" if name == "delta" else f"{name}_p": number(effect.p),
    }


def _scores(row: Row) -> dict[str, str]:
    texts = {}
    for metric in ("error", "balanced_error", "tail_error", "worst_error"):
        texts[f"{metric}_pct"] = number(100.0 * row.scores[metric].mean)
        texts[f"{metric}_half_pct"] = number(100.0 * row.scores[metric].half)
    return texts | {metric: number(row.scores[metric].mean) for metric in ("nll", "ece")}


def _work(row: Row) -> dict[str, str]:
    percents = {
        "seconds_share": "seconds_share_pct",
        "flops_share": "flops_share_pct",
        "train_error": "train_error_pct",
        "memorised": "memorised_pct",
    }
    return {
        percents.get(metric, metric): number(100.0 * value if metric in percents else value)
        for metric, value in row.work.items()
    }


def _provenance(row: Row) -> dict[str, str]:
    scaled = row.scaled or (None, None)
    return {
        "clean_labels": row.clean_labels,
        "scaled_low_pct": number(scaled[0] and 100.0 * scaled[0]),
        "scaled_high_pct": number(scaled[1] and 100.0 * scaled[1]),
        "failures": number(row.failures),
        "imputed": number(row.imputed),
        "missing": number(row.missing),
        "expected_runs": number(row.expected),
        "seeds_low": number(row.seeds[0]),
        "seeds_high": number(row.seeds[1]),
        "flags": " ".join(row.flags),
        "paper": quotes.full(row.published),
        "record_hash": row.digest,
    }


def markdown(boards: Sequence[Leaderboard]) -> str:
    """One section per table under the suite's title."""
    parts = [f"# Leaderboard: {escape(boards[0].suite)}"] if boards else []
    if len(boards) > 1:
        parts += ["## Error against budget", escape(ladder.RULE)]
        parts.append(_table(ladder.heads(boards), ladder.lines(boards)))
    for board in boards:
        parts += _section(board)
    return "\n\n".join(parts) + "\n"


def _section(board: Leaderboard) -> list[str]:
    ok, reason = notes.admitted(board)
    verdict = "Admitted:" if ok else "**Not admitted** by PROTOCOL.md:"
    head = [f"{verdict} {escape(reason)}", *map(escape, notes.header(board))]
    shown = _shown(board)
    left = len(board.rows) - len(shown)
    parts = [f"## {escape(board.title)}", _list(head)]
    parts.append(_table(MAIN, [_main(board, row) for row in shown]))
    if left:
        parts.append(f"{left} more row{'s' if left > 1 else ''} in `leaderboard.csv`.")
    parts.append(_list(map(escape, notes.footnotes(board))))
    parts += ["### Test error per task (%)", _per_task(board)]
    parts += ["### What was done (means over finished runs)", _what(board)]
    quoted = quotes.lines(board.rows)
    if quoted:
        parts += ["### Papers' numbers", escape(quotes.RULE), _table(quotes.HEADS, quoted)]
    told = notes.deviations(board.rows)
    if told:
        parts += ["### Departures from the papers, as declared", _list(map(escape, told))]
    return parts


def _shown(board: Leaderboard) -> list[Row]:
    """The first rows, and the reference and a user's own rows wherever they stand."""
    rest = [row for row in board.rows[SHOWN:] if row.spec == board.reference or row.joined]
    return board.rows[:SHOWN] + rest


def _main(board: Leaderboard, row: Row) -> list[str]:
    place = row.place
    work = row.work
    return [
        f"{place.place} [{span(place.low, place.high)}]" if place else NOTHING,
        name(row),
        delta(board, row),
        adjusted_p(row),
        "/".join(map(str, row.outcome)) if row.outcome else NOTHING,
        *(percent(row.scores[key]) for key in ("error", "balanced_error", "tail_error")),
        f"{seconds(work['seconds'])} ({share(work['seconds_share'])})",
        f"{count(work['flops'])} ({share(work['flops_share'])})",
        percent(row.delta_placebo, signed=True),
        row.clean_labels,
        f"{row.failures}/{row.expected}",
        span(*row.seeds),
        quotes.short(row.published) or NOTHING,
        row.digest,
    ]


def name(row: Row) -> str:
    """The row's name with its marks."""
    marks = notes.marks(row)
    return notes.label(row) + (f" {marks}" if marks else "")


def delta(board: Leaderboard, row: Row) -> str:
    """The row's Δ with its interval, or that it is the reference."""
    return "reference" if row.spec == board.reference else percent(row.delta, signed=True)


def adjusted_p(row: Row) -> str:
    """The adjusted p within the family, the plain one with its mark outside."""
    if row.family:
        return p_value(row.p_adjusted)
    return NOTHING if isnan(row.delta.p) else p_value(row.delta.p) + notes.UNADJUSTED


def _per_task(board: Leaderboard) -> str:
    lines = [
        [notes.label(row), *(_cell(row.cells[task]) for task in board.tasks)] for row in board.rows
    ]
    return _table(["method", *board.tasks], lines)


def _cell(found: Cell) -> str:
    if not found.runs:
        return NOTHING + (f" {notes.IMPUTED}" if found.failed else "")
    mark = f" {notes.IMPUTED}" if found.failed else ""
    return f"{percent(Effect(found.mean, found.half))} (n={found.runs}){mark}"


def _what(board: Leaderboard) -> str:
    heads = ["method", "steps", "images seen", "policy updates", "training error %"]
    lines = []
    for row in board.rows:
        counts = [row.work[key] for key in ("steps", "images_seen", "policy_updates")]
        rates = [percent(Effect(row.work[key])) for key in ("train_error", "memorised")]
        lines.append([notes.label(row), *map(count, counts), *rates])
    return _table([*heads, "mislabelled points memorised %"], lines)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(heads)
    rows = [map(escape, heads), rule, *(map(escape, line) for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
