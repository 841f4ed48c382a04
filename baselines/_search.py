"""Search: a whole training for each proposed point, then a last one under the best of them.

A proposer (`_proposers`) says where to try, a space (`_space`) what that means; neither sees a
network or a budget.  How many trials there are and how the budget is shared is fixed before.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from baselines._proposers import Proposer
from baselines._space import Candidate, Space, Values
from bench.augment.policy import Batch
from bench.errors import Diverged, PlanError
from bench.train.heavy_ball import HeavyBall, heavy_ball_step
from bench.train.learner import Learner
from bench.train.loops import training_step
from bench.train.session import Session
from bench.train.state import Kept

Tensor = torch.Tensor


class Training:
    """A network's training under a candidate.

    Args:
        session: Meters it.
        learner: Is trained.
        batches: Gives the images.
        candidate: What it trains with.
        stream: Of the policy's draws.

    Attributes:
        finite: () bool on the device: whether every loss so far was finite.
        kept: What steps change beside the learner, for `session.keep`.
    """

    def __init__(
        self,
        session: Session,
        learner: Learner,
        batches: Iterator[Batch],
        candidate: Candidate,
        stream: str = "policy",
    ) -> None:
        self.session, self.learner, self.batches, self.stream = session, learner, batches, stream
        self.candidate = candidate
        self.finite = torch.ones((), dtype=torch.bool, device=session.task.device)
        self.kept: dict[str, Kept] = {"finite": self.finite}
        if candidate.setting is None:
            self.loss = candidate.prepare(session, learner, stream)
        else:
            self.ball = self.kept["ball"] = HeavyBall(learner)
        session.keep(training=self.kept)

    def step(self, progress: float) -> Tensor:
        """One step at a share of the training; its loss, on the device."""
        session, learner, candidate = self.session, self.learner, self.candidate
        policy, batches, rng = candidate.policy, self.batches, session.rng(self.stream)
        if candidate.setting is None:
            loss = training_step(session, learner, policy, batches, progress, self.loss, rng)
        else:
            setting = candidate.setting(progress)
            loss = heavy_ball_step(session, learner, self.ball, policy, batches, setting, rng)
        self.finite &= loss.isfinite()
        return loss


@dataclass(frozen=True)
class Trial:
    """What was tried, and the validation error; None if the trial failed."""

    values: Values
    error: float | None


class Search:
    """Trials, choice, last training.

    Args:
        session: Meters it.
        space: What the search is over.
        proposer: Says where to try.
        trials: How many trainings choose.
        final_fraction: Share of the budget for the last training; None makes it as long as each
            trial.

    Attributes:
        learner: The network of the last training.
        tried: The trials so far.
        began: RT that remained at the start.
    """

    def __init__(
        self,
        session: Session,
        space: Space,
        proposer: Proposer,
        trials: int,
        final_fraction: float | None = None,
    ) -> None:
        self.session, self.space, self.proposer = session, space, proposer
        self.trials, self.final_fraction = trials, final_fraction
        # The first learner and order of batches pair with other methods': they come last.
        self.learner, self.batches = session.learner(), session.batches("train")
        self.tried: list[Trial] = []
        self.began = session.remaining

    def run(self) -> Candidate:
        """Prices, plans, searches, trains; what the last training had."""
        session = self.session
        train, validate = self._prices()
        steps, final = self._plan(train, validate)
        for left in range(self.trials, 0, -1):
            to_come = left * (steps * train + validate) + final * train
            self.trial(steps, steps * train / to_come)
        training = self._training(self.choose(), self.learner, self.batches)
        with session.slice(1.0):
            for done in session.steps(final):
                session.log(train_loss=training.step(done / final))
                session.progress(self.learner, (done + 1) / final)
        return training.candidate

    def trial(self, steps: int, share: float) -> None:
        """Asks for a point, trains there in a share of what remains, validates, tells.

        A trial that a killed process had finished is not repeated; the proposer is asked and told
        all the same.
        """
        session = self.session
        with session.timed("propose"):
            point = self.proposer.ask()
        values = self.space.values(point)
        found = session.once("trial", lambda: self._tried(values, steps, share), point=point)
        error = found["error"]
        with session.timed("propose"):
            self.proposer.tell(point, error)
        self.tried.append(Trial(values, error))
        session.tally(trials=1, failed_trials=int(error is None))
        session.event(
            **{f"trial_{name}": value for name, value in values.items()},
            trial_cost=found["cost"],
            trial_bill=self.began - session.remaining,
            trial_error=_number(error),
            best_error=_number(self.best().error),
        )

    def _tried(self, values: Values, steps: int, share: float) -> dict[str, float | None]:
        """Trains and validates: the error, None if the trial failed, and the cost in RT."""
        session, error = self.session, None
        before = session.remaining
        try:
            with session.slice(1.0):  # a trial that the budget's end cuts off has failed
                learner, batches = session.learner(), session.batches("train")
                training = self._training(values, learner, batches, "search")
                with session.slice(share):
                    for done in session.steps(steps):
                        training.step(done / steps)
                error = self.judge(training)
        except Diverged:
            error = None
        return {"error": error, "cost": before - session.remaining}

    def choose(self) -> Values:
        """The best point's parameters; the trace has them, and the proposer's shares of each."""
        session, best = self.session, self.best().values
        with session.timed("propose"):
            shares = self.proposer.importance() or {}
        session.event(**{f"chosen_{name}": value for name, value in best.items()})
        session.event(**{f"importance_{name}": share for name, share in shares.items()})
        return best

    def judge(self, training: Training) -> float | None:
        """The validation error; None if a loss, or the validation loss, was not finite."""
        found = self.session.validate(training.learner)
        sound = found.finite and math.isfinite(found.nll) and bool(training.finite)
        return found.error if sound else None

    def best(self) -> Trial:
        """The trial with the least error, the first of equals; the first if all failed."""
        sound = [trial for trial in self.tried if trial.error is not None]
        return min(sound, key=lambda trial: _number(trial.error), default=self.tried[0])

    def _training(
        self, values: Values, learner: Learner, batches: Iterator[Batch], stream: str = "policy"
    ) -> Training:
        candidate = self.space.candidate(self.session.task, values)
        return Training(self.session, learner, batches, candidate, stream)

    def _prices(self) -> tuple[float, float]:
        """RT of a step and of a validation, whichever the point."""
        session, middle = self.session, self.space.values((0.5,) * len(self.space.dimensions))
        training = self._training(middle, self.learner, self.batches)
        return (
            session.price("train", lambda: training.step(0.0)),
            session.price("validate", lambda: session.validate(self.learner)),
        )

    def _plan(self, train: float, validate: float) -> tuple[int, int]:
        """Steps of each trial and of the last training, from the prices of a step and a check."""
        session, trials, final = self.session, self.trials, self.final_fraction
        checks = trials * validate / session.remaining
        if final is None:
            steps = last = session.afford((trials + 1) * train, 1 - checks)
        else:
            steps = session.afford(trials * train, 1 - final - checks)
            last = session.afford(train, final)
        least = self.space.least
        if min(steps, last) < least:
            raise PlanError(
                f"{session.remaining:.3g} RT pay for {max(0, steps)} steps in each of {trials} "
                f"trials, validated, and {max(0, last)} in the last training, and each needs "
                f"{least}: allow more budget, or fewer trials"
            )
        steps = session.plan(train=trials * steps, validate=trials)["train"] // trials
        return steps, session.plan(train=last)["train"]


def _number(error: float | None) -> float:
    return math.nan if error is None else error
