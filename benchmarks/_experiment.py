"""What experiments made of suite runs share: how to ask for them, and how to write numbers."""

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path

from bench.cli.common import plugins
from bench.errors import RecordError
from bench.plugins import select
from bench.record import Record, read_records
from bench.request import Request


def request(suite: str, results: Path, jobs: int | None, methods: Sequence[str] = ()) -> Request:
    """What `augbench run --suite S -m ... --devices cpu --jobs N --results FOLDER` asks for."""
    return Request(
        suite=suite,
        data=None,
        methods=tuple(methods),
        distort=(),
        budgets=(),
        seeds=None,
        network=None,
        size=None,
        steps=None,
        name=None,
        track=None,
        jobs=jobs,
        devices="cpu",
        threads=1,
        compiled=False,
        root=None,
        memory_limit=4 << 30,
        skip_corrupt=False,
        results=results,
    )


def gather(
    results: Path,
    suite: str,
    methods: Mapping[str, str],
    tasks: Sequence[str],
    failed: bool = False,
) -> dict[tuple[str, str], list[Record]]:
    """A suite's records by row and distortion, those of a cell by seed.

    Args:
        results: Where suites lie.
        suite: Its name.
        methods: Specifications by the rows' names.
        tasks: Distortions.
        failed: Whether runs that failed count too.

    Raises:
        RecordError: If some are missing.
    """
    known, records = plugins(None), read_records(results, suite)
    found: dict[tuple[str, str], list[Record]] = {}
    for name, method in methods.items():
        spec = select(known, method).spec
        for task in tasks:
            cell = [
                record
                for record in records
                if record.method.spec == spec
                and record.config["task"]["distort"] == task
                and (failed or record.status == "ok")
            ]
            found[name, task] = sorted(cell, key=lambda record: record.seed)
    full = max(map(len, found.values()))
    if short := [" · ".join(cell) for cell, kept in found.items() if len(kept) < full]:
        raise RecordError(f"{suite}: runs are missing of {', '.join(short)}: add --run")
    return found


def spread(value: float, half: float, sign: str = "", digits: int = 2) -> str:
    """A value with its half-width, if it has one."""
    text = f"{value:{sign}.{digits}f}" + ("" if isnan(half) else f" ± {half:.{digits}f}")
    return text.replace("-", "−")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
