"""SGD that carries along the derivatives of its weights to its hyperparameters: forward mode.

    sgd = ForwardSGD(network, columns=9)
    with session.metered("inner", columns=sgd.due(columns)):
        sgd.step(lambda net: F.cross_entropy(net(x), y), setting, columns)
    with session.metered("outer"):
        h = sgd.hypergradient(lambda net: F.cross_entropy(net(x_val), y_val))

Notation: θ the weights (D,), v the velocity, g = ∇L(θ) and H = ∇²L(θ) on one batch, λ the N
hyperparameters, Z = dθ/dλ and C = dv/dλ.  One step with rate α, momentum β and decay μ:

    v ← β v + g + μ θ                  θ ← θ - α v
    C ← β C + (H + μ I) Z + E          Z ← Z - α C - F        dL_v/dλ = Zᵀ ∇L_v(θ)

E and F are zero but in the columns of this step's own hyperparameters: F is the new v for α; E is
the old v for β, the old θ for μ, and ∂²L/∂θ∂λ_k for a λ_k in the loss.  H Z + ∂²L/∂θ∂λ, column by
column, is the derivative of (θ, λ) ↦ ∇L along (Z_j, e_j): one forward-over-reverse pass for all.

Source: FDS ("Non-greedy gradient-based hyperparameter optimization over long horizons", submitted
to ICLR 2021), section 3.2, appendix A.  Deviations: E for β is the old v, where the paper prints
the new one; hyperparameters of the loss are this project's extension.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.errors import ConfigError
from bench.train.state import restore, snapshot

Tensor = torch.Tensor
Number = float | Tensor
Loss = Callable[..., Tensor]
Buffers = dict[str, Tensor]
Parts = tuple[Tensor, ...]
Passed = tuple[Tensor, Tensor, Tensor, Buffers]


@dataclass(frozen=True)
class Setting:
    """One step's α, β, μ, floats or 0-d tensors on the device, and λ (P,) of the loss, if any."""

    rate: Number
    momentum: Number = 0.0
    decay: Number = 0.0
    augment: Tensor | None = None


@dataclass(frozen=True)
class Columns:
    """Which columns, 0..N - 1, belong to one step's setting; None or () for constants.

    Steps that name the same column share a hyperparameter; its derivative is their sum.
    """

    rate: int | None = None
    momentum: int | None = None
    decay: int | None = None
    augment: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        """Every column that is named."""
        own = (self.rate, self.momentum, self.decay)
        return (*(column for column in own if column is not None), *self.augment)


