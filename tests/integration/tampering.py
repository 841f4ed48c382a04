"""What somebody might do to a suite's records and tables, and what is said of it then."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Plain = dict[str, Any]


def paths(place: Path) -> list[Path]:
    return sorted((place / "results" / "tiny" / "runs").glob("*.json"))


def find(place: Path, method: str = "standard", distort: str = "imbalance", seed: int = 0) -> Path:
    """The path of one record."""
    for path in paths(place):
        record = json.loads(path.read_bytes())
        where = record["task"]["distort"].startswith(distort)
        if where and record["method"]["spec"] == method and record["seed"] == seed:
            return path
    raise AssertionError(f"no record of {method}")


def save(path: Path, record: Plain) -> None:
    record.pop("checksum", None)  # or make it anew: it guards against accidents alone
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def edit(path: Path, change: Callable[[Plain], object]) -> None:
    record = json.loads(path.read_bytes())
    change(record)
    save(path, record)


def forge(record: Plain) -> Plain:
    """One more right answer, with everything that follows from it."""
    made = copy.deepcopy(record)
    scores = made["scores"]
    table = scores["confusion"]
    label = max(range(10), key=lambda c: scores["class_errors"][c])
    wrong = next(c for c in range(10) if c != label and table[label][c])
    table[label][wrong] -= 1
    table[label][label] += 1
    scores["class_errors"][label] = 1 - table[label][label] / sum(table[label])
    errors, rare = scores["class_errors"], made["task"]["rare"]
    scores["error"] = 1 - sum(table[c][c] for c in range(10)) / 359
    scores["balanced_error"], scores["worst_error"] = sum(errors) / 10, max(errors)
    tail = [error for error, is_rare in zip(errors, rare, strict=True) if is_rare]
    scores["tail_error"] = sum(tail) / len(tail)
    made["curve"][-1]["test_error"] = scores["error"]
    return made


def histogram(edges: list[float], clean: list[int]) -> Plain:
    """What a method might have learned of points."""
    return {"weights": {"edges": edges, "clean": clean, "flipped": [0]}}


# Each edit of one record, and what is said of it

EDITS: dict[str, tuple[Callable[[Plain], object], str]] = {
    "error": (lambda r: r["scores"].update(error=0.2), "no whole number of 359"),
    "error by one image": (
        lambda r: r["scores"].update(error=r["scores"]["error"] - 1 / 359), "confusion matrix",
    ),
    "balanced": (lambda r: r["scores"].update(balanced_error=0.2), "balanced_error is 0.2"),
    "tail": (lambda r: r["scores"].update(tail_error=0.2), "tail_error is 0.2"),
    "worst": (lambda r: r["val_scores"].update(worst_error=0.2), "validation worst_error is 0.2"),
    "class": (lambda r: r["scores"]["class_errors"].__setitem__(0, 0.5), "class 0 has error 0.5"),
    "confusion": (
        lambda r: r["scores"]["confusion"][0].__setitem__(0, 0), "confusion matrix counts",
    ),
    "confusion's form": (lambda r: r["scores"]["confusion"].pop(), "confusion is not square"),
    "confusion's size": (
        lambda r: r["scores"].update(confusion=[[1] * 9 for _ in range(9)]), "for 10 classes",
    ),
    "nll": (lambda r: r["scores"].update(nll=-1.0), "below 0"),
    "memorised": (lambda r: r["scores"].update(memorised=0.123456), "memorised"),
    "train error": (lambda r: r["scores"].update(train_error=0.123456), "train error"),
    "flops": (lambda r: r["bill"].update(flops=r["bill"]["flops"] // 2), "its items sum to"),
    "an item": (lambda r: r["bill"]["items"][1].update(flops=7), "its items sum to 7"),
    "share": (lambda r: r["bill"].update(flops_share=0.9), "flops_share is 0.9"),
    "seconds": (lambda r: r["bill"].update(seconds=0.01), "seconds_share"),
    "rt": (lambda r: r["bill"].update(rt_flops=10**12), "price of 1 RT in FLOPs differs"),
    "flags": (lambda r: r["bill"].update(flags=["overrun>2%"]), "flags"),
    "drift": (lambda r: r["bill"].update(rt_seconds_after=1.0), "portable track"),
    "curve's end": (lambda r: r["curve"][-1].update(test_error=0.0), "its curve ends with"),
    "curve's order": (lambda r: r["curve"].reverse(), "its curve is at"),
    "curve's spending": (lambda r: r["curve"][0].update(spent=2.0), "which falls"),
    "plan": (lambda r: r["plan"][0].update(train=61), "RT of 1"),
    "steps": (lambda r: r.update(steps=50), "its plan is 60 steps"),
    "price": (lambda r: r["prices"].update(train=0.0123456789), "whole number of FLOPs"),
    "plan's label": (lambda r: r["prices"].clear(), "has no price"),
    "trace": (lambda r: r["trace"]["train_loss"]["step"].reverse(), "train_loss is not a series"),
    "weights": (lambda r: r.update(weights="0" * 63), "no SHA-256"),
    "policy": (lambda r: r.update(policy=None), "lacks policy"),
    "rare": (lambda r: r["task"]["rare"].reverse(), "rare classes"),
    "counts": (lambda r: r["task"]["train_counts"].__setitem__(0, 1), "training counts"),
    "flipped": (lambda r: r["task"].update(flipped_total=0.123456), "flipped_total"),
    "digest": (lambda r: r["task"].update(digest="0" * 16), "task differs"),
    "budget": (lambda r: r.update(budget=2.0), "its budget is 2.0, its configuration says 1.0"),
    "seed": (lambda r: r.update(seed=1), "its seed is 1"),
    "recipe": (lambda r: r["config"]["task"]["recipe"].update(lr=0.2), "give the hash"),
    "configuration": (lambda r: r["config"].update(colour="red"), "colour"),
    "source": (lambda r: r["method"].update(source="0" * 16), "give the hash"),
    "learned": (lambda r: r["method"].update(learned=True), "learned = True"),
    "placebo": (lambda r: r["method"].update(placebo_of="none"), "placebo_of = 'none'"),
    "clean labels": (lambda r: r["method"].update(clean_labels="training"), "clean_labels"),
    "protocol": (lambda r: r.update(protocol=2), "protocol 2"),
    "track": (lambda r: r.update(track="gpu"), "of track gpu"),
    "suite": (lambda r: r.update(suite="other"), "of suite other"),
    "threads": (lambda r: r["environment"].update(threads=2), "threads is 2"),
    "schema": (lambda r: r.update(schema_version=2), "schema 2"),
    "an unknown field": (lambda r: r.update(colour="red"), "no augbench record"),
    "sizes": (lambda r: r["task"]["sizes"].pop("val"), "no size of the val images"),
    "no class": (
        lambda r: r["val_scores"].update(class_errors=[None] * 10), "without the error of any",
    ),
    "flipped by class": (lambda r: r["task"].update(flipped=[0.0] * 10), "and per class [0.0"),
    "memorised away": (lambda r: r["scores"].update(memorised=None), "memorised is None with"),
    "validation error": (
        lambda r: r["val_scores"].update(class_errors=[0.0] * 10), "outside its class errors",
    ),
    "no budget": (lambda r: r.update(budget=0.0), "its budget is 0.0 RT"),
    "curve's middle": (
        lambda r: r["curve"][0].update(val_error=0.123456), "curve's val error 0.123456",
    ),
    "no rt": (lambda r: r["bill"].update(rt_flops=0), "1 RT costs 0 FLOPs"),
    "an item twice": (
        lambda r: r["bill"]["items"].append(r["bill"]["items"][0]), "an item twice",
    ),
    "no calls": (lambda r: r["bill"]["items"][0].update(calls=0), "without calls"),
    "points": (lambda r: r.update(points=histogram([0.0, 1.0], [5])), "counts other points"),
    "edges": (lambda r: r.update(points=histogram([1.0, 0.0], [5])), "edges out of order"),
    "failed with scores": (lambda r: r.update(status="failed"), "marked failed and has scores"),
    "ok with a failure": (
        lambda r: r.update(failure={"type": "A", "message": "", "traceback": "", "attempts": 2}),
        "marked ok and has a failure",
    ),
}  # fmt: skip


# Each change of files, and what is said of it


def _torn(place: Path) -> None:
    path = find(place)
    path.write_bytes(path.read_bytes()[:1000])


def _renamed(place: Path) -> None:
    find(place).rename(find(place).with_name("0123456789abcdef.json"))


def _text(place: Path) -> None:
    path = find(place)
    edit(path, dict.copy)  # without its checksum
    path.write_text(path.read_text().replace('"seed": 0', '"seed":  0'))


def _digits(place: Path) -> None:
    path = find(place)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 2'))


def _twice(place: Path) -> None:
    """A key twice: the second one counts, a person reads the first."""
    path = find(place)
    edit(path, dict.copy)
    path.write_text(path.read_text().replace("{", '{\n "steps": 1,', 1))


def _copied(place: Path) -> None:
    """Seed 0's good result for seed 1."""
    other = find(place, seed=1)
    one, two = (json.loads(path.read_bytes()) for path in (find(place), other))
    save(other, two | {name: one[name] for name in ("weights", "scores", "val_scores", "curve")})


