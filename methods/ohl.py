"""OHL-Auto-Aug: N copies train under one distribution of operations; the accuracies move it.

In a period, N copies of the network start equal and take I steps on the same images, each with
operations of its own draw.  Their accuracies on the validation images, less their mean, weigh the
log-probabilities of everything that they drew (REINFORCE); the best copy becomes all of them.

Source: Lin et al., "Online Hyper-parameter Learning for Auto-Augmentation Strategy", 2019:
equations 2 to 6, Algorithm 1, Table 1.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator

from bench.augment.learnable import Categorical, pairs
from bench.augment.policy import Batch, Chain, Policy
from bench.augment.spaces import space
from bench.method import Fitted, Method, MethodConfig
from bench.train.learner import Learner
from bench.train.session import Session
from bench.train.task import Task, cutout, fill, standard
from bench.train.trajectories import trajectories
from methods._reinforce import shuffled

Tensor = torch.Tensor
FROZEN = ("uniform", "replay")  # placebos whose training has a fixed distribution


class OhlConfig(MethodConfig):
    """Options; the defaults are the paper's, and this project's where it is silent.

    Attributes:
        copies: N; the paper has 8 on CIFAR-10 and 4 on ImageNet.
        interval: I, steps of each copy in a period; the paper does not say.
        lr: Adam's, for the distribution.
        beta1: Adam's.
        start: All of θ at the start; any value is the uniform distribution, but σ(θ) is also how
            far an element can still rise.  The paper does not say.
        signs: Whether shears, translations and rotations are negated at random; the paper does
            not say.
        momentum: What copies get at a broadcast: the winner's, their own, or zero; the paper does
            not say.
        recalibrate: Batches without the policy from which BatchNorm takes its statistics before
            accuracies are measured; 0 measures with the statistics of training, as the paper.
        cutout: Whether Cutout follows the operations.
        stacked: Whether copies run as one program, uncompiled, or one after the other; by default
            the first on a GPU, unless learners are compiled.
        placebo: `uniform` never moves θ, the best copy still wins; with `copies=1` no copy is
            chosen either.  `shuffled` permutes accuracies over copies in the update of θ;
            `replay` learns in half of the budget and trains anew under the mean distribution.
    """

    copies: int = Field(8, ge=1, le=64)
    interval: int = Field(20, ge=1)
    lr: float = Field(0.05, ge=0, allow_inf_nan=False)
    beta1: float = Field(0.5, ge=0, lt=1)
    start: float = Field(0.0, ge=-20, le=20)
    signs: bool = True
    momentum: Literal["winner", "own", "zero"] = "winner"
    recalibrate: int = Field(0, ge=0)
    cutout: bool = True
    stacked: bool | None = None
    placebo: Literal["uniform", "shuffled", "replay"] | None = None

    @model_validator(mode="after")
    def _coherent(self) -> "OhlConfig":
        if self.copies == 1 and self.placebo != "uniform":
            raise ValueError(
                "copies=1 learns nothing, there is nothing to compare: add placebo=uniform"
            )
        return self


class Ohl(Method):
    """Learns a distribution over pairs of 36 elements during one training of N copies.

    The copies share the budget: each is trained for about 1/N of it.
    """

    name = "ohl"
    learned = True
    clean_labels = "selection"
    Config: ClassVar[type[MethodConfig]] = OhlConfig

    def minimum(self, task: Task) -> float:
        """One training of each copy, validations included; a replay needs two."""
        config, recipe = self.config, task.recipe
        # A validation image costs a third of a training image, which goes backward too.
        batch = min(recipe.batch_size, len(task.train))
        checked = (
            len(task.val) / (3 * config.interval * batch)
            + config.recalibrate / 3 / config.interval
        )
        once = config.copies * (1 + (checked if config.copies > 1 else 0))
        return 2 * once if config.placebo == "replay" else once

    def policy(self, task: Task) -> Policy:
        """Crop and flip, then two operations, then Cutout, before training."""
        return self._around(task, self._start(task))

    def run(self, session: Session) -> Fitted:
        """Periods until the budget ends."""
        config, task = self.config, session.task
        # The first learner and the first order of batches are those that pair with other methods.
        learner, batches = session.learner(), session.batches("train")
        policy = self._replayed(session) if config.placebo == "replay" else self._start(task)
        Periods(session, learner, policy, config, config.placebo in FROZEN, batches).train()
        return Fitted(learner, self._around(task, policy), self._deviations())

    def _replayed(self, session: Session) -> Categorical:
        """The mean of a distribution that was learned in half of the budget."""
        scout = Periods(session, session.learner(), self._start(session.task), self.config)
        with session.slice(0.5):
            scout.train(milestones=False)
        assert scout.update is not None
        return scout.update.mean()

    def _start(self, task: Task) -> Categorical:
        table = space("ohl" if self.config.signs else "ohl-unsigned")
        return Categorical(
            table,
            fill(task),
            elements=pairs(table),
            weigh="sigmoid",
            logits=self.config.start,
        )

    def _around(self, task: Task, policy: Policy) -> Policy:
        return Chain(standard(task), policy, *([cutout(task)] if self.config.cutout else []))

    def _deviations(self) -> tuple[str, ...]:
        config = self.config
        said = [
            f"the paper leaves open: {config.interval} steps a period, θ starts at "
            f"{config.start:g}, signs are {'random' if config.signs else 'positive'}, copies get "
            f"{config.momentum} momentum and the winner's BatchNorm statistics at a broadcast",
            "crop, flip and Cutout are the same for all copies, as the images are",
            "operations come before the images are standardised; posterize keeps whole bits",
        ]
        if config.recalibrate:
            said.append(f"accuracies use BatchNorm statistics of {config.recalibrate} batches")
        if config.placebo == "replay":
            said.append("half of the budget learns the distribution, half trains under its mean")
        return tuple(said)


class Periods:
    """A training in periods: I steps of N copies, their accuracies, an update, a broadcast.

    Args:
        session: Meters it.
        learner: Holds the best copy after every period.
        policy: Augments, and is moved unless frozen.
        config: The method's options.
        frozen: Whether θ stays as it is.
        batches: The images; a new order by default.
    """

    def __init__(
        self,
        session: Session,
        learner: Learner,
        policy: Categorical,
        config: OhlConfig,
        frozen: bool = False,
        batches: Iterator[Batch] | None = None,
    ) -> None:
        self.session, self.learner, self.policy, self.config = session, learner, policy, config
        stacked = config.stacked
        if stacked is None:
            stacked = session.task.device.type == "cuda" and not learner.compiled
        self.copies = trajectories(session, learner, config.copies, stacked, config.momentum)
        self.standard = standard(session.task)
        self.cutout = cutout(session.task)
        self.batches = batches or session.batches("train")
        self.update = None if frozen else Update(session, policy, config)
        self.counts = torch.zeros(config.copies, len(policy.logits), dtype=torch.int64)
        session.keep(policy=policy, counts=self.counts)

    def train(self, milestones: bool = True) -> None:
        """As many periods as the budget pays for, the last one perhaps shorter."""
        session, interval = self.session, self.config.interval
        step = session.price("step", lambda: self.step(0.0))
        check = session.price("check", self.finish)
        plan = session.plan(**affordable(session.remaining, step, check, interval))
        total = plan["step"]
        with session.slice(1.0):
            for done in session.steps(total):
                self.step(done / total)
                if (done + 1) % interval == 0 or done + 1 == total:
                    self.finish()
                    if milestones:
                        session.progress(self.learner, (done + 1) / total)
        if self.counts.any():  # the clock ended a period that nobody can judge any more
            self.copies.broadcast(0)

    def step(self, progress: float) -> None:
        """One step of every copy, on the same images."""
        session, copies = self.session, self.config.copies
        raw = next(self.batches)
        index = raw.index.repeat(copies)
        placed = self.standard.sample(raw.index, session.rng("standard"))
        draw = self.policy.sample(index, session.rng("policy"))
        square = self.cutout.sample(raw.index, session.rng("cutout"))
        with session.metered("augment"):
            plain = self.standard.apply(raw, placed)
            many = Batch(plain.images.repeat(copies, 1, 1, 1), plain.targets, index)
            images = self.policy.apply(many, draw).images.unflatten(0, (copies, -1))
            if self.config.cutout:
                holes = [self.cutout.apply(replace(plain, images=own), square) for own in images]
                images = torch.stack([batch.images for batch in holes])
        losses = self.copies.step(images, plain.targets, progress)
        for count, choice in zip(self.counts, draw.choice.view(copies, -1), strict=True):
            count += torch.bincount(choice, minlength=len(count))
        session.tally(steps=1, images_seen=len(index))
        session.log(train_loss=losses.mean())

    def finish(self) -> None:
        """The end of a period: accuracies, update, broadcast.  One copy has nothing to choose."""
        if self.config.copies == 1:
            self.copies.broadcast(0)
            return
        with self._statistics():
            # The one wait for the device in a period.
            accuracies = self.copies.accuracies(self.session.task.val).cpu()
        best = int(accuracies.argmax())  # the first of equals
        if self.update is not None:
            self.update(self.counts, accuracies)
        self.counts.zero_()
        self.copies.broadcast(best)
        spread = accuracies.max() - accuracies.min()
        self.session.log(accuracy=accuracies.mean(), accuracy_spread=spread)

    def mean(self) -> Categorical:
        """The distribution's time average so far."""
        assert self.update is not None
        return self.update.mean()

    def _statistics(self) -> AbstractContextManager[None]:
        """BatchNorm statistics for the accuracies."""
        if not self.config.recalibrate:
            return nullcontext()
        batches = []
        for _ in range(self.config.recalibrate):
            batch = next(self.batches)
            draw = self.standard.sample(batch.index, self.session.rng("standard"))
            with self.session.metered("augment"):
                batches.append(self.standard.apply(batch, draw).images)
        return self.copies.recalibrated(batches)


