"""A learner: a guarded network with its optimiser, which computes only inside metered blocks."""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bench.train.meter import guarded, note_call
from bench.train.recipe import Recipe
from bench.train.state import Registry
from bench.train.task import Task


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a block; afterwards every module has the mode that it had."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class Learner:
    """A network in training.

    Args:
        network: Maps float images (B, C, H, W) to logits (B, classes).
        task: Gives normalisation and device.
        recipe: Gives optimiser and schedule; the task's by default.
        compiled: Whether calls go through `torch.compile`.
        registry: Whom rehearsals and checkpoints put back; clones join it too.

    Attributes:
        network: The plain module, guarded.
        optimiser: The recipe's.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        recipe: Recipe | None = None,
        *,
        compiled: bool = False,
        registry: "Registry[Learner] | None" = None,
        optimiser: torch.optim.Optimizer | None = None,
    ) -> None:
        self.task = task
        self.recipe = recipe or task.recipe
        self.compiled = compiled
        self.network = guarded(network.to(task.device).to(memory_format=torch.channels_last))
        self.optimiser = optimiser or self.recipe.optimiser(self.network.parameters())
        self._call = torch.compile(self.network) if compiled else self.network
        self._registry = registry
        if registry is not None:
            registry.add(self)

    def __call__(self, images: torch.Tensor, *conditions: Any) -> torch.Tensor:
        """Logits (B, classes) float32 of images (B, C, H, W) with values 0..255.

        Args:
            images: uint8, or float where gradients to pixels are wanted.
            conditions: Handed to a network of the method's own, e.g. a hypernetwork's
                hyperparameters per example.  Evaluation gives none.
        """
        if self.compiled:
            note_call(images)
        with self.precision():
            logits: torch.Tensor = self._call(self.pixels(images), *conditions)
        return logits.float()

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """What the network takes: normalised float32 images, `channels_last`."""
        # Normalised plane by plane, then rearranged: the other order takes several times as long.
        return self.task.normalise(images).contiguous(memory_format=torch.channels_last)

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Calls of a compiled learner go to the plain network here, where hooks can see them."""
        call, self._call = self._call, self.network
        try:
            yield
        finally:
            self._call = call

    def precision(self) -> AbstractContextManager[object]:
        """bfloat16 convolutions and products on a CUDA device, float32 elsewhere.

        For methods that call the network themselves and want what every learner has.
        """
        if self.task.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def loss(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of images (B, C, H, W) against (B,) classes or (B, K) shares."""
        return F.cross_entropy(self(images), targets)

    def descend(self, loss: torch.Tensor, progress: float) -> None:
        """One optimiser step on a loss, at the schedule's rate for step / planned steps."""
        loss.backward()
        self.step(progress)

    def step(self, progress: float) -> None:
        """One optimiser step along the gradients that are there, which it drops."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(progress)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def clone(self) -> "Learner":
        """An independent copy: weights, buffers and optimiser, parameter groups included."""
        network, optimiser = copy.deepcopy((self.network, self.optimiser))
        return Learner(
            network,
            self.task,
            self.recipe,
            compiled=self.compiled,
            registry=self._registry,
            optimiser=optimiser,
        )

    def state_dict(self) -> dict[str, Any]:
        """Weights, buffers, modes and optimiser state."""
        return {
            "network": self.network.state_dict(),
            "training": {name: m.training for name, m in self.network.named_modules()},
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts weights, buffers, modes and optimiser to a copy of `state`; drops gradients."""
        self.network.load_state_dict(state["network"])
        for name, module in self.network.named_modules():
            module.training = state["training"][name]
        # torch's optimisers would share the momentum buffers with whoever gave the state.
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        self.optimiser.zero_grad(set_to_none=True)

    def digest(self) -> str:
        """SHA-256 of all weights and buffers, by name: equal bits, equal digest."""
        total = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            total.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            raw = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
            total.update(raw.numpy().tobytes())
        return total.hexdigest()
