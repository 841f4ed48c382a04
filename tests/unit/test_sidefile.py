"""The side file: whole or not there, before its record, the same bytes for the same arrays."""

import errno
import os
import pickle
import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import sidefile, worker
from bench.archive import Archive
from bench.errors import RecordError
from bench.record import read_record, record_path
from bench.worker import Done, Tick, receive, send
from tests.golden.report_records import make
from tests.unit.test_archive import pair

ARRAYS: dict[str, Any] = {
    "weights": np.linspace(0, 2, 7, dtype=np.float32),
    "labels": np.asfortranarray(np.arange(14, dtype=np.float32).reshape(7, 2)),
    "operations": np.array(["rotate", "é"]),
    "features": np.zeros((0, 3), dtype=np.float16),
}


def equal(one: Any, two: Any) -> bool:
    return one.keys() == two.keys() and all(
        np.array_equal(one[name], two[name]) and one[name].dtype == two[name].dtype for name in one
    )


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "points" / "a.npz" for folder in "12"]
    digests = [sidefile.write(path, ARRAYS) for path in paths]
    assert digests[0] == digests[1]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert equal(sidefile.read(paths[0], digests[0], ARRAYS), ARRAYS)
    assert set(sidefile.read(paths[0], digests[0], ("labels", "absent"))) == {"labels"}
    with np.load(paths[0]) as plain:  # an ordinary file, without pickles
        assert set(plain.files) == set(ARRAYS)
    assert os.listdir(paths[0].parent) == ["a.npz"]


def test_objects_are_never_pickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pickle"):
        sidefile.write(tmp_path / "a.npz", {"odd": np.array([{}], dtype=object)})
    assert os.listdir(tmp_path) == []


def test_another_or_missing_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    digest = sidefile.write(path, ARRAYS)
    sidefile.write(path, {"weights": ARRAYS["weights"]})
    with pytest.raises(RecordError, match="not the file"):
        sidefile.read(path, digest, ARRAYS)
    with pytest.raises(RecordError, match="No such file"):
        sidefile.read(tmp_path / "b.npz", digest, ARRAYS)


def test_the_archive_writes_the_file_and_names_its_digest(tmp_path: Path) -> None:
    _, record = pair()
    archive = Archive.read(tmp_path, "demo")
    path = archive.add(record, ARRAYS)
    assert path == record_path(tmp_path, "demo", record.hash)
    assert sidefile.beside(path) == tmp_path / "demo" / "points" / f"{record.hash}.npz"
    digest = read_record(path).side_file
    assert digest is not None
    assert equal(sidefile.read(sidefile.beside(path), digest, ARRAYS), ARRAYS)
    # A run that is made again without arrays names none; the old file is in nobody's way.
    assert read_record(archive.add(record)).side_file is None
    other = archive.add(record.model_copy(update={"hash": "b" * 16}), ARRAYS)
    assert sidefile.beside(other).exists()
    aside = tmp_path / "demo" / "superseded" / f"{record.hash}.json"
    assert sidefile.beside(aside) == sidefile.beside(path), "found from there as well"


def test_a_kill_between_the_two_leaves_a_file_without_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, record = pair()
    archive = Archive.read(tmp_path, "demo")
    with monkeypatch.context() as patched:
        patched.setattr("bench.archive.write_record", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            archive.add(record, ARRAYS)
    assert Archive.read(tmp_path, "demo").records == {}
    assert len(list((tmp_path / "demo" / "points").iterdir())) == 1
    path = archive.add(record, {"weights": ARRAYS["weights"]})
    digest = read_record(path).side_file
    assert digest is not None
    assert set(sidefile.read(sidefile.beside(path), digest, ARRAYS)) == {"weights"}


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    _, record = pair()
    monkeypatch.setattr(os, where, refuse)
    with pytest.raises(OSError, match="No space"):
        Archive.read(tmp_path, "demo").add(record, ARRAYS)
    assert Archive.read(tmp_path, "demo").records == {}
    assert list((tmp_path / "demo" / "points").iterdir()) == []


@pytest.mark.parametrize("piece", [5, 1 << 20])
def test_arrays_travel_beside_their_record(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(worker, "PIECE", piece)
    ours, theirs = Pipe(duplex=False)
    done = Done(record=make(), arrays=ARRAYS)

    def talk() -> None:
        theirs.send(Tick("train", 0.5, None))
        send(theirs, done)
        send(theirs, Done(skipped="why"))
        theirs.close()

    thread = threading.Thread(target=talk)
    thread.start()
    assert receive(ours) == Tick("train", 0.5, None)
    found, other = receive(ours), receive(ours)
    thread.join()
    assert isinstance(found, Done)
    assert found.record == done.record
    assert equal(found.arrays, ARRAYS)
    assert isinstance(other, Done)
    assert (other.skipped, dict(other.arrays)) == ("why", {})
    with pytest.raises(EOFError):
        receive(ours)


def test_a_worker_that_dies_while_it_sends_is_noticed() -> None:
    ours, theirs = Pipe(duplex=False)
    whole = worker._Parcel(Done(record=make()), [("weights", "<f4", (100,))])
    theirs.send_bytes(pickle.dumps(whole))
    theirs.send_bytes(bytes(40))
    theirs.close()
    with pytest.raises((EOFError, OSError)):
        receive(ours)
