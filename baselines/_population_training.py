"""A population in rounds: all members train, good ones are copied, the copies are varied.

What varies is a row of numbers for each member, its genes.  A strategy says which logits λ of a
`Population` they are, who is copied into whom, and what a variation is.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch

from bench.augment.choice import dice
from bench.augment.policy import Batch, Policy
from bench.augment.population import Population
from bench.errors import Diverged, PlanError
from bench.train.learner import Learner
from bench.train.loops import training_step
from bench.train.session import Session

Tensor = torch.Tensor
ROUNDS = 67  # of PBA: it selects every 3 of 200 epochs
QUARTER, FRESH, FARTHEST, TENTHS = 0.25, 0.2, 3, 10
SURE = 800.0  # σ(±800) is exactly 1 and 0 in float64, and JSON has no infinity


class Winner:
    """The best member replaces all others; then all are perturbed.  Genes are λ.

    Args:
        start: λ (E,) around which members start.
        sigma: Standard deviation of ε.

    Source: HBA, equations 2 to 5.
    """

    scattered, judge = True, "nll"

    def __init__(self, start: Tensor, sigma: float) -> None:
        self.start, self.sigma = start, sigma

    def exploit(self, losses: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Who is copied into each member (n,), and whether it is varied then (n,).

        Who is copied, keeps its place.  Of equals the first is the best.
        """
        return losses.argmin().expand(len(losses)), torch.ones_like(losses, dtype=torch.bool)

    def explore(self, genes: Tensor, rng: torch.Generator) -> Tensor:
        """λ + ε of λ (n, E)."""
        return genes + self.sigma * torch.randn(genes.shape, generator=rng, dtype=genes.dtype)

    def entries(self, genes: Tensor) -> Tensor:
        """λ itself."""
        return genes


