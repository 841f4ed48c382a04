"""The engine on tensors, on any device: a family of operations is one slice and one kernel call.

Slot by slot, images are sorted by operation; the order is carried along and undone at the end.
Programs live on the host, so the sizes of the slices are known without asking the device.  A warp
that is followed by another warp waits for it, and both move the pixels once.  Temporaries are
bounded by working on a chunk of images at a time.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from bench.augment import blend, erase, geometry, pointwise
from bench.augment.operations import FAMILY, IDENTITY, NAMES, OPERATIONS, Family

Tensor = torch.Tensor
Integers = NDArray[np.int64]
CHUNK_BYTES = {"cpu": 3 << 20, "cuda": 512 << 20}  # fits a core's caches; bounds a GPU's memory


def run(
    images: Tensor,
    operation: Integers,
    magnitude: NDArray[np.float64],
    whole: NDArray[np.int32],
    colours: NDArray[np.uint8],
) -> Tensor:
    """Carries out programs; the arguments are those of `native.run`, images on any device."""
    chunk = CHUNK_BYTES.get(images.device.type, CHUNK_BYTES["cuda"])
    step = max(1, chunk // max(1, images[:1].numel()))
    parts = []
    for first in range(0, len(images), step):
        rows = slice(first, first + step)
        work = _Work(operation[rows], magnitude[rows], whole[rows], colours)
        parts.append(work.run(images[rows]))
    return torch.cat(parts) if parts else images.clone()


class _Work:
    """A program on a chunk of images.

    Attributes:
        waits: (B, L), which warps wait for the warp that comes next.
    """

    def __init__(
        self,
        operation: NDArray[np.int64],
        magnitude: NDArray[np.float64],
        whole: NDArray[np.int32],
        colours: NDArray[np.uint8],
    ) -> None:
        self.operation, self.magnitude, self.whole = operation, magnitude, whole
        self.outside, self.hole = colours.tolist()
        self.waits = _waiting(FAMILY[operation])

    def run(self, images: Tensor) -> Tensor:
        """Carries out every slot; row r of the images is number held[r] until the end."""
        held = np.arange(len(images))
        for slot in range(self.operation.shape[1]):
            rank = np.where(self.waits[:, slot], IDENTITY, self.operation[:, slot])[held]
            if (rank == IDENTITY).all():
                continue
            order = np.argsort(rank, kind="stable")
            images, held, rank = _rows(images, order), held[order], rank[order]
            for family, span in SPANS.items():
                first, last = np.searchsorted(rank, span)
                if first < last:
                    rows = held[first:last]
                    images[first:last] = KERNELS[family](self, images[first:last], rows, slot)
                    self.waits[rows, :slot] = False  # done, all of the chain
        return _rows(images, np.argsort(held))

    def each(self, rows: Integers, slot: int) -> list[tuple[str, slice]]:
        """The operations of some sorted rows, with the slice of each."""
        operation = self.operation[rows, slot]
        starts = np.flatnonzero(np.diff(operation, prepend=-1))
        ends = [*starts[1:], len(rows)]
        return [
            (OPERATIONS[operation[first]].name, slice(int(first), int(last)))
            for first, last in zip(starts, ends, strict=True)
        ]


def _geometry(work: _Work, images: Tensor, rows: Integers, slot: int) -> Tensor:
    """One gather for each image's chain of warps, images with chains of one length together."""
    waits = work.waits[rows, :slot]
    links = waits.sum(1)
    if not links.any():
        return geometry.warp(images, work.whole[rows, slot][None], work.outside)
    out = torch.empty_like(images)
    for length in np.unique(links):
        chosen = np.flatnonzero(links == length)
        slots = np.nonzero(waits[chosen])[1].reshape(len(chosen), length)
        slots = np.column_stack([slots, np.full(len(chosen), slot)])
        chain = work.whole[rows[chosen, None], slots].swapaxes(0, 1)
        at = torch.from_numpy(chosen).to(images.device, non_blocking=True)
        moved = geometry.warp(images.index_select(0, at), chain, work.outside)
        out.index_copy_(0, at, moved)
    return out


