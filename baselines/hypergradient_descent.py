"""Hypergradient descent: learning rate, momentum and weight decay move at every training step.

The gradient on the next batch says how the latest step's result depends on the hyperparameters
that it was taken with (`_hypergradient`).  Each moves a little against that, and the next step is
taken with what comes out: one training, at the price of a plain one.  This is greedy, since nobody
asks what a hyperparameter does to the loss more than one step later.

Source: Baydin et al., "Online Learning Rate Adaptation with Hypergradient Descent", ICLR 2018, for
the learning rate.  All three, the outer rate, the clipping and the starts: the opponent in
"Non-greedy Gradient-based Hyperparameter Optimization Over Long Horizons" (FDS), submitted to ICLR
2021, section 5.2 and appendix B.  Deviations: the loss has no weight decay in it, since that is
learned; Baydin et al.'s code adds it to the gradients.
"""

import math
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from baselines._hypergradient import HypergradientSGD
from baselines._optimiser_space import logarithmic, wide
from bench.augment.policy import Policy
from bench.errors import PlanError
from bench.method import CleanLabels, Fitted, Method, MethodConfig
from bench.train.learner import Learner
from bench.train.loops import augment
from bench.train.session import Session
from bench.train.task import Task, standard

Tensor = torch.Tensor
KINDS = ("rate", "momentum", "decay")
RANGES = {"wide": wide, "log": logarithmic}
CURVE = 100  # points of a training's curves


class HypergradientConfig(MethodConfig):
    """Options; the defaults are those of FDS's Figure 1.

    Attributes:
        restarts: Trainings of equal length that share the budget; validation error chooses.
        start: `given` is `rate`, `momentum` and `decay`.  The others draw for each restart: `wide`
            from the ranges that FDS can reach, α ∈ [-1, 1], β ∈ [-1.5, 1.5] and μ ∈ [-4e-3, 4e-3],
            as for its Table 1; `log` from useful ones, evenly in the logarithm of α ∈ [1e-3, 1],
            1 - β ∈ [1e-2, 1] and μ ∈ [1e-5, 1e-2].
        rate: Where the learning rate starts; likewise `momentum` and `decay`.
        learns: `all` three, as in FDS's tables; or the `rate` alone, as Baydin et al.
        outer_rate: Learning rate of the hyperparameters.
        clip: Hypergradients are clamped to ± this.
        signal: Whose gradient ∇L is: `train` takes the next training batch's, which costs
            nothing, as Baydin et al.; `val` that of validation images, by a second pass a step.
        placebo: `uniform` computes everything and never moves the hyperparameters from their
            start: nothing is learned if that is zero, and drawn starts are a random search.
            `shuffled` permutes each step's hypergradient over the three.  `replay` trains a fresh
            network, for as long as each restart, under the mean over time of what the chosen
            restart learned.
    """

    restarts: int = Field(1, ge=1, le=1000)
    start: Literal["given", "wide", "log"] = "given"
    rate: float = Field(0.0, allow_inf_nan=False)
    momentum: float = Field(0.0, allow_inf_nan=False)
    decay: float = Field(0.0, allow_inf_nan=False)
    learns: Literal["all", "rate"] = "all"
    outer_rate: float = Field(0.2, gt=0, allow_inf_nan=False)
    clip: float | None = Field(1.0, gt=0, allow_inf_nan=False)
    signal: Literal["train", "val"] = "train"
    placebo: Literal["uniform", "shuffled", "replay"] | None = None

    @model_validator(mode="after")
    def _coherent(self) -> "HypergradientConfig":
        given = (self.rate, self.momentum, self.decay)
        if self.start != "given" and any(given):
            raise ValueError(f"start={self.start} draws what rate, momentum and decay would set")
        if self.restarts > 1 and self.start == "given":
            raise ValueError(
                f"restarts={self.restarts} would all start alike: add start=wide or start=log"
            )
        if self.learns == "rate" and self.placebo == "shuffled":
            raise ValueError("learns=rate leaves placebo=shuffled nothing to permute")
        return self


