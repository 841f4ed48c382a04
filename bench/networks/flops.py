"""Counting floating-point operations as torch dispatches them; a multiply-add counts as 2.

torch's own rule for the backward of a convolution over-counts the weight gradient of a grouped
convolution by the number of groups, so stacked copies, vmapped per-example gradients and depthwise
convolutions would look dearer than the plain computation they replace.  The rule here fixes that.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def _convolution_backward(
    grad_out: list[int],
    inputs: list[int],
    weight: list[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    output_mask: list[bool],
    out_shape: Any = None,
    **_: Any,
) -> int:
    """2 · N · spatial · numel(weight) for each requested gradient of (input, weight).

    `spatial` is the output gradient's, or the input's if transposed.  `numel(weight)` already
    holds the division by the number of groups.
    """
    spatial = prod((inputs if transposed else grad_out)[2:])
    wanted = int(output_mask[0]) + int(output_mask[1])
    return 2 * grad_out[0] * spatial * prod(weight) * wanted


class FlopCounter:
    """Context manager that counts the FLOPs of everything dispatched inside it, backward included.

    Counters nest: an outer one sees what an inner one counted.

    Attributes:
        total: FLOPs so far.
        aside: FLOPs inside `uncounted`, which are not in the total.
    """

    _open: ClassVar[list["FlopCounter"]] = []

    def __init__(self) -> None:
        self.aside = 0
        rule = {torch.ops.aten.convolution_backward: _convolution_backward}
        self._mode = FlopCounterMode(display=False, custom_mapping=rule)
        self._warnings = warnings.catch_warnings()

    @property
    def total(self) -> int:
        """FLOPs counted so far."""
        return int(self._mode.get_total_flops()) - self.aside

    def __enter__(self) -> "FlopCounter":
        self._warnings.__enter__()
        # The counter's module hooks are global and harmless to a compiled network.
        warnings.filterwarnings(
            "ignore", "Using `torch.compile\\(module\\)` when there are global"
        )
        self._mode.__enter__()
        self._open.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.remove(self)
        self._mode.__exit__(*error)
        self._warnings.__exit__(*error)


@contextmanager
def uncounted() -> Iterator[None]:
    """A block whose FLOPs are no network's: open counters put them aside."""
    before = [(counter, counter.total) for counter in FlopCounter._open]
    try:
        yield
    finally:
        for counter, total in before:
            counter.aside += counter.total - total


def unit_price(network: nn.Module, channels: int, size: int) -> int:
    """FLOPs of one evaluation-mode forward pass of one image: the network's size in one number."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    with torch.no_grad(), FlopCounter() as counter:
        network(torch.zeros(1, channels, size, size, device=device))
    network.train(training)
    return counter.total
