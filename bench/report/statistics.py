"""Statistics for a handful of seeds on a handful of tasks: intervals, tests, adjustments, places.

Notation:
    W    tasks; n_i seed pairs on task i
    d_i  paired differences on task i, method minus reference, one per seed (below 0 is better)
    v_i  s_i² / n_i, the variance of d_i's mean (s with ddof 1)

Values are errors in [0, 1].  Seeds are the random unit and the tasks are fixed: an interval speaks
of *this* suite, not of a new data set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan, nan

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit
from scipy.stats import rankdata

Array = npt.NDArray[np.float64]

LEVEL = 0.95
"""Coverage of every interval; tests are made at `1 - LEVEL`."""

NO_SPREAD = 1e-12
"""Differences of errors closer than this are equal: what parts them is rounding, not training."""


@dataclass(frozen=True)
class Effect:
    """An estimated mean.

    Attributes:
        mean: The estimate; NaN without data.
        half: Half the width of its t interval; NaN where no spread could be estimated.
        p: Two-sided p of the hypothesis that the mean is 0; NaN with fewer than two values.
        df: Degrees of freedom of the interval.
    """

    mean: float = nan
    half: float = nan
    p: float = nan
    df: float = nan


@dataclass(frozen=True)
class Place:
    """A row's place; rows that are equally good share it.

    Attributes:
        place: 1 + the number of rows with a smaller mean difference to the others.
        low: The best place that the data do not exclude, at most `place`.
        high: The worst place that the data do not exclude, at least `place`.
        average_rank: Mean over the row's tasks of its rank there, ties sharing the mid-rank.
    """

    place: int
    low: int
    high: int
    average_rank: float


@dataclass(frozen=True)
class Admission:
    """Whether a suite can tell `standard` from `none`, on the task where it does so best.

    Attributes:
        difference: Mean of standard minus none, as a fraction; NaN if no task has two pairs.
        error: Standard error of that mean.
    """

    admitted: bool
    task: str
    difference: float
    error: float

    @property
    def ratio(self) -> float:
        """The difference's size in standard errors."""
        return _ratio(self.difference, self.error)


def t_half_width(values: npt.ArrayLike, level: float = LEVEL) -> float:
    """Half the width of the t interval of a mean (ddof 1); NaN below two values."""
    data = np.asarray(values, dtype=np.float64)
    if data.size < 2:
        return nan
    spread = float(data.std(ddof=1)) / float(np.sqrt(data.size))
    return _quantile(data.size - 1, level) * spread


def paired(values: npt.ArrayLike, reference: npt.ArrayLike, level: float = LEVEL) -> Effect:
    """The paired t test of `values - reference`, element by element.

    Differences without spread break the t test, whose p would be 0 from three lucky seeds on a
    small test set.  Rule: if all are 0, p is 1 and the half-width 0; if all equal another number,
    p is the sign test's 2^(1-n), the most that n agreeing signs can say, without a half-width.

    Raises:
        ValueError: If the two do not have the same length.
    """
    first = np.asarray(values, dtype=np.float64)
    second = np.asarray(reference, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"cannot pair {first.shape} values with {second.shape} of the reference")
    return welch_satterthwaite([first - second], level)


def welch_satterthwaite(differences: Sequence[npt.ArrayLike], level: float = LEVEL) -> Effect:
    """The suite's effect: the mean over tasks of the mean paired difference, every task alike.

    Its variance is sum(v_i) / W² and its degrees of freedom (sum v_i)² / sum(v_i² / (n_i - 1)), so
    that a noisy task neither drowns nor borrows the precision of the others.  Differences without
    spread follow the rule of `paired`, with the smallest n_i.

    Args:
        differences: One array of paired differences per task; their lengths may differ.
        level: Coverage of the interval.

    Returns:
        The effect; without interval and p if a task has one pair only.

    Raises:
        ValueError: If a task has no pair.

    Source: Welch (1947) and Satterthwaite (1946), for a sum of independent means.
    """
    tasks = [np.asarray(task, dtype=np.float64) for task in differences]
    if not tasks:
        return Effect()
    if any(task.size == 0 for task in tasks):
        raise ValueError("a task without a pair has no mean difference")
    mean = float(np.mean([task.mean() for task in tasks]))
    counts = np.array([task.size for task in tasks], dtype=np.float64)
    if counts.min() < 2:
        return Effect(mean)
    if all(float(np.ptp(task)) <= NO_SPREAD for task in tasks):
        if all(abs(float(task.mean())) <= NO_SPREAD for task in tasks):
            return Effect(mean, 0.0, 1.0)
        return Effect(mean, nan, float(2.0 ** (1.0 - counts.min())))
    variances = np.array([task.var(ddof=1) for task in tasks]) / counts
    error = float(np.sqrt(variances.sum())) / len(tasks)
    df = float(variances.sum() ** 2 / np.sum(variances**2 / (counts - 1.0)))
    p = 2.0 * float(stdtr(df, -abs(mean) / error))
    return Effect(mean, _quantile(df, level) * error, p, df)


def holm(p_values: npt.ArrayLike) -> Array:
    """Holm's step-down adjusted p values, in the order given.

    A NaN is a test that was not made: it stays NaN and does not count towards the family's size.

    Source: Holm (1979).
    """
    given = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(given.shape, nan)
    made = np.flatnonzero(~np.isnan(given))
    order = made[np.argsort(given[made], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    # The running maximum keeps a larger raw p from getting a smaller adjusted one.
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * factors))
    return adjusted


