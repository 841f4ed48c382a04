"""Parquet image files: layouts, columns, labels, and the sentences about what is wrong."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bench.data.sources import fingerprint, load
from bench.errors import DataError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("AUGBENCH_CACHE", str(tmp_path / "cache"))


def png(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def images(shades):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": png(s), "path": f"{s}.png"} for s in shades], type=kind)


def write(path, shades, labels, names=None, image="img", label="label", **more):
    """Writes one file; `names` go into the hub's metadata."""
    table = pa.table({image: images(shades), label: labels, **more})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return path


def fails(path, *words):
    with pytest.raises(DataError) as caught:
        load(f"parquet:{path}")
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message
    for word in words:
        assert word in message, (word, message)


def shades(arrays):
    return arrays.images[:, 0, 0, 0].tolist()


def test_splits_by_file_name_and_names_from_metadata(tmp_path):
    top = tmp_path / "set"
    write(top / "train-00001-of-00002.parquet", range(4, 8), [1, 0, 1, 0], ["cat", "dog"])
    write(top / "train-00000-of-00002.parquet", range(4), [0, 1, 0, 1], ["cat", "dog"])
    write(top / "test-00000-of-00001.parquet", [50, 51], [1, 0], ["cat", "dog"])
    write(top / "validation-00000-of-00001.parquet", [90], [1], ["cat", "dog"])
    source = load(f"parquet:{top}")
    assert source.name == "parquet:set"
    assert source.classes == ("cat", "dog")
    assert shades(source.train) == list(range(8))
    assert source.train.labels.tolist() == [0, 1, 0, 1, 1, 0, 1, 0]
    assert shades(source.test) == [50, 51]
    assert source.test.labels.tolist() == [1, 0]
    assert shades(source.val) == [90]
    assert source.train.shape == (3, 6, 6)


def test_many_batches_and_row_groups_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.data.parquet._BATCH", 4)
    write(tmp_path / "train-0.parquet", range(40), [i % 2 for i in range(40)])
    write(tmp_path / "train-1.parquet", range(40, 50), [i % 2 for i in range(10)])
    source = load(f"parquet:{tmp_path}")
    assert len(source.test) == 10
    assert shades(source.test) == sorted(shades(source.test))
    assert sorted(shades(source.train) + shades(source.test)) == list(range(50))
    for arrays in (source.train, source.test):
        assert [shade % 2 for shade in shades(arrays)] == arrays.labels.tolist()


def test_one_file_gets_a_fixed_test_set(tmp_path):
    file = write(tmp_path / "birds.parquet", range(10), ["tit", "owl"] * 5)
    source = load(f"parquet:{file}")
    assert source.name == "parquet:birds.parquet"
    assert source.classes == ("owl", "tit")
    assert len(source.test) == 2
    for arrays in (source.train, source.test):
        assert [1 - shade % 2 for shade in shades(arrays)] == arrays.labels.tolist()


def test_integers_without_names_are_renumbered(tmp_path):
    write(tmp_path / "train.parquet", range(6), [30, 7, 30, 7, 30, 7])
    write(tmp_path / "test.parquet", range(2), [7, 30])
    source = load(f"parquet:{tmp_path}")
    assert source.classes == ("7", "30")
    assert source.train.labels.tolist() == [1, 0] * 3
    assert source.test.labels.tolist() == [0, 1]


def test_dictionary_encoded_strings_are_labels(tmp_path):
    labels = pa.array(["b", "a"] * 3).dictionary_encode()
    file = write(tmp_path / "x.parquet", range(6), labels)
    assert load(f"parquet:{file}").classes == ("a", "b")


def test_files_may_lie_in_one_subfolder(tmp_path):
    write(tmp_path / "set" / "data" / "train-0.parquet", range(6), [0, 1] * 3)
    assert len(load(f"parquet:{tmp_path / 'set'}").train) == 4
    write(tmp_path / "set" / "other" / "train-0.parquet", range(6), [0, 1] * 3)
    fails(tmp_path / "set", "data and other", "name one")


def test_label_column_by_metadata_then_name(tmp_path):
    file = write(
        tmp_path / "a.parquet", range(6), [0, 1] * 3, ["x", "y"], label="what", id=range(6)
    )
    assert load(f"parquet:{file}").classes == ("x", "y")
    file = write(tmp_path / "b.parquet", range(6), [0, 1] * 3, id=range(6))
    assert load(f"parquet:{file}").classes == ("0", "1")
    file = write(tmp_path / "c.parquet", range(6), [0, 1] * 3, label="kind", id=range(6))
    fails(file, "'c.parquet'", "2 columns that could be the label (kind, id)")


def test_columns_that_are_missing_or_ambiguous(tmp_path):
    pq.write_table(pa.table({"label": [0, 1]}), tmp_path / "a.parquet")
    fails(tmp_path / "a.parquet", "'a.parquet' has no image column")
    pq.write_table(pa.table({"img": images([1, 2])}), tmp_path / "b.parquet")
    fails(tmp_path / "b.parquet", "'b.parquet' has no label column")
    write(tmp_path / "c.parquet", [1, 2], [0, 1], mask=images([1, 2]))
    fails(tmp_path / "c.parquet", "2 columns that could be the image (img, mask)")


