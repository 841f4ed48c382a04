"""Per-example gradient alignment: r_i = ⟨∇ℓ_i(θ), g⟩ for a given g, without per-example gradients.

For a layer that is linear in its parameters, y_i = f(x_i; W), the share of its weights in r_i is
⟨∂ℓ_i/∂y_i, f(x_i; G)⟩: run the layer with g's slice G as its weights, multiply by the gradient of
its output, sum over everything but the example.  A `Tape` keeps inputs and output gradients of an
ordinary training step; `jvp` needs no tape but a second pass, `difference` two loss values.  A
`Judge` watches a step of a learner and gives the rewards when g is known.

Under BatchNorm in training mode examples interact.  With M_ij the effect on ℓ_i of moving along g
only the weights that example j uses, `jvp` and `difference` give the row sums, how ℓ_i changes;
a tape gives the column sums, what everybody's loss owes to example i.

Source: GAR (Müller et al.), section 5, Lemmas 2 and 3; for strides, padding, dilation, groups and
norm layers the same identity, which the lemmas are cases of.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.func import jvp as push_forward
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.augment.policy import Batch
from bench.errors import ConfigError
from bench.train.learner import Learner

Tensor = torch.Tensor
Gradients = dict[nn.Parameter, Tensor]
# Exact types: a subclass may standardise its weights or end in an activation.
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)


@dataclass(eq=False)
class Call:
    """One call of a layer: its input, and the gradient of the loss in its output."""

    layer: nn.Module
    x: Tensor
    delta: Tensor | None = None


class Tape:
    """What a training step leaves behind: every call of a layer with parameters."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def products(self, gradients: Gradients) -> Tensor:
        """⟨∇ℓ_i, g⟩ for each example of a step on the batch's mean loss.

        Not for use inside `recording`, which would record its calls too.

        Args:
            gradients: g, by parameter; zero where there is none.

        Returns:
            (B,) float.

        Raises:
            ConfigError: If layers disagree on how many examples there are.
        """
        parts = [_inner(call, gradients) for call in self.calls if call.delta is not None]
        if len({len(part) for part in parts}) != 1:
            raise ConfigError(
                "layers of this network see batches of different lengths, so that hooks cannot "
                "tell the images apart: use estimator=difference"
            )
        return torch.stack(parts).sum(0) * len(parts[0])  # the mean loss divided by B


@contextmanager
def recording(network: nn.Module, norms: bool = True) -> Iterator[Tape]:
    """Records the calls of a network's layers, and the gradients when the backward pass comes.

    Args:
        network: Whose layers to watch.
        norms: Whether scales and shifts of norm layers are to count.

    Raises:
        ConfigError: If a module has parameters that are used in another way than these layers'.
    """
    tape, hooks = Tape(), []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:  # a frozen layer owes nothing
            return
        call = Call(layer, inputs[0].detach())
        tape.calls.append(call)

        def keep(gradient: Tensor) -> None:
            call.delta = gradient

        output.register_hook(keep)  # on the raw output, before anything changes it in place

    for layer in network.modules():
        if not norms and type(layer) in NORMS:
            continue
        if any(True for _ in layer.parameters(recurse=False)):
            if type(layer) not in (*LINEAR, *NORMS):
                raise ConfigError(
                    f"a {type(layer).__name__} is no layer whose rewards hooks can give: "
                    "use estimator=difference"
                )
            hooks.append(layer.register_forward_hook(note))
    try:
        yield tape
    finally:
        for hook in hooks:
            hook.remove()


def jvp(
    network: nn.Module,
    weights: dict[str, Tensor],
    g: dict[str, Tensor],
    batch: tuple[Tensor, Tensor],
) -> Tensor:
    """The derivative of each example's loss along g, by forward mode; (B,).

    Args:
        network: Maps inputs to logits; its own weights and buffers are left alone.
        weights: θ, the parameters by name.
        g: The direction, by the same names.
        batch: Inputs (B, ...), as the network takes them, and classes (B,).
    """
    inputs, classes = batch

    def losses(parameters: dict[str, Tensor]) -> Tensor:
        # Cloned: a BatchNorm in training mode counts in place.
        buffers = {name: value.clone() for name, value in network.named_buffers()}
        logits = functional_call(network, (parameters, buffers), (inputs,))
        return _cross_entropy(logits, classes)

    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
        _, tangent = push_forward(losses, (weights,), (g,))
    return tangent.detach()


@torch.no_grad()
def difference(
    network: nn.Module,
    weights: dict[str, Tensor],
    g: dict[str, Tensor],
    batch: tuple[Tensor, Tensor],
    before: Tensor | None = None,
    length: float = 1e-3,
) -> Tensor:
    """The same by a finite difference along g.

    Args:
        before: The losses (B,) at the weights, where one second pass shall do; without them the
            difference is central and takes two.
        length: Of the step, ‖εg‖.
    """
    norm = torch.stack([value.norm() for value in g.values()]).norm()
    epsilon = length / norm.clamp_min(torch.finfo(norm.dtype).tiny)

    def losses(along: Tensor) -> Tensor:
        moved = {name: value + along * g[name] for name, value in weights.items()}
        buffers = {name: value.clone() for name, value in network.named_buffers()}
        logits = functional_call(network, (moved, buffers), (batch[0],))
        return _cross_entropy(logits, batch[1])

    if before is not None:
        return (losses(epsilon) - before) / epsilon
    dice = _dice(batch[0].device)  # both passes drop the same units
    ahead = losses(epsilon)
    _throw(dice, batch[0].device)
    return (ahead - losses(-epsilon)) / (2 * epsilon)


