"""Images per second of RandAugment, the engine against Pillow and other libraries.

    python benchmarks/augmentation.py [--rounds 11] [--sizes 32,224] [--data PATH] [--quick]
    python benchmarks/augmentation.py --device cuda

Two operations of RandAugment's 14 for each image, at a level that each image draws from 9..14.
All candidates of a section take turns in one process, round after round; a ratio is the median
over the rounds of that round's ratio, so a busy machine slows both of its sides.  Ours, eager
tensors or compiled C, starts from a uint8 batch and includes drawing the policy and all else that
the host does.  Peers get their images in the form they like, raw Pillow even its policy.  With one
thread, time is the process's CPU time, so waiting for a busy core does not count; with all cores
it is wall time, and Pillow and torchvision get a process for each core, which sends nothing back;
those rows mean something only on a machine that does nothing else.

Before it times anything it compares ours and the raw loops with `bench.augment.pillow`, bit for
bit, on 64 images of the largest batch that is timed, and stops if a value differs.

On a CUDA device only ours is timed, in wall time around synchronisations, next to the device's own
copying.

Peers that are not required by the project are left out where they are not installed:
pip install kornia albumentations

Figures, at 32×32 on one thread with batches of 2048, or 256 where the name says so:
`engine_vs_pil_*` (RandAugment, over torchvision on PIL images), `engine_vs_raw_pillow_*` (over a
loop of Pillow's own functions), `engine_full_vs_pil*` (with crop, flip, float32 and normalisation,
over torchvision's); at 224×224 `engine224_vs_raw_pillow*`, the best of the rows; on a CUDA device
`engine_images_per_second_*`, the best median of the rows.
"""

import argparse
import gc
import importlib.metadata
import math
import os
import platform
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import _peers as peers
import numpy as np
import torch
from _peers import Candidate, Pictures, Unavailable

from bench.augment import native, pillow
from bench.augment.choice import randaugment
from bench.augment.engine import Program, execute
from bench.augment.policy import Batch
from bench.augment.spaces import space
from bench.augment.standard import CropFlip
from bench.environment import environment

Tensor = torch.Tensor
Execute = Callable[[Tensor, Program], Tensor]
Rates = dict[str, list[float]]
LOWEST, HIGHEST = 9, 14
MOST_PARALLEL_ROUNDS = 3  # where other processes hold a core, threads wait for each other long
TARGETS = {
    "engine_vs_pil_compiled": 10.0,
    "engine_vs_pil_eager": 7.0,
    "engine_vs_raw_pillow_compiled": 4.0,
    "engine_vs_raw_pillow_eager": 3.0,
    "engine_vs_pil_compiled_256": 7.0,
    "engine_vs_pil_eager_256": 7.0,
    "engine_full_vs_pil": 10.0,
    "engine224_vs_raw_pillow": 0.85,
}
YARDSTICKS = {"raw Pillow": peers.PILLOW, "torchvision": peers.TORCHVISION}
SPACE = space("torchvision-randaugment")
POLICY = randaugment(SPACE, 2, LOWEST)
RNG = torch.Generator().manual_seed(0)


# Ours


def draw(count: int, side: int) -> Program:
    """A policy for each image: one level, and two operations with their signs."""
    drawn = POLICY.sample(torch.arange(count), RNG)
    level = torch.randint(LOWEST, HIGHEST + 1, (count, 1), generator=RNG).double()
    return SPACE.program(replace(drawn, level=level.expand(-1, 2)), side)


def full(run: Execute, images: Tensor) -> Tensor:
    """Crop, flip, RandAugment and normalisation of a batch, as training does it."""
    count, side = len(images), images.shape[-1]
    crop = CropFlip(pad=4, flip=True)
    index = torch.arange(count)
    batch = crop.apply(Batch(images, index, index), crop.sample(index, RNG))
    made = run(batch.images, draw(count, side))
    scale, shift = affine(images.device)
    return (made.to(torch.float32) * scale + shift).contiguous(memory_format=torch.channels_last)


