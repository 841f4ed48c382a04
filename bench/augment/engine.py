"""The engine: carries out a program, a different sequence of operations for every image, batched.

Slot by slot, images are sorted by operation, so that each family is one slice and one kernel call;
the order is carried along and undone at the end.  Programs live on the host, so the sizes of the
slices are known without asking the device.  A warp that is followed by another warp waits for it,
and both move the pixels once.  Temporaries are bounded by working on a chunk of images at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bench.augment import blend, erase, geometry, pointwise
from bench.augment.geometry import Frame
from bench.augment.operations import INDEX, OPERATIONS, Family

Tensor = torch.Tensor
Integers = NDArray[np.int64]
CHUNK_BYTES = {"cpu": 3 << 20, "cuda": 512 << 20}  # fits a core's caches; bounds a GPU's memory
FAMILY = np.array([int(operation.family) for operation in OPERATIONS])
HAS_MAGNITUDE = np.array([operation.unit is not None for operation in OPERATIONS])
IDENTITY = INDEX["identity"]


@dataclass(frozen=True)
class Program:
    """What is done to each image, in order; on the host.

    Attributes:
        operation: (B, L) int64, indices into `OPERATIONS`.
        magnitude: (B, L) float64, signed, in the operation's unit; without meaning where it has
            none.
        place: (B, L, 2) float64 in [0, 1): x and y of Cutout's centre as shares of the image.
    """

    operation: Tensor
    magnitude: Tensor
    place: Tensor

    def __len__(self) -> int:
        return len(self.operation)


@dataclass(frozen=True)
class Fill:
    """Colours, one value or one per channel: outside a warped image, and in a Cutout square."""

    outside: tuple[int, ...] = (0,)
    hole: tuple[int, ...] = (0,)


BLACK = Fill()


def execute(images: Tensor, program: Program, fill: Fill = BLACK) -> Tensor:
    """Applies each image's program to it.

    Args:
        images: (B, C, H, W) uint8 with C 1 or 3, on any device; not changed.
        program: Of B images.
        fill: Colours.

    Returns:
        (B, C, H, W) uint8, bit for bit what Pillow gives (see `operations`).
    """
    magnitude = program.magnitude.numpy()
    operation = program.operation.numpy()
    nothing = HAS_MAGNITUDE[operation] & (magnitude == 0)
    operation = np.where(nothing, IDENTITY, operation)
    step = max(1, CHUNK_BYTES[images.device.type] // max(1, images[:1].numel()))
    parts = []
    for first in range(0, len(images), step):
        rows = slice(first, first + step)
        place = program.place[rows].numpy()
        frame = Frame(*images.shape[-2:])
        work = _Work(operation[rows], magnitude[rows], place, fill, frame)
        parts.append(work.run(images[rows]))
    return torch.cat(parts) if len(parts) != 1 else parts[0]


class _Work:
    """A program on a chunk of images.

    Attributes:
        waits: (B, L), which warps wait for the warp that comes next.
        warps: (6, B, L), the fixed-point coefficients of every warp.
    """

    def __init__(
        self,
        operation: Integers,
        magnitude: NDArray[np.float64],
        place: NDArray[np.float64],
        fill: Fill,
        frame: Frame,
    ) -> None:
        self.operation, self.magnitude, self.place, self.fill = operation, magnitude, place, fill
        family = FAMILY[operation]
        self.waits = _waiting(family)
        self.warps = np.zeros((6, *operation.shape), np.int64)
        where = family == Family.GEOMETRY
        names = NAMES[operation[where]]
        self.warps[:, where] = geometry.coefficients(names, magnitude[where], frame)

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

    def values(self, rows: Integers, slot: int) -> Tensor:
        """The magnitudes of some rows, (R,) float64."""
        return torch.from_numpy(self.magnitude[rows, slot])


def _geometry(work: _Work, images: Tensor, rows: Integers, slot: int) -> Tensor:
    """One gather for each image's chain of warps, images with chains of one length together."""
    waits, outside = work.waits[rows, :slot], work.fill.outside
    links = waits.sum(1)
    if not links.any():
        return geometry.warp(images, [work.warps[:, rows, slot]], outside)
    out = torch.empty_like(images)
    for length in np.unique(links):
        chosen = np.flatnonzero(links == length)
        slots = np.nonzero(waits[chosen])[1].reshape(len(chosen), length)
        chain = [work.warps[:, rows[chosen], slots[:, i]] for i in range(length)]
        chain.append(work.warps[:, rows[chosen], slot])
        at = torch.from_numpy(chosen).to(images.device, non_blocking=True)
        out.index_copy_(0, at, geometry.warp(images.index_select(0, at), chain, outside))
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
    alpha = (1 + work.values(rows, slot)).float().to(images.device, non_blocking=True)
    alpha = alpha.view(-1, 1, 1, 1)
    out = []
    for name, span in work.each(rows, slot):
        source = images[span].float()
        degenerate = blend.DEGENERATE[name](images[span], source)
        out.append(blend.blend(source, degenerate, alpha[span]))
    return torch.cat(out)


def _filter(work: _Work, images: Tensor, rows: Integers, slot: int) -> Tensor:
    filters = {"smooth": blend.smooth, "blur": blend.blur}
    return torch.cat([filters[name](images[span]) for name, span in work.each(rows, slot)])


def _erase(work: _Work, images: Tensor, rows: Integers, slot: int) -> Tensor:
    place = torch.from_numpy(work.place[rows, slot])
    return erase.cutout(images, work.values(rows, slot), place, work.fill.hole)


KERNELS: dict[Family, Callable[[_Work, Tensor, Integers, int], Tensor]] = {
    Family.GEOMETRY: _geometry,
    Family.BITS: _bits,
    Family.TABLE: _table,
    Family.BLEND: _blend,
    Family.FILTER: _filter,
    Family.ERASE: _erase,
}
NAMES = np.array([operation.name for operation in OPERATIONS])
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
