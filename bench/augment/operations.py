"""The catalogue of image operations: names, units, and what magnitude 0 means.

A magnitude of 0 leaves the image as it is, for every operation that has one; a space (`spaces`)
maps its levels to these units.  The engine groups operations by family, since operations of one
family share a kernel.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Family(IntEnum):
    """Which kernel carries an operation out, in the order in which the engine sorts images."""

    NOTHING = 0
    GEOMETRY = 1
    BITS = 2
    TABLE = 3
    BLEND = 4
    FILTER = 5
    ERASE = 6


@dataclass(frozen=True)
class Operation:
    """An image operation.

    Attributes:
        name: As it stands in spaces, records and pictures.
        family: Its kernel.
        unit: The unit of its magnitude; None for an operation without one.
        low: Least magnitude that the operation is defined for.
        high: Greatest one.
        signed: Whether papers flip the sign of its magnitude at random.
        meaning: What it does, in terms of Pillow.
    """

    name: str
    family: Family
    unit: str | None
    low: float
    high: float
    signed: bool
    meaning: str


def _plain(name: str, family: Family, meaning: str) -> Operation:
    return Operation(name, family, None, 0.0, 0.0, False, meaning)


def _factor(name: str, family: Family) -> Operation:
    meaning = f"ImageEnhance.{name.capitalize()} with the factor 1 + magnitude"
    return Operation(name, family, "factor - 1", -100.0, 100.0, False, meaning)


def _warp(name: str, unit: str, limit: float, meaning: str) -> Operation:
    return Operation(name, Family.GEOMETRY, unit, -limit, limit, True, meaning)


# The order is that of the numbers in native.c.
OPERATIONS: tuple[Operation, ...] = (
    _plain("identity", Family.NOTHING, "the image itself"),
    _warp("shear-x", "slope", 8.0, "Image.transform, AFFINE (1, m, 0, 0, 1, 0), nearest"),
    _warp("shear-y", "slope", 8.0, "Image.transform, AFFINE (1, 0, 0, m, 1, 0), nearest"),
    _warp("translate-x", "pixels", 4096.0, "AFFINE (1, 0, m, 0, 1, 0): content moves left by m"),
    _warp("translate-y", "pixels", 4096.0, "AFFINE (1, 0, 0, 0, 1, m): content moves up by m"),
    _warp("rotate", "degrees", 360.0, "Image.rotate(m), counter-clockwise, nearest"),
    _plain("flip-lr", Family.GEOMETRY, "ImageOps.mirror"),
    _plain("flip-ud", Family.GEOMETRY, "ImageOps.flip"),
    _plain("invert", Family.BITS, "ImageOps.invert"),
    Operation(
        *("solarize", Family.BITS, "256 - threshold", 0.0, 256.0, False),
        "ImageOps.solarize with the threshold 256 - m",
    ),
    Operation(
        *("posterize", Family.BITS, "bits removed", 0.0, 8.0, False),
        "ImageOps.posterize to 8 - m bits; at m = 8 a black image, which Pillow refuses",
    ),
    Operation(
        *("solarize-add", Family.BITS, "grey levels", 0.0, 255.0, False),
        "adds m to values below 128, saturating (not in Pillow; TensorFlow's solarize_add)",
    ),
    _plain("autocontrast", Family.TABLE, "ImageOps.autocontrast"),
    _plain("equalize", Family.TABLE, "ImageOps.equalize"),
    _factor("brightness", Family.BLEND),
    _factor("contrast", Family.BLEND),
    _factor("color", Family.BLEND),
    _factor("sharpness", Family.BLEND),
    _plain("smooth", Family.FILTER, "Image.filter(ImageFilter.SMOOTH)"),
    _plain("blur", Family.FILTER, "Image.filter(ImageFilter.BLUR)"),
    Operation(
        *("cutout", Family.ERASE, "pixels", 0.0, 4096.0, False),
        "ImageDraw.rectangle, both ends included: a square of m + 1 pixels around a random centre",
    ),
)

INDEX: dict[str, int] = {operation.name: i for i, operation in enumerate(OPERATIONS)}
IDENTITY = INDEX["identity"]
NAMES = np.array([operation.name for operation in OPERATIONS])
FAMILY = np.array([int(operation.family) for operation in OPERATIONS])
HAS_MAGNITUDE = np.array([operation.unit is not None for operation in OPERATIONS])
LEAST = np.array([operation.low for operation in OPERATIONS])
MOST = np.array([operation.high for operation in OPERATIONS])
