"""RandAugment, TrivialAugment and AutoAugment: torchvision's numbers, draws and pixels.

torchvision runs on Pillow images here, with nearest resampling and black fill.  It computes its
magnitudes in single precision, so they differ from ours in the eighth digit; pixels are compared
at its own magnitudes, and must be equal then.  For the same sign its translations go the other
way, so a draw's sign is turned around for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import autoaugment as tv

from bench.augment.autoaugment import POLICIES, autoaugment
from bench.augment.choice import SubPolicies, randaugment, trivialaugment
from bench.augment.engine import execute
from bench.augment.space import Draw, Space, draw_of
from bench.augment.spaces import space
from bench.augment.table import TablePolicy

Tensor = torch.Tensor
SIDE, COUNT = 32, 240
NAMES = {
    "shear-x": "ShearX",
    "shear-y": "ShearY",
    "translate-x": "TranslateX",
    "translate-y": "TranslateY",
    "autocontrast": "AutoContrast",
}
ENHANCERS = ("brightness", "color", "contrast", "sharpness")
TABLES: dict[str, Callable[[], dict[str, tuple[Tensor, bool]]]] = {
    "torchvision-randaugment": lambda: tv.RandAugment()._augmentation_space(31, (SIDE, SIDE)),
    "torchvision-trivialaugment-wide": lambda: tv.TrivialAugmentWide()._augmentation_space(31),
    "autoaugment": lambda: tv.AutoAugment()._augmentation_space(10, (SIDE, SIDE)),
}


# In single precision 32 · 15/30 falls just below 16 pixels there.
CUT_BELOW = {
    ("torchvision-trivialaugment-wide", name, 15) for name in ("translate-x", "translate-y")
}


def named(label: str) -> str:
    return NAMES.get(label, label.capitalize())


def converted(label: str, magnitude: float) -> float:
    """Our magnitude for torchvision's, or torchvision's for ours; translations as done."""
    if label.startswith("translate"):
        return float(-int(magnitude))
    return {"posterize": 8 - magnitude, "solarize": 256 - magnitude}.get(label, magnitude)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Half of them smooth, half of them noise; (COUNT, 3, SIDE, SIDE) uint8."""
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.integers(0, 256, (COUNT // 2, 3, 5, 5))).float()
    smooth = torch.nn.functional.interpolate(small, SIDE, mode="bicubic").clamp(0, 255)
    noise = torch.from_numpy(rng.integers(0, 256, (COUNT - COUNT // 2, 3, SIDE, SIDE)))
    return torch.cat([smooth.byte(), noise.byte()])


def to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def stacked(found: Sequence[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in found])).permute(0, 3, 1, 2)


def magnitudes(of: Space, draw: Draw, table: dict[str, tuple[Tensor, bool]]) -> Tensor:
    """torchvision's signed magnitudes of a draw, in its units, (B, L) float64."""
    found = torch.zeros(draw.op.shape, dtype=torch.float64)
    for op, entry in enumerate(of.entries):
        values, signed = table.get(named(entry.label), (torch.tensor(0.0), False))
        where = draw.op == op
        level = draw.level[where].long() if values.ndim else ...
        minus = signed & (draw.sign[where] != entry.label.startswith("translate"))
        found[where] = torch.where(minus, -1, 1) * values.double()[level]
    return found


def both(images: Tensor, of: Space, draw: Draw) -> tuple[Tensor, Tensor]:
    """What the engine and what torchvision make of a draw, at torchvision's magnitudes."""
    theirs = magnitudes(of, draw, TABLES[of.name]())
    labels = [[of.entries[op].label for op in row] for row in draw.op.tolist()]
    ours = torch.tensor(
        [
            [converted(label, m) for label, m in zip(row, values, strict=True)]
            for row, values in zip(labels, theirs.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )
    expected = []
    for row, image in enumerate(images):
        out = to_pillow(image)
        for label, magnitude, gate in zip(
            labels[row], theirs[row].tolist(), draw.gate[row], strict=True
        ):
            if gate:
                mode = InterpolationMode.NEAREST
                out = tv._apply_op(out, named(label), magnitude, mode, None)
        expected.append(out)
    program = replace(of.program(draw, SIDE), magnitude=ours)
    return execute(images, program), stacked(expected)


def every_case(of: Space) -> Draw:
    """Every operation at every level with either sign, one image each."""
    rows = [op for op, entry in enumerate(of.entries) if entry.label != "cutout"]
    levels = range(int(of.top) + 1)
    cases = [(op, float(level), sign) for op in rows for level in levels for sign in (False, True)]
    ops, numbers, signs = ([[case[i]] for case in cases] for i in range(3))
    return draw_of(ops, numbers, signs)


# Numbers


@pytest.mark.parametrize("name", TABLES)
def test_operations_and_magnitudes(name: str) -> None:
    ours, table = space(name), TABLES[name]()
    labels = [entry.label for entry in ours.entries if entry.label != "cutout"]
    assert [named(label) for label in labels] == list(table)
    for op, label in enumerate(labels):
        values, signed = table[named(label)]
        assert bool(ours.has_sign[op]) is signed
        assert bool(ours.has_magnitude[op]) is (values.ndim > 0)
        if not values.ndim:
            continue
        level = torch.arange(len(values), dtype=torch.float64)
        assert len(level) == ours.top + 1
        magnitude = ours.magnitude(torch.full_like(level, op).long(), level, SIDE)
        for number, (our, their) in enumerate(
            zip(magnitude.tolist(), values.double().tolist(), strict=True)
        ):
            if label.startswith("translate"):  # torchvision cuts when it applies them
                assert our - int(their) == ((name, label, number) in CUT_BELOW)
            else:
                assert converted(label, our) == pytest.approx(their, rel=1e-7, abs=1e-6)
                assert int(converted(label, our)) == int(their)


@pytest.mark.parametrize(
    ("name", "policy"),
    [(policy.value, policy) for policy in tv.AutoAugmentPolicy],
)
def test_the_published_policies_of_autoaugment(name: str, policy: tv.AutoAugmentPolicy) -> None:
    expected = [
        tuple((operation, probability, level or 0) for operation, probability, level in each)
        for each in tv.AutoAugment(policy).policies
    ]
    found = [
        tuple((named(label), p, level) for label, p, level in each) for each in POLICIES[name]
    ]
    assert len(found) == 25
    assert found == expected
    assert isinstance(autoaugment(name), SubPolicies)


def test_there_are_no_other_policies() -> None:
    assert sorted(POLICIES) == sorted(policy.value for policy in tv.AutoAugmentPolicy)


# Pixels


@pytest.mark.parametrize("name", TABLES)
def test_every_operation_at_every_level(name: str, images: Tensor) -> None:
    draw = every_case(space(name))
    batch = images[torch.arange(len(draw)) % COUNT]
    found, expected = both(batch, space(name), draw)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", TABLES)
def test_our_magnitudes_are_one_grey_level_off_at_most(name: str, images: Tensor) -> None:
    ours = space(name)
    draw = every_case(ours)
    batch = images[torch.arange(len(draw)) % COUNT]
    found, (_, expected) = execute(batch, ours.program(draw, SIDE)), both(batch, ours, draw)
    away = (found.int() - expected.int()).abs().flatten(1).amax(1)
    for row in away.nonzero()[:, 0].tolist():
        label, level = ours.entries[draw.op[row, 0]].label, int(draw.level[row, 0])
        if (name, label, level) not in CUT_BELOW:
            assert label in ENHANCERS
            assert away[row] == 1
    assert (away > 0).double().mean() < 0.05


@pytest.mark.parametrize(
    "policy",
    [
        randaugment(space("torchvision-randaugment"), 2, 9),
        randaugment(space("torchvision-randaugment"), 3, 30),
        trivialaugment(space("torchvision-trivialaugment-wide")),
        *(autoaugment(name) for name in POLICIES),
    ],
)
def test_what_is_drawn_here_is_done_alike(policy: TablePolicy, images: Tensor) -> None:
    draw = policy.sample(torch.arange(COUNT), torch.Generator().manual_seed(3))
    found, expected = both(images, policy.space, draw)
    assert torch.equal(found, expected)
    assert (found != images).any()


# torchvision's own draws, replayed: the same calls of the global generator from the same seed.


def one_of(count: int) -> int:
    return int(torch.randint(count, (1,)).item())


def replay_randaugment(
    of: Space, slots: int, level: float | None
) -> list[tuple[int, float, bool]]:
    steps = []
    for _ in range(slots):
        op = one_of(len(of))
        plain = not of.has_magnitude[op]
        drawn = level if level is not None else 0.0 if plain else float(one_of(31))
        sign = bool(of.has_sign[op]) and bool(one_of(2))
        steps.append((op, drawn, sign != of.entries[op].label.startswith("translate")))
    return steps


@pytest.mark.parametrize(
    ("transform", "name", "slots", "level"),
    [
        (tv.RandAugment(2, 9), "torchvision-randaugment", 2, 9.0),
        (tv.RandAugment(3, 14), "torchvision-randaugment", 3, 14.0),
        (tv.TrivialAugmentWide(), "torchvision-trivialaugment-wide", 1, None),
    ],
)
def test_what_torchvision_draws_is_done_alike(
    transform: torch.nn.Module, name: str, slots: int, level: float | None, images: Tensor
) -> None:
    ours, expected, steps = space(name), [], []
    with torch.random.fork_rng():
        for row, image in enumerate(images):
            torch.manual_seed(row)
            expected.append(transform(to_pillow(image)))
            torch.manual_seed(row)
            steps.append(replay_randaugment(ours, slots, level))
    ops, levels, signs = ([[step[i] for step in row] for row in steps] for i in range(3))
    found, _ = both(images, ours, draw_of(ops, levels, signs))
    assert torch.equal(found, stacked(expected))


@pytest.mark.parametrize("kind", tv.AutoAugmentPolicy)
def test_what_autoaugment_draws_is_done_alike(kind: tv.AutoAugmentPolicy, images: Tensor) -> None:
    policy, transform = autoaugment(kind.value), tv.AutoAugment(kind)
    expected, drawn = [], []
    with torch.random.fork_rng():
        for row, image in enumerate(images):
            torch.manual_seed(row)
            expected.append(transform(to_pillow(image)))
            torch.manual_seed(row)
            drawn.append(transform.get_params(25))
    choice = torch.tensor([number for number, _, _ in drawn])
    op, gate = (
        policy.op[choice],
        torch.stack([p for _, p, _ in drawn]) <= policy.probability[choice],
    )
    negative = torch.stack([signs for _, _, signs in drawn]) == 0
    labels = [entry.label.startswith("translate") for entry in policy.space.entries]
    sign = negative != torch.tensor(labels)[op]
    place = torch.full((*op.shape, 2), 0.5, dtype=torch.float64)
    draw = Draw(op, policy.level[choice], gate, sign, place)
    found, _ = both(images, policy.space, draw)
    assert torch.equal(found, stacked(expected))