class HypergradientDescent(Method):
    """Learns the optimiser's hyperparameters online, in the training that it returns.

    It learns no augmentation: the greedy opponent of `fds`.  The best restart's own weights are
    final, since all of them were trained for equally long; only the first has the initial weights
    and the order of batches that pair with other methods'.
    """

    name = "hypergradient-descent"
    Config: ClassVar[type[MethodConfig]] = HypergradientConfig

    @classmethod
    def declared(cls, config: HypergradientConfig) -> CleanLabels:
        """A single training on its own signal sees no validation label."""
        if config.signal == "val":
            return "hypergradient"
        return "selection" if config.restarts > 1 else cls.clean_labels

    def minimum(self, task: Task) -> float:
        """A whole training for each restart, twice as dear with validation images as the signal.

        A replay adds a plain one; what choosing a restart costs is left out.
        """
        passes = 2 if self.config.signal == "val" else 1
        return self.config.restarts * passes + (self.config.placebo == "replay")

    def policy(self, task: Task) -> Policy:
        """Crop and flip."""
        return standard(task)

    def run(self, session: Session) -> Fitted:
        """All restarts, and the training that replays the chosen one, if there is one."""
        restarts = Restarts(session, self.config)
        learner = restarts.run()
        return Fitted(learner, standard(session.task), self._deviations(restarts.lost))

    def _deviations(self, lost: int) -> tuple[str, ...]:
        config = self.config
        said = ["learns the optimiser, no augmentation"]
        if config.learns == "all":
            said.append("neither paper prints the hypergradients of momentum and weight decay")
        if config.signal == "train":
            said.append("hypergradients come from training images; the FDS paper does not say")
        else:
            said.append("hypergradients come from plain validation images, at a second pass")
        if config.restarts > 1:
            said.append("validation error chooses a restart; the FDS paper does not say")
        if config.start == "log":
            said.append("hyperparameters start in ranges of useful values, which FDS does not do")
        if config.placebo == "replay":
            said.append("the last training has the mean hyperparameters of the chosen restart")
        if lost:
            said.append(f"{lost} of {config.restarts} restarts diverged")
        return tuple(said)


class Training:
    """One training with hyperparameters that move, or that stay if it is a replay.

    Args:
        session: Meters it.
        config: The method's options.
        start: First α, β and μ, (3,).
        replay: Whether this is the plain training at the end of the placebo.
    """

    def __init__(
        self, session: Session, config: HypergradientConfig, start: Tensor, replay: bool = False
    ) -> None:
        self.session, self.config, self.replay = session, config, replay
        self.learner, self.batches = session.learner(), session.batches("train")
        self.judges = session.batches("val") if config.signal == "val" and not replay else None
        self.policy = standard(session.task)
        # A replay's draws pair with other methods', so what comes before it has a stream apart.
        self.stream = "search" if config.placebo == "replay" and not replay else "policy"
        self.sgd = HypergradientSGD(self.learner.network, start)
        learned = start.new_tensor([1, 1, 1] if config.learns == "all" else [1, 0, 0])
        self.rates = (config.outer_rate * learned).to(session.task.device)
        session.keep(**{"replay" if replay else "training": self.sgd})

    def step(self) -> Tensor:
        """Moves the hyperparameters by what the latest step did, then takes the next one.

        Returns:
            The batch's mean loss, detached, on the device.
        """
        session, sgd = self.session, self.sgd
        batch = augment(session, self.policy, next(self.batches), session.rng(self.stream))
        signal = self._validation_gradient()
        with session.metered("train"):
            loss = self.learner.loss(batch.images, batch.targets)
            loss.backward()
            gradient = sgd.gradient()
            if not self.replay:
                self._move(sgd.hypergradient(gradient if signal is None else signal))
            sgd.step(gradient)
        session.tally(steps=1, images_seen=len(batch))
        return loss.detach()

    def log(self, loss: Tensor) -> None:
        """A point of each curve."""
        values = dict(zip(KINDS, self.sgd.values.split(1), strict=True))
        self.session.log(train_loss=loss, **values)

    def finite(self) -> bool:
        """Whether weights and buffers are finite; waits for the device."""
        state = self.learner.network.state_dict().values()
        return bool(torch.stack([value.isfinite().all() for value in state]).all())

    def _validation_gradient(self) -> Tensor | None:
        """∇L (D,) on a batch of validation images, in training mode; buffers stay."""
        if self.judges is None:
            return None
        batch, buffers = next(self.judges), list(self.learner.network.buffers())
        with self.session.metered("signal"):
            before = [buffer.clone() for buffer in buffers]
            self.learner.loss(batch.images, batch.targets).backward()
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            return self.sgd.gradient()

    def _move(self, found: Tensor) -> None:
        config, session = self.config, self.session
        if config.placebo == "shuffled":
            # Views by number: an index would have to be sent to the device.
            order = torch.randperm(len(found), generator=session.rng("placebo")).tolist()
            found = torch.stack([found[i] for i in order])
        if config.placebo != "uniform":
            bound = config.clip or math.inf
            self.sgd.values -= self.rates * found.clamp(-bound, bound)
            session.tally(policy_updates=1)


