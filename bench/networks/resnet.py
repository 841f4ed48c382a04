"""ResNet-18 with the CIFAR stem: a 3×3 convolution and no max pooling.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, Table 1, 18-layer
column; the stem is the one that the augmentation papers use on 32×32 images.  11.17 M parameters.
"""

import torch
import torch.nn.functional as F
from torch import nn

from bench.networks.common import Classifier, initialise


class ResNet18(Classifier):
    """Four groups of two post-activation basic blocks with 64, 128, 256 and 512 channels."""

    def __init__(self, classes: int, channels: int = 3, size: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.act = nn.ReLU()
        widths = (64, 64, 128, 256, 512)
        self.blocks = nn.Sequential(
            *(
                _Block(widths[group] if first else width, width, 2 if first and group else 1)
                for group, width in enumerate(widths[1:])
                for first in (True, False)
            )
        )
        self.head = nn.Linear(512, classes)
        initialise(self)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Penultimate features (B, 512) of float images (B, C, H, W)."""
        x = self.blocks(self.act(self.norm(self.stem(x))))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class _Block(nn.Module):
    """conv3×3-BN-act-conv3×3-BN plus the identity or a 1×1 projection with BN, then act."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.act2 = nn.ReLU()
        self.shortcut = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
            if stride != 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        out: torch.Tensor = self.act2(y + self.shortcut(x))
        return out
