"""A task as a method sees it: training and validation arrays, recipe and network.  No test set."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from bench.augment.engine import Fill
from bench.augment.policy import Chain, Policy
from bench.augment.standard import CropFlip, Cutout
from bench.data.arrays import Arrays
from bench.train.recipe import Recipe


@dataclass(frozen=True)
class Task:
    """What to learn, from what, and how.

    Attributes:
        classes: Number of classes.
        channels: 1 or 3.
        size: Side of the square images in pixels.
        train: Distorted training images and the labels that came with them.
        val: Clean validation images; what a method does with them is declared.
        mean: (C,) of the training pixels, in [0, 1].
        std: (C,), in [0, 1].
        flip: Whether a horizontal flip keeps the label.
        network: Builds a freshly initialised network from torch's global generator, guarded.
        device: Where the arrays live.
    """

    classes: int
    channels: int
    size: int
    train: Arrays
    val: Arrays
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    recipe: Recipe
    network: Callable[[], nn.Module]
    device: torch.device

    @cached_property
    def _affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (-1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float64)
        scale = 1 / (255 * std)
        shift = -torch.tensor(self.mean, dtype=torch.float64) / std
        return (
            scale.float().view(shape).to(self.device),
            shift.float().view(shape).to(self.device),
        )

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Images (..., C, H, W) with values 0..255 to zero mean and unit variance per channel.

        Differentiable when the images are float; keeps their memory format.
        """
        scale, shift = self._affine
        return images.to(scale.dtype) * scale + shift


def standard(task: Task) -> Policy:
    """The recipe's standard augmentation: padded crop, and flips where they keep the label."""
    pad = task.recipe.pad if task.recipe.pad is not None else max(1, round(task.size / 8))
    flip = task.recipe.flip if task.recipe.flip is not None else task.flip
    return CropFlip(pad, flip)


def cutout(task: Task, share: float = 0.5) -> Policy:
    """Cutout with a square of this share of the image's side, filled with the training mean."""
    fill = tuple(round(255 * value) for value in task.mean)
    return Cutout(round(share * task.size), (task.size, task.size), fill)


def fill(task: Task) -> Fill:
    """Black outside warped images, the training mean in Cutout squares of a policy's own."""
    return Fill(hole=tuple(round(255 * value) for value in task.mean))


def around(task: Task, policy: Policy, square: bool = True) -> Policy:
    """A policy on the raw images, then the standard augmentation, then Cutout if wanted.

    Every method that learns or fixes a policy over operations uses this one order.
    """
    return Chain(policy, standard(task), *([cutout(task)] if square else []))
