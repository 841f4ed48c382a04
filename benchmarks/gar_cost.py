"""What GAR's rewards cost: pairs of steps with them against the same pairs without.

    python benchmarks/gar_cost.py [--rounds 21] [--networks wrn-16-2,wrn-28-10]

Everything goes through `methods.gar.Pairs` in a session, on random uint8 images of 32×32, so the
policy's draws, its log-probabilities and Adam count.  Two steps make a pair, of which the first is
judged.  The variants:

- `plain`: the same augmented and plain batches, no rewards and a policy that stays as it is;
- `gar`: the default configuration; `hooks_norms`, `hooks` (norm layers left out), `jvp` and
  `difference`: the ways to compute the rewards;
- `naive`: what the rewards replace, the gradient of the next step's loss in a weight for each
  example of this step, through an unrolled update, for every step as in the paper's section 3.
  The next loss is differentiated twice, for the unrolled update and for its own.  `naive_reuse`
  differentiates it once (the paper's way ii); `naive_pair` and `naive_pair_reuse` unroll only the
  first step of each pair, as GAR judges only that one.

Variants take turns, a pair each, round after round (the naive ones every third round); a time
ratio is the median over rounds of a variant's time over plain's.  On a CPU that is the CPU time of
one thread, on a CUDA device wall time around synchronisations.  Each variant has a process of its
own, whose allocator keeps what is freed, as torch's does on CUDA devices.  Left to itself, glibc
hands some of it back, and the page faults that follow took up to 15 % of a variant's time, plain's
too, by the luck of its heap.

Memory is the peak above the state at rest (weights, optimiser, data).  On a CPU it adds up what
torch's allocator gives out and takes back during a pair, which the profiler reports and which is
the same every time; buffers of oneDNN's own are not in it.  Beside it stands, for some, the
resident set's peak above what was resident before the pair.

Figures: `naive_agrees`, the largest relative error in float64 between the unrolled gradients and
the rewards of the tape; `gar_time_ratio`, `gar_memory_ratio`, the same for each `naive` variant,
and `gar_time_ratio_hooks` and the like for the ways to compute.  They are of wrn-16-2, and with
`_wide` of wrn-28-10, which on a CPU has batches of 8 only: work that does not grow with the batch
(the optimiser, copies of weights) weighs more there.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Else the profiler writes between the lines of the table.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch
import torch.nn.functional as F
from harness_overhead import seconds, task_of
from torch import nn
from torch.autograd import grad
from torch.func import functional_call
from torch.profiler import ProfilerActivity, profile

from bench.augment.learnable import OpsAndLevels
from bench.augment.spaces import space
from bench.train.clock import Clock
from bench.train.ledger import Ledger, ReferencePrice
from bench.train.meter import Meter
from bench.train.recipe import Recipe
from bench.train.session import Session
from bench.train.task import fill
from methods._alignment import recording
from methods.gar import GarConfig, Pairs

Tensor = torch.Tensor
Weights = dict[str, Tensor]
MIB = 2**20
CUDA = torch.cuda.is_available()
CONFIGS = {
    "plain": GarConfig(reward="nslr"),
    "gar": GarConfig(),
    "hooks_norms": GarConfig(estimator="hooks", norms=True),
    "hooks": GarConfig(estimator="hooks", norms=False),
    "jvp": GarConfig(estimator="jvp"),
    "difference": GarConfig(estimator="difference"),
}
NAIVE = {  # name -> whether every step is unrolled, whether the next gradient is reused
    "naive": (True, False),
    "naive_reuse": (True, True),
    "naive_pair": (False, False),
    "naive_pair_reuse": (False, True),
}
# What glibc does with freed blocks: keeps them, for the timing, or hands large ones back to the
# system, so that the resident set is what is held.
KEEPING = {"MALLOC_MMAP_THRESHOLD_": str(1 << 40), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
RETURNING = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16), "MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class Case:
    """A network and how it is measured.

    Attributes:
        network: Name for `bench.networks.build`.
        batch: Images a step.
        rounds: Timed rounds, as a share of what was asked for.
        suffix: Of the figures' names.
        variants: Which are measured.
        resident: For which of them the resident set is looked at too, in one more process.
    """

    network: str
    batch: int
    rounds: float
    suffix: str
    variants: tuple[str, ...]
    resident: tuple[str, ...] = ()


EVERY = (*CONFIGS, *NAIVE)
SOME = ("plain", "gar", "hooks_norms", "hooks", "difference", "naive")
if CUDA:
    CASES = {
        "wrn-16-2": Case("wrn-16-2", 256, 1.0, "", EVERY),
        "wrn-28-10": Case("wrn-28-10", 256, 1.0, "_wide", EVERY),
    }
else:
    CASES = {
        "wrn-16-2": Case("wrn-16-2", 64, 1.0, "", EVERY, ("plain", "gar", "naive")),
        "wrn-28-10": Case("wrn-28-10", 8, 0.25, "_wide", SOME),
    }
PAIRS = 20 if CUDA else 1  # a turn; on a CUDA device one would be mostly synchronisation
SLOW = 3  # the naive variants, several times dearer, are timed in every third round only


class Unrolled:
    """Differentiates the next step's loss in how much each example of this step counts.

    Example i of B counts w_i, at 1: θ_{t+1} = SGD(θ_t, ∇ Σ_i w_i ℓ_i(θ_t) / B).  With learning
    rate α and Nesterov's momentum μ the update's derivative in the gradient is -α(1 + μ), so
    ∂L(θ_{t+1})/∂w_i = -α(1 + μ) / B · ⟨∇ℓ_i(θ_t), ∇L(θ_{t+1})⟩: the reward, but for the factor.
    What θ_{t+1} owes to steps before t is cut off, as in the paper's Algorithm 1.

    Args:
        network: Is trained, by the optimiser's own steps.
        optimiser: SGD, as recipes make it.
        reuse: Whether the gradient at θ_{t+1} that the next step needs anyway also goes through
            the update; else it is computed for that once more.
    """

    def __init__(self, network: nn.Module, optimiser: torch.optim.SGD, reuse: bool) -> None:
        self.network, self.optimiser, self.reuse = network, optimiser, reuse
        self.pending: tuple[tuple[Tensor, ...], Tensor] | None = None  # gradients, w (B,)

    def backward(
        self, logits: Callable[[Weights], Tensor], classes: Tensor, watch: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The mean loss, with its gradients left where the optimiser looks for them.

        Args:
            logits: Of a batch of B images under given weights, by name.
            classes: (B,).
            watch: Whether the step that follows is to be differentiated.

        Returns:
            The loss, and its derivative in the weights w of the batch before if that was watched.
        """
        theta = dict(self.network.named_parameters())
        if watch:  # the optimiser will write into the weights; the graph must keep them
            theta = {name: p.detach().clone().requires_grad_() for name, p in theta.items()}
        leaves, meta = tuple(theta.values()), None
        losses = F.cross_entropy(logits(theta), classes, reduction="none")
        counts = torch.ones_like(losses, requires_grad=watch)
        loss = (counts * losses).mean()
        if self.pending is not None and not self.reuse:
            meta = self._through_update(grad(loss, leaves, retain_graph=True))
        gradients = grad(loss, leaves, create_graph=watch)
        if self.pending is not None:
            meta = self._through_update(tuple(g.detach() for g in gradients))
        self.pending = (gradients, counts) if watch else None
        for parameter, gradient in zip(self.network.parameters(), gradients, strict=True):
            parameter.grad = gradient.detach()
        return loss.detach(), meta

    @property
    def slope(self) -> float:
        """The last update's derivative in its gradient, -α(1 + μ)."""
        group = self.optimiser.param_groups[0]
        return -group["lr"] * (1 + group["momentum"] * group["nesterov"])

    def _through_update(self, outer: tuple[Tensor, ...]) -> Tensor:
        """From ∇L(θ_{t+1}) to the derivative in w, (B,); frees the step's graph."""
        assert self.pending is not None
        (gradients, counts), self.pending = self.pending, None
        (meta,) = grad(gradients, counts, [self.slope * value for value in outer])
        return meta


