"""Named, order-independent random streams.

A stream is a name, not a position: `("order", seed 3)` yields the same numbers whatever else was
drawn before it and whichever method runs.  So data, batch order and initial weights are equal
across methods at one seed, and comparisons pair by seed.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def key(*names: str | int) -> int:
    """Hashes a stream's name to a 63-bit seed.

    Args:
        names: The parts of the name, e.g. `("run", 3, "order")`.  Parts keep their type and their
            boundaries: `("a", "b")`, `("ab",)` and `(1,)`, `("1",)` all differ.
    """
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator for the named stream."""
    return torch.Generator(device=device).manual_seed(key(*names))


def numpy_generator(*names: str | int) -> np.random.Generator:
    """A fresh NumPy generator (Philox, stable across NumPy versions) for the named stream."""
    return np.random.Generator(np.random.Philox(key(*names)))


@contextmanager
def forked(*names: str | int) -> Iterator[None]:
    """Runs a block with torch's global host generator seeded by name, and puts it back after it.

    For code that cannot take a generator, such as a network's own weight initialisation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(*names))
        yield


class Streams:
    """The persistent named generators of one run.

    A stream continues where its last draw left off, and is independent of every other stream.
    """

    def __init__(self, *prefix: str | int) -> None:
        self._prefix = prefix
        self._generators: dict[str, torch.Generator] = {}

    def __call__(self, name: str) -> torch.Generator:
        """The generator of stream `name`, on the host: policies and orders are drawn there."""
        if name not in self._generators:
            self._generators[name] = generator(*self._prefix, name)
        return self._generators[name]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The state of every stream used so far."""
        return {name: g.get_state() for name, g in self._generators.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Puts every stream back to `state`, in place; those it does not name start anew."""
        for name in state.keys() | self._generators.keys():
            stream = self(name)
            if name in state:
                stream.set_state(state[name])
            else:
                stream.manual_seed(key(*self._prefix, name))
