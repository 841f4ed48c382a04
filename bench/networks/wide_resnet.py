"""Wide-ResNet-d-k for 32×32 images, pre-activation, as its authors published it.

Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, Table 1 and Figure 1(c)
without dropout.  Parameters (10 classes, 3 channels): 16-1 0.175 M, 40-2 2.24 M, 28-10 36.5 M.
"""

import torch
import torch.nn.functional as F
from torch import nn

from bench.errors import ConfigError
from bench.networks.common import Classifier, initialise


class WideResNet(Classifier):
    """Three groups of (d-4)/6 basic blocks with 16k, 32k and 64k channels.

    Args:
        depth: d = 6n + 4.
        width: k, the widening factor.
        classes: Number of outputs.
        channels: Channels of the input.

    Raises:
        ConfigError: If the depth is not 6n + 4 with n ≥ 1, or the width is 0.
    """

    def __init__(self, depth: int, width: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or width < 1:
            raise ConfigError(
                f"network 'wrn-{depth}-{width}' is impossible: the depth must be 6n + 4 (10, 16, "
                "22, 28, 34, 40, ...) and the width at least 1"
            )
        blocks = (depth - 4) // 6
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.groups = nn.Sequential(
            _group(16, 16 * width, blocks, stride=1),
            _group(16 * width, 32 * width, blocks, stride=2),
            _group(32 * width, 64 * width, blocks, stride=2),
        )
        self.norm = nn.BatchNorm2d(64 * width)
        self.act = nn.ReLU()
        self.head = nn.Linear(64 * width, classes)
        initialise(self)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Penultimate features (B, 64k) of float images (B, C, H, W)."""
        x = self.act(self.norm(self.groups(self.stem(x))))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class _Block(nn.Module):
    """BN-act-conv3×3-BN-act-conv3×3 plus the identity, or a 1×1 convolution of the first act."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.act1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.act2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act1(self.norm1(x))
        short = x if self.shortcut is None else self.shortcut(y)
        y = self.conv2(self.act2(self.norm2(self.conv1(y))))
        return short + y  # type: ignore[no-any-return]


def _group(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(inputs, outputs, stride)
    return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))
