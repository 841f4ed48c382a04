"""Random erasing against torchvision's: the same boxes to the pixel, the same boxes on average."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomErasing
from torchvision.transforms import functional as tv

from bench.augment.export import PolicyTransform, rebuild
from bench.augment.policy import Batch
from bench.augment.standard import Erasing, ErasingDraw
from bench.errors import ConfigError
from bench.rng import forked

Tensor = torch.Tensor
SHAPES = [(8, 8), (32, 32), (7, 11), (13, 5)]
COUNT = 20_000


def noise(count: int, channels: int, height: int, width: int, seed: int = 0) -> Batch:
    shape = (count, channels, height, width)
    images = torch.randint(256, shape, generator=rng(seed), dtype=torch.uint8)
    return Batch(images, torch.arange(count), torch.arange(count))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sides(draw: ErasingDraw) -> tuple[Tensor, Tensor]:
    """Heights and widths of boxes; 0 where there is none."""
    left, right, top, bottom = draw.boxes
    return bottom - top + 1, right - left + 1


def by_torchvision(batch: Batch, draw: ErasingDraw, fill: tuple[int, ...]) -> Tensor:
    colour = torch.tensor(fill, dtype=torch.uint8)[:, None, None]
    tall, wide = sides(draw)
    left, _, top, _ = draw.boxes
    rows = zip(
        batch.images, top.tolist(), left.tolist(), tall.tolist(), wide.tolist(), strict=True
    )
    return torch.stack([tv.erase(image, i, j, h, w, colour) for image, i, j, h, w in rows])


def alone(policy: Erasing, batch: Batch, draw: ErasingDraw) -> Tensor:
    """Image by image, with Pillow."""
    out = []
    for row, image in enumerate(batch.images):
        pillow = Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())
        pixels = np.array(policy.transform(pillow, draw, row))
        out.append(torch.from_numpy(pixels).view(*image.shape[-2:], -1).permute(2, 0, 1))
    return torch.stack(out)


@pytest.mark.parametrize(("channels", "fill"), [(1, (77,)), (3, (10, 20, 30))])
@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_are_filled(shape: tuple[int, int], channels: int, fill: tuple[int, ...]) -> None:
    batch = noise(200, channels, *shape)
    policy = Erasing(shape, fill, probability=0.8)
    draw, before = policy.sample(batch.index, rng(1)), batch.images.clone()
    found = policy.apply(batch, draw).images
    assert torch.equal(batch.images, before)
    assert found.dtype == torch.uint8
    expected = by_torchvision(batch, draw, fill)
    assert (expected != before).any()
    assert torch.equal(found, expected)
    assert torch.equal(alone(policy, batch, draw), expected)


def test_every_box_there_is() -> None:
    """Of a 4×3 image, and none."""
    boxes = [
        (left, right, top, bottom)
        for left in range(3)
        for right in range(left, 3)
        for top in range(4)
        for bottom in range(top, 4)
    ]
    draw = ErasingDraw(torch.tensor([*boxes, (0, -1, 0, -1)]).T.contiguous())
    batch, policy = noise(len(boxes) + 1, 3, 4, 3), Erasing((4, 3), (1, 2, 3))
    expected = by_torchvision(batch, draw, (1, 2, 3))
    assert torch.equal(policy.apply(batch, draw).images, expected)
    assert torch.equal(alone(policy, batch, draw), expected)
    assert torch.equal(expected[-1], batch.images[-1])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 12),
    st.integers(1, 12),
    st.floats(0.001, 0.5),
    st.floats(0.5, 1),
    st.floats(1, 6),
)
@example(0, 1, 2, 0.125, 1.0, 2.0)  # boxes without rows, which do nothing
def test_boxes_lie_inside_images_of_any_size(
    seed: int, height: int, width: int, low: float, high: float, slope: float
) -> None:
    policy = Erasing((height, width), (seed % 256,), 0.9, (low, high), (1 / slope, slope))
    batch = noise(20, 1, height, width, seed)
    draw = policy.sample(batch.index, rng(seed))
    left, right, top, bottom = draw.boxes
    tall, wide = sides(draw)
    assert ((tall >= 0) & (wide >= 0)).all()
    some = (tall > 0) & (wide > 0)
    assert ((left >= 0) & (right < width) & (top >= 0) & (bottom < height))[some].all()
    # A side never fills the image, as in torchvision.
    assert ((tall < height) & (wide < width))[some].all()
    expected = by_torchvision(batch, draw, (seed % 256,))
    assert torch.equal(policy.apply(batch, draw).images, expected)
    assert torch.equal(alone(policy, batch, draw), expected)
    assert [bool(policy.explain(draw, row)) for row in range(20)] == some.tolist()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_an_image_that_no_box_fits_stays(shape: tuple[int, int]) -> None:
    """A box must be smaller than the image both ways."""
    policy = Erasing(shape, (5,), probability=1.0, area=(0.7, 0.9), ratio=(0.9, 1.1))
    batch = noise(50, 1, *shape)
    draw = policy.sample(batch.index, rng(0))
    assert torch.equal(policy.apply(batch, draw).images, batch.images)
    assert torch.equal(alone(policy, batch, draw), batch.images)
    assert not any(policy.explain(draw, row) for row in range(50))


def theirs(
    shape: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Boxes (top, left, height, width) that torchvision draws; without those that do not fit."""
    image, out = torch.zeros(1, *shape), []
    with forked("torchvision", *shape):
        for _ in range(COUNT):
            i, j, h, w, value = RandomErasing.get_params(image, area, ratio, value=[0.0])
            if value is not image:
                out.append((i, j, h, w))
    return torch.tensor(out)


