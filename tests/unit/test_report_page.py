"""The report: its data against the leaderboard's, its page, its pictures, its LaTeX."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.record import BillItem, CurvePoint, Record
from bench.report import facts, latex, leaderboard, page, pictures, report, tidy
from bench.report.pictures import Data
from bench.report.table import Leaderboard
from tests.golden.report_records import SUITE, golden_records, make, save

HOSTILE = "standard[x=</script><script>alert(1)</script>\u2028&<img src=x onerror=y>]"
VOID = {"meta", "link", "br", "wbr", "img", "input", "hr"}


def labels(record: Record) -> dict[str, list[str]]:
    return {}


def told() -> list[Record]:
    """The golden records, one with everything that a report can show, and a hostile name."""
    records = golden_records()
    for place, record in enumerate(records):
        if record.scores is None or record.bill is None:
            continue
        error = record.scores.error
        points = [
            CurvePoint(fraction=f, spent=3 * f, val_error=error, test_error=min(1, error / f))
            for f in (0.25, 0.5, 0.75, 1.0)
        ]
        items = [
            BillItem(label=label, key={}, calls=1, flops=flops, seconds=seconds)
            for label, flops, seconds in (("train", 10**12, 9.0), ("update", 10**11, 1.5))
        ]
        counts = [[9 if i == j else 1 for j in range(10)] for i in range(10)]
        trace = {"probability": {"step": [0, 5], "value": [[0.1, 0.9], [0.2, 0.8]]}}
        records[place] = record.model_copy(
            update={
                "curve": points,
                "bill": record.bill.model_copy(update={"items": items}),
                "scores": record.scores.model_copy(update={"confusion": counts}),
                "trace": trace if record.method.name == "gar" else {},
            }
        )
    return [*records, *(make(HOSTILE, "digits", seed, 0.3, bill={}) for seed in range(3))]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return told()


@pytest.fixture(scope="module")
def boards(records: list[Record]) -> list[Leaderboard]:
    return leaderboard.build(records, suite=SUITE)


@pytest.fixture(scope="module")
def data(boards: list[Leaderboard], records: list[Record]) -> Data:
    return pictures.gather(boards, records)


@pytest.fixture(scope="module")
def text(boards: list[Leaderboard], records: list[Record], data: Data) -> str:
    return page.html(boards, records, data, labels)


class Reader(HTMLParser):
    """Checks that elements nest, and keeps what a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def expanded(packed: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A table as `report.js` unpacks it."""
    table, rows = packed["tables"][name], []
    for values in table["rows"]:
        row = dict(zip(table["columns"], values, strict=True))
        for column, names in packed["coded"].items():
            if column in row:
                row[column] = packed[names][row[column]]
        rows.append(row)
    return rows


# The data


def test_the_front_is_what_comparing_all_pairs_gives() -> None:
    generator = np.random.Generator(np.random.Philox(3))
    for slack in (0.0, 0.1):
        for _ in range(50):
            points = [tuple(p) for p in generator.integers(1, 9, size=(12, 2)).tolist()]
            wanted = [
                not any(
                    (c <= (1 + slack) * cost and e < error) or (c < cost and e <= error)
                    for c, e in points
                )
                for cost, error in points
            ]
            assert tidy.front(points, slack) == wanted
    assert tidy.front([]) == []


def test_the_embedded_numbers_are_the_leaderboards(
    read: Reader, boards: list[Leaderboard], data: Data
) -> None:
    packed = json.loads(read.scripts[0])
    found = {(row["budget"], row["method"]): row for row in expanded(packed, "levels")}
    deltas = {
        row["method"]: row
        for row in expanded(packed, "comparisons")
        if row["against"] == "reference"
    }
    rows = boards[0].rows
    assert len(found) == len(rows)
    for row in rows:
        for name, metric in (("error", "error"), ("tail", "tail_error")):
            value, effect = found[3.0, row.spec], row.scores[metric]
            assert value[name] == pytest.approx(100 * effect.mean, abs=1e-5, nan_ok=True)
        if row.spec == boards[0].reference:
            assert row.spec not in deltas
        elif not np.isnan(row.delta.half):
            one = deltas[row.spec]
            assert one["delta"] == pytest.approx(100 * row.delta.mean, abs=1e-5)
            half = 0.5 * (one["delta_high"] - one["delta_low"])
            assert half == pytest.approx(100 * row.delta.half, abs=1e-5)
    for name, table in data.tables.items():
        plain = [{k: v for k, v in x.items() if k not in pictures.JOINED} for x in table]
        assert expanded(packed, name) == plain


def test_a_row_is_set_against_each_of_its_placebos(data: Data, boards: list[Leaderboard]) -> None:
    found = {
        row["other"]: row["delta"]
        for row in data.tables["comparisons"]
        if row["against"] != "reference"
    }
    assert set(found) == {"gar[placebo=shuffled]", "gar[placebo=uniform]"}
    row = next(row for row in boards[0].rows if row.spec == "gar")
    assert found[row.placebo] == pytest.approx(100 * row.delta_placebo.mean, abs=1e-5)


def test_kinds_come_from_the_records() -> None:
    runs = [
        make("gar"),
        make("gar[placebo=uniform]"),
        make("faa"),
        make("faa[placebo=uniform]"),
        make("pbt", policy_updates=3),
        make("search", method={"clean_labels": "selection"}),
        make("standard[data=val]", method={"clean_labels": "training"}),
        make("standard"),
    ]
    kinds = ("learned", "placebo", "search", "placebo", "search", "search", "control", "fixed")
    assert tidy.kinds(runs) == dict(zip((run.method.spec for run in runs), kinds, strict=True))


def test_curves_leave_out_what_not_all_runs_reached() -> None:
    whole = [
        CurvePoint(fraction=f, spent=3 * f, val_error=0.2, test_error=f / 2) for f in (0.5, 1.0)
    ]
    runs = [make(seed=0, curve=whole), make(seed=1, curve=whole[1:])]
    (point,) = tidy.curves(runs)
    assert (point["spent"], point["error"]) == (3.0, 50.0)


def test_bills_are_means_in_rt_and_name_what_no_item_claims() -> None:
    items = [BillItem(label="train", key={}, calls=1, flops=3 * 10**12, seconds=20.0)]
    runs = [make(seed=0, bill={"items": items, "overhead_seconds": 5.0}), make(seed=1)]
    found = {row["item"]: (row["flops"], row["seconds"]) for row in tidy.bills(runs)}
    assert found == {"train": (1.5, 1.0), tidy.UNCLAIMED: (0.0, 0.26)}


def test_many_items_are_added_up_without_loss() -> None:
    items = [
        BillItem(label=f"item {n}", key={}, calls=1, flops=n * 10**10, seconds=0.0)
        for n in range(1, 12)
    ]
    table = tidy.bills([make(bill={"items": items, "overhead_seconds": 0.0})])
    assert len(table) == tidy.ITEMS + 1
    assert sum(float(str(row["flops"])) for row in table) == pytest.approx(0.66)


def test_confusions_are_added_up_over_seeds(data: Data) -> None:
    row = next(r for r in data.tables["confusions"] if r["method"] == "none")
    counts = np.array(row["counts"]).reshape(10, 10)
    assert counts[0, 0] == 27
    assert counts[0, 1] == 3


def test_failures_and_commands_are_told(records: list[Record]) -> None:
    ((method, task, budget, seed, error, attempts, _),) = facts.failures(records)
    assert (method, budget, seed, attempts) == ("ohl", "3", "1", "2")
    failed = next(record for record in records if record.failure)
    again = failed.model_copy(update={"seed": 7, "hash": "f" * 16})
    ((*_, seeds, _, _, hashes),) = facts.failures([again, failed])
    assert (seeds, hashes) == ("1, 7", f"{failed.hash[:8]} ffffffff")
    assert error == "FloatingPointError: loss is nan"
    assert "digits" in task
    assert facts.commands(records, SUITE, True)[0] == f"augbench run --suite {SUITE} --threads 2"
    spelt = facts.commands([make("a[b=c d]")], "x y", False)[0]
    assert "-m 'a[b=c d]'" in spelt
    assert "--name 'x y'" in spelt


# The page


def test_the_page_has_every_section_and_every_chart(read: Reader) -> None:
    ids = {attrs["id"] for tag, attrs in read.seen if tag == "section"}
    assert ids == set(page.SECTIONS)
    drawn = {attrs.get("data-chart") for tag, attrs in read.seen if tag == "figure"}
    specs = json.loads(read.scripts[1])
    assert drawn == set(specs) == {
        "cost-flops", "cost-seconds", "anytime", "reference", "placebos", "levels", "classes",
        "confusion", "bill-flops", "bill-seconds",
    }  # fmt: skip
    for spec in specs.values():
        assert not any("url" in str(key) for key in spec["spec"].get("data", {}))


def test_the_page_loads_nothing(read: Reader) -> None:
    for tag, attrs in read.seen:
        for name in ("src", "href", "action", "poster", "srcset", "data"):
            value = attrs.get(name) or ""
            assert value == "" or value.startswith(("#", "data:")), (tag, name, value)
        policy = attrs.get("http-equiv") == "Content-Security-Policy"
        assert not policy or "default-src 'none'" in (attrs["content"] or "")
    assert "@import" not in (page.TEMPLATES / "report.css").read_text()
    assert "url(" not in (page.TEMPLATES / "report.css").read_text()


def test_hostile_names_stay_text(read: Reader, text: str) -> None:
    assert len(read.scripts) == 5  # data, charts, looks, the library, ours
    assert not any(tag == "img" for tag, _ in read.seen)
    assert "\u2028" not in "".join(read.scripts[:3])
    assert HOSTILE in json.loads(read.scripts[0])["methods"]
    assert HOSTILE in {attrs.get("data-method") for _, attrs in read.seen}
    assert "alert(1)</script>" not in text


def test_json_in_a_script_cannot_end_it() -> None:
    value = {"</script>": "<!-- & \u2028 \u2029 é"}
    held = page.script(value)
    assert json.loads(str(held)) == value
    assert not re.search("[<>&\u2028\u2029]", str(held))
    with pytest.raises(ValueError, match="JSON"):
        page.script(float("nan"))


def test_the_page_shows_the_policy_beside_its_placebos(text: str) -> None:
    assert "probability · gar[placebo=shuffled]" in text
    assert "beside gar[placebo=shuffled]" in text


def test_sparse_records_still_make_a_page() -> None:
    bare = [make(seed=0, bill={"items": []})]
    found = leaderboard.build(bare, suite=SUITE)
    made = page.html(found, bare, pictures.gather(found, bare), labels)
    assert 'id="leaderboard"' in made
    assert 'id="anytime"' not in made
    assert "No run failed." in made


# LaTeX


def test_latex_is_balanced_and_escaped(boards: list[Leaderboard]) -> None:
    for made in (latex.leaderboard(boards[0]), latex.per_task(boards[0])):
        body = [line for line in made.splitlines() if not line.startswith("%")]
        assert body[0].startswith(r"\begin{tabular}")
        assert body[-1] == r"\end{tabular}"
        columns = body[0].rpartition("{")[2].rstrip("}")
        rows = [line for line in body if line.endswith(r"\\")]
        assert len(rows) == 1 + len(boards[0].rows)
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
            assert re.sub(r"\\[{}]", "", row).count("{") == re.sub(r"\\[{}]", "", row).count("}")
            assert not re.search(r"(?<!\\)[#_%]", row)


def test_latex_escapes_what_is_special() -> None:
    assert latex.escape("a_b&c%d#e$f{g}~^\\") == (
        r"a\_b\&c\%d\#e\$f\{g\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert latex.escape("x\n[y]\u2028z\x00") == "x {[}y{]} z?"


# Files


def test_the_report_is_a_function_of_its_records(tmp_path: Path) -> None:
    runs = [r for r in told() if r.method.name in ("none", "standard") and r.seed < 2]
    first = report.write(runs, SUITE, tmp_path / "a", labels)
    second = report.write(runs[::-1], SUITE, tmp_path / "b", labels)
    assert [p.relative_to(tmp_path / "a") for p in first] == [
        p.relative_to(tmp_path / "b") for p in second
    ]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    names = {path.name for path in first}
    assert {"index.html", "cost-flops.svg", "cost-flops.png", "reference-3rt.png"} <= names
    assert {"leaderboard.csv", "leaderboard-3rt.tex", "curves.csv"} <= names
    formula = report._csv([{"method": "=1+1", "error": -2.0}])
    assert formula == "method,error\n'=1+1,-2.0\n"


def test_the_command_writes_the_report_and_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.cli import app

    save([make(seed=0), make("none", seed=0)], tmp_path)
    monkeypatch.setattr(pictures, "figures", lambda data: {})  # drawn by the test above
    done = CliRunner().invoke(app, ["report", SUITE, "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / SUITE / "report" / "index.html").is_file()
    none = CliRunner().invoke(app, ["report", "nowhere", "--results", str(tmp_path)])
    assert none.exit_code == 2
    assert "no records" in none.output


@pytest.mark.slow
def test_a_browser_shows_the_page_without_a_complaint(text: str, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("chromium is not installed")
    (tmp_path / "index.html").write_text(text, encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,20000"]
    told_of = ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run(
        [browser, *flags, *told_of, f"--user-data-dir={tmp_path}", f"file://{tmp_path}/index.html"],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert done.stdout.count('class="marks"') == 10  # every chart is drawn
