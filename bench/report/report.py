"""Writes a suite's report, a function of its records: the page, pictures for print, tables."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO

import pandas as pd

from bench.atomic import replace_file, write_text
from bench.record import Record
from bench.report import latex, leaderboard, page, pictures
from bench.report.page import Labels
from bench.report.render import csv
from bench.report.text import cell
from bench.report.tidy import Table

PRINTED = ("cost", "anytime", "reference", "placebos")
"""Pictures that are also written as PNG: those that papers and slides want."""


def write(
    records: Sequence[Record],
    suite: str,
    output: Path,
    labels: Labels,
    *,
    reference: str | None = None,
    title: str = "",
    known: bool = False,
) -> list[Path]:
    """Writes `index.html`, `figures/` and `tables/`.

    Args:
        records: The suite's records.
        suite: Its name.
        output: The folder.
        labels: Names of the rows of a run's policy.
        reference: The row to compare with; by default filled `standard`.
        title: The suite's title, if it has one.
        known: Whether the project has a suite of this name.

    Returns:
        What was written, the page first.

    Raises:
        RecordError: If the records may not be mixed.
        OSError: If the disk refuses.
    """
    records = sorted(records, key=lambda record: record.hash)  # sums depend on the order
    boards = leaderboard.build(records, suite=suite, reference=reference)
    data = pictures.gather(boards, records)
    texts = {"index.html": page.html(boards, records, data, labels, title=title, known=known)}
    figures = pictures.figures(data)
    texts |= {f"figures/{name}.svg": picture for name, picture in figures.items()}
    texts["tables/leaderboard.csv"] = csv(boards)
    for board in boards:
        texts[f"tables/leaderboard-{board.budget:g}rt.tex"] = latex.leaderboard(board)
        texts[f"tables/tasks-{board.budget:g}rt.tex"] = latex.per_task(board)
    for name, table in data.tables.items():
        texts[f"tables/{name}.csv"] = _csv(table)
    for name, text in texts.items():
        write_text(output / name, text)
    paths = [output / name for name in texts]
    for name, picture in figures.items():
        if name.startswith(PRINTED):
            paths.append(output / "figures" / f"{name}.png")
            replace_file(paths[-1], partial(_fill, pictures.png(picture)))
    return paths


def _fill(content: bytes, file: IO[bytes]) -> int:
    return file.write(content)


def _csv(table: Table) -> str:
    """A tidy table's rows; text that a spreadsheet would run gets an apostrophe."""
    lines = [
        {
            name: cell(value) if isinstance(value, str) else value
            for name, value in line.items()
            if name not in ("order", "classes")
        }
        for line in table
    ]
    return str(pd.DataFrame(lines).to_csv(index=False, lineterminator="\n"))
