"""What the networks here share: features, then a linear head; one initialisation."""

from abc import ABC, abstractmethod

import torch
from torch import nn


class Classifier(nn.Module, ABC):
    """A network that ends in a linear layer called `head`."""

    head: nn.Linear

    @abstractmethod
    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Penultimate features (B, D) of float images (B, C, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of float images (B, C, H, W)."""
        logits: torch.Tensor = self.head(self.features(x))
        return logits


def initialise(network: nn.Module) -> None:
    """He initialisation by fan-out for convolutions; BatchNorm 1, 0; zero biases.

    Source: the released Wide-ResNet code ("conv init: MSRA"), shared by the CIFAR ResNets here.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
