"""What a person sees while runs go on: a live table on a terminal, plain lines elsewhere."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench.atomic import write_text
from bench.plain import plain

WIDTH = 130  # of tables that go into files and pictures


class Screen(Protocol):
    """Where runs report."""

    def started(self, name: str, label: str) -> None:
        """A run begins."""

    def tick(self, name: str, phase: str, share: float, error: float | None) -> None:
        """A run has used this share of its budget."""

    def finished(self, name: str, line: str) -> None:
        """A run ended, with a line about how."""


class Lines:
    """One line a finished run."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def started(self, name: str, label: str) -> None:
        """Says nothing: lines are for results."""

    def tick(self, name: str, phase: str, share: float, error: float | None) -> None:
        """Says nothing."""

    def finished(self, name: str, line: str) -> None:
        """Prints `[i/n] line`."""
        self._done += 1
        say(f"[{self._done}/{self._total}] {line}")


class Live:
    """A bar for all runs and one for each that goes on, with phase, error and time left."""

    def __init__(self, total: int, console: Console) -> None:
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[phase]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._all = self.bars.add_task(f"{total} runs", total=total, phase="")
        self._rows: dict[str, TaskID] = {}
        self._shares: dict[str, float] = {}
        self._done = 0
        self._total = total

    def started(self, name: str, label: str) -> None:
        """Adds a bar."""
        self._rows[name] = self.bars.add_task(_shown(label), total=1.0, phase="start")

    def tick(self, name: str, phase: str, share: float, error: float | None) -> None:
        """Moves its bar, and the bar of all by as much."""
        phase = _shown(phase)
        text = phase if error is None else f"{phase}, val error {100 * error:.1f} %"
        self.bars.update(self._rows[name], completed=min(share, 1.0), phase=text)
        self._shares[name] = min(share, 1.0)
        self.bars.update(self._all, completed=self._done + sum(self._shares.values()))

    def finished(self, name: str, line: str) -> None:
        """Replaces its bar by a line."""
        self._done += 1
        self._shares.pop(name, None)
        self.bars.remove_task(self._rows.pop(name))
        self.bars.console.print(f"\\[{self._done}/{self._total}] {_shown(line)}", highlight=False)
        self.bars.update(self._all, completed=self._done + sum(self._shares.values()))


@contextmanager
def display(todo: int, finished: int) -> Iterator[Screen]:
    """A screen for `todo` runs; says how many more have finished before."""
    if finished:
        say(f"{finished} finished runs found, {todo} to go")
    console = Console()
    if not console.is_terminal or not todo:
        yield Lines(todo)
        return
    live = Live(todo, console)
    with live.bars:
        yield live


@contextmanager
def decoding() -> Iterator[Callable[[str, int, int], None]]:
    """A callback for loading data: phase, images done, images in all; a bar on a terminal."""
    console = Console()
    if not console.is_terminal:
        yield lambda phase, done, total: None
        return
    rows: dict[str, TaskID] = {}
    with Progress(console=console, transient=True) as bars:

        def report(phase: str, done: int, total: int) -> None:
            if phase not in rows:
                rows[phase] = bars.add_task(phase, total=total)
            bars.update(rows[phase], completed=done)

        yield report


def table(
    title: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    picture: Path | None = None,
) -> None:
    """Prints a table, as wide as it needs to be where the output is no terminal.

    Args:
        title: Above it.
        headers: Of its columns; the second one is text, the others are numbers.
        rows: Its cells.
        notes: Lines below it.
        picture: Where to save what is printed as an SVG.
    """
    console = Console(width=None if sys.stdout.isatty() else WIDTH, record=picture is not None)
    grid = Table(title=_shown(title), title_justify="left")
    for number, header in enumerate(headers):
        grid.add_column(_shown(header), justify="left" if number == 1 else "right")
    for row in rows:
        grid.add_row(*(_shown(cell) for cell in row))
    console.print(grid)
    for note in notes:
        console.print(_shown(note), highlight=False)
    if picture is not None:
        # Without the web fonts that rich names, the picture needs nothing from the network.
        svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="augbench"), flags=re.S)
        write_text(picture, svg)


def say(line: str) -> None:
    """Prints a plain line at once."""
    print(plain(line), flush=True)


def _shown(text: str) -> str:
    """Text for rich: no markup, no commands to the terminal."""
    return escape(plain(text))
