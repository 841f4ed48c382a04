"""What holds within one record, whoever made it: copies agree, parts sum up, shares follow.

Each identity is one of how `bench.runner` and `bench.train.ledger` make a record.  A number that
was edited by hand breaks one of them, unless all that follows from it was edited too.  Against
that helps only a re-run (`bench.publish.rerun`).
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence

from bench.config import RunConfig, validated
from bench.data.distort import Distortion
from bench.errors import ConfigError
from bench.record import Bill, Histogram, Record, Scores, TaskInfo
from bench.runner import FLAG_OVERRUN, UNRANK_OVERRUN
from bench.stage import MILESTONES
from bench.train.ledger import FREE_REHEARSAL

Sentences = Iterator[str]


def violations(record: Record) -> list[str]:
    """What is wrong within a record, a sentence each; most of them quote both numbers."""
    try:
        config = configuration(record)
        shapes = list(_shapes(record))
    except ConfigError as error:
        return [str(error)]
    if shapes:  # the other checks would trip over them
        return shapes
    if record.status == "failed":
        return [*_copies(record, config), *_empty(record)]
    parts: tuple[Callable[[Record], Sentences], ...] = (
        _full, _task, _test_scores, _val_scores, _curve, _bill, _plan, _trace, _points,
    )  # fmt: skip
    return [*_copies(record, config), *(text for part in parts for text in part(record))]


def configuration(record: Record) -> RunConfig:
    """The record's configuration.

    Raises:
        ConfigError: If it is none.
    """
    return validated(RunConfig, record.config, "the configuration")


def _copies(record: Record, config: RunConfig) -> Sentences:
    """What stands in a record twice."""
    pairs: list[tuple[str, object, object]] = [
        ("suite", record.suite, config.suite),
        ("budget", record.budget, config.budget),
        ("seed", record.seed, config.seed),
        ("track", record.track, config.track),
        ("method", record.method.spec, config.method),
        ("method's name", record.method.name, record.method.spec.partition("[")[0]),
        ("threads", record.environment.get("threads"), config.threads),
    ]
    if record.task is not None:
        task, told = config.task, record.task
        pairs += [(name, getattr(told, name), getattr(task, name)) for name in _TASK]
        pairs.append(("recipe", told.recipe, task.recipe.model_dump(mode="json")))
    for name, said, configured in pairs:
        if said != configured:
            yield f"its {name} is {said!r}, its configuration says {configured!r}"


_TASK = ("data", "distort", "network")


def _empty(record: Record) -> Sentences:
    for name in ("scores", "val_scores", "bill", "weights", "policy", "points"):
        if getattr(record, name) is not None:
            yield f"it is marked failed and has {name}"
    if record.failure is None:
        yield "it is marked failed and says not why"


def _full(record: Record) -> Sentences:
    if record.failure is not None:
        yield "it is marked ok and has a failure"
    for name in ("val_scores", "policy"):
        if getattr(record, name) is None:
            yield f"it is marked ok and lacks {name}"
    for name, length in (("weights", 64), ("side_file", 64)):
        digest = getattr(record, name)
        if digest is None and name == "side_file":
            continue
        if digest is None or not re.fullmatch(f"[0-9a-f]{{{length}}}", digest):
            yield f"its {name} {digest!r} is no SHA-256"


def _shapes(record: Record) -> Sentences:
    """What the other checks count and divide by."""
    bill, task = record.bill, record.task
    if bill is not None and (bill.rt_flops < 1 or bill.rt_seconds <= 0):
        yield f"1 RT costs {bill.rt_flops} FLOPs and {bill.rt_seconds!r} s"
    if record.budget <= 0:
        yield f"its budget is {record.budget!r} RT"
    if task is None:
        return
    classes = len(task.classes)
    lists: dict[str, Sequence[object]] = {
        name: getattr(task, name) for name in ("rare", "train_counts", "flipped")
    }
    for name, scores in (("scores", record.scores), ("val_scores", record.val_scores)):
        if scores is not None:
            lists[f"{name}.class_errors"] = scores.class_errors
            if scores.confusion is not None:
                lists[f"{name}.confusion"] = scores.confusion
                lists |= {f"{name}.confusion[{i}]": r for i, r in enumerate(scores.confusion)}
    for name, values in lists.items():
        if len(values) != classes:
            yield f"{name} has {len(values)} entries for {classes} classes"
    for name in ("train", "val", "test"):
        if task.sizes.get(name, 0) < 1:
            yield f"its task has no size of the {name} images"
    for scores in (record.scores, record.val_scores):
        if scores is not None and not any(error is not None for error in scores.class_errors):
            yield "it has scores without the error of any class"


def _task(record: Record) -> Sentences:
    task = _of(record)
    images = task.sizes["train"]
    if sum(task.train_counts) != images:
        yield f"its training counts sum to {sum(task.train_counts)}, not to {images} images"
    if not _whole(task.flipped_total, images):
        yield f"flipped_total {task.flipped_total!r} is no whole number of {images} images"
    distortion = Distortion.parse(task.distort)
    if task.rare != list(distortion.rare(len(task.classes))):
        yield f"its rare classes are not those of {task.distort}"
    if any(task.flipped) != (task.flipped_total > 0):
        yield f"flipped_total is {task.flipped_total!r}, and per class {task.flipped}"


def _test_scores(record: Record) -> Sentences:
    assert record.scores is not None
    scores, task = record.scores, _of(record)
    yield from _scores("test", scores, task)
    yield from _confusion(scores, task.sizes["test"])
    images = task.sizes["train"]
    if scores.train_error is None or not _whole(scores.train_error, images):
        yield f"train error {scores.train_error!r} is no whole number of {images} images"
    flipped = round(task.flipped_total * images)
    if (scores.memorised is None) != (flipped == 0):
        yield f"memorised is {scores.memorised!r} with {flipped} mislabelled points"
    elif scores.memorised is not None and not _whole(scores.memorised, flipped):
        yield f"memorised {scores.memorised!r} is no whole number of {flipped} points"


def _val_scores(record: Record) -> Sentences:
    if record.val_scores is not None:
        yield from _scores("validation", record.val_scores, _of(record))


def _scores(name: str, scores: Scores, task: TaskInfo) -> Sentences:
    images = task.sizes["test" if name == "test" else "val"]
    if not _whole(scores.error, images):
        yield f"{name} error {scores.error!r} is no whole number of {images} images"
    present = [error for error in scores.class_errors if error is not None]
    pairs = zip(scores.class_errors, task.rare, strict=True)
    tail = [error for error, rare in pairs if rare and error is not None]
    tail = tail or sorted(present)[-max(1, len(present) // 3) :]
    follow = {
        "balanced_error": sum(present) / len(present),
        "worst_error": max(present),
        "tail_error": sum(tail) / len(tail),
    }
    for metric, value in follow.items():
        if not _close(getattr(scores, metric), value):
            yield (
                f"{name} {metric} is {getattr(scores, metric)!r}, its class errors give {value!r}"
            )
    if not min(present) - 1e-9 <= scores.error <= max(present) + 1e-9:
        yield f"{name} error {scores.error!r} is outside its class errors"
    if scores.nll < 0:
        yield f"{name} nll {scores.nll!r} is below 0"


def _confusion(scores: Scores, images: int) -> Sentences:
    table = scores.confusion
    if table is None:
        return
    counts = [sum(row) for row in table]
    if sum(counts) != images or min(map(min, table)) < 0:
        yield f"its confusion matrix counts {sum(counts)} of {images} test images"
    hits = [row[label] for label, row in enumerate(table)]
    if not _close(scores.error, 1 - sum(hits) / max(1, sum(counts))):
        yield f"test error is {scores.error!r}, its confusion matrix says otherwise"
    for label, (count, hit, error) in enumerate(
        zip(counts, hits, scores.class_errors, strict=True)
    ):
        found = 1 - hit / count if count else None
        if (found is None) != (error is None) or not _close(error or 0.0, found or 0.0):
            yield f"class {label} has error {error!r}, its confusion matrix gives {found!r}"


def _curve(record: Record) -> Sentences:
    assert record.scores is not None
    assert record.bill is not None
    points, task = record.curve, _of(record)
    fractions = [point.fraction for point in points]
    ordered = fractions == sorted(set(fractions)) and set(fractions) <= set(MILESTONES)
    if not ordered or not points or fractions[-1] != 1.0:
        yield f"its curve is at {fractions}, not at {list(MILESTONES)} or some of them to the end"
        return
    spent = [point.spent for point in points]
    if spent != sorted(spent):
        yield f"its curve spends {spent}, which falls"
    for point in points:
        for name, error in (("test", point.test_error), ("val", point.val_error)):
            if not _whole(error, task.sizes[name]):
                yield f"its curve's {name} error {error!r} is no whole number of images"
    last = points[-1]
    ends = {
        "test error": (last.test_error, record.scores.error),
        "spent": (last.spent, _rt(record)),
    }
    if record.val_scores is not None:
        ends["validation error"] = (last.val_error, record.val_scores.error)
    for name, (drawn, told) in ends.items():
        if not _close(drawn, told):
            yield f"its curve ends with {name} {drawn!r}, the record says {told!r}"


def _bill(record: Record) -> Sentences:
    assert record.bill is not None
    bill, budget = record.bill, record.budget
    excess = max(0.0, bill.rehearsal_flops - FREE_REHEARSAL * budget * bill.rt_flops)
    flops = sum(item.flops for item in bill.items) + round(excess)
    if bill.flops != flops:
        yield f"its bill says {bill.flops} FLOPs, its items sum to {flops}"
    seconds = sum(item.seconds for item in bill.items)
    follow = {
        "flops_share": bill.flops / bill.rt_flops / budget,
        "seconds_share": bill.seconds / bill.rt_seconds / budget,
        "overhead_seconds": bill.seconds - seconds,
    }
    for name, value in follow.items():
        if not math.isclose(getattr(bill, name), value, rel_tol=1e-9, abs_tol=1e-6):
            yield f"its bill's {name} is {getattr(bill, name)!r}, its numbers give {value!r}"
    names = [(item.label, sorted(item.key.items())) for item in bill.items]
    if any(names.count(name) > 1 for name in names):
        yield "its bill has an item twice"
    if any(item.calls < 1 or item.flops < 0 or item.seconds < 0 for item in bill.items):
        yield "its bill has an item without calls, or below 0"
    if bill.flags != _flags(record):
        yield f"its bill's flags are {bill.flags}, its overrun gives {_flags(record)}"
    if (bill.rt_seconds_after is not None) != (record.track == "gpu"):
        yield f"rt_seconds_after is {bill.rt_seconds_after!r} on the {record.track} track"


def _flags(record: Record) -> list[str]:
    overrun = _rt(record) / record.budget - 1
    limits = [UNRANK_OVERRUN[record.track], *([FLAG_OVERRUN] if record.track == "gpu" else [])]
    return next(([f"overrun>{100 * limit:g}%"] for limit in limits if overrun > limit), [])


def _plan(record: Record) -> Sentences:
    assert record.bill is not None
    for label in sorted({label for plan in record.plan for label in plan} - record.prices.keys()):
        yield f"its plan has {label}, which has no price"
        return
    for plan in record.plan:
        cost = sum(record.prices[label] * count for label, count in plan.items())
        if cost > record.budget * (1 + 1e-6):
            yield f"its plan {plan} costs {cost:.6g} RT of {record.budget:g}"
    if record.track != "portable":
        return
    for label, price in record.prices.items():
        flops = price * record.bill.rt_flops
        if not math.isclose(flops, round(flops), rel_tol=1e-12, abs_tol=1e-3):
            yield f"the price of {label}, {price!r} RT, is no whole number of FLOPs"
    if len(record.plan) == 1 and list(record.plan[0]) == ["train"]:
        planned = record.plan[0]["train"]
        if record.steps != planned:
            yield f"its plan is {planned} steps, and it says it took {record.steps}"


def _trace(record: Record) -> Sentences:
    for name, series in record.trace.items():
        try:
            steps, values = series["step"], series["value"]
            sound = len(steps) == len(values) and steps == sorted(steps)
            sound = sound and (not steps or 0 <= steps[0] <= steps[-1] <= record.steps)
        except (KeyError, TypeError):
            sound = False
        if not sound:
            yield f"its trace's {name} is not a series over steps 0 to {record.steps}"


def _points(record: Record) -> Sentences:
    task, told = _of(record), record.points
    if told is None:
        return
    images = task.sizes["train"]
    flipped = round(task.flipped_total * images)
    for name in ("weights", "given_shares"):
        found: Histogram | None = getattr(told, name)
        if found is None:
            continue
        if (sum(found.clean), sum(found.flipped)) != (images - flipped, flipped):
            yield f"the histogram of {name} counts other points than {images}, {flipped} flipped"
        if found.edges != sorted(found.edges) or len(found.edges) != len(found.clean) + 1:
            yield f"the histogram of {name} has edges out of order"


def _of(record: Record) -> TaskInfo:
    assert record.task is not None
    return record.task


def _rt(record: Record) -> float:
    """What the run cost in RT of the binding currency."""
    bill = record.bill
    assert isinstance(bill, Bill)
    if record.track == "gpu":
        return bill.seconds / bill.rt_seconds
    return bill.flops / bill.rt_flops


def _whole(share: float, of: int) -> bool:
    return abs(share * of - round(share * of)) < 1e-6


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
