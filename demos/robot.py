"""meta["robot"]: what demonstrations tell of the robot they were recorded on, carried along to the exported policy.

======  ===================================================================================================
entry   content; each may be missing
======  ===================================================================================================
action  {"names", "low", "high"}, A of each: low and high are the actions that are -1 and 1, in the robot's units
state   {"names"}: what the d numbers of the state are, in their order
camera  {"key", "frame": [height, width, 3], "how"}: the camera, its frames, how they become 64 x 64
dt      seconds between two rows
======  ===================================================================================================
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from envs.episode import Episode

# what nobody sees who sees the other: pictures have no named numbers, states come from no camera
UNSEEN = {"image": "state", "state": "camera"}
RECORDED = "recorded"  # of the actions: a range, which two sources of one robot need not share


def unit(action: np.ndarray, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> np.ndarray:
    """Actions (rows, A) in the robot's units -> float32 in [-1, 1], for demonstrations whose meta["robot"]["action"]
    tells the same low and high (A,); 0 where these are equal. `agent.deploy.Deployed.to_robot` is the inverse.

    Raises ValueError for an action outside of them, or other shapes.
    """
    values, least, most = (np.asarray(one, np.float64) for one in (action, low, high))
    if values.ndim != 2 or least.shape != values.shape[1:] or most.shape != least.shape:
        raise ValueError(
            f"actions {values.shape}, low {least.shape}, high {most.shape}: expected (rows, A), (A,), (A,)"
        )
    inside = (values >= least) & (values <= most)
    if not inside.all():
        row, column = (int(one[0]) for one in np.nonzero(~inside))
        raise ValueError(
            f"number {column} of the action is {values[row, column]:.6g} in row {row}, outside of "
            f"{least[column]:.6g} to {most[column]:.6g}"
        )
    span = most - least
    share = np.divide(values - least, span, out=np.full_like(values, 0.5), where=span > 0)
    return (2 * share - 1).astype(np.float32)


def rescaled(episode: Episode, to: Mapping[str, Any]) -> Episode:
    """The episode with the same actions in the robot's units, where `to`'s low and high (A,) are -1 and 1.

    to: "low" and "high", and "names" where these must be the episode's.

    Raises ValueError: the episode tells no units, other names or numbers of actions, an action outside of low and high.
    """
    told = episode.meta.get("robot", {}).get("action")
    if told is None:
        raise ValueError("no low and high of the actions are told, which would lead back to the robot's units")
    names, low, high = told["names"], np.array(told["low"], np.float64), np.array(told["high"], np.float64)
    least, most = np.array(to["low"], np.float64), np.array(to["high"], np.float64)
    if not len(least) == len(most) == len(low) or to.get("names", names) != names:
        raise ValueError(f"the actions are {', '.join(names)}; the other low and high are of other ones")
    values = low + (episode.action[1:].astype(np.float64) + 1) / 2 * (high - low)
    beyond = np.maximum(least - values, values - most)
    row, column = (int(one) for one in np.unravel_index(beyond.argmax(), beyond.shape))
    # float32 has rounded what was exactly at an end
    if beyond[row, column] > 1e-6 * (high - low)[column] + 1e-9 * (1 + np.abs(values[row, column])):
        raise ValueError(
            f"{names[column]} is {values[row, column]:.6g} in row {row + 1}, {beyond[row, column]:.4g} outside of "
            f"{least[column]:.6g} to {most[column]:.6g}"
        )
    action = np.concatenate([episode.action[:1], unit(np.clip(values, least, most), least, most)])
    units = {"names": names, "low": least.tolist(), "high": most.tolist()}
    robot = episode.meta["robot"] | {"action": units}
    return dataclasses.replace(episode, action=action, meta=episode.meta | {"robot": robot})


def scale(robot: Any) -> dict[str, Any] | None:
    """The entry "action" of a meta["robot"], or of what was kept of one, if it tells names, low and high."""
    action = robot.get("action") if isinstance(robot, dict) else None
    names = action.get("names") if isinstance(action, dict) else None
    return action if action and isinstance(names, list) and _units(action, len(names)) else None


def problem(episode: Episode) -> str | None:
    """What is wrong with the episode's meta["robot"], beside its arrays; None if nothing is, or it is not there."""
    robot = episode.meta.get("robot", {})
    if not isinstance(robot, dict):
        return f"is a {type(robot).__name__}; expected an object"
    parts = [robot.get(key, {}) for key in ("action", "state", "camera")]
    if not all(isinstance(part, dict) for part in parts):
        return "has an entry action, state or camera that is no object"
    action, state, camera = parts
    if "action" in robot and not _units(action, episode.action.shape[1]):
        return "action: expected names, low and high of every action, low <= high"
    if "state" in robot and "state" in episode.obs and not _names(state, episode.obs["state"].shape[1]):
        return "state: expected the name of every number"
    frame = camera.get("frame")
    if camera and not (isinstance(frame, list) and len(frame) == 3 and {"key", "how"} <= set(camera)):
        return "camera: expected key, frame (height, width, 3) and how"
    if "dt" in robot and not (_number(robot["dt"]) and robot["dt"] > 0):
        return f"dt: is {robot['dt']!r}; expected the seconds between two rows"
    return None


def _units(action: Mapping[str, Any], size: int) -> bool:
    low, high = action.get("low"), action.get("high")
    if not isinstance(low, list) or not isinstance(high, list) or not len(low) == len(high) == size:
        return False
    pairs = zip(low, high, strict=True)
    return _names(action, size) and all(_number(a) and _number(b) and a <= b for a, b in pairs)


def _names(part: Mapping[str, Any], size: int) -> bool:
    names = part.get("names")
    return isinstance(names, list) and len(names) == size and all(isinstance(name, str) for name in names)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def differing(
    one: Mapping[str, Any], other: Mapping[str, Any], key: str | None = None, *, both: bool = True
) -> str | None:
    """The first entry in which what two sources tell of their robot differs, and how, for messages; None: in nothing.

    key: of the observations, if these are "image" or "state" alone. both: an entry that only one of them tells is a
    difference, as where nothing but recordings says what [-1, 1] is; otherwise it is none, since a simulator says it.
    """
    for part in sorted((set(one) | set(other)) - {UNSEEN.get(key or "")}):
        ours, theirs = one.get(part), other.get(part)
        if ours is None or theirs is None:
            if both:
                return f"{part} is told by one of them alone"
        elif ours != theirs and not (isinstance(ours, dict) and isinstance(theirs, dict)):
            return f"{part} is {ours} and {theirs}"
        elif ours != theirs:
            for name in sorted((set(ours) | set(theirs)) - {RECORDED}):
                if ours.get(name) != theirs.get(name):
                    hint = " (demos.convert like=PATH gives two sets one scale)" if name in ("low", "high") else ""
                    return f"{part}.{name} is {ours.get(name)} and {theirs.get(name)}{hint}"
    return None
