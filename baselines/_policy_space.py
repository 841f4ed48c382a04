"""Spaces of augmentation: RandAugment's two numbers, or a probability and a strength of each row.

A training has crop, flip and Cutout around the policy, as every row with operations, and the
recipe's own optimiser.

Source: Cubuk et al., "RandAugment", 2020, section 4 (N and M); Ho et al., "Population Based
Augmentation", 2019, and Chen et al., "Hypernetwork-Based Augmentation", 2020 (the walk).
"""

from collections.abc import Sequence

import torch

from baselines._space import Candidate, Dimension, Space, Values, one_of, uniform
from bench.augment import choice, spaces
from bench.augment.population import LIMITS, Population
from bench.train.task import Task, around, fill

COUNTS = 1, 2, 3  # N
LEVELS = tuple(range(31))  # M, of 30
FEW = 5, 10, 15, 20, 25  # M of a grid
# A logit beyond which the sigmoid is 0 or 1 exactly, in float64; JSON has no infinity.
CERTAIN = 800.0
UNDER = "under the recipe's own optimiser"


def randaugment(operations: str = "randaugment", levels: Sequence[int] = LEVELS) -> Space:
    """N operations an image, all at level M.

    Args:
        operations: Name of their table.
        levels: The values of M, from 0 to 30 over the table's ranges.
    """

    def candidate(task: Task, values: Values) -> Candidate:
        table = spaces.space(operations)
        level = values["m"] * (table.top / LEVELS[-1])
        policy = choice.randaugment(table, int(values["n"]), level, fill(task))
        return Candidate(around(task, policy))

    said = f"searches RandAugment's N and M, {UNDER}"
    return Space((one_of("n", COUNTS), one_of("m", levels)), candidate, deviations=(said,))


def separately(operations: str = "pba") -> Space:
    """A probability of every row of a table, and a level of those that have a magnitude.

    An image gets 0, 1 or 2 operations, as in PBA and HBA; there each row comes twice, here once.

    Args:
        operations: Name of the table.
    """
    rows = [entry.label for entry in spaces.space(operations).entries]
    levelled = spaces.space(operations).has_magnitude.nonzero()[:, 0].tolist()
    names = [f"probability_{row}" for row in rows]
    names += [f"magnitude_{rows[row]}" for row in levelled]

    def candidate(task: Task, values: Values) -> Candidate:
        # λ's order is that of the names: all probabilities, then the levels.
        shares = torch.tensor([values[name] for name in names], dtype=torch.float64)
        entries = shares.logit().clamp(-CERTAIN, CERTAIN)
        table = spaces.space(operations)
        return Candidate(around(task, Population(table, fill(task), copies=1, entries=entries)))

    limits = ", ".join(f"{limit:g}" for limit in LIMITS)
    said = (
        f"searches a probability and a magnitude of each operation, {UNDER}",
        f"0, 1 or 2 operations an image with the probabilities {limits}, as PBA has them",
    )
    return Space(tuple(Dimension(name, uniform(0, 1)) for name in names), candidate, 1, said)
