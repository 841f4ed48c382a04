"""Does AutoDO find the labels that were planted wrong?  Its placebos must not.

A fifth of the digits' training labels is replaced by another class.  Loss weights of the wrong
ones should fall, and their soft labels move away from the given class, at best to the true one.
A seed passes if weights and soft labels each tell wrong from right labels with an AUROC above
LEAST, and more soft labels of wrong points end on the true class than those of right points leave
theirs.

    python benchmarks/autodo_planted.py [--seeds 5]

Figures, means over seeds: `planted_mislabel_auroc` (low weights), `planted_label_auroc` (a small
share of the given class), `planted_recovery` (soft labels of wrong points that end on the true
class), `planted_damage` (soft labels of right points that leave it), `planted_passes` (seeds); the
same with `_shuffled`, for hypergradients given to the wrong points.  A λ that is frozen tells
nothing apart by construction: 0.5, 0.5, 0 and 0.
"""

import argparse
from dataclasses import astuple, dataclass, fields

import torch
from sklearn.metrics import roc_auc_score

from bench.data.sources import load
from bench.train.prepare import prepare
from bench.train.recipe import Recipe
from benchmarks._session import session_of
from methods._points import Tables, loss_weights
from methods.autodo import Autodo, AutodoConfig, Phases

LEAST = 0.75  # AUROC; seen: placebos 0.49 to 0.55, AutoDO 0.95 to 0.98
BUDGET = 6.0  # RT
NOISE = "noise-sym=0.2"
RECIPE = Recipe(steps=600, batch_size=128, lr=0.05, warmup=0.05)


@dataclass(frozen=True)
class Separation:
    """How λ tells wrong from right labels; all in [0, 1]."""

    mislabel_auroc: float
    label_auroc: float
    recovery: float
    damage: float

    @property
    def passes(self) -> bool:
        """Whether both tables know which labels are wrong."""
        least = min(self.mislabel_auroc, self.label_auroc)
        return least > LEAST and self.recovery > self.damage


def separation(seed: int, config: AutodoConfig, budget: float = BUDGET) -> Separation:
    """Trains once, and looks at λ with the true labels."""
    prepared = prepare(
        load("digits"),
        distort=NOISE,
        network="small-cnn",
        recipe=RECIPE,
        seed=seed,
        device=torch.device("cpu"),
    )
    session = session_of(Autodo, config, prepared, budget, seed)
    method = Autodo(config)
    tables = method.tables(prepared.task)
    Phases(method, session, method.learner(session), tables).train()
    truth = prepared.distorted
    return compared(tables, truth.flipped, truth.labels, truth.true_labels)


def compared(
    tables: Tables, flipped: torch.Tensor, given: torch.Tensor, true: torch.Tensor
) -> Separation:
    """λ against the truth."""
    assert tables.weights is not None
    assert tables.labels is not None
    kept = tables.labels.softmax(1).gather(1, given[:, None])[:, 0]
    place = tables.labels.argmax(1)
    return Separation(
        float(roc_auc_score(flipped, -loss_weights(tables.weights))),
        float(roc_auc_score(flipped, -kept)),
        float((place == true)[flipped].double().mean()),
        float((place != given)[~flipped].double().mean()),
    )


def main() -> None:
    """Runs AutoDO and its placebos on the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    lines = []
    for ending, placebo in (("", None), ("_shuffled", "shuffled")):
        found = []
        for seed in seeds:
            found.append(separation(seed, AutodoConfig(placebo=placebo)))
            print(f"{placebo or 'autodo'} seed {seed}: {found[-1]}", flush=True)
        columns = zip(*map(astuple, found), strict=True)
        for field, column in zip(fields(Separation), columns, strict=True):
            lines.append(f"planted_{field.name}{ending} {sum(column) / len(column):.3f} share")
        passed = sum(each.passes for each in found)
        lines.append(f"planted_passes{ending} {passed} of_{len(seeds)}_seeds")
    for line in lines:
        print(f"figure {line}")


if __name__ == "__main__":
    main()
