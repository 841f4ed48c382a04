"""HBA's Tables 2 and 6 in small, and what its search is worth: placebos, replays, populations.

    AUGBENCH_DATA=FOLDER python benchmarks/hba_table.py [--run] [--jobs 2]
    AUGBENCH_DATA=FOLDER python benchmarks/hba_table.py --out results/experiments/hba

The runs are rows of the suites `cifar10-jpeg-small` (5,000 images, WRN-10-1, 3 RT, 3 seeds, clean
and with imbalance 10 and label noise 0.1) and `hba-lenet` (LeNet, the same images, clean, 3
seeds), whose records lie under results/; --run computes those that are missing.  All rows of a
suite have one budget, so a strategy that costs more trains for fewer steps.  Errors are the final
weights', on the test set.

Figures, means over seeds: `hba_error_ROW` and `hba_distorted_error_ROW` (first suite, clean and
distorted), `hba_minus_uniform`, `hba_minus_shuffled`, `hba_minus_replayed` (paired, over both
tasks), `hba_regularisers_error_ROW` and `hba_minus_stn` (second suite).

Source: "Hypernetwork-Based Augmentation" (HBA), 2020: Table 2 (validation errors of WRN-28-10,
CIFAR-10, 200 epochs, 5 runs), Tables 4 and 6.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import drive
from bench.atomic import write_text
from bench.cli.common import plugins
from bench.errors import ConfigError, DataError, RecordError
from bench.record import Record
from bench.report.statistics import t_half_width, welch_satterthwaite
from benchmarks._experiment import gather, request, spread, table

ROOT = Path(__file__).resolve().parents[1]
SMALL, LENET = "cifar10-jpeg-small", "hba-lenet"
CLEAN, DISTORTED = "clean", "imbalance=10,noise=0.1"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: What figures call it.
        method: Its specification.
        paper: What the paper has for it, in the order of the table's columns that say so.
    """

    name: str
    method: str
    paper: tuple[str, ...] = ()


HBA = Row("first_bn", "hba", ("2.72", "3.37"))
STRATEGIES = (
    Row("conv_bn", "hba[layers=conv+bn]", ("2.85", "7.74")),
    Row("conv", "hba[layers=conv]", ("2.88", "6.85")),
    Row("bn", "hba[layers=bn]", ("2.74", "4.23")),
    Row("first_conv", "hba[layers=first-conv]", ("2.81", "3.36")),
    HBA,
)
UNIFORM = Row("uniform", "hba[placebo=uniform]")
SHUFFLED = Row("shuffled", "hba[placebo=shuffled]")
REPLAYED = Row("replay", "hba[placebo=replay]")
RETRAINED = Row("retrained", "hba[mode=replay]")
STANDARD = Row("standard", "standard[length=filled]")
CONTROLS = (
    *(HBA, UNIFORM, SHUFFLED, REPLAYED, RETRAINED),
    Row("population", "pbt"),
    *(STANDARD, Row("uniformaugment", "uniformaugment[length=filled]")),
)
STN = Row("stn", "stn", ("0.582", "19.86"))
TUNED = Row("hba", "hba[layers=conv,space=regularisers]", ("0.556", "18.76"))
REGULARISED = (
    Row("none", "none"),
    Row("filled", "standard[length=filled]"),
    Row("grid", "search[proposer=grid,space=regularisers-grid]", ("0.809", "–")),
    Row("random", "search[space=regularisers,trials=25]", ("0.752", "–")),
    STN,
    Row("stn_frozen", "stn[placebo=uniform]"),
    TUNED,
    Row("hba_frozen", "hba[layers=conv,placebo=uniform,space=regularisers]"),
)
NOTES = {
    "strategies": (
        "All strategies have 3 RT, hence the different numbers of steps; the paper trains each "
        "for 200 epochs, and its hours are those.  Its errors are WRN-28-10's on validation "
        "images of CIFAR-10.",
    ),
    "controls": (
        "`uniform`: λ stays at its start; `shuffled`: its gradient is permuted; `replay`: half of "
        "the budget searches, the rest trains a hypernetwork under the mean of λ; `retrained`: "
        "half of the budget searches, the rest trains a plain network under the schedule, as for "
        "the paper's headline numbers; `population`: HBA's Algorithm 1, four networks that share "
        "the budget; the last two train to the end of the budget.",
    ),
    "regularised": (
        "Losses and errors on test images.  `grid`: 5 dropout rates × 5 strengths of "
        "augmentation; `random`: 25 points; the best trains once more, all with equal steps.  "
        "`frozen`: the hyperparameters stay at their start.  `none` and `filled` are plain "
        "trainings of 1 RT and of the whole budget, the latter with crop and flip.",
        "The paper's network is AlexNet (here `alexnet`; LeNet has 5 of its 8 dropouts, so 12 "
        "hyperparameters), on all images and for hundreds of epochs.",
    ),
}


