"""Whether the published tables are what the records give, and writing them so."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.atomic import write_text
from bench.config import Suite
from bench.errors import RecordError
from bench.publish.findings import Findings
from bench.record import read_records
from bench.report import leaderboard, notes, readme
from bench.report.table import Leaderboard


@dataclass(frozen=True)
class Tables:
    """A suite's tables as its records give them: the boards, and the files' texts by name."""

    boards: list[Leaderboard]
    texts: dict[str, str]


def made(results: Path, name: str, reference: str | None) -> Tables:
    """Makes the tables anew, without touching those that are there.

    Raises:
        RecordError: If a record cannot be read, or the records may not be mixed.
    """
    boards = leaderboard.build(read_records(results, name), suite=name, reference=reference)
    with tempfile.TemporaryDirectory() as folder:
        paths = leaderboard.save(boards, Path(folder))
        return Tables(boards, {path.name: path.read_text(encoding="utf-8") for path in paths})


def documents(results: Path) -> list[Path]:
    """Where tables may be quoted: Markdown beside `results` and in `docs` beside it.

    What lies in another folder, e.g. in `local`, is nobody's publication.
    """
    if results.resolve().name != "results":
        return []
    beside = results.resolve().parent
    return sorted([*beside.glob("*.md"), *beside.glob("docs/**/*.md")])


def check(results: Path, name: str, suite: Suite | None, tables: Tables, f: Findings) -> None:
    """Admission, the leaderboard's files byte for byte, and every table in a document."""
    _admission(tables.boards, f)
    for file, text in tables.texts.items():
        path = results / name / file
        problems = []
        if not path.is_file():
            problems = [f"{file} is missing: run `augbench leaderboard {name}`"]
        elif path.read_bytes() != text.encode():
            problems = [f"{file} is not what the records give{_where(path, text)}"]
        f.verify(f"{file} is what the records give, byte for byte", problems)
    quoted = 0
    for path in documents(results):
        text = path.read_text(encoding="utf-8")
        count = readme.names(text).count(name)
        if not count:
            continue
        quoted += count
        try:
            same, reason = rewritten(text, name, suite, tables) == text, "is not what they give"
        except RecordError as error:
            same, reason = False, str(error)
        f.verify(
            f"{path.name}: the table is what the records give",
            [] if same else [f"{path.name}: the table of {name} {reason}"],
        )
    if not quoted:
        f.notes.append("no document beside the results quotes its table")
    f.unverified += [
        "numbers in running text, and tables outside of markers",
        "device-seconds: nobody can measure them again",
    ]


def rewritten(text: str, name: str, suite: Suite | None, tables: Tables) -> str:
    """A document with the suite's tables made anew."""
    listed = set(suite.methods) if suite is not None else None
    return readme.rewritten(text, name, lambda which: readme.block(tables.boards, listed, which))


def refresh(results: Path, name: str, suite: Suite | None, tables: Tables) -> list[Path]:
    """Writes the leaderboard's files and the documents' tables anew.

    Returns:
        The files that have changed.

    Raises:
        RecordError: If a document's marker does not choose one table.
    """
    fresh = {results / name / file: text for file, text in tables.texts.items()}
    for path in documents(results):
        fresh[path] = rewritten(path.read_text(encoding="utf-8"), name, suite, tables)
    changed = [p for p, t in fresh.items() if not p.is_file() or p.read_bytes() != t.encode()]
    for path in changed:
        write_text(path, fresh[path])
    return changed


def _admission(boards: list[Leaderboard], f: Findings) -> None:
    """PROTOCOL.md, Scores: the suite is admitted if one of its tables is."""
    verdicts = [(board.title, *notes.admitted(board)) for board in boards]
    said = [f"{title}: not admitted: {reason}" for title, ok, reason in verdicts if not ok]
    if len(said) == len(boards):
        f.problems += said
        return
    f.notes += said
    f.verified += [f"{title}: admitted: {reason}" for title, ok, reason in verdicts if ok]


def _where(path: Path, text: str) -> str:
    """The first line that differs, numbered."""
    there = path.read_text(encoding="utf-8", errors="replace").splitlines()
    made = text.splitlines()
    pairs = zip([*there, "(end)"], [*made, "(end)"], strict=False)
    line = next((n for n, (old, new) in enumerate(pairs, 1) if old != new), None)
    return f", from line {line} on" if line else " (line ends)"
