"""Camera frames as a policy sees them: the whole frame at 64 x 64, each pixel the mean of the area that it covers.

It needs numpy alone, because a copy of this file lies beside every exported policy that learned from such frames: the
robot must make its pictures in the same way.
"""

from __future__ import annotations

import functools

import numpy as np

SIZE = 64
HOW = "the whole frame, not cropped; each of the 64 x 64 pixels is the mean of the area that it covers, rounded half up"


def small(frame: np.ndarray) -> np.ndarray:
    """A frame (height, width, 3) uint8 RGB of any size -> (64, 64, 3) uint8.

    The same on every machine: all sums are of whole numbers that the floating-point types hold exactly.

    Raises ValueError for another type or shape, and for more than 65000 pixels on a side.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(f"a frame is {frame.dtype} {frame.shape}; expected uint8 (height, width, 3)")
    height, width, _ = frame.shape
    if (height, width) == (SIZE, SIZE):
        return frame
    rows = _weights(height).astype(np.float32) @ frame.reshape(height, -1).astype(np.float32)
    columns = _weights(width) @ rows.reshape(SIZE, width, 3).astype(np.float64)
    area = height * width
    return ((columns.astype(np.int64) + area // 2) // area).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _weights(length: int) -> np.ndarray:
    """(64, length) float64: how much of each source pixel lies in each of the 64 target pixels, in 1/64 source pixels,
    so that every weight is a whole number and a row's sum is `length`.
    """
    if length > 65000:
        raise ValueError(f"a frame has {length} pixels on a side; at most 65000 are read")
    target, source = np.arange(SIZE)[:, None] * length, np.arange(length) * SIZE
    overlap = np.minimum(target + length, source + SIZE) - np.maximum(target, source)
    return np.maximum(overlap, 0).astype(np.float64)
