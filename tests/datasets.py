"""Small data sets of random images in the published formats, as torchvision downloads them."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

GENERATOR = np.random.default_rng(0)
WNIDS = ("n01440764", "n01443537", "n01484850", "n02012849")


def cifar(name: str, root: Path, monkeypatch: pytest.MonkeyPatch, each: int = 20) -> None:
    """CIFAR's pickles: five or one with training images, `each` a class of ten; two test ones."""
    kind: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    key = "labels" if name == "cifar10" else "fine_labels"
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    for which in ("train_list", "test_list"):
        files = []
        for file, _ in getattr(kind, which):
            images = 10 * each // len(kind.train_list) if which == "train_list" else 20
            pixels = GENERATOR.integers(0, 256, (images, 3072), dtype=np.uint8)
            labels = [i % 10 for i in range(images)]
            (folder / file).write_bytes(pickle.dumps({"data": pixels, key: labels}))
            files.append([file, _md5(folder / file)])
        monkeypatch.setattr(kind, which, files)
    meta = kind.meta
    names = [f"class {i}" for i in range(10)]
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: names}))
    monkeypatch.setattr(kind, "meta", meta | {"md5": _md5(folder / meta["filename"])})


def svhn(root: Path, monkeypatch: pytest.MonkeyPatch, each: int = 20) -> None:
    """SVHN's MATLAB files, in which a zero has the label 10."""
    files = {}
    root.mkdir(parents=True, exist_ok=True)
    for split, images in (("train", 10 * each), ("test", 20)):
        url, file, _ = datasets.SVHN.split_list[split]
        pixels = GENERATOR.integers(0, 256, (32, 32, 3, images), dtype=np.uint8)
        savemat(root / file, {"X": pixels, "y": (np.arange(images) % 10 + 1)[:, None]})
        files[split] = [url, file, _md5(root / file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", files)


def imagenet(root: Path, each: int = 20) -> None:
    """ImageNet as torchvision leaves it: a folder a class, and what the devkit says of them."""
    for split, images in (("train", each), ("val", 4)):
        for wnid in WNIDS:
            folder = root / "imagenet" / split / wnid
            folder.mkdir(parents=True)
            for i in range(images):
                pixels = GENERATOR.integers(0, 256, (50, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{wnid}_{i}.JPEG")
    words = {wnid: (f"word {i}", "crane") for i, wnid in enumerate(WNIDS)}
    torch.save((words, list(WNIDS)), root / "imagenet" / "meta.bin")


def generate(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the data set that a suite calls `name`."""
    if name.startswith("cifar"):
        cifar(name, root, monkeypatch)
    elif name == "svhn":
        svhn(root, monkeypatch)
    else:
        imagenet(root)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()
