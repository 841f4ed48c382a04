"""Stratified splits: exact sizes, every class on both sides, seeded by name."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.rng import numpy_generator

Counts = npt.NDArray[np.int64]


def stratified(labels: Tensor, fraction: float, *names: str | int) -> tuple[Tensor, Tensor]:
    """Splits samples in two, class by class.

    The part has exactly round(fraction · N) samples, divided among the classes by largest
    remainder.  A class with two members or more keeps at least one on each side, and a lone member
    stays in the rest, wherever the part's size allows.

    Args:
        labels: (N,) int64, values >= 0, on any device.
        fraction: Share of the part, in [0, 1].
        names: The random stream; each class has its own within it.

    Returns:
        Rest and part: sorted int64 host tensors, disjoint, together 0..N-1.

    Raises:
        ValueError: `fraction` is outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction {fraction} is outside [0, 1]")
    host = labels.cpu().numpy()
    counts = np.bincount(host).astype(np.int64)
    chosen = np.zeros(len(host), dtype=bool)
    for label, size in enumerate(allocate(counts, round(fraction * len(host)))):
        members = np.flatnonzero(host == label)
        # Ranks of uniform numbers, not `permutation`: NumPy may change that one's algorithm.
        ranks = np.argsort(numpy_generator(*names, label).random(len(members)), kind="stable")
        chosen[members[ranks[:size]]] = True
    return torch.from_numpy(np.flatnonzero(~chosen)), torch.from_numpy(np.flatnonzero(chosen))


def allocate(counts: Counts, total: int) -> Counts:
    """Divides `total` draws among classes of the given sizes by largest remainder.

    Args:
        counts: (C,) int64 class sizes.
        total: Draws in all, at most the sum of the sizes.

    Returns:
        (C,) int64 draws per class, which add up to `total`.
    """
    everything = int(counts.sum())
    if everything == 0:
        return np.zeros_like(counts)
    draws, remainder = np.divmod(counts * total, everything)
    # Stable: of equal remainders, the lower class wins.
    largest = np.argsort(-remainder, kind="stable")[: total - int(draws.sum())]
    draws[largest] += 1
    least = np.where(counts >= 2, 1, 0)
    most = np.where(counts >= 2, counts - 1, 0)
    if least.sum() > total or most.sum() < total:
        return draws  # too few or too many draws for every class to be on both sides
    quota = np.asarray(counts * (total / everything), dtype=np.float64)
    return _within(draws, quota, least, most)


def _within(draws: Counts, quota: npt.NDArray[np.float64], least: Counts, most: Counts) -> Counts:
    """Moves draws between classes until each is in [least, most], nearest to its quota first."""
    total = int(draws.sum())
    draws = np.clip(draws, least, most)
    while (excess := int(draws.sum()) - total) != 0:
        step = 1 if excess < 0 else -1
        free = draws < most if step > 0 else draws > least
        gain = np.where(free, (quota - draws) * step, -np.inf)
        draws[int(np.argmax(gain))] += step
    return draws
