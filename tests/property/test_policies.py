"""Policies: purity, determinism, random consumption, probabilities, uniformity, range."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.augment.policy import Batch, Chain, Identity, Policy
from bench.augment.standard import CropFlip, CropFlipDraw, Cutout, CutoutDraw

quick = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**40)
SHAPE = (6, 5)
POLICIES: dict[str, Policy] = {
    "identity": Identity(),
    "crop": CropFlip(2, False),
    "crop-flip": CropFlip(1, True),
    "flip": CropFlip(0, True),
    "cutout": Cutout(4, SHAPE, (9, 99, 199)),
    "chain": Chain(CropFlip(2, True), Cutout(2, SHAPE, (1, 2, 3)), Identity()),
    "nested": Chain(Chain(CropFlip(1, True)), Chain(Identity(), CropFlip(1, False))),
}
every = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(count: int, seed: int = 0) -> Batch:
    images = torch.randint(256, (count, 3, *SHAPE), generator=rng(seed), dtype=torch.uint8)
    return Batch(images, torch.arange(count) % 4, torch.arange(100, 100 + count))


def tensors(draw: Any) -> list[torch.Tensor]:
    if isinstance(draw, torch.Tensor):
        return [draw]
    parts = draw if isinstance(draw, tuple) else getattr(draw, "__dict__", {}).values()
    return [tensor for part in parts for tensor in tensors(part)]


@every
@quick
@given(seed=SEEDS, count=st.integers(1, 9))
def test_nothing_that_goes_in_is_changed(policy: Policy, seed: int, count: int) -> None:
    batch = batch_of(count, seed)
    kept = [part.clone() for part in (batch.images, batch.targets, batch.index)]
    draw = policy.sample(batch.index, rng(seed))
    drawn = [part.clone() for part in tensors(draw)]
    out = policy.apply(batch, draw)
    policy.log_prob(draw)
    for part, before in zip((batch.images, batch.targets, batch.index), kept, strict=True):
        assert torch.equal(part, before)
    for part, before in zip(tensors(draw), drawn, strict=True):
        assert torch.equal(part, before)
    assert torch.equal(out.targets, batch.targets)
    assert torch.equal(out.index, batch.index)
    assert (out.images.shape, out.images.dtype) == (batch.images.shape, torch.uint8)


@every
@quick
@given(seed=SEEDS)
def test_the_draw_decides_everything(policy: Policy, seed: int) -> None:
    batch = batch_of(7)
    before = torch.get_rng_state()
    one = policy.sample(batch.index, rng(seed))
    two = policy.sample(batch.index, rng(seed))
    first = policy.apply(batch, one).images
    assert torch.equal(first, policy.apply(batch, one).images)
    assert torch.equal(first, policy.apply(batch, two).images)
    assert torch.equal(torch.get_rng_state(), before), "no other source of randomness"


@every
def test_images_do_not_see_each_other(policy: Policy) -> None:
    batch = batch_of(8)
    draw = policy.sample(batch.index, rng(3))
    whole = policy.apply(batch, draw).images
    other = Batch(batch.images.flip(1).contiguous(), batch.targets, batch.index)
    mixed = torch.where(torch.arange(8).view(-1, 1, 1, 1) < 4, batch.images, other.images)
    half = policy.apply(Batch(mixed, batch.targets, batch.index), draw).images
    assert torch.equal(half[:4], whole[:4])
    assert torch.equal(half[4:], policy.apply(other, draw).images[4:])


@pytest.mark.parametrize("count", [1, 7, 128])
def test_as_many_random_values_whatever_the_flags(count: int) -> None:
    index = torch.arange(count)
    states = []
    for pad, flip in itertools.product((0, 1, 4), (True, False)):
        generator = rng(11)
        CropFlip(pad, flip).sample(index, generator)
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)
    assert not torch.equal(states[0], rng(11).get_state())


@quick
@given(SEEDS)
def test_without_flips_the_crops_are_the_same(seed: int) -> None:
    index = torch.arange(9)
    with_, without = (CropFlip(3, flip).sample(index, rng(seed)) for flip in (True, False))
    assert torch.equal(with_.top, without.top)
    assert torch.equal(with_.left, without.left)
    assert not without.flip.any()


@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("flip", [True, False])
def test_crop_flip_s_probabilities_are_the_frequencies(pad: int, flip: bool) -> None:
    policy, count = CropFlip(pad, flip), 40_000
    draw = policy.sample(torch.arange(count), rng(1))
    seen: dict[tuple[int, int, bool], int] = {}
    for key in zip(draw.top.tolist(), draw.left.tolist(), draw.flip.tolist(), strict=True):
        seen[key] = seen.get(key, 0) + 1
    outcomes = list(itertools.product(range(2 * pad + 1), range(2 * pad + 1), (False, True)))
    possible = [key for key in outcomes if flip or not key[2]]
    assert set(seen) == set(possible)
    tops, lefts, flips = (torch.tensor(column) for column in zip(*possible, strict=True))
    shares = policy.log_prob(CropFlipDraw(tops, lefts, flips)).double().exp()
    assert shares.sum().item() == pytest.approx(1, abs=1e-6)
    for key, share in zip(possible, shares.tolist(), strict=True):
        slack = 5 * math.sqrt(share * (1 - share) / count) + 1e-6
        assert abs(seen[key] / count - share) < slack


def test_cutout_s_probabilities_are_the_frequencies() -> None:
    policy, count = Cutout(2, (3, 4), (0,)), 40_000
    draw = policy.sample(torch.arange(count), rng(1))
    seen = torch.bincount(4 * draw.row + draw.column, minlength=12).double() / count
    everywhere = torch.arange(12)
    shares = policy.log_prob(CutoutDraw(everywhere // 4, everywhere % 4)).double().exp()
    assert shares.sum().item() == pytest.approx(1, abs=1e-6)
    assert ((seen - shares).abs() < 5 * (shares * (1 - shares) / count).sqrt()).all()
    assert len(seen) == 12


def test_offsets_rows_columns_and_coins_are_independent() -> None:
    draw = CropFlip(4, True).sample(torch.arange(20_000), rng(2))
    columns = torch.stack([draw.top.double(), draw.left.double(), draw.flip.double()])
    off = torch.corrcoef(columns) - torch.eye(3)
    assert off.abs().max() < 5 / math.sqrt(20_000)


@every
def test_log_probabilities_have_one_value_an_image(policy: Policy) -> None:
    draw = policy.sample(torch.arange(5), rng(0))
    values = policy.log_prob(draw)
    assert values.shape == (5,)
    assert values.dtype == torch.float32
    assert (values <= 0).all()


def test_a_chain_adds_log_probabilities_and_describes_its_parts() -> None:
    chain = POLICIES["chain"]
    values = chain.log_prob(chain.sample(torch.arange(3), rng(0)))
    expected = -2 * math.log(5) - math.log(2) - math.log(30)
    assert values.tolist() == pytest.approx([expected] * 3, rel=1e-6)
    assert chain.describe() == {
        "policy": "chain",
        "of": [
            {"policy": "crop-flip", "pad": 2, "flip": True},
            {"policy": "cutout", "side": 2, "shape": [6, 5], "fill": [1, 2, 3]},
            {"policy": "identity"},
        ],
    }


def test_a_chain_applies_in_order() -> None:
    batch = batch_of(20)
    first, last = Cutout(4, SHAPE, (1, 1, 1)), Cutout(4, SHAPE, (2, 2, 2))
    chain = Chain(first, last)
    draws = chain.sample(batch.index, rng(5))
    by_hand = last.apply(first.apply(batch, draws[0]), draws[1])
    assert torch.equal(chain.apply(batch, draws).images, by_hand.images)
    swapped = first.apply(last.apply(batch, draws[1]), draws[0])
    assert not torch.equal(by_hand.images, swapped.images)
    with pytest.raises(ValueError, match="shorter"):
        chain.apply(batch, draws[:1])


@quick
@given(SEEDS)
def test_no_padding_and_no_flip_is_the_identity(seed: int) -> None:
    batch = batch_of(6, seed)
    for policy in (CropFlip(0, False), Cutout(0, SHAPE, (0, 0, 0)), Identity()):
        out = policy.apply(batch, policy.sample(batch.index, rng(seed)))
        assert torch.equal(out.images, batch.images)


@quick
@given(SEEDS)
def test_a_flip_twice_is_the_identity(seed: int) -> None:
    batch, policy = batch_of(6, seed), CropFlip(0, True)
    draw = policy.sample(batch.index, rng(seed))
    again = policy.apply(policy.apply(batch, draw), draw)
    assert torch.equal(again.images, batch.images)


@quick
@given(SEEDS, st.integers(0, 6))
def test_cutout_hides_at_most_its_square(seed: int, side: int) -> None:
    batch = Batch(
        torch.full((9, 3, *SHAPE), 50, dtype=torch.uint8), torch.zeros(9), torch.arange(9)
    )
    policy = Cutout(side, SHAPE, (0, 0, 0))
    out = policy.apply(batch, policy.sample(batch.index, rng(seed))).images
    hidden = (out == 0).all(1).sum((1, 2))
    half = side // 2
    assert (hidden <= (2 * half) ** 2).all()
    assert (hidden >= min(half, SHAPE[0]) * min(half, SHAPE[1])).all(), "the centre is inside"
    assert ((out == 0) | (out == 50)).all()


@quick
@given(SEEDS)
def test_offsets_stay_in_range_on_the_host(seed: int) -> None:
    draw = CropFlip(3, True).sample(torch.arange(50), rng(seed))
    for part in (draw.top, draw.left):
        assert part.dtype == torch.int64
        assert part.device.type == "cpu"
        assert part.min() >= 0
        assert part.max() <= 6
    assert draw.flip.dtype == torch.bool
