"""What methods learn about images: what they may hand over, and how it compares with the truth."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from bench.data.distort import Distorted
from bench.method import Points
from bench.points import BINS, describe
from bench.record import PointsInfo
from bench.sidefile import arrays_of

OPERATIONS = ("rotate", "shear")


def distorted(given: list[int], true: list[int], classes: int = 3) -> Distorted:
    """Labels by hand; what the diagnostics do not read is left plain."""
    labels, truth = torch.tensor(given), torch.tensor(true)
    zeros = (0,) * classes
    return Distorted(
        torch.arange(len(given)), labels, truth, labels != truth,
        (False,) * classes, zeros, (0.0,) * classes, 0.0,
    )  # fmt: skip


# Five images, the second and the last of which are mislabelled; no image is truly of class 2.
TRUTH = distorted(given=[0, 1, 1, 0, 2], true=[0, 0, 1, 0, 1])


def info(truth: Distorted = TRUTH, **tables: Any) -> PointsInfo:
    return describe(arrays_of(Points(**tables), None), truth, 3)


def test_weights_by_hand() -> None:
    found = info(weights=torch.tensor([1.0, 0.5, 0.5, 2.0, 0.0]))
    # Six pairs of a clean and a flipped point: five in order, one tied.
    assert found.mislabel_auroc == pytest.approx(5.5 / 6)
    assert found.weight_clean == pytest.approx(3.5 / 3)
    assert found.weight_flipped == pytest.approx(0.25)
    assert found.class_weights_clean == pytest.approx([1.5, 0.5, None])
    assert found.class_weights_flipped == pytest.approx([None, 0.5, 0.0])
    assert found.weights is not None
    assert found.weights.edges[::BINS] == [0.0, 2.0]
    assert (sum(found.weights.clean), sum(found.weights.flipped)) == (3, 2)
    assert (found.weights.clean[-1], found.weights.flipped[0]) == (1, 1)
    assert found.label_auroc is None
    assert found.strength is None


def test_soft_labels_by_hand() -> None:
    labels = torch.tensor(
        [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.9, 0.1, 0.0], [0.5, 0.05, 0.45]]
    )
    found = info(labels=labels)
    # The given labels' shares are 0.8, 0.3, 0.4, 0.9, 0.45; only 0.4 < 0.45 is out of order.
    assert found.label_auroc == pytest.approx(5 / 6)
    assert found.label_recovery == 0.5
    assert found.label_damage == pytest.approx(1 / 3)
    assert found.given_shares is not None
    assert found.given_shares.edges[::BINS] == [0.0, 1.0]
    assert sum(found.given_shares.clean) == 3
    assert found.mislabel_auroc is None


def test_operations_by_hand() -> None:
    table = torch.tensor([[0.1, 1.0], [0.2, 0.0], [0.3, 0.0], [0.3, 0.5], [0.5, 1.0]])
    found = info(probability=table, strength=2 * table, operations=OPERATIONS)
    assert found.operations == list(OPERATIONS)
    assert found.probability is not None
    assert found.strength is not None
    assert found.probability.mean == pytest.approx([0.28, 0.5])
    assert found.probability.by_class[0] == pytest.approx([0.2, 0.5])  # true class, not given
    assert found.probability.by_class[1] == pytest.approx([0.4, 0.5])
    assert found.probability.by_class[2] is None
    assert found.strength.by_class[1] == pytest.approx([0.8, 1.0])


@pytest.mark.parametrize("given", [[0, 0, 1, 0, 1], [1, 1, 0, 2, 2]], ids=["all", "none"])
def test_without_clean_or_flipped_points_nothing_is_made_up(given: list[int]) -> None:
    truth = distorted(given, [0, 0, 1, 0, 1])
    found = info(truth, weights=torch.zeros(5), labels=torch.full((5, 3), 1 / 3))
    assert found.mislabel_auroc is None
    assert found.label_auroc is None
    clean = given == [0, 0, 1, 0, 1]
    assert (found.label_recovery is None) is clean
    assert (found.label_damage is None) is not clean
    assert (found.weight_flipped is None) is clean
    assert found.weights is not None
    assert found.weights.edges[-1] == 1.0, "edges need a width where every weight is 0"
    assert sum(found.weights.clean) == (5 if clean else 0)


def test_rounding_beyond_one_stays_in_the_histogram() -> None:
    labels = torch.zeros(5, 3)
    labels[range(5), [0, 1, 1, 0, 2]] = 1.0
    tables = {"labels": np.nextafter(labels.numpy(), np.float32(2))}
    found = describe(tables, TRUTH, 3)
    assert found.given_shares is not None
    assert found.given_shares.clean[-1] == 3


def test_tables_of_other_images_or_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="weights: 4 rows, 5 images"):
        info(weights=torch.ones(4))
    with pytest.raises(ValueError, match="2 of 3 classes"):
        info(labels=torch.full((5, 2), 0.5))


GOOD = torch.full((4, 2), 0.5)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({}, "say nothing"),
        ({"weights": torch.ones(4, 1)}, "weights are (4, 1), not (N,)"),
        ({"weights": torch.ones(0)}, "weights are (0,)"),
        ({"weights": torch.tensor([1.0, -0.1])}, "weights go from -0.1 to 1"),
        ({"weights": torch.tensor([1.0, float("inf")])}, "finite"),
        ({"weights": torch.tensor([1.0, float("nan")])}, "finite"),
        ({"labels": torch.ones(4)}, "labels are (4,), not (N, columns)"),
        ({"labels": torch.tensor([[0.5, 0.4]])}, "sum to 1"),
        ({"labels": torch.tensor([[1.5, -0.5]])}, "in [0, 1]"),
        ({"labels": torch.full((2, 2), float("nan"))}, "in [0, 1]"),
        ({"weights": torch.ones(3), "labels": GOOD}, "different numbers of rows"),
        ({"probability": GOOD}, "2 columns, 0 names"),
        ({"probability": 3 * GOOD, "operations": OPERATIONS}, "in [0, 1]"),
        ({"strength": GOOD, "operations": (*OPERATIONS, "more")}, "2 columns, 3 names"),
        ({"weights": torch.ones(4), "operations": OPERATIONS}, "without a table"),
    ],
)
def test_points_that_contradict_themselves_are_refused(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        Points(**tables)
    assert "\n" not in str(caught.value)


def test_tables_may_require_gradients_share_rows_and_have_any_precision() -> None:
    shared = torch.full((1, 2), 0.25, requires_grad=True)
    half = torch.full((4, 3), 1 / 3, dtype=torch.float16)
    points = Points(
        weights=torch.ones(4, dtype=torch.float64), labels=half,
        probability=shared.expand(4, 2), operations=OPERATIONS,
    )  # fmt: skip
    arrays = arrays_of(points, None)
    assert {name: str(array.dtype) for name, array in arrays.items() if name != "operations"} == {
        "weights": "float32", "labels": "float32", "probability": "float32",
    }  # fmt: skip
    assert arrays["operations"].tolist() == list(OPERATIONS)
    assert (arrays["probability"] == 0.25).all()


def test_a_table_of_the_right_kind_is_not_copied() -> None:
    labels = torch.full((5, 3), 1 / 3)
    arrays = arrays_of(Points(labels=labels), None)
    assert np.shares_memory(arrays["labels"], labels.numpy())
