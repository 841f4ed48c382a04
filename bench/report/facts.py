"""What a report tells in words: tasks, failures, environments and the commands that repeat it."""

import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence

from bench.record import Record
from bench.report.beside import Beside, beside, setting
from bench.report.statistics import Effect
from bench.report.table import Leaderboard, Row
from bench.report.text import percent, share

Lines = list[list[str]]
TASK_HEADS = [
    "task",
    "images: train / val / test",
    "classes: images of the smallest to the largest",
    "wrong labels",
    "recipe",
]
ENVIRONMENT_HEADS = ["runs", "where", "libraries", "commits (runs)"]
PAPER_HEADS = ["method", "task", "budget", "measured %", "paper %", "where", "of", "what differs"]


def tasks(records: Sequence[Record]) -> Lines:
    """A line for each task, as `TASK_HEADS` says; what depends on the seed is a range."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.task is not None:
            found[record.task.name].append(record)
    lines = []
    for name, runs in sorted(found.items()):
        infos = [run.task for run in runs if run.task is not None]
        sizes = infos[0].sizes
        smallest = min(min(info.train_counts) for info in infos)
        largest = max(max(info.train_counts) for info in infos)
        wrong = [info.flipped_total for info in infos]
        low, high = share(min(wrong)), share(max(wrong))
        recipe = ", ".join(f"{key} {value}" for key, value in sorted(infos[0].recipe.items()))
        lines.append(
            [
                name,
                " / ".join(str(sizes.get(part, "–")) for part in ("train", "val", "test")),
                f"{len(infos[0].classes)}: {smallest} to {largest}",
                low if low == high else f"{low} to {high}",
                recipe,
            ]
        )
    return lines


def papers(boards: Sequence[Leaderboard], records: Sequence[Record]) -> Lines:
    """Each measured error of a method that a paper has a number for on the data set, with it."""
    places = {
        record.task.name: (record, setting(record))
        for record in records
        if record.task is not None
    }
    lines = []
    for board in boards:
        for row in board.rows:
            for task, (_, where) in sorted(places.items()):
                found = beside(row.spec, where) if where is not None and task in row.cells else []
                if found:
                    lines.append(_published(board, row, task, found[0]))
    return lines


def _published(board: Leaderboard, row: Row, task: str, found: Beside) -> list[str]:
    cell, number = row.cells[task], found.published
    told = [f"{number.data}, {number.network}"]
    told += [f"{number.epochs:g} epochs"] if number.epochs else []
    told += [f"{number.runs} runs"] if number.runs else []
    return [
        row.spec,
        task,
        f"{board.budget:g} RT",
        percent(Effect(cell.mean, cell.half)),
        number.score,
        number.place,
        ", ".join([*told, number.selection]),
        "; ".join(found.differences) or "comparable",
    ]


def failures(records: Sequence[Record]) -> Lines:
    """Failed runs, those of a method that failed alike in one line.

    A line has the method, the task, the budget, the seeds, the error, the most attempts, and the
    hashes.
    """
    alike: dict[tuple[float, str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record.failure is not None:
            task = record.task.name if record.task else "before it had a task"
            error = f"{record.failure.type}: {record.failure.message}"
            alike[record.budget, record.method.spec, task, error].append(record)
    lines = []
    for (budget, spec, task, error), found in sorted(alike.items(), key=lambda pair: pair[0][:3]):
        found.sort(key=lambda record: record.seed)
        attempts = max(record.failure.attempts for record in found if record.failure)
        seeds = ", ".join(str(record.seed) for record in found)
        hashes = " ".join(record.hash[:8] for record in found)
        lines.append(
            [str(spec), str(task), f"{budget:g}", seeds, str(error), str(attempts), hashes]
        )
    return lines


def environments(records: Sequence[Record]) -> Lines:
    """Each environment that runs were made in: runs, device, settings, libraries, commits."""
    commits: dict[str, Counter[str]] = defaultdict(Counter)
    seen: dict[str, tuple[dict[str, object], Record]] = {}
    for record in records:
        rest = {key: value for key, value in record.environment.items() if key != "git"}
        key = json.dumps([rest, _settings(record)], sort_keys=True)
        seen.setdefault(key, (rest, record))
        commits[key][f"{record.environment.get('git', 'unknown commit')}"] += 1
    lines = []
    for key, (rest, record) in sorted(seen.items()):
        packages = rest.get("packages")
        libraries = packages if isinstance(packages, dict) else {}
        plain = [f"{name} {value}" for name, value in sorted(rest.items()) if name != "packages"]
        lines.append(
            [
                str(sum(commits[key].values())),
                ", ".join([*plain, _settings(record)]),
                ", ".join(f"{name} {version}" for name, version in sorted(libraries.items())),
                ", ".join(f"{name} ({count})" for name, count in sorted(commits[key].items())),
            ]
        )
    return lines


def _settings(record: Record) -> str:
    compiled = ", compiled" if record.config.get("compile") else ""
    return f"run on {record.config.get('device', 'unknown device')}{compiled}"


def commands(records: Sequence[Record], suite: str, known: bool) -> list[str]:
    """What to type for the same records, tables and page.

    Args:
        records: The suite's.
        suite: Its name.
        known: Whether the project has a suite of this name; else its parts are spelt out.
    """
    config = records[0].config
    name = shlex.quote(suite)
    start = f"augbench run --suite {name}" if known else f"augbench run {_parts(records, name)}"
    threads = config.get("threads", 1)
    options = [f"--threads {threads}"] if threads != 1 else []
    options += ["--compile"] if config.get("compile") else []
    told = " ".join([start, *options])
    return [told, f"augbench leaderboard {name}", f"augbench report {name}"]


def _parts(records: Sequence[Record], name: str) -> str:
    tasks_ = [record.task for record in records if record.task is not None]
    parts = [f"--data {shlex.quote(text)}" for text in sorted({task.data for task in tasks_})]
    parts += [f"-m {shlex.quote(text)}" for text in sorted({r.method.spec for r in records})]
    parts += [f"--distort {shlex.quote(text)}" for text in sorted({t.distort for t in tasks_})]
    parts += [f"--network {shlex.quote(text)}" for text in sorted({t.network for t in tasks_})]
    parts += [f"--budget {budget:g}rt" for budget in sorted({r.budget for r in records})]
    parts += [f"--seeds {len({r.seed for r in records})}", f"--name {name}"]
    return " ".join([*parts, f"--track {records[0].track}"])
