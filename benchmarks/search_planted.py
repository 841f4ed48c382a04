"""Does each proposer find a planted optimum better than random search, at equal trials?

The objective is a validation error that rises from a known best point, faster where a parameter
is too strong than where it is too weak, and saturates.  Where the best point lies, the seed says,
so that no proposer gains by starting in the middle.  What a proposer is told has the noise of
validation on a thousand images, the same for all proposers at one seed and trial.

`levels`: RandAugment's number (3 levels) and magnitude (31).  `mixed`: both, and four continuous
parameters, of which one decides whether a trial fails and one does not matter.

    python benchmarks/search_planted.py [--seeds 10] [--trials 30] [--spaces levels mixed]

Regret is the error without noise at the point with the least noisy error, less the best point's.

Figures, each for every proposer (NAME, with `_` for `-`): `regret_NAME_SPACE` and `regret_NAME`
(means over seeds; over spaces too), `wins_NAME` (seeds and spaces with less regret than random's),
`propose_seconds_NAME` (mean of an ask and a tell).
"""

import argparse
import statistics
import time
from dataclasses import dataclass

import torch

from baselines._proposers import PROPOSERS
from baselines._space import Dimension, Point, one_of, uniform
from bench.rng import generator

NAMES = ("random", "sobol", "tpe", "gp", "cma-es", "botorch", "ax")
FLOOR, DEPTH, NOISE = 0.1, 0.5, 0.01  # errors: the best, how much worse it gets, deviation
WEAK, STRONG = 0.35, 0.2  # distances, as shares of a range, at which half of it is noticeable
NUMBER = one_of("number", range(1, 4))
MAGNITUDE = one_of("magnitude", range(31))
SPACES = {
    "levels": (NUMBER, MAGNITUDE),
    "mixed": (
        NUMBER,
        MAGNITUDE,
        *(Dimension(name, uniform(0, 1)) for name in ("rate", "momentum", "decay", "idle")),
    ),
}


@dataclass(frozen=True)
class Planted:
    """An objective with a known best point.

    Attributes:
        dimensions: Of its space.
        best: Its best point.
        noise: What is added to the errors, by trial.
    """

    dimensions: tuple[Dimension, ...]
    best: Point
    noise: tuple[float, ...]

    def error(self, point: Point) -> float:
        """Without noise; `FLOOR` at the best point."""
        squares = 0.0
        for dimension, place, best in zip(self.dimensions, point, self.best, strict=True):
            if dimension.name != "idle":
                squares += ((place - best) / (STRONG if place > best else WEAK)) ** 2
        return FLOOR + DEPTH * (1 - 2 ** (-squares / len(self.dimensions)))

    def told(self, point: Point, trial: int) -> float | None:
        """With noise; None where the rate is too large to train at all."""
        names = [dimension.name for dimension in self.dimensions]
        rate = names.index("rate") if "rate" in names else None
        if rate is not None and point[rate] > self.best[rate] + 2 * STRONG:
            return None
        return self.error(point) + self.noise[trial]


def planted(space: str, seed: int, trials: int) -> Planted:
    """A seed's objective; its best point lies a tenth or more inside."""
    dimensions = SPACES[space]
    rng = generator("planted", space, seed)
    places = 0.1 + 0.8 * torch.rand(len(dimensions), dtype=torch.float64, generator=rng)
    pairs = zip(dimensions, places.tolist(), strict=True)
    best = tuple(dimension.centre(place) for dimension, place in pairs)
    noise = NOISE * torch.randn(trials, dtype=torch.float64, generator=rng)
    return Planted(dimensions, best, tuple(noise.tolist()))


def search(name: str, objective: Planted, seed: int) -> tuple[float, float]:
    """Regret of a proposer after all trials, and seconds for an ask and a tell."""
    proposer = PROPOSERS[name](objective.dimensions, generator("proposals", seed))
    found: list[tuple[float, Point]] = []
    spent = 0.0
    for trial in range(len(objective.noise)):
        start = time.perf_counter()
        point = proposer.ask()
        spent += time.perf_counter() - start
        error = objective.told(point, trial)
        if error is not None:
            found.append((error, point))
        start = time.perf_counter()
        proposer.tell(point, error)
        spent += time.perf_counter() - start
    _, chosen = min(found)
    return objective.error(chosen) - FLOOR, spent / len(objective.noise)


def figures(name: str, regrets: dict[tuple[str, str, int], float]) -> list[str]:
    """What there is to say of a proposer's regrets."""
    own = {key[1:]: regret for key, regret in regrets.items() if key[0] == name}
    label, lines = name.replace("-", "_"), []
    for space in dict.fromkeys(space for space, _ in own):
        mean = statistics.fmean(regret for key, regret in own.items() if key[0] == space)
        lines.append(f"regret_{label}_{space} {mean:.4f} error")
    lines.append(f"regret_{label} {statistics.fmean(own.values()):.4f} error")
    if name != "random":
        wins = sum(regret < regrets["random", *key] for key, regret in own.items())
        lines.append(f"wins_{label} {wins} of_{len(own)}_searches")
    return lines


def main() -> None:
    """Every proposer on the same objectives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=list(SPACES))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    regrets: dict[tuple[str, str, int], float] = {}
    lines = []
    for name in NAMES:
        seconds = []
        for space in chosen.spaces:
            for seed in range(chosen.seeds):
                objective = planted(space, seed, chosen.trials)
                regrets[name, space, seed], each = search(name, objective, seed)
                seconds.append(each)
            shown = ", ".join(f"{regrets[name, space, s]:.3f}" for s in range(chosen.seeds))
            print(f"{name} {space}: {shown}", flush=True)
        lines += figures(name, regrets)
        label = name.replace("-", "_")
        lines.append(f"propose_seconds_{label} {statistics.fmean(seconds):.3f} seconds")
    for line in lines:
        print(f"figure {line}")


if __name__ == "__main__":
    main()
