"""GAR's illustrative example: does it learn to leave out a split with random labels?

The training images of CIFAR-10 (JPEG), CIFAR-10 re-encoded with quality 75, are cut into ten equal
random splits, and split 0 gets labels drawn uniformly.  Each example of a batch draws its split
from p(s)_i ∝ 1 − softmax(s)_i, then itself uniformly, with replacement.  A network trains on the
batches for 500 steps of 1000 examples (10 epochs) while s is learned, from one of these rewards:

- gar: r_i = ⟨∇ℓ_i(θ_t), g⟩, g the gradient of step t+1 without weight decay, which trains the
  network like any other; standardised over the batch;
- nslr: −L(θ_{t+1}), one number for all examples of step t;
- shuffled: gar's rewards permuted over the batch: what noise alone does to s.

The reward's policy gradient, the mean over the batch of r_i ∇log p(split_i; s) with the s that
drew the split, is summed over 10 steps for one step of Adam.  A step's reward is there after the
next step, so s changes after steps 11, 21, ..., 491: 49 times.  Steps without a finite reward, of
networks that diverged, count 0.

Reported is the AUC, the mean over the 500 steps of 1 − softmax(s)_i: 0.9 where all splits are used
alike.  It is not normalised, like the paper's: the ten always add up to 9.

The paper does not say how pixels are scaled, and it matters: `normalised` to mean 0 and variance 1
per channel, or `unit`, from 0 to 1.

    AUGBENCH_DATA=FOLDER python benchmarks/gar_noisy_split.py [--seeds 10] [--pixels normalised]
    python benchmarks/gar_noisy_split.py --draw     # table and picture anew from curves.json

Runs resume: each is a file below --cache.  A run takes about 20 s on one core, if the C library
keeps freed memory (glibc: MALLOC_MMAP_THRESHOLD_=2147483648 MALLOC_TRIM_THRESHOLD_=4294967296).

Figures: `auc_noisy_REWARD_NETWORK`, split 0's AUC, and `auc_other_REWARD_NETWORK`, the mean of the
others', both means over seeds with normalised pixels; with the ending `_unit` for the others.

Departures from the paper: see DEPARTURES, which the table repeats.

Source: Müller and Hutter, "In-Loop Meta-Learning with Gradient-Alignment Reward", 2021, section 6,
"Illustrative Example: Batch Sampling Distribution", Table 1 and Figure 2.
"""

import argparse
import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bench.data.arrays import Arrays
from bench.data.sources import load
from bench.environment import environment
from bench.report.statistics import paired, t_half_width
from bench.rng import Streams, forked
from methods._alignment import Tape, recording

Tensor = torch.Tensor
Runs = list[dict[str, Any]]
NAME = "gar-noisy-split"
ROOT = Path(__file__).resolve().parent.parent
NETWORKS = {"fcbn": "FC-BN", "fc": "FC", "cnnbn": "CNN-BN"}
REWARDS = ("gar", "nslr", "shuffled")
PICTURED = "fcbn"
PIXELS = {
    "normalised": "pixels of mean 0 and variance 1 per channel",
    "unit": "pixels from 0 to 1",
}
SPLITS, CLASSES, HIDDEN = 10, 10, 200
BATCH, STEPS, WINDOW, POINTS = 1000, 500, 10, 100
CHANCE = 2.3
"""A network with a larger loss has learned nothing: guessing costs ln 10."""

PAPER = {
    ("fcbn", "gar"): (0.61, 0.93),
    ("fcbn", "nslr"): (0.96, 0.89),
    ("fc", "gar"): (0.65, 0.93),
    ("fc", "nslr"): (0.86, 0.90),
    ("cnnbn", "gar"): (0.69, 0.92),
    ("cnnbn", "nslr"): (0.92, 0.90),
}
DEPARTURES = (
    "The images are CIFAR-10 (JPEG), re-encoded with quality 75, not the original pixels.",
    "NSLR's one reward a step cannot be normalised over its batch (it would be 0): it is "
    "standardised over the 10 steps whose gradients are summed.",
    "The paper does not say: how pixels are scaled, so there are two tables; that the convolution "
    "pads by 1; that GAR's rewards count BatchNorm's scales and shifts; that the policy gradient "
    "is a mean over the batch; that Adam's betas are 0.9 and 0.999.",
    "A step without a finite reward, of a network that diverged, counts 0.",
    "`shuffled` is not in the paper.",
)
HEADS = (
    *("network", "reward", "noisy split", "paper", "other splits", "paper", "noisy − shuffled"),
    *("noisy at the end", "failed", "noisy, not failed", "clean loss, not failed"),
)
SETUP = {"splits": SPLITS, "batch": BATCH, "steps": STEPS, "window": WINDOW, "version": 1}


