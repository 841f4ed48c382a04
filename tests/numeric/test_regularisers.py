"""STN's regularisers: hues and jitter against torchvision, holes, strengths, densities."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import functional as tv

from bench.augment.hue import hsv, rgb, turned
from bench.augment.policy import Batch
from bench.augment.regularisers import JITTER, Regularised, Regularisers, regularisers
from tests.numeric.small_policies import numbers

Tensor = torch.Tensor
FILL = (125, 123, 114)
TOPS = [0.5, 1, 1, 1, 24, 4, 0.3, 1, 0.9, 0.9]
STARTS = [0.05, 0.05, 0.05, 0.05, 24 * 4 / 25, 1, 0.05, 0.05, 0.05, 0.05]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy(strength: float = 0.5, sigma: float = 0.0) -> Regularisers:
    """With all strengths at one share of their range."""
    logit = math.log(strength / (1 - strength)) if 0 < strength < 1 else 1e9 * (strength - 0.5)
    return Regularisers((32, 32), FILL, dropouts=3, entries=logit, sigma=sigma)


def images(count: int = 200, channels: int = 3) -> Tensor:
    return torch.randint(256, (count, channels, 32, 32), dtype=torch.uint8, generator=rng(7))


def picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def array(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def applied(made: Regularisers, draw: Regularised, pixels: Tensor) -> Tensor:
    index = torch.arange(len(pixels))
    before = pixels.clone()
    out = made.apply(Batch(pixels, index, index), draw).images
    assert torch.equal(pixels, before)
    return out


# Hue


def every_colour() -> Tensor:
    """A third of all colours, as images (1, 3, H, 256)."""
    parts = torch.meshgrid(
        torch.arange(0, 256, 3), torch.arange(256), torch.arange(256), indexing="ij"
    )
    return torch.stack(parts).to(torch.uint8).view(1, 3, -1, 256)


def test_hues_are_pillows() -> None:
    colours = every_colour()
    pixels = colours[0].permute(1, 2, 0).numpy()
    there = np.array(Image.fromarray(pixels).convert("HSV"))
    found = torch.stack([part[0].double() for part in hsv(colours)], -1)
    assert np.array_equal(found.numpy(), there.astype(np.float64))
    back = np.array(Image.fromarray(pixels, mode="HSV").convert("RGB"))
    hue, saturation, value = colours.unbind(1)
    assert np.array_equal(
        rgb(hue.long(), saturation.float(), value.float())[0].permute(1, 2, 0).numpy(), back
    )


def test_turned_hues_are_torchvisions() -> None:
    factors = torch.linspace(-0.5, 0.5, 41, dtype=torch.float64)
    shift = (255 * factors).long() % 256
    pixels = images(41)
    found = turned(pixels, shift)
    for row, factor in enumerate(factors.tolist()):
        expected = (
            array(tv.adjust_hue(picture(pixels[row]), factor)) if shift[row] else pixels[row]
        )
        assert torch.equal(found[row], expected), factor
    grey = images(41, 1)
    assert torch.equal(turned(grey, shift), grey)
    assert torch.equal(turned(grey.expand(-1, 3, -1, -1), shift)[:, :1], grey)


# Jitter and holes


def test_the_jitter_is_torchvisions_in_each_images_order() -> None:
    made = policy(0.6)
    draw, pixels = made.sample(torch.arange(200), rng()), images()
    draw.holes.zero_()
    found = applied(made, draw, pixels)
    adjust = {
        "contrast": tv.adjust_contrast,
        "saturation": tv.adjust_saturation,
        "brightness": tv.adjust_brightness,
    }
    names = list(adjust)
    assert ("hue", *names) == JITTER
    for row in range(200):
        expected = picture(pixels[row])
        for which in draw.order[row].tolist():
            if which:
                factor = float(draw.factors[row, which - 1])
                expected = adjust[names[which - 1]](expected, factor)
            elif draw.shift[row]:
                steps = (int(draw.shift[row]) + 128) % 256 - 128
                expected = tv.adjust_hue(expected, (steps + math.copysign(0.5, steps)) / 255)
        assert torch.equal(found[row], array(expected)), row
    assert len({tuple(order) for order in draw.order.tolist()}) == 24


def test_holes_are_squares_of_the_mean_clipped_at_the_border() -> None:
    made = policy(0.9)  # up to three holes of 21 pixels
    draw, pixels = made.sample(torch.arange(60), rng()), images(60)
    plain = Regularised(**(vars(draw) | {"holes": torch.zeros(60, dtype=torch.int64)}))
    found, expected = applied(made, draw, pixels), applied(made, plain, pixels)
    for row in range(60):
        half = int(draw.half[row])
        for y, x in draw.place[row, : int(draw.holes[row])].tolist():
            top, left = max(0, y - half), max(0, x - half)
            patch = torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)
            expected[row, :, top : y + half, left : x + half] = patch
    assert torch.equal(found, expected)
    assert (draw.holes == 3).all()
    assert (draw.half == 10).all()


def test_without_strength_nothing_happens() -> None:
    made = policy(0.0)
    draw, pixels = made.sample(torch.arange(200), rng()), images()
    assert torch.equal(applied(made, draw, pixels), pixels)
    assert made.inside(draw.entries).float().max() < 1e-15
    assert made.explain(draw, 0) != []  # factors of 1


# Strengths


def test_ranges_and_starts_are_stns() -> None:
    table = regularisers(32, 3)
    assert [each.top for each in table] == TOPS
    assert [each.start for each in table] == pytest.approx(STARTS)
    assert len(regularisers(32, 8)) == 15
    made = Regularisers((32, 32), FILL, dropouts=3)
    torch.testing.assert_close(
        made.strengths(made.entries), torch.tensor(STARTS, dtype=torch.float64)
    )
    torch.testing.assert_close(
        made.inside(made.entries), torch.tensor(STARTS[6:], dtype=torch.float64)
    )
    draw = made.sample(torch.arange(5), rng())
    assert draw.half.tolist() == [1] * 5  # of a length of 3
    assert draw.holes.tolist() == [1] * 5  # and not 0, whatever rounding does to 1
    assert Regularisers((8, 8), FILL).table[4].top == 6


def test_whole_strengths_are_not_cut_to_the_one_below() -> None:
    made = policy()
    for length in range(1, 24):
        made.entries.copy_(made.at([0.1, 0.1, 0.1, 0.1, length, 1 + length % 3, *[0.1] * 4]))
        draw = made.sample(torch.arange(1), rng())
        assert (int(draw.half), int(draw.holes)) == (length // 2, 1 + length % 3)


def test_draws_have_their_distributions() -> None:
    made, count = policy(0.4), 20_000
    draw = made.sample(torch.arange(count), rng())
    for column in range(3):
        drawn = draw.factors[:, column].numpy()
        assert stats.kstest(drawn, "uniform", (0.6, 0.8)).pvalue > 1e-3
    steps = (draw.shift + 128) % 256 - 128
    assert (int(steps.min()), int(steps.max())) == (-50, 50)  # 0.2 of 255, cut towards 0
    counts = torch.bincount(steps + 50).double()
    assert float(counts[50] / counts[:50].mean()) == pytest.approx(2, rel=0.15)
    assert (draw.holes == 1).all()  # 1.6
    assert (draw.half == 4).all()  # of a length of 9.6
    orders = torch.unique(draw.order, dim=0, return_counts=True)[1]
    assert stats.chisquare(orders.numpy()).pvalue > 1e-3
    assert (draw.place.amin((0, 1)).tolist(), draw.place.amax((0, 1)).tolist()) == (
        [0, 0],
        [31] * 2,
    )


def test_every_image_has_a_lambda_of_its_own() -> None:
    made = policy(0.5)
    made.entries.copy_(numbers(10))
    made.sigma.copy_(torch.linspace(0, 2, 10))
    draw = made.sample(torch.arange(4000), rng())
    torch.testing.assert_close(draw.entries.std(0), made.sigma, rtol=0.05, atol=1e-9)
    torch.testing.assert_close(draw.entries.mean(0), made.entries, rtol=0, atol=0.1)
    # What was drawn lies within the strengths of its own λ + ε, and fills them.
    width = made.strengths(draw.entries)[:, :4]
    share = (draw.factors - 1) / width[:, 1:]
    assert (share.abs() <= 1).all()
    for column in range(3):
        assert stats.kstest(share[:, column].numpy(), "uniform", (-1, 2)).pvalue > 1e-3
    length = made.strengths(draw.entries)[:, 4]
    assert torch.equal(draw.half, length.long() // 2)
    assert draw.holes.unique().tolist() == [0, 1, 2, 3]


def test_sampling_is_pure_and_always_draws_as_much() -> None:
    weak, strong = policy(0.1), policy(0.9, sigma=1.0)
    states = []
    for made in (weak, strong):
        generator, state = rng(3), torch.get_rng_state()
        first = made.sample(torch.arange(30), generator)
        states.append(generator.get_state())
        second = made.sample(torch.arange(30), rng(3))
        for field in fields(first):
            assert torch.equal(getattr(first, field.name), getattr(second, field.name))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*states)


def test_log_prob_is_that_of_noise_factors_orders_and_centres() -> None:
    made = policy(0.4, sigma=0.7)
    made.sigma[2] = 0
    draw = made.sample(torch.arange(50), rng())
    found = made.log_prob(draw)
    for row in range(50):
        entries = draw.entries[row]
        strength = [t / (1 + math.exp(-e)) for t, e in zip(TOPS, entries.tolist(), strict=True)]
        expected = -math.log(24) - int(strength[5]) * math.log(32 * 32)
        expected -= sum(math.log(2 * width) for width in strength[:4])
        for column, at in enumerate(entries.tolist()):
            if column != 2:
                expected += stats.norm.logpdf(at, made.entries[column], 0.7)
        assert float(found[row]) == pytest.approx(expected, rel=1e-9)


def test_a_state_can_be_taken_and_put_back() -> None:
    made = policy(0.5, sigma=0.5)
    state = made.state_dict()
    made.entries.add_(1)
    made.sigma.mul_(2)
    made.load_state_dict(state)
    assert torch.equal(made.entries, torch.zeros(10, dtype=torch.float64))
    assert torch.equal(made.sigma, torch.full((10,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("sigma", [-1.0, math.inf, math.nan])
def test_a_sigma_that_is_none_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and finite"):
        policy(0.5, sigma)


def test_in_words() -> None:
    made = policy(0.6)
    draw = made.sample(torch.arange(3), rng())
    said = made.explain(draw, 0)
    assert [words.split()[0] for words in said[:-1]] == [JITTER[i] for i in draw.order[0]]
    assert said[-1] == "2 holes of 14"
    about = made.describe()
    assert list(about["strengths"])[4:8] == [
        "cutout_length", "cutout_holes", "input_scale", "input_dropout"
    ]  # fmt: skip
