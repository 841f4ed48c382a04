"""What each step of a training with derivatives does, and how long a training can be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import PlanError
from methods._schedule import Schedule


@dataclass(frozen=True)
class Pace:
    """The order of work in an outer step.

    Attributes:
        schedule: Its windows.
        checks: Batches of validation images each time the validation loss is looked at.
        skipped: Share of the steps, spread evenly, that carry no derivatives.
        greedy: Whether the validation loss is looked at, and derivatives forgotten, at the end of
            each window, rather than at the end of the training.
    """

    schedule: Schedule
    checks: int
    skipped: float = 0.0
    greedy: bool = False

    def carries(self, done: int) -> bool:
        """Whether the step after `done` others carries derivatives."""
        return math.floor((done + 1) * self.skipped) == math.floor(done * self.skipped)

    def ends(self, done: int, steps: int) -> bool:
        """Whether the validation loss is looked at after this step."""
        if done + 1 == steps or not self.greedy:
            return done + 1 == steps
        windows = self.schedule.windows
        return int((done + 1) / steps * windows) > int(done / steps * windows)

    def work(self, steps: int) -> dict[str, int]:
        """How often each kind of block runs in a training; `inner_N` carries N derivatives."""
        counts: dict[str, int] = {"check": 0}
        used: set[int] = set()
        for done in range(steps):
            _, columns = self.schedule.at(done / steps)
            carries = self.carries(done)
            name = f"inner_{len(used | set(columns.augment)) if carries else 0}"
            counts[name] = counts.get(name, 0) + 1
            if carries:
                used |= set(columns.all)
            if self.ends(done, steps):
                counts["check"] += self.checks
                used = set() if self.greedy else used
        return counts

    def longest(self, prices: Mapping[str, float], outer: int, budget: float) -> int:
        """The most steps that `outer` such trainings and a last plain one can have.

        Args:
            prices: RT of each kind of block and of `train`, a plain step.
            outer: Trainings with derivatives.
            budget: RT.

        Raises:
            PlanError: If there are fewer steps than windows.
        """

        def cost(steps: int) -> float:
            search = sum(many * prices[name] for name, many in self.work(steps).items())
            return outer * search + steps * prices["train"]

        low, high = 0, math.floor(budget / prices["train"])
        while low < high:
            middle = (low + high + 1) // 2
            if cost(middle) <= budget * (1 + 1e-9):
                low = middle
            else:
                high = middle - 1
        if low < self.schedule.windows:
            raise PlanError(
                f"{budget:.3g} RT pay for {low} steps in each of {outer} outer trainings, and "
                f"there are {self.schedule.windows} windows: allow more budget"
            )
        return low
