"""Rows of equal size in memory-mapped files, and the book-keeping of which of them are free. Used by `agent.data`."""

from __future__ import annotations

import math
import os
import shutil
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

GIB = 2**30


class Extents:
    """Free rows, as sorted, disjoint, maximal intervals (start, length)."""

    def __init__(self, rows: int, used: Iterable[tuple[int, int]] = ()) -> None:
        """Rows 0..rows-1 are free, except the disjoint intervals `used`."""
        self.spans: list[tuple[int, int]] = []
        at = 0
        for start, n in [*sorted(used), (rows, 0)]:
            if start > at:
                self.spans.append((at, start - at))
            at = start + n

    def take(self, n: int, head: int) -> int | None:
        """Start of `n` contiguous free rows at or after `head`, else anywhere; None when no interval is long enough."""
        after = bisect_left(self.spans, (head, 0))
        for i in [*range(after, len(self.spans)), *range(after)]:
            start, length = self.spans[i]
            if length >= n:
                self.spans[i : i + 1] = [(start + n, length - n)] if length > n else []
                return start
        return None

    def give(self, start: int, n: int) -> None:
        """Make rows start..start+n-1 free, merging them with their neighbours."""
        i = bisect_left(self.spans, (start, 0))
        end = start + n
        if i < len(self.spans) and self.spans[i][0] == end:
            end += self.spans.pop(i)[1]
        if i and sum(self.spans[i - 1]) == start:
            i -= 1
            start = self.spans.pop(i)[0]
        self.spans.insert(i, (start, end - start))


class RowFiles:
    """Fixed-size records in FOLDER/NAME.bin, one file a field; record r of every field is the same row.

    Args:
        folder: made if missing; existing files keep their content.
        fields: name -> (dtype, shape of one record).
    """

    def __init__(self, folder: Path, fields: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> None:
        self.folder, self.fields, self.rows = Path(folder), dict(fields), 0
        self.record = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in fields.items()}
        self.row_bytes = sum(self.record.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file: dict[str, BinaryIO] = {}
        self._map: dict[str, np.ndarray] = {}

    def room(self) -> int:
        """Bytes that these files may still take: what is free on the disk and what they have already."""
        paths = [self.folder / f"{name}.bin" for name in self.fields]
        return shutil.disk_usage(self.folder).free + sum(p.stat().st_blocks * 512 for p in paths if p.exists())

    def open(self, rows: int) -> None:
        """Map `rows` rows, extending the files where needed; they stay sparse until written. Raises OSError."""
        for name, (dtype, shape) in self.fields.items():
            path = self.folder / f"{name}.bin"
            if name not in self._file:
                self._file[name] = open(path, "r+b" if path.exists() else "w+b", buffering=0)  # noqa: SIM115
            if path.stat().st_size < rows * self.record[name]:
                os.ftruncate(self._file[name].fileno(), rows * self.record[name])
            self._map[name] = np.memmap(path, dtype, "r", shape=(rows, *shape)).view(np.ndarray)
        self.rows = rows

    def __getitem__(self, name: str) -> np.ndarray:
        """Read-only view (rows, *shape) of a field."""
        return self._map[name]

    def write(self, start: int, values: Mapping[str, np.ndarray]) -> None:
        """Write consecutive rows of every field. Raises OSError when the disk refuses."""
        for name, array in values.items():
            # Through the file, which reports a full disk; a store into the map would end the process with SIGBUS.
            view = memoryview(np.ascontiguousarray(array)).cast("B")  # type: ignore[arg-type]
            offset = start * self.record[name]
            while view:
                done = os.pwrite(self._file[name].fileno(), view, offset)
                view, offset = view[done:], offset + done

    def checksum(self, name: str, rows: slice | list[int], start: int = 0) -> int:
        """CRC-32 of some records of a field, continuing from `start`."""
        return zlib.crc32(np.ascontiguousarray(self._map[name][rows]).tobytes(), start)

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        for file in self._file.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files; the maps are released when their last user is gone."""
        self._map.clear()
        for file in self._file.values():
            file.close()
        self._file.clear()


def human_size(n: float) -> str:
    """Bytes as "2.9 GiB" or "12.3 MiB"."""
    return f"{n / GIB:.1f} GiB" if n >= GIB / 10 else f"{n / 2**20:.1f} MiB"
