"""Minari's datasets: one HDF5 file with a group for every episode, and a metadata.json beside it.

A dataset is a folder with ``data/main_data.hdf5`` and ``data/metadata.json``; either the folder or the file can be
named. In each group ``episode_i``:

==========================  ===========  =================================================================
key                         shape        content
==========================  ===========  =================================================================
observations                (T+1, d)     obs[0] after reset; AntMaze: a group, see below
actions                     (T, A)       actions[t] leads from obs[t] to obs[t+1]
rewards                     (T,)         rewards[t] is that of actions[t]
terminations, truncations   (T,) 0 or 1  true in the last entry only
infos/qpos, infos/qvel      (T+1, .)     optional: simulator state at obs[t]; Adroit: and what differs in the scene
infos/success               (.,)         optional: Adroit's measure of success
==========================  ===========  =================================================================

AntMaze's observation group becomes [achieved_goal (x, y), observation (27 numbers)], the 29 numbers that D4RL stores;
the desired goal is left out, because the state observation of our task has none.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from demos.errors import DemoError
from demos.formats import d4rl, hdf5, transitions
from envs.episode import Episode

NAME = "minari"
SUFFIX = ".hdf5"

DATA = Path("data", "main_data.hdf5")  # inside a dataset's folder

_EPISODE = re.compile(r"episode_(\d+)")
_ANT = 27
_NO_GOAL = "state: achieved_goal and the first 27 numbers of observation; desired_goal is left out"
_SIM_ROWS = "infos/qpos and infos/qvel left out: they are not the state at every observation"


def can_read(path: Path) -> bool:
    """Whether there are ``episode_<number>`` groups; DemoError if it is no readable HDF5."""
    return any(_EPISODE.fullmatch(key) for key in hdf5.keys(path))


def read(path: Path) -> list[Episode]:
    """Decode all episodes of one main_data.hdf5 by number; obs is "state", rewards as they are.

    Raises:
        DemoError: damaged file, missing key, wrong shape, lengths that differ, NaN, an episode without transitions
            or with an end in the middle, no name of a task, unknown groups of observations.
    """
    names = sorted(filter(_EPISODE.fullmatch, hdf5.keys(path)), key=lambda name: int(name.partition("_")[2]))
    with hdf5.opened(path) as file:
        described = _metadata(path, file)
        meta: dict[str, Any] = {"task": _task(path, described), "source": NAME, "file": path.name}
        for key in ("dataset_id", "env_id"):
            if key in described:
                meta[key] = described[key]
        return [_episode(path, file, name, meta) for name in names]


def _episode(path: Path, file: h5py.File, name: str, meta: dict[str, Any]) -> Episode:
    if hdf5.members(path, file, name) is None:
        raise DemoError(path, name, "is no group")
    group = file[name]
    task = meta["task"]
    action = hdf5.numbers(path, group, "actions")
    ends = {key: hdf5.flags(path, group, key) for key in ("terminations", "truncations")}
    rewards = hdf5.array(path, group, "rewards", 1)
    steps = len(action)
    for key, value in {"rewards": rewards, **ends}.items():
        if len(value) != steps:
            raise DemoError(path, f"{name}/{key}", f"has {len(value)} rows; actions has {steps}")
    for key, value in ends.items():
        if value[:-1].any():
            row = int(np.argmax(value))
            raise DemoError(path, f"{name}/{key}", f"true in row {row}, before the end of the episode")
    known = meta.get("env_id") or meta["dataset_id"]
    state, notes = _state(path, group, task, known)
    action, rescaled = transitions.unit_actions(known, action)
    notes += rescaled
    if len(state) != steps + 1:
        reason = f"has {len(state)} rows; expected {steps + 1}, one more than actions"
        raise DemoError(path, f"{name}/observations", reason)
    sim_state = None
    keys = [f"infos/{key}" for key in transitions.sim_parts(task)]
    if hdf5.has(path, group, *keys):
        parts = [hdf5.numbers(path, group, key, np.float64) for key in keys]
        # Data sets may hold infos of steps only, without that of reset: then the first row has no state.
        if all(len(part) == steps + 1 for part in parts):
            sim_state = transitions.sim_state(task, state, parts)
        if sim_state is None:
            notes.append(_SIM_ROWS)
    success = hdf5.flags(path, group, "infos/success") if hdf5.has(path, group, "infos/success") else None
    ended, truncated = (bool(ends[key][-1]) for key in ("terminations", "truncations"))
    terminal = transitions.is_terminal(task, ended, truncated, notes)
    told = {**meta, "episode": int(name.partition("_")[2]), "notes": notes, **d4rl.reference(task)}
    told |= transitions.reported(task, rewards, success)
    told["ends_by"] = "termination" if terminal else "time limit" if ended or truncated else "end of recording"
    obs = {"state": state}
    return transitions.episode(obs, action, rewards, terminal=terminal, sim_state=sim_state, meta=told)


def _state(path: Path, group: h5py.Group, task: str, name: str) -> tuple[np.ndarray, list[str]]:
    """State (T+1, d) float32, and notes on what was left out of it."""
    held = hdf5.members(path, group, "observations")
    if held is None:
        width = hdf5.width(path, group, "observations")
        state = hdf5.numbers(path, group, "observations", columns=transitions.columns(name, width))
        return state, transitions.columns_note(name, width)
    if not task.startswith("antmaze-"):
        reason = f"is a group of {', '.join(held) or 'nothing'}; only an array, or AntMaze's group, can become a state"
        raise DemoError(path, hdf5.name(group, "observations"), reason)
    place = hdf5.numbers(path, group, "observations/achieved_goal")
    ant = hdf5.numbers(path, group, "observations/observation", columns=_ANT)
    if len(place) != len(ant):
        key = hdf5.name(group, "observations/achieved_goal")
        raise DemoError(path, key, f"has {len(place)} rows; observation has {len(ant)}")
    return np.concatenate([place, ant], axis=1), [_NO_GOAL]


def _metadata(path: Path, file: h5py.File) -> dict[str, str]:
    """``dataset_id`` and ``env_id``, as far as metadata.json or else the file's attributes (old versions) tell."""
    found: dict[str, Any] = dict(hdf5.attributes(path, file))
    beside = path.parent / "metadata.json"
    if beside.is_file():
        found |= _json(path, "metadata.json", beside.read_text(encoding="utf-8", errors="replace"))
    spec = found.get("env_spec")
    if isinstance(spec, str):
        spec = _json(path, "env_spec", spec)
    if isinstance(spec, dict):
        found["env_id"] = spec.get("id")
    return {key: found[key] for key in ("dataset_id", "env_id") if isinstance(found.get(key), str)}


def _json(path: Path, key: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DemoError(path, key, f"is not JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def _task(path: Path, described: dict[str, str]) -> str:
    name = described.get("env_id") or described.get("dataset_id")
    if not name:
        reason = "names no known task: neither env_spec nor dataset_id does; is metadata.json beside the file?"
        raise DemoError(path, "metadata.json", reason)
    return transitions.task_of_env(name)
