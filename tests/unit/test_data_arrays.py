"""Arrays: the two storage forms give the same bits, and statistics are exact."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.data.arrays import Arrays
from bench.errors import ConfigError

COUNT, SHAPE = 37, (3, 5, 4)


@pytest.fixture
def images():
    return torch.randint(
        0, 256, (COUNT, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.fixture
def labels():
    return torch.arange(COUNT) % 4


@pytest.fixture
def both(images, labels, tmp_path):
    file = tmp_path / "images.bin"
    file.write_bytes(images.numpy().tobytes())
    flat = torch.from_file(str(file), shared=False, size=images.numel(), dtype=torch.uint8)
    mapped = Arrays(flat.view_as(images), labels, torch.arange(COUNT))
    return Arrays(images, labels), mapped


def test_forms_are_told_apart(both):
    assert [arrays.mapped for arrays in both] == [False, True]
    assert [arrays.shape for arrays in both] == [SHAPE, SHAPE]
    assert [len(arrays) for arrays in both] == [COUNT, COUNT]


def test_take_gathers_in_the_given_order_with_repeats(both, images, labels):
    index = torch.tensor([5, 0, 5, 36])
    for arrays in both:
        got, classes = arrays.take(index)
        assert got.dtype == torch.uint8
        assert torch.equal(got, torch.stack([images[5], images[0], images[5], images[36]]))
        assert torch.equal(classes, labels[index])


def test_subsets_of_subsets_agree_and_mapped_ones_share_the_file(both, images):
    first, second = torch.arange(COUNT - 1, 0, -2), torch.tensor([3, 1, 7])
    for arrays in both:
        part = arrays.subset(first).subset(second)
        assert len(part) == 3
        assert torch.equal(part.take(torch.arange(3))[0], images[first[second]])
        assert torch.equal(part.labels, arrays.labels[first[second]])
    assert part.images.data_ptr() == both[1].images.data_ptr()


def test_joined_ones_follow_each_other_and_mapped_ones_share_the_file(both, images, labels):
    first, second = torch.tensor([4, 0, 9]), torch.tensor([30, 4])
    for arrays in both:
        part = arrays.subset(second).with_labels(torch.tensor([7, 8]))
        whole = arrays.subset(first).joined(part)
        got, classes = whole.take(torch.arange(5))
        assert torch.equal(got, images[torch.cat([first, second])])
        assert classes.tolist() == [*labels[first].tolist(), 7, 8]
    assert whole.images.data_ptr() == both[1].images.data_ptr()


def test_what_lies_in_two_files_is_not_joined(both, tmp_path):
    held, mapped = both
    copy = replace(mapped, images=mapped.images.clone())
    for one, other in ((mapped, copy), (mapped, held), (held, mapped)):
        with pytest.raises(ConfigError, match="--memory-limit"):
            one.joined(other)


def test_with_labels_and_to_keep_the_images(both, images):
    for arrays in both:
        relabelled = arrays.with_labels(torch.full((COUNT,), 9)).to("cpu")
        got, classes = relabelled.take(torch.tensor([2]))
        assert torch.equal(got[0], images[2])
        assert classes.tolist() == [9]
        assert arrays.labels[2] == 2, "the original must stay as it was"


def test_channel_stats_match_numpy_and_do_not_depend_on_pieces(both, images, monkeypatch):
    scaled = images.numpy().astype(np.float64) / 255
    results = [arrays.channel_stats() for arrays in both]
    monkeypatch.setattr("bench.data.arrays.CHUNK_BYTES", 200)
    results += [arrays.channel_stats() for arrays in both]
    assert len(list(both[0].chunks())) == 13  # 60 bytes an image: 3 at a time
    for mean, std in results:
        np.testing.assert_allclose(mean.numpy(), scaled.mean((0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(std.numpy(), scaled.std((0, 2, 3)), rtol=1e-12)
        assert torch.equal(mean, results[0][0])
        assert torch.equal(std, results[0][1])


def test_channel_stats_of_a_subset_see_only_the_subset(both, images):
    index = torch.tensor([4, 9])
    for arrays in both:
        mean, _ = arrays.subset(index).channel_stats()
        expected = images[index].double().mean((0, 2, 3)) / 255
        torch.testing.assert_close(mean, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("images", "labels", "rows", "words"),
    [
        (torch.zeros(2, 1, 2, 2), torch.zeros(2).long(), None, "float32"),
        (torch.zeros(2, 2, 2).byte(), torch.zeros(2).long(), None, "uint8"),
        (torch.zeros(2, 1, 2, 2).byte(), torch.zeros(2), None, "int64"),
        (torch.zeros(2, 1, 2, 2).byte(), torch.zeros(3).long(), None, "2 images have 3 labels"),
        (torch.zeros(9, 1, 2, 2).byte(), torch.zeros(9).long(), torch.arange(4), "4 images"),
    ],
)
def test_contradictions_are_refused(images, labels, rows, words):
    with pytest.raises(ValueError, match=words):
        Arrays(images, labels, rows)


def test_statistics_of_nothing_are_refused():
    empty = Arrays(torch.zeros(0, 1, 2, 2).byte(), torch.zeros(0).long())
    with pytest.raises(ValueError, match="no images"):
        empty.channel_stats()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_both_forms_deliver_the_same_bits_to_a_device(both):
    index = torch.tensor([30, 2, 2])
    expected = both[0].take(index)
    for arrays in both:
        there = arrays.to("cuda")
        assert there.images.is_cuda != there.mapped
        for got, want in zip(there.subset(index).take(torch.arange(3)), expected, strict=True):
            assert got.is_cuda
            assert torch.equal(got.cpu(), want)
        assert torch.equal(there.channel_stats()[1], arrays.channel_stats()[1])
