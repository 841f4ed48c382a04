"""Distributions over a space with parameters to learn: log-probabilities are differentiable.

Notation: B images, L slots, A rows of the space.  Parameters are float64 leaves on the host, which
a method may ask gradients for and change in place; sampling never records a graph.  What counts
in a log-probability is settled in `choice`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.nn.functional import log_softmax, logsigmoid

from bench.augment.choice import Choice, Described, dice, distinct
from bench.augment.engine import BLACK, Fill
from bench.augment.space import Draw, Space

Tensor = torch.Tensor
Values = Tensor | Sequence[Any] | float
Weigh = Literal["softmax", "sigmoid"]


def parameter(values: Values, *shape: int) -> Tensor:
    """A leaf of its own, float64 on the host, with values broadcast to a shape."""
    given = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    return given.expand(shape).clone()


def edges(probability: Tensor) -> Tensor:
    """The inner steps of distribution functions: (..., K) probabilities to (..., K - 1)."""
    return probability.cumsum(-1)[..., :-1].contiguous()


def pick(steps: Tensor, uniform: Tensor) -> Tensor:
    """Inverts distribution functions.

    Args:
        steps: (K - 1,), or (..., K - 1) for a function each: their inner steps.
        uniform: In [0, 1), of any shape, or (...).

    Returns:
        int64 below K, like `uniform`.
    """
    if steps.ndim == 1:
        return torch.searchsorted(steps, uniform, right=True)
    return torch.searchsorted(steps, uniform[..., None], right=True)[..., 0]


def coin(heads: Tensor, logit: Tensor) -> Tensor:
    """Log-probability of what a coin shows that shows heads with the probability σ(logit)."""
    return logsigmoid(torch.where(heads, logit, -logit))


class Learnable(Described):
    """A policy with parameters; `learned` names the attributes that hold them."""

    learned: ClassVar[tuple[str, ...]]

    def parameters(self) -> list[Tensor]:
        """The leaves, in the order of `learned`; ask them for gradients with `requires_grad_`."""
        return [getattr(self, name) for name in self.learned]

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters by name, for `session.keep`."""
        return {name: getattr(self, name).detach().clone() for name in self.learned}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts the parameters back, in place."""
        with torch.no_grad():
            for name in self.learned:
                getattr(self, name).copy_(state[name])

    def numbers(self) -> dict[str, Any]:
        """The parameters."""
        return {name: getattr(self, name).tolist() for name in self.learned}


def pairs(space: Space) -> Tensor:
    """All ordered pairs of rows, repeats included, (A², 2) int64: OHL's elements."""
    rows = torch.arange(len(space))
    return torch.cartesian_prod(rows, rows)


class Categorical(Learnable):
    """One element an image out of a list of sequences of operations; each is always done.

    Args:
        space: The table.
        fill: Colours.
        elements: (K, L) rows of the space.
        weigh: p ∝ exp(logit), or p ∝ σ(logit).
        logits: (K,), or one value for all.
        level: The level of all; rows of one strength take any.

    Source: OHL-Auto-Aug, section 3.3: the normalised sigmoid over all pairs of its 36 elements.
    """

    kind = "categorical"
    learned = ("logits",)

    def __init__(
        self,
        space: Space,
        fill: Fill = BLACK,
        *,
        elements: Tensor | Sequence[Sequence[int]],
        weigh: Weigh = "softmax",
        logits: Values = 0.0,
        level: float = 0.0,
    ) -> None:
        super().__init__(space, fill)
        if weigh not in ("softmax", "sigmoid"):
            raise ValueError(f"weigh={weigh!r}: softmax and sigmoid are allowed")
        self.elements = torch.as_tensor(elements, dtype=torch.int64)
        self.weigh, self.level = weigh, level
        self.logits = parameter(logits, len(self.elements))

    def log_probabilities(self) -> Tensor:
        """Of every element, (K,)."""
        score = self.logits if self.weigh == "softmax" else logsigmoid(self.logits)
        return log_softmax(score, -1)

    @torch.no_grad()
    def marginals(self) -> Tensor:
        """The probability that an image's first operation is each row, (A,)."""
        none = torch.zeros(len(self.space), dtype=torch.float64)
        return none.index_add(0, self.elements[:, 0], self.log_probabilities().exp())

    @torch.no_grad()
    def sample(self, index: Tensor, rng: torch.Generator) -> Choice:
        """Always the same number of random values an image."""
        choice = pick(edges(self.log_probabilities().exp()), dice(rng, len(index)))
        op = self.elements[choice]
        sign = dice(rng, *op.shape) < 0.5
        place = dice(rng, *op.shape, 2)
        level = torch.full(op.shape, self.level, dtype=torch.float64)
        return Choice(op, level, torch.ones_like(sign), sign, place, choice)

    def log_prob(self, draw: Choice) -> Tensor:
        """Log-probability of the elements and signs, (B,) float64."""
        return self.log_probabilities()[draw.choice] + self._signs(draw).sum(1)

    def numbers(self) -> dict[str, Any]:
        """Elements, weighing, level and logits."""
        own = {"elements": self.elements.tolist(), "weigh": self.weigh, "level": self.level}
        return own | super().numbers()


