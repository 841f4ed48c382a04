"""Commands that make tables and pages from records: `leaderboard`."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.common import Results, one_sentence


@one_sentence
def leaderboard(
    suite: Annotated[str, typer.Argument(help="The suite's name.")],
    results: Results = Path("results"),
    reference: Annotated[str | None, typer.Option(help="The row to compare with.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also save the table as this SVG.")] = None,
) -> None:
    """Writes a suite's leaderboard (CSV and Markdown) from its records, and prints it."""
    from bench import drive

    drive.publish(results, suite, reference, picture)
