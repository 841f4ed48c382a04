"""GAR: an augmentation policy rewarded by how well each image's gradient fits the next step's.

Steps come in pairs.  The first is augmented by the policy, with a draw of its own for each image;
the second is plain, trains the network too, and with its gradient g judges the first: the draw of
image i has earned ⟨∇ℓ_i(θ_t), g⟩.  REINFORCE with these rewards moves the policy after every pair.

Source: Müller and Hutter, "In-Loop Meta-Learning with Gradient-Alignment Reward", 2021: equations
1 to 3, Algorithm 2 (Online-Learned Augmentation-Strategy), sections 5 and 6.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator

from bench.augment.choice import Uniform, uniformaugment
from bench.augment.learnable import Counted, OpsAndLevels
from bench.augment.policy import Batch, Chain, Policy
from bench.augment.space import Draw
from bench.augment.spaces import space
from bench.augment.table import TablePolicy
from bench.method import Fitted, Method, MethodConfig
from bench.train.learner import Learner
from bench.train.loops import augment
from bench.train.session import Session
from bench.train.task import Task, around, cutout, fill, standard
from methods._alignment import ESTIMATORS, Judge
from methods._reinforce import Running, shuffled, standardised

Tensor = torch.Tensor
TINY = 1e-12
PASSES = {"hooks": 1, "difference": 1, "jvp": 3}  # forward passes for rewards; a step is three


class GarConfig(MethodConfig):
    """Options; the defaults are the paper's where it says anything.

    Attributes:
        space: The table of operations: RandAugment's, or the paper's WideLong.
        longest: The number of operations is learned on 1..longest.
        reward: `gar`, a reward for each image; or `nslr`, the paper's baseline, one for them all:
            minus the loss of the plain step.
        estimator: How ⟨∇ℓ_i, g⟩ is computed: `hooks` (the paper's), `jvp` or `difference`.  The
            last follows the true credit under BatchNorm as well as `jvp` and better than `hooks`,
            takes the least memory, and on a CPU the least time (benchmarks/gar_rewards.py,
            gar_cost.py).  In half precision, on a GPU, it needs two more passes, not one.
        norms: Whether scales and shifts of norm layers count in `hooks`; the author's code leaves
            them out, and they change next to nothing.
        lr: Adam's, for the policy.
        beta1: Adam's; the author's code has 0 in some configurations.
        clip: The norm to which gradients of the network are cut; 5 in the author's code.
        policy_clip: The size to which entries of the policy's gradient are cut; 5 in that code.
        cutout: Whether Cutout ends the standard augmentation, in both kinds of steps.
        placebo: `uniform` never moves the policy that augments, nor does `uniformaugment`, whose
            policy is GAR's version of UniformAugment; `shuffled` permutes the rewards over the
            batch; `replay` learns in half of the budget and trains anew under the policy's mean
            in the other.
    """

    space: Literal["randaugment", "wide-long"] = "randaugment"
    longest: int = Field(4, ge=1, le=8)
    reward: Literal["gar", "nslr"] = "gar"
    estimator: Literal["hooks", "jvp", "difference"] = "difference"
    norms: bool = False
    lr: float = Field(0.1, gt=0, allow_inf_nan=False)
    beta1: float = Field(0.9, ge=0, lt=1)
    clip: float | None = Field(None, gt=0, allow_inf_nan=False)
    policy_clip: float | None = Field(None, gt=0, allow_inf_nan=False)
    cutout: bool = True
    placebo: Literal["uniform", "uniformaugment", "shuffled", "replay"] | None = None

    @model_validator(mode="after")
    def _coherent(self) -> "GarConfig":
        if self.reward == "nslr" and self.placebo == "shuffled":
            raise ValueError("reward=nslr has one reward for all images: nothing to shuffle")
        if self.norms and self.estimator != "hooks":
            raise ValueError(
                f"norms=true is for estimator=hooks: {self.estimator} counts them all"
            )
        return self


class Gar(Method):
    """Online-Learned Augmentation-Strategy: the policy is learned during the one training.

    Plain steps are half of all, as in the paper.  The recipe is the task's, so a budget of 1 RT
    holds fewer steps than the recipe has: the rewards cost some.
    """

    name = "gar"
    learned = True
    Config: ClassVar[type[MethodConfig]] = GarConfig

    def minimum(self, task: Task) -> float:
        """One training and the rewards of half its steps; a replay needs two."""
        once = 1 + PASSES[self.config.estimator] / 6 if self.config.reward == "gar" else 1.0
        return 2 * once if self.config.placebo == "replay" else once

    def policy(self, task: Task) -> Policy:
        """The policy before training, in its place before crop, flip and Cutout."""
        return around(task, self._start(task), self.config.cutout)

    def run(self, session: Session) -> Fitted:
        """Pairs of steps until the budget ends."""
        config, task = self.config, session.task
        # The first learner and the first order of batches are those that pair with other methods.
        learner, batches = session.learner(), session.batches("train")
        policy = self._replayed(session) if config.placebo == "replay" else self._start(task)
        frozen = config.placebo in ("uniform", "uniformaugment", "replay")
        Pairs(session, learner, policy, config, frozen, batches).train()
        return Fitted(learner, around(task, policy, config.cutout), self._deviations())

    def _replayed(self, session: Session) -> TablePolicy:
        """The mean of a policy that was learned in half of the budget."""
        scout = Pairs(session, session.learner(), self._start(session.task), self.config)
        with session.slice(0.5):
            scout.train(milestones=False)
        return scout.update.mean()

    def _start(self, task: Task) -> TablePolicy:
        table = space(self.config.space)
        if self.config.placebo == "uniformaugment":
            return uniformaugment(table, fill(task), gar=True)
        return OpsAndLevels(table, fill(task), longest=self.config.longest)

    def _deviations(self) -> tuple[str, ...]:
        config = self.config
        said = [
            "levels of operations without a magnitude are not credited: they change no image",
            "steps without the policy still have crop, flip and Cutout, as in the author's code",
        ]
        if config.reward == "nslr":
            said.append("the next step's loss is standardised by its running mean and deviation")
        elif config.estimator != "hooks":
            how = "forward mode" if config.estimator == "jvp" else "a difference"
            said.append(
                f"rewards by {how}: under BatchNorm how each image's loss changes, where the "
                "paper's layer inputs and gradients give what all losses owe to each image"
            )
        elif not config.norms:
            said.append("scales and shifts of norm layers do not count, as in the author's code")
        if config.placebo == "replay":
            said.append("half of the budget learns the policy, half trains under its mean")
        return tuple(said)


class Pairs:
    """A training in pairs of steps: an augmented one, a plain one that judges it.

    Args:
        session: Meters it.
        learner: Is trained by both steps.
        policy: Augments the first.
        config: The method's options.
        frozen: Whether the policy stays as it is; everything is computed and paid for as ever.
        batches: The images; a new order by default.
    """

    def __init__(
        self,
        session: Session,
        learner: Learner,
        policy: TablePolicy,
        config: GarConfig,
        frozen: bool = False,
        batches: Iterator[Batch] | None = None,
    ) -> None:
        self.session, self.learner, self.config = session, learner, config
        task = session.task
        self.augmented = around(task, policy, config.cutout)
        self.plain = Chain(standard(task), *([cutout(task)] if config.cutout else []))
        self.batches = batches or session.batches("train")
        self.update = Update(session, policy, config, frozen)
        self.judge: Judge | None = None
        if config.reward == "gar":
            self.judge = ESTIMATORS[config.estimator](learner, norms=config.norms)

    def train(self, milestones: bool = True) -> None:
        """As many pairs as the budget pays for."""
        session = self.session
        price = session.price("pair", lambda: self.pair(0.0, 0.0))
        count = session.plan(pair=session.afford(price))["pair"]
        with session.slice(1.0):
            for done in session.steps(count):
                self.pair(done / count, (done + 0.5) / count)
                if milestones:
                    session.progress(self.learner, (done + 1) / count)

    def pair(self, first: float, second: float) -> None:
        """An augmented step, a plain step, an update of the policy.

        Args:
            first: Share of the schedule at the augmented step.
            second: The same at the plain step.
        """
        session, learner = self.session, self.learner
        raw = next(self.batches)
        draw = self.augmented.sample(raw.index, session.rng("policy"))
        with session.metered("augment"):
            batch = self.augmented.apply(raw, draw)
        with session.metered("train"):
            if self.judge is None:
                loss = learner.loss(batch.images, batch.targets)
                loss.backward()
            else:
                loss = self.judge.watch(batch)
        self._step(first)

        plain = augment(session, self.plain, next(self.batches))
        with session.metered("train"):
            value = learner.loss(plain.images, plain.targets)
            value.backward()
        with session.metered("reward"):
            # Before the optimiser adds decay and momentum to it, the gradient is g.
            rewards = -value.detach() if self.judge is None else self.judge.rewards()
        self._step(second)
        session.tally(steps=2, images_seen=len(batch) + len(plain))
        session.log(train_loss=loss, plain_loss=value)
        self.update(draw[0], rewards)

    def _step(self, progress: float) -> None:
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.learner.network.parameters(), self.config.clip)
        self.learner.step(progress)


class Update:
    """REINFORCE on a policy: Adam along the mean of w_i ∇log p(a_i), w the standardised rewards.

    Args:
        session: Keeps the state, tallies and traces.
        policy: Is moved.
        config: The method's options.
        frozen: Whether to move a copy that augments nothing, so that a placebo pays the same.
    """

    def __init__(
        self, session: Session, policy: TablePolicy, config: GarConfig, frozen: bool = False
    ) -> None:
        if frozen:
            longest = policy.ops if isinstance(policy, Uniform) else config.longest
            policy = OpsAndLevels(policy.space, longest=longest)
        assert isinstance(policy, OpsAndLevels)
        self.session, self.policy, self.config, self.frozen = session, policy, config, frozen
        self.leaves = [leaf.requires_grad_() for leaf in policy.parameters()]
        betas = (config.beta1, 0.999)
        self.adam = torch.optim.Adam(self.leaves, config.lr, betas=betas, maximize=True)
        self.running = Running()
        self.sums = [torch.zeros_like(leaf) for leaf in self._probabilities()]
        session.keep(policy=policy, adam=self.adam, running=self.running, sums=self.sums)

    def __call__(self, draw: Draw, rewards: Tensor) -> None:
        """One step.

        Args:
            draw: Of the augmented batch of B images, from the policy as it still is.
            rewards: (B,), or () one for all, on the device: fetching them is the pair's one wait.
        """
        rewards = rewards.to("cpu", torch.float64)
        weights = standardised(rewards) if rewards.ndim else self.running.standardise(rewards)
        if self.config.placebo == "shuffled":
            weights = shuffled(weights, self.session.rng("placebo"))
        if not isinstance(draw, Counted):  # UniformAugment's always has as many as it has slots
            count = torch.full((len(draw),), draw.op.shape[1])
            draw = Counted(draw.op, draw.level, draw.gate, draw.sign, draw.place, count)
        self.adam.zero_grad()
        (weights * self.policy.log_prob(draw)).mean().backward()
        if self.config.policy_clip is not None:
            torch.nn.utils.clip_grad_value_(self.leaves, self.config.policy_clip)
        self.adam.step()
        probabilities = self._probabilities()
        for total, now in zip(self.sums, probabilities, strict=True):
            total += now
        if not self.frozen:
            self.session.tally(policy_updates=1)
            self._trace(*probabilities)

    def mean(self) -> OpsAndLevels:
        """The policy whose probabilities are the means over all updates."""
        updates = self.session.tallies["policy_updates"]
        counts, keeps, levels = (total / updates for total in self.sums)
        # A saturated probability stays finite, for the record.
        return OpsAndLevels(
            self.policy.space,
            self.policy.fill,
            longest=self.policy.longest,
            counts=counts.clamp_min(TINY).log(),
            keeps=keeps.logit(TINY),
            levels=levels.clamp_min(TINY).log(),
        )

    @torch.no_grad()
    def _probabilities(self) -> list[Tensor]:
        """Of the numbers (L,), of keeping (A,) and of the levels (A, top + 1)."""
        counts, keeps, levels = self.leaves
        return [counts.softmax(-1), keeps.sigmoid(), levels.softmax(-1)]

    def _trace(self, counts: Tensor, keeps: Tensor, levels: Tensor) -> None:
        scale = torch.arange(levels.shape[1], dtype=torch.float64)
        mean = torch.where(self.policy.space.has_magnitude, levels @ scale, torch.nan)
        self.session.log(counts=counts, keeps=keeps, levels=mean)