@cache
def affine(device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift of `Task.normalise`."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (peers.MEAN, peers.STD))
    return (1 / (255 * std)).to(device), (-mean / std).to(device)


def augmented(run: Execute, images: Tensor) -> Tensor:
    """RandAugment of a batch, its policy included."""
    return run(images, draw(len(images), images.shape[-1]))


@dataclass(frozen=True)
class Engine:
    """One way that the engine can work.

    Attributes:
        key: `eager` or `compiled`, as in the names of figures.
        label: As the table shows it.
        switch: What `AUGBENCH_ENGINE` says for it.
        run: Carries out a program, once the switch is set.
    """

    key: str
    label: str
    switch: str
    run: Execute = execute

    def choose(self) -> None:
        """Sets the switch."""
        os.environ[native.SWITCH] = self.switch

    def candidate(
        self, images: Tensor, batch: int, step: Callable[..., Tensor], passes: int = 1
    ) -> Candidate:
        """Ours on batches of one size; a call goes over the images `passes` times."""
        parts = images.split(batch) * passes

        def work(_: None) -> None:
            self.choose()
            for part in parts:
                step(self.run, part)

        return Candidate(ours(self, batch, step), len(images) * passes, work)


def ours(engine: Engine, batch: int, step: Callable[..., Tensor] = augmented) -> str:
    """The name of a row of ours."""
    return f"ours, {engine.label}, batch {batch}" + (", full" if step is full else "")


def engines(device: torch.device) -> tuple[list[Engine], list[str]]:
    """The ways that work here, eager first, and why others do not."""
    found, missing = [Engine("eager", "eager tensors", "tensors")], []
    if device.type == "cpu":
        if native.available():
            found.append(Engine("compiled", "compiled C", "native"))
        else:
            missing.append(f"compiled C: no C compiler (CC, or cc), or {native.SWITCH}=tensors")
    return found, missing


def unequal(
    pictures: Pictures, found: Iterable[Engine], batch: int, device: torch.device
) -> list[str]:
    """What differs from Pillow in 64 images of a batch: ours, and the raw loops."""
    program = draw(batch, pictures.side)
    chosen = torch.linspace(0, batch - 1, 64).long().tolist()
    wanted = {row: pixels(pillow.execute(pictures.pil[row], program, row)) for row in chosen}
    images = pictures.tensor[:batch].to(device)
    made: dict[str, Sequence[np.ndarray]] = {}
    for engine in found:
        engine.choose()
        out = engine.run(images, program).permute(0, 2, 3, 1).cpu()
        made[f"ours, {engine.label}"] = list(out.numpy())
    for name, tuned in ((peers.PILLOW, False), (peers.TUNED, True)):
        calls = peers.pillow_calls(program, pictures.side, tuned)
        jobs = list(zip(pictures.pil[:batch], calls, strict=True))
        made[name] = [pixels(image) for image in peers.pillow_loop(jobs)]
    return [
        f"{name}, {pictures.side}×{pictures.side}, image {row}"
        for name, results in made.items()
        for row in chosen
        if not np.array_equal(results[row], wanted[row])
    ]


def pixels(image: Any) -> np.ndarray:
    """A Pillow image as an array."""
    return np.asarray(image)


# Images


def cifar(root: Path, count: int) -> Pictures | None:
    """CIFAR-10 as JPEG files in Parquet, where it is."""
    from bench.data.sources import load

    for name in ("cifar10-jpeg-small", "cifar10-jpeg"):
        if (root / name).is_dir():
            images = load(f"parquet:{root / name}").train.images
            return Pictures(f"CIFAR-10, {name}", repeated(images, count))
    return None


def photographs(side: int, count: int) -> Pictures:
    """Random crops of scikit-learn's two photographs, resized; noise where it is not installed."""
    rng = random.Random(0)
    different = min(count, 256)
    try:
        from PIL import Image
        from sklearn.datasets import load_sample_image
    except ImportError:
        coarse = torch.rand(different, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        smooth = torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1)
        return Pictures("smooth noise", repeated((smooth * 255).byte(), count))
    sources = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    made = []
    for number in range(different):
        source = sources[number % 2]
        part = rng.randint(160, min(source.size))
        left, top = (rng.randint(0, length - part) for length in source.size)
        box = (left, top, left + part, top + part)
        image = source.resize((side, side), Image.Resampling.BICUBIC, box=box)
        made.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    origin = "random crops of scikit-learn's photographs china and flower, bicubic"
    return Pictures(origin, repeated(torch.stack(made), count))


def repeated(images: Tensor, count: int) -> Tensor:
    """The first images, again and again if there are too few."""
    return images[torch.arange(count) % len(images)].contiguous()


def pictures_of(side: int, count: int, root: Path | None) -> Pictures:
    """The images of a size."""
    found = cifar(root, count) if side == 32 and root is not None else None
    return found or photographs(side, count)


# Time


def measured(candidates: Sequence[Candidate], rounds: int, clock: Callable[[], float]) -> Rates:
    """Images per second of each candidate in each round; they take turns.

    The first round is a warm-up; every other one begins with another candidate.
    """
    rates: Rates = {candidate.name: [] for candidate in candidates}
    gc.collect()
    gc.disable()
    for turn in range(rounds + 1):
        first = turn % len(candidates)
        for candidate in (*candidates[first:], *candidates[:first]):
            given = candidate.prepare()
            began = clock()
            candidate.work(given)
            seconds = clock() - began
            if turn:
                rates[candidate.name].append(candidate.images / seconds)
            del given
        gc.collect()
    gc.enable()
    return rates


def ratio(rates: Rates, ours_: str, theirs: str) -> float:
    """The median over rounds of each round's ratio."""
    pairs = zip(rates[ours_], rates[theirs], strict=True)
    return statistics.median(mine / other for mine, other in pairs)


def table(title: str, rates: Rates, yardsticks: dict[str, str]) -> None:
    """Prints best and median rates and the ratios to some of the rows, by their short names."""
    heads = ["best", "median", *(f"× {short}" for short in yardsticks)]
    widths = [max(9, len(head)) for head in heads]
    first = max(len(name) for name in rates)
    print(f"\n{title}; images/s")
    cells = [head.rjust(width) for head, width in zip(heads, widths, strict=True)]
    print("  ".join(["".ljust(first), *cells]))
    for name, values in rates.items():
        row = [f"{max(values):,.0f}", f"{statistics.median(values):,.0f}"]
        row += [f"{ratio(rates, name, yardstick):.2f}" for yardstick in yardsticks.values()]
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([name.ljust(first), *cells]), flush=True)


