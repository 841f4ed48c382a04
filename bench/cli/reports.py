"""Commands that make pages from records: `report`."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.common import Results, one_sentence, say


@one_sentence
def report(
    suite: Annotated[str, typer.Argument(help="The suite's name.")],
    results: Results = Path("results"),
    output: Annotated[
        Path | None, typer.Option(help="The folder to write [default: RESULTS/SUITE/report].")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="The row to compare with.")] = None,
) -> None:
    """Writes a suite's report: a page that works offline, pictures, LaTeX and CSV tables."""
    from bench.config import find_suite, folder_name, load_suite
    from bench.preview import labels_of
    from bench.record import read_records
    from bench.report import report as pages

    known, suite = load_suite(suite) if find_suite(suite) else None, folder_name(suite)
    records = read_records(results, suite)
    paths = pages.write(
        records,
        suite,
        output or results / suite / "report",
        labels_of,
        reference=reference or (known.reference if known else None),
        title=known.title if known else "",
        known=known is not None,
    )
    size = paths[0].stat().st_size / 1e6
    say(f"wrote {paths[0]} ({size:.1f} MB) and {len(paths) - 1} pictures and tables")
