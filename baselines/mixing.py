"""Fixed policies that mix images, after the standard augmentation: mixup, CutMix and AugMix."""

from typing import Any, ClassVar

from pydantic import Field

from bench.augment.augmix import LOWEST, AugMix
from bench.augment.mixing import CutMix, Mixup, Per
from bench.augment.policy import Chain, Policy
from bench.augment.spaces import space
from bench.method import FixedPolicy, LengthConfig, MethodConfig
from bench.train.losses import Loss, consistency
from bench.train.task import Task, standard


class MixupConfig(LengthConfig):
    """Options of mixup.

    Attributes:
        alpha: λ ~ Beta(alpha, alpha).
        per: Whether λ is drawn once a `batch`, as in the paper's code, or for each `image`.
    """

    alpha: float = Field(1.0, gt=0, allow_inf_nan=False)
    per: Per = "batch"


class CutMixConfig(MixupConfig):
    """Options of CutMix.

    Attributes:
        probability: How often it is done.
    """

    probability: float = Field(0.5, ge=0, le=1)


class AugMixConfig(LengthConfig):
    """Options of AugMix.

    Attributes:
        width: Chains a view.
        depth: Operations a chain; null draws 1, 2 or 3.
        severity: The highest level, of 10.
        alpha: Of the Dirichlet distribution of weights and the Beta distribution of blends.
        views: Augmented views beside the image.
        weight: Of the Jensen-Shannon divergence.
    """

    width: int = Field(3, ge=1)
    depth: int | None = Field(None, ge=1)
    severity: float = Field(3.0, gt=LOWEST, le=10)
    alpha: float = Field(1.0, gt=0, allow_inf_nan=False)
    views: int = Field(2, ge=1)
    weight: float = Field(12.0, ge=0, allow_inf_nan=False)


def _by_image(config: Any) -> tuple[str, ...]:
    drawn = "λ is drawn for each image, not once for each batch"
    return (drawn,) if config.per == "image" else ()


class MixupBaseline(FixedPolicy):
    """The standard augmentation, then mixup of whole batches.

    Source: Zhang et al. 2018; alpha 1 on CIFAR-10 as in facebookresearch/mixup-cifar10.
    """

    name = "mixup"
    Config: ClassVar[type[MethodConfig]] = MixupConfig

    def policy(self, task: Task) -> Policy:
        """Crop, flip, mixup."""
        return Chain(standard(task), Mixup(self.config.alpha, task.classes, per=self.config.per))

    def deviations(self, task: Task) -> tuple[str, ...]:
        """One λ an image, if chosen; and the recipe's weight decay, lower in the paper's code."""
        decay = task.recipe.weight_decay
        kept = (f"weight decay is the recipe's {decay:g}, not the 1e-4 of the paper's code",)
        return _by_image(self.config) + (kept if decay != 1e-4 else ())


class CutMixBaseline(FixedPolicy):
    """The standard augmentation, then CutMix of every second batch.

    Source: Yun et al. 2019; alpha 1 and probability 0.5 on CIFAR as in clovaai/CutMix-PyTorch.
    """

    name = "cutmix"
    Config: ClassVar[type[MethodConfig]] = CutMixConfig

    def policy(self, task: Task) -> Policy:
        """Crop, flip, CutMix."""
        config = self.config
        mixing = CutMix(config.alpha, task.classes, config.probability, config.per)
        return Chain(standard(task), mixing)

    def deviations(self, task: Task) -> tuple[str, ...]:
        """One λ and box an image, if chosen."""
        return _by_image(self.config)


class AugMixBaseline(FixedPolicy):
    """The standard augmentation, AugMix's views of it, and its consistency loss.

    Its steps cost as much as 1 + `views` others, so that one budget pays for fewer of them.

    Source: Hendrycks et al. 2020; numbers of google-research/augmix, cifar.py.
    """

    name = "augmix"
    Config: ClassVar[type[MethodConfig]] = AugMixConfig

    def minimum(self, task: Task) -> float:
        """One training of the recipe's length, with all views."""
        return 1.0 + self.config.views

    def policy(self, task: Task) -> Policy:
        """Crop, flip, then views."""
        config = self.config
        views = AugMix(
            space("augmix"),
            config.width,
            config.depth,
            config.severity,
            config.alpha,
            config.views,
        )
        return Chain(standard(task), views)

    def loss(self, task: Task) -> Loss:
        """Cross-entropy and consistency."""
        return consistency(self.config.weight)

    def deviations(self, task: Task) -> tuple[str, ...]:
        """The resampling; whole-pixel translations need none."""
        return ("rotations and shears are resampled by nearest neighbour, not bilinearly",)
