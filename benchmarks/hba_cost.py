"""What HBA's search costs: its steps, those of λ included, against plain training.

    python benchmarks/hba_cost.py [--rounds 5] [--networks wrn-16-1,small-cnn]

Everything goes through `methods.hba.Search` in a session on random uint8 images (WRN: 32×32,
batches of 64, on a CUDA device 128; small-cnn: 8×8, batches of 64).  A strategy's `step` is one
of the hypernetwork, `hyper` one of λ.  A training step of the search is one `step` and half a
`hyper`, as λ moves after every second one.  `plain` is a step of `fit` with crop and flip,
`policy` one with crop and flip after HBA's operations and before Cutout, as a replay has them: the
difference is augmentation, `augment` and `crop-flip` by themselves.  Variants take turns; a ratio
is the median over rounds.  On a CPU times are the CPU time of one thread, on a CUDA device wall
time around synchronisations.  FLOPs are the bill's.

Figures, of the first network: `hba_step_ratio_first_bn` (over `plain`; the paper measures 1.6 with
WRN-40-2), `_first_conv`, `_bn`, `_conv`, `_conv_bn`; the same with `_policy` (over `policy`: what
the hypernetwork costs without its augmentation) and, of the first strategy, `_flops`.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch

from bench.train.loops import augment, training_step
from bench.train.prepare import Prepared
from bench.train.task import Task, standard
from benchmarks._session import CUDA, Works, in_turns, session_of
from benchmarks.harness_overhead import task_of
from benchmarks.ohl_cost import CASES, small_val
from methods.hba import Hba, HbaConfig, Search

LAYERS = ("first-bn", "first-conv", "bn", "conv", "conv+bn")


def variants(task: Task) -> tuple[Works, dict[str, float]]:
    """What takes turns, by name; and what the first strategy costs in FLOPs, over plain."""
    prepared = Prepared(task, task.val, None)  # type: ignore[arg-type]
    works: Works = {}
    plain = session_of(Hba, HbaConfig(), prepared)
    batches = plain.batches("train")
    policies = {"plain": standard(task), "policy": Hba(HbaConfig()).policy(task)}
    learners = {name: plain.learner() for name in policies}
    for name, policy in policies.items():
        works[name] = lambda policy=policy, learner=learners[name]: training_step(
            plain, learner, policy, batches, 0.0
        )
    for name, policy in (("crop-flip", policies["plain"]), ("augment", policies["policy"])):
        works[name] = lambda policy=policy: augment(plain, policy, next(batches))
    prices = {"plain": plain.price("plain", works["plain"])}
    for layers in LAYERS:
        config: Any = HbaConfig(layers=layers)
        session, method = session_of(Hba, config, prepared), Hba(config)
        search = Search(session, method.learner(session), method.population(task), config)
        works[f"{layers} step"] = lambda search=search: search.step(0.0)
        works[f"{layers} hyper"] = search.hyper
        for part in ("step", "hyper"):
            prices[f"{layers} {part}"] = session.price(part, works[f"{layers} {part}"])
    return works, {name: price / prices["plain"] for name, price in prices.items()}


def figures(found: dict[str, list[float]], prices: dict[str, float]) -> dict[str, float]:
    """The ratios: medians over rounds."""

    def ratio(over: Callable[[dict[str, float]], float]) -> float:
        rounds = zip(*found.values(), strict=True)
        return statistics.median(over(dict(zip(found, values, strict=True))) for values in rounds)

    def of(layers: str, against: str) -> float:
        return ratio(lambda t: (t[f"{layers} step"] + t[f"{layers} hyper"] / 2) / t[against])

    out = {}
    for layers in LAYERS:
        name = f"hba_step_ratio_{layers.replace('-', '_').replace('+', '_')}"
        out[name] = of(layers, "plain")
        out[f"{name}_policy"] = of(layers, "policy")
        if layers == LAYERS[0]:
            out[f"{name}_flops"] = prices[f"{layers} step"] + prices[f"{layers} hyper"] / 2
    return out


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
        works, prices = variants(task)
        found = in_turns(works, chosen.rounds, 20 if network == "small-cnn" or CUDA else 2)
        ratios = figures(found, prices)
        first = first or ratios
        print(f"{name}, batch {batch}")
        for label, values in found.items():
            value = statistics.median(values)
            share = value / statistics.median(found["plain"])
            flops = f"{prices[label]:6.2f} FLOPs" if label in prices else ""
            print(f"  {label:16} {1000 * value:9.2f} ms  {share:6.2f} × plain  {flops}")
        for label, value in ratios.items():
            print(f"  {label} {value:.3f}", flush=True)
    for label, value in first.items():
        print(f"figure {label} {value:.4f} ratio")


if __name__ == "__main__":
    main()
