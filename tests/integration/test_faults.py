"""What happens to a suite when something breaks: files, disks, memory, clocks, other drivers."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench import drive, memory, quarantine, sidefile, worker
from bench.archive import Archive
from bench.check import small_config
from bench.cli import app
from bench.cli.common import plugins
from bench.errors import Damaged, DiskError, RecordError
from bench.lock import Lock
from bench.plugins import select
from bench.record import read_record, write_record
from bench.request import Request
from bench.runner import DataOptions
from bench.saved import Saving
from bench.stage import run_method
from bench.train.checkpoint import Work
from bench.train.clock import Clock
from bench.train.prepare import Prepared
from bench.worker import Done
from tests.conftest import ROOT
from tests.integration.conftest import ENVIRONMENT, Command
from tests.integration.test_run import OWN, bits, records
from tests.unit.test_archive import pair
from tests.unit.test_request import REQUEST


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def truncated(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flipped(raw: bytes) -> bytes:
    """With another digit in the test error, so that it is sound JSON still."""
    place = raw.index(b'"error": 0.') + len(b'"error": 0.')
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


def asked(results: Path, seeds: int = 1) -> Request:
    """What `OWN` asks for, of the method `none`."""
    return replace(
        REQUEST, suite=None, data="digits", name="own", methods=("none",), budgets=("1",),
        seeds=seeds, steps=20, devices="cpu", results=results,
    )  # fmt: skip


def made(results: Path, seeds: int) -> None:
    """Makes its records in this process."""
    campaign = drive.plan(asked(results, seeds), plugins(None))
    for job in campaign.jobs:
        drive._settle(worker.make(job, lambda message: None), campaign.archive)
    assert campaign.lock is not None
    campaign.lock.release()


# Files that cannot be trusted


def test_damaged_records_are_set_aside_and_made_anew(augbench: Command, tmp_path: Path) -> None:
    run = [*OWN, "-m", "none", "--seeds", "3"]
    made(tmp_path / "results", seeds=3)
    place, before = tmp_path / "results/own", records(tmp_path)
    first, second, third = sorted((place / "runs").glob("*.json"))
    spoilt = {first: truncated(first.read_bytes()), second: flipped(second.read_bytes())}
    spoilt[place / "runs/notes.json"] = b"{}\n"
    (place / "partial").mkdir(exist_ok=True)
    for name in ("0.jsonl", "0.ckpt", "0.work"):
        spoilt[place / "partial" / name] = b"no part, no state, no count\n"
    for path, content in spoilt.items():
        path.write_bytes(content)
    (place / "quarantine").mkdir()
    (place / "quarantine" / first.name).write_bytes(b"an earlier one")
    (place / "runs/.x.json.abc.tmp").write_bytes(b"{")

    again = augbench(*run)
    assert again.returncode == 0, again.stderr
    assert "1 finished runs found, 2 to go" in again.stdout
    aside = {path: place / "quarantine" / path.name for path in spoilt}
    aside[first] = place / "quarantine" / f"{first.stem}-1.json"
    for path, content in spoilt.items():
        assert aside[path].read_bytes() == content
        assert f"it is now results/own/quarantine/{aside[path].name}, and" in again.stdout
    assert again.stdout.count("note: results/own/") == len(spoilt)
    assert (place / "quarantine" / first.name).read_bytes() == b"an earlier one"
    assert not list(place.rglob("*.tmp"))
    after = records(tmp_path)
    assert {name: bits(r) for name, r in after.items()} == {
        name: bits(r) for name, r in before.items()
    }
    assert after[third.name] == before[third.name]


@pytest.mark.parametrize("spoil", [truncated, flipped, lambda raw: b"{}"])
@pytest.mark.parametrize(
    "reader",
    [
        ["leaderboard", "demo"],
        ["report", "demo"],
        ["run", "--data", "digits", "--name", "demo", "-m", "none", "--dry-run"],
    ],
)
def test_who_only_reads_refuses_them_and_moves_nothing(
    tmp_path: Path, spoil: Callable[[bytes], bytes], reader: list[str]
) -> None:
    _, record = pair()
    path = Archive.read(tmp_path, "demo").add(record)
    path.write_bytes(spoil(path.read_bytes()))
    before = tree(tmp_path)
    said = CliRunner().invoke(app, [*reader, "--results", str(tmp_path)])
    assert said.exit_code == 2, said.output
    assert said.stderr.count("\n") == 1
    assert str(path) in said.stderr
    assert tree(tmp_path) == before


def test_publish_reports_them_as_problems(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results/quick", tmp_path / "quick")
    path = min((tmp_path / "quick/runs").glob("*.json"))
    record = read_record(path)
    write_record(path, record)
    path.write_bytes(flipped(path.read_bytes()))
    before = tree(tmp_path)
    options = ["--check", "--results", str(tmp_path), "--rerun-minutes", "0"]
    said = CliRunner().invoke(app, ["publish", "quick", *options])
    assert said.exit_code == 1, said.output
    assert f"{path.name} is not as it was written: its checksum is another" in said.output
    assert tree(tmp_path) == before


def set_aside(archive: Archive) -> tuple[Callable[[Damaged, list[Path]], None], list[str]]:
    """What a driver does about damaged files, and where what was said about them goes."""
    said: list[str] = []

    def meet(error: Damaged, paths: list[Path]) -> None:
        said.append(str(error))
        for path in paths:
            quarantine.set_aside(path, archive.place)

    return meet, said


def test_a_record_goes_with_its_side_file(tmp_path: Path) -> None:
    job, record = pair()
    archive = Archive.read(tmp_path, "demo")
    path = archive.add(record, {"weights": np.arange(3.0)})
    side, raw = sidefile.beside(path), sidefile.beside(path).read_bytes()
    assert Archive.read(tmp_path, "demo").hold([job]) == 0
    side.write_bytes(raw[:-1])
    archive = Archive.read(tmp_path, "demo")
    meet, said = set_aside(archive)
    assert archive.hold([job], meet) == 0
    assert not archive.finished(job)
    assert not path.exists()
    assert not side.exists()
    assert sorted(tree(tmp_path / "demo/quarantine")) == [path.name, side.name]
    assert len(said) == 1

    # Without it the record is as good as ever: side files are published apart.
    path = archive.add(record, {"weights": np.arange(3.0)})
    side.unlink()
    archive = Archive.read(tmp_path, "demo")
    assert archive.hold([job], meet) == 1
    assert archive.finished(job)

    # And the side file of a damaged record is nobody's.
    archive.add(record, {"weights": np.arange(3.0)})
    path.write_bytes(b"")
    found = Archive.read(tmp_path, "demo", meet)
    assert not found.finished(job)
    assert sorted(tree(tmp_path / "demo/quarantine")) == sorted(
        [path.name, side.name, f"{path.stem}-1.json", f"{side.stem}-1.npz"]
    )


def test_what_is_no_damage_is_refused_and_stays(tmp_path: Path) -> None:
    _, record = pair()
    archive = Archive.read(tmp_path, "demo")
    path = archive.add(record)
    write_record(path, record.model_copy(update={"schema_version": 2}))
    meet, said = set_aside(archive)
    with pytest.raises(RecordError, match="has schema 2"):
        Archive.read(tmp_path, "demo", meet)
    assert path.exists()
    write_record(path, record.model_copy(update={"suite": "other"}))
    assert Archive.read(tmp_path, "demo", meet).records == {}
    assert said == [f"{path} is a record of the suite other, not of demo"]


# Two drivers


def test_a_second_driver_is_sent_away_and_readers_are_not(
    augbench: Command, tmp_path: Path
) -> None:
    _, record = pair()
    Archive.read(tmp_path, "own").add(record.model_copy(update={"suite": "own"}))
    lock = Lock(tmp_path / "own")
    before = tree(tmp_path)
    options = ["--results", str(tmp_path)]
    second = CliRunner().invoke(app, [*OWN, "-m", "none", *options])
    assert second.exit_code == 2
    assert second.stderr.count("\n") == 1
    assert f"another augbench run (process {os.getpid()} on " in second.stderr
    assert f"is at work in {tmp_path / 'own'}: wait" in second.stderr
    assert second.stdout == ""
    assert tree(tmp_path) == before
    said = CliRunner().invoke(app, ["leaderboard", "own", *options])
    assert said.exit_code == 0, said.output
    lock.release()


def test_the_lock_of_a_killed_driver_is_free_and_children_do_not_keep_it(tmp_path: Path) -> None:
    holding = (
        "import subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from bench.lock import Lock\n"
        "lock = Lock(Path(sys.argv[1]))\n"
        "subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", holding, str(tmp_path / "suite")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT, start_new_session=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Exception, match=f"process {holder.pid} on"):
            Lock(tmp_path / "suite")
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        Lock(tmp_path / "suite").release()  # while the child lives
        os.killpg(holder.pid, signal.SIGKILL)


def test_a_plan_holds_the_lock_and_a_failed_or_dry_one_does_not(tmp_path: Path) -> None:
    request, known = asked(tmp_path), plugins(None)
    drive.plan(replace(request, dry_run=True), known)
    assert tree(tmp_path) == {}
    campaign = drive.plan(request, known)
    with pytest.raises(Exception, match="another augbench run"):
        drive.plan(request, known)
    drive.plan(replace(request, dry_run=True), known)
    with pytest.raises(DiskError):
        drive.complete(replace(campaign, executor=Fails()))  # type: ignore[arg-type]
    (tmp_path / "own/runs").mkdir()
    (tmp_path / "own/runs" / "a.json").symlink_to("/proc/self/mem")
    with pytest.raises(RecordError, match="cannot be read") as caught:
        drive.plan(request, known)
    assert caught.tb is not None, "which holds all that the call has left"
    (tmp_path / "own/runs" / "a.json").unlink()
    drive.plan(request, known)


class Fails:
    """An executor whose first event cannot be kept."""

    def run(self, jobs: Any) -> Iterator[Any]:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield


# Disks


@pytest.mark.slow
def test_a_full_disk_ends_the_driver_and_tears_nothing(tmp_path: Path) -> None:
    mount = "mount -t tmpfs -o size=32k none m"
    probe = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"mkdir m && {mount}"], cwd=tmp_path, check=False,
        capture_output=True,
    )  # fmt: skip
    if probe.returncode:
        pytest.skip("this machine mounts no small file system for a test")
    run = " ".join([*OWN, "-m", "none", "--seeds", "4", "--results", "m/results"])
    script = f"{mount}; {sys.executable} -m bench.cli {run}; echo $? > code; cp -a m kept"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, env=ENVIRONMENT, text=True,
        capture_output=True, check=True, timeout=300,
    )  # fmt: skip
    assert (tmp_path / "code").read_text() == "1\n"
    assert "cannot be written: No space left on device (" in done.stderr, done.stderr
    assert " needed, " in done.stderr
    assert "finished runs are kept" in done.stderr
    assert "Traceback" not in done.stderr
    place = tmp_path / "kept/results/own"
    found = [read_record(path) for path in (place / "runs").glob("*.json")]
    assert found, "the first records have room"
    assert f"[{len(found)}/4]" in done.stdout
    assert not list(place.rglob("*.tmp"))
    shutil.copytree(place.parent, tmp_path / "results")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_disk_that_refuses_a_record_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    _, record = pair()
    archive = Archive.read(tmp_path, "demo")
    path = archive.add(record)
    before = tree(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, where, refuse)
    with pytest.raises(DiskError) as caught:
        drive._settle(Done(record=record.model_copy(update={"steps": 7})), archive)
    assert str(caught.value).startswith(f"{path} cannot be written: {os.strerror(number)}")
    full = number in (errno.ENOSPC, errno.EDQUOT)
    assert (" needed, " in str(caught.value)) is full
    assert tree(tmp_path) == before


def test_a_part_that_finds_no_room_leaves_its_file_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import partial

    job, _ = pair()
    archive = Archive.read(tmp_path, "demo")
    parts = archive.partial(job)
    parts.append({"name": "trial 0", "inputs": {}, "result": 1})

    def half(file: Any, content: bytes) -> None:
        file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(partial, "_write_all", half)
    with pytest.raises(OSError, match="No space") as caught:
        parts.append({"name": "trial 1", "inputs": {}, "result": 2})
    assert caught.value.filename == str(parts.path)
    parts.close()
    assert [entry["result"] for entry in archive.partial(job).entries] == [1]


class Full:
    """A file that takes a few bytes and then no more."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: Any) -> int:
        self._room -= len(content)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken: int = self._file.write(content)
        return taken