class Plain(Pairs):
    """Pairs of steps whose policy stays as it is; give it a configuration without a judge."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.update = ignore


def ignore(*_: object) -> None:
    """Does nothing."""


class Unrolling(Pairs):
    """Pairs of steps whose rewards come from unrolled updates.

    Args:
        every: Whether both steps of a pair are unrolled; the policy learns from the first.
        reuse: See `Unrolled`.
    """

    def __init__(self, *given: Any, every: bool, reuse: bool) -> None:
        super().__init__(*given)
        self.every = every
        self.unrolled = Unrolled(self.learner.network, self.learner.optimiser, reuse)

    def pair(self, first: float, second: float) -> None:
        """As `Pairs.pair`."""
        draw, _ = self._half(self.augmented, first, True)
        _, rewards = self._half(self.plain, second, self.every)
        assert rewards is not None
        self.update(draw[0], rewards)

    def _half(self, policy: Any, progress: float, watch: bool) -> tuple[Any, Any]:
        session, learner, raw = self.session, self.learner, next(self.batches)
        draw = policy.sample(raw.index, session.rng("policy"))
        with session.metered("augment"):
            batch = policy.apply(raw, draw)
        pending = self.unrolled.pending is not None
        with session.metered("unrolled", watch=watch, pending=pending):
            pixels = learner.pixels(batch.images)

            def logits(theta: Weights) -> Tensor:
                with learner.precision():
                    return functional_call(learner.network, theta, (pixels,)).float()

            loss, rewards = self.unrolled.backward(logits, batch.targets, watch)
            if rewards is not None:
                rewards *= len(rewards) / self.unrolled.slope
        self._step(progress)
        session.tally(steps=1, images_seen=len(batch))
        session.log(train_loss=loss)
        return draw, rewards


class Variant:
    """One way to train, ready to make pairs of steps.

    Args:
        name: Of `EVERY`.
        case: Network and batch.

    Attributes:
        device: Where it trains.
    """

    def __init__(self, name: str, case: Case) -> None:
        task = task_of(case.network, 3, 32, case.batch, steps=1000)
        self.device = task.device
        price = ReferencePrice(1, 1.0)
        self._ledger = Ledger(float("inf"), price, "portable", Clock(self.device))
        session = Session(task, Meter(self._ledger, self.device, audit_rate=0.0), seed=0)
        # The policy hardly moves, so that all variants do the same augmentation all the time.
        config = CONFIGS.get(name, CONFIGS["plain"]).model_copy(update={"lr": 1e-6})
        table = space(config.space)
        policy = OpsAndLevels(table, fill(task), longest=config.longest)
        given = session, session.learner(), policy, config
        if name in NAIVE:
            every, reuse = NAIVE[name]
            self._make: Callable[[], Pairs] = partial(Unrolling, *given, every=every, reuse=reuse)
        else:
            self._make = partial(Plain if name == "plain" else Pairs, *given)
        self._pairs = self._make()

    def rest(self) -> None:
        """Drops what the last pair has left behind for the next, but for the training's state."""
        self._pairs = self._make()
        gc.collect()

    def __call__(self) -> None:
        """One pair, early in the schedule, where the rate is largest."""
        self._pairs.pair(0.0, 0.0005)

    def work(self) -> dict[str, int]:
        """FLOPs of a pair by label of the bill."""
        before = self._bill()
        self()
        return {label: flops - before.get(label, 0) for label, flops in self._bill().items()}

    def _bill(self) -> dict[str, int]:
        bill: dict[str, int] = {}
        for label, _, item in self._ledger.items("run"):
            bill[label] = bill.get(label, 0) + item.flops
        return bill


