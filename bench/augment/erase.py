"""Cutout: a square of each image takes a fill colour."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

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
    height, width = images.shape[-2:]
    x0, x1 = _span(centre[:, 0].numpy(), side.numpy(), width)
    y0, y1 = _span(centre[:, 1].numpy(), side.numpy(), height)
    columns = _between(x0, x1, width, images.device).view(-1, 1, 1, width)
    rows = _between(y0, y1, height, images.device).view(-1, 1, height, 1)
    colour = torch.tensor(list(fill), dtype=torch.uint8).view(1, -1, 1, 1)
    hole = (rows & columns).view(torch.uint8).neg_()  # 0 or 255
    kept = images & ~hole
    return kept.bitwise_or_(hole & colour.to(images.device, non_blocking=True))


def _span(
    centre: NDArray[np.float64], side: NDArray[np.float64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last pixel of the square along an axis; an empty span where the side is 0."""
    first = np.trunc(np.maximum(0.0, centre * length - side / 2.0))
    last = np.trunc(np.minimum(float(length), first + side))
    last = np.where(side > 0, last, first - 1)
    return first.astype(np.int64), last.astype(np.int64)


def _between(
    first: NDArray[np.int64], last: NDArray[np.int64], length: int, device: torch.device
) -> Tensor:
    """(B, length) bool: which pixels lie in first..last."""
    ends = torch.from_numpy(np.stack([first, last])).to(torch.int32)
    low, high = ends.to(device, non_blocking=True).unsqueeze(2)
    along = torch.arange(length, dtype=torch.int32, device=device)
    inside: Tensor = (along >= low) & (along <= high)
    return inside
