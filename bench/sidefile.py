"""The arrays that a run leaves beside its record: `results/SUITE/points/<hash>.npz`.

What a method learned about each training image, and features of test images.  They may be
gigabytes, so they stand outside the record, which holds their digest.  The file is an ordinary
uncompressed `.npz` without pickles; equal arrays make equal bytes.
"""

import hashlib
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from bench.atomic import replace_file
from bench.errors import Damaged, RecordError
from bench.method import Points
from bench.train.features import Features

SideArrays = Mapping[str, npt.NDArray[Any]]
_DAMAGE = (ValueError, EOFError, KeyError, TypeError, AttributeError, MemoryError)
"""What NumPy raises on a file that holds other things than arrays."""
FEATURES = ("features", "index", "true", "predicted")


def arrays_of(points: Points | None, features: Features | None) -> dict[str, npt.NDArray[Any]]:
    """What the file holds, by name.

    Returns:
        `weights`, `labels`, `probability` and `strength` float32, with `operations`, where there
        are points; `features` float16, `index`, `true` and `predicted` int64, where there are
        features.  A float32 table on the host shares its memory.
    """
    found: dict[str, npt.NDArray[Any]] = {}
    if points is not None:
        for name, table in points.tables().items():
            found[name] = table.detach().float().cpu().contiguous().numpy()
        if points.operations:
            found["operations"] = np.array(points.operations)
    if features is not None:
        values = (features.values, features.index, features.true, features.predicted)
        found |= {name: value.numpy() for name, value in zip(FEATURES, values, strict=True)}
    return found


def beside(record: Path) -> Path:
    """Where the side file of a record at this path is."""
    return record.parent.parent / "points" / f"{record.stem}.npz"


def write(path: Path, arrays: SideArrays) -> str:
    """Writes the file as `replace_file` does: the whole of it or nothing.

    Returns:
        Its SHA-256.

    Raises:
        OSError: If the disk refuses.
    """

    def fill(file: IO[bytes]) -> str:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                    np.lib.format.write_array(part, array, allow_pickle=False)
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    return replace_file(path, fill)


def read(path: Path, digest: str, names: Collection[str]) -> dict[str, npt.NDArray[Any]]:
    """Reads arrays of the file that a record names.

    Args:
        path: See `beside`.
        digest: The record's `side_file`.
        names: Which arrays; those that the file lacks are left out.

    Raises:
        Damaged: If the file is not the one that was written with the record.
        RecordError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise Damaged(f"{path} is not the file that was written with its record")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.zip.filelist):
                    raise Damaged(f"{path} is compressed, unlike what augbench writes")
                return {name: archive[name] for name in archive.files if name in names}
    except (*_DAMAGE, zipfile.BadZipFile) as error:
        raise Damaged(f"{path} holds no arrays: {error}") from error
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
