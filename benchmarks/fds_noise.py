"""FDS's Figure 2: how much hypergradients of a learning-rate schedule vary, greedy or not, shared.

    AUGBENCH_DATA=FOLDER python benchmarks/fds_noise.py [--momenta 0 0.9] [--jobs 2]
    AUGBENCH_DATA=FOLDER python benchmarks/fds_noise.py \\
        --out results/experiments/fds-noise --picture docs/fds-noise.svg

LeNet trains on CIFAR-10 (JPEG) for 400 steps, in float64.  One thing is perturbed at a time: the
order of training images, which images validate, the initial weights (±1 %), or the rates (±1 %).
Each repetition gives derivatives of a validation loss to learning rates, of three kinds:

- non-greedy: of the loss after the last step, to each step's own rate;
- shared: the same, to a rate that 40 steps share: the mean over the steps of a window;
- greedy: of the loss after a step, to that step's rate.

Hypervariance is std / |mean| over repetitions, sign fluctuation the share of the rarer sign.

One reverse pass gives all non-greedy derivatives.  With θ' = θ - α v', v' = β v + c(g(θ)) and c
the clamp to ±1, it goes from the last step to the first; λ, ν are derivatives of the loss to θ, v:

    dL/dα = -⟨λ, v'⟩        ν ← ν - α λ        λ ← λ + H c'(g) ν        ν ← β ν

It is compared with forward mode (`methods._tangents`) first, on a short training.  A repetition
takes half a minute of one core, and 6 of each of 4 perturbations 12 minutes; they resume: each is
a file below --runs.  A C library that keeps freed memory saves a tenth (glibc:
MALLOC_MMAP_THRESHOLD_=2147483648 MALLOC_TRIM_THRESHOLD_=4294967296).

Figures, of the first momentum, means over the four perturbations: `sign_fluctuation_KIND` (mean
over rates) and `hypervariance_KIND` (median over rates), KIND shared, nongreedy or greedy; and
`adjoint_error`, the relative difference between reverse and forward mode.

Source: "Non-greedy Gradient-based Hyperparameter Optimization Over Long Horizons" (FDS), submitted
to ICLR 2021, section 5.1, Figure 2, appendix B.  Departures: see NOTES, which the table repeats.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import product
from math import comb, sqrt
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call

from bench.atomic import replace_file, write_text
from bench.data.batches import Batches
from bench.data.sources import load
from bench.errors import ConfigError, DataError
from bench.networks import build
from bench.report import svg
from bench.rng import forked, generator
from bench.train.prepare import prepare
from bench.train.recipe import Recipe
from benchmarks._experiment import table
from methods._tangents import Columns, ForwardSGD, Loss, Setting

Tensor = torch.Tensor
Some = tuple[Tensor, Tensor]  # images and targets
ROOT = Path(__file__).resolve().parents[1]
DATA = "parquet:cifar10-jpeg-small"
WINDOW = 40  # steps that share a rate
EVERY = 10  # steps between greedy derivatives, which need a validation pass each
ASIDE = 250  # validation images: a twentieth of all, as in the paper
CHANGE = 0.01
TOLERANCE = 1e-9  # of reverse against forward mode
FACTORS = {
    "train": "training data",
    "val": "validation data",
    "weights": "initial weights",
    "rates": "learning rates",
}
KINDS = {"greedy": "greedy", "nongreedy": "non-greedy", "shared": "shared"}
PAPER = {("train", "nongreedy"): ("over 6", "–"), ("all", "shared"): ("–", "1.5")}
NOTES = (
    "Hypervariance: median over rates, and mean, in which those few rates weigh most whose mean "
    "derivative is close to zero.  `all`: means over the four perturbations.  `positive`: share "
    "of derivatives above zero, which ask for smaller rates.  `paper`: what its text states of "
    "Figure 2, which is drawn over steps.",
    "Horizon: a greedy derivative has one step, a non-greedy one of step t has all that remain.",
    "±1 %: each weight, and each window's rate, is multiplied by 1.01 or 0.99.  All three kinds "
    "come from the same trainings, so rates are perturbed by windows for the kinds without any.",
    "The clamp to ±1 acts on the gradient, and is a part of the step that is differentiated.",
    "The paper states no momentum for Figure 2, which learns nothing but learning rates.",
    "Not the paper's: images (5,000 of CIFAR-10, re-encoded as JPEG, of which 4,000 train and 250 "
    "of another 1,000 validate; there, SVHN) and initial weights (He, zero biases).  Pixels are "
    f"normalised, not augmented.  Greedy derivatives are those of every {EVERY}th step.",
)


# Derivatives


@dataclass(frozen=True)
class Case:
    """How a network trains.

    Attributes:
        momentum: β.
        steps: T, a multiple of `WINDOW` in the experiment.
        rate: α of all steps, before it is perturbed.
        clip: Gradients are clamped to ± this.
        batch: Training images a step.
        seed: Of the split, the weights, and everything that is drawn.
    """

    momentum: float
    steps: int = 400
    rate: float = 0.05
    clip: float = 1.0
    batch: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """T steps.

    Attributes:
        rates: α of each step.
        weights: θ before each step and after the last, (T + 1, D).
        velocities: v after each step, (T, D).
        index: Training images of each step, (T, B).
    """

    rates: Sequence[float]
    weights: Tensor
    velocities: Tensor
    index: Tensor


class Problem:
    """LeNet and its images in float64; weights are one vector (D,)."""

    def __init__(self, seed: int) -> None:
        torch.set_num_threads(1)
        source = load(DATA)
        task = prepare(
            source,
            distort="clean",
            network="lenet",
            recipe=Recipe(steps=1),  # not followed here
            seed=seed,
            device=torch.device("cpu"),
        ).task
        self.digest, self.arrays, self.pool = source.digest, task.train, len(task.val)
        self._train = task.normalise(task.train.images).double(), task.train.labels
        self._val = task.normalise(task.val.images).double(), task.val.labels
        with forked("initial weights", seed):
            self.network = build("lenet", task.classes, task.channels, task.size).double()
        self.shapes = {name: p.shape for name, p in self.network.named_parameters()}
        self.start = torch.cat([p.detach().flatten() for p in self.network.parameters()])

    def train(self, index: Tensor) -> Some:
        """Training images."""
        return self._train[0][index], self._train[1][index]

    def aside(self, chosen: Tensor) -> Some:
        """Validation images."""
        return self._val[0][chosen], self._val[1][chosen]

    def loss(self, weights: Tensor, some: Some) -> Tensor:
        """Mean cross-entropy, 0-d."""
        parts = weights.split([shape.numel() for shape in self.shapes.values()])
        pairs = zip(self.shapes.items(), parts, strict=True)
        named = {name: part.view(shape) for (name, shape), part in pairs}
        return F.cross_entropy(functional_call(self.network, named, (some[0],)), some[1])

    def slope(self, weights: Tensor, some: Some) -> Tensor:
        """∇L, (D,)."""
        at = weights.clone().requires_grad_()
        return torch.autograd.grad(self.loss(at, some), at)[0]

    def trained(
        self, case: Case, start: Tensor, rates: Sequence[float], order: torch.Generator
    ) -> Training:
        """Trains from `start`, (D,), in an order of images."""
        sgd = ForwardSGD(self.network, 0, gradient_clip=case.clip)
        sgd.weights.copy_(start)
        batches = Batches(self.arrays, case.batch, order)
        index = torch.stack([next(batches).index for _ in rates])
        weights = start.repeat(len(rates) + 1, 1)
        velocities = torch.empty_like(weights[1:])
        for t, rate in enumerate(rates):
            sgd.step(on(self.train(index[t])), Setting(rate, case.momentum), None)
            weights[t + 1], velocities[t] = sgd.weights, sgd.velocity
        return Training(rates, weights, velocities, index)

    def nongreedy(self, case: Case, run: Training, chosen: Tensor) -> Tensor:
        """dL/dα_t of the validation loss L after the last step, (T,), by one reverse pass."""
        to_weights = self.slope(run.weights[-1], self.aside(chosen))
        to_velocity = torch.zeros_like(to_weights)
        found = to_weights.new_zeros(len(run.rates))
        for t in reversed(range(len(run.rates))):
            found[t] = -(to_weights @ run.velocities[t])
            to_velocity -= run.rates[t] * to_weights
            theta = run.weights[t].clone().requires_grad_()
            loss = self.loss(theta, self.train(run.index[t]))
            (g,) = torch.autograd.grad(loss, theta, create_graph=True)
            free = g.detach().abs() <= case.clip
            to_weights += torch.autograd.grad(g, theta, to_velocity * free)[0]
            to_velocity *= case.momentum
        return found

    def greedy(self, run: Training, chosen: Tensor, steps: Sequence[int]) -> Tensor:
        """dL/dα_t of the validation loss L after step t itself, for each of `steps`."""
        some = self.aside(chosen)
        slopes = [self.slope(run.weights[t + 1], some) for t in steps]
        return -(torch.stack(slopes) * run.velocities[list(steps)]).sum(1)


def on(some: Some) -> Loss:
    """Cross-entropy as `ForwardSGD` wants it."""
    return lambda net: F.cross_entropy(net(some[0]), some[1])


problem_of = cache(Problem)


def check() -> float:
    """Relative difference between the reverse pass and forward mode, where the clamp binds."""
    problem, case = problem_of(0), Case(momentum=0.8, steps=12, clip=0.02)
    rates = [0.05 + 0.01 * t for t in range(case.steps)]
    chosen = torch.arange(ASIDE)
    run = problem.trained(case, problem.start, rates, generator("check"))
    found = problem.nongreedy(case, run, chosen)
    sgd = ForwardSGD(problem.network, 3, gradient_clip=case.clip)
    for t, index in enumerate(run.index):
        setting = Setting(rates[t], case.momentum)
        sgd.step(on(problem.train(index)), setting, Columns(rate=t // 4))
    forward = sgd.hypergradient(on(problem.aside(chosen)))
    error = (found.view(3, 4).sum(1) - forward).abs().max() / forward.abs().max()
    last = problem.greedy(run, chosen, [case.steps - 1])[0] / found[-1] - 1
    return max(float(error), float(last.abs()))


# Repetitions


def repetition(case: Case, factor: str, number: int) -> dict[str, np.ndarray]:
    """Derivatives with one thing perturbed: `nongreedy` (T,), `greedy` (T / EVERY,)."""
    problem = problem_of(case.seed)

    def own(name: str) -> torch.Generator:
        return generator("fds noise", name, case.seed, number if name == factor else "base")

    def signs(name: str, count: int) -> Tensor:
        drawn = 2.0 * torch.randint(2, (count,), generator=own(name)) - 1
        return 1 + CHANGE * drawn.double() * (name == factor)

    start = problem.start * signs("weights", len(problem.start))
    rates = case.rate * signs("rates", case.steps // WINDOW).repeat_interleave(WINDOW)
    chosen = torch.randperm(problem.pool, generator=own("val"))[:ASIDE]
    run = problem.trained(case, start, rates.tolist(), own("train"))
    greedy = problem.greedy(run, chosen, range(EVERY // 2, case.steps, EVERY))
    nongreedy = problem.nongreedy(case, run, chosen)
    return {"nongreedy": nongreedy.numpy(), "greedy": greedy.numpy()}


def keep(case: Case, path: Path) -> None:
    """Computes a repetition; the file's name says which."""
    factor, number = path.stem.split("-")
    began = time.perf_counter()
    found = repetition(case, factor, int(number))
    replace_file(path, lambda file: np.savez(file, **found))
    seconds = time.perf_counter() - began
    print(f"momentum {case.momentum:g}, {path.stem}: {seconds:.0f} s", flush=True)


