"""Text of the leaderboard: numbers, escaping, what is shown."""

import csv as reader
import io
import sys
from math import nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

from report_records import SUITE, golden_numbers, golden_records, make

from bench.plain import plain
from bench.report.leaderboard import build
from bench.report.render import MAIN, SHOWN, TEXTS, csv, markdown
from bench.report.statistics import Effect
from bench.report.text import (
    cell,
    count,
    number,
    p_value,
    percent,
    seconds,
    share,
    span,
)
from bench.report.text import markdown as escape


@pytest.mark.parametrize(
    ("effect", "signed", "text"),
    [
        (Effect(0.1234, 0.0041), False, "12.3 ± 0.4"),
        (Effect(0.1234, 0.0004), False, "12.34 ± 0.04"),
        (Effect(0.1234, 0.2), False, "12.3 ± 20.0"),
        (Effect(0.1234), False, "12.34"),
        (Effect(-0.0124, 0.0051), True, "−1.24 ± 0.51"),
        (Effect(0.0124, 0.0051), True, "+1.24 ± 0.51"),
        (Effect(-0.00001, 0.0051), True, "0.00 ± 0.51"),
        (Effect(), True, "–"),
    ],
)
def test_percent(effect, signed, text):
    assert percent(effect, signed) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (390, "390"),
        (599.5, "600"),
        (76672, "76.7 k"),
        (999999, "1.00 M"),
        (2.994e12, "2.99 T"),
    ],
)
def test_count(value, text):
    assert count(value) == text


def test_small_texts():
    assert (share(0.998), share(0.051), share(nan), share(0.0)) == ("100 %", "5.1 %", "–", "0 %")
    assert (p_value(0.0004), p_value(0.0123), p_value(nan)) == ("< 0.001", "0.012", "–")
    assert (seconds(9.94), seconds(1234.5), seconds(nan)) == ("9.9 s", "1234 s", "–")
    assert (span(3, 3), span(2, 3)) == ("3", "2–3")
    assert count(nan) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1 / 3, "0.333333"),
        (2e12 / 3, "6.66667e+11"),
        (-1e-17, "0"),
        (3, "3"),
        (nan, ""),
        (None, ""),
    ],
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_formulas_are_defused(start):
    assert cell(f"{start}1+1").startswith("'")
    assert cell(f" \n={start}1").startswith("'")
    assert cell(f"a{start}1") == plain(f"a{start}1")


def test_markup_is_defused():
    assert escape("a|b`c\n<b>&*~$") == "a\\|b\\`c &lt;b&gt;&amp;\\*\\~\\$"
    assert escape("[x](javascript:1)") == "[x]\\(javascript:1)"
    assert escape("standard[length=filled]") == "standard[length=filled]"


@given(st.text())
def test_escaped_text_stays_in_its_cell(text):
    found = escape(text)
    assert "\n" not in found
    assert "<" not in found
    assert "|" not in found.replace("\\\\", "").replace("\\|", "")


EVIL = "=cmd|'/c calc'!A1\n`<script>`"


def evil_board():
    records = [make(EVIL, seed=seed, error=0.1 + seed / 100) for seed in range(2)]
    evil = golden_numbers()[0].model_copy(update={"specs": (EVIL,), "printed": "-2", "row": EVIL})
    return build(records, suite=SUITE, numbers=[evil.model_copy(update={"metric": "error"})])


def test_evil_names_reach_neither_sheet_nor_page():
    table = list(reader.DictReader(io.StringIO(csv(evil_board()))))
    assert [line["method"] for line in table] == ["'" + plain(EVIL)]
    assert table[0]["paper"].startswith("'-2; GAR, Table 2, =cmd")
    text = markdown(evil_board())
    assert "<script>" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("| 1 [1]")]
    assert line.count("|") - line.count("\\|") == len(MAIN) + 1


def test_numbers_are_not_escaped_as_text():
    table = list(reader.DictReader(io.StringIO(csv(build(golden_records(), suite=SUITE)))))
    assert float(table[0]["delta_pct"]) < 0
    assert list(table[0])[:7] == [
        "suite",
        "track",
        "budget",
        "place",
        "place_low",
        "place_high",
        "method",
    ]
    for name in set(table[0]) - set(TEXTS) - {"record_hash"}:
        assert all(line[name] == "" or float(line[name]) is not None for line in table)
    assert all(name.isascii() for name in table[0])


def test_csv_has_every_row_and_unix_line_ends():
    boards = build(golden_records(), suite=SUITE)
    text = csv(boards)
    assert "\r" not in text
    assert len(text.splitlines()) == 1 + len(boards[0].rows)
    assert text.endswith("\n")


def test_markdown_shows_eight_rows_and_always_the_reference():
    def main(reference):
        text = markdown(build(golden_records(), suite=SUITE, reference=reference))
        return text, text.split("| place |")[1].split("\n\n")[0].splitlines()[2:]

    text, lines = main("gar")
    assert len(lines) == SHOWN
    assert "3 more rows in `leaderboard.csv`" in text
    text, lines = main("none[length=filled]")
    assert len(lines) == SHOWN + 1
    assert "reference" in lines[-1]
    assert "2 more rows" in text


def test_markdown_states_the_work_done():
    text = markdown(build(golden_records(), suite=SUITE))
    assert "| method | steps | images seen | policy updates | training error % |" in text
    assert "| gar | 598 | 76.5 k | 598 | 3.45 | 18.51 |" in text
    assert "- ohl: 4 copies instead of 8." in text
