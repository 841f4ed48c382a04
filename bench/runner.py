"""One configuration in, one record out.

configuration → load → split → distort → `Method.run` on its `bench.stage` → `Record`.
"""

import json
import math
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench import memory, points, sidefile
from bench import record as schema
from bench.config import RunConfig, run_hash
from bench.data.sources import Source, fingerprint, load
from bench.environment import ROOT, Origin, environment
from bench.plugins import Selected, options_of
from bench.stage import Outcome, Progress, quiet, run_method
from bench.train.checkpoint import Checkpoints
from bench.train.evaluate import Metrics
from bench.train.journal import Journal
from bench.train.prepare import Prepared, prepare

# FLOPs are counted exactly, so that only a block without a price can overdraw them at all.
FLAG_OVERRUN = 0.02
UNRANK_OVERRUN = {"gpu": 0.05, "portable": 0.001}


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


@dataclass(frozen=True, eq=False)
class Made:
    """What a run made: its record, and the arrays for the side file, if any.

    The arrays travel beside the record to whoever writes it, because only the writer can put the
    file in place before the record that names its digest, and a process on another machine may
    share no disk with it.
    """

    record: schema.Record
    arrays: sidefile.SideArrays = field(default_factory=dict)


def execute(
    config: RunConfig,
    selected: Selected,
    data: DataOptions,
    progress: Progress = quiet,
    attempts: int = 1,
    begun: Callable[[schema.Record], None] = lambda record: None,
    origin: Origin | None = None,
    keep_features: bool = False,
    journal: Journal | None = None,
    checkpoints: Checkpoints | None = None,
) -> Made | Skipped:
    """Runs one configuration; whatever goes wrong inside becomes a failed record.

    Args:
        config: What to run.
        selected: The method, resolved from `config.method`.
        data: How to load data.
        progress: Called with phase, share of the budget and validation error.
        attempts: Which try this is, for a failed record.
        begun: Given the record that holds if this process dies from here on.
        origin: The code that computes; by default what is on disk now.
        keep_features: Whether to keep features of test images; no other result depends on it.
        journal: What a killed process had finished of this run, and where to note more.
        checkpoints: Where the run's state goes now and then, and the one to go on from.

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
    common = _common(config, selected, source, prepared, data, origin or Origin.read())
    begun(schema.Record(status="failed", **common))
    try:
        method = selected.make()
        if reason := method.skip(prepared.task, config.budget):
            return Skipped(reason)
        minimum = method.minimum(prepared.task)
        outcome = run_method(
            method,
            prepared,
            config,
            progress=progress,
            keep_features=keep_features,
            journal=journal,
            checkpoints=checkpoints,
        )
        arrays = sidefile.arrays_of(outcome.fitted.points, outcome.features)
        record = _succeeded(outcome, arrays, prepared, config, minimum, common)
        # What cannot be written down is this run's failure, not the driver's.
        json.dumps(record.model_dump(mode="json"), allow_nan=False)
        return Made(record, arrays)
    except Exception as error:
        return Made(schema.Record(status="failed", failure=_failure(error, attempts), **common))


def _failure(error: Exception, attempts: int) -> schema.Failure:
    """What a record says of the exception that is being handled."""
    short = memory.advice(error)
    return schema.Failure(
        type=memory.KIND if short else type(error).__name__,
        message=short or str(error),
        traceback=_shortened(traceback.format_exc()),
        attempts=attempts,
    )


def _shortened(text: str) -> str:
    """A traceback with file names relative to the project: records hold no machine paths."""
    for place in (ROOT, *map(Path, sys.path)):
        if place.is_absolute():
            text = text.replace(f"{place}/", "")
    return text


def _common(
    config: RunConfig,
    selected: Selected,
    source: Source,
    prepared: Prepared,
    data: DataOptions,
    origin: Origin,
) -> dict[str, Any]:
    """The fields that a record has whether the run succeeds or not."""
    print_ = fingerprint(config.task.data, data.root)
    method = selected.plugin.method
    content = config.model_dump(mode="json")
    content["task"]["data"] = source.name
    return {
        "hash": run_hash(config, source.name, print_, selected.plugin.source),
        "suite": config.suite,
        "config": content,
        "budget": config.budget,
        "seed": config.seed,
        "track": config.track,
        "task": _task_info(config, source, prepared),
        "method": schema.MethodInfo(
            spec=selected.spec,
            name=method.name,
            options=options_of(selected.config),
            source=selected.plugin.source,
            learned=method.learned,
            clean_labels=method.declared(selected.config),
            deviations=[],
            placebo_of=selected.placebo_of,
        ),
        "environment": environment(prepared.task.device, config.threads, origin.git),
        "bench": origin.bench,
    }


def _task_info(config: RunConfig, source: Source, prepared: Prepared) -> schema.TaskInfo:
    """The task as the record tells it, counts of the distortion included."""
    task, distorted = prepared.task, prepared.distorted
    return schema.TaskInfo(
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
    )


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
    ledger = outcome.meter.ledger
    items = [
        schema.BillItem(
            label=label, key=dict(key_), calls=item.calls, flops=item.flops, seconds=item.seconds
        )
        for label, key_, item in ledger.items("run")
    ]
    seconds = ledger.billed_seconds
    flags = []
    overrun = ledger.spent / ledger.budget - 1
    if overrun > UNRANK_OVERRUN[config.track]:
        flags.append(f"overrun>{100 * UNRANK_OVERRUN[config.track]:g}%")
    elif config.track == "gpu" and overrun > FLAG_OVERRUN:
        flags.append(f"overrun>{100 * FLAG_OVERRUN:g}%")
    redone = outcome.session.redone
    harness = sum(item.seconds for _, _, item in ledger.items("harness"))
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
        redone_flops=redone.flops,
        redone_seconds=redone.seconds,
        checkpoint_seconds=outcome.session.checkpoint_seconds,
        items=items,
        flags=flags,
    )


def _succeeded(
    outcome: Outcome,
    arrays: sidefile.SideArrays,
    prepared: Prepared,
    config: RunConfig,
    minimum: float,
    common: dict[str, Any],
) -> schema.Record:
    session, distorted, rare = outcome.session, prepared.distorted, prepared.distorted.rare
    learned = outcome.fitted.points is not None
    said = {
        "deviations": list(outcome.fitted.deviations),
        "scaled": config.budget / minimum if config.budget < minimum else None,
    }
    method = common["method"].model_copy(update=said)
    return schema.Record(
        status="ok",
        scores=_scores(
            outcome.test,
            rare,
            train_error=outcome.train_error,
            memorised=outcome.memorised,
            confusion=outcome.confusion,
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
        points=points.describe(arrays, distorted, prepared.task.classes) if learned else None,
        **(common | {"method": method}),
    )
