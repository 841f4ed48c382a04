"""A record against a re-run of it: the same bits in an equal environment, a tolerance elsewhere.

The tolerance.  Another processor or library rounds otherwise, and training makes a new draw of
what rounding decides: e' in place of e, at the same split, initial weights and order.  Let s be
the standard deviation of the row's test error over seeds, pooled over its tasks at this budget
with d degrees of freedom, and no less than that of as many wrong answers as there were.  A draw
over seeds varies at least as much as one over rounding, so

    |e' - e| <= t(d, 0.995) · √2 · s

fails for an honest record in at most about 1 % of re-runs.  With 3 seeds on one task (d = 2) that
is 14 s and catches gross errors only; equal bits are the sharp test.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from bench.record import Record

FALSE_ALARM = 0.01
# What follows from the bits of a run, whatever clock it ran by.
BITS = (
    "weights", "scores", "val_scores", "task", "plan", "steps", "images_seen", "policy_updates",
    "policy", "trace", "points",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """What a re-run says of a record.

    Attributes:
        environment: How the environments differ, in words; empty if they are equal.
        bits: Where the two differ, in words; empty if they are the same run.
        problems: Why the record is refused.
        verdict: The result in a sentence.
        decided: Whether the re-run says anything for or against the record.
    """

    environment: list[str]
    bits: list[str]
    problems: list[str]
    verdict: str
    decided: bool = True


def compare(record: Record, again: Record, row: Sequence[Record]) -> Comparison:
    """Holds a record against its re-run.

    Args:
        record: As published.
        again: The re-run.
        row: All records of the row at the record's budget, for the spread over seeds.
    """
    environment, bits = differences(record, again), differing(record, again)
    if record.hash != again.hash:
        return _refused(environment, bits, f"the re-run has the hash {again.hash}")
    if not bits:
        place = "" if not environment else " in another environment"
        return Comparison(environment, bits, [], f"the same bits{place}")
    if not environment and record.config["device"] == "cpu":
        differ = "; ".join(bits)
        return _refused(environment, bits, f"other bits in an equal environment: {differ}")
    if record.scores is None or again.scores is None:
        ended = f"it ended {record.status} then and {again.status} now, in another environment"
        return Comparison(environment, bits, [], ended, decided=False)
    problems = _work(record, again)
    gap = abs(again.scores.error - record.scores.error)
    limit = tolerance(record, row)
    if math.isnan(limit):
        verdict = "no tolerance can be stated, for the row has no two seeds on a task"
        return Comparison(environment, bits, problems, verdict, decided=False)
    verdict = f"{100 * gap:.2f} points of test error apart, {100 * limit:.2f} allowed"
    if gap > limit:
        problems.append(f"test error: {verdict}")
    return Comparison(environment, bits, problems, verdict)


def _refused(environment: list[str], bits: list[str], problem: str) -> Comparison:
    return Comparison(environment, bits, [problem], problem)


def differences(record: Record, again: Record) -> list[str]:
    """How the environment of a re-run differs from the record's.

    Packages that the record does not name were not thought to matter when it was made.
    """
    old, new = _flat(record.environment), _flat(again.environment)
    found = [f"{name} {value} then, {new.get(name)} now" for name, value in old.items()
             if name != "git" and new.get(name) != value]  # fmt: skip
    if record.bench != again.bench:
        found.append(f"bench/ {record.bench} then, {again.bench} now")
    if record.method.source != again.method.source:
        found.append(f"method {record.method.source} then, {again.method.source} now")
    if record.task and again.task and record.task.digest != again.task.digest:
        found.append(f"pixels {record.task.digest} then, {again.task.digest} now")
    return found


def _flat(environment: dict[str, Any]) -> dict[str, Any]:
    packages: dict[str, Any] = environment.get("packages", {})
    return {k: v for k, v in environment.items() if k != "packages"} | packages


def differing(record: Record, again: Record) -> list[str]:
    """In what two runs differ that equal bits would make equal."""
    then, now = _bits(record), _bits(again)
    return [
        _told(name, value, now[name])
        for name, value in then.items()
        if _known(value, value) != _known(now[name], value)
    ]


def _bits(record: Record) -> dict[str, Any]:
    """What the bits of a run decide, as plain data: everything but seconds."""
    plain = record.model_dump(mode="json")
    bits: dict[str, Any] = {name: plain[name] for name in BITS}
    bits |= {"status": record.status, "failure": record.failure and record.failure.type}
    if record.track == "portable" and record.bill is not None:
        bill = record.bill
        bits |= {name: plain[name] for name in ("prices", "curve")}
        bits["bill"] = [bill.rt_flops, bill.flops, bill.rehearsal_flops]
        bits["bill's items"] = [
            [item.label, sorted(item.key.items()), item.calls, item.flops] for item in bill.items
        ]
    return bits


def _known(value: Any, measure: Any) -> Any:
    """The fields that the older record has: later versions record more."""
    if not isinstance(value, dict) or not isinstance(measure, dict):
        return value
    return {key: one for key, one in value.items() if measure.get(key) is not None}


def _told(name: str, then: Any, now: Any) -> str:
    """A difference in words, with both values where they are short."""
    if isinstance(then, dict) and isinstance(now, dict) and then.get("error") != now.get("error"):
        name, then, now = f"{name} (error)", then.get("error"), now.get("error")
    short = all(isinstance(value, int | float | str) for value in (then, now))
    return f"{name} {then} then, {now} now" if short else name


def _work(record: Record, again: Record) -> list[str]:
    """FLOPs depend on no processor: on the portable track the plan must be the same one."""
    if record.track != "portable" or record.bill is None or again.bill is None:
        return []
    problems = []
    if record.bill.rt_flops != again.bill.rt_flops:
        problems.append(f"1 RT: {record.bill.rt_flops} FLOPs, its re-run {again.bill.rt_flops}")
    if record.plan[:1] != again.plan[:1]:
        problems.append(f"plan: {record.plan[:1]}, its re-run {again.plan[:1]}")
    return problems


def tolerance(record: Record, row: Iterable[Record]) -> float:
    """The largest honest difference of test error, as a fraction; NaN without two seeds."""
    assert record.scores is not None
    assert record.task is not None
    tasks: dict[str, list[float]] = {}
    for one in row:
        if one.scores is not None and one.task is not None:
            tasks.setdefault(one.task.name, []).append(one.scores.error)
    groups = [np.array(errors) for errors in tasks.values() if len(errors) > 1]
    freedom = sum(len(errors) - 1 for errors in groups)
    if not freedom:
        return math.nan
    pooled = sum(float(errors.var(ddof=1)) * (len(errors) - 1) for errors in groups) / freedom
    images = record.task.sizes["test"]
    least = math.sqrt(max(1.0, record.scores.error * images)) / images
    spread = max(math.sqrt(pooled), least)
    return float(stdtrit(freedom, 1 - FALSE_ALARM / 2)) * math.sqrt(2.0) * spread
