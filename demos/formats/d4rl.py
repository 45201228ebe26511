"""D4RL's flat HDF5 files: all episodes one after the other, cut by ``terminals`` and ``timeouts``.

=====================  ====================  ============================================================
key                    shape                 content
=====================  ====================  ============================================================
observations           (rows, d)             obs[t]
actions                (rows, A)             the action taken in obs[t]: it leads to obs[t+1]
rewards                (rows,)               that of the action of the row
terminals, timeouts    (rows,) 0 or 1        the action of this row ended the episode, truly or by the clock
next_observations      (rows, d), optional   obs[t+1]
infos/qpos, infos/qvel (rows, .), optional   simulator state at obs[t]; Adroit: and what differs in the scene
infos/success          (rows,), optional     Adroit's measure of success
metadata/env_id        string, optional      tells the task; without it the file's name does, or is it
metadata/task          string, optional      only in files of `encode`: the task, whose observations are kept whole
=====================  ====================  ============================================================

An episode of m rows has m observations and m actions, one observation too few:

* With ``next_observations`` nothing is lost: m steps, is_terminal as in the file. The simulator state of the final
  row is the only thing missing; it repeats the row before (a note in meta says so).
* Without, the last action leads nowhere and is dropped: m - 1 steps. The last row is then the state *before* the
  action that ended the episode, so it is not terminal even if that action was terminal: a true termination is lost,
  and a note in meta says so. An episode of one row has no step left and is passed over.

Time-outs are never terminal (algorithms 1.4). Rows after the last flag are an episode cut off by the end of the file.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from demos.errors import DemoError
from demos.formats import hdf5, transitions
from envs.episode import Episode

NAME = "d4rl"
SUFFIX = ".hdf5"

# (random, expert) returns to which D4RL scales: Fu et al. 2020, "D4RL: Datasets for Deep Data-Driven Reinforcement
# Learning", appendix; the digits are those of its published reference scores.
REFERENCE = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "door": (-56.512833, 2880.569309),
    "hammer": (-274.856578, 12794.134825),
    "pen": (96.262799, 3076.833102),
    "relocate": (-6.425911, 4233.877798),
}  # not those of mazes and kitchen: they scale what an evaluation counts, which is not the sum of a file's rewards

_NO_TERMINATION = (
    "a terminal action is the last of an episode, and the file has no next_observations: what it led to, and with it"
    " the termination, is lost; the last row is the state before it"
)
_SIM_REPEATED = "sim_state of the final row repeats the row before: the file has none for it"
_SIM_SHIFTED = "infos/qpos and infos/qvel left out: they are not the state at the observation in the same row"


def normalised(task: str, score: float) -> float:
    """D4RL's normalised score in percent: 0 is its random policy, 100 its expert; ValueError without reference."""
    if task not in REFERENCE:
        raise ValueError(f"D4RL has no reference scores for {task!r}; there are some for {', '.join(REFERENCE)}")
    random, expert = REFERENCE[task]
    return 100 * (score - random) / (expert - random)


def reference(task: str) -> dict[str, Any]:
    """What meta holds beside the score: ``reference``, the returns of D4RL's random policy and expert, if known."""
    return {"reference": dict(zip(("random", "expert"), REFERENCE[task], strict=True))} if task in REFERENCE else {}


def can_read(path: Path) -> bool:
    """Whether ``observations`` or ``actions`` stand at the top of the file; DemoError if it is no readable HDF5."""
    return bool({"observations", "actions"} & hdf5.keys(path))


def read(path: Path) -> list[Episode]:
    """Decode all episodes of one file; obs is "state", rewards as they are.

    Raises:
        DemoError: damaged file, missing key, wrong shape, lengths that differ, NaN, no transition,
            next observations that are not the observations of the next row.
    """
    with hdf5.opened(path) as file:
        width = hdf5.width(path, file, "observations")
        env_id, own = (hdf5.text(file, f"metadata/{key}") for key in ("env_id", "task"))
        name = env_id or path.stem
        known = own or (transitions.task_of_env(env_id) if env_id else transitions.task_of(name))
        task = known or transitions.plain(name)
        columns = width if own else transitions.columns(name, width)
        data = _arrays(path, file, task, columns)
    rescaled: list[str] = []
    if not own:
        data["actions"], rescaled = transitions.unit_actions(name, data["actions"])
    _check_lengths(path, data)
    ended = data["terminals"] | data["timeouts"]
    _check_next(path, data, ended)
    meta: dict[str, Any] = {"task": task, "source": NAME, "file": path.name, **reference(task)}
    if env_id:
        meta["env_id"] = env_id
    if known is None:
        meta["task_by"] = "the file's name"
    ended[-1] = True
    stops = np.flatnonzero(ended) + 1
    starts = [0, *stops[:-1]]
    episodes = []
    for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        part = {key: value[start:stop] for key, value in data.items()}
        notes = [] if own else transitions.columns_note(name, width) + rescaled
        one = _episode(part, {**meta, "episode": number, "notes": notes})
        if one is not None:
            episodes.append(one)
    if not episodes:
        raise DemoError(path, "observations", "every episode is a single row: the file holds no transitions")
    return episodes


