"""Spaces of the optimiser's schedule: learning rate, momentum and weight decay, crop and flip.

Source: "Non-greedy Gradient-based Hyperparameter Optimization Over Long Horizons" (FDS),
submitted to ICLR 2021: appendix B (its random search) and D (its hand-tuned grid).
"""

from typing import NamedTuple

from baselines._space import (
    Candidate,
    Dimension,
    Scale,
    Setting,
    Space,
    Values,
    log_uniform,
    one_of,
    uniform,
)
from bench.train.task import Task, standard

DROPS = 0.3, 0.6, 0.8  # shares of the training at which the grid's rate is multiplied
OVER = "searches the optimiser, no augmentation"


class Ranges(NamedTuple):
    """Of the optimiser's three numbers."""

    rate: Scale
    momentum: Scale
    decay: Scale


def _slack(low: float, high: float) -> Scale:
    """Evenly in the logarithm of 1 - value, which goes from `low` to `high`."""
    scale = log_uniform(low, high)
    return lambda place: 1 - scale(place)


# What FDS can reach from zero: most of the points ruin a training.
WIDE = Ranges(uniform(-1, 1), uniform(-1.5, 1.5), uniform(-4e-3, 4e-3))
# What a practitioner would search: positive, and even in the logarithm; momenta from 0.99 to 0.
LOG = Ranges(log_uniform(1e-3, 1), _slack(0.01, 1), log_uniform(1e-5, 1e-2))


def wide(rates: int) -> Space:
    """The paper's ranges.

    Args:
        rates: Windows of the learning rate.
    """
    return _windowed(rates, WIDE, OVER)


def logarithmic(rates: int) -> Space:
    """Useful ranges.

    Args:
        rates: Windows of the learning rate.
    """
    said = "logarithmic ranges of useful values, which the paper does not search"
    return _windowed(rates, LOG, OVER, said)


def steps() -> Space:
    """The hand-tuned grid: 135 points around the rate with three drops that is common."""
    return Space(
        (
            one_of("rate", (0.05, 0.1, 0.2, 0.4, 0.6)),
            one_of("factor", (0.1, 0.2, 0.4)),
            one_of("momentum", (0.45, 0.9, 0.99)),
            one_of("decay", (2.5e-4, 5e-4, 1e-3)),
        ),
        _dropping,
        least=5,
        deviations=(OVER,),
    )


def _windowed(rates: int, ranges: Ranges, *said: str) -> Space:
    """A rate for each window of the training; one momentum and one decay for all of it."""
    names = [f"rate_{window + 1}" for window in range(rates)]

    def candidate(task: Task, values: Values) -> Candidate:
        windows = [values[name] for name in names]

        def setting(progress: float) -> Setting:
            window = min(int(progress * rates), rates - 1)
            return windows[window], values["momentum"], values["decay"]

        return Candidate(standard(task), setting)

    windows = [Dimension(name, ranges.rate) for name in names]
    others = Dimension("momentum", ranges.momentum), Dimension("decay", ranges.decay)
    return Space((*windows, *others), candidate, least=rates, deviations=said)


def _dropping(task: Task, values: Values) -> Candidate:
    """A rate that is multiplied by the factor at each of `DROPS`."""

    def setting(progress: float) -> Setting:
        dropped = sum(progress >= drop for drop in DROPS)
        rate = values["rate"] * values["factor"] ** dropped
        return rate, values["momentum"], values["decay"]

    return Candidate(standard(task), setting)
