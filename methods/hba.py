"""HBA: one network whose weights follow the augmentation's hyperparameters, and their gradient.

Every image is augmented under logits λ + ε of its own, and meets weights that are a function of
them (`_hyper`), so the network learns how its weights depend on λ.  After every two such steps λ
goes down the validation loss, through the weights alone: no operation is differentiated.

Source: Chen et al., "Hypernetwork-Based Augmentation", 2020: Algorithm 1, equations 11 and 13,
appendices A and C, Table 8.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from bench.augment.export import load
from bench.augment.policy import Batch, Policy
from bench.augment.population import Population, Schedule, schedule_in
from bench.augment.regularisers import Regularisers
from bench.augment.spaces import space
from bench.data.split import stratified
from bench.errors import ConfigError
from bench.method import Fitted, Method, MethodConfig
from bench.train.learner import Learner
from bench.train.loops import training_step
from bench.train.session import Session
from bench.train.task import Task, around, fill
from methods._hyper import hypernetwork
from methods._hypertrain import HyperTraining
from methods._regularised import Regularised, differences, network, refused, shape
from methods._regularised import population as regularisers

Tensor = torch.Tensor
START = 0.05


class HbaConfig(MethodConfig):
    """Options; the defaults are the paper's, and this project's where it is silent.

    Attributes:
        layers: Which layers depend on λ; all others are shared by all λ.
        mode: `joint` ends with the hypernetwork's own weights at the last λ, `replay` with those
            of a plain network that was trained anew under the schedule that was found.
        search: Share of the budget for the search, where a training follows it.
        reduced: Share of the training images that such a search learns from, class by class; the
            paper's headline searches have 4,000 of 50,000.
        schedule: A file from `augbench policy export RUN` whose schedule is replayed instead of
            one that is searched for here.
        sigma: Standard deviation of ε.
        start: Where probabilities and levels start, as a share of their range.
        lr: Adam's, for λ; the paper has 0.003 to 0.03, in searches of more steps.
        train_steps: Steps of the hypernetwork between those of λ.
        val_steps: Steps of λ between those.
        validation: The mode of the network in a step of λ; the paper does not say.
        space: The paper's ranges with higher levels stronger; or those of Pillow's arguments,
            the other way for posterize and solarize; or enhancers as 1 ± 0.9 · level.  Or, as in
            the paper's comparison with STN (there with layers=conv), STN's regularisers: colour
            jitter, Cutout, input scale and dropouts, which start where STN starts them.
        centred: Whether hyper-layers are given λ less its start, instead of λ.
        noise: Whether a replay perturbs λ as the search does; the paper does not say.
        cutout: Whether Cutout follows crop and flip; never after regularisers, which have one.
        placebo: `uniform` never moves λ; `shuffled` permutes the gradient over λ's entries;
            `replay` learns in the budget's share `search`, and trains anew under the mean of λ.
    """

    layers: Literal["conv+bn", "conv", "bn", "first-conv", "first-bn"] = "first-bn"
    mode: Literal["joint", "replay"] = "joint"
    search: float = Field(0.5, gt=0, lt=1)
    reduced: float = Field(1.0, gt=0, le=1)
    schedule: str | None = None
    sigma: float = Field(1.0, ge=0, allow_inf_nan=False)
    start: float = Field(START, gt=0, lt=1)
    lr: float = Field(0.03, gt=0, allow_inf_nan=False)
    train_steps: int = Field(2, ge=1)
    val_steps: int = Field(1, ge=1)
    validation: Literal["eval", "train"] = "eval"
    space: Literal["pba", "pba-raw", "pba-centred", "regularisers"] = "pba"
    centred: bool = True
    noise: bool = False
    cutout: bool = True
    placebo: Literal["uniform", "shuffled", "replay"] | None = None

    @field_validator("schedule")
    @classmethod
    def _pinned(cls, value: str | None) -> str | None:
        """`FILE` becomes `FILE#DIGEST`, so that a record names the schedule, not only the file."""
        if value is None:
            return None
        path, _, wanted = value.partition("#")
        digest = _digest(read(path))
        if wanted not in ("", digest):
            raise ValueError(f"{path} holds another schedule than {wanted}: {digest}")
        return f"{path}#{digest}"

    @model_validator(mode="after")
    def _coherent(self) -> "HbaConfig":
        if self.schedule is not None and self.mode != "replay":
            raise ValueError(f"schedule={self.schedule} is replayed: add mode=replay")
        if self.schedule is not None and self.placebo not in (None, "replay"):
            raise ValueError(
                f"schedule={self.schedule} was learned: placebo={self.placebo} is not"
            )
        if self.noise and self.mode != "replay":
            raise ValueError("noise=true is of replays, a search always has it: add mode=replay")
        followed = self.schedule is None and "replay" in (self.mode, self.placebo)
        if self.reduced < 1 and not followed:
            raise ValueError(
                f"reduced={self.reduced:g} is of searches that a training follows: add mode=replay"
            )
        if self.space == "regularisers" and "replay" in (self.mode, self.placebo):
            raise ValueError("space=regularisers is of networks in training: nothing replays it")
        if self.space == "regularisers" and self.start != START:
            raise ValueError(f"start={self.start}: space=regularisers has starts of its own")
        return self


class Hba(Method):
    """Learns a schedule of probabilities and magnitudes with a hypernetwork, in one training."""

    name = "hba"
    learned = True
    clean_labels = "hypergradient"
    Config: ClassVar[type[MethodConfig]] = HbaConfig

    def skip(self, task: Task, budget: float) -> str | None:
        """It needs layers that can be made hyper-layers; regularisers need a chain of layers."""
        if self.config.schedule is not None:
            return None
        return refused(task, self.config.layers, dropouts=self.regularises)

    def minimum(self, task: Task) -> float:
        """One search, with steps of λ for two thirds of a step; and a training, if one follows."""
        config = self.config
        if config.schedule is not None:
            return 1.0
        once = 1 + 2 / 3 * config.val_steps / config.train_steps
        if config.mode == "joint" and config.placebo != "replay":
            return once
        last = 1.0 if config.mode == "replay" else once
        return max(once / config.search, last / (1 - config.search))

    def policy(self, task: Task) -> Policy:
        """What it learns, crop and flip, Cutout, before training."""
        return around(task, self.population(task), self.config.cutout and not self.regularises)

    def run(self, session: Session) -> Fitted:
        """A search that is itself the training, or one that a training follows."""
        if self.regularises:
            return self._tuned(session)
        config, task = self.config, session.task
        # The first learner and the first order of batches are those that pair with other methods.
        joint = config.mode == "joint"
        learner = self.learner(session) if joint else session.learner()
        batches = session.batches("train")
        found = None
        if config.schedule is not None:
            found = read(config.schedule.partition("#")[0])
        elif not joint or config.placebo == "replay":
            found = self._searched(session)
        if found is not None and config.placebo == "replay":
            found = found.mean()
        if joint:
            population = self.population(task, found)
            frozen = config.placebo in ("uniform", "replay")
            schedule = Search(session, learner, population, config, frozen, batches).train()
        else:
            assert found is not None
            sigma = config.sigma if config.noise else 0.0
            schedule = Schedule.along(found, found.knots, fill=fill(task), sigma=sigma)
            replay(session, learner, schedule, around(task, schedule, config.cutout), batches)
        moved = session.tallies["policy_updates"] > 0
        return Fitted(
            learner, around(task, schedule, config.cutout), self._deviations(session, moved)
        )

    def learner(self, session: Session) -> Learner:
        """The session's next learner, a hypernetwork."""
        config, task = self.config, session.task
        start = self.population(task).entries

        def made() -> nn.Module:
            if self.regularises:
                return network(task, config.layers, start, config.centred)
            plain = task.network()
            return hypernetwork(plain, config.layers, start, shape(task), config.centred)

        return session.learner(made)

    @property
    def regularises(self) -> bool:
        """Whether λ are the strengths of regularisers."""
        return bool(self.config.space == "regularisers")

    def population(self, task: Task, at: Schedule | None = None) -> Population | Regularisers:
        """λ before training, or where a schedule ends."""
        config = self.config
        if self.regularises:
            return regularisers(task, config.sigma)
        entries = math.log(config.start / (1 - config.start)) if at is None else at.entries
        return Population(space(config.space), fill(task), sigma=config.sigma, entries=entries)

    def _tuned(self, session: Session) -> Fitted:
        """A training that tunes regularisers."""
        config, learner = self.config, self.learner(session)
        found, frozen = self.population(session.task), config.placebo == "uniform"
        training = Regularised(session, learner, found, config, frozen)
        training.train()
        moved = session.tallies["policy_updates"] > 0
        return Fitted(learner, training.policy, self._deviations(session, moved))

    def _searched(self, session: Session) -> Schedule:
        """The schedule of a search with a share of the budget."""
        config = self.config
        population = self.population(session.task)
        frozen = config.placebo == "uniform"
        batches = None
        if config.reduced < 1:
            train = session.task.train
            _, part = stratified(train.labels, config.reduced, "reduced", session.seed)
            batches = session.batches(train.subset(part))
        search = Search(session, self.learner(session), population, config, frozen, batches)
        with session.slice(config.search):
            search.train(milestones=False)
        return search.schedule()

    def _deviations(self, session: Session, moved: bool) -> tuple[str, ...]:
        config = self.config
        said = [
            "hyper-layers start with V = 0, so that the hypernetwork starts as the plain network",
            f"the paper leaves open: λ moves in {config.validation} mode; the space is "
            f"{config.space}" + ("" if self.regularises else "; posterize keeps whole bits"),
        ]
        if self.regularises:
            said += differences(session.task)
        if config.centred:
            said.append("hyper-layers are given λ less its start, not λ: the same functions")
        if config.mode == "replay":
            with_noise = "λ perturbed" if config.noise else "λ itself"
            said.append(f"the replay augments with {with_noise}, which the paper leaves open")
        if config.schedule is not None:
            about = load(config.schedule.partition("#")[0]).about
            cost = f", {about['flops']:.3g} FLOPs on {about['task']}," if "flops" in about else ""
            said.append(
                f"the schedule is {config.schedule}; its search{cost} was paid for elsewhere"
            )
        elif config.mode == "replay" or config.placebo == "replay":
            said.append(
                f"{config.search:g} of the budget searches, on {config.reduced:g} of the task's "
                "images and with its network"
            )
        if not moved and config.placebo != "uniform" and config.schedule is None:
            said.append("the budget is so small that λ never moved")
        return tuple(said)


