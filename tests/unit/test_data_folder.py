"""Image folders: layouts, sizes, corrupt files, and the sentences about what is wrong."""

import os

import numpy as np
import pytest
from PIL import Image

from bench.data import folder
from bench.data.sources import fingerprint, load
from bench.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("AUGBENCH_DATA", raising=False)
    monkeypatch.delenv("AUGBENCH_CACHE", raising=False)


def put(path, shade=0, size=(8, 8), mode="RGB"):
    """Writes an image of one shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, shade if mode == "L" else (shade,) * 3).save(path)


def fill(top, classes=("cat", "dog"), count=5, first=0, **options):
    """Class folders whose images' shades are first, first + 1, ..."""
    for number, name in enumerate(classes):
        for i in range(count):
            put(top / name / f"{i}.png", first + number * count + i, **options)


def fails(path, *words, kind=DataError, **options):
    with pytest.raises(kind) as caught:
        load(f"folder:{path}", root=path.parent, **options)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message
    for word in words:
        assert word in message, (word, message)


def shades(arrays):
    return arrays.images[:, 0, 0, 0].tolist()


def test_class_folders_get_a_fixed_stratified_test_set(tmp_path):
    fill(tmp_path / "pets", count=10)
    source = load(f"folder:{tmp_path / 'pets'}")
    assert source.name == "folder:pets"
    assert source.classes == ("cat", "dog")
    assert source.flip is True
    assert source.val is None
    assert source.val_fraction == 0.2
    assert source.skipped == ()
    assert source.test.labels.bincount().tolist() == [2, 2]
    assert source.train.labels.bincount().tolist() == [8, 8]
    assert sorted(shades(source.train) + shades(source.test)) == list(range(20))
    for arrays in (source.train, source.test):
        assert [shade // 10 for shade in shades(arrays)] == arrays.labels.tolist()
    assert shades(load(f"folder:{tmp_path / 'pets'}").test) == shades(source.test)


def test_a_tiny_folder_still_tests_every_class(tmp_path):
    fill(tmp_path / "pets", classes="abc", count=2)
    source = load(f"folder:{tmp_path / 'pets'}")
    assert source.test.labels.tolist() == [0, 1, 2]
    assert source.train.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders_are_taken_as_they_are(tmp_path, val):
    fill(tmp_path / "train", count=4)
    fill(tmp_path / "test", count=2, first=100)
    fill(tmp_path / val, classes=["dog"], count=3, first=200)
    (tmp_path / "extra").mkdir()
    source = load(f"folder:{tmp_path}")
    assert shades(source.train) == list(range(8))
    assert shades(source.test) == [100, 101, 102, 103]
    assert shades(source.val) == [200, 201, 202]
    assert source.val.labels.tolist() == [1, 1, 1]


def test_without_test_folder_a_fifth_of_train_is_held_out(tmp_path):
    fill(tmp_path / "train", count=5)
    fill(tmp_path / "val", count=1, first=100)
    source = load(f"folder:{tmp_path}")
    assert [len(part) for part in (source.train, source.test, source.val)] == [8, 2, 2]


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path / "vehicles", classes=["bus", "train"])
    assert load(f"folder:{tmp_path / 'vehicles'}").classes == ("bus", "train")


def test_junk_is_ignored_and_nested_images_are_found(tmp_path):
    fill(tmp_path / "pets")
    put(tmp_path / "pets" / "cat" / "more" / "deep.JPG", 200)
    for junk in ("cat/notes.txt", "cat/.DS_Store", "cat/Thumbs.db", "cat/._0.png", "labels.csv"):
        (tmp_path / "pets" / junk).write_bytes(b"junk")
    fill(tmp_path / "pets", classes=[".hidden", "__MACOSX", "dog/.cache"])
    source = load(f"folder:{tmp_path / 'pets'}")
    assert source.classes == ("cat", "dog")
    assert len(source.train) + len(source.test) == 11