def rank_ranges(
    means: npt.ArrayLike, effects: npt.ArrayLike, p_values: npt.ArrayLike, level: float = LEVEL
) -> list[Place]:
    """Places by error over the suite, each with the range that the data do not exclude.

    A row's standing is its mean suite effect against the other rows, which orders rows with the
    same runs by their mean error over tasks.  The average rank over tasks is given beside it but
    decides nothing: over few tasks, half of it hangs on differences far below one standard error.

    A row's range is 1 + (rows significantly better) to k - (rows significantly worse), adjusted by
    Holm over that row's k - 1 comparisons: every range holds at the level on its own, not all at
    once.  It is widened to hold the place itself.

    Args:
        means: (k, W) mean errors; NaN where a row lacks a task, which then ranks the others only.
        effects: (k, k) suite effect of row i minus row j; the diagonal is ignored.
        p_values: (k, k) p of these effects; NaN where there is no test.
        level: Coverage of each range.

    Source: Mogstad, Romano, Shaikh and Wilhelm (2024), marginal confidence sets for ranks.
    """
    errors = np.asarray(means, dtype=np.float64)
    effect, p = np.asarray(effects, dtype=np.float64), np.array(p_values, dtype=np.float64)
    rows = errors.shape[0]
    ranks = np.full(errors.shape, nan)
    for task in range(errors.shape[1]):
        have = ~np.isnan(errors[:, task])
        # Rounded, since sums in another order may part equal means in the last bit.
        ranks[have, task] = rankdata(errors[have, task].round(12))
    have = ~np.isnan(ranks)
    average = np.where(have, ranks, 0.0).sum(axis=1) / np.maximum(have.sum(axis=1), 1)
    average[~have.any(axis=1)] = rows
    others = ~np.isnan(effect) & ~np.eye(rows, dtype=bool)
    standing = np.where(others, effect, 0.0).sum(axis=1) / np.maximum(others.sum(axis=1), 1)
    standing[~others.any(axis=1)] = 0.0 if rows == 1 else 1.0  # compared with nobody: last
    places = rankdata(standing.round(12), method="min").astype(int)
    np.fill_diagonal(p, nan)
    result = []
    for row in range(rows):
        found = holm(p[row]) < 1.0 - level
        low = 1 + int(np.sum(found & (effect[row] > 0)))
        high = rows - int(np.sum(found & (effect[row] < 0)))
        place = int(places[row])
        result.append(Place(place, min(low, place), max(high, place), float(average[row])))
    return result


def bootstrap(
    differences: Sequence[npt.ArrayLike],
    *,
    level: float = LEVEL,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the suite's effect, seeds resampled within each task.

    Secondary to `welch_satterthwaite`: with few seeds it covers too little (74 % of the time at
    one task and three seeds, for a nominal 95 %).  Its generator is its own and seeded.

    Returns:
        The interval's ends; NaN if there is no task or one has fewer than two pairs.
    """
    tasks = [np.asarray(task, dtype=np.float64) for task in differences]
    if not tasks or any(task.size < 2 for task in tasks):
        return nan, nan
    generator = np.random.Generator(np.random.Philox(seed))
    total = np.zeros(resamples)
    for task in tasks:
        chosen = generator.integers(task.size, size=(resamples, task.size))
        total += task[chosen].mean(axis=1)
    low, high = np.quantile(total / len(tasks), [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def win_tie_loss(
    differences: Sequence[npt.ArrayLike],
    failed: Sequence[bool] | None = None,
    level: float = LEVEL,
) -> tuple[int, int, int]:
    """Counts tasks won, tied and lost by paired t tests, Holm-adjusted over the tasks.

    Args:
        differences: One array per task, method minus reference: a task is won below 0.
        failed: Whether a run failed on the task, which loses it whatever the test says.
        level: One minus the tests' level.
    """
    effects = [welch_satterthwaite([task]) for task in differences]
    adjusted = holm([effect.p for effect in effects])
    lost = list(failed) if failed is not None else [False] * len(effects)
    wins = losses = 0
    for effect, p, failure in zip(effects, adjusted, lost, strict=True):
        found = bool(p < 1.0 - level)
        losses += failure or (found and effect.mean > 0)
        wins += not failure and found and effect.mean < 0
    return wins, len(effects) - wins - losses, losses


def admission(
    standard: Mapping[str, npt.ArrayLike], none: Mapping[str, npt.ArrayLike]
) -> Admission:
    """Whether `standard` and `none` differ by two standard errors on one of the shared tasks.

    Args:
        standard: Errors per task, in the order of `none`'s seeds.
        none: The same for training without augmentation.

    Raises:
        ValueError: If a task's seeds do not pair.
    """
    best = Admission(False, "", nan, nan)
    for task in sorted(standard.keys() & none.keys()):
        first = np.asarray(standard[task], dtype=np.float64)
        second = np.asarray(none[task], dtype=np.float64)
        if first.shape != second.shape:
            raise ValueError(f"{task}: {first.size} runs of standard, {second.size} of none")
        if first.size < 2:
            continue
        change = first - second
        spread = 0.0 if np.ptp(change) <= NO_SPREAD else float(change.std(ddof=1))
        error, mean = spread / float(np.sqrt(change.size)), float(change.mean())
        admitted = abs(mean) > NO_SPREAD and abs(mean) >= 2.0 * error
        if isnan(best.difference) or _ratio(mean, error) > best.ratio:
            best = Admission(admitted, task, mean, error)
    return best


def _quantile(df: float, level: float) -> float:
    return float(stdtrit(df, (1.0 + level) / 2.0))


def _ratio(difference: float, error: float) -> float:
    if error > 0:
        return abs(difference) / error
    return inf if abs(difference) > NO_SPREAD else 0.0
