"""Spaces of regularisation: seven strengths of augmentation and a rate for each dropout.

Source: the comparison of HBA (Chen et al., 2020, Table 6) and STN (MacKay et al., 2019) with
random and grid search.  Neither prints its grid: this one moves all dropouts together and all
strengths together.
"""

import torch

from baselines._space import Candidate, Dimension, Prepare, Space, Values, one_of, uniform
from bench.augment.policy import Batch, Policy
from bench.augment.regularisers import AUGMENTATION, Regularisers, regularisers
from bench.rng import generator
from bench.train.dropout import attach, regularised, sites
from bench.train.learner import Learner
from bench.train.losses import Loss, cross_entropy
from bench.train.session import Session
from bench.train.task import Task, around, fill

RATES = 0.0, 0.1, 0.2, 0.3, 0.5  # of all dropouts
STRENGTHS = 0.0, 0.05, 0.1, 0.2, 0.4  # of all augmentation, as shares of their ranges
OVER = "searches regularisation, under the recipe's own optimiser"
UNDER = "the recipe's crop and flip lie under the regularisers, as under every row"


def separate(size: int, dropouts: int) -> Space:
    """Every strength evenly over its range.

    Args:
        size: Side of the images.
        dropouts: How many the network has.
    """
    table = regularisers(size, dropouts)
    dimensions = [Dimension(each.name, uniform(0, each.top)) for each in table]

    def candidate(task: Task, values: Values) -> Candidate:
        return _candidate(task, [values[each.name] for each in table])

    return Space(tuple(dimensions), candidate, deviations=(OVER, UNDER))


def shared() -> Space:
    """A grid of 25 points over one rate and one strength."""

    def candidate(task: Task, values: Values) -> Candidate:
        table = regularisers(task.size, dropouts(task))
        strengths = [values["strength"] * each.top for each in table[:AUGMENTATION]]
        rates = [values["dropout"]] * (len(table) - AUGMENTATION)
        return _candidate(task, strengths + rates)

    knobs = one_of("dropout", RATES), one_of("strength", STRENGTHS)
    said = "the paper's grid is not printed: 5 rates of all dropouts by 5 strengths of the rest"
    return Space(knobs, candidate, deviations=(OVER, UNDER, said))


def dropouts(task: Task) -> int:
    """How many dropouts a task's network has.

    Raises:
        ValueError: If it is no chain of layers.
    """
    with torch.device("meta"):
        return sum(len(site.columns) for site in sites(task.network(), _shape(task)))


def refused(task: Task) -> str | None:
    """Why a task's network cannot have dropouts; None if it can."""
    try:
        dropouts(task)
    except ValueError as error:
        return str(error)
    return None


def start(task: Task) -> Policy:
    """The augmentation where STN starts it."""
    shape, count = (task.size, task.size), dropouts(task)
    return around(task, Regularisers(shape, fill(task).hole, dropouts=count), square=False)


def _candidate(task: Task, strengths: list[float]) -> Candidate:
    """The regularisers with these strengths in all images, under the recipe's own optimiser."""
    count = len(strengths) - AUGMENTATION
    policy = Regularisers((task.size, task.size), fill(task).hole, dropouts=count)
    policy.entries.copy_(policy.at(strengths))
    return Candidate(around(task, policy, square=False), prepare=_dropping(policy))


def _dropping(policy: Regularisers) -> Prepare:
    """Hangs dropouts into a learner's network; the loss of passes with their rates."""

    def prepare(session: Session, learner: Learner, stream: str) -> Loss:
        task = session.task
        attach(learner.network, _shape(task))
        trial = session.tallies.get("trials", 0)
        masks = generator("masks", session.seed, stream, trial, device=task.device)
        session.keep(**{f"masks {stream}": masks})  # trials of halving wait with theirs
        strengths = policy.inside(policy.entries).float().to(task.device)

        def loss(learner: Learner, batch: Batch) -> torch.Tensor:
            with regularised(learner.network, strengths, masks):
                return cross_entropy(learner, batch)

        return loss

    return prepare


def _shape(task: Task) -> tuple[int, int, int]:
    return task.channels, task.size, task.size