def test_a_checkpoint_without_room_is_said_once_and_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench import saved

    real = saved.replace_file
    saving = Saving(tmp_path / "results/suite/partial", "abc", {"run": "abc"}, 5.0)
    saving.folder.parent.parent.mkdir()
    monkeypatch.setattr(
        saved, "replace_file", lambda path, fill: real(path, lambda file: fill(Full(file, 2000)))
    )
    checkpoints = worker._opened(saving)
    state = {"title": "", "entries": [], "state": {"weights": torch.zeros(1000)}}
    for _ in range(3):
        checkpoints.put(state, 0.0)
    checkpoints.note(Work(1, 2.0))
    monkeypatch.setattr(os, "pwrite", lambda *_: disk_full())
    checkpoints.note(Work(2, 3.0))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{saving.path} cannot be written: No space left on device" in said
    assert "the run goes on without" in said
    assert [path.name for path in saving.folder.iterdir()] == ["abc.work"]
    monkeypatch.setattr(saved, "replace_file", lambda *_: mistaken())
    with pytest.raises(RuntimeError, match="a mistake"):
        checkpoints.put(state, 0.0)


def mistaken() -> None:
    raise RuntimeError("a mistake is no full disk")


def disk_full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# Numbers, memory

FAULTY = '''
"""Methods that ask for too much."""

import resource

import numpy as np
import torch

from bench.augment.policy import Identity
from bench.method import Fitted, Method


class CudaMemory(Method):
    name = "cuda-memory"

    def run(self, session):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


class TensorMemory(Method):
    name = "tensor-memory"

    def run(self, session):
        torch.empty(1 << 50)


class ArrayMemory(Method):
    name = "array-memory"

    def run(self, session):
        np.ones(1 << 50)


class Limited(Method):
    name = "limited"

    def run(self, session):
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        most = pages * resource.getpagesize() + (32 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        kept = []
        while True:
            kept.append(bytearray(1 << 20))


class Fine(Method):
    name = "fine"

    def run(self, session):
        return Fitted(session.learner(), Identity())
'''

