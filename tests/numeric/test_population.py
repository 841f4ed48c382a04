"""The population's draws against PBA's walk, its noise, and schedules that stretch and replay."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.augment.engine import Fill
from bench.augment.export import PolicyTransform, load, rebuild, save
from bench.augment.learnable import Gated
from bench.augment.policy import Chain, Identity
from bench.augment.population import (
    KNOTS,
    Population,
    Schedule,
    interpolated,
    schedule_in,
)
from bench.augment.spaces import space
from bench.augment.standard import CropFlip
from tests.numeric.small_policies import SMALL, numbers

Tensor = torch.Tensor
INDEX = torch.arange(200)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_lambda_has_an_entry_for_each_number_that_does_something() -> None:
    policy = Population(space("pba"))
    assert policy.entries.shape == (54,)
    probabilities, levels = policy.split(torch.arange(1.0, 55.0))
    assert probabilities.tolist() == list(range(1, 31))
    rows = [entry.operation for entry in space("pba").entries] * 2
    plain = {"autocontrast", "invert", "equalize"}
    assert [value == 0 for value in levels.tolist()] == [name in plain for name in rows]
    assert levels[levels > 0].tolist() == list(range(31, 55))
    many = numbers(2, 3, 54)
    for whole, row in zip(policy.split(many), policy.split(many[1, 2]), strict=True):
        assert torch.equal(whole[1, 2], row)


def test_values_are_probabilities_and_shares_of_the_range() -> None:
    policy = Population(SMALL, copies=2, entries=numbers(10))
    probabilities, shares = policy.values()
    assert torch.equal(probabilities, policy.entries[:6].sigmoid())
    expected = policy.entries[6:].sigmoid().tolist()
    assert shares[[1, 2, 4, 5]].tolist() == expected
    assert shares[[0, 3]].isnan().all()


def test_without_noise_it_is_pbas_walk() -> None:
    policy = Population(SMALL, copies=2, limits=(0.1, 0.4, 0.5), entries=numbers(10))
    probabilities, levels = policy.split(policy.entries)
    walk = Gated(
        SMALL, copies=2, limits=(0.1, 0.4, 0.5), probabilities=probabilities, magnitudes=levels
    )
    mine, theirs = policy.sample(INDEX, rng()), walk.sample(INDEX, rng())
    for name, value in vars(theirs).items():
        assert torch.equal(getattr(mine, name), value)
    torch.testing.assert_close(policy.log_prob(mine), walk.log_prob(theirs))
    assert torch.equal(mine.entries, policy.entries.expand(200, 10))


def test_a_draw_carries_the_logits_that_it_was_made_under() -> None:
    """Each image's walk is that of its own λ + ε, and of nobody else's."""
    policy = Population(SMALL, copies=2, sigma=25.0, entries=0.0, limits=(0.0, 1.0))
    draw = policy.sample(INDEX, rng())
    probabilities, levels = policy.split(draw.entries)
    sure = probabilities.gather(1, draw.order).abs() > 20  # nearly all
    heads = probabilities.gather(1, draw.order) > 0
    assert float(sure.double().mean()) > 0.3
    walked = draw.walked & sure
    assert torch.equal(draw.done[walked], heads[walked])
    first = torch.where(draw.done, 0, 1).argmin(1)
    pair = draw.order.gather(1, first[:, None])[:, 0]
    some = draw.gate[:, 0]
    expected = SMALL.top * levels.sigmoid().gather(1, pair[:, None])[:, 0]
    assert torch.equal(draw.level[some, 0], expected[some])
    # What another image's logits say is not what happened.
    other = probabilities.roll(1, 0).gather(1, draw.order) > 0
    assert float((draw.done[walked] == other[walked]).double().mean()) < 0.9


def test_noise_is_normal_and_each_images_own() -> None:
    policy = Population(SMALL, copies=1, sigma=0.7, entries=numbers(5))
    noise = (policy.sample(torch.zeros(40_000).long(), rng()).entries - policy.entries) / 0.7
    assert noise.mean(0).abs().max() < 0.02
    torch.testing.assert_close(noise.T.cov(), torch.eye(5).double(), rtol=0, atol=0.03)
    assert float(noise.pow(4).mean()) == pytest.approx(3, abs=0.1)
    assert (noise[1:] * noise[:-1]).mean(0).abs().max() < 0.02


def test_the_density_is_that_of_noise_and_walk() -> None:
    policy = Population(SMALL, copies=2, sigma=0.7, entries=numbers(10))
    draw = policy.sample(INDEX, rng())
    normal = -((draw.entries - policy.entries) ** 2) / (2 * 0.49) - math.log(
        0.7 * math.sqrt(2 * math.pi)
    )
    for row in range(0, 200, 20):
        probabilities, levels = policy.split(draw.entries[row])
        walk = Gated(SMALL, copies=2, probabilities=probabilities, magnitudes=levels)
        expected = walk.log_prob(draw)[row] + normal[row].sum()
        torch.testing.assert_close(policy.log_prob(draw)[row], expected)


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_gradients_equal_finite_differences(sigma: float) -> None:
    policy = Population(SMALL, copies=2, sigma=sigma, entries=numbers(10))
    draw, weight = policy.sample(INDEX, rng()), numbers(200, seed=1)
    leaf = policy.entries.requires_grad_()
    (found,) = torch.autograd.grad((weight * policy.log_prob(draw)).sum(), leaf)
    flat, step = leaf.detach(), 1e-5
    for i in range(10):
        ends = []
        for side in (step, -step):
            flat[i] += side
            ends.append(float((weight * policy.log_prob(draw)).sum().detach()))
            flat[i] -= side
        assert float(found[i]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-5)


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="sigma=-1"):
        Population(SMALL, sigma=-1)
    with pytest.raises(ValueError, match="no probabilities"):
        Population(SMALL, limits=(0.5, 0.6))


# Schedules


def schedule(*rows: list[float]) -> Schedule:
    return Schedule(SMALL, knots=list(rows), copies=1)


def test_a_schedule_goes_straight_from_knot_to_knot() -> None:
    made = schedule([0.0] * 5, [1.0] * 5, [5.0] * 5)
    assert made.entries.tolist() == [5.0] * 5  # as it ends
    for progress, value in ((0, 0), (0.25, 0.5), (0.5, 1), (0.625, 2), (1, 5), (1.5, 5), (-1, 0)):
        made.advance(progress)
        assert made.entries.tolist() == [value] * 5
    made.advance(0.25)
    draw = made.sample(INDEX, rng())
    assert (draw.entries == 0.5).all()
    constant = schedule([2.0] * 5)
    for progress in (0.0, 0.3, 1.0):
        constant.advance(progress)
        assert constant.entries.tolist() == [2.0] * 5


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300))
def test_it_stretches_to_any_length(length: int, target: int) -> None:
    """Of a straight path, whatever its length, a training of any other sees the same line."""
    path = torch.linspace(0, 1, length, dtype=torch.float64)[:, None] * numbers(1, 5)
    made = Schedule.along(Population(SMALL, copies=1), path)
    assert len(made.knots) == min(length, KNOTS)
    for step in range(0, target, 1 + target // 7):
        made.advance(step / target)
        share = step / target if length > 1 else 0.0
        torch.testing.assert_close(made.entries, share * numbers(5), atol=1e-4, rtol=0)
        assert torch.equal(made.entries, interpolated(made.knots, step / target))


def test_what_was_learned_keeps_everything_but_what_is_given() -> None:
    policy = Population(SMALL, Fill(outside=(3,)), copies=1, limits=(0.5, 0.5), sigma=0.3)
    path = numbers(200, 5)
    made = Schedule.along(policy, path)
    own = {name: value for name, value in policy.describe().items() if name != "entries"}
    assert {**made.describe(), "policy": "population"} == own | {
        "policy": "population",
        "knots": made.knots.tolist(),
    }
    assert torch.equal(made.knots[[0, -1]], path[[0, -1]].round(decimals=4))
    other = Schedule.along(made, made.knots, fill=Fill(hole=(9,)), sigma=0.0)
    assert torch.equal(other.knots, made.knots)
    assert (other.sigma, other.fill.hole, other.limits) == (0.0, (9,), (0.5, 0.5))


def test_the_mean_is_the_time_average() -> None:
    made = schedule([0.0] * 5, [1.0] * 5, [5.0] * 5)
    times = [made.knots.new_zeros(5)]
    for step in range(1000):
        made.advance((step + 0.5) / 1000)
        times.append(made.entries.clone())
    torch.testing.assert_close(made.mean().entries, torch.stack(times[1:]).mean(0))
    assert made.mean().mean().knots.tolist() == made.mean().knots.tolist()
    assert made.mean().entries.tolist() == [1.75] * 5


def test_it_is_found_in_what_was_saved(tmp_path: object) -> None:
    path = tmp_path / "policy.json"  # type: ignore[operator]
    made = Schedule.along(Population(space("pba"), sigma=0.5), numbers(300, 54))
    chain = Chain(CropFlip(4, True), Chain(Identity(), made))
    save(chain.describe(), path, {})
    read = schedule_in(load(path).policy)
    assert read is not None
    assert read.describe() == made.describe()
    assert torch.equal(read.entries, made.knots[-1])
    assert schedule_in(Chain(Identity(), Population(space("pba")))) is None
    assert rebuild(json.loads(json.dumps(made.describe()))).describe() == made.describe()


def test_its_export_can_follow_a_training() -> None:
    """The transform draws as the schedule ends, until it is told how far the training is."""
    never, always = [-60.0] * 30 + [-2.0] * 24, [60.0] * 30 + [2.0] * 24
    made = Schedule(space("pba"), knots=[never, always])
    transform = PolicyTransform(made)
    made.advance(0.0)
    assert not transform.policy.sample(INDEX, rng()).gate.any()
    made.advance(1.0)
    draw = transform.policy.sample(INDEX, rng())
    assert torch.equal(draw.gate.sum(1), draw.limit)
