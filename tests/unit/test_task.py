"""The task: normalisation, and the standard augmentation and Cutout that fit it."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from bench.augment.standard import CropFlip, Cutout
from bench.data.arrays import Arrays
from bench.networks import build
from bench.train.prepare import Prepared
from bench.train.recipe import Recipe
from bench.train.task import Task, cutout, standard


def task_of(
    size: int = 8,
    mean: tuple[float, ...] = (0.5, 0.25, 0.75),
    std: tuple[float, ...] = (0.25, 0.5, 0.2),
    flip: bool = True,
    **recipe: object,
) -> Task:
    channels = len(mean)
    images = torch.zeros(2, channels, size, size, dtype=torch.uint8)
    arrays = Arrays(images, torch.tensor([0, 1]))
    return Task(
        classes=2,
        channels=channels,
        size=size,
        train=arrays,
        val=arrays,
        mean=mean,
        std=std,
        flip=flip,
        recipe=Recipe(steps=1, **recipe),
        network=lambda: build("small-cnn", 2, channels, size),
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_against_double_precision(channels: int) -> None:
    mean, std = (0.4914, 0.4822, 0.4465)[:channels], (0.2470, 0.2435, 0.2616)[:channels]
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, channels, 1, 1)
    found = task_of(16, mean, std).normalise(images)
    pixels = images.numpy().astype(np.float64) / 255
    expected = (pixels - np.reshape(mean, (1, -1, 1, 1))) / np.reshape(std, (1, -1, 1, 1))
    assert found.dtype == torch.float32
    assert found.shape == images.shape
    assert np.abs(found.numpy() - expected).max() < 1e-6
    assert torch.equal(found, task_of(16, mean, std).normalise(images.float()))


def test_normalisation_changes_nothing_and_keeps_the_format() -> None:
    images = torch.arange(4 * 3 * 64).remainder(256).byte().view(4, 3, 8, 8)
    before = images.clone()
    found = task_of().normalise(images)
    assert torch.equal(images, before)
    assert found.is_contiguous()
    last = images.to(torch.float32, memory_format=torch.channels_last)
    assert task_of().normalise(last).is_contiguous(memory_format=torch.channels_last)
    stacked = torch.stack([images, images])  # N copies, as stacked trajectories have them
    assert torch.equal(task_of().normalise(stacked)[1], found)


def test_normalisation_is_differentiable() -> None:
    images = torch.full((2, 3, 8, 8), 100.0, requires_grad=True)
    task_of().normalise(images).sum().backward()
    assert images.grad is not None
    for channel, std in enumerate((0.25, 0.5, 0.2)):
        expected = torch.full((2, 8, 8), 1 / (255 * std))
        assert torch.allclose(images.grad[:, channel], expected, rtol=1e-6)


def test_the_small_task_is_normalised_by_its_source(small: Prepared) -> None:
    # Over the whole source training set; val is a fifth of it, the rest of train is distorted.
    pixels = small.task.normalise(small.task.val.images)
    assert abs(pixels.mean().item()) < 0.05
    assert abs(pixels.std().item() - 1) < 0.05


def test_a_task_with_other_statistics_does_not_keep_the_old_ones() -> None:
    task = task_of()
    images = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    first = task.normalise(images)
    other = replace(task, mean=(0.0,) * 3, std=(1.0,) * 3).normalise(images)
    assert torch.allclose(other, torch.ones_like(other))
    assert not torch.allclose(first, other)


def test_a_task_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        task_of().train = None


@pytest.mark.parametrize(
    ("size", "pad"), [(8, 1), (32, 4), (28, 4), (64, 8), (96, 12), (224, 28), (4, 1), (1, 1)]
)
def test_standard_pads_an_eighth_of_the_side(size: int, pad: int) -> None:
    policy = standard(task_of(size))
    assert isinstance(policy, CropFlip)
    assert policy.pad == pad


@pytest.mark.parametrize("wanted", [0, 1, 5])
def test_the_recipe_s_padding_wins(wanted: int) -> None:
    assert standard(task_of(32, pad=wanted)).describe()["pad"] == wanted


@pytest.mark.parametrize(
    ("source", "recipe", "expected"),
    [
        (True, None, True),
        (False, None, False),
        (True, False, False),
        (False, True, True),
    ],
)
def test_flips_follow_the_data_set_unless_the_recipe_says(
    source: bool, recipe: bool | None, expected: bool
) -> None:
    task = replace(task_of(flip=source), recipe=Recipe(steps=1, flip=recipe))
    assert standard(task).describe()["flip"] is expected


@pytest.mark.parametrize(
    ("size", "share", "side"), [(32, 0.5, 16), (8, 0.5, 4), (28, 0.5, 14), (32, 0.25, 8)]
)
def test_cutout_has_a_share_of_the_side(size: int, share: float, side: int) -> None:
    policy = cutout(task_of(size), share)
    assert isinstance(policy, Cutout)
    assert policy.side == side
    assert policy.shape == (size, size)
    assert cutout(task_of(32)).describe()["side"] == 16, "half by default, as in the paper"


def test_cutout_fills_with_the_rounded_mean() -> None:
    assert cutout(task_of(mean=(0.5, 0.25, 1.0))).describe()["fill"] == [128, 64, 255]
    assert cutout(task_of(mean=(0.499,), std=(1.0,))).describe()["fill"] == [127]
    grey = torch.full((1, 1, 1, 1), 127, dtype=torch.uint8)
    task = task_of(mean=(0.499,), std=(0.3,))
    assert task.normalise(grey).abs().item() < 0.5 / (255 * 0.3), "within a half of a grey level"
