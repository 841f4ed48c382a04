"""Batches: coverage of an epoch, and exact continuation."""

import pytest
import torch

from bench.data.arrays import Arrays
from bench.data.batches import Batches
from bench.errors import ConfigError, DataError


def numbered(count):
    """Images whose every pixel is the sample's number, labels its negative."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return Arrays(images.contiguous(), -torch.arange(count))


def batches(count=11, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batches(numbered(count), size, generator), generator


def test_a_batch_holds_the_samples_that_its_index_names():
    loader, _ = batches()
    for _ in range(7):
        batch = next(loader)
        assert batch.images.shape == (4, 1, 2, 2)
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.index)
        assert torch.equal(batch.labels, -batch.index)


def test_an_epoch_drops_its_rest_and_repeats_nothing():
    loader, _ = batches()
    assert loader.per_epoch == 2
    epochs = [torch.cat([next(loader).index for _ in range(2)]) for _ in range(5)]
    assert all(len(set(epoch.tolist())) == 8 for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 5, "each epoch has its own order"


def test_a_set_smaller_than_a_batch_is_one_batch():
    loader, _ = batches(count=3, size=64)
    assert loader.batch_size == 3
    assert sorted(next(loader).index.tolist()) == [0, 1, 2]
    assert sorted(next(loader).index.tolist()) == [0, 1, 2]


def test_an_epoch_of_whole_batches_covers_everything():
    loader, _ = batches(count=12, size=4)
    for _ in range(3):
        epoch = torch.cat([next(loader).index for _ in range(3)])
        assert sorted(epoch.tolist()) == list(range(12))


def test_the_first_order_is_the_generators_permutation():
    loader, _ = batches(seed=5)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.cat([next(loader).index, next(loader).index]), order[:8])


def test_creating_an_iterator_draws_nothing():
    loader, generator = batches(seed=3)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(3).get_state())
    assert iter(loader) is loader


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_restoring_continues_bit_for_bit(steps):
    loader, generator = batches()
    for _ in range(steps):
        next(loader)
    state, numbers = loader.state_dict(), generator.get_state()
    expected = [next(loader).index.tolist() for _ in range(6)]
    loader.load_state_dict(state)
    generator.set_state(numbers)
    assert [next(loader).index.tolist() for _ in range(6)] == expected
    other, own = batches(seed=99)
    other.load_state_dict(state)
    own.set_state(numbers)
    assert [next(other).index.tolist() for _ in range(6)] == expected


def test_a_state_of_another_size_is_refused():
    loader, _ = batches(count=11)
    next(loader)
    with pytest.raises(ValueError, match="11 samples"):
        batches(count=12)[0].load_state_dict(loader.state_dict())


def test_impossible_batches_are_refused():
    generator = torch.Generator()
    with pytest.raises(ConfigError, match="batch size 0"):
        Batches(numbered(3), 0, generator)
    with pytest.raises(DataError, match="no samples"):
        Batches(numbered(0), 2, generator)
