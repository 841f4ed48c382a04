"""AugMix: convex mixtures of an image and of chains of operations done to it, as further views.

Notation: B images, V views, W chains a view, L slots a chain.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from bench.augment.choice import parts
from bench.augment.engine import BLACK, Fill
from bench.augment.mixing import beta, beta_log_density
from bench.augment.policy import Batch, Policy
from bench.augment.space import Draw, Space
from bench.augment.table import TablePolicy

Tensor = torch.Tensor
LOWEST = 0.1  # level; the original never draws less
DEPTHS = 3  # chains have 1, 2 or 3 operations


class Chains(TablePolicy):
    """One chain of operations an image, drawn with replacement, each at a level of its own.

    Args:
        space: The operations; levels are on its scale.
        severity: Levels are uniform between `LOWEST` and this.
        depth: Operations a chain; None draws 1, 2 or 3.
        fill: Colours.

    Raises:
        ValueError: If the severity or the depth is out of range.
    """

    def __init__(
        self, space: Space, severity: float, depth: int | None = None, fill: Fill = BLACK
    ) -> None:
        if not LOWEST < severity <= space.top:
            raise ValueError(f"severity={severity} must be in ({LOWEST}, {space.top:g}]")
        if depth is not None and depth < 1:
            raise ValueError(f"depth={depth} must be at least 1, or None")
        super().__init__(space, fill)
        self.severity = severity
        self.depth = depth

    def sample(self, index: Tensor, rng: torch.Generator) -> Draw:
        """Every slot is drawn, and gates close those beyond a chain's depth."""
        slots = self.depth or DEPTHS
        shape = len(index), slots
        depth = torch.randint(1, slots + 1, (len(index), 1), generator=rng)
        op = torch.randint(len(self.space), shape, generator=rng)
        level = torch.rand(shape, generator=rng, dtype=torch.float64)
        level = LOWEST + (self.severity - LOWEST) * level
        sign = torch.rand(shape, generator=rng) < 0.5
        place = torch.rand(*shape, 2, generator=rng, dtype=torch.float64)
        gate = torch.arange(slots) < (depth if self.depth is None else slots)
        return Draw(op, level, gate.expand(shape), sign, place)

    def log_prob(self, draw: Draw) -> Tensor:
        """Log-density of what is done: depth, operations, levels and signs where they matter."""
        op = draw.op
        each = -math.log(len(self.space)) - (
            self.space.has_magnitude[op].double() * math.log(self.severity - LOWEST)
            + self.space.has_sign[op].double() * math.log(2)
        )
        depths = DEPTHS if self.depth is None else 1
        return (torch.where(draw.gate, each, 0.0).sum(1) - math.log(depths)).float()

    def describe(self) -> dict[str, Any]:
        """Space, severity and depth."""
        return super().describe() | {"severity": self.severity, "depth": self.depth}


@dataclass(frozen=True)
class AugMixDraw:
    """What goes into each view of each image; on the host.

    Attributes:
        chains: B·V·W chains, an image's one after the other.
        weights: (B, V, W) float64, the chains' shares in a mixture; they add up to 1.
        blend: (B, V) float64 in [0, 1], the mixture's share in a view; the image has the rest.
    """

    chains: Draw
    weights: Tensor
    blend: Tensor


