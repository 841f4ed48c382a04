"""From a loaded source to a task: split, distort, and keep the truth away from the method.

What the method gets is `Prepared.task`.  The test set, the true labels and which of them were
flipped stay with the harness.
"""

from dataclasses import dataclass

import torch
from torch import nn

from bench.data.arrays import Arrays
from bench.data.distort import Distorted, Distortion
from bench.data.sources import Source
from bench.data.split import stratified
from bench.errors import ConfigError
from bench.networks import build
from bench.train.meter import guarded
from bench.train.recipe import Recipe
from bench.train.task import Task


@dataclass(frozen=True)
class Prepared:
    """A task and what the harness knows beside it.

    Attributes:
        task: For the method.
        test: The clean test set.
        distorted: Which training labels are wrong, and the counts.
    """

    task: Task
    test: Arrays
    distorted: Distorted


def prepare(
    source: Source,
    *,
    distort: str,
    network: str,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    val_fraction: float | None = None,
) -> Prepared:
    """Splits off a clean validation set, then distorts what remains.

    Split and distortion depend on the seed alone.  A source with a validation split of its own
    keeps it.  Mean and standard deviation are the whole source training set's, so that
    normalisation is the same under every distortion.

    Raises:
        ConfigError: If the network is unknown or cannot take the images.
    """
    classes = len(source.classes)
    rest, val = _split(source, val_fraction or source.val_fraction, seed)
    distorted = Distortion.parse(distort).apply(rest.labels.cpu(), classes, seed)
    train = rest.subset(distorted.index).with_labels(distorted.labels).to(device)
    mean, std = source.train.channel_stats()
    channels, size = source.train.images.shape[1], source.train.images.shape[-1]

    def factory() -> nn.Module:
        return guarded(build(network, classes, channels, size))

    _try(network, (classes, channels, size))
    task = Task(
        classes=classes,
        channels=channels,
        size=size,
        train=train,
        val=val.to(device),
        mean=tuple(mean.tolist()),
        std=tuple(std.clamp_min(1e-3).tolist()),
        flip=source.flip,
        recipe=recipe,
        network=factory,
        device=device,
    )
    return Prepared(task, source.test.to(device), distorted)


def _try(name: str, shape: tuple[int, int, int]) -> None:
    """One forward pass on the meta device: an impossible network is refused before any work."""
    classes, channels, size = shape
    try:
        with torch.device("meta"), torch.no_grad():
            build(name, classes, channels, size).eval()(torch.zeros(2, channels, size, size))
    except ConfigError:
        raise
    except Exception as error:  # whatever a foreign network says of a shape it cannot take
        said = str(error).splitlines()[0]
        raise ConfigError(
            f"network {name!r} cannot take {channels}×{size}×{size} images: {said}"
        ) from error


def _split(source: Source, fraction: float, seed: int) -> tuple[Arrays, Arrays]:
    if source.val is not None:
        return source.train, source.val
    rest, part = stratified(source.train.labels.cpu(), fraction, "split", seed)
    return source.train.subset(rest), source.train.subset(part)
