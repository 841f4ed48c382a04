"""Finds methods: every class derived from `Method` in the one-file modules of some folders.

Nothing registers itself; a file in `methods/` or `baselines/`, or one given with `--plugin`, is
enough.  A method's source digest is its file's and its helpers', so editing one makes new records.
"""

import ast
import hashlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from bench.config import parse_spec, validated
from bench.errors import ConfigError
from bench.method import Method, MethodConfig

NAME = r"[a-z0-9]+(-[a-z0-9]+)*"
NAME_RULE = "lower-case words joined by '-', e.g. my-method"


@dataclass(frozen=True)
class Plugin:
    """A method's class, the file it stands in and that file's digest."""

    method: type[Method]
    path: Path
    source: str


@dataclass(frozen=True)
class Selected:
    """A method with its options: one row of a leaderboard.

    Attributes:
        spec: `name[option=value,...]` with the options that differ from the defaults, sorted.
        placebo_of: The spec of the method that this one is a placebo of.
    """

    plugin: Plugin
    config: MethodConfig
    spec: str
    placebo_of: str | None

    def make(self) -> Method:
        """The configured method."""
        return self.plugin.method(self.config)


def discover(folders: Iterable[Path], files: Iterable[Path] = ()) -> dict[str, Plugin]:
    """Loads every method, by name.

    Args:
        folders: All of their modules are loaded, except those that begin with an underscore.
        files: Further modules, named explicitly by the user.

    Raises:
        ConfigError: If a file is missing or broken, or two methods share a name.
    """
    found: dict[str, Plugin] = {}
    paths = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    named = [path.resolve() for path in files]
    for path in dict.fromkeys([*(p for p in paths if not p.name.startswith("_")), *named]):
        source = digest(path)
        for method in _methods(_load(path)):
            if not re.fullmatch(NAME, method.name):
                raise ConfigError(f"{path}: {method.name!r} is no method name: use {NAME_RULE}")
            if method.name in found:
                other = found[method.name].path
                raise ConfigError(f"{path} and {other} both hold a method named {method.name!r}")
            found[method.name] = Plugin(method, path, source)
    return found


def select(plugins: dict[str, Plugin], text: str) -> Selected:
    """Resolves a specification such as `standard[length=filled]`.

    Raises:
        ConfigError: If the method or an option is unknown, or a value is not allowed.
    """
    name, options = parse_spec(text)
    if name not in plugins:
        raise ConfigError(f"method {name!r} is unknown; the methods are {', '.join(plugins)}")
    plugin = plugins[name]
    config = _configured(plugin.method.Config, options, f"method {text!r}")
    changed = options_of(config, only_changed=True)
    placebo = changed.get("placebo") is not None
    real = {key: value for key, value in changed.items() if key != "placebo"}
    return Selected(plugin, config, _spec(name, changed), _spec(name, real) if placebo else None)


def _configured(kind: type[MethodConfig], options: dict[str, str], what: str) -> MethodConfig:
    """Reads values as numbers, booleans or null where that is valid, and as text elsewhere."""
    values = {name: _scalar(value) for name, value in options.items()}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # A text may look like a number: what did not fit as a scalar is tried as it was written.
        wrong = {str(one["loc"][0]) for one in error.errors() if one["loc"]}
        texts = {name: text for name, text in options.items() if name in wrong}
        return validated(kind, values | texts, what)


def _scalar(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, list | dict) else value


def options_of(config: MethodConfig, only_changed: bool = False) -> dict[str, Any]:
    """A configuration as plain data, all of it or what differs from the defaults."""
    values = config.model_dump(mode="json")
    if not only_changed:
        return values
    fields = type(config).model_fields
    set_ = config.model_dump()
    return {
        key: value
        for key, value in values.items()
        if fields[key].is_required()
        or set_[key] != fields[key].get_default(call_default_factory=True)
    }


def digest(path: Path) -> str:
    """SHA-256 prefix of a method's source: its file, and the helpers beside it that it imports.

    So a method's runs stay valid while the helpers of others change.

    Raises:
        ConfigError: If one cannot be read.
    """
    total = hashlib.sha256()
    try:
        for source in sources(path):
            total.update(source.read_bytes())
        return total.hexdigest()[:16]
    except OSError as error:
        raise ConfigError(f"--plugin {str(path)!r} cannot be read: {error.strerror}") from error
    except SyntaxError as error:
        raise ConfigError(f"{path} cannot be imported: SyntaxError: {error.msg}") from error


def sources(path: Path) -> list[Path]:
    """A method's file, then the helpers beside it that it imports.

    A helper is called `_NAME.py`; what it imports in turn counts too.

    Raises:
        OSError, SyntaxError: If one cannot be read.
    """
    helpers: set[Path] = set()
    waiting = [path]
    while waiting:
        new = _helpers(waiting.pop()) - helpers
        helpers |= new
        waiting += new
    return [path, *sorted(helpers - {path})]


def _helpers(path: Path) -> set[Path]:
    """The files `_NAME.py` beside a file that it imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {part for alias in node.names for part in alias.name.split(".")}
            names |= set((getattr(node, "module", None) or "").split("."))
    found = {path.with_name(f"{name}.py") for name in names if name.startswith("_")}
    return {each for each in found if each.name != "__init__.py" and each.is_file()}


def _spec(name: str, options: dict[str, Any]) -> str:
    inner = ",".join(f"{key}={value}" for key, value in sorted(options.items()))
    return f"{name}[{inner}]" if inner else name


def _load(path: Path) -> ModuleType:
    """Imports a file; one inside an installed package keeps its dotted name."""
    package = path.parent.name if (path.parent / "__init__.py").exists() else "augbench_plugin"
    name = f"{package}.{path.stem}"
    present = sys.modules.get(name)
    if present is not None and Path(present.__file__ or "") == path:
        return present
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ConfigError(f"--plugin {str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a plug-in that exits must not end augbench
        del sys.modules[name]
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{path} cannot be imported: {said}") from error
    return module


def _methods(module: ModuleType) -> list[type[Method]]:
    """The concrete methods that a module defines itself, in the order of its source."""
    return [
        value
        for value in dict.fromkeys(v for v in vars(module).values() if isinstance(v, type))
        if issubclass(value, Method)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
        and hasattr(value, "name")
    ]
