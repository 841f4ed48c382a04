"""A report's data, joined and packed once, and the charts that are drawn from it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import vl_convert

from bench.record import Record
from bench.report import charts, tidy
from bench.report.charts import Drawing, Spec
from bench.report.table import Leaderboard
from bench.report.tidy import KINDS, Line, Table

ID = re.compile(r'(id="|url\(#)((?:clip|gradient_)\d+)')
PAPER = "#ffffff"
SCALE = 2.0  # pixels of a PNG for each of the SVG's
CODED = {"method": "methods", "other": "methods", "task": "tasks"}
"""Columns that a page holds as places in a list of names."""
JOINED = ("kind", "order", "classes")
"""Columns that follow from the others, and that a page adds itself."""


@dataclass(frozen=True)
class Data:
    """What the charts show.

    Attributes:
        tables: Name to rows, each with the method's kind and its order on the budget's board.
        references: Budget to the reference row's method; empty if it has none.
        tasks: The tasks to choose from.
        classes: Task to its classes.
        kinds: Method to its kind.
        orders: Budget to the methods in the order of its leaderboard.
    """

    tables: dict[str, Table]
    references: dict[float, str]
    tasks: list[str]
    classes: dict[str, list[str]]
    kinds: dict[str, str]
    orders: dict[float, list[str]]

    @property
    def budgets(self) -> list[float]:
        """The budgets to choose from, the smallest first."""
        return list(self.orders)

    @property
    def start(self) -> float:
        """The budget to begin with: the one with most rows, the largest of several."""
        return max(self.budgets, key=lambda budget: (len(self.orders[budget]), budget))

    @property
    def errors(self) -> tuple[float, float]:
        """The smallest and the largest error of the plots of errors."""
        rows = [*self.tables["costs"], *self.tables["curves"]]
        values = [float(str(row["error"])) for row in rows] or [0.0, 100.0]
        return min(values), max(values)


@dataclass(frozen=True)
class Choices:
    """What the reader chose to see; and what follows from it: whether there is little room, and
    the ends of a logarithmic axis of errors.
    """

    budget: float
    task: str
    method: str
    reference: str
    narrow: bool = False
    low: float = 0.0
    high: float = 100.0


@dataclass(frozen=True)
class Chart:
    """A chart of the report.

    Attributes:
        name: Its file's name, and its place in the page.
        tables: Names of the data that it shows.
        tasks: Which tasks it offers: none, all, or single ones only.
        budgets: Whether it looks different at each budget.
    """

    name: str
    chart: Drawing
    tables: tuple[str, ...]
    tasks: str = ""
    budgets: bool = True


def gather(boards: Sequence[Leaderboard], records: Sequence[Record]) -> Data:
    """The charts' data from a suite's leaderboards and records."""
    kinds = tidy.kinds(records)
    orders = {board.budget: [row.spec for row in board.rows] for board in boards}
    infos = [record.task for record in records if record.task is not None]
    classes = {task.name: task.classes for task in infos}
    tables = {
        "levels": tidy.levels(boards),
        "costs": tidy.costs(boards, records),
        "curves": tidy.curves(records),
        "comparisons": tidy.comparisons(boards, records),
        "classes": tidy.class_errors(records),
        "bills": tidy.bills(records),
        "confusions": tidy.confusions(records),
    }
    places = {
        (budget, spec): place
        for budget, specs in orders.items()
        for place, spec in enumerate(specs)
    }
    for table in tables.values():
        for line in table:
            line |= {"kind": kinds[str(line["method"])]}
            line |= {"order": places[float(str(line["budget"])), str(line["method"])]}
    for line in tables["confusions"]:
        line |= {"classes": classes[str(line["task"])]}
    references = {board.budget: board.reference for board in boards}
    tasks = tidy.choices(boards)
    return Data(tables, references, tasks, dict(sorted(classes.items())), kinds, orders)


def drawn(data: Data) -> list[Chart]:
    """The charts that there are data for."""
    errors = data.errors
    kinds = [kind for kind in KINDS if kind in data.kinds.values()]
    every = [
        Chart("cost-flops", charts.cost("flops", errors, kinds), ("costs",), "all", budgets=False),
        Chart(
            "cost-seconds", charts.cost("seconds", errors, kinds), ("costs",), "all", budgets=False
        ),
        Chart("anytime", charts.anytime(errors, kinds), ("curves",), "all"),
        Chart("reference", charts.forest("reference"), ("comparisons",)),
        Chart("placebos", charts.forest("placebo"), ("comparisons",)),
        Chart("levels", charts.levels(), ("levels",)),
        Chart("classes", charts.classes(), ("classes",), "single"),
        Chart("confusion", charts.confusion(), ("confusions",), "single"),
        Chart("bill-flops", charts.bill("flops"), ("bills",)),
        Chart("bill-seconds", charts.bill("seconds"), ("bills",)),
    ]
    return [chart for chart in every if _rows(data, chart)]


def _rows(data: Data, chart: Chart) -> Table:
    rows = [row for name in chart.tables for row in data.tables[name]]
    if chart.name in ("reference", "placebos"):
        wanted = chart.name == "reference"
        rows = [row for row in rows if (row["against"] == "reference") is wanted]
    return rows


def first(data: Data, chart: Chart, budget: float) -> Choices:
    """What is shown before anybody chooses: the best row but the reference, the first task."""
    names = {line["method"] for line in _rows(data, chart) if line["budget"] == budget}
    able = [spec for spec in data.orders[budget] if spec in names]
    wanted = [s for s in able if s != data.references[budget] and data.kinds[s] != "control"]
    best = next(iter([*wanted, *able]), "")
    tasks = single(data) if chart.tasks == "single" else data.tasks
    return Choices(budget, tasks[0], best, data.references[budget])


def single(data: Data) -> list[str]:
    """The tasks without their mean."""
    return [task for task in data.tasks if task != tidy.ALL_TASKS]


def spec(chart: Chart, choices: Choices) -> Spec:
    """The chart as Vega-Lite, without data and look."""
    found: Spec = chart.chart.to_dict()
    found.pop("config", None)
    found["params"] = [
        {"name": name, "value": getattr(choices, name)} for name in Choices.__dataclass_fields__
    ]
    return found


def svg(data: Data, chart: Chart, choices: Choices) -> str:
    """The chart as a picture for print, on white."""
    # Only what the choices show: the converter would take the rest along.
    tables = {name: _chosen(data.tables[name], chart, choices) for name in chart.tables}
    errors = [row["error"] for table in tables.values() for row in table if "error" in row]
    full = spec(chart, _with_ends(choices, [float(str(error)) for error in errors]))
    full["datasets"] = {**full.get("datasets", {}), **tables}
    # One font that every reader of SVG has; looking for several takes the converter longest.
    look = {"background": PAPER, "padding": 8, "font": "sans-serif"}
    full["config"] = charts.theme(dark=False) | look
    full["title"] = {"text": _title(chart, choices), "fontSize": 12}
    return _numbered(str(vl_convert.vegalite_to_svg(full, allowed_base_urls=[])))


def _with_ends(choices: Choices, errors: Sequence[float]) -> Choices:
    """With the ends of a logarithmic axis of these errors; `report.js` finds them likewise."""
    if not errors:
        return choices
    return replace(choices, low=0.8 * min(errors), high=min(100.0, 1.2 * max(errors)))


def _numbered(picture: str) -> str:
    """The picture with its clips and gradients counted from 0, not over the whole process."""
    names = list(dict.fromkeys(found[2] for found in ID.finditer(picture)))
    return ID.sub(lambda found: f"{found[1]}part{names.index(found[2])}", picture)


def _chosen(table: Table, chart: Chart, choices: Choices) -> list[Line]:
    return [
        line
        for line in table
        if (not chart.budgets or line["budget"] == choices.budget)
        and (not chart.tasks or line["task"] == choices.task)
    ]


def _title(chart: Chart, choices: Choices) -> str:
    parts = [f"{choices.budget:g} RT"] if chart.budgets else []
    parts += [choices.task] if chart.tasks else []
    parts += [choices.method] if chart.name == "confusion" else []
    return " · ".join(parts)


def png(picture: str) -> bytes:
    """An SVG's pixels."""
    return bytes(vl_convert.svg_to_png(picture, scale=SCALE))