class AugMix(Policy):
    """Adds views of each image: (1 - m) · image + m · Σ wᵢ · chainᵢ(image).

    The images stay as they are; the views are float32 with values 0..255.  What a policy does
    before this one, e.g. the standard augmentation, is common to the image and its views; nothing
    may follow that should reach the views as well.

    Args:
        space: The operations.
        width: Chains a view.
        depth: Operations a chain; None draws 1, 2 or 3 for each.
        severity: The highest level drawn.
        alpha: w ~ Dirichlet(alpha, ...) and m ~ Beta(alpha, alpha).
        views: How many views are added.
        fill: Colours.

    Raises:
        ValueError: If a number is out of range.

    Source: Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and
    Uncertainty", 2020, algorithm 1; numbers as in google-research/augmix, cifar.py.  Mixing raw
    pixels is the same as mixing normalised ones.  Deviation: nearest resampling, not bilinear.
    """

    single = False

    def __init__(
        self,
        space: Space,
        width: int = 3,
        depth: int | None = None,
        severity: float = 3.0,
        alpha: float = 1.0,
        views: int = 2,
        fill: Fill = BLACK,
    ) -> None:
        if min(width, views) < 1:
            raise ValueError(f"augmix: width={width} and views={views} must be at least 1")
        if not 0 < alpha < math.inf:
            raise ValueError(f"augmix: alpha={alpha} must be above 0 and finite")
        self.chains = Chains(space, severity, depth, fill)
        self.width = width
        self.alpha = alpha
        self.views = views

    def sample(self, index: Tensor, rng: torch.Generator) -> AugMixDraw:
        """Chains, weights and blends; always the same number of random values."""
        each = self.views * self.width
        chains = self.chains.sample(index.repeat_interleave(each), rng)
        shape = len(index), self.views, self.width
        uniform = torch.rand(shape, generator=rng, dtype=torch.float64)
        # One number of `width` is free: the weights take the others.
        blend = beta(self.alpha, self.alpha, uniform[..., -1])
        return AugMixDraw(chains, dirichlet(self.alpha, uniform[..., :-1]), blend)

    def apply(self, batch: Batch, draw: AugMixDraw) -> Batch:
        """Carries out all chains of all views as one batch, then mixes.

        Raises:
            ValueError: If the images are not uint8, as after mixup.
        """
        images, each = batch.images, self.views * self.width
        if images.dtype != torch.uint8:
            raise ValueError(f"augmix takes uint8 images, not {images.dtype}: mix them after it")
        many = replace(batch, images=images.repeat_interleave(each, 0))
        chains = self.chains.apply(many, draw.chains).images
        chains = chains.view(len(images), self.views, self.width, *images.shape[1:])
        own = (1 - draw.blend)[..., None]
        shares = torch.cat([own, draw.blend[..., None] * draw.weights], -1).float()
        shares = shares.to(images.device, non_blocking=True)[..., None, None, None]
        # Chain by chain: bounded memory, and einsum would be billed as a matrix product.
        mixed = shares[:, :, 0] * images[:, None]
        for chain in range(self.width):
            mixed += shares[:, :, 1 + chain] * chains[:, :, chain]
        return replace(batch, views=(*batch.views, *mixed.unbind(1)))

    def log_prob(self, draw: AugMixDraw) -> Tensor:
        """Log-density of each image's chains, weights and blends."""
        chains = self.chains.log_prob(draw.chains).view(len(draw.blend), -1)
        weights = draw.weights
        shape = torch.full((self.width,), self.alpha, dtype=torch.float64)
        constant = torch.lgamma(shape.sum()) - torch.lgamma(shape).sum()
        density = constant + torch.xlogy(shape - 1, weights).sum(-1)
        density = density + beta_log_density(self.alpha, self.alpha, draw.blend)
        return chains.sum(1) + density.sum(1).float()

    def explain(self, draw: AugMixDraw, row: int) -> list[str]:
        """For each view the blend, and the chains with their weights."""
        said = []
        for view in range(self.views):
            parts = []
            for chain in range(self.width):
                number = (row * self.views + view) * self.width + chain
                steps = " > ".join(self.chains.explain(draw.chains, number))
                parts.append(f"{draw.weights[row, view, chain].item():.2f} ({steps})")
            said.append(
                f"view {view + 1}: {draw.blend[row, view].item():.2f} of {' + '.join(parts)}"
            )
        return said

    def describe(self) -> dict[str, Any]:
        """Name and numbers."""
        own = {"width": self.width, "alpha": self.alpha, "views": self.views}
        return {"policy": "augmix"} | self.chains.describe() | own

    @classmethod
    def rebuild(cls, description: dict[str, Any]) -> Self:
        """The policy that gave this description.

        Raises:
            ConfigError: If there is no space of its name, or its table has changed.
        """
        space, fill, numbers = parts(description)
        return cls(space, fill=fill, **numbers)


def dirichlet(alpha: float, uniform: Tensor) -> Tensor:
    """Symmetric Dirichlet variates by breaking a stick, which no alpha can make 0/0.

    Args:
        alpha: Above 0.
        uniform: (..., W - 1) float64 in [0, 1), on the host.

    Returns:
        (..., W) float64; the last axis adds up to 1.
    """
    width = uniform.shape[-1] + 1
    rest = torch.ones(uniform.shape[:-1], dtype=torch.float64)
    parts = []
    for i in range(width - 1):
        part = rest * beta(alpha, alpha * (width - 1 - i), uniform[..., i])
        parts.append(part)
        rest = rest - part
    return torch.stack([*parts, rest], -1)
