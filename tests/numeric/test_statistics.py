"""The report's statistics against SciPy, hand calculation and simulated coverage."""

from math import inf, isnan

import numpy as np
import pytest
from scipy import stats

from bench.report.statistics import (
    Effect,
    admission,
    bootstrap,
    holm,
    paired,
    rank_ranges,
    t_half_width,
    welch_satterthwaite,
    win_tie_loss,
)


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize("size", [2, 3, 5, 12])
def test_half_width_is_scipys_t_interval(size):
    values = rng(size).normal(0.2, 0.01, size)
    low, high = stats.t.interval(0.95, size - 1, values.mean(), stats.sem(values))
    assert t_half_width(values) == pytest.approx((high - low) / 2, rel=1e-9)
    assert t_half_width(values, level=0.99) > t_half_width(values)


def test_half_width_needs_two_values():
    assert isnan(t_half_width([0.1]))
    assert isnan(t_half_width([]))
    assert t_half_width([0.1, 0.1]) == 0.0


@pytest.mark.parametrize("size", [2, 3, 5, 12])
def test_paired_is_scipys_ttest_rel(size):
    values = rng(size).normal(0.2, 0.01, size)
    reference = rng(size + 99).normal(0.21, 0.01, size)
    found, expected = paired(values, reference), stats.ttest_rel(values, reference)
    interval = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx(values.mean() - reference.mean())
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.half == pytest.approx((interval.high - interval.low) / 2, rel=1e-9)
    assert found.df == pytest.approx(size - 1)


