"""A learner: a guarded network with its optimiser, which computes only inside metered blocks."""

import copy
import hashlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bench.train.meter import guarded, note_call
from bench.train.task import Task


class Learner:
    """A network in training.

    Args:
        network: Maps float images (B, C, H, W) to logits (B, classes).
        task: Gives normalisation, recipe and device.
        compiled: Whether calls go through `torch.compile`.

    Attributes:
        network: The plain module, guarded.
        optimiser: The recipe's.
    """

    def __init__(self, network: nn.Module, task: Task, compiled: bool = False) -> None:
        self.task = task
        self.compiled = compiled
        self.network = guarded(network.to(task.device).to(memory_format=torch.channels_last))
        self.optimiser = task.recipe.optimiser(self.network.parameters())
        self._call = torch.compile(self.network) if compiled else self.network

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) float32 of images (B, C, H, W) with values 0..255."""
        if self.compiled:
            note_call(images)
        with self._precision():
            logits: torch.Tensor = self._call(self.task.normalise(images))
        return logits.float()

    def _precision(self) -> AbstractContextManager[object]:
        """bfloat16 convolutions and products on a CUDA device, float32 elsewhere."""
        if self.task.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def loss(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of images (B, C, H, W) against (B,) classes or (B, K) shares."""
        return F.cross_entropy(self(images), targets)

    def descend(self, loss: torch.Tensor, progress: float) -> None:
        """One optimiser step on a loss, at the schedule's rate for step / planned steps."""
        loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = self.task.recipe.rate(progress)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def clone(self) -> "Learner":
        """An independent copy: weights, buffers and optimiser state."""
        twin = Learner(copy.deepcopy(self.network), self.task, self.compiled)
        twin.optimiser.load_state_dict(copy.deepcopy(self.optimiser.state_dict()))
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Weights, buffers and optimiser state."""
        return {
            "network": self.network.state_dict(),
            "training": self.network.training,
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts weights, buffers and optimiser back to `state`; gradients are dropped."""
        self.network.load_state_dict(state["network"])
        self.network.train(state["training"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.optimiser.zero_grad(set_to_none=True)

    def digest(self) -> str:
        """SHA-256 of all weights and buffers, by name: equal bits, equal digest."""
        total = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            total.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            raw = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
            total.update(raw.numpy().tobytes())
        return total.hexdigest()
