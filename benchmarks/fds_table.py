"""FDS's Table 1 in small, what it learns of augmentation, and a picture of its schedules.

    AUGBENCH_DATA=FOLDER python benchmarks/fds_table.py [--run] [--jobs 2]
    AUGBENCH_DATA=FOLDER python benchmarks/fds_table.py --out results/experiments/fds \\
        --picture docs/fds-schedules.svg

The runs are rows of the suites `fds-lenet` (LeNet, CIFAR-10 (JPEG), 5,000 images, 140 RT, 3 seeds)
and `fds-digits` (8×8 digits with imbalance 10 and label noise 0.1, 95 RT, 3 seeds), whose records
lie under results/; --run computes those that are missing, in about three hours of one core.  Every
row has the same budget; a search of the optimiser pays with it for many trainings of 250 steps or
more.  Errors are the final weights', on the test set.  A training that diverged has none.

Figures: `fds_error_ROW` (LeNet, mean over the seeds that did not diverge), `fds_diverged_ROW`,
`fds_minus_hand_tuned` (paired, over those seeds), `fds_augmentation_error_ROW` (digits),
`fds_gate_gap` (error with hard gates in the last training less that with the search's soft ones)
and `fds_augmentation_minus_frozen`, both paired.

Source: "Non-greedy Gradient-based Hyperparameter Optimization Over Long Horizons" (FDS), submitted
to ICLR 2021: Table 1 (LeNet on MNIST and SVHN, WRN-16-1 on CIFAR-10, 3 seeds) and Figure 1.
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
from bench.report.statistics import paired, t_half_width
from bench.report.svg import PALE, WIDTH, heading, page, text
from benchmarks._experiment import gather, request, spread, table

ROOT = Path(__file__).resolve().parents[1]
LENET, DIGITS = "fds-lenet", "fds-digits"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: What figures call it.
        method: Its specification.
        trainings: That the budget is spent on, the last one included.
        paper: Test errors (%) on MNIST, SVHN and CIFAR-10 in the paper, if it has the row.
    """

    name: str
    method: str
    trainings: int = 1
    paper: tuple[float, float, float] | None = None


HAND = Row("hand", "search[proposer=grid,space=optimiser-steps]", 136, (1.6, 14.9, 10.8))
FDS = Row("fds", "fds", 11, (1.3, 14.3, 10.7))
CLIPPED = Row("clipped", "fds[product_clip=1]", 11)
SHUFFLED = Row("shuffled", "fds[placebo=shuffled]", 11)
LENET_ROWS = (
    Row("none", "none"),
    Row("standard", "standard"),
    HAND,
    FDS,
    CLIPPED,
    SHUFFLED,
    Row("windows", "fds[horizon=window]", 11),
    Row("descent", "hypergradient-descent[restarts=100,start=wide]", 100, (2.5, 16.0, 19.2)),
    Row("wide", "search", 101, (2.0, 17.8, 17.7)),
    Row("log", "search[space=optimiser-log]", 101),
)
HARD = Row("augmentation", "fds[learns=augmentation]", 11)
SOFT = Row("soft", "fds[gates=soft,learns=augmentation]", 11)
FROZEN = Row("frozen", "fds[learns=augmentation,placebo=uniform]", 11)
DIGIT_ROWS = (
    Row("none", "none"),
    Row("standard", "standard"),
    Row("uniformaugment", "uniformaugment[length=filled]"),
    HARD,
    SOFT,
    FROZEN,
    Row("shuffled", "fds[learns=augmentation,placebo=shuffled]", 11),
)
LENET_HEADS = (
    *("row", "method", "paper: MNIST, SVHN, CIFAR-10", "test error by seed, %", "mean"),
    *("− hand-tuned", "trainings", "steps in each"),
)
DIGIT_HEADS = ("row", "method", "test error, %", "− frozen", "trainings", "steps in each")
NOTES = (
    "`hand` is the paper's grid of 135 points, chosen by validation error; `wide` and `log` are "
    "random searches over the ranges that FDS can reach and over useful ones; `descent` is "
    "hypergradient descent from 100 random starts, what the paper calls greedy; `windows` is FDS "
    "that looks at the validation loss after each of its 7 windows and then forgets; "
    "`clipped` has a clip of ±1, not ±10; `shuffled` permutes the hypergradient; `none` and "
    "`standard` are one training with the suite's recipe, without and with crop and flip.",
    "Not the paper's: images (5,000 of CIFAR-10, re-encoded as JPEG, a fifth of them for "
    "validation), LeNet on them, batches of 128 and not 256, some 250 to 350 steps and not 10,000 "
    "(CIFAR-10), each point of the grid tried once and not three times.",
)


