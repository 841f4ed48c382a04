"""Crop, flip and Cutout, pixel by pixel, against Pillow, torchvision and a NumPy loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import functional as tv

from bench.augment.policy import Batch, Chain
from bench.augment.standard import CropFlip, CropFlipDraw, Cutout, CutoutDraw
from bench.data.sources import load

quick = settings(max_examples=60, deadline=None)
SHAPES = [(8, 8), (32, 32), (7, 11), (13, 5), (1, 6), (1, 1)]


def noise(count: int, channels: int, height: int, width: int, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    shape = (count, channels, height, width)
    images = torch.randint(256, shape, generator=rng, dtype=torch.uint8)
    return Batch(images, torch.arange(count), torch.arange(count))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def to_pillow(image: torch.Tensor) -> Image.Image:
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def from_pillow(image: Image.Image) -> torch.Tensor:
    pixels = np.asarray(image)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def crop_flip_by_pillow(batch: Batch, draw: CropFlipDraw, pad: int) -> torch.Tensor:
    results = []
    for image, top, left, flip in zip(batch.images, draw.top, draw.left, draw.flip, strict=True):
        height, width = image.shape[-2:]
        wide = ImageOps.expand(to_pillow(image), border=pad, fill=0)
        cut = wide.crop((int(left), int(top), int(left) + width, int(top) + height))
        results.append(from_pillow(ImageOps.mirror(cut) if flip else cut))
    return torch.stack(results)


def crop_flip_by_torchvision(batch: Batch, draw: CropFlipDraw, pad: int) -> torch.Tensor:
    results = []
    for image, top, left, flip in zip(batch.images, draw.top, draw.left, draw.flip, strict=True):
        cut = tv.crop(tv.pad(image, [pad]), int(top), int(left), *image.shape[-2:])
        results.append(tv.hflip(cut) if flip else cut)
    return torch.stack(results)


def cutout_by_loop(batch: Batch, draw: CutoutDraw, side: int, fill: tuple[int, ...]):
    """The published code: y1 = clip(y - length // 2, 0, h), y2 = clip(y + length // 2, 0, h)."""
    images = batch.images.numpy().copy()
    height, width = images.shape[-2:]
    for image, y, x in zip(images, draw.row.tolist(), draw.column.tolist(), strict=True):
        y1, y2 = np.clip(y - side // 2, 0, height), np.clip(y + side // 2, 0, height)
        x1, x2 = np.clip(x - side // 2, 0, width), np.clip(x + side // 2, 0, width)
        for channel, value in enumerate(fill):
            image[channel, y1:y2, x1:x2] = value
    return torch.from_numpy(images)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("pad", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_crop_and_flip(shape: tuple[int, int], channels: int, pad: int, flip: bool) -> None:
    batch = noise(24, channels, *shape)
    policy = CropFlip(pad, flip)
    draw = policy.sample(batch.index, rng(pad))
    found = policy.apply(batch, draw)
    assert found.images.dtype == torch.uint8
    assert torch.equal(found.images, crop_flip_by_pillow(batch, draw, pad))
    assert torch.equal(found.images, crop_flip_by_torchvision(batch, draw, pad))


def test_every_draw_there_is() -> None:
    batch = noise(1, 3, 5, 4)
    policy = CropFlip(2, True)
    for top in range(5):
        for left in range(5):
            for flip in (True, False):
                draw = CropFlipDraw(*(torch.tensor([v]) for v in (top, left, flip)))
                expected = crop_flip_by_pillow(batch, draw, 2)
                assert torch.equal(policy.apply(batch, draw).images, expected)


@quick
@given(
    st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 12), st.integers(0, 4), st.booleans()
)
def test_crop_and_flip_of_any_size(
    seed: int, height: int, width: int, pad: int, flip: bool
) -> None:
    batch = noise(6, 3 if seed % 2 else 1, height, width, seed)
    policy = CropFlip(pad, flip)
    draw = policy.sample(batch.index, rng(seed))
    assert torch.equal(policy.apply(batch, draw).images, crop_flip_by_pillow(batch, draw, pad))


@quick
@given(
    st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 12), st.integers(0, 14)
)  # fmt: skip
def test_cutout_of_any_size(seed: int, height: int, width: int, side: int) -> None:
    batch = noise(6, 3, height, width, seed)
    fill = (0, 255, seed % 256)
    policy = Cutout(side, (height, width), fill)
    draw = policy.sample(batch.index, rng(seed))
    expected = cutout_by_loop(batch, draw, side, fill)
    assert torch.equal(policy.apply(batch, draw).images, expected)


@pytest.mark.parametrize(("channels", "fill"), [(1, (77,)), (3, (10, 20, 30))])
@pytest.mark.parametrize("side", [0, 1, 2, 3, 4, 8, 16, 20])
def test_cutout_at_every_centre(side: int, channels: int, fill: tuple[int, ...]) -> None:
    batch = noise(63, channels, 9, 7)
    policy = Cutout(side, (9, 7), fill)
    everywhere = torch.arange(63)
    draw = CutoutDraw(everywhere // 7, everywhere % 7)
    found = policy.apply(batch, draw).images
    assert torch.equal(found, cutout_by_loop(batch, draw, side, fill))
    if side >= 2:
        assert (found[0] != batch.images[0]).any()


def test_a_chain_on_digits() -> None:
    train = load("digits").train
    index = torch.arange(0, len(train), 3)
    images, labels = train.take(index)
    batch = Batch(images, labels, index)
    policy = Chain(CropFlip(1, True), Cutout(4, (8, 8), (78,)))
    draw = policy.sample(batch.index, rng(4))
    cropped = replace(batch, images=crop_flip_by_pillow(batch, draw[0], 1))
    expected = cutout_by_loop(cropped, draw[1], 4, (78,))
    found = policy.apply(batch, draw)
    assert torch.equal(found.images, expected)
    assert torch.equal(found.targets, labels)
    assert (found.images != images).any()