def encode(episodes: Sequence[Episode]) -> bytes:
    """The bytes of a file with these episodes of one task: states, actions, ends, and rewards as they are (NaN where
    they are not told). Nothing of the simulator. The same episodes always give the same bytes.
    """
    columns = {
        "observations": [e.obs["state"][:-1] for e in episodes],
        "actions": [e.action[1:] for e in episodes],
        "rewards": [e.reward[1:] for e in episodes],
        "terminals": [e.is_terminal[1:] for e in episodes],
        "timeouts": [e.is_last[1:] & ~e.is_terminal[1:] for e in episodes],
        "next_observations": [e.obs["state"][1:] for e in episodes],
    }
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for key, parts in columns.items():
            file[key] = np.concatenate(parts)
        file["metadata/task"] = episodes[0].meta["task"]
    return buffer.getvalue()


def _arrays(path: Path, file: h5py.File, task: str, columns: int) -> dict[str, np.ndarray]:
    """All arrays that are used, by key; observations and actions float32, simulator states float64."""
    data = {"observations": hdf5.numbers(path, file, "observations", columns=columns)}
    data["actions"] = hdf5.numbers(path, file, "actions")
    data["rewards"] = hdf5.array(path, file, "rewards", 1)
    for key in ("terminals", "timeouts"):
        data[key] = hdf5.flags(path, file, key)
    if hdf5.has(path, file, "next_observations"):
        data["next_observations"] = hdf5.numbers(path, file, "next_observations", columns=columns)
    states = [f"infos/{key}" for key in transitions.sim_parts(task)]
    if hdf5.has(path, file, *states):
        data |= {key: hdf5.numbers(path, file, key, np.float64) for key in states}
    if hdf5.has(path, file, "infos/success"):
        data["infos/success"] = hdf5.flags(path, file, "infos/success")
    return data


def _episode(part: dict[str, np.ndarray], meta: dict[str, Any]) -> Episode | None:
    """One episode from its rows of every array (see the top of the file); None if no step is left of it."""
    state, action, reward = (part[key] for key in ("observations", "actions", "rewards"))
    sim_state, task = None, meta["task"]
    timeout = bool(part["timeouts"][-1])
    terminal = transitions.is_terminal(task, bool(part["terminals"][-1]), timeout, meta["notes"])
    timeout |= bool(part["terminals"][-1])
    meta["ends_by"] = "termination" if terminal else "time limit" if timeout else "end of file"
    meta |= transitions.reported(task, part["rewards"], part.get("infos/success"))
    if "infos/qpos" in part:
        sim_state = transitions.sim_state(task, state, [part[f"infos/{key}"] for key in transitions.sim_parts(task)])
        if sim_state is None:
            meta["notes"].append(_SIM_SHIFTED)
    if "next_observations" in part:
        state = np.concatenate([state, part["next_observations"][-1:]])
        if sim_state is not None:
            sim_state = np.concatenate([sim_state, sim_state[-1:]])
            meta["notes"].append(_SIM_REPEATED)
    elif len(state) == 1:
        return None
    else:
        action, reward = action[:-1], reward[:-1]
        if terminal:
            terminal = False
            meta["notes"].append(_NO_TERMINATION)
    return transitions.episode({"state": state}, action, reward, terminal=terminal, sim_state=sim_state, meta=meta)


def _check_lengths(path: Path, data: dict[str, np.ndarray]) -> None:
    rows = len(data["observations"])
    for key, value in data.items():
        if len(value) != rows:
            raise DemoError(path, key, f"has {len(value)} rows; observations has {rows}")


def _check_next(path: Path, data: dict[str, np.ndarray], ended: np.ndarray) -> None:
    """Refuse a file whose rows do not follow one another between the flags: its episodes are cut elsewhere."""
    if "next_observations" not in data:
        return
    after, observations = data["next_observations"], data["observations"]
    if after.shape != observations.shape:
        raise DemoError(path, "next_observations", f"is {after.shape}; observations is {observations.shape}")
    broken = ~np.isclose(after[:-1], observations[1:], rtol=1e-4, atol=1e-4).all(1) & ~ended[:-1]
    if broken.any():
        row = int(np.argmax(broken))
        reason = (
            f"row {row} is not observations row {row + 1}, and neither terminals nor timeouts ends an episode there"
        )
        raise DemoError(path, "next_observations", reason)