def peak(work: Callable[[], object]) -> int:
    """Bytes that torch holds at most during a call, above what it holds before."""
    if CUDA:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    events = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"])
    held = most = 0
    for event in events:
        held += event["args"]["Bytes"]  # negative where a block is given back
        most = max(most, held)
    return most


def resident(work: Callable[[], object]) -> int:
    """Bytes that are resident at most during a call, above what was before; Linux only."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def status(entry: str) -> int:
    """A size that Linux tells of this process, in bytes.

    `getrusage` would tell the peak of the parent too.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(entry))


def turn(variant: Variant) -> None:
    """What is timed at once."""
    for _ in range(PAIRS):
        variant()


def timed(variant: Variant) -> float:
    """Seconds a pair, over a turn of `PAIRS`."""
    return seconds(partial(turn, variant)) / PAIRS


def serve(name: str, case: Case) -> None:
    """Makes a variant and measures it as the lines of the standard input say, a line an answer."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")  # torch's own rules
    variant = Variant(name, case)
    variant()  # its blocks are counted while they run
    measures = {"work": Variant.work, "time": timed, "peak": peak, "resident": resident}
    for line in sys.stdin:
        asked = line.strip()
        if asked in ("peak", "resident"):
            variant.rest()
        elif CUDA:
            variant()  # finds the room that was given back below
        print(json.dumps(measures[asked](variant)), flush=True)
        if CUDA:
            variant.rest()
            torch.cuda.empty_cache()  # for the other processes


class Apart:
    """A variant in a process of its own, which works only when it is asked.

    Args:
        name: Of `EVERY`.
        case: Network and batch.
        environment: Variables for the process.
    """

    def __init__(self, name: str, case: Case, environment: dict[str, str]) -> None:
        command = [sys.executable, __file__, "--networks", case.network, "--serve", name]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, measure: str) -> Any:
        """The answer to a question that `serve` knows.

        Raises:
            RuntimeError: If the process has ended.
        """
        self._process.stdin.write(measure + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process ended with {self._process.wait()} before {measure!r}")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def agreement() -> float:
    """Largest relative error of unrolled gradients against the tape's rewards, in float64."""
    return max(disagreement(reuse) for reuse in (False, True))


