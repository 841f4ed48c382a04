"""Parquet image files as the Hugging Face hub stores them: `parquet:PATH`.

Labels are read at once, images some dozens at a time, so the files may be larger than memory.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.decode import Raw
from bench.data.folder import SPLITS
from bench.data.listing import Integers, Listing, hashed, whole
from bench.data.schema import Columns, columns_of, labels_of, readable
from bench.data.words import reason
from bench.errors import DataError

_SPLIT = re.compile(rf"({'|'.join(SPLITS)})(?:[-_.].*)?")
_BATCH = 64


@dataclass(frozen=True)
class Rows:
    """The images of one split, in the order of its files; `lengths` are the files' row counts."""

    files: tuple[Path, ...]
    lengths: tuple[int, ...]
    column: str

    def __len__(self) -> int:
        """Rows of all files."""
        return sum(self.lengths)

    def name(self, row: int) -> str:
        """File and row within it."""
        for file, length in zip(self.files, self.lengths, strict=True):
            if row < length:
                return f"{file.name} row {row}"
            row -= length
        raise IndexError(row)

    def read(self, rows: Integers) -> Iterator[Raw]:
        """Yields the images' bytes; empty ones where a row has none.

        Raises:
            DataError: A file is damaged.
        """
        start = 0
        for file, length in zip(self.files, self.lengths, strict=True):
            yield from self._from(file, _between(rows, start, length))
            start += length

    def _from(self, file: Path, rows: Integers) -> Iterator[Raw]:
        import pyarrow.parquet as pq

        with readable(file), pq.ParquetFile(file) as table:
            start = 0
            for batch in table.iter_batches(_BATCH, columns=[f"{self.column}.bytes"]):
                images = batch.column(0).field("bytes")
                for row in _between(rows, start, len(images)):
                    yield images[int(row)].as_py() or b""
                start += len(images)


def _between(rows: Integers, start: int, length: int) -> Integers:
    """The ascending `rows` from `start` on, `length` at most, counted from there."""
    first, last = np.searchsorted(rows, (start, start + length))
    return rows[first:last] - start


def read(path: Path, name: str) -> Listing:
    """Lists a folder of Parquet files, or a single one.

    A file belongs to the split its name begins with (`train-…`, `test-…`, `validation-…`); if no
    name does, all are training images.  The files may lie in a subfolder, such as `data/`, if only
    one has any.  Classes are the metadata's ClassLabel names, else the training labels, sorted.

    Args:
        path: An existing path.
        name: What to call the data set, in messages and tables.

    Raises:
        DataError: No files, a damaged file, ambiguous or missing columns, or unusable labels.
    """
    splits = _by_split(path, name)
    columns = {file: columns_of(file) for files in splits.values() for file in files}
    first = next(iter(columns.values()))
    for file, other in columns.items():
        if other != first:
            raise DataError(f"{name}: '{file.name}' has other columns or classes than the rest.")
    labels = {s: [labels_of(file, first) for file in files] for s, files in splits.items()}
    lengths = {s: tuple(map(len, found)) for s, found in labels.items()}
    classes, numbers = _numbered(name, first, {s: np.concatenate(v) for s, v in labels.items()})
    parts = {
        split: whole(Rows(tuple(files), lengths[split], first.image), numbers[split])
        for split, files in splits.items()
    }
    # Modification times too: a file replaced by one of equal size must not meet the old cache.
    modified = [file.stat().st_mtime_ns for file in columns]
    return Listing(name, classes, parts, stamp=hashed(fingerprint(path, name), modified))


def fingerprint(path: Path, name: str) -> str:
    """Identity of the files by relative name and size, wherever the folder is."""
    top = path if path.is_dir() else path.parent
    files = [file for found in _by_split(path, name).values() for file in found]
    sizes = [(f.relative_to(top).as_posix(), f.stat().st_size) for f in files]
    return hashed("parquet", sizes)


def _by_split(path: Path, name: str) -> dict[str, list[Path]]:
    """The files of each split, in the order of their names."""
    if path.is_file():
        return {"train": [path]}
    try:
        files = _found(path, name)
    except OSError as error:
        raise DataError(f"{name}: '{error.filename}' cannot be read ({reason(error)}).") from error
    matches = {file: _SPLIT.fullmatch(file.name.lower()) for file in files}
    if not any(matches.values()):
        return {"train": files}
    splits: dict[str, list[Path]] = {}
    for file, match in matches.items():
        if match is None:
            raise DataError(
                f"{name}: '{file.name}' must be called train-…, test-… or validation-…, as the "
                "others are."
            )
        splits.setdefault(SPLITS[match[1]], []).append(file)
    if "train" not in splits:
        raise DataError(f"{name} has {' and '.join(splits)} files, but none called train-….")
    return {split: splits[split] for split in ("train", "test", "val") if split in splits}


def _found(path: Path, name: str) -> list[Path]:
    """The files in a folder, or in its only subfolder that has some."""
    if direct := _parquets(path):
        return direct
    below = {p.name: _parquets(p) for p in sorted(path.iterdir()) if p.is_dir()}
    below = {folder: files for folder, files in below.items() if files}
    if not below:
        raise DataError(f"{name}: '{path}' holds no .parquet files.")
    if len(below) > 1:
        raise DataError(f"{name} has .parquet files in {' and '.join(below)}; name one of them.")
    return next(iter(below.values()))


def _parquets(path: Path) -> list[Path]:
    found = [p for p in path.iterdir() if p.suffix.lower() == ".parquet" and p.is_file()]
    return sorted((p for p in found if not p.name.startswith(".")), key=lambda p: p.name)


def _numbered(
    name: str, columns: Columns, values: dict[str, Integers]
) -> tuple[tuple[str, ...], dict[str, Integers]]:
    """Class names and (N,) int64 labels for each split."""
    if columns.classes is None:
        keys = np.unique(values["train"])
        classes = tuple(map(str, keys))
    else:
        keys, classes = np.arange(len(columns.classes)), columns.classes
    for split, labels in values.items():
        strange = labels[~np.isin(labels, keys)]
        if len(strange):
            lack = "has no training images" if columns.classes is None else "has no name"
            raise DataError(f"{name}: class {str(strange[0])!r} of '{split}' {lack}.")
    numbers = {s: np.searchsorted(keys, labels).astype(np.int64) for s, labels in values.items()}
    return classes, numbers
