"""How good GAR's per-example rewards are, by estimator and by size of the clean batch.

    python benchmarks/gar_rewards.py [--networks wrn-16-2 wrn-10-1] [--seeds 3] [--redraws N]

The reward of image i is r_i = ⟨∇ℓ_i(θ_t, a_i), g⟩ with g the gradient of the next batch's loss at
θ_{t+1} = θ_t - α∇L(θ_t).  On training states of the method's own loop, whose policy stays at its
start, this measures:

(a) agreement: the correlation over the 64 images of rewards under two disjoint clean batches;
(b) credit: image i alone gets another draw of the policy.  The change of its reward is correlated
    with what the redraw did: to n⟨∇L, g⟩, with g fixed (first order), to the clean loss after the
    step (actual), and to n⟨∇L, h⟩ with h the gradient of the validation images (held out), all
    three in float64;
(c) the estimators against each other;
(d) the rewards with g taken at θ_t, which need nothing kept for a step.

Estimators: `jvp`, `hooks`, `hooks without norms` and `difference` of `methods._alignment`, in
float32.  States and cells are kept in the cache, so a second call continues.  About 22 minutes of
one core for WRN-16-2, and 10 for WRN-10-1; 6 GB of memory.

Figures, of the first network, means over checkpoints and seeds: `credit_ESTIMATOR` (first order,
over all sizes too), `loss_credit_ESTIMATOR` (actual, 64 clean images), `held_out_SIZE` and
`agreement_SIZE` (jvp), `first_order` (first order against actual) and `difference_error`.
"""

import argparse
import copy
import csv
import ctypes
import io
import itertools
import json
import os
import platform
import statistics
import textwrap
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from bench.atomic import write_text
from bench.augment.learnable import OpsAndLevels
from bench.augment.policy import Batch, Chain, Identity, Policy
from bench.augment.spaces import space
from bench.data.arrays import Arrays
from bench.data.sources import Source, load
from bench.rng import forked, generator
from bench.train.prepare import prepare
from bench.train.recipe import Recipe
from bench.train.task import Task, around, fill
from methods import _alignment as alignment

ROOT = Path(__file__).resolve().parents[1]
Tensor = torch.Tensor
Weights = dict[str, Tensor]
Pixels = tuple[Tensor, Tensor]
Swap = tuple[int, Pixels]
Rewards = dict[str, list[Tensor]]

DATA = "parquet:cifar10-jpeg-small"
BATCH = 64
CHECKPOINTS = (0, 30, 150, 400)
CLEAN = {64: 6, 256: 4, 1024: 3}
"""Size of the clean batches, and how many disjoint ones; the first takes part in (b) and (d)."""
REDRAWS = {"wrn-16-2": 16, "wrn-10-1": 64}
"""Redrawn images in a cell, at most 64; others than these networks get 16."""
ESTIMATORS = ("jvp", "hooks", "hooks without norms", "difference")
PAIRS = (("jvp", "hooks"), ("hooks", "hooks without norms"), ("jvp", "difference"))
RECIPE = Recipe(steps=max(CHECKPOINTS), batch_size=BATCH, lr=0.1, weight_decay=5e-4)


# Training states


