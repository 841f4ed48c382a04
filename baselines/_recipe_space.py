"""Spaces of the recipe: peak learning rate, momentum and weight decay under its own schedule.

The shape of the schedule, warm-up and cosine, stays the recipe's; so does Nesterov's momentum,
where the ranges allow it.  `joint` searches RandAugment's N and M at the same time.

Source: the ranges are those of `_optimiser_space`.
"""

from collections.abc import Sequence

from baselines import _policy_space
from baselines._optimiser_space import LOG, WIDE, Ranges
from baselines._space import Candidate, Dimension, Prepare, Setting, Space, Values
from bench.augment.policy import Policy
from bench.train.learner import Learner
from bench.train.losses import Loss, cross_entropy
from bench.train.recipe import Recipe
from bench.train.session import Session
from bench.train.task import Task, standard


def wide() -> Space:
    """The ranges of FDS, negative values included: most of the points ruin a training."""

    def candidate(task: Task, values: Values) -> Candidate:
        recipe = task.recipe

        def setting(progress: float) -> Setting:
            rate = values["rate"] * recipe.rate(progress) / recipe.lr
            return rate, values["momentum"], values["decay"]

        return Candidate(standard(task), setting)

    return Space(
        _dimensions(WIDE),
        candidate,
        deviations=(
            "searches the recipe's rate, momentum and decay under its own schedule",
            "heavy ball, not Nesterov's momentum: the ranges have negative values",
        ),
    )


def logarithmic() -> Space:
    """Ranges of useful values, under the recipe's own optimiser."""

    def candidate(task: Task, values: Values) -> Candidate:
        return _under(task, values, standard(task))

    said = "searches the recipe's rate, momentum and decay under its own schedule"
    return Space(_dimensions(LOG), candidate, deviations=(said,))


def joint(operations: str = "randaugment") -> Space:
    """RandAugment's N and M, and the recipe in its useful ranges.

    Args:
        operations: Name of RandAugment's table.
    """
    policies = _policy_space.randaugment(operations)

    def candidate(task: Task, values: Values) -> Candidate:
        return _under(task, values, policies.candidate(task, values).policy)

    said = "searches RandAugment's N and M together with the recipe's rate, momentum and decay"
    return Space((*policies.dimensions, *_dimensions(LOG)), candidate, deviations=(said,))


def _dimensions(ranges: Ranges) -> Sequence[Dimension]:
    return tuple(Dimension(name, scale) for name, scale in ranges._asdict().items())


def _under(task: Task, values: Values, policy: Policy) -> Candidate:
    """A policy under the task's recipe with other numbers."""
    own = {"lr": values["rate"], "momentum": values["momentum"], "weight_decay": values["decay"]}
    return Candidate(policy, prepare=_following(Recipe(**(task.recipe.model_dump() | own))))


def _following(recipe: Recipe) -> Prepare:
    """Gives a learner another recipe and that one's optimiser, which has not moved yet."""

    def prepare(session: Session, learner: Learner, stream: str) -> Loss:
        learner.recipe = recipe
        learner.optimiser = recipe.optimiser(learner.network.parameters())
        return cross_entropy

    return prepare
