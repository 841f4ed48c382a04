"""The FLOP counter against closed forms, and the equal price of equal work."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from bench.networks import build
from bench.networks.flops import FlopCounter, unit_price


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, stride=2), nn.Softplus(),
        nn.Conv2d(8, 8, 3, groups=4, dilation=2), nn.Softplus(),
        nn.Conv2d(8, 8, 1, groups=8), nn.Flatten(), nn.Linear(8 * 16, 5),
    )  # fmt: skip


SPATIAL = (64, 16, 16)  # outputs of the three convolutions for 16×16 images
WEIGHTS = (8 * 4 * 9, 8 * 2 * 9, 8)
FORWARD = sum(2 * s * w for s, w in zip(SPATIAL, WEIGHTS, strict=True)) + 2 * 8 * 16 * 5
BACKWARD = 2 * FORWARD - 2 * SPATIAL[0] * WEIGHTS[0]  # the images need no gradient


def test_forward_and_backward_have_their_closed_forms() -> None:
    network, images = net(), torch.randn(6, 4, 16, 16)
    with FlopCounter() as forward:
        loss = network(images).square().sum()
    with FlopCounter() as backward:
        loss.backward()
    assert forward.total == 6 * FORWARD
    assert backward.total == 6 * BACKWARD


def test_transposed_convolution_counts_over_its_input() -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)
    images = torch.randn(2, 4, 5, 5, requires_grad=True)
    out = layer(images)
    with FlopCounter() as counter:
        out.sum().backward()
    assert counter.total == 2 * (2 * 2 * 25 * layer.weight.numel())


def test_per_example_gradients_cost_what_the_plain_backward_costs() -> None:
    network, images = net(), torch.randn(6, 4, 16, 16)
    parameters = dict(network.named_parameters())

    def loss(values: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return functional_call(network, values, (image[None],)).square().sum()

    with FlopCounter() as plain:
        network(images).square().sum().backward()
    with FlopCounter() as each:
        vmap(grad(loss), in_dims=(None, 0))(parameters, images)
    assert each.total == plain.total


@pytest.mark.parametrize("copies", [1, 3])
def test_stacked_copies_cost_what_sequential_ones_cost(copies: int) -> None:
    networks, images = [net() for _ in range(copies)], torch.randn(copies, 6, 4, 16, 16)
    values, _ = stack_module_state(networks)

    def loss(one: dict[str, torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
        return functional_call(networks[0], one, (batch,)).square().sum()

    with FlopCounter() as sequential:
        for network, batch in zip(networks, images, strict=True):
            network(batch).square().sum().backward()
    with FlopCounter() as stacked:
        vmap(grad(loss))(values, images)
    assert stacked.total == sequential.total


def test_counters_nest() -> None:
    network, images = net(), torch.randn(2, 4, 16, 16)
    with FlopCounter() as outer:
        network(images)
        with FlopCounter() as inner:
            network(images)
    assert inner.total == 2 * FORWARD
    assert outer.total == 2 * inner.total


@pytest.mark.parametrize(
    ("name", "millions", "gigaflops"),
    [
        # Parameters: Zagoruyko and Komodakis 2016, Tables 4 and 5; 2.2 M and 36.5 M.
        ("wrn-16-1", 0.175, 0.0533),
        ("wrn-40-2", 2.24, 0.655),
        ("wrn-28-10", 36.5, 10.5),
        ("resnet-18", 11.17, 1.11),
    ],
)
def test_published_sizes(name: str, millions: float, gigaflops: float) -> None:
    network = build(name, 10, 3, 32)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=5e-3)
    assert unit_price(network, 3, 32) / 1e9 == pytest.approx(gigaflops, rel=5e-3)


@pytest.mark.parametrize(("size", "channels", "count"), [(28, 1, 61_706), (32, 3, 62_006)])
def test_lenet_sizes(size: int, channels: int, count: int) -> None:
    network = build("lenet", 10, channels, size)
    assert sum(p.numel() for p in network.parameters()) == count
    assert F.softmax(network(torch.zeros(2, channels, size, size)), 1).shape == (2, 10)
