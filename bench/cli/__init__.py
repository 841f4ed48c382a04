"""The `augbench` command: the composition root, and the only place that knows the method folders.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

import typer

from bench.cli.authoring import check, list_, new
from bench.cli.pictures import export, points, preview, timeline
from bench.cli.publishing import publish
from bench.cli.reports import report
from bench.cli.runs import run
from bench.cli.tables import leaderboard

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compares automated data-augmentation methods under matched GPU budgets.",
)
for name, command in {
    "run": run,
    "leaderboard": leaderboard,
    "report": report,
    "publish": publish,
    "preview": preview,
    "timeline": timeline,
    "points": points,
    "new": new,
    "check": check,
    "list": list_,
}.items():
    app.command(name)(command)
policy = typer.Typer(no_args_is_help=True, help="Learned and fixed policies of finished runs.")
policy.command("export")(export)
app.add_typer(policy, name="policy")


def main() -> None:
    """Entry point of the `augbench` command."""
    app()
