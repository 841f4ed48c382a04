"""The README tells the truth: its tables are the records', its commands and files exist."""

import re
from pathlib import Path

import pytest

from bench.config import load_suite
from bench.record import read_records
from bench.report import console, leaderboard

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COLUMNS = ("place", "method", "Δ %", "W/T/L", "error %", "time", "FLOPs")


def block(suite: str) -> list[str]:
    """The lines between a suite's markers."""
    found = re.search(rf"<!-- leaderboard {re.escape(suite)} -->\n(.*?)<!-- end -->", README, re.S)
    assert found, f"README.md has no block for {suite}"
    return found[1].splitlines()


def expected(suite: str) -> list[str]:
    """The suite's own rows of the table that the committed records give."""
    (board,) = leaderboard.build(
        read_records(ROOT / "results", suite), suite=suite, reference=load_suite(suite).reference
    )
    headers, rows = console.rows(board)
    # Placebos and ablations that the suite does not list stand in the whole table alone.
    method, listed = headers.index("method"), load_suite(suite).methods
    rows = [row for row in rows if row[method].partition(" ")[0] in listed]
    keep = [headers.index(name) for name in COLUMNS]
    lines = [[headers[i] for i in keep], ["---"] * len(keep)]
    lines += [[row[i] for i in keep] for row in rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


SUITES = sorted(path.parent.name for path in ROOT.glob("results/*/runs"))


@pytest.mark.parametrize("suite", SUITES)
def test_tables_are_the_records(suite: str) -> None:
    assert block(suite) == expected(suite)


@pytest.mark.parametrize("suite", SUITES)
def test_committed_leaderboards_are_the_records(suite: str, tmp_path: Path) -> None:
    folder = tmp_path / suite
    folder.mkdir()
    (folder / "runs").symlink_to(ROOT / "results" / suite / "runs")
    _, paths = leaderboard.write(tmp_path, suite, reference=load_suite(suite).reference)
    for path in paths:
        assert path.read_bytes() == (ROOT / "results" / suite / path.name).read_bytes()


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target


if __name__ == "__main__":  # python -m tests.integration.test_readme: writes the tables
    text = README
    for name in SUITES:
        start, end = f"<!-- leaderboard {name} -->\n", "<!-- end -->"
        at = text.index(start) + len(start)
        text = text[:at] + "\n".join(expected(name)) + "\n" + text[text.index(end, at) :]
    (ROOT / "README.md").write_text(text, encoding="utf-8")
