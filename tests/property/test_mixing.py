"""Mixing: purity, determinism, random consumption, and targets that add up to what is shown."""

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.augment.augmix import AugMix, AugMixDraw
from bench.augment.engine import Fill
from bench.augment.mixing import CutMix, MixDraw, Mixing, Mixup, soft
from bench.augment.policy import Batch, Chain, Policy
from bench.augment.space import Entry, Space
from bench.augment.spaces import space
from bench.augment.standard import CropFlip

quick = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 2**40)
CLASSES, SHAPE = 4, (6, 5)
SPACE = Space(
    "test",
    (
        Entry("autocontrast"),
        Entry("posterize", 4, 8, whole="truncated"),
        Entry("rotate", 0, 30, whole="truncated"),
        Entry("solarize", 0, 256, whole="truncated"),
        Entry("shear-x", 0, 0.3),
        Entry("translate-y", 0, 1 / 3, whole="truncated", side=True),
    ),
    top=10,
    signed=True,
    source="AugMix's, in part",
)
MIXING: dict[str, Mixing] = {
    "mixup": Mixup(1.0, CLASSES),
    "mixup by image": Mixup(0.4, CLASSES, per="image"),
    "mixup at times": Mixup(1.0, CLASSES, 0.5, per="image"),
    "cutmix": CutMix(1.0, CLASSES, 0.5),
    "cutmix by image": CutMix(2.0, CLASSES, 0.7, per="image"),
    "cutmix always": CutMix(1.0, CLASSES),
}
POLICIES: dict[str, Policy] = MIXING | {
    "augmix": AugMix(SPACE),
    "augmix, short": AugMix(SPACE, width=1, depth=2, severity=10, views=1),
    "augmix, wide": AugMix(SPACE, width=4, alpha=0.3, views=3),
    "chain": Chain(CropFlip(1, True), AugMix(SPACE)),
    "mixed twice": Chain(CropFlip(1, True), CutMix(1.0, CLASSES), Mixup(1.0, CLASSES)),
}
every = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
mixes = pytest.mark.parametrize("policy", MIXING.values(), ids=MIXING)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(count: int, seed: int = 0, channels: int = 3) -> Batch:
    images = torch.randint(256, (count, channels, *SHAPE), generator=rng(seed), dtype=torch.uint8)
    return Batch(images, torch.arange(count) % CLASSES, torch.arange(100, 100 + count))


def shares_of(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, CLASSES, generator=rng(seed)).softmax(1)


def tensors(draw: Any) -> list[torch.Tensor]:
    if isinstance(draw, torch.Tensor):
        return [draw]
    parts = draw if isinstance(draw, tuple) else getattr(draw, "__dict__", {}).values()
    return [tensor for part in parts for tensor in tensors(part)]


def equal(one: Batch, two: Batch) -> bool:
    first, second = (one.images, one.targets, *one.views), (two.images, two.targets, *two.views)
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# What every policy keeps


@every
@quick
@given(seed=SEEDS, count=st.integers(1, 9), channels=st.sampled_from([1, 3]), shares=st.booleans())
def test_nothing_that_goes_in_is_changed(
    policy: Policy, seed: int, count: int, channels: int, shares: bool
) -> None:
    batch = batch_of(count, seed, channels)
    batch = replace(batch, targets=shares_of(count, seed)) if shares else batch
    kept = [part.clone() for part in (batch.images, batch.targets, batch.index)]
    draw = policy.sample(batch.index, rng(seed))
    drawn = [part.clone() for part in tensors(draw)]
    out = policy.apply(batch, draw)
    policy.log_prob(draw)
    for part, before in zip((batch.images, batch.targets, batch.index), kept, strict=True):
        assert torch.equal(part, before)
    for part, before in zip(tensors(draw), drawn, strict=True):
        assert torch.equal(part, before)
    assert torch.equal(out.index, batch.index)
    for images in (out.images, *out.views):
        assert images.shape == batch.images.shape
        assert images.dtype in (torch.uint8, torch.float32)
        assert images.min() >= 0
        assert images.max() <= 255 + 1e-3


