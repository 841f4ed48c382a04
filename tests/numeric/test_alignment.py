"""Per-example alignments against explicit per-example gradients, in float64 with smooth layers."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.errors import ConfigError
from bench.networks import build
from methods import _alignment as alignment

Tensor = torch.Tensor


class Mixed(nn.Module):
    """Convolutions of every kind, a norm layer of choice, and linear layers, all smooth."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding="valid")
        self.norm = norm(6)
        self.wide = nn.Conv2d(6, 6, 3, padding="same", dilation=2, groups=2, bias=False)
        self.deep = nn.Conv2d(6, 6, (3, 1), padding=(1, 0), groups=6)
        self.hidden = nn.Linear(6, 5, bias=False)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.softplus(self.norm(self.stem(x)))
        x = F.softplus(self.deep(F.softplus(self.wide(x))).add_(x))
        return self.head(torch.tanh(self.hidden(x.mean((2, 3)))))


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "group": lambda channels: nn.GroupNorm(2, channels),
    "batch": lambda channels: nn.BatchNorm2d(channels),
    "batch without affine": lambda channels: nn.BatchNorm2d(channels, affine=False),
    "layer": lambda channels: nn.LayerNorm([channels, 6, 6]),
}


def setting(norm: str) -> tuple[Mixed, Tensor, Tensor, dict[str, Tensor]]:
    """A network off its initial point, inputs, classes and a direction."""
    torch.manual_seed(0)
    network = Mixed(NORMS[norm]).double()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.3 * torch.randn_like(value))
        for value in network.buffers():
            if value.is_floating_point():
                value.copy_(value + torch.rand_like(value))
    inputs = torch.randn(7, 3, 14, 14, dtype=torch.float64)
    classes = torch.randint(4, (7,))
    g = {name: torch.randn_like(value) for name, value in network.named_parameters()}
    return network, inputs, classes, g


def taped(network: Mixed, inputs: Tensor, classes: Tensor, g: dict[str, Tensor]) -> Tensor:
    with alignment.recording(network) as tape:
        F.cross_entropy(network(inputs), classes).backward()
    return tape.products({p: g[name] for name, p in network.named_parameters()})


def explicit(network: Mixed, inputs: Tensor, classes: Tensor, g: dict[str, Tensor]) -> Tensor:
    """One backward pass an example."""
    out = []
    for x, y in zip(inputs, classes, strict=True):
        loss = F.cross_entropy(network(x[None]), y[None])
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        out.append(sum((a * b).sum() for a, b in zip(gradients, g.values(), strict=True)))
    return torch.stack([torch.as_tensor(value) for value in out])


def pushed(network: Mixed, inputs: Tensor, classes: Tensor, g: dict[str, Tensor]) -> Tensor:
    weights = {name: value.detach() for name, value in network.named_parameters()}
    return alignment.jvp(network, weights, g, (inputs, classes))


