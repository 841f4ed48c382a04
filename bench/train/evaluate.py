"""Metrics of a learner on a set of images, computed on the device with one transfer at the end."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.data.arrays import Arrays
from bench.train.learner import Learner, evaluating
from bench.train.meter import Meter

CHUNK = 512


@dataclass(frozen=True)
class Metrics:
    """Errors as fractions in [0, 1].

    Attributes:
        error: Share of wrong predictions.
        class_errors: The same per class; NaN for a class without images.
        nll: Mean negative log-likelihood in nats.
        ece: Expected calibration error, 15 equal-width confidence bins.
        finite: Whether every logit was finite.
    """

    error: float
    class_errors: tuple[float, ...]
    nll: float
    ece: float
    finite: bool

    @property
    def _present(self) -> list[float]:
        return [e for e in self.class_errors if e == e]

    @property
    def balanced_error(self) -> float:
        """Mean of the class errors."""
        return sum(self._present) / len(self._present)

    @property
    def worst_error(self) -> float:
        """Error of the worst class."""
        return max(self._present)

    def tail_error(self, rare: tuple[bool, ...]) -> float:
        """Mean error of the rare classes; of the worst third when none is rare."""
        pairs = zip(self.class_errors, rare, strict=True)
        chosen = [error for error, is_rare in pairs if is_rare and error == error]
        if not chosen:
            chosen = sorted(self._present)[-max(1, len(self._present) // 3) :]
        return sum(chosen) / len(chosen)


@torch.no_grad()
def predict(learner: Learner, arrays: Arrays, meter: Meter, label: str) -> torch.Tensor:
    """Logits (N, classes) float32 in evaluation mode; every chunk is a metered block."""
    logits = []
    with evaluating(learner.network):
        for index in torch.arange(len(arrays)).split(CHUNK):
            images, _ = arrays.take(index)
            with meter.block(label):
                logits.append(learner(images))
    return torch.cat(logits)


def metrics(logits: torch.Tensor, labels: torch.Tensor, classes: int) -> Metrics:
    """Scores logits (N, classes) against labels (N,) int64."""
    wrong = (logits.argmax(1) != labels).double()
    counts = torch.bincount(labels, minlength=classes).double()
    per_class = torch.zeros_like(counts).scatter_add_(0, labels, wrong) / counts
    nll = F.cross_entropy(logits.double(), labels)
    values = torch.stack(
        [wrong.mean(), nll, _ece(logits, wrong), logits.isfinite().all().double()]
    )
    error, nll_value, ece, finite = values.tolist()
    return Metrics(error, tuple(per_class.tolist()), nll_value, ece, bool(finite))


def _ece(logits: torch.Tensor, wrong: torch.Tensor, bins: int = 15) -> torch.Tensor:
    """Mean |confidence - accuracy| over the bins, weighted by their share of the images."""
    confidence = logits.double().softmax(1).amax(1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    gap.scatter_add_(0, place, confidence - (1 - wrong))
    return gap.abs().sum() / len(logits)


def confusion(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> list[list[int]]:
    """Counts images (N,) int64 in a table: a row for each label, a column for each prediction."""
    counts = torch.bincount(labels * classes + predicted, minlength=classes**2)
    table: list[list[int]] = counts.view(classes, classes).tolist()
    return table


def evaluate(learner: Learner, arrays: Arrays, meter: Meter, label: str) -> Metrics:
    """Metrics of a learner on labelled images; costs what its metered blocks cost."""
    return metrics(predict(learner, arrays, meter, label), arrays.labels, learner.task.classes)
