"""Records: round trip, atomic writes under injected failures, strict reading."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench import record as schema
from bench.atomic import write_text
from bench.errors import Damaged, RecordError
from bench.record import read_record, read_records, record_path, write_record
from tests.golden.report_records import make


def test_round_trip_of_a_full_record(tmp_path: Path) -> None:
    point = schema.CurvePoint(fraction=0.5, spent=1.5, val_error=0.25, test_error=0.3)
    item = schema.BillItem(label="train", key={"copies": 4}, calls=7, flops=11, seconds=0.125)
    record = make(
        "gar[placebo=uniform]",
        scores={"class_errors": [0.1] * 9 + [None], "memorised": 0.5},
        bill={"items": [item], "flags": ["overrun>2%"]},
        curve=[point],
        plan=[{"train": 600}],
        prices={"train": 1 / 3},
        trace={"loss": {"step": [1, 2], "value": [0.1, None]}},
        policy={"policy": "crop-flip", "pad": 1, "flip": False},
        weights="ab" * 32,
    )
    path = record_path(tmp_path, "demo", record.hash)
    assert path == tmp_path / "demo" / "runs" / f"{record.hash}.json"
    write_record(path, record)
    assert read_record(path) == record
    assert record.task is not None
    assert record.task.name == "digits · none · small-cnn"


def test_failed_record_round_trips(tmp_path: Path) -> None:
    record = make(error=None)
    write_record(tmp_path / f"{record.hash}.json", record)
    read = read_record(tmp_path / f"{record.hash}.json")
    assert read.failure is not None
    assert (read.status, read.scores, read.failure.attempts) == ("failed", None, 2)


def test_bytes_do_not_depend_on_the_order_of_keys_or_on_a_rewrite(tmp_path: Path) -> None:
    one = make(trace={"b": 1, "a": 2}, environment={"torch": "2.11", "python": "3.12"})
    two = make(trace={"a": 2, "b": 1}, environment={"python": "3.12", "torch": "2.11"})
    name = f"{one.hash}.json"
    for folder, record in (("1", one), ("2", two)):
        write_record(tmp_path / folder / name, record)
    write_record(tmp_path / "3" / name, read_record(tmp_path / "1" / name))
    contents = [(tmp_path / folder / name).read_bytes() for folder in "123"]
    assert contents[0] == contents[1] == contents[2]
    assert contents[0].endswith(b"}\n")
    assert list(json.loads(contents[0])) == sorted(json.loads(contents[0]))


def test_written_file_is_readable_by_all_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "één\n")
    write_text(path, "two\n")
    assert path.read_bytes() == b"two\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["a.txt"]


class DiskFull:
    """A file that takes half of the text and then reports a full disk."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> "DiskFull":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, text: str) -> None:
        self.file.write(text[: len(text) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")


def refuse(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("where", "failure", "expected"),
    [
        ("replace", refuse, OSError),
        ("fsync", refuse, OSError),
        ("chmod", refuse, OSError),
        ("replace", interrupt, KeyboardInterrupt),
        ("fdopen", "full disk", OSError),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_write_leaves_the_old_record_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    failure: Any,
    expected: type[BaseException],
    exists: bool,
) -> None:
    old, new = make(error=0.1), make(error=0.9)
    assert old.hash == new.hash
    path = tmp_path / f"{old.hash}.json"
    if exists:
        write_record(path, old)
    if failure == "full disk":
        real = os.fdopen
        failure = lambda *args, **options: DiskFull(real(*args, **options))  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(os, where, failure)
        with pytest.raises(expected):
            write_record(path, new)
    assert os.listdir(tmp_path) == ([path.name] if exists else [])
    if exists:
        assert read_record(path) == old
    write_record(path, new)
    assert read_record(path) == new


def test_the_temporary_file_stands_beside_the_record_and_is_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    real = os.replace

    def spy(source: str, target: Path) -> None:
        seen.append(Path(source))
        assert Path(source).read_text() == "whole\n", "everything is written before the rename"
        real(source, target)

    monkeypatch.setattr(os, "replace", spy)
    write_text(tmp_path / "a.json", "whole\n")
    assert seen[0].parent == tmp_path, "a rename across disks is not atomic"
    assert not seen[0].match("*.json"), "a reader would take it for a record"


def test_every_byte_is_flushed_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *a: (order.append("rename"), replace(*a))[1])
    write_text(tmp_path / "a.txt", "x")
    assert order == ["sync", "rename", "sync"], "file, rename, directory"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_number_that_json_lacks_is_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        make(error=value)
    record = make(trace={"loss": [0.5, value]})  # free-form: a gap in the curve, not an error
    path = tmp_path / f"{record.hash}.json"
    write_record(path, record)
    text = path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert read_record(path).trace == {"loss": [0.5, None]}


def test_a_record_is_frozen_and_strict() -> None:
    record = make()
    with pytest.raises(ValidationError, match="frozen"):
        record.seed = 3
    with pytest.raises(ValidationError, match="valid integer"):
        make(steps="600")
    with pytest.raises(ValidationError, match="Extra inputs"):
        make(stepz=600)


def set_in(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for part in path[:-1]:
            content = content[part]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_in("surprise", value=1),
        set_in("scores", "surprise", value=1),
        set_in("scores", "error", value="0.1"),
        set_in("scores", "error", value=float("nan")),
        set_in("scores", "error", value=float("inf")),
        set_in("seed", value=0.5),
        set_in("seed", value=None),
        set_in("status", value="fine"),
        set_in("track", value="tpu"),
        set_in("method", "clean_labels", value="some"),
        lambda content: content.pop("budget"),
        lambda content: content["bill"].pop("items"),
        set_in("schema_version", value=schema.SCHEMA + 1),
        set_in("hash", value="0" * 16),
    ],
)
def test_an_altered_record_is_refused_in_one_sentence(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    record = make()
    path = tmp_path / f"{record.hash}.json"
    write_record(path, record)
    content = json.loads(path.read_text())
    del content["checksum"]
    change(content)
    path.write_text(json.dumps(content))
    assert "checksum" not in refused(path)


def test_any_byte_that_is_changed_after_writing_is_noticed(tmp_path: Path) -> None:
    record = make(trace={"loss": {"step": [1, 2], "value": [0.1, None]}})
    path = tmp_path / f"{record.hash}.json"
    write_record(path, record)
    whole = path.read_bytes()
    assert json.loads(whole)["checksum"] in whole.decode()
    for place in range(len(whole)):
        for bit in (0, 5):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(Damaged):
                read_record(path)


def test_a_record_older_than_checksums_is_read(tmp_path: Path) -> None:
    record = make()
    path = tmp_path / f"{record.hash}.json"
    write_record(path, record)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "checksum" not in line))
    assert path.read_text().count("\n") == len(lines) - 1
    assert read_record(path) == record


