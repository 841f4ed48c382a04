"""Shared fixtures: one thread, no surprise downloads, the `--slow` option."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.check import small_task
from bench.train.prepare import Prepared

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="gpu: this machine has no CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small() -> Prepared:
    """The digits, distorted, with the conformance recipe of 60 steps."""
    return small_task()


@pytest.fixture(scope="session")
def cifar_small() -> Iterator[Path]:
    """The folder of CIFAR-10 (JPEG, small), where this checkout can find it."""
    places = [Path(os.environ.get("AUGBENCH_DATA", "data")), ROOT.parent / "shared" / "data"]
    for place in places:
        if (place / "cifar10-jpeg-small").is_dir():
            yield place / "cifar10-jpeg-small"
            return
    pytest.skip("CIFAR-10 (JPEG) is not here: set AUGBENCH_DATA to the folder that holds it")