@pytest.mark.parametrize("norm", NORMS)
def test_all_estimators_agree_where_examples_do_not_interact(norm: str) -> None:
    network, inputs, classes, g = setting(norm)
    network.eval()
    expected = explicit(network, inputs, classes, g)
    torch.testing.assert_close(taped(network, inputs, classes, g), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(pushed(network, inputs, classes, g), expected, rtol=1e-12, atol=0)
    weights = {name: value.detach() for name, value in network.named_parameters()}
    before = F.cross_entropy(network(inputs), classes, reduction="none").detach()
    difference = alignment.difference(network, weights, g, (inputs, classes), before, length=1e-6)
    torch.testing.assert_close(difference, expected, rtol=1e-5, atol=1e-7)


def effects(network: Mixed, inputs: Tensor, classes: Tensor, g: dict[str, Tensor]) -> Tensor:
    """M_ij: the derivative of ℓ_i along g of only the weights that example j uses.

    Every example gets a copy of the weights; layers other than BatchNorm's normalisation run
    example by example.
    """
    count = len(inputs)

    def losses(copies: dict[str, Tensor]) -> Tensor:
        def run(name: str, x: Tensor) -> Tensor:
            layer = network.get_submodule(name)
            own = [n for n, _ in layer.named_parameters(recurse=False)]
            rows = [
                torch.func.functional_call(
                    layer, {n: copies[f"{name}.{n}"][i] for n in own}, (x[i : i + 1],)
                )
                for i in range(count)
            ]
            return torch.cat(rows)

        def norm(x: Tensor) -> Tensor:
            y = F.batch_norm(x, None, None, None, None, True, 0.0, network.norm.eps)
            weight, bias = copies["norm.weight"], copies["norm.bias"]
            return y * weight[:, :, None, None] + bias[:, :, None, None]

        x = F.softplus(norm(run("stem", inputs)))
        x = F.softplus(run("deep", F.softplus(run("wide", x))) + x)
        logits = run("head", torch.tanh(run("hidden", x.mean((2, 3)))))
        return F.cross_entropy(logits, classes, reduction="none")

    copies = {n: v.detach().expand(count, *v.shape).clone() for n, v in network.named_parameters()}
    columns = []
    for j in range(count):
        only = {n: torch.zeros_like(v) for n, v in copies.items()}
        for name in only:
            only[name][j] = g[name]
        columns.append(torch.func.jvp(losses, (copies,), (only,))[1])
    return torch.stack(columns, 1)


def test_under_batch_statistics_they_are_row_and_column_sums() -> None:
    network, inputs, classes, g = setting("batch")
    matrix = effects(network, inputs, classes, g)
    hooks, forward = taped(network, inputs, classes, g), pushed(network, inputs, classes, g)
    torch.testing.assert_close(forward, matrix.sum(1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(hooks, matrix.sum(0), rtol=1e-10, atol=1e-12)
    assert (hooks - forward).abs().max() > 0.05 * forward.abs().max()  # so they do differ

    loss = F.cross_entropy(network(inputs), classes)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    along = sum((a * b).sum() for a, b in zip(gradients, g.values(), strict=True))
    torch.testing.assert_close(forward.mean(), along, rtol=1e-10, atol=0)
    torch.testing.assert_close(hooks.mean(), along, rtol=1e-10, atol=0)


def test_norm_layers_can_be_left_out() -> None:
    network, inputs, classes, g = setting("group")
    with alignment.recording(network, norms=False) as tape:
        F.cross_entropy(network(inputs), classes).backward()
    rest = g | {name: torch.zeros_like(v) for name, v in g.items() if name.startswith("norm")}
    without = tape.products({p: g[n] for n, p in network.named_parameters()})
    expected = explicit(network, inputs, classes, rest)
    torch.testing.assert_close(without, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_weights_buffers_and_hooks_are_left_alone(norm: str) -> None:
    network, inputs, classes, g = setting(norm)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pushed(network, inputs, classes, g)
    weights = {name: value.detach() for name, value in network.named_parameters()}
    alignment.difference(network, weights, g, (inputs, classes), torch.zeros(7).double())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    taped(network, inputs, classes, g)
    assert not any(module._forward_hooks for module in network.modules())


def test_a_layer_used_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.tanh(self.layer(x)))

    torch.manual_seed(0)
    network = Twice().double()
    inputs, classes = torch.randn(6, 5, dtype=torch.float64), torch.randint(5, (6,))
    g = {name: torch.randn_like(value) for name, value in network.named_parameters()}
    found = taped(network, inputs, classes, g)  # type: ignore[arg-type]
    expected = explicit(network, inputs, classes, g)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


class Standardised(nn.Conv2d):
    """A subclass that does something else with its weights."""


@pytest.mark.parametrize("layer", [nn.PReLU(), Standardised(3, 2, 1)])
def test_a_module_that_hooks_cannot_credit_is_refused(layer: nn.Module) -> None:
    network = nn.Sequential(layer, nn.Linear(3, 2))
    name = type(layer).__name__
    with pytest.raises(ConfigError, match=rf"{name}.*estimator="), alignment.recording(network):
        pass


def test_frozen_layers_and_missing_gradients_count_nothing() -> None:
    network, inputs, classes, g = setting("group")
    network.stem.requires_grad_(False)
    with alignment.recording(network) as tape:
        F.cross_entropy(network(inputs), classes).backward()
    given = {p: g[n] for n, p in network.named_parameters() if "hidden" not in n}
    network.stem.requires_grad_(True)
    rest = {n: v * 0 if "stem" in n or "hidden" in n else v for n, v in g.items()}
    expected = explicit(network, inputs, classes, rest)
    torch.testing.assert_close(tape.products(given), expected, rtol=1e-12, atol=0)


def test_attention_has_a_forward_mode() -> None:
    torch.manual_seed(0)
    network = build("timm:vit_tiny_patch16_224", 4, 3, 32).double().eval()
    inputs = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    classes = torch.randint(4, (2,))
    weights = {name: value.detach() for name, value in network.named_parameters()}
    g = {name: torch.randn_like(value) for name, value in weights.items()}
    found = alignment.jvp(network, weights, g, (inputs, classes))
    before = F.cross_entropy(network(inputs), classes, reduction="none").detach()
    expected = alignment.difference(network, weights, g, (inputs, classes), before, length=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_both_passes_of_a_central_difference_drop_the_same_units() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 40), nn.Tanh(), nn.Dropout(0.5), nn.Linear(40, 3))
    network = network.double()
    inputs, classes = torch.randn(6, 5, dtype=torch.float64), torch.randint(3, (6,))
    weights = {name: value.detach() for name, value in network.named_parameters()}
    g = {name: torch.randn_like(value) for name, value in weights.items()}
    torch.manual_seed(1)
    expected = alignment.jvp(network, weights, g, (inputs, classes))
    torch.manual_seed(1)
    found = alignment.difference(network, weights, g, (inputs, classes), length=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_tape_in_half_precision_takes_a_gradient_in_single() -> None:
    torch.manual_seed(0)
    network = Mixed(NORMS["batch"]).float()
    inputs, classes = torch.randn(8, 3, 14, 14), torch.randint(4, (8,))
    g = {p: torch.randn_like(p) for p in network.parameters()}
    found = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            with alignment.recording(network) as tape:
                F.cross_entropy(network(inputs).float(), classes).backward()
            found.append(tape.products(g))
    assert torch.corrcoef(torch.stack(found))[0, 1] > 0.99
