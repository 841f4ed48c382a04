"""Optuna's samplers, with its defaults: TPE, Gaussian process, CMA-ES.

A study in memory is asked and told.  A continuous parameter is a float in [0, 1]; one with levels
is an integer, as all three take their order into account.  Trials that failed are told as such,
and Optuna's samplers leave them out.

Source: Akiba et al., "Optuna", 2019.  TPE: Bergstra et al., 2011, multivariate; GP: Matérn-5/2 and
log expected improvement; CMA-ES: Hansen, 2016, with margin (Hamano et al., 2022) where a
parameter has levels, without which a step below half a level would leave it where it is.
"""

import math
import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING

from baselines._library import Library, scaled
from baselines._space import Dimension, Point

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

TENTH = 0.1  # of the trials: whose parameters are compared with all


class Optuna(Library):
    """A study that proposes."""

    measure = "PED-ANOVA"

    @abstractmethod
    def sampler(self, seed: int) -> "BaseSampler":
        """The study's sampler."""

    def start(self, seed: int) -> None:
        """A study in memory."""
        import optuna

        self._study = optuna.create_study(sampler=self.sampler(seed))

    def propose(self) -> tuple[Point, "Trial"]:
        """The study's next trial."""
        trial = self._study.ask()
        places = (_place(trial, f"x{i}", side) for i, side in enumerate(self.dimensions))
        return tuple(places), trial

    def report(self, handle: "Trial", error: float | None) -> None:
        """Finishes a trial."""
        from optuna.trial import TrialState

        state = TrialState.FAIL if error is None else TrialState.COMPLETE
        self._study.tell(handle, error, state=state)

    def shares(self) -> list[float] | None:
        """How far the best tenth of the trials is from spreading as all of them do."""
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
        from optuna.trial import TrialState

        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        errors = sorted(trial.values[0] for trial in done)
        if not errors or errors[math.ceil(TENTH * len(errors)) - 1] == errors[-1]:
            return None  # the best tenth is as good as all of them
        evaluator = PedAnovaImportanceEvaluator(target_quantile=TENTH)
        found = get_param_importances(self._study, evaluator=evaluator)
        return scaled([found.get(f"x{i}", 0.0) for i in range(len(self.dimensions))])


class Tpe(Optuna):
    """Tree-structured Parzen estimator; 10 random trials come first."""

    def sampler(self, seed: int) -> "BaseSampler":
        """With Optuna's defaults."""
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed)


class Gp(Optuna):
    """Gaussian process; 10 random trials come first."""

    def sampler(self, seed: int) -> "BaseSampler":
        """With Optuna's defaults."""
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed)


class CmaEs(Optuna):
    """CMA-ES; one random trial comes first."""

    def sampler(self, seed: int) -> "BaseSampler":
        """With a margin if a parameter has levels."""
        from optuna.exceptions import ExperimentalWarning
        from optuna.samplers import CmaEsSampler

        levels = any(dimension.levels is not None for dimension in self.dimensions)
        with warnings.catch_warnings():
            # Optuna calls the margin's interface experimental.
            warnings.simplefilter("ignore", ExperimentalWarning)
            return CmaEsSampler(seed=seed, with_margin=levels)


def _place(trial: "Trial", name: str, dimension: Dimension) -> float:
    """Where a trial is on a side of the cube."""
    if dimension.levels is None:
        return trial.suggest_float(name, 0.0, 1.0)
    return (trial.suggest_int(name, 0, dimension.levels - 1) + 0.5) / dimension.levels
