"""Whether two workers do twice the work of one, and what it costs to schedule a run.

The same runs, of one thread each, are made in this process and in each place with one worker and
with two; in every round all take turns.  A place's efficiency is the time with one worker over
twice the time with two, so 1 if a second core does as much as the first.  Its overhead is what one
worker takes longer than this process, a run: a fork, imports that forks do not share, messages.
Starting a place is left out, for each has run something before: the fork server (of the driver,
and of each worker of Ray) and the cluster, which take some seconds once a campaign.  On a machine
of two cores the driver, and Ray's own processes, share them with the workers.

    python benchmarks/scaling.py [--rounds 3] [--runs 6] [--steps 100] [--places local ray]

Figures, medians over rounds: `local_efficiency`, `local_overhead`, and the same of `ray` where
that is installed.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bench import drive
from bench.cli.common import plugins
from bench.executors import Executor
from bench.executors.local import LocalProcesses
from bench.request import Request
from bench.worker import Done, Job, make

WORKERS = (1, 2)


def jobs_of(runs: int, steps: int, results: Path) -> list[Job]:
    """Trainings without augmentation on the digits, a seed each."""
    request = Request(
        suite=None, data="digits", methods=("none",), distort=(), budgets=("1",), seeds=runs,
        network=None, size=None, steps=steps, name=None, track=None, jobs=None, devices="cpu",
        threads=1, compiled=False, root=None, memory_limit=1 << 30, skip_corrupt=False,
        results=results,
    )  # fmt: skip
    return [replace(job, saving=None) for job in drive.plan(request, plugins(None)).jobs]


def place_of(name: str, workers: int) -> Executor:
    """So many workers in a place."""
    if name == "local":
        return LocalProcesses([None] * workers)
    from bench.executors.ray import RayCluster

    return RayCluster(limit=workers)


def here(jobs: list[Job]) -> None:
    """Runs jobs one after another in this process."""
    for job in jobs:
        check(make(job, lambda message: None))


def there(name: str, workers: int, jobs: list[Job]) -> None:
    """Runs jobs in a place."""
    for _, event in place_of(name, workers).run(jobs):
        if isinstance(event, Done):
            check(event)


def check(done: Done) -> None:
    """Holds that a run has succeeded: the time of another is none."""
    assert done.record is not None, done.refused
    assert done.record.status == "ok", done.record.failure


def seconds(work: Callable[[], None]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measured(places: list[str], jobs: list[Job], rounds: int) -> dict[str, list[float]]:
    """Figures by name, one value a round."""
    works: dict[tuple[str, int], Callable[[], None]] = {("here", 1): lambda: here(jobs)}
    for name in places:
        for count in WORKERS:
            works[name, count] = lambda name=name, count=count: there(name, count, jobs)
            there(name, count, jobs[:count])  # warm-up
    here(jobs[:1])
    found: dict[str, list[float]] = {}
    for turn in range(rounds):
        order = list(works) if turn % 2 else list(reversed(works))
        times = {key: seconds(works[key]) for key in order}
        print(", ".join(f"{name} × {n}: {times[name, n]:.1f} s" for name, n in works), flush=True)
        for name in places:
            one, two = (times[name, count] for count in WORKERS)
            overhead = (one - times["here", 1]) / len(jobs)
            found.setdefault(f"{name}_efficiency", []).append(one / two / 2)
            found.setdefault(f"{name}_overhead", []).append(overhead)
    return found


def main() -> None:
    """Runs all rounds and prints the figures."""
    known = ["local", "ray"] if find_spec("ray") else ["local"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--places", nargs="+", choices=known, default=known)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "ray" in options.places:
        import ray

        ray.init(num_cpus=max(WORKERS), include_dashboard=False, log_to_driver=False)
    with TemporaryDirectory() as folder:
        jobs = jobs_of(options.runs, options.steps, Path(folder))
        found = measured(options.places, jobs, options.rounds)
    for name, values in found.items():
        unit = "ratio" if "efficiency" in name else "s"
        print(f"figure {name} {statistics.median(values):.3f} {unit}")


if __name__ == "__main__":
    main()
