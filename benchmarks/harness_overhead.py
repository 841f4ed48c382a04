"""What the harness costs: `fit` against a bare PyTorch loop that does the same work.

Both train the same network on the same uint8 images with the same crop and flip, schedule and
optimiser; the bare loop has no session, meter, guard, trace or plan.  They take turns in one
process, and each figure is the median over rounds of fit's time over the bare loop's.

    python benchmarks/harness_overhead.py [--rounds 7]

Figures: `harness_overhead` (a step of the suite cifar10-jpeg-small: WRN-10-1, 32×32,
batch 64; half an RT), `harness_overhead_small` (the quick
suite's network at 8×8, batch 64, where a step takes about 2 ms and any overhead shows most; 3 RT
of it).
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from baselines.fixed import Standard
from bench.check import small_config
from bench.data.arrays import Arrays
from bench.method import MethodConfig
from bench.networks import build
from bench.plugins import Plugin, Selected
from bench.rng import forked, generator
from bench.stage import Stage, stage
from bench.train.loops import fit
from bench.train.prepare import Prepared
from bench.train.recipe import Recipe
from bench.train.task import Task, standard

CASES = {
    "harness_overhead": ("wrn-10-1", 3, 32, 64, 300),
    "harness_overhead_small": ("small-cnn", 1, 8, 64, 1200),
}
GPU_STEPS = 300


def task_of(network: str, channels: int, size: int, batch: int, steps: int) -> Task:
    """A task of random images: time does not depend on what they show."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rng = generator("overhead")
    images = torch.randint(256, (4096, channels, size, size), dtype=torch.uint8, generator=rng)
    labels = torch.randint(10, (4096,), generator=rng)
    arrays = Arrays(images, labels).to(device)
    return Task(
        classes=10,
        channels=channels,
        size=size,
        train=arrays,
        val=arrays,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        flip=True,
        recipe=Recipe(steps=steps, batch_size=batch),
        network=lambda: build(network, 10, channels, size),
        device=device,
    )


def harness(task: Task) -> Callable[[], None]:
    """`fit` for the recipe's steps under a budget of 1 RT."""
    selected = Selected(Plugin(Standard, Path(__file__), ""), MethodConfig(), "standard", None)
    config = small_config(selected, budget=1.0)
    set_: Stage = stage(Prepared(task, task.val, None), config)  # type: ignore[arg-type]
    set_.session._observe = None  # milestones are off the clock
    learner = set_.session.learner()
    return lambda: void(fit(set_.session, learner, standard(task)))


def void(_: object) -> None:
    """Drops a result."""


def bare(task: Task) -> Callable[[], None]:
    """The loop that one would write by hand."""
    recipe, device, size = task.recipe, task.device, task.size
    pad = max(1, size // 8)
    images, labels = task.train.images, task.train.labels
    with forked("initial weights", 0, 0):
        network = task.network().to(device).to(memory_format=torch.channels_last)
    optimiser = recipe.optimiser(network.parameters())
    mean = torch.tensor(task.mean, device=device).view(1, -1, 1, 1) * 255
    std = torch.tensor(task.std, device=device).view(1, -1, 1, 1) * 255
    rng = torch.Generator().manual_seed(0)

    def augmented(batch: torch.Tensor) -> torch.Tensor:
        n, channels = batch.shape[:2]
        top = torch.randint(2 * pad + 1, (n, 1), generator=rng).to(device)
        left = torch.randint(2 * pad + 1, (n, 1), generator=rng).to(device)
        flip = (torch.rand(n, 1, generator=rng) < 0.5).to(device)
        column = torch.arange(size, device=device)
        column = torch.where(flip, size - 1 - column, column) + left
        row = torch.arange(size, device=device) + top
        index = (row[:, :, None] * (size + 2 * pad) + column[:, None, :]).view(n, 1, -1)
        flat = F.pad(batch, (pad,) * 4).view(n, channels, -1)
        return flat.gather(2, index.expand(-1, channels, -1)).view_as(batch)

    def run() -> None:
        order = torch.randperm(len(images), generator=rng)
        position = 0
        for step in range(recipe.steps):
            if position + recipe.batch_size > len(images):
                order, position = torch.randperm(len(images), generator=rng), 0
            index = order[position : position + recipe.batch_size].to(device)
            position += recipe.batch_size
            batch, target = augmented(images[index]), labels[index]
            pixels = (batch.to(torch.float32, memory_format=torch.channels_last) - mean) / std
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = network(pixels)
            F.cross_entropy(logits.float(), target).backward()
            rate = recipe.lr * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    return run


def seconds(work: Callable[[], None]) -> float:
    """Seconds of one call: of the one thread's CPU time, or of wall time on a CUDA device."""
    if not torch.cuda.is_available():
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Runs both cases and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    figures = {}
    for name, (network, channels, size, batch, steps) in CASES.items():
        steps = GPU_STEPS if torch.cuda.is_available() else steps
        task = task_of(network, channels, size, batch, steps)
        by_hand = bare(task)
        seconds(by_hand), seconds(harness(task))  # warm-up
        ratios = []
        for turn in range(rounds):
            ours = harness(task)
            pair = (ours, by_hand) if turn % 2 else (by_hand, ours)
            times = {work: seconds(work) for work in pair}
            ratios.append(times[ours] / times[by_hand])
            print(f"{name}: {times[ours]:.3f} s against {times[by_hand]:.3f} s", flush=True)
        figures[name] = statistics.median(ratios)
    for name, value in figures.items():
        print(f"figure {name} {value:.4f} ratio")


if __name__ == "__main__":
    main()
