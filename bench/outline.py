"""A task without its files: from the published sizes of a data set, with images on no device.

task = outline(config).task()     # a `Task` of the right lengths, on the meta device
step = count(task)                # what one step of it computes, without computing it

What a plan needs of a task is how many images it has and how much one step computes.  For data
sets with a name that is known before a byte is downloaded.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.config import TaskConfig
from bench.data.arrays import HOST, Arrays
from bench.data.distort import Distortion
from bench.data.split import stratified
from bench.networks import build
from bench.networks.flops import FlopCounter
from bench.train.meter import guarded, unguarded
from bench.train.task import Task

META = torch.device("meta")


@dataclass(frozen=True)
class Published:
    """The sizes of a data set, as its authors state them.

    Attributes:
        train: Training images of each class.
        test: Test images in all.
        channels: 1 or 3.
        side: Of the square images, in pixels, where a task does not say.
        val_fraction: Share of the training images that is held out, where a task does not say.
    """

    train: tuple[int, ...]
    test: int
    channels: int = 3
    side: int = 32
    val_fraction: float = 0.2


# ImageNet's classes have 732 to 1,300 images; here all have as many, or one more.
PUBLISHED = {
    "cifar10": Published((5000,) * 10, 10_000),
    "cifar100": Published((500,) * 100, 10_000),
    "svhn": Published(
        (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659), 26_032, val_fraction=0.32
    ),
    "mnist": Published(
        (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949), 10_000, 1, 28
    ),
    "fashion-mnist": Published((6000,) * 10, 10_000, 1, 28),
    "imagenet": Published((1282,) * 167 + (1281,) * 833, 50_000, side=224),
}


@dataclass(frozen=True)
class Outline:
    """What is known of a task without its files.

    Attributes:
        config: The task.
        train: Training images after the distortion.
        val: Validation images.
    """

    config: TaskConfig
    train: int
    val: int

    @property
    def published(self) -> Published:
        """The data set."""
        return PUBLISHED[self.config.data]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        side = self.config.size or self.published.side
        return self.published.channels, side, side

    @property
    def pixels(self) -> int:
        """Bytes of all images of the data set, training and test."""
        channels, height, width = self.shape
        images = sum(self.published.train) + self.published.test
        return images * channels * height * width

    def task(
        self, device: torch.device = META, most: int | None = None, side: int | None = None
    ) -> Task:
        """The task as a method sees it.

        Args:
            device: Where its arrays are.  On the meta device they are of the right length and hold
                nothing; elsewhere they are noise.
            most: At most so many images in each of the two arrays.
            side: Of the images, instead of the task's own.
        """
        channels, side, classes = self.shape[0], side or self.shape[1], len(self.published.train)

        def network() -> nn.Module:
            with META if device == META else nullcontext():
                return guarded(build(self.config.network, classes, channels, side))

        return Task(
            classes=classes,
            channels=channels,
            size=side,
            train=self._noise(min(self.train, most or self.train), side, device),
            val=self._noise(min(self.val, most or self.val), side, device),
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            flip=True,
            recipe=self.config.recipe,
            network=network,
            device=device,
        )

    def _noise(self, images: int, side: int, device: torch.device) -> Arrays:
        shape = images, self.shape[0], side, side
        pixels = torch.randint(256, shape, dtype=torch.uint8, device=device)
        labels = torch.arange(images, device=device) % len(self.published.train)
        return Arrays(pixels, labels, device=device)

    def miniature(self) -> Task:
        """Two images of the smallest side that the network takes: what a method asks of a network.

        Whether a method can work with a network does not depend on the size of the images.
        """
        channels, side, _ = self.shape
        classes = len(self.published.train)
        return self.task(HOST, 2, _smallest(self.config.network, classes, channels, side))


@cache
def _smallest(network: str, classes: int, channels: int, most: int) -> int:
    """The smallest of some sides of images, up to `most`, that a network takes."""
    for side in (8, 16, 32, 64, 128):
        try:
            with META, torch.no_grad():
                images = torch.zeros(2, channels, side, side)
                build(network, classes, channels, side).eval()(images)
        except Exception:  # whatever a foreign network says of a shape it cannot take
            continue
        return min(side, most)
    return most


@dataclass(frozen=True)
class Step:
    """The work of one step of the reference training: FLOPs, and operations of tensors."""

    flops: int
    operations: int


class _Operations(TorchDispatchMode):
    """Counts the operations that torch dispatches."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        self.total += 1
        return operation(*arguments, **(options or {}))


def count(task: Task) -> Step:
    """Counts forward and backward pass of one batch; on the meta device nothing is computed."""
    network = unguarded(task.network()).to(memory_format=torch.channels_last)
    size = min(task.recipe.batch_size, len(task.train))
    with FlopCounter() as counter, _Operations() as operations:
        logits = network(task.normalise(task.train.images[:size]))
        F.cross_entropy(logits, task.train.labels[:size]).backward()
    return Step(counter.total, operations.total)


def outlined(data: str) -> bool:
    """Whether a data set's sizes are known without its files."""
    return data in PUBLISHED


def outline(config: TaskConfig, seed: int = 0) -> Outline:
    """Splits and distorts the labels that the published sizes imply, as `prepare` does."""
    fraction = config.val_fraction or PUBLISHED[config.data].val_fraction
    train, val = _lengths(config.data, fraction, config.distort, seed)
    return Outline(config, train, val)


@cache
def _lengths(data: str, fraction: float, distort: str, seed: int) -> tuple[int, int]:
    """How many images there are to train on and to validate with."""
    rest, val = _split(data, fraction, seed)
    classes = len(PUBLISHED[data].train)
    return len(Distortion.parse(distort).apply(rest, classes, seed).index), val


@cache
def _split(data: str, fraction: float, seed: int) -> tuple[Tensor, int]:
    """Labels of the training images that are left, and how many are held out."""
    sizes = torch.tensor(PUBLISHED[data].train)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    rest, val = stratified(labels, fraction, "split", seed)
    return labels[rest], len(val)
