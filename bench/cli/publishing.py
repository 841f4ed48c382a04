"""`augbench publish`: checks a suite's records and tables, and writes its release."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.common import Plugins, Results, one_sentence, plugins, say


@one_sentence
def publish(
    suite: Annotated[str, typer.Argument(help="The suite's name, or a TOML file.")],
    check: Annotated[bool, typer.Option("--check", help="Only check, write nothing.")] = False,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh", help="First write leaderboard.{csv,md} and the README's tables anew."
        ),
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Release in spite of problems, and say so in it.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the draw of the record to train again.")
    ] = None,
    record: Annotated[
        str | None, typer.Option(help="The record to train again: the beginning of its hash.")
    ] = None,
    rerun_minutes: Annotated[
        float, typer.Option(min=0, max=1e6, help="Longest run to train again; 0 trains none.")
    ] = 5.0,
    root: Annotated[
        Path | None, typer.Option(help="Where data sets lie [env AUGBENCH_DATA, else data/].")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where releases lie.")] = Path("release"),
    results: Results = Path("results"),
    plugin: Plugins = None,
) -> None:
    """Checks a suite's records and tables, trains one record again, and writes its release."""
    from bench.errors import ConfigError
    from bench.publish import checking
    from bench.publish.release import release

    if check and (anyway or refresh):
        raise ConfigError("--check writes nothing: leave out --anyway and --refresh")
    request = checking.Request(suite, results, root, seed, record, rerun_minutes)
    if refresh:
        for path in checking.refresh(request):
            say(f"wrote {path}")
    done = checking.check(request, plugins(plugin), typer.echo)
    findings = done.findings
    for level, text in findings.lines():
        say(f"{level:5} {text}")
    say(
        f"{done.name}: {len(findings.problems)} problems, {len(findings.notes)} notes, "
        f"{len(findings.unverified)} things not checked, {len(findings.verified)} checks passed"
    )
    if not check and (findings.ok or anyway):
        say(f"release: {release(request, done, output, anyway)}")
    if not findings.ok:
        raise typer.Exit(1)
