"""`augbench run`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.common import Plugins, Results, one_sentence, plugins, say

if TYPE_CHECKING:
    from bench.request import Request


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
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time, if not on devices.")
    ] = None,
    devices: Annotated[str | None, typer.Option(help="CUDA devices, e.g. 0,1; or cpu.")] = None,
    per_device: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time on each CUDA device.")
    ] = None,
    executor: Annotated[str, typer.Option(help="Where runs go: local, ray or slurm.")] = "local",
    address: Annotated[str | None, typer.Option(help="Ray: address of the cluster.")] = None,
    gpus: Annotated[
        float | None,
        typer.Option(min=0, max=4096, help="Ray, Slurm: GPUs a run, e.g. 0.25 with Ray."),
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm: the partition.")] = None,
    time: Annotated[
        int | None, typer.Option(min=1, help="Slurm: minutes until a run is queued again.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads a run (part of its bits).")] = 1,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the networks.")] = False,
    root: Annotated[
        Path | None, typer.Option(help="Where data sets lie [env AUGBENCH_DATA, else data/].")
    ] = None,
    memory_limit: Annotated[
        float, typer.Option(min=0, max=1e6, help="GiB of decoded images to hold in memory.")
    ] = 4.0,
    skip_corrupt: Annotated[bool, typer.Option(help="Leave unreadable images out.")] = False,
    keep_features: Annotated[
        bool,
        typer.Option("--keep-features", help="Keep features of test images, for `points`."),
    ] = False,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(min=0, max=1e6, help="Minutes between checkpoints of a run; 0 for none."),
    ] = 5.0,
    dry_run: Annotated[
        bool, typer.Option(help="Only print what would run, and for how long; downloads nothing.")
    ] = False,
    assume_tflops: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=1e9, help="With --dry-run: this device's sustained TFLOP/s, not timed."
        ),
    ] = None,
    results: Results = Path("results"),
    plugin: Plugins = None,
) -> None:
    """Runs a suite, or your own data, and prints the leaderboard.  Resumes by default."""
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
        dry_run=dry_run,
        checkpoint_minutes=checkpoint_minutes,
        executor=executor,
        per_device=per_device,
        address=address,
        gpus=gpus,
        partition=partition,
        minutes=time,
    )
    _carry_out(request, plugin, assume_tflops)


def _carry_out(request: "Request", plugin: list[Path] | None, tflops: float | None) -> None:
    """Plans what was asked for, and runs it, or says what it would cost."""
    from bench import drive
    from bench.errors import ConfigError

    if tflops is not None and not request.dry_run:
        raise ConfigError("--assume-tflops goes with --dry-run: a run is timed as it is")
    found = plugins(plugin)
    campaign = drive.plan(request, found)
    if request.dry_run:
        from bench.projection import Assumption, projection

        say(projection(campaign, found, None if tflops is None else Assumption(tflops)))
    elif not drive.complete(campaign):
        raise typer.Exit(1)
