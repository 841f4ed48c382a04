"""What a method is: a configuration and a procedure that turns a session into a fitted learner.

    class FlipCrop(Method):
        name = "flip-crop"

        def run(self, session):
            learner, policy = session.learner(), standard(session.task)
            fit(session, learner, policy)
            return Fitted(learner, policy)

A method owns its procedure: hooks into somebody else's loop could not express many whole
trainings, N sets of weights, a linear solve or a search.  What it may touch is the `Session`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from bench.augment.policy import Policy
from bench.train.learner import Learner
from bench.train.loops import fit
from bench.train.losses import Loss, cross_entropy
from bench.train.session import Session
from bench.train.task import Task

CleanLabels = Literal["none", "selection", "hypergradient"]


class MethodConfig(BaseModel):
    """A method's options: frozen, validated, with the paper's values as defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


@dataclass(frozen=True)
class Fitted:
    """What a method leaves behind.

    Attributes:
        learner: Its weights are scored on the test set, once, as they are.
        policy: The policy at the end, for the record and for export.
        deviations: Every difference from the paper that this run had, in words.
    """

    learner: Learner
    policy: Policy
    deviations: tuple[str, ...] = ()


class Method(ABC):
    """A way to train a network with augmentation under a budget.

    Class attributes:
        name: What `-m` calls it.
        learned: Whether it learns its policy; such rows form the family of the Holm adjustment.
        clean_labels: What it does with the clean validation labels.
        Config: Its options.
    """

    name: ClassVar[str]
    learned: ClassVar[bool] = False
    clean_labels: ClassVar[CleanLabels] = "none"
    Config: ClassVar[type[MethodConfig]] = MethodConfig

    def __init__(self, config: Any = None) -> None:
        self.config = config if config is not None else self.Config()

    def skip(self, task: Task, budget: float) -> str | None:
        """Why this method cannot run on this task with this budget (RT); None if it can."""
        return None

    def minimum(self, task: Task) -> float:
        """Smallest faithful budget in RT; below it the row is labelled "scaled"."""
        return 0.0

    def policy(self, task: Task) -> Policy | None:
        """The policy that training starts from, for `augbench preview`; None if there is none."""
        return None

    @abstractmethod
    def run(self, session: Session) -> Fitted:
        """Trains within the session's budget and returns the final weights.

        Raises:
            BudgetExhausted: Never out of here: loops run inside `session.slice`.
        """


class LengthConfig(MethodConfig):
    """Options of a fixed policy.

    Attributes:
        length: `natural` trains for one reference training, `filled` for the whole budget.
    """

    length: Literal["natural", "filled"] = "natural"


class FixedPolicy(Method):
    """Trains once under a policy that never changes."""

    Config = LengthConfig

    @abstractmethod
    def policy(self, task: Task) -> Policy:
        """The policy for a task, the standard augmentation included where it is wanted."""

    def loss(self, task: Task) -> Loss:
        """What is minimised; a policy that gives views needs a loss that uses them."""
        return cross_entropy

    def deviations(self, task: Task) -> tuple[str, ...]:
        """Every difference from the paper, in words."""
        return ()

    def run(self, session: Session) -> Fitted:
        """One training."""
        task, learner = session.task, session.learner()
        policy = self.policy(task)
        config: Any = self.config
        natural = task.recipe.steps if config.length == "natural" else None
        fit(session, learner, policy, steps=natural, loss=self.loss(task))
        return Fitted(learner, policy, self.deviations(task))
