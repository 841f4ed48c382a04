"""What `augbench list` shows: names with an explanation each."""

import inspect
import json
from typing import Any

from bench import networks
from bench.augment.space import Space
from bench.augment.spaces import SPACES
from bench.config import load_suite, suite_files
from bench.data import sources
from bench.plugins import Plugin


def catalogue(what: str, plugins: dict[str, Plugin]) -> list[tuple[str, str]]:
    """Entries of a kind: methods, tasks, suites, spaces, networks or data.

    A method's text has a second line, its options with their defaults.
    """
    if what == "methods":
        return [_method(plugin) for plugin in plugins.values()]
    if what == "networks":
        return list(networks.known().items())
    if what == "data":
        return list(sources.known().items())
    if what == "spaces":
        return [(name, _space(space)) for name, space in SPACES.items()]
    suites = {name: load_suite(name) for name in suite_files()}
    if what == "suites":
        return [
            (
                name,
                f"{suite.title}; {sum(len(t.distort) for t in suite.tasks)} tasks × "
                f"{len(suite.methods)} methods × {suite.seeds} seeds at "
                f"{', '.join(f'{b:g}' for b in suite.budgets)} RT, {suite.track} track",
            )
            for name, suite in suites.items()
        ]
    return [
        (
            f"{task.data} · {task.distort} · {task.network}",
            f"{name}: {task.recipe.steps} steps of {task.recipe.batch_size}",
        )
        for name, suite in suites.items()
        for group in suite.tasks
        for task in group.tasks()
    ]


def _method(plugin: Plugin) -> tuple[str, str]:
    options = ", ".join(
        name if field.is_required() else f"{name}={_shown(field.default)}"
        for name, field in plugin.method.Config.model_fields.items()
    )
    line = (inspect.getdoc(plugin.method) or "").partition("\n")[0]
    return plugin.method.name, f"{line}\n{options}" if options else line


def _shown(value: Any) -> str:
    """A default as a specification takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _space(space: Space) -> str:
    """How many operations and levels, and whose they are: the first part of the source."""
    spread = any(entry.low != entry.high for entry in space.entries)
    levels = f"levels 0..{space.top:g}" if spread else "one level each"
    return f"{len(space)} operations, {levels}; {space.source.partition(';')[0]}"
