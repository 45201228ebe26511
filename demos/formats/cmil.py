"""The npz layouts that CMIL published: Franka Kitchen and the Shadow Hand with Baoding balls.

Both follow the storage convention (algorithms 1.2): action[t] led to row t and action[0] is zero. What differs from
it is mended here. Kitchen: ``reward`` (number of finished sub-tasks in each row) never becomes a reward; the rows at
which it rises go to meta, for people to read. Shadow Hand: 128x128 frames, float64 numbers, no flags; the separate
object arrays repeat the last frame in every row, so the state is ``obs``. Its velocities are in the wrong places (see
envs.baoding), and three of the six are nowhere: it cannot be turned into the proper layout, and ``meta["options"]``
says which options of the task it needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from demos.errors import DemoError
from demos.formats import npz
from envs.episode import Episode
from envs.frames import small

NAME = "cmil"
SUFFIX = ".npz"

TASK_BY_ACTION_SIZE = {9: "kitchen", 24: "baoding"}
KITCHEN_SUBTASKS = ("microwave", "kettle", "light switch", "slide cabinet")
# the task's options that give the arrays the meaning they have in the published Shadow Hand files
HAND_OPTIONS = {"action": {"actions": "recorded", "direction": "ccw"}, "state": {"layout": "recorded"}}
SIZE = 64

_STOCK = (
    "image as the stock scene is drawn, with shadows: pictures of render=fast differ from it by 10 of 255, of "
    "render=faithful by 5, and a discriminator may tell episodes by that alone"
)
_FLAGS = ("is_first", "is_last", "is_terminal")


def can_read(path: Path) -> bool:
    """Whether the file has an ``image`` or ``action`` array and no mark of another format; DemoError if no npz."""
    keys = npz.keys(path)
    return "format_version" not in keys and bool({"image", "action"} & keys)


def read(path: Path) -> list[Episode]:
    """Decode one file, which is one episode; every reward is NaN, images are 64x64, is_terminal is false throughout.

    Raises:
        DemoError: damaged file, missing key, action of neither task, image of a size that has no exact area filter
            to 64, a terminal flag (the published episodes end by time-out, so a true one means another meaning).
    """
    data = npz.arrays(path, ("image", "action"), ("obs", "reward", *_FLAGS))
    action = data["action"]
    size = action.shape[1] if action.ndim == 2 else 0
    if size not in TASK_BY_ACTION_SIZE:
        known = " or ".join(f"(rows, {width}) for {name}" for width, name in TASK_BY_ACTION_SIZE.items())
        raise DemoError(path, "action", f"has shape {action.shape}; CMIL files have {known}")
    task = TASK_BY_ACTION_SIZE[size]
    rows = len(action)
    meta: dict[str, Any] = {"task": task, "source": "cmil", "file": path.name, "notes": []}
    obs = {"image": _image(path, data["image"], meta)}
    if task == "kitchen":
        meta["notes"].append(_STOCK)
        missing = [key for key in _FLAGS if key not in data]
        if missing:
            raise DemoError(path, missing[0], "missing; CMIL Kitchen files have it")
        meta["subtasks"] = list(KITCHEN_SUBTASKS)
        if "reward" in data:
            meta["subtask_rows"] = _rises(data["reward"])
    else:
        meta["options"] = HAND_OPTIONS
        if "obs" in data:
            obs["state"] = _number(path, "obs", data["obs"])
    flags = {key: _flag(path, key, data[key]) for key in _FLAGS if key in data}
    if not flags:
        flags = _time_out_flags(rows)
        meta["notes"].append("flags made on load: the file has none")
    missing = [key for key in _FLAGS if key not in flags]
    if missing:
        raise DemoError(path, missing[0], "missing, though other flags are there")
    if flags["is_terminal"].any():
        row = int(np.argmax(flags["is_terminal"]))
        raise DemoError(path, "is_terminal", f"true in row {row}; CMIL episodes end by time-out, never by the task")
    episode = Episode(
        obs=obs,
        action=_number(path, "action", action),
        **flags,
        reward=np.full(rows, np.nan, np.float32),
        sim_state=None,
        meta=meta,
    )
    return [episode]


def _image(path: Path, image: np.ndarray, meta: dict[str, Any]) -> np.ndarray:
    """Frames at 64x64, as area-filtered environment frames are."""
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] != 3:
        raise DemoError(path, "image", f"is {image.dtype} {image.shape}; expected uint8 (rows, height, width, 3)")
    _, height, width, _ = image.shape
    if height != width or height % SIZE:
        raise DemoError(path, "image", f"is {height}x{width}; CMIL frames are 64x64 or 128x128")
    factor = height // SIZE
    if factor == 1:
        return image
    meta["notes"].append(f"image {height}x{width} reduced to {SIZE}x{SIZE} by the mean of {factor}x{factor} blocks")
    return np.stack([small(frame) for frame in image])


def _number(path: Path, key: str, value: np.ndarray) -> np.ndarray:
    if value.dtype.kind != "f":
        raise DemoError(path, key, f"has dtype {value.dtype}; expected float32 or float64")
    return value.astype(np.float32)


def _flag(path: Path, key: str, value: np.ndarray) -> np.ndarray:
    if value.dtype.kind not in "biuf" or not np.isin(value, (0, 1)).all():
        raise DemoError(path, key, f"has dtype {value.dtype} or values other than 0 and 1; expected bool")
    return value.astype(bool)


def _time_out_flags(rows: int) -> dict[str, np.ndarray]:
    index = np.arange(rows)
    return {"is_first": index == 0, "is_last": index == rows - 1, "is_terminal": np.zeros(rows, bool)}


def _rises(count: np.ndarray) -> list[int]:
    """Row at which the number of finished sub-tasks first reached 1, 2, ...; finishing two at once repeats the row."""
    best = np.maximum.accumulate(np.nan_to_num(np.ravel(count)).astype(np.int64))
    return [int(np.argmax(best >= done)) for done in range(1, int(best[-1]) + 1)] if best.size else []
