"""FDS: learning rate, momentum and weight decay of a whole training, by its own hypergradient.

An outer step trains a fresh network under the schedule as it is, and carries along how every
weight depends on every hyperparameter (`_tangents`).  Steps in one window of time share a
hyperparameter, which averages the hypergradient's noise, and only its sign counts: a
hyperparameter moves by its γ against it, and γ halves whenever the sign turns.  After some ten
outer steps one last network is trained under what was found.

The same recursion takes hyperparameters of the loss: with `learns=augmentation` or `joint` those
are seven warps, the same for all images of a window, each with a gate and a magnitude.

Source: "Non-greedy Gradient-based Hyperparameter Optimization Over Long Horizons" (FDS),
submitted to ICLR 2021: Algorithm 1, sections 4 and 5.2, appendix B.  Deviation: the warps are this
project's extension.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from bench.augment.per_point import WARPS, PerPoint
from bench.augment.policy import Batch, Chain, Policy
from bench.method import Fitted, Method, MethodConfig
from bench.train.heavy_ball import HeavyBall, heavy_ball_step
from bench.train.loops import augment
from bench.train.meter import unguarded
from bench.train.session import Session
from bench.train.task import Task, standard
from methods._pace import Pace
from methods._schedule import Kind, Schedule
from methods._tangents import Columns, ForwardSGD, Setting

Tensor = torch.Tensor
ASIDE = 0.05  # of the training set, where validation images are redrawn
JUDGED = 500  # validation images a batch


class FdsConfig(MethodConfig):
    """Options; the defaults are the paper's for its Table 1.

    Attributes:
        learns: `optimiser` is the paper's; `augmentation` trains by heavy ball with the recipe's
            rate, momentum and decay; `joint` learns both.
        outer: Outer steps, each a whole training.
        rates: Windows of the learning rate; likewise `momenta` and `decays`.
        rate_step: γ of the learning rate at first; likewise `momentum_step` and `decay_step`.
        rate: Where the learning rate starts; likewise `momentum` and `decay`.
        warps: Windows of the augmentation.
        logits: Whether the seven warps have one gate and one magnitude together, or `each`.
        gate: First logit of the gates' probability; likewise `magnitude`, of the spread.
        warp_step: γ of these logits at first.
        gates: What the last training has: `hard` ones that open or stay shut, or the search's
            `soft` ones, by which every warp moves every image a little.
        horizon: `whole` differentiates the validation loss at the end of the training through all
            of it; `window` that at each window's end through that window alone: the greedy
            opponent, whose derivatives are forgotten between windows.
        gradient_clip: Gradients are clamped to ± this; 3 in the authors' first code.
        product_clip: H Z is clamped to ± this.
        skipped: Share of the inner steps, spread evenly, through which derivatives are not
            carried; at most 0.15 in the paper.
        final: Whether the last training has the `last` schedule, which no training has tried, or
            the `best` by the validation loss at the end of an outer step.
        validation: `fixed` is the protocol's validation set; `redrawn` sets aside a twentieth of
            the training set in each outer step, as the paper, and leaves the clean labels alone.
        placebo: `uniform` computes everything and never moves the hyperparameters from their
            start, where nothing is learned if that is zero; `shuffled` permutes the hypergradient
            over the hyperparameters; `replay` trains under the mean schedule of all outer steps.
    """

    learns: Literal["optimiser", "augmentation", "joint"] = "optimiser"
    outer: int = Field(10, ge=1, le=200)
    rates: int = Field(7, ge=1, le=64)
    momenta: int = Field(1, ge=1, le=64)
    decays: int = Field(1, ge=1, le=64)
    rate_step: float = Field(0.1, ge=0, allow_inf_nan=False)
    momentum_step: float = Field(0.15, ge=0, allow_inf_nan=False)
    decay_step: float = Field(4e-4, ge=0, allow_inf_nan=False)
    rate: float = Field(0.0, allow_inf_nan=False)
    momentum: float = Field(0.0, allow_inf_nan=False)
    decay: float = Field(0.0, allow_inf_nan=False)
    warps: int = Field(3, ge=1, le=64)
    logits: Literal["shared", "each"] = "shared"
    gate: float = Field(0.0, allow_inf_nan=False)
    magnitude: float = Field(0.0, allow_inf_nan=False)
    warp_step: float = Field(0.5, ge=0, allow_inf_nan=False)
    gates: Literal["hard", "soft"] = "hard"
    horizon: Literal["whole", "window"] = "whole"
    gradient_clip: float | None = Field(None, gt=0, allow_inf_nan=False)
    product_clip: float | None = Field(10.0, gt=0, allow_inf_nan=False)
    skipped: float = Field(0.0, ge=0, le=0.5)
    final: Literal["last", "best"] = "last"
    validation: Literal["fixed", "redrawn"] = "fixed"
    placebo: Literal["uniform", "shuffled", "replay"] | None = None

    @model_validator(mode="after")
    def _coherent(self) -> "FdsConfig":
        if not any(kind.step for kind in self.kinds()):
            raise ValueError("the first steps of all that is learned are 0: nothing moves")
        return self

    def kinds(self) -> tuple[Kind, ...]:
        """What is learned, before the search."""
        width = 1 if self.logits == "shared" else len(WARPS)
        optimiser = (
            Kind("rate", self.rates, self.rate, self.rate_step),
            Kind("momentum", self.momenta, self.momentum, self.momentum_step),
            Kind("decay", self.decays, self.decay, self.decay_step),
        )
        augmentation = (
            Kind("gates", self.warps, self.gate, self.warp_step, width),
            Kind("magnitudes", self.warps, self.magnitude, self.warp_step, width),
        )
        return {
            "optimiser": optimiser,
            "augmentation": augmentation,
            "joint": optimiser + augmentation,
        }[self.learns]


class Fds(Method):
    """Searches the optimiser's schedule by whole trainings, then trains once under it.

    By default it learns no augmentation: a control for how much of a gain is tuning the optimiser.
    The horizon is what the budget pays for: `outer` trainings with derivatives and a last one
    without have the same number of steps.
    """

    name = "fds"
    learned = True
    clean_labels = "hypergradient"
    Config: ClassVar[type[MethodConfig]] = FdsConfig

    @classmethod
    def declared(cls, config: FdsConfig) -> str:
        """Validation images set aside from the training set are none of the clean ones."""
        return "none" if config.validation == "redrawn" else cls.clean_labels

    def minimum(self, task: Task) -> float:
        """Whole trainings with 1 + 2n passes a step for n derivatives, and the last one."""
        config = self.config
        mean = sum(kind.width * (kind.windows + 1) / 2 for kind in config.kinds())
        return 1 + config.outer * (1 + 2 * mean * (1 - config.skipped))

    def skip(self, task: Task, budget: float) -> str | None:
        """It needs a forward mode over the reverse mode of everything in the network."""
        with torch.random.fork_rng([task.device] if task.device.type == "cuda" else []):
            network = unguarded(task.network()).to(task.device)
        sgd = ForwardSGD(network, 1)
        images = torch.zeros(2, task.channels, task.size, task.size, device=task.device)
        try:
            for _ in range(2):  # from the second step on there is a derivative to carry
                sgd.step(lambda net: net(images).square().mean(), Setting(0.1), Columns(0))
        except (NotImplementedError, RuntimeError) as error:
            return f"torch cannot carry derivatives through the network: {error}".split("\n")[0]
        return None

    def policy(self, task: Task) -> Policy:
        """Crop and flip, and the warps before the search if they are learned."""
        learned = warps(task, self.config)
        return Chain(standard(task), learned) if learned else standard(task)

    def run(self, session: Session) -> Fitted:
        """Outer steps, then the last training."""
        search = Search(session, self.config)
        search.run()
        return Fitted(search.learner, search.policy, self._deviations(search))

    def _deviations(self, search: "Search") -> tuple[str, ...]:
        config = self.config
        said = ["heavy-ball momentum, as in the paper"]
        if config.learns == "optimiser":
            said.append("learns the optimiser, no augmentation")
        else:
            said += [
                "learning an augmentation is this project's extension of FDS",
                f"gates are soft in the search and {config.gates} in the last training",
            ]
        if config.learns == "augmentation":
            said.append("heavy ball in place of the recipe's Nesterov momentum")
        if config.validation == "fixed":
            said.append("validation images are the protocol's, plain and the same every time")
        if config.final == "best":
            said.append(
                "validation loss chooses the schedule, not accuracy as in some of the paper"
            )
        if config.placebo == "replay":
            said.append("the last training has the mean schedule of all outer steps")
        if search.lost:
            said.append(f"{search.lost} outer steps diverged and moved nothing")
        return tuple(said)


class Search:
    """The outer loop.

    Args:
        session: Meters it.
        config: The method's options.
    """

    def __init__(self, session: Session, config: FdsConfig) -> None:
        self.session, self.config, self.task = session, config, session.task
        self.plain, self.warps = standard(session.task), warps(session.task, config)
        self.policy = Chain(self.plain, self.warps) if self.warps else self.plain
        # The first learner and order of batches pair with other methods': they come last.
        self.learner, self.batches = session.learner(), session.batches("train")
        self.schedule = Schedule(config.kinds(), self.task.recipe)
        self.ball = HeavyBall(self.learner)
        self.lost = 0
        session.keep(schedule=self.schedule, ball=self.ball)
        self._fresh()

    def run(self) -> None:
        """Prices, plans, searches, trains."""
        session, config = self.session, self.config
        prices = self._prices()
        steps = self.pace.longest(prices, config.outer, session.remaining)
        search = {name: config.outer * many for name, many in self.pace.work(steps).items()}
        plan = session.plan(**search, train=steps)
        cost = sum(plan[name] * prices[name] for name in search)
        with session.slice(min(1.0, cost / (cost + plan["train"] * prices["train"]))):
            for number in range(config.outer):
                if number:
                    self._fresh()
                work = partial(self.trial, plan["train"])
                self.lost += not session.phase("outer step", work, number=number)
        if config.placebo == "replay" and self.schedule.count:
            self.schedule.settle()
        elif config.final == "best":
            self.schedule.choose()
        with session.slice(1.0):
            for done in session.steps(plan["train"]):
                self.train(done / plan["train"])
                session.progress(self.learner, (done + 1) / plan["train"])

    def trial(self, steps: int) -> bool:
        """One outer step: a training with derivatives, and what they say of the schedule.

        Returns:
            Whether it was finite.
        """
        found = torch.zeros(len(self.schedule), device=self.task.device)
        judged = torch.zeros((), device=self.task.device)
        self.session.keep(found=found, judged=judged)
        for done in self.session.steps(steps):
            loss = self.inner(done / steps, carry=self.pace.carries(done))
            if self.pace.ends(done, steps):
                judged.zero_()
                for _ in range(self.pace.checks):
                    part, value = self.check()
                    found += part
                    judged += value
                if self.config.horizon == "window":
                    self.sgd.reset()
        self.session.log(search_loss=loss, search_val_loss=judged)
        return self._update(found / self.schedule.spans(steps).to(found.device), judged)

    def inner(self, progress: float, carry: bool = True) -> Tensor:
        """One step of a training, with derivatives or leaving them as they are."""
        session = self.session
        setting, columns = self.schedule.at(progress)
        batch = augment(session, self.plain, next(self.scouts), session.rng("search"))
        loss = self._warped_loss(batch) if self.warps else self._loss(batch)
        carried = columns if carry else None
        with session.metered("inner", columns=self.sgd.due(carried)):
            value = self.sgd.step(loss, self._here(setting), carried)
        session.tally(steps=1, images_seen=len(batch))
        return value

    def check(self) -> tuple[Tensor, Tensor]:
        """A batch's share of the validation loss's hypergradient, (N,), and of that loss."""
        session, batch = self.session, next(self.judges)
        if self.config.validation == "redrawn":
            batch = augment(session, self.plain, batch, session.rng("judge"))
        seen: list[Tensor] = []

        def loss(net: Callable[..., Tensor]) -> Tensor:
            seen.append(self._loss(batch)(net))
            return seen[0]

        with session.metered("check", columns=len(self.sgd.rows)):
            found = self.sgd.hypergradient(loss)
        return found / self.pace.checks, seen[0].detach() / self.pace.checks

    def train(self, progress: float) -> None:
        """One step of the last training."""
        at, _ = self.schedule.at(progress)
        if self.warps:
            gates, magnitudes = at.augment.view(2, 1, -1).unbind()
            self.warps.gates.copy_(gates)
            self.warps.magnitudes.copy_(magnitudes)
        loss = heavy_ball_step(
            self.session,
            self.learner,
            self.ball,
            self.policy,
            self.batches,
            (at.rate, at.momentum, at.decay),
        )
        self.session.log(train_loss=loss)

    def _loss(self, batch: Batch) -> Callable[..., Tensor]:
        images = self.scout.pixels(batch.images)
        return lambda net: F.cross_entropy(net(images), batch.targets)

    def _warped_loss(self, batch: Batch) -> Callable[..., Tensor]:
        """The loss as a function of the warps' logits (P,); noise is drawn here, once."""
        noise = self.warps.sample(batch.index, self.session.rng("search warps"))

        def loss(net: Callable[..., Tensor], logits: Tensor) -> Tensor:
            gates, magnitudes = logits.view(2, 1, -1).unbind()
            images = self.warps.warped(batch.images, noise, gates, magnitudes, hard=False)
            return F.cross_entropy(net(self.task.normalise(images)), batch.targets)

        return loss

    def _here(self, setting: Setting) -> Setting:
        """The setting with its logits on the device."""
        if setting.augment is None:
            return setting
        logits = setting.augment.to(self.task.device, non_blocking=True)
        return replace(setting, augment=logits)

    def _fresh(self) -> None:
        """A network, an order of batches and derivatives for the next outer step."""
        session, task, config = self.session, self.task, self.config
        self.scout = session.learner()
        self.sgd = ForwardSGD(
            self.scout.network,
            len(self.schedule),
            gradient_clip=config.gradient_clip or math.inf,
            product_clip=config.product_clip or math.inf,
        )
        session.keep(sgd=self.sgd)
        train, val = task.train, task.val
        if config.validation == "redrawn":
            order = torch.randperm(len(train), generator=session.rng("redraw"))
            aside = max(1, round(ASIDE * len(train)))
            train, val = train.subset(order[aside:]), train.subset(order[:aside])
        size = min(JUDGED, len(val))
        greedy = config.horizon == "window"
        self.pace = Pace(self.schedule, len(val) // size, config.skipped, greedy)
        self.scouts = session.batches("train" if train is task.train else train)
        self.judges = session.batches("val" if val is task.val else val, size)

    def _update(self, found: Tensor, judged: Tensor) -> bool:
        """Moves the schedule; says whether there was anything to move it by."""
        session, schedule = self.session, self.schedule
        schedule.judge(float(judged))
        sound = bool(found.isfinite().all())
        if self.config.placebo == "shuffled":
            found = found[torch.randperm(len(found), generator=session.rng("placebo"))]
        if self.config.placebo != "uniform":
            schedule.move(found)
            session.tally(policy_updates=1)
        schedule.remember()
        session.log(**schedule.by_kind(), hypergradient=found)
        return sound

    def _prices(self) -> dict[str, float]:
        """RT of each kind of block."""
        session, many = self.session, len(self.schedule)
        names = self.pace.work(8 * many)  # long enough to meet every number of columns

        _, own = self.schedule.at(0.0)
        order = [*own.augment, *(each for each in range(many) if each not in own.augment)]

        def inner(columns: int) -> None:
            self.sgd.rows = {column: row for row, column in enumerate(order[:columns])}
            self.inner(0.0, carry=columns > 0)

        prices = {"train": session.price("train", lambda: self.train(0.0))}
        prices["check"] = session.price("check", self.check)
        for name in names:
            if name != "check":
                count = int(name.removeprefix("inner_"))
                prices[name] = session.price(name, lambda count=count: inner(count))
        return prices


def warps(task: Task, config: FdsConfig) -> PerPoint | None:
    """The warps before the search, if they are learned."""
    if config.learns == "optimiser":
        return None
    soft = config.gates == "soft"
    return PerPoint(gates=config.gate, magnitudes=config.magnitude, soft=soft, device=task.device)
