"""The trace of a run: named series over steps, kept on the device until the end."""

from typing import Any

import torch

POINTS = 100


class Trace:
    """Series of (step, value); values are numbers, arrays or tensors of one shape a series."""

    def __init__(self) -> None:
        self._series: dict[str, list[tuple[int, torch.Tensor]]] = {}

    def append(self, step: int, values: dict[str, Any]) -> None:
        """Adds a copy of one value to each named series; a tensor is detached, not read.

        Raises:
            ValueError: If a value is not numeric, or has another shape than those before it.
        """
        for name, value in values.items():
            kept = _copy(name, value)
            series = self._series.setdefault(name, [])
            if series and series[0][1].shape != kept.shape:
                before, now = tuple(series[0][1].shape), tuple(kept.shape)
                raise ValueError(f"log({name}=...): shape {now} after {before}")
            series.append((step, kept))

    def mark(self) -> dict[str, int]:
        """The series' present lengths, for `rewind`."""
        return {name: len(series) for name, series in self._series.items()}

    def rewind(self, mark: dict[str, int]) -> None:
        """Forgets everything that came after `mark`."""
        self._series = {name: self._series[name][:length] for name, length in mark.items()}

    def export(self, points: int = POINTS) -> dict[str, dict[str, list[Any]]]:
        """Plain data for the record: each series as `step` and `value` lists.

        A longer series is thinned to the means of at most `points` consecutive groups, each filed
        under its last step.
        """
        return {name: _thin(series, points) for name, series in self._series.items()}


def _copy(name: str, value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"log({name}=...): {value!r} is not a number or an array") from error


def _thin(series: list[tuple[int, torch.Tensor]], points: int) -> dict[str, list[Any]]:
    values = torch.stack([v.to("cpu", torch.float64) for _, v in series])
    groups = torch.arange(len(series)).tensor_split(min(points, len(series)))
    return {
        "step": [series[int(group[-1])][0] for group in groups],
        "value": [_finite(values[group].mean(0)) for group in groups],
    }


def _finite(value: torch.Tensor) -> Any:
    """JSON has no NaN or infinity; a point that is neither number is null."""
    if value.ndim == 0:
        return value.item() if value.isfinite() else None
    return [_finite(part) for part in value]
