"""Commands about one run or policy: `preview`, `timeline`, `points`, `policy export`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.common import Plugins, Results, one_sentence, plugins, say, write_file


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
    with preview.describing(what):
        cells = preview.cells(subject, rows, draws, seed)
    image = preview.picture(cells, subject.title)
    preview.save(image, output)
    say(f"wrote {output}")


@one_sentence
def timeline(
    run: Annotated[str, typer.Argument(help="A record's path, or the first letters of its hash.")],
    series: Annotated[str, typer.Option(help="Only this series of its trace.")] = "",
    output: Annotated[Path, typer.Option(help="The SVG to write.")] = Path("timeline.svg"),
    results: Results = Path("results"),
) -> None:
    """Draws a run's policy over time, with its placebo's beside it where there is one."""
    from bench.preview import labels_of
    from bench.record import find_record, read_records
    from bench.report import timeline as picture

    record = find_record(results, run)
    kept = (results / record.suite / "runs").is_dir()
    others = read_records(results, record.suite) if kept else []
    placebo = picture.placebo_of(record, others)
    write_file(output, picture.svg(record, placebo, labels_of(record), series))
    beside = f"beside {placebo.method.spec}" if placebo else "no run of its placebo is there"
    say(f"wrote {output}; {beside}")


@one_sentence
def points(
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
    from bench.report import points as picture
    from bench.report import timeline as lines

    path = find_path(results, run)
    record, beside = read_record(path), sidefile.beside(path)
    features, lacking = {}, "it ran without --keep-features"
    if record.side_file is not None and beside.exists():
        features = sidefile.read(beside, record.side_file, sidefile.FEATURES)
    elif record.side_file is not None:  # not published with the record: the rest can be drawn
        lacking = f"{beside} is not here"
    kept = (results / record.suite / "runs").is_dir()
    placebo = lines.placebo_of(record, read_records(results, record.suite) if kept else [])
    write_file(output, picture.svg(record, features, placebo))
    say(f"wrote {output}" + ("" if features else f"; no map of features: {lacking}"))


@one_sentence
def export(
    run: Annotated[str, typer.Argument(help="A record's path, or the first letters of its hash.")],
    output: Annotated[Path, typer.Option(help="The JSON to write.")] = Path("policy.json"),
    results: Results = Path("results"),
) -> None:
    """Writes a run's policy as JSON, which `bench.augment.export.load` turns into a transform."""
    from bench.augment.export import PolicyTransform, save
    from bench.preview import policy_of
    from bench.record import find_record

    record = find_record(results, run)
    PolicyTransform(policy_of(record))  # or it says why not
    assert record.policy is not None
    about: dict[str, Any] = {"method": record.method.spec, "run": record.hash}
    if record.task is not None and record.bill is not None:
        about |= {"task": record.task.name, "flops": record.bill.flops}
    save(record.policy, output, about)
    say(f'wrote {output}; use: bench.augment.export.load("{output}")')
