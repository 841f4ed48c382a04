"""The engine's laws: purity, no image sees another, programs compose, stronger changes more."""

import os
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.augment import engine, native, tensors
from bench.augment.engine import Fill, Program
from bench.augment.operations import INDEX, OPERATIONS
from tests.oracle import images as sets
from tests.oracle.images import Tensor, rows_of

NAMES = [operation.name for operation in OPERATIONS]
WITH_MAGNITUDE = [operation.name for operation in OPERATIONS if operation.unit is not None]
WARPS = [*sets.SIGNED, "flip-lr", "flip-ud"]
COLOURED = Fill((10, 200, 30), (125, 123, 114))
SEEDS = st.integers(0, 2**31)
SIDES = st.integers(1, 12)
SIZES = st.tuples(SIDES, SIDES)
CHANNELS = st.sampled_from([1, 3])
quick = settings(max_examples=40, deadline=None)
both = pytest.mark.parametrize("which", ["native", "tensors"])


def execute(which: str, images: Tensor, program: Program, fill: Fill = engine.BLACK) -> Tensor:
    with patch.dict(os.environ, {native.SWITCH: which}):
        return engine.execute(images, program, fill)


def one(which: str, name: str, images: Tensor, magnitude: float = 0.0, fill: Fill = engine.BLACK):
    """One operation on every image, with the same centre of Cutout squares."""
    shape = (len(images), 1)
    operation = torch.full(shape, INDEX[name])
    magnitudes = torch.full(shape, magnitude, dtype=torch.float64)
    place = torch.tensor([0.4, 0.7], dtype=torch.float64).expand(*shape, 2)
    return execute(which, images, Program(operation, magnitudes, place), fill)


def noise(count: int, channels: int, size: tuple[int, int], seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, *size), generator=rng, dtype=torch.uint8)


def fill_for(channels: int) -> Fill:
    return Fill(COLOURED.outside[:channels], COLOURED.hole[:channels])


def magnitudes_of(name: str) -> st.SearchStrategy[float]:
    operation = OPERATIONS[INDEX[name]]
    return st.floats(operation.low, operation.high)


def distance(one: Tensor, other: Tensor) -> Tensor:
    return (one.int() - other.int()).abs()


# What goes in and what comes out


@both
@quick
@given(seed=SEEDS, count=st.integers(0, 9), channels=CHANNELS, size=SIZES, slots=st.integers(0, 4))
def test_nothing_that_goes_in_is_changed_or_handed_out(
    which: str, seed: int, count: int, channels: int, size: tuple[int, int], slots: int
) -> None:
    images = noise(count, channels, size, seed)
    program = sets.random_program(count, slots, *size, seed)
    given_ = [images, program.operation, program.magnitude, program.place]
    kept = [part.clone() for part in given_]
    out = execute(which, images, program, fill_for(channels))
    assert (out.shape, out.dtype, out.device) == (images.shape, torch.uint8, images.device)
    expected = out.clone()
    out.bitwise_not_()  # memory of its own: nothing else changes
    for part, before in zip(given_, kept, strict=True):
        assert torch.equal(part, before)
    assert torch.equal(execute(which, images, program, fill_for(channels)), expected)


@both
@pytest.mark.parametrize("name", WITH_MAGNITUDE)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_magnitude_zero_is_the_identity(which: str, name: str, zero: float) -> None:
    images = torch.cat([sets.some_photos(40, 11, 14), sets.awkward(11, 14)])
    assert torch.equal(one(which, name, images, zero, COLOURED), images)


@both
@quick
@given(seed=SEEDS, channels=CHANNELS, size=SIZES, slots=st.integers(1, 4))
def test_the_order_of_the_batch_does_not_matter(
    which: str, seed: int, channels: int, size: tuple[int, int], slots: int
) -> None:
    images = noise(23, channels, size, seed)
    program = sets.random_program(23, slots, *size, seed)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(seed))
    sorted_ = execute(which, images, program)
    shuffled = execute(which, images[order], rows_of(program, order))
    assert torch.equal(shuffled, sorted_[order])


@both
@quick
@given(seed=SEEDS, channels=CHANNELS, size=SIZES, slots=st.integers(1, 4), cut=st.integers(0, 23))
def test_a_batch_may_be_split_anywhere(
    which: str, seed: int, channels: int, size: tuple[int, int], slots: int, cut: int
) -> None:
    images = noise(23, channels, size, seed)
    program = sets.random_program(23, slots, *size, seed)
    parts = [
        execute(which, images[rows], rows_of(program, rows))
        for rows in (slice(0, cut), slice(cut, 23))
    ]
    assert torch.equal(torch.cat(parts), execute(which, images, program))


