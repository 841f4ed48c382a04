"""Image folders: `folder:PATH` with one subfolder per class, or such folders per split."""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.listing import Files, Listing, Part, hashed, whole
from bench.data.words import reason
from bench.errors import DataError

EXTENSIONS = frozenset(
    (
        *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".j2k", ".jpe", ".jpeg", ".jpg"),
        *(".pbm", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
        # Pillow cannot read these two, but a photograph must not go missing unnoticed.
        *(".heic", ".heif"),
    )
)
SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}


@dataclass(frozen=True)
class File:
    """An image file: `name` is its path within the data set, with `/`."""

    path: Path
    name: str
    label: str
    size: int
    modified: int


def read(path: Path, name: str) -> Listing:
    """Lists an image folder.

    If `train/` holds folders, or two of `train/`, `test/` and `val/` (or `valid/`, `validation/`)
    exist, these are the splits, and anything beside them is left alone; otherwise every subfolder
    is a class.
    Classes are in the order of their names, images in the order of their paths; images are also
    found in folders within a class folder.  Hidden files and folders are ignored, and so is any
    file without an image's extension.

    Args:
        path: An existing path.
        name: What to call the data set, in messages and tables.

    Raises:
        DataError: Not a folder, not readable, no class folders, a class folder without images, or
            a class that the training images lack.
    """
    files = scan(path, name)
    classes = tuple(sorted({file.label for file in files["train"]}))
    parts = {split: _part(name, split, found, classes) for split, found in files.items()}
    entries = [(f.name, f.size, f.modified) for found in files.values() for f in found]
    # Modification times too: a file replaced by one of equal size must not meet the old cache.
    return Listing(name, classes, parts, stamp=hashed("folder", entries))


def fingerprint(path: Path, name: str) -> str:
    """Identity of the files by relative name and size, wherever the folder is."""
    files = scan(path, name)
    return hashed("folder", [(f.name, f.size) for found in files.values() for f in found])


def scan(path: Path, name: str) -> dict[str, list[File]]:
    """The image files of each split, sorted by class and path.

    Raises:
        DataError: As `read`.
    """
    if not path.is_dir():
        raise DataError(f"{name}: '{path}' is a file, not a folder with one subfolder per class.")
    try:
        return {split: _classes(path, top, name) for split, top in _splits(path, name).items()}
    except OSError as error:
        raise DataError(f"{name}: '{error.filename}' cannot be read ({reason(error)}).") from error


def _splits(path: Path, name: str) -> dict[str, Path]:
    """The folder of each split; the path itself is `train` if it has no splits."""
    folders = _folders(path)
    named = [folder for folder in folders if folder.name in SPLITS]
    # A lone "train" without folders is a class of vehicles; with a "test" beside it, it is a split
    # whose classes are missing, which must not pass for two classes.
    if len(named) < 2 and not any(_folders(f) for f in named if f.name == "train"):
        return {"train": path}
    found: dict[str, Path] = {}
    for folder in named:
        split = SPLITS[folder.name]
        if split in found:
            raise DataError(f"{name} has both '{found[split].name}' and '{folder.name}'.")
        found[split] = folder
    if "train" not in found:
        raise DataError(f"{name} has '{named[0].name}' and '{named[1].name}', but no 'train'.")
    return {split: found[split] for split in ("train", "test", "val") if split in found}


def _classes(path: Path, top: Path, name: str) -> list[File]:
    """All images of one split."""
    folders = _folders(top)
    where = name if top == path else f"{name}: '{top.name}'"
    if not folders:
        raise DataError(f"{where} holds no class folders (one subfolder of images per class).")
    found: list[File] = []
    for folder in folders:
        images = sorted(_images(path, folder), key=lambda file: file.name)
        if not images:
            raise DataError(
                f"{name}: class folder '{folder.relative_to(path).as_posix()}' holds no images "
                "(.jpg, .png and the like)."
            )
        found += images
    return found


def _folders(path: Path) -> list[Path]:
    found = [p for p in path.iterdir() if p.is_dir() and not _hidden(p.name)]
    return sorted(found, key=lambda p: p.name)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _images(path: Path, folder: Path) -> Iterator[File]:
    """The image files below one class folder."""
    for top, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [f for f in folders if not _hidden(f)]
        for file in files:
            full = Path(top, file)
            if _hidden(file) or full.suffix.lower() not in EXTENSIONS:
                continue
            status = full.stat()
            if not stat.S_ISREG(status.st_mode):  # to open a pipe is to wait for ever
                raise OSError(errno.EINVAL, "it is no regular file", str(full))
            relative = full.relative_to(path).as_posix()
            yield File(full, relative, folder.name, status.st_size, status.st_mtime_ns)


def _raise(error: OSError) -> None:
    raise error


def _part(name: str, split: str, files: list[File], classes: tuple[str, ...]) -> Part:
    numbers = {label: number for number, label in enumerate(classes)}
    for file in files:
        if file.label not in numbers:
            raise DataError(f"{name}: class {file.label!r} of '{split}' has no training images.")
    labels = np.array([numbers[file.label] for file in files], dtype=np.int64)
    return whole(Files(tuple(f.path for f in files), tuple(f.name for f in files)), labels)
