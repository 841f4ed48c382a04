"""One run, one record: the schema of `results/SUITE/runs/<hash>.json`, atomic write, strict read.

A record is all that the leaderboard sees.  It is written to a temporary file, flushed to disk and
renamed, so a reader finds either the whole record or none.  One of its lines is a checksum of all
others, against accidents; forgers are for `bench.publish`.  The oldest records have none.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.atomic import write_text
from bench.errors import Damaged, RecordError
from bench.plain import cleaned, suspect

SCHEMA = 1
PROTOCOL_VERSION = 1
CHECKSUM = re.compile(rb'^ "checksum": "([0-9a-f]{64})",\n', re.MULTILINE)
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"  # of a file or a folder, without a way out of its own
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TaskInfo(_Part):
    """What was learned from: data set, distortion, network and the data's counts.

    Attributes:
        rare: Whether the distortion made the class rare, per class.
        train_counts: Training images per class, by the labels that the method saw.
        flipped: Share of each class's training labels (by true class) that the noise changed.
    """

    data: str
    distort: str
    network: str
    recipe: dict[str, Any]
    classes: list[str]
    rare: list[bool]
    train_counts: list[int]
    flipped: list[float]
    flipped_total: float
    sizes: dict[str, int]
    digest: str
    skipped_files: int = 0

    @property
    def name(self) -> str:
        """The task's name in tables, e.g. `digits · imbalance=10,noise=0.1 · small-cnn`."""
        return f"{self.data} · {self.distort} · {self.network}"


class MethodInfo(_Part):
    """Which method ran, with which options, and what it says of itself.

    Attributes:
        spec: The canonical specification, e.g. `standard[length=filled]`: a leaderboard row.
        learned: Whether it is one of the learned systems (the family of the Holm adjustment).
        clean_labels: What it does with clean validation labels: none, selection, hypergradient;
            or training, where it trains on those very images, a control whose validation error
            is a training error.
        scaled: Share of the method's smallest faithful budget if below it, else None.
    """

    spec: str
    name: str
    options: dict[str, Any]
    source: str
    learned: bool
    clean_labels: Literal["none", "selection", "hypergradient", "training"]
    deviations: list[str]
    scaled: float | None = None
    placebo_of: str | None = None


class Scores(_Part):
    """Metrics of the final weights; errors are fractions in [0, 1].

    Attributes:
        tail_error: Mean error of the classes that the distortion made rare, or of the worst third.
        class_errors: Per class; None for a class without test images.
        memorised: Share of mislabelled training points predicted as their wrong label, if any.
        confusion: Numbers of images, a row for each true class and a column for each predicted
            one; of the test set, where there are not too many classes.
    """

    error: Share
    balanced_error: Share
    tail_error: Share
    worst_error: Share
    class_errors: list[Share | None]
    nll: float
    ece: Share
    train_error: Share | None = None
    memorised: Share | None = None
    confusion: list[list[int]] | None = None

    @model_validator(mode="after")
    def _square(self) -> Self:
        if any(len(row) != len(self.confusion or ()) for row in self.confusion or ()):
            raise ValueError("confusion is not square")
        return self


class Histogram(_Part):
    """How many clean and how many flipped training points lie between common edges."""

    edges: list[float]
    clean: list[int]
    flipped: list[int]


class OperationMeans(_Part):
    """Means over training points of a value that each has for each operation.

    Attributes:
        mean: Over all points, per operation.
        by_class: Per true class, then per operation; None for a class without points.
    """

    mean: list[float]
    by_class: list[list[float] | None]


class PointsInfo(_Part):
    """What a method learned of each training point, held against the truth that it never saw.

    Flipped points are those whose given label the noise changed.  What lacks its table, or the
    points that it is about, is None.

    Attributes:
        mislabel_auroc: Area under the ROC curve of a low weight as the sign of a flipped point.
        label_auroc: The same of 1 - the soft label's share of the given label.
        label_recovery: Share of flipped points whose soft label is largest at the true class.
        label_damage: Share of clean points whose soft label is largest elsewhere than at theirs.
        weight_clean: Mean weight of clean points.
        class_weights_clean: The same per given label; None for a class without such points.
        operations: Names of what `strength` and `probability` are of.
        strength: Spread of each operation's magnitude, as a share of its range.
        probability: Of each operation, in [0, 1].
        weights: Histogram of the weights.
        given_shares: Histogram of the soft label's share of the given label.
    """

    mislabel_auroc: Share | None = None
    label_auroc: Share | None = None
    label_recovery: Share | None = None
    label_damage: Share | None = None
    weight_clean: float | None = None
    weight_flipped: float | None = None
    class_weights_clean: list[float | None] | None = None
    class_weights_flipped: list[float | None] | None = None
    operations: list[str] = Field(default_factory=list)
    strength: OperationMeans | None = None
    probability: OperationMeans | None = None
    weights: Histogram | None = None
    given_shares: Histogram | None = None


class BillItem(_Part):
    """All metered blocks of one label and key."""

    label: str
    key: dict[str, int]
    calls: int
    flops: int
    seconds: float


