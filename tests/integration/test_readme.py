"""The README tells the truth: its tables are the records', its commands and files exist."""

import re
from pathlib import Path

import pytest

from bench.publish import checking, tables
from bench.report import readme

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SUITES = sorted(path.parent.name for path in RESULTS.glob("*/runs"))


@pytest.mark.parametrize("name", SUITES)
def test_tables_are_the_records(name: str) -> None:
    _, suite = checking.named(name, RESULTS)
    made = tables.made(RESULTS, name, suite.reference if suite else None)
    for file, text in made.texts.items():
        assert (RESULTS / name / file).read_bytes() == text.encode()
    assert name in readme.names(README)
    assert tables.rewritten(README, name, suite, made) == README


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target


if __name__ == "__main__":  # python -m tests.integration.test_readme: writes the tables anew
    for each in SUITES:
        for changed in checking.refresh(checking.Request(each, RESULTS)):
            print(f"wrote {changed}")
