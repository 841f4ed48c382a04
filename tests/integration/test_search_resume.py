"""A search that is killed in the middle of a trial goes on, and ends in the same record."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from baselines._proposers import PROPOSERS
from baselines._search import Search
from baselines.search import SearchBaseline, SearchConfig
from bench.check import small_config
from bench.errors import Diverged
from bench.plugins import Plugin, Selected
from bench.record import read_record
from bench.stage import Stage, stage
from bench.train.journal import Entry, Journal
from bench.train.prepare import Prepared
from tests.integration.conftest import ENVIRONMENT
from tests.integration.test_run import bits

# One worker has all of them: they share runs.
pytestmark = pytest.mark.xdist_group("search-resume")

TRIALS = 13  # three more than Optuna's samplers draw at random
SPEC = f"stopped[proposer=tpe,rates=2,trials={TRIALS}]"
METHOD = '''
"""A search whose process ends or waits in the middle of a trial, once."""

import os
import signal
import time
from pathlib import Path

from baselines import _search
from baselines.search import SearchBaseline

step = _search.Training.step
FOLDER = Path(os.environ["STOP_FOLDER"])
AT = int(os.environ.get("STOP_AT", "-1"))


def stopping(training, progress):
    with (FOLDER / "steps").open("ab") as steps:
        steps.write(b".")
    if (FOLDER / "steps").stat().st_size == AT:
        if "STOP_WAITS" in os.environ:
            (FOLDER / "pid").write_text(str(os.getpid()))
            (FOLDER / "waits").touch()
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    return step(training, progress)


_search.Training.step = stopping


class Stopped(SearchBaseline):
    name = "stopped"
'''


class Place:
    """A folder in which `augbench run` makes one search.

    Attributes:
        steps: How many steps its processes have begun.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.plugin = folder, folder / "stopping.py"
        if not folder.is_dir():
            folder.mkdir()
            self.plugin.write_text(METHOD)

    def start(self, *more: str, **environment: str) -> "subprocess.Popen[str]":
        options = (
            "run --data digits --network small-cnn --steps 20 --budget 5 --seeds 1 --name own"
        )
        own = ["-m", SPEC, "--plugin", str(self.plugin)]
        return subprocess.Popen(
            [sys.executable, "-m", "bench.cli", *options.split(), *own, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env={**ENVIRONMENT, "STOP_FOLDER": str(self.folder), **environment},
            start_new_session=True,
        )

    def run(self, *more: str, **environment: str) -> str:
        with self.start(*more, **environment) as driver:
            output, _ = driver.communicate(timeout=300)
        assert driver.returncode == 0, output
        return output

    @property
    def steps(self) -> int:
        return (self.folder / "steps").stat().st_size

    @property
    def record(self) -> dict[str, Any]:
        (path,) = (self.folder / "results/own/runs").glob("*.json")
        read_record(path)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    @property
    def partial(self) -> Path | None:
        left = list((self.folder / "results/own/partial").glob("*"))
        found = [path for path in left if path.suffix == ".jsonl"]
        assert len(found) == bool(left), "other files stay no longer than the parts"
        return found[0] if found else None


def trials(partial: Path | None) -> int:
    """How many finished trials a file holds."""
    assert partial is not None
    lines = partial.read_text().splitlines()
    names = [json.loads(line)["entry"].get("name", "") for line in lines]
    return sum(name.startswith("trial") for name in names)


def rehearsed(whole: Place) -> int:
    """Steps that a process takes before its first trial."""
    plan = whole.record["plan"]
    return whole.steps - plan[0]["train"] - plan[1]["train"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A search that nothing disturbs."""
    place = Place(tmp_path_factory.mktemp("whole") / "run")
    place.run()
    return place


@pytest.fixture(scope="module")
def killed(whole: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A search whose driver and worker were killed in the middle of the twelfth trial."""
    place = Place(tmp_path_factory.mktemp("killed") / "run")
    each = whole.record["plan"][0]["train"] // TRIALS
    at = rehearsed(whole) + 11 * each + each // 2
    with place.start(STOP_AT=str(at), STOP_WAITS="1") as driver:
        deadline = time.monotonic() + 200
        while not (place.folder / "waits").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)
    worker = Path("/proc") / (place.folder / "pid").read_text()
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists(), "it ends with its driver, also if its output goes nowhere"
    assert place.steps == at
    assert trials(place.partial) == 11
    return place


@pytest.fixture
def copied(killed: Place, tmp_path: Path) -> Place:
    """What the kill left, to be spoilt."""
    return Place(Path(shutil.copytree(killed.folder, tmp_path / "run")))


def test_an_undisturbed_search_leaves_its_record_alone(whole: Place) -> None:
    record = whole.record
    assert whole.partial is None
    (propose,) = (item for item in record["bill"]["items"] if item["label"] == "propose")
    assert (propose["calls"], propose["flops"]) == (1 + 2 * TRIALS + 1, 0)  # made, trials, shares
    assert 0 < propose["seconds"] < record["bill"]["seconds"]
    assert len(record["trace"]["trial_error"]["value"]) == TRIALS


@pytest.mark.slow
def test_a_killed_worker_is_followed_by_one_that_goes_on(whole: Place, tmp_path: Path) -> None:
    place = Place(tmp_path / "run")
    each = whole.record["plan"][0]["train"] // TRIALS
    place.run(STOP_AT=str(rehearsed(whole) + 4 * each + each // 2))
    assert bits(place.record) == bits(whole.record)
    assert place.steps == whole.steps + rehearsed(whole) + each // 2, "four were not repeated"
    assert place.partial is None


def test_after_a_kill_of_everything_the_same_command_goes_on(whole: Place, copied: Place) -> None:
    assert copied.partial is not None
    with copied.partial.open("ab") as file:
        file.write(b'{"digest": "0123456789abcdef", "entry": {"name": "tri')  # torn
    before, each = copied.steps, whole.record["plan"][0]["train"] // TRIALS
    output = copied.run()
    assert "note: 1 unfinished runs continue from their finished parts" in output
    assert bits(copied.record) == bits(whole.record)
    assert copied.steps - before == rehearsed(whole) + 3 * each
    assert copied.record["bill"]["rt_flops"] == whole.record["bill"]["rt_flops"]
    assert copied.partial is None


def test_what_other_code_has_finished_is_not_used(copied: Place) -> None:
    path = copied.partial
    assert path is not None
    before = path.read_bytes()
    copied.plugin.write_text(METHOD + "\n# changed\n")
    output = copied.run("--dry-run")
    assert "note: 1 unfinished runs were begun by another version of the code" in output
    assert "continue" not in output
    assert path.read_bytes() == before, "nothing is lost by looking"


def test_a_damaged_file_is_refused_in_a_sentence(copied: Place) -> None:
    path = copied.partial
    assert path is not None
    spoilt = path.read_bytes().replace(b'"trial 5"', b'"trial 6"')
    path.write_bytes(spoilt)
    with copied.start("--dry-run") as driver:
        output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 2
    assert "jsonl is damaged in line" in output
    assert output.count("\n") == 1
    assert path.read_bytes() == spoilt


@pytest.mark.slow
def test_without_a_damaged_file_the_run_begins_anew(whole: Place, copied: Place) -> None:
    path = copied.partial
    assert path is not None
    path.write_bytes(path.read_bytes().replace(b'"trial 5"', b'"trial 6"'))
    before = copied.steps
    output = copied.run()
    assert "jsonl is damaged in line" in output
    assert (copied.folder / "results/own/quarantine" / path.name).is_file()
    assert bits(copied.record) == bits(whole.record)
    assert copied.steps - before == whole.steps


# In one process, with every proposer


class Killed(BaseException):
    """Stands for a signal."""


def staged(small: Prepared, journal: Journal) -> Stage:
    selected = Selected(Plugin(SearchBaseline, Path(__file__), ""), SearchConfig(), "search", None)
    set_ = stage(small, small_config(selected, 2.0), journal=journal)
    set_.clock.start()
    return set_


def searched(set_: Stage, config: SearchConfig) -> Any:
    """A run's outcome: weights, trace, plan, tallies and bill."""
    fitted = SearchBaseline(config).run(set_.session)
    items = [(label, item.calls, item.flops) for label, _, item in set_.meter.ledger.items("run")]
    session, flops = set_.session, set_.meter.ledger.billed_flops
    trace = session.trace.export()
    assert len(trace["trial_error"]["value"]) == config.count()
    return fitted.learner.digest(), trace, session.plans, session.tallies, items, flops


def broken(small: Prepared, monkeypatch: pytest.MonkeyPatch, config: SearchConfig) -> list[Entry]:
    """What a search leaves that is killed after its last trial's training."""
    entries: list[Entry] = []
    judge, judged = Search.judge, [0]

    def killing(search: Search, training: Any) -> float | None:
        judged[0] += 1
        if judged[0] == config.count():
            raise Killed
        return judge(search, training)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "judge", killing)
        with pytest.raises(Killed):
            searched(staged(small, Journal((), entries.append)), config)
    assert sum(entry["name"].startswith("trial") for entry in entries) == config.count() - 1
    return entries


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("botorch", "ax")]


@pytest.mark.parametrize("name", [*(n for n in PROPOSERS if n not in ("botorch", "ax")), *SLOW])
def test_every_proposer_goes_on_with_the_same_proposals(
    small: Prepared, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    space = "randaugment" if name == "grid" else "optimiser-log"
    options: dict[str, Any] = {"space": space} if name == "grid" else {"rates": 1, "space": space}
    config = SearchConfig(proposer=name, trials=None if name == "grid" else 12, **options)
    expected = searched(staged(small, Journal()), config)
    entries = broken(small, monkeypatch, config)
    assert searched(staged(small, Journal(entries)), config) == expected


def test_a_trial_that_raises_diverged_has_failed_and_others_errors_are_errors(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SearchConfig(trials=3, rates=1, space="optimiser-log")
    judge, errors = Search.judge, iter([None, Diverged("on purpose"), None])

    def raising(search: Search, training: Any) -> float | None:
        if (error := next(errors)) is not None:
            raise error
        return judge(search, training)

    monkeypatch.setattr(Search, "judge", raising)
    set_ = staged(small, Journal())
    _, trace, _, tallies, _, _ = searched(set_, config)
    found = trace["trial_error"]["value"]
    assert [error is None for error in found] == [False, True, False]
    assert tallies["failed_trials"] == 1
    costs = trace["trial_cost"]["value"]
    assert 0 < costs[1] < costs[0]
    errors = iter([RuntimeError("on purpose")])
    with pytest.raises(RuntimeError, match="on purpose"):
        searched(staged(small, Journal()), config)