class Restarts:
    """Trainings one after the other, of which the best one's weights are kept.

    Attributes:
        lost: How many diverged.
    """

    def __init__(self, session: Session, config: HypergradientConfig) -> None:
        self.session, self.config, self.lost = session, config, 0
        # The first learner and order of batches pair with other methods': the replay has them.
        nothing = torch.zeros(3, dtype=torch.float64)
        replays = config.placebo == "replay"
        self.replay = Training(session, config, nothing, replay=True) if replays else None
        self.training = Training(session, config, self._start())
        # The best restart's weights go into the first one's learner.
        self.learner, self.mean, self.error = self.training.learner, nothing.clone(), math.inf
        session.keep(mean=self.mean)

    def run(self) -> Learner:
        """Prices, plans, trains; the network that is final."""
        session, many = self.session, self.config.restarts
        prices = self._prices()
        plan = session.plan(**self._affordable(prices))
        steps = plan["train"] // many
        once = steps * prices["train"] + prices.get("validate", 0.0)
        last = steps * prices.get("replay", 0.0)
        for number in range(many):
            if number:
                self.training = Training(session, self.config, self._start())
            with session.slice(min(1.0, once / ((many - number) * once + last))):
                work = partial(self._restart, number, steps, steps * prices["train"] / once)
                self._note(session.phase("restart", work, number=number))
        if self.replay is None:
            return self.learner
        self.replay.sgd.values.copy_(self.mean)
        session.log(replayed=self.mean)
        with session.slice(1.0):
            for done in session.steps(steps):
                session.log(train_loss=self.replay.step())
                session.progress(self.replay.learner, (done + 1) / steps)
        return self.replay.learner

    def _restart(self, number: int, steps: int, share: float) -> dict[str, Any]:
        """Trains in a share of what remains; whether that is the best so far, and its error."""
        with self.session.slice(min(1.0, share)):
            self._train(number, steps)
        return self._judge(number)

    def _train(self, number: int, steps: int) -> None:
        session, training = self.session, self.training
        total = self.config.restarts * steps
        session.log(start=training.sgd.values)
        for done in session.steps(steps):
            loss = training.step()
            if done % max(1, steps // CURVE) == 0 or done + 1 == steps:
                training.log(loss)
            if self.replay is None:
                session.progress(self.learner, (number * steps + done + 1) / total)

    def _judge(self, number: int) -> dict[str, Any]:
        """Keeps the restart if it is the best so far; the first one if all diverge."""
        training = self.training
        if self.config.restarts == 1:
            finite, error = training.finite(), math.inf
        else:
            found = self.session.validate(training.learner)
            finite, error = found.finite, found.error if found.finite else math.inf
            self.session.log(restart_error=error)
        best = number == 0 or error < self.error
        if best:
            if training.learner is not self.learner:
                self.learner.load_state_dict(training.learner.state_dict())
            self.mean.copy_(training.sgd.mean())
        return {"finite": finite, "best": best, "error": error if math.isfinite(error) else None}

    def _note(self, found: dict[str, Any]) -> None:
        """What a restart came to."""
        self.lost += not found["finite"]
        if found["best"]:
            self.error = math.inf if found["error"] is None else found["error"]

    def _start(self) -> Tensor:
        """First hyperparameters of the next restart, (3,) float64 on the host."""
        config = self.config
        if config.start == "given":
            drawn = [config.rate, config.momentum, config.decay]
        else:
            sides = RANGES[config.start](1).dimensions
            places = torch.rand(len(sides), generator=self.session.rng("start")).tolist()
            drawn = [side.scale(place) for side, place in zip(sides, places, strict=True)]
        return torch.tensor(drawn, dtype=torch.float64)

    def _prices(self) -> dict[str, float]:
        """RT of each kind of work."""
        session, training, replay = self.session, self.training, self.replay
        prices = {"train": session.price("train", training.step)}
        if self.config.restarts > 1:
            prices["validate"] = session.price(
                "validate", lambda: session.validate(training.learner)
            )
        if replay is not None:
            prices["replay"] = session.price("replay", replay.step)
        return prices

    def _affordable(self, prices: dict[str, float]) -> dict[str, int]:
        """How often each kind of work runs, in trainings as long as the budget pays for."""
        many, left = self.config.restarts, self.session.remaining
        step = many * prices["train"] + prices.get("replay", 0.0)
        steps = math.floor((left - many * prices.get("validate", 0.0)) / step * (1 + 1e-9))
        if steps < 1:
            raise PlanError(
                f"{left:.3g} RT do not pay for one step in each of {many} trainings: allow more "
                "budget, or fewer restarts"
            )
        counts = {"train": many * steps, "validate": many, "replay": steps}
        return {name: counts[name] for name in prices}
