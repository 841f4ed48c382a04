"""AutoDO's λ: for each training image an augmentation, a loss weight and a soft label.

A batch takes its rows out, the hypergradient is found for them alone, and RMSprop moves them.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from bench.augment.per_point import WARPS, PerPoint
from bench.method import Points
from methods._implicit import Losses

Tensor = torch.Tensor
Labels = Literal["hard", "smooth", "learned"]
Moments = Literal["dense", "lazy"]
UNIT = 1 / math.log(2)  # makes the weight at λ = 0 one; the paper rounds it to 1.44


@dataclass(frozen=True)
class Rows:
    """λ of a batch.

    Attributes:
        gates: (B, 7) logits of the warps' probabilities; (1, 7) where all images share them.
        magnitudes: Likewise, of their spreads.
        weights: (B, 1), of loss weights, or None.
        labels: (B, K) logits of soft labels, or None.
    """

    gates: Tensor
    magnitudes: Tensor
    weights: Tensor | None = None
    labels: Tensor | None = None

    def learned(self) -> list[Tensor]:
        """Those that there are, in the order of the tables."""
        every = (self.gates, self.magnitudes, self.weights, self.labels)
        return [each for each in every if each is not None]

    def leaves(self) -> "Rows":
        """Copies that ask for gradients."""
        return Rows(
            *(
                None if each is None else each.detach().clone().requires_grad_()
                for each in (self.gates, self.magnitudes, self.weights, self.labels)
            )
        )


class Tables:
    """λ of all training images.

    N images and K classes take N·(14 + 1 + K) float32 numbers, RMSprop as many again, pricing a
    copy of both for a moment, and a replay's mean a third table: ImageNet's soft labels (N = 1.28
    million, K = 1,000) are 5.2 GB, so 10.4 GB in training and 21 GB while pricing.

    Args:
        policy: Holds the two tables of the augmentation.
        given: (N,) int64, the labels that came with the images.
        classes: K.
        weighted: Whether there are loss weights.
        labels: `hard`: cross-entropy with the given labels; `smooth`: a divergence from smoothed
            labels, which stay; `learned`: a divergence from soft labels that start there.
        smoothing: α of the smoothed labels.
        symmetric: Whether that divergence is the mean of both Kullback-Leibler divergences, or
            only that of the prediction from the label.

    Source: AutoDO, section 4.2.  Its formula for the first soft labels has a wrong sign: with
    log(1 - K + K/α) they are smoothed labels, with the printed one nothing.
    """

    def __init__(
        self,
        policy: PerPoint,
        given: Tensor,
        classes: int,
        weighted: bool,
        labels: Labels,
        smoothing: float,
        symmetric: bool,
    ) -> None:
        self.policy, self.given, self.classes = policy, given, classes
        self.kind, self.symmetric = labels, symmetric
        self.height = math.log(1 - classes + classes / smoothing)
        device, many = given.device, len(given)
        self.weights = torch.zeros(many, 1, device=device) if weighted else None
        self.labels = self.smoothed(given) if labels == "learned" else None

    def all(self) -> Rows:
        """The tables themselves."""
        return Rows(self.policy.gates, self.policy.magnitudes, self.weights, self.labels)

    def take(self, row: Tensor) -> Rows:
        """λ of the images in rows (B,)."""
        gates, magnitudes = self.policy.rows(row)
        return Rows(
            gates,
            magnitudes,
            None if self.weights is None else self.weights[row],
            None if self.labels is None else self.labels[row],
        )

    def losses(self, rows: Rows, given: Tensor) -> Losses:
        """What logits (B, K) cost, weighted, (B,), with gradients to the rows.

        Args:
            rows: λ of the batch.
            given: (B,) int64, its labels.
        """
        base = self._unweighted(rows, given)
        if rows.weights is None:
            return base
        weight = loss_weights(rows.weights)
        return lambda logits: weight * base(logits)

    def points(self) -> Points:
        """λ as weights, shares and probabilities, for the record.

        One augmentation for all images is repeated for each.
        """
        many, policy = len(self.given), self.policy
        return Points(
            weights=None if self.weights is None else loss_weights(self.weights),
            labels=None if self.labels is None else self.labels.softmax(1),
            probability=policy.probability().expand(many, -1),
            strength=policy.strength().expand(many, -1),
            operations=WARPS,
        )

    def smoothed(self, given: Tensor) -> Tensor:
        """Logits (B, K) whose softmax is 1 - α + α/K on the given class and α/K elsewhere."""
        low = torch.full((len(given), self.classes), -self.height / 2, device=given.device)
        return low.scatter_(1, given[:, None], self.height / 2)

    def state_dict(self) -> dict[str, Tensor]:
        """The tables themselves, for `session.keep`, which copies them."""
        return {str(i): table for i, table in enumerate(self.all().learned())}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts the tables back, in place."""
        for i, table in enumerate(self.all().learned()):
            table.copy_(state[str(i)])

    def _unweighted(self, rows: Rows, given: Tensor) -> Losses:
        if self.kind == "hard":
            return lambda logits: F.cross_entropy(logits, given, reduction="none")
        logits = self.smoothed(given) if rows.labels is None else rows.labels
        return divergence(logits, self.symmetric)


