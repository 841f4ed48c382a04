"""Records and leaderboards as tidy tables, one for each picture: plain rows, nothing drawn.

Errors and differences are in percent here, costs in RT (multiples of one reference training), and
what is not known is None.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import isnan

import numpy as np

from bench.record import Record
from bench.report.matrix import matrix
from bench.report.statistics import Array, Effect, welch_satterthwaite
from bench.report.table import Leaderboard, Row

Line = dict[str, object]
Table = list[Line]
Cell = tuple[float, str, str]
"""Budget, method and task."""

ALL_TASKS = "all tasks (mean)"
KINDS = ("learned", "search", "fixed", "placebo", "control")
"""What a row is: one of the learned systems; a search or adaptive baseline; a policy that never
moves; a learned method without its signal; a row that trains on clean validation images."""
MOST_CLASSES = 20
"""Classes up to which the report draws confusion matrices."""
SLACK = 0.02
"""Share of a row's cost below which another's is not told apart from it."""
TRAIN = "train"
UNCLAIMED, OTHER = "outside any item", "other items"
ITEMS = 7
"""Items of the bills that keep their names, the dearest ones; the others are added up."""


def rounded(value: float | None, scale: float = 1.0) -> float | None:
    """A number for the page, without the digits that only rounding makes."""
    return None if value is None or isnan(value) else round(scale * value, 5) + 0.0


def kinds(records: Iterable[Record]) -> dict[str, str]:
    """Every method's specification to its kind, one of `KINDS`."""
    by_spec: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_spec[record.method.spec].append(record)
    imitated = {group[0].method.placebo_of for group in by_spec.values()}
    return {spec: _kind(group, spec in imitated) for spec, group in sorted(by_spec.items())}


def _kind(runs: Sequence[Record], imitated: bool) -> str:
    method = runs[0].method
    if method.placebo_of is not None:
        return "placebo"
    if method.learned:
        return "learned"
    if method.clean_labels == "training":
        return "control"
    moved = any(run.policy_updates for run in runs)
    return "search" if imitated or moved or method.clean_labels != "none" else "fixed"


def front(points: Sequence[tuple[float, float]], slack: float = 0.0) -> list[bool]:
    """Whether each (cost, error) is on the Pareto front: none is as cheap and better, or cheaper
    and as good.

    Args:
        points: Costs above 0 and errors.
        slack: Share of its own cost by which another may be dearer and still count as as cheap.
    """
    if not points:
        return []
    cost, error = np.array(points, dtype=np.float64).T
    order = np.argsort(cost, kind="stable")
    lowest = np.concatenate([[np.inf], np.minimum.accumulate(error[order])])
    as_cheap = np.searchsorted(cost[order], cost * (1.0 + slack), side="right")
    cheaper = np.searchsorted(cost[order], cost, side="left")
    return [bool(on) for on in (error <= lowest[as_cheap]) & (error < lowest[cheaper])]


def choices(boards: Sequence[Leaderboard]) -> list[str]:
    """The tasks to choose from, their mean first where there are several."""
    tasks = sorted({task for board in boards for task in board.tasks})
    return [ALL_TASKS, *tasks] if len(tasks) > 1 else tasks


def levels(boards: Sequence[Leaderboard]) -> Table:
    """One line for each budget and method: its errors over all tasks with their intervals."""
    table: Table = []
    for board in boards:
        for row in board.rows:
            line: Line = {"budget": board.budget, "method": row.spec}
            for metric in ("error", "balanced_error", "tail_error", "worst_error"):
                line |= _error(row.scores[metric], metric.removesuffix("_error"))
            table.append(line)
    return table


def _interval(name: str, effect: Effect, bounds: tuple[float, float] = (-1.0, 1.0)) -> Line:
    """Mean and ends in percent; the ends are the mean where there is no interval."""
    half = 0.0 if isnan(effect.half) else effect.half
    low, high = max(bounds[0], effect.mean - half), min(bounds[1], effect.mean + half)
    names = (name, f"{name}_low", f"{name}_high")
    values = zip(names, (effect.mean, low, high), strict=True)
    return {key: rounded(value, 100.0) for key, value in values}


def _error(effect: Effect, name: str = "error") -> Line:
    """An error's interval, cut where no error can be."""
    return _interval(name, effect, (0.0, 1.0))


