"""Every method of the project keeps the rules, with every choice that its options name."""

from pathlib import Path
from typing import get_args

import pytest

import baselines
import methods
from bench.check import conformance
from bench.plugins import discover

PLUGINS = discover([Path(package.__path__[0]) for package in (methods, baselines)])


# What `FixedPolicy` itself does with an option, it does alike for all: some speak for the rest.
ALIKE = {"data": ("standard", "augmix")}


def specs() -> list[str]:
    """Every method with its defaults, and with each other value of its named choices."""
    found = list(PLUGINS)
    for name, plugin in PLUGINS.items():
        for option, field in plugin.method.Config.model_fields.items():
            if name not in ALIKE.get(option, (name,)):
                continue
            choices = [c for c in get_args(field.annotation) if isinstance(c, str)]
            found += [f"{name}[{option}={c}]" for c in choices if c != field.default]
    return found


@pytest.mark.parametrize("spec", specs())
def test_conformance(spec: str) -> None:
    broken = [finding for finding in conformance(spec, PLUGINS) if not finding.ok]
    assert broken == []
