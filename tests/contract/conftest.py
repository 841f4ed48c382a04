"""Helpers for contract tests: run a method that is written inside the test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.check import Trial, small_config, trial
from bench.method import Method, MethodConfig
from bench.plugins import Plugin, Selected
from bench.train.prepare import Prepared


def selected(method: type[Method]) -> Selected:
    """A method of the test's own, as if it had been found in a file."""
    plugin = Plugin(method, Path(__file__), "test")
    return Selected(plugin, MethodConfig(), method.name, None)


@pytest.fixture
def run_small(small: Prepared) -> Callable[..., Trial]:
    """Runs a method class on the small task with one FLOP counter around it."""

    def run(method: type[Method], budget: float = 2.0, compiled: bool = False) -> Trial:
        chosen = selected(method)
        config = small_config(chosen, budget).model_copy(update={"compile": compiled})
        return trial(chosen, small, config)

    return run
