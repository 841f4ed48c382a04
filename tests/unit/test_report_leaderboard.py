"""Rows, refusals, imputation, places and notes of a leaderboard."""

import sys
from hashlib import sha256
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

from report_records import SUITE, golden_records, make, task_info

from bench.errors import RecordError
from bench.report import console, notes
from bench.report.leaderboard import build
from bench.report.render import csv, markdown
from bench.report.statistics import holm, paired, welch_satterthwaite

REFERENCE = "standard[length=filled]"
NONE = "none[length=filled]"


def cells(spec, errors, task="digits", **changes):
    return [make(spec, task, seed, error, **changes) for seed, error in enumerate(errors)]


def board(*groups, **options):
    records = [record for group in groups for record in group]
    (found,) = build(records, suite=SUITE, **options)
    return found


def row(found, spec):
    (chosen,) = [each for each in found.rows if each.spec == spec]
    return chosen


STANDARD = cells(REFERENCE, [0.10, 0.12, 0.11])
PLAIN = cells(NONE, [0.20, 0.23, 0.21])
GOOD = cells("gar", [0.05, 0.069, 0.06])


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "other"}, "of suite demo, other, wanted demo"),
        ({"track": "gpu"}, "track gpu, portable"),
        ({"protocol": 2}, "protocol version 1, 2"),
        ({"schema_version": 2}, "schema 1, 2"),
    ],
)
def test_mixtures_are_refused(changes, message):
    with pytest.raises(RecordError, match=message):
        board(STANDARD, cells("gar", [0.1], **changes))


def test_a_foreign_suite_and_no_records_are_refused():
    with pytest.raises(RecordError, match="wanted other"):
        build(STANDARD, suite="other")
    with pytest.raises(RecordError, match="no records"):
        build([], suite=SUITE)


def test_two_runs_of_one_cell_are_refused():
    with pytest.raises(RecordError, match=r"gar on digits · none · small-cnn, seed 0, budget 3"):
        board(GOOD, [make("gar", seed=0, hash="other")])


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "x"},
        {"recipe": {"steps": 1}},
        {"sizes": {"train": 9}},
        {"train_counts": [9] * 10},
    ],
)
def test_one_name_for_two_tasks_is_refused(change):
    task = task_info("digits", 0).model_copy(update=change)
    with pytest.raises(RecordError, match="different data or recipes"):
        board(STANDARD, [make("gar", task_info=task)])


def test_a_finished_run_without_scores_is_refused():
    with pytest.raises(RecordError, match="lacks task, scores or bill"):
        board([make(scores=None, bill=None).model_copy(update={"scores": None})])


def test_filters_name_what_there_is():
    with pytest.raises(RecordError, match=r"no records of budget 10\.0, only 3\.0"):
        build(STANDARD, suite=SUITE, budget=10.0)
    with pytest.raises(RecordError, match="no records of track gpu, only portable"):
        build(STANDARD, suite=SUITE, track="gpu")


def test_track_chooses_among_mixed_ones():
    mixed = [*STANDARD, *cells("gar", [0.1], track="gpu")]
    (found,) = build(mixed, suite=SUITE, track="gpu")
    assert [each.spec for each in found.rows] == ["gar"]


def test_budgets_are_separate_tables_smallest_first():
    ten = [make(REFERENCE, seed=0, budget=10.0, hash="ten")]
    found = build([*ten, *STANDARD], suite=SUITE)
    assert [each.budget for each in found] == [3.0, 10.0]
    assert markdown(found).count("\n## demo: ") == 2
    (only,) = build([*ten, *STANDARD], suite=SUITE, budget=10.0)
    assert only.budget == 10.0


# Numbers


def test_delta_is_method_minus_reference_paired_by_seed():
    found = row(board(STANDARD, GOOD), "gar")
    expected = paired([0.05, 0.069, 0.06], [0.10, 0.12, 0.11])
    assert found.delta == expected
    assert found.delta.mean < 0
    assert found.outcome == (1, 0, 0)
    assert found.scores["error"].mean == pytest.approx(np.mean([0.05, 0.069, 0.06]))


def test_suite_effect_is_over_tasks():
    noisy = {"task": "digits-noisy"}
    found = board(
        STANDARD, GOOD, cells(REFERENCE, [0.3, 0.31], **noisy), cells("gar", [0.2, 0.22], **noisy)
    )
    change = [np.array([-0.05, -0.051, -0.05]), np.array([-0.1, -0.09])]
    assert row(found, "gar").delta.mean == pytest.approx(welch_satterthwaite(change).mean)
    assert row(found, "gar").delta.p == pytest.approx(welch_satterthwaite(change).p)


