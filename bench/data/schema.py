"""Which columns of a Parquet image file are the image and the label, and the labels themselves."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.errors import DataError

Labels = npt.NDArray[np.int64] | npt.NDArray[np.str_]
_USUAL = ("label", "labels")


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
    """Turns Arrow's errors about a damaged file into one sentence."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
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

    with readable(file):
        schema = pq.read_schema(file)
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
    names = features[label].get("names") if label in named else None
    classes = None if names is None else tuple(str(n) for n in names)
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
    values = column.to_pylist()
    if columns.text:
        return np.array(values, dtype=np.str_)
    labels = np.array(values, dtype=np.int64)
    if negative := int((labels < 0).sum()):
        raise DataError(
            f"'{file.name}': {negative} of {len(labels)} labels in column {columns.label!r} are "
            "negative (the hub's sign for images without a label)."
        )
    return labels


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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"'{file.name}' has malformed 'huggingface' metadata.") from error
