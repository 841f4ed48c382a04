"""docs/adding-a-method.md as a reader would follow it: its files written, its commands run.

A code block after `<!-- file: NAME -->` is that file.  A `console` block holds commands, each with
what it prints: `...` stands for any lines, and numbers may differ, as another processor's do.
Blocks after `<!-- slow -->` train more, or need a copy of the project: `--slow` runs them too, all
commands in a shell.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.scaffold import TEMPLATE

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "adding-a-method.md"
BLOCK = re.compile(r"(?:<!-- (.*?) -->\n)?```(\w+)\n(.*?)```\n", re.S)
NUMBER = re.compile(r"[+−-]?\d[\d,.]*")
Shell = Callable[[str], tuple[int, str]]


@dataclass(frozen=True)
class Block:
    """A code block: its language, its text and the comment before it."""

    comment: str
    language: str
    text: str

    @property
    def file(self) -> str:
        """The file that it is; empty if none."""
        return self.comment.partition("file: ")[2]

    @property
    def commands(self) -> Iterator[tuple[str, str]]:
        """Commands, each with what it prints."""
        for part in re.split(r"^\$ ", self.text, flags=re.M)[1:]:
            command, _, printed = part.partition("\n")
            yield command, printed


def blocks() -> list[Block]:
    text = DOCUMENT.read_text(encoding="utf-8")
    return [Block(comment, language, body) for comment, language, body in BLOCK.findall(text)]


def plain(text: str) -> list[str]:
    """Lines without table borders, empty lines and the values of numbers."""
    lines = (
        " ".join(NUMBER.sub("#", line.replace("│", " ")).split()) for line in text.split("\n")
    )
    return [line for line in lines if line]


def agrees(printed: str, expected: str) -> bool:
    """Whether a command printed what the document shows."""
    lines = (".*" if line == "..." else re.escape(line) + "\n" for line in plain(expected))
    return (
        re.fullmatch("".join(lines), "".join(f"{x}\n" for x in plain(printed)), re.S) is not None
    )


def follow(folder: Path, shell: Shell, slow: bool) -> int:
    """Writes files and runs commands in order; returns how many commands it ran."""
    count = 0
    for block in blocks():
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "console" and (slow or block.comment != "slow"):
            for command, expected in block.commands:
                code, printed = shell(command)
                assert code == 0, f"{command}\n{printed}"
                assert agrees(printed, expected), f"{command}\n{printed}"
                count += 1
    return count


def here(command: str) -> tuple[int, str]:
    """Runs `augbench ... | filter`, augbench in this process: importing torch takes seconds."""
    first, _, rest = command.partition(" | ")
    words = shlex.split(first)
    if words[0] == "python":
        words[0] = sys.executable
        done = subprocess.run(
            words, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr
    assert words[0] == "augbench"
    result = CliRunner().invoke(app, words[1:])
    if not rest or result.exit_code:
        return result.exit_code, result.output
    piped = subprocess.run(
        rest, shell=True, input=result.stdout, capture_output=True, text=True, check=False
    )
    return piped.returncode, piped.stdout


def test_the_walkthrough_with_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "results/quick/runs", tmp_path / "results/quick/runs")
    monkeypatch.chdir(tmp_path)
    assert follow(tmp_path, here, slow=False) == 5
    assert not (tmp_path / "results/quick/leaderboard.md").exists()


@pytest.mark.slow
def test_the_whole_walkthrough_in_a_shell(tmp_path: Path) -> None:
    for part in ("bench", "methods", "baselines", "tests", "results/quick"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("augbench", "-m bench.cli "), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        program.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PATH": path}

    def shell(command: str) -> tuple[int, str]:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout

    assert follow(tmp_path, shell, slow=True) == 11
    assert "ramp[slope=flat]" in (tmp_path / "results/quick/leaderboard.csv").read_text()


def test_what_the_document_names_is_there() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    named = re.findall(r"`((?:bench|methods|baselines|tests)/[\w/.]+)`", text)
    assert named
    for name in named:
        assert (ROOT / name).exists(), name
    assert "docs/adding-a-method.md" in TEMPLATE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("a 1.5 %\n", "a −12 %\n", True),
        ("│ a  │ 3 │\n", "│ a │ 4 │\n", True),
        ("a\nb\nc\n", "a\n...\nc\n", True),
        ("a\nc\n", "a\n...\nc\n", True),
        ("anything\n", "...\n", True),
        ("", "", True),
        ("a\nb\n", "a\n", False),
        ("b\n", "a\n", False),
        ("ok 1\nFAIL 2\n", "ok 1\nok 2\n", False),
        ("a\n", "", False),
    ],
)
def test_the_comparison_finds_what_it_should(printed: str, expected: str, same: bool) -> None:
    assert agrees(printed, expected) is same
