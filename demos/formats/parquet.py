"""Reading Parquet files that may be broken or cut off: every failure names the file, the column and the reason.

pyarrow is an optional dependency (the extra ``lerobot``) and is imported only when a file is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from demos.errors import DemoError

# What pyarrow raises on damaged bytes; its own errors are among ValueError, KeyError, NotImplementedError, OSError.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, NotImplementedError, MemoryError, RuntimeError)


def table(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), *, only: tuple[str, int] | None = None
) -> Any:
    """A pyarrow table of the named columns, and of those of `optional` that are there.

    only: (column, value) keeps the rows that have this value; other parts of the file are not decoded where its
    statistics allow that.

    Raises:
        DemoError: pyarrow is not installed; no Parquet file, cut off, damaged; a column is missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DemoError(path, "file", "is read with pyarrow: pip install pyarrow") from error
    damage = (*_DAMAGE, pyarrow.ArrowException)
    if not path.is_file():
        raise DemoError(path, "file", "missing; the data set's meta names it")
    try:
        present = parquet.read_schema(path).names
    except damage as error:
        raise DemoError(path, "file", f"truncated or corrupt Parquet ({error})") from error
    for key in columns:
        if key not in present:
            raise DemoError(path, key, f"missing; there are {', '.join(map(str, present)) or 'no columns'}")
    wanted = [*columns, *(key for key in optional if key in present)]
    filters = None if only is None else [(only[0], "=", only[1])]
    try:
        return parquet.read_table(path, columns=wanted, filters=filters, partitioning=None, use_threads=False)
    except damage as error:
        raise DemoError(path, "file", f"truncated or corrupt Parquet ({error})") from error


def numbers(path: Path, found: Any, key: str, width: int) -> np.ndarray:
    """The column `key` of a `table` as (rows, width) float64: lists of `width` numbers, or plain numbers for width 1.

    Raises DemoError: other lengths, no numbers, missing values, NaN or infinity.
    """
    from pyarrow import compute, types

    column = found[key]
    try:
        kind = column.type
        if types.is_list(kind) or types.is_fixed_size_list(kind) or types.is_large_list(kind):
            lengths = set(compute.unique(compute.list_value_length(column)).to_pylist())
            if lengths - {width}:
                told = ", ".join(sorted(map(str, lengths)))
                raise DemoError(path, key, f"has lists of {told} numbers; meta/info.json tells {width}")
            column = compute.list_flatten(column)
        elif width != 1:
            raise DemoError(path, key, f"holds {kind}; expected lists of {width} numbers")
        kind = column.type
        if not (types.is_floating(kind) or types.is_integer(kind)) or column.null_count:
            raise DemoError(path, key, f"holds {kind}, {column.null_count} of them missing; expected numbers")
        value = column.to_numpy().astype(np.float64)
    except _DAMAGE as error:
        raise DemoError(path, key, f"truncated or corrupt Parquet ({error})") from error
    value = value.reshape(len(found), width)
    bad = np.flatnonzero(~np.isfinite(value).all(1))
    if bad.size:
        raise DemoError(path, key, f"contains NaN or infinity, first in row {bad[0]}")
    return value


def rows(path: Path, found: Any) -> list[dict[str, Any]]:
    """A small `table` as one dictionary a row; DemoError when it is damaged."""
    try:
        return list(found.to_pylist())
    except _DAMAGE as error:
        raise DemoError(path, "file", f"truncated or corrupt Parquet ({error})") from error


def blobs(path: Path, found: Any, key: str) -> list[bytes]:
    """The picture files in the column `key` of a `table`, structures with ``bytes``; DemoError where one is missing."""
    try:
        values = [one.get("bytes") if isinstance(one, dict) else None for one in found[key].to_pylist()]
    except _DAMAGE as error:
        raise DemoError(path, key, f"truncated or corrupt Parquet ({error})") from error
    found_bytes = [one for one in values if isinstance(one, bytes)]
    if len(found_bytes) < len(values):
        raise DemoError(path, key, "does not hold the pictures themselves in some row")
    return found_bytes