# Sections


@dataclass(frozen=True)
class Sizes:
    """How much each candidate does at one call, for images of one side.

    Attributes:
        batches: Of ours; one call goes `passes` times over as many images as the largest has.
        pillow: Images a call of the raw loops; `pil`, `tensor`, `kornia`, `single`: of the others.
    """

    batches: tuple[int, ...]
    passes: int
    pillow: int
    pil: int
    tensor: int
    kornia: int
    single: int


SIZES = {
    32: Sizes((256, 2048), passes=4, pillow=1024, pil=512, tensor=256, kornia=256, single=64),
    224: Sizes((64, 256), passes=1, pillow=192, pil=192, tensor=64, kornia=64, single=16),
}
CUDA_BATCHES = {32: (4096, 16384), 224: (512, 2048)}


@dataclass
class Report:
    """What the sections found.

    Attributes:
        figures: Values by name.
        remarks: What a figure stands for, where its name does not tell.
        rounds: Timed rounds of every section.
        left_out: Why peers are missing.
    """

    figures: dict[str, float]
    remarks: dict[str, str]
    rounds: int
    left_out: set[str]

    def available(self, *makers: Callable[[], Candidate]) -> list[Candidate]:
        """The candidates that can be had; says once why others cannot."""
        found = []
        for make in makers:
            try:
                found.append(make())
            except Unavailable as error:
                if str(error) not in self.left_out:
                    print(f"left out: {error}")
                self.left_out.add(str(error))
        return found

    def largest(self, figure: str, rates: Rates, names: Sequence[str], yardstick: str) -> None:
        """Keeps the greatest ratio, and says whose it is."""
        best = max(names, key=lambda name: ratio(rates, name, yardstick))
        self.figures[figure] = ratio(rates, best, yardstick)
        self.remarks[figure] = best


def one_thread(report: Report, pictures: Pictures, found: Sequence[Engine]) -> None:
    """RandAugment, ours and everybody else's, each on one thread."""
    side, sizes = pictures.side, SIZES[pictures.side]
    images = pictures.tensor[: max(sizes.batches)]
    candidates = [
        peers.raw_pillow(pictures, sizes.pillow, draw),
        peers.raw_pillow(pictures, sizes.pillow, draw, tuned=True),
        peers.torchvision_pil(pictures, sizes.pil),
        peers.torchvision_tensor(pictures, sizes.tensor),
        *report.available(
            partial(peers.timm, pictures, sizes.pil),
            partial(peers.albumentations, pictures, sizes.pil),
            partial(peers.kornia, pictures, sizes.single, 1),
            partial(peers.kornia, pictures, sizes.kornia, sizes.kornia),
        ),
        *(
            e.candidate(images, batch, augmented, sizes.passes)
            for e in found
            for batch in sizes.batches
        ),
        Candidate(
            "ours, drawing the policy alone",
            len(images),
            lambda _: draw(len(images), side),
        ),
    ]
    rates = measured(candidates, report.rounds, time.process_time)
    title = f"RandAugment(2, {LOWEST}..{HIGHEST}), {side}×{side}, one thread"
    table(title, rates, YARDSTICKS)
    if side == 32:
        for engine in found:
            large, small = ours(engine, 2048), ours(engine, 256)
            keep = {
                f"engine_vs_pil_{engine.key}": (large, peers.TORCHVISION),
                f"engine_vs_raw_pillow_{engine.key}": (large, peers.PILLOW),
                f"engine_vs_pil_{engine.key}_256": (small, peers.TORCHVISION),
            }
            for name, (mine, theirs) in keep.items():
                report.figures.setdefault(name, ratio(rates, mine, theirs))
    if side == 224:
        rows = [ours(engine, batch) for engine in found for batch in sizes.batches]
        report.largest("engine224_vs_raw_pillow", rates, rows, peers.PILLOW)
        eager = rows[: len(sizes.batches)]
        report.largest("engine224_vs_raw_pillow_eager", rates, eager, peers.PILLOW)