def _second(place: Path) -> None:
    record = json.loads(find(place).read_bytes()) | {"hash": "0123456789abcdef"}
    save(find(place).with_name("0123456789abcdef.json"), record)


def spoil_csv(place: Path) -> None:
    path = place / "results" / "tiny" / "leaderboard.csv"
    path.write_text(path.read_text().replace("standard", "Standard", 1))


def _readme(place: Path) -> None:
    path = place / "README.md"
    path.write_text(path.read_text().replace("| 2/0/0 |", "| 1/1/0 |"))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "torn": (_torn, "torn or not JSON"),
    "missing": (lambda p: find(p).unlink(), "standard · 1 RT · seed 0: there is no record"),
    "renamed": (_renamed, "was renamed or edited"),
    "other text": (_text, "its text is not as records are written"),
    "a key twice": (_twice, "its text is not as records are written"),
    "other digits": (_digits, "its checksum is another"),
    "a stray file": (lambda p: (paths(p)[0].parent / "notes.txt").touch(), "notes.txt: no record"),
    "a copied result": (_copied, "another seed"),
    "two of one cell": (_second, "are of one cell"),
    "csv": (spoil_csv, "leaderboard.csv is not what the records give, from line"),
    "csv missing": (
        lambda p: (p / "results/tiny/leaderboard.csv").unlink(), "leaderboard.csv is missing",
    ),
    "readme": (_readme, "README.md: the table of tiny is not what they give"),
}  # fmt: skip
