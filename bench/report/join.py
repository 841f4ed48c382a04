"""A user's own records beside the committed ones: which may stand in one table, and how.

The rules, for a reader who trusts neither side:
    An own run joins where a committed one has its protocol, track, budget, task and seed, the same
    images, class counts and recipe, and 1 RT of as many FLOPs.  Others are left out, and each
    reason is said once a row.
    Own rows bear where they are from, `gar (local)`.  Committed rows stay what they are: own runs
    are not averaged with them, stand in for none of their failures and are no placebo of theirs.
    Own runs that all have the committed bits make no row: they have reproduced one.  If one of
    them differs, or is of another seed or task, they all stand in a row of their own.
    Places and Holm's adjustment are over all rows together, which is said.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from bench.record import Record
from bench.report.matching import listed, mismatch, task_name
from bench.report.statistics import welch_satterthwaite
from bench.report.table import Leaderboard
from bench.report.text import percent

Row = tuple[str, float, str]  # track, budget, specification
Pairs = list[tuple[Record, Record]]  # own, committed
Group = TypeVar("Group", bound=Hashable)


@dataclass(frozen=True)
class Own:
    """A user's own records.

    Attributes:
        label: Where they are from, in a word; no two sources share one.
    """

    label: str
    records: Sequence[Record]


@dataclass(frozen=True)
class Joined:
    """Committed and own records for one leaderboard.

    Attributes:
        records: All of them, own ones under the names of their rows.
        rows: Own rows, and how each was made.
        reproduced: Sentences on rows that have the committed bits.
        left: Sentences on what was left out, and why.
    """

    records: list[Record]
    rows: dict[Row, str]
    reproduced: list[str]
    left: list[str]


def join(committed: Sequence[Record], own: Iterable[Own]) -> Joined:
    """Joins own records with the committed ones of a suite.

    Args:
        committed: The suite's; at least one.
        own: Records of any suite.
    """
    joined, suite = Joined(list(committed), {}, [], []), committed[0].suite
    rows = _grouped(committed, _row)
    for source in own:
        records = [record.model_copy(update={"suite": suite}) for record in source.records]
        for row, runs in _grouped(records, _row).items():
            parts = _grouped(runs, lambda run: mismatch(run, committed))
            fit = parts.pop("", [])
            joined.left.extend(
                f"Left out from {source.label}: {row[2]}, {_count(part)}: {reason}."
                for reason, part in parts.items()
            )
            if fit:
                _add(joined, row, fit, rows.get(row, []), committed, source.label)
    return joined


def marked(board: Leaderboard, joined: Joined) -> Leaderboard:
    """The table of joined records, with its own rows marked and what was joined said above it."""
    rows = [
        replace(row, joined=joined.rows.get((board.track, board.budget, row.spec), ""))
        for row in board.rows
    ]
    own = [row for row in rows if row.joined]
    said = [*joined.reproduced, *joined.left]
    if own:
        said.append(
            f"{len(own)} of the {len(rows)} rows are not committed; places are over all of them."
        )
    family = [row.spec for row in rows if row.family]
    more = [row.spec for row in own if row.family]
    if more:
        said.append(
            f"With {', '.join(more)}, Holm's family has {len(family)} learned rows, not "
            f"{len(family) - len(more)}: adjusted p differ from the committed table's."
        )
    return replace(board, rows=rows, conditions=[*board.conditions, *said])


# Whose row


def _add(
    joined: Joined,
    row: Row,
    runs: list[Record],
    there: Iterable[Record],
    committed: Iterable[Record],
    label: str,
) -> None:
    """Gives one row's runs a row of their own, unless they are the committed ones again."""
    track, budget, spec = row
    beside = {(task_name(record), record.seed): record for record in there}
    cells = [((task_name(run), run.seed), run) for run in runs]
    pairs = [(run, beside[cell]) for cell, run in cells if cell in beside]
    equal = [(run, other) for run, other in pairs if _same_bits(run, other)]
    if len(equal) == len(runs):
        what = f"{spec} at {budget:g} RT, {_count(runs)} of {label}"
        joined.reproduced.append(
            f"{what}: the committed records themselves."
            if all(run == other for run, other in equal)
            else f"Reproduced: {what}: the same bits as committed."
        )
        return
    name = f"{spec} ({label})"
    joined.records.extend(_named(run, name, label) for run in runs)
    how = [f"{_count(runs)} of {label}", *_made(runs, committed), *_compared(pairs, equal)]
    joined.rows[track, budget, name] = "; ".join(how)