def test_paired_without_spread_follows_the_stated_rule():
    same = paired([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (same.mean, same.half, same.p) == (0.0, 0.0, 1.0)
    shifted = paired([0.11, 0.21, 0.31], [0.1, 0.2, 0.3])  # rounding leaves a spread of 1e-17
    assert shifted.mean == pytest.approx(0.01)
    assert isnan(shifted.half)
    assert shifted.p == 0.25
    assert paired([0.2] * 5, [0.1] * 5).p == 2.0**-4


def test_one_pair_has_a_mean_and_no_test():
    found = paired([0.2], [0.1])
    assert found.mean == pytest.approx(0.1)
    assert isnan(found.half)
    assert isnan(found.p)


def test_paired_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="cannot pair"):
        paired([0.1, 0.2], [0.1])


@pytest.mark.parametrize("sizes", [(3, 3), (3, 5), (2, 9)])
def test_two_tasks_are_welchs_test(sizes):
    """The mean of two differences is Welch's two-sample statistic of d_1 against -d_2."""
    first, second = rng(1).normal(0.02, 0.01, sizes[0]), rng(2).normal(0.01, 0.1, sizes[1])
    found, expected = (
        welch_satterthwaite([first, second]),
        stats.ttest_ind(first, -second, equal_var=False),
    )
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.df == pytest.approx(expected.df, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert found.half == pytest.approx((interval.high - interval.low) / 4, rel=1e-9)


def test_suite_effect_by_hand():
    # Means 0.02 and 0.00; variances of the means 1e-4/3 and 4e-4/3.
    found = welch_satterthwaite([[0.01, 0.02, 0.03], [-0.02, 0.0, 0.02]])
    df = (5e-4 / 3) ** 2 / ((1e-4 / 3) ** 2 / 2 + (4e-4 / 3) ** 2 / 2)
    assert found.mean == pytest.approx(0.01)
    assert found.df == pytest.approx(df)
    assert found.half == pytest.approx(stats.t.ppf(0.975, df) * np.sqrt(5e-4 / 3) / 2)


def test_every_task_weighs_the_same():
    assert welch_satterthwaite([[0.0] * 9 + [0.001], [0.2, 0.2002]]).mean == pytest.approx(0.1001)


def test_suite_effect_without_spread_or_tasks():
    assert isnan(welch_satterthwaite([]).mean)
    assert welch_satterthwaite([[0.0, 0.0], [0.0, 0.0]]).p == 1.0
    assert welch_satterthwaite([[0.1] * 3, [0.2] * 5]).p == 0.25
    assert isnan(welch_satterthwaite([[0.1], [0.2, 0.3]]).half)
    with pytest.raises(ValueError, match="without a pair"):
        welch_satterthwaite([[], [0.1]])


def test_a_constant_task_adds_no_noise():
    noisy = [0.01, 0.02, 0.03]
    alone, joint = welch_satterthwaite([noisy]), welch_satterthwaite([noisy, [0.02] * 3])
    assert joint.half == pytest.approx(alone.half / 2)
    assert joint.df == pytest.approx(2.0)


# Standard error of a coverage of 95 % over 4000 repetitions: 0.34 points.
REPETITIONS = 4000


def coverage(draws: list[np.ndarray], truth: float) -> float:
    """How often the interval holds the truth; the draws are (repetitions, seeds), one per task."""
    effects = [welch_satterthwaite(sample) for sample in zip(*draws, strict=True)]
    return float(np.mean([abs(effect.mean - truth) <= effect.half for effect in effects]))


@pytest.mark.parametrize(("tasks", "seeds"), [(4, 3), (4, 5), (12, 3), (8, 4)])
def test_suite_interval_covers_under_unequal_noise(tasks, seeds):
    noise = np.geomspace(0.002, 0.02, tasks)  # the noisiest task 10 times the quietest
    means = rng(7).normal(0.0, 0.05, tasks)
    draws = [
        mean + spread * rng(index).normal(size=(REPETITIONS // 2, seeds))
        for index, (mean, spread) in enumerate(zip(means, noise, strict=True))
    ]
    assert 0.93 <= coverage(draws, float(means.mean())) <= 0.97


@pytest.mark.parametrize("seeds", [3, 5])
def test_paired_interval_covers_whatever_the_seeds_share(seeds):
    generator = rng(seeds)
    block = generator.normal(0.2, 0.05, (REPETITIONS, seeds))  # a seed's own difficulty cancels
    first = block + generator.normal(0.01, 0.004, block.shape)
    second = block + generator.normal(0.0, 0.004, block.shape)
    found = [paired(a, b) for a, b in zip(first, second, strict=True)]
    rate = np.mean([abs(effect.mean - 0.01) <= effect.half for effect in found])
    assert abs(rate - 0.95) <= 0.015


def test_p_values_are_uniform_under_the_null():
    draws = rng(3).normal(0.0, 0.01, (REPETITIONS // 2, 3, 4))
    p = [welch_satterthwaite(list(sample)).p for sample in draws]
    assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.07


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.022, 0.5 times 4, 3, 2, 1; 0.044 may not fall below 0.06.
    assert holm([0.5, 0.01, 0.022, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]).size == 0


def test_holm_leaves_tests_out_that_were_not_made():
    assert holm([np.nan, 0.01, 0.04]) == pytest.approx([np.nan, 0.02, 0.04], nan_ok=True)


def test_holm_keeps_the_familywise_error():
    p = rng(5).uniform(size=(REPETITIONS, 5))
    wrong = np.mean([np.any(holm(row) < 0.05) for row in p])
    assert wrong <= 0.06


def no_tests(rows: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((rows, rows)), np.full((rows, rows), np.nan)


def test_average_ranks_are_scipys_mid_ranks():
    means = rng(4).integers(0, 4, (6, 5)) / 10.0
    expected = np.apply_along_axis(stats.rankdata, 0, means).mean(axis=1)
    found = rank_ranges(means, *no_tests(6))
    assert [place.average_rank for place in found] == pytest.approx(expected)


def test_ties_share_places_and_nothing_settled_is_the_full_range():
    means = np.array([[0.1], [0.2], [0.1 + 1e-16], [0.3]])
    found = rank_ranges(means, means - means.T, no_tests(4)[1])
    assert [place.place for place in found] == [1, 3, 1, 4]
    assert [(place.low, place.high) for place in found] == [(1, 4)] * 4


def test_range_counts_significant_comparisons():
    means = np.array([[0.1], [0.2], [0.3]])
    p = np.array([[1.0, 0.5, 0.001], [0.5, 1.0, 0.9], [0.001, 0.9, 1.0]])
    found = rank_ranges(means, means - means.T, p)
    assert [(each.low, each.high) for each in found] == [(1, 2), (1, 3), (2, 3)]


def test_range_is_adjusted_over_a_rows_comparisons_and_holds_the_place():
    means = np.array([[0.1], [0.2], [0.3]])
    p = np.array([[1.0, 0.5, 0.04], [0.5, 1.0, 0.9], [0.04, 0.9, 1.0]])
    assert rank_ranges(means, means - means.T, p)[0].high == 3  # 0.04 is 0.08 of two comparisons
    contrary = rank_ranges(means, means.T - means, np.full((3, 3), 1e-6))
    assert all(each.low <= each.place <= each.high for each in contrary)


def test_places_follow_the_mean_error_not_the_average_rank():
    # Hair's breadths on the first two tasks must not outweigh a real difference on the third.
    means = np.array([[0.010, 0.010, 0.12], [0.011, 0.011, 0.05], [0.012, 0.012, 0.30]])
    effects = means.mean(axis=1)[:, None] - means.mean(axis=1)[None, :]
    found = rank_ranges(means, effects, no_tests(3)[1])
    assert [each.place for each in found] == [2, 1, 3]
    assert found[0].average_rank < found[1].average_rank


def test_a_row_that_was_compared_with_nobody_comes_last():
    effects = np.full((3, 3), np.nan)
    effects[0, 1], effects[1, 0] = 0.02, -0.02
    found = rank_ranges([[0.3], [0.28], [np.nan]], effects, no_tests(3)[1])
    assert [each.place for each in found] == [2, 1, 3]


def test_a_missing_task_ranks_the_others():
    found = rank_ranges([[0.1, 0.3], [0.2, np.nan], [0.3, 0.2]], *no_tests(3))
    assert [each.average_rank for each in found] == [1.5, 2.0, 2.0]


def test_bootstrap_is_seeded_and_near_the_mean():
    tasks = [rng(1).normal(0.02, 0.01, 5), rng(2).normal(0.0, 0.01, 3)]
    low, high = bootstrap(tasks)
    assert (low, high) == bootstrap(tasks)
    assert low < welch_satterthwaite(tasks).mean < high
    assert bootstrap(tasks, seed=1) != (low, high)
    assert np.isnan(bootstrap([[0.1]])).all()
    assert np.isnan(bootstrap([])).all()


def test_bootstrap_resamples_within_tasks():
    """One task always won and one always lost by as much leave no doubt about the mean."""
    assert bootstrap([[0.1] * 3, [-0.1] * 3]) == pytest.approx((0.0, 0.0))


def test_bootstrap_covers_too_little():
    draws = rng(8).normal(0.0, 0.01, (400, 3))
    held = [low <= 0.0 <= high for low, high in (bootstrap([d], resamples=400) for d in draws)]
    assert 0.65 <= np.mean(held) <= 0.82


CLEAR = np.array([-0.0101, -0.0100, -0.0099])


def test_win_tie_loss_signs_and_adjusts():
    assert win_tie_loss([CLEAR, -CLEAR, [-0.01, 0.0, 0.01]]) == (1, 1, 1)
    once = np.array([-0.010, -0.016, -0.006])  # p = 0.0667 is a tie, and so are Holm's victims
    assert paired(once * 1.0, np.zeros(3)).p > 0.05
    weak = np.array([-0.010, -0.013, -0.008])
    assert 0.01 < paired(weak, np.zeros(3)).p < 0.025
    assert win_tie_loss([weak]) == (1, 0, 0)
    assert win_tie_loss([weak] * 5) == (0, 5, 0)


def test_a_failure_loses_the_task():
    assert win_tie_loss([CLEAR, CLEAR], [True, False]) == (1, 0, 1)
    assert win_tie_loss([[-0.1]], [False]) == (0, 1, 0)


def test_admission_needs_two_standard_errors():
    change = np.array([0.01, 0.03])  # mean 0.02, standard error 0.01
    base = np.array([0.2, 0.3])
    admitted = admission({"a": base + change}, {"a": base})
    assert admitted.admitted
    assert admitted.ratio == pytest.approx(2.0)
    assert admitted.difference == pytest.approx(0.02)
    assert not admission({"a": base + np.array([0.009, 0.03])}, {"a": base}).admitted


def test_admission_takes_the_best_task_and_wants_pairs():
    base = np.array([0.2, 0.3, 0.25])
    weak, strong = base + np.array([0.01, -0.01, 0.0]), base - [0.05, 0.06, 0.05]
    found = admission({"a": weak, "b": strong, "c": base[:1]}, {"a": base, "b": base, "c": [0.1]})
    assert found.admitted
    assert found.task == "b"
    assert found.difference < 0
    assert not admission({"c": base[:1]}, {"c": [0.1]}).admitted
    with pytest.raises(ValueError, match="runs of standard"):
        admission({"a": base}, {"a": base[:2]})


def test_admission_without_spread():
    equal = admission({"a": [0.1, 0.2]}, {"a": [0.1, 0.2]})
    assert not equal.admitted
    assert equal.ratio == 0.0
    shifted = admission({"a": [0.1, 0.2]}, {"a": [0.2, 0.3]})
    assert shifted.admitted
    assert shifted.ratio == inf


def test_an_effect_without_data_is_empty():
    assert isnan(Effect().mean)
