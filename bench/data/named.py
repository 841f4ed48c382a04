"""Data sets with a name: embedded in scikit-learn, or fetched by torchvision."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.listing import Files, InMemory, Integers, Listing, Part, hashed, whole
from bench.data.words import reason
from bench.errors import DataError

DESCRIPTIONS = {
    "digits": "1,797 gray 8×8 handwritten digits, embedded in scikit-learn (no download)",
    "cifar10": "60,000 colour 32×32 photographs of 10 classes (torchvision, 163 MiB)",
    "cifar100": "60,000 colour 32×32 photographs of 100 classes (torchvision, 161 MiB)",
    "svhn": "99,289 colour 32×32 house-number digits (torchvision, 235 MiB)",
    "mnist": "70,000 gray 28×28 handwritten digits (torchvision, 11 MiB)",
    "fashion-mnist": "70,000 gray 28×28 pictures of clothing (torchvision, 29 MiB)",
    "imagenet": "1.3 million photographs of 1,000 classes at 224×224 (to be put under the root)",
}
# Name -> torchvision class, and what to put under the root by hand where downloads are blocked.
_SETS = {
    "cifar10": ("CIFAR10", "the folder cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "the folder cifar-100-python"),
    "svhn": ("SVHN", "train_32x32.mat and test_32x32.mat"),
    "mnist": ("MNIST", "the folder MNIST/raw with its four ubyte.gz files"),
    "fashion-mnist": ("FashionMNIST", "the folder FashionMNIST/raw with its four ubyte.gz files"),
}
# A mirrored digit is another sign, or none.
_UNFLIPPED = ("digits", "mnist", "svhn")
_IMAGENET_SIDE = 224
_IMAGENET_FILES = (
    "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz"
)


def fingerprint(name: str) -> str:
    """Identity of a published data set: its name."""
    return hashed(name, 1)


def read(name: str, root: Path) -> Listing:
    """Lists a named data set, downloading it under `root` if need be.

    Raises:
        DataError: It is not under `root` and cannot be downloaded.
    """
    if name == "digits":
        return _digits()
    return _imagenet(root) if name == "imagenet" else _torchvision(name, root)


def _digits() -> Listing:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.rint(data.images * 255 / 16).astype(np.uint8)[:, None]
    parts = {"train": whole(InMemory(pixels), data.target.astype(np.int64))}
    return _listing("digits", tuple("0123456789"), parts)


def _torchvision(name: str, root: Path) -> Listing:
    from torchvision import datasets

    kind, needed = _SETS[name]
    loader = getattr(datasets, kind)
    splits = {}
    for split in ("train", "test"):
        which = {"split": split} if name == "svhn" else {"train": split == "train"}
        make = partial(loader, str(root), download=True, **which)
        splits[split] = _fetched(make, f"{name} cannot be downloaded", needed, root)
    parts = {split: _part(found) for split, found in splits.items()}
    classes = getattr(splits["train"], "classes", None) or "0123456789"
    return _listing(name, tuple(map(str, classes)), parts)


def _fetched(make: Callable[[], Any], problem: str, needed: str, place: Path) -> Any:
    """The torchvision data set; where it can neither be found nor downloaded, one sentence."""
    with warnings.catch_warnings():
        # CIFAR's pickles are as old as NumPy's former spelling of a flag.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        try:
            return make()
        except Exception as error:  # whatever torchvision says of files that are damaged
            raise DataError(
                f"{problem} ({reason(error)}): put {needed} into '{place}'."
            ) from error


def _part(found: Any) -> Part:
    """Pixels as (N, C, H, W), from (N, H, W), (N, H, W, 3) or, for SVHN, (N, 3, H, W)."""
    pixels = np.asarray(found.data)
    labels = np.asarray(found.labels if hasattr(found, "labels") else found.targets, np.int64)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:
        pixels = pixels.transpose(0, 3, 1, 2)
    return whole(InMemory(np.ascontiguousarray(pixels)), labels)


def _imagenet(root: Path) -> Listing:
    from torchvision.datasets import ImageNet

    folder = root / "imagenet"
    # The published validation set is what papers test on; the test labels were never released.
    theirs = {"train": "train", "test": "val"}
    splits = {
        split: _fetched(
            partial(ImageNet, str(folder), split=which),
            "imagenet is not complete and cannot be downloaded",
            _IMAGENET_FILES,
            folder,
        )
        for split, which in theirs.items()
    }
    parts = {}
    for split, found in splits.items():
        paths = tuple(Path(path) for path, _ in found.samples)
        names = tuple(path.relative_to(folder).as_posix() for path in paths)
        labels: Integers = np.array([label for _, label in found.samples], np.int64)
        parts[split] = whole(Files(paths, names), labels)
    # The first of each class's names is not unique ("crane"); its WordNet number is.
    classes = zip(splits["train"].wnids, splits["train"].classes, strict=True)
    names = tuple(f"{number} {words[0]}" for number, words in classes)
    return _listing("imagenet", names, parts)


def _listing(name: str, classes: tuple[str, ...], parts: dict[str, Part]) -> Listing:
    train = parts["train"].pictures
    # Square arrays keep their size; ImageNet alone consists of files.
    frame = train.pixels.shape[1:3] if isinstance(train, InMemory) else (3, _IMAGENET_SIDE)
    return Listing(
        name,
        classes,
        parts,
        stamp=fingerprint(name),
        flip=name not in _UNFLIPPED,
        val_fraction=0.32 if name == "svhn" else 0.2,
        frame=frame,
    )