def test_means_are_over_tasks_not_runs():
    found = board(STANDARD, cells(REFERENCE, [0.5], task="digits-noisy"))
    assert row(found, REFERENCE).scores["error"].mean == pytest.approx((0.11 + 0.5) / 2)


def test_default_reference_and_its_absence():
    assert board(STANDARD, GOOD).reference == REFERENCE
    missing = board(GOOD)
    assert missing.reference == ""
    assert isnan(row(missing, "gar").delta.mean)
    assert row(missing, "gar").outcome is None
    assert f"The reference row {REFERENCE} is not here" in markdown([missing])
    assert board(STANDARD, GOOD, reference="gar").reference == "gar"
    assert board(STANDARD, reference="absent").wanted == "absent"


def test_plain_standard_is_the_reference_at_one_rt_only():
    plain = cells("standard", [0.1, 0.2], budget=1.0)
    assert board(plain).reference == "standard"
    assert board(cells("standard", [0.1, 0.2])).reference == ""


def test_holm_covers_the_learned_rows_and_nothing_else():
    found = board(
        STANDARD,
        GOOD,
        cells("ohl", [0.09, 0.118, 0.104]),
        cells("gar[placebo=uniform]", [0.09, 0.11, 0.105]),
        cells("randaugment", [0.09, 0.11, 0.10]),
    )
    family = [each for each in found.rows if each.family]
    assert {each.spec for each in family} == {"gar", "ohl"}
    assert [each.p_adjusted for each in family] == pytest.approx(
        holm([each.delta.p for each in family])
    )
    outside = [each for each in found.rows if not each.family]
    assert all(isnan(each.p_adjusted) for each in outside)
    assert not isnan(row(found, "randaugment").delta.p)
    text = markdown([found])
    assert "Holm-adjusted over the 2 learned rows" in text
    (line,) = [line for line in text.splitlines() if "| randaugment |" in line and "/" in line]
    assert "°" in line


def test_a_learned_reference_is_not_tested_against_itself():
    found = board(GOOD, cells("ohl", [0.07, 0.08, 0.09]), reference="gar")
    assert [each.spec for each in found.rows if each.family] == ["ohl"]


def test_own_placebo_prefers_uniform():
    uniform = cells("gar[placebo=uniform]", [0.07, 0.08, 0.075])
    shuffled = cells("gar[placebo=shuffled]", [0.09, 0.09, 0.09])
    replay = cells("gar[placebo=replay]", [0.09, 0.09, 0.09])
    found = row(board(GOOD, replay, shuffled, uniform), "gar")
    assert found.placebo == "gar[placebo=uniform]"
    assert found.delta_placebo == paired([0.05, 0.069, 0.06], [0.07, 0.08, 0.075])
    assert row(board(GOOD, replay, shuffled), "gar").placebo == "gar[placebo=shuffled]"
    assert row(board(GOOD, STANDARD), "gar").placebo == ""


def test_row_digest_covers_the_records():
    first, second = board(GOOD).rows[0], board(cells("gar", [0.05, 0.069])).rows[0]
    hashes = "\n".join(sorted(record.hash for record in GOOD))
    assert first.digest == sha256(hashes.encode()).hexdigest()[:8]
    assert first.digest != second.digest


# Failures and gaps


def test_a_failed_run_gets_the_score_without_augmentation_and_loses():
    found = board(STANDARD, PLAIN, cells("gar", [0.05, None, 0.06]))
    failed = row(found, "gar")
    assert failed.scores["error"].mean == pytest.approx((0.05 + 0.23 + 0.06) / 3)
    assert failed.scores["tail_error"].mean == pytest.approx(1.8 * (0.05 + 0.23 + 0.06) / 3)
    assert failed.delta.mean == pytest.approx(paired([0.05, 0.23, 0.06], [0.10, 0.12, 0.11]).mean)
    assert failed.outcome == (0, 0, 1)
    assert (failed.failures, failed.imputed, failed.stand_ins) == (1, 1, (NONE,))
    assert failed.unranked == ""  # one of three is not over a third
    assert failed.seeds == (2, 2)
    text = markdown([found])
    assert "gar †" in text
    assert "† gar: 1 of 3 runs failed (FloatingPointError)" in text
    assert "(n=3) †" in text


def test_costs_of_a_failed_run_are_left_out():
    runs = cells("gar", [0.05, None, 0.06], bill={"seconds_share": 0.5})
    assert row(board(PLAIN, runs), "gar").work["seconds"] == pytest.approx(15.0)


