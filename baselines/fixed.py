"""Fixed policies: no augmentation, the standard crop and flip, and Cutout on top of it.

Each is available in its natural length, one reference training, and filled: the whole budget as
one longer training, which is what a method that searches has to beat.
"""

from bench.augment.policy import Chain, Identity, Policy
from bench.method import FixedPolicy
from bench.train.task import Task, cutout, standard


class NoAugmentation(FixedPolicy):
    """Raw images."""

    name = "none"

    def policy(self, task: Task) -> Policy:
        """Nothing."""
        return Identity()


class Standard(FixedPolicy):
    """The recipe's padded crop and, where it keeps the label, horizontal flip."""

    name = "standard"

    def policy(self, task: Task) -> Policy:
        """Crop and flip."""
        return standard(task)


class CutoutBaseline(FixedPolicy):
    """The standard augmentation, then a square of half the image's side in its mean colour.

    Source: DeVries and Taylor 2017 (16 of 32 pixels on CIFAR-10).
    """

    name = "cutout"

    def policy(self, task: Task) -> Policy:
        """Crop, flip, Cutout."""
        return Chain(standard(task), cutout(task))
