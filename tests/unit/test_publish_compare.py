"""A record against its re-run: what counts as equal, and how often an honest one is accused."""

from math import isnan, sqrt

import numpy as np
import pytest
from scipy.stats import t

from bench.publish.citation import cff, unknown
from bench.publish.compare import FALSE_ALARM, compare, differing, tolerance
from tests.golden.report_records import make, task_info

PLACE = {"python": "3.11", "packages": {"torch": "2.15"}, "git": "a"}


def test_the_tolerance_is_the_documented_one() -> None:
    errors = [[0.30, 0.34, 0.32], [0.50, 0.52, 0.57]]
    row = [
        make("gar", task, seed, error)
        for task, group in zip(("digits", "digits-noisy"), errors, strict=True)
        for seed, error in enumerate(group)
    ]
    pooled = np.mean([np.var(group, ddof=1) for group in errors])
    assert tolerance(row[0], row) == pytest.approx(t.ppf(0.995, 4) * sqrt(2 * pooled))
    assert isnan(tolerance(row[0], [row[0], row[3]]))


def test_without_spread_it_is_that_of_the_wrong_answers() -> None:
    row = [make(seed=seed, error=0.1) for seed in range(3)]  # 1,000 test images, 100 wrong
    assert tolerance(row[0], row) == pytest.approx(t.ppf(0.995, 2) * sqrt(2) * 0.01)


@pytest.mark.parametrize(("tasks", "seeds"), [(1, 3), (2, 3), (1, 5)])
def test_an_honest_record_is_rarely_accused(tasks: int, seeds: int) -> None:
    generator = np.random.Generator(np.random.Philox(5))
    images = {"train": 1000, "val": 200, "test": 10**9}  # so that the floor plays no part
    accused, draws = 0, 3000
    names = ("digits", "digits-noisy")[:tasks]
    infos = {n: task_info(n, 0).model_copy(update={"sizes": images}) for n in names}
    base = [make("gar", n, s, 0.5, task_info=infos[n]) for n in names for s in range(seeds)]
    for _ in range(draws):
        row = []
        for record in base:
            assert record.scores is not None
            error = float(generator.normal(0.5, 0.02))
            scores = record.scores.model_copy(update={"error": error})
            row.append(record.model_copy(update={"scores": scores}))
        assert row[0].scores is not None
        gap = abs(float(generator.normal(0.5, 0.02)) - row[0].scores.error)
        accused += gap > tolerance(row[0], row)
    assert accused / draws <= FALSE_ALARM + 3 * sqrt(FALSE_ALARM / draws)


def test_equal_bits_are_required_where_environments_are_equal() -> None:
    record = make(environment=PLACE, weights="a" * 64)
    other = record.model_copy(update={"weights": "b" * 64})
    row = [record, make(seed=1, error=0.11)]
    assert compare(record, record, row).verdict == "the same bits"
    assert "other bits" in compare(record, other, row).problems[0]
    elsewhere = other.model_copy(update={"environment": PLACE | {"packages": {"torch": "2.16"}}})
    found = compare(record, elsewhere, row)
    assert found.environment == ["torch 2.15 then, 2.16 now"]
    assert found.problems == []
    assert "0.00 points of test error apart" in found.verdict


def test_a_commit_or_a_new_package_is_no_other_environment() -> None:
    record = make(environment=PLACE)
    packages = {"torch": "2.15", "ax-platform": "1.3"}
    again = record.model_copy(update={"environment": PLACE | {"git": "b", "packages": packages}})
    assert compare(record, again, [record]).environment == []


def test_elsewhere_plan_and_flops_must_agree_and_error_be_near() -> None:
    record = make(environment=PLACE, plan=[{"train": 600}], weights="a" * 64)
    row = [record, make(seed=1, error=0.11), make(seed=2, error=0.09)]
    changed = {"environment": PLACE | {"python": "3.12"}, "weights": "b" * 64}
    again = record.model_copy(update=changed | {"plan": [{"train": 500}]})
    assert "plan" in compare(record, again, row).problems[0]
    far = make(error=0.5, plan=[{"train": 600}], **changed)
    (problem,) = compare(record, far, row).problems
    assert "40.00 points of test error apart" in problem


def test_a_failure_is_repeated_or_undecided() -> None:
    failed = make(error=None, environment=PLACE)
    fine = make(environment=PLACE)
    assert compare(failed, failed, [failed]).verdict == "the same bits"
    assert compare(failed, fine, [failed]).problems
    elsewhere = fine.model_copy(update={"environment": PLACE | {"python": "3.12"}})
    found = compare(failed, elsewhere, [failed])
    assert (found.problems, found.decided) == ([], False)


def test_what_an_older_version_did_not_record_does_not_count() -> None:
    old = make()
    assert old.scores is not None
    new = old.model_copy(update={"scores": old.scores.model_copy(update={"confusion": [[1]]})})
    assert differing(old, new) == []
    assert differing(new, old) == ["scores"]


def test_a_citation_names_each_paper_once() -> None:
    text = cff("T", "v-1", "MIT", ["randaugment", "randaugment-grid", "fds", "none"], "Cite.")
    assert text.startswith('cff-version: 1.2.0\nmessage: "Cite."\n')
    assert text.count("RandAugment: Practical") == 1
    assert "      - name: anonymous\n" in text
    assert '        family-names: "Cubuk"\n' in text
    assert unknown(["none", "gar", "mine"]) == ["mine"]
