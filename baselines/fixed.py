"""Fixed policies: no augmentation, the standard crop and flip, and Cutout on top of it.

Each is available in its natural length, one reference training, and filled: the whole budget as
one longer training, which is what a method that searches has to beat.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from bench.augment.policy import Chain, Identity, Policy
from bench.method import Fitted, Method, MethodConfig
from bench.train.loops import fit
from bench.train.session import Session
from bench.train.task import Task, cutout, standard


class LengthConfig(MethodConfig):
    """Options of a fixed policy.

    Attributes:
        length: `natural` trains for one reference training, `filled` for the whole budget.
    """

    length: Literal["natural", "filled"] = "natural"


class FixedPolicy(Method):
    """Trains once under a policy that never changes."""

    Config: ClassVar[type[MethodConfig]] = LengthConfig

    @abstractmethod
    def policy(self, task: Task) -> Policy:
        """The policy for a task, the standard augmentation included where it is wanted."""

    def run(self, session: Session) -> Fitted:
        """One training."""
        learner, policy = session.learner(), self.policy(session.task)
        config: Any = self.config
        natural = session.task.recipe.steps if config.length == "natural" else None
        fit(session, learner, policy, steps=natural)
        return Fitted(learner, policy)


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
