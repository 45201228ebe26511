"""robomimic's HDF5 files: a group for every demonstration under ``data``, observations by name.

=======================  =================  ================================================================
key                      shape              content
=======================  =================  ================================================================
data (attribute)         JSON               env_args: env_name tells the task, env_kwargs/control_freq the pace
data/demo_i/obs/NAME     (T, ...)           numbers (T,) or (T, d), colour pictures (T, h, w, 3) uint8
data/demo_i/actions      (T, A)             actions[t] was taken in obs[t]; in [-1, 1]
data/demo_i/next_obs     as obs, optional   next_obs[t] is what actions[t] led to
data/demo_i/rewards      (T,), optional     that of actions[t]
data/demo_i/dones        (T,), optional     0 or 1, see below
=======================  =================  ================================================================

Demonstrations are read by number (demo_2 before demo_10); ``mask``, ``states`` and everything else is left alone.

"state" is all observations of numbers side by side, in the alphabetical order of their names; meta["robot"]["state"]
lists the names, "NAME[0]", "NAME[1]", ... for those of several numbers. "image" is the colour pictures of one camera at
64 x 64 (meta["robot"]["camera"]); other arrays of pictures, such as depth, are passed over. Because of that order the
state is not the one of this project's task of the same name, and the task is called robomimic-NAME.

* With ``next_obs`` nothing is lost: T steps. Without, the last action leads nowhere and is dropped: T - 1 steps.
* Nothing terminates: depending on how a file was made ``dones`` marks successful states, the last row of everything,
  or both, so that a 1 at the end does not tell a termination from the end of a recording. They are checked only.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from demos.errors import DemoError
from demos.formats import cameras, hdf5, transitions
from demos.formats.wanted import ALL, Wanted
from envs.episode import Episode

NAME = "robomimic"
SUFFIX = ".hdf5"

_DEMO = re.compile(r"demo_(\d+)")
_RAW = (
    "missing: the file holds simulator states without observations, as robosuite collects them; write these with "
    "robomimic's convert_robosuite.py and dataset_states_to_obs.py, and convert the file that comes out"
)
_LAST = "the last action of an episode is dropped: without next_obs the file does not tell what it led to"


def can_read(path: Path) -> bool:
    """Whether there is a group ``data`` at the top; DemoError if it is no readable HDF5."""
    if "data" not in hdf5.keys(path):
        return False
    with hdf5.opened(path) as file:
        return hdf5.members(path, file, "data") is not None


def read(path: Path, wanted: Wanted = ALL) -> Iterator[Episode]:
    """Decode the demonstrations of one file one after the other; obs is "state" and "image", as far as there are.

    Pictures are read only where they are wanted; `demos.formats.cameras.choose` says whose.

    Raises:
        DemoError: damaged file, missing key, wrong shape, lengths that differ, NaN, next observations that are not
            those of the next row, no demonstration or observation, several cameras and none asked for.
    """
    with hdf5.opened(path) as file:
        names = [name for name in hdf5.members(path, file, "data") or () if _DEMO.fullmatch(name)]
        if not names:
            raise DemoError(path, "data", "holds no demonstration (groups demo_0, demo_1, ...)")
        meta = _meta(path, file)
        first: tuple[list[str], list[str]] | None = None
        for name in sorted(names, key=lambda one: int(one.partition("_")[2])):
            key = f"data/{name}"
            if hdf5.members(path, file, key) is None:
                raise DemoError(path, key, "is no group")
            group = file[key]
            plain, pictures = _observations(path, group)
            if first is None:
                first = plain, pictures
            elif first != (plain, pictures):
                told = ", ".join(sorted({*plain, *pictures} ^ {*first[0], *first[1]})) or "their kinds"
                raise DemoError(path, f"{key}/obs", f"has other observations than the demonstration before: {told}")
            chosen = cameras.choose(path, pictures, wanted.camera) if wanted.pictures else None
            yield _episode(path, group, plain, chosen, {**meta, "episode": int(name.partition("_")[2])})


def _observations(path: Path, group: h5py.Group) -> tuple[list[str], list[str]]:
    """Names of the observations of numbers, and of colour pictures, each in alphabetical order."""
    held = hdf5.members(path, group, "obs")
    if held is None:
        raw = hdf5.has(path, group, "states")
        raise DemoError(path, hdf5.name(group, "obs"), _RAW if raw else "missing; observations are a group")
    shapes = {name: hdf5.shape(path, group, f"obs/{name}") for name in held}
    plain = [name for name, shape in shapes.items() if len(shape) in (1, 2)]
    pictures = [name for name, shape in shapes.items() if len(shape) == 4 and shape[3] == 3]
    if not plain and not pictures:
        raise DemoError(path, hdf5.name(group, "obs"), f"holds no numbers and no colour pictures: {', '.join(held)}")
    return plain, pictures


def _episode(path: Path, group: h5py.Group, plain: list[str], camera: str | None, meta: dict[str, Any]) -> Episode:
    action = hdf5.numbers(path, group, "actions")
    steps = len(action)
    rewards = hdf5.array(path, group, "rewards", 1) if hdf5.has(path, group, "rewards") else None
    if hdf5.has(path, group, "dones"):
        _rows(path, group, "dones", hdf5.flags(path, group, "dones"), steps)
    if rewards is not None:
        _rows(path, group, "rewards", rewards, steps)
    after = hdf5.members(path, group, "next_obs") is not None
    obs: dict[str, np.ndarray] = {}
    robot: dict[str, Any] = {} if meta["dt"] is None else {"dt": meta["dt"]}
    if plain:
        obs["state"], named = _state(path, group, "obs", plain, steps)
        robot["state"] = {"names": named}
        if after:
            ahead, _ = _state(path, group, "next_obs", plain, steps)
            broken = ~np.isclose(ahead[:-1], obs["state"][1:], rtol=1e-4, atol=1e-4).all(1)
            if broken.any():
                row = int(np.argmax(broken))
                raise DemoError(path, hdf5.name(group, "next_obs"), f"row {row} is not obs row {row + 1}")
            obs["state"] = np.concatenate([obs["state"], ahead[-1:]])
    if camera is not None:
        seen = [_pictures(path, group, f"obs/{camera}", steps)]
        if after:
            seen.append(_pictures(path, group, f"next_obs/{camera}", steps)[-1:])
        key = hdf5.name(group, f"obs/{camera}")
        obs["image"], robot["camera"] = cameras.reduced(path, key, itertools.chain(*seen), steps + after)
        robot["camera"]["key"] = camera
    if not obs:
        raise DemoError(path, hdf5.name(group, "obs"), f"holds no numbers, only pictures: {', '.join(group['obs'])}")
    told = {"return": float(np.sum(rewards, dtype=np.float64))} if rewards is not None else {}
    told = {key: value for key, value in told.items() if np.isfinite(value)}
    notes = [] if after else [_LAST]
    if not after:
        if steps < 2:
            raise DemoError(path, hdf5.name(group, "actions"), "has 1 row, and there is no next_obs: no transition")
        action, rewards = action[:-1], None if rewards is None else rewards[:-1]
    facts = {key: value for key, value in meta.items() if key != "dt"}
    facts |= {**told, "ends_by": "end of recording", "notes": notes, "robot": robot}
    return transitions.episode(obs, action, rewards, terminal=False, sim_state=None, meta=facts)


def _state(path: Path, group: h5py.Group, key: str, names: list[str], steps: int) -> tuple[np.ndarray, list[str]]:
    """(T, d) float32 of all the observations `names` under `key`, and what each column is called."""
    parts, called = [], []
    for name in names:
        part = hdf5.columns(path, group, f"{key}/{name}")
        _rows(path, group, f"{key}/{name}", part, steps)
        parts.append(part)
        wide = part.shape[1] > 1
        called += [f"{name}[{number}]" for number in range(part.shape[1])] if wide else [name]
    return np.concatenate(parts, axis=1), called


def _pictures(path: Path, group: h5py.Group, key: str, steps: int) -> np.ndarray:
    frames = hdf5.array(path, group, key, 4)
    _rows(path, group, key, frames, steps)
    return frames


def _rows(path: Path, group: h5py.Group, key: str, value: np.ndarray, steps: int) -> None:
    if len(value) != steps:
        raise DemoError(path, hdf5.name(group, key), f"has {len(value)} rows; actions has {steps}")


def _meta(path: Path, file: h5py.File) -> dict[str, Any]:
    """The facts that all demonstrations of a file share; ``dt`` is None where the pace is not told."""
    text = hdf5.attributes(path, file, "data").get("env_args")
    meta: dict[str, Any] = {"task": NAME, "source": NAME, "file": path.name, "dt": None}
    if text is None:
        return meta
    try:
        told = json.loads(text)
    except ValueError as error:
        raise DemoError(path, "data/env_args", f"is not JSON: {error}") from error
    if isinstance(told, dict) and isinstance(told.get("env_name"), str):
        meta |= {"env_id": told["env_name"], "task": f"{NAME}-{transitions.plain(told['env_name'])}"}
    arguments = told.get("env_kwargs") if isinstance(told, dict) else None
    rate = arguments.get("control_freq") if isinstance(arguments, dict) else None
    if isinstance(rate, int | float) and 0 < rate < 1e6:
        meta["dt"] = 1 / rate
    return meta
