"""Named data sets, with torchvision's classes replaced: no test touches the network."""

from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from bench.data.sources import load
from bench.errors import DataError

GENERATOR = np.random.default_rng(0)
COLOUR = GENERATOR.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
GRAY = GENERATOR.integers(0, 256, (20, 28, 28), dtype=np.uint8)
LABELS = [i % 10 for i in range(20)]
NAMES = [f"class {i}" for i in range(10)]
SETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST"} | {
    "fashion-mnist": "FashionMNIST",
    "svhn": "SVHN",
}


@pytest.fixture
def calls(monkeypatch):
    """Replaces torchvision's classes, and records how they are made."""
    made = []

    def fake(kind, content):
        def make(root, **options):
            made.append((kind, root, options))
            half = options.get("train", options.get("split") == "train")
            keep = slice(None) if half else slice(0, 10)
            return SimpleNamespace(
                **{k: v if k == "classes" else v[keep] for k, v in content.items()}
            )

        monkeypatch.setattr(datasets, kind, make)

    for kind in ("CIFAR10", "CIFAR100"):
        fake(kind, {"data": COLOUR, "targets": LABELS, "classes": NAMES})
    for kind in ("MNIST", "FashionMNIST"):
        tensors = {"data": torch.from_numpy(GRAY), "targets": torch.tensor(LABELS)}
        fake(kind, {**tensors, "classes": NAMES})
    fake("SVHN", {"data": COLOUR.transpose(0, 3, 1, 2), "labels": np.array(LABELS)})
    return made


@pytest.mark.parametrize("name", SETS)
def test_torchvision_sets(name, calls, tmp_path):
    source = load(name, root=tmp_path)
    assert source.name == name
    colour = name in ("cifar10", "cifar100", "svhn")
    want = COLOUR.transpose(0, 3, 1, 2) if colour else GRAY[:, None]
    assert np.array_equal(source.train.images.numpy(), want)
    assert np.array_equal(source.test.images.numpy(), want[:10])
    assert source.train.labels.tolist() == LABELS
    assert source.classes == (tuple("0123456789") if name == "svhn" else tuple(NAMES))
    assert source.flip is (name in ("cifar10", "cifar100", "fashion-mnist"))
    assert source.val_fraction == (0.32 if name == "svhn" else 0.2)
    which = (
        [{"split": "train"}, {"split": "test"}]
        if name == "svhn"
        else [{"train": True}, {"train": False}]
    )
    expected = [(SETS[name], str(tmp_path), {"download": True, **split}) for split in which]
    assert calls == expected


def test_a_named_set_can_be_resized_and_mapped(calls, tmp_path):
    big = load("cifar10", root=tmp_path, size=40)
    assert big.train.shape == (3, 40, 40)
    mapped = load("cifar10", root=tmp_path, size=40, memory_limit=0)
    assert mapped.train.mapped
    assert mapped.digest == big.digest
    upright = Image.fromarray(COLOUR[3]).resize((40, 40), Image.BICUBIC)
    assert np.array_equal(big.train.images[3].permute(1, 2, 0).numpy(), np.asarray(upright))


@pytest.mark.parametrize("name", [*SETS, "imagenet"])
@pytest.mark.parametrize(
    "error",
    [
        URLError(OSError(-2, "Name or service not known")),
        RuntimeError("Dataset not found or corrupted. You can use download=True to download it"),
        PermissionError(13, "Permission denied", "somewhere"),
    ],
)
def test_a_failed_download_says_what_to_put_where(name, error, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets, SETS.get(name, "ImageNet"), fail)
    with pytest.raises(DataError) as caught:
        load(name, root=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name} ")
    assert "cannot be downloaded (" in message
    assert ": put " in message
    assert str(tmp_path) in message
    assert message.endswith(".")
    assert ". " not in message
    assert "Errno" not in message


def test_imagenet_is_read_from_files_at_224_with_val_as_test(monkeypatch, tmp_path):
    shades = {"train": [10, 20, 30, 40], "val": [50, 60]}

    def make(root, split):
        samples = []
        for i, shade in enumerate(shades[split]):
            path = tmp_path / "imagenet" / split / f"{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (300, 250), shade).save(path)
            samples.append((str(path), i % 2))
        assert root == str(tmp_path / "imagenet")
        words = [("crane", "bird"), ("crane",)]
        return SimpleNamespace(samples=samples, wnids=["n1", "n2"], classes=words)

    monkeypatch.setattr(datasets, "ImageNet", make)
    source = load("imagenet", root=tmp_path)
    assert source.classes == ("n1 crane", "n2 crane")
    assert source.train.shape == (3, 224, 224)
    assert source.train.images[:, 2, 100, 100].tolist() == shades["train"]
    assert source.test.images[:, 0, 0, 0].tolist() == shades["val"]
    assert source.test.labels.tolist() == [0, 1]
    assert load("imagenet", root=tmp_path, size=32).train.shape == (3, 32, 32)
