"""The spaces that a search can be over, by name."""

from collections.abc import Callable
from typing import Literal

from baselines import _optimiser_space as optimiser
from baselines import _policy_space as policies
from baselines import _recipe_space as recipe
from baselines import _regularisation_space as regularisation
from baselines._space import Space
from bench.augment.policy import Policy
from bench.train.task import Task, standard

SpaceName = Literal[
    "optimiser-wide",
    "optimiser-log",
    "optimiser-steps",
    "regularisers",
    "regularisers-grid",
    "randaugment",
    "policy",
    "recipe-wide",
    "recipe-log",
    "joint",
]
Operations = Literal["randaugment", "torchvision-randaugment", "wide-long", "pba", "pba-centred"]
WINDOWED = "optimiser-wide", "optimiser-log"  # have windows of the learning rate
TABLES = {"randaugment": "randaugment", "policy": "pba", "joint": "randaugment"}
RATES = 7  # windows, in FDS's random search


def space_of(
    name: SpaceName,
    task: Task | None = None,
    *,
    rates: int = RATES,
    operations: str | None = None,
    few: bool = False,
) -> Space:
    """The space of this name.

    Args:
        name: Which.
        task: What it is for; without one, images of 32 pixels and a network without dropouts.
        rates: Windows of the learning rate, where the space has them.
        operations: Name of the table of operations, where the space has one; its own by default.
        few: Whether a grid goes over it: RandAugment's M then has five values, not 31.
    """
    table = operations or TABLES.get(name, "")
    levels = policies.FEW if few else policies.LEVELS
    makers: dict[str, Callable[[], Space]] = {
        "optimiser-wide": lambda: optimiser.wide(rates),
        "optimiser-log": lambda: optimiser.logarithmic(rates),
        "optimiser-steps": optimiser.steps,
        "regularisers": lambda: regularisation.separate(*_shape(task)),
        "regularisers-grid": regularisation.shared,
        "randaugment": lambda: policies.randaugment(table, levels),
        "policy": lambda: policies.separately(table),
        "recipe-wide": recipe.wide,
        "recipe-log": recipe.logarithmic,
        "joint": lambda: recipe.joint(table),
    }
    return makers[name]()


def start_of(name: SpaceName, task: Task) -> Policy | None:
    """What augments before anything is known; None where a search has to say it."""
    if name in TABLES:
        return None
    return regularisation.start(task) if name.startswith("regularisers") else standard(task)


def refused(name: SpaceName, task: Task) -> str | None:
    """Why a task cannot be searched over this space; None if it can."""
    return regularisation.refused(task) if name.startswith("regularisers") else None


def _shape(task: Task | None) -> tuple[int, int]:
    """Side of the images and number of dropouts."""
    return (task.size, regularisation.dropouts(task)) if task else (32, 0)
