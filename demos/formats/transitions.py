"""What files of transitions share: task names, state layouts, and turning "action leaves its row" into storage.

In D4RL, Minari, robomimic and LeRobot, action[t] leads from obs[t] to obs[t+1]; storage puts it into the row it
led to (algorithms 1.2).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from envs.episode import Episode

LOCOMOTION = ("hopper", "halfcheetah", "walker2d", "ant", "humanoid")
# What, besides qpos and qvel, differs from episode to episode in Adroit's scenes.
ADROIT = {
    "door": ("door_body_pos",),
    "hammer": ("board_pos",),
    "pen": ("desired_orien",),
    "relocate": ("obj_pos", "target_pos"),
}
TASKS = (*LOCOMOTION, *ADROIT, "kitchen")
# The long names are D4RL's: its AntMaze files are called Ant_maze_u-maze..., Ant_maze_big-maze..., ...
MAZES = {"umaze": "umaze", "u": "umaze", "medium": "medium", "big": "medium", "large": "large", "hardest": "large"}

# Leading columns that are positions and velocities, by the width of the whole observation: gymnasium's v4 and v5
# append contact forces (Ant), and inertias, actuator and contact forces (Humanoid).
_KEPT = {"ant": {105: 27, 111: 27}, "humanoid": {348: 45, 376: 45}}
# Half of an action box that is not +-1: an action of ours is the share of it.
_BOX = {"humanoid": np.float32(0.4)}
# Tasks that nothing ends but the clock: a "terminal" of theirs is a time-out.
_ENDLESS = ("halfcheetah", *ADROIT, "kitchen")
# What Gymnasium's, D4RL's and Minari's names of these say beside the robot. Another word is somebody's own robot.
_PUBLISHED = re.compile(r"v\d+|random|simple|medium|expert|full|replay|mujoco|d4rl")


def task_of(name: str) -> str | None:
    """The task that an environment id, data set id or file name speaks of; None if it names none we know.

    ``Hopper-v5`` -> hopper, ``AntMaze_UMaze-v4`` and ``D4RL/antmaze/umaze-v1`` -> antmaze-umaze,
    ``AdroitHandDoorSparse-v1`` and ``door-expert-v1`` -> door, ``FrankaKitchen-v1`` -> kitchen.
    """
    words = re.findall(r"[a-z0-9]+", name.lower().replace("ant_maze", "antmaze"))
    for word, after in itertools.pairwise([*words, ""]):
        if word == "antmaze":
            return f"antmaze-{MAZES[after]}" if after in MAZES else None
        bare = word.removeprefix("adroithand").removeprefix("franka").removesuffix("sparse")
        if bare in TASKS:
            return bare
    return None


def task_of_env(env_id: str) -> str:
    """As `task_of` for an environment or data set id; an unknown one is its own lower-case name without the version."""
    return task_of(env_id) or plain(env_id)


def plain(env_id: str) -> str:
    """A name in lower case without its version."""
    return re.sub(r"-v\d+$", "", env_id).lower()


def _robot(name: str) -> str:
    """The one robot that a published environment id, data set id or file name speaks of; "" where it may be another."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    robots = [word for word in words if not _PUBLISHED.fullmatch(word)]
    return robots[0] if len(robots) == 1 < len(words) else ""


def columns(name: str, width: int) -> int:
    """How many leading columns of an observation of `width` numbers are the state that a task observes here.

    name: an environment id, data set id or file name. Others than those published may mean another robot, of which
    everything is kept.
    """
    return _KEPT.get(_robot(name), {}).get(width, width)


