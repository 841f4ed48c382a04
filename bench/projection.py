"""What a campaign would cost before it runs: RT, FLOPs, time, disk, and what it would not show.

FLOPs of 1 RT are exact: one step is counted, and all steps are alike.  Its seconds are measured on
this machine where that can be done.  A data set that is known only by its published sizes, on a
machine without a CUDA device, gets seconds from its FLOPs and an `Assumption`, which is printed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bench.config import RunConfig
from bench.data.sources import canonical
from bench.drive import Campaign, prepared
from bench.method import FixedPolicy, Method
from bench.outline import Step, count, outline, outlined
from bench.plugins import Plugin, select
from bench.train.reference import reference_price
from bench.train.task import Task
from bench.worker import Job

TIMED_STEPS = 5
RECORD_BYTES = 50_000  # 10 kB of a fixed policy to 200 kB with a long trace, in committed records
WARPS = 7  # of which a run may learn a probability and a strength for each image


@dataclass(frozen=True)
class Assumption:
    """How fast a device is said to be; the defaults are for one H200.

    A step takes as long as its FLOPs or as launching its operations, whichever is longer: small
    networks wait for the host, not for the device.

    Attributes:
        tflops: Sustained TFLOP/s.
        launch: Seconds of the host for each operation of a step, forward or backward.
    """

    tflops: float = 100.0
    launch: float = 25e-6

    def seconds(self, step: Step) -> float:
        """How long a step takes."""
        return max(step.flops / (1e12 * self.tflops), step.operations * self.launch)

    def __str__(self) -> str:
        share = self.tflops / 989
        return (
            f"{self.tflops:g} TFLOP/s sustained ({share:.0%} of an H200's dense bfloat16 peak of "
            f"989), but no step faster than {1e6 * self.launch:g} µs for each of its operations"
        )


@dataclass(frozen=True)
class Estimate:
    """What the runs of one task cost.

    Attributes:
        data: The data set.
        label: The task.
        runs: How many are left.
        rt: What they cost in RT, at most.
        flops: Of 1 RT.
        seconds: Of 1 RT.
        assumed: Whether the seconds follow from an assumption, rather than from steps timed here.
        cache: Bytes of decoded images on disk; 0 where they are held in memory.
        table: Bytes that a run leaves if it learns a weight, a label and warps for each image.
        minimums: Smallest faithful budget of each method, in RT.
        skips: Why a method does not run, by method.
    """

    data: str
    label: str
    runs: int
    rt: float
    flops: int
    seconds: float
    assumed: bool
    cache: int
    table: int
    minimums: dict[str, float]
    skips: dict[str, str]

    @property
    def total(self) -> float:
        """Seconds of one device for all runs."""
        return self.rt * self.seconds

    def __str__(self) -> str:
        return (
            f"{self.label}: {self.runs} runs, at most {self.rt:g} RT of "
            f"{self.flops / 1e12:.4g} TFLOP or {self.seconds:.3g} s"
            f"{' (assumed)' if self.assumed else ''}"
        )


def projection(
    campaign: Campaign, plugins: dict[str, Plugin], assumption: Assumption | None = None
) -> str:
    """What a campaign would cost: runs, RT, device time and disk, as lines of text.

    Args:
        campaign: What is left to do, and where.
        plugins: Every method.
        assumption: How fast the device is.  By default an H200's speed is assumed, and only where
            no steps can be timed on this machine.
    """
    found = estimates(campaign, plugins, assumption)
    done, left, slots = len(campaign.finished), len(campaign.jobs), len(campaign.slots)
    return "\n".join(
        [
            *map(str, found),
            f"{done + left} runs, {done} of them finished; {left} to run, {slots} at a time",
            *_unfaithful(found, max(campaign.suite.budgets)),
            *_disk(found, left),
            *_time(found, slots, assumption or Assumption()),
        ]
    )


def estimates(
    campaign: Campaign, plugins: dict[str, Plugin], assumption: Assumption | None = None
) -> list[Estimate]:
    """What the runs of each task cost; see `projection`."""
    tasks: dict[str, list[Job]] = {}
    for job in campaign.jobs:
        tasks.setdefault(job.config.task.model_dump_json(), []).append(job)
    surveyor = _Surveyor(campaign.device, plugins, assumption)
    return [surveyor.estimate(jobs) for jobs in tasks.values()]


def cost(method: Method, minimum: float, budget: float) -> float:
    """RT of a run, at most: a fixed policy of natural length leaves most of a budget."""
    config: Any = method.config
    if isinstance(method, FixedPolicy) and config.length == "natural":
        return min(budget, max(1.0, minimum))
    return budget


@dataclass(frozen=True)
class _Subject:
    """A task, as far as it is known.

    Attributes:
        task: Of the right lengths.
        asked: Gives a task for methods that ask whether they can work with its network.
        timed: Gives a task whose steps can be timed; None where there is no such device.
        cache: Bytes of decoded images on disk.
    """

    task: Task
    asked: Callable[[], Task]
    timed: Callable[[], Task] | None
    cache: int


def _subject(job: Job, device: str) -> _Subject:
    config = job.config.task
    cuda = device == "cuda" and torch.cuda.is_available()
    if not outlined(config.data):
        task = prepared(job.config, job.data, "cuda" if cuda else "cpu").task
        cache = task.train.images.numel() if task.train.mapped else 0
        return _Subject(
            task, lambda: task, (lambda: task) if cuda or device == "cpu" else None, cache
        )
    known = outline(config, job.config.seed)
    cache = known.pixels if known.pixels > job.data.memory_limit else 0
    timed = partial(known.task, torch.device("cuda"), most=config.recipe.batch_size)
    return _Subject(known.task(), known.miniature, timed if cuda else None, cache)


class _Surveyor:
    """Asks the tasks and methods of one campaign; an equal question is asked once.

    Args:
        device: Where the campaign runs.
        plugins: Every method.
        assumption: Instead of timing.
    """

    def __init__(
        self, device: str, plugins: dict[str, Plugin], assumption: Assumption | None
    ) -> None:
        self._device = device
        self._plugins = plugins
        self._assumption = assumption
        self._prices: dict[str, tuple[int, float, bool]] = {}
        self._skips: dict[str, str | None] = {}
        self._methods: dict[str, Method] = {}

    def estimate(self, jobs: list[Job]) -> Estimate:
        """What the jobs of one task cost."""
        config, subject = jobs[0].config, _subject(jobs[0], self._device)
        flops, seconds, assumed = self._price(jobs[0], subject)
        specs = dict.fromkeys(job.config.method for job in jobs)
        methods = {spec: self._method(spec) for spec in specs}
        minimums = {spec: method.minimum(subject.task) for spec, method in methods.items()}
        asked = subject.asked()
        skips = {spec: self._skip(config, method, asked) for spec, method in methods.items()}
        going = [job.config for job in jobs if skips[job.config.method] is None]
        task = subject.task
        return Estimate(
            data=config.task.data,
            label=f"{canonical(config.task.data)} · {config.task.distort} · {config.task.network}",
            runs=len(going),
            rt=sum(cost(methods[c.method], minimums[c.method], c.budget) for c in going),
            flops=flops,
            seconds=seconds,
            assumed=assumed,
            cache=subject.cache,
            table=4 * len(task.train) * (1 + task.classes + 2 * WARPS),
            minimums=minimums,
            skips={spec: reason for spec, reason in skips.items() if reason is not None},
        )

    def _method(self, spec: str) -> Method:
        if spec not in self._methods:
            self._methods[spec] = select(self._plugins, spec).make()
        return self._methods[spec]

    def _price(self, job: Job, subject: _Subject) -> tuple[int, float, bool]:
        """FLOPs and seconds of 1 RT, and whether the seconds are assumed."""
        config, recipe = job.config, subject.task.recipe
        batch = min(recipe.batch_size, len(subject.task.train))
        plain = config.task.model_copy(update={"distort": "clean"})  # as dear a step as distorted
        question = f"{plain.model_dump_json()} {batch}"
        if question not in self._prices:
            if self._assumption is None and subject.timed is not None:
                price = reference_price(
                    subject.timed(), timed_steps=TIMED_STEPS, compiled=config.compile
                )
                self._prices[question] = price.flops, price.seconds, False
            else:
                step = count(subject.task)
                seconds = (self._assumption or Assumption()).seconds(step)
                self._prices[question] = step.flops * recipe.steps, seconds * recipe.steps, True
        return self._prices[question]

    def _skip(self, config: RunConfig, method: Method, task: Task) -> str | None:
        """Why a method does not run; neither budgets nor placebos matter to any so far."""
        options = method.config.model_dump(exclude={"placebo"})
        question = f"{config.task.network} {task.channels} {task.size} {method.name} {options}"
        if question not in self._skips:
            self._skips[question] = method.skip(task, config.budget)
        return self._skips[question]


def _unfaithful(found: list[Estimate], budget: float) -> Iterator[str]:
    """What does not run, and what the suite's largest budget is too small for."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for each in found:
        for spec, reason in each.skips.items():
            reasons.setdefault((spec, reason), []).append(each.label)
    for (spec, reason), labels in reasons.items():
        yield f"skipped: {spec} on {labels[0]} and {len(labels) - 1} more: {reason}"
    scaled = below(found, budget)
    if scaled:
        rows = ", ".join(
            f"{spec} ({low:.3g}{f' to {high:.3g}' if high > low else ''} RT)"
            for spec, (low, high) in scaled.items()
        )
        yield f"scaled even at {budget:g} RT, below their smallest faithful budget: {rows}"


