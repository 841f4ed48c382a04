"""A suite's records against its TOML and against each other: what is missing, extra or foreign."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.archive import Cell, cell_of
from bench.config import RunConfig, Suite
from bench.data.sources import canonical
from bench.environment import bench_digest
from bench.errors import ConfigError, DataError
from bench.plugins import Plugin, Selected, options_of, select
from bench.publish.findings import Findings
from bench.record import PROTOCOL_VERSION, Record
from bench.runner import DataOptions
from bench.train.prepare import prepare
from bench.train.task import Task


@dataclass(frozen=True)
class Wanted:
    """A cell of the suite: its configuration, with the data as the TOML names them."""

    config: RunConfig
    selected: Selected


def wanted(suite: Suite, plugins: dict[str, Plugin]) -> dict[Cell, Wanted]:
    """The cells that the suite's TOML asks for.

    Raises:
        ConfigError: If it names an unknown method or option.
    """
    found = {}
    for config in suite.runs(device="cpu", threads=1, compiled=False):
        selected = select(plugins, config.method)
        content = config.model_dump(mode="json") | {"method": selected.spec}
        content["task"]["data"] = canonical(config.task.data)
        found[cell_of(content)] = Wanted(config, selected)
    return found


def cells(records: Iterable[Record]) -> dict[Cell, list[Record]]:
    """Records by cell; in a sound suite there is one in each."""
    found: dict[Cell, list[Record]] = defaultdict(list)
    for record in records:
        found[cell_of(record.config)].append(record)
    return found


def check(
    found: dict[Cell, list[Record]],
    asked: dict[Cell, Wanted],
    suite: Suite,
    data: DataOptions,
    findings: Findings,
) -> None:
    """Completeness: every cell of the suite has one record, made with the suite's settings."""
    missing = [cell for cell in asked if cell not in found]
    skipped, problems = _skipped({cell: asked[cell] for cell in missing}, data)
    findings.notes += skipped
    problems += [
        f"{_named(cell)}: records {', '.join(r.hash for r in group)} are of one cell"
        for cell, group in found.items()
        if len(group) > 1
    ]
    for cell, group in found.items():
        if cell in asked:
            problems += _other_settings(group, asked[cell].config)
    there = len(asked) - len(missing)
    findings.verify(f"completeness: the suite's {there} cells have a record each", problems)
    _say_extra(found, asked, findings)
    failed = [record for group in found.values() for record in group if record.failure]
    findings.notes += [
        f"{_named(cell_of(record.config))}: failed, as {record.hash} says "
        f"({record.failure.type if record.failure else ''})"
        for record in failed
    ]


def _skipped(lacking: dict[Cell, Wanted], data: DataOptions) -> tuple[list[str], list[str]]:
    """Of the cells without a record: those that a method declines, and those missing."""
    notes, problems = [], []
    tasks: dict[str, Task] = {}  # one seed's data will do
    for cell, one in lacking.items():
        name, reason, key = _named(cell), None, one.config.task.model_dump_json()
        try:
            if key not in tasks:
                tasks[key] = _task_of(one.config, data)
            reason = one.selected.make().skip(tasks[key], one.config.budget)
        except (ConfigError, DataError):  # its text may hold a path of this machine
            name += " (its data are not here, so that its method cannot decline)"
        if reason is None:
            problems.append(f"{name}: there is no record")
        else:
            notes.append(f"{name}: skipped by the method: {reason}")
    return notes, problems


def _task_of(config: RunConfig, data: DataOptions) -> Task:
    task = config.task
    prepared = prepare(
        data.source(task.data, task.size),
        distort=task.distort,
        network=task.network,
        recipe=task.recipe,
        seed=config.seed,
        device=torch.device("cpu"),
        val_fraction=task.val_fraction,
    )
    return prepared.task


def _other_settings(group: Iterable[Record], config: RunConfig) -> list[str]:
    task = config.task.model_dump(mode="json")
    task["data"] = canonical(config.task.data)
    return [
        f"{record.hash}: its {name} is {record.config['task'].get(name)!r}, the suite's {value!r}"
        for record in group
        for name, value in task.items()
        if record.config["task"].get(name) != value
    ]


def _say_extra(
    found: dict[Cell, list[Record]], asked: dict[Cell, Wanted], findings: Findings
) -> None:
    rows: dict[str, int] = defaultdict(int)
    for cell, group in found.items():
        if cell not in asked:
            rows[group[0].method.spec] += len(group)
    if rows:
        told = ", ".join(f"{spec} ({count})" for spec, count in sorted(rows.items()))
        findings.notes.append(f"beyond the suite's cells there are records of {told}")


