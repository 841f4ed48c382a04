"""What a run's policy did over time, as one SVG: heat maps, its placebo's beside its own.

Noise alone makes policies look as if they had learned something, so a learned run is shown with
its placebo on the same scale, where there is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.errors import ConfigError, RecordError
from bench.record import Record
from bench.report.svg import PALE, RIGHT, WIDTH, Array, heading, heat, page, text

LABELS, GAP, ROW, HEAD, LEGEND = 130, 24, 12, 46, 34
LEAST_HEIGHT = 48


@dataclass(frozen=True)
class Series:
    """One series of one run: (points, rows) values at steps (points,)."""

    steps: Array
    values: Array


def series(record: Record) -> dict[str, Series]:
    """The record's series whose values are lists, by name.

    Raises:
        RecordError: If its trace is not as runs write it.
    """
    try:
        read = {name: _series(data) for name, data in record.trace.items()}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"run {record.hash}: its trace holds no series ({error})") from error
    return {name: one for name, one in read.items() if one is not None}


def _series(data: Mapping[str, Any]) -> Series | None:
    """What a trace has under one name; None if its values are numbers, not lists of such."""
    if not data["value"] or not isinstance(data["value"][0], list):
        return None
    values = np.array(data["value"], dtype=np.float64)  # null becomes NaN
    steps = np.array(data["step"], dtype=np.float64)
    if values.ndim != 2:
        return None
    if steps.shape != values.shape[:1] or np.isnan(values).all():
        raise ValueError("as many steps as values, and a value that is known")
    return Series(steps, values)


def placebo_of(record: Record, others: Sequence[Record]) -> Record | None:
    """The shuffled placebo's run in the record's cell: the one whose policy moves too."""
    for other in others:
        if (
            other.method.placebo_of == record.method.spec
            and other.method.options.get("placebo") == "shuffled"
            and other.method.source == record.method.source
            and _cell(other) == _cell(record)
            and series(other)
        ):
            return other
    return None


def _cell(record: Record) -> tuple[object, ...]:
    """What two runs must share to stand beside each other."""
    task = record.task.model_dump(exclude={"flipped", "train_counts"}) if record.task else None
    return task, record.track, record.budget, record.seed


def svg(
    record: Record, placebo: Record | None, labels: Mapping[str, Sequence[str]], only: str = ""
) -> str:
    """The picture.

    Args:
        record: Whose policy to show.
        placebo: Is shown beside it.
        labels: Names of rows, by series; numbers elsewhere.
        only: The one series to show; all by default.

    Raises:
        ConfigError: If the run keeps no such series.
    """
    shown = series(record)
    if not shown:
        raise ConfigError(f"run {record.hash}: its trace has no policy over time")
    if only and only not in shown:
        raise ConfigError(f"series {only!r}: run {record.hash} has {', '.join(shown)}")
    beside = series(placebo) if placebo else {}
    runs = [record, *([placebo] if placebo else [])]
    parts, y = [_heading(record)], float(HEAD)
    for name, one in shown.items():
        if only in ("", name):
            panels = [one, *([beside[name]] if name in beside else [])]
            titles = [f"{name} · {run.method.spec}" for run in runs]
            part, height = _row(y, panels, titles, labels.get(name))
            parts.append(part)
            y += height
    return page(parts, y)


def _heading(record: Record) -> str:
    task = record.task.name if record.task else ""
    return heading(f"{record.method.spec} on {task}, {record.budget:g} RT, seed {record.seed}")


def _row(
    y: float, panels: Sequence[Series], titles: Sequence[str], labels: Sequence[str] | None
) -> tuple[str, float]:
    """One series of all runs side by side on one scale; the SVG and its height."""
    rows = panels[0].values.shape[1]
    height = max(LEAST_HEIGHT, rows * ROW)
    width = (WIDTH - LABELS - GAP * len(panels)) / len(panels)
    every = np.concatenate([panel.values.ravel() for panel in panels])
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    out = []
    for row in range(rows):
        name = labels[row] if labels and row < len(labels) else str(row + 1)
        middle = y + 20 + (row + 0.5) * height / rows + 4
        out.append(text(LABELS - 6, middle, name, RIGHT))
    for number, (panel, title) in enumerate(zip(panels, titles, strict=False)):
        x = LABELS + number * (width + GAP)
        out.append(text(x, y + 14, title, PALE))
        out.append(heat(panel.values.T, low, high, (x, y + 20, width, height)))
        out.append(_axis(panel.steps, x, y + 20 + height + 13, width))
    bottom = y + 20 + height + 13
    out.append(text(12, bottom, f"pale {low:.3g}", PALE))
    out.append(text(12, bottom + 13, f"dark {high:.3g}", PALE))
    return "\n".join(out), height + 20 + LEGEND


def _axis(steps: Array, x: float, y: float, width: float) -> str:
    first, last = f"step {steps[0]:.0f}", f"{steps[-1]:.0f}"
    return text(x, y, first) + text(x + width, y, last, RIGHT)
