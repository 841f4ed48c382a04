"""Does OHL find the operation that was planted to hurt?  Its shuffled placebo must not.

The images are digits, half of them inverted, and the classes say which: 20 of them.  The space has
`invert`, which makes an image look like another class's, its twin `harmless`, which does nothing,
and two ordinary operations.  A seed passes if the probability that an image's first operation is
`invert` ends below BAND; noise alone leaves the probabilities of all operations, in placebos of 5
seeds, between 0.19 and 0.32; uniform is 0.25.

    python benchmarks/ohl_planted.py [--seeds 5]

Figures: `planted_invert`, `planted_harmless` (means over seeds of the final marginals),
`planted_passes` (seeds); the same with `_shuffled`, and `planted_lowest_shuffled`.
"""

import argparse
from dataclasses import replace

import torch

from bench.augment.learnable import Categorical, pairs
from bench.augment.space import Entry, Space
from bench.data.arrays import Arrays
from bench.data.sources import Source, load
from bench.rng import generator
from bench.train.prepare import prepare
from bench.train.recipe import Recipe
from bench.train.task import fill
from benchmarks._session import session_of
from methods.ohl import Ohl, OhlConfig, Periods

BAND = 0.18
BUDGET = 12.0  # RT
SPACE = Space(
    "planted",
    (
        Entry("invert"),
        Entry("brightness", 0.0, 0.0, name="harmless"),
        Entry("rotate", 0.0, 30.0),
        Entry("contrast", 0.0, 0.5),
    ),
    top=30.0,
    signed=True,
    source="this experiment",
)


def polarised(arrays: Arrays, name: str) -> Arrays:
    """Digits of which about half are inverted and then belong to classes 10 to 19."""
    inverted = torch.rand(len(arrays), generator=generator("polarity", name)) < 0.5
    images = torch.where(inverted[:, None, None, None], 255 - arrays.images, arrays.images)
    return Arrays(images, arrays.labels + 10 * inverted)


def source() -> Source:
    """The digits with their polarity as part of the class."""
    digits = load("digits")
    return replace(
        digits,
        name="digits-polarity",
        classes=tuple(f"{sign}{name}" for sign in "+-" for name in digits.classes),
        train=polarised(digits.train, "train"),
        test=polarised(digits.test, "test"),
    )


def marginals(seed: int, config: OhlConfig, budget: float = BUDGET) -> list[float]:
    """Trains once; the final probability that an image's first operation is each of the four."""
    prepared = prepare(
        source(),
        distort="clean",
        network="small-cnn",
        recipe=Recipe(steps=1000, batch_size=16, lr=0.05, warmup=0.05),
        seed=seed,
        device=torch.device("cpu"),
    )
    session = session_of(Ohl, config, prepared, budget, seed)
    policy = Categorical(
        SPACE, fill(prepared.task), elements=pairs(SPACE), weigh="sigmoid", level=15.0
    )
    Periods(session, session.learner(), policy, config).train()
    found: list[float] = policy.marginals().tolist()
    return found


def passes(found: list[float]) -> bool:
    """Whether the destroyer's probability is below what noise does."""
    return found[0] < BAND


def main() -> None:
    """Runs OHL and its placebo on the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    lines = []
    for placebo in (None, "shuffled"):
        config = OhlConfig(interval=4, placebo=placebo)
        ending = f"_{placebo}" if placebo else ""
        values = []
        for seed in seeds:
            values.append(marginals(seed, config))
            shown = ", ".join(f"{value:.3f}" for value in values[-1])
            print(f"{placebo or 'ohl'} seed {seed}: {shown}", flush=True)
        for name, column in zip(("invert", "harmless"), zip(*values, strict=True), strict=False):
            lines.append(f"planted_{name}{ending} {sum(column) / len(column):.4f} probability")
        lines.append(f"planted_passes{ending} {sum(map(passes, values))} of_{len(seeds)}_seeds")
    lines.append(f"planted_lowest_shuffled {min(map(min, values)):.4f} probability")
    for line in lines:
        print(f"figure {line}")


if __name__ == "__main__":
    main()
