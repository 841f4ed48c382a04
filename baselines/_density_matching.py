"""Density matching: which policies does a network bear that was trained without them?

A fold is a network trained on a part of the training images.  A policy's score is the network's
error on the held-out rest, augmented by the policy: nothing is trained again, so hundreds of
policies can be tried for the price of a training.  Optuna's TPE says which.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from baselines._ask_tell import seed_of
from baselines._library import isolated
from bench.augment.choice import Step
from bench.augment.policy import Batch, Policy
from bench.augment.space import Space
from bench.data.arrays import Arrays
from bench.errors import Diverged
from bench.train.evaluate import CHUNK
from bench.train.learner import Learner, evaluating
from bench.train.loops import augment, training_step
from bench.train.session import Session

Tensor = torch.Tensor
SubPolicy = list[Step]
OPERATIONS = 2  # of a sub-policy
# Policies that are proposed before the first of them is scored, and the first ones, at random: as
# many as HyperOpt draws before it models anything.
TOGETHER = 20


class Fold:
    """A network, the images that it learns from and those that it is asked about.

    Args:
        session: Meters it.
        learner: Is trained.
        part: What it learns from.
        held: What policies are scored on; under the labels that came with them.
        plain: Augments the part.
        around: Puts a policy into the whole augmentation of a training.
        views: How often each held-out image is augmented.
    """

    def __init__(
        self,
        session: Session,
        learner: Learner,
        part: Arrays,
        held: Arrays,
        plain: Policy,
        around: Callable[[Policy], Policy],
        views: int,
    ) -> None:
        self.session, self.learner, self.held = session, learner, held
        self.batches: Iterator[Batch] = session.batches(part)
        self.plain, self.around, self.views = plain, around, views

    def train(self, steps: int) -> None:
        """Trains the network.

        Raises:
            Diverged: If the last loss is not finite: no score would mean anything.
        """
        loss = torch.zeros(())
        for done in self.session.steps(steps):
            loss = self.step(done / steps)
        if not loss.isfinite():
            raise Diverged("a fold's training loss is not finite: its network cannot judge")

    def step(self, progress: float) -> Tensor:
        """One step at a share of the training; its loss."""
        session = self.session
        rng = session.rng("folds")
        return training_step(session, self.learner, self.plain, self.batches, progress, rng=rng)

    @torch.no_grad()
    def score(self, policy: Policy, views: int | None = None) -> tuple[float, float]:
        """Error and loss on the held-out images.

        An image is wrong if it is in every view; its loss is that of its best view.

        Args:
            policy: Augments them.
            views: How often; the fold's number by default.

        Source: `eval_tta` in the code of kakaobrain/fast-autoaugment.
        """
        whole, held, views = self.around(policy), self.held, views or self.views
        wrong, losses = [], []
        with evaluating(self.learner.network):
            for index in torch.arange(len(held)).split(CHUNK):
                batch = Batch(*held.take(index), index)
                each = [self._view(whole, batch) for _ in range(views)]
                wrong.append(torch.stack([view[0] for view in each]).all(0))
                losses.append(torch.stack([view[1] for view in each]).amin(0))
        found = torch.stack([torch.cat(wrong).double().mean(), torch.cat(losses).double().mean()])
        error, loss = found.tolist()  # the one wait for the device
        self.session.tally(samples=1)
        return error, loss

    def _view(self, whole: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
        """Whether each image is wrong, and its loss, under a draw of its own."""
        batch = augment(self.session, whole, batch, self.session.rng("score"))
        with self.session.metered("score"):
            logits = self.learner(batch.images)
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
        return logits.argmax(1) != batch.targets, losses


@dataclass(frozen=True)
class Sample:
    """A policy, and what it is chosen by."""

    steps: list[SubPolicy]
    error: float
    loss: float


class Proposals:
    """Policies that Optuna's TPE proposes: operations, probabilities and levels, all independent.

    Args:
        space: Table of operations; the identity is left out.
        subpolicies: How many a policy has.
        rng: The only randomness.
        startup: Policies at random before TPE.
    """

    def __init__(
        self, space: Space, subpolicies: int, rng: torch.Generator, startup: int = TOGETHER
    ) -> None:
        import optuna
        from optuna.distributions import CategoricalDistribution, FloatDistribution
        from optuna.samplers import TPESampler

        seed = seed_of(rng)
        sampler = TPESampler(n_startup_trials=startup, multivariate=False, seed=seed)
        with isolated(seed):
            self._study = optuna.create_study(sampler=sampler)
        self._top = space.top
        labels = [each.label for each in space.entries if each.operation != "identity"]
        self._places = list(itertools.product(range(subpolicies), range(OPERATIONS)))
        unit = FloatDistribution(0.0, 1.0)
        kinds = {"operation": CategoricalDistribution(labels), "probability": unit, "level": unit}
        self._kinds: dict[str, Any] = {
            f"{name} {i} {j}": kind for i, j in self._places for name, kind in kinds.items()
        }

    def ask(self) -> tuple[Any, list[SubPolicy]]:
        """A trial to be told of, and its policy."""
        trial = self._study.ask(self._kinds)
        found = trial.params
        steps = [
            (
                found[f"operation {i} {j}"],
                found[f"probability {i} {j}"],
                self._top * found[f"level {i} {j}"],
            )
            for i, j in self._places
        ]
        return trial, [steps[k : k + OPERATIONS] for k in range(0, len(steps), OPERATIONS)]

    def tell(self, trial: Any, error: float) -> None:
        """The error of a trial's policy."""
        self._study.tell(trial, error)


