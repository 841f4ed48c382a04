"""OHL-Auto-Aug's ablation: its distribution's learning rate η, and its number N of trajectories.

The paper's Figure 3 on 5,000 images of CIFAR-10 (JPEG), with a small network:

(a) η = 0, 0.005, 0.05 and 0.5 at N = 8;
(b) N = 1, 4 and 8 at η = 0.05, with about as many steps of each copy.

What the paper does not show are rows that spend N = 8's budget otherwise: one copy under the
uniform distribution that trains for all of it, and crop and flip alone for as long.

Differences to η = 0 and to N = 8 pair by seed: initial weights and order of images are equal.

    AUGBENCH_DATA=FOLDER python benchmarks/ohl_ablation.py [--jobs N] [--seeds 3]
    AUGBENCH_DATA=FOLDER python benchmarks/ohl_ablation.py --budget-scale 0.06 --seeds 1  # a try
    AUGBENCH_DATA=FOLDER python benchmarks/ohl_ablation.py \\
        --copy-to results/experiments/ohl-ablation

The runs are a suite's, with records and leaderboards below --results, where a second call finds
those that are finished.  --copy-to copies the records to DIR/runs and the table to DIR/table.md.
All of it is 100 RT of 23 s: about 40 minutes of one core.  A try needs a scale of 0.04.

Figures: `ohl_error_n8_lrη`, `ohl_error_n4_lr0.05`, `ohl_error_n1`, `ohl_error_n1_same_budget`,
`standard_error_same_budget`: means over seeds of the test error; and the paired differences
`ohl_n8_minus_lr0` and `ohl_n8_minus_n1_same_budget`, of η = 0.05.

Departures from the paper: see NOTES, which the table repeats.

Source: Lin et al., "Online Hyper-parameter Learning for Auto-Augmentation Strategy", 2019,
section 4.3 and Figure 3; the numbers beside ours are from its Table 2.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench import drive
from bench.atomic import write_text
from bench.cli.common import plugins
from bench.drive import Campaign
from bench.errors import ConfigError, DataError, RecordError
from bench.plugins import Plugin, select
from bench.record import Record, read_records, record_path
from bench.report.statistics import Effect, paired, t_half_width
from benchmarks._experiment import request, spread, table

ROOT = Path(__file__).resolve().parents[1]
NAME = "ohl-ablation"
SUITE = """
title = "OHL-Auto-Aug's ablation on CIFAR-10 (JPEG), 5,000 images"
budgets = [{budget}]
seeds = {seeds}
methods = {methods}

[[tasks]]
data = "parquet:cifar10-jpeg-small"
distort = ["clean"]
network = "wrn-10-1"

[tasks.recipe]
steps = 600
batch_size = 64
lr = 0.2
weight_decay = 5e-4
warmup = 0.2
"""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: What --rows calls it: the method's name, then `_` and what is particular.
        method: Its specification.
        copies: N.
        rate: η, as text; `–` where there is nothing to learn.
        budget: RT, before --budget-scale.
        paper: The paper's test error (%), as text, where it states one.
    """

    name: str
    method: str
    copies: int
    rate: str
    budget: float
    paper: str = "–"

    @property
    def figure(self) -> str:
        """The name of its figure."""
        return self.name.replace("_", "_error_", 1)

    def scaled(self, scale: float) -> "Row":
        """The row with a share of the budget, to four digits behind the point."""
        return replace(self, budget=round(self.budget * scale, 4))


UNLEARNED, LEARNED, ALONE = "ohl_n8_lr0", "ohl_n8_lr0.05", "ohl_n1_same_budget"
"""The rows that others are compared with, and one copy with N = 8's budget."""

