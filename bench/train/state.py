"""Snapshots of everything that a step changes, so that it can be rehearsed and undone.

Tensors, generators, anything with `state_dict` and `load_state_dict`, and dicts, lists and tuples
of these can be kept.  Mid-run checkpoints save the same objects.
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


Kept = Any  # recursive: Stateful | Tensor | Generator | dict[Any, Kept] | list[Kept] | tuple


def snapshot(kept: Kept) -> Any:
    """An independent copy of an object's state.

    Raises:
        TypeError: If it is none of the kinds above.
    """
    if isinstance(kept, torch.Tensor):
        return kept.detach().clone()
    if isinstance(kept, torch.Generator):
        return kept.get_state()
    if isinstance(kept, dict):
        return {key: snapshot(value) for key, value in kept.items()}
    if isinstance(kept, list | tuple):
        return [snapshot(value) for value in kept]
    if isinstance(kept, Stateful):
        return copy.deepcopy(kept.state_dict())
    raise TypeError(f"keep() takes tensors and objects with a state_dict, not {type(kept)}")


def restore(kept: Kept, state: Any) -> None:
    """Puts an object back into a state from `snapshot`; tensors in place, gradients dropped."""
    if isinstance(kept, torch.Tensor):
        with torch.no_grad():
            kept.copy_(state)
        kept.grad = None
    elif isinstance(kept, torch.Generator):
        kept.set_state(state)
    elif isinstance(kept, dict):
        for key, value in state.items():
            restore(kept[key], value)
    elif isinstance(kept, list | tuple):
        for one, value in zip(kept, state, strict=True):
            restore(one, value)
    else:
        kept.load_state_dict(copy.deepcopy(state))  # an optimiser would go on to write into it
