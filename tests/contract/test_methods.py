"""Every method of the project keeps the rules, with every choice that its options name."""

from pathlib import Path
from typing import Any, get_args

import pytest

import baselines
import methods
from bench.check import conformance
from bench.plugins import discover

PLUGINS = discover([Path(package.__path__[0]) for package in (methods, baselines)])


# What `FixedPolicy` itself does with an option, it does alike for all: some speak for the rest.
ALIKE = {"data": ("standard", "augmix")}
# Options, or choices of them, that are looked at elsewhere.
ELSEWHERE = {
    "search": ("proposer=grid",),  # it tries all points, which cost too much: test_search.py
    "halving": ("proposer", "space"),  # it asks and trains as `search` does
}
# Choices that are checked with --slow alone.
SLOW = {
    # The other choices of these options run the same lines, or their numeric tests take them.
    "autodo": (
        *("variant=a", "variant=aw", "variant=sha", "view=upsampled"),
        *("moments=lazy", "spread=deviation", "schedule=own", "variant=static"),
    ),
    "fds": ("logits=each", "validation=redrawn", "horizon=window", "final=best", "gates=soft"),
    "gar": ("space=wide-long", "reward=nslr", "estimator=jvp"),
    "pbt": ("mode=replay",),
    "hba": (
        *("layers=bn", "layers=conv+bn", "layers=first-conv", "validation=train"),
        *("space=pba-centred", "space=pba-raw"),
    ),
    "halving": ("scheduler=hyperband",),
    "hypergradient-descent": ("start=log", "learns=rate"),
    "ohl": ("momentum=own", "momentum=zero"),
    "stn": ("layers=conv+bn", "layers=conv", "validation=train"),
    # `standard`, `uniformaugment` and `mixup` are filled too.
    **dict.fromkeys(
        ("trivialaugment", "autoaugment", "randaugment", "cutout", "cutmix", "augmix"),
        ("length=filled",),
    ),
    # BoTorch and Ax take half a minute to import; before its first model GP draws as TPE does, and
    # `joint` contains these spaces; `recipe-wide` trains as `optimiser-wide`.
    "search": (
        *("proposer=botorch", "proposer=ax", "proposer=gp", "proposer=sobol", "proposer=cma-es"),
        *("space=policy", "space=optimiser-log", "space=optimiser-steps"),
        *("space=randaugment", "space=recipe-log", "space=recipe-wide", "space=regularisers-grid"),
    ),
}
# What a method needs to run in the few steps that a check pays for.
CHEAPER = {
    "fds": "outer=2,rates=2",
    "pbt": "members=2,interval=5",
    "search": "trials=2",
    "halving": "trials=3,least=0.3",
    "fast-autoaugment": "folds=2,samples=2,views=1",
}


def specs() -> list[Any]:
    """Every method with its defaults, and with each other value of its named choices."""
    found: list[Any] = [_spec(name) for name in PLUGINS]
    for name, plugin in PLUGINS.items():
        for option, field in plugin.method.Config.model_fields.items():
            if name not in ALIKE.get(option, (name,)):
                continue
            choices = [c for c in get_args(field.annotation) if isinstance(c, str)]
            for choice in (f"{option}={c}" for c in choices if c != field.default):
                if not {option, choice} & set(ELSEWHERE.get(name, ())):
                    slow = [pytest.mark.slow] if choice in SLOW.get(name, ()) else []
                    found.append(pytest.param(_spec(name, choice), marks=slow))
    return found


def _spec(name: str, option: str = "") -> str:
    options = ",".join(part for part in (CHEAPER.get(name), option) if part)
    return f"{name}[{options}]" if options else name


@pytest.mark.parametrize("spec", specs())
def test_conformance(spec: str) -> None:
    # Kills are test_resume.py's.
    broken = [finding for finding in conformance(spec, PLUGINS, resume=False) if not finding.ok]
    assert broken == []


def test_a_method_that_a_check_cannot_pay_for_is_told_so() -> None:
    (finding,) = conformance("fds", PLUGINS)
    assert not finding.ok
    assert "allow more budget; or check it with options that cost less" in finding.detail
