"""Which runs are finished, which records are superseded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench import environment
from bench.archive import Archive
from bench.config import RunConfig
from bench.data.sources import canonical
from bench.environment import Origin
from bench.errors import ConfigError
from bench.record import Record
from bench.runner import DataOptions
from bench.worker import Job
from tests.golden.report_records import golden_records


def pair(method: str = "standard", **changes: object) -> tuple[Job, Record]:
    """A job and its finished record, made from a synthetic one."""
    record = next(
        r for r in golden_records() if r.status == "ok" and r.method.spec.startswith(method)
    )
    config = RunConfig.model_validate(
        {
            "suite": "demo",
            "task": {"data": "digits", "network": "small-cnn", "recipe": {"steps": 5}},
            "method": record.method.spec,
            "budget": 1.0,
            "seed": 0,
        }
    ).model_copy(update=changes)
    job = Job("a" * 16, config, Path("x.py"), "digest", DataOptions(), Origin("digest", "commit"))
    content = config.model_dump(mode="json")
    return job, record.model_copy(
        update={"hash": job.name, "suite": "demo", "config": content, "bench": "digest"}
    )


def test_a_finished_run_is_found_and_a_failed_or_changed_one_is_not(tmp_path: Path) -> None:
    job, record = pair()
    assert not Archive.read(tmp_path, "demo").finished(job)
    Archive.read(tmp_path, "demo").add(record)
    archive = Archive.read(tmp_path, "demo")
    assert archive.finished(job)
    assert not archive.older(job)
    assert archive.older(replace(job, origin=Origin("other", "commit")))
    assert not archive.finished(replace(job, name="b" * 16))  # another method source
    archive.add(record.model_copy(update={"status": "failed"}))
    assert not Archive.read(tmp_path, "demo").finished(job)


def test_a_new_record_of_a_cell_moves_the_old_one_aside(tmp_path: Path) -> None:
    _, record = pair()
    archive = Archive.read(tmp_path, "demo")
    archive.add(record)
    path = archive.add(record.model_copy(update={"hash": "b" * 16}))
    assert [p.name for p in sorted(path.parent.glob("*.json"))] == ["b" * 16 + ".json"]
    aside = tmp_path / "demo" / "superseded" / ("a" * 16 + ".json")
    assert json.loads(aside.read_text())["hash"] == "a" * 16


def test_a_kill_between_moving_and_writing_leaves_no_two_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, record = pair()
    archive = Archive.read(tmp_path, "demo")
    archive.add(record)
    monkeypatch.setattr("bench.archive.write_record", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        archive.add(record.model_copy(update={"hash": "b" * 16}))
    assert Archive.read(tmp_path, "demo").records == {}
    assert len(list((tmp_path / "demo" / "superseded").glob("*.json"))) == 1


def test_other_settings_under_one_task_name_are_refused(tmp_path: Path) -> None:
    job, record = pair()
    archive = Archive.read(tmp_path, "demo")
    archive.add(record)
    task = job.config.task
    recipe = task.recipe.model_copy(update={"steps": 6})
    changed = job.config.model_copy(update={"task": task.model_copy(update={"recipe": recipe})})
    with pytest.raises(ConfigError, match="recipe"):
        Archive.read(tmp_path, "demo").check(replace(job, config=changed))
    Archive.read(tmp_path, "demo").check(job)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("digits", "digits"),
        ("folder:/a/b/birds", "folder:birds"),
        ("folder:~/birds/", "folder:birds"),
        ("parquet:../shared/x/../birds", "parquet:birds"),
    ],
)
def test_canonical_names_hold_no_path(spec: str, name: str) -> None:
    assert canonical(spec) == name


def test_the_digest_covers_what_makes_results_and_nothing_else(tmp_path, monkeypatch):
    folder = tmp_path / "bench"
    shutil.copytree(
        environment.ROOT / "bench", folder, ignore=shutil.ignore_patterns("__pycache__")
    )
    assert {entry.name for entry in folder.iterdir()} >= environment.MAKERS
    monkeypatch.setattr(environment, "__file__", str(folder / "environment.py"))
    before = environment.bench_digest()
    for name in ("cli.py", "drive.py", "report/rows.py"):
        (folder / name).write_text("changed")
        assert environment.bench_digest() == before
    for name in ("stage.py", "train/session.py", "augment/native.c"):
        (folder / name).write_text("changed")
        assert environment.bench_digest() != before
        before = environment.bench_digest()
