"""Heavy-ball SGD that knows how the loss after a step depends on what the step was taken with.

A step v ← β v + g + μ θ, θ ← θ - α v leads to weights θ whose gradient ∇L is computed next anyway.
With v₀ and θ₀ before the step, it gives

    dL/dα = -v·∇L        dL/dβ = -α v₀·∇L        dL/dμ = -α θ₀·∇L

Source: Baydin et al., "Online Learning Rate Adaptation with Hypergradient Descent", ICLR 2018, for
α; the others follow alike.
"""

from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor


class HypergradientSGD:
    """Heavy-ball SGD, as `bench.train.heavy_ball`, with hyperparameters that it can learn.

    They stay on the device: no step waits for it.

    Args:
        network: Is trained.
        start: First α, β and μ, (3,).

    Attributes:
        values: α, β and μ, (3,) float64, so that small moves of large values are not lost.
        past: (3, D), of the latest step: the v that it made, and the v and θ that it found.
        total: (3,), the sum of `values` over the `count` steps so far.
    """

    def __init__(self, network: nn.Module, start: Tensor) -> None:
        self.weights: list[Tensor] = [p for p in network.parameters() if p.requires_grad]
        first = self.weights[0]
        self.values = start.to(first.device, torch.float64, copy=True)
        self.total, self.count = torch.zeros_like(self.values), 0
        self.past = first.new_zeros(3, sum(p.numel() for p in self.weights))

    @torch.no_grad()
    def gradient(self) -> Tensor:
        """The gradients that are there, (D,), which it drops."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.weights]
        for weight in self.weights:
            weight.grad = None
        return _flat(parts)

    def hypergradient(self, gradient: Tensor) -> Tensor:
        """dL/d(α, β, μ) of the latest step, (3,) float64; 0 before there is one.

        Args:
            gradient: ∇L (D,) at the weights as they are.
        """
        found = -(self.past @ gradient).double()
        found[1:] *= self.values[0]
        return found

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """One step with the values as they are."""
        rate, momentum, decay = self.values.to(gradient.dtype)
        made, velocity, weights = self.past
        velocity.copy_(made)
        weights.copy_(_flat(self.weights))
        made.mul_(momentum).add_(gradient).add_(decay * weights)
        moves = (rate * made).split([p.numel() for p in self.weights])
        for weight, move in zip(self.weights, moves, strict=True):
            weight.sub_(move.view_as(weight))
        self.total += self.values
        self.count += 1

    def mean(self) -> Tensor:
        """The values' mean over all steps, (3,)."""
        return self.total / self.count

    def state_dict(self) -> dict[str, Any]:
        """What steps change beside the weights, for `session.keep`."""
        names = ("values", "total", "count", "past")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts it back, in place."""
        self.count = state["count"]
        for name in ("values", "total", "past"):
            getattr(self, name).copy_(state[name])


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])
