"""One configuration in, one record out.

configuration → load → split → distort → `Session` → `Method.run` → test evaluation → `Record`.
The runner holds what the method must not see: the test set, the true labels and the clock.
"""

import math
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import record as schema
from bench.config import RunConfig, run_hash
from bench.data.arrays import Arrays
from bench.data.sources import Source, fingerprint, load
from bench.environment import ROOT, bench_digest, environment
from bench.errors import Diverged
from bench.method import Fitted, Method
from bench.plugins import Selected, options_of
from bench.rng import key
from bench.train.clock import Clock, Time
from bench.train.evaluate import Metrics, evaluate, predict
from bench.train.learner import Learner
from bench.train.ledger import Ledger, ReferencePrice
from bench.train.meter import AUDIT_RATE, Meter
from bench.train.prepare import Prepared, prepare
from bench.train.reference import reference_price
from bench.train.session import Session

Progress = Callable[[str, float, float | None], None]
MILESTONES = (0.25, 0.5, 0.75, 1.0)
TIMED_STEPS = {"portable": 10, "gpu": 50}  # only the gpu track's budget hangs on the timing
FLAG_OVERRUN, UNRANK_OVERRUN = 0.02, 0.05


@dataclass(frozen=True)
class DataOptions:
    """How to load data; no result depends on it."""

    root: Path | None = None
    memory_limit: int = 4 << 30
    skip_corrupt: bool = False

    def source(
        self, data: str, size: int | None, progress: Callable[[str, int, int], None] | None = None
    ) -> Source:
        """Loads a source with these options; `progress` gets phase, images done, images in all."""
        return load(
            data,
            root=self.root,
            size=size,
            memory_limit=self.memory_limit,
            skip_corrupt=self.skip_corrupt,
            progress=progress,
        )