def test_order_is_that_of_the_names(tmp_path):
    for name in ("10", "9", "a", "B"):
        put(tmp_path / "train" / "x" / f"{name}.png")
        put(tmp_path / "train" / "y" / f"{name}.png")
    found = folder.scan(tmp_path, "folder:it")["train"]
    assert [f.name for f in found[:4]] == [f"train/x/{n}.png" for n in ("10", "9", "B", "a")]


def test_all_gray_is_one_channel_and_one_colour_image_makes_three(tmp_path):
    fill(tmp_path / "pets", mode="L")
    assert load(f"folder:{tmp_path / 'pets'}").train.shape == (1, 8, 8)
    put(tmp_path / "pets" / "dog" / "z.png", 7, mode="RGB")
    assert load(f"folder:{tmp_path / 'pets'}").train.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("sizes", "asked", "expected"),
    [
        ([(20, 20)], None, (20, 20)),
        ([(30, 20)], None, (20, 20)),  # the shared shorter side
        ([(30, 20)], 16, (16, 16)),
        ([(300, 257)], None, (64, 64)),  # shared, but a camera's
        ([(256, 256)], None, (256, 256)),
        ([(90, 70), (80, 100)], None, (64, 64)),
        ([(20, 30), (24, 50), (99, 28)], None, (24, 24)),
        ([(90, 70), (80, 100)], 10, (10, 10)),
    ],
)
def test_sizes(tmp_path, sizes, asked, expected):
    for i in range(3 * len(sizes)):
        for name in "ab":
            put(tmp_path / "set" / name / f"{i}.png", i, sizes[i % len(sizes)])
    assert load(f"folder:{tmp_path / 'set'}", size=asked).train.shape[1:] == expected


