"""What every executor promises, shown by one that plays a script; options; locks on devices."""

import ast
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.config import RunConfig, load_suite
from bench.environment import Origin
from bench.errors import ConfigError
from bench.executors import Event, Executor, devices
from bench.executors.choice import executor_of
from bench.executors.local import LocalProcesses, _cause
from bench.executors.remote import Sent
from bench.plugins import digest
from bench.record import Failure
from bench.request import suite_of
from bench.runner import DataOptions
from bench.worker import Begun, Done, Job, Lost, Message, Part, Started, Tick
from tests.conftest import ROOT
from tests.unit.test_record import make
from tests.unit.test_request import REQUEST

QUICK = load_suite("quick")
CONFIG: RunConfig = next(QUICK.runs(device="cpu", threads=1, compiled=False))
OK = Done(record=make())
FAILED = Done(
    record=make().model_copy(
        update={"status": "failed", "failure": Failure(
            type="E", message="m", traceback="", attempts=1
        )}
    )
)  # fmt: skip
PART = Part({"name": "trial 0", "inputs": {}, "result": 1})


def job(name: str) -> Job:
    return Job(name, CONFIG, Path("x.py"), "digest", DataOptions(), Origin("digest", "commit"))


class Played(Executor):
    """Sends what it is told, try by try, one message of every job at a time."""

    def __init__(self, script: dict[str, list[list[Message]]], slots: int = 2) -> None:
        self.script, self.slots = script, slots
        self.started: list[Job] = []
        self.running: dict[str, Iterator[Message]] = {}
        self.open = 0

    @contextmanager
    def opened(self) -> Iterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    def room(self) -> bool:
        return len(self.running) < self.slots

    def start(self, job: Job) -> None:
        assert self.open == 1
        self.started.append(job)
        self.running[job.name] = iter(self.script[job.name].pop(0))

    def messages(self) -> Iterator[tuple[str, Message]]:
        for name, messages in list(self.running.items()):
            message = next(messages)
            if isinstance(message, Done | Lost):
                del self.running[name]
            yield name, message


def played(slots: int = 2, **script: list[list[Message]]) -> tuple[list[Event], Played]:
    executor = Played(script, slots)
    events = list(executor.run([job(name) for name in script]))
    assert executor.open == 0
    return events, executor


def test_events_come_in_order_and_jobs_wait_for_room() -> None:
    tick, skipped = Tick("train", 0.5, None), Done(skipped="no")
    events, executor = played(
        slots=1, a=[[Started(), Begun(make()), tick, OK]], b=[[Started(), skipped]]
    )
    assert [(one.name, event) for one, event in events] == [
        ("a", Started()), ("a", tick), ("a", OK), ("b", Started()), ("b", skipped),
    ]  # fmt: skip
    assert [one.name for one in executor.started] == ["a", "b"]


def test_a_failure_is_tried_once_more_and_goes_on_from_its_parts() -> None:
    first: list[Message] = [Started(), PART, FAILED]
    events, executor = played(a=[first, [Started(), OK]])
    assert [event for _, event in events] == [Started(), PART, OK]
    assert [(one.attempt, one.journal) for one in executor.started] == [
        (1, ()), (2, (PART.entry,)),
    ]  # fmt: skip
    events, _ = played(a=[[Started(), FAILED], [Started(), FAILED]])
    assert [event for _, event in events] == [Started(), FAILED]


def test_a_lost_worker_is_tried_once_more_and_then_a_failure_with_a_name() -> None:
    begun, lost = Begun(make()), Lost("the node burnt")
    events, _ = played(a=[[Started(), begun, lost], [Started(), begun, lost]])
    assert [type(event) for _, event in events] == [Started, Done]
    record = events[-1][1].record  # type: ignore[union-attr]
    assert record is not None
    assert record.failure == Failure(
        type="WorkerDied", message="the node burnt", traceback="", attempts=2
    )
    events, _ = played(a=[[lost], [lost]])
    assert events[-1][1].refused == "run a: the node burnt while loading data"  # type: ignore[union-attr]
    events, _ = played(a=[[lost], [Started(), OK]])
    assert [event for _, event in events] == [Started(), OK]


def test_what_is_refused_is_not_tried_again() -> None:
    refused = Done(refused="no such data")
    events, executor = played(a=[[refused]])
    assert [event for _, event in events] == [Started(), refused]
    assert len(executor.started) == 1


def test_a_place_is_let_go_of_when_one_leaves_early_and_not_taken_for_nothing() -> None:
    executor = Played({"a": [[Started(), OK]]})
    running = executor.run([job("a")])
    next(running)
    assert executor.open == 1
    running.close()  # type: ignore[attr-defined]
    assert executor.open == 0
    executor.opened = None  # type: ignore[method-assign, assignment]
    assert list(executor.run([])) == []


