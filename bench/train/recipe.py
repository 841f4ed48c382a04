"""The recipe: everything about a training that is not the augmentation or the network.

It is shared by all methods on a task and frozen, so that differences come from the method.
"""

import math
from collections.abc import Iterable

import torch
from pydantic import BaseModel, ConfigDict, Field


class Recipe(BaseModel):
    """SGD with Nesterov momentum and a cosine schedule over a fixed number of steps.

    Attributes:
        steps: Optimiser steps of one reference training (1 RT).
        warmup: Share of the planned steps over which the learning rate rises linearly from 0.
        pad: Padding of the standard crop in pixels; None takes an eighth of the image's side.
        flip: Whether the standard augmentation flips; None follows the data set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    steps: int = Field(gt=0)
    batch_size: int = Field(128, gt=0)
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0)
    warmup: float = Field(0.0, ge=0, lt=1)
    pad: int | None = Field(None, ge=0)
    flip: bool | None = None

    def optimiser(self, parameters: Iterable[torch.Tensor]) -> torch.optim.SGD:
        """The recipe's SGD, at the peak learning rate."""
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov and self.momentum > 0,
            weight_decay=self.weight_decay,
            fused=True,
        )

    def rate(self, progress: float) -> float:
        """Learning rate at step / planned steps: linear warm-up, then cosine to 0 at 1."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        after = (progress - self.warmup) / (1 - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(after, 1.0)))