def costs(boards: Sequence[Leaderboard], records: Sequence[Record]) -> Table:
    """Error and cost of each row, over all tasks and on each, and who is on the Pareto front.

    The front is over all budgets, among the ranked rows; those that train on the clean validation
    images are no candidates, and others count as as cheap up to `SLACK`, lest a row be on it for
    the last step that it could not afford.
    """
    spent = _spent(records)
    table: Table = []
    for task in choices(boards):
        lines = [
            line
            for board in boards
            for row in board.rows
            if (line := _cost(board, row, task, spent)) is not None
        ]
        for currency in ("flops", "seconds"):
            able = [line for line in lines if line["ranked"]]
            points = [(float(str(x[currency])), float(str(x["error"]))) for x in able]
            on = front(points, SLACK)
            for line in lines:
                line[f"on_{currency}"] = False
            for line, chosen in zip(able, on, strict=True):
                line[f"on_{currency}"] = chosen
        table += lines
    return table


def _cost(board: Leaderboard, row: Row, task: str, spent: dict[Cell, list[float]]) -> Line | None:
    if task == ALL_TASKS:
        error = row.scores["error"]
        shares = [row.work["flops_share"], row.work["seconds_share"]]
    elif task in row.cells:
        error = Effect(row.cells[task].mean, row.cells[task].half)
        shares = spent.get((board.budget, row.spec, task), [float("nan")] * 2)
    else:
        return None
    if isnan(error.mean) or not all(share > 0 for share in shares):
        return None
    ranked = row.place is not None and row.clean_labels != "training"
    line: Line = {"budget": board.budget, "method": row.spec, "task": task}
    line |= {"ranked": ranked, **_error(error)}
    return line | {
        name: rounded(share, board.budget)
        for name, share in zip(("flops", "seconds"), shares, strict=True)
    }


def _spent(records: Iterable[Record]) -> dict[Cell, list[float]]:
    """(budget, method, task) to the mean shares of the budget in FLOPs and in seconds."""
    found: dict[Cell, list[tuple[float, float]]] = defaultdict(list)
    for key, record in _finished(records):
        if record.bill is not None:
            found[key].append((record.bill.flops_share, record.bill.seconds_share))
    return {key: [float(x) for x in np.mean(values, axis=0)] for key, values in found.items()}


def _finished(records: Iterable[Record]) -> Iterable[tuple[Cell, Record]]:
    """Finished runs with their (budget, method, task)."""
    for record in records:
        if record.status == "ok" and record.task is not None:
            yield (record.budget, record.method.spec, record.task.name), record


def _cells(
    records: Iterable[Record], value: Callable[[Record], object]
) -> dict[Cell, list[Record]]:
    """(budget, method, task) to its finished runs that have the value."""
    found: dict[Cell, list[Record]] = defaultdict(list)
    for key, record in _finished(records):
        if value(record):
            found[key].append(record)
    return dict(sorted(found.items(), key=lambda item: str(item[0])))


def curves(records: Sequence[Record]) -> Table:
    """Test error at the shares of the budget where the runner looked, per task and over all.

    Only shares that all runs of a line reached, lest it bend because runs drop out.
    """
    cells = _cells(records, lambda run: run.curve)
    tasks = sorted({task for _, _, task in cells})
    table: Table = []
    for (budget, method, task), runs in cells.items():
        table += [{"task": task, **line} for line in _curve(budget, method, [runs])]
        every = [cells.get((budget, method, each), []) for each in tasks]
        if len(tasks) > 1 and task == tasks[0] and all(every):
            table += [{"task": ALL_TASKS, **line} for line in _curve(budget, method, every)]
    return table


def _curve(budget: float, method: str, tasks: Sequence[Sequence[Record]]) -> Table:
    runs = [run for task in tasks for run in task]
    reached = Counter(point.fraction for run in runs for point in run.curve)
    table: Table = []
    for share in sorted(share for share, count in reached.items() if count == len(runs)):
        points = [[p for run in task for p in run.curve if p.fraction == share] for task in tasks]
        effect = welch_satterthwaite([[p.test_error for p in task] for task in points])
        spent = np.mean([np.mean([p.spent for p in task]) for task in points])
        line: Line = {"budget": budget, "method": method, "spent": rounded(float(spent))}
        table.append(line | _error(effect))
    return table


def class_errors(records: Sequence[Record]) -> Table:
    """Test error of each class, mean over seeds."""
    table: Table = []
    scored = _cells(records, lambda run: run.scores and run.scores.class_errors)
    for (budget, method, task), runs in scored.items():
        info = runs[0].task
        assert info is not None
        seen = [run.scores.class_errors for run in runs if run.scores is not None]
        for label, name in enumerate(info.classes):
            values = [error for errors in seen if (error := errors[label]) is not None]
            if values:
                line: Line = {"budget": budget, "method": method, "task": task}
                line |= {"class": name + (" (rare)" if info.rare[label] else ""), "label": label}
                table.append(line | {"error": rounded(float(np.mean(values)), 100)})
    return table


