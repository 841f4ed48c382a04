"""Learning rate, momentum and weight decay in windows of time, moved by signs."""

from collections.abc import Sequence

import torch

from methods._tangents import Columns, Setting

Tensor = torch.Tensor
KINDS = ("rate", "momentum", "decay")


class Schedule:
    """Hyperparameters of a training, constant over windows of it.

    Args:
        windows: How many there are of each of `KINDS`; N in all.
        starts: First value of each kind.
        steps: First γ of each kind.

    Attributes:
        values: (N,) float64 on the host: rates, then momenta, then decays.
        steps: (N,), γ of each.
        signs: (N,), the last sign of each hypergradient that was not 0.
    """

    def __init__(
        self, windows: Sequence[int], starts: Sequence[float], steps: Sequence[float]
    ) -> None:
        self.windows = tuple(windows)
        self.values = _repeated(starts, windows)
        self.steps = _repeated(steps, windows)
        self.signs = torch.zeros_like(self.values)
        self.total = torch.zeros_like(self.values)
        self.count = torch.zeros((), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.values)

    def at(self, progress: float) -> tuple[Setting, Columns]:
        """What a step trains with at a share of the training, and which columns that are."""
        columns, first = [], 0
        for many in self.windows:
            columns.append(first + min(int(progress * many), many - 1))
            first += many
        rate, momentum, decay = (float(self.values[column]) for column in columns)
        return Setting(rate, momentum, decay), Columns(*columns)

    def move(self, hypergradient: Tensor) -> None:
        """Each value one γ against its hypergradient's sign; γ halves where that turned.

        A hypergradient of exactly 0, as momentum and decay have it while the weights stand still,
        has no sign: its hyperparameter stays, and nothing has turned.  One that is not a number,
        of a training that diverged, likewise.
        """
        sign = torch.nan_to_num(hypergradient.double().cpu(), nan=0.0).sign()
        self.steps[sign * self.signs < 0] /= 2
        self.signs = torch.where(sign != 0, sign, self.signs)
        self.values -= self.steps * sign

    def remember(self) -> None:
        """Counts the values as they are for their mean."""
        self.total += self.values
        self.count += 1

    def settle(self) -> None:
        """Sets the values to their mean so far."""
        self.values = self.total / self.count

    def by_kind(self) -> dict[str, Tensor]:
        """Copies of the values, by kind."""
        return dict(zip(KINDS, self.values.clone().split(self.windows), strict=True))

    def spans(self, steps: int) -> Tensor:
        """(N,) float32: how many steps of a training share each value."""
        counts = torch.zeros(len(self))
        for done in range(steps):
            _, columns = self.at(done / steps)
            for column in (columns.rate, columns.momentum, columns.decay):
                counts[column] += 1
        return counts

    def state_dict(self) -> dict[str, Tensor]:
        """All that moves, for `session.keep`."""
        names = ("values", "steps", "signs", "total", "count")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts it back."""
        for name, value in state.items():
            setattr(self, name, value.clone())


def _repeated(values: Sequence[float], times: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(torch.tensor(times))
