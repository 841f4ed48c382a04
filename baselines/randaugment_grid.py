"""RandAugment with the search that its paper leaves to the reader: a grid over N and M, billed.

Each pair (N, M) trains for an equal part of the search's share of the budget; the one with the
least validation error trains for the rest.
"""

from functools import partial
from typing import ClassVar

from pydantic import Field

from bench.augment.choice import randaugment
from bench.augment.policy import Policy
from bench.augment.spaces import space
from bench.errors import ConfigError
from bench.method import Fitted, Method, MethodConfig
from bench.train.loops import fit
from bench.train.session import Session
from bench.train.task import Task, around, fill


class GridConfig(MethodConfig):
    """Options.

    Attributes:
        most: N goes from 1 to this.
        levels: How many values of M, spaced evenly inside 0..30: five are 5, 10, 15, 20, 25.
        search: Share of the budget for the trials, their validation included.
        cutout: Whether Cutout follows.
    """

    most: int = Field(3, ge=1, le=8)
    levels: int = Field(5, ge=1, le=29)
    search: float = Field(0.5, gt=0, lt=1)
    cutout: bool = True


class RandAugmentGrid(Method):
    """Tries every (N, M) of a grid, then trains the best one.

    Source: Cubuk et al., "RandAugment", 2020, section 4: about 15 full trainings on CIFAR-10.
    Below that budget its trials are shorter than the final training, and the row says so.
    """

    name = "randaugment-grid"
    clean_labels = "selection"
    Config: ClassVar[type[MethodConfig]] = GridConfig

    def minimum(self, task: Task) -> float:
        """A whole training for each trial and one in the end, validations aside."""
        trials, search = self.config.most * self.config.levels, self.config.search
        return max(trials / search, 1 / (1 - search))

    def run(self, session: Session) -> Fitted:
        """Trials, choice, final training."""
        learner = session.learner()
        checking = session.price("validate", lambda: session.validate(learner))
        grid = [(n, m) for n in range(1, self.config.most + 1) for m in self._levels()]
        errors: dict[tuple[int, float], float] = {}
        with session.slice(self.config.search):
            for tried, (n, m) in enumerate(grid):
                with session.slice(1 / (len(grid) - tried)):
                    work = partial(self._trial, session, n, m, checking)
                    errors[n, m] = session.phase("trial", work, n=n, m=m)
                session.log(trial_n=n, trial_m=m, trial_error=errors[n, m])
        n, m = min(errors, key=lambda pair: errors[pair])
        session.log(chosen_n=n, chosen_m=m)
        policy = self._policy(session.task, n, m)
        fit(session, learner, policy)
        return Fitted(learner, policy)

    def _trial(self, session: Session, n: int, m: float, checking: float) -> float:
        """Validation error after training in what the slice leaves beside the validation."""
        share = 1 - 1.001 * checking / session.remaining
        if share <= 0:
            raise ConfigError(
                f"{self.name}: a trial has {session.remaining:.2g} RT, and validating it costs "
                f"{checking:.2g}: allow more budget, or fewer trials"
            )
        learner = session.learner()
        with session.slice(share):
            fit(session, learner, self._policy(session.task, n, m), milestones=False)
        session.tally(trials=1)
        return session.validate(learner).error

    def _policy(self, task: Task, n: int, m: float) -> Policy:
        policy = randaugment(space("randaugment"), n, m, fill(task))
        return around(task, policy, self.config.cutout)

    def _levels(self) -> list[float]:
        count = self.config.levels
        return [round(30 * (i + 1) / (count + 1), 6) for i in range(count)]
