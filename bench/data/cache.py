"""Decoded images in files, for data sets too large for memory.

A cache is a folder of one raw file per split and a `meta.json`.  It is built in a temporary folder
and renamed when whole, so a cache exists entirely or not at all; one whose files do not have the
sizes that `meta.json` says is built anew.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data.build import Decoded, Progress, blocks, name_of
from bench.data.decode import Frame
from bench.data.listing import Integers, Listing, hashed
from bench.data.words import reason
from bench.errors import DataError

FORMAT = 1
_META = "meta.json"
_KEYS = {"frame", "counts", "dropped", "unreadable", "digest"}
_CHUNK = 64 << 20


def place(base: Path, listing: Listing, size: int | None) -> Path:
    """Where the cache of a data set at a wanted size belongs."""
    return base / hashed(FORMAT, listing.stamp, size)


def read(folder: Path) -> tuple[Decoded, str] | None:
    """Maps a finished cache; None if there is none, or it is damaged.

    Returns:
        The pixels, and the digest recorded when they were decoded.

    Raises:
        DataError: Access is denied.
    """
    try:
        meta = json.loads((folder / _META).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    except OSError as error:
        raise DataError(f"the image cache '{folder}' cannot be read ({reason(error)}).") from error
    if not isinstance(meta, dict) or meta.keys() != _KEYS:
        return None
    frame = Frame(*meta["frame"])
    images: dict[str, Tensor] = {}
    for split, count in meta["counts"].items():
        file, size = folder / f"{split}.bin", count * int(np.prod(frame))
        if not file.is_file() or file.stat().st_size != size:
            return None
        images[split] = _map(file, size).view(count, *frame)
    unreadable = [(name, why) for name, why in meta["unreadable"]]
    return Decoded(images, meta["dropped"], unreadable, mapped=True), meta["digest"]


def build(folder: Path, listing: Listing, frame: Frame, progress: Progress | None) -> None:
    """Decodes a data set into a new cache at `folder`.

    Raises:
        DataError: The files cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            _write(draft, listing, frame, progress)
            _publish(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # gone already if it was published
    except OSError as error:
        raise DataError(
            f"the image cache '{folder.parent}' cannot be written ({reason(error)}); name another "
            "folder in the environment variable AUGBENCH_CACHE."
        ) from error


def digest(images: dict[str, Tensor], labels: dict[str, Integers]) -> str:
    """Hash of the shapes, pixels and labels of all splits: 16 hexadecimal digits of SHA-256."""
    total = hashlib.sha256()
    for split in sorted(images):
        total.update(f"{split}{tuple(images[split].shape)}".encode())
        flat = images[split].reshape(-1)
        for start in range(0, len(flat), _CHUNK):
            total.update(flat[start : start + _CHUNK].numpy().data)
        total.update(labels[split].astype("<i8").tobytes())
    return total.hexdigest()[:16]


def _map(file: Path, size: int) -> Tensor:
    if size == 0:
        return torch.empty(0, dtype=torch.uint8)
    # A private mapping: nothing that writes to the tensor can reach the file.
    return torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8)


def _write(draft: Path, listing: Listing, frame: Frame, progress: Progress | None) -> None:
    meta: dict[str, Any] = {"frame": frame, "counts": {}, "dropped": {}, "unreadable": []}
    images: dict[str, Tensor] = {}
    labels: dict[str, Integers] = {}
    for split, part in listing.parts.items():
        count, dropped = 0, []
        with open(draft / f"{split}.bin", "wb") as file:
            for block in blocks(part, frame, split, progress):
                file.write(np.ascontiguousarray(block.pixels).data)
                count += len(block.pixels)
                for position, why in block.failures:
                    dropped.append(position)
                    meta["unreadable"].append((name_of(part, position), why))
            file.flush()
            os.fsync(file.fileno())
        meta["counts"][split], meta["dropped"][split] = count, dropped
        mapped = _map(draft / f"{split}.bin", count * int(np.prod(frame)))
        images[split] = mapped.view(count, *frame)
        labels[split] = np.delete(part.labels, dropped)
    meta["digest"] = digest(images, labels)
    (draft / _META).write_text(json.dumps(meta))


def _publish(draft: Path, folder: Path) -> None:
    """Renames the draft into place, over a damaged cache but not over a whole one."""
    if read(folder) is not None:
        return  # another process was faster, with the same bytes
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(draft, folder)
