"""Commands for who adds a method: `new`, `check`, `list`."""

from pathlib import Path
from textwrap import indent, wrap
from typing import Annotated

import typer

from bench.cli.common import Plugins, one_sentence, plugins, say


@one_sentence
def new(
    name: Annotated[str, typer.Argument(help="The method's name, e.g. my-method.")],
    folder: Annotated[Path, typer.Option(help="Where to put the file.")] = Path("methods"),
) -> None:
    """Writes a commented, working method to start from."""
    from bench.scaffold import scaffold

    path = scaffold(name, folder, plugins(None))
    say(f"wrote {path}; next: augbench check {name}{_plugin_hint(path)}")


@one_sentence
def check(
    method: Annotated[
        str, typer.Argument(help="The method, e.g. gar or standard[length=filled].")
    ],
    plugin: Plugins = None,
) -> None:
    """Checks that a method keeps the rules: determinism, bill, budget, data wall, RNG, resume."""
    import torch

    from bench.check import conformance

    torch.set_num_threads(1)  # as in a run; small tasks only get slower with more
    findings = conformance(method, plugins(plugin))
    for finding in findings:
        say(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.rule}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@one_sentence
def list_(
    what: Annotated[str, typer.Argument(help="methods, tasks, suites, spaces, networks or data.")],
    plugin: Plugins = None,
) -> None:
    """Lists what there is."""
    from bench.catalogue import catalogue
    from bench.errors import ConfigError

    kinds = ("methods", "tasks", "suites", "spaces", "networks", "data")
    if what not in kinds:
        raise ConfigError(f"list {what!r}: there are {', '.join(kinds)}")
    entries = catalogue(what, plugins(plugin) if what == "methods" else {})
    width = max(len(name) for name, _ in entries)
    for entry, text in entries:
        first, *more = text.split("\n")
        say(f"{entry:{width}}  {first}")
        for line in more:
            wrapped = wrap(line, 97 - width, break_on_hyphens=False)
            say(indent("\n".join(wrapped), " " * (width + 2)))


def _plugin_hint(path: Path) -> str:
    import methods

    inside = path.resolve().parent == Path(methods.__path__[0]).resolve()
    return "" if inside else f" --plugin {path}"
