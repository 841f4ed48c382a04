"""Population-based training: many networks, each with an augmentation of its own.

All members train for a while; good ones are copied over bad ones, weights and augmentation alike,
and the copies' augmentation is varied.  The augmentations that led to the best member, round by
round, are a schedule.  `hba` is the population that HBA turns into one hypernetwork: what it gains
by that is its distance to this.  `pba` is Population Based Augmentation's.

Source: Chen et al., "Hypernetwork-Based Augmentation", 2020, section 3.1, equations 1 to 6; Ho et
al., "Population Based Augmentation", 2019.
Deviations: PBA's ranges are those of HBA's Table 7.
"""

import math
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator

from baselines._population_training import ROUNDS, Member, Quartiles, Training, Winner
from bench.augment.learnable import Values
from bench.augment.policy import Policy
from bench.augment.population import DIGITS, Population, Schedule
from bench.augment.spaces import space
from bench.method import Fitted, Method, MethodConfig
from bench.train.session import Session
from bench.train.task import Task, around, fill

Tensor = torch.Tensor
INTERVAL, PBA_MEMBERS = 20, 16
KNOTS = 100  # of a schedule; one of more rounds leaves some out
HBA_ONLY = ("sigma", "start", "weight_noise")


class PbtConfig(MethodConfig):
    """Options; the defaults are the papers', and this project's where they are silent.

    Attributes:
        variant: `hba` copies the best member over all others and perturbs all; `pba` copies
            members of the best quarter over the worst quarter, and varies the copies in tenths.
        members: n, which share the budget equally.  Section 3.1 does not say; PBA has 16.
        mode: `joint` ends with the best member's own weights, `replay` with those of a network
            that was trained anew under the best member's schedule, as PBA does.
        search: Share of the budget for the population, where a training follows it.
        interval: Least steps of each member in a round.  By default 20 with `hba`, whose paper
            does not say; with `pba` there are 67 rounds then, since it selects every 3 of 200
            epochs, each with a validation of all members: mind its price in short trainings.
        sigma: Standard deviation of ε, on logits; of `hba`, as the next two.
        start: Where probabilities and levels start, as a share of their range.
        weight_noise: σ', standard deviation of ε', which the paper does not print.
        cutout: Whether Cutout follows crop and flip.
        placebo: `uniform` copies weights alone: all members keep the augmentation of the start.
            `shuffled` permutes losses over members when they choose who is
            copied, not at the end.  `replay` learns in the budget's share `search`, and trains
            anew under the schedule's mean.
    """

    variant: Literal["hba", "pba"] = "hba"
    members: int = Field(4, ge=2, le=64)
    mode: Literal["joint", "replay"] = "joint"
    search: float = Field(0.5, gt=0, lt=1)
    interval: int | None = Field(None, ge=1)
    sigma: float = Field(1.0, ge=0, allow_inf_nan=False)
    start: float = Field(0.05, gt=0, lt=1)
    weight_noise: float = Field(0.0, ge=0, allow_inf_nan=False)
    cutout: bool = True
    placebo: Literal["uniform", "shuffled", "replay"] | None = None

    @model_validator(mode="after")
    def _coherent(self) -> "PbtConfig":
        for name in HBA_ONLY if self.variant == "pba" else ():
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                raise ValueError(f"{name}={value} is of variant=hba: pba starts and moves its way")
        return self

    @property
    def least(self) -> int | None:
        """Steps of a round at least; None where PBA's number of rounds counts."""
        return self.interval or (INTERVAL if self.variant == "hba" else None)