@every
@quick
@given(seed=SEEDS)
def test_the_draw_decides_everything(policy: Policy, seed: int) -> None:
    batch = batch_of(7)
    before = torch.get_rng_state()
    one = policy.sample(batch.index, rng(seed))
    two = policy.sample(batch.index, rng(seed))
    first = policy.apply(batch, one)
    assert equal(first, policy.apply(batch, one))
    assert equal(first, policy.apply(batch, two))
    assert torch.equal(torch.get_rng_state(), before), "no other source of randomness"


@every
def test_log_probabilities_and_words_have_one_entry_an_image(policy: Policy) -> None:
    draw = policy.sample(torch.arange(5), rng(0))
    values = policy.log_prob(draw)
    assert (values.shape, values.dtype) == ((5,), torch.float32)
    assert values.isfinite().all()
    assert all(isinstance(word, str) for row in range(5) for word in policy.explain(draw, row))
    assert isinstance(policy.describe(), dict)


@pytest.mark.parametrize("count", [1, 7, 64])
@pytest.mark.parametrize("per", ["batch", "image"])
def test_as_many_random_values_whatever_the_numbers(count: int, per: Any) -> None:
    states, partners = [], []
    for alpha, probability, kind in itertools.product((0.01, 1, 9), (0, 0.5, 1), (Mixup, CutMix)):
        generator = rng(11)
        draw = kind(alpha, CLASSES, probability, per).sample(torch.arange(count), generator)
        states.append(generator.get_state())
        partners.append(draw.partner)
    assert all(torch.equal(state, states[0]) for state in states)
    assert all(torch.equal(partner, partners[0]) for partner in partners)
    chains = []
    for severity, alpha in itertools.product((0.2, 3, 10), (0.01, 1, 9)):
        generator = rng(11)
        AugMix(SPACE, severity=severity, alpha=alpha).sample(torch.arange(count), generator)
        chains.append(generator.get_state())
    assert all(torch.equal(state, chains[0]) for state in chains)


# Mixup and CutMix


def draw_by_hand(
    partner: list[int], share: float, gate: bool = True, place: tuple[float, float] = (0.5, 0.5)
) -> MixDraw:
    count = len(partner)
    return MixDraw(
        torch.tensor(partner),
        torch.full((count,), share, dtype=torch.float64),
        torch.full((count,), gate),
        torch.tensor([place] * count, dtype=torch.float64),
    )


@mixes
@quick
@given(seed=SEEDS, count=st.integers(1, 9), given_shares=st.booleans())
def test_targets_are_shares(policy: Mixing, seed: int, count: int, given_shares: bool) -> None:
    batch = batch_of(count, seed)
    if given_shares:
        batch = replace(batch, targets=shares_of(count, seed))
    out = policy.apply(batch, policy.sample(batch.index, rng(seed)))
    assert (out.targets.shape, out.targets.dtype) == ((count, CLASSES), torch.float32)
    assert (out.targets >= 0).all()
    assert torch.allclose(out.targets.sum(1), torch.ones(count), atol=1e-6)


@mixes
@quick
@given(seed=SEEDS, count=st.integers(1, 12))
def test_partners_are_a_permutation_and_batches_share_a_draw(
    policy: Mixing, seed: int, count: int
) -> None:
    draw = policy.sample(torch.arange(count), rng(seed))
    assert sorted(draw.partner.tolist()) == list(range(count))
    for part in tensors(draw):
        assert part.device.type == "cpu"
        assert len(part) == count
    if policy.per == "batch":
        for part in (draw.share, draw.gate, draw.place):
            assert (part == part[0]).all()
    elif count > 1:
        assert len(draw.share.unique()) == count


