"""Hypernetworks: layers whose weights are a function of hyperparameters λ, of each image's own.

    W(λ) = W₀ + diag(V (λ - origin)) U        a rank-1 direction for every output unit

`hypernetwork(network, ...)` turns layers of any network into hyper-layers, in place: W₀ is the
layer's own weight under its own name.  `network(images)` has the weights of the λ that it keeps,
`network(images, rows)` those of `rows` (E,), or for image i those of `rows[i]` of (B, E).

No weights are made for single images: conv(x_i, W(λ_i)) = conv(x_i, W₀) + s_i ⊙ conv(x_i, U).

Source: HBA, appendix C; MacKay et al., "Self-Tuning Networks", 2019.
"""

import copy
import math
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from bench.train.meter import unguarded

Tensor = torch.Tensor
Layers = Literal["conv+bn", "conv", "bn", "first-conv", "first-bn", "conv+linear"]
KINDS: dict[str, type[nn.Module]] = {
    "conv": nn.Conv2d,
    "bn": nn.BatchNorm2d,
    "linear": nn.Linear,
}
ENDING = {"drop", "act"}  # what timm hangs on a BatchNorm


class Conditions:
    """λ less its origin for the forward pass that is going on; all layers of a network share it.

    Attributes:
        rows: (E,), (B, E), or None between passes.
    """

    def __init__(self) -> None:
        self.rows: Tensor | None = None


class Affine(torch.autograd.Function):
    """BatchNorm in training with a scale and a shift of each example's own.

    With x̂ normalised by the batch, g the gradient and γ_i the scale, all of one channel,
    dx = (γ_i g - mean(γ_i g) - x̂ mean(γ_i g x̂)) / standard deviation.
    Autograd's own way through `addcmul` takes three times as long on a CPU.
    """

    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        gain: Tensor,
        offset: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        share: float,
        eps: float,
    ) -> Tensor:
        """x (B, C, H, W), gain and offset (B, C, 1, 1); running statistics move."""
        plain, _, inverse = torch.native_batch_norm(x, None, None, mean, var, True, share, eps)
        context.save_for_backward(plain, gain, inverse)
        return torch.addcmul(offset, plain, gain)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients to x, gain and offset."""
        plain, gain, inverse = context.saved_tensors
        by_offset = gradient.sum((2, 3), keepdim=True)
        by_gain = (gradient * plain).sum((2, 3), keepdim=True)
        inverse = inverse[None, :, None, None]
        count = gradient.numel() // gradient.shape[1]
        level = (gain * by_offset).sum(0, keepdim=True) * (-inverse / count)
        slope = (gain * by_gain).sum(0, keepdim=True) * (-inverse / count)
        by_x = torch.addcmul(level, plain, slope).addcmul_(gradient, gain * inverse)
        return by_x, by_gain, by_offset, None, None, None, None


class HyperLayer(nn.Module):
    """What hyper-layers share: a weight, perhaps a bias, and how they depend on λ.

    `hyper_v` (R, E) starts at 0, so that the network starts as the plain one, whatever λ is; its
    gradient is not 0, because `hyper_u` is not.  Its first C rows are of the weight's C output
    units; C more are of the bias, where there is one.
    """

    weight: Tensor
    bias: Tensor | None
    conditions: Conditions
    hyper_u: nn.Parameter
    hyper_bias_u: nn.Parameter | None
    hyper_v: nn.Parameter

    def extend(self, conditions: Conditions, entries: int) -> None:
        """Adds U and V to a layer that became a hyper-layer."""
        self.conditions = conditions
        units = len(self.weight)
        self.hyper_u = nn.Parameter(torch.ones_like(self.weight))
        if self.weight.dim() > 1:
            nn.init.kaiming_uniform_(self.hyper_u, a=math.sqrt(5))  # as torch's own layers
        bias = None if self.bias is None else nn.Parameter(torch.ones_like(self.bias))
        self.hyper_bias_u = bias
        parts = 1 if self.bias is None else 2
        self.hyper_v = nn.Parameter(self.weight.new_zeros(parts * units, entries))

    def given(self, x: Tensor) -> Tensor:
        """λ less its origin, (E,), or (B, E) for the B examples of x.

        Raises:
            RuntimeError: If the layer was called outside a forward pass of its network.
            ValueError: If x has another number of examples.
        """
        rows = self.conditions.rows
        if rows is None:
            raise RuntimeError("a hyper-layer works only inside its network's forward pass")
        if rows.dim() == 2 and len(rows) != len(x):
            raise ValueError(f"hyperparameters of {len(rows)} images for {len(x)} examples")
        return rows

    def change(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """diag(Vλ): what U is scaled by, (..., C), and what is added to the bias, (..., C)."""
        with torch.autocast(rows.device.type, enabled=False):
            v = self.hyper_v
            scales = v @ rows if rows.dim() == 1 else rows @ v.T
        if self.hyper_bias_u is None:
            return scales, None
        weight, bias = scales.chunk(2, -1)
        return weight, bias * self.hyper_bias_u

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias for λ (E,) that all examples share."""
        scale, shift = self.change(rows)
        weight = self.weight + scale.view(-1, *[1] * (self.weight.dim() - 1)) * self.hyper_u
        return weight, None if self.bias is None or shift is None else self.bias + shift