@dataclass(frozen=True)
class Results:
    """Finished records by row and task, those of a cell by seed."""

    records: dict[tuple[str, str], list[Record]]

    def values(self, row: Row, task: str, what: str = "error") -> np.ndarray:
        """Scores by seed; errors in percent."""
        found = [getattr(record.scores, what) for record in self.records[row.name, task]]
        return np.array(found) * (100 if what == "error" else 1)

    def shown(self, row: Row, task: str, what: str = "error", digits: int = 1) -> str:
        """Mean and half-width."""
        values = self.values(row, task, what)
        return spread(float(values.mean()), t_half_width(values), digits=digits)

    def difference(self, row: Row, other: Row, tasks: Sequence[str]) -> tuple[float, float]:
        """Mean over tasks and half-width of a row's error less another's, paired by seed."""
        gaps = [self.values(row, task) - self.values(other, task) for task in tasks]
        effect = welch_satterthwaite(gaps)
        return effect.mean, effect.half

    def against(self, row: Row, other: Row, task: str) -> str:
        """That difference in words, a dash for the other row itself."""
        return (
            "–" if row is other else spread(*self.difference(row, other, (task,)), "+", digits=1)
        )

    def steps(self, row: Row, task: str) -> str:
        """Numbers of steps, of λ's moves too."""
        kept = self.records[row.name, task]
        moves = {record.policy_updates for record in kept}
        steps = "–".join(sorted({str(record.steps) for record in kept}))
        return steps + (f" ({'–'.join(map(str, sorted(moves)))})" if any(moves) else "")


def read(results: Path, suite: str, rows: Sequence[Row], tasks: Sequence[str]) -> Results:
    """The records of a suite's rows.

    Raises:
        RecordError: If some are missing.
    """
    return Results(gather(results, suite, {row.name: row.method for row in rows}, tasks))


def strategies(small: Results) -> str:
    """Table 2: which layers depend on λ."""
    heads = ["layers", "paper: error, %", "hours", "clean, %", "− first BN", "distorted, %"]
    heads += ["− first BN", "steps (of λ)"]
    cells = []
    for row in STRATEGIES:
        line = [f"`{row.name.replace('_', '+' if row.name == 'conv_bn' else '-')}`", *row.paper]
        for task in (CLEAN, DISTORTED):
            line += [small.shown(row, task), small.against(row, HBA, task)]
        cells.append([*line, small.steps(row, CLEAN)])
    return table(heads, cells)


def controls(small: Results) -> str:
    """HBA against its placebos and others."""
    heads = ["row", "method", "clean, %", "− uniform", "distorted, %", "− uniform", "steps (of λ)"]
    cells = []
    for row in CONTROLS:
        line = [f"`{row.name}`", f"`{row.method}`"]
        for task in (CLEAN, DISTORTED):
            line += [small.shown(row, task), small.against(row, UNIFORM, task)]
        cells.append([*line, small.steps(row, CLEAN)])
    return table(heads, cells)


def regularised(lenet: Results) -> str:
    """Table 6: tuning dropout and augmentation."""
    heads = ["row", "method", "paper: loss", "error, %", "loss", "error, %", "− STN"]
    cells = []
    for row in REGULARISED:
        line = [f"`{row.name}`", f"`{row.method}`", *(row.paper or ("–", "–"))]
        line += [lenet.shown(row, CLEAN, "nll", 3), lenet.shown(row, CLEAN)]
        cells.append([*line, lenet.against(row, STN, CLEAN)])
    return table(
        [*heads, "steps (of λ)"],
        [[*cell, lenet.steps(row, CLEAN)] for cell, row in zip(cells, REGULARISED, strict=True)],
    )


def page(small: Results, lenet: Results) -> str:
    """All tables with what one must know to read them."""
    parts = ["# HBA on CIFAR-10 (JPEG), 5,000 images"]
    parts.append("Means over 3 seeds; ± is the half-width of 95 % t; differences are paired.")
    for title, name, body in (
        ("Table 2: which layers depend on λ", "strategies", strategies(small)),
        ("What the search is worth", "controls", controls(small)),
        ("Table 6: regularisation of LeNet", "regularised", regularised(lenet)),
    ):
        parts += [f"## {title}", body, "\n".join(f"- {note}" for note in NOTES[name])]
    return "\n\n".join([*parts, "`python benchmarks/hba_table.py` makes these tables."]) + "\n"


def figures(small: Results, lenet: Results) -> Iterator[str]:
    """Names, values and units."""
    for row in dict.fromkeys((*STRATEGIES, *CONTROLS)):
        yield f"hba_error_{row.name} {small.values(row, CLEAN).mean():.2f} %"
        yield f"hba_distorted_error_{row.name} {small.values(row, DISTORTED).mean():.2f} %"
    for name, other in (("uniform", UNIFORM), ("shuffled", SHUFFLED), ("replayed", REPLAYED)):
        mean, _ = small.difference(HBA, other, (CLEAN, DISTORTED))
        yield f"hba_minus_{name} {mean:.2f} points"
    for row in REGULARISED:
        yield f"hba_regularisers_error_{row.name} {lenet.values(row, CLEAN).mean():.2f} %"
    yield f"hba_minus_stn {lenet.difference(TUNED, STN, (CLEAN,))[0]:.2f} points"


def main() -> None:
    """Runs what is missing if asked to, and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true", help="compute missing runs first")
    parser.add_argument("--jobs", type=int, help="runs at a time [default: one a core]")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write DIR/table.md")
    given = parser.parse_args()
    first = tuple(dict.fromkeys((*STRATEGIES, *CONTROLS)))
    try:
        for suite, rows in ((SMALL, first), (LENET, REGULARISED)) if given.run else ():
            wanted = request(suite, given.results, given.jobs, [row.method for row in rows])
            if not drive.complete(drive.plan(wanted, plugins(None))):
                parser.exit(1, "some runs failed; finished ones are kept\n")
        small = read(given.results, SMALL, first, (CLEAN, DISTORTED))
        lenet = read(given.results, LENET, REGULARISED, (CLEAN,))
    except (ConfigError, DataError, RecordError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    words = page(small, lenet)
    print(words)
    if given.out is not None:
        write_text(given.out / "table.md", words)
    for line in figures(small, lenet):
        print(f"figure {line}")


if __name__ == "__main__":
    main()
