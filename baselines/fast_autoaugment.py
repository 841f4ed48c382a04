"""Fast AutoAugment: a policy found without a training for each candidate.

Networks are trained on parts of the training images, without a policy.  Bayesian optimisation then
looks for policies under which they err least on the images that they have not seen; the best are
merged, and a network is trained from scratch under them.

The held-out images come from the training split, so no clean label is used.  Where training
labels are distorted, policies are scored on wrong labels too, as they would be outside of a
benchmark.  There is no placebo `replay`: the policy is frozen and the training fresh as it is.

Source: Lim et al., "Fast AutoAugment", 2019, and its code (kakaobrain/fast-autoaugment).
Deviations: Optuna's TPE for HyperOpt's; one round of samples in each fold, as in the code, where
the paper's algorithm has several; levels of shears, shifts and rotations go from none to the
strongest, with a random sign, in the code from the strongest through none to the strongest.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from baselines._density_matching import Fold, Proposals, Sample, SubPolicy, merged, search
from bench.augment.choice import SubPolicies
from bench.augment.policy import Chain
from bench.augment.spaces import space
from bench.data.split import stratified
from bench.errors import PlanError
from bench.method import Fitted, Method, MethodConfig
from bench.train.learner import Learner
from bench.train.loops import fit
from bench.train.session import Session
from bench.train.task import Task, around, cutout, fill, standard

Split = tuple[torch.Tensor, torch.Tensor]  # rows of the training images: learned from, held out
TABLE = "uniformaugment"  # the released code's fifteen operations and ranges, and the identity
SAMPLES, KEEP, SCORING = 200, 10, 0.5  # the paper's, and the scores' share of the search


class FastAutoAugmentConfig(MethodConfig):
    """Options; the defaults are those of the paper and its code.

    Attributes:
        folds: K, drawn independently, class by class.
        held: Share of the training images that a fold's network does not see.
        samples: Policies scored in each fold; by default as many as half of the search's share
            pays for, 200 at most.
        subpolicies: Of a sample, two operations each.
        views: Augmentations of each held-out image; one of them has to be right.
        keep: Samples of each fold that are merged; by default one in 20, as the paper's 10 of 200.
        search: Share of the budget for folds and scores; what scores leave over trains the folds'
            networks.
        cutout: Whether Cutout follows crop and flip, in all trainings and on held-out images.
        placebo: `uniform` draws all samples at random and merges the first of each fold;
            `shuffled` permutes scores among samples.  Both cost the same.
    """

    folds: int = Field(5, ge=1, le=50)
    held: float = Field(0.4, gt=0, lt=1)
    samples: int | None = Field(None, ge=2, le=10_000)
    subpolicies: int = Field(5, ge=1, le=50)
    views: int = Field(5, ge=1, le=50)
    keep: int | None = Field(None, ge=1, le=1000)
    search: float = Field(0.5, gt=0, lt=1)
    cutout: bool = True
    placebo: Literal["uniform", "shuffled"] | None = None

    @model_validator(mode="after")
    def _coherent(self) -> "FastAutoAugmentConfig":
        if self.samples is not None and self.kept(self.samples) >= self.samples:
            raise ValueError(
                f"keep={self.keep} of samples={self.samples}: nothing would be chosen; keep fewer"
            )
        return self

    def kept(self, samples: int) -> int:
        """How many of so many samples are merged."""
        return self.keep or max(1, round(samples * KEEP / SAMPLES))


class FastAutoAugment(Method):
    """Searches a policy by density matching, then trains under it.

    The first learner and order of batches, which pair with other methods', train last.
    """

    name = "fast-autoaugment"
    Config: ClassVar[type[MethodConfig]] = FastAutoAugmentConfig

    def minimum(self, task: Task) -> float:
        """Folds trained for as many epochs as a reference training, the paper's samples."""
        config, recipe = self.config, task.recipe
        epochs = recipe.steps * min(recipe.batch_size, len(task.train)) / len(task.train)
        # An image that is scored costs a third of one that is trained on, which goes backward too.
        score = config.held * config.views / 3 / epochs
        folds = config.folds * (1 - config.held + (config.samples or SAMPLES) * score)
        return max(folds / config.search, 1 / (1 - config.search))

    def run(self, session: Session) -> Fitted:
        """Folds, scores, last training."""
        config, task = self.config, session.task
        learner, splits = session.learner(), self.splits(session)
        fold = self._fold(session, learner, splits[0])
        steps, samples, each = self._plan(session, fold)
        keep, chosen, last = config.kept(samples), [], session.remaining - config.folds * each
        for number, split in enumerate(splits):
            share = each / ((config.folds - number) * each + last)
            work = partial(self._scored, session, split, steps, samples, share)
            found = [Sample(**one) for one in session.once("fold", work, fold=number)]
            chosen += merged(found, keep, anyhow=config.placebo == "uniform")
        if not chosen:
            raise PlanError("folds cost more than their prices: none could score a policy")
        session.tally(policy_updates=1)
        policy = around(task, self._policy(task, chosen), config.cutout)
        fit(session, learner, policy)
        return Fitted(learner, policy, self._deviations(steps, samples))

    def splits(self, session: Session) -> list[Split]:
        """For each fold the training images that its network learns from, and those held out."""
        config, labels = self.config, session.task.train.labels
        return [
            stratified(labels, config.held, "fold", session.seed, number)
            for number in range(config.folds)
        ]

    def _scored(
        self, session: Session, split: Split, steps: int, samples: int, share: float
    ) -> list[dict[str, Any]]:
        """Trains a fold in a share of what remains; its samples, as plain data."""
        config, task, prices = self.config, session.task, session.prices
        training, scoring = steps * prices["fold"], samples * config.views * prices["view"]
        fold = self._fold(session, session.learner(), split)
        startup = {"startup": samples} if config.placebo == "uniform" else {}
        rng = session.rng("proposals")
        proposals = Proposals(space(TABLE), config.subpolicies, rng, **startup)

        def score(steps: list[SubPolicy]) -> tuple[float, float]:
            error, loss = fold.score(self._policy(task, steps))
            session.event(sample_error=error, sample_loss=loss)
            return error, loss

        with session.slice(share):
            with session.slice(training / (training + scoring)):
                fold.train(steps)
            found = search(session, proposals, score, samples, config.placebo == "shuffled")
        return [vars(each) for each in found]

    def _fold(self, session: Session, learner: Learner, split: Split) -> Fold:
        config, task = self.config, session.task
        part, held = (task.train.subset(rows) for rows in split)
        squares = [cutout(task)] if config.cutout else []
        return Fold(
            session,
            learner,
            part,
            held,
            plain=Chain(standard(task), *squares),
            around=lambda policy: around(task, policy, config.cutout),
            views=config.views,
        )

    def _policy(self, task: Task, steps: list[SubPolicy]) -> SubPolicies:
        return SubPolicies(space(TABLE), fill(task), steps=steps)

    def _plan(self, session: Session, fold: Fold) -> tuple[int, int, float]:
        """Steps and samples of each fold, and what they cost in RT."""
        config, some = self.config, [[("rotate", 0.5, 0.5)] * 2] * self.config.subpolicies
        step = session.price("fold", lambda: fold.step(0.0))
        policy = self._policy(session.task, some)
        score = config.views * session.price("view", lambda: fold.score(policy, views=1))
        samples = config.samples or min(
            SAMPLES, session.afford(config.folds * score, SCORING * config.search)
        )
        cost = config.folds * samples * score
        steps = session.afford(config.folds * step, config.search - cost / session.remaining)
        if steps < 1 or samples <= config.kept(samples):
            raise PlanError(
                f"{session.remaining:.3g} RT pay for {max(0, steps)} steps and {samples} samples "
                f"in each of {config.folds} folds, of which {config.kept(samples)} would be kept: "
                "allow more budget, or fewer folds, samples or views"
            )
        many = config.folds * config.views
        plan = session.plan(fold=config.folds * steps, view=many * samples)
        steps, samples = plan["fold"] // config.folds, plan["view"] // many
        return steps, samples, steps * step + samples * score

    def _deviations(self, steps: int, samples: int) -> tuple[str, ...]:
        config = self.config
        said = [
            f"searches with the task's own images and network; folds train for {steps} steps",
            "Optuna's TPE, the code HyperOpt's; 20 samples are proposed at a time, in the code "
            "up to 80",
            "levels of warps go from none to the strongest, with a random sign",
        ]
        if samples != SAMPLES:
            random = " all of them at random" if samples <= 20 else " the first 20 at random"
            said.append(f"{samples} samples a fold,{random}; the paper {SAMPLES}")
        keep = config.kept(samples)
        if keep != KEEP:
            said.append(f"{keep} samples of each fold are merged, the paper {KEEP}")
        for name in ("folds", "held", "subpolicies", "views"):
            given, usual = getattr(config, name), type(config).model_fields[name].default
            if given != usual:
                said.append(f"{name}={given:g}, the paper's code {usual:g}")
        return tuple(said)