ROWS = {
    row.name: row
    for row in (
        Row(UNLEARNED, "ohl[lr=0]", 8, "0", 5.05),
        Row("ohl_n8_lr0.005", "ohl[lr=0.005]", 8, "0.005", 5.05),
        Row(LEARNED, "ohl[lr=0.05]", 8, "0.05", 5.05, "3.29"),
        Row("ohl_n8_lr0.5", "ohl[lr=0.5]", 8, "0.5", 5.05),
        Row("ohl_n4_lr0.05", "ohl[copies=4]", 4, "0.05", 2.53),
        Row("ohl_n1", "ohl[copies=1,placebo=uniform]", 1, "–", 0.5),
        Row(ALONE, "ohl[copies=1,placebo=uniform]", 1, "–", 5.05),
        Row("standard_same_budget", "standard[length=filled]", 1, "–", 5.05, "4.66"),
    )
}
HEADS = (
    *("row", "N", "η", "budget, RT", "steps of a copy", "test error, %", "paper, ResNet-18"),
    *("− η = 0", "− N = 8", "minutes"),
)
NOTES = (
    "`− η = 0` and `− N = 8`: points of test error less those of `ohl_n8_lr0` and of "
    "`ohl_n8_lr0.05`, paired by seed; below 0 is better.",
    "Budgets bind on FLOPs; validations for OHL's accuracies are billed. `minutes` are a run's on "
    "the clock, augmentation included.",
    "One copy has nothing to compare, so N = 1 learns and chooses nothing, whatever η, and pays "
    "for no validations: 0.5 RT gives it as many steps as a copy of eight has at 5.05.",
    "At η = 0 no distribution is learned, and still the best of eight copies goes on after each "
    "period.",
    "The paper draws Figure 3 and states no numbers for it. It says that updates give better "
    "networks than η = 0, that too large and too small an η harm, with 0.05 as the trade-off; and "
    "that N from 1 to 8 steadily improves, little beyond. Its η = 0.0005 and N = 16 are not here.",
    "`paper, ResNet-18`: its Table 2, on all of CIFAR-10 in 300 epochs, settings that its Figure "
    "3 shares: OHL with η = 0.05 and N = 8; crop and flip alone, trained as long as one copy, "
    "here with the budget of all.",
    "Not the paper's: images (5,000 of CIFAR-10, re-encoded as JPEG, a fifth of them for "
    "validation), network (WRN-10-1) and recipe (600 steps of 64 images an RT).",
)


# Running


def planned(given: argparse.Namespace, known: dict[str, Plugin]) -> Campaign:
    """All runs of the rows wanted, seed by seed, whatever their budgets.

    Raises:
        ConfigError, DataError, RecordError: If an option, the data or an old record are wrong.
    """
    wanted = rows_of(given)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{NAME}.toml"
        parts = []
        for budget in sorted({row.budget for row in wanted}):
            methods = json.dumps([row.method for row in wanted if row.budget == budget])
            text = SUITE.format(budget=budget, seeds=given.seeds, methods=methods)
            path.write_text(text, encoding="utf-8")
            wanted_part = request(str(path), given.results, given.jobs)
            parts.append(drive.plan(wanted_part, known))
    jobs = [job for part in parts for job in part.jobs]
    jobs.sort(key=lambda job: (job.config.seed, -job.config.budget))
    finished = [job for part in parts for job in part.finished]
    return replace(parts[0], jobs=jobs, finished=finished)


def rows_of(given: argparse.Namespace) -> list[Row]:
    """The rows wanted, in the table's order."""
    return [row.scaled(given.budget_scale) for row in ROWS.values() if row.name in given.rows]


def records_of(
    given: argparse.Namespace, rows: Sequence[Row], known: dict[str, Plugin]
) -> dict[str, list[Record]]:
    """The records of finished runs by row, those of a row by seed.

    They are found by what they are, not by their hash: that is another one where a method's source
    was edited while the runs went on.

    Raises:
        RecordError: If one cannot be read, or a row lacks one.
    """
    kept = [one for one in read_records(given.results, NAME) if one.seed < given.seeds]
    kept.sort(key=lambda record: record.seed)
    records = {}
    for row in rows:
        cell = select(known, row.method).spec, row.budget
        records[row.name] = [one for one in kept if (one.method.spec, one.budget) == cell]
        if len(records[row.name]) != given.seeds:
            found = len(records[row.name])
            raise RecordError(f"row {row.name}: {found} records for {given.seeds} seeds")
    return records


# Table


@dataclass(frozen=True)
class Results:
    """The records of the rows wanted.

    Attributes:
        rows: In the table's order.
        records: By row; each by seed.
    """

    rows: Sequence[Row]
    records: dict[str, list[Record]]

    def errors(self, name: str) -> np.ndarray:
        """A row's test errors (%) by seed, (seeds,)."""
        found = [record.scores.error for record in self.records[name] if record.scores is not None]
        return 100 * np.array(found)

    def versus(self, name: str, reference: str) -> Effect | None:
        """A row's test error less another's, paired by seed; None if the other is not there."""
        if name == reference or not {name, reference} <= self.records.keys():
            return None
        return paired(self.errors(name), self.errors(reference))

    def cells(self, row: Row) -> list[str]:
        """A row of the table; see `HEADS`."""
        errors, records = self.errors(row.name), self.records[row.name]
        error = spread(float(errors.mean()), t_half_width(errors))
        steps = sorted({str(record.steps) for record in records})
        clock = [record.bill.seconds / 60 for record in records if record.bill is not None]
        effects = [self.versus(row.name, other) for other in (UNLEARNED, LEARNED)]
        against = ["–" if effect is None else spread(*both(effect), "+") for effect in effects]
        first = [f"`{row.name}`", str(row.copies), row.rate, f"{row.budget:g}", ", ".join(steps)]
        return [*first, error, row.paper, *against, f"{np.mean(clock):.1f}"]


