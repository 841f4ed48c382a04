"""A cell of every task type of the `full` suite, end to end: its files, network and recipe.

What is shrunk is said in `tiny`: images, steps, batches, and the second use of a large network.
"""

from pathlib import Path

import pytest

import baselines
import methods
from bench import stage
from bench.config import RunConfig, SuiteTask, load_suite
from bench.plugins import discover, select
from bench.record import read_record, record_path, write_record
from bench.runner import DataOptions, Made, execute
from tests.datasets import generate

SUITE = load_suite("full")
SIDES = {"imagenet": 32}
NARROW = {("svhn", "wrn-28-10"): "wrn-28-1", ("cifar100", "wrn-40-2"): "wrn-40-1"}


def cells() -> list[SuiteTask]:
    """The first task with each data set and the first with each network."""
    seen: set[str] = set()
    chosen = []
    for task in SUITE.tasks:
        if not {task.data, task.network} <= seen:
            chosen.append(task)
        seen |= {task.data, task.network}
    return chosen


def tiny(task: SuiteTask, method: str) -> RunConfig:
    """The task's last distortion, on small images, for two steps of two images."""
    recipe = task.recipe.model_copy(update={"steps": 2, "batch_size": 2})
    network = NARROW.get((task.data, task.network), task.network)
    changes = {"recipe": recipe, "network": network, "size": SIDES.get(task.data, 8)}
    config = task.tasks()[-1].model_copy(update=changes)
    return RunConfig(suite=SUITE.name, task=config, method=method, budget=1.0, seed=0)


@pytest.mark.parametrize("task", cells(), ids=lambda task: f"{task.data}-{task.network}")
def test_a_cell_of_every_type_runs(
    task: SuiteTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stage.TIMED_STEPS, "portable", 1)
    generate(task.data, tmp_path, monkeypatch)
    folders = [Path(package.__path__[0]) for package in (methods, baselines)]
    spec = "cutout" if task.data == "imagenet" else "uniformaugment"
    config = tiny(task, spec)
    # Above a limit of 0 bytes images are decoded into a cache, as ImageNet's are.
    limit = 0 if task.data == "imagenet" else 1 << 30
    made = execute(config, select(discover(folders), spec), DataOptions(tmp_path, limit))
    assert isinstance(made, Made)
    assert made.record.failure is None, made.record.failure
    write_record(record_path(tmp_path, SUITE.name, made.record.hash), made.record)
    record = read_record(record_path(tmp_path, SUITE.name, made.record.hash))
    assert record.task is not None
    assert (record.task.data, record.task.distort) == (task.data, task.distort[-1])
    assert 1 <= record.steps <= 2, "of so few steps the rehearsal is billed"
    assert record.scores is not None
    assert (tmp_path / ".augbench-cache").is_dir() is (task.data == "imagenet")


def test_the_cells_cover_every_data_set_and_network() -> None:
    chosen = cells()
    assert {task.data for task in chosen} == {"cifar10", "cifar100", "svhn", "imagenet"}
    assert {task.network for task in chosen} == {task.network for task in SUITE.tasks}
