"""Suites and runs: strict validation, one-sentence errors, specifications, run hashes."""

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench import config as module
from bench.config import (
    RunConfig,
    Suite,
    TaskConfig,
    folder_name,
    load_suite,
    parse_spec,
    run_hash,
    suite_files,
    validated,
)
from bench.errors import ConfigError
from bench.train.recipe import Recipe

quick = settings(max_examples=80, deadline=None)
GOOD = """
title = "Mine"
budgets = [1, 3.5]
seeds = 2
methods = ["none", "standard[length=filled]"]

[[tasks]]
data = "digits"
distort = ["clean", "noise=0.10, imbalance=10.0"]
network = "small-cnn"
recipe = { steps = 60, batch_size = 32 }

[[tasks]]
data = "folder:birds"
size = 32
val_fraction = 0.3
network = "wrn-10-1"
recipe = { steps = 30 }
"""


def suite_of(folder: Path, text: str, name: str = "mine.toml") -> Suite:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_suite(str(path))


def message_of(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        suite_of(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("--suite ")
    return message


# Suites


@pytest.mark.parametrize("name", suite_files())
def test_suites_of_the_project_load_and_expand(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == folder_name(name)
    assert suite.title
    runs = list(suite.runs(device="cpu", threads=1, compiled=False))
    tasks = sum(len(task.distort) for task in suite.tasks)
    assert len(runs) == tasks * len(suite.methods) * len(suite.budgets) * suite.seeds
    assert len({run.model_dump_json() for run in runs}) == len(runs)
    assert len(set(suite.methods)) == len(suite.methods)


def test_the_quick_suite_keeps_its_membership() -> None:
    assert len(load_suite("quick").methods) <= 8, "PROTOCOL.md: at most eight rows"


def test_values_of_a_file_arrive(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD)
    assert (suite.name, suite.title, suite.track) == ("mine", "Mine", "portable")
    assert suite.budgets == [1.0, 3.5]
    clean, noisy, birds = [task for group in suite.tasks for task in group.tasks()]
    assert clean.distort == "clean"
    assert noisy.distort == "imbalance=10,noise=0.1", "canonical"
    assert (birds.distort, birds.size, birds.val_fraction) == ("clean", 32, 0.3)
    assert clean.recipe == Recipe(steps=60, batch_size=32)
    assert birds.recipe == Recipe(steps=30)
    assert suite_of(tmp_path, 'name = "other"\n' + GOOD).name == "other"


def test_runs_come_in_whole_blocks(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD)
    runs = list(suite.runs(device="cpu", threads=2, compiled=True))
    found = [(run.budget, run.seed, run.task.data, run.task.distort, run.method) for run in runs]
    tasks = [("digits", "clean"), ("digits", "imbalance=10,noise=0.1"), ("folder:birds", "clean")]
    assert found == [
        (budget, seed, *task, method)
        for budget in (1.0, 3.5)
        for seed in (0, 1)
        for task in tasks
        for method in ("none", "standard[length=filled]")
    ]
    assert {(run.suite, run.device, run.threads, run.compile) for run in runs} == {
        ("mine", "cpu", 2, True)
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds = 2", "sedes = 2", ["sedes", "unknown", "seeds", "budgets"]),
        ("seeds = 2", 'seeds = "many"', ["seeds", "'many'", "integer"]),
        ("seeds = 2", "seeds = 0", ["seeds", "0", "greater than or equal to 1"]),
        ("seeds = 2", "seeds = 2.5", ["seeds", "2.5"]),
        ("[1, 3.5]", "[0]", ["budgets.0", "0", "greater than 0"]),
        ("[1, 3.5]", "[1, -3]", ["budgets.1", "-3", "greater than 0"]),
        ("[1, 3.5]", "[nan]", ["budgets.0", "nan"]),
        ("[1, 3.5]", "[]", ["budgets", "at least 1"]),
        ("[1, 3.5]", '["3rt"]', ["budgets.0", "'3rt'", "number"]),
        ("[1, 3.5]", "3", ["budgets", "3", "list"]),
        ('methods = ["none", "standard[length=filled]"]', "methods = []", ["methods"]),
        ('methods = ["none", "standard[length=filled]"]', "", ["methods", "required"]),
        ("seeds = 2", 'track = "tpu"', ["track", "'tpu'", "'portable'", "'gpu'"]),
        ("steps = 60", "steps = 0", ["tasks.0.recipe.steps", "0", "greater than 0"]),
        ("steps = 60", 'steps = "x"', ["tasks.0.recipe.steps", "'x'"]),
        ("steps = 60", "steps = 60, lrr = 1", ["tasks.0.recipe.lrr", "unknown"]),
        ("\nsize = 32", "\nsise = 32", ["tasks.1.sise", "unknown"]),
        ("steps = 60", "steps = 60, momentum = 1", ["tasks.0.recipe.momentum", "less than 1"]),
        ('title = "Mine"', 'name = "a/b"', ["name", "'a/b'"]),
        ('title = "Mine"', 'name = ".hidden"', ["name", "'.hidden'"]),
        ('title = "Mine"', 'title = "Mine', ["not valid TOML"]),
        ("seeds = 2", "seeds = 2\nseeds = 3", ["not valid TOML"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    assert old in GOOD
    message = message_of(tmp_path, GOOD.replace(old, new, 1))
    for word in [str(tmp_path / "mine.toml"), *words]:
        assert word.lower() in message.lower()


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_suite(str(tmp_path / "a.toml"))


@pytest.mark.parametrize("name", ["nope", "", "nope.toml", "/nowhere/quick.toml"])
def test_an_unknown_suite_lists_those_there_are(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_suite(name)
    assert repr(name) in str(caught.value)
    for known in suite_files():
        assert known in str(caught.value)


def test_an_impossible_distortion_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="blur"):
        list(
            suite_of(tmp_path, GOOD.replace("clean", "blur=3")).runs(
                device="cpu", threads=1, compiled=False
            )
        )


def test_configurations_are_frozen() -> None:
    config = run()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1
    with pytest.raises(ValueError, match="frozen"):
        config.task.recipe.lr = 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("budget", 0),
        ("budget", -1),
        ("budget", float("nan")),
        ("seed", -1),
        ("threads", 0),
        ("device", "tpu"),
        ("track", "both"),
        ("surprise", 1),
    ],
)
def test_a_run_is_validated(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^run: {field}: "):
        validated(RunConfig, run().model_dump() | {field: value}, "run")


# Specifications

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True)
VALUES = st.text(string.ascii_letters + string.digits + "._-+ =[]", min_size=1, max_size=8)


@quick
@given(NAMES, st.dictionaries(NAMES, VALUES.map(str.strip).filter(bool), max_size=4))
@example("a", {"b": "c=d", "e": "[1]"})
def test_a_specification_is_read_back(name: str, options: dict[str, str]) -> None:
    inner = ",".join(f"{key}={value}" for key, value in options.items())
    assert parse_spec(f"{name}[{inner}]") == (name, options)
    spaced = " , ".join(f" {key} = {value} " for key, value in options.items())
    assert parse_spec(f"  {name}[{spaced}] ") == (name, options)
    assert parse_spec(name) == (name, {})


@quick
@given(st.text(max_size=20))
@example("gar[a=1\n]")
@example("gar[")
@example("gar]")
@example("Gar")
@example("")
@example("-gar")
@example("gar[a]")
@example("gar[a=]")
@example("gar[=1]")
@example("gar[a=1,a=2]")
@example("gar[a=1]b")
@example("gar a")
def test_any_text_is_a_specification_or_one_line(text: str) -> None:
    try:
        name, options = parse_spec(text)
    except ConfigError as error:
        message = str(error)
    else:
        assert text.strip().startswith(name)
        assert all(key and value for key, value in options.items())
        return
    assert repr(text) in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "Gar", "-gar", "gar[", "gar]", "gar[a]", "gar[a=]", "gar[=1]", "gar[a=1,a=2]"),
        *("a b", "gar[a=1]b", "gar[a=1][b=2]x", "methods/gar", "gar[a=1,b]"),
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^method "):
        parse_spec(text)


# Run hashes


def run(**changes: Any) -> RunConfig:
    task = {"data": "digits", "network": "small-cnn", "recipe": Recipe(steps=60)}
    task |= changes.pop("task", {})
    fields = {"suite": "quick", "method": "standard", "budget": 3.0, "seed": 0}
    return RunConfig(**(fields | {"task": TaskConfig(**task)} | changes))


def hashed(config: RunConfig, data: str = "digits", print_: str = "f", source: str = "s") -> str:
    return run_hash(config, data, print_, source)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "standard[length=filled]"},
        {"budget": 3.5},
        {"seed": 1},
        {"track": "gpu"},
        {"device": "cuda"},
        {"threads": 2},
        {"compile": True},
        {"task": {"distort": "noise=0.1"}},
        {"task": {"network": "lenet"}},
        {"task": {"size": 16}},
        {"task": {"val_fraction": 0.3}},
        *({"task": {"recipe": Recipe(**({"steps": 60} | change))}} for change in (
            {"steps": 61}, {"batch_size": 64}, {"lr": 0.2}, {"momentum": 0.8}, {"nesterov": False},
            {"weight_decay": 0.0}, {"warmup": 0.1}, {"pad": 0}, {"flip": False},
        )),
    ],
    ids=repr,
)  # fmt: skip
def test_whatever_changes_the_work_changes_the_hash(changes: dict[str, Any]) -> None:
    assert hashed(run(**changes)) != hashed(run())


