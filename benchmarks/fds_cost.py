"""What FDS's derivatives cost: an inner step with n tangent columns against a plain one.

    python benchmarks/fds_cost.py [--rounds 5] [--networks lenet,wrn-16-1]

Steps are `methods._tangents.ForwardSGD`'s, in a session on random uint8 images (32×32, batches of
64, on a CUDA device 128), with crop and flip; `plain` is a step of `fit`.  Theory counts 1 + 2n
plain steps.  `batched` takes all columns through the network together, forward mode over reverse
mode; `looped` one after the other, reverse over reverse; `chunk 3` three at a time.  Variants take
turns; a ratio is the median over rounds.  On a CPU times are the CPU time of one thread, on a CUDA
device wall time around synchronisations.  FLOPs are the bill's.

Figures, of the first network: `fds_step_ratio_n1`, `_n4`, `_n9` (time of a batched step over
plain), `fds_batched_vs_looped` (time of a looped over a batched step, n = 9: above 1, batched is
faster), `fds_step_flops_n1`, `_n4`, `_n9` (FLOPs over plain), `fds_bytes_per_tangent` (of Z and C,
a column); only on a CUDA device `fds_peak_per_tangent` (peak memory that each of 9 columns adds to
a step) and `fds_memory_ratio_n9` (peak memory of a step, over that of plain).
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from bench.train.loops import augment, training_step
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.task import Task, standard
from benchmarks._session import CUDA, Works, in_turns, session_of
from benchmarks.harness_overhead import task_of
from methods._tangents import Columns, ForwardSGD, Setting
from methods.fds import Fds, FdsConfig

COLUMNS = (1, 4, 9)
MOST = max(COLUMNS)
SETTING = Setting(0.01, 0.9, 5e-4)
BATCH = 128 if CUDA else 64
# Options of `ForwardSGD` and numbers of columns, by name.
VARIANTS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "batched": ({}, (0, *COLUMNS)),
    "looped": ({"batched": False}, COLUMNS),
    "chunk 3": ({"chunk": 3}, (MOST,)),
}


def variants(task: Task) -> tuple[Works, dict[str, float], dict[str, ForwardSGD]]:
    """What takes turns, by name; its FLOPs over plain; the optimisers with their tangents."""
    prepared = Prepared(task, task.val, None)  # type: ignore[arg-type]
    plain = session_of(Fds, FdsConfig(), prepared)
    learner, batches, policy = plain.learner(), plain.batches("train"), standard(task)
    works: Works = {
        "plain": lambda: training_step(plain, learner, policy, batches, 0.0),
    }
    flops, optimisers = {"plain": plain.price("plain", works["plain"])}, {}
    for kind, (options, counts) in VARIANTS.items():
        for count in counts:
            name = f"{kind} {count}"
            session = session_of(Fds, FdsConfig(), prepared)
            works[name], optimisers[name] = inner(session, count, options)
            flops[name] = session.price(name, works[name])
    return works, {name: value / flops["plain"] for name, value in flops.items()}, optimisers


def inner(
    session: Session, count: int, options: dict[str, Any]
) -> tuple[Callable[[], object], ForwardSGD]:
    """An inner step with `count` columns in use, that of the rate active; its optimiser."""
    learner, batches, policy = session.learner(), session.batches("train"), standard(session.task)
    sgd = ForwardSGD(learner.network, count, product_clip=10.0, **options)
    sgd.rows = {column: column for column in range(count)}  # as after all windows
    session.keep(sgd=sgd)
    columns = Columns(rate=0) if count else None

    def step() -> None:
        batch = augment(session, policy, next(batches))
        with session.metered("inner", columns=sgd.due(columns)):
            images = learner.pixels(batch.images)
            sgd.step(lambda net: F.cross_entropy(net(images), batch.targets), SETTING, columns)

    return step, sgd


def figures(found: dict[str, list[float]], flops: dict[str, float]) -> dict[str, float]:
    """The ratios: of times medians over rounds."""

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(found[one], found[other], strict=True))

    times = {f"fds_step_ratio_n{n}": ratio(f"batched {n}", "plain") for n in COLUMNS}
    times["fds_batched_vs_looped"] = ratio(f"looped {MOST}", f"batched {MOST}")
    return times | {f"fds_step_flops_n{n}": flops[f"batched {n}"] for n in COLUMNS}


def peak(work: Callable[[], object]) -> int:
    """Bytes that a step takes on a CUDA device beyond what is there before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def memory(works: Works, optimisers: dict[str, ForwardSGD]) -> dict[str, float]:
    """Bytes a column, and on a CUDA device peaks."""
    sgd = optimisers[f"batched {MOST}"]
    own = (sgd.Z.nbytes + sgd.C.nbytes) / MOST
    found = {"fds_bytes_per_tangent": own}
    if CUDA:
        peaks = {name: peak(works[name]) for name in ("plain", "batched 0", f"batched {MOST}")}
        more = (peaks[f"batched {MOST}"] - peaks["batched 0"]) / MOST
        found["fds_peak_per_tangent"] = own + more
        found["fds_memory_ratio_n9"] = peaks[f"batched {MOST}"] / peaks["plain"]
    return found


def main() -> None:
    """Measures all networks; the figures are the first one's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", default="lenet,wrn-16-1")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    first: dict[str, float] = {}
    for network in chosen.networks.split(","):
        works, flops, optimisers = variants(task_of(network, 3, 32, BATCH, 1))
        times = 20 if CUDA else (5 if network == "lenet" else 1)
        found = in_turns(works, chosen.rounds, times)
        ratios = figures(found, flops) | memory(works, optimisers)
        first = first or ratios
        weights = optimisers[f"batched {MOST}"].weights
        print(f"{network}, batch {BATCH}, {len(weights):,} weights")
        plain = statistics.median(found["plain"])
        for name, values in found.items():
            value = statistics.median(values)
            print(
                f"  {name:10} {1000 * value:9.2f} ms  {value / plain:6.2f} × plain in time, "
                f"{flops[name]:6.2f} in FLOPs"
            )
        for name, value in ratios.items():
            print(f"  {name} {value:.3f}", flush=True)
    for name, value in first.items():
        unit = "bytes" if "_per_" in name else "ratio"
        print(f"figure {name} {value:.4f} {unit}")


if __name__ == "__main__":
    main()