def gathered(given: argparse.Namespace, case: Case) -> "Results":
    """All repetitions of a case; those that are missing are computed.

    Raises:
        ConfigError: If there are some that were made otherwise.
    """
    folder = given.runs / f"momentum-{case.momentum:g}-steps-{case.steps}"
    made = asdict(case) | {"data": problem_of(case.seed).digest, "torch": torch.__version__}
    told, text = folder / "made.json", json.dumps(made, indent=1) + "\n"
    if told.exists() and told.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{folder} holds repetitions made otherwise: move it, or use --runs")
    write_text(told, text)
    numbers = range(given.repetitions)
    paths = [folder / f"{factor}-{i}.npz" for i, factor in product(numbers, FACTORS)]
    if missing := [path for path in paths if not path.exists()]:
        with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
            list(pool.map(partial(keep, case), missing))
    found: dict[str, dict[str, np.ndarray]] = {}
    for factor in FACTORS:
        kept = [np.load(folder / f"{factor}-{i}.npz") for i in numbers]
        both = {kind: np.stack([one[kind] for one in kept]) for kind in ("greedy", "nongreedy")}
        found[factor] = both | {"shared": windows(both["nongreedy"], WINDOW)}
    return Results(case, found)


# What they say


def windows(values: np.ndarray, length: int) -> np.ndarray:
    """Means over windows of steps, (P, T) to (P, T / length)."""
    return values.reshape(len(values), -1, length).mean(-1)


