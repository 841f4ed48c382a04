"""The picture of a policy: which images, which words, what a run's picture shows."""

from pathlib import Path

import numpy as np
import pytest
import torch

import baselines
import methods
from bench import preview
from bench.augment.augmix import AugMix
from bench.augment.choice import randaugment
from bench.augment.per_point import WARPS, PerPoint
from bench.augment.policy import Identity, Policy
from bench.augment.spaces import space
from bench.data.arrays import Arrays
from bench.data.sources import load
from bench.errors import ConfigError, RecordError
from bench.plugins import discover, select
from bench.preview import TILE, Subject, cells, of_method, of_run, picture
from bench.record import Record, find_record, is_run, read_record
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (40, 3, 16, 16), dtype=np.uint8))
    return Arrays(pixels, torch.arange(40) // 10)


def subject(policy: object, arrays: Arrays) -> Subject:
    return Subject(policy, arrays, ("ant", "bee", "cat", "dog"), "a title")  # type: ignore[arg-type]


def test_originals_of_all_classes_stand_first(arrays: Arrays) -> None:
    table = cells(subject(Identity(), arrays), rows=4, draws=2, seed=0)
    assert {line[0].words for line in table} == {("ant",), ("bee",), ("cat",), ("dog",)}
    for line in table:
        assert len(line) == 3
        for cell in line[1:]:
            np.testing.assert_array_equal(cell.pixels, line[0].pixels)


def test_each_draw_is_another_and_says_what_it_did(arrays: Arrays) -> None:
    policy = randaugment(space("randaugment"), 2, 20)
    table = cells(subject(policy, arrays), rows=3, draws=5, seed=1)
    words = {cell.words for line in table for cell in line[1:]}
    assert len(words) > 5
    labels = {entry.label for entry in policy.space.entries}
    assert {word.split()[0] for each in words for word in each} <= labels
    again = cells(subject(policy, arrays), rows=3, draws=5, seed=1)
    assert all(
        np.array_equal(a.pixels, b.pixels)
        for one, two in zip(table, again, strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_views_are_shown_where_there_are_any(arrays: Arrays) -> None:
    table = cells(subject(AugMix(space("augmix")), arrays), rows=2, draws=2, seed=0)
    changed = [not np.array_equal(c.pixels, line[0].pixels) for line in table for c in line[1:]]
    assert any(changed)


def test_the_picture_holds_the_tiles(arrays: Arrays) -> None:
    table = cells(subject(Identity(), arrays), rows=2, draws=1, seed=0)
    image = np.array(picture(table, "a title"))
    left, top = preview.MARGIN, preview.MARGIN + 28
    tile = image[top : top + TILE, left : left + TILE]
    np.testing.assert_array_equal(tile[:: TILE // 16, :: TILE // 16], table[0][0].pixels)


def test_grey_images_are_drawn(arrays: Arrays) -> None:
    grey = Arrays(arrays.images[:, :1].contiguous(), arrays.labels)
    assert picture(cells(subject(Identity(), grey), 2, 2, 0), "").mode == "RGB"


def test_of_a_method_before_training() -> None:
    folders = [Path(package.__path__[0]) for package in (methods, baselines)]
    shown = of_method(select(discover(folders), "randaugment[n=1]"), load("digits"))
    assert shown.title == "randaugment[n=1] on digits"
    assert shown.policy.describe()["of"][0]["ops"] == 1


def test_of_a_method_with_parameters_for_each_image() -> None:
    folders = [Path(package.__path__[0]) for package in (methods, baselines)]
    shown = of_method(select(discover(folders), "autodo"), load("digits"))
    assert len(cells(shown, rows=30, draws=2, seed=0)) == 30


def distorted_run(policy: Policy) -> Record:
    """A recorded run on distorted data, as if it had ended with a policy."""
    paths = sorted((ROOT / "results" / "quick" / "runs").glob("*.json"))
    record = next(found for path in paths if (found := read_record(path)).task.distort != "clean")
    return record.model_copy(update={"policy": policy.describe()})


def test_of_a_run_that_ended_with_warps() -> None:
    """The picture shows images of the run's own training set."""
    record = distorted_run(PerPoint(gates=1.0))
    shown = of_run(record, lambda data, size: load(data, size=size))
    assert len(shown.arrays) == sum(record.task.train_counts)
    table = cells(shown, rows=10, draws=3, seed=0)
    assert len(table) == 10
    made = [(line[0].pixels, cell) for line in table for cell in line[1:]]
    assert all(cell.pixels.dtype == np.uint8 for _, cell in made)
    assert any(not np.array_equal(original, cell.pixels) for original, cell in made)
    words = {word.split()[0] for _, cell in made for word in cell.words}
    assert words - {"–"} == set(WARPS)


def test_warps_of_each_image_are_shown_with_its_row(arrays: Arrays) -> None:
    gates = torch.full((40, 7), -80.0)
    gates[:20, 0] = 80.0  # only the first two classes are turned
    policy = PerPoint(40, gates=gates)
    for line in cells(subject(policy, arrays), rows=8, draws=3, seed=0):
        words = {cell.words[0].split()[0] for cell in line[1:]}
        assert words == ({"rotate"} if line[0].words[0] in ("ant", "bee") else {"–"})


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path: Path, arrays: Arrays) -> None:
    (tmp_path / "file").write_text("")
    image = picture(cells(subject(Identity(), arrays), 1, 1, 0), "")
    with pytest.raises(ConfigError, match="--output"):
        preview.save(image, tmp_path / "file" / "picture.png")


def test_records_are_found_by_path_or_by_the_start_of_their_hash() -> None:
    results = ROOT / "results"
    path = sorted((results / "quick" / "runs").glob("*.json"))[0]
    assert find_record(results, str(path)).hash == path.stem
    assert find_record(results, path.stem[:10]).hash == path.stem
    with pytest.raises(RecordError, match="no record below"):
        find_record(results, "0123456789abcdef0")


@pytest.mark.parametrize(
    ("text", "run"),
    [("gar", False), ("08d22e4e", True), ("a/b.json", True), ("standard[x=1]", False)],
)
def test_what_looks_like_a_run(text: str, run: bool) -> None:
    assert is_run(text) is run
