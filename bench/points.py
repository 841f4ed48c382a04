"""What a method learned about each training image, held against the truth that it never saw.

Only the harness can make these numbers: which labels the noise changed is no method's to know.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.data.distort import Distorted
from bench.record import Histogram, OperationMeans, PointsInfo
from bench.sidefile import SideArrays

BINS = 30

Floats = npt.NDArray[np.floating[Any]]
Classes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def describe(tables: SideArrays, distorted: Distorted, classes: int) -> PointsInfo:
    """Compares learned tables with the truth.

    Args:
        tables: As `bench.sidefile.arrays_of` gives them.
        distorted: Given and true labels.
        classes: Number of classes K.

    Raises:
        ValueError: If the tables are of another number of images, or the labels of classes.
    """
    given, true = distorted.labels.numpy(), distorted.true_labels.numpy()
    flipped = distorted.flipped.numpy()
    for name in ("weights", "labels", "probability", "strength"):
        if name in tables and len(tables[name]) != len(given):
            raise ValueError(f"points' {name}: {len(tables[name])} rows, {len(given)} images")
    found: dict[str, Any] = {}
    if "weights" in tables:
        found |= _of_weights(tables["weights"], given, flipped, classes)
    if "labels" in tables:
        if tables["labels"].shape[1] != classes:
            raise ValueError(f"points' labels: {tables['labels'].shape[1]} of {classes} classes")
        found |= _of_labels(tables["labels"], given, true, flipped)
    for name in ("strength", "probability"):
        if name in tables:
            found[name] = _of_operations(tables[name], true, classes)
            found["operations"] = [str(operation) for operation in tables["operations"]]
    return PointsInfo(**found)


def auroc(score: Floats, positive: Mask) -> float | None:
    """Probability that a positive outscores a negative, ties counting half; None without both."""
    from sklearn.metrics import roc_auc_score  # takes a while, and few runs have points

    if positive.all() or not positive.any():
        return None
    return float(roc_auc_score(positive, score))


def _of_weights(weights: Floats, given: Classes, flipped: Mask, classes: int) -> dict[str, Any]:
    top = float(weights.max()) or 1.0
    return {
        "mislabel_auroc": auroc(-weights, flipped),
        "weight_clean": _mean(weights[~flipped]),
        "weight_flipped": _mean(weights[flipped]),
        "class_weights_clean": _by_class(weights[~flipped], given[~flipped], classes),
        "class_weights_flipped": _by_class(weights[flipped], given[flipped], classes),
        "weights": _histogram(weights, flipped, top),
    }


def _of_labels(labels: Floats, given: Classes, true: Classes, flipped: Mask) -> dict[str, Any]:
    share = np.clip(labels[np.arange(len(given)), given], 0, 1)
    largest = labels.argmax(1)
    return {
        "label_auroc": auroc(1 - share, flipped),
        "label_recovery": _mean((largest == true)[flipped]),
        "label_damage": _mean((largest != given)[~flipped]),
        "given_shares": _histogram(share, flipped, 1.0),
    }


def _of_operations(table: Floats, true: Classes, classes: int) -> OperationMeans:
    columns = [_by_class(column, true, classes) for column in table.T]
    rows = [None if None in row else list(row) for row in zip(*columns, strict=True)]
    mean: list[float] = table.mean(0, dtype=np.float64).tolist()
    return OperationMeans(mean=mean, by_class=rows)


def _mean(values: npt.NDArray[Any]) -> float | None:
    return float(values.mean(dtype=np.float64)) if values.size else None


def _by_class(values: Floats, labels: Classes, classes: int) -> list[float | None]:
    """Mean per class; None for a class without values."""
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, values, minlength=classes)
    pairs = zip(sums.tolist(), counts.tolist(), strict=True)
    return [total / count if count else None for total, count in pairs]


def _histogram(values: Floats, flipped: Mask, top: float) -> Histogram:
    """Counts in equal bins from 0 to `top`, which no value exceeds."""
    edges = np.linspace(0, top, BINS + 1)
    clean, changed = (np.histogram(values[mask], edges)[0] for mask in (~flipped, flipped))
    return Histogram(edges=edges.tolist(), clean=clean.tolist(), flipped=changed.tolist())
