"""What AutoDO's hyperparameters cost: an epoch of them against a plain epoch of training.

    python benchmarks/autodo_cost.py [--rounds 5] [--networks wrn-16-1,small-cnn]

Everything goes through `methods.autodo.Phases` in a session on random uint8 images (WRN: 32×32,
batches of 64, on a CUDA device 128; small-cnn: 8×8, batches of 64).  `plain` is a step of `fit`
with crop and flip; `step` one of AutoDO's own; `hyper` one of λ: validation batch, augmentation
with gradients, Neumann series, reverse pass, RMSprop.  `network` is plain on AutoDO's network,
with CELU in place of ReLU, so that one can tell what its activation costs.  Variants take turns;
a ratio is the median over rounds.  On a CPU times are the CPU time of one thread, on a CUDA
device wall time around synchronisations.  FLOPs are the bill's.

`through` is what the closed form replaces: autograd's own double backward through the same head,
with the validation pass recorded and gradients to all weights, as in the released code.

Figures, of the first network: `autodo_overall_ratio` (AutoDO whose second half has λ, over plain
training for as many steps; the paper counts 3.5), `autodo_overall_own` (over AutoDO's own steps
without λ, as the paper counts), `hyper_epoch_ratio` (hyper over plain), `hyper_epoch_flops` (in
FLOPs), `autodo_released_ratio` (`through` over hyper), `autodo_memory_ratio` (only on a CUDA
device: peak memory of hyper over plain).
"""

import argparse
import statistics
from collections.abc import Callable

import torch

from bench.augment.per_point import blurred
from bench.train.loops import training_step
from bench.train.prepare import Prepared
from bench.train.task import Task, standard
from benchmarks._session import CUDA, Works, in_turns, session_of
from benchmarks.harness_overhead import task_of
from benchmarks.ohl_cost import CASES, small_val
from methods._implicit import read
from methods.autodo import Autodo, AutodoConfig, Phases


def variants(task: Task, config: AutodoConfig) -> tuple[Works, dict[str, float]]:
    """What takes turns, by name; and what it costs in FLOPs, over plain."""
    method = Autodo(config)
    prepared = Prepared(task, task.val, None)  # type: ignore[arg-type]
    plain, smooth, own = (session_of(Autodo, config, prepared) for _ in range(3))
    policy = standard(task)
    phases = Phases(method, own, method.learner(own), method.tables(task))
    works: Works = {}
    for name, session, learner in (
        ("plain", plain, plain.learner()),
        ("network", smooth, method.learner(smooth)),
    ):
        batches = session.batches("train")
        works[name] = lambda s=session, learner=learner, batches=batches: training_step(
            s, learner, policy, batches, 0.0
        )
    works["step"] = lambda: phases.step(0.0)
    works["hyper"] = lambda: phases.hyper(1.0)
    flops = {name: own.price(name, works[name]) for name in ("step", "hyper")}
    flops["plain"] = plain.price("plain", works["plain"])
    works["through"] = lambda: through(phases)
    return works, {name: value / flops["plain"] for name, value in flops.items()}


def through(phases: Phases) -> None:
    """A step of λ as the released code takes it: every derivative by autograd's graph."""
    session, tables, config = phases.session, phases.tables, phases.config
    batch, val = next(phases.hyper_batches), next(phases.val_batches)
    fixed = phases.before.sample(batch.index, session.rng("hyper before"))
    noise = tables.policy.sample(batch.index, session.rng("hyper policy"))
    row = batch.index.to(session.task.device)
    weight = phases.learner.network.head.weight
    with session.metered("augment"):
        batch = phases.before.apply(batch, fixed)
    with session.metered("through"):
        _, logits = read(phases.learner, blurred(val.images, config.view))
        loss = torch.nn.functional.cross_entropy(logits, val.targets)
        weights = list(phases.learner.network.parameters())
        place = next(i for i, each in enumerate(weights) if each is weight)
        pull = torch.autograd.grad(loss, weights)[place]
        rows = tables.take(row).leaves()
        images = tables.policy.warped(batch.images, noise, rows.gates, rows.magnitudes)
        _, logits = read(phases.learner, images)
        value = tables.losses(rows, batch.targets)(logits).mean()
        (gradient,) = torch.autograd.grad(value, weight, create_graph=True)
        term = total = pull
        for _ in range(config.terms):
            (product,) = torch.autograd.grad(gradient, weight, term, retain_graph=True)
            term = term - config.rate * product
            total = total + term
        wanted = [*rows.learned(), *weights]
        found = torch.autograd.grad(gradient, wanted, -total, allow_unused=True)
    phases.optimiser.step(row, list(found[: len(rows.learned())]), 0.0)  # type: ignore[arg-type]


def figures(found: dict[str, list[float]], flops: dict[str, float]) -> dict[str, float]:
    """The ratios: medians over rounds."""

    def ratio(over: Callable[[dict[str, float]], float]) -> float:
        rounds = zip(*found.values(), strict=True)
        turns = [dict(zip(found, values, strict=True)) for values in rounds]
        return statistics.median(map(over, turns))

    return {
        "autodo_overall_ratio": ratio(lambda t: (t["step"] + 0.5 * t["hyper"]) / t["plain"]),
        "autodo_overall_own": ratio(lambda t: 1 + 0.5 * t["hyper"] / t["step"]),
        "hyper_epoch_ratio": ratio(lambda t: t["hyper"] / t["plain"]),
        "hyper_epoch_flops": flops["hyper"],
        "autodo_released_ratio": ratio(lambda t: t["through"] / t["hyper"]),
    }


def memory(works: Works) -> float:
    """Peak memory of a step of λ over that of a plain one, on a CUDA device."""
    peaks = []
    for name in ("plain", "hyper"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        works[name]()
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    return peaks[1] / peaks[0]


def main() -> None:
    """Measures all cases; the figures are the first one's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", default="wrn-16-1,small-cnn")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    first: dict[str, float] = {}
    for network in chosen.networks.split(","):
        name, channels, side, batch = CASES[network][-1]
        task = small_val(task_of(name, channels, side, batch, 1))
        works, flops = variants(task, AutodoConfig())
        found = in_turns(works, chosen.rounds, 20 if network == "small-cnn" or CUDA else 2)
        ratios = figures(found, flops)
        if CUDA:
            ratios["autodo_memory_ratio"] = memory(works)
        first = first or ratios
        print(f"{name}, batch {batch}")
        for label, values in found.items():
            value = statistics.median(values)
            share = value / statistics.median(found["plain"])
            print(f"  {label:10} {1000 * value:9.2f} ms  {share:6.2f} × plain")
        for label, value in ratios.items():
            print(f"  {label} {value:.3f}", flush=True)
    for label, value in first.items():
        print(f"figure {label} {value:.4f} ratio")


if __name__ == "__main__":
    main()
