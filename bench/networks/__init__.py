"""The networks of the benchmark, by name.

`build("wrn-16-1", ...)` makes one; the initial weights come from torch's global generator, which
`bench.rng.forked` seeds by name.  `timm:NAME` takes any network of the timm library, untrained.
"""

import re
from collections.abc import Callable

from torch import nn

from bench.errors import ConfigError
from bench.networks.convnets import AlexNet, LeNet, SmallCNN
from bench.networks.resnet import ResNet18
from bench.networks.wide_resnet import WideResNet

Builder = Callable[[int, int, int], nn.Module]

_NAMED: dict[str, Builder] = {
    "small-cnn": SmallCNN,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "resnet-18": ResNet18,
}


def known() -> dict[str, str]:
    """Names that `build` takes, each with a line of explanation."""
    return {
        "small-cnn": "three 3×3 convolutions with BatchNorm, for the quick suite",
        "lenet": "LeNet-5 with ReLU and max pooling (needs 28×28 or larger)",
        "alexnet": "AlexNet with 3×3 convolutions and two layers of 4096 units (15×15 or larger)",
        "resnet-18": "ResNet-18 with the CIFAR stem (3×3, no max pooling)",
        "wrn-D-K": "pre-activation Wide-ResNet of depth D and width K, e.g. wrn-16-1, wrn-28-10",
        "timm:NAME": "any network of the timm library, untrained",
    }


def build(name: str, classes: int, channels: int, size: int) -> nn.Module:
    """Builds a freshly initialised network.

    Args:
        name: One of `known()`.
        classes: Number of outputs.
        channels: Channels of the input images, 1 or 3.
        size: Side of the square input images in pixels.

    Returns:
        A module that maps float images (B, channels, size, size) to logits (B, classes).

    Raises:
        ConfigError: If the name is unknown or the network cannot take such images.
    """
    if name in _NAMED:
        return _NAMED[name](classes, channels, size)
    if match := re.fullmatch(r"wrn-(\d+)-(\d+)", name):
        return WideResNet(int(match[1]), int(match[2]), classes, channels)
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"), classes, channels, size)
    raise ConfigError(f"network {name!r} is unknown; allowed are {', '.join(known())}")


def _timm(name: str, classes: int, channels: int, size: int) -> nn.Module:
    import timm

    if name not in timm.list_models():
        raise ConfigError(
            f"network 'timm:{name}' is unknown: timm {timm.__version__} has no {name!r}"
        )
    arguments = {"num_classes": classes, "in_chans": channels}
    try:
        network: nn.Module = timm.create_model(name, img_size=size, **arguments)
    except TypeError:  # convolutional networks take any size and know no such argument
        network = timm.create_model(name, **arguments)
    return network
