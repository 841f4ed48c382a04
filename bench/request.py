"""The options of `augbench run`, and the suite and slots that they ask for."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench import progress
from bench.config import Suite, load_suite, validated
from bench.errors import ConfigError
from bench.executors.devices import visible
from bench.runner import DataOptions

DEFAULT_METHODS = (
    "none", "none[length=filled]", "standard", "standard[length=filled]",
    "cutout", "cutout[length=filled]",
)  # fmt: skip
DEFAULT_EPOCHS = 30
OPTIONS: dict[str, tuple[str, ...]] = {
    "local": ("jobs", "devices", "per_device"),
    "ray": ("jobs", "address", "gpus"),
    "slurm": ("jobs", "partition", "minutes", "gpus"),
}
"""Executors, and those of their options that others do not all have."""
MOST_JOBS = 4096
SPELT = {"per_device": "per-device", "minutes": "time"}


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
    checkpoint_minutes: float = 5.0
    executor: str = "local"
    per_device: int | None = None
    address: str | None = None
    gpus: float | None = None
    partition: str | None = None
    minutes: int | None = None


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
    shared = (request.per_device or 1) > 1 or (request.gpus or 1) % 1
    if suite.track == "gpu" and shared:
        raise ConfigError(
            "--track gpu takes a device alone: --per-device and a part of --gpus are for portable"
        )
    return suite


def _own_suite(request: Request, data: DataOptions) -> Suite:
    """A suite for `--data`, with defaults that suit the data's size."""
    assert request.data is not None
    with progress.decoding() as report:
        source = data.source(request.data, request.size, report)
    side = source.train.images.shape[-1]
    batch = 128 if len(source.train) >= 4096 else 64
    steps = request.steps or max(100, DEFAULT_EPOCHS * len(source.train) // batch)
    task = {
        "data": request.data,
        "distort": list(request.distort) or ["clean"],
        "network": request.network or ("small-cnn" if side < 32 else "wrn-16-1"),
        "size": request.size,
        "recipe": {"steps": steps, "batch_size": batch, "warmup": 0.05},
    }
    name = request.name or re.sub(r"[^A-Za-z0-9._-]+", "-", source.name)[:100]
    content = {"name": name, "budgets": [3.0], "seeds": 3, "methods": list(DEFAULT_METHODS)}
    return validated(Suite, content | {"tasks": [task]}, "run")


def _budget(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)(?:rt)?", text.strip().lower())
    if not match or float(match[1]) <= 0:
        raise ConfigError(f"--budget {text!r}: write a positive number of RT, e.g. 3rt")
    return float(match[1])


def slots_of(request: Request) -> tuple[list[str | None], Literal["cpu", "cuda"]]:
    """Where runs go: CUDA devices by name, or cores; elsewhere, how many go on at a time.

    Raises:
        ConfigError: If an option is wrong, or another executor's.
    """
    for name in ("jobs", "per_device", "threads"):
        if (getattr(request, name) or 0) > MOST_JOBS:
            raise ConfigError(f"--{SPELT.get(name, name)}: at most {MOST_JOBS}")
    if request.executor not in OPTIONS:
        known = ", ".join(OPTIONS)
        raise ConfigError(f"--executor {request.executor!r}: the executors are {known}")
    for field in sorted({name for names in OPTIONS.values() for name in names}):
        if getattr(request, field) is not None and field not in OPTIONS[request.executor]:
            owners = " or ".join(name for name, names in OPTIONS.items() if field in names)
            option = SPELT.get(field, field)
            raise ConfigError(f"--{option} is for --executor {owners}, not {request.executor}")
    if request.executor == "local":
        return _local_slots(request)
    return [None] * (request.jobs or 1), "cuda" if request.gpus else "cpu"


def _local_slots(request: Request) -> tuple[list[str | None], Literal["cpu", "cuda"]]:
    names = visible()
    if request.devices == "cpu" or (request.devices is None and not names):
        if request.per_device is not None:
            raise ConfigError("--per-device is for CUDA devices; --jobs is for the CPU")
        return [None] * (request.jobs or max(1, _cores() // request.threads)), "cpu"
    if request.jobs is not None:
        raise ConfigError("--jobs is for the CPU; --per-device is for CUDA devices")
    wanted = [str(i) for i in range(len(names))]
    if request.devices is not None:
        wanted = request.devices.split(",")
    for device in wanted:
        if not device.isdecimal() or int(device) >= len(names):
            raise ConfigError(
                f"--devices {request.devices!r}: {device!r} is not one of this machine's "
                f"{len(names)} CUDA devices (numbers from 0), nor cpu"
            )
    # A worker sees one device; which one, counts from those that this process may see.
    slots: list[str | None] = [names[int(device)] for device in wanted]
    return slots * (request.per_device or 1), "cuda"


def _cores() -> int:
    """Cores that this process may use, where the system can tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
