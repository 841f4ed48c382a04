"""Cutout: a square of each image takes a fill colour."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.augment.geometry import Frame

Tensor = torch.Tensor


def cutout(images: Tensor, side: Tensor, centre: Tensor, fill: Sequence[int] = (0,)) -> Tensor:
    """Fills a square around a centre, as Pillow's rectangle draws it: both ends included.

    Args:
        images: (B, C, H, W) uint8.
        side: (B,) float64 on the host, in pixels; a square of side + 1 pixels where it fits, none
            where the side is 0.
        centre: (B, 2) float64 on the host: x and y as shares of width and height, in [0, 1).
        fill: One value, or one per channel.

    Source: the policy operation of AutoAugment's descendants; the square starts at
    int(max(0, centre - side / 2)), is clipped on the far side, and truncated.
    """
    box = boxes(side.numpy(), centre.numpy(), Frame(*images.shape[-2:]))
    return fill_boxes(images, box, fill)


def boxes(
    side: NDArray[np.float64], centre: NDArray[np.float64], frame: Frame
) -> NDArray[np.int64]:
    """First and last column, first and last row of the squares, (4, B); empty where side is 0."""
    spans = []
    for axis, length in enumerate((frame.width, frame.height)):
        first = np.trunc(np.maximum(0.0, centre[:, axis] * length - side / 2.0))
        last = np.trunc(np.minimum(float(length), first + side))
        spans += [first, np.where(side > 0, last, first - 1)]
    return np.stack(spans).astype(np.int64)


def fill_boxes(images: Tensor, box: NDArray[np.integer[Any]], fill: Sequence[int]) -> Tensor:
    """Fills boxes (4, B), all ends included, with one value or one per channel."""
    channels, height, width = images.shape[1:]
    ends = torch.from_numpy(box.astype(np.int32)).to(images.device, non_blocking=True)
    left, right, top, bottom = ends.view(4, -1, 1)
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    y = torch.arange(height, dtype=torch.int32, device=images.device)
    columns = ((x >= left) & (x <= right)).view(-1, 1, 1, width)
    rows = ((y >= top) & (y <= bottom)).view(-1, 1, height, 1)
    colour = torch.tensor(list(fill)[:channels], dtype=torch.uint8).view(1, -1, 1, 1)
    hole = (rows & columns).view(torch.uint8).neg_()  # 0 or 255
    out: Tensor = images & ~hole
    return out.bitwise_or_(hole & colour.to(images.device, non_blocking=True))
