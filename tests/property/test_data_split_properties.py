"""Stratified splits: sizes, shares, representation, order and seeds."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.split import allocate, stratified

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=8)
FRACTIONS = st.floats(0, 1, allow_nan=False)
quick = settings(max_examples=60, deadline=None)


def labels_of(sizes, seed=0):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


@quick
@given(SIZES, FRACTIONS)
def test_two_sorted_sides_that_together_are_everything(sizes, fraction):
    labels = labels_of(sizes)
    rest, part = stratified(labels, fraction, "test", 1)
    assert len(part) == round(fraction * len(labels))
    for side in (rest, part):
        assert side.dtype == torch.int64
        assert torch.equal(side, side.sort().values)
    assert sorted(rest.tolist() + part.tolist()) == list(range(len(labels)))


@quick
@given(SIZES, st.data())
def test_classes_are_on_both_sides_where_the_size_allows(sizes, data):
    counts, total = np.array(sizes), data.draw(st.integers(0, sum(sizes)))
    draws = allocate(counts, total)
    assert draws.sum() == total
    assert ((draws >= 0) & (draws <= counts)).all()
    split = counts >= 2
    if split.sum() <= total <= (counts - 1)[split].sum():
        assert (draws[split] >= 1).all()
        assert (draws[split] < counts[split]).all()
        assert (draws[counts == 1] == 0).all(), "a lone member belongs to the rest"


@quick
@given(st.lists(st.integers(10, 60), min_size=2, max_size=8), st.floats(0.15, 0.85))
def test_no_class_is_a_whole_sample_off_its_share(sizes, fraction):
    total = round(fraction * sum(sizes))
    exact = np.array(sizes) * total / sum(sizes)
    assert (np.abs(allocate(np.array(sizes), total) - exact) < 1).all()


@quick
@given(st.integers(0, 2**40))
def test_the_name_alone_decides(seed):
    labels = labels_of([20, 20, 20])
    first, again = (stratified(labels, 0.5, "test", seed)[1] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, stratified(labels, 0.5, "test", seed + 1)[1])


@quick
@given(st.integers(1, 30))
def test_a_class_keeps_its_members_whatever_others_do(extra):
    few, many = torch.tensor([0] * 10 + [1] * 10), torch.tensor([0] * 10 + [1] * (10 + 10 * extra))
    chosen = [stratified(labels, 0.5, "test")[1] for labels in (few, many)]
    assert torch.equal(chosen[0][chosen[0] < 10], chosen[1][chosen[1] < 10])
