"""Warps of each image: pure sampling, shapes, frequencies, rows, descriptions."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.augment.per_point import BEYOND, WARPS, Noise, PerPoint, Spread, View
from bench.augment.policy import Batch
from bench.errors import ConfigError
from tests.numeric.small_policies import numbers

Tensor = torch.Tensor
VIEWS: tuple[View, ...] = ("direct", "upsampled", "released")
SPREADS: tuple[Spread, ...] = ("variance", "deviation")
quick = settings(max_examples=25, deadline=None)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def per_point(points: int = 50, **options: str) -> PerPoint:
    tables = {"gates": numbers(points, 7), "magnitudes": numbers(points, 7, seed=1)}
    return PerPoint(points, **tables, **options)  # type: ignore[arg-type]


def same(one: Noise, other: Noise) -> bool:
    parts = ((one.gate, other.gate), (one.size, other.size), (one.index, other.index))
    return all(torch.equal(a, b) for a, b in parts)


def batch(count: int, channels: int = 3, side: int = 8) -> Batch:
    images = torch.randint(256, (count, channels, side, side), generator=rng(7), dtype=torch.uint8)
    return Batch(images, torch.arange(count), torch.arange(count))


@pytest.mark.parametrize("points", [1, 50])
def test_shapes_types_and_ranges(points: int) -> None:
    policy, index = per_point(points), torch.arange(100) % 50
    state = torch.get_rng_state()
    draw = policy.sample(index, rng())
    assert torch.equal(torch.get_rng_state(), state)
    for part in (draw.gate, draw.size):
        assert (part.dtype, part.shape) == (torch.float32, (100, 7))
        assert part.isfinite().all()
    assert draw.size.abs().max() <= BEYOND
    assert torch.equal(draw.index, index)
    assert policy.indexed is (points > 1)
    assert policy.single
    assert policy.probability().shape == policy.strength().shape == (points, 7)
    for share in (policy.probability(), policy.strength()):
        assert ((share > 0) & (share < 1)).all()
    log_prob = policy.log_prob(draw)
    assert (log_prob.dtype, log_prob.shape) == (torch.float64, (100,))
    assert log_prob.isfinite().all()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("points", [1, 50])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_applied_and_explained(points: int, view: View, channels: int) -> None:
    policy, before = per_point(points, view=view), batch(40, channels)
    draw, kept = policy.sample(before.index, rng(1)), before.images.clone()
    found = policy.apply(before, draw)
    assert torch.equal(before.images, kept)
    assert (found.images.shape, found.images.dtype) == (kept.shape, torch.float32)
    assert not found.images.requires_grad
    assert ((found.images >= 0) & (found.images <= 255)).all()
    levels = policy.levels(draw, *policy.rows(draw.index))
    for row in range(40):
        words = policy.explain(draw, row)
        some = [(WARPS[i], float(v)) for i, v in enumerate(levels[row]) if v != 0]
        assert words == [f"{name} {100 * level:+.0f} %" for name, level in some]
    still = ~(levels != 0).any(1)
    assert still.any()
    if view == "direct":
        assert torch.equal(found.images[still], kept[still].float())


@pytest.mark.parametrize("points", [1, 50])
@quick
@given(seed=st.integers(0, 2**40), count=st.integers(0, 70))
def test_sampling_is_a_pure_function_of_the_generator(points: int, seed: int, count: int) -> None:
    policy, index = per_point(points), torch.arange(count) % 50
    generators = rng(seed), rng(seed)
    draws = [policy.sample(index, generator) for generator in generators]
    assert same(*draws)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    if count > 20:
        assert not same(draws[0], policy.sample(index, generators[0]))


def test_a_draw_is_noise_that_no_parameter_has_touched() -> None:
    draws = []
    for logit in (-80.0, 0.0, 80.0):
        for points in (1, 30):
            policy = PerPoint(points, gates=logit, magnitudes=-logit)
            draws.append(policy.sample(torch.arange(30), rng(5)))
    assert all(same(draw, draws[0]) for draw in draws)


@pytest.mark.parametrize("spread", SPREADS)
def test_how_often_and_how_far(spread: Spread) -> None:
    policy = per_point(spread=spread)
    index = torch.full((40_000,), 17)
    draw = policy.sample(index, rng(2))
    levels = policy.levels(draw, *policy.rows(index)).double()
    opened = levels != 0
    torch.testing.assert_close(
        opened.double().mean(0), policy.probability()[17].double(), atol=0.01, rtol=0
    )
    logit = policy.magnitudes[17].double().sigmoid()
    wanted = 0.5 * logit.sqrt() if spread == "variance" else logit
    torch.testing.assert_close(policy.strength()[17].double(), wanted, atol=1e-6, rtol=1e-6)
    for warp in range(7):
        score = levels[opened[:, warp], warp] / wanted[warp]
        bound = 5 / len(score) ** 0.5
        assert abs(float(score.mean())) < bound
        # With the tails put at ±3, the moments 1 and 3 are 0.995 and 2.87.
        assert abs(float(score.square().mean()) - 0.995) < 2 * bound
        assert abs(float(score.pow(4).mean()) - 2.87) < 10 * bound


def test_images_of_a_batch_and_warps_have_draws_of_their_own() -> None:
    draw = PerPoint().sample(torch.zeros(20_000, dtype=torch.int64), rng(3))
    for part in (draw.gate, draw.size):
        both = torch.cat([part[1:], part[:-1]], 1).double()
        assert (torch.corrcoef(both.T) - torch.eye(14)).abs().max() < 0.04
    both = torch.cat([draw.gate, draw.size], 1).double()
    assert (torch.corrcoef(both.T) - torch.eye(14)).abs().max() < 0.04
    # Noise of gates is logistic.
    share = draw.gate.double().flatten().sigmoid().sort().values
    grid = torch.arange(1, len(share) + 1, dtype=torch.float64) / len(share)
    assert (share - grid).abs().max() < 2 / len(share) ** 0.5


def test_each_image_has_its_own_row() -> None:
    gates = torch.full((3, 7), -80.0)
    gates[1, 2] = gates[2, 0] = 80.0
    policy = PerPoint(3, gates=gates)
    index = torch.tensor([2, 0, 1, 1, 2])
    draw = policy.sample(index, rng())
    opened = policy.levels(draw, *policy.rows(index)) != 0
    assert [row.nonzero().flatten().tolist() for row in opened] == [[0], [], [2], [2], [0]]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("spread", SPREADS)
def test_a_shared_row_is_json_and_rebuilds_the_policy(view: View, spread: Spread) -> None:
    policy = per_point(1, view=view, spread=spread)
    description = json.loads(json.dumps(policy.describe()))
    assert description == policy.describe()
    assert description["policy"] == policy.kind == "per-point"
    again = PerPoint.rebuild(description)
    assert again.describe() == policy.describe()
    before = batch(20)
    draw = policy.sample(before.index, rng(4))
    assert torch.equal(policy.log_prob(draw), again.log_prob(draw))
    assert torch.equal(policy.apply(before, draw).images, again.apply(before, draw).images)


def test_soft_gates_move_every_image_and_stay_soft_when_rebuilt() -> None:
    soft, hard = (PerPoint(gates=-0.5, soft=kind) for kind in (True, False))
    again = PerPoint.rebuild(json.loads(json.dumps(soft.describe())))
    assert again.soft
    assert "soft" not in hard.describe()
    rng = torch.Generator().manual_seed(0)
    draw = soft.sample(torch.arange(64), rng)
    images = torch.randint(256, (64, 1, 9, 9), generator=rng).byte()
    batch = Batch(images, torch.zeros(64), draw.index)
    moved = (soft.apply(batch, draw).images != images).flatten(1).any(1)
    assert moved.all()
    assert torch.equal(again.apply(batch, draw).images, soft.apply(batch, draw).images)
    assert len(soft.explain(draw, 0)) == len(WARPS)
    some = draw.gate + hard.gates > 0
    assert [len(hard.explain(draw, row)) for row in range(64)] == some.sum(1).tolist()
    with pytest.raises(ValueError, match="soft gates have no probability"):
        soft.log_prob(draw)


def test_a_row_for_each_image_is_described_by_the_means() -> None:
    policy = per_point(50)
    description = json.loads(json.dumps(policy.describe()))
    assert len(json.dumps(description)) < 1000
    for name, table in (("gates", policy.gates), ("magnitudes", policy.magnitudes)):
        torch.testing.assert_close(torch.tensor(description[f"mean_{name}"]), table.mean(0))
    with pytest.raises(ConfigError, match="a row for each of 50 images") as caught:
        PerPoint.rebuild(description)
    assert "\n" not in str(caught.value)


def test_tables_are_the_policys_own() -> None:
    given_ = torch.zeros(4, 7, requires_grad=True)
    policy = PerPoint(4, gates=given_, magnitudes=given_)
    policy.gates.add_(1)
    assert float(given_.detach().abs().max()) == float(policy.magnitudes.abs().max()) == 0
    assert not policy.gates.requires_grad
    assert PerPoint(4, gates=0.3).gates.shape == (4, 7)


def test_numbers_and_images_that_fit_nothing() -> None:
    with pytest.raises(ValueError, match="points=0"):
        PerPoint(0)
    with pytest.raises(RuntimeError):
        PerPoint(3, gates=torch.zeros(2, 7))
    policy, index = PerPoint(), torch.arange(2)
    draw = policy.sample(index, rng())
    with pytest.raises(ValueError, match="square images"):
        policy.apply(Batch(torch.zeros(2, 1, 4, 5, dtype=torch.uint8), index, index), draw)