def test_unusable_labels(tmp_path):
    fails(
        write(tmp_path / "a.parquet", [1, 2, 3], [0, None, 1]), "1 of 3 labels", "'label'", "null"
    )
    fails(write(tmp_path / "b.parquet", [1, 2, 3], [0, -1, -1]), "2 of 3 labels", "negative")
    fails(write(tmp_path / "c.parquet", [1, 2, 3], [0, 1, 2], ["x", "y"]), "class '2'", "no name")
    fails(write(tmp_path / "d.parquet", [1, 2], [0, 0]), "1 class, '0'")
    fails(write(tmp_path / "e.parquet", [1, 2], [0, 1], ["x", "y", "z"]), "class 'z' has no train")
    write(tmp_path / "f" / "train.parquet", range(4), ["a", "b"] * 2)
    write(tmp_path / "f" / "test.parquet", range(3), ["a", "b", "c"])
    fails(tmp_path / "f", "class 'c' of 'test' has no training images")


def test_files_that_do_not_fit_together(tmp_path):
    write(tmp_path / "a" / "train.parquet", range(4), [0, 1] * 2, ["x", "y"])
    write(tmp_path / "a" / "test.parquet", range(4), [0, 1] * 2, ["y", "x"])
    fails(tmp_path / "a", "'test.parquet' has other columns or classes")
    write(tmp_path / "b" / "train-0.parquet", range(4), [0, 1] * 2)
    write(tmp_path / "b" / "more.parquet", range(4), [0, 1] * 2)
    fails(tmp_path / "b", "'more.parquet' must be called train-…")
    write(tmp_path / "c" / "test-0.parquet", range(4), [0, 1] * 2)
    fails(tmp_path / "c", "parquet:c has test files, but none called train")
    (tmp_path / "d").mkdir()
    fails(tmp_path / "d", "no .parquet files")


def test_torn_files(tmp_path):
    file = write(tmp_path / "a.parquet", range(8), [0, 1] * 4)
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"version https://git-lfs"):
        file.write_bytes(content)
        fails(file, "'a.parquet' cannot be read as Parquet")
    # Damage in the middle shows only when the images are read.
    file.write_bytes(whole[:4] + bytes(300) + whole[304:])
    fails(file, "'a.parquet' cannot be read as Parquet")


def test_malformed_metadata(tmp_path):
    table = pa.table({"img": images([1, 2]), "label": [0, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": "{}"}), tmp_path / "a.parquet")
    fails(tmp_path / "a.parquet", "'a.parquet' has malformed 'huggingface' metadata")


def test_rows_without_bytes_are_corrupt_images(tmp_path):
    table = pa.table({"img": images(range(20)), "label": [0, 1] * 10})
    rows = table.to_pylist()
    rows[3]["img"]["bytes"] = None
    rows[8]["img"] = None
    pq.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "a.parquet")
    fails(tmp_path / "a.parquet", "2 images cannot be read", "'a.parquet row ")
    source = load(f"parquet:{tmp_path / 'a.parquet'}", skip_corrupt=True)
    assert set(source.skipped) == {"a.parquet row 3", "a.parquet row 8"}
    assert sorted(shades(source.train) + shades(source.test)) == [
        i for i in range(20) if i not in (3, 8)
    ]


def test_the_cache_notices_a_replaced_file_of_equal_size(tmp_path):
    file = tmp_path / "a.parquet"
    digests, sizes = [], []
    for time, shades_of in enumerate((range(10, 20), range(19, 9, -1))):
        table = pa.table({"img": images(shades_of), "label": [0, 1] * 5})
        pq.write_table(table, file, compression="none", use_dictionary=False)
        os.utime(file, (time, time))
        sizes.append(file.stat().st_size)
        digests.append(load(f"parquet:{file}", memory_limit=0).digest)
    assert sizes[0] == sizes[1], "the test needs files of equal size"
    assert digests[0] != digests[1]


def test_fingerprints_know_names_and_sizes_but_no_place(tmp_path):
    for place in ("here", "there"):
        write(tmp_path / place / "set" / "train-0.parquet", range(4), [0, 1] * 2)
    here, there = (tmp_path / place / "set" for place in ("here", "there"))
    mark = fingerprint(f"parquet:{here}")
    assert fingerprint(f"parquet:{there}") == mark
    os.utime(here / "train-0.parquet", (1, 1))
    assert fingerprint(f"parquet:{here}") == mark
    (there / "train-0.parquet").rename(there / "train-1.parquet")
    assert fingerprint(f"parquet:{there}") != mark
    write(here / "train-0.parquet", range(5), [0, 1, 0, 1, 0])
    assert fingerprint(f"parquet:{here}") != mark


def example():
    """The CIFAR-10 (JPEG) subset, if this machine has it."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    for root in (os.environ.get("AUGBENCH_DATA"), beside):
        if root and (Path(root) / "cifar10-jpeg-small").is_dir():
            return Path(root)
    return None


@pytest.mark.slow
@pytest.mark.skipif(example() is None, reason="cifar10-jpeg-small is not under AUGBENCH_DATA")
def test_cifar10_jpeg_small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = load("parquet:cifar10-jpeg-small", root=example())
    assert source.name == "parquet:cifar10-jpeg-small"
    assert source.classes[:3] == ("airplane", "automobile", "bird")
    assert source.train.labels.bincount().tolist() == [500] * 10
    assert source.test.labels.bincount().tolist() == [200] * 10
    assert source.train.shape == (3, 32, 32)
    mapped = load("parquet:cifar10-jpeg-small", root=example(), memory_limit=10**6)
    assert mapped.train.mapped
    assert mapped.digest == source.digest
    index = torch.from_numpy(np.random.default_rng(0).integers(0, 5000, 64))
    for got, want in zip(mapped.train.take(index), source.train.take(index), strict=True):
        assert torch.equal(got, want)
