"""Records of one table as matrices: rows by runs, with failed runs imputed.

A *pair* is a (task, seed): the block within which methods are compared.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.errors import RecordError
from bench.record import Record
from bench.report.statistics import Array

SCORES = ("error", "balanced_error", "tail_error", "worst_error", "nll", "ece")
"""What a failed run borrows from the run without augmentation."""

WORK = (
    "train_error",
    "memorised",
    "seconds",
    "seconds_share",
    "flops",
    "flops_share",
    "steps",
    "images_seen",
    "policy_updates",
)
"""What is known of finished runs only: a crash's cost says nothing of the method's."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Runs:
    """One table's runs.

    Attributes:
        specs: The rows' methods, in alphabetical order.
        pairs: Every (task, seed) that any row ran, in order.
        values: Metric to (rows, pairs); NaN where there is no value.
        ok: (rows, pairs), whether the run finished.
        failed: (rows, pairs), whether it failed.
        donor: (rows, pairs), the row whose scores stand in for a failed run's, else -1.
    """

    specs: list[str]
    pairs: list[tuple[str, int]]
    values: dict[str, Array]
    ok: Mask
    failed: Mask
    donor: npt.NDArray[np.intp]

    @property
    def tasks(self) -> list[str]:
        """The tasks, in order."""
        return list(dict.fromkeys(task for task, _ in self.pairs))

    def columns(self, task: str) -> Mask:
        """Which pairs are of the task."""
        return np.array([name == task for name, _ in self.pairs])

    def by_task(self, metric: str, row: int) -> dict[str, Array]:
        """A row's values of a metric per task; tasks without any are left out."""
        return self._split(self.values[metric][row])

    def mean(self, metric: str, row: int) -> float:
        """The mean over tasks of the task's mean over seeds; NaN without any value."""
        tasks = [values.mean() for values in self.by_task(metric, row).values()]
        return float(np.mean(tasks)) if tasks else nan

    def differences(self, metric: str, row: int, other: int) -> dict[str, Array]:
        """Paired differences per task, on the pairs that both rows have."""
        return self._split(self.values[metric][row] - self.values[metric][other])

    def finished(self, metric: str, row: int, other: int) -> tuple[dict[str, Array], ...]:
        """Both rows' values per task on the pairs that both finished, nothing imputed."""
        both = self.ok[row] & self.ok[other]
        chosen = [np.where(both, self.values[metric][each], nan) for each in (row, other)]
        return tuple(self._split(values) for values in chosen)

    def _split(self, values: Array) -> dict[str, Array]:
        found = {task: values[self.columns(task)] for task in self.tasks}
        split = {task: part[~np.isnan(part)] for task, part in found.items()}
        return {task: part for task, part in split.items() if part.size}


def matrix(records: Sequence[Record]) -> Runs:
    """Pivots records of one table; the order of the records does not matter.

    Raises:
        RecordError: If no run got as far as having a task.
    """
    placed = [record for record in records if record.task is not None]
    if not placed:
        raise RecordError(f"no run of suite {records[0].suite} got as far as loading its data")
    frame = pd.DataFrame([_flat(record) for record in placed])
    names = [*SCORES, *WORK, "ok", "failed"]
    frame[names] = frame[names].astype("float64")
    table = frame.pivot(index="method", columns=["task", "seed"], values=names)
    # A method that never got a task still has a row: an empty one, unranked.
    specs = sorted({record.method.spec for record in records})
    pairs = sorted({(r.task.name, r.seed) for r in placed if r.task is not None})
    columns = pd.MultiIndex.from_tuples([(name, *pair) for name in names for pair in pairs])
    # A copy, because imputation writes and pandas hands out read-only views.
    cube = table.reindex(index=specs, columns=columns).to_numpy(dtype=np.float64, copy=True)
    values = dict(zip(names, np.split(cube, len(names), axis=1), strict=True))
    ok, failed = values.pop("ok") == 1.0, values.pop("failed") == 1.0
    # A run that trained on clean validation images stands in for nobody.
    honest = {r.method.spec for r in placed if r.method.clean_labels != "training"}
    donors = [row for row in _without_augmentation(specs) if specs[row] in honest]
    return Runs(specs, pairs, values, ok, failed, _impute(donors, values, ok, failed))


def _impute(
    rows: list[int], values: dict[str, Array], ok: Mask, failed: Mask
) -> npt.NDArray[np.intp]:
    """Fills failed runs' scores in place from these rows, by preference, and says which ones."""
    donors = np.full(failed.shape, -1, dtype=np.intp)
    for donor in rows:
        fill = failed & (donors < 0) & ok[donor]
        for metric in SCORES:
            values[metric][fill] = np.broadcast_to(values[metric][donor], fill.shape)[fill]
        donors[fill] = donor
    return donors


def _without_augmentation(specs: Sequence[str]) -> list[int]:
    """The rows of the method `none`, the preferred one first: natural, then filled, then any.

    Not `none (local)`, a user's own row beside the committed ones.
    """
    found = [row for row, spec in enumerate(specs) if re.fullmatch(r"none(\[.*\])?", spec)]
    order = {"none": 0, "none[length=filled]": 1}
    return sorted(found, key=lambda row: (order.get(specs[row], 2), specs[row]))


def _key(record: Record) -> dict[str, object]:
    assert record.task is not None
    return {"method": record.method.spec, "task": record.task.name, "seed": record.seed}


def _flat(record: Record) -> dict[str, object]:
    done = record.status == "ok"
    row: dict[str, object] = {**_key(record), "ok": done, "failed": not done}
    row |= dict.fromkeys((*SCORES, *WORK), nan)
    if not done:
        return row
    assert record.scores is not None
    for part in (record.scores, record.bill, record):
        for name in (*SCORES, *WORK):
            value = getattr(part, name, None)
            if value is not None:
                row[name] = float(value)
    return row
