"""Loading: names, places, the memory limit and the cache."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from bench.data import cache, sources
from bench.data.sources import fingerprint, known, load
from bench.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("AUGBENCH_DATA", raising=False)
    monkeypatch.delenv("AUGBENCH_CACHE", raising=False)
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def noise_folder(path, count=6, sizes=((9, 9),), seed=0):
    """Two classes of images that are all different."""
    generator = np.random.default_rng(seed)
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            width, height = sizes[i % len(sizes)]
            pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / f"{i}.png")
    return path


def same(one, two):
    """Two sources hold the same images, labels and digest."""
    assert one.digest == two.digest
    assert one.classes == two.classes
    assert one.skipped == two.skipped
    for a, b in ((one.train, two.train), (one.test, two.test)):
        index = torch.randperm(len(a))
        for got, want in zip(a.take(index), b.take(index), strict=True):
            assert torch.equal(got, want)
        for got, want in zip(a.channel_stats(), b.channel_stats(), strict=True):
            assert torch.equal(got, want)


def sentence(caught, *words):
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message
    for word in words:
        assert word in message, (word, message)


def drafts(folder):
    return [p for p in folder.iterdir() if p.name.endswith(".tmp")]


def test_digits_are_scaled_and_split_once_and_for_all():
    source = load("digits")
    assert (source.name, source.flip, source.val, source.val_fraction) == (
        "digits",
        False,
        None,
        0.2,
    )
    assert source.classes == tuple("0123456789")
    assert source.train.shape == (1, 8, 8)
    assert (len(source.train), len(source.test)) == (1438, 359)
    data = load_digits()
    exact = np.rint(data.images * 255 / 16).astype(np.uint8)
    found = torch.cat([source.train.images, source.test.images])[:, 0].numpy()
    assert sorted(map(bytes, found)) == sorted(map(bytes, exact))
    shares = source.test.labels.bincount() / torch.from_numpy(np.bincount(data.target))
    assert ((shares > 0.19) & (shares < 0.21)).all()
    # Pinned: another value would change every digits record.
    assert source.digest == "1c6f678bb656a4df"


def test_any_source_can_be_resized():
    source = load("digits", size=5)
    assert source.train.shape == (1, 5, 5)
    assert load("digits", size=8).digest == load("digits").digest != source.digest


def test_digests_tell_pixels_and_labels_apart(root):
    top = noise_folder(root / "pets")
    first = load("folder:pets", root=root)
    assert load("folder:pets", root=root).digest == first.digest
    (top / "cat" / "0.png").rename(top / "cat" / "x.png")
    (top / "dog" / "0.png").rename(top / "cat" / "0.png")
    (top / "cat" / "x.png").rename(top / "dog" / "0.png")
    assert load("folder:pets", root=root).digest != first.digest


def test_a_path_is_looked_for_here_then_in_the_root(root, tmp_path, monkeypatch):
    noise_folder(root / "pets", count=5)
    assert len(load("folder:pets", root=root).train) == 8
    monkeypatch.setenv("AUGBENCH_DATA", str(root))
    assert len(load("folder:pets").train) == 8
    noise_folder(tmp_path / "pets", count=10)
    assert len(load("folder:pets").train) == 16
    monkeypatch.setenv("HOME", str(root))
    assert len(load("folder:~/pets").train) == 8
    monkeypatch.chdir(tmp_path / "pets")
    assert load("folder:.").name == "folder:pets"


def test_a_missing_path_names_both_places(root, tmp_path):
    for spec in ("folder:birds", "parquet:birds"):
        for attempt in (load, fingerprint):
            with pytest.raises(DataError) as caught:
                attempt(spec, root=root)
            sentence(caught, repr(spec), f"'{tmp_path / 'birds'}'", f"'{root / 'birds'}'")


@pytest.mark.parametrize("spec", ["cifar", "", "folder", "folder:", "zip:x", "digits:x", "DIGITS"])
def test_unknown_sources_name_the_known_ones(spec):
    for attempt in (load, fingerprint):
        with pytest.raises(ConfigError) as caught:
            attempt(spec)
        sentence(caught, repr(spec), "digits, cifar10", "folder:PATH, parquet:PATH")


def test_a_negative_memory_limit_is_refused():
    with pytest.raises(ConfigError) as caught:
        load("digits", memory_limit=-1)
    sentence(caught, "-1")


def test_known_sources_have_a_line_each():
    names = "digits cifar10 cifar100 svhn mnist fashion-mnist imagenet folder:PATH parquet:PATH"
    assert list(known()) == names.split()
    assert all(text and "\n" not in text for text in known().values())


def test_named_fingerprints_differ_and_need_no_data():
    names = [name for name in known() if ":" not in name]
    assert len({fingerprint(name) for name in names}) == len(names)
    assert fingerprint("digits") == fingerprint("digits", Path("elsewhere"))


@pytest.mark.parametrize("size", [None, 7])
@pytest.mark.parametrize("sizes", [((9, 9),), ((12, 9), (10, 20), (11, 11))])
def test_above_the_limit_everything_is_the_same_but_mapped(root, size, sizes):
    noise_folder(root / "pets", count=10, sizes=sizes)
    plain = load("folder:pets", root=root, size=size)
    needed = 20 * plain.train.images[0].numel()
    fits = load("folder:pets", root=root, size=size, memory_limit=needed)
    assert not fits.train.mapped
    assert not (root / ".augbench-cache").exists()
    mapped = load("folder:pets", root=root, size=size, memory_limit=needed - 1)
    assert mapped.train.mapped
    assert mapped.test.mapped
    same(mapped, plain)
    same(fits, plain)
    again = load("folder:pets", root=root, size=size, memory_limit=0)
    same(again, plain)
    assert len(list((root / ".augbench-cache").iterdir())) == 1
    assert drafts(root / ".augbench-cache") == []


def test_arrays_in_memory_can_be_mapped_too(tmp_path, monkeypatch):
    monkeypatch.setenv("AUGBENCH_CACHE", str(tmp_path / "elsewhere"))
    mapped = load("digits", memory_limit=1000)
    assert mapped.train.mapped
    same(mapped, load("digits", memory_limit=10**6))
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] != []


def test_a_cache_is_built_once_and_used_below_the_limit_too(root, monkeypatch):
    noise_folder(root / "pets")
    plain = load("folder:pets", root=root)
    calls = []
    first = load(
        "folder:pets", root=root, memory_limit=0, progress=lambda *call: calls.append(call)
    )
    assert calls[-2:] == [("decode train", 10, 10), ("decode test", 2, 2)]

    def never(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr("bench.data.build.decode", never)
    same(load("folder:pets", root=root, memory_limit=0), first)
    in_memory = load("folder:pets", root=root)
    assert not in_memory.train.mapped
    same(in_memory, plain)


def test_writing_to_mapped_images_does_not_reach_the_cache(root):
    noise_folder(root / "pets")
    first = load("folder:pets", root=root, memory_limit=0)
    before = first.train.images[0].clone()
    first.train.images[0] += 1
    second = load("folder:pets", root=root, memory_limit=0)
    assert torch.equal(second.train.images[0], before)


def test_the_cache_follows_its_files_size_and_format(root, monkeypatch):
    noise_folder(root / "pets", count=5)
    first = load("folder:pets", root=root, memory_limit=0)
    assert load("folder:pets", root=root, memory_limit=0, size=6).train.shape == (3, 6, 6)
    path = root / "pets" / "cat" / "0.png"
    size = path.stat().st_size
    pixels = np.random.default_rng(9).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    assert path.stat().st_size == size, "the test needs a file of equal size"
    second = load("folder:pets", root=root, memory_limit=0)
    assert second.digest != first.digest
    assert len(list((root / ".augbench-cache").iterdir())) == 3
    monkeypatch.setattr(cache, "FORMAT", 99)
    load("folder:pets", root=root, memory_limit=0)
    assert len(list((root / ".augbench-cache").iterdir())) == 4


def test_an_interrupted_build_leaves_nothing_and_is_repeated(root):
    noise_folder(root / "pets")

    def interrupt(phase, done, total):
        if phase == "decode test":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load("folder:pets", root=root, memory_limit=0, progress=interrupt)
    assert list((root / ".augbench-cache").iterdir()) == []
    same(load("folder:pets", root=root, memory_limit=0), load("folder:pets", root=root))


@pytest.mark.parametrize("damage", ["short", "missing", "no meta", "torn meta", "empty"])
def test_a_half_built_cache_is_never_used(root, damage):
    noise_folder(root / "pets")
    plain = load("folder:pets", root=root)
    load("folder:pets", root=root, memory_limit=0)
    (place,) = (root / ".augbench-cache").iterdir()
    if damage == "short":
        (place / "train.bin").write_bytes((place / "train.bin").read_bytes()[:-1])
    elif damage == "missing":
        (place / "test.bin").unlink()
    elif damage == "no meta":
        (place / "meta.json").unlink()
    elif damage == "torn meta":
        (place / "meta.json").write_text((place / "meta.json").read_text()[:20])
    else:
        shutil.rmtree(place)
        place.mkdir()
    mapped = load("folder:pets", root=root, memory_limit=0)
    assert mapped.train.mapped
    same(mapped, plain)


def test_a_cache_appears_by_renaming_never_by_copying(root, monkeypatch):
    noise_folder(root / "pets")
    publish, nodes = cache._publish, []

    def spy(draft, folder):
        nodes.append((draft / "meta.json").stat().st_ino)
        assert not folder.exists()
        publish(draft, folder)

    monkeypatch.setattr(cache, "_publish", spy)
    load("folder:pets", root=root, memory_limit=0)
    (meta,) = (root / ".augbench-cache").glob("*/meta.json")
    assert nodes == [meta.stat().st_ino]


def test_two_builders_agree(root, monkeypatch):
    """The slower one finds the other's cache in place, and leaves it."""
    noise_folder(root / "pets")
    write = cache._write

    def slow(draft, listing, frame, progress):
        write(draft, listing, frame, progress)
        monkeypatch.setattr(cache, "_write", write)
        cache.build(draft.parent / draft.name.split(".")[0], listing, frame, progress)

    monkeypatch.setattr(cache, "_write", slow)
    same(load("folder:pets", root=root, memory_limit=0), load("folder:pets", root=root))
    assert drafts(root / ".augbench-cache") == []