def hypervariance(values: np.ndarray) -> np.ndarray:
    """std / |mean| over repetitions, (P, N) to (N,)."""
    return values.std(0) / np.abs(values.mean(0))


def fluctuation(values: np.ndarray) -> np.ndarray:
    """Share of the rarer sign, (P, N) to (N,), from 0 to 0.5."""
    return np.minimum((values > 0).mean(0), (values < 0).mean(0))


def summary(values: np.ndarray) -> np.ndarray:
    """Median and mean hypervariance, sign fluctuation, share of positive signs."""
    spread, sign = hypervariance(values), fluctuation(values).mean()
    return np.array([np.median(spread), spread.mean(), sign, (values > 0).mean()])


def chance(count: int) -> tuple[float, float]:
    """Median hypervariance and sign fluctuation of P derivatives that are noise around zero.

    The mean of P normal values is within 0.6745 std / √P of zero in half of all cases.
    """
    rarer = sum(min(k, count - k) * comb(count, k) for k in range(count + 1))
    return sqrt(count) / 0.6745, rarer / count / 2**count


@dataclass(frozen=True)
class Results:
    """Derivatives (P, N) by perturbation and kind."""

    case: Case
    found: dict[str, dict[str, np.ndarray]]

    @property
    def repetitions(self) -> int:
        """P."""
        return len(self.found["train"]["greedy"])

    def numbers(self, factor: str, kind: str) -> np.ndarray:
        """As `summary`; `factor` may be `all`: means over the perturbations."""
        if factor != "all":
            return summary(self.found[factor][kind])
        return np.mean([summary(one[kind]) for one in self.found.values()], axis=0)

    def shared_by(self, length: int) -> np.ndarray:
        """As `summary`, of rates that this many steps share, means over the perturbations."""
        kept = [windows(one["nongreedy"], length) for one in self.found.values()]
        return np.mean([summary(values) for values in kept], axis=0)


