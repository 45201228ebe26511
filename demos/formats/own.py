"""The project's own format: one episode, one compressed npz, nothing lost, no pickle.

Images are stored as differences to the frame before, modulo 256: the reader's cumulative sum modulo 256 gives back the
exact bytes, and a mostly still scene becomes mostly zeros. Rewards are not stored at all: what is not in the file
cannot leak to a learner (algorithms 1.5).

=================  =============================  =====================================================
key                dtype, shape                   content
=================  =============================  =====================================================
format_version     int64 ()                       1
image_delta        uint8 (n+1, h, w, 3)           row 0 the frame, row t the frame minus frame t-1
state              float32 (n+1, d)               the observation of ``obs=state``
action             float32 (n+1, A)               action[t] led to row t; action[0] is zero
is_first           bool (n+1,)                    true in row 0 only
is_last            bool (n+1,)                    true in the last row only
is_terminal        bool (n+1,)                    true only where the task itself ended, not on time-outs
sim_state          float64 (n+1, S)               full simulator state
meta               unicode ()                     JSON object: task, seed, source, subtasks, ...
=================  =============================  =====================================================

``image_delta`` or ``state`` may be absent, not both; ``sim_state`` may be absent.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from demos.errors import DemoError
from demos.formats import npz
from envs.episode import Episode

NAME = "own"
SUFFIX = ".npz"
VERSION = 1

_REQUIRED = ("format_version", "action", "is_first", "is_last", "is_terminal", "meta")
_OPTIONAL = ("image_delta", "state", "sim_state")


def can_read(path: Path) -> bool:
    """Whether the file carries this format's version key. Raises DemoError when it is no readable npz."""
    return "format_version" in npz.keys(path)


def read(path: Path) -> list[Episode]:
    """Decode one file, which is one episode; every reward is NaN. `demos.dataset` checks the contents.

    Raises:
        DemoError: damaged file, missing key, newer version, meta that is not a JSON object, no observation.
    """
    data = npz.arrays(path, _REQUIRED, _OPTIONAL)
    version = data["format_version"]
    if version.shape != () or version.dtype.kind not in "iu" or version != VERSION:
        raise DemoError(path, "format_version", f"is {version!s}; this program reads version {VERSION}")
    obs = {}
    if "image_delta" in data:
        delta = data["image_delta"]
        if delta.dtype != np.uint8 or delta.ndim != 4:
            reason = f"has dtype {delta.dtype} and shape {delta.shape}; expected uint8 (rows, height, width, 3)"
            raise DemoError(path, "image_delta", reason)
        obs["image"] = np.cumsum(delta, axis=0, dtype=np.uint8)
    if "state" in data:
        obs["state"] = data["state"]
    if not obs:
        raise DemoError(path, "image_delta", "missing, and state too: the file holds no observation")
    episode = Episode(
        obs=obs,
        action=data["action"],
        is_first=data["is_first"],
        is_last=data["is_last"],
        is_terminal=data["is_terminal"],
        reward=np.full(len(np.atleast_1d(data["is_first"])), np.nan, np.float32),
        sim_state=data.get("sim_state"),
        meta=read_meta(path, data["meta"]),
    )
    return [episode]


def encode(episode: Episode) -> bytes:
    """The file's bytes; the same episode always gives the same bytes.

    Raises:
        ValueError: meta is not JSON, or an observation is neither "image" nor "state".
    """
    unknown = sorted(set(episode.obs) - {"image", "state"})
    if unknown:
        raise ValueError(f"observation {unknown[0]!r} has no place in the format; it stores image and state")
    data: dict[str, np.ndarray] = {"format_version": np.array(VERSION, np.int64)}
    if "image" in episode.obs:
        image = episode.obs["image"]
        delta = image.copy()
        delta[1:] -= image[:-1]
        data["image_delta"] = delta
    if "state" in episode.obs:
        data["state"] = episode.obs["state"]
    data |= {key: getattr(episode, key) for key in ("action", "is_first", "is_last", "is_terminal")}
    if episode.sim_state is not None:
        data["sim_state"] = episode.sim_state
    try:
        data["meta"] = np.array(json.dumps(episode.meta, sort_keys=True, allow_nan=False))
    except TypeError as error:
        raise ValueError(f"meta is not JSON: {error}") from error
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **data)
    return buffer.getvalue()


def read_meta(path: Path, value: np.ndarray) -> dict[str, Any]:
    """The JSON object in an array that holds one string. Raises DemoError."""
    if value.shape != () or value.dtype.kind != "U":
        raise DemoError(path, "meta", f"has dtype {value.dtype} and shape {value.shape}; expected one JSON string")
    try:
        meta = json.loads(str(value))
    except ValueError as error:
        raise DemoError(path, "meta", f"is not JSON: {error}") from error
    if not isinstance(meta, dict):
        raise DemoError(path, "meta", f"is a JSON {type(meta).__name__}; expected an object")
    return meta
