"""Records on disk to the published files, compared byte for byte with those in `tests/golden`."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

from report_records import GOLDEN, SUITE, golden_numbers, golden_records, make, save

from bench.errors import RecordError
from bench.record import record_path
from bench.report.leaderboard import write


@pytest.mark.parametrize("name", ["leaderboard.csv", "leaderboard.md"])
def test_files_are_the_golden_ones(tmp_path, name):
    save(golden_records(), tmp_path)
    tables, paths = write(tmp_path, SUITE, numbers=golden_numbers())
    assert [table.title for table in tables] == ["demo: 3 RT, portable track"]
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        f"{SUITE}/leaderboard.csv",
        f"{SUITE}/leaderboard.md",
    ]
    found = (tmp_path / SUITE / name).read_text(encoding="utf-8")
    assert found == (GOLDEN / name).read_text(encoding="utf-8")


def test_writing_again_changes_no_byte(tmp_path):
    save(golden_records(), tmp_path)
    first = [path.read_bytes() for path in write(tmp_path, SUITE)[1]]
    assert [path.read_bytes() for path in write(tmp_path, SUITE)[1]] == first
    assert not list((tmp_path / SUITE).glob(".*"))


def test_no_records_and_torn_records_are_one_sentence(tmp_path):
    with pytest.raises(RecordError, match="augbench run --suite"):
        write(tmp_path, SUITE)
    save([make()], tmp_path)
    path = record_path(tmp_path, SUITE, make().hash)
    path.write_text(path.read_text()[:100])
    with pytest.raises(RecordError, match="torn or not JSON"):
        write(tmp_path, SUITE)


def test_report_needs_no_torch():
    heavy = "import sys, bench.report.leaderboard as _; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", heavy], check=True)
    light = "import sys, bench.report.statistics; assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", light], check=True)
