"""Hyper-layers against weights written out for every example, and where they are placed."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.networks import build
from bench.networks.common import Classifier
from bench.networks.flops import FlopCounter
from bench.train.meter import guarded
from methods._hyper import (
    Conditions,
    HyperBatchNorm2d,
    HyperConv2d,
    HyperLayer,
    HyperLinear,
    hypernetwork,
    places,
)
from tests.numeric.small_policies import numbers

Tensor = torch.Tensor
E, B = 5, 6
SHAPE = (3, 16, 16)
STRATEGIES = ("conv+bn", "conv", "bn", "first-conv", "first-bn", "conv+linear")


@pytest.fixture(autouse=True)
def _doubles() -> Any:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def hyper(layer: nn.Module, kind: type[HyperLayer]) -> Any:
    """A hyper-layer of this layer at random U and V."""
    layer.__class__ = kind
    assert isinstance(layer, kind)
    layer.extend(Conditions(), E)
    for number, parameter in enumerate(layer.parameters()):
        parameter.data.copy_(numbers(*parameter.shape, seed=number))
    return layer


def written_out(layer: Any, row: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of one example, W₀ + diag(Vλ)U, unit by unit."""
    units, weight = len(layer.weight), layer.weight.clone()
    bias = None if layer.bias is None else layer.bias.clone()
    for unit in range(units):
        weight[unit] = layer.weight[unit] + (layer.hyper_v[unit] @ row) * layer.hyper_u[unit]
        if bias is not None:
            scale = layer.hyper_v[units + unit] @ row
            bias[unit] = layer.bias[unit] + scale * layer.hyper_bias_u[unit]
    return weight, bias


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, layer: Any) -> Tensor:
    if layer.padding_mode != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, layer.padding_mode)
    padding = 0 if layer.padding_mode != "zeros" else layer.padding
    return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {"padding": 1, "bias": False},
    "bias": {},
    "stride": {"stride": 2, "padding": 1},
    "uneven": {"stride": (1, 2), "padding": (0, 1), "bias": False},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4, "bias": False},
    "reflected": {"padding": 1, "padding_mode": "reflect"},
}


def same_gradients(mine: Tensor, theirs: Tensor, layer: Any, x: Tensor, rows: Tensor) -> None:
    """Values, and gradients to input, λ and every parameter."""
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    weight = numbers(*mine.shape, seed=9)
    inputs = [x, rows, *layer.parameters()]
    found, expected = (torch.autograd.grad((weight * y).sum(), inputs) for y in (mine, theirs))
    for one, other in zip(found, expected, strict=True):
        assert one.abs().max() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions_have_the_weights_of_each_example(options: dict[str, Any]) -> None:
    layer = hyper(nn.Conv2d(4, 8, 3, **options), HyperConv2d)
    x, rows = numbers(B, 4, 7, 8).requires_grad_(), numbers(B, E, seed=1).requires_grad_()
    layer.conditions.rows = rows
    made = [conv(x[i : i + 1], *written_out(layer, rows[i]), layer) for i in range(B)]
    same_gradients(layer(x), torch.cat(made), layer, x, rows)
    shared = rows[2].detach().requires_grad_()
    layer.conditions.rows = shared
    expected = conv(x, *written_out(layer, shared), layer)
    same_gradients(layer(x), expected, layer, x, shared)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("middle", [(), (3,), (2, 3)])
def test_linear_layers_have_the_weights_of_each_example(
    bias: bool, middle: tuple[int, ...]
) -> None:
    layer = hyper(nn.Linear(4, 7, bias=bias), HyperLinear)
    x, rows = numbers(B, *middle, 4).requires_grad_(), numbers(B, E, seed=1).requires_grad_()
    layer.conditions.rows = rows
    made = [F.linear(x[i : i + 1], *written_out(layer, rows[i])) for i in range(B)]
    same_gradients(layer(x), torch.cat(made), layer, x, rows)
    shared = rows[2].detach().requires_grad_()
    layer.conditions.rows = shared
    same_gradients(layer(x), F.linear(x, *written_out(layer, shared)), layer, x, shared)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norms_have_the_affine_map_of_each_example(
    training: bool, momentum: float | None
) -> None:
    plain = nn.BatchNorm2d(4, momentum=momentum, affine=False)
    layer = hyper(nn.BatchNorm2d(4, momentum=momentum), HyperBatchNorm2d)
    for each in (plain, layer):
        each.running_mean.copy_(numbers(4, seed=3))
        each.running_var.copy_(numbers(4, seed=4).square() + 0.5)
        each.train(training)
    x, rows = numbers(B, 4, 3, 5).requires_grad_(), numbers(B, E, seed=1).requires_grad_()
    for given in (rows, rows[2].detach().requires_grad_()):
        layer.conditions.rows = given
        mine, normal = layer(x), plain(x)
        made = []
        for i in range(B):
            gain, offset = written_out(layer, given if given.dim() == 1 else given[i])
            assert offset is not None
            made.append(gain[:, None, None] * normal[i] + offset[:, None, None])
        same_gradients(mine, torch.stack(made), layer, x, given)
        for name, value in plain.named_buffers():
            torch.testing.assert_close(getattr(layer, name), value)