# Table


def section(results: Results) -> list[str]:
    """The tables of one momentum."""
    heads = ("perturbed", "kind", "hypervariance, median", "mean", "paper")
    heads += ("sign fluctuation, %", "paper, %", "positive, %")
    rows = []
    for factor, kind in product([*FACTORS, "all"], KINDS):
        median, mean, sign, positive = results.numbers(factor, kind)
        spread, signs = PAPER.get((factor, kind), ("–", "–"))
        row = [FACTORS.get(factor, factor), KINDS[kind], f"{median:.2f}", f"{mean:.2f}", spread]
        rows.append([*row, f"{100 * sign:.1f}", signs, f"{100 * positive:.0f}"])
    lengths = []
    for length in sorted({1, 5, 10, 20, WINDOW, results.case.steps}):
        median, _, sign, _ = results.shared_by(length)
        lengths.append([str(length), f"{median:.2f}", f"{100 * sign:.1f}"])
    median, sign = chance(results.repetitions)
    return [
        f"## Momentum {results.case.momentum:g}",
        table(heads, rows),
        f"Noise around zero would have {median:.1f} (median) and {100 * sign:.1f} %.",
        "Rates that other numbers of steps share, means over the four perturbations:",
        table(("steps", "hypervariance, median", "sign fluctuation, %"), lengths),
    ]


