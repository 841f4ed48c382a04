"""Dropout and input scale with rates of each example's own, attached to a network from outside.

    attach(network, shape)                            # changes nothing yet
    with regularised(network, strengths, masks):      # (B, 1 + D) or (1 + D,): scale, then rates
        loss = learner.loss(images, targets)

A network must be a chain: convolutions and then linear layers, each fed by the one before alone.
Its first input loses single values, the inputs of further convolutions whole channels, that of
the first linear layer channels and then single values, those of further linear layers but the
last single values: 8 dropouts of an AlexNet, 5 of a LeNet.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from bench.train.meter import unguarded

Tensor = torch.Tensor
Shape = tuple[int, int, int]


class Dropouts:
    """What all hooks of a network share.

    Attributes:
        count: D, how many dropouts there are.
        strengths: Input scale and rates (B, 1 + D) or (1 + D,) for the passes that are going on;
            None where nothing is scaled or dropped.
        masks: The generator of scales and masks, on the network's device.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.strengths: Tensor | None = None
        self.masks: torch.Generator | None = None


class Site:
    """The dropouts on one layer's input.

    Args:
        name: The layer's.
        columns: Their numbers among those of the network.
        channels: For each, how many channels are dropped as wholes; None for single values.
    """

    def __init__(self, name: str, columns: list[int], channels: list[int | None]) -> None:
        self.name, self.columns, self.channels = name, columns, channels


def sites(network: nn.Module, shape: Shape) -> list[Site]:
    """Where dropouts belong, in the order in which an image meets them.

    Args:
        network: Is not changed.
        shape: Of its images (C, H, W).

    Raises:
        ValueError: If it is no such chain; the message says why.
    """
    layers = _chain(network, shape)
    convolutions = [layer for _, layer in layers if isinstance(layer, nn.Conv2d)]
    found: list[Site] = []
    for place, (name, layer) in enumerate(layers):
        channels: list[int | None] = [None]
        if isinstance(layer, nn.Conv2d):
            channels = [layer.in_channels] if place else [None]
        elif place == len(convolutions):
            wide = convolutions[-1].out_channels
            if layer.in_features % wide:
                raise ValueError(f"{name} has {layer.in_features} inputs of {wide} channels")
            channels = [wide, None]
        if place == len(layers) - 1:  # what is left for the last layer, if it is the only linear
            channels = [wide for wide in channels if wide is not None]
        first = sum(len(site.columns) for site in found)
        found.append(Site(name, [first + i for i in range(len(channels))], channels))
    return found


def attach(network: nn.Module, shape: Shape) -> int:
    """Hangs dropouts into a network, once.

    Args:
        network: Computes as before, but inside `regularised`.
        shape: Of its images (C, H, W).

    Returns:
        D, how many there are.

    Raises:
        ValueError: As `sites`.
    """
    there: Dropouts | None = getattr(network, "dropouts", None)
    if there is None:
        found = sites(network, shape)
        there = Dropouts(sum(len(site.columns) for site in found))
        for number, site in enumerate(found):
            hook = partial(_before, there, site, number == 0)
            network.get_submodule(site.name).register_forward_pre_hook(hook)
        network.dropouts = there  # type: ignore[assignment]
    return there.count


@contextmanager
def regularised(network: nn.Module, strengths: Tensor, masks: torch.Generator) -> Iterator[None]:
    """Passes inside scale and drop, whatever the network's mode.

    Args:
        network: One with dropouts.
        strengths: v ≥ 0 of the input's scale, uniform on [1 / (1 + v), 1 + v], and rates in
            [0, 1): (1 + D,), or (B, 1 + D) of each example; on the network's device.
        masks: The generator of scales and masks, on that device.

    Raises:
        ValueError: If there are more or fewer strengths.
    """
    dropouts: Any = network.dropouts
    if strengths.shape[-1] != 1 + dropouts.count:
        raise ValueError(f"{strengths.shape[-1] - 1} rates for {dropouts.count} dropouts")
    dropouts.strengths, dropouts.masks = strengths.detach(), masks
    try:
        yield
    finally:
        dropouts.strengths = dropouts.masks = None


