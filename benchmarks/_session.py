"""What benchmarks of methods share: a session of their own, and variants that take turns."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.check import small_config
from bench.method import Method, MethodConfig
from bench.plugins import Plugin, Selected
from bench.stage import stage
from bench.train.prepare import Prepared
from bench.train.session import Session

CUDA = torch.cuda.is_available()
Works = dict[str, Callable[[], object]]


def session_of(
    kind: type[Method],
    config: MethodConfig,
    prepared: Prepared,
    budget: float = 1e6,
    seed: int = 0,
) -> Session:
    """A session in which a method's parts can be run; nobody looks at its milestones."""
    selected = Selected(Plugin(kind, Path(__file__), ""), config, kind.name, None)
    run = small_config(selected, budget).model_copy(update={"seed": seed})
    session = stage(prepared, run).session
    session._observe = None
    return session


def in_turns(works: Works, rounds: int, times: int) -> dict[str, list[float]]:
    """Seconds of one call of each work in every round, after a first call; they take turns."""
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds):
        names = list(works) if turn % 2 else list(reversed(works))
        for name in names:
            found[name].append(seconds(works[name], times))
    return found


def seconds(work: Callable[[], object], times: int) -> float:
    """Seconds of one call, the mean of several: of the CPU, or on a CUDA device of the clock."""
    clock = time.perf_counter if CUDA else time.process_time
    if CUDA:
        torch.cuda.synchronize()
    began = clock()
    for _ in range(times):
        work()
    if CUDA:
        torch.cuda.synchronize()
    return (clock() - began) / times