def test_natural_none_stands_in_before_the_filled_one():
    natural = cells("none", [0.4, None, 0.6])
    found = board(PLAIN, natural, cells("gar", [None, None, 0.1]))
    chosen = row(found, "gar")
    assert chosen.scores["error"].mean == pytest.approx((0.4 + 0.23 + 0.1) / 3)
    assert chosen.stand_ins == ("none", NONE)


def test_a_control_with_clean_labels_is_marked_and_stands_in_for_nobody():
    privileged = {"clean_labels": "training"}
    control = cells("none[data=train+val]", [0.01, 0.01, 0.01], method=privileged)
    found = board(STANDARD, control, cells("gar", [0.05, None, 0.06]))
    assert row(found, "gar").stand_ins == ()
    text = markdown([found])
    assert "none[data=train+val] ¶" in text
    assert "¶ none[data=train+val]: trained on the clean validation images" in text
    assert any(note.startswith("¶ none[data=train+val]:") for note in notes.brief(found))
    assert "| training |" in text
    assert "¶" not in markdown([board(STANDARD, GOOD)])


def test_a_failure_without_stand_in_is_left_out_and_said():
    found = board(STANDARD, cells("gar", [0.05, None, 0.06]))
    failed = row(found, "gar")
    assert failed.scores["error"].mean == pytest.approx(0.055)
    assert (failed.failures, failed.imputed, failed.missing) == (1, 0, 0)
    assert failed.outcome == (0, 0, 1)
    assert "no run of none to stand in" in markdown([found])
    alone = board(cells(REFERENCE, [0.1, 0.1]), cells("gar", [None, None]))
    assert row(alone, "gar").outcome == (0, 0, 1)
    assert isnan(row(alone, "gar").delta.mean)


def test_over_a_third_lost_is_unranked_and_last():
    found = board(STANDARD, PLAIN, cells("gar", [0.01, None, None]))
    assert found.rows[-1].spec == "gar"
    assert found.rows[-1].place is None
    assert found.rows[-1].unranked == "2 failed and 0 missing of 3 runs"
    assert "\n| – | gar †" in markdown([found])
    assert [each.place.place for each in found.rows[:-1]] == [1, 2]


def test_missing_runs_are_compared_on_what_both_have():
    found = board(STANDARD, PLAIN, cells("gar", [0.05, 0.07]))
    partial = row(found, "gar")
    assert partial.missing == 1
    assert partial.unranked == ""
    assert partial.delta.mean == pytest.approx(-0.05)
    assert "gar §" in markdown([found])
    assert row(board(STANDARD, cells("gar", [0.05])), "gar").unranked


def test_a_run_that_failed_before_its_task_is_a_failure_not_a_gap():
    lost = [make("gar", seed=seed, error=None, task_info=None, hash=f"t{seed}") for seed in (1, 2)]
    found = board(STANDARD, cells("gar", [0.05]), lost)
    assert (row(found, "gar").failures, row(found, "gar").missing) == (2, 0)
    nothing = board(STANDARD, lost)
    assert isnan(row(nothing, "gar").scores["error"].mean)
    assert row(nothing, "gar").seeds == (0, 0)
    assert csv([nothing])
    with pytest.raises(RecordError, match="as far as loading its data"):
        board(lost)


# Marks


def test_a_large_overrun_unranks_on_the_gpu_track_only():
    over = {"bill": {"flags": ["overrun>5%"]}}
    assert row(board(STANDARD, cells("gar", [0.05] * 3, **over)), "gar").place is not None
    gpu = board(
        cells(REFERENCE, [0.1, 0.11], track="gpu"), cells("gar", [0.05, 0.06], track="gpu", **over)
    )
    assert row(gpu, "gar").place is None
    assert "‡ overrun&gt;5% (unranked): gar." in markdown([gpu])


def test_flags_are_marked_and_named():
    flagged = cells("gar", [0.05] * 3, bill={"flags": ["overrun>2%"]})
    text = markdown([board(STANDARD, flagged)])
    assert "| gar ‡ |" in text
    assert "- ‡ overrun&gt;2%: gar." in text


def test_scaled_rows_say_so():
    one = board(cells("ohl", [0.1, 0.2], method={"scaled": 0.13}))
    assert notes.label(one.rows[0]) == "ohl (scaled 13 %)"
    two = board([*cells("ohl", [0.1], method={"scaled": 0.13}), make("ohl", seed=1, error=0.2)])
    assert notes.label(two.rows[0]) == "ohl (scaled 13 %)"
    spread = [make("ohl", seed=s, method={"scaled": v}) for s, v in ((0, 0.1), (1, 0.25))]
    assert notes.label(board(spread).rows[0]) == "ohl (scaled 10–25 %)"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"device": "cuda:0"}, "Mixed device settings (cpu, cuda)"),
        ({"device": "cpu", "threads": 1}, "Mixed threads settings (1, 2)"),
        ({"device": "cpu", "compile": True}, "Mixed compiled settings (no, yes)"),
    ],
)
def test_mixed_conditions_are_said(config, said):
    assert said in " ".join(board(STANDARD, cells("gar", [0.1] * 3, config=config)).conditions)


