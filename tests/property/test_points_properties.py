"""Diagnostics of points: the area under the curve with ties, and what cannot matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.distort import Distortion
from bench.points import auroc, describe

quick = settings(max_examples=60, deadline=None)


@quick
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_auroc_counts_pairs_and_half_of_ties(points: list[tuple[int, bool]]) -> None:
    score = np.array([value for value, _ in points], dtype=np.float32)
    positive = np.array([flag for _, flag in points])
    high, low = score[positive], score[~positive]
    found = auroc(score, positive)
    if not len(high) or not len(low):
        assert found is None
        return
    pairs = [(h > c) + 0.5 * (h == c) for h in high for c in low]
    assert found == pytest.approx(np.mean(pairs))
    assert auroc(-score, positive) == pytest.approx(1 - found)


@quick
@given(st.integers(0, 2**31), st.floats(0, 0.9), st.integers(2, 5))
def test_every_point_is_counted_once_and_shares_are_shares(
    seed: int, noise: float, classes: int
) -> None:
    import torch

    true = torch.arange(60) % classes
    distorted = Distortion.parse(f"noise={noise}").apply(true, classes, seed)
    rng = np.random.default_rng(seed)
    labels = rng.dirichlet(np.full(classes, 0.3), 60).astype(np.float32)
    tables = {"weights": rng.gamma(1, 1, 60).astype(np.float32), "labels": labels}
    found = describe(tables, distorted, classes)
    flipped = int(distorted.flipped.sum())
    for histogram in (found.weights, found.given_shares):
        assert histogram is not None
        assert sum(histogram.clean) == 60 - flipped
        assert sum(histogram.flipped) == flipped
    assert (found.mislabel_auroc is None) == (flipped == 0)
    if flipped:
        # Both come from one argmax: what is recovered is not the given label, and so no damage.
        given_, truth = distorted.labels.numpy(), distorted.true_labels.numpy()
        wrong = labels.argmax(1) != truth
        mask = distorted.flipped.numpy()
        assert found.label_recovery == pytest.approx(1 - wrong[mask].mean())
        assert found.label_damage == pytest.approx((labels.argmax(1) != given_)[~mask].mean())