def disagreement(reuse: bool) -> float:
    """The same for one way to unroll, over the steps of a small training.

    The network has no BatchNorm, so examples do not interact; SGD has momentum and weight decay.
    """
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.GroupNorm(2, 6),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(150, 4),
    ).double()
    sgd = Recipe(steps=1, weight_decay=0.01).optimiser(network.parameters())
    unrolled, tape, worst = Unrolled(network, sgd, reuse), None, 0.0
    for _ in range(4):
        images = torch.randn(7, 3, 9, 9, dtype=torch.float64)
        classes = torch.randint(4, (7,))
        logits = partial(functional_call, network, args=(images,))
        _, found = unrolled.backward(logits, classes, watch=True)
        if tape is not None and found is not None:
            gradients = {p: p.grad for p in network.parameters() if p.grad is not None}
            expected = unrolled.slope / len(classes) * tape.products(gradients)
            worst = max(worst, ((found - expected) / expected).abs().max().item())
        with recording(network) as tape:
            # Its gradients are not accumulated: the optimiser has those of `backward`.
            grad(F.cross_entropy(network(images), classes), tuple(network.parameters()))
        sgd.step()
        sgd.zero_grad()
    return worst


@dataclass
class Costs:
    """What was measured of one case, by variant.

    Attributes:
        time: Seconds a pair, by round.
        flops: Of a pair.
        memory: Peak bytes above the state at rest.
        resident: The same of the resident set, where it was looked at.
    """

    time: dict[str, dict[int, float]]
    flops: dict[str, int]
    memory: dict[str, int]
    resident: dict[str, int]

    def slower(self, name: str) -> float:
        """Median over rounds of a variant's time over plain's."""
        plain = self.time["plain"]
        return statistics.median(mine / plain[done] for done, mine in self.time[name].items())

    def larger(self, name: str) -> float:
        """A variant's memory over plain's."""
        return self.memory[name] / self.memory["plain"]


