"""The `augbench` command: the composition root, and the only place that knows the method folders.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

import errno
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compares automated data-augmentation methods under matched GPU budgets.",
)

Results = Annotated[Path, typer.Option("--results", help="Where records and leaderboards live.")]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A Python file with a method (repeatable).")
]


def one_sentence(command: Callable[..., Any]) -> Callable[..., Any]:
    """Ends a command with exit code 2 and one sentence where the user made a mistake."""

    @wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        from bench.errors import ConfigError, DataError, RecordError

        try:
            return command(*arguments, **options)
        except (ConfigError, DataError, RecordError) as error:
            typer.echo(f"augbench: {error}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            typer.echo("augbench: interrupted; finished runs are kept, run it again to resume")
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno not in DISK_TROUBLE:
                raise
            typer.echo(f"augbench: {error}; finished runs are kept", err=True)
            raise typer.Exit(1) from error

    return wrapped


def plugins(files: list[Path] | None) -> Any:
    """Every method of the project and of the files that the user names."""
    import baselines
    import methods
    from bench.plugins import discover

    folders = [Path(package.__path__[0]) for package in (methods, baselines)]
    return discover(folders, [path.resolve() for path in files or []])


@app.command()
@one_sentence
def run(
    suite: Annotated[str | None, typer.Option(help="A suite's name, or a TOML file.")] = None,
    data: Annotated[str | None, typer.Option(help="A data set, e.g. folder:~/birds.")] = None,
    method: Annotated[
        list[str] | None, typer.Option("-m", "--method", help="Only these methods (repeatable).")
    ] = None,
    distort: Annotated[
        list[str] | None, typer.Option(help="clean, or e.g. imbalance=10,noise=0.1 (repeatable).")
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="In reference trainings, e.g. 3rt (repeatable).")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0, 1, ... per cell.")] = None,
    network: Annotated[str | None, typer.Option(help="With --data: the network.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="With --data: image side.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="With --data: steps of 1 RT.")] = None,
    name: Annotated[str | None, typer.Option(help="With --data: the suite's name.")] = None,
    track: Annotated[
        str | None, typer.Option(help="portable (binds on FLOPs) or gpu (binds on seconds).")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time on the CPU.")] = None,
    devices: Annotated[str | None, typer.Option(help="CUDA devices, e.g. 0,1; or cpu.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads a run (part of its bits).")] = 1,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the networks.")] = False,
    root: Annotated[
        Path | None, typer.Option(help="Where data sets lie [env AUGBENCH_DATA, else data/].")
    ] = None,
    memory_limit: Annotated[
        float, typer.Option(min=0, help="GiB of decoded images to hold in memory.")
    ] = 4.0,
    skip_corrupt: Annotated[bool, typer.Option(help="Leave unreadable images out.")] = False,
    keep_features: Annotated[
        bool,
        typer.Option("--keep-features", help="Keep features of test images, for `points`."),
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Only print what would run.")] = False,
    results: Results = Path("results"),
    plugin: Plugins = None,
) -> None:
    """Runs a suite, or your own data, and prints the leaderboard.  Resumes by default."""
    from bench import drive
    from bench.request import Request

    request = Request(
        suite=suite,
        data=data,
        methods=tuple(method or ()),
        distort=tuple(distort or ()),
        budgets=tuple(budget or ()),
        seeds=seeds,
        network=network,
        size=size,
        steps=steps,
        name=name,
        track=track,
        jobs=jobs,
        devices=devices,
        threads=threads,
        compiled=compile_,
        root=root,
        memory_limit=int(memory_limit * (1 << 30)),
        skip_corrupt=skip_corrupt,
        results=results,
        keep_features=keep_features,
    )
    campaign = drive.plan(request, plugins(plugin))
    if dry_run:
        typer.echo(drive.projection(campaign))
        return
    if not drive.complete(campaign):
        raise typer.Exit(1)


@app.command()
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


@app.command()
@one_sentence
def preview(
    what: Annotated[str, typer.Argument(help="A method, or a run: a record's path or hash.")],
    data: Annotated[
        str | None, typer.Option(help="Images to show [default: digits, or the run's].")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Image side in pixels.")] = None,
    rows: Annotated[int, typer.Option(min=1, max=32, help="How many images.")] = 4,
    draws: Annotated[int, typer.Option(min=1, max=16, help="How many draws of each.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Of images and draws.")] = 0,
    output: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("preview.png"),
    root: Annotated[
        Path | None, typer.Option(help="Where data sets lie [env AUGBENCH_DATA, else data/].")
    ] = None,
    results: Results = Path("results"),
    plugin: Plugins = None,
) -> None:
    """Draws a picture: images before and after a method's policy, with what was done to them."""
    from bench import preview
    from bench.data.sources import load
    from bench.plugins import select
    from bench.record import find_record, is_run

    def source(own: str, side: int | None) -> Any:
        return load(data or own, root=root, size=size or side)

    known = plugins(plugin)
    if is_run(what) and what not in known:
        subject = preview.of_run(find_record(results, what), source)
    else:
        subject = preview.of_method(select(known, what), source("digits", None))
    image = preview.picture(preview.cells(subject, rows, draws, seed), subject.title)
    preview.save(image, output)
    typer.echo(f"wrote {output}")


