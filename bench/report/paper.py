"""The papers' own numbers: every value of their result tables, with how it came about.

`paper.toml` holds the tables as printed, typing errors included: a table's attributes hold for all
of its numbers, those of a column, a row or a cell for theirs alone.  `published` unfolds it into
one entry a number; `bench.report.beside` chooses which of them stand beside a measured one.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.errors import RecordError

FILE = Path(__file__).parents[1] / "paper.toml"
NOTHING = "-"
"""What stands in a table of `paper.toml` where the paper has no number."""

NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)(?:±(\d+\.\d+))?")
"""A number as printed, without commas, and its spread."""

Metric = Literal[
    "error",
    "top5-error",
    "accuracy",
    "loss",
    "error-reduction",
    "auc",
    "hours",
    "iterations",
    "share",
]
SCORES = ("error", "top5-error", "accuracy", "loss", "error-reduction")
"""Metrics of images, which say of which split; the others say nothing of a finished network."""

Name = Annotated[str, Field(min_length=1)]
Values = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Published(_Part):
    """One number of a paper.

    Attributes:
        paper: What the paper's method is called; `table`, `row` and `column` say where it stands.
        specs: The methods of this project that it belongs to, the closest first.
        data: The data set whose images were scored.
        distort: `clean`, or how the training set was distorted, as a task names it.
        network: What was scored, by this project's name, a key of `networks()`; None if the
            number is of none, or the paper does not say.
        split: Which images were scored; `test` of ImageNet is its validation set.  None if the
            number is no score.
        printed: The number as printed, with its spread.
        value: The same as a number.
        spread: What stands behind its ±, if anything does.
        spread_kind: A standard deviation, the half-width of a 95 % interval, or not said.
        images: Training images; None: not said.
        epochs: Of the training that was scored; None: not said.
        runs: Seeds behind the number; None: not said.
        selection: Which weights were scored.
        origin: Whether the paper measured the number or quotes an earlier one.
        differs: What the paper is known to do otherwise than the method here, if it matters.
        note: What else to know, such as typing errors.
    """

    paper: Name
    table: Name
    row: Name
    column: Name
    specs: tuple[Name, ...] = ()
    data: Literal["cifar10", "cifar100", "svhn", "mnist", "imagenet"]
    distort: Name = "clean"
    network: Name | None = None
    metric: Metric
    unit: Literal["%", "nats", "hours", "steps", "1"]
    split: Literal["test", "validation"] | None = None
    printed: Name
    value: Annotated[float, Field(ge=0)]
    spread: Annotated[float, Field(ge=0)] | None = None
    spread_kind: Literal["std", "ci95", "unknown"] | None = None
    images: Annotated[int, Field(gt=0)] | None = None
    epochs: Annotated[int, Field(gt=0)] | None = None
    runs: Annotated[int, Field(gt=0)] | None = None
    selection: Literal["last epoch", "best on validation", "best on test", "unknown"] = "unknown"
    origin: Literal["measured", "quoted", "unknown"] = "unknown"
    differs: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> "Published":
        if (self.spread is None) != (self.spread_kind is None):
            raise ValueError(f"{self.printed}: a spread needs its kind, and a kind its spread")
        if (self.split is None) == (self.metric in SCORES):
            raise ValueError(f"a number of {self.metric} of split {self.split}")
        return self

    @property
    def score(self) -> str:
        """The number with the paper's digits, an accuracy as an error: `2.44 ± 0.07`."""
        value, sign, spread = self.printed.partition("±")
        if self.metric == "accuracy":
            value = str(100 - Decimal(value))
        return f"{value} ± {spread}" if sign else value

    @property
    def place(self) -> str:
        """Where it stands: `OHL-Auto-Aug, Table 2`."""
        return f"{self.paper}, Table {self.table}"


class _File(_Part):
    papers: dict[str, Name]
    networks: dict[str, Name]
    tables: list[Values] = Field(min_length=1)


def networks() -> dict[str, str]:
    """The papers' networks: this project's name, or one in its manner, to theirs; by size.

    Raises:
        RecordError: If `paper.toml` is not what it should be.
    """
    return _file(FILE).networks


@cache
def published(path: Path = FILE) -> tuple[Published, ...]:
    """Every number of the papers' result tables, in their order.

    Raises:
        RecordError: If the file is not what it should be; says which number of which table.
    """
    file = _file(path)
    return tuple(
        number
        for index, table in enumerate(file.tables)
        for number in _unfolded(table, file, f"{path.name}, table {index + 1}")
    )


@cache
def _file(path: Path) -> _File:
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        raise RecordError(f"{path.name}: {_first(error)}") from error


def _unfolded(table: Mapping[str, Any], file: _File, where: str) -> Iterator[Published]:
    """The numbers of one table, row by row."""
    common = {key: value for key, value in table.items() if key not in ("columns", "rows")}
    if common.get("paper") not in file.papers:
        raise RecordError(f"{where}: paper {common.get('paper')!r}: {', '.join(file.papers)}")
    common["paper"] = file.papers[common["paper"]]
    for row in table.get("rows", []):
        cells, columns = row.get("values", []), table.get("columns", [])
        here = f"{where} ({common['paper']}), row {row.get('name')!r}"
        if len(cells) != len(columns) or not cells:
            raise RecordError(f"{here}: {len(cells)} values for {len(columns)} columns")
        for column, cell in zip(columns, cells, strict=True):
            cell = {"value": cell} if isinstance(cell, str) else cell
            if cell.get("value") != NOTHING:
                yield _number(_merged(common, column, row, cell, here), file, here)


def _merged(common: Values, column: Values, row: Values, cell: Values, here: str) -> Values:
    """A number's attributes: the inner ones count, remarks of all levels do."""
    twice = (column.keys() & row.keys()) - {"name", "note", "differs"}
    if twice:
        raise RecordError(f"{here} and column {column['name']!r} both say {sorted(twice)}")
    levels = (common, column, row, cell)
    merged = {key: value for level in levels for key, value in level.items()}
    for remark in ("note", "differs"):
        merged[remark] = "; ".join(level[remark] for level in levels if level.get(remark))
    return merged | {"row": row.get("name"), "column": column.get("name")}


def _number(merged: Values, file: _File, here: str) -> Published:
    attributes = {key: merged[key] for key in merged if key not in ("name", "value", "values")}
    printed = str(merged.get("value"))
    found = NUMBER.fullmatch(printed.replace(",", ""))
    if found is None:
        raise RecordError(f"{here}: {printed!r} is no number such as 97.3 or 97.39±0.15")
    if attributes.get("network") not in (None, *file.networks):
        raise RecordError(f"{here}: network {attributes['network']!r} is not among [networks]")
    spread = None if found[2] is None else float(found[2])
    try:
        return Published(**attributes, printed=printed, value=float(found[1]), spread=spread)
    except ValidationError as error:
        raise RecordError(f"{here}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, as one line."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]
