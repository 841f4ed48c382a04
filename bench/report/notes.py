"""The sentences around a table, as plain text: what was compared, marked and doubted."""

from collections.abc import Iterable
from math import inf, isnan

from bench.report.rows import UNRANKED_FLAGS
from bench.report.table import Leaderboard, Row
from bench.report.text import NOTHING

IMPUTED, FLAGGED, INCOMPLETE, UNADJUSTED, PRIVILEGED, JOINED = "†", "‡", "§", "°", "¶", "⊕"
"""Marks of a row with failed runs, a flagged bill, missing runs, of an unadjusted p, of a row that
trains on the clean validation images, and of a user's own row."""


def label(row: Row) -> str:
    """The row's name, with the share of its smallest faithful budget if it was scaled down."""
    if row.scaled is None:
        return row.spec
    low, high = (f"{100.0 * share:.0f}" for share in row.scaled)
    return f"{row.spec} (scaled {low if low == high else f'{low}–{high}'} %)"


def marks(row: Row) -> str:
    """The marks behind a row's name."""
    told = (
        (row.failures, IMPUTED),
        (row.flags, FLAGGED),
        (row.missing, INCOMPLETE),
        (row.clean_labels == "training", PRIVILEGED),
        (row.joined, JOINED),
    )
    return "".join(mark for fact, mark in told if fact)


def header(board: Leaderboard) -> list[str]:
    """What is above the table, apart from the admission."""
    currency = {"portable": "FLOPs", "gpu": "device-seconds"}[board.track]
    seeds = ", ".join(str(seed) for seed in board.seeds)
    return [
        f"Tasks ({len(board.tasks)}): {'; '.join(board.tasks)}.",
        f"Seeds ({len(board.seeds)}): {seeds}. The budget of {board.budget:g} RT binds on "
        f"{currency}; 1 RT is one full training with the task's own recipe.",
        _reference(board),
        *board.conditions,
        *_doubts(board),
    ]


def admitted(board: Leaderboard) -> tuple[bool, str]:
    """Whether the suite is admitted, and the rest of the sentence that says so."""
    found = board.admission
    if board.admitted_by is None:
        return False, "it lacks the rows standard and none, whose difference would admit it."
    standard, none = board.admitted_by
    if isnan(found.difference):
        return False, f"{standard} and {none} share fewer than 2 seeds on every task."
    errors = "no spread over seeds" if found.ratio == inf else f"{found.ratio:.1f} SE"
    gap = f"{100.0 * abs(found.difference):.2f} points of test error ({errors}) on {found.task}"
    if found.admitted:
        better = standard if found.difference < 0 else none
        return True, f"{standard} and {none} differ by {gap}, {better} being better."
    return False, (
        f"{standard} and {none} differ by less than 2 standard errors on every task "
        f"(at most {gap}), so this suite cannot tell methods apart."
    )


def _reference(board: Leaderboard) -> str:
    if not board.reference:
        return (
            f"The reference row {board.wanted} is not here, so there is no Δ and no win/tie/loss."
        )
    return (
        f"Reference row: {board.reference}. Δ is a row's test error minus the reference's, in "
        "percentage points, paired by seed and averaged over tasks: below 0 is better."
    )


def _doubts(board: Leaderboard) -> list[str]:
    notes = []
    if len(board.seeds) < 2:
        notes.append("One seed only: no intervals and no tests; differences may be noise.")
    elif any(row.seeds[0] < 2 for row in board.rows if not row.unranked):
        notes.append("A cell with fewer than 2 finished runs has no interval.")
    return notes


def footnotes(board: Leaderboard) -> list[str]:
    """What is below the main table: its columns, its marks, and who bears them."""
    return [*_columns(board), *_marked(board)]


def brief(board: Leaderboard) -> list[str]:
    """The few sentences without which the table misleads, for a terminal."""
    ok, reason = admitted(board)
    adjusted = f"p: Holm-adjusted over the learned rows; {UNADJUSTED} not adjusted."
    return [
        f"{'Admitted' if ok else 'Not admitted by PROTOCOL.md'}: {reason}",
        _reference(board),
        *([adjusted] if board.reference else []),
        *board.conditions,
        *_doubts(board),
        *_marked(board),
    ]


