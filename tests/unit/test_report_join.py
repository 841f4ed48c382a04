"""A user's own records beside the committed ones: what joins, what not, and what is said."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

from report_records import SUITE, make, task_info

from bench.record import Record
from bench.report.join import Joined, Own, join, marked
from bench.report.leaderboard import build
from bench.report.render import csv, markdown
from bench.report.table import Leaderboard, Row

REFERENCE = "standard[length=filled]"
ERRORS = {
    REFERENCE: (0.10, 0.12, 0.11),
    "none": (0.20, 0.23, 0.21),
    "gar": (0.05, 0.069, 0.06),
    "gar[placebo=uniform]": (0.08, 0.09, 0.07),
}


def runs(spec, errors, weights="w", **changes) -> list[Record]:
    return [
        make(spec, seed=seed, error=error, weights=f"{weights}{seed}", **changes)
        for seed, error in enumerate(errors)
    ]


def again(spec, **changes) -> list[Record]:
    """Runs of a committed row anew: other seconds, and by default the same bits."""
    return runs(spec, ERRORS[spec], bill={"seconds_share": 0.5}, **changes)


COMMITTED = [run for spec, errors in ERRORS.items() for run in runs(spec, errors)]


def joined(*records: list[Record], label: str = "local") -> Joined:
    return join(COMMITTED, [Own(label, [run for part in records for run in part])])


def board(found: Joined) -> Leaderboard:
    (table,) = build(found.records, suite=SUITE)
    return marked(table, found)


def row(table: Leaderboard, spec: str) -> Row:
    (chosen,) = [each for each in table.rows if each.spec == spec]
    return chosen


def said(found: Joined, spec: str) -> str:
    return found.rows["portable", 3.0, spec]


def changed(part, **values):
    """One run whose task or bill differs from the committed ones of its name and seed."""
    if part == "task":
        return [make("mine", task_info=task_info("digits", 0).model_copy(update=values))]
    return [make("mine", bill=values)]


MISMATCHES = {
    "protocol": ([make("mine", protocol=2)], "protocol 2, and the committed runs have 1"),
    "track": ([make("mine", track="gpu")], "gpu track, and the committed runs are on portable"),
    "budget": ([make("mine", budget=1.0)], "1 RT, and the committed runs have 3"),
    "task": ([make("mine", "digits-noisy")], "no committed run is on digits-noisy · imbalance="),
    "seed": ([make("mine", seed=7)], "the committed runs there have seeds 0, 1, 2 only"),
    "images": (changed("task", digest="x"), "other images than those committed under"),
    "sizes": (changed("task", sizes={"train": 9}), "train 9"),
    "counts": (changed("task", train_counts=[9] * 10), "other class counts"),
    "recipe": (
        changed("task", recipe={"steps": 100, "batch_size": 128}),
        "a recipe with steps 100, and the committed runs have steps 200.",
    ),
    "RT": (changed("bill", rt_flops=7), "1 RT of 7 FLOPs, and the committed runs have 10000000"),
    "failed early": (
        [make("mine", error=None, task_info=None, config={"task": {"data": "moon"}})],
        "no committed run is on moon · None · None",
    ),
}


@pytest.mark.parametrize(("records", "reason"), MISMATCHES.values(), ids=MISMATCHES.keys())
def test_what_does_not_match_is_left_out_with_its_reason(records, reason):
    found = joined(records)
    assert found.records == COMMITTED
    assert found.rows == {}
    (sentence,) = found.left
    assert sentence.startswith("Left out from local: mine, 1 run: ")
    assert reason in sentence


def test_a_reason_is_said_once_a_row_and_the_rest_joins():
    found = joined(
        runs("mine", [0.1, 0.2, 0.3, 0.4, 0.5]),
        runs("mine", [0.1, 0.2], budget=10.0),
        runs("other", [0.1], budget=10.0),
    )
    assert found.left == [
        "Left out from local: mine, 2 runs: the committed runs there have seeds 0, 1, 2 only.",
        "Left out from local: mine, 2 runs: 10 RT, and the committed runs have 3.",
        "Left out from local: other, 1 run: 10 RT, and the committed runs have 3.",
    ]
    assert {run.seed for run in found.records if run.method.name == "mine"} == {0, 1, 2}
    text = markdown([board(found)])
    assert all(f"- {sentence}" in text for sentence in found.left)


def test_all_aspects_must_agree_with_the_same_committed_runs():
    committed = [*COMMITTED, make(REFERENCE, "digits-noisy", seed=3)]
    found = join(committed, [Own("local", [make("mine", seed=3)])])
    (sentence,) = found.left
    assert sentence.endswith("the committed runs there have seeds 0, 1, 2 only.")


def test_the_suite_of_own_records_does_not_matter():
    table = board(joined(runs("mine", [0.1, 0.2, 0.3], suite="my-folder")))
    assert row(table, "mine (local)").missing == 0


def test_own_rows_are_marked_and_told():
    table = board(joined(runs("mine", [0.01, 0.02, 0.03])))
    assert row(table, "mine (local)").joined == "3 runs of local; same environment"
    text = markdown([table])
    assert "mine (local) ⊕" in text
    assert "- ⊕ mine (local): 3 runs of local; same environment." in text
    assert "- 1 of the 5 rows are not committed; places are over all of them." in text
    lines = csv([table]).splitlines()
    assert lines[0].endswith(",record_hash,joined")
    assert [line.endswith(",3 runs of local; same environment") for line in lines[1:]].count(True)
    plain = build(COMMITTED, suite=SUITE)
    assert "⊕" not in markdown(plain)
    assert "joined" not in csv(plain)


def test_own_rows_are_shown_however_bad():
    many = [run for n in range(9) for run in runs(f"row-{n}", [0.11, 0.12, 0.1])]
    found = join([*COMMITTED, *many], [Own("local", runs("mine", [0.9, 0.8, 0.9]))])
    assert "mine (local) ⊕ |" in markdown([board(found)])


def test_environment_and_harness_are_told():
    records = [
        make("mine", environment={"torch": "2.12", "git": "x", "packages": {"new": "1"}}),
        make("mine", seed=1, bench="c" * 64),
    ]
    assert said(joined(records), "mine (local)") == (
        "2 runs of local; other environment (torch 2.12, not 2.11); "
        "other version of the harness (cccccccc)"
    )


def test_the_nearest_committed_environment_counts():
    two = [*COMMITTED, *runs("old", [0.1], environment={"torch": "1.0", "device": "slow"})]
    mine = [make("mine", environment={"torch": "1.0", "device": "slow"})]
    assert (
        said(join(two, [Own("local", mine)]), "mine (local)") == "1 run of local; same environment"
    )


# The same cell in both


def test_the_same_bits_are_a_reproduction_and_no_row():
    found = joined(again("gar"))
    assert found.rows == {}
    assert found.records == COMMITTED
    assert found.reproduced == [
        "Reproduced: gar at 3 RT, 3 runs of local: the same bits as committed."
    ]
    assert found.reproduced[0] in board(found).conditions


def test_scores_that_older_records_lack_do_not_matter():
    runs = again("gar")
    newer = [
        run.model_copy(update={"scores": run.scores.model_copy(update={"confusion": [[1]]})})
        for run in runs
    ]
    assert joined(newer).rows == {}
    other = [
        run.model_copy(update={"scores": run.scores.model_copy(update={"error": 0.5})})
        for run in runs
    ]
    assert joined(other).rows != {}


def test_the_records_themselves_are_no_reproduction():
    found = join(COMMITTED, [Own("results", COMMITTED)])
    assert len(found.reproduced) == len(ERRORS)
    assert found.reproduced[0].endswith("of results: the committed records themselves.")
    assert not any("Reproduced" in sentence for sentence in found.reproduced)


def test_scores_without_weights_are_no_reproduction():
    committed = [make("gar"), *runs(REFERENCE, [0.1])]
    mine = [make("gar", bill={"seconds_share": 0.5})]
    assert ("portable", 3.0, "gar (local)") in join(committed, [Own("local", mine)]).rows


def test_the_same_failure_is_a_reproduction():
    failed = [make("gar", error=None)]
    later = [make("gar", error=None, steps=3)]
    assert join(failed, [Own("local", later)]).reproduced


def test_other_bits_make_a_row_of_all_own_runs():
    mine = again("gar")
    edited = {"hash": "edited", "method": {"source": "edited"}}
    mine[1] = make("gar", seed=1, error=0.079, weights="other", **edited)
    found = joined(mine)
    assert said(found, "gar (local)") == (
        "3 runs of local; same environment; another source of the method as the committed row's; "
        "2 of 3 shared runs have the committed bits; "
        "test error less the committed row's: +0.33 ± 1.43 points"
    )
    table = board(found)
    assert row(table, "gar").scores["error"].mean == pytest.approx(0.179 / 3)
    assert row(table, "gar (local)").scores["error"].mean == pytest.approx(0.189 / 3)


@pytest.mark.parametrize(
    ("change", "strange"),
    [
        ({}, True),
        ({"hash": "other"}, False),
        ({"bench": "c" * 64}, False),
        ({"environment": {"torch": "2.12"}}, False),
        ({"config": {"device": "cuda"}}, False),
    ],
)
def test_other_bits_without_a_cause_are_called_strange(change, strange):
    mine = again("gar")
    mine[1] = make("gar", seed=1, error=0.079, weights="other", **change)
    words = "1 of them differ though nothing does that bits may depend on: one side was edited"
    assert (words in said(joined(mine), "gar (local)")) is strange


def test_a_further_seed_makes_a_row_of_its_own():
    committed = [run for run in COMMITTED if (run.method.spec, run.seed) != ("gar", 2)]
    found = join(committed, [Own("local", again("gar"))])
    assert "2 of 2 shared runs have the committed bits" in said(found, "gar (local)")
    assert row(board(found), "gar").missing == 1


def test_two_sources_are_two_rows():
    first, second = Own("a", runs("mine", [0.1, 0.2])), Own("b", runs("mine", [0.1, 0.2]))
    found = join(COMMITTED, [first, second])
    assert [spec for _, _, spec in found.rows] == ["mine (a)", "mine (b)"]
    assert not found.reproduced


# What committed rows keep


def test_a_committed_row_keeps_its_placebo_and_an_own_one_gets_its_own():
    worse = [run for spec in ("gar", "gar[placebo=uniform]") for run in again(spec, weights="o")]
    table = board(joined(worse, runs("gar[placebo=shuffled]", [0.3, 0.3, 0.31])))
    assert row(table, "gar").placebo == "gar[placebo=uniform]"
    assert row(table, "gar (local)").placebo == "gar[placebo=uniform] (local)"


def test_own_runs_stand_in_for_no_committed_failure():
    committed = [*COMMITTED, *runs("ohl", [0.1, 0.1, None])]
    committed = [run for run in committed if run.method.spec != "none"]
    filled = runs("none[length=filled]", [0.5, 0.5, 0.5])
    table = board(join(committed, [Own("local", [*runs("none", [0.4] * 3), *filled])]))
    assert row(table, "ohl").imputed == 0
    assert row(table, "ohl").failures == 1


def test_a_committed_run_stands_in_for_an_own_failure():
    where = {"task": {"data": "digits", "distort": "none", "network": "small-cnn"}}
    lost = make("mine", seed=2, error=None, task_info=None, hash="lost", config=where)
    table = board(joined([*runs("mine", [0.1, None]), lost]))
    mine = row(table, "mine (local)")
    assert (mine.failures, mine.imputed, mine.stand_ins) == (2, 1, ("none",))


def test_reference_and_admission_are_the_committed_ones():
    table = board(joined(again(REFERENCE, weights="other"), again("none", weights="other")))
    assert table.reference == REFERENCE
    assert row(table, f"{REFERENCE} (local)").delta.mean == pytest.approx(0.0)
    assert table.admitted_by == ("standard", "none") or table.admitted_by is None


def test_a_larger_family_is_told():
    plain = board(join(COMMITTED, []))
    table = board(joined(runs("ohl", [0.09, 0.118, 0.104])))
    family = "With ohl (local), Holm's family has 2 learned rows, not 1: adjusted p differ"
    assert any(sentence.startswith(family) for sentence in table.conditions)
    assert row(table, "gar").p_adjusted >= row(plain, "gar").p_adjusted
    table = board(joined(runs("mine", [0.09, 0.118, 0.104])))
    assert not any("family" in sentence for sentence in table.conditions)