def test_corrupt_images_are_known_to_the_cache(root):
    noise_folder(root / "pets")
    (root / "pets" / "cat" / "bad.png").write_bytes(b"bad")
    with pytest.raises(DataError) as caught:
        load("folder:pets", root=root, memory_limit=0)
    sentence(caught, "1 image cannot be read", "'cat/bad.png'", "--skip-corrupt")
    skipped = load("folder:pets", root=root, memory_limit=0, skip_corrupt=True)
    assert skipped.skipped == ("cat/bad.png",)
    assert skipped.train.mapped
    with pytest.raises(DataError):
        load("folder:pets", root=root, memory_limit=0)
    shutil.rmtree(root / ".augbench-cache")
    same(skipped, load("folder:pets", root=root, skip_corrupt=True))


def test_a_cache_that_cannot_be_written_says_where_to_put_it(root, tmp_path, monkeypatch):
    noise_folder(root / "pets")
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUGBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError) as caught:
        load("folder:pets", root=root, memory_limit=0)
    sentence(caught, f"'{tmp_path / 'file'}'", "AUGBENCH_CACHE")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("AUGBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(DataError) as caught:
        load("folder:pets", root=root, memory_limit=0)
    sentence(caught, "no space left on device", "AUGBENCH_CACHE")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_meta_file_holds_no_machine_path(root):
    noise_folder(root / "pets")
    load("folder:pets", root=root, memory_limit=0)
    (meta,) = (root / ".augbench-cache").glob("*/meta.json")
    assert str(root) not in meta.read_text()
    assert json.loads(meta.read_text())["frame"] == [3, 9, 9]


def test_chunks_do_not_change_the_result(root, monkeypatch):
    noise_folder(root / "pets", count=15)
    (root / "pets" / "cat" / "3.png").write_bytes(b"bad")
    plain = load("folder:pets", root=root, skip_corrupt=True)
    monkeypatch.setattr("bench.data.build._CHUNK", 4)
    monkeypatch.setattr("bench.data.cache._CHUNK", 100)
    same(load("folder:pets", root=root, skip_corrupt=True), plain)
    same(load("folder:pets", root=root, skip_corrupt=True, memory_limit=0), plain)


def test_defaults_are_the_documented_ones():
    assert sources.MEMORY_LIMIT == 4 * 2**30
    assert sources._root(None) == Path("data")
