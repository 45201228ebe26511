"""LeRobot's data sets: a folder with ``meta/info.json``, Parquet files of numbers, and a video file for each camera.

Either the folder or one of its Parquet files can be named. A row of a data set is an instant; its columns:

==========================  =========  =========================================================================
column                      shape      content
==========================  =========  =========================================================================
observation.state           (rows, d)  becomes "state"; optional where there are pictures
action                      (rows, A)  what was commanded at the row's observation: it leads to the next row
observation.images.NAME     video      or pictures inside the Parquet file: becomes "image", 64 x 64; optional
episode_index, frame_index  (rows,)    whose row it is, and which: frame_index counts from 0
==========================  =========  =========================================================================

An episode of m rows gives m - 1 steps: what its last action led to was not recorded, so that this action is dropped.
Nothing terminates. Rewards, where a set has some, are not read.

Actions of these sets are in the robot's own units (joint angles, ...). They are mapped to [-1, 1] by the least and the
largest value that the data set tells of ALL its episodes, so that reading a few of them changes nothing, with 1 % of
the range more on either side. An action that is constant becomes 0. meta["robot"] holds what leads back
(`demos.robot`): low and high, the names of actions and state, the camera, the pace.

Layouts, by codebase_version:

* v2.0, v2.1: one Parquet file and, for each camera, one video an episode; ``meta/episodes.jsonl`` lists them; ranges
  in ``meta/episodes_stats.jsonl`` (v2.1) or ``meta/stats.json`` (v2.0). Known from files: v2.1 without and with video.
* v3.0: many episodes in a file; ``meta/episodes/*/*.parquet`` tells each one's files and where in a video it begins;
  ranges in ``meta/stats.json``. Known from the documentation and the source of LeRobot only, as are pictures inside
  Parquet files and v2.0; the tests write such sets themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from demos.errors import DemoError
from demos.formats import cameras, parquet, transitions
from demos.formats.lerobot_index import EPISODE, INFO, Index, Piece, index, root_of
from demos.formats.wanted import ALL, Wanted
from demos.robot import unit
from envs.episode import Episode

NAME = "lerobot"
SUFFIX = ".parquet"

_STATE = "observation.state"
_LAST = "the last action of an episode is dropped: what it led to was not recorded"
_SCALED = "actions are mapped from the robot's units to [-1, 1]; meta tells low and high"


def is_set(folder: Path) -> bool:
    """Whether the folder is a LeRobot data set."""
    return (folder / INFO).is_file()


def files(folder: Path) -> list[Path]:
    """The Parquet files of a data set in the order of their episodes. Raises DemoError: ``meta`` is damaged."""
    return list(dict.fromkeys(piece.data for piece in index(folder).pieces))


def can_read(path: Path) -> bool:
    """Whether the file lies in a LeRobot data set."""
    return root_of(path) is not None


def read(path: Path, wanted: Wanted = ALL) -> Iterator[Episode]:
    """Decode the episodes of one Parquet file one after the other; obs is "state" and "image", as far as there are.

    Videos are opened only where pictures are wanted (`demos.formats.cameras.choose` says whose), and episodes with
    other instructions stay unread.

    Raises:
        DemoError: a damaged, missing or contradictory file, NaN, lengths that differ, an action outside the range that
            the data set tells, several cameras and none asked for, no observation, pyarrow not installed.
    """
    root = root_of(path)
    if root is None:
        raise DemoError(path, "file", f"lies in no LeRobot data set: no folder above it has {INFO}")
    found = index(root)
    pieces = [piece for piece in found.pieces if piece.data == path]
    if not pieces:
        raise DemoError(path, "file", "no episode of the data set's meta lies in it")
    chosen = cameras.choose(found.info, found.cameras, wanted.camera) if wanted.pictures else None
    for piece in pieces:
        if wanted.instruction is None or wanted.instruction in piece.tasks:
            yield _episode(found, piece, chosen)


def _episode(found: Index, piece: Piece, camera: str | None) -> Episode:
    path = piece.data
    numbers = [key for key in (_STATE, "action") if key == "action" or key in found.features]
    inside = camera is not None and camera not in piece.clips
    if camera is None and _STATE not in found.features:
        raise DemoError(found.info, _STATE, f"missing, and no pictures are to be read: {', '.join(found.features)}")
    widths = {key: found.width(key) for key in numbers}
    columns = [*numbers, EPISODE, "frame_index", *([camera] if camera is not None and inside else [])]
    data = parquet.table(path, columns, only=(EPISODE, piece.number))
    if len(data) != piece.rows:
        raise DemoError(path, EPISODE, f"{len(data)} rows are of episode {piece.number}; meta tells {piece.rows}")
    if piece.rows < 2:
        raise DemoError(path, EPISODE, f"episode {piece.number} has one row: it holds no transition")
    counted = parquet.numbers(path, data, "frame_index", 1)[:, 0]
    if not np.array_equal(counted, np.arange(piece.rows)):
        row = int(np.argmax(counted != np.arange(piece.rows)))
        raise DemoError(path, "frame_index", f"is {counted[row]:g} in row {row} of episode {piece.number}")
    arrays = {key: parquet.numbers(path, data, key, width) for key, width in widths.items()}
    low, high = found.scale
    robot: dict[str, Any] = {
        "action": {"names": found.names("action"), "low": low.tolist(), "high": high.tolist()},
        "dt": 1 / found.fps,
    }
    obs = {}
    if _STATE in arrays:
        obs["state"] = arrays[_STATE].astype(np.float32)
        robot["state"] = {"names": found.names(_STATE)}
    if camera is not None:
        if inside:
            frames = cameras.packed(path, camera, parquet.blobs(path, data, camera))
            obs["image"], robot["camera"] = cameras.reduced(path, camera, frames, piece.rows)
        else:
            clip = piece.clips[camera]
            obs["image"], robot["camera"] = cameras.video(clip.path, camera, piece.rows, found.fps, clip.start)
    meta = {
        "task": f"{NAME}-{found.robot.lower()}",
        "source": NAME,
        "file": path.name,
        "dataset_id": found.root.resolve().name,
        "episode": piece.number,
        "instruction": list(piece.tasks),
        "ends_by": "end of recording",
        "notes": [_LAST, _SCALED],
        "robot": robot,
        "recorded_actions": {side: part.tolist() for side, part in zip(("low", "high"), found.recorded, strict=True)},
    }
    action = _scaled(path, piece.number, arrays["action"], low, high)[:-1]
    return transitions.episode(obs, action, None, terminal=False, sim_state=None, meta=meta)


def _scaled(path: Path, number: int, action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Actions (rows, A) in the robot's units -> float32 in [-1, 1]; 0 where low = high.

    Raises DemoError where the statistics are of other data: an action lies outside.
    """
    span = high - low
    slack = np.where(span > 0, 0, 1e-6 * (1 + np.abs(low)))
    outside = (action < low - slack) | (action > high + slack)
    if outside.any():
        row, column = (int(one[0]) for one in np.nonzero(outside))
        raise DemoError(
            path,
            "action",
            f"number {column} is {action[row, column]:.6g} in row {row} of episode {number}, but meta tells a range of "
            f"{low[column]:.6g} to {high[column]:.6g}: its statistics are of other data (without meta/stats.json "
            "and meta/episodes_stats.jsonl the range is taken from the actions themselves)",
        )
    return unit(np.clip(action, low, high), low, high)
