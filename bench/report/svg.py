"""Pieces of SVG pictures: text, heat maps, the page around them.  Nothing comes from elsewhere."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.float64]
WIDTH = 960
PALE = 'fill="#57606a"'
RIGHT, MIDDLE = 'text-anchor="end"', 'text-anchor="middle"'
NOTHING = 255.0  # white: no value
# From pale to dark, readable in grey: the ends and middle of a single blue hue.
COLOURS = np.array([[247, 251, 255], [107, 174, 214], [8, 48, 107]], dtype=np.float64)


def page(parts: Sequence[str], height: float) -> str:
    """A whole picture of this height, white below its parts."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" font-size="11" '
        'fill="#1f2328">\n'
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def text(x: float, y: float, words: str, style: str = "") -> str:
    """Words whose first letter stands on (x, y)."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def heading(words: str) -> str:
    """A title at the top of the page."""
    return text(12, 22, words, 'font-size="14" font-weight="bold"')


def heat(values: Array, low: float, high: float, box: tuple[float, ...], pixels: int = 1) -> str:
    """A matrix (rows, columns) as an embedded picture, pale at `low` and dark at `high`.

    Args:
        values: NaN is white.
        low: End of the scale.
        high: Other end.
        box: x, y, width and height.
        pixels: Side of a value's square in the embedded picture.
    """
    share = (values - low) / max(high - low, 1e-300) * (len(COLOURS) - 1)
    at = np.clip(np.nan_to_num(share).astype(int), 0, len(COLOURS) - 2)
    mixed = COLOURS[at] + (COLOURS[at + 1] - COLOURS[at]) * (share - at)[..., None]
    mixed = np.where(np.isnan(share)[..., None], NOTHING, mixed)
    buffer = io.BytesIO()
    mixed = mixed.repeat(pixels, 0).repeat(pixels, 1)
    Image.fromarray(mixed.round().astype(np.uint8)).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    x, y, width, height = box
    return (
        f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        'preserveAspectRatio="none" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{data}"/>'
    )
