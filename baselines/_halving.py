"""Successive halving: many trainings begin, and at each rung one in η of them goes on.

A trial that goes on is the same training, continued: its network and optimiser have waited in
memory, in the middle of a schedule that runs over a whole training.  Who goes on is what Optuna's
pruners say (`_pruners`).  The best point trains once more.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from baselines._ask_tell import Proposer
from baselines._pruners import Ladder, halving, hyperband, passed, study
from baselines._search import Training
from baselines._space import Candidate, Point, Space, Values
from bench.errors import Diverged, PlanError
from bench.train.evaluate import Metrics
from bench.train.session import Session
from bench.train.state import Kept

Brackets = Sequence[Sequence[int]]  # numbers of the trials that start at rung 0, 1, ...


@dataclass
class Climber:
    """A trial.

    Attributes:
        number: Its name to the pruner.
        values: What it trains with.
        training: Its network and optimiser; None once it cannot go on.
        done: Steps so far.
        cost: RT so far.
        error: At its last rung; None if it failed.
        reports: By steps, what the pruner is told.
    """

    number: int
    values: Values
    training: Training | None
    done: int = 0
    cost: float = 0.0
    error: float | None = None
    reports: dict[int, float] = field(default_factory=dict)

    @property
    def place(self) -> tuple[float, int]:
        """Less is better: the last value, then the number, which no two trials share."""
        return self.reports[self.done], self.number


class Halving:
    """Trials in rungs, choice, last training.

    Args:
        session: Meters it.
        space: What the search is over.
        propose: The proposer of a bracket, which says where its trials train.
        brackets: The plan's trials.  If `asynchronous`, their number sets the lengths only.
        factor: η.
        asynchronous: Whether trials come one after the other, judged against those before; there
            are as many then as are sure to be paid for.
        hyperband: Whether Optuna's Hyperband judges, which deals the trials to brackets.
        final_fraction: Share of the budget for the last training, at least; None makes it as long
            as a trial that reaches the top, at least.  What trials leave over is its.

    Attributes:
        learner: The network of the last training.
        tried: The trials so far.
        began: RT that remained at the start.
    """

    def __init__(
        self,
        session: Session,
        space: Space,
        propose: Callable[[int], Proposer],
        brackets: Brackets,
        factor: int,
        *,
        asynchronous: bool = False,
        hyperband: bool = False,
        final_fraction: float | None = None,
    ) -> None:
        self.session, self.space, self.propose = session, space, propose
        self.brackets, self.factor, self.top = brackets, factor, len(brackets) - 1
        self.asynchronous, self.hyperband = asynchronous, hyperband
        self.final_fraction = final_fraction
        # The first learner and order of batches pair with other methods': they come last.
        self.learner, self.batches = session.learner(), session.batches("train")
        self.tried: list[Climber] = []
        self.waiting: dict[int, Kept] = {}  # what trainings change, of those that can go on
        session.keep(waiting=self.waiting)
        self.began = session.remaining
        self.train = self.check = self.last = 0.0  # RT of a step, a validation, the last training
        self.left: dict[str, int] = {}  # of the plan

    def run(self) -> Candidate:
        """Prices, plans, searches, trains; what the last training had."""
        session = self.session
        self._price()
        self.ladder = self._plan()
        if self.asynchronous:
            self._one_by_one()
        else:
            for rung, numbers in enumerate(self.brackets):
                self._together(rung, numbers)
        best = self.best()
        session.event(**{f"chosen_{name}": value for name, value in best.values.items()})
        candidate = self.space.candidate(session.task, best.values)
        training = Training(session, self.learner, self.batches, candidate)
        final = session.plan(train=session.afford(self.train))["train"]
        with session.slice(1.0):
            for done in session.steps(final):
                session.log(train_loss=training.step(done / final))
                session.progress(self.learner, (done + 1) / final)
        return candidate

    def best(self) -> Climber:
        """Of the trials that got farthest, failed ones aside, the first in place."""
        sound = [each for each in self.tried if each.error is not None]
        return min(sound, key=lambda each: (-each.done, each.place), default=self.tried[0])

    # Rungs

    def _together(self, rung: int, numbers: Sequence[int]) -> None:
        """A bracket: all trials reach a rung before one of them goes on."""
        proposer, ladder = self.propose(rung), self.ladder
        pruner = (hyperband if self.hyperband else halving)(ladder)
        standing: list[Climber] = []
        for number in numbers:
            standing.append(self._begin(number, rung, proposer))
            self._release(standing, many=_fewer(len(numbers), self.factor))
        for above in range(rung + 1, self.top + 1):
            with self.session.timed("judge"):
                passing = passed(pruner, {each.number: each.reports for each in standing})
            # The plan pays for so many; the pruner lets all of equals go on.
            ahead = sorted(standing, key=lambda each: each.place)
            ahead = [each for each in ahead if each.number in passing and each.error is not None]
            ahead = ahead[: _fewer(len(standing), self.factor)]
            for each in standing:
                self._judged(each, each in ahead)
            standing = ahead
            for each in ahead:
                self._climb(each, ladder.steps(above))
        for each in standing:
            self._judged(each, False)

    def _one_by_one(self) -> None:
        """Trials run until the pruner stops them; each could be paid for up to the top."""
        ladder, proposer = self.ladder, self.propose(0)
        live, points = study(halving(ladder)), self.space.size
        most = math.inf if points is None or proposer.repeats else points
        while len(self.tried) < most and self._covers(ladder.whole, self.top + 1):
            with self.session.timed("judge"):
                trial = live.ask()
            each = self._begin(trial.number, 0, proposer)
            for above in range(1, self.top + 2):
                with self.session.timed("judge"):
                    trial.report(each.reports[each.done], each.done)
                    ahead = above <= self.top and not trial.should_prune()
                ahead = ahead and each.error is not None
                self._judged(each, ahead)
                if not ahead:
                    break
                self._climb(each, ladder.steps(above))

    def _begin(self, number: int, rung: int, proposer: Proposer) -> Climber:
        """A new trial, up to its first rung, whose error the proposer hears."""
        session = self.session
        with session.timed("propose"):
            point: Point = proposer.ask()
        values = self.space.values(point)
        candidate = self.space.candidate(session.task, values)
        # A stream of its own: others draw between its rungs.
        learner, batches = session.learner(), session.batches("train")
        training = Training(session, learner, batches, candidate, f"trial {number}")
        each = Climber(number, values, training)
        self.waiting[number] = training.kept
        self.tried.append(each)
        session.tally(trials=1)
        self._climb(each, self.ladder.steps(rung))
        with session.timed("propose"):
            proposer.tell(point, each.error)
        return each

    def _climb(self, each: Climber, target: int) -> None:
        """Trains on up to a rung and validates."""
        work = partial(self._climbed, each, target)
        found = self.session.phase("climb", work, trial=each.number, steps=target)
        self.left["train"] -= target - each.done
        self.left["validate"] -= 1
        each.done, each.error = target, found["error"]
        each.reports[target] = math.inf if found["value"] is None else found["value"]
        each.cost += found["cost"]

    def _climbed(self, each: Climber, target: int) -> dict[str, float | None]:
        """Does it in a share of what remains; error and value, None if it fails, and cost."""
        session, training, steps = self.session, each.training, target - each.done
        assert training is not None
        before, to_come = session.remaining, self._to_come()
        error = value = None
        try:
            with session.slice(1.0):  # a trial that the budget's end cuts off has failed
                with session.slice(min(1.0, steps * self.train / to_come)):
                    for done in session.steps(steps):
                        training.step((each.done + done) / self.ladder.whole)
                found = session.validate(training.learner)
                if found.finite and math.isfinite(found.nll) and bool(training.finite):
                    error, value = found.error, self._value(found)
        except Diverged:
            pass  # it has failed, as one whose loss is not finite
        return {"error": error, "value": value, "cost": before - session.remaining}

    def _value(self, found: Metrics) -> float:
        """What the pruner compares: the error, and the loss among equal errors.

        Errors differ by an image at least.  A failed trial reports infinity, not NaN: Optuna would
        stop it all the same, but take it out of the rung, so that fewer of the others could go on.
        """
        return found.error + found.nll / (1 + found.nll) / len(self.session.task.val)

    def _judged(self, each: Climber, ahead: bool) -> None:
        """Notes what a trial came to at a rung, and, if it ends there, in all."""
        session = self.session
        session.event(
            rung_trial=each.number,
            rung_steps=each.done,
            rung_error=_number(each.error),
            rung_promoted=ahead,
        )
        if ahead:
            return
        self._release([each])
        session.tally(failed_trials=int(each.error is None))
        session.event(
            **{f"trial_{name}": value for name, value in each.values.items()},
            trial_number=each.number,
            trial_steps=each.done,
            trial_cost=each.cost,
            trial_bill=self.began - session.remaining,
            trial_error=_number(each.error),
            best_error=_number(self.best().error),
        )

    def _release(self, standing: Sequence[Climber], many: int = 0) -> None:
        """Lets go of networks that so many others are ahead of already."""
        for each in sorted(standing, key=lambda one: one.place)[many:]:
            each.training = None
            self.waiting.pop(each.number, None)

    # The plan

    def _price(self) -> None:
        session, middle = self.session, self.space.values((0.5,) * len(self.space.dimensions))
        candidate = self.space.candidate(session.task, middle)
        training = Training(session, self.learner, self.batches, candidate)
        self.train = session.price("train", lambda: training.step(0.0))
        self.check = session.price("validate", lambda: session.validate(self.learner))

    def _plan(self) -> Ladder:
        """The longest rungs that the budget pays for; the last training gets the rest."""
        session, least = self.session, self.space.least
        sizes = [len(numbers) for numbers in self.brackets]
        units, checks = work(sizes, self.factor, self.asynchronous)
        whole, final, budget = self.factor**self.top, self.final_fraction, session.remaining
        share = 1 - checks * self.check / budget
        if final is None:
            first = session.afford((units + whole) * self.train, share)
        else:
            first = session.afford(units * self.train, share - final)
        last = budget - checks * self.check - units * first * self.train
        last = math.floor(last / self.train * (1 + 1e-9))
        if first < 1 or min(whole * first, last) < least:
            raise PlanError(
                f"{budget:.3g} RT pay for {max(0, first)} steps up to the lowest rung and "
                f"{max(0, whole * first)} up to the highest, and each training needs {least}: "
                "allow more budget, fewer trials or a larger least"
            )
        self.left = session.plan(train=units * first, validate=checks)
        first = self.left["train"] // units
        self.last = last * self.train if final is not None else whole * first * self.train
        return Ladder(first, self.factor, self.top)

    def _to_come(self) -> float:
        """RT of what is left of the plan, the last training included."""
        return self.left["train"] * self.train + self.left["validate"] * self.check + self.last

    def _covers(self, steps: int, checks: int) -> bool:
        return self.left["train"] >= steps and self.left["validate"] >= checks


def work(sizes: Sequence[int], factor: int, asynchronous: bool = False) -> tuple[int, int]:
    """What brackets cost.

    Args:
        sizes: Trials of the bracket that starts at rung 0, 1, ..., of K + 1.
        factor: η.
        asynchronous: Whether one trial more is paid for up to the top.  How many go on is not
            known then: about as many as in a complete rung, and the first one in any case.

    Returns:
        Steps of all trials, in units of those up to rung 0; and validations.
    """
    top = len(sizes) - 1
    units, checks = (factor**top, top + 1) if asynchronous else (0, 0)
    for start, count in enumerate(sizes):
        below = 0
        for rung in range(start, len(sizes)):
            units += count * (factor**rung - below)
            checks += count
            below, count = factor**rung, _fewer(count, factor)
    return units, checks


def _fewer(count: int, factor: int) -> int:
    """How many of a rung's trials go on, as Optuna has it: one at least."""
    return max(1, count // factor) if count else 0


def _number(error: float | None) -> float:
    return math.nan if error is None else error