def test_the_causes_of_death() -> None:
    assert _cause(3) == "the run's process ended by exit code 3"
    killed = "the run's process ended by signal 9 (often: out of memory; then lower the recipe's "
    assert _cause(-9).startswith(killed)


# Options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"executor": "cloud"}, "the executors are local, ray, slurm"),
        ({"address": "x:1"}, "--address is for --executor ray, not local"),
        ({"gpus": 1.0}, "--gpus is for --executor ray or slurm, not local"),
        ({"executor": "ray", "partition": "x"}, "--partition is for --executor slurm, not ray"),
        ({"executor": "ray", "per_device": 2}, "--per-device is for --executor local, not ray"),
        ({"executor": "slurm", "devices": "0"}, "--devices is for --executor local, not slurm"),
        ({"executor": "ray", "minutes": 5}, "--time is for --executor slurm, not ray"),
        ({"per_device": 2, "devices": "cpu"}, "--per-device is for CUDA devices"),
    ],
)
def test_options_of_other_executors_are_refused(options: dict[str, Any], said: str) -> None:
    from bench.request import slots_of

    with pytest.raises(ConfigError, match=said):
        slots_of(replace(REQUEST, **options))


@pytest.mark.parametrize(("executor", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_extra_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, executor: str, module: str
) -> None:
    monkeypatch.delitem(sys.modules, f"bench.executors.{executor}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    request = replace(REQUEST, executor=executor)
    said = rf"--executor {executor} needs {module}: python -m pip install -e '\.\[{executor}\]'"
    with pytest.raises(ConfigError, match=said):
        executor_of(request, QUICK, [None])


def test_what_is_extra_is_imported_only_when_asked_for() -> None:
    extra = {"ray", "submitit", "bench.executors.ray", "bench.executors.slurm"}
    for path in (ROOT / "bench").rglob("*.py"):
        tops = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import)]
        froms = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom)]
        names = {alias.name for node in tops for alias in node.names} | {n.module for n in froms}
        own = path in (ROOT / "bench/executors/ray.py", ROOT / "bench/executors/slurm.py")
        assert bool(names & extra) is own, path


def test_the_seconds_track_shares_no_device() -> None:
    own = replace(REQUEST, track="gpu", methods=("none",))
    suite_of(replace(own, gpus=1.0), DataOptions(), "cuda")
    for shared in ({"per_device": 2}, {"gpus": 0.5}, {"gpus": 1.5}):
        with pytest.raises(ConfigError, match="takes a device alone"):
            suite_of(replace(own, **shared), DataOptions(), "cuda")  # type: ignore[arg-type]
    assert isinstance(executor_of(REQUEST, QUICK, [None]), LocalProcesses)


# Locks


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Devices that have no hardware, and a folder for their locks."""
    monkeypatch.setattr(devices, "LOCKS", tmp_path)
    monkeypatch.setattr(devices, "_identity", lambda name: f"uuid-{name}")
    return tmp_path


@pytest.mark.parametrize(
    ("first", "second", "free"),
    [(False, False, True), (True, True, False), (True, False, False), (False, True, False)],
)
def test_one_holds_a_device_alone_or_several_share_it(
    locks: Path, first: bool, second: bool, free: bool
) -> None:
    with devices.held(["0", "0", None], first):
        with devices.held(["1", None], second):
            pass
        if free:
            with devices.held(["0"], second):
                pass
        else:
            with (
                pytest.raises(ConfigError, match="CUDA device 0 is taken: --track gpu takes"),
                devices.held(["1", "0"], second),
            ):
                pass
            with devices.held(["1"], True):
                pass  # let go of, though "0" was refused
    with devices.held(["0"], True):
        pass


def test_the_kernel_releases_what_the_dead_held(locks: Path) -> None:
    with devices.held(["0"], False):
        (path,) = locks.iterdir()
    text = (
        f"import fcntl, os, sys; h = os.open({str(path)!r}, os.O_RDONLY);"
        "fcntl.flock(h, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="its runs hold it"), devices.held(["0"], False):
            pass
        other.kill()
        other.wait()
        with devices.held(["0"], True):
            pass


def test_several_runs_a_device_take_turns_over_the_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bench.request import slots_of
    from tests.unit.test_request import devices as fake

    fake(monkeypatch, 2)
    slots = ["0", "1"] * 3
    assert slots_of(replace(REQUEST, per_device=3)) == (slots, "cuda")


@pytest.mark.gpu
def test_a_devices_identity_is_its_uuid() -> None:
    (name, *_) = devices.visible()
    assert devices._identity(name) == str(torch.cuda.get_device_properties(0).uuid)
    with (
        devices.held([name], True),
        pytest.raises(ConfigError, match=r"other runs|its runs"),
        devices.held([name], False),
    ):
        pass


# Slurm


def fake(folder: Path, name: str, output: str = "") -> None:
    """A command that notes its arguments and prints a line."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho $@ >> {folder}/{name}.calls\necho {output}\n")
    path.chmod(0o755)


