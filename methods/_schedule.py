"""Hyperparameters that are constant over windows of a training, and move by their signs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from bench.train.recipe import Recipe
from methods._tangents import Columns, Setting

Tensor = torch.Tensor
OPTIMISER = ("rate", "momentum", "decay")
WARPS = ("gates", "magnitudes")


@dataclass(frozen=True)
class Kind:
    """One kind of hyperparameter.

    Attributes:
        name: One of `OPTIMISER` or `WARPS`.
        windows: Equal parts of a training, each with values of its own.
        start: First value.
        step: First γ.
        width: Values in each window.
    """

    name: str
    windows: int
    start: float
    step: float
    width: int = 1

    def __len__(self) -> int:
        return self.windows * self.width


class Schedule:
    """The hyperparameters of a training.

    Args:
        kinds: Which there are; N values in all.
        recipe: Gives those of `OPTIMISER` that are not among them.

    Attributes:
        values: (N,) float64 on the host: kind by kind, window by window.
        steps: (N,), γ of each.
        signs: (N,), the last sign of each hypergradient that was not 0.
    """

    def __init__(self, kinds: Sequence[Kind], recipe: Recipe) -> None:
        self.kinds, self.recipe = tuple(kinds), recipe
        self.values = _repeated(self.kinds, "start")
        self.steps = _repeated(self.kinds, "step")
        self.signs = torch.zeros_like(self.values)
        self.total = torch.zeros_like(self.values)
        self.count = torch.zeros((), dtype=torch.int64)
        self.best, self.least = self.values.clone(), torch.tensor(math.inf, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def windows(self) -> int:
        """The most windows of any kind."""
        return max(kind.windows for kind in self.kinds)

    def at(self, progress: float) -> tuple[Setting, Columns]:
        """What a step trains with at a share of the training, and which columns that are.

        `Setting.augment` is (P,) float32 on the host: logits of gates, then of magnitudes.
        """
        own = dict(self._columns(progress))
        recipe = self.recipe
        fixed = (recipe.rate(progress), recipe.momentum, recipe.weight_decay)
        numbers = [
            float(self.values[own[name][0]]) if name in own else other
            for name, other in zip(OPTIMISER, fixed, strict=True)
        ]
        warps = tuple(column for name in WARPS for column in own.get(name, ()))
        logits = self.values[list(warps)].float() if warps else None
        first = [own[name][0] if name in own else None for name in OPTIMISER]
        return Setting(*numbers, logits), Columns(*first, warps)

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

    def judge(self, loss: float) -> None:
        """Says which validation loss the values as they are ended with; the first of equals."""
        if loss < self.least:
            self.best, self.least = self.values.clone(), torch.tensor(loss, dtype=torch.float64)

    def choose(self) -> None:
        """Sets the values to those with the least validation loss, to the first if none had."""
        self.values = self.best.clone()

    def by_kind(self) -> dict[str, Tensor]:
        """Copies of the values, by kind."""
        parts = self.values.clone().split([len(kind) for kind in self.kinds])
        return {kind.name: part for kind, part in zip(self.kinds, parts, strict=True)}

    def spans(self, steps: int) -> Tensor:
        """(N,) float32: how many steps of a training share each value."""
        counts = torch.zeros(len(self))
        for done in range(steps):
            for _, columns in self._columns(done / steps):
                counts[columns[0] : columns[-1] + 1] += 1
        return counts

    def state_dict(self) -> dict[str, Tensor]:
        """All that moves, for `session.keep`."""
        names = ("values", "steps", "signs", "total", "count", "best", "least")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts it back."""
        for name, value in state.items():
            setattr(self, name, value.clone())

    def _columns(self, progress: float) -> Iterator[tuple[str, range]]:
        first = 0
        for kind in self.kinds:
            window = min(int(progress * kind.windows), kind.windows - 1)
            begin = first + window * kind.width
            yield kind.name, range(begin, begin + kind.width)
            first += len(kind)


def _repeated(kinds: Sequence[Kind], what: str) -> Tensor:
    return torch.tensor(
        [getattr(kind, what) for kind in kinds for _ in range(len(kind))], dtype=torch.float64
    )
