"""Commands that make tables from records: `leaderboard`."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.common import Results, one_sentence


@one_sentence
def leaderboard(
    suite: Annotated[str, typer.Argument(help="The suite's name.")],
    own: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            help="Your own records beside them: a results folder, a suite's folder, a folder of "
            "records or one record (repeatable).",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="With --with: the folder for CSV and Markdown [default: none]."),
    ] = None,
    results: Results = Path("results"),
    reference: Annotated[str | None, typer.Option(help="The row to compare with.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also save the table as this SVG.")] = None,
) -> None:
    """Writes a suite's leaderboard (CSV and Markdown) from its records, and prints it.

    With --with it only prints, and --output says where else to write.
    """
    from bench import drive
    from bench.errors import ConfigError

    if own:
        drive.beside(results, suite, own, reference, picture, output)
    elif output is not None:
        raise ConfigError("--output goes with --with: without, tables lie beside their records")
    else:
        drive.publish(results, suite, reference, picture)
