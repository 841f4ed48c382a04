"""The same jobs in every place: the same bits, one end each, and dead workers that are retried."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import drive
from bench.cli.common import plugins
from bench.executors import Executor
from bench.executors.local import LocalProcesses
from bench.executors.remote import Sent, hosted
from bench.record import Record
from bench.worker import Done, Job, Lost, Part, Started
from tests.integration.test_run import bits
from tests.unit.test_request import REQUEST

METHOD = '''
"""Two parts, or many steps.  What a file in MARKS says happens once, in the middle of them."""

import os
import signal
import time
from multiprocessing import parent_process
from pathlib import Path

from bench.augment.policy import Identity
from bench.method import Fitted, Method
from bench.train.loops import fit


def passed(name):
    """How often this was called, in all processes."""
    path = Path(MARKS) / name
    with path.open("ab") as file:
        file.write(b".")
    return path.stat().st_size


def happens():
    marks = Path(MARKS)
    if not (marks / "happens").exists():
        return
    what = (marks / "happens").read_text()
    (marks / "pid").write_text(str(os.getpid()))
    (marks / "happens").rename(marks / "happened")
    if what == "exit":
        os._exit(3)
    if what == "wait":
        time.sleep(600)
    victim = parent_process().pid if what == "host" else os.getpid()
    os.kill(victim, getattr(signal, what, signal.SIGKILL))
    time.sleep(60 if what == "host" else 0)


class Parts(Method):
    name = "parts"

    def run(self, session):
        for number in range(2):
            if number:
                happens()
            session.once("part", lambda: self._part(session), number=number)
        learner = session.learner()
        fit(session, learner, Identity(), steps=5)
        return Fitted(learner, Identity())

    def _part(self, session):
        passed("parts")
        return session.validate(session.learner()).error


class Steps(Identity):
    def sample(self, index, rng):
        if passed("steps") == 12:
            happens()
        return super().sample(index, rng)


class Trains(Method):
    name = "trains"

    def run(self, session):
        learner = session.learner()
        fit(session, learner, Steps())
        return Fitted(learner, Steps())
'''

ENTRIES = 3  # of a journal: what the reference costs, and two parts
STEPS = 20
Heard = dict[str, list[Any]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the method leaves marks; its text says so, as fork servers keep their environment."""
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def jobs(place: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """A plain training, and the two methods above, which save their state before every step."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "own.py").write_text(f"MARKS = {str(place)!r}\n{METHOD}")
    request = replace(
        REQUEST, methods=("none", "parts", "trains"), budgets=("1",), seeds=1, steps=STEPS,
        devices="cpu", results=folder / "results", checkpoint_minutes=1e-9,
    )  # fmt: skip
    return drive.plan(request, plugins([folder / "own.py"])).jobs


@pytest.fixture
def marks(place: Path, expected: dict[str, Any], jobs: list[Job]) -> Path:
    """Where marks are, without any, and without states of earlier runs."""
    saving = jobs[0].saving
    assert saving is not None
    for path in (*place.iterdir(), *saving.folder.iterdir()):
        path.unlink()
    return place


def heard(executor: Executor, jobs: list[Job]) -> Heard:
    """All events by job; each has begun once, and ends once."""
    found: Heard = {job.name: [] for job in jobs}
    for job, event in executor.run(jobs):
        assert not any(isinstance(e, Done) for e in found[job.name])
        found[job.name].append(event)
    for events in found.values():
        assert [isinstance(e, Started) for e in events] == [True] + [False] * (len(events) - 1)
        assert isinstance(events[-1], Done)
    return found


def record(events: list[Any]) -> Record:
    assert events[-1].refused is None, events[-1].refused
    found: Record = events[-1].record
    return found


def entries(events: list[Any]) -> int:
    return sum(isinstance(event, Part) for event in events)


def told(events: list[Any]) -> tuple[Any, ...]:
    """What must be the same everywhere."""
    content = record(events).model_dump(mode="json")
    environment = content["environment"]
    return *bits(content), environment["threads"], environment["augmentation"]


@pytest.fixture(scope="module")
def expected(jobs: list[Job], place: Path) -> dict[str, Any]:
    """What local processes make of the jobs."""
    found = heard(LocalProcesses([None, None]), jobs)
    assert [entries(events) for events in found.values()] == [0, ENTRIES, 0]
    assert len((place / "steps").read_text()) == STEPS + 1, "the rehearsal"
    return {name: told(events) for name, events in found.items()}


def check_retry(
    executor: Executor, job: Job, marks: Path, expected: dict[str, Any], what: str = "exit"
) -> None:
    """A worker that dies between two parts is followed by one that goes on."""
    (marks / "happens").write_text(what)
    events = heard(executor, [job])[job.name]
    assert told(events) == expected[job.name]
    assert (marks / "happened").exists()
    # What was on its way when a whole machine died is lost with it.
    repeated = {2, 3} if what == "host" else {2}
    assert len((marks / "parts").read_text()) in repeated
    assert entries(events) == ENTRIES


def check_checkpoint(
    executor: Executor, job: Job, marks: Path, expected: dict[str, Any], what: str = "SIGKILL"
) -> None:
    """A worker that ends within a training is followed by one that goes on at that step."""
    (marks / "happens").write_text(what)
    check_bill(heard(executor, [job])[job.name], job, marks, expected)


def check_bill(events: list[Any], job: Job, marks: Path, expected: dict[str, Any]) -> None:
    """The same bits as without the kill, which has cost a rehearsal and a step."""
    assert told(events) == expected[job.name]
    assert (marks / "happened").exists()
    again = len((marks / "steps").read_text()) - (STEPS + 1)
    assert again == 2, "the rehearsal, and the step that was cut off"
    bill = record(events).bill
    assert bill is not None
    assert bill.redone_flops == bill.flops // STEPS, "no FLOP of the cut step is in"
    assert bill.checkpoint_seconds > 0


# On this machine


def test_a_local_worker_that_dies_in_a_training_is_followed_by_another_at_that_step(
    jobs: list[Job], expected: dict[str, Any], marks: Path
) -> None:
    check_checkpoint(LocalProcesses([None]), jobs[2], marks, expected)


def test_a_worker_that_is_taken_for_dead_ends_when_another_goes_on(
    jobs: list[Job], expected: dict[str, Any], marks: Path
) -> None:
    (marks / "happens").write_text("SIGSTOP")
    stale = LocalProcesses([None])
    with stale.opened():
        stale.start(jobs[2])
        wait_for((marks / "happened").exists)
        events = heard(LocalProcesses([None]), jobs[2:])[jobs[2].name]
        check_bill(events, jobs[2], marks, expected)
        process = stale._running[jobs[2].name].process
        assert process.pid is not None
        time.sleep(1.0)  # after which a process looks again whether the run is its own
        os.kill(process.pid, signal.SIGCONT)
        process.join(60)
        assert process.exitcode == 1
    check_bill(events, jobs[2], marks, expected)  # it has taken no step


def test_a_local_worker_that_dies_is_followed_by_another(
    jobs: list[Job], expected: dict[str, Any], marks: Path
) -> None:
    check_retry(LocalProcesses([None]), jobs[1], marks, expected)


def test_one_who_leaves_early_ends_what_runs(jobs: list[Job], marks: Path) -> None:
    executor = LocalProcesses([None])
    running = executor.run([jobs[0]])
    next(running)
    (process,) = [one.process for one in executor._running.values()]
    running.close()  # type: ignore[attr-defined]
    assert process.exitcode == -signal.SIGKILL


# As on another machine


def test_a_hosted_job_is_the_same(jobs: list[Job], expected: dict[str, Any], marks: Path) -> None:
    sent = Sent.of(jobs[1])
    assert list(sent.files) == ["own.py"]
    here = os.getcwd()
    messages = list(hosted(sent))
    assert os.getcwd() == here
    assert entries(messages) == ENTRIES
    assert told(messages) == expected[jobs[1].name]


def test_a_hosted_job_whose_process_dies_is_lost(jobs: list[Job], marks: Path) -> None:
    (marks / "happens").write_text("SIGKILL")
    *_, last = hosted(Sent.of(jobs[1]))
    assert isinstance(last, Lost)
    assert "signal 9" in last.cause


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda job: replace(job, origin=replace(job.origin, bench="0" * 16)), "bench/ on"),
        (lambda job: replace(job, source="0" * 16), "is missing, or another version"),
        (lambda job: replace(job, name="0" * 16), "its method or its data are not"),
    ],
)
def test_other_code_or_data_are_refused_in_a_sentence(
    jobs: list[Job], change: Callable[[Job], Job], said: str
) -> None:
    sent = Sent.of(change(jobs[0]))
    assert not sent.files
    assert not sent.job.plugin.is_absolute()
    *_, last = hosted(sent)
    assert isinstance(last, Done)
    assert last.record is None
    assert last.refused is not None
    assert said in last.refused
    assert "\n" not in last.refused


# Slurm, with submitit's processes in the place of Slurm's


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    """An array whose jobs are processes; all of them have ended when it has."""
    local = pytest.importorskip("submitit.local.local")
    from bench.executors.slurm import SlurmArray

    processes, start = [], local.start_controller

    def started(*arguments: Any, **options: Any) -> Any:
        processes.append(start(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(local, "start_controller", started)
    yield SlurmArray(tmp_path / "slurm", cluster="local", minutes=5)
    for process in processes:
        process.wait(timeout=60)


PREEMPTED = "SIGUSR2"  # what Slurm sends before it takes the node away


def test_a_slurm_job_is_the_same(
    slurm: Executor, jobs: list[Job], expected: dict[str, Any], marks: Path, tmp_path: Path
) -> None:
    found = heard(slurm, jobs[:1])
    assert told(found[jobs[0].name]) == expected[jobs[0].name]
    assert not list((tmp_path / "slurm").iterdir())


def test_a_slurm_job_that_is_queued_again_goes_on_at_that_step(
    jobs: list[Job], expected: dict[str, Any], marks: Path, tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    from bench.executors.slurm import Mailbox, Task

    (marks / "happens").write_text("SIGKILL")
    (tmp_path / "driver").touch()
    task = Task(Sent.of(jobs[2]), tmp_path / "box", tmp_path / "driver")
    for code in (-signal.SIGKILL, 0):
        process = multiprocessing.get_context("forkserver").Process(target=task)
        process.start()
        process.join()
        assert process.exitcode == code
    check_bill(list(Mailbox(tmp_path / "box").unread()), jobs[2], marks, expected)


@pytest.mark.slow
def test_a_slurm_job_that_is_preempted_in_a_training_goes_on_at_that_step(
    slurm: Executor, jobs: list[Job], expected: dict[str, Any], marks: Path
) -> None:
    check_checkpoint(slurm, jobs[2], marks, expected, PREEMPTED)


@pytest.mark.slow
def test_a_slurm_job_that_is_preempted_between_parts_goes_on_beside_others(
    slurm: Executor, jobs: list[Job], expected: dict[str, Any], marks: Path
) -> None:
    (marks / "happens").write_text(PREEMPTED)
    found = heard(slurm, jobs[:2])
    assert {name: told(events) for name, events in found.items()}.items() <= expected.items()
    assert (marks / "happened").exists()
    assert (marks / "parts").read_text() == ".."


@pytest.mark.slow
def test_a_slurm_job_of_a_killed_driver_ends_when_another_goes_on(
    slurm: Executor, jobs: list[Job], expected: dict[str, Any], marks: Path, tmp_path: Path
) -> None:
    from bench.executors.slurm import SlurmArray

    (marks / "happens").write_text("SIGSTOP")
    killed = SlurmArray(tmp_path / "slurm", cluster="local", minutes=5)
    left = killed.run(jobs[2:])
    next(left)  # and never looks again
    wait_for((marks / "happened").exists)
    events = heard(slurm, jobs[2:])[jobs[2].name]
    pid = int((marks / "pid").read_text())
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not alive(pid))
    check_bill(events, jobs[2], marks, expected)
    assert not list((tmp_path / "slurm").iterdir())


@pytest.mark.slow
def test_a_slurm_job_that_dies_is_followed_by_another(
    slurm: Executor, jobs: list[Job], expected: dict[str, Any], marks: Path
) -> None:
    check_retry(slurm, jobs[1], marks, expected)


# Ray, with a cluster of this machine


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Callable[[], Executor]]:
    """Two cores, under Ray."""
    ray = pytest.importorskip("ray")
    from bench.executors.ray import RayCluster

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield RayCluster
    ray.shutdown()


@pytest.mark.slow
def test_ray_makes_the_same(
    cluster: Callable[[], Executor], jobs: list[Job], expected: dict[str, Any], marks: Path
) -> None:
    found = heard(cluster(), jobs)
    assert {name: told(events) for name, events in found.items()} == expected
    assert [entries(events) for events in found.values()] == [0, ENTRIES, 0]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["exit", "host"])
def test_a_run_or_a_worker_of_ray_that_dies_is_followed_by_another(
    cluster: Callable[[], Executor],
    jobs: list[Job],
    expected: dict[str, Any],
    marks: Path,
    what: str,
) -> None:
    check_retry(cluster(), jobs[1], marks, expected, what)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["SIGKILL", "host"])
def test_a_training_on_ray_goes_on_from_its_checkpoint(
    cluster: Callable[[], Executor],
    jobs: list[Job],
    expected: dict[str, Any],
    marks: Path,
    what: str,
) -> None:
    check_checkpoint(cluster(), jobs[2], marks, expected, what)


@pytest.mark.slow
def test_a_training_on_ray_begins_anew_where_no_folder_is_shared(
    cluster: Callable[[], Executor], jobs: list[Job], expected: dict[str, Any], marks: Path
) -> None:
    (marks / "happens").write_text("SIGKILL")
    own = replace(jobs[2], saving=None)  # as `Sent.unpacked` has it there
    events = [event for _, event in cluster().run([own])]
    assert told(events) == expected[own.name]
    assert len((marks / "steps").read_text()) == 12 + STEPS + 1


@pytest.mark.slow
def test_who_leaves_ray_early_leaves_no_process(
    cluster: Callable[[], Executor], jobs: list[Job], marks: Path
) -> None:
    (marks / "happens").write_text("wait")
    pid = marks / "pid"
    for _, event in cluster().run([jobs[1]]):
        if isinstance(event, Part) and event.entry["name"].startswith("part"):
            break
    wait_for(lambda: not pid.exists() or not alive(int(pid.read_text())))


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def wait_for(found: Callable[[], bool]) -> None:
    """Looks until something is so, for a minute."""
    over = time.monotonic() + 60
    while not found():
        assert time.monotonic() < over
        time.sleep(0.1)
