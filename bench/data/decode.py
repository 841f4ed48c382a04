"""One encoded image -> uint8 pixels of the wanted size.

Everything that Pillow can open becomes 8-bit gray or RGB:
- EXIF orientation is applied;
- transparent pixels are composited on white, since the colours hidden under them are arbitrary;
- 16-bit values are scaled by 255/65535 and rounded, never clipped.  Pillow's mode `I` counts as
  16-bit (so Pillow itself reads PGM files); floats count as [0, 1] if all of an image's lie there,
  else as [0, 255]; values outside these ranges have no known scale, and are refused;
- the shorter side is resized to fit (bicubic, antialiased), and the centre cropped.
"""

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from bench.data.words import reason

# What Pillow has to say of a damaged image reaches the user in our sentence, not on its own.
logging.getLogger("PIL").addHandler(logging.NullHandler())

Pixels = npt.NDArray[np.uint8]
Raw = Path | bytes | Pixels
"""A file, a file's content, or pixels (C, H, W) with C = 1 or 3."""

# Only formats whose decoders are Pillow's own: .eps would start Ghostscript.
_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PFM"),
    *("PNG", "PPM", "TGA", "TIFF", "WEBP"),
)
_GRAY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's decoders raise on damaged or hostile input.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
    *(ArithmeticError, AssertionError, AttributeError, RuntimeError, MemoryError),
    *(struct.error, zlib.error),
    Image.DecompressionBombError,
)


class Unreadable(Exception):
    """An image cannot be decoded; the message says why, in a few words."""


class Header(NamedTuple):
    """What is known of an image before decoding it: its upright size, and whether it is gray."""

    width: int
    height: int
    gray: bool


class Frame(NamedTuple):
    """The form that all images of a data set are brought to."""

    channels: int
    height: int
    width: int


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Pillow's warnings: large images are refused anyway, broken EXIF harms no pixel."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def header(raw: Raw) -> Header:
    """Reads an image's size and kind without decoding it.

    Raises:
        Unreadable: It is no image, or too large.
    """
    if isinstance(raw, np.ndarray):
        return Header(raw.shape[2], raw.shape[1], len(raw) == 1)
    try:
        with _open(raw) as image:
            width, height = image.size
            if _orientation(image) >= 5:
                width, height = height, width
            return Header(width, height, image.mode in _GRAY)
    except _DAMAGE as error:
        raise Unreadable(reason(error)) from error


def decode(raw: Raw, frame: Frame) -> Pixels:
    """Decodes an image to the frame's channels and size.

    Returns:
        (C, H, W) uint8.

    Raises:
        Unreadable: It is no image, damaged, too large, or holds values without a known scale.
    """
    try:
        if isinstance(raw, np.ndarray):
            image = Image.fromarray(raw[0] if len(raw) == 1 else raw.transpose(1, 2, 0))
        else:
            with _open(raw) as opened:
                turn = _TURN.get(_orientation(opened))
                image = _flat(opened)
            image = image if turn is None else image.transpose(turn)
        image = cover(image.convert("L" if frame.channels == 1 else "RGB"), frame)
    except _DAMAGE as error:
        raise Unreadable(reason(error)) from error
    pixels = np.asarray(image)
    return pixels[None] if frame.channels == 1 else pixels.transpose(2, 0, 1)


def cover(image: Image.Image, frame: Frame) -> Image.Image:
    """Resizes an image until it just covers the frame, and crops the centre.

    Equal to resizing the whole image and cropping, but never computes what is cropped away: an
    image of 1 × 50,000 pixels would otherwise grow to hundreds of megabytes.
    """
    width, height = image.size
    if (width, height) == (frame.width, frame.height):
        return image
    scale = max(frame.width / width, frame.height / height)
    full_width = max(frame.width, round(width * scale))
    full_height = max(frame.height, round(height * scale))
    left, top = (full_width - frame.width) // 2, (full_height - frame.height) // 2
    box = (
        left * width / full_width,
        top * height / full_height,
        (left + frame.width) * width / full_width,
        (top + frame.height) * height / full_height,
    )
    return image.resize((frame.width, frame.height), Image.Resampling.BICUBIC, box=box)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(raw: Path | bytes) -> Image.Image:
    image = Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw, formats=_formats())
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        image.close()
        raise ValueError(f"{pixels} pixels are over Pillow's limit of {limit}")
    return image


def _orientation(image: Image.Image) -> int:
    # Pillow turns TIFF files itself, size included.  A PNG without an EXIF header would be decoded
    # whole in search of one at its end.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if isinstance(orientation, int) else 1


def _flat(image: Image.Image) -> Image.Image:
    """Decodes to an opaque 8-bit image, gray (`L`) or RGB."""
    gray = image.mode in _GRAY
    if image.mode.startswith("I"):
        return Image.fromarray(_from_integers(np.asarray(image)))
    if image.mode == "F":
        return Image.fromarray(_from_floats(np.asarray(image)))
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        image = Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("L" if gray else "RGB")


def _from_integers(values: npt.NDArray[np.generic]) -> Pixels:
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError("its integer values lie outside 0..65535")
    return ((wide * 255 + 32767) // 65535).astype(np.uint8)


def _from_floats(values: npt.NDArray[np.floating]) -> Pixels:
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 255:  # also False for NaN
        raise ValueError("its floating-point values lie outside 0..255")
    pixels: Pixels = np.rint(values * (255 if high <= 1 else 1)).astype(np.uint8)
    return pixels