@mixes
def test_an_image_sees_itself_and_its_partner_only(policy: Mixing) -> None:
    batch = batch_of(6)
    draw = replace(policy.sample(batch.index, rng(1)), partner=torch.tensor([1, 0, 3, 2, 5, 4]))
    whole = policy.apply(batch, draw)
    other = replace(batch, images=batch.images.flip(-1), targets=(batch.targets + 1) % CLASSES)
    first = torch.arange(6) < 2
    images = torch.where(first[:, None, None, None], batch.images, other.images)
    half = replace(batch, images=images, targets=torch.where(first, batch.targets, other.targets))
    out = policy.apply(half, draw)
    assert torch.equal(out.images[:2], whole.images[:2])
    assert torch.equal(out.targets[:2], whole.targets[:2])
    assert torch.equal(out.images[2:], policy.apply(other, draw).images[2:])


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_all_or_nothing(kind: type[Mixing]) -> None:
    batch, policy = batch_of(4), kind(1.0, CLASSES)
    partner = [3, 0, 1, 2]
    itself = policy.apply(batch, draw_by_hand(partner, 1.0))
    shut = policy.apply(batch, draw_by_hand(partner, 0.3, gate=False))
    for out in (itself, shut):
        assert torch.equal(out.images, batch.images.to(out.images.dtype))
        assert torch.equal(out.targets, soft(batch.targets, CLASSES))
    square = replace(batch, images=batch.images[..., :5, :5])
    # A box of the whole size around the centre of 5 pixels reaches from 0 up to 4.
    whole = kind(1.0, CLASSES).apply(square, draw_by_hand(partner, 0.0))
    inner = (..., slice(0, 4), slice(0, 4)) if kind is CutMix else ...
    assert torch.equal(whole.images[inner], square.images[partner][inner].to(whole.images.dtype))


@quick
@given(seed=SEEDS, share=st.floats(0, 1))
def test_mixup_stays_between_the_two_and_keeps_what_is_equal(seed: int, share: float) -> None:
    batch, partner = batch_of(4, seed), [1, 2, 3, 0]
    out = Mixup(1.0, CLASSES).apply(batch, draw_by_hand(partner, share)).images
    pair = torch.stack([batch.images, batch.images[partner]]).float()
    assert (out >= pair.amin(0)).all()
    assert (out <= pair.amax(0)).all()
    exact = share * pair[0].double() + (1 - share) * pair[1].double()
    assert (out - exact).abs().max() < 1e-4


@quick
@given(seed=SEEDS, side=st.integers(1, 9), probability=st.sampled_from([0.5, 1.0]))
def test_cutmix_s_targets_are_exactly_the_pixels_shares(
    seed: int, side: int, probability: float
) -> None:
    count, shape = 8, (side, 7)
    # Every image is of one value and a class of its own, so that pixels tell where they come from.
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, *shape)
    batch = Batch(images, torch.arange(count), torch.arange(count))
    policy = CutMix(1.0, count, probability, per="image")
    draw = policy.sample(batch.index, rng(seed))
    out = policy.apply(batch, draw)
    assert out.images.dtype == torch.uint8
    pixels = math.prod(shape)
    for row in range(count):
        own = int((out.images[row] == row).sum())
        assert out.targets[row, row] == torch.tensor(own / pixels, dtype=torch.float32)
        shown = [(out.images[row] == value).sum() / pixels for value in range(count)]
        assert torch.allclose(out.targets[row], torch.stack(shown), atol=1e-7)


