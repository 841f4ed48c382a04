"""Errors at all budgets in one table."""

import pytest

from bench.errors import RecordError
from bench.report import ladder, leaderboard, readme, render
from tests.golden.report_records import make

SPECS = {"none": (0.3, 0.3), "standard": (0.25, 0.1), "gar": (0.2, 0.2)}


def boards(*extra: object) -> list[leaderboard.Leaderboard]:
    records = [
        make(spec, seed=seed, error=error + 0.01 * seed, budget=budget)
        for spec, errors in SPECS.items()
        for budget, error in zip((1.0, 10.0), errors, strict=True)
        for seed in range(3)
    ]
    return leaderboard.build([*records, *extra], suite="demo", reference="standard")


def test_rows_stand_in_the_order_of_the_largest_budget() -> None:
    found = boards()
    assert ladder.heads(found) == ["method", "1 RT", "10 RT"]
    lines = ladder.lines(found)
    assert [line[0] for line in lines] == ["standard", "gar", "none"]
    assert lines[1] == ["gar", "21.0 ± 2.5 [1]", "21.0 ± 2.5 [2]"]  # t(2) · 0.01 / √3 = 0.0248


def test_what_is_missing_or_failed_has_no_number() -> None:
    failed = [make("ohl", seed=seed, error=None, budget=1.0) for seed in range(3)]
    lines = {line[0]: line[1:] for line in ladder.lines(boards(*failed))}
    assert lines["ohl"] == ["–", "–"]


def test_scaled_rows_are_marked() -> None:
    few = [
        make("ohl", seed=seed, error=0.5 + 0.01 * seed, budget=1.0, method={"scaled": 0.3})
        for seed in range(3)
    ]
    lines = {line[0]: line[1:] for line in ladder.lines(boards(*few))}
    assert lines["ohl"] == ["51.0 ± 2.5ˢ [4]", "–"]


def test_a_document_shows_it_without_placebos() -> None:
    placebo = [
        make("gar[placebo=uniform]", seed=seed, error=0.2, budget=budget)
        for seed in range(3)
        for budget in (1.0, 10.0)
    ]
    found = boards(*placebo)
    table = readme.block(found, None, "ladder")
    assert table.count("\n") == 5
    assert "placebo" not in table
    assert "placebo" in "".join(line[0] for line in ladder.lines(found))
    assert readme.block(found, {"gar"}, "ladder").count("\n") == 3
    with pytest.raises(RecordError, match="1rt, 10rt, or ladder"):
        readme.block(found)
    assert "## Error against budget" in render.markdown(found)
    assert "## Error against budget" not in render.markdown(found[:1])
