"""Every method of the project keeps the rules, in every length and placebo that it has."""

from pathlib import Path

import pytest

import baselines
import methods
from bench.check import conformance
from bench.plugins import discover

PLUGINS = discover([Path(package.__path__[0]) for package in (methods, baselines)])
SPECS = [*PLUGINS, "standard[length=filled]"]


@pytest.mark.parametrize("spec", SPECS)
def test_conformance(spec: str) -> None:
    broken = [finding for finding in conformance(spec, PLUGINS) if not finding.ok]
    assert broken == []