def test_data_files_source_and_protocol_change_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = [
        hashed(run()),
        hashed(run(), data="folder:digits"),
        hashed(run(), print_="g"),
        hashed(run(), source="t"),
    ]
    monkeypatch.setattr(module, "PROTOCOL_VERSION", module.PROTOCOL_VERSION + 1)
    hashes.append(hashed(run()))
    assert len(set(hashes)) == len(hashes)


def test_every_field_of_a_run_is_covered_by_these_tests() -> None:
    assert set(RunConfig.model_fields) == {"suite", "task", "method", "budget", "seed"} | {
        "track", "device", "threads", "compile"
    }  # fmt: skip
    assert set(TaskConfig.model_fields) == {
        "data", "distort", "network", "size", "val_fraction", "recipe"
    }  # fmt: skip


def test_suite_path_and_spelling_do_not_change_the_hash() -> None:
    same = [
        run(suite="other"),
        run(task={"data": "folder:/home/me/digits"}),
        run(budget=3),
        run(task={"distort": "noise=0"}),
        run(task={"recipe": Recipe(steps=60, lr=0.1, batch_size=128)}),
    ]
    assert {hashed(config) for config in same} == {hashed(run())}


def test_the_hash_is_the_same_everywhere() -> None:
    # A literal: a change here orphans every record and needs a new PROTOCOL_VERSION.
    assert hashed(run()) == "d46ecbbd85edda0b"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seeds = 2", "seeds = true"),
        ("steps = 60", "steps = 60, lr = inf"),
        ("steps = 60", "steps = 60, lr = nan"),
        ("seeds = 2", 'seeds = "2"'),
        ("\nsize = 32", "\nsize = 0"),
        ("\nsize = 32", "\nval_fraction = 2.0"),
    ],
)
def test_values_are_strict(tmp_path: Path, old: str, new: str) -> None:
    assert old in GOOD
    assert "\n" not in message_of(tmp_path, GOOD.replace(old, new, 1))


def test_an_unknown_nested_option_lists_its_own_neighbours(tmp_path: Path) -> None:
    message = message_of(tmp_path, GOOD.replace("steps = 60", "steps = 60, lrr = 1", 1))
    assert "the options are steps, batch_size, lr" in message
