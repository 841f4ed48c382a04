"""AutoDO's Table 2 on CIFAR-10 (JPEG): its variants on clean and on distorted data, and controls.

    AUGBENCH_DATA=FOLDER python benchmarks/autodo_table.py [--run] [--jobs 2]
    AUGBENCH_DATA=FOLDER python benchmarks/autodo_table.py --out results/experiments/autodo

The runs are rows of the suite `cifar10-jpeg-small` (5,000 images, WRN-10-1, 3 RT, 3 seeds), whose
records lie under results/; --run computes those that are missing.  Its tasks are the paper's
settings 1-0.0 (clean) and 10-0.1 (imbalance 10, label noise 0.1).  Errors are the final weights',
on the test set; the paper's are the best epoch's on it.  Steps, updates of λ and training errors
stand beside them, because this is a short training: the paper's λ moves for 150 epochs.

Figures, of the distorted setting, means over seeds: `autodo_error_VARIANT`, `autodo_tail_VARIANT`,
`mislabel_auroc`, `label_auroc`, `label_recovery`, `label_damage` (of `aws`), paired differences
`autodo_aws_minus_aw`, `autodo_aw_minus_a`, `autodo_aws_minus_frozen`.

Source: Gudovskiy et al., 2021, Table 2 (WRN-28-10, 200 epochs, 4 runs).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import drive
from bench.atomic import write_text
from bench.cli.common import plugins
from bench.errors import ConfigError, DataError, RecordError
from bench.record import Record
from bench.report.statistics import paired, t_half_width
from benchmarks._experiment import gather, request, spread, table

ROOT = Path(__file__).resolve().parents[1]
SUITE = "cifar10-jpeg-small"
SETTINGS = {"clean": "1-0.0", "imbalance=10,noise=0.1": "10-0.1"}
REFERENCE = "standard[length=filled]"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: What figures call it.
        method: Its specification.
        paper: Test errors (%) of settings 1-0.0 and 10-0.1 in the paper, if it has the row.
    """

    name: str
    method: str
    paper: tuple[float, float] | None = None


ROWS = (
    Row("standard", REFERENCE, (6.0, 22.8)),
    Row("randaugment", "randaugment[length=filled]", (5.2, 17.4)),
    Row("sha", "autodo[variant=sha]", (5.9, 19.4)),
    Row("a", "autodo[variant=a]", (5.2, 16.6)),
    Row("aw", "autodo[variant=aw]", (5.4, 15.1)),
    Row("aws", "autodo", (4.9, 13.1)),
    Row("static", "autodo[variant=static]"),
    Row("darts", "autodo[terms=0]"),
    Row("fast", "autodo[lr=0.5]"),
    Row("frozen", "autodo[placebo=uniform]"),
    Row("shuffled", "autodo[placebo=shuffled]"),
    Row("both", "standard[length=filled,data=train+val]"),
    Row("val", "standard[length=filled,data=val]"),
)
HEADS = (
    *("row", "setting", "test error, %", "paper", "− standard", "tail error, %", "train error, %"),
    *("memorised, %", "steps", "updates of λ", "AUROC weights", "AUROC labels", "recovered, %"),
    "damaged, %",
)
NOTES = (
    "Settings are imbalance-noise.  `− standard` is paired by seed.  `tail`: mean error of the "
    "classes that the imbalance made rare (of the worst third on clean data).  `memorised`: "
    "share of the wrongly labelled training images that are predicted as labelled.",
    "`a` to `aws`: the paper's λ^A, λ^{A,W}, λ^{A,W,S}; `sha`: one augmentation for all images; "
    "`static`: `aw` with smoothed labels and the symmetric loss, which never change, so that "
    "`aws` differs from it by learning labels alone; `darts`: no Neumann terms; `fast`: ten times "
    "the paper's learning rate of λ, as there are a tenth of its epochs; `frozen` and `shuffled`: "
    "placebos of `aws`; `both`, `val`: crop and flip with the clean validation images, whose "
    "labels AutoDO sees too, as training data.",
    "AUROC: how well low weights, and small shares of the given class in soft labels, tell wrong "
    "from right labels.  Recovered: soft labels of wrong points that end on the true class; "
    "damaged: those of right points that leave theirs.",
    "Not the paper's: images (5,000 of CIFAR-10, re-encoded as JPEG, a fifth of them for "
    "validation), network (WRN-10-1), length (3 RT, the cost of λ included), errors of the last "
    "step where the paper has the best epoch on the test set.",
)


