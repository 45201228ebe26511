"""Reading HDF5 files that may be broken or cut off: every failure names the file, the key and the reason."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from demos.errors import DemoError

# What h5py raises on damaged bytes: a bad superblock or chunk is OSError, a broken link or header one of the others.
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)


def opened(path: Path) -> h5py.File:
    """The file opened for reading; use it in a ``with`` statement.

    Raises:
        DemoError: no HDF5 file, cut off, or not readable.
    """
    try:
        return h5py.File(path, "r")
    except _DAMAGE as error:
        raise DemoError(path, "file", f"truncated or corrupt HDF5 ({_words(error)})") from error


def keys(path: Path) -> frozenset[str]:
    """Names at the top of the file; DemoError as `opened`."""
    with opened(path) as file:
        try:
            # A damaged name comes as bytes.
            return frozenset(key for key in file if isinstance(key, str))
        except _DAMAGE as error:
            raise DemoError(path, "file", f"truncated or corrupt HDF5 ({_words(error)})") from error


def has(path: Path, group: h5py.Group, *wanted: str) -> bool:
    """Whether `group` holds all the entries `wanted`; DemoError if it is too damaged to tell."""
    try:
        return all(key in group for key in wanted)
    except _DAMAGE as error:
        raise DemoError(path, name(group, wanted[0]), f"truncated or corrupt HDF5 ({_words(error)})") from error


def members(path: Path, group: h5py.Group, key: str) -> list[str] | None:
    """Names of what the group `key` in `group` holds; None if `key` is no group; DemoError if damaged."""
    try:
        item = group.get(key)
        return sorted(map(str, item)) if isinstance(item, h5py.Group) else None
    except _DAMAGE as error:
        raise DemoError(path, name(group, key), f"truncated or corrupt HDF5 ({_words(error)})") from error


def attributes(path: Path, file: h5py.File, key: str = "/") -> dict[str, str]:
    """The attributes of the file, or of the group `key` in it, that are strings; DemoError if they are damaged."""
    try:
        return {name: value for name, value in file[key].attrs.items() if isinstance(value, str)}
    except _DAMAGE as error:
        raise DemoError(path, key.strip("/") or "file", f"truncated or corrupt HDF5 ({_words(error)})") from error


def width(path: Path, group: h5py.Group, key: str) -> int:
    """The number of columns of the array (rows, width) at `key`, without reading it; DemoError as `array`."""
    try:
        return _item(path, group, key, 2).shape[1]
    except _DAMAGE as error:
        raise DemoError(path, name(group, key), f"truncated or corrupt HDF5 ({_words(error)})") from error


def shape(path: Path, group: h5py.Group, key: str) -> tuple[int, ...]:
    """The shape of the array at `key`, () where there is none; DemoError if it is too damaged to tell."""
    try:
        item = group.get(key)
        return tuple(item.shape) if isinstance(item, h5py.Dataset) else ()
    except _DAMAGE as error:
        raise DemoError(path, name(group, key), f"truncated or corrupt HDF5 ({_words(error)})") from error


def array(path: Path, group: h5py.Group, key: str, ndim: int, columns: int | None = None) -> np.ndarray:
    """The array `group`[`key`] as stored; only the first `columns` columns of a 2-d one are read if asked.

    Args:
        path: the file, for messages.
        group: the open file or a group in it.
        key: name inside the group; may be nested ("infos/qpos").
        ndim: the number of axes it must have.
        columns: how many columns to read (None: all).

    Raises:
        DemoError: missing, a group instead of an array, no rows, not numbers, of another number of axes, or damaged.
    """
    try:
        item = _item(path, group, key, ndim)
        return item[:] if columns is None else item[:, :columns]
    except _DAMAGE as error:
        raise DemoError(path, name(group, key), f"truncated or corrupt HDF5 ({_words(error)})") from error


def numbers(
    path: Path, group: h5py.Group, key: str, dtype: type[np.floating] = np.float32, *, columns: int | None = None
) -> np.ndarray:
    """The array (rows, width) at `key` as `dtype`; DemoError as `array`, and for NaN or infinity in what is read."""
    return _finite(path, group, key, array(path, group, key, 2, columns), dtype)


def columns(path: Path, group: h5py.Group, key: str) -> np.ndarray:
    """The array (rows,) or (rows, width) at `key` as (rows, width) float32; DemoError as `numbers`."""
    axes = len(shape(path, group, key))
    value = array(path, group, key, 1 if axes == 1 else 2)
    return _finite(path, group, key, value.reshape(len(value), -1), np.float32)


def _finite(path: Path, group: h5py.Group, key: str, value: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    with np.errstate(over="ignore"):
        value = value.astype(dtype, copy=False)
    bad = np.flatnonzero(~np.isfinite(value).all(1))
    if bad.size:
        raise DemoError(path, name(group, key), f"contains NaN or infinity, first in row {bad[0]}")
    return value


def flags(path: Path, group: h5py.Group, key: str) -> np.ndarray:
    """A one-axis array of truth values, bool (rows,); DemoError as `array`, and for values other than 0 and 1."""
    value = array(path, group, key, 1)
    if not np.isin(value, (0, 1)).all():
        raise DemoError(path, name(group, key), "has values other than 0 and 1")
    return value.astype(bool)


def text(group: h5py.Group, key: str) -> str | None:
    """The string stored at `key`, or None where there is no readable one (it only describes the data)."""
    try:
        value = group[key][()]
    except _DAMAGE:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def name(group: h5py.Group, key: str) -> str:
    """What messages call the entry `key` of `group`: its path from the top of the file."""
    return f"{group.name}/{key}".strip("/")


def _item(path: Path, group: h5py.Group, key: str, ndim: int) -> h5py.Dataset:
    if key not in group:
        raise DemoError(path, name(group, key), f"missing; there are {', '.join(sorted(group)) or 'no arrays'}")
    item = group[key]
    if not isinstance(item, h5py.Dataset):
        held = ", ".join(sorted(item)) or "nothing"
        raise DemoError(path, name(group, key), f"is a group of {held}; expected an array")
    if item.shape[:1] == (0,):
        raise DemoError(path, name(group, key), "has 0 rows: it holds no transitions")
    if item.dtype.kind not in "bfiu" or item.ndim != ndim or 0 in item.shape:
        raise DemoError(path, name(group, key), f"is {item.dtype} {item.shape}; expected numbers on {ndim} axes")
    return item


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