@dataclass(frozen=True)
class Counted(Draw):
    """A draw that uses some of its slots; gates behind those are closed.

    Attributes:
        count: (B,) int64, how many.
    """

    count: Tensor


class OpsAndLevels(Learnable):
    """A learned number of distinct operations; each learns how often it is kept and how strong.

    The number r is softmax-distributed on 1..L; r distinct rows are uniform; row a is kept with
    the probability σ(keeps[a]), and then has a level k with the probability softmax(levels[a])[k].

    Args:
        space: The table; its levels are 0, 1, ..., top.
        fill: Colours.
        longest: L.
        counts: (L,) logits of the number of operations, or one value for all.
        keeps: (A,) logits.
        levels: (A, top + 1) logits.

    Source: GAR, Algorithm 2 (Online-Learned Augmentation-Strategy).  Its code draws operations
    with replacement; the paper and this do not.  Deviation: levels of operations without a
    magnitude do not count, since they change no image and their gradient would be noise.
    """

    kind = "ops-and-levels"
    learned = ("counts", "keeps", "levels")

    def __init__(
        self,
        space: Space,
        fill: Fill = BLACK,
        *,
        longest: int = 4,
        counts: Values = 0.0,
        keeps: Values = 0.0,
        levels: Values = 0.0,
    ) -> None:
        super().__init__(space, fill)
        if not 1 <= longest <= len(space) or space.top < 2:
            raise ValueError(f"longest={longest}, levels 0..{space.top:g} for {len(space)} rows")
        self.longest = longest
        self.counts = parameter(counts, longest)
        self.keeps = parameter(keeps, len(space))
        self.levels = parameter(levels, len(space), int(space.top) + 1)

    @torch.no_grad()
    def sample(self, index: Tensor, rng: torch.Generator) -> Counted:
        """Always the same number of random values an image."""
        shape = len(index), self.longest
        count = 1 + pick(edges(self.counts.softmax(-1)), dice(rng, len(index)))
        op, level, gate, sign = dice(rng, 4, *shape)
        op = distinct(op, len(self.space))
        used = torch.arange(self.longest) < count[:, None]
        gate = used & (gate < self.keeps.sigmoid()[op])
        level = pick(edges(self.levels.softmax(-1))[op], level).double()
        return Counted(op, level, gate, sign < 0.5, dice(rng, *shape, 2), count)

    def log_prob(self, draw: Counted) -> Tensor:
        """Log-probability of the number, the operations and what they do, (B,) float64."""
        many, op = len(self.space), draw.op
        numbers = range(1, self.longest + 1)
        order = torch.tensor([math.log(math.perm(many, r)) for r in numbers], dtype=torch.float64)
        counts = log_softmax(self.counts, -1) - order
        levels = log_softmax(self.levels, -1)[op, draw.level.long()]
        levels = torch.where(draw.gate & self.space.has_magnitude[op], levels, 0.0)
        used = torch.arange(self.longest) < draw.count[:, None]
        gates = torch.where(used, coin(draw.gate, self.keeps[op]), 0.0)
        return counts[draw.count - 1] + (gates + levels + self._signs(draw)).sum(1)

    def numbers(self) -> dict[str, Any]:
        """The parameters and the longest sequence."""
        return {"longest": self.longest} | super().numbers()