class ForwardSGD:
    """Heavy-ball SGD with Z and C, on copies of a network's weights and buffers.

    A loss is a function of `net`, which maps inputs as the network does, and of `Setting.augment`
    where that is given.  It runs under `torch.func` transforms, without autocast and TF32.

    Args:
        network: In the mode in which it is to train.  It serves as a function, and gets weights
            and buffers only by `write`.  Parameters that need no gradient are constants.
        columns: N.
        chunk: Columns at a time, all by default; each chunk computes g anew.  A CPU wants no
            activation times `chunk` above 32 MiB: glibc maps such blocks anew each time.
        batched: Whether columns go together, or each by a reverse pass through g: the reference.
        gradient_clip: g is clamped to ± this, as a part of the step: where it binds, H Z is zero.
        product_clip: H Z is clamped to ± this, and Z is no longer a derivative.  Both act
            elementwise, and on ∂²L/∂θ∂λ too.

    Attributes:
        weights, velocity: θ and v, (D,).
        Z, C: (N, D), in the row `rows[column]` for each column used so far.
        buffers: Of the network, by name.

    Raises:
        ConfigError: If parameters differ in type or device, or there are none.

    Cost: a step with n columns (`due`) is 1 + 2n forward and backward passes, batched at most, and
    one more for each chunk after the first; 2·N·D numbers, and activations of chunk + 1 passes.
    """

    def __init__(
        self,
        network: nn.Module,
        columns: int,
        *,
        chunk: int | None = None,
        batched: bool = True,
        gradient_clip: float = math.inf,
        product_clip: float = math.inf,
    ) -> None:
        own = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
        if len({(p.dtype, p.device) for p in own.values()}) != 1:
            raise ConfigError("tangents need parameters of one type on one device")
        self.network, self.columns, self.chunk, self.batched = network, columns, chunk, batched
        self.gradient_clip, self.product_clip = gradient_clip, product_clip
        self._shapes = {name: p.shape for name, p in own.items()}
        # One vector and one matrix, not a dict by parameter: a step changes them by a few kernels
        # whatever the number of layers, and the hypergradient is one product.
        self.weights = torch.cat([p.flatten() for p in own.values()])
        self.velocity = torch.zeros_like(self.weights)
        # Rows in the order in which columns are first used: those in use are a slice, no copy.
        self.Z = self.weights.new_zeros(columns, len(self.weights))
        self.C = torch.zeros_like(self.Z)
        self.rows: dict[int, int] = {}
        self.buffers = {name: b.detach().clone() for name, b in network.named_buffers()}

    def due(self, columns: Columns | None) -> int:
        """Columns that a step with these takes through the network: the used, and the loss's."""
        return 0 if columns is None else len(self.rows.keys() | set(columns.augment))

    @torch.no_grad()
    def step(self, loss: Loss, setting: Setting, columns: Columns | None) -> Tensor:
        """One optimiser step; the key of its metered block has `due`.

        Args:
            loss: L, differentiable twice.
            setting: What to train with.
            columns: Whose derivatives begin or grow.  None leaves Z and C as they are while θ
                moves (truncation), and costs what a plain step costs.

        Returns:
            L before the step, 0-d, on the device.

        Raises:
            ConfigError: If there is no such column, or not one for each of `Setting.augment`.
        """
        primals, along = self._directions(setting.augment, columns)
        with _exact(self.weights.device):
            go = self._batched if self.batched else self._looped
            value, g, product, buffers = go(loss, primals, along)
        product.clamp_(-self.product_clip, self.product_clip)
        self._advance(g, product, setting, columns)
        restore(self.buffers, buffers)
        return value

    def hypergradient(self, loss: Loss) -> Tensor:
        """Zᵀ ∇L_v(θ), (N,), by one plain reverse pass; zero in columns that were not used.

        Args:
            loss: L_v, a function of `net`, which runs in the mode that the network has now and
                leaves the buffers as they are.
        """
        weights = self.weights.detach().requires_grad_()
        found = self.weights.new_zeros(self.columns)
        with _exact(weights.device), torch.enable_grad():
            (g,) = torch.autograd.grad(loss(self._net(weights, snapshot(self.buffers))), weights)
            found[list(self.rows)] = self.Z[: len(self.rows)] @ g
        return found

    def reset(self) -> None:
        """Forgets how θ and v came about, as for greedy windows: Z and C are zero."""
        self.Z.zero_()
        self.C.zero_()
        self.rows.clear()

    @torch.no_grad()
    def write(self) -> None:
        """Copies weights and buffers into the network."""
        own = dict(self.network.named_parameters()) | dict(self.network.named_buffers())
        for name, value in (self._named(self.weights) | self.buffers).items():
            own[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything that steps change."""
        names = ("weights", "velocity", "Z", "C", "buffers", "rows")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts all of it to a copy of `state`."""
        self.rows = dict(state["rows"])
        tensors = {name: value for name, value in state.items() if name != "rows"}
        restore({name: getattr(self, name) for name in tensors}, tensors)

    def _row(self, column: int) -> int:
        if not 0 <= column < self.columns:
            raise ConfigError(f"there is no column {column}, only 0..{self.columns - 1}")
        return self.rows.setdefault(column, len(self.rows))

    def _directions(self, augment: Tensor | None, columns: Columns | None) -> tuple[Parts, Parts]:
        """(θ, λ) and its directions (Z, e), (n, D) and (n, P)."""
        wanted = columns.augment if columns else ()
        if wanted and (augment is None or len(wanted) != len(augment)):
            raise ConfigError(f"the loss has no {len(wanted)} hyperparameters, one a column")
        own = [self._row(column) for column in wanted]
        used = self.Z[: len(self.rows) if columns else 0]
        if augment is None:
            return (self.weights,), (used,)
        units = augment.new_zeros(len(used), len(augment))
        for k, row in enumerate(own):
            units[row, k] = 1  # a fill each, since a list of indices would have to be sent
        return (self.weights, augment), (used, units)

    def _batched(self, loss: Loss, primals: Parts, along: Parts) -> Passed:
        """L, g (D,), the derivatives of g along the directions (n, D), and the new buffers."""

        def objective(weights: Tensor, *rest: Tensor) -> tuple[Tensor, Buffers]:
            # BatchNorm counts on copies, in place, which come out as from an ordinary step.
            buffers = snapshot(self.buffers)
            return loss(self._net(weights, buffers), *rest), buffers

        def gradient(*at: Tensor) -> tuple[Tensor, tuple[Tensor, Buffers]]:
            g, rest = grad_and_value(objective, has_aux=True)(*at)
            return g.clamp(-self.gradient_clip, self.gradient_clip), rest

        count = len(along[0])
        if not count:
            g, (value, buffers) = gradient(*primals)
            return value, g, g.new_zeros(0, len(g)), buffers
        # g and the buffers do not depend on the direction: no batch axis, computed once.
        column = partial(jvp, gradient, primals, has_aux=True)
        push = vmap(column, out_dims=(None, 0, None), randomness="same")
        products, chunk = [], self.chunk or count
        dice = [self.weights.device] if self.weights.is_cuda else []  # all drop the same units
        for first in range(0, count, chunk):
            with torch.random.fork_rng(dice, enabled=first + chunk < count):
                g, product, rest = push(tuple(part[first : first + chunk] for part in along))
            products.append(product)
        return rest[0], g, torch.cat(products), rest[1]

    def _looped(self, loss: Loss, primals: Parts, along: Parts) -> Passed:
        """The same by reverse mode over reverse mode: the symmetric Hessian times (Z_j, e_j)."""
        at = [value.detach().requires_grad_() for value in primals]
        buffers = snapshot(self.buffers)
        with torch.enable_grad():
            value = loss(self._net(at[0], buffers), *at[1:])
            slopes = torch.autograd.grad(value, at, create_graph=True, materialize_grads=True)
            g, product = slopes[0].detach(), torch.zeros_like(along[0])
            for j, row in enumerate(product):
                inner = sum((s * part[j]).sum() for s, part in zip(slopes, along, strict=True))
                row.copy_(torch.autograd.grad(inner, at[0], retain_graph=True)[0])
        product *= g.abs() <= self.gradient_clip
        g = g.clamp(-self.gradient_clip, self.gradient_clip)
        return value.detach(), g, product, buffers

    def _advance(self, g: Tensor, product: Tensor, setting: Setting, own: Columns | None) -> None:
        """The recursion, in an order in which each line finds the old values that it needs."""
        theta, v = self.weights, self.velocity
        # Tensors, because a kernel that takes a number would have to fetch it from the device.
        alpha, beta, mu = (
            x.to(theta) if isinstance(x, Tensor) else theta.new_full((), x)
            for x in (setting.rate, setting.momentum, setting.decay)
        )
        columns = (own.rate, own.momentum, own.decay) if own else (None,) * 3
        rate, momentum, decay = (None if one is None else self._row(one) for one in columns)
        used = slice(len(self.rows) if own else 0)
        Z, C = self.Z[used], self.C[used]
        C.mul_(beta).addcmul_(Z, mu)
        C[: len(product)] += product
        if momentum is not None:
            C[momentum] += v
        if decay is not None:
            C[decay] += theta
        v.mul_(beta).add_(g).addcmul_(theta, mu)
        Z.addcmul_(C, alpha, value=-1)
        if rate is not None:
            Z[rate] -= v  # the new one
        theta.addcmul_(v, alpha, value=-1)

    def _net(self, weights: Tensor, buffers: Buffers) -> Callable[..., Tensor]:
        named = self._named(weights)
        return lambda *inputs: functional_call(self.network, (named, buffers), inputs)

    def _named(self, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split([shape.numel() for shape in self._shapes.values()])
        named = zip(self._shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in named}


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """All digits of the tensors' type, and attention that can be differentiated twice.

    Two warnings of torch about itself are left out: that its own forward-mode rules still use
    `torch.jit.script`, and that some operations go through `vmap` one by one.
    """
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"  # TF32 leaves three digits, few of them after H Z
        with (
            torch.autocast(device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
            warnings.catch_warnings(),
        ):
            for text in (
                "`torch.jit.script` is deprecated",
                "There is a performance drop because",
            ):
                warnings.filterwarnings("ignore", text)
            yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision
