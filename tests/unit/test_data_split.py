"""Stratified splits by example."""

import numpy as np
import pytest
import torch

from bench.data.split import allocate, stratified


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ([10, 10, 10], 6, [2, 2, 2]),
        ([10, 10, 10], 7, [3, 2, 2]),  # equal remainders: the lower class
        ([7, 5, 3], 5, [2, 2, 1]),  # quotas 2.33, 1.67, 1
        ([96, 2, 2], 10, [8, 1, 1]),  # small classes are represented at the large one's cost
        ([96, 2, 2], 95, [93, 1, 1]),
        ([1, 9], 5, [0, 5]),  # a lone member stays
        ([5, 5, 5], 2, [1, 1, 0]),  # too few for all
        ([0, 4], 2, [0, 2]),
        ([0, 0], 0, [0, 0]),
    ],
)
def test_draws_per_class(sizes, total, expected):
    assert allocate(np.array(sizes), total).tolist() == expected


def test_members_are_drawn_and_not_taken_in_order():
    labels = torch.zeros(100, dtype=torch.int64)
    _, part = stratified(labels, 0.2, "test")
    assert len(part) == 20
    assert part.tolist() != list(range(20))
    assert 30 < part.double().mean() < 70


def test_a_fraction_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"fraction 1\.5"):
        stratified(torch.zeros(4, dtype=torch.int64), 1.5)


def test_the_draw_is_pinned():
    """A change of these numbers silently changes every published split."""
    labels = torch.arange(20) % 2
    assert stratified(labels, 0.3, "pin", 7)[1].tolist() == [0, 1, 6, 7, 9, 18]
