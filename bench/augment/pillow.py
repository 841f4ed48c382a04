"""The operations on one Pillow image: the reference that the engine equals, bit for bit.

Exported policies run on it inside an ordinary data loader, and the tests hold the engine against
it.  Each operation is the Pillow call that the catalogue names.
"""

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from bench.augment.engine import BLACK, Fill, Program
from bench.augment.operations import INDEX, OPERATIONS

Affine = tuple[float, float, float, float, float, float]
Place = Sequence[float]


def execute(image: Image.Image, program: Program, row: int, fill: Fill = BLACK) -> Image.Image:
    """Applies one row of a program to an image of mode L or RGB; returns a new image."""
    out = image.copy()
    for operation, magnitude, place in zip(
        program.operation[row].tolist(),
        program.magnitude[row].tolist(),
        program.place[row].tolist(),
        strict=True,
    ):
        out = apply(out, OPERATIONS[operation].name, magnitude, place, fill)
    return out


def apply(
    image: Image.Image,
    name: str,
    magnitude: float = 0.0,
    place: Place = (0.5, 0.5),
    fill: Fill = BLACK,
) -> Image.Image:
    """Applies one operation at a signed magnitude in its unit (see `operations`)."""
    if OPERATIONS[INDEX[name]].unit is not None and magnitude == 0:
        return image
    if name in WARPS:
        return _warped(image, WARPS[name](magnitude), _colour(fill.outside, image))
    if name == "rotate":
        colour = _colour(fill.outside, image)
        return image.rotate(magnitude, Image.Resampling.NEAREST, fillcolor=colour)
    if name == "cutout":
        return _cutout(image, magnitude, place, _colour(fill.hole, image))
    if name in ENHANCERS:
        return ENHANCERS[name](image).enhance(1 + magnitude)
    return SIMPLE[name](image, magnitude)


def _warped(image: Image.Image, matrix: Affine, colour: int | tuple[int, ...]) -> Image.Image:
    nearest = Image.Resampling.NEAREST
    affine = Image.Transform.AFFINE
    return image.transform(image.size, affine, matrix, nearest, fillcolor=colour)


def _posterize(image: Image.Image, removed: float) -> Image.Image:
    bits = 8 - int(removed)
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


def _solarize_add(image: Image.Image, amount: float) -> Image.Image:
    table = [min(255, value + int(amount)) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _cutout(
    image: Image.Image, side: float, place: Place, colour: int | tuple[int, ...]
) -> Image.Image:
    width, height = image.size
    left = int(max(0.0, place[0] * width - side / 2.0))
    top = int(max(0.0, place[1] * height - side / 2.0))
    out = image.copy()
    corners = (left, top, min(width, left + side), min(height, top + side))
    ImageDraw.Draw(out).rectangle(corners, colour)
    return out


def _colour(fill: tuple[int, ...], image: Image.Image) -> int | tuple[int, ...]:
    bands = len(image.getbands())
    if bands == 1:
        return fill[0]
    return fill if len(fill) == bands else (fill[0],) * bands


WARPS: dict[str, Callable[[float], Affine]] = {
    "shear-x": lambda m: (1, m, 0, 0, 1, 0),
    "shear-y": lambda m: (1, 0, 0, m, 1, 0),
    "translate-x": lambda m: (1, 0, m, 0, 1, 0),
    "translate-y": lambda m: (1, 0, 0, 0, 1, m),
}
ENHANCERS: dict[str, Callable[[Image.Image], ImageEnhance._Enhance]] = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}
SIMPLE: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, m: image,
    "flip-lr": lambda image, m: ImageOps.mirror(image),
    "flip-ud": lambda image, m: ImageOps.flip(image),
    "invert": lambda image, m: ImageOps.invert(image),
    "solarize": lambda image, m: ImageOps.solarize(image, 256 - m),  # type: ignore[arg-type]
    "posterize": _posterize,
    "solarize-add": _solarize_add,
    "autocontrast": lambda image, m: ImageOps.autocontrast(image),
    "equalize": lambda image, m: ImageOps.equalize(image),
    "smooth": lambda image, m: image.filter(ImageFilter.SMOOTH),
    "blur": lambda image, m: image.filter(ImageFilter.BLUR),
}
