"""Mixing pairs of images: mixup and CutMix, and the Beta variates that they draw.

Mixing comes last in a `Chain`.  Targets become shares of the classes; mixup's images are float32,
which no operation on uint8 can follow, and an operation after CutMix would move pixels that the
shares were counted from.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from scipy.special import betaincinv

from bench.augment.policy import Batch, Policy

Tensor = torch.Tensor
Per = Literal["batch", "image"]


def beta(a: float, b: float, uniform: Tensor) -> Tensor:
    """Beta variates by inversion of the distribution function: each takes one random number.

    The usual samplers reject, so how far they move a generator depends on what they draw.

    Args:
        a: First shape parameter, above 0.
        b: Second one, above 0.
        uniform: float64 in [0, 1), any shape, on the host.

    Returns:
        float64 in [0, 1], like `uniform`.
    """
    return torch.as_tensor(betaincinv(a, b, uniform.numpy()), dtype=torch.float64)


def beta_log_density(a: float, b: float, value: Tensor) -> Tensor:
    """Log-density of Beta(a, b), float64 like `value`; infinite where it has a pole."""
    density: Tensor = torch.distributions.Beta(
        torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    ).log_prob(value)
    return density


@dataclass(frozen=True)
class MixDraw:
    """Who is mixed with whom, and how; on the host.

    Attributes:
        partner: (B,) int64, a permutation of the batch's rows.
        share: (B,) float64 in [0, 1], the papers' λ: how much of the image itself remains.
        gate: (B,) bool; a closed gate leaves the image as it is.
        place: (B, 2) float64 in [0, 1), y and x of a box's centre as shares of the image.
    """

    partner: Tensor
    share: Tensor
    gate: Tensor
    place: Tensor


class Mixing(Policy):
    """Mixes every image of a batch with another one of it, its partner.

    Args:
        alpha: λ ~ Beta(alpha, alpha).
        classes: Number of classes, the length of the soft targets.
        probability: How often a batch, or an image, is mixed at all.
        per: Whether all images of a batch share one λ (and gate and box), as in the papers' code,
            or each has its own.

    Raises:
        ValueError: If alpha is not above 0 or the probability not in [0, 1].
    """

    name: ClassVar[str]
    single = False

    def __init__(
        self, alpha: float, classes: int, probability: float = 1.0, per: Per = "batch"
    ) -> None:
        if not 0 < alpha < float("inf"):
            raise ValueError(f"{self.name}: alpha={alpha} must be above 0 and finite")
        if not 0 <= probability <= 1:
            raise ValueError(f"{self.name}: probability={probability} must be in [0, 1]")
        self.alpha = alpha
        self.classes = classes
        self.probability = probability
        self.per = per

    @abstractmethod
    def mixed(self, batch: Batch, draw: MixDraw) -> tuple[Tensor, Tensor]:
        """Mixed images, and how much of each image remains in them, (B,) float64 on the host."""

    def sample(self, index: Tensor, rng: torch.Generator) -> MixDraw:
        """Partners, λ, gates and places; always the same number of random values."""
        count = len(index)
        partner = torch.randperm(count, generator=rng)
        rows = 1 if self.per == "batch" else count
        uniform = torch.rand(rows, 4, generator=rng, dtype=torch.float64)
        share = beta(self.alpha, self.alpha, uniform[:, 0]).expand(count)
        gate = (uniform[:, 1] < self.probability).expand(count)
        return MixDraw(partner, share, gate, uniform[:, 2:].expand(count, 2))

    def apply(self, batch: Batch, draw: MixDraw) -> Batch:
        """Mixes images, and targets by how much of each image there is.

        Returns:
            The batch with targets (B, K) float32, whether it was mixed or not.

        Raises:
            ValueError: If the batch has views, whose targets would be wrong.
        """
        if batch.views:
            raise ValueError(f"{self.name} mixes no views: apply it before what makes them")
        images, share = self.mixed(batch, draw)
        targets = soft(batch.targets, self.classes)
        own = share.to(targets.device, torch.float32, non_blocking=True)[:, None]
        targets = _between(_partners(targets, draw), targets, own)
        return replace(batch, images=images, targets=targets)

    def log_prob(self, draw: MixDraw) -> Tensor:
        """Each image's own log-density: of its gate and, where that is open, its partner and λ.

        With one λ per batch these are marginals: the images' draws are then the same draw.
        """
        shut, opened = torch.tensor([1 - self.probability, self.probability]).log()
        pair = beta_log_density(self.alpha, self.alpha, draw.share) - np.log(len(draw.partner))
        return torch.where(draw.gate, opened + pair.float(), shut)

    def explain(self, draw: MixDraw, row: int) -> list[str]:
        """The λ that was drawn and the partner's row; nothing for a closed gate."""
        if not draw.gate[row]:
            return []
        return [f"{self.name} λ={draw.share[row].item():.2f} with {int(draw.partner[row])}"]

    def describe(self) -> dict[str, Any]:
        """Name and numbers."""
        return {
            "policy": self.name,
            "alpha": self.alpha,
            "probability": self.probability,
            "per": self.per,
            "classes": self.classes,
        }

    @classmethod
    def rebuild(cls, description: dict[str, Any]) -> Self:
        """The policy that gave this description."""
        return cls(**{name: value for name, value in description.items() if name != "policy"})


