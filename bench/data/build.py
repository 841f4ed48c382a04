"""From a listing to pixels: survey the headers, fix a common form, decode."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from bench.data.decode import Frame, Header, Pixels, Raw, Unreadable, decode, header, quiet
from bench.data.listing import InMemory, Listing, Part
from bench.errors import DataError

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with a phase, the images done in it, and the images in all."""

DEFAULT_SIDE = 64
LARGEST_KEPT_SIDE = 256
_CHUNK = 64
_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class Decoded:
    """The pixels of a listing.

    Attributes:
        images: Per split, (n, C, H, W) uint8 host tensor of the readable images, in order.
        dropped: Per split, the positions of the unreadable ones, ascending.
        unreadable: Name and reason of each of those, over all splits.
        mapped: Whether the tensors are memory-mapped files.
    """

    images: dict[str, Tensor]
    dropped: dict[str, list[int]]
    unreadable: list[tuple[str, str]]
    mapped: bool


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive images: the readable ones' pixels (k, C, H, W), and the failures by position."""

    pixels: Pixels
    failures: list[tuple[int, str]]


def frame_of(listing: Listing, size: int | None, progress: Progress | None) -> Frame:
    """Decides channels and size of all images from their headers alone.

    Gray only if all are.  The side is `size`, or what the source fixes.  Otherwise it is the
    shorter side that all share, up to 256; for different sizes, and larger ones, it is 64, or the
    median shorter side if that is below 64.  Networks and recipes here expect square images.

    Raises:
        DataError: Not one header can be read.
    """
    if listing.frame is not None:
        channels, fixed = listing.frame
        return Frame(channels, size or fixed, size or fixed)
    headers: list[Header] = []
    failures: list[tuple[str, str]] = []
    for split, part in listing.parts.items():
        for position, found in _mapped(part, header, f"survey {split}", progress):
            if isinstance(found, Unreadable):
                failures.append((name_of(part, position), str(found)))
            else:
                headers.append(found)
    if not headers:
        raise unreadable_error(listing.name, failures)
    channels = 1 if all(h.gray for h in headers) else 3
    if size is not None:
        return Frame(channels, size, size)
    sides = [min(h.width, h.height) for h in headers]
    if len({(h.width, h.height) for h in headers}) == 1 and sides[0] <= LARGEST_KEPT_SIDE:
        return Frame(channels, sides[0], sides[0])
    side = min(DEFAULT_SIDE, int(np.median(sides)))
    return Frame(channels, side, side)


def in_memory(listing: Listing, frame: Frame, progress: Progress | None) -> Decoded:
    """Decodes everything into memory."""
    images: dict[str, Tensor] = {}
    dropped: dict[str, list[int]] = {}
    unreadable: list[tuple[str, str]] = []
    for split, part in listing.parts.items():
        pixels, done = np.empty((len(part.rows), *frame), np.uint8), 0
        dropped[split] = []
        for block in blocks(part, frame, split, progress):
            pixels[done : done + len(block.pixels)] = block.pixels
            done += len(block.pixels)
            dropped[split] += [position for position, _ in block.failures]
            unreadable += [(name_of(part, position), why) for position, why in block.failures]
        images[split] = torch.from_numpy(pixels[:done])
    return Decoded(images, dropped, unreadable, mapped=False)


def blocks(part: Part, frame: Frame, split: str, progress: Progress | None) -> Iterator[Block]:
    """Decodes a split in order, some dozens of images at a time."""
    if isinstance(part.pictures, InMemory) and part.pictures.pixels.shape[1:] == frame:
        for start in range(0, len(part.rows), _CHUNK):
            yield Block(part.pictures.pixels[part.rows[start : start + _CHUNK]], [])
        return
    pixels: list[Pixels] = []
    failures: list[tuple[int, str]] = []
    for position, found in _mapped(
        part, partial(decode, frame=frame), f"decode {split}", progress
    ):
        if isinstance(found, Unreadable):
            failures.append((position, str(found)))
        else:
            pixels.append(found)
        if len(pixels) == _CHUNK:
            yield Block(np.stack(pixels), failures)
            pixels, failures = [], []
    yield Block(np.stack(pixels) if pixels else np.empty((0, *frame), np.uint8), failures)


def unreadable_error(name: str, unreadable: list[tuple[str, str]]) -> DataError:
    """One sentence about images that cannot be read: how many, the first ones, what to do."""
    count = len(unreadable)
    first = ", ".join(f"'{file}' ({why})" for file, why in unreadable[:3])
    more = ", …" if count > 3 else ""
    return DataError(
        f"{name}: {count} image{'s' * (count > 1)} cannot be read: {first}{more}; mend or remove "
        f"{'them' if count > 1 else 'it'}, or give --skip-corrupt."
    )


def name_of(part: Part, position: int) -> str:
    """What to call the image at a position of a split."""
    return part.pictures.name(int(part.rows[position]))


def _mapped(
    part: Part, function: Callable[[Raw], T], phase: str, progress: Progress | None
) -> Iterator[tuple[int, T | Unreadable]]:
    """Applies a function to each image in threads (Pillow releases the GIL), in order.

    Only a chunk of encoded images is held at a time.
    """

    def attempt(raw: Raw) -> T | Unreadable:
        try:
            return function(raw)
        except Unreadable as error:
            return error

    total, done = len(part.rows), 0
    raws = iter(part.pictures.read(part.rows))
    with quiet(), ThreadPoolExecutor(_THREADS) as pool:
        while chunk := list(islice(raws, _CHUNK)):
            yield from enumerate(pool.map(attempt, chunk), done)
            done += len(chunk)
            if progress is not None:
                progress(phase, done, total)