def _named(run: Record, name: str, label: str) -> Record:
    """A run under its row's name; a placebo is one of the own row of its method."""
    method = run.method.placebo_of
    changes = {"spec": name, "placebo_of": method and f"{method} ({label})"}
    return run.model_copy(update={"method": run.method.model_copy(update=changes)})


def _same_bits(run: Record, other: Record) -> bool:
    """Whether two runs ended in the same weights and scores, or failed for the same reason."""
    if run.failure is not None and other.failure is not None:
        return (run.failure.type, run.failure.message) == (
            other.failure.type,
            other.failure.message,
        )
    same = (run.weights, run.steps) == (other.weights, other.steps)
    return run == other or (same and run.weights is not None and _same_scores(run, other))


def _same_scores(run: Record, other: Record) -> bool:
    """Whether two runs have the same scores, as far as both have them: older records lack some."""
    found = [each.scores.model_dump() if each.scores else {} for each in (run, other)]
    known = [{name for name, value in one.items() if value is not None} for one in found]
    return bool(known[0] & known[1]) and all(
        found[0][name] == found[1][name] for name in known[0] & known[1]
    )


def _promised(run: Record, other: Record) -> bool:
    """Whether two runs must have the same bits: same configuration, source, harness, environment.

    The hash that names a record covers the first two.
    """
    same = run.hash == other.hash and run.bench == other.bench
    alike = not _differences(_environment(run), [_environment(other)])
    return same and alike and run.config.get("device") == "cpu"


def _compared(pairs: Pairs, equal: Pairs) -> Iterable[str]:
    """How own runs of a committed row differ from it."""
    if not pairs:
        return
    same = all(run.method.source == other.method.source for run, other in pairs)
    yield f"{'the same' if same else 'another'} source of the method as the committed row's"
    yield f"{len(equal)} of {len(pairs)} shared runs have the committed bits"
    strange = [pair for pair in pairs if _promised(*pair) and pair not in equal]
    if strange:
        yield (
            f"{len(strange)} of them differ though nothing does that bits may depend on: "
            "one side was edited, or is not repeatable"
        )
    differences: dict[str, list[float]] = defaultdict(list)
    for run, other in pairs:
        if run.scores is not None and other.scores is not None:
            differences[task_name(run)].append(run.scores.error - other.scores.error)
    effect = welch_satterthwaite([np.array(values) for values in differences.values()])
    if differences:
        yield f"test error less the committed row's: {percent(effect, signed=True)} points"


def _made(runs: Iterable[Record], committed: Iterable[Record]) -> Iterable[str]:
    """Whether environment and harness are those of committed runs."""
    known = [_environment(record) for record in committed]
    known = [each for number, each in enumerate(known) if each not in known[:number]]
    differ = {text for run in runs for text in _differences(_environment(run), known)}
    yield f"other environment ({listed(differ)})" if differ else "same environment"
    versions = {run.bench[:8] for run in runs} - {record.bench[:8] for record in committed}
    if versions:
        yield f"other version of the harness ({listed(versions)})"


def _environment(record: Record) -> dict[str, Any]:
    """What bits may depend on, flat; the commit aside, since the digest of the harness is told."""
    own = record.environment
    packages: dict[str, Any] = own.get("packages", {})
    return {key: own[key] for key in own if key not in ("packages", "git")} | packages


def _differences(mine: dict[str, Any], known: Iterable[dict[str, Any]]) -> list[str]:
    """Where an environment departs from the nearest committed one, in what both name."""
    found = [
        [
            f"{key} {value}, not {each[key]}"
            for key, value in mine.items()
            if each.get(key, value) != value
        ]
        for each in known
    ]
    return min(found, key=len)


# Groups and words


def _row(record: Record) -> Row:
    return record.track, record.budget, record.method.spec


def _grouped(
    records: Iterable[Record], by: Callable[[Record], Group]
) -> dict[Group, list[Record]]:
    """Records by a key, in the keys' order."""
    found: dict[Group, list[Record]] = defaultdict(list)
    for record in records:
        found[by(record)].append(record)
    return dict(sorted(found.items()))


def _count(runs: Sequence[Record]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