@dataclass(frozen=True)
class Walk(Draw):
    """A draw that walked along a shuffled list until enough operations were done.

    Attributes:
        order: (B, P) int64, the shuffled list.
        done: (B, P) bool, which of its operations were done, in the list's order.
        limit: (B,) int64, after how many the walk stopped.
    """

    order: Tensor
    done: Tensor
    limit: Tensor

    @property
    def walked(self) -> Tensor:
        """(B, P) bool: which places of the list the walk reached."""
        before = self.done.cumsum(1) - self.done.long()
        return before < self.limit[:, None]


class Gated(Learnable):
    """Copies of every operation, each with a probability and a level; a few are done.

    A limit is drawn, the P = copies · A pairs are shuffled, and each in turn is done with its
    probability until the limit is reached.  Pair i is of row i % A.

    Args:
        space: The table.
        fill: Colours.
        copies: Pairs of probability and level that each row has.
        limits: Probabilities of the limits 0, 1, ..., L.
        probabilities: (P,) logits, or one value for all.
        magnitudes: (P,) logits: the level is top · σ(logit); without meaning for rows that have
            no magnitude.

    Source: PBA, Algorithm 1 and its code; HBA, appendix A (logits, two copies of 15 rows).
    """

    kind = "gated"
    learned = ("probabilities", "magnitudes")

    def __init__(
        self,
        space: Space,
        fill: Fill = BLACK,
        *,
        copies: int = 2,
        limits: Sequence[float] = (0.2, 0.3, 0.5),
        probabilities: Values = 0.0,
        magnitudes: Values = 0.0,
    ) -> None:
        super().__init__(space, fill)
        if min(limits) < 0 or not math.isclose(sum(limits), 1, abs_tol=1e-9):
            raise ValueError(f"limits={limits} are no probabilities of 0, 1, ... operations")
        self.copies, self.limits = copies, tuple(limits)
        self.rows = torch.arange(len(space)).repeat(copies)
        self.probabilities = parameter(probabilities, len(self.rows))
        self.magnitudes = parameter(magnitudes, len(self.rows))

    def sample(self, index: Tensor, rng: torch.Generator) -> Walk:
        """Always the same number of random values an image."""
        return self.sample_with(self.probabilities, self.magnitudes, index, rng)

    @torch.no_grad()
    def sample_with(
        self, probabilities: Tensor, magnitudes: Tensor, index: Tensor, rng: torch.Generator
    ) -> Walk:
        """Samples with logits other than the policy's own, e.g. perturbed for each image.

        Args:
            probabilities: (P,) or (B, P).
            magnitudes: Likewise.
            index: (B,).
            rng: A host generator.
        """
        count, many, slots = len(index), len(self.rows), len(self.limits) - 1
        order = torch.from_numpy(np.argsort(dice(rng, count, many).numpy(), 1))
        logit, size = (x.expand(count, many) for x in (probabilities, magnitudes))
        heads = dice(rng, count, many) < logit.sigmoid().gather(1, order)
        limit = pick(edges(torch.tensor(self.limits, dtype=torch.float64)), dice(rng, count))
        done = heads & (heads.cumsum(1) <= limit[:, None])
        # Where in the list the operations done stand; the others stand behind its end.
        at = torch.where(done, torch.arange(many), many).topk(slots, largest=False).values
        pair = order.gather(1, at.clamp(max=many - 1))
        level = size.gather(1, pair).sigmoid() * self.space.top
        sign, place = dice(rng, count, slots) < 0.5, dice(rng, count, slots, 2)
        return Walk(self.rows[pair], level, at < many, sign, place, order, done, limit)

    def log_prob(self, draw: Walk) -> Tensor:
        """Log-probability of limit, order, coins thrown and signs, (B,) float64.

        It is that of the whole walk under the policy's own logits; levels are certain.
        """
        coins = torch.where(draw.walked, coin(draw.done, self.probabilities[draw.order]), 0.0)
        limit = torch.tensor(self.limits, dtype=torch.float64).log()[draw.limit]
        shuffle = math.lgamma(len(self.rows) + 1)
        return limit - shuffle + coins.sum(1) + self._signs(draw).sum(1)

    def numbers(self) -> dict[str, Any]:
        """Copies, limits and parameters."""
        return {"copies": self.copies, "limits": list(self.limits)} | super().numbers()