ALL = ("cuda-memory", "tensor-memory", "array-memory", "limited", "fine")
WILD = """
title = "A learning rate of a million, and methods that ask for too much"
budgets = [1]
seeds = 1
methods = ["standard", "gar", "search[space=randaugment,trials=2]", {}]

[[tasks]]
data = "digits"
distort = ["clean"]
network = "small-cnn"
recipe = {{ steps = 20, batch_size = 64, lr = 1e6 }}
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Records by method, of a suite in which nearly everything goes wrong: strict JSON, all."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "faulty.py").write_text(FAULTY)
    (folder / "wild.toml").write_text(WILD.format(", ".join(f'"{name}"' for name in ALL)))
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", "run", "--suite", "wild.toml", "--plugin", "faulty.py",
         "--devices", "cpu", "--jobs", "2"],
        cwd=folder, env=ENVIRONMENT, text=True, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    found = {}
    for path in (folder / "results/wild/runs").glob("*.json"):
        record = json.loads(path.read_text(), parse_constant=pytest.fail)
        found[record["method"]["name"]] = record
    assert found.keys() == {"standard", "gar", "search", *ALL}, "the others go on"
    return found


def test_too_little_memory_fails_a_run_with_advice(faulty: dict[str, dict[str, Any]]) -> None:
    assert faulty["fine"]["status"] == "ok"
    for name in set(ALL) - {"fine"}:
        failure = faulty[name]["failure"]
        assert failure["type"] == memory.KIND, name
        assert failure["attempts"] == 2, "others may have needed the memory only for a while"
        assert "lower the recipe's batch_size" in failure["message"]
        assert failure["message"].count("\n") == 0
    assert "(--per-device)" in faulty["cuda-memory"]["failure"]["message"]
    assert "--memory-limit" in faulty["limited"]["failure"]["message"]


def test_training_that_diverges_ends_in_records(faulty: dict[str, dict[str, Any]]) -> None:
    for name in ("standard", "gar"):
        assert faulty[name]["failure"]["type"] == "Diverged"
        assert "diverged" in faulty[name]["failure"]["message"]
    search = faulty["search"]
    if search["status"] == "ok":
        assert search["scores"]["error"] > 0.8
    else:
        assert search["failure"]["type"] == "Diverged"


def test_data_that_find_no_memory_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = pair()
    job = replace(job, plugin=ROOT / "baselines/fixed.py", data=DataOptions())

    def load(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("bench.runner.load", load)
    done = worker.make(job, lambda message: None)
    assert done.refused is not None
    assert done.refused.startswith("its data cannot be loaded: out of memory: lower the recipe's")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("memory")])
def test_other_errors_get_no_advice(error: Exception) -> None:
    assert memory.advice(error) is None


# Clocks


def test_a_date_that_jumps_bills_nothing(small: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: (-1) ** next(jumps) * 1e9)
    selected = select(plugins(None), "standard")
    began = time.perf_counter()
    outcome = run_method(selected.make(), small, small_config(selected, 1.0))
    spent = time.perf_counter() - began
    ledger = outcome.meter.ledger
    assert 0 < ledger.billed_seconds < spent
    for account in ("run", "rehearsal", "harness"):
        assert all(0 <= item.seconds < spent for _, _, item in ledger.items(account))


def test_a_clock_that_runs_backwards_stands_still() -> None:
    times = iter([100.0, 103.0, 1.0, 2.0, 104.0, 50.0, 105.0])
    clock = Clock(torch.device("cpu"), lambda: next(times))
    clock.start()
    assert clock.elapsed == 3.0
    with clock.pause():  # entered at 1, left at 2: both are 103
        pass
    assert clock.elapsed == 4.0
    assert clock.elapsed == 4.0
    assert clock.stop() == 5.0


def test_nothing_that_counts_asks_for_the_date() -> None:
    for package in ("bench", "methods", "baselines"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for asked in ("time.time(", "datetime", "from time import"):
                assert asked not in text, f"{path}: {asked}"
