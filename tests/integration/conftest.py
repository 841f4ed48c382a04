"""Runs the `augbench` command as its user would, in this process or in one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app

Command = Callable[..., "subprocess.CompletedProcess[str]"]
ENVIRONMENT = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}

METHODS = '''
"""Methods that fail in various ways, for tests."""

import os
import signal
import time
from pathlib import Path

import torch

from bench.augment.policy import Identity
from bench.method import Fitted, Method
from bench.train.loops import fit


class Raises(Method):
    name = "raises"

    def run(self, session):
        raise RuntimeError("on purpose")


class Killed(Method):
    name = "killed"

    def run(self, session):
        os.kill(os.getpid(), signal.SIGKILL)


class Flaky(Method):
    """Fails at its first try on a machine."""

    name = "flaky"

    def run(self, session):
        marker = Path(MARKER)
        if not marker.exists():
            marker.touch()
            raise RuntimeError("the first try")
        learner = session.learner()
        fit(session, learner, Identity(), steps=5)
        return Fitted(learner, Identity())


class Diverges(Method):
    name = "diverges"

    def run(self, session):
        learner = session.learner()
        with torch.no_grad():
            learner.network.head.weight.fill_(float("nan"))
        return Fitted(learner, Identity())


class Skips(Method):
    name = "skips"

    def skip(self, task, budget):
        return "it needs the moon"

    def run(self, session):
        raise AssertionError


class Overdraws(Method):
    name = "overdraws"

    def run(self, session):
        learner, batches = session.learner(), session.batches("train")
        while True:
            batch = next(batches)
            with session.metered("train"):
                learner.descend(learner.loss(batch.images, batch.targets), 0.0)


class Slow(Method):
    name = "slow"

    def run(self, session):
        time.sleep(600)
'''


@pytest.fixture
def augbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls `augbench ARGUMENTS` in an empty folder; imports and fork server serve all calls."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
        done = CliRunner().invoke(app, arguments)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    return call


@pytest.fixture
def alone(tmp_path: Path) -> Command:
    """The same in a process of its own, with time to spare, and variables of its environment."""

    def call(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "bench.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env={**ENVIRONMENT, **environment},
            check=False,
        )

    return call


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A file with methods that fail."""
    path = tmp_path / "failing.py"
    path.write_text(f"MARKER = {str(tmp_path / 'marker')!r}\n{METHODS}")
    return path