def loss_weights(logits: Tensor) -> Tensor:
    """Loss weights (B,) of logits (B, 1): log₂(1 + e^λ), 1 at 0."""
    return UNIT * F.softplus(logits[:, 0])


def divergence(labels: Tensor, symmetric: bool) -> Losses:
    """KL(y ‖ p) in nats, or ½ KL(y ‖ p) + ½ KL(p ‖ y); soft labels y by logits (B, K)."""
    log_y = labels.log_softmax(1)
    y = log_y.exp()

    def losses(logits: Tensor) -> Tensor:
        gap = log_y - logits.log_softmax(1)
        if not symmetric:
            return (y * gap).sum(1)
        return 0.5 * ((y - logits.softmax(1)) * gap).sum(1)

    return losses


class RMSprop:
    """RMSprop on tables of which a step sees only some rows.

    In a dense optimiser a row that has no gradient does not move, but its mean square decays.
    That is made up for when the row is next seen, by a power of the decay, so a step costs what
    its own rows cost.  An image is seen once an epoch, in P batches, and its mean square has faded
    by 0.99^P then; so under a constant gradient each sight moves it by 10 times the rate at first
    and by lr/√(0.01/(1 - 0.99^P)) in the long run: sign descent, whose step grows with the data
    set (4.3 times the rate at P = 20, 8.9 at 156).

    Args:
        tables: Each (R, K), moved in place; all have the same rows.
        moments: `dense` as above, which is torch's RMSprop; `lazy` lets mean squares wait, as
            sparse optimisers do: then a step is about `rate`, whatever the data set.
        decay: Of the mean square.
        tiny: Added to its root.

    Source: AutoDO, supplement A and code: torch's RMSprop with its defaults.
    """

    def __init__(
        self, tables: list[Tensor], moments: Moments, decay: float = 0.99, tiny: float = 1e-8
    ) -> None:
        self.tables, self.moments, self.decay, self.tiny = tables, moments, decay, tiny
        self.squares = [torch.zeros_like(table) for table in tables]
        self.seen = torch.zeros(len(tables[0]), dtype=torch.int64, device=tables[0].device)
        self.steps = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def step(self, row: Tensor, gradients: list[Tensor], rate: float) -> None:
        """Moves rows (B,), each named once, against gradients (B, K) of each table."""
        self.steps += 1
        waited = (int(self.steps) - self.seen[row])[:, None]
        self.seen[row] = int(self.steps)
        faded = self.decay ** (waited if self.moments == "dense" else torch.ones_like(waited))
        for table, square, gradient in zip(self.tables, self.squares, gradients, strict=True):
            mean = faded * square[row] + (1 - self.decay) * gradient.square()
            square[row] = mean
            table[row] -= rate * gradient / (mean.sqrt() + self.tiny)

    def state_dict(self) -> dict[str, Tensor]:
        """Mean squares and clocks themselves, for `session.keep`, which copies them."""
        squares = {f"square {i}": each for i, each in enumerate(self.squares)}
        return squares | {"seen": self.seen, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts them back, in place."""
        for i, each in enumerate(self.squares):
            each.copy_(state[f"square {i}"])
        self.seen.copy_(state["seen"])
        self.steps.copy_(state["steps"])


class Mean:
    """The time average of tables, for replays."""

    def __init__(self, tables: list[Tensor]) -> None:
        self.tables = tables
        self.totals = [torch.zeros_like(table) for table in tables]
        self.count = torch.zeros((), dtype=torch.int64)

    def add(self) -> None:
        """Counts the tables as they are now."""
        self.count += 1
        for total, table in zip(self.totals, self.tables, strict=True):
            total += table

    def put(self) -> None:
        """Sets the tables to their average; if nothing was counted they stay."""
        for total, table in zip(self.totals, self.tables, strict=True):
            table.copy_(torch.where(self.count > 0, total / self.count, table))

    def state_dict(self) -> dict[str, Tensor]:
        """The sums themselves, for `session.keep`, which copies them."""
        return {str(i): total for i, total in enumerate(self.totals)} | {"count": self.count}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts them back."""
        for i, total in enumerate(self.totals):
            total.copy_(state[str(i)])
        self.count.copy_(state["count"])