class Search(HyperTraining):
    """A training of a hypernetwork in which λ moves, over operations and their magnitudes."""

    def around(self) -> Policy:
        """Operations, crop and flip, Cutout."""
        return around(self.session.task, self.population, self.config.cutout)

    def said(self) -> dict[str, Tensor]:
        """Probabilities, and magnitudes as shares of their range."""
        probabilities, magnitudes = self.population.values()
        return {"probabilities": probabilities, "magnitudes": magnitudes}

    def train(self, milestones: bool = True) -> Schedule:
        """As many steps as the budget pays for; λ over them."""
        super().train(milestones)
        return self.schedule()

    def schedule(self) -> Schedule:
        """λ over the training so far."""
        return Schedule.along(self.population, torch.stack(self.path))


def replay(
    session: Session,
    learner: Learner,
    schedule: Schedule,
    policy: Policy,
    batches: Iterator[Batch],
) -> None:
    """Trains for the rest of the budget under a schedule, which is stretched to that length."""

    def step(progress: float) -> Tensor:
        schedule.advance(progress)
        return training_step(session, learner, policy, batches, progress)

    price = session.price("train", lambda: step(0.0))
    total = session.plan(train=session.afford(price))["train"]
    with session.slice(1.0):
        for done in session.steps(total):
            session.log(train_loss=step(done / total))
            session.progress(learner, (done + 1) / total)
    schedule.advance(1.0)


def read(path: str) -> Schedule:
    """The schedule in a file that `augbench policy export` wrote.

    Raises:
        ConfigError: If it is no such file, or holds another policy.
    """
    schedule = schedule_in(load(path).policy)
    if schedule is None:
        raise ConfigError(f"policy file {path!r} holds no schedule: export a run of hba or pbt")
    return schedule


def _digest(schedule: Schedule) -> str:
    content = json.dumps(schedule.describe(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