def unit_actions(name: str, action: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Actions (n, A) in [-1, 1] where the box of the robot that `name` speaks of is another one, and a note on it."""
    half = _BOX.get(_robot(name))
    return (action, []) if half is None else (action / half, [f"action: divided by {half:g}, the robot's box"])


def is_terminal(task: str, terminal: bool, timeout: bool, notes: list[str]) -> bool:
    """Whether an episode's end is a true termination (algorithms 1.4): no time-out, and of a task that can end early;
    `notes` is told otherwise.
    """
    if terminal and task in _ENDLESS:
        notes.append(f"a terminal action is taken for a time-out: nothing but the clock ends {task}")
        return False
    return terminal and not timeout


def columns_note(name: str, width: int) -> list[str]:
    """A note for meta when `columns` leaves some out, else nothing."""
    kept = columns(name, width)
    if kept == width:
        return []
    return [
        f"state: the first {kept} of {width} numbers (positions and velocities); contact and inertia values dropped"
    ]


def sim_parts(task: str) -> tuple[str, ...]:
    """The arrays under ``infos`` that together, in this order, are the simulator state of `task`."""
    return ("qpos", "qvel", *ADROIT.get(task, ()))


def sim_state(task: str, state: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray | None:
    """The simulator states of one episode, or None where they are not of the same instants as the observations.

    D4RL's AntMaze generator stores qpos and qvel after the step, so row t there belongs to observation t + 1. Where
    the observation is known to be the end of [qpos, qvel] (locomotion without the coordinates that the robot moves
    along, AntMaze with them) this is tested; for other tasks it is taken for granted.

    Args:
        task: name of the task.
        state: (rows, d) observations.
        parts: what `sim_parts` names, each (rows, .) float64.

    Returns:
        (rows, S) float64: qpos, qvel, and the scene as the first row has it. The scene does not change within an
        episode, but Relocate's obj_pos goes with the ball, whose motion is in qpos already.
    """
    moving, scene = np.concatenate(parts[:2], axis=1), [np.broadcast_to(part[0], part.shape) for part in parts[2:]]
    if task in LOCOMOTION or task.startswith("antmaze-"):
        # Hopper and Walker2d observe velocities clipped to +-10; clipping everything keeps the test the same for all.
        tail = np.clip(moving[:, -state.shape[1] :], -10, 10)
        if tail.shape != state.shape or not np.allclose(tail, np.clip(state, -10, 10), rtol=0, atol=1e-3):
            return None
    return np.concatenate([moving, *scene], axis=1)


def reported(task: str, rewards: np.ndarray, success: np.ndarray | None) -> dict[str, float]:
    """What meta tells people about the recorded rewards, which no learner sees (algorithms 1.5).

    Args:
        task: name of the task.
        rewards: rewards of one episode, any shape; if one is not finite there is nothing to tell of them.
        success: flags of one episode, or None.

    Returns:
        ``return``, the sum of the rewards, and ``score`` in the unit of the environment's score: the return in
        locomotion, 1 or 0 for success in AntMaze (a goal reached is the only reward) and Adroit (where told).
    """
    told = {}
    total = float(np.sum(rewards, dtype=np.float64))
    if np.isfinite(total):
        told["return"] = total
        if task.startswith("antmaze-"):
            told["score"] = float(total > 0)
        elif task not in ADROIT:
            told["score"] = total
    if task in ADROIT and success is not None:
        told["score"] = float(success.any())
    return told


def episode(
    obs: Mapping[str, np.ndarray],
    action: np.ndarray,
    reward: np.ndarray | None,
    *,
    terminal: bool,
    sim_state: np.ndarray | None,
    meta: dict[str, Any],
) -> Episode:
    """An episode in storage convention, with the rewards that the file holds: `demos.dataset` lets nobody see them
    who does not ask.

    Args:
        obs: "state" (n+1, d) float32 and/or "image" (n+1, 64, 64, 3) uint8; row t+1 is what action[t] led to.
        action: (n, A) float32.
        reward: (n,) of any float type; reward[t] is that of action[t]. None: the file tells none.
        terminal: the final row is a true termination.
        sim_state: (n+1, S) float64 or None.
        meta: JSON-able facts, among them the task. ``sim_state`` (what the simulator state consists of: unlike the
            environment's own it lacks clock and solver memory) is added.

    All arrays are copied, so that an episode does not keep the whole file in memory.
    """
    rows = len(action) + 1
    index = np.arange(rows)
    told = np.full(rows - 1, np.nan) if reward is None else reward
    return Episode(
        obs={key: value.copy() for key, value in obs.items()},
        action=np.concatenate([np.zeros_like(action[:1]), action]),
        is_first=index == 0,
        is_last=index == rows - 1,
        is_terminal=(index == rows - 1) & terminal,
        reward=np.concatenate([[np.nan], told]).astype(np.float32),
        sim_state=None if sim_state is None else sim_state.copy(),
        meta=meta | ({} if sim_state is None else {"sim_state": "+".join(sim_parts(meta["task"]))}),
    )