class Update:
    """REINFORCE on θ: Adam along (1/N) Σ_n ã_n Σ_j ∇log p(k_j), ã the accuracies less their mean.

    With c_n how often trajectory n drew each pair, the inner sum is (1 - σ(θ)) ⊙ (c_n - M p);
    since Σ ã_n = 0, the part with p, the same for all, drops out.

    Args:
        session: Keeps the state, tallies and traces.
        policy: Is moved.
        config: The method's options.
    """

    def __init__(self, session: Session, policy: Categorical, config: OhlConfig) -> None:
        self.session, self.policy, self.config = session, policy, config
        leaf = policy.logits.requires_grad_()
        betas = (config.beta1, 0.999)
        self.adam = torch.optim.Adam([leaf], config.lr, betas=betas, maximize=True)
        self.total = torch.zeros_like(leaf.detach())  # of the probabilities over updates
        session.keep(adam=self.adam, total=self.total)

    @torch.no_grad()
    def __call__(self, counts: Tensor, accuracies: Tensor) -> None:
        """One step.

        Args:
            counts: (N, K) int64, how often each trajectory drew each pair.
            accuracies: (N,) float64 on the host.
        """
        if self.config.placebo == "shuffled":
            accuracies = shuffled(accuracies, self.session.rng("placebo"))
        with self.session.metered("update"):
            self.policy.logits.grad = score(self.policy.logits, counts, accuracies)
        self.adam.step()
        self.total += self.policy.log_probabilities().exp()
        self.session.tally(policy_updates=1)
        self.session.log(marginals=self.policy.marginals())

    def mean(self) -> Categorical:
        """The distribution with the mean probabilities over all updates."""
        p = self.total / self.session.tallies["policy_updates"]
        # σ(θ) ∝ p, with its largest value one half: any factor gives the same distribution.
        policy = Categorical.rebuild(self.policy.describe())
        policy.logits.copy_((p / (2 * p.max())).clamp_min(1e-12).logit())
        return policy


def score(logits: Tensor, counts: Tensor, accuracies: Tensor) -> Tensor:
    """The estimate of ∇_θ J, (K,).

    Args:
        logits: θ (K,) float64.
        counts: (N, K).
        accuracies: (N,).

    Source: equation 6, for the normalised sigmoid.
    """
    centred = accuracies - accuracies.mean()
    return (1 - logits.sigmoid()) * (centred @ counts.to(centred.dtype)) / len(centred)


def affordable(budget: float, step: float, check: float, interval: int) -> dict[str, int]:
    """How many steps and accuracy checks a budget (RT) pays for; there is one check at the end."""
    whole = math.floor(budget / (interval * step + check) * (1 + 1e-9))
    rest = budget - whole * (interval * step + check) - check
    short = max(0, math.floor(rest / step * (1 + 1e-9)))
    return {"step": whole * interval + short, "check": whole + (short > 0)}
