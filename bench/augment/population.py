"""PBA's walk under logits that differ from image to image and change during a training.

λ (E,) -> λ + ε of every image (B, E) -> probabilities, levels -> a few operations an image

A draw carries λ + ε, so that whoever must know under which hyperparameters an image was made need
not draw ε anew.  A `Schedule` is λ over a training: it can be saved, stretched and replayed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.augment.engine import BLACK, Fill
from bench.augment.learnable import Gated, Learnable, Values, Walk, coin, parameter
from bench.augment.policy import Policy
from bench.augment.space import Space

Tensor = torch.Tensor
LIMITS = (0.2, 0.3, 0.5)
KNOTS = 65  # of a schedule that is made of a longer path
DIGITS = 4  # of its logits


@dataclass(frozen=True)
class Perturbed(Walk):
    """A walk, and the logits that it was made under.

    Attributes:
        entries: λ + ε (B, E) float64.
    """

    entries: Tensor


class Population(Learnable):
    """Copies of every operation, with a probability and a level that each image perturbs.

    Pair i of the P = copies · A is of row i % A.  λ holds the logits of all P probabilities, then
    those of the levels, for the pairs whose row has a magnitude: 30 + 24 entries for two copies
    of HBA's 15 operations.

    Args:
        space: The table.
        fill: Colours.
        copies: Pairs that each row has.
        limits: Probabilities of the limits 0, 1, ..., L, the most operations of an image.
        sigma: Standard deviation of ε, normal and of each image and entry.
        entries: λ (E,), or one value for all.

    Attributes:
        entries: float64 on the host, changed in place by who learns it.

    Raises:
        ValueError: If σ is negative, or limits are no probabilities.

    Source: HBA, equation 13 and appendix A; the walk is `Gated`'s.
    """

    kind = "population"
    learned = ("entries",)

    def __init__(
        self,
        space: Space,
        fill: Fill = BLACK,
        *,
        copies: int = 2,
        limits: Sequence[float] = LIMITS,
        sigma: float = 0.0,
        entries: Values = 0.0,
    ) -> None:
        super().__init__(space, fill)
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma={sigma}: a standard deviation is at least 0 and finite")
        self.copies, self.limits, self.sigma = copies, tuple(limits), sigma
        self.walk = Gated(space, fill, copies=copies, limits=limits)
        self.pairs = len(self.walk.rows)
        # Which pairs have a level, in λ's order.
        self.levelled = space.has_magnitude[self.walk.rows].nonzero()[:, 0]
        self.entries = parameter(entries, self.pairs + len(self.levelled))

    def split(self, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of probabilities and of levels, (..., P) each, of entries (..., E).

        Pairs without a level have 0 there, which nobody reads.
        """
        probabilities = entries[..., : self.pairs]
        levels = torch.zeros_like(probabilities)
        return probabilities, levels.index_copy(-1, self.levelled, entries[..., self.pairs :])

    @torch.no_grad()
    def sample(self, index: Tensor, rng: torch.Generator) -> Perturbed:
        """Always the same number of random values an image; without σ no ε is drawn."""
        entries = self.entries.expand(len(index), -1)
        if self.sigma:
            noise = torch.randn(entries.shape, generator=rng, dtype=torch.float64)
            entries = entries + self.sigma * noise
        walk = self.walk.sample_with(*self.split(entries), index, rng)
        return Perturbed(**vars(walk), entries=entries)

    def log_prob(self, draw: Perturbed) -> Tensor:
        """Log-density of ε, and log-probability of the whole walk under it, (B,) float64."""
        rows = draw.entries if self.sigma else self.entries.expand_as(draw.entries)
        probabilities, _ = self.split(rows)
        coins = coin(draw.done, probabilities.gather(1, draw.order))
        thrown = torch.where(draw.walked, coins, 0.0).sum(1)
        limit = torch.tensor(self.limits, dtype=torch.float64).log()[draw.limit]
        total = limit - math.lgamma(self.pairs + 1) + thrown + self._signs(draw).sum(1)
        if self.sigma:
            total = total + torch.distributions.Normal(self.entries, self.sigma).log_prob(
                rows
            ).sum(1)
        return total

    @torch.no_grad()
    def values(self) -> tuple[Tensor, Tensor]:
        """Probabilities, and levels as shares of their range, (P,) each; NaN without a level."""
        probabilities, levels = (logits.sigmoid() for logits in self.split(self.entries))
        shares = torch.full_like(levels, torch.nan)
        return probabilities, shares.index_copy(0, self.levelled, levels[self.levelled])

    def numbers(self) -> dict[str, Any]:
        """Copies, limits, σ and λ."""
        own = {"copies": self.copies, "limits": list(self.limits), "sigma": self.sigma}
        return own | super().numbers()


class Schedule(Population):
    """λ over a training, linear between knots; the training may have any length.

    Args:
        space: The table.
        fill: Colours.
        knots: λ (K, E) at K equally spaced times, the first and the last included.
        options: The other arguments of `Population`.

    Attributes:
        entries: λ now; at the end until `advance` says otherwise.
    """

    kind = "schedule"

    def __init__(self, space: Space, fill: Fill = BLACK, *, knots: Values, **options: Any) -> None:
        self.knots = torch.as_tensor(knots, dtype=torch.float64)
        super().__init__(space, fill, entries=self.knots[-1], **options)

    @classmethod
    def along(
        cls,
        policy: Population,
        path: Tensor,
        *,
        fill: Fill | None = None,
        sigma: float | None = None,
    ) -> "Schedule":
        """What a policy learned, or a schedule under other colours or another σ.

        Args:
            policy: Gives what is not given.
            path: λ (U, E) at equally spaced times; of more than `KNOTS` only so many are kept.
            fill: Colours.
            sigma: Standard deviation of ε.
        """
        if len(path) > KNOTS:
            times = torch.linspace(0, 1, KNOTS, dtype=torch.float64)
            path = torch.stack([interpolated(path, float(time)) for time in times])
        return cls(
            policy.space,
            policy.fill if fill is None else fill,
            knots=path.detach().round(decimals=DIGITS),
            copies=policy.copies,
            limits=policy.limits,
            sigma=policy.sigma if sigma is None else sigma,
        )

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        """Sets λ to where it is at a share of the training."""
        self.entries.copy_(interpolated(self.knots, progress))

    def mean(self) -> "Schedule":
        """The schedule that always has this one's time average."""
        spans = max(1, len(self.knots) - 1)
        average = torch.trapezoid(self.knots, dim=0) / spans if len(self.knots) > 1 else self.knots
        return Schedule.along(self, average.view(1, -1))

    def numbers(self) -> dict[str, Any]:
        """Copies, limits, σ and knots."""
        own = {name: value for name, value in super().numbers().items() if name != "entries"}
        return own | {"knots": self.knots.tolist()}


def interpolated(knots: Tensor, progress: float) -> Tensor:
    """The point (E,) at a share of the way along knots (K, E), which are equally spaced."""
    place = min(max(progress, 0.0), 1.0) * (len(knots) - 1)
    first = min(math.floor(place), max(len(knots) - 2, 0))
    last = min(first + 1, len(knots) - 1)
    return torch.lerp(knots[first], knots[last], place - first)


def schedule_in(policy: Policy) -> Schedule | None:
    """The schedule among a policy's parts, if there is one."""
    if isinstance(policy, Schedule):
        return policy
    found = (schedule_in(part) for part in getattr(policy, "policies", ()))
    return next((each for each in found if each is not None), None)
