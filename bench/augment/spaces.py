"""The papers' search spaces, as data: which operations, how strong at which level, says who.

Where a paper cuts a magnitude to a whole number, or does not, its rows do the same; `Space` works
in the order of the references (range × level / top), so that the cuts agree to the integer.
Lengths that were published in pixels of a 32×32 image are shares of the side here, and equal the
paper's at 32×32.  All warps are nearest-neighbour, whatever the paper used.
"""

from collections.abc import Sequence
from dataclasses import replace

from bench.augment.space import Entry, Space, Whole
from bench.errors import ConfigError

Rows = dict[str, Entry]
Pair = tuple[float, float]
Warps = tuple[float, float, float]

SHIFTS = ("translate-x", "translate-y")
TRIVIAL = (
    "identity autocontrast equalize rotate solarize color posterize contrast brightness sharpness "
    "shear-x shear-y translate-x translate-y"
)
AUTO = (
    "shear-x shear-y translate-x translate-y rotate brightness color contrast sharpness posterize "
    "solarize autocontrast equalize"
)
AUGMIX = "autocontrast equalize posterize rotate solarize shear-x shear-y translate-x translate-y"
PBA = (
    "shear-x shear-y translate-x translate-y rotate autocontrast invert equalize solarize "
    "posterize contrast color brightness sharpness cutout"
)


def space(name: str) -> Space:
    """The space of this name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in SPACES:
        raise ConfigError(f"space {name!r}: there are {', '.join(SPACES)}")
    return SPACES[name]


def _table(names: str, ranges: Rows) -> tuple[Entry, ...]:
    return tuple(ranges.get(name, Entry(name)) for name in names.split())


def _warps(shear: float, translate: float, rotate: float) -> Rows:
    """Slopes, shares of the side, degrees."""
    shears = {name: Entry(name, 0.0, shear) for name in ("shear-x", "shear-y")}
    shifts = {name: Entry(name, 0.0, translate, side=True) for name in SHIFTS}
    return shears | shifts | {"rotate": Entry("rotate", 0.0, rotate)}


def _tones(solarize: Pair, posterize: Pair) -> Rows:
    """256 - threshold, and bits removed."""
    pairs = {"solarize": solarize, "posterize": posterize}
    return {name: Entry(name, *pair) for name, pair in pairs.items()}


def _enhancers(low: float, high: float, signed: bool = False) -> Rows:
    """Factors from 1 + low to 1 + high, or 1 ± those."""
    names = ("color", "contrast", "brightness", "sharpness")
    return {name: Entry(name, low, high, signed=signed) for name in names}


def _cutout(share: float) -> Rows:
    return {"cutout": Entry("cutout", 0.0, share, side=True)}


def _whole(rows: Rows, how: Whole, *names: str) -> Rows:
    """The rows, some of them with whole magnitudes."""
    return rows | {name: replace(rows[name], whole=how) for name in names}


def _library(warps: Warps, bits: float, factors: Pair, cutout: float = 0.2) -> Rows:
    """Ranges in the style of the library that GAR and TrivialAugment share."""
    rows = _warps(*warps) | _tones((0.0, 256.0), (0.0, bits)) | _enhancers(*factors)
    names = (*SHIFTS, "rotate", "solarize", "posterize", "cutout")
    return _whole(rows | _cutout(cutout), "truncated", *names)


def _torchvision(warps: Warps, bits: float, factor: float) -> Rows:
    """Ranges in torchvision's style: whole pixels, rounded bits, thresholds from 255 down."""
    rows = _warps(*warps) | _tones((1.0, 256.0), (0.0, bits)) | _enhancers(0.0, factor, True)
    return _whole(_whole(rows, "truncated", *SHIFTS), "rounded", "posterize")


def _fixed(
    operation: str, shown: Sequence[float], magnitudes: Sequence[float] = (), side: bool = False
) -> tuple[Entry, ...]:
    """One row for each of a paper's magnitudes, whatever the level; named as the paper has it."""
    return tuple(
        Entry(operation, magnitude, magnitude, side=side, name=f"{operation} {value:g}")
        for value, magnitude in zip(shown, magnitudes or shown, strict=True)
    )