@pytest.mark.parametrize(
    ("shape", "area", "ratio"),
    [
        ((32, 32), (0.02, 0.33), (0.3, 3.3)),
        ((8, 8), (0.02, 0.33), (0.3, 3.3)),
        ((9, 20), (0.2, 0.9), (0.5, 4.0)),  # where a try often fails
    ],
)
def test_boxes_are_distributed_as_torchvisions(
    shape: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float]
) -> None:
    policy = Erasing(shape, (0,), 1.0, area, ratio)
    draw = policy.sample(torch.arange(COUNT), rng(1))
    tall, wide = sides(draw)
    done = (tall > 0) & (wide > 0)
    left, _, top, _ = draw.boxes
    ours = torch.stack([top, left, tall, wide], 1)[done]
    expected = theirs(shape, area, ratio)
    assert len(ours) / COUNT == pytest.approx(len(expected) / COUNT, abs=0.01)
    for number in range(4):
        # The two-sample Kolmogorov-Smirnov distance of each column.
        ends = torch.arange(max(shape) + 1)
        steps = [(boxes[:, number, None] <= ends).double().mean(0) for boxes in (ours, expected)]
        assert (steps[0] - steps[1]).abs().max() < 2 * math.sqrt(2 / COUNT)
    for value in (
        lambda boxes: boxes[:, 2] * boxes[:, 3],
        lambda boxes: (boxes[:, 2] / boxes[:, 3]).log(),
        lambda boxes: boxes[:, 2] * boxes[:, 1],
    ):
        one, other = (value(boxes).double() for boxes in (ours, expected))
        error = math.sqrt(2 / COUNT) * float(other.std())
        assert abs(float(one.mean() - other.mean())) < 4 * error
        assert float(one.std()) == pytest.approx(float(other.std()), rel=0.05)


def test_half_of_the_images_get_a_box() -> None:
    draw = Erasing((32, 32), (0,)).sample(torch.arange(COUNT), rng(2))
    tall, wide = sides(draw)
    assert float((tall > 0).double().mean()) == pytest.approx(0.5, abs=0.015)
    assert torch.equal(tall > 0, wide > 0)
    for probability in (0.0, 1.0):
        draw = Erasing((32, 32), (0,), probability).sample(torch.arange(COUNT), rng(2))
        assert (sides(draw)[0] > 0).double().mean() == probability


def test_draws_do_not_change_how_much_is_drawn() -> None:
    states = []
    for options in ({}, {"probability": 0.0}, {"area": (0.9, 0.99)}, {"ratio": (1.0, 1.0)}):
        generator = rng(3)
        state = torch.get_rng_state()
        Erasing((8, 8), (0,), **options).sample(torch.arange(9), generator)
        assert torch.equal(state, torch.get_rng_state())
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)


def test_its_description_rebuilds_it() -> None:
    policy = Erasing((9, 7), (1, 2, 3), 0.7, (0.1, 0.2), (0.5, 1.5))
    again = rebuild(json.loads(json.dumps(policy.describe())))
    assert again.describe() == policy.describe()
    index = torch.arange(60)
    draw = policy.sample(index, rng(4))
    assert torch.equal(draw.boxes, again.sample(index, rng(4)).boxes)
    assert policy.log_prob(draw).tolist() == [0.0] * 60
    words = [policy.explain(draw, row) for row in range(60)]
    tall, wide = (side.tolist() for side in sides(draw))
    left, _, top, _ = draw.boxes.tolist()
    for row in range(60):
        said = [f"erase {wide[row]}×{tall[row]} at {left[row]},{top[row]}"]
        assert words[row] == (said if tall[row] else [])


def test_an_image_of_another_size_is_refused() -> None:
    transform = PolicyTransform(Erasing((9, 7), (1, 2, 3)))
    assert transform(Image.new("RGB", (7, 9))).size == (7, 9)
    with pytest.raises(ConfigError, match=r"9×7 pixels.*erasing is for 7×9"):
        transform(Image.new("RGB", (9, 7)))
