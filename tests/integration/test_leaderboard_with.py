"""`augbench leaderboard SUITE --with PATH`: committed records and a user's own, on disk."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

from report_records import GOLDEN, SUITE, golden_records, make, save

from bench.cli import app
from bench.record import Record, record_path
from bench.report.own import tabulate
from bench.report.render import csv, markdown

FILES = ("joined.csv", "joined.md")


def own_records() -> Iterator[Record]:
    """A new method on one task, a committed row anew, and runs that cannot join."""
    for seed, error in enumerate((0.069, 0.085, 0.061)):
        yield make("mine", seed=seed, error=error, environment={"torch": "2.12"}, bench="c" * 64)
    yield make("mine", seed=5, error=0.07)
    yield make("mine", budget=10.0, error=0.05, hash="ten")
    for record in golden_records():
        if record.method.spec == "gar":
            bill = {"seconds_share": 0.9}
            error = record.scores.error if record.scores else None
            task = "digits" if record.task and record.task.data == "digits" else "digits-noisy"
            yield make("gar", task, record.seed, error, weights="other", bill=bill)


def place(folder: Path) -> tuple[Path, Path]:
    """Committed and own records on disk: the two results folders."""
    committed, own = folder / "results", folder / "local"
    save(golden_records(), committed)
    save(own_records(), own)
    return committed, own


def texts(folder: Path) -> dict[str, str]:
    committed, own = place(folder)
    tables = tabulate(committed, SUITE, [own])
    return dict(zip(FILES, (csv(tables), markdown(tables)), strict=True))


@pytest.mark.parametrize("name", FILES)
def test_the_joined_files_are_the_golden_ones(tmp_path: Path, name: str) -> None:
    assert texts(tmp_path)[name] == (GOLDEN / name).read_text(encoding="utf-8")


def call(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["leaderboard", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_it_is_printed_and_written_only_where_asked(tmp_path: Path) -> None:
    committed, own = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, shown, _ = call(SUITE, "--results", committed, "--with", own)
    assert code == 0
    assert "mine (local)" in shown
    assert str(tmp_path) not in shown
    assert sorted(tmp_path.rglob("*")) == before
    output = tmp_path / "out" / "joined"
    code, shown, _ = call(SUITE, "--results", committed, "--with", own, "--output", output)
    assert code == 0
    assert [path.name for path in sorted(output.iterdir())] == [
        "leaderboard.csv",
        "leaderboard.md",
    ]
    assert str(tmp_path) not in (output / "leaderboard.md").read_text(encoding="utf-8")


def test_every_kind_of_path_finds_the_records(tmp_path: Path) -> None:
    committed, own = place(tmp_path)
    one = record_path(own, SUITE, make("mine", error=0.069).hash)
    for path in (own, own / SUITE, own / SUITE / "runs", one):
        (table,) = tabulate(committed, SUITE, [path])
        assert "mine (local)" in {row.spec for row in table.rows}
    bare = tmp_path / "kept"
    bare.mkdir()
    (bare / one.name).write_bytes(one.read_bytes())
    (table,) = tabulate(committed, SUITE, [bare, own])
    assert {"mine (kept)", "mine (local)"} <= {row.spec for row in table.rows}
    (table,) = tabulate(committed, SUITE, [own, own / SUITE])
    assert {"mine (local)", "mine (local 2)"} <= {row.spec for row in table.rows}


def test_a_record_of_another_schema_is_left_out_and_said(tmp_path: Path) -> None:
    committed, own = place(tmp_path)
    (own / SUITE / "runs" / "old.json").write_text('{"schema_version": 0}')
    (table,) = tabulate(committed, SUITE, [own])
    assert "Left out from local: 1 records of another schema than 1." in table.conditions


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    committed, own = place(tmp_path)
    (tmp_path / "empty").mkdir()
    torn = tmp_path / "torn.json"
    torn.write_text("{")
    save([make("mine", budget=10.0, error=0.05, hash="ten")], tmp_path / "foreign")
    save([make("mine", suite="birds")], tmp_path / "birds")
    base = (SUITE, "--results", committed)
    mistakes = {
        (*base, "--with", tmp_path / "nowhere"): "there is no such file or folder",
        (*base, "--with", tmp_path / "empty"): "it holds no records, none of demo",
        (*base, "--with", tmp_path / "birds"): "only records of birds, none of demo",
        (*base, "--with", torn): "is torn or not JSON",
        (*base, "--with", tmp_path / "foreign"): "mine, 1 run: 10 RT, and the committed",
        (*base, "--output", tmp_path / "out"): "--output goes with --with",
        (*base, "--with", own, "--output", committed / SUITE): "in it alone",
        (*base, "--with", own, "--output", torn): "--output",
    }
    for arguments, words in mistakes.items():
        code, shown, error = call(*arguments)
        assert (code, shown) == (2, ""), arguments
        assert error.startswith("augbench: ")
        assert words in error
        assert error.count("\n") == 1


if __name__ == "__main__":  # python -m tests.integration.test_leaderboard_with: the golden files
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        for name, text in texts(Path(scratch)).items():
            (GOLDEN / name).write_text(text, encoding="utf-8")
