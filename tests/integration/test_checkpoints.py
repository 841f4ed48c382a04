"""A run that is killed in the middle of its one training goes on from its checkpoint."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_run import bits

METHOD = '''
"""The standard baseline, whose process is killed at a step, once."""

import os
import signal
from pathlib import Path

from bench.augment.policy import Chain, Identity
from bench.method import FixedPolicy
from bench.train.task import standard

STEPS = Path(os.environ["STOP_FOLDER"]) / "steps"


class Killing(Identity):
    def sample(self, index, rng):
        with STEPS.open("ab") as steps:
            steps.write(b".")
        if STEPS.stat().st_size == int(os.environ["STOP_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(index, rng)


class Stopped(FixedPolicy):
    name = "stopped"

    def policy(self, task):
        return Chain(standard(task), Killing())
'''
OPTIONS = "run --data digits --network small-cnn --steps 60 --budget 1 --seeds 1 --name own"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def made(alone: Command, folder: Path, at: int, *more: str) -> tuple[dict[str, Any], int]:
    """The record of a run that is killed at a step, and how many steps all processes took."""
    folder.mkdir()
    (folder / "stopping.py").write_text(METHOD)
    own = ["-m", "stopped", "--plugin", str(folder / "stopping.py")]
    own += ["--results", str(folder / "results"), "--checkpoint-minutes", "1e-9"]
    environment = {"STOP_FOLDER": str(folder), "STOP_AT": str(at)}
    done = alone(*OPTIONS.split(), *own, *more, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (folder / "results/own/runs").glob("*.json")
    assert list((folder / "results/own").glob("partial/*")) == []
    record: dict[str, Any] = json.loads(path.read_text())
    return record, (folder / "steps").stat().st_size


@pytest.mark.slow  # test_executors.py kills a worker without the command around it
def test_a_kill_costs_a_step_and_no_bit(alone: Command, tmp_path: Path) -> None:
    whole, steps = made(alone, tmp_path / "whole", 0)
    killed, again = made(alone, tmp_path / "killed", 41)
    assert bits(killed) == bits(whole)
    assert again == steps + 2, "the rehearsal, and the step that was cut off"
    assert whole["bill"]["redone_flops"] == 0
    step = whole["bill"]["flops"] // 60
    assert killed["bill"]["redone_flops"] == step, "the rehearsal: no FLOP of the last step is in"
    assert killed["bill"]["flops"] == whole["bill"]["flops"]
    assert killed["bill"]["checkpoint_seconds"] > 0
