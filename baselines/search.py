"""Search by whole trainings: the opponent of every method that learns inside one.

Each trial trains a network from scratch at a proposed point of a space, and the point with the
least validation error trains the network that counts.  What proposes and what is searched are
options: against GAR, OHL and HBA it searches the policy, against FDS the optimiser, against HBA
and STN regularisation, and `joint` is what a practitioner would tune.

Source: "Non-greedy Gradient-based Hyperparameter Optimization Over Long Horizons" (FDS),
submitted to ICLR 2021: Table 1, appendix B and D.
Regularisation: Chen et al., "Hypernetwork-Based Augmentation", 2020, Table 6.
RandAugment's grid: Cubuk et al., "RandAugment", 2020, section 4.
Deviations: the grid's points are tried once, not three times; the best point trains once more, on
the terms of every other method; `optimiser-log`, `recipe-log`, `policy`, `joint` and the grid of
regularisation are this project's.
"""

from typing import ClassVar, Literal, get_args

from pydantic import Field, model_validator

from baselines._proposers import PROPOSERS
from baselines._search import Search
from baselines._space import Space
from baselines._spaces import (
    RATES,
    TABLES,
    WINDOWED,
    Operations,
    SpaceName,
    refused,
    space_of,
    start_of,
)
from bench.augment.policy import Policy
from bench.method import Fitted, Method, MethodConfig
from bench.train.session import Session
from bench.train.task import Task

TRIALS = 100  # the paper's for its random search
TOLERANCE = 1e-9  # of shares that add up to 1


class SearchConfig(MethodConfig):
    """Options; the defaults are the random search of FDS's paper.

    Attributes:
        proposer: Says where to try.  `random` tries no point twice; `grid` tries every point of a
            space that has finitely many; the others learn from the trials so far.
        space: What is searched.  `optimiser-wide` has FDS's ranges of the rate, in windows, the
            momentum and the decay; `optimiser-log` has ranges of useful values; `optimiser-steps`
            is FDS's hand-tuned grid.  `regularisers` has seven strengths of augmentation and a
            rate of each dropout, `regularisers-grid` one rate and one strength for all.
            `randaugment` has N in 1..3 and M in 0..30; a grid takes five values of M.  `policy`
            has a probability and a magnitude of every operation.  `recipe-wide` and `recipe-log`
            have the recipe's rate, momentum and decay, under its own schedule.  `joint` is
            `randaugment` with `recipe-log`.
        rates: Windows of the learning rate in the first two.
        operations: Table of operations of `randaugment`, `policy` and `joint`; by default
            RandAugment's, and PBA's for `policy`.
        trials: Trainings that choose; by default all points of a grid, 100 at most elsewhere.
        trial_fraction: Share of the budget for all trials, validations included.
        final_fraction: Share of the budget for the last training.  One of the two is enough;
            without both it has as many steps as each trial.
    """

    proposer: Literal["random", "sobol", "grid", "tpe", "gp", "cma-es", "botorch", "ax"] = "random"
    space: SpaceName = "optimiser-wide"
    rates: int = Field(RATES, ge=1, le=64)
    operations: Operations | None = None
    trials: int | None = Field(None, ge=1, le=10_000)
    trial_fraction: float | None = Field(None, gt=0, lt=1)
    final_fraction: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _shares(self) -> "SearchConfig":
        both = self.trial_fraction, self.final_fraction
        if None not in both and abs(sum(both) - 1) > TOLERANCE:
            raise ValueError(
                f"trial_fraction={both[0]:g} and final_fraction={both[1]:g} do not add up to 1: "
                "give one of them, and the other is the rest"
            )
        return self

    @model_validator(mode="after")
    def _coherent(self) -> "SearchConfig":
        if self.space not in WINDOWED and self.rates != RATES:
            raise ValueError(f"rates={self.rates}: space={self.space} has no windows")
        if self.space not in TABLES and self.operations is not None:
            raise ValueError(f"operations={self.operations}: space={self.space} has no operations")
        proposer, space = PROPOSERS[self.proposer], self.searched()
        if (why := proposer.refuses(space.dimensions)) is not None:
            able = [
                name
                for name in get_args(SpaceName)
                if proposer.refuses(space_of(name).dimensions) is None
            ]
            raise ValueError(
                f"proposer={self.proposer} cannot search space={self.space}: {why}; it can search "
                f"{', '.join(able)}"
            )
        if self.proposer == "grid" and self.trials not in (None, space.size):
            raise ValueError(
                f"trials={self.trials}: a grid tries each of its {space.size} points once; leave "
                "trials out, or draw some of them with proposer=random"
            )
        if space.size is not None and self.count() > space.size and not proposer.repeats:
            raise ValueError(
                f"trials={self.trials}: {self.space} has {space.size} points, and "
                f"proposer={self.proposer} tries none twice"
            )
        return self

    def searched(self, task: Task | None = None) -> Space:
        """The space; on no task, that of images of 32 pixels and a network without dropouts."""
        few = self.proposer == "grid"
        return space_of(self.space, task, rates=self.rates, operations=self.operations, few=few)

    def count(self) -> int:
        """How many trials there are."""
        points = self.searched().size
        most = points if self.proposer == "grid" else min(TRIALS, points or TRIALS)
        return self.trials or most or TRIALS

    @property
    def last(self) -> float | None:
        """Share of the budget for the last training; None if it is as long as each trial."""
        if self.final_fraction is None and self.trial_fraction is not None:
            return 1 - self.trial_fraction
        return self.final_fraction


