"""The papers' spaces: all levels of all rows against the references' own Python formulas."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from bench.augment.operations import INDEX, OPERATIONS
from bench.augment.space import GRID, Space
from bench.augment.spaces import SPACES, space
from bench.catalogue import catalogue
from bench.errors import ConfigError
from bench.rng import generator

Formula = Callable[[float], float]
ENHANCERS = ("color", "contrast", "brightness", "sharpness")
SHEARS = ("shear-x", "shear-y")
SHIFTS = ("translate-x", "translate-y")


def magnitudes(of: Space, label: str, levels: list[float], side: int = 32) -> list[float]:
    level = torch.tensor(levels, dtype=torch.float64)
    op = torch.full(level.shape, of.index(label))
    return of.magnitude(op, level, side).tolist()


# The formulas of google_augmentations.py and aug_lib.py, in terms of what Pillow is called with.


def float_parameter(level: float, most: float, top: int = 30) -> float:
    return float(level) * most / top


def int_parameter(level: float, most: float, top: int = 30) -> int:
    return int(level * most / top)


def library(
    shear: float, translate: float, rotate: int, bits: tuple[int, int], low: float, high: float
) -> dict[str, Formula]:
    """Operation -> what Pillow gets: slope, pixels, degrees, threshold, bits or factor."""
    factor = dict.fromkeys(ENHANCERS, lambda k: float_parameter(k, high - low) + low)
    return {
        **dict.fromkeys(SHEARS, lambda k: float_parameter(k, shear)),
        **dict.fromkeys(SHIFTS, lambda k: int_parameter(k, translate)),
        "rotate": lambda k: int_parameter(k, rotate),
        "solarize": lambda k: 256 - int_parameter(k, 256),
        "posterize": lambda k: bits[1] - int_parameter(k, bits[1] - bits[0]),
        **factor,
    }


def argument(name: str, magnitude: float) -> float:
    """What Pillow is called with at a magnitude (see `bench.augment.pillow`)."""
    if name in ENHANCERS:
        return 1 + magnitude
    return {"solarize": 256 - magnitude, "posterize": 8 - magnitude}.get(name, magnitude)


LIBRARY = {
    "randaugment": library(0.3, 14.4, 30, (4, 8), 0.1, 1.9),
    "wide-long": library(0.99, 32, 135, (2, 8), 0.01, 2.0)
    | {"cutout": lambda k: int_parameter(k, 32 * 0.6)},
    "trivialaugment-wide": library(0.99, 32, 135, (2, 8), 0.01, 2.0),
    "trivialaugment-narrow": library(0.3, 10, 30, (4, 8), 0.1, 1.9),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_ranges_of_the_library_of_gar_and_trivialaugment(name: str) -> None:
    found = space(name)
    assert found.top == 30
    assert found.signed
    for label, formula in LIBRARY[name].items():
        levels = [float(k) for k in range(31)]
        for level, magnitude in zip(levels, magnitudes(found, label, levels), strict=True):
            expected, used = formula(level), argument(label, magnitude)
            if label in ENHANCERS:  # Pillow rounds factors to single precision
                assert np.float32(used) == np.float32(expected)
            else:
                assert used == expected, (label, level)
    plain = {entry.operation for entry in found.entries} - set(LIBRARY[name])
    assert all(OPERATIONS[INDEX[operation]].unit is None for operation in plain)


def test_the_operations_of_randaugment_and_wide_long() -> None:
    narrow = [entry.operation for entry in space("randaugment").entries]
    assert len(narrow) == 14
    assert narrow[0] == "identity"
    wide = [entry.operation for entry in space("wide-long").entries]
    assert wide == [*narrow, "blur", "invert", "flip-lr", "flip-ud", "cutout"]


def test_pixels_scale_with_the_side() -> None:
    assert magnitudes(space("randaugment"), "translate-x", [30], 64) == [28]
    assert magnitudes(space("wide-long"), "cutout", [30], 224) == [134]


def test_the_elements_of_ohl() -> None:
    found = space("ohl")
    assert len(found) == 36
    expected = {
        **{f"{name} {v}": v for name in SHEARS for v in (0.1, 0.2, 0.3)},
        **{f"{name} {v}": v * 32 for name in SHIFTS for v in (0.15, 0.3, 0.45)},
        **{f"rotate {v}": v for v in (10, 20, 30)},
        **{f"color {v}": v - 1 for v in (0.3, 0.6, 0.9)},
        **{f"{name} {v}": v - 1 for name in ENHANCERS[1:] for v in (1.3, 1.6, 1.9)},
        **{f"posterize {v}": 8 - int(v) for v in (4.4, 5.6, 6.8)},
        **{f"solarize {v}": 256 - v for v in (26, 102, 179)},
        **dict.fromkeys(("autocontrast", "equalize", "invert"), 0),
    }
    assert {entry.label for entry in found.entries} == set(expected)
    for label, value in expected.items():
        assert magnitudes(found, label, [0, 0.3, 1]) == pytest.approx([value] * 3, abs=1e-6)


def test_pba_has_hbas_ranges() -> None:
    found = space("pba")
    assert len(found) == 15
    high = dict.fromkeys(SHEARS, 0.3) | dict.fromkeys(SHIFTS, 14.4) | dict.fromkeys(ENHANCERS, 0.9)
    high |= {"rotate": 30, "solarize": 255, "posterize": 8, "cutout": 6.4}
    for label, value in high.items():
        low = -0.9 if label in ENHANCERS else 0
        assert magnitudes(found, label, [0, 1]) == pytest.approx([low, value])
    bits = magnitudes(found, "posterize", [0.12, 0.126, 0.99])
    assert bits == [0, 1, 7]


def test_pba_raw_has_pillows_arguments() -> None:
    found = space("pba-raw")
    levels = torch.linspace(0.0013, 0.9987, 501, dtype=torch.float64).tolist()
    for label, formula in {
        "solarize": lambda v: 255 * v,
        "posterize": lambda v: int(8 * v),
    }.items():
        used = [argument(label, m) for m in magnitudes(found, label, levels)]
        assert used == pytest.approx([formula(level) for level in levels])
    assert magnitudes(found, "posterize", [0, 0.05, 1]) == [8, 8, 0]
    same = [entry for entry in found.entries if entry.operation not in ("solarize", "posterize")]
    assert all(entry in space("pba").entries for entry in same)


def test_pba_centred_is_weak_at_low_levels() -> None:
    found = space("pba-centred")
    for label in ENHANCERS:
        assert magnitudes(found, label, [0, 1]) == pytest.approx([0, 0.9])
    same = [entry for entry in found.entries if entry.operation not in ENHANCERS]
    assert all(entry in space("pba").entries for entry in same)


def test_uniformaugment_keeps_as_many_bits_as_its_reference() -> None:
    values = np.linspace(4, 8, 4001)[1:-1]
    values = values[values % 1 > 0]
    levels = ((8 - values) / 4).tolist()
    removed = magnitudes(space("uniformaugment"), "posterize", levels)
    assert [8 - m for m in removed] == [int(v) for v in values]
    continuous = magnitudes(space("uniformaugment"), "translate-y", [0.1, 1])
    assert continuous == pytest.approx([1.44, 14.4])


def test_augmix_has_its_references_formulas() -> None:
    found = space("augmix")
    levels = [0.1, 0.5, 1.0, 2.5, 2.6, 3.0, 4.9, 5.0, 7.3, 10.0]
    formulas: dict[str, Formula] = {
        "posterize": lambda v: 4 - int_parameter(v, 4, 10),
        "rotate": lambda v: int_parameter(v, 30, 10),
        "solarize": lambda v: 256 - int_parameter(v, 256, 10),
        **dict.fromkeys(SHEARS, lambda v: float_parameter(v, 0.3, 10)),
        **dict.fromkeys(SHIFTS, lambda v: int_parameter(v, 32 / 3, 10)),
    }
    for label, formula in formulas.items():
        used = [argument(label, m) for m in magnitudes(found, label, levels)]
        assert used == [formula(v) for v in levels]
    assert len(found) == 9


def test_autodo() -> None:
    found = space("autodo")
    plain = ["identity", "autocontrast", "equalize", "invert"]
    assert sorted(entry.operation for entry in found.entries) == sorted(
        [*plain, "color", "sharpness"]
    )
    for label in ("color", "sharpness"):
        assert magnitudes(found, label, [0, 15, 30]) == pytest.approx([-0.9, 0, 0.9])
    assert not found.has_sign.any()  # its warps are `PerPoint`'s


@pytest.mark.parametrize("name", SPACES)
def test_a_space_is_in_order(name: str) -> None:
    found = space(name)
    assert found.name == name
    assert found.source
    labels = [entry.label for entry in found.entries]
    assert len(set(labels)) == len(labels)
    for entry in found.entries:
        operation = OPERATIONS[INDEX[entry.operation]]
        if operation.unit is None:
            assert (entry.low, entry.high) == (0, 0)
        for side in (8, 32, 224):
            top = magnitudes(found, entry.label, [0, found.top], side)
            assert all(operation.low <= value <= operation.high for value in top)
            assert all(math.isfinite(value) for value in top)


def test_signs_are_drawn_for_warps_and_where_a_row_says_so() -> None:
    for name, found in SPACES.items():
        warps = {*SHEARS, *SHIFTS, "rotate"} if found.signed else set()
        both = name.startswith("torchvision") or name in ("autoaugment", "pba-centred")
        more = set(ENHANCERS) if both else set()
        signed = {e.operation for e, has in zip(found.entries, found.has_sign, strict=True) if has}
        assert signed == (warps | more) & {entry.operation for entry in found.entries}


def test_an_unknown_space_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^space 'wide': there are randaugment, .*augmix$"):
        space("wide")


def test_the_catalogue_lists_spaces() -> None:
    listed = dict(catalogue("spaces", {}))
    assert list(listed) == list(SPACES)
    assert listed["ohl"].startswith("36 operations, ")
    assert "levels 0..30" in listed["randaugment"]


@pytest.mark.parametrize("name", SPACES)
def test_smooth_magnitudes_let_the_gradient_through_and_the_cuts_are_near(name: str) -> None:
    found = space(name)
    op = torch.arange(len(found))
    level = torch.full((len(found),), 0.37 * found.top, dtype=torch.float64, requires_grad=True)
    smooth = found.magnitude(op, level, 32, smooth=True)
    (gradient,) = torch.autograd.grad(smooth.sum(), level)
    for entry, slope in zip(found.entries, gradient.tolist(), strict=True):
        length = 32 if entry.side else 1
        assert slope == pytest.approx((entry.high - entry.low) * length / found.top)
    assert (smooth - found.magnitude(op, level, 32)).abs().max() < 1


@pytest.mark.parametrize("name", ["randaugment", "uniformaugment", "ohl"])
def test_translations_lie_on_a_grid_where_pillows_sums_are_exact(name: str) -> None:
    found = space(name)
    rows = [i for i, entry in enumerate(found.entries) if entry.operation == "translate-x"]
    op = torch.tensor(rows).repeat_interleave(1000)
    level = found.top * torch.rand(len(op), generator=generator("grid"), dtype=torch.float64)
    magnitude = found.magnitude(op, level, 33)
    assert torch.equal(magnitude * GRID, (magnitude * GRID).round())
    assert torch.equal(magnitude + 1.0 - 1.0, magnitude)