@quick
@given(seed=SEEDS, channels=CHANNELS, chunk=st.integers(1, 4000), threads=st.integers(1, 5))
def test_chunks_and_threads_do_not_matter(
    seed: int, channels: int, chunk: int, threads: int
) -> None:
    images = noise(40, channels, (9, 6), seed)
    program = sets.random_program(40, 3, 9, 6, seed)
    expected = execute("native", images, program)
    with patch.dict(tensors.CHUNK_BYTES, cpu=chunk):
        assert torch.equal(execute("tensors", images, program), expected)
    with (
        patch.object(native, "LEAST_PER_THREAD", 1),
        patch.object(torch, "get_num_threads", lambda: threads),
    ):
        assert torch.equal(execute("native", images, program), expected)


@both
@quick
@given(seed=SEEDS, channels=CHANNELS, size=SIZES, slots=st.integers(1, 5))
def test_a_program_is_its_slots_one_after_the_other(
    which: str, seed: int, channels: int, size: tuple[int, int], slots: int
) -> None:
    images, fill = noise(20, channels, size, seed), fill_for(channels)
    program = sets.random_program(20, slots, *size, seed)
    step = images
    for slot in range(slots):
        at = slice(slot, slot + 1)
        part = Program(program.operation[:, at], program.magnitude[:, at], program.place[:, at])
        step = execute(which, step, part, fill)
    assert torch.equal(execute(which, images, program, fill), step)


@both
@quick
@given(seed=SEEDS, slots=st.integers(1, 4), where=st.data())
def test_identities_may_stand_anywhere(
    which: str, seed: int, slots: int, where: st.DataObject
) -> None:
    images = noise(20, 3, (7, 8), seed)
    program = sets.random_program(20, slots, 7, 8, seed)
    kept = where.draw(
        st.lists(st.integers(0, slots + 2), min_size=slots, max_size=slots, unique=True)
    )
    kept = torch.tensor(sorted(kept))
    longer = Program(
        torch.full((20, slots + 3), INDEX["identity"]),
        torch.ones((20, slots + 3), dtype=torch.float64),
        torch.zeros((20, slots + 3, 2), dtype=torch.float64),
    )
    longer.operation[:, kept] = program.operation
    longer.magnitude[:, kept] = program.magnitude
    longer.place[:, kept] = program.place
    assert torch.equal(execute(which, images, longer), execute(which, images, program))


# Laws of operations


@both
@quick
@given(seed=SEEDS, channels=CHANNELS, size=SIZES)
def test_doing_it_twice(which: str, seed: int, channels: int, size: tuple[int, int]) -> None:
    images = noise(8, channels, size, seed)
    for name in ("flip-lr", "flip-ud", "invert"):
        once = one(which, name, images)
        assert torch.equal(one(which, name, once), images), name
    for name, magnitude in (("posterize", 1 + seed % 8), ("cutout", seed % 9)):
        once = one(which, name, images, magnitude, fill_for(channels))
        assert torch.equal(one(which, name, once, magnitude, fill_for(channels)), once), name


@both
@quick
@given(seed=SEEDS, channels=CHANNELS, size=SIZES)
def test_flips_and_turns(which: str, seed: int, channels: int, size: tuple[int, int]) -> None:
    images = noise(8, channels, size, seed)
    assert torch.equal(one(which, "flip-lr", images), images.flip(3))
    assert torch.equal(one(which, "flip-ud", images), images.flip(2))
    for degrees in (180, -180):
        assert torch.equal(one(which, "rotate", images, degrees, COLOURED_ONE), images.flip(2, 3))
    for degrees in (360, -360):
        assert torch.equal(one(which, "rotate", images, degrees, COLOURED_ONE), images)
    square = noise(8, channels, (size[0], size[0]), seed)
    for degrees, turns in ((90, 1), (270, 3), (-90, 3), (-270, 1)):
        turned = one(which, "rotate", square, degrees, COLOURED_ONE)
        assert torch.equal(turned, square.rot90(turns, (2, 3)))


COLOURED_ONE = Fill((77,), (99,))


@both
@quick
@given(seed=SEEDS, channels=CHANNELS, size=SIZES, pixels=st.integers(-14, 14))
def test_whole_translations(
    which: str, seed: int, channels: int, size: tuple[int, int], pixels: int
) -> None:
    """Content moves left and up; what comes in from outside has the fill's colour."""
    images = noise(5, channels, size, seed)
    for axis, name in ((3, "translate-x"), (2, "translate-y")):
        expected = torch.full_like(images, 77)
        kept = max(0, images.shape[axis] - abs(pixels))
        source = images.narrow(axis, min(max(0, pixels), images.shape[axis] - kept), kept)
        expected.narrow(axis, min(max(0, -pixels), images.shape[axis] - kept), kept)[:] = source
        assert torch.equal(one(which, name, images, pixels, COLOURED_ONE), expected)


