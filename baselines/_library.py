"""Proposers that a library makes, kept from disturbing anything else.

Optuna, BoTorch and Ax draw from global generators, log and warn.  Inside `isolated` the global
generators are seeded, so that nothing outside matters to a proposal, and put back afterwards.
"""

import logging
import random
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from baselines._ask_tell import Proposer, seed_of
from baselines._space import Dimension, Point
from bench.rng import forked

# Notes of the libraries to one another; this project's own modules are not among them.
_THEIRS = r"(optuna|botorch|gpytorch|linear_operator|ax|plotly|sympy|pyre_extensions)(\.|$)"


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Runs a library's code: seeded, quiet, and without a trace in any global state.

    Python's, NumPy's and torch's host generators and the filters of warnings are put back, and
    nothing below an error is logged.
    """
    python, legacy, logged = random.getstate(), np.random.get_state(), logging.root.manager.disable
    random.seed(seed)
    np.random.seed(seed)
    logging.disable(logging.WARNING)
    try:
        with forked("library", seed), warnings.catch_warnings():
            _expect()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        logging.disable(logged)


def _expect() -> None:
    """Ignores the warnings that are known and mean nothing here."""
    ignore = warnings.filterwarnings
    for outdated in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        ignore("ignore", category=outdated, module=_THEIRS)
    # linear_operator, when it is imported.
    ignore("ignore", message=r".torch\.jit\.script. is deprecated", category=FutureWarning)
    # The covariance of points close to one another; the factorisation goes on with the jitter.
    ignore("ignore", message=r"A not p\.d\., added jitter", category=RuntimeWarning)
    # Ax hands on errors that are all the same.
    ignore("ignore", message=r"Data \(outcome observations\) is not standardized")
    # L-BFGS-B stops early on a flat acquisition; BoTorch starts again elsewhere, or takes it.
    ignore("ignore", message=r"Optimization failed ", category=RuntimeWarning)


class Library(Proposer):
    """A proposer that a library makes; each call into it is isolated."""

    repeats = True

    def __init__(self, dimensions: Sequence[Dimension], rng: torch.Generator) -> None:
        super().__init__(dimensions, rng)
        self._open: tuple[Point, Any] | None = None
        seed = seed_of(rng)
        with isolated(seed):
            self.start(seed)

    @classmethod
    def refuses(cls, dimensions: Sequence[Dimension]) -> str | None:
        """Spaces of one point."""
        if all(dimension.levels == 1 for dimension in dimensions):
            return "there is nothing to search: no parameter has more than one value"
        return None

    def ask(self) -> Point:
        """The library's next point."""
        with isolated(seed_of(self.rng)):
            self._open = self.propose()
        return self._open[0]

    def tell(self, point: Point, error: float | None) -> None:
        """What the point that was last asked for came to.

        Raises:
            ValueError: If it was another point.
        """
        if self._open is None or self._open[0] != point:
            raise ValueError(f"told of {point}, which is not the point that was asked for")
        (_, handle), self._open = self._open, None
        with isolated(seed_of(self.rng)):
            self.report(handle, error)

    def importance(self) -> dict[str, float] | None:
        """Shares by the library's own measure; None before it has what it needs."""
        with isolated(0):  # asking for it changes no proposal
            shares = self.shares()
        if shares is None:
            return None
        names = (dimension.name for dimension in self.dimensions)
        return dict(zip(names, shares, strict=True))

    @abstractmethod
    def start(self, seed: int) -> None:
        """Imports the library and sets up the search."""

    @abstractmethod
    def propose(self) -> tuple[Point, Any]:
        """The next point, and what the library knows it by."""

    @abstractmethod
    def report(self, handle: Any, error: float | None) -> None:
        """Hands an error, or a failure, to the library."""

    @abstractmethod
    def shares(self) -> list[float] | None:
        """What `importance` says, in the order of the dimensions."""


def scaled(scores: Sequence[float]) -> list[float] | None:
    """Scores from 0 on, divided by their sum; None if that is 0."""
    total = sum(scores)
    return [score / total for score in scores] if total > 0 else None