@dataclass(frozen=True)
class Skipped:
    """A method's reason for not running on a task with a budget."""

    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a run left behind, before it becomes a record."""

    fitted: Fitted
    session: Session
    meter: Meter
    curve: list[schema.CurvePoint]
    test: Metrics
    val: Metrics
    train_error: float
    memorised: float | None
    after: ReferencePrice | None


class Observer:
    """Evaluates at 25, 50, 75 and 100 % of the plan, off the clock, unseen by the method."""

    def __init__(self, prepared: Prepared, meter: Meter, progress: Progress) -> None:
        self._prepared = prepared
        self._meter = meter
        self._progress = progress
        self._next = 0
        self.curve: list[schema.CurvePoint] = []

    def __call__(self, learner: Learner, fraction: float) -> None:
        """Evaluates if a milestone was reached; else only reports progress."""
        while self._next < len(MILESTONES) and fraction >= MILESTONES[self._next] - 1e-12:
            self._measure(learner, MILESTONES[self._next])
            self._next += 1
        spent = self._meter.ledger.spent / self._meter.ledger.budget
        self._progress("train", spent, self.curve[-1].val_error if self.curve else None)

    def _measure(self, learner: Learner, milestone: float) -> None:
        spent = self._meter.ledger.spent
        with self._meter.harness():
            val = evaluate(learner, self._prepared.task.val, self._meter, "milestone")
            test = evaluate(learner, self._prepared.test, self._meter, "milestone")
        self.curve.append(
            schema.CurvePoint(
                fraction=milestone, spent=spent, val_error=val.error, test_error=test.error
            )
        )


def execute(
    config: RunConfig,
    selected: Selected,
    data: DataOptions,
    progress: Progress = lambda phase, share, error: None,
    attempts: int = 1,
    begun: Callable[[schema.Record], None] = lambda record: None,
) -> schema.Record | Skipped:
    """Runs one configuration; whatever goes wrong inside becomes a failed record.

    Args:
        config: What to run.
        selected: The method, resolved from `config.method`.
        data: How to load data.
        progress: Called with phase, share of the budget and validation error.
        attempts: Which try this is, for a failed record.
        begun: Given the record that holds if this process dies from here on.

    Raises:
        ConfigError, DataError: If the configuration or the data are the user's to mend.
    """
    device = torch.device(config.device)
    torch.set_num_threads(config.threads)
    progress("load", 0.0, None)
    source = data.source(config.task.data, config.task.size)
    prepared = prepare(
        source,
        distort=config.task.distort,
        network=config.task.network,
        recipe=config.task.recipe,
        seed=config.seed,
        device=device,
        val_fraction=config.task.val_fraction,
    )
    method = selected.make()
    if reason := method.skip(prepared.task, config.budget):
        return Skipped(reason)
    common = _common(config, selected, source, prepared, method, data)
    begun(schema.Record(status="failed", **common))
    try:
        outcome = run_method(method, prepared, config, progress=progress)
    except Exception as error:
        failure = schema.Failure(
            type=type(error).__name__,
            message=str(error),
            traceback=_shortened(traceback.format_exc()),
            attempts=attempts,
        )
        return schema.Record(status="failed", failure=failure, **common)
    return _succeeded(outcome, prepared, config, common)


def _shortened(text: str) -> str:
    """A traceback with file names relative to the project: records hold no machine paths."""
    for place in (ROOT, *map(Path, sys.path)):
        if place.is_absolute():
            text = text.replace(f"{place}/", "")
    return text


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
    progress: Progress = lambda phase, share, error: None,
    audit_rate: float = AUDIT_RATE,
    now: Time = time.perf_counter,
) -> Stage:
    """Prices the reference training and opens the books.

    Args:
        prepared: The task and the test set.
        config: Budget, seed, track and flags.
        progress: As in `execute`.
        audit_rate: Share of metered blocks that are counted again.
        now: Source of time in seconds, for tests.
    """
    task, device = prepared.task, prepared.task.device
    torch.manual_seed(key("global", config.seed))  # dropout has no generator of its own
    timed = TIMED_STEPS[config.track]
    reference = reference_price(task, timed_steps=timed, compiled=config.compile, now=now)
    clock = Clock(device, now)
    ledger = Ledger(config.budget, reference, config.track, clock)
    meter = Meter(ledger, device, config.seed, audit_rate, compiled=config.compile)
    observer = Observer(prepared, meter, progress)
    session = Session(task, meter, config.seed, compiled=config.compile, observe=observer)
    return Stage(session, meter, observer, clock)


def run_method(
    method: Method,
    prepared: Prepared,
    config: RunConfig,
    *,
    progress: Progress = lambda phase, share, error: None,
    audit_rate: float = AUDIT_RATE,
    now: Time = time.perf_counter,
) -> Outcome:
    """Runs the method on the clock, then evaluates its final weights off it; see `stage`.

    Raises:
        Diverged: If the final weights predict anything that is not finite.
        LedgerTampered: If the books do not add up.
    """
    progress("reference", 0.0, None)
    set_ = stage(prepared, config, progress=progress, audit_rate=audit_rate, now=now)
    meter, ledger = set_.meter, set_.meter.ledger
    set_.clock.start()
    fitted = method.run(set_.session)
    set_.clock.stop()
    meter.collect()
    ledger.audit()

    progress("evaluate", min(1.0, ledger.spent / ledger.budget), None)
    learner = fitted.learner
    set_.observer(learner, 1.0)
    with meter.harness():
        test = evaluate(learner, prepared.test, meter, "test")
        val = evaluate(learner, prepared.task.val, meter, "test")
        train_error, memorised = _on_train(learner, prepared, meter)
    if not (test.finite and val.finite):
        raise Diverged("the final weights predict values that are not finite: training diverged")
    after = None
    if config.track == "gpu":
        timed = TIMED_STEPS["gpu"]
        after = reference_price(prepared.task, timed_steps=timed, compiled=config.compile, now=now)
    curve = set_.observer.curve
    return Outcome(fitted, set_.session, meter, curve, test, val, train_error, memorised, after)


def _on_train(learner: Learner, prepared: Prepared, meter: Meter) -> tuple[float, float | None]:
    """Error on the training labels, and the share of wrong ones among them that was learnt."""
    train: Arrays = prepared.task.train
    predicted = predict(learner, train, meter, "test").argmax(1).cpu()
    hit = predicted == train.labels.cpu()
    flipped = prepared.distorted.flipped
    memorised = hit[flipped].double().mean().item() if bool(flipped.any()) else None
    return 1 - hit.double().mean().item(), memorised


def _common(
    config: RunConfig,
    selected: Selected,
    source: Source,
    prepared: Prepared,
    method: Method,
    data: DataOptions,
) -> dict[str, Any]:
    """The fields that a record has whether the run succeeds or not."""
    task, distorted = prepared.task, prepared.distorted
    print_ = fingerprint(config.task.data, data.root)
    minimum = method.minimum(task)
    content = config.model_dump(mode="json")
    content["task"]["data"] = source.name
    return {
        "hash": run_hash(config, source.name, print_, selected.plugin.source),
        "suite": config.suite,
        "config": content,
        "budget": config.budget,
        "seed": config.seed,
        "track": config.track,
        "task": schema.TaskInfo(
            data=source.name,
            distort=config.task.distort,
            network=config.task.network,
            recipe=config.task.recipe.model_dump(mode="json"),
            classes=list(source.classes),
            rare=list(distorted.rare),
            train_counts=[int(count) for count in distorted.counts],
            flipped=[float(share) for share in distorted.flipped_share],
            flipped_total=float(distorted.flipped_total),
            sizes={
                "train": len(task.train),
                "val": len(task.val),
                "test": len(prepared.test),
                "pixels": task.size,
            },
            digest=source.digest,
            skipped_files=len(source.skipped),
        ),
        "method": schema.MethodInfo(
            spec=selected.spec,
            name=method.name,
            options=options_of(selected.config),
            source=selected.plugin.source,
            learned=method.learned,
            clean_labels=method.clean_labels,
            deviations=[],
            scaled=config.budget / minimum if config.budget < minimum else None,
            placebo_of=selected.placebo_of,
        ),
        "environment": environment(task.device, config.threads),
        "bench": bench_digest(),
    }


def _scores(metrics: Metrics, rare: tuple[bool, ...], **more: Any) -> schema.Scores:
    return schema.Scores(
        error=metrics.error,
        balanced_error=metrics.balanced_error,
        tail_error=metrics.tail_error(rare),
        worst_error=metrics.worst_error,
        class_errors=[None if math.isnan(e) else e for e in metrics.class_errors],
        nll=metrics.nll,
        ece=metrics.ece,
        **more,
    )


def _bill(outcome: Outcome, config: RunConfig) -> schema.Bill:
    """The ledger as plain data, with the overruns that PROTOCOL.md flags."""
    ledger, meter = outcome.meter.ledger, outcome.meter
    items = [
        schema.BillItem(
            label=label, key=dict(key_), calls=item.calls, flops=item.flops, seconds=item.seconds
        )
        for label, key_, item in ledger.items("run")
    ]
    seconds = ledger.billed_seconds
    flags = []
    if config.track == "gpu":
        overrun = ledger.spent / ledger.budget - 1
        if overrun > UNRANK_OVERRUN:
            flags.append("overrun>5%")
        elif overrun > FLAG_OVERRUN:
            flags.append("overrun>2%")
    harness = sum(item.seconds for _, _, item in meter.ledger.items("harness"))
    return schema.Bill(
        rt_flops=ledger.reference.flops,
        rt_seconds=ledger.reference.seconds,
        rt_seconds_after=outcome.after.seconds if outcome.after else None,
        flops=ledger.billed_flops,
        flops_share=ledger.billed_flops / ledger.reference.flops / ledger.budget,
        seconds=seconds,
        seconds_share=seconds / ledger.reference.seconds / ledger.budget,
        rehearsal_flops=ledger.flops("rehearsal"),
        rehearsal_seconds=ledger.rehearsal_seconds,
        evaluation_seconds=harness,
        overhead_seconds=seconds - sum(item.seconds for item in items),
        items=items,
        flags=flags,
    )


def _succeeded(
    outcome: Outcome, prepared: Prepared, config: RunConfig, common: dict[str, Any]
) -> schema.Record:
    session, rare = outcome.session, prepared.distorted.rare
    common["method"] = common["method"].model_copy(
        update={"deviations": list(outcome.fitted.deviations)}
    )
    return schema.Record(
        status="ok",
        scores=_scores(
            outcome.test, rare, train_error=outcome.train_error, memorised=outcome.memorised
        ),
        val_scores=_scores(outcome.val, rare),
        bill=_bill(outcome, config),
        plan=session.plans,
        prices=session.prices,
        steps=session.tallies["steps"],
        images_seen=session.tallies["images_seen"],
        policy_updates=session.tallies["policy_updates"],
        curve=outcome.curve,
        trace=session.trace.export(),
        policy=outcome.fitted.policy.describe(),
        weights=outcome.fitted.learner.digest(),
        **common,
    )
