"""Endless shuffled batches of an `Arrays`."""

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from bench.data.arrays import Arrays
from bench.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Some samples.

    Attributes:
        images: (B, C, H, W) uint8 on the device.
        labels: (B,) int64 on the device.
        index: (B,) int64 on the host: which samples these are.
    """

    images: Tensor
    labels: Tensor
    index: Tensor


class BatchesState(TypedDict):
    """Where an iteration stands: the epoch's order and the samples of it already given out."""

    order: Tensor
    position: int


class Batches:
    """Infinite iterator of equally large batches, reshuffled every epoch.

    The last, incomplete batch of an epoch is dropped.  An epoch's order is drawn when its first
    batch is asked for, so that creating or restoring an iterator consumes no random numbers.

    Args:
        arrays: What to iterate over.
        batch_size: Wanted size; a smaller set gives batches of its own size.
        generator: Host generator of the orders.  The caller owns it and its state: to repeat an
            iteration, restore both this object's state and the generator's.

    Raises:
        ConfigError: The batch size is below 1.
        DataError: There are no samples.
    """

    def __init__(self, arrays: Arrays, batch_size: int, generator: torch.Generator) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size} must be at least 1.")
        if len(arrays) == 0:
            raise DataError("there are no samples to make batches of.")
        self.batch_size = min(batch_size, len(arrays))
        self._arrays = arrays
        self._generator = generator
        self._order = torch.empty(0, dtype=torch.int64)
        self._position = 0

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._arrays) // self.batch_size

    def __iter__(self) -> "Batches":
        """This very iterator."""
        return self

    def __next__(self) -> Batch:
        """The next batch."""
        if self._position + self.batch_size > len(self._order):
            self._order = torch.randperm(len(self._arrays), generator=self._generator)
            self._position = 0
        index = self._order[self._position : self._position + self.batch_size]
        self._position += self.batch_size
        return Batch(*self._arrays.take(index), index)

    def state_dict(self) -> BatchesState:
        """Order and position; the generator's state is the caller's to keep."""
        return {"order": self._order.clone(), "position": self._position}

    def load_state_dict(self, state: BatchesState) -> None:
        """Continues from `state`, bit for bit once the caller has put the generator back too.

        Raises:
            ValueError: The state belongs to a set of another size.
        """
        order, position = state["order"], state["position"]
        if len(order) not in (0, len(self._arrays)) or not 0 <= position <= len(order):
            raise ValueError(
                f"a state of {len(order)} samples at {position} does not fit {len(self._arrays)}"
            )
        self._order, self._position = order.clone(), position