class SearchBaseline(Method):
    """Tries points of a space by whole trainings, then trains once under the best of them.

    Where the optimiser's schedule is searched, trainings are heavy-ball SGD under crop and flip,
    as the last one of FDS; elsewhere each has the recipe's own optimiser, or its ranges'.
    """

    name = "search"
    clean_labels = "selection"
    Config: ClassVar[type[MethodConfig]] = SearchConfig

    def skip(self, task: Task, budget: float) -> str | None:
        """Dropouts need a chain of layers."""
        return refused(self.config.space, task)

    def minimum(self, task: Task) -> float:
        """A whole training for each trial and the last one, validations aside."""
        trials, final = self.config.count(), self.config.last
        return trials + 1 if final is None else max(trials / (1 - final), 1 / final)

    def policy(self, task: Task) -> Policy | None:
        """Crop and flip; regularisers as STN starts them; nothing where policies are searched."""
        return start_of(self.config.space, task)

    def run(self, session: Session) -> Fitted:
        """Trials, choice, last training."""
        config, space = self.config, self.config.searched(session.task)
        with session.timed("propose"):  # the first call imports a library
            proposer = PROPOSERS[config.proposer](space.dimensions, session.rng("proposals"))
        search = Search(session, space, proposer, config.count(), config.last)
        found = search.run()
        return Fitted(search.learner, found.policy, self._deviations(space, search))

    def _deviations(self, space: Space, search: Search) -> tuple[str, ...]:
        said = [
            *space.deviations,
            "validation images are the protocol's, plain and the same every time",
            "the best point trains once more, from other initial weights",
            *(self._of_fds(space) if self.config.space.startswith("optimiser") else ()),
        ]
        if self.config.last is not None:
            said.append("trials and the last training have shares of the budget, not equal length")
        if all(trial.error is None for trial in search.tried):
            said.append("every trial failed; the last training has the first one's parameters")
        return tuple(said)

    def _of_fds(self, space: Space) -> list[str]:
        """What differs from the numbers of FDS's paper."""
        config, trials, said = self.config, self.config.count(), []
        if config.proposer == "grid":
            said.append("tries each point once, the paper three times")
        elif space.size is not None:
            said.append(f"draws {trials} of the {space.size} points that the paper tries")
        elif trials != TRIALS:
            said.append(f"{trials} trials, the paper about {TRIALS}")
        if config.rates != RATES:
            said.append(f"{config.rates} windows of the learning rate, the paper {RATES}")
        return said
