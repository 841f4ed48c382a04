"""Convolutional networks without shortcuts: LeNet, a small AlexNet, the quick suite's CNN."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.errors import ConfigError
from bench.networks.common import Classifier, initialise


class LeNet(Classifier):
    """LeNet-5 with ReLU and max pooling.

    Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, Figure
        2;
    ReLU, max pooling and a plain linear output are today's usual changes.  61,706 parameters for
    28×28×1 (the first convolution pads by 2 so that 28×28 behaves as the paper's 32×32), 62,006
    for 32×32×3 without that padding.

    Raises:
        ConfigError: If the images are smaller than 28×28.
    """

    def __init__(self, classes: int, channels: int = 1, size: int = 28) -> None:
        super().__init__()
        if size < 28:
            raise ConfigError(
                f"network 'lenet' needs images of at least 28×28 pixels, these are {size}×{size}"
            )
        padding = 2 if size < 32 else 0
        side = ((size + 2 * padding - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=padding)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.act2 = nn.ReLU()
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.act3 = nn.ReLU()
        self.fc2 = nn.Linear(120, 84)
        self.act4 = nn.ReLU()
        self.head = nn.Linear(84, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Penultimate features (B, 84) of float images (B, C, H, W)."""
        x = F.max_pool2d(self.act1(self.conv1(x)), 2)
        x = F.max_pool2d(self.act2(self.conv2(x)), 2).flatten(1)
        features: torch.Tensor = self.act4(self.fc2(self.act3(self.fc1(x))))
        return features


class AlexNet(Classifier):
    """AlexNet with 3×3 convolutions, for images of 32×32 pixels.

    Convolutions of 64 (stride 2), 192, 384, 256 and 256 channels with ReLU, 2×2 max pooling after
    the first, the second and the last, two hidden linear layers of 4096 units.  23,272,266
    parameters for 32×32×3 and ten classes.  Dropout is no part of it: who tunes it attaches it.

    Source: the network on which MacKay et al., "Self-Tuning Networks", 2019, tune regularisation,
    after Krizhevsky et al., 2012.

    Raises:
        ConfigError: If the images are smaller than 15×15.
    """

    def __init__(self, classes: int, channels: int = 3, size: int = 32) -> None:
        super().__init__()
        if size < 15:
            raise ConfigError(
                f"network 'alexnet' needs images of at least 15×15 pixels, these are {size}×{size}"
            )
        side = (size + 1) // 2 // 8
        self.conv1 = nn.Conv2d(channels, 64, 3, stride=2, padding=1)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(64, 192, 3, padding=1)
        self.act2 = nn.ReLU()
        self.conv3 = nn.Conv2d(192, 384, 3, padding=1)
        self.act3 = nn.ReLU()
        self.conv4 = nn.Conv2d(384, 256, 3, padding=1)
        self.act4 = nn.ReLU()
        self.conv5 = nn.Conv2d(256, 256, 3, padding=1)
        self.act5 = nn.ReLU()
        self.fc1 = nn.Linear(256 * side * side, 4096)
        self.act6 = nn.ReLU()
        self.fc2 = nn.Linear(4096, 4096)
        self.act7 = nn.ReLU()
        self.head = nn.Linear(4096, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Penultimate features (B, 4096) of float images (B, C, H, W)."""
        x = F.max_pool2d(self.act1(self.conv1(x)), 2)
        x = F.max_pool2d(self.act2(self.conv2(x)), 2)
        x = self.act4(self.conv4(self.act3(self.conv3(x))))
        x = F.max_pool2d(self.act5(self.conv5(x)), 2).flatten(1)
        features: torch.Tensor = self.act7(self.fc2(self.act6(self.fc1(x))))
        return features


class SmallCNN(Classifier):
    """Three 3×3 convolutions (32, 64, 64 channels) with BatchNorm, strides 1, 2, 2, mean pooling.

    Made for this project's quick suite: seconds on a CPU at 8×8, and BatchNorm as in the real
    ones.
    """

    def __init__(self, classes: int, channels: int = 3, size: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(64)
        self.act2 = nn.ReLU()
        self.conv3 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(64)
        self.act3 = nn.ReLU()
        self.head = nn.Linear(64, classes)
        initialise(self)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Penultimate features (B, 64) of float images (B, C, H, W)."""
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.act2(self.norm2(self.conv2(x)))
        x = self.act3(self.norm3(self.conv3(x)))
        return x.mean((2, 3))
