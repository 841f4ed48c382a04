"""What records must share to stand in one table, and what a table must admit that they do not."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from bench.errors import RecordError
from bench.record import SCHEMA, Record, TaskInfo

DRIFT = 0.03
"""Change of RT within a run above which the table says so (notes/harness.md, section 5)."""


def check(records: Sequence[Record], suite: str) -> None:
    """Refuses records that no table may mix.

    Raises:
        RecordError: If they are of several suites, tracks, protocol versions or schemas; if one
            cell has two runs, one task name hides two tasks, or a finished run has no scores.
    """
    if not records:
        raise RecordError(f"suite {suite} has no records to tabulate")
    _same(records, "suite", lambda record: record.suite, [suite])
    _same(records, "schema", lambda record: record.schema_version, [SCHEMA])
    _same(records, "protocol version", lambda record: record.protocol)
    _same(records, "track", lambda record: record.track)
    for record in records:
        if record.status == "ok" and None in (record.scores, record.task, record.bill):
            raise RecordError(f"record {record.hash} is marked ok but lacks task, scores or bill")
        if record.bill is not None and not min(record.bill.rt_flops, record.bill.rt_seconds) > 0:
            raise RecordError(f"record {record.hash} has a reference training that cost nothing")
    _one_run_a_cell(records)
    _one_task_a_name(records)


def _same(
    records: Iterable[Record],
    what: str,
    value: Callable[[Record], object],
    allowed: Collection[object] | None = None,
) -> None:
    found = sorted({value(record) for record in records}, key=str)
    if allowed is not None and not set(found) <= set(allowed):
        raise RecordError(f"records are of {what} {_listed(found)}, wanted {_listed(allowed)}")
    if len(found) > 1:
        raise RecordError(f"one table cannot mix records of {what} {_listed(found)}: choose one")


def _one_run_a_cell(records: Iterable[Record]) -> None:
    cells: dict[tuple[object, ...], str] = {}
    for record in records:
        if record.task is None:  # failed before it had a cell
            continue
        cell = (record.budget, record.method.spec, record.task.name, record.seed)
        other = cells.setdefault(cell, record.hash)
        if other != record.hash:
            raise RecordError(
                f"records {other} and {record.hash} are both {cell[1]} on {cell[2]}, "
                f"seed {cell[3]}, budget {record.budget:g}: remove the stale one"
            )


def _one_task_a_name(records: Iterable[Record]) -> None:
    """Seeds pair only if every method saw the same arrays and recipe at one task and seed."""
    seen: dict[tuple[str, int], Record] = {}
    for record in records:
        if record.task is None:
            continue
        first = seen.setdefault((record.task.name, record.seed), record)
        assert first.task is not None
        if content(first.task) != content(record.task):
            raise RecordError(
                f"records {first.hash} and {record.hash} call different data or recipes "
                f"{record.task.name}, seed {record.seed}: they cannot be compared"
            )


def content(task: TaskInfo) -> tuple[object, ...]:
    """What the name leaves out: the source's content, the share of it used, and the recipe."""
    return task.digest, task.sizes, task.train_counts, task.recipe


def conditions(records: Sequence[Record]) -> list[str]:
    """How the runs were made: device, threads, compile flag and protocol, in one line or more.

    Mixtures are allowed, and said.
    """
    parts, notes = [], []
    for key, label in (("device", "device"), ("threads", "threads"), ("compile", "compiled")):
        found = sorted({_setting(record, key) for record in records} - {""})
        if found:
            parts.append(f"{label}: {_listed(found)}")
        if len(found) > 1:
            notes.append(
                f"Mixed {label} settings ({_listed(found)}): device-seconds of these rows do not "
                "compare, and neither do last digits of their errors."
            )
    parts.append(f"protocol: {records[0].protocol}")
    digests = {record.bench for record in records}
    if len(digests) > 1:
        notes.append(
            f"Records were made by {len(digests)} versions of the harness "
            f"({_listed(sorted(digest[:8] for digest in digests))})."
        )
    notes += _mixed_sources(records) + _shared_data(records) + _drift(records)
    return ["; ".join(parts).capitalize() + ".", *notes]


def _shared_data(records: Iterable[Record]) -> list[str]:
    """Tasks of one source at one seed share images, which the interval over tasks leaves out."""
    tasks = {record.task.name: record.task.data for record in records if record.task}
    shared = sorted({data for data in tasks.values() if list(tasks.values()).count(data) > 1})
    if not shared:
        return []
    return [
        f"Several tasks are cut from one source ({_listed(shared)}); intervals over tasks take "
        "tasks as independent and may be too narrow."
    ]


def _mixed_sources(records: Iterable[Record]) -> list[str]:
    sources: dict[str, set[str]] = defaultdict(set)
    for record in records:
        sources[record.method.spec].add(record.method.source)
    return [
        f"The runs of {spec} were made by {len(found)} versions of its source."
        for spec, found in sorted(sources.items())
        if len(found) > 1
    ]


def _drift(records: Iterable[Record]) -> list[str]:
    """The gpu track measures RT before and after a run, and the two should agree."""
    bills = [record.bill for record in records if record.bill and record.track == "gpu"]
    drifts = [
        abs(bill.rt_seconds_after / bill.rt_seconds - 1.0)
        for bill in bills
        if bill.rt_seconds_after is not None
    ]
    if not drifts or max(drifts) <= DRIFT:
        return []
    return [
        f"The device's own pace (RT) drifted by more than {100.0 * DRIFT:.0f} % during "
        f"{sum(drift > DRIFT for drift in drifts)} runs, by up to {100.0 * max(drifts):.0f} %: "
        "their budgets in device-seconds are that uncertain."
    ]


def _setting(record: Record, key: str) -> str:
    """A setting of the run as text; the device without its index, since a kind is meant."""
    value = record.config.get(key, record.environment.get(key))
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).split(":")[0] if key == "device" else str(value)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)
