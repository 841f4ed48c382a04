"""AutoDO: each training image has its own augmentation, loss weight and soft label.

Training goes on as ever, under λ.  After a while every epoch begins with a pass in which λ moves
instead of the weights: each batch's rows of λ go down the validation loss that the network would
have if its last layer had settled (`_implicit`).  There is one network and no training anew.

Source: Gudovskiy et al., "AutoDO: Robust AutoAugment for Biased Data with Label Noise via
Scalable Probabilistic Implicit Differentiation", 2021: sections 3 to 5, Algorithm 1, supplement A.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from bench.augment.choice import Uniform
from bench.augment.per_point import PerPoint, blurred
from bench.augment.policy import Chain, Policy
from bench.augment.spaces import space
from bench.augment.standard import Erasing
from bench.errors import Diverged
from bench.method import Fitted, Method, MethodConfig
from bench.train.learner import Learner
from bench.train.meter import unguarded
from bench.train.session import Session
from bench.train.task import Task, fill, standard
from methods._implicit import curvature, last_linear, neumann, outer, read, surrogate
from methods._points import Labels, Mean, RMSprop, Tables, loss_weights

Tensor = torch.Tensor
LABELS: dict[str, Labels] = {"aws": "learned", "static": "smooth"}


class AutodoConfig(MethodConfig):
    """Options; the defaults are the paper's, and the released code's where it is silent.

    Attributes:
        variant: What λ is: `sha`, one augmentation for all images; `a`, one for each; `aw`, and a
            loss weight; `aws`, and a soft label.  `static` is a control: `aw` with the smoothed
            labels and the loss of `aws`, but the labels stay.
        start: Share of the training after which λ moves, E; 50 of 200 epochs, 100 on ImageNet.
        terms: T, Neumann terms beside the first; 0 is DARTS's estimate.
        rate: η of the Neumann series.
        lr: RMSprop's; the paper has 0.01 on ImageNet.
        schedule: `task` scales it as the recipe's learning rate at the time; `own` as the recipe's
            over the steps that λ moves, as in the code.
        moments: How RMSprop treats rows that a batch does not have; see `RMSprop`.
        smoothing: α of the first soft labels; 0.05 in the code.
        symmetric: Whether soft labels have the symmetric divergence; in the code only on
            distorted data.
        gate: The first probability of each warp; 0.2 in the code.
        spread: Whether the size's standard deviation is ½·√σ(λ), or σ(λ) as in the code.
        view: At which size images are warped; `released` is the code, its geometry included.
        ops: Operations an image that are not learned, before crop and flip; 3 on SVHN, 2 on
            ImageNet.
        level: Their levels are uniform on 0..level; 7 on SVHN, 9 on ImageNet.
        erase: Whether random erasing ends the standard augmentation.
        celu: Whether ReLUs of the network are replaced by CELUs, as in the paper.
        placebo: `uniform` computes everything and never moves λ; `shuffled` permutes the
            hypergradient's rows among the images of a batch; `replay` learns in half of the
            budget, and trains anew under the mean of λ in the other.
    """

    variant: Literal["sha", "a", "aw", "aws", "static"] = "aws"
    start: float = Field(0.25, ge=0, lt=1)
    terms: int = Field(5, ge=0, le=100)
    rate: float = Field(0.01, gt=0, allow_inf_nan=False)
    lr: float = Field(0.05, gt=0, allow_inf_nan=False)
    schedule: Literal["task", "own"] = "task"
    moments: Literal["dense", "lazy"] = "dense"
    smoothing: float = Field(0.1, gt=0, lt=1)
    symmetric: bool = True
    gate: float = Field(0.25, gt=0, lt=1)
    spread: Literal["variance", "deviation"] = "variance"
    view: Literal["direct", "upsampled", "released"] = "direct"
    ops: int = Field(1, ge=0, le=6)
    level: float = Field(15.0, gt=0, le=30)
    erase: bool = True
    celu: bool = True
    placebo: Literal["uniform", "shuffled", "replay"] | None = None

    @model_validator(mode="after")
    def _coherent(self) -> "AutodoConfig":
        if self.variant == "sha" and self.placebo == "shuffled":
            raise ValueError("variant=sha has one row for all images: nothing to shuffle")
        return self


class Autodo(Method):
    """Learns per-image hyperparameters by implicit differentiation during the one training."""

    name = "autodo"
    learned = True
    clean_labels = "hypergradient"
    Config: ClassVar[type[MethodConfig]] = AutodoConfig

    def skip(self, task: Task, budget: float) -> str | None:
        """It differentiates through the classifier, which must be a linear layer."""
        with torch.device("meta"):
            network = unguarded(task.network()).eval()
            images = torch.zeros(2, task.channels, task.size, task.size)
        head, seen = last_linear(network), list[Tensor]()
        if head is not None:
            head.register_forward_hook(lambda module, inputs, output: seen.append(output))
        logits = network(images)
        ends = bool(seen) and seen[-1] is logits
        return None if ends else "the network does not end in a linear layer"

    def minimum(self, task: Task) -> float:
        """One training, and steps of λ at a step's price after `start`.

        A replay needs twice that, as half of its budget learns.
        """
        once = 1 + (1 - self.config.start)
        return 2 * once if self.config.placebo == "replay" else once

    def policy(self, task: Task) -> Policy:
        """Everything before training: operations, crop and flip, erasing, warps."""
        return Chain(self.before(task), self.warps(task))

    def run(self, session: Session) -> Fitted:
        """Training with passes for λ."""
        # The first learner and the first order of batches are those that pair with other methods.
        learner, task = self.learner(session), session.task
        tables, replay = self.tables(task), self.config.placebo == "replay"
        phases = Phases(self, session, learner, tables, moving=not replay)
        if replay:
            self._learn(session, tables)
        phases.train()
        policy, updates = (
            Chain(self.before(task), tables.policy),
            session.tallies["policy_updates"],
        )
        return Fitted(learner, policy, self._deviations(learner, updates), tables.points())

    def before(self, task: Task) -> Policy:
        """What happens to images before the warps that are learned."""
        config, parts = self.config, [standard(task)]
        if config.ops:
            table = space("autodo")
            drawn = Uniform(
                table, fill(task), ops=config.ops, levels="continuous", most=config.level
            )
            parts.insert(0, drawn)
        if config.erase:
            parts.append(Erasing((task.size, task.size), fill(task).hole))
        return Chain(*parts)

    def warps(self, task: Task) -> PerPoint:
        """The warps before training."""
        config = self.config
        return PerPoint(
            1 if config.variant == "sha" else len(task.train),
            gates=math.log(config.gate / (1 - config.gate)),
            spread=config.spread,
            view=config.view,
            device=task.device,
        )

    def tables(self, task: Task) -> Tables:
        """λ before training."""
        config = self.config
        return Tables(
            self.warps(task),
            task.train.labels,
            task.classes,
            weighted=config.variant not in ("sha", "a"),
            labels=LABELS.get(config.variant, "hard"),
            smoothing=config.smoothing,
            symmetric=config.symmetric,
        )

    def learner(self, session: Session) -> Learner:
        """The session's next learner, made smooth if wanted."""
        if not self.config.celu:
            return session.learner()
        return session.learner(lambda: with_celu(session.task.network()))

    def _learn(self, session: Session, tables: Tables) -> None:
        """λ becomes its mean over a training with half of the budget."""
        scout = Phases(self, session, self.learner(session), tables)
        with session.slice(0.5):
            scout.train(milestones=False)
        assert scout.mean is not None
        scout.mean.put()

    def _deviations(self, learner: Learner, updates: int) -> tuple[str, ...]:
        config, network = self.config, learner.network
        said = [
            "a pass for λ comes before an epoch's steps, not after them, as in the code",
            "the seven warps are one, as in the code; normal numbers are cut at ±3, scales at 0.1",
            "λ moves in evaluation mode and through the head's weights without its bias, as in "
            "the code; hypergradients lack the factor η, as there",
        ]
        if config.celu and not any(isinstance(m, nn.CELU) for m in network.modules()):
            said.append("the network has no ReLU modules to replace by CELU")
        if config.placebo == "replay":
            said.append("half of the budget learns λ, half trains under its mean")
        if not updates and config.placebo != "uniform":
            said.append("the budget is so small that λ never moved")
        return tuple(said)