def below(found: list[Estimate], budget: float) -> dict[str, tuple[float, float]]:
    """Methods that need more than a budget on some task, and the least and most that they need."""
    needs: dict[str, list[float]] = {}
    for each in found:
        for spec, minimum in each.minimums.items():
            if minimum > budget and spec not in each.skips:
                needs.setdefault(spec, []).append(minimum)
    return {spec: (min(values), max(values)) for spec, values in needs.items()}


def _disk(found: list[Estimate], runs: int) -> Iterator[str]:
    caches = {each.data: each.cache for each in found}
    decoded = sum(caches.values())
    table = max((each.table for each in found), default=0)
    yield (
        f"disk: about {_bytes(runs * RECORD_BYTES)} of records; decoded images "
        f"{_bytes(decoded) if decoded else 'in memory'}; a run that learns of each training image "
        f"leaves up to {_bytes(table)} more"
    )


def _time(found: list[Estimate], slots: int, assumption: Assumption) -> Iterator[str]:
    measured = sum(each.total for each in found if not each.assumed)
    assumed = sum(each.total for each in found if each.assumed)
    if assumed:
        yield (
            f"projected time, assumed and not measured: at most {assumed / 3600:,.1f} GPU-hours"
        )
        yield f"assumed: {assumption}"
        yield (
            "not in it: augmentation, reading images, the harness's evaluations; on the portable "
            "track also that some methods' FLOPs take longer than a plain training's"
        )
    if measured or not assumed:
        yield f"projected time on this machine: at most {measured / slots / 60:.1f} minutes"


def _bytes(count: float) -> str:
    power = min(3, max(1, int(math.log10(max(count, 1)) / 3)))
    return f"{count / 1000**power:.3g} {('kB', 'MB', 'GB')[power - 1]}"