def corrupt(top):
    """Five kinds of damage among good images."""
    fill(top, count=10)
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(top / "cat" / "torn.png")
    whole = (top / "cat" / "torn.png").read_bytes()
    (top / "cat" / "torn.png").write_bytes(whole[:-60])
    (top / "cat" / "empty.jpg").touch()
    (top / "dog" / "page.png").write_text("<html>not found</html>")
    (top / "dog" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")


def test_corrupt_files_are_named_counted_and_the_option_given(tmp_path):
    corrupt(tmp_path / "pets")
    fails(
        tmp_path / "pets",
        "folder:pets: 4 images cannot be read",
        "'dog/page.png' (not an image that Pillow can read), 'dog/phone.heic' (",
        ", …; mend or remove them",
        "--skip-corrupt",
    )
    for name in ("empty.jpg", "torn.png"):
        (tmp_path / "pets" / "cat" / name).unlink()
    (tmp_path / "pets" / "dog" / "phone.heic").unlink()
    fails(tmp_path / "pets", "1 image cannot", "'dog/page.png'", "remove it")


def test_corrupt_files_can_be_skipped_and_are_listed(tmp_path):
    corrupt(tmp_path / "pets")
    source = load(f"folder:{tmp_path / 'pets'}", skip_corrupt=True)
    wrong = {"cat/empty.jpg", "cat/torn.png", "dog/page.png", "dog/phone.heic"}
    assert set(source.skipped) == wrong
    assert len(source.skipped) == 4
    assert sorted(shades(source.train) + shades(source.test)) == list(range(20))
    for arrays in (source.train, source.test):
        assert [shade // 10 for shade in shades(arrays)] == arrays.labels.tolist()


def test_nothing_readable_at_all(tmp_path):
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (tmp_path / "bad" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bad" / name).touch()
    fails(tmp_path / "bad", "4 images cannot be read")
    fails(tmp_path / "bad", "4 images cannot be read", skip_corrupt=True)


def test_skipping_must_leave_every_class_something(tmp_path):
    fill(tmp_path / "train", count=2)
    fill(tmp_path / "test", count=1)
    (tmp_path / "test" / "dog" / "0.png").write_bytes(b"")
    fails(tmp_path, "class 'dog' has no test images without the 1 unreadable", skip_corrupt=True)


def test_bombs_are_refused_in_one_sentence(tmp_path, monkeypatch):
    fill(tmp_path / "pets")
    put(tmp_path / "pets" / "cat" / "bomb.png", size=(40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    fails(tmp_path / "pets", "'cat/bomb.png' (1600 pixels are over Pillow's limit of 1000)")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    fails(tmp_path / "pets", "'cat/bomb.png' (", "1600 pixels", "limit of 200")


def test_wrong_layouts_are_one_sentence_each(tmp_path):
    fails(tmp_path / "absent", "'folder:", "nothing at", str(tmp_path / "absent"))
    (tmp_path / "file").touch()
    fails(tmp_path / "file", "is a file", "subfolder")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "folder:empty", "no class folders")
    put(tmp_path / "loose" / "0.png")
    fails(tmp_path / "loose", "folder:loose", "no class folders")
    fill(tmp_path / "one", classes=["cat"])
    fails(tmp_path / "one", "folder:one has 1 class, 'cat'", "two")
    fill(tmp_path / "hole")
    (tmp_path / "hole" / "emu").mkdir()
    fails(tmp_path / "hole", "class folder 'emu'", "no images")
    fill(tmp_path / "few", classes=["cat", "dog"])
    put(tmp_path / "few" / "emu" / "0.png")
    fails(tmp_path / "few", "class 'emu' has one image")


def test_wrong_splits_are_one_sentence_each(tmp_path):
    fill(tmp_path / "new" / "train")
    fill(tmp_path / "new" / "test", classes=["cat", "dog", "emu"])
    fails(tmp_path / "new", "class 'emu' of 'test' has no training images")
    fill(tmp_path / "less" / "train", classes=["cat", "dog", "emu"])
    fill(tmp_path / "less" / "test", classes=["cat", "emu"])
    fails(tmp_path / "less", "class 'dog' has no test images")
    fill(tmp_path / "two" / "train")
    fill(tmp_path / "two" / "val")
    fill(tmp_path / "two" / "valid")
    fails(tmp_path / "two", "both 'val' and 'valid'")
    fill(tmp_path / "flat" / "train")
    put(tmp_path / "flat" / "test" / "0.png")
    fails(tmp_path / "flat", "folder:flat: 'test' holds no class folders")
    put(tmp_path / "kaggle" / "train" / "0.png")
    put(tmp_path / "kaggle" / "test" / "0.png")
    fails(tmp_path / "kaggle", "folder:kaggle: 'train' holds no class folders")
    fill(tmp_path / "late" / "test")
    fill(tmp_path / "late" / "val")
    fails(tmp_path / "late", "folder:late has 'test' and 'val', but no 'train'")


def test_denied_access_is_one_sentence(tmp_path, monkeypatch):
    fill(tmp_path / "pets")

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(folder, "_folders", denied)
    fails(tmp_path / "pets", "pets' cannot be read (permission denied)")


@pytest.mark.parametrize("size", [0, -3, 5000])
def test_impossible_sizes(tmp_path, size):
    fails(tmp_path, f"image size {size}", kind=ConfigError, size=size)


def test_fingerprints_know_names_and_sizes_but_no_place(tmp_path):
    for place in ("here", "there"):
        fill(tmp_path / place / "pets")
    marks = [fingerprint(f"folder:{tmp_path / p / 'pets'}") for p in ("here", "there")]
    assert marks[0] == marks[1]
    assert len(marks[0]) == 16
    os.utime(tmp_path / "here" / "pets" / "cat" / "0.png", (1, 1))
    (tmp_path / "here" / "pets" / "notes.txt").touch()
    assert fingerprint(f"folder:{tmp_path / 'here' / 'pets'}") == marks[0]
    with open(tmp_path / "here" / "pets" / "cat" / "0.png", "ab") as file:
        file.write(b"\0")
    assert fingerprint(f"folder:{tmp_path / 'here' / 'pets'}") != marks[0]
    (tmp_path / "there" / "pets" / "cat" / "0.png").rename(tmp_path / "there/pets/cat/00.png")
    assert fingerprint(f"folder:{tmp_path / 'there' / 'pets'}") != marks[0]
