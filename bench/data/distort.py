"""Class imbalance and label noise, as PROTOCOL.md defines them.

Every random decision is a rank or a value attached to an *original* row in a stream of its own.
So a distortion depends on the seed alone; a higher noise rate corrupts a superset of the points of
a lower one, to the same labels; and a stronger imbalance keeps a subset of a weaker one's images.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.errors import ConfigError, DataError
from bench.rng import numpy_generator

Shape = Literal["imbalance", "longtail"]
Noise = Literal["noise", "noise-sym", "noise-pair"]
Rows = npt.NDArray[np.int64]

_SHAPES: tuple[Shape, ...] = ("imbalance", "longtail")
_KINDS: tuple[Noise, ...] = ("noise", "noise-sym", "noise-pair")
_KEYS = ("subsample", *_SHAPES, *_KINDS)
_HELP = "'clean' or a list of subsample=F, imbalance=R or longtail=R, noise[-sym|-pair]=P"


@dataclass(frozen=True, eq=False)
class Distorted:
    """A distorted training set.

    Attributes:
        index: (K,) int64 host: the rows kept, sorted.
        labels: (K,) int64 host: the labels that a method sees.
        true_labels: (K,) int64 host.
        flipped: (K,) bool host: where the two differ.
        rare: Per class, whether the distortion made it rare.
        counts: Per class, samples so labelled (by `labels`).
        flipped_share: Per true class, the share of `flipped` in [0, 1]; 0 for a class left empty.
        flipped_total: Share of `flipped` over all samples, in [0, 1].
    """

    index: Tensor
    labels: Tensor
    true_labels: Tensor
    flipped: Tensor
    rare: tuple[bool, ...]
    counts: tuple[int, ...]
    flipped_share: tuple[float, ...]
    flipped_total: float


@dataclass(frozen=True)
class Distortion:
    """What to do to a clean training set; `str()` is its canonical name.

    Attributes:
        subsample: Share of the samples kept, drawn uniformly, in (0, 1].
        shape: How class sizes change, if they do.
        ratio: R of `imbalance` or `longtail`, >= 1.
        noise: Share p of the samples that get a drawn label, in [0, 1).
        kind: How that label is drawn; None exactly if `noise` is 0.
    """

    subsample: float = 1.0
    shape: Shape | None = None
    ratio: float = 1.0
    noise: float = 0.0
    kind: Noise | None = None

    @classmethod
    def parse(cls, text: str) -> "Distortion":
        """Reads e.g. `clean`, `imbalance=10,noise=0.1` or `subsample=0.5,longtail=50`.

        Steps without effect (`subsample=1`, `longtail=1`, `noise=0`) are dropped, so that equal
        distortions have equal names.

        Raises:
            ConfigError: An unknown or repeated step, two of a kind, or a value out of range.
        """
        steps = {} if text.strip() == "clean" else _steps(text)
        shapes = [k for k in _SHAPES if k in steps]
        kinds = [k for k in _KINDS if k in steps]
        for group in (shapes, kinds):
            if len(group) > 1:
                raise ConfigError(f"--distort {text!r} has both {group[0]} and {group[1]}.")
        shape = shapes[0] if shapes else None
        ratio = steps[shape] if shape else 1.0
        noise = steps[kinds[0]] if kinds else 0.0
        if shape == "longtail" and ratio == 1:
            shape = None
        kind = kinds[0] if noise else None
        return cls(steps.get("subsample", 1.0), shape, ratio, noise, kind)

    def __str__(self) -> str:
        """Canonical form, in the order in which the steps are applied."""
        parts = [f"subsample={_number(self.subsample)}"] if self.subsample < 1 else []
        if self.shape:
            parts.append(f"{self.shape}={_number(self.ratio)}")
        if self.kind:
            parts.append(f"{self.kind}={_number(self.noise)}")
        return ",".join(parts) or "clean"

    def rare(self, classes: int) -> tuple[bool, ...]:
        """Which classes this makes rare: the thinned half, or the tail below the middle size."""
        if self.shape is None or self.ratio == 1:
            return (False,) * classes
        if self.shape == "imbalance":
            return tuple(2 * c >= classes for c in range(classes))
        # n/R^(c/(C-1)) is below the geometric middle n/√R exactly if c > (C-1)/2.
        return tuple(2 * c > classes - 1 for c in range(classes))

    def apply(self, labels: Tensor, classes: int, seed: int) -> Distorted:
        """Distorts a training set: subsample, then class sizes, then label noise.

        Args:
            labels: (N,) int64 host: the true labels.
            classes: Number of classes C >= 2.
            seed: The only source of randomness.

        Raises:
            ValueError: A label is outside [0, C), or C < 2.
            DataError: Nothing is left.
        """
        true = labels.numpy()
        if classes < 2 or (len(true) and not 0 <= true.min() <= true.max() < classes):
            raise ValueError(f"labels do not fit {classes} classes")
        rows = self._keep(true, classes, seed)
        if len(rows) == 0:
            raise DataError(f"--distort {str(self)!r} leaves none of {len(true)} samples.")
        noisy = true[rows]
        if self.kind:
            size = round(self.noise * len(rows))
            hit = np.isin(rows, _lowest(rows, len(true), size, seed, "noise"))
            noisy = np.where(hit, _drawn(self.kind, true, classes, seed)[rows], noisy)
        return _summary(rows, noisy, true[rows], classes, self.rare(classes))

    def _keep(self, true: Rows, classes: int, seed: int) -> Rows:
        """The sorted rows left by the subsample and the change of class sizes."""
        n = len(true)
        rows = np.arange(n)
        if self.subsample < 1:
            rows = _lowest(rows, n, round(self.subsample * n), seed, "subsample")
        if self.shape == "imbalance":
            first = 2 * true[rows] < classes
            # 1/R of the *first half's* count, from the pooled rest: R is the ratio of totals.
            wanted = int(first.sum() / self.ratio)
            rest = _lowest(rows[~first], n, wanted, seed, "imbalance")
            rows = np.sort(np.concatenate([rows[first], rest]))
        elif self.shape == "longtail":
            sizes = tail_sizes(int(np.bincount(true[rows]).max(initial=0)), self.ratio, classes)
            kept = [
                _lowest(rows[true[rows] == c], n, size, seed, "longtail")
                for c, size in enumerate(sizes)
            ]
            rows = np.sort(np.concatenate(kept))
        return rows


def tail_sizes(largest: int, ratio: float, classes: int) -> list[int]:
    """Class sizes n·R^(-c/(C-1)), rounded down, at least 1 each.

    Source: Cui et al., Class-Balanced Loss (CVPR 2019), section 5: 5000 at R = 100 gives
    CIFAR-10-LT's 12,406 images.
    """
    # The small term keeps n/R itself from being rounded down to n/R - 1.
    return [max(1, int(largest * ratio ** (-c / (classes - 1)) + 1e-9)) for c in range(classes)]


def _lowest(rows: Rows, n: int, size: int, seed: int, step: str) -> Rows:
    """The `size` rows of lowest random rank (all, if fewer), sorted."""
    scores = numpy_generator("distort", seed, step).random(n)[rows]
    return np.sort(rows[np.argsort(scores, kind="stable")[:size]])


def _drawn(kind: Noise, true: Rows, classes: int, seed: int) -> Rows:
    """The label each row gets if the noise hits it: (N,) int64."""
    generator = numpy_generator("distort", seed, "labels", kind)
    if kind == "noise":
        return generator.integers(0, classes, len(true))
    if kind == "noise-sym":
        return (true + generator.integers(1, classes, len(true))) % classes
    return (true + 1) % classes


def _summary(
    rows: Rows, noisy: Rows, true: Rows, classes: int, rare: tuple[bool, ...]
) -> Distorted:
    flipped = noisy != true
    of_class = np.bincount(true, minlength=classes)
    changed = np.bincount(true[flipped], minlength=classes)
    return Distorted(
        index=torch.from_numpy(rows),
        labels=torch.from_numpy(noisy),
        true_labels=torch.from_numpy(true),
        flipped=torch.from_numpy(flipped),
        rare=rare,
        counts=tuple(np.bincount(noisy, minlength=classes).tolist()),
        flipped_share=tuple((changed / np.maximum(of_class, 1)).tolist()),
        flipped_total=float(flipped.mean()),
    )


def _steps(text: str) -> dict[str, float]:
    """Splits `key=value,...` and checks each on its own."""
    steps: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in _KEYS:
            raise ConfigError(f"--distort {text!r}: {name!r} is not known; give {_HELP}.")
        if name in steps:
            raise ConfigError(f"--distort {text!r} gives {name} twice.")
        steps[name] = _value(text, name, value)
    return steps


def _value(text: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise ConfigError(f"--distort {text!r}: {name} needs a number, not {value!r}.") from None
    if name in _SHAPES:
        allowed, rule = 1 <= number < math.inf, "at least 1"
    elif name == "subsample":
        allowed, rule = 0 < number <= 1, "above 0 and at most 1"
    else:
        allowed, rule = 0 <= number < 1, "at least 0 and below 1"
    if not allowed:
        raise ConfigError(f"--distort {text!r}: {name}={value} must be {rule}.")
    return number


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
