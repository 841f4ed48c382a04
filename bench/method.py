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
from torch import Tensor

from bench.augment.policy import Policy
from bench.data.arrays import Arrays
from bench.train.learner import Learner
from bench.train.loops import fit
from bench.train.losses import Loss, cross_entropy
from bench.train.session import Session
from bench.train.task import Task

CleanLabels = Literal["none", "selection", "hypergradient", "training"]
SUM_TOLERANCE = 1e-3  # of soft labels, which may have been added up in half precision


class MethodConfig(BaseModel):
    """A method's options: frozen, validated, with the paper's values as defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


@dataclass(frozen=True, eq=False)
class Points:
    """What a method learned about each training image; row i is image i of `task.train`.

    The harness saves the tables beside the record, and holds them against the true labels, which
    no method sees.

    Attributes:
        weights: (N,) float, finite and >= 0: how much each image's loss counts.
        labels: (N, K) float: each image's shares of the classes; rows sum to 1.
        probability: (N, A) float in [0, 1]: of each operation.
        strength: (N, A) float, finite and >= 0: the spread of each operation's magnitude, as a
            share of its range.
        operations: Names of the A operations; empty exactly without the two tables before.
    """

    weights: Tensor | None = None
    labels: Tensor | None = None
    probability: Tensor | None = None
    strength: Tensor | None = None
    operations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks shapes and values.

        Raises:
            ValueError: They contradict each other or the attributes' ranges.
        """
        tables = self.tables()
        if not tables:
            raise ValueError("points without weights, labels, probability or strength say nothing")
        names = len(self.operations)
        for name, table in tables.items():
            if table.dim() != (1 if name == "weights" else 2) or table.numel() == 0:
                wanted = "(N,)" if name == "weights" else "(N, columns)"
                raise ValueError(f"points' {name} are {tuple(table.shape)}, not {wanted}")
            if name in ("probability", "strength") and table.shape[1] != names:
                raise ValueError(f"points' {name} has {table.shape[1]} columns, {names} names")
            _check_range(name, table)
        if names and self.probability is None and self.strength is None:
            raise ValueError(f"points name {names} operations without a table of them")
        lengths = {name: len(table) for name, table in tables.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"points' tables have different numbers of rows: {lengths}")
        if self.labels is not None and not (self.labels.sum(1) - 1).abs().max() <= SUM_TOLERANCE:
            raise ValueError("points' labels have rows that do not sum to 1")

    def tables(self) -> dict[str, Tensor]:
        """The tables that there are, by name."""
        named = {
            "weights": self.weights,
            "labels": self.labels,
            "probability": self.probability,
            "strength": self.strength,
        }
        return {name: table for name, table in named.items() if table is not None}


def _check_range(name: str, table: Tensor) -> None:
    """Least and largest value, without a second table: NaN is in no range."""
    low, high = (value.item() for value in table.detach().aminmax())
    top = 1.0 if name in ("labels", "probability") else float("inf")
    if not (low >= 0 and high <= top and high < float("inf")):
        allowed = "in [0, 1]" if top == 1 else "finite and at least 0"
        raise ValueError(f"points' {name} go from {low:g} to {high:g}; they must be {allowed}")


@dataclass(frozen=True)
class Fitted:
    """What a method leaves behind.

    Attributes:
        learner: Its weights are scored on the test set, once, as they are.
        policy: The policy at the end, for the record and for export.
        deviations: Every difference from the paper that this run had, in words.
        points: What was learned about each training image, if anything was.
    """

    learner: Learner
    policy: Policy
    deviations: tuple[str, ...] = ()
    points: Points | None = None


class Method(ABC):
    """A way to train a network with augmentation under a budget.

    Class attributes:
        name: What `-m` calls it.
        learned: Whether it learns its policy; such rows form the family of the Holm adjustment.
        clean_labels: What it does with the clean validation labels; see `declared`.
        Config: Its options.
    """

    name: ClassVar[str]
    learned: ClassVar[bool] = False
    clean_labels: ClassVar[CleanLabels] = "none"
    Config: ClassVar[type[MethodConfig]] = MethodConfig

    def __init__(self, config: Any = None) -> None:
        self.config = config if config is not None else self.Config()

    @classmethod
    def declared(cls, config: Any) -> CleanLabels:
        """What it does with the clean validation labels under these options, for the record."""
        return cls.clean_labels

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
        data: What it trains on.  The distorted training images; or, as a control for methods that
            are given clean labels, the clean validation images as well or alone.
    """

    length: Literal["natural", "filled"] = "natural"
    data: Literal["train", "train+val", "val"] = "train"


class FixedPolicy(Method):
    """Trains once under a policy that never changes."""

    Config = LengthConfig

    @classmethod
    def declared(cls, config: Any) -> CleanLabels:
        """`training` where it trains on the clean validation images."""
        return cls.clean_labels if config.data == "train" else "training"

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
        data: Literal["train", "val"] | Arrays = (
            task.train.joined(task.val) if config.data == "train+val" else config.data
        )
        fit(session, learner, policy, steps=natural, loss=self.loss(task), data=data)
        return Fitted(learner, policy, self.deviations(task))
