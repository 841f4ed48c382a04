"""Distortions: reading them, and the protocol's numbers."""

import pytest
import torch

from bench.data.distort import Distortion, tail_sizes
from bench.errors import ConfigError, DataError

BALANCED = torch.arange(10).repeat_interleave(100)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("clean", "clean"),
        (" clean ", "clean"),
        ("noise=0.1,imbalance=10", "imbalance=10,noise=0.1"),
        (
            "noise-sym=0.20 , longtail=50.0, subsample=.5",
            "subsample=0.5,longtail=50,noise-sym=0.2",
        ),
        ("imbalance=2.5,noise-pair=0.4", "imbalance=2.5,noise-pair=0.4"),
        ("subsample=1,longtail=1,noise=0", "clean"),
        ("imbalance=1", "imbalance=1"),  # may still drop images of a larger second half
    ],
)
def test_canonical_names(text, canonical):
    distortion = Distortion.parse(text)
    assert str(distortion) == canonical
    assert Distortion.parse(canonical) == distortion


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["''", "noise"]),
        ("nosie=0.1", ["'nosie'", "longtail"]),
        ("clean,noise=0.1", ["'clean'"]),
        ("imbalance=0.5", ["imbalance=0.5", "at least 1"]),
        ("imbalance=inf", ["imbalance=inf", "at least 1"]),
        ("longtail=0", ["longtail=0", "at least 1"]),
        ("noise=1", ["noise=1", "below 1"]),
        ("noise-pair=-0.1", ["noise-pair=-0.1", "at least 0"]),
        ("noise=nan", ["noise=nan"]),
        ("subsample=0", ["subsample=0", "above 0"]),
        ("subsample=1.5", ["subsample=1.5", "at most 1"]),
        ("noise=much", ["'much'", "number"]),
        ("noise", ["''", "number"]),
        ("noise=0.1,noise=0.2", ["twice"]),
        ("imbalance=2,longtail=3", ["imbalance", "longtail", "both"]),
        ("noise=0.1,noise-sym=0.1", ["noise-sym", "both"]),
    ],
)
def test_mistakes_are_one_sentence(text, words):
    with pytest.raises(ConfigError) as caught:
        Distortion.parse(text)
    message = str(caught.value)
    assert message.startswith("--distort")
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message
    assert all(word in message for word in [repr(text), *words])


def test_imbalance_draws_from_the_pooled_second_half():
    done = Distortion.parse("imbalance=10").apply(BALANCED, 10, seed=0)
    assert done.counts[:5] == (100,) * 5
    assert sum(done.counts[5:]) == 50  # int(500 / 10)
    assert done.counts[5:] != (10,) * 5, "drawn from the pool, not per class"
    assert done.rare == (False,) * 5 + (True,) * 5
    assert done.flipped_total == 0


def test_imbalance_of_an_odd_number_of_classes_spares_the_middle_one():
    labels = torch.arange(5).repeat_interleave(20)
    done = Distortion.parse("imbalance=7").apply(labels, 5, seed=0)
    assert done.counts[:3] == (20, 20, 20)
    assert sum(done.counts[3:]) == 8  # int(60 / 7)
    assert done.rare == (False, False, False, True, True)


def test_noise_is_uniform_over_all_classes_including_the_true_one():
    labels = torch.arange(4).repeat_interleave(5000)
    done = Distortion.parse("noise=0.4").apply(labels, 4, seed=1)
    assert abs(done.flipped_total - 0.4 * 3 / 4) < 0.01
    assert all(abs(share - 0.3) < 0.03 for share in done.flipped_share)
    wrong = done.labels[done.flipped & (done.true_labels == 2)]
    shares = torch.bincount(wrong, minlength=4) / len(wrong)
    assert shares[2] == 0
    assert ((shares[[0, 1, 3]] - 1 / 3).abs() < 0.05).all()


def test_symmetric_noise_always_changes_the_label():
    done = Distortion.parse("noise-sym=0.3").apply(BALANCED, 10, seed=0)
    assert int(done.flipped.sum()) == 300
    offsets = ((done.labels - done.true_labels) % 10)[done.flipped]
    assert set(offsets.tolist()) == set(range(1, 10))


def test_pair_noise_moves_to_the_next_class():
    done = Distortion.parse("noise-pair=0.25").apply(BALANCED, 10, seed=0)
    assert int(done.flipped.sum()) == 250
    moved = (done.true_labels + 1) % 10
    assert torch.equal(done.labels, torch.where(done.flipped, moved, done.true_labels))


def test_noise_hits_a_share_of_what_remains():
    done = Distortion.parse("subsample=0.5,imbalance=10,noise-sym=0.1").apply(BALANCED, 10, 0)
    assert int(done.flipped.sum()) == round(0.1 * len(done.index))
    assert len(done.index) < 500


def test_long_tail_has_the_published_sizes():
    assert tail_sizes(5000, 100, 10) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert tail_sizes(500, 50, 2) == [500, 10]
    assert tail_sizes(3, 100, 3) == [3, 1, 1]


def test_long_tail_keeps_that_many_of_each_class():
    done = Distortion.parse("longtail=10").apply(BALANCED, 10, seed=4)
    assert list(done.counts) == tail_sizes(100, 10, 10)
    assert done.rare == (False,) * 5 + (True,) * 5
    odd = Distortion.parse("longtail=10").rare(5)
    assert odd == (False, False, False, True, True)


def test_a_class_with_fewer_than_its_share_keeps_all():
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 50)
    assert Distortion.parse("longtail=4").apply(labels, 3, 0).counts == (50, 3, 12)


def test_clean_changes_nothing():
    done = Distortion.parse("clean").apply(BALANCED, 10, seed=0)
    assert torch.equal(done.index, torch.arange(1000))
    assert torch.equal(done.labels, BALANCED)
    assert not done.flipped.any()
    assert done.rare == (False,) * 10
    assert done.flipped_share == (0.0,) * 10


def test_an_imbalance_of_one_makes_nothing_rare():
    assert Distortion.parse("imbalance=1").rare(4) == (False,) * 4


def test_nothing_left_is_an_error():
    with pytest.raises(DataError, match=r"subsample=0.01.*none of 10"):
        Distortion.parse("subsample=0.01").apply(torch.zeros(10, dtype=torch.int64), 2, 0)


@pytest.mark.parametrize(("labels", "classes"), [([0, 3], 3), ([-1, 0], 3), ([0, 0], 1)])
def test_labels_must_fit_the_classes(labels, classes):
    with pytest.raises(ValueError, match="do not fit"):
        Distortion.parse("clean").apply(torch.tensor(labels), classes, 0)


def test_the_draw_is_pinned():
    """A change of these numbers silently changes every published distortion."""
    labels = torch.arange(4).repeat_interleave(4)
    done = Distortion.parse("imbalance=2,noise=0.5").apply(labels, 4, seed=3)
    assert done.index.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15]
    assert done.labels.tolist() == [3, 0, 3, 0, 3, 0, 2, 1, 2, 1, 2, 3]
