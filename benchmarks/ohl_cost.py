"""What OHL's trajectories cost: N copies stacked in one program or one after the other.

    python benchmarks/ohl_cost.py [--rounds 5] [--networks wrn-16-1,small-cnn]

Everything goes through `methods.ohl.Periods` in a session on random uint8 images (WRN: 32×32,
batches of 64, on a CUDA device 128; small-cnn: 8×8, batches of 8 and of 64), so draws, images and
counts are in it.  `step` is one step of all copies; `check` the end of a period: their accuracies
on 512 validation images, the update, the broadcast.  Variants take turns; a ratio is the median
over rounds.  On a CPU times are the CPU time of one thread, on a CUDA device wall time around
synchronisations.

Figures, of the first network: `ohl_stacked_vs_sequential` (time of a step with N = 8),
`ohl_step_ratio_n1`, `_n4`, `_n8` (a step, run as the method chooses to on this device, over one
step of `fit`), `ohl_period_ratio_n8` (a period of 20 steps with its check over 20 steps of `fit`).
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch

from bench.data.arrays import Arrays
from bench.train.loops import training_step
from bench.train.prepare import Prepared
from bench.train.task import Task, standard
from benchmarks._session import CUDA, in_turns, session_of
from benchmarks.harness_overhead import task_of
from methods.ohl import Ohl, OhlConfig, Periods

COPIES = (1, 4, 8)
INTERVAL = 20
# Network, channels, side, batch.
CASES = {
    "wrn-16-1": [("wrn-16-1", 3, 32, 128 if CUDA else 64)],
    "wrn-16-2": [("wrn-16-2", 3, 32, 128 if CUDA else 64)],
    "small-cnn": [("small-cnn", 1, 8, 8), ("small-cnn", 1, 8, 64)],
}


def small_val(task: Task) -> Task:
    """The task with 512 validation images."""
    some = Arrays(task.val.images[:512], task.val.labels[:512])
    return replace(task, val=some)


def variants(task: Task) -> dict[str, Callable[[], object]]:
    """What takes turns, by name."""
    found: dict[str, Callable[[], object]] = {}
    prepared = Prepared(task, task.val, None)  # type: ignore[arg-type]
    plain = session_of(Ohl, OhlConfig(), prepared)
    learner, batches = plain.learner(), plain.batches("train")
    policy = standard(task)
    found["fit"] = lambda: training_step(plain, learner, policy, batches, 0.0)
    for copies in COPIES:
        for stacked in (False, True):
            # One copy has nothing to learn from.
            placebo = "uniform" if copies == 1 else None
            config = OhlConfig(copies=copies, interval=INTERVAL, stacked=stacked, placebo=placebo)
            session = session_of(Ohl, config, prepared)
            own = session.learner()
            periods = Periods(session, own, Ohl(config)._start(task), config)
            name = f"{'stacked' if stacked else 'sequential'} {copies}"
            found[f"{name} step"] = lambda periods=periods: periods.step(0.0)
            found[f"{name} check"] = periods.finish
    return found


def measure(task: Task, rounds: int, times: int) -> dict[str, float]:
    """Median seconds of every variant; they take turns."""
    found = in_turns(variants(task), rounds, times)
    return {name: statistics.median(values) for name, values in found.items()}


def figures(found: dict[str, float]) -> dict[str, float]:
    """The ratios."""
    chosen, fit = ("stacked" if CUDA else "sequential"), found["fit"]
    ratios = {
        "ohl_stacked_vs_sequential": found["stacked 8 step"] / found["sequential 8 step"],
        **{f"ohl_step_ratio_n{n}": found[f"{chosen} {n} step"] / fit for n in COPIES},
    }
    period = INTERVAL * found[f"{chosen} 8 step"] + found[f"{chosen} 8 check"]
    return ratios | {"ohl_period_ratio_n8": period / (INTERVAL * fit)}


def main() -> None:
    """Measures all cases; the figures are the first one's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", default="wrn-16-1,small-cnn")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    first: dict[str, float] = {}
    for network in chosen.networks.split(","):
        for name, channels, size, batch in CASES[network]:
            task = small_val(task_of(name, channels, size, batch, 1))
            found = measure(task, chosen.rounds, 20 if network == "small-cnn" or CUDA else 1)
            ratios = figures(found)
            first = first or ratios
            print(f"{name}, batch {batch}")
            for label, value in found.items():
                print(f"  {label:20} {1000 * value:9.2f} ms  {value / found['fit']:6.2f} × fit")
            for label, value in ratios.items():
                print(f"  {label} {value:.3f}", flush=True)
    for label, value in first.items():
        print(f"figure {label} {value:.4f} ratio")


if __name__ == "__main__":
    main()
