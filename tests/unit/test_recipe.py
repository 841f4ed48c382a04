"""The recipe: schedule and optimiser."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.train.recipe import Recipe

quick = settings(max_examples=80, deadline=None)
SHARES = st.floats(0, 1, allow_nan=False)
WARMUPS = st.floats(0, 0.9, allow_nan=False)


def test_cosine_without_warm_up() -> None:
    recipe = Recipe(steps=10, lr=0.4)
    assert recipe.rate(0.0) == 0.4
    assert recipe.rate(0.25) == pytest.approx(0.2 * (1 + math.sqrt(0.5)), rel=1e-12)
    assert recipe.rate(0.5) == pytest.approx(0.2, rel=1e-12)
    assert recipe.rate(1.0) == pytest.approx(0.0, abs=1e-15)


def test_linear_warm_up_to_the_peak_then_cosine() -> None:
    recipe = Recipe(steps=10, lr=0.1, warmup=0.2)
    assert recipe.rate(0.0) == 0.0
    assert recipe.rate(0.05) == pytest.approx(0.025, rel=1e-12)
    assert recipe.rate(0.1) == pytest.approx(0.05, rel=1e-12)
    assert recipe.rate(0.2) == pytest.approx(0.1, rel=1e-12)
    assert recipe.rate(0.6) == pytest.approx(0.05, rel=1e-12)
    assert recipe.rate(1.0) == pytest.approx(0.0, abs=1e-15)


@quick
@given(WARMUPS, SHARES, SHARES)
def test_it_rises_during_warm_up_and_falls_after_it(warmup: float, a: float, b: float) -> None:
    recipe = Recipe(steps=10, lr=0.3, warmup=warmup)
    early, late = min(a, b), max(a, b)
    first, second = recipe.rate(early), recipe.rate(late)
    assert 0 <= first <= 0.3 * (1 + 1e-12)
    assert 0 <= second <= 0.3 * (1 + 1e-12)
    if late <= warmup:
        assert first <= second
    if early >= warmup:
        assert second <= first


@quick
@given(st.floats(1e-3, 0.9), st.floats(0.01, 10))
def test_it_is_continuous_where_warm_up_ends(warmup: float, lr: float) -> None:
    recipe = Recipe(steps=10, lr=lr, warmup=warmup)
    assert recipe.rate(math.nextafter(warmup, 0)) == pytest.approx(lr, rel=1e-9)
    assert recipe.rate(warmup) == pytest.approx(lr, rel=1e-9)


def test_beyond_the_plan_the_rate_stays_zero() -> None:
    for progress in (1.0, 1.0 + 1e-9, 1.5, 7.0):
        assert Recipe(steps=10).rate(progress) == pytest.approx(0.0, abs=1e-15)


def test_the_optimiser_has_the_recipe_s_numbers() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    recipe = Recipe(steps=1, lr=0.3, momentum=0.8, weight_decay=1e-3, nesterov=True)
    optimiser = recipe.optimiser([parameter])
    assert isinstance(optimiser, torch.optim.SGD)
    (group,) = optimiser.param_groups
    assert group["params"] == [parameter]
    found = [group[name] for name in ("lr", "momentum", "weight_decay", "nesterov", "dampening")]
    assert found == [0.3, 0.8, 1e-3, True, 0]
    plain = Recipe(steps=1, nesterov=False).optimiser([parameter])
    assert plain.param_groups[0]["nesterov"] is False
    without = Recipe(steps=1, momentum=0).optimiser([parameter])  # torch refuses nesterov here
    assert without.param_groups[0]["nesterov"] is False


def test_two_steps_by_hand() -> None:
    # v ← μ v + g; w ← w - lr (g + μ v), with g = gradient + weight decay · w.
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimiser = Recipe(steps=1, lr=0.1, momentum=0.9, weight_decay=0.5).optimiser([weight])
    w, v = 2.0, 0.0
    for _ in range(2):
        optimiser.zero_grad()
        (3 * weight).sum().backward()
        optimiser.step()
        g = 3 + 0.5 * w
        v = 0.9 * v + g
        w -= 0.1 * (g + 0.9 * v)
        assert weight.item() == pytest.approx(w, rel=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"lr": 0},
        {"lr": float("nan")},
        {"momentum": 1},
        {"momentum": -0.1},
        {"weight_decay": -1e-9},
        {"warmup": 1},
        {"warmup": -0.1},
        {"pad": -1},
        {"speed": 1},
    ],
    ids=repr,
)
def test_impossible_recipes_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        Recipe(**({"steps": 1} | change))


def test_it_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe(steps=1).lr = 2.0