def rand_bbox(
    shape: tuple[int, int], lam: float, centre: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The original code's box, its random centre given."""
    ratio = math.sqrt(1 - lam)
    edges = []
    for side, middle in zip(shape, centre, strict=True):
        cut = int(side * ratio)
        edges += [min(max(middle - cut // 2, 0), side), min(max(middle + cut // 2, 0), side)]
    return edges[0], edges[1], edges[2], edges[3]


@pytest.mark.parametrize("shape", [(4, 4), (5, 7), (8, 8)])
def test_every_box_is_the_original_s(shape: tuple[int, int]) -> None:
    images = torch.stack([torch.zeros(1, *shape), torch.ones(1, *shape)]).byte()
    batch, policy = Batch(images, torch.tensor([0, 1]), torch.arange(2)), CutMix(1.0, 2)
    for lam, row, column in itertools.product(
        torch.linspace(0, 1, 23).tolist(), range(shape[0]), range(shape[1])
    ):
        place = ((row + 0.5) / shape[0], (column + 0.5) / shape[1])
        out = policy.apply(batch, draw_by_hand([1, 0], lam, place=place))
        top, bottom, left, right = rand_bbox(shape, lam, (row, column))
        expected = torch.zeros(1, *shape, dtype=torch.uint8)
        expected[:, top:bottom, left:right] = 1
        assert torch.equal(out.images[0], expected)
        area = (bottom - top) * (right - left) / math.prod(shape)
        assert out.targets[0].tolist() == pytest.approx([1 - area, area], abs=1e-6)


def test_cutmix_s_gates_open_as_often_as_they_should() -> None:
    draw = CutMix(1.0, CLASSES, 0.3, per="image").sample(torch.arange(20_000), rng(4))
    assert draw.gate.double().mean().item() == pytest.approx(0.3, abs=5 * 0.46 / 141)
    columns = torch.stack([draw.share, draw.gate.double(), *draw.place.unbind(1)])
    off = torch.corrcoef(columns) - torch.eye(4)
    assert off.abs().max() < 5 / math.sqrt(20_000)


@mixes
def test_views_are_not_left_unmixed(policy: Mixing) -> None:
    batch = batch_of(3)
    with pytest.raises(ValueError, match="mixes no views"):
        policy.apply(replace(batch, views=(batch.images,)), policy.sample(batch.index, rng(0)))


@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize("alpha", [0.0, -1.0, math.inf, math.nan])
def test_impossible_alphas_are_refused(kind: type[Mixing], alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        kind(alpha, CLASSES)
    with pytest.raises(ValueError, match="alpha"):
        AugMix(SPACE, alpha=alpha)


def test_other_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="probability"):
        CutMix(1.0, CLASSES, 1.5)
    for options, message in [
        ({"severity": 0.1}, "severity"),
        ({"severity": 11.0}, "severity"),
        ({"depth": 0}, "depth=0"),
        ({"width": 0}, "width=0"),
        ({"views": 0}, "views=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            AugMix(SPACE, **options)  # type: ignore[arg-type]


# AugMix


@quick
@given(SEEDS)
def test_augmix_leaves_images_and_targets(seed: int) -> None:
    batch, policy = batch_of(5, seed), AugMix(SPACE, views=3)
    out = policy.apply(batch, policy.sample(batch.index, rng(seed)))
    assert out.images is batch.images
    assert out.targets is batch.targets
    assert len(out.views) == 3
    assert all(view.dtype == torch.float32 for view in out.views)


def test_augmix_s_images_do_not_see_each_other() -> None:
    batch, policy = batch_of(8), AugMix(SPACE)
    draw = policy.sample(batch.index, rng(3))
    whole = policy.apply(batch, draw).views
    mixed = batch.images.clone()
    mixed[4:] = mixed[4:].flip(0)
    half = policy.apply(replace(batch, images=mixed), draw).views
    for one, two in zip(whole, half, strict=True):
        assert torch.equal(one[:4], two[:4])
        assert not torch.equal(one[4:], two[4:])


def test_augmix_draws_within_its_ranges() -> None:
    policy = AugMix(SPACE, severity=3)
    draw = policy.sample(torch.arange(2000), rng(5))
    chains = draw.chains
    assert chains.op.shape == (2000 * 6, 3)
    assert chains.level.min() >= 0.1
    assert chains.level.max() <= 3
    depths = torch.bincount(chains.gate.sum(1), minlength=4).double() / len(chains)
    assert depths[0] == 0
    assert (depths[1:] - 1 / 3).abs().max() < 5 * math.sqrt(2 / 9 / len(chains))
    assert (chains.gate.int().diff(dim=1) <= 0).all(), "a chain's first slots are the open ones"
    used = torch.bincount(chains.op[chains.gate], minlength=len(SPACE)).double()
    assert (used / used.sum() - 1 / len(SPACE)).abs().max() < 0.01
    assert torch.allclose(draw.weights.sum(-1), torch.ones(2000, 2, dtype=torch.float64))
    assert (draw.weights >= 0).all()


def test_augmix_of_nothing_is_the_image_and_so_is_a_blend_of_0() -> None:
    batch, policy = batch_of(4), AugMix(SPACE)
    draw = policy.sample(batch.index, rng(6))
    shut = replace(draw.chains, gate=torch.zeros_like(draw.chains.gate))
    for other in (replace(draw, chains=shut), replace(draw, blend=torch.zeros_like(draw.blend))):
        for view in policy.apply(batch, other).views:
            assert (view - batch.images).abs().max() < 1e-3


def test_what_came_before_reaches_image_and_views_alike() -> None:
    batch = batch_of(6)
    chain = Chain(CropFlip(2, True), AugMix(SPACE))
    first, second = chain.sample(batch.index, rng(7))
    moved = CropFlip(2, True).apply(batch, first)
    out = chain.apply(batch, (first, second))
    assert torch.equal(out.images, moved.images)
    assert equal(out, AugMix(SPACE).apply(moved, second))


def test_augmix_after_mixup_is_refused() -> None:
    batch = batch_of(4)
    chain = Chain(Mixup(1.0, CLASSES), AugMix(SPACE))
    with pytest.raises(ValueError, match="uint8"):
        chain.apply(batch, chain.sample(batch.index, rng(0)))


def test_words() -> None:
    draw = draw_by_hand([2, 0, 1], 0.25)
    assert Mixup(1.0, CLASSES).explain(draw, 0) == ["mixup λ=0.25 with 2"]
    assert CutMix(1.0, CLASSES).explain(replace(draw, gate=torch.zeros(3).bool()), 0) == []
    policy = AugMix(SPACE, width=2, depth=1)
    drawn: AugMixDraw = policy.sample(torch.arange(3), rng(1))
    said = policy.explain(drawn, 2)
    assert len(said) == 2
    first = SPACE.entries[drawn.chains.op[2 * 2 * 2, 0]].label
    assert said[0].startswith(f"view 1: {drawn.blend[2, 0]:.2f} of {drawn.weights[2, 0, 0]:.2f}")
    assert first in said[0]


@pytest.mark.parametrize("kind", ["mixup by image", "cutmix by image", "augmix"])
def test_a_description_is_enough_to_rebuild(kind: str) -> None:
    policy = POLICIES[kind]
    if isinstance(policy, AugMix):
        policy = AugMix(space("augmix"), 2, 2, 5.0, 0.5, 3, Fill((1, 2, 3), (4,)))
    description = policy.describe()
    plain = json.loads(json.dumps(description))
    again = type(policy).rebuild(plain)  # type: ignore[attr-defined]
    assert again.describe() == description
    batch = batch_of(5)
    first, second = (p.apply(batch, p.sample(batch.index, rng(2))) for p in (policy, again))
    assert equal(first, second)


@pytest.mark.gpu
@every
def test_a_device_gives_the_same_pixels_and_targets(policy: Policy) -> None:
    batch = batch_of(16)
    draw = policy.sample(batch.index, rng(8))
    here = policy.apply(batch, draw)
    there = policy.apply(Batch(batch.images.cuda(), batch.targets.cuda(), batch.index), draw)
    assert torch.equal(there.images.cpu(), here.images)
    assert torch.equal(there.targets.cpu(), here.targets)
    for one, two in zip(here.views, there.views, strict=True):
        assert torch.allclose(two.cpu(), one, atol=1e-4)