def test_slurm_is_asked_for_an_array_that_it_may_queue_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    from bench.executors.slurm import SlurmArray

    for name, output in {"sbatch": "Submitted batch job 12", "srun": "", "scancel": ""}.items():
        fake(tmp_path, name, output)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    array = SlurmArray(tmp_path / "slurm", threads=3, gpus=2, partition="p", minutes=90, limit=1)
    with array.opened():
        for name in "ab":
            array.start(replace(job(name), plugin=ROOT / "baselines" / "fixed.py"))
        array._submit()
        script = next((tmp_path / "slurm").glob("*/*.sh"))
        lines = set(script.read_text().splitlines())
        assert {
            "#SBATCH --array=0-1%1", "#SBATCH --partition=p", "#SBATCH --time=90",
            "#SBATCH --gpus-per-node=2", "#SBATCH --cpus-per-task=3", "#SBATCH --requeue",
            "#SBATCH --signal=USR2@90",
        } <= lines  # fmt: skip
    assert (tmp_path / "scancel.calls").read_text().split() == ["12_0", "12_1"]
    assert not list((tmp_path / "slurm").iterdir())


def test_without_slurm_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    from bench.executors.slurm import SlurmArray

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="srun was not found"):
        list(SlurmArray(tmp_path / "slurm").run([job("a")]))


def test_a_mailbox_keeps_parts_for_the_job_that_is_queued_again(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    from bench.executors.slurm import Mailbox

    first, driver = Mailbox(tmp_path / "box"), Mailbox(tmp_path / "box")
    tick, other = Tick("train", 0.1, None), Part({"name": "trial 1"})
    for message in (Started(), PART, tick):
        first.put(message)
    assert list(driver.unread()) == [Started(), PART, tick]
    second = Mailbox(tmp_path / "box")  # the same job, begun anew
    assert second.parts() == [PART]
    for message in (tick, other):
        second.put(message)
    assert list(driver.unread()) == [tick, other]
    assert list(driver.unread()) == []
    assert Mailbox(tmp_path / "box").parts() == [PART, other]


@pytest.mark.parametrize(
    ("ending", "kinds"),
    [
        ("", [Started, Tick, Done]),
        ("silent before", [Started]),
        ("silent", [Started, Tick]),
        ("removed", []),  # by another driver, with all that was there
    ],
)
def test_a_slurm_job_whose_driver_is_gone_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, kinds: list[Any]
) -> None:
    pytest.importorskip("submitit")
    from bench.executors import slurm

    sent = Sent(replace(job("a"), origin=Origin.read()), str(tmp_path), {}, {})
    sent = replace(sent, job=replace(sent.job, plugin=Path("baselines/fixed.py")))
    sent = replace(sent, job=replace(sent.job, source=digest(ROOT / sent.job.plugin)))
    driver = tmp_path / "slurm-1/driver"
    driver.parent.mkdir()
    driver.touch()

    def silent() -> None:
        os.utime(driver, (time.time() - 1e4,) * 2)

    def made(job: Job, tell: Callable[[Message], None], seconds: float) -> Done:
        if ending == "silent":
            silent()
        if ending == "removed":
            shutil.rmtree(driver.parent)
        tell(Tick("train", 0.5, None))
        return Done(skipped="never")

    monkeypatch.setattr(slurm, "make", made)
    monkeypatch.chdir(tmp_path)
    if ending == "silent before":  # while the job waited in the queue
        silent()
    box = tmp_path / "slurm-1/box"
    task = slurm.Task(sent, box, driver)
    if ending:
        with pytest.raises(SystemExit, match="the driver is gone"):
            task()
    else:
        task()
    assert box.is_dir() == bool(kinds), "nothing is made where nobody reads"
    if kinds:
        assert [type(one) for one in slurm.Mailbox(box).unread()] == kinds


def test_what_a_killed_driver_has_left_of_slurm_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    from bench.executors.slurm import SlurmArray

    left = tmp_path / "slurm/slurm-abc"
    left.mkdir(parents=True)
    (left / "driver").touch()
    array = SlurmArray(tmp_path / "slurm", cluster="local")
    with array.opened():
        assert not left.exists()
        assert len(list((tmp_path / "slurm").iterdir())) == 1
    assert not list((tmp_path / "slurm").iterdir())
