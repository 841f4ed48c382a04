"""`augbench publish`: a small suite is run, then edited as somebody might edit it."""

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import baselines
import methods
from bench.cli import app
from bench.errors import ConfigError
from bench.plugins import Plugin, discover
from bench.publish import checking, tables
from bench.publish import release as publishing
from bench.publish.checking import Checked, Request
from bench.publish.identities import violations
from bench.publish.release import release
from bench.record import read_record
from bench.report import readme
from tests.integration.tampering import EDITS, FILES, edit, find, forge, paths, save, spoil_csv

TOML = """
title = "Tiny: for tests"
budgets = [1]
seeds = 2
reference = "standard"
methods = ["none", "standard"]

[[tasks]]
data = "digits"
distort = ["clean", "imbalance=10,noise=0.1"]
network = "small-cnn"
recipe = { steps = 60, batch_size = 64, lr = 0.1 }
"""
README = "# Ours\n\n<!-- leaderboard tiny -->\n<!-- end -->\n\nMore text.\n"


@pytest.fixture(scope="module")
def plugins() -> dict[str, Plugin]:
    return discover(Path(package.__path__[0]) for package in (methods, baselines))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite, its records and its tables."""
    place = tmp_path_factory.mktemp("published")
    (place / "tiny.toml").write_text(TOML)
    results = place / "results"
    done = CliRunner().invoke(
        app,
        ["run", "--suite", str(place / "tiny.toml"), "--results", str(results), "--jobs", "1"],
    )
    assert done.exit_code == 0, done.output
    (place / "README.md").write_text(README)
    checking.refresh(Request(str(place / "tiny.toml"), results))
    return place


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be edited."""
    return Path(shutil.copytree(original, tmp_path / "copy"))


def request_of(place: Path, **changes: Any) -> Request:
    options: dict[str, Any] = {"minutes": 0.0} | changes
    return Request(str(place / "tiny.toml"), place / "results", **options)


def check(place: Path, plugins: dict[str, Plugin], **changes: Any) -> Checked:
    return checking.check(request_of(place, **changes), plugins)


def test_an_honest_suite_passes(place: Path, plugins: dict[str, Plugin]) -> None:
    findings = check(place, plugins).findings
    assert findings.problems == []
    said = "\n".join(findings.verified)
    for part in ("8 records agree", "8 hashes follow", "8 cells", "admitted", "README.md"):
        assert part in said
    assert any("trained again" in text for text in findings.unverified)


def test_a_second_finding_does_not_hide_a_first(place: Path, plugins: dict[str, Plugin]) -> None:
    edit(find(place), lambda r: r.update(protocol=2))
    edit(find(place, "none"), lambda r: r["scores"].update(worst_error=0.25))
    find(place, "none", "clean").write_text("{")
    problems = check(place, plugins).findings.problems
    for part in ("protocol 2", "worst_error is 0.25", "torn", "there is no record"):
        assert any(part in text for text in problems), part


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_a_record_is_found(name: str, place: Path, plugins: dict[str, Plugin]) -> None:
    change, said = EDITS[name]
    path = find(place)
    edit(path, change)
    problems = check(place, plugins).findings.problems
    blamed = [text for text in problems if said in text]
    assert blamed, problems
    # A group is measured by its first record, so an edit of that one accuses the others.
    assert any(path.stem in text for text in problems)


@pytest.mark.parametrize("name", FILES)
def test_a_change_of_files_is_found(name: str, place: Path, plugins: dict[str, Plugin]) -> None:
    change, said = FILES[name]
    change(place)
    problems = check(place, plugins).findings.problems
    assert any(said in text for text in problems), problems


def test_an_inadmissible_suite_is_refused(place: Path, plugins: dict[str, Plugin]) -> None:
    for distort in ("clean", "imbalance"):
        for seed in (0, 1):
            path = find(place, "none", distort, seed)
            like = json.loads(find(place, "standard", distort, seed).read_bytes())
            copied = {name: like[name] for name in ("scores", "val_scores", "curve", "weights")}
            edit(path, lambda r, copied=copied: r.update(copied))
    checking.refresh(request_of(place))
    assert any("not admitted" in text for text in check(place, plugins).findings.problems)


