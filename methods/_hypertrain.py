"""Training a hypernetwork: steps of its weights under λ + ε, in turn with steps of λ.

Every image is augmented under hyperparameters λ + ε of its own and meets weights that are a
function of them (`_hyper`).  After every few such steps λ goes down the validation loss, through
the weights alone.  What λ means, and whose weights it moves how, is for those who derive.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from bench.augment.policy import Batch, Policy
from bench.errors import Diverged
from bench.train.learner import Learner, evaluating
from bench.train.session import Session

Tensor = torch.Tensor


class Options(Protocol):
    """The options that a training reads.

    Attributes:
        lr: Adam's, for what moves in a step of λ.
        train_steps: Steps of the hypernetwork between those of λ.
        val_steps: Steps of λ between those.
        validation: The network's mode in a step of λ, `eval` or `train`.
        placebo: `shuffled` permutes gradients over λ's entries.
    """

    lr: float
    train_steps: int
    val_steps: int
    validation: Any
    placebo: Any


class Perturbing(Protocol):
    """A policy that perturbs λ for each image; its draws carry λ + ε as `entries` (B, E).

    Attributes:
        entries: λ (E,) float64 on the host, changed in place by who learns it.
    """

    entries: Tensor


class HyperTraining(ABC):
    """A training of a hypernetwork in which λ moves.

    Args:
        session: Meters it.
        learner: Holds the hypernetwork.
        population: Augments; its λ is moved unless frozen.
        config: The method's options.
        frozen: Whether λ stays as it is.
        batches: The images; a new order by default.

    Attributes:
        path: λ before the training and after each of its steps.
        leaves: What moves in a step of λ; λ comes first.
        warmup: Share of the steps before λ begins to move.
    """

    warmup = 0.0

    def __init__(
        self,
        session: Session,
        learner: Learner,
        population: Any,
        config: Any,
        frozen: bool = False,
        batches: Iterator[Batch] | None = None,
    ) -> None:
        given: Perturbing = population
        options: Options = config
        self.session, self.learner, self.config = session, learner, options
        self.population, self.frozen = population, frozen
        self.policy = self.around()
        self.batches = batches or session.batches("train")
        self.val_batches = session.batches("val")
        self.entries = given.entries.requires_grad_()
        self.leaves = [self.entries, *self.others()]
        self.adam = torch.optim.Adam(self.leaves, options.lr)
        self.path = [self.entries.detach().clone()]
        self.learner.network.hyper_lambda.copy_(self.path[0])
        session.keep(population=population, adam=self.adam, path=self.path)

    @abstractmethod
    def around(self) -> Policy:
        """The whole augmentation, a chain that begins with the population."""

    @abstractmethod
    def said(self) -> dict[str, Tensor]:
        """λ as people read it, for the trace."""

    def others(self) -> Sequence[Tensor]:
        """What moves together with λ: leaves (E,) float64 on the host."""
        return ()

    def moved(self) -> None:  # noqa: B027 - most have nothing that follows
        """After a step of λ: puts in place what follows from it."""

    def logits(self, batch: Batch, draw: Any, rows: Tensor) -> Tensor:
        """The network on augmented images that each have their own row of λ + ε."""
        return self.learner(batch.images, rows)

    def rows(self, count: int) -> Tensor:
        """The λ of so many validation images: of all (E,), or of each (B, E); differentiable."""
        return self._given(self.entries)

    def objective(self, loss: Tensor) -> Tensor:
        """What a step of λ goes down, of the validation loss."""
        return loss

    def train(self, milestones: bool = True) -> Any:
        """As many steps as the budget pays for, with steps of λ after every `train_steps`."""
        session, config = self.session, self.config
        step = session.price("step", lambda: self.step(0.0))
        hyper = session.price("hyper", self.hyper)
        every, each = config.train_steps, config.val_steps
        plan = affordable(session.remaining, step, hyper, every, each, self.warmup)
        total = session.plan(**plan)["step"]
        warm = math.floor(self.warmup * total)
        with session.slice(1.0):
            for done in session.steps(total):
                self.step(done / total)
                if milestones:
                    session.progress(self.learner, (done + 1) / total)
                if (done + 1) % every == 0 and done >= warm:
                    for _ in range(each):
                        self.hyper()
                        self.path.append(self.entries.detach().clone())

    def step(self, progress: float) -> None:
        """One step of the hypernetwork; every image's λ + ε is that of its augmentation."""
        session = self.session
        batch = next(self.batches)
        draw = self.policy.sample(batch.index, session.rng("policy"))
        with session.metered("augment"):
            batch = self.policy.apply(batch, draw)
        rows = self._given(draw[0].entries)
        with session.metered("train", entries=rows.shape[1]):
            loss = F.cross_entropy(self.logits(batch, draw[0], rows), batch.targets)
            self.learner.descend(loss, progress)
        session.tally(steps=1, images_seen=len(batch))
        session.log(train_loss=loss.detach())

    def hyper(self) -> None:
        """One step of λ, on clean validation images; weights do not move."""
        session, learner = self.session, self.learner
        batch = next(self.val_batches)
        rows = self.rows(len(batch))
        mode = evaluating(learner.network) if self.config.validation == "eval" else nullcontext()
        with mode, session.metered("hyper"):
            loss = F.cross_entropy(learner(batch.images, rows), batch.targets)
            # Back to λ only: no gradient of a weight is computed, and nothing below its layers.
            gradients = torch.autograd.grad(self.objective(loss), self.leaves)
        self.move(*gradients)  # on the host, where draws are made: the one wait for the device
        session.log(val_loss=loss.detach())

    @torch.no_grad()
    def move(self, *gradients: Tensor) -> None:
        """One step of Adam on λ, and what moves with it.

        Args:
            gradients: (E,) float64 on the host, one for each of `leaves`.

        Raises:
            Diverged: If one is not finite.
        """
        session = self.session
        if not all(gradient.isfinite().all() for gradient in gradients):
            raise Diverged("the gradient of λ is not finite: the training has diverged")
        if self.config.placebo == "shuffled":
            order = torch.randperm(len(self.entries), generator=session.rng("placebo"))
            gradients = tuple(gradient[order] for gradient in gradients)
        if not self.frozen:
            for leaf, gradient in zip(self.leaves, gradients, strict=True):
                leaf.grad = gradient
            self.adam.step()
            self.moved()
            self.learner.network.hyper_lambda.copy_(self.entries)
            session.tally(policy_updates=1)
        session.log(**self.said(), hypergradient=gradients[0].norm())

    def _given(self, entries: Tensor) -> Tensor:
        return entries.to(self.session.task.device, torch.float32, non_blocking=True)


def affordable(
    budget: float, step: float, hyper: float, every: int, each: int, warmup: float = 0.0
) -> dict[str, int]:
    """How many steps a budget (RT) pays for, with `each` of λ after every `every` of them.

    In the first share `warmup` of the steps there are none of λ.
    """
    turn = every * step + each * hyper
    turns = math.floor(budget / turn * (1 + 1e-9))
    rest = math.floor((budget - turns * turn) / step * (1 + 1e-9))
    steps = turns * every + max(0, min(rest, every - 1))

    def hypers(steps: int) -> int:
        return (steps // every - math.floor(warmup * steps) // every) * each

    if warmup:  # what it saves pays for more
        allowed = budget * (1 + 1e-9)
        while (steps + 1) * step + hypers(steps + 1) * hyper <= allowed:
            steps += 1
    return {"step": steps, "hyper": hypers(steps)}
