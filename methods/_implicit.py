"""The implicit hypergradient through a last linear layer, in closed form.

A hyperparameter λ of the training loss L moves the layer's weights W to where ∇_W L = 0, so it
moves the validation loss L_v by dL_v/dλ = -⟨H⁻¹ ∇_W L_v, ∂∇_W L/∂λ⟩ with H = ∂²L/∂W².  Whatever
touches W is small: for logits W z + b and δ_i = ∂ℓ_i/∂logits,

    ∇_W L = (1/B) Σ δ_i z_iᵀ        H·V = (1/B) Σ (∂δ_i/∂logits · V z_i) z_iᵀ

The inverse is a Neumann series; the rest of the network is gone through once, backward, for λ.

Source: AutoDO (Gudovskiy et al., 2021), sections 3.2 and 4.3; Lorraine et al., 2020.
"""

from collections.abc import Callable

import torch
from torch import nn

from bench.train.learner import Learner, evaluating

Tensor = torch.Tensor
Losses = Callable[[Tensor], Tensor]  # logits (B, K) -> losses (B,)
Product = Callable[[Tensor], Tensor]


def last_linear(network: nn.Module) -> nn.Linear | None:
    """The network's last linear layer, in the order of its modules; None without one."""
    found = [module for module in network.modules() if isinstance(module, nn.Linear)]
    return found[-1] if found else None


def read(learner: Learner, images: Tensor) -> tuple[Tensor, Tensor]:
    """What goes into the last linear layer (B, D) and what comes out (B, K), float32.

    In evaluation mode, so that images do not see each other.
    """
    seen: list[Tensor] = []
    head = last_linear(learner.network)
    assert head is not None
    handle = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        with evaluating(learner.network), learner.eager():
            logits = learner(images)
    finally:
        handle.remove()
    return seen[-1].float(), logits


def slope(losses: Losses, logits: Tensor) -> Tensor:
    """δ = ∂ℓ_i/∂logits (B, K), differentiable in the logits and whatever the losses depend on."""
    (found,) = torch.autograd.grad(losses(logits).sum(), logits, create_graph=True)
    return found


def outer(delta: Tensor, features: Tensor) -> Tensor:
    """∇_W of a mean loss, (K, D), from δ (B, K) and z (B, D)."""
    return delta.T @ features / len(features)


def curvature(losses: Losses, logits: Tensor, features: Tensor) -> Product:
    """V (K, D) ↦ H·V for the mean of the losses at logits (B, K) of features (B, D)."""
    features, at = features.detach(), logits.detach().requires_grad_()
    delta = slope(losses, at)

    def product(v: Tensor) -> Tensor:
        # Each image's ∂δ/∂logits is symmetric, so going backward through δ multiplies by it.
        (change,) = torch.autograd.grad(delta, at, features @ v.T, retain_graph=True)
        return outer(change, features)

    return product


def neumann(product: Product, v: Tensor, terms: int, rate: float) -> tuple[Tensor, Tensor]:
    """η Σ_{k=0..T} (I - ηH)^k v ≈ H⁻¹ v, which is η·v for T = 0.

    Args:
        product: V ↦ H·V.
        v: Any shape.
        terms: T.
        rate: η, below 2 over H's largest eigenvalue.

    Returns:
        The sum, and how much longer the last term is than the first: above 1 the series explodes.
    """
    term = total = v
    for _ in range(terms):
        term = term - rate * product(term)
        total = total + term
    return rate * total, term.norm() / v.norm()


def surrogate(losses: Losses, logits: Tensor, features: Tensor, inverse: Tensor) -> Tensor:
    """Minus ⟨u, ∇_W L⟩: for u ≈ H⁻¹ ∇_W L_v its gradient to λ is the hypergradient dL_v/dλ.

    Args:
        losses: Of logits; may depend on λ.
        logits: (B, K), a function of `features`; both may depend on λ.
        features: (B, D).
        inverse: u (K, D), a constant.
    """
    return -(slope(losses, logits) * (features @ inverse.T)).sum() / len(logits)