class Pbt(Method):
    """Learns a schedule of probabilities and magnitudes by selection among several trainings.

    The first member has the initial weights and order of batches that pair with other methods'; a
    replay has them for its own network.
    """

    name = "pbt"
    clean_labels = "selection"
    Config: ClassVar[type[MethodConfig]] = PbtConfig

    def minimum(self, task: Task) -> float:
        """One training of each member, validations included, and what follows a search."""
        config, recipe = self.config, task.recipe
        # A validation image costs a third of a training image, which goes backward too.
        check = len(task.val) / (3 * min(recipe.batch_size, len(task.train)))
        rounds = recipe.steps / config.least if config.least else ROUNDS
        once = config.members * (1 + rounds * check / recipe.steps)
        if config.mode == "joint" and config.placebo != "replay":
            return once
        last = 1.0 if config.mode == "replay" else once
        return max(once / config.search, last / (1 - config.search))

    def policy(self, task: Task) -> Policy:
        """Two operations at most, crop and flip, Cutout, before training."""
        strategy = self.strategy(task)
        population = self.population(task, strategy.entries(strategy.start))
        return around(task, population, self.config.cutout)

    def run(self, session: Session) -> Fitted:
        """A population whose best member counts, or one whose schedule trains a network."""
        config, task, strategy = self.config, session.task, self.strategy(session.task)
        joint, uniform = config.mode == "joint", config.placebo == "uniform"
        frozen, path = strategy.start if uniform else None, None
        # The first learner and the first order of batches are those that pair with other methods.
        members = self.members(session, config.members if joint else 1)
        if not joint or config.placebo == "replay":
            others = self.members(session, config.members)
            with session.slice(config.search):
                path = self.training(session, others, strategy, frozen).train(milestones=False)
            if config.placebo == "replay":
                frozen = path.mean(0)
                path = frozen[None]
        if joint:
            training = self.training(session, members, strategy, frozen)
            path = training.train()
            learner = training.best.learner
        assert path is not None
        schedule = self.schedule(task, strategy.entries(path))
        policy = around(task, schedule, config.cutout)
        if not joint:
            learner = members[0].learner
            replay(session, replace(members[0], policy=policy), schedule)
        return Fitted(learner, policy, self._deviations(session))

    def strategy(self, task: Task) -> Winner | Quartiles:
        """How the population moves."""
        plain = self.population(task, 0.0)
        if self.config.variant == "hba":
            start = torch.full_like(plain.entries, self.config.start).logit()
            return Winner(start, self.config.sigma)
        most = torch.full_like(plain.entries, 9.0)
        most[: plain.pairs] = 10.0
        return Quartiles(most)

    def population(self, task: Task, entries: Values) -> Population:
        """The augmentation of a member."""
        return Population(space("pba"), fill(task), entries=entries)

    def members(self, session: Session, count: int) -> list[Member]:
        """The session's next learners and orders of batches, with policies of their own."""
        task = session.task
        own = [self.population(task, 0.0) for _ in range(count)]
        return [
            Member(
                session.learner(),
                session.batches("train"),
                each,
                around(task, each, self.config.cutout),
            )
            for each in own
        ]

    def training(
        self,
        session: Session,
        members: list[Member],
        strategy: Winner | Quartiles,
        frozen: Tensor | None,
    ) -> Training:
        """The rounds of a population under the options."""
        config = self.config
        return Training(
            session,
            members,
            strategy,
            interval=config.least,
            frozen=frozen,
            shuffled=config.placebo == "shuffled",
            weight_noise=config.weight_noise,
        )

    def schedule(self, task: Task, path: Tensor) -> Schedule:
        """λ (rounds, E) as an artefact, with a knot for each round, or for `KNOTS` of them."""
        if len(path) > KNOTS:
            path = path[((torch.arange(KNOTS) + 0.5) * len(path) / KNOTS).long()]
        return Schedule(space("pba"), fill(task), knots=path.round(decimals=DIGITS))

    def _deviations(self, session: Session) -> tuple[str, ...]:
        config = self.config
        rounds = session.plans[0]["validate"] // config.members
        said = ["optimiser and BatchNorm statistics are copied with the weights"]
        if config.variant == "hba":
            said.append(f"the paper leaves open: {config.members} members, {rounds} rounds")
            noise = config.weight_noise
            weights = f"perturbed by {noise:g}" if noise else "not perturbed"
            said.append(f"weights are {weights}: the paper does not print σ'")
        else:
            said.append("ranges of magnitudes are HBA's; PBA's code cuts them to whole numbers")
            if config.members != PBA_MEMBERS:
                said.append(f"{config.members} members, PBA {PBA_MEMBERS}")
            if rounds != ROUNDS:
                said.append(f"{rounds} rounds, PBA {ROUNDS}")
            if config.mode == "joint":
                said.append("ends with the best member's weights; PBA trains under its schedule")
        if config.mode == "replay" or config.placebo == "replay":
            said.append(
                f"{config.search:g} of the budget searches, on the task's own images and network"
            )
        if not session.tallies["policy_updates"] and config.placebo != "uniform":
            said.append("the budget pays for a single round: nobody was copied")
        return tuple(said)


def replay(session: Session, member: Member, schedule: Schedule) -> None:
    """Trains a network for the rest of the budget under a schedule that its policy contains.

    Each knot has an equal share of the training and is held for it, as λ was in the population.
    """
    knots = schedule.knots

    def step(progress: float) -> Tensor:
        schedule.entries.copy_(knots[math.floor(progress * len(knots))])
        return member.step(session, progress)

    price = session.price("train", lambda: step(0.0))
    total = session.plan(train=session.afford(price))["train"]
    with session.slice(1.0):
        for done in session.steps(total):
            session.log(train_loss=step(done / total))
            session.progress(member.learner, (done + 1) / total)
    schedule.advance(1.0)
