"""The leaderboard of committed records with a user's own: finds these, joins, tabulates."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.errors import ConfigError
from bench.record import SCHEMA, read_record, read_records
from bench.report.join import Own, join, marked
from bench.report.leaderboard import build
from bench.report.table import Leaderboard


@dataclass(frozen=True)
class Found:
    """Where own records lie.

    Attributes:
        label: The name of their results folder; no path, which would tell whose machine it is.
        paths: Their files.
    """

    label: str
    paths: list[Path]


def tabulate(
    results: Path, suite: str, own: Sequence[Path], reference: str | None = None
) -> list[Leaderboard]:
    """Tables of a suite's committed records and a user's own; writes nothing.

    Args:
        results: The folder that holds `SUITE/runs`.
        suite: The suite's name.
        own: A results folder, a suite's folder, a folder of records or one record, each.
        reference: As for `leaderboard.build`.

    Raises:
        ConfigError: If there are no records at a path, or none of them can join.
        RecordError: If a record is damaged, or the records may not be mixed.
    """
    committed, sources, foreign = read_records(results, suite), [], []
    for found in _distinct(find(path, suite) for path in own):
        read = [path for path in found.paths if _schema(path) == SCHEMA]
        sources.append(Own(found.label, [read_record(path) for path in read]))
        if lost := len(found.paths) - len(read):
            foreign.append(
                f"Left out from {found.label}: {lost} records of another schema than {SCHEMA}."
            )
    joined = join(committed, sources)
    joined.left.extend(foreign)
    if not (joined.rows or joined.reproduced):
        said = " ".join(joined.left)
        raise ConfigError(f"--with: no record there joins those of {suite}. {said}".strip())
    tables = build(joined.records, suite=committed[0].suite, reference=reference)
    return [marked(table, joined) for table in tables]


def find(path: Path, suite: str) -> Found:
    """The records at a path.

    Raises:
        ConfigError: If there are none.
    """
    if not path.exists():
        raise ConfigError(f"--with {path}: there is no such file or folder")
    if path.is_file():
        return Found(_label(path.resolve().parent), [path])
    for folder in (path / suite / "runs", path / "runs", path):
        if paths := sorted(folder.glob("*.json")):
            return Found(_label(folder.resolve()), paths)
    others = sorted(each.parent.parent.name for each in path.glob("*/runs/*.json"))
    has = f"only records of {', '.join(dict.fromkeys(others))}" if others else "no records"
    raise ConfigError(f"--with {path}: it holds {has}, none of {suite}")


def _label(folder: Path) -> str:
    """The results folder's name, where the folder of records lies in one; else its own."""
    return (folder.parents[1] if folder.name == "runs" else folder).name or "yours"


def _distinct(found: Iterable[Found]) -> list[Found]:
    """The same with labels that differ: `local`, `local 2`."""
    seen: dict[str, int] = {}
    result = []
    for each in found:
        seen[each.label] = count = seen.get(each.label, 0) + 1
        label = each.label if count == 1 else f"{each.label} {count}"
        result.append(replace(each, label=label))
    return result


def _schema(path: Path) -> object:
    """A record's schema; what is wrong with a torn file, `read_record` says."""
    try:
        return json.loads(path.read_bytes())["schema_version"]
    except (ValueError, TypeError, KeyError, OSError):
        return SCHEMA
