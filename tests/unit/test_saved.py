"""Files of unfinished runs: whole or not used, whose they are, and the count of work."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import RecordError
from bench.saved import Saving, Worked, owner_of, read, write_state
from bench.train.checkpoint import Work

OWNER = {"run": "abc", "code": {"bench": "1"}, "cell": ["a", 3.0]}
STATE: dict[str, Any] = {
    "entries": [{"name": "trial 0", "inputs": {"point": [0.1]}, "result": {"error": 0.25}}],
    "worked": {"flops": 12, "seconds": 3.5},
    "state": {"kept": {"table": torch.arange(4.0)}, "meter": {("train", (("n", 1),)): (3, 4)}},
}


@pytest.fixture
def saving(tmp_path: Path) -> Saving:
    (tmp_path / "results").mkdir()
    return Saving(tmp_path / "results" / "suite" / "partial", "abc", OWNER, 5.0)


def said(saving: Saving) -> tuple[Any, list[str]]:
    """What a run would begin from, and what the user is told."""
    sentences: list[str] = []
    return saving.open(sentences.append), sentences


def test_a_state_comes_back_as_it_was(saving: Saving) -> None:
    write_state(saving.path, OWNER, STATE)
    assert saving.begun()
    found, sentences = said(saving)
    assert sentences == []
    table = found.saved["state"]["kept"]
    assert torch.equal(table.pop("table"), torch.arange(4.0))
    assert found.saved["entries"] == STATE["entries"]
    assert found.saved["state"]["meter"] == STATE["state"]["meter"]
    assert found.earlier == Work(12, 3.5)
    assert found.every == 300


def test_where_there_is_nothing_a_run_begins(saving: Saving) -> None:
    found, sentences = said(saving)
    assert (found.saved, found.earlier, sentences) == (None, Work(), [])
    assert not saving.begun()
    assert not saving.path.parent.exists(), "nothing is made by looking"


@pytest.mark.parametrize("spoil", ["torn", "flipped", "empty", "header"])
def test_a_damaged_state_is_set_aside_in_a_sentence(saving: Saving, spoil: str) -> None:
    write_state(saving.path, OWNER, STATE)
    raw = bytearray(saving.path.read_bytes())
    place = raw.index(b"\n") + 200 if spoil == "flipped" else 20
    raw[place] ^= 1
    changed = {"torn": raw[: len(raw) // 2], "empty": bytearray()}.get(spoil, raw)
    saving.path.write_bytes(changed)
    found, sentences = said(saving)
    assert found.saved is None
    assert len(sentences) == 1
    aside = saving.folder.parent / "quarantine/abc.ckpt"
    assert f"abc.ckpt is damaged; it is now {aside}" in sentences[0]
    assert aside.read_bytes() == changed
    assert not saving.path.exists()


def test_a_state_of_other_code_is_left_alone(saving: Saving) -> None:
    newer = OWNER | {"code": {"bench": "2"}}
    write_state(saving.path, newer, STATE)
    found, sentences = said(saving)
    assert (found.saved, sentences) == (None, [])
    assert not saving.begun()
    assert owner_of(saving.path) == newer


def test_no_code_in_a_file_runs(saving: Saving, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    write_state(saving.path, OWNER, STATE | {"state": Evil()})
    found, sentences = said(saving)
    assert found.saved is None
    assert "holds what no checkpoint holds" in sentences[0]
    assert not (tmp_path / "owned").exists()


def test_a_disk_that_refuses_leaves_the_old_state(saving: Saving) -> None:
    write_state(saving.path, OWNER, STATE)
    before = saving.path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_state(saving.path, OWNER, STATE | {"entries": [object()]})
    assert saving.path.read_bytes() == before
    assert list(saving.path.parent.iterdir()) == [saving.path]


def test_without_the_driver_s_results_the_state_stays_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    away = Saving(tmp_path / "results" / "suite" / "partial", "abc", OWNER, 5.0)
    assert away.path == tmp_path / "temporary" / f"augbench-{os.getuid()}" / "abc.ckpt"
    write_state(away.path, OWNER, STATE)
    assert away.begun()
    assert said(away)[0].saved is not None
    own = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: own + 1)
    away.path.parent.symlink_to(tmp_path / "temporary" / f"augbench-{own}")
    found, (sentence,) = said(away)
    assert (found.saved, found.write) == (None, None), "another user could have put it there"
    assert "belongs to somebody else" in sentence
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    away.clear_away()
    assert not away.begun()


def test_a_driver_s_state_is_the_driver_s_to_remove(saving: Saving) -> None:
    write_state(saving.path, OWNER, STATE)
    saving.clear_away()
    assert saving.begun()


def test_the_count_of_work_is_the_latest(tmp_path: Path) -> None:
    path = tmp_path / "partial" / "abc.work"
    count = Worked(path)
    assert count.read() == Work()
    count.note(Work(10**15, 12.25))
    count.note(Work(10**15 + 1, 12.5))
    assert Worked(path).read() == Work(10**15 + 1, 12.5)
    path.write_bytes(b"12 12\n")
    assert Worked(path).read() == Work()


@pytest.mark.parametrize("end", ["taken", "removed", "moved"])
def test_who_is_taken_for_dead_and_lives_ends(tmp_path: Path, end: str) -> None:
    path = tmp_path / "abc.work"
    first, second = Worked(path, every=0), Worked(path, every=0)
    first.note(Work(10, 1.0))
    if end == "taken":  # as a second process does
        second.note(Work(11, 1.0))
    elif end == "moved":
        path.rename(tmp_path / "aside")
    else:  # as the driver does when the run is finished
        path.unlink()
    with pytest.raises(SystemExit, match="another process goes on with this run"):
        first.note(Work(20, 2.0))
    if end == "taken":
        assert second.read() == Work(11, 1.0)
        second.note(Work(12, 1.5))
        assert second.read() == Work(12, 1.5)
    else:
        assert not path.exists(), "it leaves nothing behind"


def test_a_count_that_is_ahead_of_the_state_counts(saving: Saving) -> None:
    write_state(saving.path, OWNER, STATE)
    Worked(saving.path.with_suffix(".work")).note(Work(20, 3.0))
    found, _ = said(saving)
    assert found.earlier == Work(20, 3.5)


def test_a_state_that_names_nobody_is_damaged(saving: Saving) -> None:
    write_state(saving.path, OWNER, STATE)
    saving.path.write_bytes(b"[]\n")
    assert owner_of(saving.path) is None
    with pytest.raises(RecordError, match="is damaged"):
        read(saving.path, OWNER)
