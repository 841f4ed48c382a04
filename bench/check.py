"""Conformance: does a method keep the rules of the benchmark?  Small runs on the digits tell.

Anybody can run this on a method of their own before they believe its numbers.
"""

import json
import random
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from bench.config import RunConfig, TaskConfig
from bench.data.sources import load
from bench.errors import PlanError, RecordError
from bench.method import Fitted
from bench.networks import build
from bench.networks.flops import FlopCounter, unit_price
from bench.plugins import Plugin, Selected, select
from bench.rng import generator
from bench.saved import read, write_state
from bench.stage import Stage, stage
from bench.train.checkpoint import Checkpoints, joined
from bench.train.journal import Entry, Journal
from bench.train.prepare import Prepared, prepare
from bench.train.recipe import Recipe

BILL_TOLERANCE = 0.01
BUDGETS = 2.0, 4.0  # RT; a method whose faithful budget is larger is checked scaled down
NETWORK = "small-cnn"
RECIPE = Recipe(steps=60, batch_size=32, lr=0.05)
DISTORT = "imbalance=10,noise=0.1"


@dataclass(frozen=True)
class Finding:
    """One rule, whether the method keeps it, and the evidence."""

    rule: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Trial:
    """A small run with one FLOP counter around the whole of it.

    Attributes:
        counted: FLOPs outside the blocks that are only timed.
        aside: FLOPs in those, which no network may do.
    """

    stage: Stage
    fitted: Fitted
    counted: int
    aside: int
    recorded: int
    hygienic: bool

    @property
    def outcome(self) -> str:
        """Weights and policy as one string: equal bits, equal string."""
        policy = json.dumps(self.fitted.policy.describe(), sort_keys=True)
        return f"{self.fitted.learner.digest()} {policy}"

    @property
    def bill_error(self) -> float:
        """|recorded - counted| / counted."""
        return abs(self.recorded - self.counted) / max(1, self.counted)


def conformance(text: str, plugins: dict[str, Plugin], resume: bool = True) -> list[Finding]:
    """Checks a method, given as `name` or `name[option=value,...]`.

    Args:
        text: The method.
        plugins: Every method.
        resume: Whether to kill a run too, and go on with it.

    Raises:
        ConfigError: If there is no such method.
    """
    selected = select(plugins, text)
    method, prepared = selected.make(), small_task()
    config = small_config(selected, _budget(method.minimum(prepared.task)))
    if reason := method.skip(prepared.task, config.budget):
        return [Finding("runs", False, f"it skips the small task: {reason}")]
    try:
        first = trial(selected, prepared, config)
    except PlanError as error:  # no rule is broken, but there is nothing to look at either
        return [Finding("runs", False, f"{error}; or check it with options that cost less")]
    second = trial(selected, prepared, config)
    blind = trial(selected, other_truth(prepared), config)
    findings = [
        Finding("determinism", first.outcome == second.outcome, "two runs, same weights, policy"),
        *_bill(first, prepared),
        Finding(
            "data wall",
            first.outcome == blind.outcome,
            "permuted test labels, other test images and other true labels change nothing",
        ),
        Finding("RNG hygiene", first.hygienic, "the global generators are where they were"),
    ]
    if resume:
        findings.append(_resume(selected, prepared, config, first))
    if method.declared(selected.config) == "none":
        without = trial(selected, other_val(prepared), config)
        same = first.outcome == without.outcome
        findings.append(Finding("clean labels", same, "permuted validation labels change nothing"))
    if method.learned:
        placebo = "placebo" in type(selected.config).model_fields
        findings.append(Finding("placebo", placebo, "a learned method has the option placebo"))
    return findings


def _budget(minimum: float) -> float:
    least, most = BUDGETS
    return min(max(least, minimum), most)


def _bill(first: Trial, prepared: Prepared) -> list[Finding]:
    """The count against the bill, the budget, and what was booked at the harness's expense."""
    ledger, points = first.stage.meter.ledger, first.stage.observer.curve
    images = len(prepared.task.val) + len(prepared.test)
    task = prepared.task
    network = build(NETWORK, task.classes, task.channels, task.size)
    price = unit_price(network, task.channels, task.size)
    expected, harness = len(points) * images * price, ledger.flops("harness")
    same_network = type(first.fitted.learner.network) is type(network)
    return [
        Finding(
            "bill",
            first.bill_error <= BILL_TOLERANCE,
            f"recorded {first.recorded:,} FLOPs, one counter around the run {first.counted:,} "
            f"({100 * first.bill_error:.3f} % apart, allowed {100 * BILL_TOLERANCE:g} %)"
            + (f"; {first.aside:,} more in timed blocks, by no network" if first.aside else ""),
        ),
        Finding(
            "harness account",
            harness == expected or not same_network,
            f"{harness:,} FLOPs of {len(points)} milestones, expected {expected:,}",
        ),
        Finding(
            "budget",
            ledger.spent <= ledger.budget * (1 + 1e-9),
            f"spent {ledger.spent:.4f} of {ledger.budget:g} RT",
        ),
    ]