@dataclass(frozen=True)
class Place:
    """One training: a network's name and a seed, with what follows from them."""

    network: str
    seed: int
    task: Task

    @cached_property
    def augmented(self) -> Chain:
        """The policy at its start, crop and flip, Cutout."""
        policy = OpsAndLevels(space("randaugment"), fill(self.task))
        chain = around(self.task, policy)
        assert isinstance(chain, Chain)
        return chain

    @cached_property
    def plain(self) -> Policy:
        """The same without the policy: what clean batches get."""
        return around(self.task, Identity())

    def rng(self, *names: str | int) -> torch.Generator:
        """A generator of this seed; a name for each use, so that any step can be done alone."""
        return generator("gar rewards", self.seed, *names)

    def rows(self, step: int) -> Tensor:
        """The images of a step, (64,) int64: shuffled epochs without the incomplete batch."""
        epoch, at = divmod(step, len(self.task.train) // BATCH)
        order = torch.randperm(len(self.task.train), generator=self.rng("order", epoch))
        return order[at * BATCH : (at + 1) * BATCH]

    def pixels(self, images: Tensor) -> Tensor:
        """What the network takes, float32 (B, C, H, W), of uint8 images."""
        return self.task.normalise(images).contiguous(memory_format=torch.channels_last)

    def batch(self, arrays: Arrays, rows: Tensor, policy: Policy, *names: str | int) -> Pixels:
        """Images and classes after a draw of the policy by the generator of these names."""
        images, labels = arrays.take(rows)
        draw = policy.sample(rows, self.rng(*names))
        return self.pixels(policy.apply(Batch(images, labels, rows), draw).images), labels


@dataclass(frozen=True)
class State:
    """A network with its optimiser before some step."""

    network: nn.Module
    optimiser: torch.optim.Optimizer

    @classmethod
    def start(cls, place: Place) -> "State":
        """Before step 0.  Without the guard: nobody is billed here."""
        with forked("initial weights", place.seed, 0):
            network = place.task.network().to(memory_format=torch.channels_last)
        for module in network.modules():
            module._forward_pre_hooks.clear()
        return cls(network, RECIPE.optimiser(network.parameters()))

    @property
    def weights(self) -> Weights:
        """θ by name, not copied."""
        return {name: value.detach() for name, value in self.network.named_parameters()}

    def descend(self, gradients: Weights) -> None:
        """One step of the optimiser, at the recipe's highest rate: it stays constant."""
        for name, value in self.network.named_parameters():
            value.grad = gradients[name].clone()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def clone(self) -> "State":
        """An independent copy."""
        return State(*copy.deepcopy((self.network, self.optimiser)))


def gradient(network: nn.Module, weights: Weights, batch: Pixels) -> Weights:
    """∇L of the mean loss at some weights, in training mode; the network is left alone."""
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    logits = functional_call(network, (leaves, buffers), (batch[0],))
    found = torch.autograd.grad(F.cross_entropy(logits, batch[1]), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def moved(weights: Weights, gradients: Weights) -> Weights:
    """θ - α∇L, the plain step."""
    return {name: value - RECIPE.lr * gradients[name] for name, value in weights.items()}


def train(place: Place, state: State, steps: range) -> None:
    """Steps of the method's loop: even ones augmented, odd ones plain."""
    for step in steps:
        policy = place.plain if step % 2 else place.augmented
        batch = place.batch(place.task.train, place.rows(step), policy, "train", step)
        state.descend(gradient(state.network, state.weights, batch))


def states(place: Place, cache: Path) -> Iterator[tuple[int, State]]:
    """The training's state before each checkpoint's step; computed once, then read."""
    state, done = State.start(place), 0
    for checkpoint in CHECKPOINTS:
        path = cache / f"{place.network}-{place.seed}-{checkpoint}.pt"
        if path.exists():
            kept = torch.load(path, weights_only=True)
            state.network.load_state_dict(kept["network"])
            state.optimiser.load_state_dict(kept["optimiser"])
        else:
            train(place, state, range(done, checkpoint))
            kept = {
                "network": state.network.state_dict(),
                "optimiser": state.optimiser.state_dict(),
            }
            torch.save(kept, path.with_suffix(".tmp"))
            os.replace(path.with_suffix(".tmp"), path)
        done = checkpoint
        yield checkpoint, state


# Rewards


def rewards(state: State, batch: Pixels, directions: Sequence[Weights]) -> Rewards:
    """The rewards (B,) of a batch by every estimator, along each direction."""
    network, weights = state.network, state.weights
    with alignment.recording(network) as tape:
        losses = F.cross_entropy(network(batch[0]), batch[1], reduction="none")
        losses.mean().backward()
    network.zero_grad(set_to_none=True)
    norms, rest = alignment.Tape(), alignment.Tape()
    for call in tape.calls:
        (norms if isinstance(call.layer, alignment.NORMS) else rest).calls.append(call)
    found: Rewards = {name: [] for name in ESTIMATORS}
    for g in directions:
        named = {value: g[name] for name, value in network.named_parameters()}
        without = rest.products(named)
        found["jvp"].append(alignment.jvp(network, weights, g, batch))
        found["hooks"].append(without + norms.products(named))  # each layer's share once
        found["hooks without norms"].append(without)
        found["difference"].append(
            alignment.difference(network, weights, g, batch, losses.detach())
        )
    return found


@dataclass(frozen=True)
class Around:
    """The augmented batch of a checkpoint's step, and the clean batches around it.

    Attributes:
        raw: Its images before the augmentation, (64, C, H, W) uint8, and classes.
        draw: What the augmentation drew.
        batch: After it.
        clean: By size, disjoint clean batches that share no image with it.
        val: All validation images, augmented as clean batches are.
    """

    raw: Batch
    draw: tuple[Any, ...]
    batch: Pixels
    clean: dict[int, list[Pixels]]
    val: Pixels


def around_step(place: Place, step: int) -> Around:
    """The batches at a checkpoint; their draws belong to this experiment alone."""
    train, rows = place.task.train, place.rows(step)
    raw = Batch(*train.take(rows), rows)
    draw = place.augmented.sample(rows, place.rng("train", step))
    batch = place.pixels(place.augmented.apply(raw, draw).images), raw.targets
    others = torch.ones(len(train), dtype=torch.bool).index_fill(0, rows, False).nonzero()[:, 0]
    clean = {}
    for size, count in CLEAN.items():
        order = others[torch.randperm(len(others), generator=place.rng("clean", step, size))]
        parts = order[: size * count].split(size)
        clean[size] = [
            place.batch(train, part, place.plain, "clean", step, size, number)
            for number, part in enumerate(parts)
        ]
    every = torch.arange(len(place.task.val))
    val = place.batch(place.task.val, every, place.plain, "validation", step)
    return Around(raw, draw, batch, clean, val)


def redrawn(place: Place, step: int, here: Around, count: int) -> Iterator[Swap]:
    """Some images, each alone, under another draw of the policy.

    Crop, flip and Cutout stay.  A draw that gives the same pixels is drawn again: its credit
    and every reward's change are 0.
    """
    rng = place.rng("redraws", step)
    before = place.augmented.apply(here.raw, here.draw).images
    after = before.clone()
    while (same := (after == before).flatten(1).all(1)).any():
        policy = place.augmented.policies[0].sample(here.raw.index, rng)
        images = place.augmented.apply(here.raw, (policy, *here.draw[1:])).images
        after[same] = images[same]
    new, (old, labels) = place.pixels(after), here.batch
    for row in torch.randperm(BATCH, generator=place.rng("which", step))[:count].tolist():
        pixels = old.clone(memory_format=torch.preserve_format)
        pixels[row] = new[row]
        yield row, (pixels, labels)


class Truth:
    """What a batch does to the clean loss, in float64.

    Args:
        state: Before the step.
        clean: The batch whose loss is evaluated after the step.
        directions: Gradients of clean losses, float32.
    """

    def __init__(self, state: State, clean: Pixels, directions: Sequence[Weights]) -> None:
        # Without mkldnn, which has no float64, the plain layout is the faster one.
        self.network = copy.deepcopy(state.network).double()
        self.network = self.network.to(memory_format=torch.contiguous_format)
        self.weights = {name: value.detach() for name, value in self.network.named_parameters()}
        self.clean = clean[0].double().contiguous(), clean[1]
        self.directions = [{n: v.double() for n, v in g.items()} for g in directions]

    def of(self, batch: Pixels) -> tuple[list[float], float]:
        """n⟨∇L, g⟩ for each direction, and the clean loss after the plain step."""
        pixels = batch[0].double().contiguous()
        found = gradient(self.network, self.weights, (pixels, batch[1]))
        along = [
            len(pixels) * float(sum((found[name] * g[name]).sum() for name in found))
            for g in self.directions
        ]
        buffers = {name: value.clone() for name, value in self.network.named_buffers()}
        with torch.no_grad():
            there = moved(self.weights, found)
            logits = functional_call(self.network, (there, buffers), (self.clean[0],))
        return along, float(F.cross_entropy(logits, self.clean[1]))


# Cells


def cell(place: Place, step: int, state: State, redraws: int) -> dict[str, Any]:
    """Everything measured at one checkpoint, as plain numbers."""
    began = time.process_time()
    here, network = around_step(place, step), state.network
    first = gradient(network, state.weights, here.batch)
    there, stepped = moved(state.weights, first), state.clone()
    stepped.descend(first)
    clean = {
        size: [gradient(network, there, batch) for batch in batches]
        for size, batches in here.clean.items()
    }
    variants = {"θ_t": state.weights, "optimiser": stepped.weights}
    out: dict[str, Any] = {"rewards": {}, "variants": {}}
    for size, directions in clean.items():
        out["rewards"][size] = plain(rewards(state, here.batch, directions))
        own = [gradient(network, at, here.clean[size][0]) for at in variants.values()]
        out["variants"][size] = plain(rewards(state, here.batch, own))
    chosen = [directions[0] for directions in clean.values()]
    truth = Truth(state, here.clean[BATCH][0], [*chosen, gradient(network, there, here.val)])
    swaps = redrawn(place, step, here, redraws)
    out["redraws"] = after_redraws(state, here.batch, swaps, chosen, truth)
    return out | {"seconds": round(time.process_time() - began, 1)}


def after_redraws(
    state: State, batch: Pixels, swaps: Iterator[Swap], directions: list[Weights], truth: Truth
) -> dict[str, Any]:
    """What changes when one image is redrawn.

    Args:
        swaps: A redrawn image's place in the batch, and the batch with it.
        directions: The clean gradients, one a size.
        truth: Its directions are the same and, last, that of the validation images.

    Returns:
        Lists over the redrawn images.  Everything is old minus new, but the clean loss is new
        minus old: positive means that the old draw was better.
    """
    old, (old_along, old_loss) = rewards(state, batch, directions), truth.of(batch)
    changes: dict[str, list[list[float]]] = {name: [] for name in ESTIMATORS}
    along, loss, rows = [], [], []
    for row, swapped in swaps:
        new, (new_along, new_loss) = rewards(state, swapped, directions), truth.of(swapped)
        for name in ESTIMATORS:
            pairs = zip(old[name], new[name], strict=True)
            changes[name].append([short(float(a[row] - b[row])) for a, b in pairs])
        along.append([short(a - b) for a, b in zip(old_along, new_along, strict=True)])
        loss.append(short(new_loss - old_loss))
        rows.append(row)
    return {
        "rows": rows,
        "rewards": {name: by_size(list(zip(*c, strict=True))) for name, c in changes.items()},
        "first order": by_size(list(zip(*along, strict=True))[:-1]),
        "held out": [values[-1] for values in along],
        "actual": loss,
        "clean loss": short(old_loss),
    }


def by_size(columns: Sequence[Sequence[float]]) -> dict[int, list[float]]:
    """Columns by the size of their clean batch."""
    return {size: list(column) for size, column in zip(CLEAN, columns, strict=True)}


def plain(found: Rewards) -> dict[str, list[list[float]]]:
    """Rewards as lists."""
    return {name: [[short(v) for v in r.tolist()] for r in rs] for name, rs in found.items()}


def short(value: float) -> float:
    """Seven digits: as many as float32 has."""
    return float(f"{value:.7g}")


def cells(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All cells, from the cache where they were measured in the same way."""
    given.cache.mkdir(parents=True, exist_ok=True)
    source = load(DATA)
    for network, seed in itertools.product(given.networks, range(given.seeds)):
        place = place_of(source, network, seed)
        count = min(given.redraws or REDRAWS.get(network, 16), BATCH)
        for checkpoint, state in states(place, given.cache):
            own = {"network": network, "seed": seed, "checkpoint": checkpoint}
            settings = {"redraws": count, "clean": CLEAN, "data": source.digest}
            settings |= {"train": len(place.task.train), "torch": torch.__version__}
            settings |= {"lr": RECIPE.lr, "momentum": RECIPE.momentum, "batch": BATCH}
            settings |= {"decay": RECIPE.weight_decay}
            settings = json.loads(json.dumps(settings))
            path = given.cache / f"{network}-{seed}-{checkpoint}.json"
            kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            if kept.get("settings") != settings:
                kept = own | {"settings": settings} | cell(place, checkpoint, state, count)
                write_text(path, json.dumps(kept, indent=1) + "\n")
                kept = json.loads(path.read_text(encoding="utf-8"))  # keys are words now
            print(f"{network}, seed {seed}, step {checkpoint}: {kept['seconds']} s", flush=True)
            yield kept


def place_of(source: Source, network: str, seed: int) -> Place:
    """The task with its seed's split."""
    device = torch.device("cpu")
    prepared = prepare(
        source, distort="clean", network=network, recipe=RECIPE, seed=seed, device=device
    )
    return Place(network, seed, prepared.task)


# What the cells say


@dataclass(frozen=True)
class Value:
    """One number of one cell: a mean over something, with its spread."""

    network: str
    seed: int
    checkpoint: int
    measure: str
    estimator: str
    size: str
    value: float
    spread: float | None = None
    count: int = 1


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's, in float64."""
    return float(torch.corrcoef(torch.tensor([a, b], dtype=torch.float64))[0, 1])


def error(a: Sequence[float], b: Sequence[float]) -> float:
    """‖b - a‖ / ‖a‖."""
    first, second = (torch.tensor(x, dtype=torch.float64) for x in (a, b))
    return float((second - first).norm() / first.norm())


def values(one: dict[str, Any]) -> Iterator[Value]:
    """The measures of a cell."""
    place = (one["network"], one["seed"], one["checkpoint"])
    for size in map(str, CLEAN):
        found, variants = one["rewards"][size], one["variants"][size]
        for name in ESTIMATORS:
            pairs = [correlation(*pair) for pair in itertools.combinations(found[name], 2)]
            mean, spread = statistics.mean(pairs), statistics.stdev(pairs)
            yield Value(*place, "agreement", name, size, mean, spread, len(pairs))
            early, stepped = variants[name]
            yield Value(*place, "early", name, size, correlation(early, found[name][0]))
            yield Value(*place, "early, optimiser", name, size, correlation(early, stepped))
        for a, b in PAIRS:
            both = list(zip(found[a], found[b], strict=True))
            mean = statistics.mean(correlation(*pair) for pair in both)
            yield Value(*place, "same", f"{a}, {b}", size, mean, None, len(both))
        both = list(zip(found["jvp"], found["difference"], strict=True))
        mean = statistics.mean(error(*pair) for pair in both)
        yield Value(*place, "error", "difference", size, mean, None, len(both))
    yield from credits(one["redraws"], place)


def credits(found: dict[str, Any], place: tuple[str, int, int]) -> Iterator[Value]:
    """The measures of a cell's redraws."""
    count = len(found["rows"])
    own, held_out, actual = found["first order"], found["held out"], found["actual"]

    def one(measure: str, name: str, size: str, a: list[float], b: list[float]) -> Value:
        return Value(*place, measure, name, size, correlation(a, b), None, count)

    for size in map(str, CLEAN):
        for name in ESTIMATORS:
            change = found["rewards"][name][size]
            yield one("credit", name, size, change, own[size])
            yield one("loss credit", name, size, change, actual)
            yield one("held-out credit", name, size, change, held_out)
        yield one("held-out credit", "first order", size, own[size], held_out)
        yield one("loss credit", "first order", size, own[size], actual)


@dataclass(frozen=True)
class Results:
    """All values, to pick from."""

    all: tuple[Value, ...]

    def pick(self, **wanted: object) -> list[Value]:
        """Those with these attributes."""
        return [v for v in self.all if all(getattr(v, k) == w for k, w in wanted.items())]

    def mean(self, **wanted: object) -> float:
        """Mean of those."""
        return statistics.mean(v.value for v in self.pick(**wanted))

    def cells(self, *sizes: str, **wanted: object) -> list[str]:
        """A mean for each size, as text."""
        return [number(self.mean(size=size, **wanted)) for size in sizes or tuple(map(str, CLEAN))]


def number(value: float) -> str:
    """Two decimals, with a proper minus."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")  # adding 0 turns -0 into 0


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def grid(network: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """First columns and selections of a table: checkpoints, then all of them."""
    for checkpoint in CHECKPOINTS:
        yield [str(checkpoint)], {"network": network, "checkpoint": checkpoint}
    yield ["all"], {"network": network}


def agreement_table(results: Results, network: str) -> str:
    """(a)."""
    rows = []
    for (step, where), name in itertools.product(grid(network), ESTIMATORS):
        cells_ = []
        for size in map(str, CLEAN):
            some = results.pick(measure="agreement", estimator=name, size=size, **where)
            spread = statistics.mean(v.spread for v in some if v.spread is not None)
            cells_.append(f"{number(statistics.mean(v.value for v in some))} ± {spread:.2f}")
        rows.append([*step, name, *cells_])
    return table(["step", "estimator", *(f"{size} clean" for size in CLEAN)], rows)


def credit_table(results: Results, network: str) -> str:
    """(b)."""
    rows = []
    for (step, where), name in itertools.product(grid(network), (*ESTIMATORS, "first order")):
        of = where | {"estimator": name}
        own = ["1", "1", "1"] if name == "first order" else results.cells(measure="credit", **of)
        loss = results.cells("64", "1024", measure="loss credit", **of)
        rows.append([*step, name, *own, *loss, *results.cells(measure="held-out credit", **of)])
    heads = [f"own, {size}" for size in CLEAN] + ["loss, 64", "loss, 1024"]
    return table(["step", "estimator", *heads, *(f"held out, {size}" for size in CLEAN)], rows)


def other_table(results: Results, network: str) -> str:
    """(c) and (d)."""
    rows = []
    for step, where in grid(network):
        same = [
            number(results.mean(measure="same", estimator=f"{a}, {b}", **where)) for a, b in PAIRS
        ]
        wrong = f"{100 * results.mean(measure='error', **where):.2f} %"
        early = [
            results.cells(measure=measure, estimator="jvp", **where)
            for measure in ("early", "early, optimiser")
        ]
        rows.append([*step, *same[:2], wrong, *early[0], *early[1]])
    heads = ["jvp, hooks", "hooks, without norms", "error of difference"]
    heads += [f"θ_t, {size}" for size in CLEAN] + [f"θ_t, {size}, optimiser" for size in CLEAN]
    return table(["step", *heads], rows)


def comparison(results: Results, network: str) -> str:
    """jvp minus hooks, paired by cell."""
    rows = []
    measures = ("agreement", "credit", "loss credit", "held-out credit")
    for measure, size in itertools.product(measures, map(str, CLEAN)):
        a, b = (
            results.pick(network=network, measure=measure, size=size, estimator=name)
            for name in ("jvp", "hooks")
        )
        gaps = [(x.seed, x.value - y.value) for x, y in zip(a, b, strict=True)]
        seeds = [
            number(statistics.mean(gap for own, gap in gaps if own == seed))
            for seed in sorted({own for own, _ in gaps})
        ]
        wins = f"{sum(gap > 0 for _, gap in gaps)} of {len(gaps)}"
        rows.append([measure, size, ", ".join(seeds), wins])
    return table(["jvp − hooks", "clean", "mean of each seed", "cells above 0"], rows)


# The page

PAGE = """# How good are GAR's rewards?

{about}

{legend}

{sections}
"""
ABOUT = """Made by `python benchmarks/gar_rewards.py` with {versions}.  Data: CIFAR-10 (JPEG),
5,000 images of which {train} train.  Batches of 64; OpsAndLevels on the space randaugment at its
start, then crop and flip, then Cutout; even steps augmented, odd steps plain (crop, flip, Cutout).
Clean batches are plain training images outside the batch.  SGD, Nesterov 0.9, weight decay 5e-4,
lr {lr} constant; θ_{{t+1}} is the plain step, without momentum and decay, unless it says
optimiser.  Training mode everywhere: BatchNorm uses the statistics of the batch.  Means over
{seeds} seeds.  Rewards in float32 with channels last, as learners have it; credit in float64."""
LEGEND = """*Agreement*: Pearson correlation over the 64 images of rewards under two disjoint clean
batches of this size, mean ± standard deviation over the pairs of a cell ({pairs}).  *Credit*: one
image gets another draw of the policy (crop, flip and Cutout stay); correlation, over the redrawn
images, of the change of its reward with: *own*, the change of n⟨∇L, g⟩ for the same clean batch;
*loss*, the change of the loss of the 64 clean images after the step, against rewards under these
64 or under the first 1,024; *held out*, the change of n⟨∇L, h⟩ with h the gradient of the
validation images at θ_{{t+1}}.  The row *first order* has the change of n⟨∇L, g⟩ in the reward's
place: what an exact estimator would reach.  *θ_t*: correlation of the rewards (jvp) with g at θ_t
and at θ_{{t+1}}, same clean batch; *optimiser*: θ_{{t+1}} is after the optimiser's step, with
momentum and decay.  *Error*: ‖difference − jvp‖ / ‖jvp‖.  The last table compares jvp with
hooks cell by cell."""
SECTION = """## {network}

{redraws} redraws in each of {cells} cells; clean loss after the step, 64 images: {losses}.

### (a) Agreement between clean batches

{agreement}

### (b) Correlation with the credit

{credit}

### (c) Estimators against each other; (d) g at θ_t

{other}

### jvp against hooks, paired

{comparison}"""


def wrapped(text: str, **parts: object) -> str:
    """A paragraph of the page."""
    return textwrap.fill(text.format(**parts), 99, break_long_words=False, break_on_hyphens=False)


def section(some: Sequence[dict[str, Any]], results: Results) -> str:
    """The tables of one network."""
    network = some[0]["network"]
    losses = []
    for checkpoint in CHECKPOINTS:
        own = [c["redraws"]["clean loss"] for c in some if c["checkpoint"] == checkpoint]
        losses.append(f"{number(statistics.mean(own))} (step {checkpoint})")
    return SECTION.format(
        network=network.upper(),
        redraws=some[0]["settings"]["redraws"],
        cells=len(some),
        losses=", ".join(losses),
        agreement=agreement_table(results, network),
        credit=credit_table(results, network),
        other=other_table(results, network),
        comparison=comparison(results, network),
    )


def page(found: Sequence[dict[str, Any]], results: Results, networks: Sequence[str]) -> str:
    """The whole page."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    pairs = ", ".join(f"{n * (n - 1) // 2} of {size}" for size, n in CLEAN.items())
    return PAGE.format(
        about=wrapped(
            ABOUT,
            versions=f"{versions}, {platform.machine()}, one thread",
            train=f"{found[0]['settings']['train']:,}",
            lr=RECIPE.lr,
            seeds=len({cell_["seed"] for cell_ in found}),
        ),
        legend=wrapped(LEGEND, pairs=pairs),
        sections="\n\n".join(
            section([c for c in found if c["network"] == name], results) for name in networks
        ),
    )


def rows_of(results: Results) -> str:
    """All values as CSV."""
    text = io.StringIO()
    heads = list(Value.__dataclass_fields__)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for value in results.all:
        cells_ = [getattr(value, head) for head in heads]
        writer.writerow([f"{c:.6g}" if isinstance(c, float) else c for c in cells_])
    return text.getvalue()


def figures(results: Results, network: str) -> Iterator[tuple[str, float, str]]:
    """Names, values and units."""
    where = {"network": network}
    for name in ESTIMATORS:
        of, word = where | {"estimator": name}, name.replace(" ", "_")
        yield f"credit_{word}", results.mean(measure="credit", **of), "correlation"
        loss = results.mean(measure="loss credit", size="64", **of)
        yield f"loss_credit_{word}", loss, "correlation"
    of = where | {"estimator": "jvp"}
    for measure, size in itertools.product(("held-out credit", "agreement"), map(str, CLEAN)):
        word = measure.removesuffix(" credit").replace("-", "_")
        value = results.mean(measure=measure, size=size, **of)
        yield f"{word}_{size}", value, "correlation"
    of = where | {"estimator": "first order", "size": "64"}
    yield "first_order", results.mean(measure="loss credit", **of), "correlation"
    yield "difference_error", results.mean(measure="error", **where), "relative"


def keep_memory() -> None:
    """Has glibc keep freed memory: mapping big tensors anew took a third of the time."""
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(-4, 0)  # M_MMAP_MAX: nothing by mmap
        library.mallopt(-1, -1)  # M_TRIM_THRESHOLD: give nothing back


def main() -> None:
    """Measures what is missing, writes table and page, prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(REDRAWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--redraws", type=int, help=f"images redrawn in a cell, by default {REDRAWS}"
    )
    parser.add_argument("--cache", type=Path, default=ROOT / "local" / "gar-rewards")
    parser.add_argument("--out", type=Path, default=ROOT / "results/experiments/gar-rewards")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)  # torch's own, of its forward mode
    torch.set_num_threads(1)
    keep_memory()
    found = list(cells(given))
    results = Results(tuple(value for one in found for value in values(one)))
    write_text(given.out / "rewards.csv", rows_of(results))
    write_text(given.out / "rewards.md", page(found, results, given.networks))
    for name, value, unit in figures(results, given.networks[0]):
        print(f"figure {name} {value:.4f} {unit}")


if __name__ == "__main__":
    main()
