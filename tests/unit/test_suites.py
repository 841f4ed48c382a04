"""Every suite file: names, methods, what is skipped, and which rows its budgets scale down."""

import re
from pathlib import Path

import pytest

import baselines
import methods
from bench import drive
from bench.config import Suite, find_suite, folder_name, load_suite, suite_files
from bench.errors import DataError
from bench.plugins import Plugin, discover, select
from bench.projection import Assumption, below, estimates
from bench.request import Request

SYSTEMS = {"gar", "ohl", "autodo", "fds", "hba"}
REQUEST = Request(
    suite="", data=None, methods=(), distort=(), budgets=(), seeds=1, network=None, size=None,
    steps=None, name=None, track=None, jobs=1, devices="cpu", threads=1, compiled=False, root=None,
    memory_limit=4 << 30, skip_corrupt=False, results=Path("nowhere"), dry_run=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def plugins() -> dict[str, Plugin]:
    return discover([Path(package.__path__[0]) for package in (methods, baselines)])


def campaign(name: str, plugins: dict[str, Plugin]) -> drive.Campaign:
    """A dry run of one seed at the largest budget; a skipped test where local images lack."""
    budget = max(load_suite(name).budgets)
    request = Request(**(vars(REQUEST) | {"suite": name, "budgets": (f"{budget:g}",)}))
    try:
        return drive.plan(request, plugins)
    except DataError:
        pytest.skip("its images are not here: set AUGBENCH_DATA")


def systems(suite: Suite, plugins: dict[str, Plugin]) -> dict[str, str]:
    """The five systems' own rows, by their specification; placebos and replays need more."""
    chosen = [select(plugins, text) for text in suite.methods]
    return {
        one.spec: one.plugin.method.name
        for one in chosen
        if one.plugin.method.name in SYSTEMS and one.placebo_of is None
    }


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "full")) for n in suite_files()]
)
def test_rows_run_and_budgets_are_faithful_or_the_file_says_so(
    name: str, plugins: dict[str, Plugin]
) -> None:
    suite, text = load_suite(name), suite_files()[name].read_text(encoding="utf-8")
    specs = [select(plugins, method).spec for method in suite.methods]
    assert len(set(specs)) == len(specs), "two rows are one"
    assert suite.reference in specs
    found = estimates(campaign(name, plugins), plugins, Assumption())
    for each in found:
        assert each.skips == {}, f"{each.label}: a row of a suite runs on all of its tasks"
        assert each.flops > 0
    own = systems(suite, plugins)
    scaled = {own[spec] for spec in below(found, max(suite.budgets)) if spec in own}
    said = re.search(r"^# Scaled at every budget: ([a-z, ]+)\.", text, re.MULTILINE)
    assert scaled == (set(said[1].split(", ")) if said else set())


def test_the_full_suite_has_everything(plugins: dict[str, Plugin]) -> None:
    suite = load_suite("full")
    names = {select(plugins, text).plugin.method.name for text in suite.methods}
    assert set(plugins) - names == {"stn"}, "which needs a chain of layers"
    assert set(suite.budgets) == {1, 3, 10}
    assert suite.seeds == 5
    for system in SYSTEMS:
        for placebo in ("uniform", "shuffled"):
            rows = [t for t in suite.methods if t.startswith(system) and f"={placebo}" in t]
            assert rows, f"{system} without its {placebo} placebo"
    for group in suite.tasks:
        shapes = {re.sub(r"\d+", "", text) for text in group.distort}
        assert shapes == {"clean", "imbalance=", "noise=.", "imbalance=,noise=."}


def test_a_suite_in_a_subfolder_has_one_folder_of_records() -> None:
    for name in ("paper/gar", "paper-gar"):
        assert load_suite(name).name == folder_name(name) == "paper-gar"
        assert find_suite(name) == suite_files()["paper/gar"]
    path = str(suite_files()["paper/gar"])
    assert load_suite(path).name == "paper-gar"
    folders = [folder_name(name) for name in suite_files()]
    assert len(set(folders)) == len(folders), "two suites would share their records"
    for name in suite_files():
        assert load_suite(name).name == folder_name(name)
    assert find_suite("gar") is None