def whole_pipeline(report: Report, pictures: Pictures, found: Sequence[Engine]) -> None:
    """Crop, flip, RandAugment, to float32 and normalise, on one thread."""
    sizes = SIZES[pictures.side]
    images = pictures.tensor[: max(sizes.batches)]
    candidates = [
        peers.torchvision_pil_full(pictures, sizes.pil),
        peers.torchvision_tensor_full(pictures, sizes.tensor),
        *(
            e.candidate(images, batch, full, sizes.passes)
            for e in found
            for batch in sizes.batches
        ),
    ]
    rates = measured(candidates, report.rounds, time.process_time)
    side = pictures.side
    title = f"Crop, flip, RandAugment, float32, normalise, {side}×{side}, one thread"
    table(title, rates, {"torchvision": peers.FULL})
    rows = {e.key: e for e in reversed(found)}  # the first of a key stays
    best = rows.get("compiled", rows["eager"])
    for figure, engine in (
        ("engine_full_vs_pil", best),
        ("engine_full_vs_pil_eager", rows["eager"]),
    ):
        for batch in sizes.batches:
            name = figure if batch == 2048 else f"{figure}_{batch}"
            report.figures[name] = ratio(rates, ours(engine, batch, full), peers.FULL)
            report.remarks[name] = ours(engine, batch, full)


def all_cores(report: Report, every: Sequence[Pictures], found: Sequence[Engine]) -> None:
    """Ours on as many threads as there are cores, Pillow and torchvision on as many processes."""
    cores = len(os.sched_getaffinity(0))
    alone = [
        make
        for pictures in every
        for make in (
            peers.raw_pillow(pictures, SIZES[pictures.side].pillow, draw),
            peers.torchvision_pil(pictures, SIZES[pictures.side].pil),
        )
    ]
    crew = peers.Crew(alone, cores)
    together = iter(crew.candidates(alone))
    torch.set_num_threads(cores)
    for pictures in every:
        largest = max(SIZES[pictures.side].batches)
        images = pictures.tensor[:largest]
        candidates = [next(together), next(together)]
        candidates += [engine.candidate(images, largest, augmented) for engine in found]
        rates = measured(candidates, min(report.rounds, MOST_PARALLEL_ROUNDS), time.perf_counter)
        load = f"wall time, load {os.getloadavg()[0]:.1f}"
        title = f"RandAugment, {pictures.side}×{pictures.side}, all {cores} cores, {load}"
        table(title, rates, YARDSTICKS)
    torch.set_num_threads(1)
    crew.close()


def on_device(
    report: Report,
    pictures: Pictures,
    found: Sequence[Engine],
    device: torch.device,
    copying: float,
) -> None:
    """Ours on a CUDA device, and how that compares with merely copying the images."""

    def clock() -> float:
        synchronise(device)
        return time.perf_counter()

    side = pictures.side
    candidates = []
    for batch in CUDA_BATCHES[side]:
        images = pictures.tensor[:batch].to(device).repeat(8, 1, 1, 1)  # eight batches a call
        for engine in found:
            candidates += [engine.candidate(images, batch, step) for step in (augmented, full)]
        only = Candidate(
            f"ours, drawing the policy alone on the host, batch {batch}",
            batch,
            lambda _, batch=batch: draw(batch, side),
        )
        candidates.append(only)
    rates = measured(candidates, report.rounds, clock)
    table(f"RandAugment(2, {LOWEST}..{HIGHEST}), {side}×{side}, on {device}", rates, {})
    moved = 2 * pictures.tensor[0].numel()  # each image is read once and written once, at least
    for engine in found:
        for batch in CUDA_BATCHES[side]:
            rate = statistics.median(rates[ours(engine, batch)]) * moved
            share = f"{rate / 1e9:,.1f} GB/s of images read and written, {rate / copying:.2%}"
            print(f"{ours(engine, batch)}: {share} of copying")
    rows = [ours(engine, batch) for engine in found for batch in CUDA_BATCHES[side]]
    best = max(rows, key=lambda name: statistics.median(rates[name]))
    figure = f"engine_images_per_second_{side}"
    report.figures[figure] = statistics.median(rates[best])
    report.remarks[figure] = best