def distinct(names: tuple[str, ...]) -> list[str]:
    """Without those that are the default configuration under another name."""
    return [n for n in names if n == "gar" or CONFIGS.get(n) != CONFIGS["gar"]]


def measure(case: Case, rounds: int) -> Costs:
    """Times the variants in turns, and looks at each one's memory.

    Raises:
        RuntimeError: If plain pairs pay for rewards.
    """
    names = distinct(case.variants)
    costs = Costs({name: {} for name in names}, {}, {}, {})
    apart: dict[str, Apart] = {}
    for name in names:  # one after the other, lest they share the processor
        apart[name] = Apart(name, case, KEEPING)
        work = apart[name]("work")
        if name == "plain" and (work.keys() - {"augment", "train", "reward"} or work["reward"]):
            raise RuntimeError(f"plain pairs cost {work}: they are no yardstick")
        costs.flops[name] = sum(work.values())
    for done in range(rounds):
        shift = done % len(names)
        for name in names[shift:] + names[:shift]:
            if name not in NAIVE or done % SLOW == 0:
                costs.time[name][done] = apart[name]("time")
    for name in names:
        costs.memory[name] = apart[name]("peak")
        apart[name].close()
    for name in names if Path("/proc/self/clear_refs").exists() else ():
        if name in case.resident:
            alone = Apart(name, case, RETURNING)
            costs.resident[name] = alone("resident")
            alone.close()
    for name in set(case.variants) - set(names):
        for column in (costs.time, costs.flops, costs.memory, costs.resident):
            if "gar" in column:
                column[name] = column["gar"]
    return costs


def show(case: Case, costs: Costs) -> None:
    """Prints a table of a case."""
    rounds = len(costs.time["plain"])
    where = "on a CUDA device" if CUDA else "one thread, CPU time"
    print(f"{case.network}, batch {case.batch}, {rounds} rounds of {PAIRS} pairs, {where}")
    print("variant            ms a step      ×  FLOPs ×     MiB      ×     RSS      ×")
    for name in case.variants:
        step = 500 * statistics.median(costs.time[name].values())
        flops = costs.flops[name] / costs.flops["plain"]
        line = f"{name:17}{step:11.1f}{costs.slower(name):7.3f}{flops:9.3f}"
        line += f"{costs.memory[name] / MIB:8.1f}{costs.larger(name):7.3f}"
        if name in costs.resident:
            held = costs.resident[name]
            line += f"{held / MIB:8.1f}{held / costs.resident['plain']:7.3f}"
        print(line, flush=True)


def figures(case: Case, costs: Costs) -> dict[str, float]:
    """The case's figures by name."""
    found = {}
    for name in case.variants[1:]:
        for kind, value in (("time", costs.slower(name)), ("memory", costs.larger(name))):
            figure = f"{name}_{kind}_ratio"
            if name in CONFIGS and name != "gar":
                figure = f"gar_{kind}_ratio_{name}"
            found[figure + case.suffix] = value
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21, help="timed rounds (default 21)")
    parser.add_argument("--networks", default=",".join(CASES), help="which of the two")
    parser.add_argument("--serve", choices=EVERY, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.networks = given.networks.split(",")
    if not set(given.networks) <= set(CASES):
        parser.error(f"--networks must be among {', '.join(CASES)}")
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    return given


def main() -> None:
    """Checks, measures, prints."""
    given = arguments()
    if given.serve:
        serve(given.serve, CASES[given.networks[0]])
        return
    began = time.perf_counter()
    torch.set_num_threads(1)
    found = {"naive_agrees": agreement()}
    for network in given.networks:
        case = CASES[network]
        costs = measure(case, max(1, round(case.rounds * given.rounds)))
        show(case, costs)
        found.update(figures(case, costs))
    print(f"{time.perf_counter() - began:.0f} s in all")
    for name, value in found.items():
        shown = f"{value:.1e} relative" if name == "naive_agrees" else f"{value:.4f} ratio"
        print(f"figure {name} {shown}")


if __name__ == "__main__":
    main()