@dataclass(frozen=True)
class Results:
    """Finished records by row and setting, those of a cell by seed."""

    records: dict[tuple[str, str], list[Record]]

    def values(self, name: str, setting: str, what: str) -> np.ndarray:
        """A score of `Scores`, or a number of `PointsInfo`, by seed."""
        found = []
        for record in self.records[name, setting]:
            source = record.scores if hasattr(record.scores, what) else record.points
            value = getattr(source, what, None)
            found.append(np.nan if value is None else value)
        return np.array(found)

    def difference(self, name: str, other: str, setting: str) -> tuple[float, float]:
        """Mean and half-width of a row's error less another's, in points, paired by seed."""
        one, two = (100 * self.values(each, setting, "error") for each in (name, other))
        effect = paired(one, two)
        return effect.mean, effect.half

    def cells(self, row: Row, setting: str) -> list[str]:
        """A row of the table; see `HEADS`."""
        place = list(SETTINGS).index(setting)
        kept = self.records[row.name, setting]
        steps = "–".join(sorted({str(record.steps) for record in kept}))
        updates = "–".join(sorted({str(record.policy_updates) for record in kept}))
        against = "–"
        if row.method != REFERENCE:
            against = spread(*self.difference(row.name, "standard", setting), "+", digits=1)
        return [
            f"`{row.name}`",
            SETTINGS[setting],
            self._share(row, setting, "error"),
            f"{row.paper[place]:.1f}" if row.paper else "–",
            against,
            self._share(row, setting, "tail_error"),
            self._share(row, setting, "train_error"),
            self._share(row, setting, "memorised"),
            *(steps, updates),
            self._mean(row, setting, "mislabel_auroc"),
            self._mean(row, setting, "label_auroc"),
            self._share(row, setting, "label_recovery"),
            self._share(row, setting, "label_damage"),
        ]

    def _share(self, row: Row, setting: str, what: str) -> str:
        values = 100 * self.values(row.name, setting, what)
        if np.isnan(values).any():
            return "–"
        return spread(float(values.mean()), t_half_width(values), digits=1)

    def _mean(self, row: Row, setting: str, what: str) -> str:
        values = self.values(row.name, setting, what)
        return "–" if np.isnan(values).any() else f"{values.mean():.3f}"


def page(results: Results) -> str:
    """The table with what one must know to read it."""
    cells = [results.cells(row, setting) for setting in SETTINGS for row in ROWS]
    seeds = [record.seed for record in results.records["aws", "clean"]]
    told = [f"Means over seeds {', '.join(map(str, seeds))}; ± is the half-width of 95 % t."]
    notes = "\n".join(f"- {each}" for each in (*told, *NOTES))
    title = "# AutoDO's Table 2 on CIFAR-10 (JPEG), 5,000 images"
    end = "`python benchmarks/autodo_table.py` makes this table."
    return "\n\n".join([title, table(HEADS, cells), notes, end]) + "\n"


def figures(results: Results) -> Iterator[str]:
    """Names, values and units."""
    setting = "imbalance=10,noise=0.1"
    for row in ROWS:
        error = 100 * results.values(row.name, setting, "error").mean()
        tail = 100 * results.values(row.name, setting, "tail_error").mean()
        yield f"autodo_error_{row.name} {error:.2f} %"
        yield f"autodo_tail_{row.name} {tail:.2f} %"
    for what in ("mislabel_auroc", "label_auroc", "label_recovery", "label_damage"):
        yield f"{what} {results.values('aws', setting, what).mean():.3f} share"
    for one, other in (("aws", "aw"), ("aw", "a"), ("aws", "frozen")):
        mean, _ = results.difference(one, other, setting)
        yield f"autodo_{one}_minus_{other} {mean:.2f} points"


def main() -> None:
    """Runs what is missing if asked to, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true", help="compute missing runs first")
    parser.add_argument("--jobs", type=int, help="runs at a time [default: one a core]")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write DIR/table.md")
    given = parser.parse_args()
    try:
        if given.run:
            wanted = request(SUITE, given.results, given.jobs, [row.method for row in ROWS])
            if not drive.complete(drive.plan(wanted, plugins(None))):
                parser.exit(1, "some runs failed; finished ones are kept\n")
        methods = {row.name: row.method for row in ROWS}
        results = Results(gather(given.results, SUITE, methods, list(SETTINGS)))
    except (ConfigError, DataError, RecordError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    text = page(results)
    print(text)
    if given.out is not None:
        write_text(given.out / "table.md", text)
    for line in figures(results):
        print(f"figure {line}")


if __name__ == "__main__":
    main()