def copy_rate(device: torch.device, size: int = 4 << 30) -> float:
    """Bytes per second, read and written together, of cloning a large tensor."""
    if device.type == "cpu":
        size = 64 << 20
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    best = math.inf
    for _ in range(10):
        synchronise(device)
        began = time.perf_counter()
        source.clone()
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size / best


def synchronise(device: torch.device) -> None:
    """Waits until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Output


def describe(device: torch.device, rounds: int) -> None:
    """Prints machine, load, versions."""
    about = environment(device, torch.get_num_threads(), "")
    cores = len(os.sched_getaffinity(0))
    print(f"{about['device']}, {cores} cores, load {os.getloadavg()[0]:.1f}, {about['platform']}")
    names = ("torch", "torchvision", "pillow", "numpy", "timm", "kornia", "albumentations")
    names += ("opencv-python-headless",)
    versions = [f"{name} {version(name)}" for name in names]
    print(f"Python {platform.python_version()}, " + ", ".join(versions))
    print(f"{rounds} rounds; figures and × are medians over rounds of each round's ratio")


def version(package: str) -> str:
    """A package's version, or `absent`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def print_figures(report: Report) -> None:
    """Targets, then the lines that are read by machines."""
    print()
    for name, target in TARGETS.items() if report.figures.keys() & TARGETS.keys() else ():
        if name in report.figures:
            met = "met" if report.figures[name] >= target else "missed"
            print(f"{name}: {report.figures[name]:.2f}, target {target:g} {met}")
        else:
            print(f"{name}: not measured, target {target:g}")
    for name, row in report.remarks.items():
        print(f"{name} is of: {row}")
    for name, value in report.figures.items():
        unit = "images/s" if "per_second" in name else "ratio"
        print(f"figure {name} {value:.4f} {unit}")


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds (default 11)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, one thread only")
    parser.add_argument("--sizes", default="32,224", help="sides in pixels (default 32,224)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for ours alone")
    parser.add_argument("--data", type=Path, help="folder of cifar10-jpeg [env AUGBENCH_DATA]")
    given = parser.parse_args()
    given.sizes = [int(size) for size in given.sizes.split(",")]
    if not set(given.sizes) <= set(SIZES):
        parser.error(f"--sizes must be among {', '.join(map(str, SIZES))}")
    given.rounds = 3 if given.quick else given.rounds
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    given.data = given.data or Path(os.environ.get("AUGBENCH_DATA") or "data")
    return given


def main() -> None:
    """Checks, measures, prints."""
    began = time.perf_counter()
    given = arguments()
    device = torch.device(given.device)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here")
    describe(device, given.rounds)
    found, missing = engines(device)
    for line in missing:
        print(f"left out: ours, {line}")
    batches = CUDA_BATCHES if device.type == "cuda" else {s: SIZES[s].batches for s in SIZES}
    every = [pictures_of(side, max(batches[side]), given.data) for side in given.sizes]
    for pictures in every:
        print(f"{pictures.side}×{pictures.side} images: {pictures.origin}")
        differing = unequal(pictures, found, max(batches[pictures.side]), device)
        if differing:
            sys.exit("\n".join(["these differ from Pillow, so nothing is timed:", *differing]))
    print("64 images of each batch are equal to Pillow's, bit for bit")
    report = Report({}, {}, given.rounds, set())
    if device.type == "cuda":
        copying = copy_rate(device)
        print(f"copying 4 GiB: {copying / 1e9:,.0f} GB/s read and written")
        for pictures in every:
            on_device(report, pictures, found, device, copying)
    else:
        for pictures in every:
            one_thread(report, pictures, found)
            if pictures.side == 32:
                whole_pipeline(report, pictures, found)
        if not given.quick:
            all_cores(report, every, found)
    print(
        f"\n{time.perf_counter() - began:.0f} s in all, load {os.getloadavg()[0]:.1f} at the end"
    )
    print_figures(report)


if __name__ == "__main__":
    main()
