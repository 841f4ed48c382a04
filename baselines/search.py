"""Search by whole trainings: the opponent of every method that learns inside one.

Each trial trains a network from scratch at a proposed point of a space, and the point with the
least validation error trains the network that counts.  Against FDS it searches the optimiser's
schedule: at random, over the ranges that FDS can reach or over useful ones, or over a grid as a
practitioner who tunes by hand.  Against HBA and STN it searches regularisation, at random or over
a grid.

Source: "Non-greedy Gradient-based Hyperparameter Optimization Over Long Horizons" (FDS),
submitted to ICLR 2021: Table 1, appendix B and D.
Regularisation: Chen et al., "Hypernetwork-Based Augmentation", 2020, Table 6.
Deviations: the grid's points are tried once, not three times; the best point trains once more, on
the terms of every other method; `optimiser-log` and the grid of regularisation are this project's.
"""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from baselines._optimiser_space import logarithmic, steps, wide
from baselines._proposers import Grid, Proposer, Random
from baselines._regularisation_space import dropouts, refused, separate, shared, start
from baselines._search import Search
from baselines._space import Space
from bench.augment.policy import Policy
from bench.method import Fitted, Method, MethodConfig
from bench.train.session import Session
from bench.train.task import Task, standard

PROPOSERS: dict[str, type[Proposer]] = {"random": Random, "grid": Grid}
RATES, TRIALS = 7, 100  # the paper's for its random search
WINDOWED = "optimiser-wide", "optimiser-log"


class SearchConfig(MethodConfig):
    """Options; the defaults are the paper's random search.

    Attributes:
        proposer: `random` tries no point twice; `grid` tries every point of a space that has
            finitely many.
        space: What is searched.  `optimiser-wide` has the paper's ranges; `optimiser-log` has
            ranges of useful values; `optimiser-steps` is the paper's hand-tuned grid.
            `regularisers` has seven strengths of augmentation and a rate of each dropout, under
            the recipe's own optimiser; `regularisers-grid` one rate and one strength for all.
        rates: Windows of the learning rate in the first two.
        trials: Trainings that choose; by default all points of a grid, 100 elsewhere.
        final_fraction: Share of the budget for the last training; by default it has as many steps
            as each trial.
    """

    proposer: Literal["random", "grid"] = "random"
    space: Literal[
        "optimiser-wide", "optimiser-log", "optimiser-steps", "regularisers", "regularisers-grid"
    ] = "optimiser-wide"
    rates: int = Field(RATES, ge=1, le=64)
    trials: int | None = Field(None, ge=1, le=10_000)
    final_fraction: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _coherent(self) -> "SearchConfig":
        points = self.searched().size
        if self.space not in WINDOWED and self.rates != RATES:
            raise ValueError(f"rates={self.rates}: space={self.space} has no windows")
        if self.proposer == "grid" and points is None:
            raise ValueError(
                f"proposer=grid tries all points of a space, and {self.space} has infinitely "
                "many: add space=optimiser-steps or space=regularisers-grid"
            )
        if self.proposer == "grid" and self.trials not in (None, points):
            raise ValueError(
                f"trials={self.trials}: a grid tries each of its {points} points once; leave "
                "trials out, or draw some of them with proposer=random"
            )
        if points is not None and self.count() > points:
            raise ValueError(
                f"trials={self.trials}: {self.space} has {points} points, and none is tried twice"
            )
        return self

    @property
    def regularises(self) -> bool:
        """Whether it searches regularisation, not the optimiser."""
        return self.space.startswith("regularisers")

    def searched(self, task: Task | None = None) -> Space:
        """The space; on no task, that of images of 32 pixels and a network without dropouts."""
        if self.space == "regularisers":
            return separate(task.size, dropouts(task)) if task else separate(32, 0)
        if self.space in ("optimiser-steps", "regularisers-grid"):
            return steps() if self.space == "optimiser-steps" else shared()
        return (wide if self.space == "optimiser-wide" else logarithmic)(self.rates)

    def count(self) -> int:
        """How many trials there are."""
        points = self.searched().size if self.proposer == "grid" else None
        return self.trials or points or TRIALS


class SearchBaseline(Method):
    """Tries points of a space by whole trainings, then trains once under the best of them.

    The trainings are heavy-ball SGD under crop and flip, as the last one of FDS; or, where
    regularisation is searched, the recipe's own.
    """

    name = "search"
    clean_labels = "selection"
    Config: ClassVar[type[MethodConfig]] = SearchConfig

    def skip(self, task: Task, budget: float) -> str | None:
        """Dropouts need a chain of layers."""
        return refused(task) if self.config.regularises else None

    def minimum(self, task: Task) -> float:
        """A whole training for each trial and the last one, validations aside."""
        trials, final = self.config.count(), self.config.final_fraction
        return trials + 1 if final is None else max(trials / (1 - final), 1 / final)

    def policy(self, task: Task) -> Policy:
        """Crop and flip; regularisers as STN starts them, where they are searched."""
        return start(task) if self.config.regularises else standard(task)

    def run(self, session: Session) -> Fitted:
        """Trials, choice, last training."""
        config, space = self.config, self.config.searched(session.task)
        proposer = PROPOSERS[config.proposer](space.dimensions, session.rng("proposals"))
        search = Search(session, space, proposer, config.count(), config.final_fraction)
        found = search.run()
        return Fitted(search.learner, found.policy, self._deviations(space, search))

    def _deviations(self, space: Space, search: Search) -> tuple[str, ...]:
        config = self.config
        what = "regularisation, under the recipe's own optimiser" if config.regularises else None
        said = [
            f"searches {what or 'the optimiser, no augmentation'}",
            "validation images are the protocol's, plain and the same every time",
            "the best point trains once more, from other initial weights",
            *space.deviations,
            *(() if config.regularises else self._of_optimiser(space)),
        ]
        if config.final_fraction is not None:
            said.append("trials and the last training have shares of the budget, not equal length")
        if all(trial.error is None for trial in search.tried):
            said.append("every trial failed; the last training has the first one's parameters")
        return tuple(said)

    def _of_optimiser(self, space: Space) -> list[str]:
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
