"""What a leaderboard holds: every number that CSV, Markdown and console show.

Errors, shares and differences are fractions here and become percent only in print.
"""

from dataclasses import dataclass

from bench.report.beside import Beside
from bench.report.statistics import Admission, Effect, Place


@dataclass(frozen=True)
class Cell:
    """A method on a task: mean test error with its t half-width.

    Attributes:
        runs: Runs behind the mean, imputed ones included.
        imputed: Those that failed and borrowed the score without augmentation.
        failed: Those that failed, imputed or not.
    """

    mean: float
    half: float
    runs: int
    imputed: int
    failed: int


@dataclass(frozen=True)
class Row:
    """One method's line.

    Attributes:
        unranked: Why the row has no place; empty if it has one.
        family: Whether the row is of the family that Holm's adjustment covers.
        scores: Metric to its mean over tasks; intervals by Welch–Satterthwaite.
        delta: Suite effect on test error, method minus reference.
        p_adjusted: Holm-adjusted p of `delta` within the family; NaN outside it.
        boot: Secondary percentile interval of `delta`.
        outcome: Tasks won, tied and lost against the reference; None without reference.
        placebo: Specification of the placebo that `delta_placebo` is taken against.
        work: Metric to its mean over tasks of finished runs: costs, steps, training error.
        expected: Runs that a complete row would have.
        stand_ins: The rows whose scores stand in for its failed runs.
        seeds: Fewest and most finished runs on a task.
        scaled: Smallest and largest share of the method's smallest faithful budget, or None.
        published: The papers' numbers that stand beside the row's, at most one a task.
        digest: First 8 hex digits of SHA-256 over the row's sorted record hashes.
        joined: How a user's own row was made, see `bench.report.join`; empty for committed ones.
    """

    spec: str
    place: Place | None
    unranked: str
    family: bool
    scores: dict[str, Effect]
    delta: Effect
    p_adjusted: float
    boot: tuple[float, float]
    outcome: tuple[int, int, int] | None
    placebo: str
    delta_placebo: Effect
    work: dict[str, float]
    cells: dict[str, Cell]
    expected: int
    failures: int
    stand_ins: tuple[str, ...]
    imputed: int
    missing: int
    seeds: tuple[int, int]
    clean_labels: str
    scaled: tuple[float, float] | None
    flags: tuple[str, ...]
    failure_types: tuple[str, ...]
    deviations: tuple[str, ...]
    published: tuple[Beside, ...]
    digest: str
    joined: str = ""


@dataclass(frozen=True)
class Leaderboard:
    """One table: a suite at a budget on a track, its rows by place and the unranked ones last.

    Attributes:
        reference: Specification of the reference row; empty if it is not among the rows.
        wanted: The reference that was asked for.
        conditions: Sentences on how the runs were made and what was mixed.
        admitted_by: The pair of rows that the admission compares; empty if there is none.
    """

    suite: str
    track: str
    budget: float
    reference: str
    wanted: str
    tasks: list[str]
    seeds: list[int]
    rows: list[Row]
    conditions: list[str]
    admission: Admission
    admitted_by: tuple[str, str] | None

    @property
    def title(self) -> str:
        """What the table is of: suite, budget and track."""
        return f"{self.suite}: {self.budget:g} RT, {self.track} track"