class HyperConv2d(HyperLayer, nn.Conv2d):
    """A convolution with stride, padding, dilation and groups as it had."""

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (B, C, H', W') of x (B, C', H, W)."""
        rows = self.given(x)
        if rows.dim() == 1:
            return self._conv_forward(x, *self.at(rows))
        scale, shift = self.change(rows)
        out = self._conv_forward(x, self.weight, self.bias)
        along = self._conv_forward(x, self.hyper_u, None)
        total = torch.addcmul(out, along, scale[:, :, None, None].to(out.dtype))
        return total if shift is None else total + shift[:, :, None, None].to(out.dtype)


class HyperLinear(HyperLayer, nn.Linear):
    """A linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (B, ..., C) of x (B, ..., C')."""
        rows = self.given(x)
        if rows.dim() == 1:
            return F.linear(x, *self.at(rows))
        scale, shift = self.change(rows)
        each = (len(x), *[1] * (x.dim() - 2), self.out_features)
        out = F.linear(x, self.weight, self.bias)
        total = torch.addcmul(out, F.linear(x, self.hyper_u), scale.view(each).to(out.dtype))
        return total if shift is None else total + shift.view(each).to(out.dtype)


class HyperBatchNorm2d(HyperLayer, nn.BatchNorm2d):
    """A BatchNorm whose scale and shift depend on λ; its statistics are the batch's, as ever.

    One of timm's that ends in a dropout and an activation still does.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalised, scaled and shifted x (B, C, H, W)."""
        rows = self.given(x)
        if rows.dim() == 1:
            return self._after(self._normalised(x, *self.at(rows)))
        scale, shift = self.change(rows)
        assert shift is not None
        gain = (self.weight + scale * self.hyper_u)[:, :, None, None]
        offset = (self.bias + shift)[:, :, None, None]
        if self.training and x.dtype == gain.dtype:
            statistics = self.running_mean, self.running_var
            out = Affine.apply(x, gain, offset, *statistics, self._share(), self.eps)
        else:
            plain = self._normalised(x, None, None)
            out = torch.addcmul(offset, plain, gain).to(plain.dtype)
        return self._after(out)

    def _normalised(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """As `nn.BatchNorm2d`, with weights from elsewhere."""
        own = self.training or self.running_mean is None
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, weight, bias, own, self._share(), self.eps)

    def _share(self) -> float:
        """What running statistics take of this batch's; counts the batch."""
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                return 1.0 / float(self.num_batches_tracked)
        return self.momentum or 0.0

    def _after(self, x: Tensor) -> Tensor:
        if hasattr(self, "act"):
            x = self.act(self.drop(x))
        return x


HYPER: dict[type[nn.Module], type[HyperLayer]] = {
    nn.Conv2d: HyperConv2d,
    nn.Linear: HyperLinear,
    nn.BatchNorm2d: HyperBatchNorm2d,
}


def hypernetwork(
    network: nn.Module,
    layers: Layers,
    start: Tensor,
    shape: tuple[int, int, int],
    centred: bool = True,
) -> nn.Module:
    """Turns layers of a network into hyper-layers.

    Args:
        network: Is changed and returned; at first it computes what it did before.
        layers: Which layers; `first` means the first that an image meets.
        start: λ (E,), which the network keeps as its buffer `hyper_lambda`.
        shape: Of its images (C, H, W).
        centred: Whether the origin is `start`, or 0.

    Raises:
        ValueError: If there is no such layer, or one that cannot be turned.
    """
    names = places(network, layers, shape)
    conditions = Conditions()
    for name in names:
        layer = network.get_submodule(name)
        # Not a new layer: parameters keep their names, and hooks, modes and options stay.
        layer.__class__ = _hyper_class(layer)
        assert isinstance(layer, HyperLayer)
        layer.extend(conditions, len(start))
    at = start.detach().to(next(network.parameters()))
    network.register_buffer("hyper_lambda", at.clone())
    network.register_buffer("hyper_origin", at.clone() if centred else torch.zeros_like(at))
    network.conditions = conditions  # type: ignore[assignment]
    network.register_forward_pre_hook(_conditioned)
    network.register_forward_hook(_over, always_call=True)
    return network


def places(network: nn.Module, layers: Layers, shape: tuple[int, int, int]) -> list[str]:
    """Names of the layers that become hyper-layers, in the order in which an image meets them.

    Raises:
        ValueError: If there is none, or one cannot be turned; the message says which and why.
    """
    first = layers.startswith("first-")
    kinds = tuple(KINDS[part] for part in layers.removeprefix("first-").split("+"))
    found = [each for each in _met(network, shape) if isinstance(each[1], kinds)]
    if not found:
        raise ValueError(f"the network has no layer for layers={layers}")
    names = []
    for name, layer, examples in found[:1] if first else found:
        if _hyper_class(layer) is None:
            what = type(layer).__name__ + ("" if layer.weight is not None else " without weights")
            raise ValueError(f"layers={layers}: {name} is a {what}, which has no hyper-layer")
        if examples != 2:
            raise ValueError(f"layers={layers}: {name} sees {examples} rows of 2 images")
        names.append(name)
    return names


def _met(network: nn.Module, shape: tuple[int, int, int]) -> list[tuple[str, Any, int]]:
    """Name, layer and number of rows of every layer that two images meet, in that order."""
    seen: dict[str, tuple[str, Any, int]] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            seen.setdefault(name, (name, layer, len(inputs[0])))

    with torch.device("meta"), torch.no_grad():
        probe = unguarded(copy.deepcopy(network)).to("meta").eval()
        for name, layer in probe.named_modules():
            layer.register_forward_pre_hook(partial(note, name))
        probe(torch.zeros(2, *shape))
    return list(seen.values())


def _hyper_class(layer: nn.Module) -> type[HyperLayer] | None:
    """What a layer becomes; None for a class of its own, whose forward pass may do anything."""
    if layer.weight is None:
        return None
    if (
        isinstance(layer, nn.BatchNorm2d)
        and {name for name, _ in layer.named_children()} == ENDING
    ):
        return HyperBatchNorm2d
    return HYPER.get(type(layer))


def _conditioned(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Before a forward pass: tells the layers which λ it is for."""
    images, *rows = inputs
    at = rows[0] if rows else network.hyper_lambda
    network.conditions.rows = at - network.hyper_origin
    return (images,)


def _over(network: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    network.conditions.rows = None