def test_mixed_versions_are_said():
    found = board(STANDARD, cells("gar", [0.1] * 3, bench="c" * 64))
    assert "2 versions of the harness (bbbbbbbb, cccccccc)" in " ".join(found.conditions)
    edited = [make("gar", seed=3, method={"source": "edited"})]
    assert "runs of gar were made by 2 versions" in " ".join(board(GOOD, edited).conditions)
    assert len(board(STANDARD, GOOD).conditions) == 1


@pytest.mark.parametrize(("after", "said"), [(10.2, False), (11.0, True), (9.0, True)])
def test_drift_of_the_device_is_said_on_the_gpu_track(after, said):
    bill = {"rt_seconds_after": after}
    found = board(cells("gar", [0.1, 0.2], track="gpu", bill=bill))
    assert ("drifted by more than 3 % during 2 runs, by up to 10 %" in markdown([found])) == said
    assert "drifted" not in markdown([board(cells("gar", [0.1, 0.2], bill=bill))])


def test_tasks_of_one_source_are_said():
    other = task_info("digits", 0).model_copy(update={"network": "lenet"})
    found = board(STANDARD, [make(REFERENCE, task_info=other, hash="lenet")])
    assert "cut from one source (digits)" in " ".join(found.conditions)


def test_admission_sentences():
    assert "Admitted: standard[length=filled]" in markdown([board(STANDARD, PLAIN)])
    close = cells(NONE, [0.101, 0.119, 0.11])
    text = markdown([board(STANDARD, close)])
    assert "**Not admitted** by PROTOCOL.md:" in text
    assert "cannot tell methods apart" in text
    assert "lacks the rows" in markdown([board(STANDARD)])
    natural = board(cells("standard", [0.1, 0.12]), cells("none", [0.2, 0.25]))
    assert natural.admitted_by == ("standard", "none")
    single = board(cells("standard", [0.1]), cells("none", [0.2]))
    assert "fewer than 2 seeds" in markdown([single])


def test_admission_ignores_imputed_scores():
    found = board(cells(REFERENCE, [0.1, 0.12, None]), cells("none", [0.2, 0.22, 0.9]), PLAIN)
    assert found.admission.difference == pytest.approx(-0.105)


def test_one_seed_has_no_intervals():
    found = board(cells(REFERENCE, [0.1]), cells("gar", [0.05]))
    text = markdown([found])
    assert "One seed only" in text
    assert "±" not in text.split("- place:")[0]
    assert isnan(row(found, "gar").delta.p)
    assert row(found, "gar").outcome == (0, 1, 0)


# The whole


@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(len(golden_records()))))
def test_the_order_of_records_does_not_matter(order):
    records = golden_records()
    shuffled = [records[index] for index in order]
    first, second = build(records, suite=SUITE), build(shuffled, suite=SUITE)
    assert csv(first) == csv(second)
    assert markdown(first) == markdown(second)


def test_places_are_in_order_and_tied_rows_share():
    found = board(STANDARD, cells("twin", [0.10, 0.12, 0.11]), GOOD)
    assert [(each.spec, each.place.place) for each in found.rows] == [
        ("gar", 1),
        (REFERENCE, 2),
        ("twin", 2),
    ]
    assert row(found, "twin").delta.p == 1.0


def test_console_has_a_line_a_row():
    found = board(STANDARD, GOOD, PLAIN, cells("ohl", [0.1, None, 0.1]))
    headers, lines = console.rows(found)
    assert len(lines) == 4
    assert all(len(line) == len(headers) for line in lines)
    assert lines[0][1] == "gar"
    assert "reference" in [line[2] for line in lines]


def test_console_notes_say_what_the_table_cannot():
    told = console.notes(board(STANDARD, GOOD, PLAIN, cells("ohl", [0.1, None, 0.1])))
    assert told[0].startswith("Admitted: ")
    assert any(note.startswith("† ohl: 1 of 3") for note in told)
    alone = console.notes(board(GOOD))
    assert alone[0].startswith("Not admitted by PROTOCOL.md: it lacks")
    assert not any(note.startswith("p:") for note in alone)