@both
@quick
@given(seed=SEEDS, name=st.sampled_from(WARPS), data=st.data())
def test_warps_invent_no_colours(which: str, seed: int, name: str, data: st.DataObject) -> None:
    images = noise(4, 3, (6, 5), seed)
    magnitude = data.draw(magnitudes_of(name)) if name in WITH_MAGNITUDE else 0.0
    out = one(which, name, images, magnitude, COLOURED)
    for image, warped in zip(images, out, strict=True):
        known = {tuple(pixel) for pixel in image.flatten(1).T.tolist()} | {COLOURED.outside}
        assert {tuple(pixel) for pixel in warped.flatten(1).T.tolist()} <= known


@both
def test_the_weakest_images_of_the_enhancers(which: str) -> None:
    """At the factor 0: black, one grey, grey pixels, the smoothed image."""
    images = sets.some_photos(50, 13, 10)
    assert not one(which, "brightness", images, -1).any()
    flat = one(which, "contrast", images, -1).flatten(1)
    assert (flat == flat[:, :1]).all()
    grey = one(which, "color", images, -1)
    assert (grey == grey[:, :1]).all()
    assert torch.equal(one(which, "sharpness", images, -1), one(which, "smooth", images))


@both
@quick
@given(
    seed=SEEDS,
    name=st.sampled_from(["brightness", "contrast", "color", "sharpness"]),
    sign=st.sampled_from([-1, 1]),
    data=st.data(),
)
def test_stronger_enhancers_change_more(
    which: str, seed: int, name: str, sign: int, data: st.DataObject
) -> None:
    images = noise(6, 3, (6, 7), seed)
    less, more = sorted(data.draw(st.lists(st.floats(0, 100), min_size=2, max_size=2)))
    weak, strong = (one(which, name, images, sign * m) for m in (less, more))
    assert (distance(strong, images) >= distance(weak, images)).all()


@both
@quick
@given(seed=SEEDS, data=st.data())
def test_stronger_is_further_elsewhere(which: str, seed: int, data: st.DataObject) -> None:
    images = noise(6, 3, (9, 8), seed)
    for name, whole in (("posterize", 8), ("solarize-add", 255), ("cutout", 20)):
        pair = data.draw(st.lists(st.integers(0, whole), min_size=2, max_size=2))
        weak, strong = (one(which, name, images, m, Fill((0,), (0,))) for m in sorted(pair))
        assert (distance(strong, images) >= distance(weak, images)).all(), name
    pair = data.draw(st.lists(st.floats(0, 256), min_size=2, max_size=2))
    weak, strong = (one(which, "solarize", images, m) != images for m in sorted(pair))
    assert (strong | ~weak).all()


@both
@quick
@given(seed=SEEDS, channels=CHANNELS)
def test_values_are_treated_alike_wherever_they_are(which: str, seed: int, channels: int) -> None:
    """Operations on values and histograms commute with any order of the pixels."""
    images = noise(5, channels, (6, 7), seed)
    order = torch.randperm(42, generator=torch.Generator().manual_seed(seed))

    def shuffled(batch: Tensor) -> Tensor:
        return batch.flatten(2)[..., order].view_as(batch)

    for name in ("invert", "solarize", "autocontrast", "equalize", "brightness", "contrast"):
        magnitude = 0.75 if name in ("brightness", "contrast") else 100
        once = shuffled(one(which, name, images, magnitude))
        assert torch.equal(one(which, name, shuffled(images), magnitude), once), name


@both
@quick
@given(seed=SEEDS, size=SIZES)
def test_what_stretching_gives(which: str, seed: int, size: tuple[int, int]) -> None:
    images = noise(5, 3, size, seed) // 3 + 40
    out = one(which, "autocontrast", images).flatten(2)
    flat = images.flatten(2).amin(2) == images.flatten(2).amax(2)
    assert ((out.amin(2) == 0) | flat).all()
    assert ((out.amax(2) >= 254) | flat).all()  # truncation may lose one
    for name in ("autocontrast", "equalize"):
        values, order = images.flatten(2).sort(2)
        changed = one(which, name, images).flatten(2).gather(2, order).int()
        assert (changed.diff(dim=2) >= 0).all(), "darker pixels stay darker"
        assert ((changed.diff(dim=2) == 0) | (values.int().diff(dim=2) > 0)).all()