def _columns(board: Leaderboard) -> list[str]:
    notes = [
        "place: by mean error over tasks; in brackets the places that the data do not exclude "
        "(95 % for each row on its own, Holm over its comparisons). A range of all places means "
        "that nothing is settled.",
        "±: 95 % half-width over seeds (t; over tasks Welch–Satterthwaite). It speaks of this "
        "suite, not of new data sets.",
        "balanced: mean error over classes; tail: over the classes that the distortion made rare, "
        "else over the worst third. Costs are means over finished runs.",
    ]
    if board.reference:
        family = [row.spec for row in board.rows if row.family]
        adjusted = f"Holm-adjusted over the {len(family)} learned rows ({', '.join(family)})"
        notes.append(
            f"p: of Δ = 0; {adjusted if family else 'there is no learned row to adjust over'}; "
            f"{UNADJUSTED} not adjusted, as the row is outside that family."
        )
        notes.append("W/T/L: tasks won, tied, lost against the reference, Holm over tasks.")
    if any(row.placebo for row in board.rows):
        notes.append(
            "Δ vs own placebo: against the same procedure without its learning signal, not "
            "adjusted; an interval that holds 0 means that the learning has not been shown to do "
            "anything."
        )
    if any(row.scaled for row in board.rows):
        notes.append(
            "scaled: the budget is that share of the least with which the method does what its "
            "paper describes."
        )
    if any(row.published for row in board.rows):
        notes.append(
            "paper: error in percent that a paper states, not comparable with the measured one "
            'unless it says so: see "Papers\' numbers" below.'
        )
    return notes


def _marked(board: Leaderboard) -> list[str]:
    """Who bears which mark, and why."""
    joined = [f"{JOINED} {row.spec}: {row.joined}." for row in board.rows if row.joined]
    marked = [*_failed(board), *_flagged(board), *_incomplete(board), *_privileged(board)]
    return [*marked, *joined]


def _privileged(board: Leaderboard) -> list[str]:
    rows = [row.spec for row in board.rows if row.clean_labels == "training"]
    if not rows:
        return []
    return [
        f"{PRIVILEGED} {', '.join(rows)}: trained on the clean validation images, as a control "
        "for methods that are given clean labels; its validation error is a training error, and "
        "no number here is one of validation."
    ]


def _failed(board: Leaderboard) -> list[str]:
    notes = []
    for row in board.rows:
        if not row.failures:
            continue
        kinds = f" ({', '.join(row.failure_types)})" if row.failure_types else ""
        start = f"{IMPUTED} {row.spec}: {row.failures} of {row.expected} runs failed{kinds}; "
        if row.imputed == row.failures:
            donors = " or ".join(row.stand_ins)
            rest = f"the same seed's score of {donors} stands in, and the task counts as lost."
        else:
            rest = (
                f"{row.failures - row.imputed} of them have no run of none to stand in and are "
                "left out of the means; the task counts as lost."
            )
        notes.append(start + rest)
    return notes


def _flagged(board: Leaderboard) -> list[str]:
    flags = sorted({flag for row in board.rows for flag in row.flags})
    return [
        f"{FLAGGED} {flag}{_overrun(flag, board.track)}: "
        f"{', '.join(row.spec for row in board.rows if flag in row.flags)}."
        for flag in flags
    ]


def _overrun(flag: str, track: str) -> str:
    return " (unranked)" if flag == UNRANKED_FLAGS[track] else ""


def _incomplete(board: Leaderboard) -> list[str]:
    notes = [
        f"{INCOMPLETE} {row.spec}: {row.missing} of {row.expected} runs are missing; means are "
        "over what it has, Δ over what it shares with the reference, so its figures do not "
        "compare with those of complete rows."
        for row in board.rows
        if row.missing
    ]
    return notes + [
        f"{NOTHING} {row.spec} is unranked: {row.unranked}." for row in board.rows if row.unranked
    ]


def deviations(rows: Iterable[Row]) -> list[str]:
    """Where methods depart from their papers, as they declare it themselves."""
    return [f"{row.spec}: {'; '.join(row.deviations)}." for row in rows if row.deviations]