def drop(x: Tensor, rates: Tensor, masks: torch.Generator, channels: int | None = None) -> Tensor:
    """Zeroes parts of examples and divides the rest by what share of them is kept on average.

    Args:
        x: (B, C, H, W) or (B, F) float.
        rates: (B,) or () float in [0, 1]; at 1 nothing is left.
        masks: A generator on its device.
        channels: Parts are the C channels, or so many equal runs of the F values; None for single
            values.
    """
    if channels is not None and x.dim() == 2:
        return drop(x.unflatten(1, (channels, -1)), rates, masks, channels).flatten(1)
    if channels is None:
        noise = torch.empty_like(x, dtype=torch.float32)  # in the order of the values in memory
    else:
        noise = torch.empty(*x.shape[:2], *[1] * (x.dim() - 2), device=x.device)
    rates = rates.float().view(-1, *[1] * (x.dim() - 1))
    # Noise is below 1 and rates are not negative: with a rate of 1, 0 is divided by the least.
    kept = noise.uniform_(generator=masks) >= rates
    gain = kept / (1 - rates).clamp_min(torch.finfo(torch.float32).tiny)
    return x * gain.to(x.dtype)


def _before(
    dropouts: Dropouts, site: Site, first: bool, layer: nn.Module, inputs: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    """The forward pre-hook of a layer; the first one scales too."""
    strengths, masks = dropouts.strengths, dropouts.masks
    if strengths is None or masks is None:
        return None
    x, *others = inputs
    if first:
        x = _scaled(x, strengths[..., 0], masks)
    for column, channels in zip(site.columns, site.channels, strict=True):
        x = drop(x, strengths[..., 1 + column], masks, channels)
    return (x, *others)


def _scaled(x: Tensor, strength: Tensor, masks: torch.Generator) -> Tensor:
    """Each example of x (B, ...) times a number of its own around 1."""
    low, high = 1 / (1 + strength), 1 + strength
    place = torch.rand(len(x), generator=masks, device=x.device)
    return x * (low + (high - low) * place).view(-1, *[1] * (x.dim() - 1)).to(x.dtype)


def _chain(network: nn.Module, shape: Shape) -> list[tuple[str, Any]]:
    """Name and layer of all convolutions and linear layers, in order, if they are a chain.

    Every layer's output becomes a leaf of its own; then a layer's input must depend on the leaf
    of the layer before and on no other.
    """
    probe = (
        unguarded(copy.deepcopy(network)).to("meta", torch.float32).eval().requires_grad_(False)
    )
    leaves = [torch.zeros(2, *shape, device="meta", requires_grad=True)]
    names, layers = ["the image"], list[Any]()

    def enter(name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if _sources(inputs[0], leaves) != [len(leaves) - 1]:
            raise ValueError(
                f"dropouts need a chain of layers, and {name} does not follow {names[-1]} alone"
            )
        if isinstance(layer, nn.Conv2d) and layers and isinstance(layers[-1], nn.Linear):
            raise ValueError(f"the convolution {name} follows the linear layer {names[-1]}")
        names.append(name)
        layers.append(layer)

    def leave(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()  # activations may work in place

    for name, layer in probe.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_pre_hook(partial(enter, name))
            layer.register_forward_hook(leave)
    with torch.enable_grad():
        enter("the output", nn.Identity(), (probe(leaves[0].clone()),))
    layers.pop()
    kinds = [isinstance(layer, nn.Conv2d) for layer in layers]
    if all(kinds) or not any(kinds):
        raise ValueError("dropouts need convolutions and then linear layers, not one kind alone")
    return list(zip(names[1:-1], layers, strict=True))


def _sources(x: Tensor, leaves: list[Tensor]) -> list[int]:
    """Which leaves a tensor depends on."""
    if not x.requires_grad:
        return []
    found = torch.autograd.grad(x.sum(), leaves, retain_graph=True, allow_unused=True)
    return [number for number, each in enumerate(found) if each is not None]
