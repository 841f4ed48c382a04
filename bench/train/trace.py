"""The trace of a run: named series over steps, kept on the device until the end.

A curve may have a point for every step, and its record has means of them.  Events, e.g. one row a
trial of a search, would be nonsense as means: they are kept as they are.
"""

from typing import Any

import torch

POINTS = 100  # of a curve
EVENTS = 5_000  # of a series of events

Series = list[tuple[int, torch.Tensor]]


class Trace:
    """Series of (step, value); values are numbers, arrays or tensors of one shape a series."""

    def __init__(self) -> None:
        self._series: dict[str, Series] = {}
        self._whole: set[str] = set()

    def append(self, step: int, values: dict[str, Any], whole: bool = False) -> None:
        """Adds a copy of one value to each named series; a tensor is detached, not read.

        Args:
            step: Where on the curve.
            values: By name of the series.
            whole: Whether the values are events, which no mean can stand for.

        Raises:
            ValueError: If a value is not numeric, or has another shape than those before it; or if
                a series has both points of a curve and events.
        """
        for name, value in values.items():
            kept = _copy(name, value)
            series = self._series.get(name, [])
            if not series and whole:
                self._whole.add(name)
            if whole != (name in self._whole):
                raise ValueError(f"log({name}=...): a series has events or a curve, not both")
            if series and series[0][1].shape != kept.shape:
                before, now = tuple(series[0][1].shape), tuple(kept.shape)
                raise ValueError(f"log({name}=...): shape {now} after {before}")
            self._series.setdefault(name, series).append((step, kept))

    def mark(self) -> dict[str, int]:
        """The series' present lengths, for `rewind`."""
        return {name: len(series) for name, series in self._series.items()}

    def rewind(self, mark: dict[str, int]) -> None:
        """Forgets everything that came after `mark`."""
        self._series = {name: self._series[name][:length] for name, length in mark.items()}
        self._whole &= mark.keys()

    def state_dict(self) -> dict[str, Any]:
        """Every series as its steps, its values and whether it has events."""
        found = {}
        for name, series in self._series.items():
            steps, values = torch.tensor([step for step, _ in series]), [v for _, v in series]
            if len({value.device for value in values}) > 1:  # some are from another process
                values = [value.cpu() for value in values]
            found[name] = steps, torch.stack(values), name in self._whole
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts the series to those of `state`."""
        self._whole = {name for name, (_, _, whole) in state.items() if whole}
        self._series = {
            name: list(zip(steps.tolist(), values.unbind(), strict=True))
            for name, (steps, values, _) in state.items()
        }

    def export(self, points: int = POINTS) -> dict[str, dict[str, Any]]:
        """Plain data for the record: each series as `step` and `value` lists.

        A longer curve is thinned to the means of at most `points` consecutive groups, each filed
        under its last step.  Events are marked `whole`; of more than `EVENTS` so many are left,
        evenly spaced and as they are, the last among them: the same ones in series of one length.
        """
        exported = {}
        for name, series in self._series.items():
            whole = name in self._whole
            exported[name] = _some(series, max(points, EVENTS)) if whole else _thin(series, points)
        return exported


def _copy(name: str, value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"log({name}=...): {value!r} is not a number or an array") from error


def _thin(series: Series, points: int) -> dict[str, Any]:
    values = _values(series)
    groups = torch.arange(len(series)).tensor_split(min(points, len(series)))
    return {
        "step": [series[int(group[-1])][0] for group in groups],
        "value": [_finite(values[group].mean(0)) for group in groups],
    }


def _some(series: Series, most: int) -> dict[str, Any]:
    groups = torch.arange(len(series)).tensor_split(min(most, len(series)))
    kept = [series[int(group[-1])] for group in groups]
    return {
        "step": [step for step, _ in kept],
        "value": [_finite(value) for value in _values(kept)],
        "whole": True,
    }


def _values(series: Series) -> torch.Tensor:
    return torch.stack([value.to("cpu", torch.float64) for _, value in series])


def _finite(value: torch.Tensor) -> Any:
    """JSON has no NaN or infinity; a point that is neither number is null."""
    if value.ndim == 0:
        return value.item() if value.isfinite() else None
    return [_finite(part) for part in value]
