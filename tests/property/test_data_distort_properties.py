"""Distortions: what holds for every data set, ratio and seed."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.distort import Distortion

quick = settings(max_examples=50, deadline=None)
SEEDS = st.integers(0, 10**6)
KINDS = st.sampled_from(["noise", "noise-sym", "noise-pair"])
PERCENT = st.integers(0, 99).map(lambda p: p / 100)


@st.composite
def data_sets(draw):
    classes = draw(st.integers(2, 7))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=20, max_size=120))
    return torch.tensor(labels), classes


@quick
@given(
    st.integers(1, 100).map(lambda p: p / 100),
    st.sampled_from([None, "imbalance", "longtail"]),
    st.floats(1, 500),
    st.none() | KINDS,
    PERCENT,
)
def test_a_canonical_name_reads_back(subsample, shape, ratio, kind, noise):
    steps = [f"subsample={subsample}"]
    steps += [f"{shape}={ratio!r}"] if shape else []
    steps += [f"{kind}={noise}"] if kind else []
    distortion = Distortion.parse(",".join(reversed(steps)))
    assert Distortion.parse(str(distortion)) == distortion
    assert str(Distortion.parse(str(distortion))) == str(distortion)


@quick
@given(data_sets(), st.floats(1, 30), SEEDS)
def test_imbalance_keeps_the_first_half_and_a_share_of_the_rest(data, ratio, seed):
    labels, classes = data
    first = 2 * labels < classes
    wanted = min(int(int(first.sum()) / ratio), int((~first).sum()))
    distortion = Distortion(1.0, "imbalance", ratio)
    if int(first.sum()) + wanted == 0:
        return
    done = distortion.apply(labels, classes, seed)
    kept = set(done.index.tolist())
    assert set(torch.nonzero(first)[:, 0].tolist()) <= kept
    assert len(kept) == int(first.sum()) + wanted


@quick
@given(data_sets(), KINDS, PERCENT, SEEDS)
def test_the_summary_is_of_what_was_done(data, kind, noise, seed):
    labels, classes = data
    done = Distortion.parse(f"subsample=0.8,{kind}={noise}").apply(labels, classes, seed)
    assert torch.equal(done.index, done.index.sort().values)
    assert len(done.index) == round(0.8 * len(labels))
    assert torch.equal(done.true_labels, labels[done.index])
    assert torch.equal(done.flipped, done.labels != done.true_labels)
    assert done.counts == tuple(torch.bincount(done.labels, minlength=classes).tolist())
    hit = round(noise * len(done.index))
    changed = int(done.flipped.sum())
    assert changed <= hit if kind == "noise" else changed == hit
    assert done.flipped_total == changed / len(done.index)
    for c in range(classes):
        of_class = done.flipped[done.true_labels == c]
        assert done.flipped_share[c] == (float(of_class.double().mean()) if len(of_class) else 0)


@quick
@given(data_sets(), KINDS, PERCENT, PERCENT, SEEDS)
def test_more_noise_corrupts_a_superset_to_the_same_labels(data, kind, one, other, seed):
    labels, classes = data
    low, high = sorted((one, other))
    less, more = (
        Distortion.parse(f"{kind}={p}").apply(labels, classes, seed) for p in (low, high)
    )
    assert not (less.flipped & ~more.flipped).any()
    assert torch.equal(less.labels[less.flipped], more.labels[less.flipped])


@quick
@given(data_sets(), st.sampled_from(["imbalance", "longtail"]), st.integers(1, 20), SEEDS)
def test_more_imbalance_keeps_a_subset(data, shape, ratio, seed):
    labels, classes = data
    if not bool((2 * labels < classes).any()):
        return
    less, more = (
        Distortion(1.0, shape, r).apply(labels, classes, seed) for r in (ratio, ratio * 2.0)
    )
    assert set(more.index.tolist()) <= set(less.index.tolist())


@quick
@given(SEEDS)
def test_the_seed_decides(seed):
    labels = torch.arange(6).repeat(40)
    distortion = Distortion.parse("subsample=0.9,imbalance=3,noise=0.3")
    first, again = (distortion.apply(labels, 6, seed) for _ in range(2))
    assert torch.equal(first.index, again.index)
    assert torch.equal(first.labels, again.labels)
    other = distortion.apply(labels, 6, seed + 1)
    assert not torch.equal(first.index, other.index)
    clone = labels.clone()
    distortion.apply(labels, 6, seed)
    assert torch.equal(labels, clone), "the caller's labels are left alone"
