"""Does GAR find the operation that was planted to hurt?  Its shuffled placebo must not.

The space has `blackout`, which turns an image black, its twin `harmless`, which does nothing, and
two ordinary operations.  A seed passes if blackout's keep-probability ends below SHARE of its
twin's.  Digits, batches of 256, a few seconds a run.

    python benchmarks/gar_planted.py [--seeds 5]

Figures: `planted_blackout`, `planted_harmless` (means over seeds of the final probabilities),
`planted_passes` (seeds); the same with `_shuffled`.
"""

import argparse

import torch

from bench.augment.learnable import OpsAndLevels
from bench.augment.space import Entry, Space
from bench.data.sources import load
from bench.train.prepare import prepare
from bench.train.recipe import Recipe
from bench.train.task import fill
from benchmarks._session import session_of
from methods.gar import Gar, GarConfig, Pairs

SHARE = 0.25
BUDGET = 2.0
SPACE = Space(
    "planted",
    (
        Entry("brightness", -1.0, -1.0, name="blackout"),
        Entry("brightness", 0.0, 0.0, name="harmless"),
        Entry("rotate", 0.0, 30.0),
        Entry("contrast", 0.0, 0.5),
    ),
    top=30.0,
    signed=True,
    source="this experiment",
)


def keeps(seed: int, config: GarConfig) -> tuple[float, float]:
    """Trains once; final keep-probabilities of blackout and of its harmless twin."""
    prepared = prepare(
        load("digits"),
        distort="clean",
        network="small-cnn",
        recipe=Recipe(steps=100, batch_size=256, lr=0.1, warmup=0.05),
        seed=seed,
        device=torch.device("cpu"),
    )
    session = session_of(Gar, config, prepared, BUDGET, seed)
    policy = OpsAndLevels(SPACE, fill(prepared.task), longest=config.longest)
    Pairs(session, session.learner(), policy, config).train()
    blackout, harmless = policy.keeps.detach().sigmoid()[:2].tolist()
    return blackout, harmless


def passes(found: tuple[float, float]) -> bool:
    """Whether the destroyer's probability is well below its twin's."""
    blackout, harmless = found
    return blackout < SHARE * harmless


def main() -> None:
    """Runs GAR and its placebo on the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    found = {}
    for placebo in (None, "shuffled"):
        found[placebo] = [keeps(seed, GarConfig(longest=2, placebo=placebo)) for seed in seeds]
        for seed, (blackout, harmless) in zip(seeds, found[placebo], strict=True):
            print(f"{placebo or 'gar'} seed {seed}: {blackout:.3f} against {harmless:.3f}")
    for placebo, values in found.items():
        ending = f"_{placebo}" if placebo else ""
        for name, column in zip(("blackout", "harmless"), zip(*values, strict=True), strict=True):
            print(f"figure planted_{name}{ending} {sum(column) / len(column):.4f} probability")
        print(f"figure planted_passes{ending} {sum(map(passes, values))} of_{len(seeds)}_seeds")


if __name__ == "__main__":
    main()