@app.command("timeline")
@one_sentence
def timeline_(
    run: Annotated[str, typer.Argument(help="A record's path, or the first letters of its hash.")],
    series: Annotated[str, typer.Option(help="Only this series of its trace.")] = "",
    output: Annotated[Path, typer.Option(help="The SVG to write.")] = Path("timeline.svg"),
    results: Results = Path("results"),
) -> None:
    """Draws a run's policy over time, with its placebo's beside it where there is one."""
    from bench.preview import labels_of
    from bench.record import find_record, read_records
    from bench.report import timeline

    record = find_record(results, run)
    kept = (results / record.suite / "runs").is_dir()
    others = read_records(results, record.suite) if kept else []
    placebo = timeline.placebo_of(record, others)
    _write(output, timeline.svg(record, placebo, labels_of(record), series))
    beside = f"beside {placebo.method.spec}" if placebo else "no run of its placebo is there"
    typer.echo(f"wrote {output}; {beside}")


@app.command("points")
@one_sentence
def points_(
    run: Annotated[str, typer.Argument(help="A record's path, or the first letters of its hash.")],
    output: Annotated[Path, typer.Option("--output", "--out", help="The SVG to write.")] = Path(
        "points.svg"
    ),
    results: Results = Path("results"),
) -> None:
    """Draws what a run learned about each training image, and where it errs on test images.

    What its placebo learned stands beside it, where there is a run of it.
    """
    from bench import sidefile
    from bench.record import find_path, read_record, read_records
    from bench.report import points, timeline

    path = find_path(results, run)
    record, beside = read_record(path), sidefile.beside(path)
    features, lacking = {}, "it ran without --keep-features"
    if record.side_file is not None and beside.exists():
        features = sidefile.read(beside, record.side_file, sidefile.FEATURES)
    elif record.side_file is not None:  # not published with the record: the rest can be drawn
        lacking = f"{beside} is not here"
    kept = (results / record.suite / "runs").is_dir()
    placebo = timeline.placebo_of(record, read_records(results, record.suite) if kept else [])
    _write(output, points.svg(record, features, placebo))
    typer.echo(f"wrote {output}" + ("" if features else f"; no map of features: {lacking}"))


policy_app = typer.Typer(no_args_is_help=True, help="Learned and fixed policies of finished runs.")
app.add_typer(policy_app, name="policy")


@policy_app.command("export")
@one_sentence
def export(
    run: Annotated[str, typer.Argument(help="A record's path, or the first letters of its hash.")],
    output: Annotated[Path, typer.Option(help="The JSON to write.")] = Path("policy.json"),
    results: Results = Path("results"),
) -> None:
    """Writes a run's policy as JSON, which `bench.augment.export.load` turns into a transform."""
    from bench.augment.export import PolicyTransform, rebuild, save
    from bench.errors import ConfigError
    from bench.record import find_record

    record = find_record(results, run)
    if record.policy is None:
        raise ConfigError(f"run {record.hash}: it failed and left no policy")
    PolicyTransform(rebuild(record.policy))  # or it says why not
    about: dict[str, Any] = {"method": record.method.spec, "run": record.hash}
    if record.task is not None and record.bill is not None:
        about |= {"task": record.task.name, "flops": record.bill.flops}
    save(record.policy, output, about)
    typer.echo(f'wrote {output}; use: bench.augment.export.load("{output}")')


@app.command()
@one_sentence
def new(
    name: Annotated[str, typer.Argument(help="The method's name, e.g. my-method.")],
    folder: Annotated[Path, typer.Option(help="Where to put the file.")] = Path("methods"),
) -> None:
    """Writes a commented, working method to start from."""
    from bench.scaffold import scaffold

    path = scaffold(name, folder, plugins(None))
    typer.echo(f"wrote {path}; next: augbench check {name}{_plugin_hint(path)}")


@app.command()
@one_sentence
def check(
    method: Annotated[
        str, typer.Argument(help="The method, e.g. gar or standard[length=filled].")
    ],
    plugin: Plugins = None,
) -> None:
    """Checks that a method keeps the rules: determinism, bill, budget, data wall, RNG hygiene."""
    import torch

    from bench.check import conformance

    torch.set_num_threads(1)  # as in a run; small tasks only get slower with more
    findings = conformance(method, plugins(plugin))
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.rule}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command("list")
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
        typer.echo(f"{entry:{width}}  {text}")


def _write(output: Path, picture: str) -> None:
    from bench.errors import ConfigError

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror}") from error


def _plugin_hint(path: Path) -> str:
    import methods

    inside = path.resolve().parent == Path(methods.__path__[0]).resolve()
    return "" if inside else f" --plugin {path}"


def main() -> None:
    """Entry point of the `augbench` command."""
    app()


if __name__ == "__main__":
    main()
