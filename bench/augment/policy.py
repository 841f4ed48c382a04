"""A policy is three pure functions: draw for a batch, apply the draw, weigh it.

draw = policy.sample(batch.index, rng)      # host: what happens to each image
batch = policy.apply(batch, draw)           # device: the pixels
log_p = policy.log_prob(draw)               # (B,), for score-function methods
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image

from bench.errors import ConfigError


@dataclass(frozen=True)
class Batch:
    """A batch of images on the device.

    Attributes:
        images: (B, C, H, W) uint8; after mixup or a `PerPoint` warp float32 with values 0..255,
            which only a learner or another such policy takes.
        targets: (B,) int64 classes; (B, K) float32 shares of them after a mixing policy.
        index: (B,) int64 on the host: rows of the training set.
        views: Further augmentations of the same images with the same targets, each shaped like
            `images`, float32 with values 0..255 from AugMix.  Policies after the one that adds
            them leave them as they are; a loss must use them.
    """

    images: torch.Tensor
    targets: torch.Tensor
    index: torch.Tensor
    views: tuple[torch.Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


class Policy(ABC):
    """How to augment a batch.  `sample` is the only source of randomness.

    Attributes:
        single: Whether it works on each image by itself, so that `transform` can.
        indexed: Whether it depends on which image of the training set it is given.
    """

    single: bool = True
    indexed: bool = False

    @abstractmethod
    def sample(self, index: torch.Tensor, rng: torch.Generator) -> Any:
        """Draws what happens to each image.

        Args:
            index: (B,) int64, the images' rows in the training set.
            rng: A host generator.
        """

    @abstractmethod
    def apply(self, batch: Batch, draw: Any) -> Batch:
        """Applies a draw of the same length to a batch; neither is changed."""

    @abstractmethod
    def log_prob(self, draw: Any) -> torch.Tensor:
        """Log-probability of each image's draw, (B,) float."""

    def transform(self, image: Image, draw: Any, row: int) -> Image:
        """What `apply` does to number `row` of a batch, done to one Pillow image, bit for bit.

        For exported policies in an ordinary data loader; image by image, and so slow.

        Raises:
            ConfigError: If the policy has no such form, or the image is no such image.
        """
        raise ConfigError(f"{type(self).__name__} has no form for one image alone")

    @abstractmethod
    def explain(self, draw: Any, row: int) -> list[str]:
        """In words, what a draw does to image number `row` of its batch; for pictures."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The policy as plain data for the record: its name and its numbers."""


class Identity(Policy):
    """Leaves every image as it is."""

    def sample(self, index: torch.Tensor, rng: torch.Generator) -> int:
        """Draws nothing; remembers how many images there are."""
        return len(index)

    def apply(self, batch: Batch, draw: int) -> Batch:
        """The batch itself."""
        return batch

    def transform(self, image: Image, draw: int, row: int) -> Image:
        """The image itself."""
        return image

    def log_prob(self, draw: int) -> torch.Tensor:
        """Zeros: it is certain."""
        return torch.zeros(draw)

    def explain(self, draw: int, row: int) -> list[str]:
        """Nothing."""
        return []

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"policy": "identity"}


class Chain(Policy):
    """Applies independent policies one after the other."""

    def __init__(self, first: Policy, *others: Policy) -> None:
        self.policies = (first, *others)
        self.single = all(policy.single for policy in self.policies)
        self.indexed = any(policy.indexed for policy in self.policies)

    def sample(self, index: torch.Tensor, rng: torch.Generator) -> tuple[Any, ...]:
        """One draw of each policy, in order."""
        return tuple(policy.sample(index, rng) for policy in self.policies)

    def apply(self, batch: Batch, draw: tuple[Any, ...]) -> Batch:
        """Applies them in order."""
        for policy, part in zip(self.policies, draw, strict=True):
            batch = policy.apply(batch, part)
        return batch

    def transform(self, image: Image, draw: tuple[Any, ...], row: int) -> Image:
        """Applies them in order."""
        for policy, part in zip(self.policies, draw, strict=True):
            image = policy.transform(image, part, row)
        return image

    def log_prob(self, draw: tuple[Any, ...]) -> torch.Tensor:
        """The sum over the policies, which draw independently."""
        parts = zip(self.policies, draw, strict=True)
        return torch.stack([policy.log_prob(part) for policy, part in parts]).sum(0)

    def explain(self, draw: tuple[Any, ...], row: int) -> list[str]:
        """What each policy does, in order."""
        parts = zip(self.policies, draw, strict=True)
        return [word for policy, part in parts for word in policy.explain(part, row)]

    def describe(self) -> dict[str, Any]:
        """Its policies, in order."""
        return {"policy": "chain", "of": [policy.describe() for policy in self.policies]}
