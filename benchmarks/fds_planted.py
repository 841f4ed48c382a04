"""Does FDS find the learning rate from 30 times too small, and from 30 times too large?

Softmax regression on 115 digits of which four in five have a wrong label: too long a training
learns the labels, too short a one nothing, so that the best rate lies far below the edge of
stability.  The rate has two windows; both start 30 times too small, or 30 times too large.  A
seed passes if from either the last training's validation loss comes within `MARGIN` of the best
constant rate's (of `GRID`, same seed).  One window each (`mixed`) is reported beside.

`placebo=shuffled` hands the hypergradients of rates, momentum and decay to one another.  Where all
of them have one sign, as from rates that are too small, it does as well as FDS.

    python benchmarks/fds_planted.py [--seeds 5]

Beyond the edge of stability nothing is found: with the digits' true labels the best rate of the
same network lies near it, and from 30 times that trainings are chaotic, and so are their
hypergradients.  `--edge` shows it.

Figures, means over seeds: `planted_excess_small`, `_large`, `_mixed` (validation loss less the
best constant rate's, nats), `planted_start_small`, `_large` (the same for a training at the
start), `planted_passes` (seeds); excesses and passes with `_shuffled` too; `planted_edge_excess`
(from 30 times the best rate on true labels, only with --edge).
"""

import argparse
import math
import statistics
from dataclasses import replace

import torch
from torch import nn

from bench.data.sources import load
from bench.train.prepare import Prepared, prepare
from bench.train.recipe import Recipe
from benchmarks._session import session_of
from methods.fds import Fds, FdsConfig, Search

STEPS = 200
RECIPE = Recipe(steps=STEPS, batch_size=64, lr=0.03)
GRID = (0.003, 0.01, 0.03, 0.1, 0.3)
BEST = 0.03  # of GRID, for most seeds
FACTOR = 30
STARTS = {
    "small": (BEST / FACTOR, BEST / FACTOR),
    "large": (BEST * FACTOR, BEST * FACTOR),
    "mixed": (BEST / FACTOR, BEST * FACTOR),
}
OPTIONS = {"rates": 2, "rate_step": 0.1, "momentum_step": 0.0, "decay_step": 0.0, "outer": 14}
MARGIN = 0.1  # nats; where everything starts is 0.2 to 0.5 above the best
PLANTED = "subsample=0.1,noise-sym=0.8"


def prepared_of(seed: int, distort: str) -> Prepared:
    """The digits, with softmax regression for a network."""
    given = prepare(
        load("digits"),
        distort=distort,
        network="small-cnn",
        recipe=RECIPE,
        seed=seed,
        device=torch.device("cpu"),
    )
    task = given.task
    pixels = task.channels * task.size**2

    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, task.classes))

    return replace(given, task=replace(task, network=network))


def loss_after(
    prepared: Prepared, config: FdsConfig, rates: tuple[float, ...], seed: int
) -> float:
    """Validation loss of the last training; `outer` trainings with derivatives come before."""
    search = Search(session_of(Fds, config, prepared, seed=seed), config)
    search.schedule.values[: len(rates)] = torch.tensor(rates, dtype=torch.float64)
    if config.outer > 1:
        for number in range(config.outer):
            if number:
                search._fresh()
            search.trial(STEPS)
    for done in range(STEPS):
        search.train(done / STEPS)
    found = search.session.validate(search.learner).nll
    return found if math.isfinite(found) else math.inf


def plain(prepared: Prepared, rate: float, seed: int) -> float:
    """Validation loss of one training at a constant rate."""
    return loss_after(prepared, FdsConfig(rates=2, outer=1), (rate, rate), seed)


def excesses(seed: int, placebo: str | None) -> dict[str, float]:
    """Validation loss from each start, less the best constant rate's."""
    prepared = prepared_of(seed, PLANTED)
    best = min(plain(prepared, rate, seed) for rate in GRID)
    config = FdsConfig(**OPTIONS, placebo=placebo)  # type: ignore[arg-type]
    found = {
        name: loss_after(prepared, config, rates, seed) - best for name, rates in STARTS.items()
    }
    for name in ("small", "large"):
        found[f"start_{name}"] = plain(prepared, STARTS[name][0], seed) - best
    return found


def edge(seed: int) -> float:
    """Excess from 30 times the best rate where that lies near the edge of stability."""
    prepared = prepared_of(seed, "clean")
    losses = {rate: plain(prepared, rate, seed) for rate in (0.1, 0.3, 1.0)}
    best = min(losses, key=lambda rate: losses[rate])
    config = FdsConfig(**(OPTIONS | {"rate_step": best / BEST * 0.1}))  # type: ignore[arg-type]
    start = (FACTOR * best, FACTOR * best)
    return loss_after(prepared, config, start, seed) - losses[best]


def main() -> None:
    """Runs FDS and its placebo on the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--edge", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for ending, placebo in (("", None), ("_shuffled", "shuffled")):
        found = []
        for seed in range(chosen.seeds):
            found.append(excesses(seed, placebo))
            numbers = ", ".join(f"{name} {value:.3f}" for name, value in found[-1].items())
            print(f"{placebo or 'fds'} seed {seed}: {numbers}", flush=True)
        for name in found[0]:
            if not (placebo and name.startswith("start")):
                mean = statistics.fmean(each[name] for each in found)
                what = name if name.startswith("start") else f"excess_{name}"
                lines.append(f"planted_{what}{ending} {mean:.3f} nats")
        passed = sum(max(each["small"], each["large"]) <= MARGIN for each in found)
        lines.append(f"planted_passes{ending} {passed} of_{chosen.seeds}_seeds")
    if chosen.edge:
        mean = statistics.fmean(edge(seed) for seed in range(chosen.seeds))
        lines.append(f"planted_edge_excess {mean:.3f} nats")
    for line in lines:
        print(f"figure {line}")


if __name__ == "__main__":
    main()