def test_rows_beyond_the_suite_are_said_and_failures_too(
    place: Path, plugins: dict[str, Plugin]
) -> None:
    (place / "tiny.toml").write_text(TOML.replace('"none", "standard"', '"none"'))
    failed = find(place, "none")
    record = json.loads(failed.read_bytes())
    record |= dict.fromkeys(("scores", "val_scores", "bill", "weights", "policy"))
    record |= {"status": "failed", "plan": [], "curve": [], "trace": {}, "prices": {}, "steps": 0}
    why = {"type": "Diverged", "message": "", "traceback": "", "attempts": 2}
    save(failed, record | {"failure": why})
    checking.refresh(request_of(place))
    findings = check(place, plugins).findings
    assert findings.problems == []
    assert any("records of standard (4)" in text for text in findings.notes)
    assert any("failed" in text and "Diverged" in text for text in findings.notes)


def test_a_method_may_decline_a_cell(
    place: Path, plugins: dict[str, Plugin], plugin: Path
) -> None:
    text = TOML.replace('"none", "standard"', '"none", "standard", "skips", "slow"')
    (place / "tiny.toml").write_text(text)
    findings = check(place, plugins | discover([], [plugin])).findings
    assert sum("skipped by the method: it needs the moon" in text for text in findings.notes) == 4
    assert len(findings.problems) == 4
    assert all("slow" in text and "there is no record" in text for text in findings.problems)


def test_what_is_begun_or_set_aside_is_said(place: Path, plugins: dict[str, Plugin]) -> None:
    suite = place / "results/tiny"
    for name in ("partial/0a.ckpt", "partial/0a.work", "partial/0b.jsonl", "quarantine/0c.json"):
        (suite / name).parent.mkdir(exist_ok=True)
        (suite / name).touch()
    notes = checking.check(request_of(place), plugins).findings.notes
    assert "2 runs are begun and not finished" in notes
    assert any(note.startswith("1 files that could not be trusted") for note in notes)


def test_a_suite_outside_of_the_results_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        checking.named("../results/tiny", place / "results")


def test_git_knows_of_edits(place: Path, plugins: dict[str, Plugin]) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(
            ["git", "-C", str(place), *who, *arguments], check=True, capture_output=True
        )

    git("init")
    git("add", ".")
    git("commit", "-m", "results")
    assert check(place, plugins).findings.problems == []
    edit(find(place), lambda r: r["scores"].update(nll=1.0))
    checking.refresh(request_of(place))
    name = find(place).name
    assert check(place, plugins).findings.problems == [f"{name}: differs from the last commit"]
    git("commit", "-a", "-m", "a better result")
    findings = check(place, plugins).findings
    assert findings.problems == []
    assert any(f"changed by a commit after their first one: {name}" in t for t in findings.notes)


# The re-run


def test_a_rerun_passes_and_finds_what_agrees_with_itself(
    place: Path, plugins: dict[str, Plugin]
) -> None:
    path = find(place)
    done = check(place, plugins, minutes=5.0, record=path.stem)
    assert done.findings.problems == []
    assert done.rerun is not None
    assert (done.rerun.environment, done.rerun.bits) == ([], [])

    save(path, forge(json.loads(path.read_bytes())))
    checking.refresh(request_of(place))
    assert violations(read_record(path)) == []
    assert check(place, plugins).findings.problems == []  # nothing but a re-run can tell
    (problem,) = check(place, plugins, minutes=5.0, record=path.stem).findings.problems
    assert path.stem in problem
    assert "other bits in an equal environment: scores (error)" in problem


def test_the_draw_follows_its_seed(place: Path, plugins: dict[str, Plugin]) -> None:
    from bench.publish.findings import Findings
    from bench.publish.rerun import choose

    records = check(place, plugins).records

    def drawn(seed: int, minutes: float = 5.0, name: str | None = None) -> str | None:
        choice = choose(
            records, plugins, seed=seed, name=name, minutes=minutes, findings=Findings()
        )
        return choice.record.hash if choice else None

    assert drawn(3) == drawn(3)
    assert len({drawn(seed) for seed in range(100)}) == 8
    assert drawn(0, minutes=1e-6) is None
    assert drawn(0, name=records[5].hash[:6]) == records[5].hash
    with pytest.raises(ConfigError, match="0 records begin so"):
        drawn(0, name="zz")
    changed = {name: Plugin(p.method, p.path, "other") for name, p in plugins.items()}
    with pytest.raises(ConfigError, match="cannot be repeated: the source of"):
        choose(records, changed, seed=0, name=records[0].hash, minutes=5, findings=Findings())


