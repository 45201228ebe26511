"""Reading npz files that may be broken or hostile: no pickle, and every failure names the file and the key."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from demos.errors import DemoError

# Everything the zip and npy readers are known to raise on damaged bytes. RuntimeError is an encrypted archive,
# NotImplementedError an unknown compression method, MemoryError a header that claims an absurd shape.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    OSError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)


def keys(path: Path) -> frozenset[str]:
    """Names of the arrays in an npz file, without reading them.

    Raises:
        DemoError: the file cannot be opened or is no zip archive (truncated, corrupt, something else).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except _DAMAGE as error:
        raise DemoError(path, "file", f"truncated or corrupt npz ({_words(error)})") from error


def arrays(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Load the named arrays of an npz file; arrays with other names are not touched.

    Raises:
        DemoError: the archive or one of the arrays is damaged, a required key is missing, or an array holds
            Python objects (which only pickle could read).
    """
    present = keys(path)
    for key in required:
        if key not in present:
            raise DemoError(path, key, f"missing; the file has {', '.join(sorted(present)) or 'no arrays'}")
    loaded = {}
    for key in (*required, *optional):
        if key in present:
            loaded[key] = _array(path, key)
    return loaded


def _array(path: Path, key: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            value = archive[key]
    except _DAMAGE as error:
        if "object arrays cannot be loaded" in str(error).lower():
            raise DemoError(path, key, "holds Python objects (pickle), which are never loaded") from error
        raise DemoError(path, key, f"truncated or corrupt npz ({_words(error)})") from error
    if not isinstance(value, np.ndarray):
        raise DemoError(path, key, "is not a numpy array")
    return value


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
