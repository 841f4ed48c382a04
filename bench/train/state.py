"""Snapshots of everything that a step changes, so that it can be rehearsed and undone.

Anything with `state_dict` and `load_state_dict` can be kept, and plain tensors.  Mid-run
checkpoints save the same objects.
"""

import copy
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class Stateful(Protocol):
    """An object whose state can be taken and put back."""

    def state_dict(self) -> Any:
        """The state as plain data and tensors."""

    def load_state_dict(self, state: Any) -> Any:
        """Puts the object into a state that `state_dict` returned."""


Kept = Stateful | torch.Tensor


def snapshot(kept: Kept) -> Any:
    """An independent copy of an object's state."""
    if isinstance(kept, torch.Tensor):
        return kept.detach().clone()
    return copy.deepcopy(kept.state_dict())


def restore(kept: Kept, state: Any) -> None:
    """Puts an object back into a state from `snapshot`; tensors in place, gradients dropped."""
    if isinstance(kept, torch.Tensor):
        with torch.no_grad():
            kept.copy_(state)
        kept.grad = None
    else:
        kept.load_state_dict(copy.deepcopy(state))  # an optimiser would go on to write into it
