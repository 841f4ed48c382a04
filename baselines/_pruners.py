"""Who goes on at a rung of successive halving: what Optuna's pruners say.

Optuna judges a trial once, when it reports from a rung, against those that have reported from it
before, and does not wake a trial that it stopped.  Asked one trial after the other, it is
asynchronous: the first trials go on almost whatever they are worth (`study`).  A rung in which
every trial waits is judged by the same pruner: each of them as if it had been the last (`passed`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from baselines._library import isolated

# Hyperband's pruner deals trials to brackets by a hash of the study's name and their numbers.
STUDY = "halving"
NOBODY_PASSES = 10**9  # a rung with fewer trials than this lets none of them go on


@dataclass(frozen=True)
class Ladder:
    """When trials are compared.

    Attributes:
        first: Steps from the start to rung 0.
        factor: η: a rung is this many times as far up as the one below, for one trial in η.
        top: K, the highest rung: the end of a training.
    """

    first: int
    factor: int
    top: int

    def steps(self, rung: int) -> int:
        """Steps from the start to a rung."""
        return self.first * self.factor**rung

    @property
    def whole(self) -> int:
        """Steps of a whole training."""
        return self.steps(self.top)


def halving(ladder: Ladder) -> Any:
    """Optuna's `SuccessiveHalvingPruner` for a ladder."""
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner(min_resource=ladder.first, reduction_factor=ladder.factor)


def hyperband(ladder: Ladder, patience: int = 0) -> Any:
    """Optuna's `HyperbandPruner` for a ladder.

    Args:
        ladder: Bracket s has its first verdict at rung s.
        patience: Trials of a rung before one of them can go on.
    """
    from optuna.pruners import HyperbandPruner

    # One step more: Optuna counts brackets by a logarithm, and log(3⁵, 3) is below 5 in floats.
    return HyperbandPruner(
        min_resource=ladder.first,
        max_resource=ladder.whole + 1,
        reduction_factor=ladder.factor,
        bootstrap_count=patience,
    )


def study(pruner: Any) -> Any:
    """An Optuna study of minimisation, in memory, whose trials are asked for without parameters.

    trial = study(pruner).ask()
    trial.report(value, steps)
    stopped = trial.should_prune()
    """
    import optuna

    sampler = optuna.samplers.RandomSampler(seed=0)  # draws nothing
    with isolated(seed=0):  # it would announce the study
        return optuna.create_study(study_name=STUDY, pruner=pruner, sampler=sampler)


def passed(pruner: Any, reports: Mapping[int, Mapping[int, float]]) -> set[int]:
    """Trials that a pruner lets go on from a rung where all of them stand.

    Args:
        pruner: Of Optuna.
        reports: For each trial's number its values by steps, in order; all have the same steps.
    """
    return {number for number in reports if not _stopped(pruner, reports, number)}


def _stopped(pruner: Any, reports: Mapping[int, Mapping[int, float]], number: int) -> bool:
    """The verdict on a trial that comes last, in a study of its own: a second one is not given."""
    found = study(pruner)
    trials = [found.ask() for _ in range(max(reports) + 1)]
    verdict = False
    for each in sorted(reports, key=lambda one: one == number):
        for steps, value in reports[each].items():
            trials[each].report(value, steps)
            verdict = trials[each].should_prune()
    return verdict


@cache
def dealt(factor: int, top: int, count: int) -> tuple[tuple[int, ...], ...]:
    """The numbers of the trials in each of Hyperband's brackets; bracket s starts at rung s.

    Optuna has no question for it; but if nobody passes, a trial stops at its bracket's first rung.
    """
    ladder = Ladder(1, factor, top)
    found = study(hyperband(ladder, NOBODY_PASSES))
    brackets: list[list[int]] = [[] for _ in range(top + 1)]
    for number in range(count):
        trial = found.ask()
        for rung, bracket in enumerate(brackets):
            trial.report(0.0, ladder.steps(rung))
            if trial.should_prune():
                bracket.append(number)
                break
    return tuple(tuple(bracket) for bracket in brackets)