class Quartiles:
    """Each of the worst quarter takes over one of the best, whose genes it varies.

    Genes are tenths: of a probability from 0 to `most` = 10, of a level's range from 0 to 9.

    Args:
        most: The highest genes (E,); all start from 0.

    Source: Ho et al., "Population Based Augmentation", 2019, and its code.
    """

    scattered, judge = False, "error"

    def __init__(self, most: Tensor) -> None:
        self.most, self.start = most, torch.zeros_like(most)

    def exploit(self, losses: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Like `Winner`'s; who is copied is drawn uniformly.  Quarters are rounded up."""
        many = math.ceil(QUARTER * len(losses))
        order = losses.argsort(stable=True)
        own = torch.arange(len(losses))
        sources = own.clone()
        sources[order[-many:]] = order[torch.randint(many, (many,), generator=rng)]
        return sources, sources != own

    def explore(self, genes: Tensor, rng: torch.Generator) -> Tensor:
        """Each of (n, E) is drawn anew with probability 0.2, else moves by 0 to 3 either way."""
        kind, value, side = dice(rng, 3, *genes.shape)
        fresh = (value * (self.most + 1)).floor()
        by = (value * (FARTHEST + 1)).floor() * torch.where(side < 0.5, -1, 1)
        moved = torch.minimum((genes + by).clamp_min(0), self.most)
        return torch.where(kind < FRESH, fresh, moved)

    def entries(self, genes: Tensor) -> Tensor:
        """Logits of the shares; those of 0 and 1 mean never and always."""
        return (genes / TENTHS).logit().clamp(-SURE, SURE)


@dataclass(frozen=True, eq=False)
class Member:
    """A network with images and a policy of its own, which contains `population`."""

    learner: Learner
    batches: Iterator[Batch]
    population: Population
    policy: Policy

    def step(self, session: Session, progress: float) -> Tensor:
        """One step at a share of the training; its loss."""
        return training_step(session, self.learner, self.policy, self.batches, progress)


class Training:
    """The rounds of a population.

    Args:
        session: Meters it.
        members: At least two.
        strategy: How they move.
        interval: As for `affordable`.
        frozen: Genes (E,) that all members keep; weights are copied all the same.
        shuffled: Whether losses are permuted over members before they choose.
        weight_noise: Standard deviation of what is added to the weights of the varied.

    Attributes:
        genes: (n, E) float64, of the members now.
    """

    def __init__(
        self,
        session: Session,
        members: Sequence[Member],
        strategy: Winner | Quartiles,
        *,
        interval: int | None = None,
        frozen: Tensor | None = None,
        shuffled: bool = False,
        weight_noise: float = 0.0,
    ) -> None:
        self.session, self.members, self.strategy = session, members, strategy
        self.interval, self.shuffled, self.weight_noise = interval, shuffled, weight_noise
        self.frozen, start = frozen is not None, strategy.start if frozen is None else frozen
        self.genes = start.repeat(len(members), 1)
        if strategy.scattered and not self.frozen:
            self.genes = strategy.explore(self.genes, session.rng("explore"))
        self._past: dict[str, Any] = {"path": self.genes[:, None][:, :0], "best": 0}
        self._express()
        session.keep(genes=self.genes, past=self._past)
        session.keep(populations=[each.population for each in members])

    @property
    def path(self) -> Tensor:
        """(n, rounds so far, E): what each member and its ancestors trained with."""
        return self._past["path"]

    @path.setter
    def path(self, value: Tensor) -> None:
        """Replaces what they trained with."""
        self._past["path"] = value

    @property
    def best(self) -> Member:
        """The member with the least loss in the last round."""
        return self.members[self._past["best"]]

    def train(self, milestones: bool = True) -> Tensor:
        """As many rounds as the budget pays for; the best member's path (rounds, E)."""
        session, count, first = self.session, len(self.members), self.members[0]
        step = session.price("train", lambda: first.step(session, 0.0))
        check = session.price("validate", lambda: session.validate(first.learner))
        plan = session.plan(**affordable(session.remaining, count, step, check, self.interval))
        steps, rounds = plan["train"] // count, plan["validate"] // count
        with session.slice(1.0):
            for done in session.steps(rounds):
                self.update(range(done * steps // rounds, (done + 1) * steps // rounds), steps)
                losses = self.judge()
                if milestones:
                    session.progress(self.best.learner, (done + 1) / rounds)
                if done + 1 < rounds:
                    self.move(losses)
        return self.path[self._past["best"]]

    def update(self, part: range, steps: int) -> None:
        """A part of the steps of every member's training, one member after the other."""
        self.path = torch.cat([self.path, self.genes[:, None]], 1)
        for each in self.members:
            for done in part:
                self.session.log(train_loss=each.step(self.session, done / steps))

    def judge(self) -> Tensor:
        """Losses (n,) on all validation images; infinite for a member that diverged.

        Raises:
            Diverged: If all have.
        """
        found = [self.session.validate(each.learner) for each in self.members]
        sound = [one.finite and math.isfinite(one.nll) for one in found]
        if not any(sound):
            raise Diverged("no member's validation loss is finite: all of them have diverged")
        values = [getattr(one, self.strategy.judge) for one in found]
        losses = torch.tensor(values).double().where(torch.tensor(sound), math.inf)
        best = self._past["best"] = int(losses.argmin())
        probabilities, magnitudes = self.best.population.values()
        self.session.log(
            val_loss=found[best].nll,
            best=best,
            member_losses=[one.nll for one in found],
            member_errors=[one.error for one in found],
            probabilities=probabilities,
            magnitudes=magnitudes,
        )
        return losses

    @torch.no_grad()
    def move(self, losses: Tensor) -> None:
        """Exploits, then explores: weights, optimisers, genes and their history."""
        session, members = self.session, self.members
        if self.shuffled:
            losses = losses[torch.randperm(len(losses), generator=session.rng("placebo"))]
        sources, varied = self.strategy.exploit(losses, session.rng("exploit"))
        for each, source in zip(members, sources.tolist(), strict=True):
            if each is not members[source]:
                each.learner.load_state_dict(members[source].learner.state_dict())
        self.path, copied = self.path[sources], self.genes[sources]
        explored = self.strategy.explore(copied, session.rng("explore"))
        if not self.frozen:
            self.genes.copy_(explored.where(varied[:, None], copied))
            self._express()
        if self.weight_noise:
            self._perturb(varied)
        session.tally(policy_updates=int(not self.frozen))
        session.log(sources=sources)

    @torch.no_grad()
    def _express(self) -> None:
        for each, entries in zip(self.members, self.strategy.entries(self.genes), strict=True):
            each.population.entries.copy_(entries)

    def _perturb(self, varied: Tensor) -> None:
        """HBA, equation 6."""
        for each in compress(self.members, varied.tolist()):
            for weight in each.learner.network.parameters():
                noise = torch.randn(weight.shape, generator=self.session.rng("weight noise"))
                weight.add_(noise.to(weight), alpha=self.weight_noise)


def affordable(
    budget: float, members: int, step: float, check: float, interval: int | None
) -> dict[str, int]:
    """How many steps and validations of all members a budget pays for.

    Args:
        budget: RT, which members share equally; `step` and `check` are RT too.
        members: n.
        step: Price of a step.
        check: Price of a validation.
        interval: Least steps in a round; without one there are `ROUNDS`, or as many as can have a
            step.

    Raises:
        PlanError: If it pays for no round.
    """
    least = (interval or 1) * step + check
    rounds = math.floor(budget / members / least * (1 + 1e-9))
    if not rounds:
        raise PlanError(
            f"{budget:.3g} RT do not pay for a round of {members} members, {members * least:.3g} "
            "RT: allow more budget, fewer members or a shorter interval"
        )
    rounds = rounds if interval else min(rounds, ROUNDS)
    steps = math.floor((budget / members - rounds * check) / step * (1 + 1e-9))
    return {"train": members * steps, "validate": members * rounds}
