"""Batches of the data layer as batches of the augmentation layer."""

from typing import Any

from bench.augment.policy import Batch
from bench.data.batches import Batches


class BatchIterator:
    """Endless batches, in an order whose state can be taken and put back.

    Args:
        batches: Where they come from.
    """

    def __init__(self, batches: Batches) -> None:
        self._source = batches

    def __iter__(self) -> "BatchIterator":
        """This very iterator."""
        return self

    def __next__(self) -> Batch:
        """The next batch."""
        batch = next(self._source)
        return Batch(batch.images, batch.labels, batch.index)

    def state_dict(self) -> Any:
        """Permutation and position."""
        return self._source.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Continues from `state`."""
        self._source.load_state_dict(state)