def both(effect: Effect) -> tuple[float, float]:
    """An effect's mean and half-width."""
    return effect.mean, effect.half


def page(results: Results, scale: float) -> str:
    """The table with what one must know to read it."""
    seeds = [record.seed for record in results.records[results.rows[0].name]]
    told = [f"Means over seeds {', '.join(map(str, seeds))}; ± is the half-width of 95 % t."]
    if scale != 1:
        told.append(f"A try: budgets are {scale:g} times those of the experiment.")
    told += [*NOTES, *places(results), *versions(results)]
    title = "# OHL-Auto-Aug on CIFAR-10 (JPEG), 5,000 images: learning rate η and N copies"
    notes = "\n".join(f"- {each}" for each in told)
    end = "`python benchmarks/ohl_ablation.py` makes this table."
    cells = table(HEADS, [results.cells(row) for row in results.rows])
    return "\n\n".join([title, cells, notes, end]) + "\n"


def places(results: Results) -> list[str]:
    """Where the records were computed, in words."""
    found = []
    for record in (record for row in results.rows for record in results.records[row.name]):
        place = record.environment
        packages = ", ".join(f"{name} {place['packages'][name]}" for name in ("torch", "numpy"))
        where = f"{place['device']}, {place['threads']} thread a run"
        found.append(f"Computed with Python {place['python']}, {packages}; {where}.")
    return list(dict.fromkeys(found))


def versions(results: Results) -> list[str]:
    """Which methods have records of more than one version of their source, in words."""
    sources: dict[str, set[str]] = {}
    for record in (record for row in results.rows for record in results.records[row.name]):
        sources.setdefault(record.method.name, set()).add(record.method.source)
    return [
        f"The runs of {name} were made by {len(found)} versions of its source."
        for name, found in sources.items()
        if len(found) > 1
    ]


def figures(results: Results) -> Iterator[str]:
    """Names, values and units."""
    for row in results.rows:
        yield f"{row.figure} {results.errors(row.name).mean():.2f} %"
    for word, reference in (("lr0", UNLEARNED), ("n1_same_budget", ALONE)):
        if effect := results.versus(LEARNED, reference):
            yield f"ohl_n8_minus_{word} {effect.mean:.2f} points"


def keep(results: Results, text: str, source: Path, target: Path) -> None:
    """Copies the records to `target/runs` and writes the table beside them.

    Raises:
        RecordError: If there are records that the table does not count.
    """
    names = {record.hash for records in results.records.values() for record in records}
    others = sorted(path.name for path in (target / "runs").glob("*.json"))
    foreign = [name for name in others if Path(name).stem not in names]
    if foreign:
        raise RecordError(
            f"--copy-to {target}: runs/ holds {len(foreign)} records that this table does not "
            f"count, e.g. {foreign[0]}; move them away"
        )
    for name in sorted(names):
        record = record_path(source, NAME, name).read_text(encoding="utf-8")
        write_text(target / "runs" / f"{name}.json", record)
    write_text(target / "table.md", text)


# Command


def options() -> argparse.ArgumentParser:
    """What to run, and where things go."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, ...")
    parser.add_argument("--jobs", type=int, help="runs at a time [default: one a core]")
    parser.add_argument("--budget-scale", type=float, default=1.0, help="of all budgets")
    parser.add_argument("--results", type=Path, default=ROOT / "local" / NAME)
    parser.add_argument("--copy-to", type=Path, metavar="DIR", help="copy records and table")
    return parser


def run(given: argparse.Namespace) -> bool:
    """Runs what is missing, prints table and figures, copies if wanted.

    Returns:
        Whether all runs succeeded; there is no table if not.

    Raises:
        ConfigError, DataError, RecordError: If an option, the data or a record are wrong.
    """
    known = plugins(None)
    campaign = planned(given, known)
    if not drive.complete(campaign):
        return False
    rows = rows_of(given)
    results = Results(rows, records_of(given, rows, known))
    text = page(results, given.budget_scale)
    print(text)
    if given.copy_to is not None:
        keep(results, text, given.results, given.copy_to)
    for line in figures(results):
        print(f"figure {line}")
    return True


def main() -> None:
    """Runs the experiment; a mistake of the user's ends it with one sentence."""
    parser = options()
    try:
        succeeded = run(parser.parse_args())
    except (ConfigError, DataError, RecordError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if not succeeded:
        parser.exit(1, "some runs failed; finished ones are kept, the next call tries the rest\n")


if __name__ == "__main__":
    main()
