"""Networks by name: shapes, initial weights, features and head, refusals."""

import math

import pytest
import torch
from torch import nn

from bench.errors import ConfigError
from bench.networks import build, known
from bench.rng import forked

# Name, and the sides of the images that it must take.
OWN = {
    "small-cnn": (1, 7, 8, 32),
    "lenet": (28, 29, 32, 40, 64),
    "alexnet": (15, 16, 28, 32),
    "resnet-18": (8, 32),
    "wrn-10-1": (8, 15, 32),
    "wrn-16-2": (8, 32),
}


def made(name: str, classes: int = 10, channels: int = 3, size: int = 32, seed: int = 0):
    with forked("networks", seed):
        return build(name, classes, channels, size)


def images(channels: int, size: int, count: int = 2) -> torch.Tensor:
    rng = torch.Generator().manual_seed(size)
    return torch.randn(count, channels, size, size, generator=rng)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "size"), [(n, s) for n, sizes in OWN.items() for s in sizes])
def test_logits_are_the_head_of_the_features(name: str, size: int, channels: int) -> None:
    network = made(name, 7, channels, size).eval()
    with torch.no_grad():
        logits = network(images(channels, size))
        features = network.features(images(channels, size))
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()
        assert features.shape == (2, network.head.in_features)
        assert torch.equal(network.head(features), logits)


@pytest.mark.parametrize("name", OWN)
def test_gradients_reach_every_parameter(name: str) -> None:
    network = made(name)
    network(images(3, 32, 4)).logsumexp(1).sum().backward()
    for parameter, value in network.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.abs().sum() > 0, parameter


@pytest.mark.parametrize("name", OWN)
def test_images_do_not_see_each_other_in_evaluation(name: str) -> None:
    network = made(name).eval()
    batch = images(3, 32, 4)
    with torch.no_grad():
        alone = torch.cat([network(image[None]) for image in batch])
        assert torch.allclose(network(batch), alone, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "classes", "channels", "size", "parameters"),
    [
        ("wrn-16-1", 10, 3, 32, 175_066),  # published 0.175 M
        ("wrn-40-2", 10, 3, 32, 2_243_546),  # published 2.24 M
        ("resnet-18", 10, 3, 32, 11_173_962),  # published 11.17 M
        ("lenet", 10, 1, 28, 61_706),
        ("lenet", 10, 3, 32, 62_006),
        ("alexnet", 10, 3, 32, 23_272_266),  # 2.43 M in convolutions, 1024 features
    ],
)
def test_published_parameter_counts(
    name: str, classes: int, channels: int, size: int, parameters: int
) -> None:
    network = made(name, classes, channels, size)
    assert sum(value.numel() for value in network.parameters()) == parameters


def test_wide_resnet_28_10_without_building_its_weights() -> None:
    with torch.device("meta"):
        network = build("wrn-28-10", 10, 3, 32)
    assert sum(value.numel() for value in network.parameters()) == 36_479_194


@pytest.mark.parametrize("name", [*OWN, "timm:test_resnet"])
def test_initial_weights_are_the_seed_s(name: str) -> None:
    torch.manual_seed(1)
    one = made(name, seed=5).state_dict()
    torch.manual_seed(2)
    two = made(name, seed=5).state_dict()
    other = made(name, seed=6).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    weights = [key for key, value in one.items() if value.ndim >= 2]
    drawn = [key for key in weights if one[key].std() > 0]
    assert drawn
    assert not any(torch.equal(one[key], other[key]) for key in drawn)


def test_building_in_a_fork_leaves_the_global_generator() -> None:
    before = torch.get_rng_state()
    made("small-cnn")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["small-cnn", "resnet-18", "wrn-16-2"])
def test_convolutions_start_at_he_by_fan_out(name: str) -> None:
    checked = 0
    for module in made(name).modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()
            expected = math.sqrt(2 / (weight.shape[0] * weight[0, 0].numel()))
            # The standard error of a standard deviation is σ/√(2n): five of them.
            slack = 5 / math.sqrt(2 * weight.numel())
            assert weight.std().item() == pytest.approx(expected, rel=slack)
            assert abs(weight.mean().item()) < 5 * expected / math.sqrt(weight.numel())
            assert module.bias is None, "BatchNorm follows"
            checked += 1
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Linear):
            assert (module.bias == 0).all()
    assert checked >= 3


@pytest.mark.parametrize("size", [8, 32])
def test_wide_resnet_shrinks_twice_and_resnet_three_times(size: int) -> None:
    wide, plain = made("wrn-10-1"), made("resnet-18")
    with torch.no_grad():
        x = wide.groups(wide.stem(images(3, size)))
        y = plain.blocks(plain.stem(images(3, size)))
    assert x.shape == (2, 64, size // 4, size // 4)
    assert y.shape == (2, 512, size // 8, size // 8)


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [
        ("timm:test_resnet", 1, 32),
        ("timm:test_resnet", 3, 32),
        ("timm:test_vit", 3, 32),  # takes the image size as an argument
        ("timm:lcnet_035", 3, 32),
    ],
)
def test_timm_networks_take_small_images(name: str, channels: int, size: int) -> None:
    network = made(name, 7, channels, size).eval()
    with torch.no_grad():
        assert network(images(channels, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nope", ["'nope'", "unknown", *known()]),
        ("", ["''", "unknown"]),
        ("wrn-16", ["'wrn-16'", "unknown", "wrn-D-K"]),
        ("wrn-a-1", ["'wrn-a-1'", "unknown"]),
        ("WRN-16-1", ["'WRN-16-1'", "unknown"]),
        ("small-cnn ", ["unknown"]),
        ("wrn-11-1", ["'wrn-11-1'", "6n + 4"]),
        ("wrn-13-1", ["'wrn-13-1'", "6n + 4"]),
        ("wrn-4-1", ["'wrn-4-1'", "6n + 4"]),
        ("wrn-0-1", ["6n + 4"]),
        ("wrn-16-0", ["'wrn-16-0'", "width"]),
        ("timm:nope", ["'timm:nope'", "unknown"]),
        ("timm:", ["unknown"]),
    ],
)
def test_a_name_that_is_none_is_one_sentence(name: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, 10, 3, 32)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [1, 8, 27])
def test_lenet_says_what_it_needs(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"28×28.* {size}×{size}"):
        build("lenet", 10, 1, size)


@pytest.mark.parametrize("size", [8, 14])
def test_alexnet_says_what_it_needs(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"15×15.* {size}×{size}"):
        build("alexnet", 10, 3, size)
