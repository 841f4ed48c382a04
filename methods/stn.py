"""STN: a network whose weights follow its regularisation, and the regularisation's gradient.

Every image is augmented, and its activations dropped, under hyperparameters λ + ε of its own, and
meets weights that are a function of them (`_hyper`).  After every two such steps λ, and how far ε
spreads, go down the validation loss less an entropy that keeps ε from vanishing.

Source: MacKay et al., "Self-Tuning Networks: Bilevel Optimization of Hyperparameters using
Structured Best-Response Functions", 2019: section 3, Algorithm 1, the experiment on CIFAR-10 with
15 hyperparameters, and its code.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from bench.augment.policy import Policy
from bench.augment.regularisers import Regularisers
from bench.method import Fitted, Method, MethodConfig
from bench.train.learner import Learner
from bench.train.session import Session
from bench.train.task import Task, around
from methods._hyper import HyperLayer
from methods._regularised import Regularised, differences, network, population, refused

Tensor = torch.Tensor
V_SPREAD = 0.01  # of how weights depend on λ, before training


class StnConfig(MethodConfig):
    """Options; the defaults are the paper's.

    Attributes:
        layers: Which layers depend on λ; all others are shared by all λ.
        sigma: Standard deviation of ε at the start.
        learned: Whether each entry's standard deviation moves with λ, whose steps then perturb it
            too; otherwise it stays, and steps of λ are taken at λ itself.
        entropy: Weight of ε's entropy in what steps of λ go down.
        warmup: Share of the training before λ begins to move; the paper has 5 of 500 epochs.
        lr: Adam's, for λ and standard deviations.
        train_steps: Steps of the network between those of λ.
        val_steps: Steps of λ between those.
        validation: The mode of the network in a step of λ.
        centred: Whether hyper-layers are given λ less its start, instead of λ: the same functions,
            but with λ, whose entries are near -3, a step along V is some 80 times as long, and a
            training at a rate of 0.1 diverges; the paper has 0.01, and does not centre.
        placebo: `uniform` never moves λ; `shuffled` permutes gradients over λ's entries.
    """

    layers: Literal["conv+linear", "conv", "conv+bn"] = "conv+linear"
    sigma: float = Field(0.5, gt=0, allow_inf_nan=False)
    learned: bool = True
    entropy: float = Field(1e-3, ge=0, allow_inf_nan=False)
    warmup: float = Field(0.01, ge=0, lt=1)
    lr: float = Field(0.003, gt=0, allow_inf_nan=False)
    train_steps: int = Field(2, ge=1)
    val_steps: int = Field(1, ge=1)
    validation: Literal["eval", "train"] = "eval"
    centred: bool = True
    placebo: Literal["uniform", "shuffled"] | None = None


class Stn(Method):
    """Tunes seven strengths of augmentation and a rate for each dropout, in one training."""

    name = "stn"
    learned = True
    clean_labels = "hypergradient"
    Config: ClassVar[type[MethodConfig]] = StnConfig

    def skip(self, task: Task, budget: float) -> str | None:
        """It needs layers that can be made hyper-layers, and a chain of them for dropouts."""
        return refused(task, self.config.layers, dropouts=True)

    def minimum(self, task: Task) -> float:
        """One training; hyper-layers double a step, and one of λ computes no weight's gradient."""
        return 2 + 4 / 3 * self.config.val_steps / self.config.train_steps

    def policy(self, task: Task) -> Policy:
        """Jitter and holes, crop and flip, before training."""
        return around(task, population(task, self.config.sigma), square=False)

    def run(self, session: Session) -> Fitted:
        """One training, in which λ moves."""
        config, task = self.config, session.task
        found = population(task, config.sigma)
        learner = self.learner(session, found)
        frozen = config.placebo == "uniform"
        training = SelfTuning(session, learner, found, config, frozen)
        training.train()
        return Fitted(learner, training.policy, self._deviations(session))

    def learner(self, session: Session, found: Regularisers) -> Learner:
        """The session's next learner, a hypernetwork."""

        def made() -> nn.Module:
            config = self.config
            own = network(session.task, config.layers, found.entries, config.centred)
            for layer in own.modules():
                if isinstance(layer, HyperLayer):
                    nn.init.normal_(layer.hyper_v, std=V_SPREAD)
            return own

        return session.learner(made)

    def _deviations(self, session: Session) -> tuple[str, ...]:
        config = self.config
        said = [
            *differences(session.task),
            "no learnable factor on the weights that do not depend on λ",
        ]
        if config.centred:
            said.append("hyper-layers are given λ less its start, not λ: the same functions")
        if session.tallies["policy_updates"] == 0 and config.placebo != "uniform":
            said.append("the budget is so small that λ never moved")
        return tuple(said)


class SelfTuning(Regularised):
    """A training in which ε's standard deviations, softplus(s), move with λ."""

    def __init__(self, *given, **more) -> None:
        super().__init__(*given, **more)
        self.warmup = self.config.warmup
        self.session.keep(spread=self.spread)

    def others(self) -> Sequence[Tensor]:
        """s (E,), if it is learned."""
        start = math.log(math.expm1(self.config.sigma))
        self.spread = torch.full_like(self.entries.detach(), start)
        return (self.spread.requires_grad_(),) if self.config.learned else ()

    def rows(self, count: int) -> Tensor:
        """λ + softplus(s) · ε of each validation image; λ where s is not learned."""
        if not self.config.learned:
            return super().rows(count)
        shape = count, len(self.entries)
        noise = torch.randn(shape, generator=self.session.rng("hyper"), dtype=torch.float64)
        return self._given(self.entries + F.softplus(self.spread) * noise)

    def objective(self, loss: Tensor) -> Tensor:
        """The validation loss less the weighted entropy of ε."""
        if not self.config.learned:
            return loss
        return loss - self.config.entropy * entropy(F.softplus(self.spread))

    def moved(self) -> None:
        """Images are perturbed by the new standard deviations."""
        if self.config.learned:
            self.population.sigma.copy_(F.softplus(self.spread))

    def said(self) -> dict[str, Tensor]:
        """Strengths, and standard deviations."""
        return super().said() | {"sigma": self.population.sigma.clone()}


def entropy(sigma: Tensor) -> Tensor:
    """Of independent normal numbers with standard deviations (E,), in nats."""
    return (sigma * math.sqrt(2 * math.pi * math.e)).log().sum()
