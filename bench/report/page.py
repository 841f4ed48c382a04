"""A suite's report as one HTML page that needs nothing beside it, neither files nor a network.

Every name in it may come from a stranger's record: the template escapes text, and `script` JSON.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isnan
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.record import Record
from bench.report import charts, facts, notes, pictures, timeline
from bench.report.pictures import Data
from bench.report.render import adjusted_p, delta
from bench.report.statistics import Effect
from bench.report.table import Cell, Leaderboard, Row
from bench.report.text import NOTHING, count, percent, seconds, share, span

TEMPLATES = Path(__file__).parents[1] / "templates"
Labels = Callable[[Record], Mapping[str, Sequence[str]]]
"""Names of the rows of a run's series; see `timeline.svg`."""

KINDS = {
    "learned": "one of the learned systems",
    "search": "a search or another adaptive baseline",
    "fixed": "a policy that never moves",
    "placebo": "a method without its learning signal",
    "control": "trains on the clean validation images",
}
HEADS = {  # and whether the column sorts as numbers
    "method": False, "place": True, "Δ %": True, "p": True, "W/T/L": False, "error %": True,
    "balanced %": True, "tail %": True, "seconds (of budget)": True, "FLOPs (of budget)": True,
    "Δ placebo %": True, "clean labels": False, "failed": True, "seeds": False,
    "record hash": False,
}  # fmt: skip
SECTIONS = {
    "leaderboard": "Leaderboard", "cost": "Error against cost", "anytime": "On the way",
    "differences": "Differences", "classes": "Classes and the tail",
    "policies": "Policies over time", "confusion": "Confusions", "bills": "Bills",
    "papers": "The papers' numbers", "failures": "Failures", "repeat": "How to repeat it",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A cell of the leaderboard: its text, what it sorts by, and its class in the page."""

    text: str
    key: str | float = ""
    mark: str = ""


def html(
    boards: Sequence[Leaderboard],
    records: Sequence[Record],
    data: Data,
    labels: Labels,
    *,
    title: str = "",
    known: bool = False,
) -> str:
    """The page.

    Args:
        boards: The suite's leaderboards, one a budget.
        records: Its records.
        data: What the charts show, from the same.
        labels: Names of the rows of a run's policy.
        title: The suite's title, if it has one.
        known: Whether the project has a suite of this name.
    """
    suite = boards[0].suite
    context = {
        "suite": suite,
        "title": title,
        "track": boards[0].track,
        "counts": _counts(boards, records),
        "records": len(records),
        "kinds": [item for item in KINDS.items() if item[0] in data.kinds.values()],
        "heads": [{"name": name, "number": number} for name, number in HEADS.items()],
        "boards": [_board(board, data) for board in boards],
        "done_heads": ["method", "steps", "images seen", "policy updates", "training error %",
                       "mislabelled points memorised %"],
        "timelines": _timelines(records, data, labels),
        "failures": facts.failures(records),
        "failure_heads": ["method", "task", "RT", "seeds", "error", "attempts", "records"],
        "papers": facts.papers(boards, records),
        "paper_heads": facts.PAPER_HEADS,
        "commands": facts.commands(records, suite, known),
        "tasks": facts.tasks(records),
        "task_heads": facts.TASK_HEADS,
        "environments": facts.environments(records),
        "environment_heads": facts.ENVIRONMENT_HEADS,
        "front": _front(data),
    } | _drawn(data)  # fmt: skip
    context["sections"] = [item for item in SECTIONS.items() if _shown(item[0], context)]
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template("report.html").render(context)


def _shown(section: str, context: Mapping[str, Any]) -> bool:
    needs = {"cost": "cost-flops", "anytime": "anytime", "confusion": "confusion",
             "bills": "bill-flops"}  # fmt: skip
    if section == "policies":
        return bool(context["timelines"])
    if section == "differences":
        return bool({"reference", "placebos"} & set(context["charts"]))
    return section not in needs or needs[section] in context["charts"]


def _drawn(data: Data) -> dict[str, Any]:
    """The charts, their data and what draws them."""
    drawn = {chart.name: chart for chart in pictures.drawn(data)}
    specs, offers = {}, {}
    for name, chart in drawn.items():
        single = chart.tasks == "single"
        tasks = pictures.single(data) if single else data.tasks if chart.tasks else []
        offers[name] = tasks
        specs[name] = {
            "spec": pictures.spec(chart, pictures.first(data, chart, data.start)),
            "tables": chart.tables,
            "budgets": chart.budgets,
            "tasks": bool(tasks),
            "own": name == "confusion",
            "against": {"reference": "reference", "placebos": "placebo"}.get(name, ""),
        }
    start = pictures.first(data, drawn["levels"], data.start) if "levels" in drawn else None
    return {
        "charts": offers,
        "methods": list(data.kinds),
        "start": f"{data.start:g}",
        "focus": start.method if start else "",
        "data": script(pictures.packed(data)),
        "specs": script(specs),
        "looks": script({"light": charts.theme(dark=False), "dark": charts.theme(dark=True)}),
        "bundle": _library(),
        "css": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        "js": Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
    }


def script(value: object) -> Markup:
    """JSON that a `<script>` element may hold: nothing in it ends the element or a line."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _breakable(text: str) -> Markup:
    """A name that may be broken between its options."""
    marked = str(escape(text))
    for char in "[,":
        marked = marked.replace(char, f"{char}<wbr>")
    return Markup(marked)


@cache
def _library() -> Markup:
    """What draws the charts, as a `<script>` element may hold it; it takes seconds."""
    code = str(vl_convert.javascript_bundle())  # type: ignore[call-arg]
    return Markup(code.replace("</script", r"<\/script").replace("<!--", r"\x3C!--"))


def _counts(boards: Sequence[Leaderboard], records: Sequence[Record]) -> str:
    tasks = {task for board in boards for task in board.tasks}
    seeds = {seed for board in boards for seed in board.seeds}
    rows = {row.spec for board in boards for row in board.rows}
    budgets = ", ".join(f"{board.budget:g}" for board in boards)
    parts = [
        (len(records), "run"),
        (len(rows), "method"),
        (len(tasks), "task"),
        (len(seeds), "seed"),
    ]
    return ", ".join(f"{n:,} {what}{'s' * (n != 1)}" for n, what in parts) + f", {budgets} RT"


def _board(board: Leaderboard, data: Data) -> dict[str, Any]:
    ok, reason = notes.admitted(board)
    return {
        "budget": f"{board.budget:g}",
        "name": f"{board.budget:g} RT",
        "admitted": ok,
        "reason": reason,
        "header": notes.header(board),
        "footnotes": notes.footnotes(board),
        "rows": [
            {
                "spec": row.spec,
                "kind": data.kinds[row.spec],
                "marks": " ".join(_marks(board, row)),
                "cells": _cells(board, row),
            }
            for row in board.rows
        ],
        "per_task_heads": ["method", *board.tasks],
        "per_task": [
            [notes.label(row), *(_on_task(row.cells[task]) for task in board.tasks)]
            for row in board.rows
        ],
        "done": [_done(row) for row in board.rows],
        "deviations": notes.deviations(board.rows),
    }


def _marks(board: Leaderboard, row: Row) -> list[str]:
    told = {"reference": row.spec == board.reference, "unranked": row.place is None}
    return [name for name, holds in told.items() if holds]


def _cells(board: Leaderboard, row: Row) -> list[Entry]:
    place, work, scores = row.place, row.work, row.scores
    low = row.p_adjusted if row.family else row.delta.p
    decided = not isnan(row.delta.half) and abs(row.delta.mean) > row.delta.half
    verdict = ("better" if row.delta.mean < 0 else "worse") if decided else ""
    where = f"{place.place} [{span(place.low, place.high)}]" if place else NOTHING
    return [
        Entry(f"{notes.label(row)} {notes.marks(row)}".strip(), row.spec),
        Entry(where, place.place if place else ""),
        Entry(delta(board, row), _key(row.delta.mean), verdict),
        Entry(adjusted_p(row), _key(low)),
        Entry("/".join(map(str, row.outcome)) if row.outcome else NOTHING, str(row.outcome or "")),
        *(
            Entry(percent(scores[name]), _key(scores[name].mean))
            for name in ("error", "balanced_error", "tail_error")
        ),
        Entry(
            f"{seconds(work['seconds'])} ({share(work['seconds_share'])})", _key(work["seconds"])
        ),
        Entry(f"{count(work['flops'])} ({share(work['flops_share'])})", _key(work["flops"])),
        Entry(percent(row.delta_placebo, signed=True), _key(row.delta_placebo.mean)),
        Entry(row.clean_labels, row.clean_labels),
        Entry(f"{row.failures}/{row.expected}", row.failures),
        Entry(span(*row.seeds), str(row.seeds[0])),
        Entry(row.digest, row.digest),
    ]


def _key(value: float) -> str | float:
    return "" if isnan(value) else round(value, 12)


def _on_task(cell: Cell) -> str:
    mark = f" {notes.IMPUTED}" if cell.failed else ""
    if not cell.runs:
        return NOTHING + mark
    return f"{percent(Effect(cell.mean, cell.half))} (n={cell.runs}){mark}"


def _done(row: Row) -> list[str]:
    counts = [count(row.work[key]) for key in ("steps", "images_seen", "policy_updates")]
    rates = [percent(Effect(row.work[key])) for key in ("train_error", "memorised")]
    return [notes.label(row), *counts, *rates]


def _front(data: Data) -> list[list[str]]:
    """The front in FLOPs over the first choice of tasks, the cheapest first."""
    lines = [
        line for line in data.tables["costs"] if line["on_flops"] and line["task"] == data.tasks[0]
    ]
    lines.sort(key=lambda line: (float(str(line["flops"])), str(line["method"])))
    return [
        [
            str(line["method"]),
            *(f"{float(str(line[key])):.3g}" for key in ("budget", "flops", "error")),
        ]
        for line in lines
    ]


def _timelines(
    records: Sequence[Record], data: Data, labels: Labels
) -> list[dict[str, str | Markup]]:
    """One run's policy over time for each method that has placebos: the largest budget, the last
    task by name, the smallest seed, of those with a placebo's run if there are any.
    """
    imitated = {record.method.placebo_of for record in records}
    able = [
        record
        for record in records
        if record.method.spec in imitated and record.task is not None and timeline.series(record)
    ]
    found: dict[str, Record] = {}
    for record in sorted(able, key=_preference):
        kept = found.setdefault(record.method.spec, record)
        better = timeline.placebo_of(record, records) and not timeline.placebo_of(kept, records)
        if better and _cell(record) == _cell(kept):
            found[record.method.spec] = record
    lines: list[dict[str, str | Markup]] = []
    for spec, record in sorted(found.items()):
        placebo = timeline.placebo_of(record, records)
        beside = f"beside {placebo.method.spec}" if placebo else "no run of its placebo is there"
        assert record.task is not None
        title = f"{spec} on {record.task.name}, {record.budget:g} RT, seed {record.seed}"
        picture = timeline.svg(record, placebo, labels(record))  # its text is escaped there
        lines.append(
            {"title": title, "svg": Markup(picture), "run": record.hash[:8], "beside": beside}
        )
    return lines


def _cell(record: Record) -> tuple[float, str]:
    return record.budget, record.task.name if record.task else ""


def _preference(record: Record) -> tuple[float, list[int], int]:
    assert record.task is not None
    return -record.budget, [-ord(char) for char in record.task.name], record.seed
