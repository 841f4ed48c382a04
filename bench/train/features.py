"""What images look like to a trained network: the input of its last linear layer."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.arrays import Arrays
from bench.errors import ConfigError
from bench.train.evaluate import CHUNK
from bench.train.learner import Learner, evaluating
from bench.train.meter import Meter

MOST = 2000
LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True, eq=False)
class Features:
    """Features of n images, on the host.

    Attributes:
        index: (n,) int64: which images.
        values: (n, D) float16.
        true: (n,) int64 classes.
        predicted: (n,) int64 classes.
    """

    index: Tensor
    values: Tensor
    true: Tensor
    predicted: Tensor


def strided(count: int, most: int = MOST) -> Tensor:
    """At most `most` of `count` rows, evenly spaced, each once and in order: (n,) int64."""
    size = min(count, most)
    return torch.arange(size) * count // size


def check(network: nn.Module) -> None:
    """Refuses a network whose features nobody could find.

    Raises:
        ConfigError: If it has no linear layer.
    """
    if not any(isinstance(module, nn.Linear) for module in network.modules()):
        raise ConfigError(
            f"--keep-features: a {type(network).__name__} has no linear layer whose input it "
            "could keep"
        )


@torch.no_grad()
def features(learner: Learner, arrays: Arrays, predicted: Tensor, meter: Meter) -> Features:
    """Features of at most 2,000 images, evenly spaced, in evaluation mode.

    Args:
        learner: Is called as a plain network, where hooks can see it, even if it is compiled.
        arrays: The images and their true classes.
        predicted: (N,) int64 classes, from the evaluation that made the scores.
        meter: Every chunk is a metered block.

    Raises:
        ConfigError: If no linear layer of the network gets one row an image.
    """
    index, last = strided(len(arrays)), _Last()
    values: list[Tensor] = []
    linear = [module for module in learner.network.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(last) for module in linear]
    try:
        with evaluating(learner.network), learner.eager():
            for part in index.split(CHUNK):
                images, _ = arrays.take(part)
                last.expect(len(part))
                with meter.block("features"):
                    learner(images)
                # Half precision has a smaller range than bfloat16; infinity fits no picture.
                value = last.value().float().flatten(1).clamp(-LARGEST, LARGEST)
                values.append(value.half().cpu())
    finally:
        for hook in hooks:
            hook.remove()
    true = arrays.labels.cpu()[index]
    return Features(index, torch.cat(values), true, predicted.cpu()[index])


class _Last:
    """A forward pre-hook that remembers the latest input with one row an image."""

    def __init__(self) -> None:
        self._rows = 0
        self._value: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and inputs[0].dim() > 1 and len(inputs[0]) == self._rows:
            self._value = inputs[0]

    def expect(self, rows: int) -> None:
        """Forgets, and waits for inputs of so many images."""
        self._rows, self._value = rows, None

    def value(self) -> Tensor:
        """The input.

        Raises:
            ConfigError: If there was none.
        """
        if self._value is None:
            raise ConfigError(
                "--keep-features: no linear layer of the method's network gets one row an image"
            )
        return self._value
