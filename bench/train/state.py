"""Snapshots of everything that a step changes, so that it can be undone, or taken up elsewhere.

Tensors, generators, anything with `state_dict` and `load_state_dict`, and dicts, lists and tuples
of these can be kept.  Dicts and lists may hold numbers and texts too, and may grow.  Rehearsals
and checkpoints snapshot the same objects.
"""

import copy
import weakref
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch

PLAIN = (bool, int, float, str, type(None))


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
        return {key: _member(value) for key, value in kept.items()}
    if isinstance(kept, list | tuple):
        return [_member(value) for value in kept]
    if isinstance(kept, Stateful):
        return copy.deepcopy(kept.state_dict())
    raise TypeError(f"keep() takes tensors and objects with a state_dict, not {type(kept)}")


def restore(kept: Kept, state: Any) -> None:
    """Puts an object back into a state from `snapshot`; tensors in place, gradients dropped.

    Dicts and lists get the members that they had.  A member that is not there, or is a tensor of
    another shape, is replaced by a copy from the state.
    """
    if isinstance(kept, torch.Tensor):
        with torch.no_grad():
            kept.copy_(state)
        kept.grad = None
    elif isinstance(kept, torch.Generator):
        kept.set_state(state)
    elif isinstance(kept, dict):
        members = {key: _restored(kept.get(key), value) for key, value in state.items()}
        kept.clear()
        kept.update(members)
    elif isinstance(kept, list):
        own = [*kept, *[None] * (len(state) - len(kept))]
        kept[:] = [_restored(one, value) for one, value in zip(own, state, strict=False)]
    elif isinstance(kept, tuple):
        for one, value in zip(kept, state, strict=True):
            restore(one, value)
    else:
        kept.load_state_dict(copy.deepcopy(state))  # an optimiser would go on to write into it


def _member(kept: Kept) -> Any:
    return kept if isinstance(kept, PLAIN) else snapshot(kept)


def _restored(kept: Kept, value: Any) -> Any:
    """A member in the state `value`: itself where it can be."""
    shape = kept.shape if isinstance(kept, torch.Tensor) else None
    if isinstance(kept, PLAIN) or (shape is not None and shape != value.shape):
        return copy.deepcopy(value)
    restore(kept, value)
    return kept


def on_host(state: Any) -> Any:
    """A snapshot with its tensors in the processor's memory."""
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: on_host(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(on_host(value) for value in state)
    return state


T = TypeVar("T")


class Registry(Generic[T]):
    """Objects numbered in the order of their making, as long as somebody else holds them.

    Attributes:
        count: How many have been made.
    """

    def __init__(self) -> None:
        self.count = 0
        self._found: weakref.WeakValueDictionary[int, T] = weakref.WeakValueDictionary()

    def add(self, one: T) -> None:
        """Gives an object the next number."""
        self._found[self.count] = one
        self.count += 1

    def alive(self) -> Iterator[tuple[int, T]]:
        """Numbers and objects, in order."""
        return iter(sorted(self._found.items(), key=lambda pair: pair[0]))
