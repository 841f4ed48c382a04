"""Where data come from: `load("digits")`, `load("folder:~/birds")`, `load("parquet:PATH")`.

All sources end as uint8 arrays of one size, in memory or, above a limit, in memory-mapped files.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench.data import build, cache, folder, named, parquet
from bench.data.arrays import Arrays
from bench.data.build import Decoded, Progress
from bench.data.listing import Integers, Listing, check
from bench.errors import ConfigError, DataError

MEMORY_LIMIT = 4 << 30
LARGEST_SIDE = 4096
_PATHS = {
    "folder": "a folder with one subfolder of images per class, or train/ and test/ with such",
    "parquet": "Parquet image files as the Hugging Face hub stores them (train-*, test-*)",
}


@dataclass(frozen=True, eq=False)
class Source:
    """A data set, ready for splitting and distorting.

    Attributes:
        name: Canonical name such as `digits` or `folder:birds`; never a machine's path.
        classes: Class names; labels index them.
        train: Training images.
        test: Test images.
        val: Validation images, where the source has its own.
        flip: Whether a mirrored image keeps its class.
        skipped: Unreadable images that were left out, by their path within the data set.
        digest: Hash of shapes, pixels and labels.
        val_fraction: Share of `train` to hold out where `val` is None.
    """

    name: str
    classes: tuple[str, ...]
    train: Arrays
    test: Arrays
    val: Arrays | None
    flip: bool
    skipped: tuple[str, ...]
    digest: str
    val_fraction: float


def known() -> dict[str, str]:
    """The sources' names, with one line on each."""
    return named.DESCRIPTIONS | {f"{kind}:PATH": text for kind, text in _PATHS.items()}


def canonical(spec: str) -> str:
    """A source's name without its path, as records hold it: `folder:A/birds` → `folder:birds`."""
    kind, colon, text = spec.partition(":")
    path = os.path.normpath(os.path.abspath(os.path.expanduser(text)))
    return f"{kind}:{os.path.basename(path)}" if colon else spec


def fingerprint(spec: str, root: Path | None = None) -> str:
    """Identity of a data set without decoding it: kind, relative file names and file sizes.

    Equal wherever the files lie; constant for a data set with a name.

    Args:
        spec: As in `load`.
        root: As in `load`.

    Raises:
        ConfigError, DataError: As in `load`, as far as file names tell.
    """
    kind, path, name = _resolved(spec, _root(root))
    if path is None:
        return named.fingerprint(kind)
    reader = folder.fingerprint if kind == "folder" else parquet.fingerprint
    return reader(path, name)


def load(
    spec: str,
    *,
    root: Path | None = None,
    size: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
) -> Source:
    """Loads a data set, on the host.

    Args:
        spec: A name from `known`, `folder:PATH` or `parquet:PATH`.  A relative path is tried
            against the current folder, then against the root.
        root: Where named data sets are kept; else the environment's AUGBENCH_DATA, else `data`.
        size: Side of all images, in pixels; see `build.frame_of` for the default.
        memory_limit: Above this many bytes of pixels they are decoded once into a file below
            AUGBENCH_CACHE (else `.augbench-cache` in the root), and mapped.
        skip_corrupt: Whether to leave out images that cannot be read, instead of refusing.
        progress: Called while decoding with a phase, the images done and the images in all.

    Raises:
        ConfigError: An unknown source, or an impossible size or limit.
        DataError: The data are missing, unreadable or malformed.
    """
    if size is not None and not 1 <= size <= LARGEST_SIDE:
        raise ConfigError(f"image size {size} must be between 1 and {LARGEST_SIDE}.")
    if memory_limit < 0:
        raise ConfigError(f"memory limit {memory_limit} must not be negative.")
    base = _root(root)
    listing = _listing(spec, base).completed()
    folder_of_caches = Path(os.environ.get("AUGBENCH_CACHE") or base / ".augbench-cache")
    place = cache.place(folder_of_caches.expanduser(), listing, size)
    decoded, digest = _decoded(listing, size, memory_limit, place, progress)
    if decoded.unreadable and not skip_corrupt:
        raise build.unreadable_error(listing.name, decoded.unreadable)
    return _source(listing, decoded, digest)


def _root(root: Path | None) -> Path:
    return (root or Path(os.environ.get("AUGBENCH_DATA") or "data")).expanduser()


def _resolved(spec: str, root: Path) -> tuple[str, Path | None, str]:
    """Kind, path (None for a data set with a name) and canonical name of a specification."""
    kind, colon, text = spec.partition(":")
    if not colon and kind in named.DESCRIPTIONS:
        return kind, None, kind
    if kind not in _PATHS or not text:
        raise ConfigError(f"--data {spec!r} is not known; choose one of {', '.join(known())}.")
    given = Path(os.path.expanduser(text))
    places = [given.absolute()] if given.is_absolute() else [given.absolute(), root / given]
    for place in places:
        if os.path.exists(place):
            return kind, place, canonical(spec)
    tried = " or at ".join(f"'{place}'" for place in places)
    raise DataError(f"--data {spec!r}: there is nothing at {tried}.")


def _listing(spec: str, root: Path) -> Listing:
    kind, path, name = _resolved(spec, root)
    if path is None:
        return named.read(kind, root)
    reader = folder.read if kind == "folder" else parquet.read
    return reader(path, name)


def _decoded(
    listing: Listing, size: int | None, limit: int, place: Path, progress: Progress | None
) -> tuple[Decoded, str]:
    """The pixels and their digest: from the cache, into memory, or into a new cache."""
    cached = cache.read(place)
    if cached is None:
        frame = build.frame_of(listing, size, progress)
        images = sum(len(part.rows) for part in listing.parts.values())
        if images * int(np.prod(frame)) <= limit:
            decoded = build.in_memory(listing, frame, progress)
            return decoded, cache.digest(decoded.images, _labels(listing, decoded))
        cache.build(place, listing, frame, progress)
        cached = cache.read(place)
        if cached is None:
            raise DataError(f"the image cache '{place}' vanished while it was being read.")
    decoded, digest = cached
    if sum(pixels.numel() for pixels in decoded.images.values()) <= limit:
        copies = {split: pixels.clone() for split, pixels in decoded.images.items()}
        decoded = Decoded(copies, decoded.dropped, decoded.unreadable, mapped=False)
    return decoded, digest


def _labels(listing: Listing, decoded: Decoded) -> dict[str, Integers]:
    """The labels of the readable images."""
    return {s: np.delete(p.labels, decoded.dropped[s]) for s, p in listing.parts.items()}


def _source(listing: Listing, decoded: Decoded, digest: str) -> Source:
    labels = _labels(listing, decoded)
    check(listing.name, listing.classes, labels, skipped=len(decoded.unreadable))
    arrays = {split: _arrays(decoded, split, labels[split]) for split in labels}
    return Source(
        name=listing.name,
        classes=listing.classes,
        train=arrays["train"],
        test=arrays["test"],
        val=arrays.get("val"),
        flip=listing.flip,
        skipped=tuple(name for name, _ in decoded.unreadable),
        digest=digest,
        val_fraction=listing.val_fraction,
    )


def _arrays(decoded: Decoded, split: str, labels: Integers) -> Arrays:
    images = decoded.images[split]
    rows = torch.arange(len(images)) if decoded.mapped else None
    return Arrays(images, torch.from_numpy(labels), rows)