@pytest.mark.parametrize("kept", [0, 1, 0.5, -2])
def test_a_torn_record_is_refused(tmp_path: Path, kept: float) -> None:
    record = make()
    path = tmp_path / f"{record.hash}.json"
    write_record(path, record)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    refused(path)


@pytest.mark.parametrize("content", [b"[]", b"null", b"\xff\xfe\x00", b'{"hash": "\xff"}'])
def test_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    refused(path)


def test_a_missing_file_a_folder_and_a_renamed_record_are_refused(tmp_path: Path) -> None:
    record = make()
    path = tmp_path / f"{record.hash}.json"
    assert "No such file" in refused(path)
    path.mkdir()
    assert "directory" in refused(path)
    other = tmp_path / "0123.json"
    write_record(other, record)
    message = refused(other)
    assert record.hash in message
    assert "renamed" in message


def test_another_schema_is_named(tmp_path: Path) -> None:
    record = make(schema_version=7)
    path = tmp_path / f"{record.hash}.json"
    write_record(path, record)
    assert refused(path).endswith(f"has schema 7, this augbench reads {schema.SCHEMA}")


def refused(path: Path) -> str:
    with pytest.raises(RecordError) as caught:
        read_record(path)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert message.startswith(str(path))
    return message


def test_read_records_is_sorted_and_sees_only_records(tmp_path: Path) -> None:
    records = [make(seed=seed) for seed in range(4)]
    for record in records:
        write_record(record_path(tmp_path, "demo", record.hash), record)
    folder = tmp_path / "demo" / "runs"
    (folder / ".x.json.abc.tmp").write_text("{")
    (folder / "notes.txt").write_text("mine")
    read = read_records(tmp_path, "demo")
    assert read == sorted(records, key=lambda record: record.hash)
    (folder / "torn.json").write_text("{")
    with pytest.raises(RecordError, match=r"torn\.json"):
        read_records(tmp_path, "demo")


def test_a_suite_without_records_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="augbench run --suite quick"):
        read_records(tmp_path, "quick")
