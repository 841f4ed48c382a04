"""DESIGN.md "Folders", from the syntax trees: who imports whom, sizes, docstrings, laziness."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

PACKAGES = ("bench", "methods", "baselines")
MODULE_LINES, FUNCTION_LINES = 400, 40
BASE = ("bench.errors", "bench.plain", "bench.rng")
BELOW_TRAIN = ("bench.data", "bench.augment", "bench.networks")
LIBRARY = (*BASE, *BELOW_TRAIN, "bench.train", "bench.method")
# Layer -> the parts of this project that it may import; the first layer that fits a module counts.
LAYERS: dict[str, tuple[str, ...]] = {
    "bench.errors": (),
    "bench.plain": (),
    "bench.atomic": (),
    "bench.rng": ("bench.errors",),
    "bench.data": (*BASE, "bench.data"),
    "bench.augment": (*BASE, "bench.augment"),
    "bench.networks": (*BASE, "bench.networks"),
    "bench.train": (*BASE, *BELOW_TRAIN, "bench.train"),
    "bench.method": LIBRARY,
    "bench.record": ("bench.atomic", "bench.errors", "bench.plain"),
    "bench.report": (
        *("bench.atomic", "bench.errors", "bench.plain"),
        *("bench.record", "bench.report"),
    ),
    "bench.cli": PACKAGES,
    "bench": ("bench",),
    "methods": LIBRARY,
    "baselines": LIBRARY,
}
# Library -> its only importer.
IMPORTERS = {
    "pandas": "bench.report",
    "altair": "bench.report",
    "vl_convert": "bench.report",
    "jinja2": "bench.report",
    "optuna": "baselines",
    "botorch": "baselines",
    "gpytorch": "baselines",
    "ax": "baselines",
    "timm": "bench.networks",
    "pyarrow": "bench.data",
    "typer": "bench.cli",
    "ray": "bench.executors",
    "submitit": "bench.executors",
}

Sources = dict[str, str]


@pytest.fixture(scope="module")
def sources() -> Sources:
    """Dotted name -> text of every module of the project."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join(parts)] = path.read_text(encoding="utf-8")
    return found


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def imports(text: str, known: Sources) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, at the top or inside a function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                full = f"{module}.{alias.name}"
                yield node.lineno, full if full in known else module


def helps(target: str, name: str) -> bool:
    """Whether a module helps the methods beside it: its name begins with an underscore."""
    folder = name.rpartition(".")[0]
    return folder in ("methods", "baselines") and target.startswith(f"{folder}._")


def layer_violations(sources: Sources, known: Sources) -> list[str]:
    """Imports of modules of the project (`known`) that the importer's layer does not allow."""
    found = []
    for name, text in sources.items():
        allowed = next(LAYERS[layer] for layer in LAYERS if within(name, layer))
        for line, target in imports(text, known):
            own = target.startswith(".") or target.split(".")[0] in PACKAGES
            if helps(target, name):
                continue
            if own and not any(within(target, part) for part in allowed):
                found.append(f"{name}:{line} imports {target}")
    return found


def sibling_violations(sources: Sources) -> list[str]:
    """Method files that import another method file; a helper's name begins with an underscore."""
    found = []
    for name, text in sources.items():
        package = name.split(".")[0]
        for line, target in imports(text, sources):
            own = package in ("methods", "baselines") and within(target, package)
            if own and not helps(target, name):
                found.append(f"{name}:{line} imports {target}")
    return found


def library_violations(sources: Sources) -> list[str]:
    """Libraries that are imported elsewhere than in their one place."""
    return [
        f"{name}:{line} imports {target}"
        for name, text in sources.items()
        for line, target in imports(text, sources)
        for library, place in IMPORTERS.items()
        if within(target, library) and not within(name, place)
    ]


def cycles(sources: Sources) -> list[list[str]]:
    """Modules that import each other, directly or by way of others."""
    graph = {
        name: sorted({t for _, t in imports(text, sources) if t in sources and t != name})
        for name, text in sources.items()
    }
    done: set[str] = set()
    found: list[list[str]] = []

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in graph[name]:
                visit(target, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return found


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the last."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def long_modules(sources: Sources) -> list[str]:
    """Modules that are too long."""
    lines = {name: len(text.splitlines()) for name, text in sources.items()}
    return [f"{name} has {count} lines" for name, count in lines.items() if count > MODULE_LINES]


def long_functions(sources: Sources) -> list[str]:
    """Functions that are too long."""
    return [
        f"{name}:{function.lineno} {function.name} has {count} lines"
        for name, text in sources.items()
        for function in functions(ast.parse(text))
        if (count := body_lines(function)) > FUNCTION_LINES
    ]


def docstring_violations(sources: Sources) -> list[str]:
    """Public modules, classes, functions and methods without a docstring; empty modules pass."""
    found = []
    for name, text in sources.items():
        tree = ast.parse(text)
        if tree.body and ast.get_docstring(tree) is None:
            found.append(name)
        found += [f"{name}:{line} {what}" for line, what in _undocumented(tree, "")]
    return found


def _undocumented(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[int, str]]:
    for node in parent.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield node.lineno, prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node, f"{node.name}.")


# The project


