"""FDS: learning rate, momentum and weight decay of a whole training, by its own hypergradient.

An outer step trains a fresh network under the schedule as it is, and carries along how every
weight depends on every hyperparameter (`_tangents`).  Steps in one window of time share a
hyperparameter, which averages the hypergradient's noise, and only its sign counts: a
hyperparameter moves by its γ against it, and γ halves whenever the sign turns.  After some ten
outer steps one last network is trained under what was found.

Source: "Non-greedy Gradient-based Hyperparameter Optimization Over Long Horizons" (FDS),
submitted to ICLR 2021: Algorithm 1, sections 4 and 5.2, appendix B.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from bench.augment.policy import Policy
from bench.errors import PlanError
from bench.method import Fitted, Method, MethodConfig
from bench.train.heavy_ball import HeavyBall, heavy_ball_step
from bench.train.loops import augment
from bench.train.session import Session
from bench.train.task import Task, standard
from methods._schedule import Schedule
from methods._tangents import ForwardSGD

Tensor = torch.Tensor
ASIDE = 0.05  # of the training set, where validation images are redrawn
JUDGED = 500  # validation images a batch


class FdsConfig(MethodConfig):
    """Options; the defaults are the paper's for its Table 1.

    Attributes:
        outer: Outer steps, each a whole training.
        rates: Windows of the learning rate; likewise `momenta` and `decays`.
        rate_step: γ of the learning rate at first; likewise `momentum_step` and `decay_step`.
        rate: Where the learning rate starts; likewise `momentum` and `decay`.
        horizon: `whole` differentiates the validation loss at the end of the training through all
            of it; `window` that at each window's end through that window alone: the greedy
            opponent, whose derivatives are forgotten between windows.
        gradient_clip: Gradients are clamped to ± this; 3 in the authors' first code.
        product_clip: H Z is clamped to ± this.
        skipped: Share of the inner steps, spread evenly, through which derivatives are not
            carried; at most 0.15 in the paper.
        validation: `fixed` is the protocol's validation set; `redrawn` sets aside a twentieth of
            the training set in each outer step, as the paper, and leaves the clean labels alone.
        placebo: `uniform` computes everything and never moves the hyperparameters from their
            start, where nothing is learned if that is zero; `shuffled` permutes the hypergradient
            over the hyperparameters; `replay` trains under the mean schedule of all outer steps.
    """

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
    horizon: Literal["whole", "window"] = "whole"
    gradient_clip: float | None = Field(None, gt=0, allow_inf_nan=False)
    product_clip: float | None = Field(10.0, gt=0, allow_inf_nan=False)
    skipped: float = Field(0.0, ge=0, le=0.5)
    validation: Literal["fixed", "redrawn"] = "fixed"
    placebo: Literal["uniform", "shuffled", "replay"] | None = None

    @model_validator(mode="after")
    def _coherent(self) -> "FdsConfig":
        if not (self.rate_step or self.momentum_step or self.decay_step):
            raise ValueError("rate_step, momentum_step and decay_step are all 0: nothing moves")
        return self

    def schedule(self) -> Schedule:
        """The schedule before the search."""
        return Schedule(
            (self.rates, self.momenta, self.decays),
            (self.rate, self.momentum, self.decay),
            (self.rate_step, self.momentum_step, self.decay_step),
        )


class Fds(Method):
    """Searches the optimiser's schedule by whole trainings, then trains once under it.

    It learns no augmentation: a control for how much of a gain is tuning the optimiser.  The
    horizon is what the budget pays for: `outer` trainings with derivatives and a last one without
    have the same number of steps.
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
        mean = sum((many + 1) / 2 for many in (config.rates, config.momenta, config.decays))
        return 1 + config.outer * (1 + 2 * mean * (1 - config.skipped))

    def policy(self, task: Task) -> Policy:
        """Crop and flip."""
        return standard(task)

    def run(self, session: Session) -> Fitted:
        """Outer steps, then the last training."""
        search = Search(session, self.config)
        search.run()
        return Fitted(search.learner, standard(session.task), self._deviations(search))

    def _deviations(self, search: "Search") -> tuple[str, ...]:
        config = self.config
        said = ["learns the optimiser, no augmentation", "heavy-ball momentum, as in the paper"]
        if config.validation == "fixed":
            said.append("validation images are the protocol's, plain and the same every time")
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
        self.policy = standard(session.task)
        # The first learner and order of batches pair with other methods': they come last.
        self.learner, self.batches = session.learner(), session.batches("train")
        self.schedule, self.ball = config.schedule(), HeavyBall(self.learner)
        self.lost = 0
        session.keep(schedule=self.schedule, ball=self.ball)
        self._fresh()

    def run(self) -> None:
        """Prices, plans, searches, trains."""
        session, config = self.session, self.config
        prices = self._prices()
        steps = self._affordable(prices)
        search = {name: config.outer * count for name, count in self._work(steps).items()}
        plan = session.plan(**search, train=steps)
        cost = sum(plan[name] * prices[name] for name in search)
        with session.slice(min(1.0, cost / (cost + plan["train"] * prices["train"]))):
            for number in range(config.outer):
                if number:
                    self._fresh()
                self.trial(plan["train"])
        if config.placebo == "replay" and self.schedule.count:
            self.schedule.settle()
        with session.slice(1.0):
            for done in range(plan["train"]):
                self.train(done / plan["train"])
                session.progress(self.learner, (done + 1) / plan["train"])

    def trial(self, steps: int) -> None:
        """One outer step: a training with derivatives, and what they say of the schedule."""
        found = torch.zeros(len(self.schedule), device=self.task.device)
        for done in range(steps):
            loss = self.inner(done, steps)
            if self._ends(done, steps):
                for _ in range(self.checks):
                    found += self.check()
                if self.config.horizon == "window":
                    self.sgd.reset()
        self.session.log(search_loss=loss)
        self._update(found / self.schedule.spans(steps).to(found.device))

    def inner(self, done: int, steps: int) -> Tensor:
        """One step of a training with derivatives."""
        session = self.session
        setting, columns = self.schedule.at(done / steps)
        batch = augment(session, self.policy, next(self.scouts), session.rng("search"))
        carried = None if self._skips(done) else columns
        with session.metered("inner", columns=self.sgd.due(carried)):
            images = self.scout.pixels(batch.images)
            loss = self.sgd.step(
                lambda net: F.cross_entropy(net(images), batch.targets), setting, carried
            )
        session.tally(steps=1, images_seen=len(batch))
        return loss

    def check(self) -> Tensor:
        """A batch's share of the validation loss's hypergradient, (N,)."""
        session, batch = self.session, next(self.judges)
        if self.config.validation == "redrawn":
            batch = augment(session, self.policy, batch, session.rng("judge"))
        with session.metered("check", columns=len(self.sgd.rows)):
            images = self.scout.pixels(batch.images)
            found = self.sgd.hypergradient(lambda net: F.cross_entropy(net(images), batch.targets))
        return found / self.checks

    def train(self, progress: float) -> None:
        """One step of the last training."""
        at, _ = self.schedule.at(progress)
        setting = at.rate, at.momentum, at.decay
        loss = heavy_ball_step(
            self.session, self.learner, self.ball, self.policy, self.batches, setting
        )
        self.session.log(train_loss=loss)

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
        self.checks = len(val) // size
        self.scouts = session.batches("train" if train is task.train else train)
        self.judges = session.batches("val" if val is task.val else val, size)

    def _update(self, found: Tensor) -> None:
        session, schedule = self.session, self.schedule
        if not found.isfinite().all():
            self.lost += 1
        if self.config.placebo == "shuffled":
            found = found[torch.randperm(len(found), generator=session.rng("placebo"))]
        if self.config.placebo != "uniform":
            schedule.move(found)
            session.tally(policy_updates=1)
        schedule.remember()
        session.log(**schedule.by_kind(), hypergradient=found)

    def _skips(self, done: int) -> bool:
        share = self.config.skipped
        return math.floor((done + 1) * share) > math.floor(done * share)

    def _ends(self, done: int, steps: int) -> bool:
        """Whether the validation loss is looked at after this step."""
        if done + 1 == steps or self.config.horizon == "whole":
            return done + 1 == steps
        windows = self.config.rates
        return int((done + 1) / steps * windows) > int(done / steps * windows)

    def _work(self, steps: int) -> dict[str, int]:
        """How often each kind of block runs in one outer step."""
        counts: dict[str, int] = {"check": 0}
        used: set[int] = set()
        for done in range(steps):
            _, columns = self.schedule.at(done / steps)
            name = _inner(0 if self._skips(done) else len(used))
            counts[name] = counts.get(name, 0) + 1
            if not self._skips(done):
                used |= {columns.rate, columns.momentum, columns.decay}
            if self._ends(done, steps):
                counts["check"] += self.checks
                used = set() if self.config.horizon == "window" else used
        return counts

    def _prices(self) -> dict[str, float]:
        """RT of each kind of block."""
        session, many = self.session, len(self.schedule)
        names = self._work(8 * many)  # long enough to meet every number of columns

        def inner(columns: int) -> None:
            self.sgd.rows = {column: column for column in range(columns)}
            self.inner(0, 1)

        prices = {"train": session.price("train", lambda: self.train(0.0))}
        prices["check"] = session.price("check", self.check)
        for name in names:
            if name != "check":
                count = int(name.removeprefix("inner_"))
                prices[name] = session.price(name, lambda count=count: inner(count))
        return prices

    def _affordable(self, prices: dict[str, float]) -> int:
        """The most steps of a training that `outer` searches and the last one can have."""

        def cost(steps: int) -> float:
            work = self._work(steps)
            search = sum(count * prices[name] for name, count in work.items())
            return self.config.outer * search + steps * prices["train"]

        low, high = 0, self.session.afford(prices["train"])
        while low < high:
            middle = (low + high + 1) // 2
            if cost(middle) <= self.session.remaining * (1 + 1e-9):
                low = middle
            else:
                high = middle - 1
        if low < max(self.schedule.windows):
            raise PlanError(
                f"{self.session.remaining:.3g} RT pay for {low} steps in each of "
                f"{self.config.outer} outer trainings, and there are "
                f"{max(self.schedule.windows)} windows: allow more budget"
            )
        return low


def _inner(columns: int) -> str:
    return f"inner_{columns}"