class Phases:
    """A training in which, after a while, every epoch begins with a pass for λ.

    Args:
        method: Its options and fixed operations.
        session: Meters it.
        learner: Is trained.
        tables: λ.
        moving: Whether λ is learned.
    """

    def __init__(
        self,
        method: Autodo,
        session: Session,
        learner: Learner,
        tables: Tables,
        moving: bool = True,
    ) -> None:
        self.session, self.learner, self.tables = session, learner, tables
        self.moving = moving
        self.config: AutodoConfig = method.config
        self.before = method.before(session.task)
        # The first order of batches pairs with the other methods'.
        self.batches = session.batches("train")
        self.epoch = max(1, len(session.task.train) // session.task.recipe.batch_size)
        self.counts = torch.bincount(tables.given, minlength=tables.classes)
        self.mean: Mean | None = None
        if moving:
            self.hyper_batches = session.batches("train")
            self.val_batches = session.batches("val")
            moved = tables.all().learned()
            self.optimiser = RMSprop(moved, self.config.moments)
            session.keep(tables=tables, rmsprop=self.optimiser)
            if self.config.placebo == "replay":
                self.mean = Mean(moved)
                session.keep(mean=self.mean)

    def train(self, milestones: bool = True) -> None:
        """As many steps as the budget pays for, with as many steps of λ after the start."""
        session, moving = self.session, self.moving
        start = self.config.start if moving else 1.0
        step = session.price("step", lambda: self.step(0.0))
        hyper = session.price("hyper", lambda: self.hyper(1.0)) if moving else 0.0
        total = affordable(session.remaining, step, hyper, start)
        wanted = {"step": total} | ({"hyper": total - waiting(total, start)} if moving else {})
        total = session.plan(**wanted)["step"]
        first = waiting(total, start)
        with session.slice(1.0):
            for done in session.steps(total):
                if moving and done >= first and (done - first) % self.epoch == 0:
                    self.move(done, first, total)
                self.step(done / total)
                if milestones:
                    session.progress(self.learner, (done + 1) / total)

    def step(self, progress: float) -> None:
        """One step of the network under λ as it is."""
        session, tables = self.session, self.tables
        batch = next(self.batches)
        fixed = self.before.sample(batch.index, session.rng("before"))
        noise = tables.policy.sample(batch.index, session.rng("policy"))
        with session.metered("augment"):
            batch = tables.policy.apply(self.before.apply(batch, fixed), noise)
        with session.metered("train"):
            rows = tables.take(batch.index.to(session.task.device, non_blocking=True))
            loss = tables.losses(rows, batch.targets)(self.learner(batch.images)).mean()
            self.learner.descend(loss, progress)
        session.tally(steps=1, images_seen=len(batch))
        session.log(train_loss=loss.detach())

    def move(self, done: int, first: int, total: int) -> None:
        """A pass for λ: an epoch, or what is left of the training if that is less."""
        session, recipe = self.session, self.session.task.recipe
        count = min(self.epoch, total - done)
        worst = torch.zeros((), device=session.task.device)
        for i in range(count):
            at = done / total
            if self.config.schedule == "own":
                at = (done - first + i) / (total - first)
            length, norm = self.hyper(recipe.rate(at) / recipe.lr)
            worst = torch.maximum(worst, norm)
        if not worst.isfinite():  # the one wait for the device in a pass
            raise Diverged("a hypergradient is not finite: the training has diverged")
        if self.mean is not None:
            self.mean.add()
        policy = self.tables.policy
        session.log(
            probability=policy.probability().mean(0),
            strength=policy.strength().mean(0),
            neumann=length,
            hypergradient=norm,
        )
        if self.tables.weights is not None:
            session.log(weights=self._by_class())

    def hyper(self, scale: float) -> tuple[Tensor, Tensor]:
        """One step of λ.

        Args:
            scale: Of its learning rate.

        Returns:
            How much longer the Neumann series' last term is than its first, and the norm of the
            hypergradient.
        """
        session, tables, config = self.session, self.tables, self.config
        batch, val = next(self.hyper_batches), next(self.val_batches)
        fixed = self.before.sample(batch.index, session.rng("hyper before"))
        noise = tables.policy.sample(batch.index, session.rng("hyper policy"))
        row = batch.index.to(session.task.device, non_blocking=True)
        with session.metered("augment"):
            batch = self.before.apply(batch, fixed)
        with session.metered("hyper", terms=config.terms):
            pull = self._pull(val.images, val.targets)
            plain = tables.take(row)
            rows = plain.leaves()
            images = tables.policy.warped(batch.images, noise, rows.gates, rows.magnitudes)
            features, logits = read(self.learner, images)
            product = curvature(tables.losses(plain, batch.targets), logits, features)
            inverse, length = neumann(product, pull, config.terms, config.rate)
            losses = tables.losses(rows, batch.targets)
            # Without the series' factor η: RMSprop adds 1e-8 to the root of the mean square, which
            # would be felt by gradients as small as those of late soft labels.
            found = surrogate(losses, logits, features, inverse / config.rate)
            gradients = list(torch.autograd.grad(found, rows.learned()))
        norm = torch.stack([each.square().sum() for each in gradients]).sum().sqrt()
        self._update(row, gradients, config.lr * scale)
        return length, norm

    def _pull(self, images: Tensor, targets: Tensor) -> Tensor:
        """∇_W of the validation loss, (K, D)."""
        with torch.no_grad():
            features, logits = read(self.learner, blurred(images, self.config.view))
            delta = logits.softmax(1)
            delta[torch.arange(len(targets), device=delta.device), targets] -= 1
            return outer(delta, features)

    def _update(self, row: Tensor, gradients: list[Tensor], rate: float) -> None:
        frozen = self.config.placebo == "uniform"
        if self.config.placebo == "shuffled":
            order = torch.randperm(len(row), generator=self.session.rng("placebo"))
            order = order.to(row.device, non_blocking=True)
            gradients = [each[order] for each in gradients]
        if self.config.variant == "sha":
            row = torch.zeros_like(row[:1])
        # A placebo that stays pays for its steps all the same.
        self.optimiser.step(row, gradients, 0.0 if frozen else rate)
        self.session.tally(policy_updates=0 if frozen else 1)

    def _by_class(self) -> Tensor:
        """Mean loss weights of the given classes, (K,)."""
        assert self.tables.weights is not None
        given = self.tables.given
        weights = loss_weights(self.tables.weights)
        total = torch.zeros(len(self.counts), device=given.device).index_add(0, given, weights)
        return total / self.counts


def with_celu(network: nn.Module) -> nn.Module:
    """The network with CELU in place of every ReLU module; those that were one stay one."""
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(network.modules()):
        # `named_children` would leave out a module's second name.
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, made.setdefault(child, nn.CELU(inplace=child.inplace)))
    return network


def waiting(total: int, start: float) -> int:
    """How many of the steps come before λ moves."""
    return math.ceil(start * total)


def affordable(budget: float, step: float, hyper: float, start: float) -> int:
    """The most steps (a price of `step` RT) for which their steps of λ (`hyper`) are paid too."""
    budget *= 1 + 1e-9
    # At most one step of λ less than a share of the steps.
    total = math.floor((budget + hyper) / (step + (1 - start) * hyper)) + 1
    while total > 0 and total * step + (total - waiting(total, start)) * hyper > budget:
        total -= 1
    return total