class Bill(_Part):
    """What the run cost, in both currencies; the shares are of the whole budget.

    Attributes:
        rehearsal_flops: Spent on pricing steps before training, unbilled up to 5 % of the budget.
        overhead_seconds: Clock time inside `run` that no label claims.
        evaluation_seconds: The harness's own evaluations, off the clock.
        redone_flops: Done more than once, or not for this result, since processes were killed.
        redone_seconds: The same; the last seconds before a kill are not known.
        checkpoint_seconds: Writing checkpoints, off the clock.
    """

    rt_flops: int
    rt_seconds: float
    rt_seconds_after: float | None = None
    flops: int
    flops_share: float
    seconds: float
    seconds_share: float
    rehearsal_flops: int
    rehearsal_seconds: float
    evaluation_seconds: float
    overhead_seconds: float
    redone_flops: int = 0
    redone_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    items: list[BillItem]
    flags: list[str] = Field(default_factory=list)


class CurvePoint(_Part):
    """An anytime evaluation by the harness, off the clock and unseen by the method."""

    fraction: float
    spent: float
    val_error: float
    test_error: float


class Failure(_Part):
    """Why a run has no scores."""

    type: str
    message: str
    traceback: str
    attempts: int


class Record(_Part):
    """The result of one run: one task, method, budget and seed.

    Attributes:
        side_file: SHA-256 of `points/<hash>.npz`, the arrays that the run left beside its record;
            None if it left none.
    """

    schema_version: int = SCHEMA
    protocol: int = PROTOCOL_VERSION
    hash: str = Field(pattern=NAME)
    suite: str = Field(pattern=NAME)
    status: Literal["ok", "failed"]
    config: dict[str, Any]
    budget: float
    seed: int
    track: Literal["portable", "gpu"]
    task: TaskInfo | None
    method: MethodInfo
    scores: Scores | None = None
    val_scores: Scores | None = None
    bill: Bill | None = None
    plan: list[dict[str, int]] = Field(default_factory=list)
    prices: dict[str, float] = Field(default_factory=dict)
    steps: int = 0
    images_seen: int = 0
    policy_updates: int = 0
    curve: list[CurvePoint] = Field(default_factory=list)
    trace: dict[str, Any] = Field(default_factory=dict)
    policy: dict[str, Any] | None = None
    weights: str | None = None
    points: PointsInfo | None = None
    side_file: str | None = None
    environment: dict[str, Any]
    bench: str
    failure: Failure | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.status == "ok" and None in (self.task, self.scores, self.bill):
            raise ValueError("a record marked ok must have a task, scores and a bill")
        return self


def record_path(results: Path, suite: str, name: str) -> Path:
    """Where the record called `name` (its hash) lives."""
    return results / suite / "runs" / f"{name}.json"


def write_record(path: Path, record: Record) -> None:
    """Writes a record atomically: a kill or a full disk leaves the old file or none, never half.

    Raises:
        OSError: If the disk refuses; the path holds the old record or the whole new one.
    """
    content = record.model_dump(mode="json")
    checksum = hashlib.sha256(_text(content).encode()).hexdigest()
    write_text(path, _text(content | {"checksum": checksum}))


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def read_record(path: Path) -> Record:
    """Reads one record.

    Raises:
        Damaged: If the file is torn or was changed, or is named otherwise than its hash says.
        RecordError: If it cannot be read, or is of another schema.
    """
    try:
        text = path.read_bytes()
        sealed, text = CHECKSUM.search(text), CHECKSUM.sub(b"", text)
        content = json.loads(text)
        if sealed and hashlib.sha256(text).hexdigest().encode() != sealed[1]:
            raise Damaged(f"{path} is not as it was written: its checksum is another")
        if suspect(text.decode()):
            text = json.dumps(content := cleaned(content)).encode()
        if isinstance(found := content.get("schema_version"), int) and found != SCHEMA:
            raise RecordError(f"{path} has schema {found}, this augbench reads {SCHEMA}")
        record = Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "record"
        raise Damaged(f"{path} is no augbench record: {place}: {first['msg']}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path} is torn or not JSON: {error}") from error
    except OSError as error:
        kind = Damaged if path.is_dir() else RecordError
        raise kind(f"{path} cannot be read: {error.strerror}") from error
    if record.hash != path.stem:
        raise Damaged(f"{path} holds the record {record.hash}: the file was renamed or edited")
    return record


def read_records(results: Path, suite: str) -> list[Record]:
    """Reads every record of a suite, ordered by file name.

    Raises:
        RecordError: If there is none, or one of them cannot be read.
    """
    folder = results / suite / "runs"
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise RecordError(f"no records in {folder}: run `augbench run --suite {suite}` first")
    return [read_record(path) for path in paths]


def is_run(name: str) -> bool:
    """Whether a text looks like a record's path or the beginning of its hash."""
    return name.endswith(".json") or re.fullmatch("[0-9a-f]{4,}", name) is not None


def find_record(results: Path, name: str) -> Record:
    """A record by its path, or by the first letters of its hash anywhere below `results`.

    Raises:
        RecordError: If there is none, or more than one hash begins so, or it cannot be read.
    """
    return read_record(find_path(results, name))


def find_path(results: Path, name: str) -> Path:
    """Where the record is that `name` means; see `find_record`.

    Raises:
        RecordError: If no record's hash, or more than one, begins so.
    """
    path = Path(name)
    if path.suffix == ".json":
        return path
    found = sorted(results.glob(f"*/runs/{name}*.json")) if is_run(name) else []
    if len({path.name for path in found}) != 1:
        none = f"no record below {results} (--results) begins"
        said = f"{len(found)} records begin" if found else none
        raise RecordError(f"run {name!r}: {said} so; give a record's path or more of its hash")
    return found[0]
