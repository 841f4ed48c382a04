"""Dropouts attached from outside: where they sit, what they drop, and when."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from bench.networks import build
from bench.rng import forked
from bench.train.dropout import attach, drop, regularised, sites

Tensor = torch.Tensor
SHAPE = (3, 32, 32)


def made(name: str) -> nn.Module:
    with forked("dropout"):
        return build(name, 10, *SHAPE[::2])


def masks(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, *SHAPE, generator=masks(1))


# Where


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "alexnet",
            {
                "conv1": [None],
                "conv2": [64],
                "conv3": [192],
                "conv4": [384],
                "conv5": [256],
                "fc1": [256, None],
                "fc2": [None],
                "head": [],
            },
        ),
        (
            "lenet",
            {"conv1": [None], "conv2": [6], "fc1": [16, None], "fc2": [None], "head": []},
        ),
        ("small-cnn", {"conv1": [None], "conv2": [32], "conv3": [64], "head": [64]}),
    ],
)
def test_the_sites(name: str, expected: dict[str, list[int | None]]) -> None:
    with torch.device("meta"):
        network = build(name, 10, 3, 32)
        found = sites(network, SHAPE)
    assert {site.name: site.channels for site in found} == expected
    columns = [column for site in found for column in site.columns]
    assert columns == list(range(len(columns)))
    assert attach(network, SHAPE) == len(columns) == {"alexnet": 8, "lenet": 5}.get(name, 4)


class Strange(nn.Module):
    """Layers in any order."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("resnet-18", "blocks.1.conv1 does not follow blocks.0.conv2 alone"),
        ("wrn-10-1", "need a chain of layers"),
        ("timm:test_vit", "need a chain of layers"),
        (Strange(nn.Flatten(), nn.Linear(3072, 2)), "not one kind alone"),
        (Strange(nn.Conv2d(3, 2, 3), nn.Flatten()), "not one kind alone"),
        (
            Strange(
                nn.Conv2d(3, 4, 3),
                nn.ReLU(inplace=True),
                nn.Flatten(),
                nn.Linear(3600, 16),
                nn.Unflatten(1, (1, 4, 4)),
                nn.Conv2d(1, 2, 4),
            ),
            "the convolution layers.5 follows the linear layer layers.3",
        ),
        (
            Strange(
                nn.Conv2d(3, 7, 32), nn.Flatten(), nn.ConstantPad1d((0, 8), 0.0), nn.Linear(15, 2)
            ),
            "15 inputs of 7 channels",
        ),
    ],
)
def test_other_networks_are_refused_in_a_sentence(network: Any, said: str) -> None:
    if isinstance(network, str):
        with torch.device("meta"):
            network = build(network, 10, 3, 32)
    with pytest.raises(ValueError, match=said) as caught:
        attach(network, SHAPE)
    assert "\n" not in str(caught.value)
    assert not hasattr(network, "dropouts")


# What


def test_single_values_are_dropped_at_each_examples_own_rate() -> None:
    rates = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    x = torch.rand(5, 20, 40, 40, generator=masks()) + 1
    out = drop(x, rates, masks())
    lost = (out == 0).flatten(1).float().mean(1)
    torch.testing.assert_close(lost, rates, atol=0.01, rtol=0)
    assert torch.equal(out[0], x[0])
    for row in range(1, 4):
        kept = out[row] != 0
        torch.testing.assert_close(out[row][kept], x[row][kept] / (1 - rates[row]))
    # Nothing lost in one place says anything of its neighbours.
    where = (out[2] == 0).float().flatten()
    assert abs(float(torch.corrcoef(torch.stack([where[:-1], where[1:]]))[0, 1])) < 0.02


@pytest.mark.parametrize("flat", [False, True])
def test_channels_are_dropped_as_wholes(flat: bool) -> None:
    x = torch.rand(300, 16, 5, 5, generator=masks()) + 1
    rates = torch.linspace(0, 0.9, 300)
    out = drop(x.flatten(1) if flat else x, rates, masks(), 16).view_as(x)
    lost = (out == 0).flatten(2)
    assert torch.equal(lost.all(2), lost.any(2))
    gone = lost.all(2).float().mean(1)
    for part in range(0, 300, 100):
        expected = float(rates[part : part + 100].mean())
        assert float(gone[part : part + 100].mean()) == pytest.approx(expected, abs=0.04)
    expected_values = x / (1 - rates).view(-1, 1, 1, 1)
    torch.testing.assert_close(torch.where(out == 0, expected_values, out), expected_values)


def test_the_expectation_is_the_input() -> None:
    x = torch.randn(1, 6, 4, 4, generator=masks()).expand(20_000, -1, -1, -1)
    rate = torch.full((20_000,), 0.3)
    for channels in (None, 6):
        mean = drop(x, rate, masks(), channels).mean(0)
        torch.testing.assert_close(mean, x[0], atol=0.08, rtol=0)


