"""What experiments made of suite runs share: how to ask for them, and how to write numbers."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path

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


def spread(value: float, half: float, sign: str = "", digits: int = 2) -> str:
    """A value with its half-width, if it has one."""
    text = f"{value:{sign}.{digits}f}" + ("" if isnan(half) else f" ± {half:.{digits}f}")
    return text.replace("-", "−")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