class Mixup(Mixing):
    """λ of an image plus 1 - λ of its partner, pixels and targets alike.

    The images become float32 with values 0..255: rounding them would lose what the targets say.
    Mixing raw pixels is the same as mixing normalised ones, since normalisation is affine and the
    weights add up to 1.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, section 2; one λ a
    batch, alpha 1 and the loss on CIFAR-10 as in facebookresearch/mixup-cifar10, train.py.
    """

    name = "mixup"

    def mixed(self, batch: Batch, draw: MixDraw) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) float32, and λ."""
        images = batch.images.float()
        kept = torch.where(draw.gate, draw.share, 1.0)
        own = kept.to(images.device, torch.float32, non_blocking=True).view(-1, 1, 1, 1)
        return _between(_partners(images, draw), images, own), kept


class CutMix(Mixing):
    """Pastes a box of its partner into an image; targets go by the share of the pixels.

    The box has about 1 - λ of the area, the image's proportions and a centre that is uniform over
    the pixels, and is cut off at the border.  The images keep their dtype.

    Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features", 2019, section 3; the box, its rounding, one λ and one box a batch, and
    the exact share as in clovaai/CutMix-PyTorch, train.py.
    """

    name = "cutmix"

    def mixed(self, batch: Batch, draw: MixDraw) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) with their boxes, and the exact share of their own pixels."""
        images = batch.images
        inside, area = [], torch.ones(len(images), dtype=torch.float64)
        for axis, side in enumerate(images.shape[-2:]):
            first, last = self._edges(draw, axis, side)
            near, far = torch.stack([first, last]).to(images.device, non_blocking=True)[..., None]
            along = torch.arange(side, device=images.device)
            inside.append((along >= near) & (along < far))
            area *= last - first
        box = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        kept = 1 - area / (images.shape[-2] * images.shape[-1])
        return torch.where(box, _partners(images, draw), images), kept

    def _edges(self, draw: MixDraw, axis: int, side: int) -> tuple[Tensor, Tensor]:
        """First row or column of each box and the one after its last, (B,) int64."""
        half = (side * (1 - draw.share).sqrt()).long() // 2
        half = torch.where(draw.gate, half, 0)
        centre = (draw.place[:, axis] * side).long()
        return (centre - half).clamp(0, side), (centre + half).clamp(0, side)


def soft(targets: Tensor, classes: int) -> Tensor:
    """Targets as shares of the classes, (B, K) float32; shares (B, K) stay what they are."""
    if targets.ndim == 2:
        return targets.float()
    shares = torch.zeros(len(targets), classes, device=targets.device)
    return shares.scatter_(1, targets[:, None], 1.0)


def _partners(values: Tensor, draw: MixDraw) -> Tensor:
    return values.index_select(0, draw.partner.to(values.device, non_blocking=True))


def _between(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """(1 - share) · start + share · end, in the form that never leaves the two by rounding."""
    return start + share * (end - start)