def test_an_input_in_double_precision_meets_the_same_masks() -> None:
    x = torch.rand(8, 6, 4, 4, generator=masks()) + 1
    one, two = (drop(y, torch.tensor(0.4), masks(3)) for y in (x, x.double()))
    assert two.dtype == torch.float64
    assert torch.equal(one == 0, two == 0)


# When


@pytest.mark.parametrize("training", [True, False])
def test_only_inside_the_block(training: bool) -> None:
    network, x = made("lenet").train(training), images()
    before = network(x)
    assert attach(network, SHAPE) == attach(network, SHAPE) == 5  # hung once
    assert torch.equal(network(x), before)
    strengths = torch.tensor([0.0, 0.0, 0.5, 0.0, 0.0, 0.0])
    with regularised(network, strengths, masks()):
        inside = network(x)
    assert not torch.equal(inside, before)
    assert torch.equal(network(x), before)
    with pytest.raises(RuntimeError, match="stop"), regularised(network, strengths, masks()):
        raise RuntimeError("stop")
    assert torch.equal(network(x), before)
    with regularised(network, torch.zeros(6), masks()):
        assert torch.equal(network(x), before)


def test_masks_follow_from_the_generator_alone() -> None:
    network, x = made("lenet"), images()
    attach(network, SHAPE)
    state = torch.get_rng_state()

    def out(seed: int) -> Tensor:
        with regularised(network, torch.full((6,), 0.3), masks(seed)):
            return network(x)

    assert torch.equal(out(1), out(1))
    assert not torch.equal(out(1), out(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_strength_reaches_its_place() -> None:
    """Each layer's input, with one strength at a time, against the input without any."""
    network, x = made("lenet"), images(64)
    attach(network, SHAPE)
    layers = ["conv1", "conv2", "fc1", "fc2", "head"]
    seen: dict[str, Tensor] = {}
    for name in layers:
        layer = network.get_submodule(name)
        layer.register_forward_pre_hook(
            lambda layer, inputs, name=name: seen.__setitem__(name, inputs[0])
        )

    def inputs(strengths: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), regularised(network, strengths, masks()):
            network(x)
        return dict(seen)

    plain = inputs(torch.zeros(64, 6))
    for column, place in enumerate(["conv1", "conv1", "conv2", "fc1", "fc1", "fc2"]):
        strengths = torch.zeros(64, 6)
        strengths[32:, column] = 0.5
        found = inputs(strengths)
        changed = [not torch.equal(found[name], plain[name]) for name in layers]
        assert changed == [layers.index(name) >= layers.index(place) for name in layers]
        assert torch.equal(found[place][:32], plain[place][:32])  # examples of rate 0
    # The input's scale: one number for each example, in [1 / 1.3, 1.3].
    strengths = torch.zeros(64, 6)
    strengths[:, 0] = 0.3
    ratio = (inputs(strengths)["conv1"] / x).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    scale = ratio[:, 0]
    assert (scale >= 1 / 1.3 - 1e-6).all()
    assert (scale <= 1.3 + 1e-6).all()
    assert float(scale.mean()) == pytest.approx((1 / 1.3 + 1.3) / 2, abs=0.06)
    assert float(scale.max() - scale.min()) > 0.4


def test_gradients_pass_what_is_kept() -> None:
    network, x = made("lenet").double(), images(2).double().requires_grad_()
    attach(network, SHAPE)

    def total(x: Tensor) -> Tensor:
        with regularised(network, torch.full((2, 6), 0.4), masks(5)):
            return network(x).logsumexp(1).sum()

    (found,) = torch.autograd.grad(total(x), x)
    side = torch.randn(x.shape, generator=masks(2), dtype=torch.float64)
    with torch.no_grad():
        expected = (total(x + 1e-5 * side) - total(x - 1e-5 * side)) / 2e-5
    assert float((found * side).sum()) == pytest.approx(float(expected), rel=1e-4)


def test_a_copy_has_dropouts_of_its_own() -> None:
    network, x = made("lenet"), images()
    attach(network, SHAPE)
    twin = copy.deepcopy(network)
    strengths = torch.full((6,), 0.3)
    with regularised(network, strengths, masks()):
        assert torch.equal(twin(x), made("lenet")(x))
        inside = network(x)
    with regularised(twin, strengths, masks()):
        assert torch.equal(twin(x), inside)


def test_strengths_of_another_network_are_refused() -> None:
    network = made("lenet")
    attach(network, SHAPE)
    with (
        pytest.raises(ValueError, match="8 rates for 5 dropouts"),
        regularised(network, torch.zeros(9), masks()),
    ):
        pass