def _bits(work: _Work, images: Tensor, rows: Integers, slot: int) -> Tensor:
    """Invert, solarize and posterize together; solarize-add by itself."""
    magnitude = work.magnitude[rows, slot]
    name = NAMES[work.operation[rows, slot]]
    level = np.where(name == "solarize", np.ceil(256 - magnitude), 256)
    level = np.where(name == "invert", 0, level)  # inverts what is at least this
    mask = np.where(name == "posterize", 256 - 2.0 ** np.trunc(magnitude), 255)
    flip = np.where(level <= 0, 255, 0)
    above = np.where(level <= 0, 255, level - 1)
    added = np.where(name == "solarize-add", np.trunc(magnitude), 0)
    numbers = torch.from_numpy(np.stack([above, flip, mask, added]).astype(np.uint8))
    above_, flip_, mask_, added_ = numbers.to(images.device, non_blocking=True).view(
        4, -1, 1, 1, 1
    )
    out = pointwise.bits(images, above_, flip_, mask_)
    if added.any():
        first = int(np.argmax(name == "solarize-add"))
        out[first:] = pointwise.add_below(images[first:], added_[first:])
    return out


def _table(work: _Work, images: Tensor, rows: Integers, slot: int) -> Tensor:
    make = {"autocontrast": pointwise.autocontrast_tables, "equalize": pointwise.equalize_tables}
    tables = [make[name](images[span]) for name, span in work.each(rows, slot)]
    return pointwise.look_up(images, torch.cat(tables))


def _blend(work: _Work, images: Tensor, rows: Integers, slot: int) -> Tensor:
    factor = torch.from_numpy((1 + work.magnitude[rows, slot]).astype(np.float32))
    factor = factor.to(images.device, non_blocking=True)
    parts = [ENHANCERS[name](images[at], factor[at]) for name, at in work.each(rows, slot)]
    return torch.cat(parts)


def _filter(work: _Work, images: Tensor, rows: Integers, slot: int) -> Tensor:
    filters = {"smooth": blend.smooth, "blur": blend.blur}
    return torch.cat([filters[name](images[span]) for name, span in work.each(rows, slot)])


def _erase(work: _Work, images: Tensor, rows: Integers, slot: int) -> Tensor:
    return erase.fill_boxes(images, work.whole[rows, slot, :4].T, work.hole)


ENHANCERS = {
    "brightness": blend.brightness,
    "contrast": blend.contrast,
    "color": blend.color,
    "sharpness": blend.sharpness,
}
KERNELS: dict[Family, Callable[[_Work, Tensor, Integers, int], Tensor]] = {
    Family.GEOMETRY: _geometry,
    Family.BITS: _bits,
    Family.TABLE: _table,
    Family.BLEND: _blend,
    Family.FILTER: _filter,
    Family.ERASE: _erase,
}
# The catalogue lists families one after the other: each is a span of operation numbers.
SPANS = {
    family: tuple(np.searchsorted(FAMILY, (family, family + 1)).tolist()) for family in KERNELS
}


def _waiting(family: Integers) -> NDArray[np.bool_]:
    """(B, L): which warps are followed by another warp, and nothing else in between."""
    waits = np.zeros(family.shape, bool)
    following = np.zeros(len(family), bool)  # whether the next thing done is a warp
    for slot in reversed(range(family.shape[1])):
        warp = family[:, slot] == Family.GEOMETRY
        waits[:, slot] = warp & following
        following = np.where(family[:, slot] == Family.NOTHING, following, warp)
    return waits


def _rows(images: Tensor, order: Integers) -> Tensor:
    return images.index_select(0, torch.from_numpy(order).to(images.device, non_blocking=True))
