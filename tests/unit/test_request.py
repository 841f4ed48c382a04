"""From options to a suite and to slots, CUDA devices faked."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.errors import ConfigError
from bench.request import Request, slots_of, suite_of
from bench.runner import DataOptions

REQUEST = Request(
    suite=None, data="digits", methods=(), distort=(), budgets=(), seeds=None, network=None,
    size=None, steps=None, name=None, track=None, jobs=None, devices=None, threads=1,
    compiled=False, root=None, memory_limit=1 << 30, skip_corrupt=False, results=Path("results"),
)  # fmt: skip


def devices(monkeypatch: pytest.MonkeyPatch, count: int, visible: str | None = None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def test_cores_are_shared_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    devices(monkeypatch, 0)
    monkeypatch.setattr("bench.request._cores", lambda: 8)
    assert slots_of(replace(REQUEST, threads=2)) == ([None] * 4, "cpu")
    assert slots_of(replace(REQUEST, jobs=3)) == ([None] * 3, "cpu")
    assert slots_of(replace(REQUEST, threads=99)) == ([None], "cpu")


def test_cuda_devices_are_taken_when_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    devices(monkeypatch, 2)
    assert slots_of(REQUEST) == (["0", "1"], "cuda")
    assert slots_of(replace(REQUEST, devices="1")) == (["1"], "cuda")
    assert slots_of(replace(REQUEST, devices="cpu", jobs=1)) == ([None], "cpu")


@pytest.mark.parametrize("visible", ["2,3", "GPU-aa,GPU-bb"])
def test_devices_count_from_those_that_are_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    devices(monkeypatch, 2, visible)
    assert slots_of(REQUEST)[0] == visible.split(",")
    assert slots_of(replace(REQUEST, devices="1"))[0] == visible.split(",")[1:]


@pytest.mark.parametrize(
    ("options", "word"),
    [({"devices": "2"}, "'2'"), ({"devices": "0,x"}, "'x'"), ({"jobs": 2}, "--jobs")],
)
def test_impossible_slots(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], word: str
) -> None:
    devices(monkeypatch, 2)
    with pytest.raises(ConfigError, match=word):
        slots_of(replace(REQUEST, **options))  # type: ignore[arg-type]


def test_defaults_for_ones_own_data() -> None:
    suite = suite_of(REQUEST, DataOptions(), "cpu")
    (task,) = suite.tasks
    assert (suite.name, suite.seeds, suite.budgets) == ("digits", 3, [3.0])
    assert (task.network, task.recipe.batch_size) == ("small-cnn", 64)
    assert task.recipe.steps == 30 * 1438 // 64
    assert "standard[length=filled]" in suite.methods


def test_options_change_a_suite() -> None:
    changed = replace(
        REQUEST, distort=("noise=0.10", "clean"), budgets=("1rt", "2.5"), seeds=5,
        methods=("none",), steps=7, name="mine", network="wrn-10-1",
    )  # fmt: skip
    suite = suite_of(changed, DataOptions(), "cpu")
    assert suite.tasks[0].distort == ["noise=0.1", "clean"]
    assert (suite.budgets, suite.seeds, suite.methods) == ([1.0, 2.5], 5, ["none"])
    assert (suite.name, suite.tasks[0].network, suite.tasks[0].recipe.steps) == (
        "mine", "wrn-10-1", 7,
    )  # fmt: skip
    named = replace(REQUEST, data=None, suite="quick", seeds=1, methods=("none",))
    assert len(list(suite_of(named, DataOptions(), "cpu").runs(
        device="cpu", threads=1, compiled=False
    ))) == 2  # fmt: skip
