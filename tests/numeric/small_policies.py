"""Small policies over a space of three rows, and every draw that each of them can make.

Draws that do the same are one: levels and signs without effect stay at 0.
"""

from collections.abc import Iterator
from dataclasses import fields
from itertools import permutations, product
from typing import Any

import torch

from bench.augment.choice import (
    Choice,
    Described,
    SubPolicies,
    Uniform,
    randaugment,
    trivialaugment,
    uniformaugment,
)
from bench.augment.learnable import Categorical, Counted, Gated, Learnable, OpsAndLevels, Walk
from bench.augment.space import Draw, Entry, Space

Tensor = torch.Tensor
Slot = tuple[int, float, bool, bool]  # op, level, gate, sign
SMALL = Space(
    "small",
    (
        Entry("identity"),
        Entry("rotate", 0.0, 30.0),
        Entry("solarize", 0.0, 256.0),
    ),
    top=2,
    signed=True,
    source="tests",
)
STEPS = [
    [("rotate", 0.3, 1), ("solarize", 0.9, 2)],
    [("rotate", 1.0, 2), ("rotate", 0.5, 0)],
    [("identity", 0.2, 0), ("solarize", 0.0, 1)],
    [("rotate", 0.3, 1), ("solarize", 0.9, 2)],
]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Logits of moderate size, float64."""
    rng = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(shape, generator=rng, dtype=torch.float64)


def learnable() -> dict[str, Learnable]:
    """Policies with parameters, at random logits."""
    elements = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    return {
        "categorical-softmax": Categorical(SMALL, elements=elements, logits=numbers(9)),
        "categorical-sigmoid": Categorical(
            SMALL, elements=elements, logits=numbers(9), weigh="sigmoid", level=2.0
        ),
        "ops-and-levels": OpsAndLevels(
            SMALL,
            longest=3,
            counts=numbers(3),
            keeps=numbers(3, seed=1),
            levels=numbers(3, 3, seed=2),
        ),
        "one-op-and-level": OpsAndLevels(SMALL, longest=1, keeps=0.4, levels=numbers(3, 3)),
        "gated": Gated(SMALL, copies=1, probabilities=numbers(3), magnitudes=numbers(3, seed=1)),
        "gated-copies": Gated(
            SMALL_PAIR,
            limits=(0.1, 0.0, 0.4, 0.5),
            probabilities=numbers(4),
            magnitudes=numbers(4, seed=1),
        ),
    }


def fixed() -> dict[str, Described]:
    """Policies without parameters, all of them discrete."""
    return {
        "randaugment": randaugment(SMALL, 2, 1),
        "trivialaugment": trivialaugment(SMALL),
        "uniformaugment-gar": uniformaugment(SMALL, gar=True),
        "kept": Uniform(SMALL, ops=2, keep=0.3, levels="discrete", most=1),
        "distinct": Uniform(SMALL, ops=3, keep=0.8, levels=2.0, replacement=False),
        "sub-policies": SubPolicies(SMALL, steps=STEPS),
    }


def discrete() -> dict[str, Described]:
    """All of them."""
    return {**fixed(), **learnable()}


SMALL_PAIR = Space("pair", SMALL.entries[1:], top=2, signed=True, source="tests")


# Every draw


def every_draw(policy: Described) -> Draw:
    """Every distinct draw of a discrete policy, as one batch."""
    match policy:
        case Uniform():
            return _draw(Draw, _uniform(policy))
        case SubPolicies():
            steps = [list(zip(*rows, strict=True)) for rows in _steps(policy)]
            chosen = [
                (slots, {"choice": number})
                for number, step in enumerate(steps)
                for slots in product(*(_slots(policy.space, *what) for what in step))
            ]
            return _draw(Choice, chosen)
        case Categorical():
            chosen = [
                (slots, {"choice": number})
                for number, rows in enumerate(policy.elements.tolist())
                for slots in product(
                    *(_slots(policy.space, row, [policy.level], [True]) for row in rows)
                )
            ]
            return _draw(Choice, chosen)
        case OpsAndLevels():
            return _draw(Counted, _counted(policy))
        case Gated():
            return _draw(Walk, _walks(policy))
    raise TypeError(type(policy))


def effect(draw: Draw, space: Space) -> list[tuple[Any, ...]]:
    """For each image what its draw does and records, hashable; what has no effect is left out."""
    columns = {field.name: getattr(draw, field.name).tolist() for field in fields(draw)}
    common = {field.name for field in fields(Draw)}
    extra = zip(
        *(map(str, rows) for name, rows in columns.items() if name not in common), strict=True
    )
    recorded = list(extra) or [()] * len(draw)
    sized, signed = space.has_magnitude.tolist(), space.has_sign.tolist()
    count = columns.get("count", [draw.op.shape[1]] * len(draw))
    found = []
    rows = zip(*(columns[name] for name in ("op", "level", "gate", "sign")), count, strict=True)
    for more, (ops, levels, gates, signs, used) in zip(recorded, rows, strict=True):
        slots = [
            (op, level if gate and sized[op] else 0.0, gate, sign and gate and signed[op])
            for op, level, gate, sign in list(zip(ops, levels, gates, signs, strict=True))[:used]
            # A walk fills a slot only when it does something.
            if gate or not isinstance(draw, Walk)
        ]
        found.append((more, *slots))
    return found


def _slots(space: Space, op: int, levels: list[float], gates: list[bool]) -> list[Slot]:
    """What one slot can do."""
    found: list[Slot] = []
    for gate in gates:
        each = levels if gate and space.has_magnitude[op] else [0.0]
        signs = [False, True] if gate and space.has_sign[op] else [False]
        found += [(op, level, gate, sign) for level in each for sign in signs]
    return found


def _uniform(policy: Uniform) -> Iterator[tuple[tuple[Slot, ...], dict[str, Any]]]:
    most = range(int(policy.most) + 1)
    levels = [float(k) for k in most] if policy.levels == "discrete" else [float(policy.levels)]
    gates = [False, True] if policy.keep < 1 else [True]
    rows = range(len(policy.space))
    orders = (
        product(rows, repeat=policy.ops) if policy.replacement else permutations(rows, policy.ops)
    )
    for order in orders:
        for slots in product(*(_slots(policy.space, op, levels, gates) for op in order)):
            yield slots, {}


def _steps(policy: SubPolicies) -> Iterator[tuple[list[int], list[list[float]], list[list[bool]]]]:
    for op, level, probability in zip(policy.op, policy.level, policy.probability, strict=True):
        gates = [[g for g, has in ((False, p < 1), (True, p > 0)) if has] for p in probability]
        yield op.tolist(), [[value] for value in level.tolist()], gates


def _counted(policy: OpsAndLevels) -> Iterator[tuple[tuple[Slot, ...], dict[str, Any]]]:
    many, longest = len(policy.space), policy.longest
    levels = [float(k) for k in range(policy.levels.shape[1])]
    for count in range(1, longest + 1):
        for order in permutations(range(many), count):
            options = [_slots(policy.space, op, levels, [False, True]) for op in order]
            unused: tuple[Slot, ...] = ((0, 0.0, False, False),) * (longest - count)
            for slots in product(*options):
                yield (*slots, *unused), {"count": count}


def _walks(policy: Gated) -> Iterator[tuple[tuple[Slot, ...], dict[str, Any]]]:
    many, slots = len(policy.rows), len(policy.limits) - 1
    level = (policy.magnitudes.sigmoid() * policy.space.top).tolist()
    limits = [k for k, probability in enumerate(policy.limits) if probability > 0]
    for limit, order in product(limits, permutations(range(many))):
        for coins in product([False, True], repeat=many):
            hits = [place for place in range(many) if coins[place]]
            # Coins behind the stop are not thrown: one pattern stands for all of them.
            if len(hits) > limit or (len(hits) == limit and any(coins[(hits or [-1])[-1] + 1 :])):
                continue
            pairs = [order[place] for place in hits]
            rows = [int(policy.rows[pair]) for pair in pairs]
            options = [
                _slots(policy.space, row, [level[pair]], [True])
                for row, pair in zip(rows, pairs, strict=True)
            ]
            unused: tuple[Slot, ...] = ((0, 0.0, False, False),) * (slots - len(hits))
            for done in product(*options):
                yield (*done, *unused), {"order": order, "done": coins, "limit": limit}


def _draw(kind: type[Draw], rows: Any) -> Any:
    """A batch out of slots and of what the draw records besides."""
    rows = list(rows)
    op, level, gate, sign = ([[slot[i] for slot in slots] for slots, _ in rows] for i in range(4))
    count = len(rows)
    extra = {name: torch.tensor([more[name] for _, more in rows]) for name in rows[0][1]}
    return kind(
        op=torch.tensor(op),
        level=torch.tensor(level, dtype=torch.float64),
        gate=torch.tensor(gate),
        sign=torch.tensor(sign),
        place=torch.zeros(count, len(op[0]), 2, dtype=torch.float64),
        **extra,
    )