def comparisons(boards: Sequence[Leaderboard], records: Sequence[Record]) -> Table:
    """Paired differences of test error: each row less the reference, and less its placebos."""
    owners = {record.method.spec: record.method.placebo_of for record in records}
    table: Table = []
    for board in boards:
        for row in board.rows:
            if not isnan(row.delta.mean):
                table.append(_difference(board, row.spec, board.reference, row.delta))
        runs = matrix([record for record in records if record.budget == board.budget])
        for index, spec in enumerate(runs.specs):
            owner = owners[spec]
            if owner is None or owner not in runs.specs:
                continue
            paired = runs.differences("error", runs.specs.index(owner), index)
            effect = welch_satterthwaite(list(paired.values()))
            if not isnan(effect.mean):
                table.append(_difference(board, owner, spec, effect))
    return table


def _difference(board: Leaderboard, method: str, other: str, effect: Effect) -> Line:
    against = "reference" if other == board.reference else short(other)
    decided = not isnan(effect.half) and abs(effect.mean) > effect.half
    verdict = ("worse" if effect.mean > 0 else "better") if decided else "open"
    line: Line = {"budget": board.budget, "method": method, "other": other, "against": against}
    return line | {"verdict": verdict, "p": rounded(effect.p)} | _interval("delta", effect)


def short(placebo: str) -> str:
    """A placebo's own option: `uniform` of `gar[placebo=uniform]`; else the whole name."""
    options = placebo.rstrip("]").partition("[")[2].split(",")
    kinds_ = [option.partition("=")[2] for option in options if option.startswith("placebo=")]
    return kinds_[0] if kinds_ else placebo


def bills(records: Sequence[Record]) -> Table:
    """What runs spent by item: mean over a row's finished runs, in RT of FLOPs and of seconds."""
    rows: dict[tuple[float, str], list[dict[str, Array]]] = defaultdict(list)
    for (budget, method, _), record in _finished(records):
        rows[budget, method].append(_items(record))
    means = {key: _mean(runs) for key, runs in sorted(rows.items())}
    weight: dict[str, float] = defaultdict(float)
    for items in means.values():
        for item, spent in items.items():
            weight[item] += float(spent.sum())
    # Training first, as the ground that the others stand out from.
    named = sorted(weight, key=lambda item: (item != TRAIN, -weight[item], item))[:ITEMS]
    table: Table = []
    for (budget, method), items in means.items():
        shown: dict[str, Array] = defaultdict(lambda: np.zeros(2))
        for item, spent in items.items():
            shown[item if item in named else OTHER] += spent
        for item, spent in sorted(shown.items()):
            rank = named.index(item) if item in named else ITEMS
            line: Line = {"budget": budget, "method": method, "item": item, "rank": rank}
            flops, seconds = spent.tolist()
            table.append(line | {"flops": rounded(flops), "seconds": rounded(seconds)})
    return table


def _mean(runs: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Mean of each item over runs; a run without the item counts as 0."""
    total: dict[str, Array] = defaultdict(lambda: np.zeros(2))
    for run in runs:
        for item, spent in run.items():
            total[item] += spent / len(runs)
    return total


def _items(record: Record) -> dict[str, Array]:
    """A run's items to (FLOPs, seconds) in RT; `UNCLAIMED` is time that no item claims."""
    bill = record.bill
    assert bill is not None
    found: dict[str, Array] = defaultdict(lambda: np.zeros(2))
    for item in bill.items:
        found[item.label] += (item.flops / bill.rt_flops, item.seconds / bill.rt_seconds)
    found[UNCLAIMED] += (0.0, bill.overhead_seconds / bill.rt_seconds)
    return found


def confusions(records: Sequence[Record]) -> Table:
    """Confusion matrices added up over seeds, row after row as one list of counts."""
    table: Table = []
    for (budget, method, task), runs in _cells(
        records, lambda run: run.scores and run.scores.confusion
    ).items():
        counts = np.sum([run.scores.confusion for run in runs if run.scores], axis=0)  # type: ignore[arg-type]
        if len(counts) <= MOST_CLASSES:
            line: Line = {"budget": budget, "method": method, "task": task}
            table.append(line | {"counts": counts.ravel().tolist()})
    return table