def figures(data: Data) -> dict[str, str]:
    """The pictures for print, by name: each chart that there are data for, at each budget."""
    found = {}
    for chart in drawn(data):
        for budget in data.budgets if chart.budgets else [data.start]:
            for number, task in enumerate(offered(data, chart), start=1):
                choices = replace(first(data, chart, budget), task=task)
                if not _chosen(_rows(data, chart), chart, choices):
                    continue
                name = f"{chart.name}-{budget:g}rt" if chart.budgets else chart.name
                name += f"-task{number}" if chart.tasks == "single" else ""
                found[name] = svg(data, chart, choices)
    return found


def offered(data: Data, chart: Chart) -> list[str]:
    """The tasks that a chart's pictures are drawn for: each, or the first choice."""
    return single(data) if chart.tasks == "single" else data.tasks[:1]


def packed(data: Data) -> dict[str, Any]:
    """The data as a page holds them: every name once, rows as lists."""
    methods = list(data.kinds)
    tasks = list(dict.fromkeys([*data.tasks, *data.classes]))
    codes = {"methods": _places(methods), "tasks": _places(tasks)}
    return {
        "methods": methods,
        "kinds": [data.kinds[method] for method in methods],
        "tasks": tasks,
        "classes": [data.classes.get(task, []) for task in tasks],
        "orders": [
            [budget, [codes["methods"][spec] for spec in specs]]
            for budget, specs in data.orders.items()
        ],
        "references": [[budget, name] for budget, name in data.references.items()],
        "coded": CODED,
        "tables": {name: _packed(table, codes) for name, table in data.tables.items()},
    }


def _packed(table: Table, codes: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    columns = [name for name in (table[0] if table else {}) if name not in JOINED]
    rows = [
        [codes[CODED[c]][str(line[c])] if c in CODED else line[c] for c in columns]
        for line in table
    ]
    return {"columns": columns, "rows": rows}


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}