def test_every_layer_imports_only_what_is_below_it(sources: Sources) -> None:
    assert layer_violations(sources, sources) == []


def test_no_method_imports_another(sources: Sources) -> None:
    assert sibling_violations(sources) == []


def test_a_library_with_one_job_has_one_importer(sources: Sources) -> None:
    assert library_violations(sources) == []


def test_no_import_goes_round_in_a_circle(sources: Sources) -> None:
    assert cycles(sources) == []


def test_nothing_is_imported_by_name_at_run_time(sources: Sources) -> None:
    for name, text in sources.items():
        for word in ("__import__", "import_module"):
            assert word not in text, f"{name} hides an import from this test"


def test_modules_are_short(sources: Sources) -> None:
    assert long_modules(sources) == []


def test_public_names_have_docstrings(sources: Sources) -> None:
    assert docstring_violations(sources) == []


def test_the_layers_fit_the_folders(sources: Sources) -> None:
    assert all(any(within(name, layer) for layer in LAYERS) for name in sources)
    for layer in LAYERS:
        assert any(within(name, layer) for name in sources), f"{layer} is gone"


# The checks themselves


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("bench.data.x", "from bench.augment.policy import Batch", True),
        ("bench.augment.x", "def f():\n    import bench.data.arrays", True),
        ("bench.networks.x", "from bench import train", True),
        (
            "bench.data.x",
            "from bench.rng import key\nfrom bench.data.split import allocate",
            False,
        ),
        ("bench.train.x", "from bench.method import Method", True),
        ("bench.train.x", "from bench.record import Record", True),
        ("bench.train.x", "from bench.data.arrays import Arrays\nimport bench.networks", False),
        ("bench.rng", "import bench.data", True),
        ("bench.method", "from bench.runner import stage", True),
        ("bench.report.x", "from bench.config import load_suite", True),
        ("bench.report.x", "from bench.record import Record", False),
        ("bench.recorder", "import bench.train", False),
        ("bench.runner", "import baselines", True),
        ("bench.runner", "from methods import gar", True),
        ("bench.cli", "import baselines, methods", False),
        ("methods.gar", "from baselines.fixed import Standard", True),
        ("methods.gar", "from methods.ohl import OHL", True),
        ("methods.gar", "from methods import _alignment", False),
        ("baselines.x", "from methods import _alignment", True),
        ("methods.gar", "from bench.plugins import select", True),
        ("methods.gar", "from bench.method import Method\nimport torch", False),
        ("baselines.x", "from . import fixed", True),
        ("baselines.x", "from bench import record", True),
    ],
)
def test_the_layer_check_finds_what_it_should(
    sources: Sources, name: str, text: str, found: bool
) -> None:
    assert bool(layer_violations({name: text}, sources)) is found


def test_the_other_checks_find_what_they_should(sources: Sources) -> None:
    long = "def f():\n    '''Doc.'''\n" + "    x = 1\n" * 41
    short = "def f():\n    '''Doc.'''\n" + "    x = 1\n" * 40
    assert long_functions({"bench.x": long}) == ["bench.x:1 f has 41 lines"]
    assert long_functions({"bench.x": short}) == []
    assert long_modules({"bench.x": "x = 1\n" * 401}) == ["bench.x has 401 lines"]
    assert long_modules({"bench.x": "x = 1\n" * 400}) == []
    assert library_violations({"bench.train.x": "import pandas as pd"})
    assert library_violations(
        {"methods.x": "def f():\n    from optuna.samplers import TPESampler"}
    )
    assert not library_violations({"bench.report.x": "import pandas", "baselines.x": "import ax"})
    assert not library_violations({"methods.x": "import axis"})
    circle = {"bench.a": "import bench.b", "bench.b": "def f():\n    from bench import a"}
    assert cycles(circle) == [["bench.a", "bench.b", "bench.a"]]
    assert sibling_violations({"methods.a": "from methods.b import B", "methods.b": ""})
    bare = "class A:\n    '''D.'''\n    def f(self): ...\n    def _g(self): ...\nclass _B: ...\n"
    assert docstring_violations({"m": bare}) == ["m", "m:3 A.f"]
    assert docstring_violations({"m": ""}) == []


# Laziness

HEAVY = (
    "torch", "torchvision", "timm", "pandas", "numpy", "scipy", "sklearn", "pyarrow",
    "altair", "vl_convert", "jinja2", "optuna", "botorch", "ax",
)  # fmt: skip
HELP = f"""
import sys
import bench.cli
heavy = [name for name in {HEAVY} if name in sys.modules]
assert not heavy, f"importing bench.cli imports {{heavy}}"
for command in ([], ["run"], ["leaderboard"], ["report"], ["publish"], ["new"], ["check"]):
    sys.argv = ["augbench", *command, "--help"]
    try:
        bench.cli.main()
    except SystemExit as done:
        assert not done.code, command
heavy = [name for name in {HEAVY} if name in sys.modules]
assert not heavy, f"--help imports {{heavy}}"
"""


def test_help_answers_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "augmentation methods under matched GPU budgets" in done.stdout
    for option in ("--suite", "--budget", "--seeds", "--dry-run", "--plugin", "--reference"):
        assert option in done.stdout


def test_functions_are_short(sources: Sources) -> None:
    assert long_functions(sources) == []
