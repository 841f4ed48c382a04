"""A table's rows, computed from its runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from math import nan

import numpy as np

from bench.record import Record
from bench.report import statistics
from bench.report.beside import Beside, of_records
from bench.report.matrix import SCORES, WORK, Runs
from bench.report.paper import Published
from bench.report.statistics import Array, Effect
from bench.report.table import Cell, Row

UNRANKED_FLAGS = {"gpu": "overrun>5%", "portable": "overrun>0.1%"}
"""The bill's flag that costs a row its place on the gpu track (PROTOCOL.md, Budget)."""

PLACEBOS = ("uniform", "shuffled", "replay", "uniformaugment")
"""Which of its placebos a row is set against, the preferred one first."""


def table_rows(
    records: Sequence[Record],
    runs: Runs,
    reference: int | None,
    numbers: Sequence[Published] | None = None,
) -> list[Row]:
    """All rows of a table, sorted by place, then error, then name; unranked ones last.

    Args:
        records: The table's.
        runs: The same as matrices.
        reference: The row that Δ is taken against.
        numbers: The papers' numbers to choose from; by default all there are.
    """
    infos = [_of(records, spec) for spec in runs.specs]
    rows = [
        _row(info, runs, row, reference, of_records(info, numbers))
        for row, info in enumerate(infos)
    ]
    rows = _with_placebos(_adjusted(rows), infos, runs)
    return sorted(_placed(rows, runs), key=_order)


def _of(records: Iterable[Record], spec: str) -> list[Record]:
    return [record for record in records if record.method.spec == spec]


def _row(
    records: list[Record],
    runs: Runs,
    row: int,
    reference: int | None,
    beside: tuple[Beside, ...],
) -> Row:
    method = records[0].method
    differences = {} if reference is None else runs.differences("error", row, reference)
    compared = reference is not None and reference != row
    expected, donors = len(runs.pairs), runs.donor[row]
    failures, missing = _lost(records, runs, row)
    shares = [record.method.scaled for record in records if record.method.scaled is not None]
    done = [int(runs.ok[row][runs.columns(task)].sum()) for task in runs.tasks]
    flags = sorted({flag for record in records if record.bill for flag in record.bill.flags})
    kinds = sorted({record.failure.type for record in records if record.failure})
    return Row(
        spec=method.spec,
        place=None,
        unranked=_unranked(records[0].track, expected, failures, missing, flags),
        family=compared and method.learned and method.placebo_of is None,
        scores={metric: _level(runs.by_task(metric, row)) for metric in SCORES},
        delta=_effect(differences) if compared else Effect(),
        p_adjusted=nan,
        boot=statistics.bootstrap(list(differences.values())) if compared else (nan, nan),
        outcome=_outcome(differences, runs, row) if compared else None,
        placebo="",
        delta_placebo=Effect(),
        work={metric: runs.mean(metric, row) for metric in WORK},
        cells={task: _cell(runs, row, task) for task in runs.tasks},
        expected=expected,
        failures=failures,
        stand_ins=tuple(runs.specs[each] for each in np.unique(donors[donors >= 0])),
        imputed=int((donors >= 0).sum()),
        missing=missing,
        seeds=(min(done), max(done)),
        clean_labels=method.clean_labels,
        scaled=(min(shares), max(shares)) if shares else None,
        flags=tuple(flags),
        failure_types=tuple(kinds),
        deviations=tuple(sorted({text for r in records for text in r.method.deviations})),
        published=beside,
        digest=sha256("\n".join(sorted(r.hash for r in records)).encode()).hexdigest()[:8],
    )


def _lost(records: Iterable[Record], runs: Runs, row: int) -> tuple[int, int]:
    """How many runs failed, and how many are missing without a record of why."""
    failed = int(runs.failed[row].sum())
    absent = len(runs.pairs) - int(runs.ok[row].sum()) - failed
    # Runs that failed before they had a task are some of those that the matrix lacks.
    unplaced = min(absent, sum(record.task is None for record in records))
    return failed + unplaced, absent - unplaced


def _unranked(track: str, expected: int, failures: int, missing: int, flags: list[str]) -> str:
    if UNRANKED_FLAGS[track] in flags:
        return "a run overran its budget by more than 5 %"
    if 3 * (failures + missing) > expected:
        return f"{failures} failed and {missing} missing of {expected} runs"
    return ""


def _effect(differences: Mapping[str, Array]) -> Effect:
    return statistics.welch_satterthwaite(list(differences.values()))


def _level(values: Mapping[str, Array]) -> Effect:
    """A mean with its interval; that a level differs from 0 is no hypothesis of ours."""
    return replace(_effect(values), p=nan)


def _outcome(differences: Mapping[str, Array], runs: Runs, row: int) -> tuple[int, int, int]:
    failed = {task: bool(runs.failed[row][runs.columns(task)].any()) for task in runs.tasks}
    win, tie, loss = statistics.win_tie_loss(
        list(differences.values()), [failed[task] for task in differences]
    )
    # A task that failed beyond imputation has no difference, and is lost all the same.
    return win, tie, loss + sum(failed[task] for task in runs.tasks if task not in differences)


def _cell(runs: Runs, row: int, task: str) -> Cell:
    chosen = runs.columns(task)
    values = runs.values["error"][row][chosen]
    values = values[~np.isnan(values)]
    return Cell(
        mean=float(values.mean()) if values.size else nan,
        half=statistics.t_half_width(values),
        runs=int(values.size),
        imputed=int((runs.donor[row][chosen] >= 0).sum()),
        failed=int(runs.failed[row][chosen].sum()),
    )


def _adjusted(rows: list[Row]) -> list[Row]:
    """Holm over the declared family: the learned systems, without their placebos."""
    p = statistics.holm([row.delta.p if row.family else nan for row in rows])
    return [replace(row, p_adjusted=float(value)) for row, value in zip(rows, p, strict=True)]


def _with_placebos(rows: list[Row], infos: list[list[Record]], runs: Runs) -> list[Row]:
    result = []
    for index, row in enumerate(rows):
        own = [i for i, info in enumerate(infos) if info[0].method.placebo_of == row.spec]
        own.sort(key=lambda i: (_preference(infos[i][0]), rows[i].spec))
        if own:
            effect = _effect(runs.differences("error", index, own[0]))
            row = replace(row, placebo=rows[own[0]].spec, delta_placebo=effect)
        result.append(row)
    return result


def _preference(record: Record) -> int:
    kind = record.method.options.get("placebo")
    return PLACEBOS.index(kind) if kind in PLACEBOS else len(PLACEBOS)


def _placed(rows: list[Row], runs: Runs) -> list[Row]:
    """Gives places to the rows that may have one, among them."""
    ranked = [index for index, row in enumerate(rows) if not row.unranked]
    size = len(ranked)
    effects, p = np.full((size, size), nan), np.full((size, size), nan)
    for i in range(size):
        for j in range(i):
            effect = _effect(runs.differences("error", ranked[i], ranked[j]))
            effects[i, j], effects[j, i] = effect.mean, -effect.mean
            p[i, j] = p[j, i] = effect.p
    means = [[rows[index].cells[task].mean for task in runs.tasks] for index in ranked]
    found = statistics.rank_ranges(means, effects, p) if size else []
    places = dict(zip(ranked, found, strict=True))
    return [replace(row, place=places.get(index)) for index, row in enumerate(rows)]


def _order(row: Row) -> tuple[bool, int, float, str]:
    error = row.scores["error"].mean
    place = row.place.place if row.place else 0
    return row.place is None, place, error if error == error else 2.0, row.spec
