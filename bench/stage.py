"""One run of a method, with the books open: price, clock, milestones, final evaluation.

What the method must not see lives here: the test set, the true labels and the clock.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bench.config import RunConfig
from bench.data.arrays import Arrays
from bench.errors import Diverged
from bench.method import Fitted, Method
from bench.record import CurvePoint
from bench.rng import key
from bench.train.checkpoint import Checkpoints
from bench.train.clock import Clock, Time
from bench.train.evaluate import Metrics, confusion, evaluate, metrics, predict
from bench.train.features import Features, features
from bench.train.journal import Journal
from bench.train.learner import Learner
from bench.train.ledger import Ledger, ReferencePrice
from bench.train.meter import AUDIT_RATE, Meter
from bench.train.prepare import Prepared
from bench.train.reference import reference_price
from bench.train.session import Session
from bench.train.task import Task

Progress = Callable[[str, float, float | None], None]
MILESTONES = (0.25, 0.5, 0.75, 1.0)
MOST_CLASSES = 100  # of a confusion matrix that a record holds
TIMED_STEPS = {"portable": 10, "gpu": 50}  # only the gpu track's budget hangs on the timing


def quiet(phase: str, share: float, error: float | None) -> None:
    """A `Progress` that says nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a run left behind, before it becomes a record.

    Attributes:
        confusion: The test set's confusion matrix, up to 100 classes.
        features: What some test images look like to the network, if they were asked for.
    """

    fitted: Fitted
    session: Session
    meter: Meter
    curve: list[CurvePoint]
    test: Metrics
    val: Metrics
    train_error: float
    memorised: float | None
    after: ReferencePrice | None
    confusion: list[list[int]] | None
    features: Features | None


class Observer:
    """Evaluates at 25, 50 and 75 % of the plan, off the clock, unseen by the method.

    The last point of the curve, at 100 %, is the evaluation of the final weights.
    """

    def __init__(self, prepared: Prepared, meter: Meter, progress: Progress) -> None:
        self._prepared = prepared
        self._meter = meter
        self._progress = progress
        self.curve: list[CurvePoint] = []

    def __call__(self, learner: Learner, fraction: float) -> None:
        """Evaluates if a new milestone was reached; else only reports progress."""
        reached = max((m for m in MILESTONES if fraction >= m - 1e-12), default=0.0)
        last = self.curve[-1].fraction if self.curve else 0.0
        if last < reached < 1.0:
            with self._meter.harness():
                val = evaluate(learner, self._prepared.task.val, self._meter, "milestone")
                test = evaluate(learner, self._prepared.test, self._meter, "milestone")
            self.add(reached, val, test)
        ledger = self._meter.ledger
        error = self.curve[-1].val_error if self.curve else None
        self._progress("train", ledger.spent / ledger.budget, error)

    def state_dict(self) -> list[dict[str, float]]:
        """The curve so far, for checkpoints."""
        return [point.model_dump() for point in self.curve]

    def load_state_dict(self, state: list[dict[str, float]]) -> None:
        """Puts the curve back."""
        self.curve[:] = [CurvePoint(**point) for point in state]

    def add(self, fraction: float, val: Metrics, test: Metrics) -> None:
        """Adds a point to the curve."""
        spent = self._meter.ledger.spent
        self.curve.append(
            CurvePoint(fraction=fraction, spent=spent, val_error=val.error, test_error=test.error)
        )


@dataclass(frozen=True)
class Stage:
    """Everything set up for a method to run."""

    session: Session
    meter: Meter
    observer: Observer
    clock: Clock


def stage(
    prepared: Prepared,
    config: RunConfig,
    *,
    progress: Progress = quiet,
    audit_rate: float = AUDIT_RATE,
    now: Time = time.perf_counter,
    journal: Journal | None = None,
    checkpoints: Checkpoints | None = None,
) -> Stage:
    """Prices the reference training and opens the books.

    Args:
        prepared: The task and the test set.
        config: Budget, seed, track and flags.
        progress: Called with phase, share of the budget and validation error.
        audit_rate: Share of metered blocks that are counted again.
        now: Source of time in seconds, for tests.
        journal: What a killed process had finished of this run, and where to note more.
        checkpoints: Where the run's state goes now and then, and the one to go on from.
    """
    task, device = prepared.task, prepared.task.device
    torch.manual_seed(key("global", config.seed))  # dropout has no generator of its own
    journal = journal or Journal()
    price = asdict(_reference(task, config, now))
    reference = ReferencePrice(**journal.agree("price of one RT", price))
    clock = Clock(device, now)
    ledger = Ledger(config.budget, reference, config.track, clock)
    meter = Meter(ledger, device, config.seed, audit_rate, compiled=config.compile)
    observer = Observer(prepared, meter, progress)
    session = Session(
        task,
        meter,
        config.seed,
        compiled=config.compile,
        observe=observer,
        journal=journal,
        checkpoints=checkpoints,
    )
    return Stage(session, meter, observer, clock)


def run_method(
    method: Method,
    prepared: Prepared,
    config: RunConfig,
    *,
    progress: Progress = quiet,
    audit_rate: float = AUDIT_RATE,
    now: Time = time.perf_counter,
    keep_features: bool = False,
    **resumption: Any,
) -> Outcome:
    """Runs the method on the clock, then evaluates its final weights off it; see `stage`.

    Args:
        method: What to run.
        prepared: As for `stage`; so are the others but the next.
        keep_features: Whether to keep features of test images; changes nothing else.
        resumption: `journal` and `checkpoints` for `stage`.

    Raises:
        Diverged: If the final weights predict anything that is not finite.
        LedgerTampered: If the books do not add up.
    """
    progress("reference", 0.0, None)
    books: Any = {"progress": progress, "audit_rate": audit_rate, "now": now}
    set_ = stage(prepared, config, **books, **resumption)
    meter, ledger = set_.meter, set_.meter.ledger
    set_.clock.start()
    fitted = method.run(set_.session)
    set_.clock.stop()
    meter.collect()
    ledger.audit()

    progress("evaluate", min(1.0, ledger.spent / ledger.budget), None)
    learner, labels, classes = fitted.learner, prepared.test.labels, prepared.task.classes
    kept = None
    with meter.harness():
        logits = predict(learner, prepared.test, meter, "test")
        test, predicted = metrics(logits, labels, classes), logits.argmax(1)
        val = evaluate(learner, prepared.task.val, meter, "test")
        train_error, memorised = _on_train(learner, prepared, meter)
        if keep_features:  # last, so that nothing that was here without it can change
            kept = features(learner, prepared.test, predicted, meter)
    set_.observer.add(1.0, val, test)
    if not (test.finite and val.finite):
        raise Diverged("the final weights predict values that are not finite: training diverged")
    return Outcome(
        fitted=fitted,
        session=set_.session,
        meter=meter,
        curve=set_.observer.curve,
        test=test,
        val=val,
        train_error=train_error,
        memorised=memorised,
        after=_reference(prepared.task, config, now) if config.track == "gpu" else None,
        confusion=confusion(predicted, labels, classes) if classes <= MOST_CLASSES else None,
        features=kept,
    )


def _reference(task: Task, config: RunConfig, now: Time) -> ReferencePrice:
    timed = TIMED_STEPS[config.track]
    return reference_price(task, timed_steps=timed, compiled=config.compile, now=now)


def _on_train(learner: Learner, prepared: Prepared, meter: Meter) -> tuple[float, float | None]:
    """Error on the training labels, and the share of wrong ones among them that was learnt."""
    train: Arrays = prepared.task.train
    predicted = predict(learner, train, meter, "test").argmax(1).cpu()
    hit = predicted == train.labels.cpu()
    flipped = prepared.distorted.flipped
    memorised = hit[flipped].double().mean().item() if bool(flipped.any()) else None
    return 1 - hit.double().mean().item(), memorised