def search(
    session: Session,
    proposals: Proposals,
    score: Callable[[list[SubPolicy]], tuple[float, float]],
    count: int,
    shuffled: bool = False,
) -> list[Sample]:
    """Proposes and scores policies.

    Args:
        session: Times the proposals and gives the placebo's permutations.
        proposals: Says which; they are asked for `TOGETHER` at a time.
        score: Error and loss of a policy.
        count: How many.
        shuffled: Whether the scores of those asked for together are permuted among them.

    Returns:
        Them, in their order; fewer if the budget or slice ends before.
    """
    found: list[Sample] = []
    while len(found) < count:
        with session.timed("propose"):
            asked = [proposals.ask() for _ in range(min(TOGETHER, count - len(found)))]
        scores: list[tuple[float, float]] = []
        with session.slice(1.0):
            for _, steps in asked:
                scores.append(score(steps))
        if shuffled:
            order = torch.randperm(len(scores), generator=session.rng("placebo")).tolist()
            scores = [scores[place] for place in order]
        asked, cut = asked[: len(scores)], len(scores) < len(asked)
        with session.timed("propose"):
            for (trial, _), (error, _) in zip(asked, scores, strict=True):
                proposals.tell(trial, error)
        found += [Sample(steps, *pair) for (_, steps), pair in zip(asked, scores, strict=True)]
        if cut:
            break
    return found


def merged(samples: Sequence[Sample], keep: int, anyhow: bool = False) -> list[SubPolicy]:
    """The sub-policies of the best samples, in one list.

    Within a sample, of sub-policies with the same operations in the same order only the first
    counts, as in the released code.

    Args:
        samples: In the order of their proposal.
        keep: How many count; of equal errors the less loss wins, of equal losses the first.
        anyhow: Whether the first ones count instead of the best.
    """
    order = sorted(samples, key=lambda each: (each.error, each.loss))
    chosen = (samples if anyhow else order)[:keep]
    found: list[SubPolicy] = []
    for each in chosen:
        by_operations: dict[tuple[str, ...], SubPolicy] = {}
        for steps in each.steps:
            by_operations.setdefault(tuple(name for name, _, _ in steps), steps)
        found += by_operations.values()
    return found