# Data


@dataclass(frozen=True, eq=False)
class Pool:
    """The disturbed training set.

    Attributes:
        images: (N, 3, H, W) uint8, on the device.
        labels: (N,) int64 on the device, random in split 0.
        table: (10, N / 10) int64 on the host: which examples a split has.
        scale: (3, 1, 1) float, what values 0..255 are multiplied with.
        shift: (3, 1, 1) float, then added.
    """

    images: Tensor
    labels: Tensor
    table: Tensor
    scale: Tensor
    shift: Tensor

    def batch(self, index: Tensor, room: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scaled pixels (B, 3, H, W) float and labels (B,) of the examples `index` (B,).

        Args:
            room: Where the pixels go; fresh memory of 12 MB a step costs more than filling it.
        """
        there = index.to(self.images.device)
        pixels = torch.mul(self.images.index_select(0, there), self.scale, out=room)
        return pixels.add_(self.shift), self.labels.index_select(0, there)


def disturbed(data: Arrays, pixels: str, streams: Streams) -> Pool:
    """Cuts the data into splits and draws new labels for the first; see `PIXELS`."""
    table = torch.randperm(len(data), generator=streams("splits")).view(SPLITS, -1)
    drawn = torch.randint(CLASSES, (table.shape[1],), generator=streams("labels"))
    labels = data.labels.clone()
    labels[table[0].to(data.device)] = drawn.to(data.device)
    mean, std = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    if pixels == "normalised":
        mean, std = data.channel_stats()
    scale, shift = (
        x.float().view(3, 1, 1).to(data.device) for x in (1 / (255 * std), -mean / std)
    )
    return Pool(data.images, labels, table, scale, shift)


def build(network: str, side: int = 32) -> nn.Sequential:
    """One of the paper's three networks, for RGB images of this side."""
    if network == "cnnbn":
        convolution = [nn.Conv2d(3, 1, 3, padding=1), nn.BatchNorm2d(1), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*convolution, nn.Linear(side**2, CLASSES))
    norm = [nn.BatchNorm1d(HIDDEN)] if network == "fcbn" else []
    inner = [nn.Linear(3 * side**2, HIDDEN), *norm, nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *inner, nn.Linear(HIDDEN, CLASSES))


# Learning the distribution over splits


def draw(unused: Tensor, rng: torch.Generator) -> Tensor:
    """A split for each example of a batch, (B,) int64.

    One uniform number decides on each, so runs of one seed differ as little as their policies.

    Args:
        unused: softmax(s), (10,) float64.
    """
    bounds = (1 - unused).cumsum(0)
    uniform = torch.rand(BATCH, dtype=bounds.dtype, generator=rng) * bounds[-1]
    return torch.searchsorted(bounds, uniform, right=True).clamp_max(SPLITS - 1)


def score(unused: Tensor, splits: Tensor, weights: Tensor) -> Tensor:
    """Mean over the batch of w_i ∇log p(split_i; s), (10,).

    With q = softmax(s), log p_k = log(1 − q_k) + constant has the derivative
    −q_k (δ_kj − q_j) / (1 − q_k) in s_j.

    Args:
        unused: q, (10,) float64.
        splits: (B,) int64.
        weights: w, (B,) float64.
    """
    sums = torch.zeros_like(unused).index_add_(0, splits, weights) / len(splits)
    shares = sums * unused / (1 - unused)
    return unused * shares.sum() - shares


def standardised(values: Tensor) -> Tensor:
    """Values (n,) with mean 0 and unbiased standard deviation 1; 0 if they are not all finite."""
    return torch.nan_to_num((values - values.mean()) / values.std(), 0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Step:
    """A step of the network that waits for the next one's gradient.

    Attributes:
        unused: softmax(s) of the s that drew its splits, (10,) float64.
        splits: (B,) int64.
        tape: What its backward pass left; None for nslr.
    """

    unused: Tensor
    splits: Tensor
    tape: Tape | None


class Usage:
    """The distribution over splits and its learning.

    Args:
        reward: One of `REWARDS`.
        rng: Permutes the rewards of `shuffled`.
    """

    def __init__(self, reward: str, rng: torch.Generator) -> None:
        self.reward, self.rng = reward, rng
        self.logits = torch.zeros(SPLITS, dtype=torch.float64)
        self.adam = torch.optim.Adam([self.logits], lr=0.1, maximize=True)
        self.gradients: list[Tensor] = []
        self.losses: list[float] = []

    @property
    def unused(self) -> Tensor:
        """softmax(s), (10,)."""
        return self.logits.softmax(0)

    def credit(self, step: Step, network: nn.Module, loss: float) -> None:
        """Rewards a step, given the next step's gradients, in the network, and its loss."""
        weights = torch.ones(BATCH, dtype=torch.float64)
        if step.tape is not None:
            gradients = {p: p.grad for p in network.parameters() if p.grad is not None}
            weights = standardised(step.tape.products(gradients).double().cpu())
        if self.reward == "shuffled":
            weights = weights[torch.randperm(BATCH, generator=self.rng)]
        self.gradients.append(score(step.unused, step.splits, weights))
        self.losses.append(loss)
        if len(self.gradients) == WINDOW:
            self._update()

    def _update(self) -> None:
        """One step of Adam on the sum of the window's gradients."""
        gradients = torch.stack(self.gradients)
        if self.reward == "nslr":  # the score is linear in the reward, so it can wait till here
            rewards = -torch.tensor(self.losses, dtype=torch.float64)
            gradients = gradients * standardised(rewards)[:, None]
        self.logits.grad = gradients.sum(0)
        self.adam.step()
        self.gradients, self.losses = [], []


# One run


def train(pool: Pool, network_name: str, reward: str, seed: int) -> dict[str, Any]:
    """Trains a network and a distribution over splits.

    Returns:
        `usage`: 1 − softmax(s) at every step, (500, 10); `loss`: the mean loss of every batch,
        (500,); `clean_loss`: that of the 45,000 examples with their own labels, at the end, with
        BatchNorm's running statistics.
    """
    streams = Streams(NAME, seed)
    with forked(NAME, "initial weights", network_name, seed):
        network = build(network_name, pool.images.shape[-1]).to(pool.images.device)
    sgd = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    policy, waiting = Usage(reward, streams("shuffle")), None
    # Two, because a step's images must outlive it until the next one's gradient is there.
    rooms = [torch.empty(BATCH, *pool.images.shape[1:], device=pool.images.device) for _ in "ab"]
    usage, losses = np.empty((STEPS, SPLITS)), np.empty(STEPS)
    for step in range(STEPS):
        unused = policy.unused
        splits = draw(unused, streams("policy"))
        within = torch.randint(pool.table.shape[1], (BATCH,), generator=streams("examples"))
        pixels, labels = pool.batch(pool.table[splits, within], rooms[step % 2])
        with nullcontext() if reward == "nslr" else recording(network) as tape:
            loss = F.cross_entropy(network(pixels), labels)
            loss.backward()
        usage[step], losses[step] = 1 - unused.numpy(), loss.item()
        if waiting is not None:
            policy.credit(waiting, network, losses[step])
        waiting = Step(unused, splits, tape)
        sgd.step()
        sgd.zero_grad()
    return {"usage": usage, "loss": losses, "clean_loss": clean_loss(pool, network)}


@torch.no_grad()
def clean_loss(pool: Pool, network: nn.Module) -> float:
    """Mean cross-entropy over the nine splits with their own labels."""
    network.eval()
    index = pool.table[1:].flatten()
    sums = []
    for chunk in index.split(BATCH):
        pixels, labels = pool.batch(chunk)
        sums.append(F.cross_entropy(network(pixels), labels, reduction="sum").double())
    return float(torch.stack(sums).sum()) / len(index)


def record(pool: Pool, pixels: str, network: str, reward: str, seed: int) -> dict[str, Any]:
    """A run as plain data: AUC (10,), curves thinned to means over 5 steps, the final loss.

    Losses that are no numbers become None.
    """
    began = time.perf_counter()
    done = train(pool, network, reward, seed)
    thinned = done["usage"].reshape(POINTS, -1, SPLITS).mean(1)
    where = environment(pool.images.device, torch.get_num_threads(), "")
    packages = {key: where["packages"][key] for key in ("torch", "numpy", "pillow", "pyarrow")}
    kept = {key: where[key] for key in ("python", "platform", "device", "threads")}
    thin_loss = done["loss"].reshape(POINTS, -1).mean(1)
    return {
        "pixels": pixels,
        "network": network,
        "reward": reward,
        "seed": seed,
        "auc": done["usage"].mean(0).round(5).tolist(),
        "clean_loss": rounded(done["clean_loss"], 5),
        "loss": [rounded(value, 3) for value in thin_loss.tolist()],
        "usage": thinned.T.round(3).tolist(),
        "environment": kept | {"packages": packages},
        "setup": SETUP,
        "seconds": round(time.perf_counter() - began, 2),
    }


def rounded(value: float, digits: int) -> float | None:
    """The value with fewer digits, if it is finite."""
    return round(value, digits) if np.isfinite(value) else None


# All runs


def compute(chosen: argparse.Namespace) -> Runs:
    """The runs that were asked for, from the cache or anew."""
    runs, data = [], None
    for pixels, seed in product(chosen.pixels, range(chosen.seeds)):
        pool = None
        for network, reward in product(chosen.networks, chosen.rewards):
            place = chosen.cache / f"{pixels}-{network}-{reward}-{seed}.json"
            found = json.loads(place.read_text()) if place.exists() else {}
            if found.get("setup") != SETUP:
                data = data or load("parquet:cifar10-jpeg").train.to(chosen.device)
                pool = pool or disturbed(data, pixels, Streams(NAME, seed))
                found = record(pool, pixels, network, reward, seed)
                write(place, json.dumps(found))
                print(f"{place.stem}: noisy {found['auc'][0]:.3f}", end=", ")
                print(f"{found['seconds']:.1f} s", flush=True)
            runs.append(found)
    return runs


def write(place: Path, text: str) -> None:
    """Writes a file that is never half there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    half = place.with_suffix(".tmp")
    half.write_text(text, encoding="utf-8")
    os.replace(half, place)


def keep(place: Path, runs: Runs) -> None:
    """Writes what table and picture need, a run a line; environments once, by number.

    The nine other splits' curves are left out where no picture shows them; their mean follows from
    split 0's.
    """
    places = []
    for run in runs:
        if run["environment"] not in places:
            places.append(run["environment"])
    lines = []
    for run in runs:
        slim = {key: run[key] for key in run if key not in ("environment", "setup", "seconds")}
        slim["usage"] = run["usage"][: SPLITS if run["network"] == PICTURED else 1]
        slim["environment"] = places.index(run["environment"])
        lines.append(json.dumps(slim, separators=(",", ":")))
    head = f'"setup": {json.dumps(SETUP)},\n"environments": {json.dumps(places)},\n"runs": [\n'
    write(place, "{" + head + ",\n".join(lines) + "\n]}\n")


# Table


def picked(runs: Runs, pixels: str, network: str, reward: str) -> Runs:
    """A row's runs, by seed."""
    wanted = (pixels, network, reward)
    found = [run for run in runs if (run["pixels"], run["network"], run["reward"]) == wanted]
    return sorted(found, key=lambda run: run["seed"])


def noisy(runs: Runs) -> np.ndarray:
    """AUC of split 0, (n,)."""
    return np.array([run["auc"][0] for run in runs])


def rows(runs: Runs) -> list[dict[str, Any]]:
    """The table's rows; see `as_markdown` for their columns."""
    table = []
    for pixels, network, reward in product(PIXELS, NETWORKS, REWARDS):
        found = picked(runs, pixels, network, reward)
        control = picked(runs, pixels, network, "shuffled")
        if found:
            row: dict[str, Any] = {
                "pixels": pixels,
                "network": NETWORKS[network],
                "reward": reward,
            }
            row |= {"seeds": len(found)} | numbers(found)
            row["paper_noisy"], row["paper_other"] = PAPER.get((network, reward), (None, None))
            versus = reward != "shuffled" and len(control) == len(found)
            effect = paired(noisy(found), noisy(control)) if versus else None
            row["versus_shuffled"] = effect and effect.mean
            row["versus_shuffled_half"] = effect and effect.half
            table.append(row)
    return table


def numbers(found: Runs) -> dict[str, Any]:
    """Means of a row's runs over seeds, with half-widths; failures; the others' median loss."""
    losses = [run["clean_loss"] for run in found]
    sound = np.array([loss is not None and loss < CHANCE for loss in losses])
    data = {
        "noisy": noisy(found),
        "other": np.array([np.mean(run["auc"][1:]) for run in found]),
        "end": np.array([run["usage"][0][-1] for run in found]),
        "sound_noisy": noisy(found)[sound],
    }
    row: dict[str, Any] = {"failed": int((~sound).sum())}
    for name, values in data.items():
        row[name] = float(values.mean()) if values.size else None
        row[f"{name}_half"] = t_half_width(values) if values.size > 1 else None
    learned = [loss for loss, good in zip(losses, sound, strict=True) if good]
    row["sound_loss_median"] = float(np.median(learned)) if learned else None
    return row


def as_csv(table: list[dict[str, Any]]) -> str:
    """All columns; halves are those of 95 % t intervals."""
    out = io.StringIO()
    writer = csv.DictWriter(out, table[0], lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
    return out.getvalue()


def as_markdown(table: list[dict[str, Any]], kept: dict[str, Any]) -> str:
    """The tables with what one must know to read them."""
    seeds = sorted({run["seed"] for run in kept["runs"]})
    told = [
        f"Noisy split, other splits: AUC, the mean over {STEPS} steps of 1 − softmax(s); 0.9 "
        "where all splits are used alike. Low on the noisy split, high on the others is good.",
        f"Seeds {seeds[0]}–{seeds[-1]}; ± is the half-width of the 95 % t interval over them. "
        "`noisy − shuffled` pairs by seed. `noisy at the end`: its 1 − softmax(s) over the last 5 "
        "steps.",
        "`failed`: runs whose cross-entropy on the 45,000 training examples with their own labels "
        f"ended above {CHANCE}: the network diverged, or died and knows no more than that there "
        "are ten classes (ln 10 ≈ 2.303). They count in all columns but the last two, which are "
        "over the other seeds: the noisy split's AUC, and the median of that cross-entropy.",
        *DEPARTURES,
        *(f"Computed with {described(place)}." for place in kept["environments"]),
    ]
    parts = ["# GAR's illustrative example on CIFAR-10 (JPEG): AUC of the split probability"]
    for pixels, words in PIXELS.items():
        lines = [line(row) for row in table if row["pixels"] == pixels]
        if lines:
            head = [f"| {' | '.join(HEADS)} |", "| --- " * len(HEADS) + "|"]
            parts += [f"## With {words}", "\n".join(head + lines)]
    parts.append("\n".join(f"- {each}" for each in told))
    parts.append("![split probabilities and training losses](splits.svg)")
    parts.append("`python benchmarks/gar_noisy_split.py` makes these files.")
    return "\n\n".join(parts) + "\n"


def line(row: dict[str, Any]) -> str:
    """A row in Markdown."""

    def shown(name: str, sign: str = "") -> str:
        value, half = row[name], row[f"{name}_half"]
        if value is None:
            return "–"
        spread = "" if half is None else f" ± {half:.3f}"
        return f"{value:{sign}.3f}{spread}".replace("-", "−")

    paper = [f"{x:.2f}" if x else "–" for x in (row["paper_noisy"], row["paper_other"])]
    cells = [row["network"], row["reward"], shown("noisy"), paper[0], shown("other"), paper[1]]
    cells += [shown("versus_shuffled", "+"), shown("end"), f"{row['failed']}/{row['seeds']}"]
    loss = row["sound_loss_median"]
    cells += [shown("sound_noisy"), "–" if loss is None else f"{loss:.3f}"]
    return f"| {' | '.join(cells)} |"


def described(place: dict[str, Any]) -> str:
    """An environment in words."""
    packages = ", ".join(f"{name} {version}" for name, version in place["packages"].items())
    threads = f"{place['threads']} thread{'s' if place['threads'] > 1 else ''}"
    return f"Python {place['python']}, {packages}; {place['device']}, {threads}"


# Picture

INK, PALE, NOISY = "#333333", "#9db4c8", "#c1440e"
COLOURS = {"gar": "#3b7d4f", "nslr": "#2f6f9f", "shuffled": "#8a8a8a"}
WIDE, HIGH, GAP, BETWEEN, LEFT, TOP = 200, 180, 50, 70, 50, 60


@dataclass(frozen=True)
class Panel:
    """A diagram over the 10 epochs.

    Attributes:
        place: Row and column.
        title: Above it.
        label: Of the vertical axis.
        low: The value at the bottom.
        high: The value at the top.
        ticks: Values with a mark.
    """

    place: tuple[int, int]
    title: str
    label: str
    low: float
    high: float
    ticks: Sequence[float]

    @property
    def left(self) -> float:
        """The left edge, in pixels."""
        return LEFT + self.place[1] * (WIDE + GAP)

    @property
    def top(self) -> float:
        """The upper edge, in pixels."""
        return TOP + self.place[0] * (HIGH + BETWEEN)

    def y(self, value: float) -> float:
        """A value's place, in pixels from the top."""
        return self.top + HIGH * (self.high - value) / (self.high - self.low)

    def points(self, data: np.ndarray) -> list[str]:
        """Places of a curve (100,); each value is the mean of 5 steps and sits in their middle."""
        x = self.left + WIDE * (np.arange(POINTS) + 0.5) / POINTS
        inside = np.clip(data, self.low, self.high)
        return [f"{a:.1f},{self.y(b):.1f}" for a, b in zip(x, inside, strict=True)]

    def line(self, data: np.ndarray, colour: str, width: float) -> str:
        """A curve (100,)."""
        path = " ".join(self.points(data))
        style = f'fill="none" stroke="{colour}" stroke-width="{width}"'
        return f'<polyline points="{path}" {style}/>'

    def band(self, data: np.ndarray, colour: str) -> str:
        """Mean ± one standard deviation of curves (n, 100)."""
        spread = data.std(0, ddof=1) if len(data) > 1 else np.zeros(POINTS)
        upper, lower = self.points(data.mean(0) + spread), self.points(data.mean(0) - spread)
        path = " ".join(upper + lower[::-1])
        return f'<polygon points="{path}" fill="{colour}" fill-opacity="0.18"/>'

    def frame(self) -> list[str]:
        """Title, axes and their marks."""
        left, bottom, middle = self.left, self.top + HIGH, self.left + WIDE / 2
        box = f'x="{left}" y="{self.top}" width="{WIDE}" height="{HIGH}"'
        parts = [f'<rect {box} fill="none" stroke="{INK}" stroke-width="0.8"/>']
        parts.append(text(middle, self.top - 9, self.title, size=13))
        parts.append(text(middle, bottom + 32, "epoch"))
        parts.append(text(left - 34, bottom - HIGH / 2, self.label, turned=True))
        for tick in self.ticks:
            parts.append(text(left - 5, self.y(tick) + 4, f"{tick:g}", anchor="end"))
            parts.append(rule(left, self.y(tick), 4))
        parts += [text(left + WIDE * e / 10, bottom + 15, str(e)) for e in (0, 5, 10)]
        return parts


def text(
    x: float, y: float, words: str, size: int = 11, anchor: str = "middle", turned: bool = False
) -> str:
    """Words at a place, in pixels."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {place} fill="{INK}"{turn}>{words}</text>'


def rule(
    x: float, y: float, length: float, colour: str = INK, thick: float = 0.8, dashes: str = "none"
) -> str:
    """A horizontal line."""
    style = f'stroke="{colour}" stroke-width="{thick}" stroke-dasharray="{dashes}"'
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x + length:.1f}" y2="{y:.1f}" {style}/>'


def picture(runs: Runs) -> str:
    """Figure 2, a row for each kind of pixels: use of the splits by reward, training losses."""
    parts, height, seeds = [], TOP, 0
    for row, pixels in enumerate(dict.fromkeys(run["pixels"] for run in runs)):
        losses = {}
        for number, reward in enumerate(REWARDS):
            chosen = picked(runs, pixels, PICTURED, reward)
            if chosen:
                title = f"{reward}, {pixels} pixels"
                panel = Panel((row, number), title, "1 − softmax(s)", 0.0, 1.0, (0, 0.5, 0.9))
                parts += usage_panel(panel, np.array([run["usage"] for run in chosen]))
                losses[reward] = np.array([run["loss"] for run in chosen], dtype=np.float64)
                seeds = len(chosen)
        parts += loss_panel((row, len(REWARDS)), losses) if losses else []
        height = TOP + (row + 1) * (HIGH + BETWEEN)
    words = f"{NETWORKS[PICTURED]} on CIFAR-10 (JPEG), {seeds} seeds: "
    words += "the split with random labels (thick: mean ± one standard deviation) "
    words += "and the nine others (pale: means)"
    parts.insert(0, text(LEFT, 24, words, size=13, anchor="start"))
    width = LEFT + 4 * WIDE + 3 * GAP + 20
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    head += f'width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif">'
    white = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, white, *parts, "</svg>"]) + "\n"


def usage_panel(panel: Panel, usage: np.ndarray) -> list[str]:
    """1 − softmax(s), (seeds, 10, 100); dotted where all splits are used alike."""
    others = usage[:, 1:].mean(0)
    parts = [panel.line(curve, PALE, 0.8) for curve in others]
    parts += [panel.band(usage[:, 0], NOISY), panel.line(usage[:, 0].mean(0), NOISY, 2.0)]
    return [*parts, rule(panel.left, panel.y(0.9), WIDE, dashes="2 3"), *panel.frame()]


def loss_panel(place: tuple[int, int], losses: dict[str, np.ndarray]) -> list[str]:
    """The mean loss of the batches as they were drawn, (seeds, 100) by reward."""
    means = np.array([data.mean(0) for data in losses.values()])
    low, high = np.floor(means.min() * 5) / 5, np.ceil(means[:, 1:].max() * 5) / 5
    title = "loss of the drawn batches"
    panel = Panel(place, title, "nats", low, high, (low, (low + high) / 2, high))
    parts = [panel.line(data.mean(0), COLOURS[key], 1.6) for key, data in losses.items()]
    for row, key in enumerate(losses):
        y = panel.top + 18 + 16 * row
        parts.append(text(panel.left + WIDE - 8, y, key, anchor="end"))
        parts.append(rule(panel.left + WIDE - 82, y - 4, 20, COLOURS[key], thick=2.0))
    return parts + panel.frame()


# Command


def options() -> argparse.Namespace:
    """What to run, and where things go."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    for option, known in (("pixels", PIXELS), ("networks", NETWORKS), ("rewards", REWARDS)):
        parser.add_argument(f"--{option}", type=names(known), default=list(known))
    parser.add_argument("--seeds", type=int, default=10, help="how many: 0, 1, ...")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=ROOT / "local" / NAME)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "experiments" / NAME)
    parser.add_argument("--draw", action="store_true", help="compute nothing")
    return parser.parse_args()


def names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names; they keep the order of `known`."""

    def parse(given: str) -> list[str]:
        if not set(given.split(",")) <= set(known):
            raise argparse.ArgumentTypeError(f"{given}: choose from {','.join(known)}")
        return [name for name in known if name in given.split(",")]

    return parse


def main() -> None:
    """Runs what is missing, writes the results and prints the figures."""
    chosen = options()
    torch.set_num_threads(chosen.threads)
    if not chosen.draw:
        keep(chosen.out / "curves.json", compute(chosen))
    kept = json.loads((chosen.out / "curves.json").read_text(encoding="utf-8"))
    table = rows(kept["runs"])
    write(chosen.out / "auc.csv", as_csv(table))
    write(chosen.out / "auc.md", as_markdown(table, kept))
    write(chosen.out / "splits.svg", picture(kept["runs"]))
    for row in table:
        name = f"{row['reward']}_{row['network'].replace('-', '').lower()}"
        name += "" if row["pixels"] == "normalised" else f"_{row['pixels']}"
        print(f"figure auc_noisy_{name} {row['noisy']:.4f} auc")
        print(f"figure auc_other_{name} {row['other']:.4f} auc")


if __name__ == "__main__":
    main()
