"""Which columns of a Parquet image file are the image and the label, and the labels themselves."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.errors import DataError

_DAMAGE = (
    *(OSError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError),
    RecursionError,
)
Labels = npt.NDArray[np.int64] | npt.NDArray[np.str_]
_USUAL = ("label", "labels")
_LONGEST = 255  # characters of a label, as of a folder's name
_DENSEST = 1000  # bytes of images in a byte of their file, above `_ROOM` in all
_ROOM = 1 << 30


class Columns(NamedTuple):
    """The two columns that matter.

    Attributes:
        image: Name of the struct column with a binary field `bytes`.
        label: Name of the label column.
        text: Whether labels are strings, not integers.
        classes: The class names, if the file's metadata has them.
    """

    image: str
    label: str
    text: bool
    classes: tuple[str, ...] | None


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turns Arrow's errors about a damaged file into one sentence.

    Beside its own, Arrow raises Python's plainest: a name that is no UTF-8 is a `ValueError`.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, *_DAMAGE) as error:
        raise DataError(
            f"'{file.name}' cannot be read as Parquet (torn, or only partly downloaded?)."
        ) from error


def columns_of(file: Path) -> Columns:
    """Finds the image column by its type, and the label column by metadata, type and name.

    Columns that the hub's metadata call ClassLabel come first, then any of integers or strings;
    among several, one called `label` or `labels` wins.

    Raises:
        DataError: A column is missing or ambiguous, the metadata malformed, or the file damaged.
    """
    import pyarrow.parquet as pq

    with readable(file), pq.ParquetFile(file) as table:
        schema, metadata = table.schema_arrow, table.metadata
    _sized(file, metadata)
    image = _only(file, "image", [f.name for f in schema if _is_image(f.type)])
    features = _features(file, schema.metadata or {})
    kinds = {f.name: kind for f in schema if (kind := _label_kind(f.type))}
    named = [
        name
        for name, kind in kinds.items()
        if kind == "integers" and features.get(name, {}).get("_type") == "ClassLabel"
    ]
    candidates = named or list(kinds)
    usual = [name for name in candidates if name in _USUAL]
    label = usual[0] if len(usual) == 1 else _only(file, "label", candidates)
    for name in (image, label):
        if schema.names.count(name) > 1 or "." in name:  # Parquet's path of a field has dots
            raise DataError(f"'{file.name}': the column {name!r} is there twice, or has a '.'.")
    names = features[label].get("names") if label in named else None
    if names is not None and not _texts(names):
        raise DataError(
            f"'{file.name}': the class names of column {label!r} in its 'huggingface' metadata "
            f"are no list of texts of 1 to {_LONGEST} characters."
        )
    classes = None if names is None else tuple(names)
    return Columns(image, label, kinds[label] == "strings", classes)


def labels_of(file: Path, columns: Columns) -> Labels:
    """The labels of one file: (N,) int64, or strings if `columns.text`.

    Raises:
        DataError: Some are null or negative, or the file is damaged.
    """
    import pyarrow.parquet as pq

    with readable(file), pq.ParquetFile(file) as table:
        column = table.read(columns=[columns.label]).column(0)
    if column.null_count:
        raise DataError(
            f"'{file.name}': {column.null_count} of {len(column)} labels in column "
            f"{columns.label!r} are null."
        )
    with readable(file):
        values = column.to_pylist()
    if columns.text:
        if not _texts(values):
            raise DataError(
                f"'{file.name}': labels in column {columns.label!r} must have 1 to {_LONGEST} "
                "characters."
            )
        return np.array(values, dtype=np.str_)
    if values and max(values) >= 1 << 63:
        raise DataError(f"'{file.name}': a label in column {columns.label!r} is over 2^63 - 1.")
    labels = np.array(values, dtype=np.int64)
    if negative := int((labels < 0).sum()):
        raise DataError(
            f"'{file.name}': {negative} of {len(labels)} labels in column {columns.label!r} are "
            "negative (the hub's sign for images without a label)."
        )
    return labels


def _sized(file: Path, metadata: Any) -> None:
    """Refuses a file that says it holds far more than its bytes can, before any is decoded.

    Raises:
        DataError: It has more rows than bytes, or says that they decode to implausibly many.
    """
    size, rows = file.stat().st_size, metadata.num_rows
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    decoded = sum(group.total_byte_size for group in groups)
    if rows > size or decoded > max(_ROOM, _DENSEST * size):
        raise DataError(
            f"'{file.name}' says that its {size} bytes hold {rows} rows and {decoded} bytes of "
            "images: that is damaged, or a decompression bomb."
        )


def _texts(values: Any) -> bool:
    """Whether these are short texts."""
    return isinstance(values, list) and all(
        isinstance(value, str) and 0 < len(value) <= _LONGEST for value in values
    )


def _only(file: Path, what: str, columns: list[str]) -> str:
    kind = "a struct with binary 'bytes'" if what == "image" else "integers or strings"
    if not columns:
        raise DataError(f"'{file.name}' has no {what} column ({kind}).")
    if len(columns) > 1:
        raise DataError(
            f"'{file.name}' has {len(columns)} columns that could be the {what} "
            f"({', '.join(columns)}); keep one of them."
        )
    return columns[0]


def _is_image(kind: Any) -> bool:
    from pyarrow import types

    if not types.is_struct(kind):
        return False
    fields = [kind.field(i) for i in range(kind.num_fields)]
    return any(
        f.name == "bytes" and (types.is_binary(f.type) or types.is_large_binary(f.type))
        for f in fields
    )


def _label_kind(kind: Any) -> str | None:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_integer(kind):
        return "integers"
    return "strings" if types.is_string(kind) or types.is_large_string(kind) else None


def _features(file: Path, metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """The hub's description of the columns; empty if the file has none."""
    if b"huggingface" not in metadata:
        return {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {str(k): v for k, v in features.items() if isinstance(v, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"'{file.name}' has malformed 'huggingface' metadata.") from error
