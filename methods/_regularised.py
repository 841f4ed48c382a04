"""Tuning STN's regularisers with a hypernetwork: what HBA and STN share.

One λ + ε an image: it sets how the image is jittered and cut, how the network scales and drops
what it is given, and the network's weights.  In steps of λ there is no augmentation or dropout.
"""

from typing import Any

import torch
from torch import nn

from bench.augment.policy import Batch, Policy
from bench.augment.regularisers import Regularisers
from bench.rng import generator
from bench.train.dropout import attach, regularised, sites
from bench.train.task import Task, around, fill, standard
from methods._hyper import Layers, hypernetwork, places
from methods._hypertrain import HyperTraining

Tensor = torch.Tensor


class Regularised(HyperTraining):
    """A training of a hypernetwork with dropouts, whose λ are the strengths of regularisers."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        session = self.session
        # A generator of its own: masks are made on the device, and no library's state may move.
        self.masks = generator("masks", session.seed, device=session.task.device)
        session.keep(masks=self.masks)

    def around(self) -> Policy:
        """Jitter and holes, crop and flip; no other Cutout."""
        return around(self.session.task, self.population, square=False)

    def said(self) -> dict[str, Tensor]:
        """Strengths, in the order of the policy's description."""
        return {"strengths": self.population.strengths(self.entries)}

    def logits(self, batch: Batch, draw: Any, rows: Tensor) -> Tensor:
        """With scale and dropout under the λ + ε that made the image."""
        strengths = self._given(self.population.inside(draw.entries))
        with regularised(self.learner.network, strengths, self.masks):
            return super().logits(batch, draw, rows)


def population(task: Task, sigma: float) -> Regularisers:
    """The regularisers of a task before training, 7 and one for each dropout of its network."""
    with torch.device("meta"):
        found = sites(task.network(), shape(task))
    dropouts = sum(len(site.columns) for site in found)
    return Regularisers((task.size, task.size), fill(task).hole, dropouts=dropouts, sigma=sigma)


def network(task: Task, layers: Layers, start: Tensor, centred: bool) -> nn.Module:
    """The task's network with dropouts, as a hypernetwork."""
    plain = task.network()
    attach(plain, shape(task))
    return hypernetwork(plain, layers, start, shape(task), centred)


def refused(task: Task, layers: Layers, dropouts: bool) -> str | None:
    """Why a task's network cannot have such hyper-layers, and dropouts if asked for."""
    with torch.device("meta"):
        plain = task.network()
    try:
        places(plain, layers, shape(task))
        if dropouts:
            sites(plain, shape(task))
    except ValueError as error:
        return str(error)
    return None


def differences(task: Task) -> list[str]:
    """Where a task differs from STN's experiment, in words."""
    said = [
        "the recipe's SGD with its schedule, not SGD whose rate falls when the validation loss "
        "stalls"
    ]
    base = standard(task).describe()
    if base["pad"] or base["flip"]:
        said.append("crop and flip are added, as under every row; STN had neither")
    return said


def shape(task: Task) -> tuple[int, int, int]:
    """Channels, height and width of a task's images."""
    return task.channels, task.size, task.size
