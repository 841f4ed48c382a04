"""`augbench run` end to end: records, resuming, failures, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.record import read_record
from tests.integration.conftest import ENVIRONMENT, Command

OWN = ["run", "--data", "digits", "--steps", "20", "--budget", "1", "--name", "own"]


def records(folder: Path) -> dict[str, dict[str, Any]]:
    paths = sorted((folder / "results" / "own" / "runs").glob("*.json"))
    return {path.name: json.loads(path.read_text()) for path in paths}


def bits(record: dict[str, Any]) -> tuple[Any, ...]:
    """What must be equal in two runs of one configuration on one machine."""
    parts = (
        "hash",
        "scores",
        "val_scores",
        "weights",
        "curve",
        "plan",
        "trace",
        "policy",
        "steps",
    )
    flops = [(i["label"], i["calls"], i["flops"]) for i in record["bill"]["items"]]
    return (*(json.dumps(record[part]) for part in parts), flops)


def test_runs_resume_repeat_and_rank(augbench: Command, tmp_path: Path) -> None:
    first = augbench(*OWN, "-m", "none", "-m", "standard", "--seeds", "2")
    assert first.returncode == 0, first.stderr
    assert "[4/4]" in first.stdout
    before = records(tmp_path)
    assert len(before) == 4
    assert (tmp_path / "results/own/leaderboard.csv").is_file()

    again = augbench(*OWN, "-m", "none", "-m", "standard", "--seeds", "2")
    assert "4 finished runs found, 0 to go" in again.stdout
    assert records(tmp_path) == before

    # After deleting some, and with another number of jobs, the same bits come back.
    for name in list(before)[:2]:
        (tmp_path / "results/own/runs" / name).unlink()
    augbench(*OWN, "-m", "standard", "-m", "none", "--seeds", "2", "--jobs", "1")
    after = records(tmp_path)
    assert {name: bits(r) for name, r in after.items()} == {
        name: bits(r) for name, r in before.items()
    }


def test_failures_are_recorded_retried_and_make_the_exit_code(
    augbench: Command, plugin: Path, tmp_path: Path
) -> None:
    methods = ["raises", "killed", "flaky", "diverges", "skips", "overdraws", "standard", "none"]
    chosen = [part for method in methods for part in ("-m", method)]
    done = augbench(
        *OWN,
        *chosen,
        "--seeds",
        "1",
        "--plugin",
        str(plugin),
    )
    assert done.returncode == 1
    found = {r["method"]["name"]: r for r in records(tmp_path).values()}
    assert set(found) == set(methods) - {"skips"}
    assert "skips · 1 RT · seed 0: skipped: it needs the moon" in done.stdout

    assert found["raises"]["failure"]["type"] == "RuntimeError"
    assert found["raises"]["failure"]["attempts"] == 2
    assert 'raise RuntimeError("on purpose")' in found["raises"]["failure"]["traceback"]
    assert str(tmp_path) not in json.dumps(found["raises"]["config"])
    assert found["killed"]["failure"]["message"].startswith("the run's process ended by signal 9")
    assert found["killed"]["task"]["data"] == "digits"
    assert found["diverges"]["failure"]["type"] == "Diverged"
    assert found["overdraws"]["failure"]["type"] == "BudgetExhausted"
    for name in ("flaky", "standard", "none"):
        assert found[name]["status"] == "ok"
    table = (tmp_path / "results/own/leaderboard.md").read_text()
    assert "†" in table

    # Failures are not cached: only they run again.
    second = augbench(
        *OWN,
        *chosen,
        "--seeds",
        "1",
        "--plugin",
        str(plugin),
    )
    assert "3 finished runs found, 5 to go" in second.stdout


def test_a_changed_method_supersedes_its_records(
    augbench: Command, plugin: Path, tmp_path: Path
) -> None:
    (tmp_path / "marker").touch()
    run = [*OWN, "-m", "flaky", "-m", "none", "--seeds", "1", "--plugin", str(plugin)]
    assert augbench(*run).returncode == 0
    before = records(tmp_path)
    plugin.write_text(plugin.read_text().replace("steps=5", "steps=6"))
    assert augbench(*run).returncode == 0
    after = records(tmp_path)
    assert len(after) == 2
    assert len(set(after) & set(before)) == 1
    aside = list((tmp_path / "results/own/superseded").glob("*.json"))
    assert [path.name for path in aside] == sorted(set(before) - set(after))


def test_another_recipe_under_the_same_name_is_refused(augbench: Command, tmp_path: Path) -> None:
    assert augbench(*OWN, "-m", "none", "--seeds", "1").returncode == 0
    before = records(tmp_path)
    other = [part if part != "20" else "30" for part in OWN]
    refused = augbench(*other, "-m", "none", "--seeds", "1")
    assert refused.returncode == 2
    assert "recipe" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert records(tmp_path) == before


def started(tmp_path: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bench.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def processes_of(group: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == group and fields[0] != "Z":  # session id
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
@pytest.mark.parametrize("after", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_kill_9_of_the_driver_loses_only_what_was_running(tmp_path: Path, after: int) -> None:
    run = [*OWN, "-m", "none", "-m", "standard", "-m", "cutout", "--seeds", "2", "--jobs", "2"]
    folder = tmp_path / "results/own/runs"
    deadline = time.monotonic() + 120
    with started(tmp_path, *run) as driver:
        while len(list(folder.glob("*.json"))) < after and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(driver.pid, signal.SIGKILL)
    survivors = sorted(folder.glob("*.json"))
    assert len(survivors) >= after
    kept = {path.name: read_record(path).weights for path in survivors}  # none is torn

    deadline = time.monotonic() + 30
    while processes_of(driver.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(driver.pid) == []  # workers do not outlive their driver

    finish = started(tmp_path, *run)
    output, _ = finish.communicate(timeout=200)
    assert finish.returncode == 0, output
    assert f"{len(survivors)} finished runs found, {6 - len(survivors)} to go" in output
    final = {name: record["weights"] for name, record in records(tmp_path).items()}
    assert len(final) == 6
    assert kept.items() <= final.items()


def test_ctrl_c_ends_at_once_and_says_how_to_go_on(plugin: Path, tmp_path: Path) -> None:
    driver = started(
        tmp_path, *OWN, "-m", "none", "-m", "slow", "--seeds", "1", "--plugin", str(plugin)
    )
    folder = tmp_path / "results/own/runs"
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGINT)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "resume" in output
    assert "Traceback" not in output
    assert len(records(tmp_path)) == 1
