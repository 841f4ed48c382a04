"""What a source holds, before any image is decoded: classes, splits, and where the images are."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from bench.data.decode import Pixels, Raw
from bench.data.split import stratified
from bench.errors import DataError
from bench.plain import plain

Integers = npt.NDArray[np.int64]
TEST_FRACTION = 0.2


class Pictures(Protocol):
    """A numbered collection of encoded images, which may be too large for memory."""

    def __len__(self) -> int:
        """How many there are."""

    def name(self, row: int) -> str:
        """What to call an image in a message: its path within the data set."""

    def read(self, rows: Integers) -> Iterator[Raw]:
        """Yields the images of the given ascending rows, one by one."""


@dataclass(frozen=True)
class Files:
    """Images in files of their own; `names` are their paths within the data set."""

    paths: tuple[Path, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def name(self, row: int) -> str:
        """The file's path within the data set."""
        return self.names[row]

    def read(self, rows: Integers) -> Iterator[Raw]:
        """Yields paths; the decoding threads open the files."""
        return (self.paths[row] for row in rows)


@dataclass(frozen=True, eq=False)
class InMemory:
    """Images that are decoded already: (N, C, H, W) uint8."""

    pixels: Pixels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pixels)

    def name(self, row: int) -> str:
        """The image's number."""
        return f"image {row}"

    def read(self, rows: Integers) -> Iterator[Raw]:
        """Yields (C, H, W) views."""
        return (self.pixels[row] for row in rows)


@dataclass(frozen=True, eq=False)
class Part:
    """One split: the ascending `rows` (N,) of a collection that belong to it, and their labels."""

    pictures: Pictures
    labels: Integers
    rows: Integers

    def subset(self, index: Integers) -> "Part":
        """The samples `index` (sorted)."""
        return replace(self, labels=self.labels[index], rows=self.rows[index])


def whole(pictures: Pictures, labels: Integers) -> Part:
    """A split that is a whole collection."""
    return Part(pictures, labels, np.arange(len(pictures)))


@dataclass(frozen=True, eq=False)
class Listing:
    """A data set before decoding.

    Attributes:
        name: Canonical name, free of machine paths.
        classes: Class names; labels index them.
        parts: `train`, and `test` and `val` where the source has them.
        stamp: Changes whenever the decoded pixels might: the key of the cache.
        flip: Whether a mirrored image keeps its class.
        val_fraction: Share of the training images to hold out when there is no `val`.
        frame: Channels and side of every image, where the source fixes them.
    """

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Part]
    stamp: str
    flip: bool = True
    val_fraction: float = 0.2
    frame: tuple[int, int] | None = None

    def completed(self) -> "Listing":
        """With a test split: without one, a fixed stratified 20 % of the training images.

        The same for every seed; at least one image per class.

        Raises:
            DataError: See `check`; or a class has a single image, too few for two splits.
        """
        if "test" in self.parts:
            check(self.name, self.classes, {k: p.labels for k, p in self.parts.items()})
            return self
        train = self.parts["train"]
        check(self.name, self.classes, {"train": train.labels})
        counts = np.bincount(train.labels, minlength=len(self.classes))
        if counts.min() < 2:
            single = self.classes[int(counts.argmin())]
            raise DataError(
                f"{self.name}: class {single!r} has one image, but needs two or more, since a "
                "fifth of the images become the test set."
            )
        fraction = max(TEST_FRACTION, len(self.classes) / len(train.labels))
        rest, held = stratified(torch.from_numpy(train.labels), fraction, "data", "fixed test set")
        parts = {"train": train.subset(rest.numpy()), "test": train.subset(held.numpy())}
        return replace(self, parts={**self.parts, **parts})


def check(
    name: str, classes: tuple[str, ...], labels: dict[str, Integers], skipped: int = 0
) -> None:
    """Refuses splits that cannot be learned from or scored.

    Args:
        name: What to call the data set.
        classes: Class names.
        labels: Labels of each split.
        skipped: Unreadable images left out, which may have been a class's last.

    Raises:
        DataError: Fewer than two classes, names that no table can show, or a class without images
            to train or to test on.
    """
    if len(classes) < 2:
        only = f", {classes[0]!r}" if classes else ""
        raise DataError(f"{name} has {len(classes)} class{only}, but needs two or more.")
    for label in classes:
        if plain(label) != label:
            raise DataError(
                f"{name}: class {label!r} has control characters in its name, or is no UTF-8: "
                "rename it."
            )
    if len(set(classes)) < len(classes):
        twice = next(label for label in classes if classes.count(label) > 1)
        raise DataError(f"{name} has two classes called {twice!r}.")
    for split in ("train", "test"):
        if split in labels:
            counts = np.bincount(labels[split], minlength=len(classes))
            if counts.min() == 0:
                missing = classes[int(counts.argmin())]
                why = f" without the {skipped} unreadable: mend or remove these" if skipped else ""
                raise DataError(f"{name}: class {missing!r} has no {split} images{why}.")


def hashed(*parts: object) -> str:
    """A short hash of plain values (their `repr`)."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