def _named(cell: Cell) -> str:
    data, distort, network, method, budget, seed, _ = cell
    return f"{data} · {distort} · {network} · {method} · {budget:g} RT · seed {seed}"


def mixtures(records: Sequence[Record], suite: Suite | None, name: str) -> list[str]:
    """Records of another protocol, track or suite than this one's."""
    problems = []
    for record in records:
        allowed = {"protocol": PROTOCOL_VERSION, "suite": name}
        if suite is not None:
            allowed["track"] = suite.track
        problems += [
            f"{record.hash}: it is of {what} {getattr(record, what)}, this suite of {value}"
            for what, value in allowed.items()
            if getattr(record, what) != value
        ]
    tracks = {record.track for record in records}
    if suite is None and len(tracks) > 1:
        problems.append(f"the records are of the tracks {', '.join(sorted(tracks))}")
    return problems


def disagreements(records: Sequence[Record]) -> list[str]:
    """What must be equal among records and is not, measured by the first of each group."""
    ok = [record for record in records if record.task is not None and record.bill is not None]
    problems = []
    for what, group, value in _EQUAL:
        first: dict[object, Record] = {}
        for record in ok:
            measure = first.setdefault(group(record), record)
            if value(record) != value(measure):
                problems.append(f"{record.hash}: its {what} differs from that of {measure.hash}")
    return problems + _twins(ok)


def _task(record: Record) -> str:
    return record.task.name if record.task else ""


def _made_of(record: Record) -> object:
    """The data that a seed of a task gives, which no method can touch."""
    task = record.task
    assert task is not None
    return task.model_dump(exclude={"skipped_files"})


def _smallest(record: Record) -> object:
    """The method's smallest faithful budget, rounded; the record holds a share of it."""
    share = record.method.scaled
    return None if share is None else round(record.budget / share, 9)


def _rt_flops(record: Record) -> object:
    return record.bill.rt_flops if record.bill else None


_EQUAL: tuple[tuple[str, Callable[[Record], object], Callable[[Record], object]], ...] = (
    ("price of 1 RT in FLOPs", _task, _rt_flops),
    ("task", lambda r: (_task(r), r.seed), _made_of),
    (
        "smallest faithful budget",
        lambda r: (_task(r), r.method.spec, r.budget, r.method.source),
        _smallest,
    ),
    (
        "description of the method",
        lambda r: (r.method.spec, r.method.source, r.bench),
        lambda r: (r.method.options, r.method.learned, r.method.clean_labels, r.method.placebo_of),
    ),
)


def _twins(records: Iterable[Record]) -> list[str]:
    """Equal weights: of two seeds they are a copy, and on one task they have one test error."""
    first: dict[object, Record] = {}
    problems = []
    for record in records:
        twin = first.setdefault((_task(record), record.weights), record)
        if twin.seed != record.seed:
            problems.append(
                f"{record.hash}: it has the weights of {twin.hash}, another seed ({twin.seed})"
            )
        elif record.scores and twin.scores and record.scores.error != twin.scores.error:
            problems.append(f"{record.hash}: the weights of {twin.hash}, and another test error")
    return problems


def descriptions(
    records: Iterable[Record], plugins: dict[str, Plugin], findings: Findings
) -> None:
    """What records say of their methods, against the methods as they are now."""
    problems, old, checked, bench = [], set(), 0, bench_digest()
    for record in records:
        told = record.method
        plugin = plugins.get(told.name)
        if plugin is None or plugin.source != told.source:
            old.add(told.name)
            continue
        checked += 1
        try:
            now = _described(plugins, told.spec)
        except ConfigError as error:
            problems.append(f"{record.hash}: {error}")
            continue
        if record.bench != bench:  # options that have come since are at their defaults
            now["options"] = {k: v for k, v in now["options"].items() if k in told.options}
        problems += [
            f"{record.hash}: it says {name} = {getattr(told, name)!r}, its method {value!r}"
            for name, value in now.items()
            if getattr(told, name) != value
        ]
    findings.verify(f"{checked} records describe their methods as these are", problems)
    if old:
        findings.unverified.append(
            "descriptions of methods whose source has changed since, which no re-run can prove "
            f"either: {', '.join(sorted(old))}"
        )


def _described(plugins: dict[str, Plugin], spec: str) -> dict[str, Any]:
    selected = select(plugins, spec)
    method = selected.plugin.method
    return {
        "spec": selected.spec,
        "options": options_of(selected.config),
        "learned": method.learned,
        "clean_labels": method.declared(selected.config),
        "placebo_of": selected.placebo_of,
    }
