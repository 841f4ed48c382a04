"""Successive halving, ASHA and Hyperband: search in which bad trials end early.

All trials begin; at each rung those that are worse end, and the others train on from the weights
that they have.  So the budget of a search by whole trainings pays for longer trainings, or for
more of them.  What is searched is what `search` can search.

Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization", 2016 (`sha`); Li et al., "A System for Massively Parallel Hyperparameter Tuning",
2020 (`asha`); Li et al., "Hyperband", 2018; Optuna's pruners.
Deviations: a trial's learning-rate schedule runs over a whole training, so a rung judges trials
in the middle of it; the best point trains once more, on the terms of every other method; the
proposer hears a trial's error at its first rung.
`sha`, `hyperband`: a rung is judged when it is complete, as in the papers.  Optuna's pruners have
no such rung; each trial's verdict is what they say if it comes last.  A failed trial keeps its
place in its rung, as the last.  Optuna deals Hyperband's trials to brackets by a hash.
`asha`: one worker, and Optuna's rule: a trial is judged once, on arrival, and never woken.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from baselines._ask_tell import Proposer
from baselines._halving import Brackets, Halving, work
from baselines._proposers import PROPOSERS
from baselines._pruners import dealt
from baselines._space import Space
from baselines._spaces import SpaceName, refused, space_of, start_of
from bench.augment.policy import Policy
from bench.method import Fitted, Method, MethodConfig
from bench.train.session import Session
from bench.train.task import Task


class HalvingConfig(MethodConfig):
    """Options.

    Attributes:
        scheduler: `sha` cuts the trials to one in η at each rung, once all of them stand there.
            `hyperband` has brackets of it that start at different rungs.  `asha` runs one trial
            after the other, which goes on while it is among the best one in η so far.
        eta: η.
        least: Share of a whole training that a trial has at least before it is judged.
        trials: By default η^(K+1), so that η of them reach rung K, the end of a training; with
            `hyperband` those of the paper's brackets.  With `asha` there may be more or fewer:
            rungs are as long as `sha` could pay for with so many and one whole training, and
            trials begin as long as one that reaches the end is sure to be paid for.
        proposer: Says where to try.
        space: What is searched, as for `search`.
        final_fraction: Share of the budget for the last training, at least; by default it has at
            least as many steps as a trial that reaches the end.  What trials leave over is its.
    """

    scheduler: Literal["sha", "asha", "hyperband"] = "sha"
    eta: int = Field(3, ge=2, le=16)
    least: float = Field(0.1, gt=0, lt=1)
    trials: int | None = Field(None, ge=2, le=1000)
    proposer: Literal["random", "tpe"] = "random"
    space: SpaceName = "randaugment"
    final_fraction: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _coherent(self) -> "HalvingConfig":
        if self.top < 1:
            raise ValueError(
                f"least={self.least:g}: with eta={self.eta} a trial is first judged after at most "
                f"1/{self.eta} of a training; give less"
            )
        needed = self.eta**self.top
        if self.scheduler != "hyperband" and self.count() < needed:
            raise ValueError(
                f"trials={self.trials} cannot be cut to one in {self.eta} {self.top} times: allow "
                f"{needed}, or a larger least"
            )
        points, repeats = space_of(self.space).size, PROPOSERS[self.proposer].repeats
        if points is not None and self.count() > points and not repeats:
            raise ValueError(
                f"trials={self.count()}: {self.space} has {points} points, and none is tried twice"
            )
        return self

    @property
    def top(self) -> int:
        """K: how often trials are cut."""
        return math.floor(math.log(1 / self.least, self.eta) + 1e-9)

    def count(self) -> int:
        """How many trials the plan has."""
        if self.trials is not None:
            return self.trials
        if self.scheduler == "hyperband":
            return sum(brackets(self.eta, self.top))
        return self.eta ** (self.top + 1)

    def dealt(self) -> Brackets:
        """Numbers of the trials that start at each rung."""
        if self.scheduler == "hyperband":
            return dealt(self.eta, self.top, self.count())
        return [range(self.count()), *([()] * self.top)]


def brackets(eta: int, top: int) -> list[int]:
    """Trials of the brackets that start at rung 0, 1, ..., K in Hyperband's Algorithm 1."""
    return [-(-(top + 1) * eta**s // (s + 1)) for s in range(top, -1, -1)]


class SuccessiveHalving(Method):
    """Searches with trials that end early, then trains once under the best point.

    The first learner and order of batches, which pair with other methods', train last.
    """

    name = "halving"
    clean_labels = "selection"
    Config: ClassVar[type[MethodConfig]] = HalvingConfig

    def skip(self, task: Task, budget: float) -> str | None:
        """Dropouts need a chain of layers."""
        return refused(self.config.space, task)

    def minimum(self, task: Task) -> float:
        """Trials that could reach a whole training and one in the end, validations aside."""
        config = self.config
        sizes = [len(each) for each in config.dealt()]
        units, _ = work(sizes, config.eta, config.scheduler == "asha")
        search, final = units / config.eta**config.top, config.final_fraction
        return search + 1 if final is None else max(search / (1 - final), 1 / final)

    def policy(self, task: Task) -> Policy | None:
        """What augments before anything is known, where a search does not have to say it."""
        return start_of(self.config.space, task)

    def run(self, session: Session) -> Fitted:
        """Rungs, choice, last training."""
        config, space = self.config, space_of(self.config.space, session.task)

        def propose(rung: int) -> Proposer:
            make = PROPOSERS[config.proposer]
            return make(space.dimensions, session.rng(f"proposals {rung}"))

        search = Halving(
            session,
            space,
            propose,
            config.dealt(),
            config.eta,
            asynchronous=config.scheduler == "asha",
            hyperband=config.scheduler == "hyperband",
            final_fraction=config.final_fraction,
        )
        found = search.run()
        return Fitted(search.learner, found.policy, self._deviations(space, search))

    def _deviations(self, space: Space, search: Halving) -> tuple[str, ...]:
        config = self.config
        said = [
            *space.deviations,
            "validation images are the protocol's, plain and the same every time",
            "a trial's learning-rate schedule runs over a whole training: rungs lie in its middle",
            "the best point trains once more, from other initial weights",
        ]
        if config.scheduler == "asha":
            said.append(
                f"one worker: {len(search.tried)} trials, each judged once, when it arrives, as "
                "Optuna does; the paper wakes trials that others have made way for"
            )
        if config.scheduler == "hyperband":
            here = _listed([len(each) for each in search.brackets])
            paper = _listed(brackets(config.eta, config.top))
            said.append(f"Optuna deals {here} trials to the brackets, the paper {paper}")
        if all(each.error is None for each in search.tried):
            said.append("every trial failed; the last training has the first one's parameters")
        return tuple(said)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