class _Killed(BaseException):
    """Stands for a signal."""


@dataclass
class _Cut(Checkpoints):
    """Counts the steps at which a run can be saved; saves it at one, and kills it at the next.

    Attributes:
        at: Number of that step; None for none.
        steps: How many there have been.
    """

    at: int | None = None
    steps: int = 0

    def due(self, now: float) -> bool:
        self.steps += 1
        if self.at is not None and self.steps == self.at + 1:
            raise _Killed
        return self.steps == self.at


def _resume(selected: Selected, prepared: Prepared, config: RunConfig, whole: Trial) -> Finding:
    """Kills a run half-way, goes on from its checkpoint, and holds it against the whole one."""
    run = partial(trial, selected, prepared, config)
    counted = _Cut(write=lambda state: None)
    run(checkpoints=counted)
    if not counted.steps:
        detail = "no loop over session.steps(n), so a killed run begins anew"
        return Finding("resume", True, detail)
    at, owner, entries = (counted.steps + 1) // 2, {"run": "check"}, list[Entry]()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.ckpt"
        cut = _Cut(write=lambda state: write_state(path, owner, state), at=at)
        with suppress(_Killed):
            run(Journal(write=entries.append), cut)
        past, saved = joined(entries, read(path, owner))
    try:
        again = run(Journal(past), Checkpoints(saved=saved))
    except RecordError as error:
        return Finding("resume", False, str(error))
    return Finding(
        "resume",
        again.outcome == whole.outcome,
        f"killed after step {at} of {counted.steps} and gone on from there: same weights, policy",
    )


def small_task() -> Prepared:
    """The digits, distorted, with a recipe of 60 steps."""
    return prepare(
        load("digits"),
        distort=DISTORT,
        network=NETWORK,
        recipe=RECIPE,
        seed=0,
        device=torch.device("cpu"),
    )


def small_config(selected: Selected, budget: float = 2.0) -> RunConfig:
    """A run of the method on the small task."""
    task = TaskConfig(data="digits", distort=DISTORT, network=NETWORK, recipe=RECIPE)
    return RunConfig(suite="check", task=task, method=selected.spec, budget=budget, seed=0)


def trial(
    selected: Selected,
    prepared: Prepared,
    config: RunConfig,
    journal: Journal | None = None,
    checkpoints: Checkpoints | None = None,
) -> Trial:
    """Runs a method once, counting everything."""
    set_ = stage(prepared, config, journal=journal, checkpoints=checkpoints)
    ledger = set_.meter.ledger
    before = _generators()
    with FlopCounter() as counter:
        set_.clock.start()
        fitted = selected.make().run(set_.session)
        set_.clock.stop()
    hygienic = _generators() == before
    ledger.audit()
    recorded = sum(ledger.flops(account) for account in ("run", "rehearsal", "harness"))
    return Trial(set_, fitted, counter.total, counter.aside, recorded, hygienic)


def other_truth(prepared: Prepared) -> Prepared:
    """The same task for the method; another test set and other true labels for the harness."""
    test, distorted = prepared.test, prepared.distorted
    rng = generator("other truth")
    shape = tuple(test.images.shape)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=rng)
    truth = replace(
        distorted,
        flipped=_permuted(distorted.flipped),
        true_labels=_permuted(distorted.true_labels),
    )
    test = replace(test, images=images, labels=_permuted(test.labels))
    return replace(prepared, test=test, distorted=truth)


def other_val(prepared: Prepared) -> Prepared:
    """The same task with permuted validation labels."""
    val = prepared.task.val
    task = replace(prepared.task, val=val.with_labels(_permuted(val.labels)))
    return replace(prepared, task=task)


def _permuted(values: torch.Tensor) -> torch.Tensor:
    return values[torch.randperm(len(values), generator=generator("permuted"))]


def _generators() -> tuple[bytes, str, str]:
    return (
        torch.get_rng_state().numpy().tobytes(),
        repr(np.random.get_state(legacy=False)),
        repr(random.getstate()),
    )