MORE = (1.3, 1.6, 1.9)
OHL = (
    *_fixed("shear-x", (0.1, 0.2, 0.3)),
    *_fixed("shear-y", (0.1, 0.2, 0.3)),
    *_fixed("translate-x", (0.15, 0.3, 0.45), side=True),
    *_fixed("translate-y", (0.15, 0.3, 0.45), side=True),
    *_fixed("rotate", (10, 20, 30)),
    *_fixed("color", (0.3, 0.6, 0.9), (-0.7, -0.4, -0.1)),
    *_fixed("posterize", (4.4, 5.6, 6.8), (4, 3, 2)),
    *_fixed("solarize", (26, 102, 179), (230, 154, 77)),
    *_fixed("contrast", MORE, (0.3, 0.6, 0.9)),
    *_fixed("sharpness", MORE, (0.3, 0.6, 0.9)),
    *_fixed("brightness", MORE, (0.3, 0.6, 0.9)),
    *_table("autocontrast equalize invert", {}),
)
NARROW = _library((0.3, 0.45, 30.0), 4.0, (-0.9, 0.9))
WIDE = _library((0.99, 1.0, 135.0), 6.0, (-0.99, 1.0), 0.6)
TRIVIAL_NARROW = _library((0.3, 10 / 32, 30.0), 4.0, (-0.9, 0.9))
TORCHVISION = _torchvision((0.3, 150 / 331, 30.0), 4.0, 0.9)
TORCHVISION_WIDE = _torchvision((0.99, 1.0, 135.0), 6.0, 0.99)
CONTINUOUS = _warps(0.3, 0.45, 30.0) | _enhancers(-0.9, 0.9) | _cutout(0.2)
# int(v) of v uniform in 4..8 keeps 4, 5, 6 or 7 bits, each a quarter of the time: round(8.5 - v).
UNIFORM = _whole(CONTINUOUS | _tones((0.0, 256.0), (0.5, 4.5)), "rounded", "posterize")
POPULATION = _whole(CONTINUOUS | _tones((0.0, 255.0), (0.0, 8.0)), "truncated", "posterize")
# Pillow's own arguments: bits kept are int(8 · level), thresholds rise from 0 to 255.
RAW = _whole(CONTINUOUS | _tones((256.0, 1.0), (8.5, 0.5)), "rounded", "posterize")
CENTRED = POPULATION | _enhancers(0.0, 0.9, True)
MIXED = _warps(0.3, 1 / 3, 30.0) | _tones((0.0, 256.0), (4.0, 8.0))