def _inner(call: Call, gradients: Gradients) -> Tensor:
    """⟨∂ℓ_i/∂y_i, f(x_i; G)⟩ of one call, (B,)."""
    layer, x, delta = call.layer, call.x, call.delta
    own = {
        name: gradients[p] if p in gradients else torch.zeros_like(p)
        for name, p in layer.named_parameters(recurse=False)
    }
    if isinstance(layer, BATCH_NORMS):
        batch_statistics = layer.training or layer.running_mean is None
        mean, var = (None, None) if batch_statistics else (layer.running_mean, layer.running_var)
        y = F.batch_norm(
            x, mean, var, own.get("weight"), own.get("bias"), batch_statistics, 0.0, layer.eps
        )
    else:
        y = functional_call(layer, own, (x,))
    assert delta is not None
    exact = torch.promote_types(delta.dtype, torch.float32)  # sums of half precision drift
    product = y.to(exact) * delta
    return product.sum(tuple(range(1, product.ndim)))  # flattening would copy channels_last


def _cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Losses (B,), in no less than single precision."""
    exact = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(exact), classes, reduction="none")


class Judge(ABC):
    """Gives the examples of a training step their rewards once a later gradient is known.

    Args:
        learner: Is watched.
        norms: Whether scales and shifts of norm layers count; only `Hooks` can leave them out.
    """

    def __init__(self, learner: Learner, norms: bool = True) -> None:
        self.learner, self.norms = learner, norms

    @abstractmethod
    def watch(self, batch: Batch) -> Tensor:
        """Forward and backward pass on a batch; returns the mean loss, leaves the gradients.

        Call it in the block that pays for the training.
        """

    @abstractmethod
    def rewards(self) -> Tensor:
        """⟨∇ℓ_i(θ), g⟩ (B,) of the watched batch, θ its weights, g the gradients that are there.

        Call it in a metered block.
        """


class Hooks(Judge):
    """Rewards from layer inputs and output gradients, kept until g is there: the paper's."""

    def watch(self, batch: Batch) -> Tensor:
        """Records the step."""
        network = self.learner.network
        with self.learner.eager(), recording(network, self.norms) as self.tape:
            loss = self.learner.loss(batch.images, batch.targets)
            loss.backward()
        return loss.detach()

    def rewards(self) -> Tensor:
        """From the tape, which it drops."""
        tape, self.tape = self.tape, Tape()
        gradients = {p: p.grad for p in self.learner.network.parameters() if p.grad is not None}
        with self.learner.precision():
            return tape.products(gradients)


class SecondPass(Judge):
    """Keeps the weights and the batch, and goes through the network once more."""

    def watch(self, batch: Batch) -> Tensor:
        """Copies the weights; they change before the rewards are wanted."""
        learner = self.learner
        self.weights = {n: p.detach().clone() for n, p in learner.network.named_parameters()}
        self.batch, self.dice = batch, _dice(batch.images.device)
        # A compiled network would drop other units than the second pass with the same dice.
        with learner.eager() if _drops(learner.network) else nullcontext():
            losses = F.cross_entropy(learner(batch.images), batch.targets, reduction="none")
        self.before = losses.detach()
        loss = losses.mean()
        loss.backward()
        return loss.detach()

    def rewards(self) -> Tensor:
        """By one more pass with the same dropout as before."""
        learner, images = self.learner, self.batch.images
        g = {
            name: p.grad if p.grad is not None else torch.zeros_like(p)
            for name, p in learner.network.named_parameters()
        }
        devices = [images.device] if images.is_cuda else []
        with torch.random.fork_rng(devices=devices), learner.precision():
            _throw(self.dice, images.device)
            rewards = self.again(g, (learner.pixels(images), self.batch.targets))
        del self.weights, self.batch, self.before
        return rewards

    @abstractmethod
    def again(self, g: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        """The rewards (B,) from inputs as the network takes them."""


class Forward(SecondPass):
    """Rewards by forward mode."""

    def again(self, g: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        """See `jvp`."""
        return jvp(self.learner.network, self.weights, g, batch)


class Difference(SecondPass):
    """Rewards by a finite difference, central and longer where half precision blurs the losses."""

    def again(self, g: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        """See `difference`."""
        network = self.learner.network
        if torch.is_autocast_enabled(batch[0].device.type):
            return difference(network, self.weights, g, batch, length=0.1)
        return difference(network, self.weights, g, batch, self.before)


ESTIMATORS: dict[str, type[Judge]] = {"hooks": Hooks, "jvp": Forward, "difference": Difference}


def _drops(network: nn.Module) -> bool:
    """Whether a network in training draws at random: dropout of units, channels or blocks."""
    return any("Drop" in type(module).__name__ for module in network.modules())


def _dice(device: torch.device) -> list[Tensor]:
    """The states of the global generators that a network's dropout uses."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _throw(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
