"""Policies from the literature that need no search here: fixed distributions over operations.

All work on raw images, before the standard augmentation and Cutout; they differ in how many
operations an image gets, from which table, and how strong.
"""

from typing import ClassVar, Literal

from pydantic import Field

from bench.augment.autoaugment import autoaugment
from bench.augment.choice import randaugment, trivialaugment, uniformaugment
from bench.augment.policy import Policy
from bench.augment.spaces import space
from bench.method import FixedPolicy, LengthConfig, MethodConfig
from bench.train.task import Task, around, fill


class PolicyConfig(LengthConfig):
    """Options of these policies.

    Attributes:
        cutout: Whether Cutout follows, as the papers have it on CIFAR.
    """

    cutout: bool = True


class RandAugmentConfig(PolicyConfig):
    """Options of RandAugment.

    Attributes:
        n: Operations an image.
        m: Level of all of them, 0..30 over the space's ranges.
        space: Their table.
    """

    n: int = Field(2, ge=1, le=16)
    m: float = Field(9, ge=0, le=30)
    space: Literal["randaugment", "torchvision-randaugment", "wide-long"] = "randaugment"


class RandAugment(FixedPolicy):
    """N operations drawn uniformly, all at level M.

    Source: Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search
    Space", 2020; N = 2 and M = 9 as for ResNet-50 there, which its text puts on a scale of 30 and
    its released code on one of 10.  `randaugment-grid` searches for them.
    """

    name = "randaugment"
    Config: ClassVar[type[MethodConfig]] = RandAugmentConfig

    def policy(self, task: Task) -> Policy:
        """RandAugment, crop, flip, Cutout."""
        config = self.config
        policy = randaugment(space(config.space), config.n, config.m, fill(task))
        return around(task, policy, config.cutout)

    def deviations(self, task: Task) -> tuple[str, ...]:
        """Numbers that were never tuned for the task."""
        given = {"n", "m"} & self.config.model_fields_set
        text = "N = 2 and M = 9 of 30 are the paper's for ResNet-50 on ImageNet, not tuned here"
        return () if given else (text,)


TABLES = {"original": "uniformaugment", "gar": "randaugment", "gar-wide": "wide-long"}


class UniformAugmentConfig(PolicyConfig):
    """Options of UniformAugment.

    Attributes:
        kind: `original`; or GAR's version, two distinct operations at whole levels, from
            RandAugment's table (`gar`) or WideLong (`gar-wide`).
    """

    kind: Literal["original", "gar", "gar-wide"] = "original"


class UniformAugment(FixedPolicy):
    """Two operations drawn uniformly, each done half of the time, at uniform levels.

    Source: LingChen et al., "UniformAugment: A Search-free Probabilistic Data Augmentation
    Approach", 2020; GAR's version: Müller and Hutter, section 5.
    """

    name = "uniformaugment"
    Config: ClassVar[type[MethodConfig]] = UniformAugmentConfig

    def policy(self, task: Task) -> Policy:
        """UniformAugment, crop, flip, Cutout."""
        kind = self.config.kind
        policy = uniformaugment(space(TABLES[kind]), fill(task), gar=kind != "original")
        return around(task, policy, self.config.cutout)

    def deviations(self, task: Task) -> tuple[str, ...]:
        """What the original's table is taken from."""
        if self.config.kind != "original":
            return ()
        return ("the table is that of GAR's library, 16 operations with the identity among them",)


class TrivialAugmentConfig(PolicyConfig):
    """Options of TrivialAugment.

    Attributes:
        space: `wide`, or `narrow`, which its authors recommend for small networks.
    """

    space: Literal["wide", "narrow"] = "wide"


class TrivialAugment(FixedPolicy):
    """One operation drawn uniformly, at a uniform level.

    Source: Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data
    Augmentation", 2021.
    """

    name = "trivialaugment"
    Config: ClassVar[type[MethodConfig]] = TrivialAugmentConfig

    def policy(self, task: Task) -> Policy:
        """TrivialAugment, crop, flip, Cutout."""
        table = space(f"trivialaugment-{self.config.space}")
        return around(task, trivialaugment(table, fill(task)), self.config.cutout)


class AutoAugmentConfig(PolicyConfig):
    """Options of AutoAugment.

    Attributes:
        found: The data set that the published policy was searched on.
    """

    found: Literal["cifar10", "svhn", "imagenet"] = "cifar10"


class AutoAugment(FixedPolicy):
    """One of 25 published sub-policies of two operations an image; their search is not billed.

    Source: Cubuk et al., "AutoAugment: Learning Augmentation Strategies from Data", 2019,
    appendix.
    """

    name = "autoaugment"
    Config: ClassVar[type[MethodConfig]] = AutoAugmentConfig

    def policy(self, task: Task) -> Policy:
        """AutoAugment, crop, flip, Cutout."""
        policy = autoaugment(self.config.found, fill(task))
        return around(task, policy, self.config.cutout)

    def deviations(self, task: Task) -> tuple[str, ...]:
        """The search, which nobody could repeat here."""
        return (
            f"the policy was searched on {self.config.found} with full-size data; that search, "
            "thousands of GPU hours, is not on the bill",
            "magnitudes are torchvision's, whose enhancers weaken as often as they strengthen",
        )