# The release


def test_a_release_is_whole_repeatable_and_never_overwritten(
    place: Path, plugins: dict[str, Plugin], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_report", lambda done: {"report/index.html": b"a page"})
    request, folder = request_of(place), tmp_path / "release"
    done = checking.check(request, plugins)

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            release(request, done, folder, anyway=False)
    assert list(folder.iterdir()) == []

    made = release(request, done, folder, anyway=False)
    assert made.name.startswith("tiny-p1-")
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=made, check=True)
    listed = {line.split()[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    there = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()}
    assert listed == there - {"SHA256SUMS"}
    with tarfile.open(made / "records.tar.gz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    for path in paths(place):
        assert (tmp_path / "unpacked" / "runs" / path.name).read_bytes() == path.read_bytes()
    assert "Released in spite" not in (made / "CHECK.md").read_text()
    assert '"hash"' not in (made / "environment.json").read_text()

    bits = (made / "records.tar.gz").read_bytes()
    assert release(request, done, folder, anyway=False) == made
    again = release(request, done, tmp_path / "again", anyway=False)
    assert (again / "records.tar.gz").read_bytes() == bits
    (made / "leaderboard.md").write_text("better numbers")
    with pytest.raises(ConfigError, match="holds another release of these records"):
        release(request, done, folder, anyway=False)


def test_problems_refuse_a_release_unless_it_says_so(
    place: Path, plugins: dict[str, Plugin], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_report", lambda done: {})
    spoil_csv(place)
    request = request_of(place)
    done = checking.check(request, plugins)
    with pytest.raises(ConfigError, match="1 problems; mend them"):
        release(request, done, tmp_path / "release", anyway=False)
    made = release(request, done, tmp_path / "release", anyway=True)
    assert "Released in spite of 1 problems" in (made / "CHECK.md").read_text()
    assert "leaderboard.csv is not what the records give" in (made / "CHECK.md").read_text()
    assert "did not pass its check" in (made / "CITATION.cff").read_text()


def test_the_command_ends_with_0_1_or_2(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = [str(place / "tiny.toml"), "--results", str(place / "results")]
    where += ["--rerun-minutes", "0", "--output", str(tmp_path / "release")]
    run = CliRunner().invoke
    passed = run(app, ["publish", *where, "--check"])
    assert passed.exit_code == 0, passed.output
    assert "tiny: 0 problems" in passed.output
    assert not (tmp_path / "release").exists()
    assert run(app, ["publish", *where]).exit_code == 0
    (made,) = (tmp_path / "release").iterdir()
    assert (made / "report" / "index.html").read_text().startswith("<!doctype html>")
    assert run(app, ["publish", *where, "--check", "--refresh"]).exit_code == 2
    assert run(app, ["publish", "nothing", "--check"]).exit_code == 2
    spoil_csv(place)
    refused = run(app, ["publish", *where, "--check"])
    assert refused.exit_code == 1
    assert "FAIL  " in refused.output
    monkeypatch.setattr(publishing, "_report", lambda done: {})
    where[-1] = str(tmp_path / "another")
    assert run(app, ["publish", *where, "--refresh"]).exit_code == 0


def test_a_table_of_several_budgets_names_one(place: Path) -> None:
    made = tables.made(place / "results", "tiny", "standard")
    text = "<!-- leaderboard tiny 1rt -->\nold\n<!-- end -->\n<!-- leaderboard x -->\n<!-- end -->"
    fresh = tables.rewritten(text, "tiny", None, made)
    assert "| place | method |" in fresh
    assert fresh.endswith("<!-- leaderboard x -->\n<!-- end -->")
    assert readme.names(fresh) == ["tiny", "x"]
    with pytest.raises(Exception, match="must name one of the budgets 1rt"):
        tables.rewritten(text.replace("1rt", "3rt"), "tiny", None, made)