@dataclass(frozen=True)
class Results:
    """Records of a suite by row, those of a row by seed; failed ones too."""

    records: dict[str, list[Record]]

    def errors(self, row: Row) -> np.ndarray:
        """Test errors (%) by seed, NaN where the training diverged."""
        kept = self.records[row.name]
        return np.array([100 * r.scores.error if r.scores else np.nan for r in kept])

    def difference(self, row: Row, other: Row) -> tuple[float, float]:
        """Mean and half-width of a row's error less another's, over seeds that both finished."""
        one, two = self.errors(row), self.errors(other)
        both = ~np.isnan(one) & ~np.isnan(two)
        if both.sum() == 0:
            return np.nan, np.nan
        if both.sum() == 1:
            return float((one - two)[both][0]), np.nan
        effect = paired(one[both], two[both])
        return effect.mean, effect.half

    def against(self, row: Row, other: Row) -> str:
        """That difference in words, a dash for the other row itself."""
        mean, half = self.difference(row, other)
        return "–" if row is other or np.isnan(mean) else spread(mean, half, "+", digits=1)

    def mean(self, row: Row) -> str:
        """Mean error and its half-width over the seeds that finished."""
        values = self.errors(row)
        values = values[~np.isnan(values)]
        if len(values) == 0:
            return "–"
        half = t_half_width(values) if len(values) > 1 else np.nan
        return spread(float(values.mean()), half, digits=1)

    def work(self, row: Row) -> tuple[str, str]:
        """Trainings, and steps in each of them, of the runs that finished."""
        steps = {
            record.steps // row.trainings for record in self.records[row.name] if record.steps
        }
        return str(row.trainings), "–".join(map(str, sorted({min(steps), max(steps)})))


def read(results: Path, suite: str, rows: Sequence[Row], task: str) -> Results:
    """The records of a suite's rows, of trainings that diverged too.

    Raises:
        RecordError: If some are missing.
    """
    methods = {row.name: row.method for row in rows}
    found = gather(results, suite, methods, [task], failed=True)
    return Results({name: kept for (name, _), kept in found.items()})


def lenet_cells(results: Results, row: Row) -> list[str]:
    """A row of the first table."""
    paper = ", ".join(f"{value:.1f}" for value in row.paper) if row.paper else "–"
    seeds = ", ".join(
        "diverged" if np.isnan(each) else f"{each:.1f}" for each in results.errors(row)
    )
    against = results.against(row, HAND)
    name = f"`{row.name}`"
    return [name, f"`{row.method}`", paper, seeds, results.mean(row), against, *results.work(row)]


def digit_cells(results: Results, row: Row) -> list[str]:
    """A row of the second table."""
    against = results.against(row, FROZEN)
    return [
        f"`{row.name}`",
        f"`{row.method}`",
        results.mean(row),
        against,
        *results.work(row),
    ]


def pages(lenet: Results, digits: Results) -> str:
    """Both tables with what one must know to read them."""
    notes = "\n".join(f"- {each}" for each in NOTES)
    gap = spread(*digits.difference(HARD, SOFT), "+")
    return (
        "\n\n".join(
            [
                "# FDS's Table 1 in small",
                "LeNet on CIFAR-10 (JPEG), 5,000 images; every search has 140 RT.  ± is the "
                "half-width of 95 % t over the seeds that did not diverge.",
                table(LENET_HEADS, [lenet_cells(lenet, row) for row in LENET_ROWS]),
                notes,
                "# FDS on augmentation",
                "Handwritten digits, imbalance 10 and label noise 0.1, 95 RT, 3 seeds.  Gates "
                "are soft in the search; hard ones in the last training, in place of soft ones, "
                f"change its error by {gap} points.  `frozen` computes everything and stays at "
                "its start: each warp at even odds, with a spread of 35 % of its range.",
                table(DIGIT_HEADS, [digit_cells(digits, row) for row in DIGIT_ROWS]),
                "`python benchmarks/fds_table.py` makes both tables.",
            ]
        )
        + "\n"
    )


def figures(lenet: Results, digits: Results) -> Iterator[str]:
    """Names, values and units."""
    for row in LENET_ROWS:
        errors = lenet.errors(row)
        if not np.isnan(errors).all():
            yield f"fds_error_{row.name} {np.nanmean(errors):.2f} %"
        yield f"fds_diverged_{row.name} {int(np.isnan(errors).sum())} of_{len(errors)}_seeds"
    yield f"fds_minus_hand_tuned {lenet.difference(FDS, HAND)[0]:.2f} points"
    for row in DIGIT_ROWS:
        yield f"fds_augmentation_error_{row.name} {np.nanmean(digits.errors(row)):.2f} %"
    yield f"fds_gate_gap {digits.difference(HARD, SOFT)[0]:.2f} points"
    yield f"fds_augmentation_minus_frozen {digits.difference(HARD, FROZEN)[0]:.2f} points"


