"""The options of `augbench run`, and the suite and slots that they ask for."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from bench import progress
from bench.config import Suite, SuiteTask, load_suite, validated
from bench.errors import ConfigError
from bench.runner import DataOptions
from bench.train.recipe import Recipe

DEFAULT_METHODS = (
    "none", "none[length=filled]", "standard", "standard[length=filled]",
    "cutout", "cutout[length=filled]",
)  # fmt: skip
DEFAULT_EPOCHS = 30


@dataclass(frozen=True)
class Request:
    """The options of `augbench run`."""

    suite: str | None
    data: str | None
    methods: tuple[str, ...]
    distort: tuple[str, ...]
    budgets: tuple[str, ...]
    seeds: int | None
    network: str | None
    size: int | None
    steps: int | None
    name: str | None
    track: str | None
    jobs: int | None
    devices: str | None
    threads: int
    compiled: bool
    root: Path | None
    memory_limit: int
    skip_corrupt: bool
    results: Path
    keep_features: bool = False
    dry_run: bool = False


def suite_of(request: Request, data: DataOptions, device: str) -> Suite:
    """The suite that a request means: a named one with changes, or one for `--data`.

    Raises:
        ConfigError, DataError: If an option or the data are wrong, or options contradict.
    """
    if (request.suite is None) == (request.data is None):
        raise ConfigError("run needs either --suite NAME or --data SOURCE")
    own = {"network": request.network, "size": request.size, "steps": request.steps}
    own |= {"name": request.name}
    if request.suite is not None:
        extra = [f"--{name}" for name, value in own.items() if value is not None]
        if extra or request.distort:
            wrong = extra[0] if extra else "--distort"
            raise ConfigError(f"{wrong} goes with --data; a suite fixes its tasks")
        suite = load_suite(request.suite)
    else:
        suite = _own_suite(request, data)
    changes: dict[str, Any] = {}
    if request.methods:
        changes["methods"] = list(request.methods)
    if request.budgets:
        changes["budgets"] = [_budget(text) for text in request.budgets]
    if request.seeds is not None:
        changes["seeds"] = request.seeds
    if request.track is not None:
        changes["track"] = request.track
    suite = validated(Suite, suite.model_dump() | changes, "run")
    if suite.track == "gpu" and device != "cuda" and not request.dry_run:
        raise ConfigError("--track gpu needs a CUDA device; --track portable binds on FLOPs")
    return suite


def _own_suite(request: Request, data: DataOptions) -> Suite:
    """A suite for `--data`, with defaults that suit the data's size."""
    assert request.data is not None
    with progress.decoding() as report:
        source = data.source(request.data, request.size, report)
    side = source.train.images.shape[-1]
    batch = 128 if len(source.train) >= 4096 else 64
    steps = request.steps or max(100, DEFAULT_EPOCHS * len(source.train) // batch)
    task = SuiteTask(
        data=request.data,
        distort=list(request.distort) or ["clean"],
        network=request.network or ("small-cnn" if side < 32 else "wrn-16-1"),
        size=request.size,
        recipe=Recipe(steps=steps, batch_size=batch, warmup=0.05),
    )
    name = request.name or re.sub(r"[^A-Za-z0-9._-]+", "-", source.name)
    content = {"name": name, "budgets": [3.0], "seeds": 3, "methods": list(DEFAULT_METHODS)}
    return validated(Suite, content | {"tasks": [task.model_dump()]}, "run")


def _budget(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:rt)?", text.strip().lower())
    if not match or float(match[1]) <= 0:
        raise ConfigError(f"--budget {text!r}: write a positive number of RT, e.g. 3rt")
    return float(match[1])


def slots_of(request: Request) -> tuple[list[str | None], Literal["cpu", "cuda"]]:
    """Where runs go: CUDA devices one each, or the CPU's cores."""
    have = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if request.devices == "cpu" or (request.devices is None and not have):
        return [None] * (request.jobs or max(1, _cores() // request.threads)), "cpu"
    if request.jobs is not None:
        raise ConfigError("--jobs is for the CPU; on CUDA devices there is one run a device")
    wanted = [str(i) for i in range(have)]
    if request.devices is not None:
        wanted = request.devices.split(",")
    for device in wanted:
        if not device.isdecimal() or int(device) >= have:
            raise ConfigError(
                f"--devices {request.devices!r}: {device!r} is not one of this machine's {have} "
                "CUDA devices (numbers from 0), nor cpu"
            )
    # A worker sees one device; which one, counts from those that this process may see.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(have)]
    return [names[int(device)] for device in wanted], "cuda"


def _cores() -> int:
    """Cores that this process may use, where the system can tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