def page(every: Sequence[Results]) -> str:
    """The tables with what one must know to read them."""
    case = every[0].case
    told = (
        f"LeNet, {case.steps} steps of {case.batch} images, learning rate {case.rate:g}, "
        f"float64; {every[0].repetitions} repetitions of each perturbation, seed {case.seed}; "
        f"`shared`: by {WINDOW} steps."
    )
    notes = "\n".join(f"- {each}" for each in (told, *NOTES))
    title = "# Noise of hypergradients: FDS's Figure 2 on CIFAR-10 (JPEG), 5,000 images"
    end = "`python benchmarks/fds_noise.py` makes these tables, and a picture: docs/fds-noise.svg."
    tables = [part for results in every for part in section(results)]
    return "\n\n".join([title, *tables, notes, end]) + "\n"


# Picture

WIDE, HIGH, LEFT, TOP, GAP = 200.0, 120.0, 52.0, 118.0, 22.0
DECADES = -2, 2
COLOURS = {"greedy": "#2f6f9f", "nongreedy": "#8250df", "shared": "#c1440e"}
AXIS = 'stroke="#57606a" stroke-width="0.6" fill="none"'
BOLD = 'font-weight="bold"'


@dataclass(frozen=True)
class Panel:
    """A diagram over the steps: of hypervariance, logarithmic, or of sign fluctuation."""

    left: float
    top: float
    signs: bool

    def y(self, value: float) -> float:
        """A value's place."""
        low, high = DECADES
        share = value / 0.5 if self.signs else (np.log10(value) - low) / (high - low)
        return self.top + HIGH * (1 - float(np.clip(share, 0, 1)))

    def curve(self, values: np.ndarray, kind: str) -> str:
        """Values that are spread evenly over the steps: a line, of the shared ones a bar each."""
        heights = [self.y(value) for value in self.smooth(values, kind)]
        edges = np.linspace(self.left, self.left + WIDE, len(heights) + 1)
        style = f'fill="none" stroke="{COLOURS[kind]}"'
        if kind == "shared":
            bars = zip(edges[:-1], heights, edges[1:], strict=True)
            path = "".join(f"M{x:.1f} {y:.1f}H{end:.1f}" for x, y, end in bars)
            return f'<path d="{path}" {style} stroke-width="2.6"/>'
        places = zip((edges[:-1] + edges[1:]) / 2, heights, strict=True)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        return f'<polyline points="{points}" {style} stroke-width="1.3"/>'

    def smooth(self, values: np.ndarray, kind: str) -> np.ndarray:
        """Moving averages over a window of steps, of hypervariance geometric."""
        if kind == "shared":
            return values
        shown = values if self.signs else np.log(values)
        weights = np.ones(WINDOW // EVERY if kind == "greedy" else WINDOW)
        inside = np.convolve(np.ones(len(shown)), weights, "same")
        shown = np.convolve(shown, weights, "same") / inside
        return shown if self.signs else np.exp(shown)

    def frame(self, level: float, steps: int | None, marked: bool) -> list[str]:
        """Axes and where noise would be; below, steps if given; beside, values if `marked`."""
        x, y, bottom = self.left, self.y(level), self.top + HIGH
        parts = [
            f'<rect x="{x}" y="{self.top}" width="{WIDE}" height="{HIGH}" {AXIS}/>',
            f'<path d="M{x} {y:.1f}h{WIDE}" {AXIS} stroke-dasharray="2 3"/>',
        ]
        for tick in (0.0, 0.25, 0.5) if self.signs else (0.01, 0.1, 1.0, 10.0, 100.0):
            parts.append(f'<path d="M{x} {self.y(tick):.1f}h4" {AXIS}/>')
            if marked:
                words = f"{tick:.0%}" if self.signs else f"{tick:g}"
                parts.append(svg.text(x - 5, self.y(tick) + 4, words, svg.RIGHT))
        if steps is not None:
            for share, style in ((0.0, ""), (0.5, svg.MIDDLE), (1.0, svg.RIGHT)):
                words = f"step {share * steps:.0f}"
                parts.append(svg.text(x + WIDE * share, bottom + 13, words, style))
        return parts


def picture(every: Sequence[Results]) -> str:
    """A column of panels for each perturbation, two rows for each momentum."""
    case = every[0].case
    words = (
        f"LeNet on CIFAR-10 (JPEG), {case.steps} steps, learning rate {case.rate:g}, "
        f"{every[0].repetitions} repetitions of each perturbation. Horizon of a derivative: one "
        "step if greedy, else all that remain."
    )
    moving = f"greedy, non-greedy: moving averages over {WINDOW} steps · dotted: noise around zero"
    parts = [
        svg.heading("Noise of hypergradients of a learning-rate schedule, along its steps"),
        svg.text(12, 42, words, svg.PALE),
        svg.text(LEFT + 390, 64, moving, svg.PALE),
    ]
    for number, (kind, name) in enumerate(KINDS.items()):
        name += f" by {WINDOW} steps" if kind == "shared" else ""
        style = f'fill="{COLOURS[kind]}" {BOLD}'
        parts.append(svg.text(LEFT + 110 * number, 64, name, style))
    for number, results in enumerate(every):
        top = TOP + number * (2 * HIGH + 92)
        parts.append(svg.text(12, top - 24, f"Momentum {results.case.momentum:g}", BOLD))
        for row, signs in enumerate((False, True)):
            parts += _row(results, top + row * (HIGH + 14), signs)
    return svg.page(parts, TOP + len(every) * (2 * HIGH + 92) - 48)


def _row(results: Results, top: float, signs: bool) -> list[str]:
    """A panel for each perturbation."""
    x, y = 12.0, top + HIGH / 2
    turned = f'{svg.MIDDLE} transform="rotate(-90 {x} {y})"'
    parts = [svg.text(x, y, "rarer sign" if signs else "hypervariance", turned)]
    for column, (factor, name) in enumerate(FACTORS.items()):
        panel = Panel(LEFT + column * (WIDE + GAP), top, signs)
        if not signs:
            parts.append(svg.text(panel.left, top - 7, f"{name} perturbed"))
        steps = results.case.steps if signs else None
        parts += panel.frame(chance(results.repetitions)[signs], steps, column == 0)
        for kind, values in results.found[factor].items():
            parts.append(panel.curve((fluctuation if signs else hypervariance)(values), kind))
    return parts


# Command


def figures(results: Results, error: float) -> Iterator[str]:
    """Names, values and units."""
    for kind in reversed(KINDS):
        median, _, sign, _ = results.numbers("all", kind)
        yield f"sign_fluctuation_{kind} {sign:.4f} share"
        yield f"hypervariance_{kind} {median:.3f} ratio"
    yield f"adjoint_error {error:.1e} relative"


def options() -> argparse.ArgumentParser:
    """What to run, and where things go."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--momenta", type=float, nargs="+", default=[0.0])
    parser.add_argument("--repetitions", type=int, default=6, help="of each perturbation")
    parser.add_argument("--steps", type=int, default=400, help=f"a multiple of {WINDOW}")
    parser.add_argument("--jobs", type=int, default=1, help="repetitions at a time")
    parser.add_argument("--runs", type=Path, default=ROOT / "local" / "fds-noise")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write DIR/table.md")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the picture")
    return parser


def run(given: argparse.Namespace) -> None:
    """Computes what is missing; prints tables and figures.

    Raises:
        ConfigError, DataError: If an option, the data or old repetitions are wrong.
        ArithmeticError: If reverse and forward mode differ.
    """
    if given.steps < WINDOW or given.steps % WINDOW:
        raise ConfigError(f"--steps {given.steps} must be a multiple of {WINDOW}")
    if not (error := check()) < TOLERANCE:
        raise ArithmeticError(f"reverse and forward mode differ by {error:.1e}")
    every = [gathered(given, Case(momentum, given.steps)) for momentum in given.momenta]
    text = page(every)
    print(text)
    if given.out is not None:
        write_text(given.out / "table.md", text)
    if given.picture is not None:
        write_text(given.picture, picture(every))
    for line in figures(every[0], error):
        print(f"figure {line}")


def main() -> None:
    """Runs the experiment; a mistake of the user's ends it with one sentence."""
    parser = options()
    try:
        run(parser.parse_args())
    except (ConfigError, DataError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