class Smooth(Classifier):
    """All three kinds of layers, and nothing with a kink."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, groups=2)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def features(self, x: Tensor) -> Tensor:
        x = F.softplus(self.norm1(self.conv1(x)))
        return F.softplus(self.norm2(self.conv2(x))).mean((2, 3))


def smooth(layers: Any, centred: bool = True) -> tuple[nn.Module, Tensor, Tensor]:
    """A hypernetwork with U and V at random, images and classes; statistics are its own."""
    network = hypernetwork(Smooth(), layers, numbers(E), SHAPE, centred)
    for number, (name, parameter) in enumerate(network.named_parameters()):
        if "hyper" in name:
            parameter.data.copy_(0.3 * numbers(*parameter.shape, seed=number))
    images, labels = numbers(8, *SHAPE, seed=7), torch.arange(8) % 4
    for _ in range(20):
        network(images, numbers(8, E, seed=8))
    return network, images, labels


@pytest.mark.parametrize("layers", STRATEGIES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("per_example", [False, True])
def test_the_hypergradient_is_that_of_finite_differences(
    layers: Any, training: bool, per_example: bool
) -> None:
    network, images, labels = smooth(layers)
    network.train(training)
    at = numbers(8, E, seed=5) if per_example else numbers(E, seed=5)

    def loss(rows: Tensor) -> Tensor:
        return F.cross_entropy(network(images, rows), labels)

    (found,) = torch.autograd.grad(loss(at.requires_grad_()), at)
    expected, step = torch.zeros_like(found), 1e-5
    with torch.no_grad():
        flat = at.view(-1)
        for i in range(len(flat)):
            ends = []
            for side in (step, -step):
                flat[i] += side
                ends.append(float(loss(at)))
                flat[i] -= side
            expected.view(-1)[i] = (ends[0] - ends[1]) / (2 * step)
    assert found.abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("layers", STRATEGIES)
def test_rows_that_agree_are_the_shared_lambda(layers: Any) -> None:
    """Weights generated once for all examples, and those that never were, are the same."""
    network, images, _ = smooth(layers)
    at = numbers(E, seed=5)
    for training in (True, False):
        network.train(training)
        torch.testing.assert_close(
            network(images, at), network(images, at.expand(8, E)), rtol=1e-10, atol=1e-12
        )
    network.hyper_lambda.copy_(at)
    assert torch.equal(network(images), network(images, at))


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("layers", STRATEGIES)
def test_it_starts_as_the_plain_network_wherever_lambda_is(layers: Any, centred: bool) -> None:
    plain = Smooth()
    network = hypernetwork(copy.deepcopy(plain), layers, numbers(E), SHAPE, centred)
    images, rows = numbers(8, *SHAPE, seed=7), numbers(8, E, seed=8)
    for training in (True, False):
        for conditions in ((), (rows[0],), (rows,)):
            one, other = plain.train(training), network.train(training)
            torch.testing.assert_close(one(images), other(images, *conditions), atol=1e-12, rtol=0)
    changed = {name for name, _ in network.named_parameters()}
    for name, value in plain.named_parameters():
        assert torch.equal(value, network.get_parameter(name))
        changed.remove(name)
    assert changed
    assert all("hyper_" in name for name in changed)


@pytest.mark.parametrize("layers", STRATEGIES)
def test_v_learns_from_the_first_step(layers: Any) -> None:
    network = hypernetwork(Smooth(), layers, numbers(E), SHAPE)
    images, rows, labels = numbers(8, *SHAPE, seed=7), numbers(8, E, seed=8), torch.arange(8) % 4
    F.cross_entropy(network(images, rows), labels).backward()
    for name, parameter in network.named_parameters():
        moves = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert moves is (not name.endswith("_u")), name


def test_centred_or_not_it_is_the_same_family_of_functions() -> None:
    network, images, _ = smooth("conv+bn")
    other = copy.deepcopy(network)
    other.hyper_origin.zero_()
    with torch.no_grad():
        for layer in other.modules():
            if isinstance(layer, HyperLayer):  # W₀ - diag(V origin) U
                weight, bias = layer.at(-network.hyper_origin)
                layer.weight.copy_(weight)
                if layer.bias is not None:
                    layer.bias.copy_(bias)
    rows = numbers(8, E, seed=5)
    torch.testing.assert_close(network(images, rows), other(images, rows), rtol=1e-9, atol=1e-11)


def test_a_copy_has_conditions_of_its_own() -> None:
    network, images, _ = smooth("conv+bn")
    rows = numbers(8, E, seed=5)
    before = network(images, rows)
    other = copy.deepcopy(network)
    other.hyper_lambda.add_(1)
    holders = [m.conditions for m in other.modules() if isinstance(m, HyperLayer)]
    assert all(holder is other.conditions for holder in holders)
    assert other.conditions is not network.conditions
    torch.testing.assert_close(other(images, rows), before)
    assert not torch.allclose(other(images), network(images))


def test_between_passes_and_for_other_batches_it_refuses() -> None:
    network, images, _ = smooth("conv+bn")
    with pytest.raises(ValueError, match="hyperparameters of 3 images for 8 examples"):
        network(images, numbers(3, E))
    with pytest.raises(RuntimeError, match="inside its network's forward pass"):
        network.conv1(images)
    copy.deepcopy(network)  # nothing of a pass that failed is left


def test_the_extra_work_is_counted() -> None:
    """Two convolutions for one, E multiplications for each scale; BatchNorm's are not counted."""
    network, images, _ = smooth("first-conv")
    rows = numbers(8, E)

    def flops(*conditions: Tensor) -> int:
        with torch.no_grad(), FlopCounter() as counter:
            network(images, *conditions)
        return counter.total

    first = 2 * 8 * 6 * 3 * 9 * 16 * 16
    assert flops(rows) - flops() == first + 2 * 8 * E * 6