_SPACES = (
    Space(
        "randaugment",
        _table(TRIVIAL, NARROW),
        top=30,
        signed=True,
        source="RandAugment (Cubuk et al., 2020) with the ranges of GAR's code; 'randaug' in "
        "SamuelGabriel/pytorch-randaugment, google_augmentations.py.  Enhancers run from factor "
        "0.1 to 1.9, so level 15 is the identity; translations up to 14.4 pixels of 32; "
        "rotations and translations are cut to whole numbers.",
    ),
    Space(
        "torchvision-randaugment",
        _table(f"identity {AUTO}", TORCHVISION),
        top=30,
        signed=True,
        source="torchvision's RandAugment; rows in its order.  Enhancers are 1 ± 0.03 · level, "
        "the threshold of solarize falls from 255, bits are rounded, translations reach 150/331 "
        "of the side.  For the same sign torchvision translates the other way.",
    ),
    Space(
        "wide-long",
        _table(f"{TRIVIAL} blur invert flip-lr flip-ud cutout", WIDE),
        top=30,
        signed=True,
        source="GAR, Table 3 (WideLong), with the ranges of its code; 'wide' and 'long' in "
        "SamuelGabriel/pytorch-randaugment, google_augmentations.py, since rows of the table are "
        "shifted.  Enhancers run from factor 0.01 to 2; translations up to 32 pixels of 32, "
        "Cutout up to int(19.2) pixels.",
    ),
    Space(
        "ohl",
        OHL,
        top=1,
        signed=True,
        source="OHL-Auto-Aug, Table 1; 36 elements of one strength each.  Settled here: signs, "
        "which it does not mention, are random as in AutoAugment; bits are cut to whole numbers, "
        "as Pillow needs them; translations are not.",
    ),
    Space(
        "ohl-unsigned",
        OHL,
        top=1,
        signed=False,
        source="OHL-Auto-Aug, Table 1, as `ohl` but without signs.",
    ),
    Space(
        "pba",
        _table(PBA, POPULATION),
        top=1,
        signed=True,
        source="HBA, Table 7: PBA's operations at continuous levels; higher is stronger, so "
        "solarize inverts from 256 - 255 · level up and posterize removes int(8 · level) bits.  "
        "Enhancers run from factor 0.1 to 1.9: both ends are strong.  PBA's own code has levels "
        "0..9 of 10, translates by up to 10 pixels, cuts to whole pixels and degrees, and keeps "
        "4 - int(0.4 · level) bits.",
    ),
    Space(
        "pba-raw",
        _table(PBA, RAW),
        top=1,
        signed=True,
        source="HBA, Table 7, taken at its word: a magnitude is what Pillow is called with, so "
        "solarize has the threshold 255 · level and posterize keeps int(8 · level) bits; the "
        "lowest levels of both are the strongest.",
    ),
    Space(
        "pba-centred",
        _table(PBA, CENTRED),
        top=1,
        signed=True,
        source="HBA, Table 7, as `pba`, but enhancers are 1 ± 0.9 · level, so that low levels of "
        "them are weak too.",
    ),
    Space(
        "autodo",
        _table("identity autocontrast equalize invert color sharpness", _enhancers(-0.9, 0.9)),
        top=30,
        signed=True,
        source="AutoDO's operations that it does not learn; sub_augment_list in "
        "gudovskiy/autodo, rand_augment.py.  It draws levels uniformly from 0..m, so m = 15 only "
        "takes colour and sharpness away.",
    ),
    Space(
        "trivialaugment-wide",
        _table(TRIVIAL, WIDE),
        top=30,
        signed=True,
        source="TrivialAugment (Müller and Hutter, 2021), wide; 'wide_standard' in "
        "automl/trivialaugment, aug_lib.py.  Translations up to 32 pixels of 32.",
    ),
    Space(
        "trivialaugment-narrow",
        _table(TRIVIAL, TRIVIAL_NARROW),
        top=30,
        signed=True,
        source="TrivialAugment (Müller and Hutter, 2021), RandAugment's ranges; 'fixed_standard' "
        "in automl/trivialaugment, aug_lib.py.  Translations up to 10 pixels of 32.",
    ),
    Space(
        "torchvision-trivialaugment-wide",
        _table(f"identity {AUTO}", TORCHVISION_WIDE),
        top=30,
        signed=True,
        source="torchvision's TrivialAugmentWide; rows in its order.  Differs from "
        "trivialaugment-wide in enhancers (1 ± 0.033 · level), thresholds from 255, rounded bits "
        "and rotations that are not cut.  For the same sign torchvision translates the other way.",
    ),
    Space(
        "uniformaugment",
        _table(f"identity {PBA}", UNIFORM),
        top=1,
        signed=True,
        source="UniformAugment (LingChen et al., 2020) with GAR's list of 16; ranges and "
        "continuous levels of tgilewicz/uniformaugment, augmentations.py, which has no identity.  "
        "Nothing is cut but bits: 4 to 7 are kept.",
    ),
    Space(
        "autoaugment",
        _table(f"{AUTO} invert cutout", TORCHVISION | _cutout(60 / 331)),
        top=9,
        signed=True,
        source="AutoAugment (Cubuk et al., 2019), appendix, with torchvision's magnitudes; 15 of "
        "its 16 operations, since sample pairing needs a second image.  Enhancers are 1 ± 0.1 · "
        "level, bits are rounded, Cutout's 60 pixels of 331 are a share of the side.",
    ),
    Space(
        "augmix",
        _table(AUGMIX, _whole(MIXED, "truncated", *SHIFTS, "rotate", "solarize", "posterize")),
        top=10,
        signed=True,
        source="AugMix (Hendrycks et al., 2020); the 9 operations of google-research/augmix, "
        "augmentations.py, which draws continuous levels and keeps 4 - int(0.4 · level) bits, so "
        "that even level 0 removes four.  Warps are bilinear there.",
    ),
)
SPACES: dict[str, Space] = {space.name: space for space in _SPACES}