# The picture: Figure 1

LEFT, TOP, PANEL, GAP, SMALL = 60.0, 64.0, 180.0, 64.0, 150.0


def picture(results: Results, rows: Sequence[Row]) -> str:
    """Schedules over outer steps, pale to dark, of the first seed that every row finished.

    Raises:
        RecordError: If there is none.
    """
    chosen = _common([results.records[row.name] for row in rows])
    parts = [heading(f"What FDS makes of the optimiser, seed {chosen[0].seed}, LeNet")]
    parts.append(text(12, 40, "one line an outer step, pale to dark; the placebo below", PALE))
    top = TOP
    for row, record in zip(rows, chosen, strict=True):
        trace = record.trace or {}
        rates = np.array(trace["rate"]["value"])
        parts.append(text(LEFT, top - 6, f"{row.method}: learning rate over the training", PALE))
        parts += _steps(rates, LEFT, top, 420)
        for place, name in enumerate(("momentum", "decay")):
            x = LEFT + 420 + GAP + place * (SMALL + GAP)
            values = np.array(trace[name]["value"])[:, 0]
            parts.append(text(x, top - 6, f"{name} over outer steps", PALE))
            parts += _line(values, x, top, SMALL)
        top += PANEL + GAP
    return page(parts, top - GAP / 2)


def _common(records: Sequence[Sequence[Record]]) -> list[Record]:
    for same in zip(*records, strict=True):
        if all(record.trace for record in same):
            return list(same)
    raise RecordError("there is no seed that every row of the picture finished")


def _scale(values: np.ndarray, x: float, y: float, width: float) -> tuple[list[str], float, float]:
    """A frame with the ends of its scale, which holds 0; and that scale."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    zero = y + PANEL * high / (high - low)
    frame = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{PANEL:.1f}" '
        'fill="none" stroke="#d0d7de"/>',
        f'<line x1="{x:.1f}" x2="{x + width:.1f}" y1="{zero:.1f}" y2="{zero:.1f}" '
        'stroke="#d0d7de"/>',
        text(x - 46, y + 10, f"{high:.2g}", PALE),
        text(x - 46, y + PANEL, f"{low:.2g}", PALE),
    ]
    return frame, low, high


def _steps(values: np.ndarray, x: float, y: float, width: float) -> list[str]:
    """A step curve for each outer step (rows) over the windows (columns)."""
    parts, low, high = _scale(values, x, y, width)
    count, windows = values.shape
    for number, row in enumerate(values):
        points = []
        for window, value in enumerate(row):
            height = y + PANEL * (high - value) / (high - low)
            points += [(x + width * (window + side) / windows, height) for side in (0, 1)]
        parts.append(_curve(points, 0.15 + 0.85 * number / max(1, count - 1)))
    return parts


def _line(values: np.ndarray, x: float, y: float, width: float) -> list[str]:
    """One value after each outer step."""
    parts, low, high = _scale(values, x, y, width)
    last = max(1, len(values) - 1)
    points = [
        (x + width * number / last, y + PANEL * (high - value) / (high - low))
        for number, value in enumerate(values)
    ]
    return [*parts, _curve(points, 1.0)]


def _curve(points: Sequence[tuple[float, float]], dark: float) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{joined}" fill="none" stroke="#08306b" stroke-width="1.5" '
        f'stroke-opacity="{dark:.2f}"/>'
    )


def main() -> None:
    """Runs what is missing if asked to, and prints the tables."""
    assert LEFT + 420 + 2 * (GAP + SMALL) < WIDTH
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true", help="compute missing runs first")
    parser.add_argument("--jobs", type=int, help="runs at a time [default: one a core]")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write DIR/table.md")
    parser.add_argument("--picture", type=Path, metavar="SVG", help="write this picture")
    given = parser.parse_args()
    try:
        for suite, rows in ((LENET, LENET_ROWS), (DIGITS, DIGIT_ROWS)) if given.run else ():
            methods = [row.method for row in rows]
            # Trainings that diverge fail again; the tables say so.
            drive.complete(
                drive.plan(request(suite, given.results, given.jobs, methods), plugins(None))
            )
        lenet = read(given.results, LENET, LENET_ROWS, "clean")
        digits = read(given.results, DIGITS, DIGIT_ROWS, "imbalance=10,noise=0.1")
        drawn = picture(lenet, (CLIPPED, SHUFFLED)) if given.picture else ""
    except (ConfigError, DataError, RecordError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    words = pages(lenet, digits)
    print(words)
    if given.out is not None:
        write_text(given.out / "table.md", words)
    if given.picture is not None:
        write_text(given.picture, drawn)
    for line in figures(lenet, digits):
        print(f"figure {line}")


if __name__ == "__main__":
    main()