# Placement

NETWORKS = {
    "small-cnn": ("conv1", "norm1", 3, 3),
    "wrn-10-1": ("stem", "groups.0.0.norm1", 9, 7),
    "resnet-18": ("stem", "norm", 20, 20),
    "timm:resnet18": ("conv1", "bn1", 20, 20),
    "timm:resnetv2_50": ("stem.conv", "stages.0.blocks.0.norm1", 54, 49),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_found_in_the_order_in_which_images_meet_them(name: str) -> None:
    size = 32
    network = guarded(build(name, 10, 3, size))
    first_conv, first_bn, convs, norms = NETWORKS[name]
    shape = (3, size, size)
    assert places(network, "first-conv", shape) == [first_conv]
    assert places(network, "first-bn", shape) == [first_bn]
    assert len(places(network, "conv", shape)) == convs
    assert len(places(network, "bn", shape)) == norms
    both = places(network, "conv+bn", shape)
    assert len(both) == convs + norms == len(set(both))
    assert both.index(first_conv) < both.index(first_bn)


class Upside(Smooth):
    """Its layers were made in another order than images meet them."""

    def features(self, x: Tensor) -> Tensor:
        x = F.interpolate(self.norm2(self.conv2(x.repeat(1, 2, 1, 1))), size=8)
        return self.norm1(self.conv1(x[:, :3])).mean((2, 3)).repeat(1, 2)[:, :8]


def test_first_is_not_the_first_that_was_made() -> None:
    network = Upside()
    assert places(network, "first-bn", SHAPE) == ["norm2"]
    assert places(network, "conv", SHAPE) == ["conv2", "conv1"]


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:mobilenetv3_small_050"])
@pytest.mark.parametrize("layers", ["conv+bn", "first-bn"])
def test_timms_networks_start_as_they_were(name: str, layers: Any) -> None:
    """The second has depthwise convolutions, and BatchNorms that end in an activation."""
    torch.set_default_dtype(torch.float32)
    plain = build(name, 10, 3, 32)
    network = hypernetwork(copy.deepcopy(plain), layers, torch.zeros(E), (3, 32, 32))
    images, rows = torch.randn(4, 3, 32, 32), torch.randn(4, E)
    for training in (False, True):
        one, other = plain.train(training), network.train(training)
        state = torch.get_rng_state()  # dropout, where there is one
        expected = one(images)
        torch.set_rng_state(state)
        torch.testing.assert_close(other(images, rows), expected, rtol=1e-4, atol=1e-5)
    assert type(network) is type(plain)


def test_what_cannot_be_a_hyper_layer_is_refused() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / self.weight.norm()

    network = Smooth()
    network.conv1 = Own(3, 6, 3, padding=1)
    with pytest.raises(ValueError, match="conv1 is a Own, which has no hyper-layer"):
        places(network, "conv", SHAPE)
    assert places(network, "first-bn", SHAPE) == ["norm1"]
    network.norm1 = nn.BatchNorm2d(6, affine=False)
    with pytest.raises(ValueError, match="norm1 is a BatchNorm2d without weights"):
        places(network, "first-bn", SHAPE)
    with pytest.raises(ValueError, match="no layer for layers=bn"):
        places(build("lenet", 10, 1, 28), "bn", (1, 28, 28))


def test_layers_that_see_pieces_of_images_are_refused() -> None:
    class Windows(Smooth):
        def features(self, x: Tensor) -> Tensor:
            return super().features(x.unflatten(2, (2, 8)).transpose(1, 2).flatten(0, 1))

    with pytest.raises(ValueError, match="conv1 sees 4 rows of 2 images"):
        places(Windows(), "conv", SHAPE)


def test_looking_for_layers_changes_nothing() -> None:
    network = guarded(Smooth())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    hooks = [len(m._forward_pre_hooks) for m in network.modules()]
    state = torch.get_rng_state()
    places(network, "conv+bn", SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(m._forward_pre_hooks) for m in network.modules()] == hooks
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert network.training
