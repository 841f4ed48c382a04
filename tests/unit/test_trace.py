"""The trace: thinning, rewinding, detaching, and numbers that JSON lacks."""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.train.trace import EVENTS, POINTS, Trace


def trace_of(values: list[float]) -> Trace:
    trace = Trace()
    for step, value in enumerate(values):
        trace.append(10 * step, {"x": value})
    return trace


def test_a_short_series_is_exported_as_it_is() -> None:
    trace = Trace()
    trace.append(1, {"loss": torch.tensor(0.5), "p": [0.25, 0.75]})
    trace.append(2, {"loss": 0.25, "flag": True})
    trace.append(2, {"p": torch.tensor([1.0, 0.0]), "grid": torch.eye(2)})
    assert trace.export() == {
        "loss": {"step": [1, 2], "value": [0.5, 0.25]},
        "p": {"step": [1, 2], "value": [[0.25, 0.75], [1.0, 0.0]]},
        "flag": {"step": [2], "value": [1.0]},
        "grid": {"step": [2], "value": [[[1.0, 0.0], [0.0, 1.0]]]},
    }
    assert Trace().export() == {}


def test_a_long_series_is_thinned_to_means_of_consecutive_groups() -> None:
    exported = trace_of([1, 2, 3, 4, 5, 6, 7]).export(points=3)
    # 7 in 3 groups: 3, 2, 2; each filed under its last step.
    assert exported["x"] == {"step": [20, 40, 60], "value": [2.0, 4.5, 6.5]}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 450), st.integers(1, 40))
def test_thinning_keeps_the_end_the_order_and_the_size(length: int, points: int) -> None:
    values = [float(v * v % 101) for v in range(length)]
    series = trace_of(values).export(points)["x"]
    assert len(series["step"]) == len(series["value"]) == min(points, length)
    assert series["step"][-1] == 10 * (length - 1)
    assert series["step"] == sorted(set(series["step"]))
    begin = 0
    for step, value in zip(series["step"], series["value"], strict=True):
        group = values[begin : step // 10 + 1]
        assert value == pytest.approx(sum(group) / len(group), rel=1e-12)
        assert len(group) in {length // min(points, length), length // min(points, length) + 1}
        begin = step // 10 + 1


def test_the_default_number_of_points() -> None:
    assert len(trace_of([0.0] * 1000).export()["x"]["step"]) == POINTS == 100


def test_tensors_are_copied_and_carry_no_graph() -> None:
    weight = torch.ones(2, requires_grad=True)
    running = torch.zeros(2)
    trace = Trace()
    trace.append(0, {"w": weight * 2, "r": running})
    running += 5
    with torch.no_grad():
        weight *= 7
    exported = trace.export()
    assert exported["w"]["value"] == [[2.0, 2.0]]
    assert exported["r"]["value"] == [[0.0, 0.0]]
    assert not trace._series["w"][0][1].requires_grad


def test_values_that_are_not_numbers_become_null() -> None:
    trace = Trace()
    trace.append(0, {"x": float("nan"), "p": [1.0, float("inf")], "y": torch.tensor(-torch.inf)})
    exported = trace.export()
    assert exported["x"]["value"] == [None]
    assert exported["p"]["value"] == [[1.0, None]]
    assert exported["y"]["value"] == [None]
    json.dumps(exported, allow_nan=False)


def test_small_numbers_survive_in_double_precision() -> None:
    assert trace_of([0.1, 1e-12]).export()["x"]["value"] == [0.1, 1e-12]


def test_rewind_forgets_what_came_after_the_mark() -> None:
    trace = trace_of([1, 2])
    before, mark = trace.export(), trace.mark()
    trace.append(99, {"x": 3, "new": 4})
    assert trace.export() != before
    trace.rewind(mark)
    assert trace.export() == before
    trace.append(20, {"x": 5})
    assert trace.export()["x"] == {"step": [0, 10, 20], "value": [1.0, 2.0, 5.0]}
    trace.rewind({})
    assert trace.export() == {}


def test_a_logged_list_is_a_copy() -> None:
    trace, policy = Trace(), [1.0, 2.0]
    trace.append(1, {"policy": policy})
    policy[0] = 9.0
    assert trace.export()["policy"]["value"] == [[1.0, 2.0]]


@pytest.mark.parametrize("second", [[1.0, 2.0, 3.0], 1.0, "text", {"a": 1}])
def test_what_cannot_be_a_series_is_refused_when_it_is_logged(second: object) -> None:
    trace = Trace()
    trace.append(1, {"policy": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"log\(policy="):
        trace.append(2, {"policy": second})


# Events


def test_events_are_kept_whole_and_say_so() -> None:
    trace = Trace()
    for step in range(3 * POINTS):
        trace.append(step, {"rate": step * 0.1, "point": [step, -step]}, whole=True)
        trace.append(step, {"loss": 1.0})
    exported = trace.export()
    steps = list(range(3 * POINTS))
    rates = [step * 0.1 for step in steps]
    assert exported["rate"] == {"step": steps, "value": rates, "whole": True}
    assert exported["point"]["value"] == [[step, -step] for step in steps]
    assert exported["loss"].keys() == {"step", "value"}
    assert len(exported["loss"]["value"]) == POINTS


def test_too_many_events_lose_some_rows_and_average_none() -> None:
    trace, many = Trace(), 2 * EVENTS + 7
    for step in range(many):
        trace.append(step, {"a": step}, whole=True)
        trace.append(step, {"b": -float(step)}, whole=True)
    a, b = (trace.export()[name] for name in "ab")
    assert len(a["value"]) == EVENTS
    assert a["value"] == a["step"], "rows as they were"
    assert a["value"] == [-value for value in b["value"]], "the same rows of both"
    assert a["value"][-1] == many - 1
    gaps = {later - former for former, later in pairwise(a["step"])}
    assert gaps <= {2, 3}
    assert len(trace.export(points=many)["a"]["value"]) == many


@pytest.mark.parametrize("first", [True, False])
def test_a_series_has_events_or_a_curve(first: bool) -> None:
    trace = Trace()
    trace.append(0, {"x": 1.0}, whole=first)
    with pytest.raises(ValueError, match=r"log\(x=\.\.\.\): a series has events or a curve"):
        trace.append(1, {"x": 2.0}, whole=not first)
    trace.rewind({})
    trace.append(0, {"x": 1.0}, whole=not first)
    assert ("whole" in trace.export()["x"]) is not first
