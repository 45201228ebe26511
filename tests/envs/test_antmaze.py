"""AntMaze: D4RL's observations, a goal that is reached once, exact restore."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.errors import EnvError
from envs.make import make
from tests.envs import recorded

GOALS = {"antmaze-umaze": (-4.0, -4.0), "antmaze-medium": (10.0, -10.0), "antmaze-large": (14.0, -12.0)}


@pytest.fixture
def umaze() -> Iterator[Any]:
    """The U with state."""
    env = make("antmaze-umaze", "state")
    yield env
    env.close()


def near_goal(env: Any, distance: float) -> np.ndarray:
    """[qpos, qvel] of the ant as it stands, moved to `distance` metres from the goal."""
    joints = np.concatenate([env.data.qpos, 0.0 * env.data.qvel])
    joints[:2] = env.goal + [distance, 0.0]
    return joints


@pytest.mark.parametrize("task", GOALS)
def test_contract_start_and_goal(task: str) -> None:
    env: Any = make(task, "state")
    starts = []
    for seed in (0, 0, 1):
        obs, info = env.reset(seed=seed)
        starts.append(obs)
        assert np.allclose(env.goal, GOALS[task])
    assert env.observation_space.contains(obs) and obs.shape == (29,) and env.action_space.shape == (8,)
    assert (env.subtasks, env.full_score) == (("goal",), 1.0)
    assert env.horizon == (700 if task == "antmaze-umaze" else 1000)
    assert info["score"] == 0.0 and info["success"] is False and info["tasks_done"].tolist() == [0.0]
    assert np.array_equal(starts[0], starts[1]) and not np.array_equal(starts[0], starts[2])
    corner = env._sim.maze.cell_rowcol_to_xy((1, 1))
    assert np.abs(obs[:2] - corner).max() <= 0.1 and np.abs(obs[3:15]).max() > 0.0


def test_random_goals_and_starts_come_from_the_seed() -> None:
    env: Any = make("antmaze-medium", "state", random_goal=True)
    places = []
    for seed in (0, 0, 1, 2):
        obs, _ = env.reset(seed=seed)
        places.append(np.concatenate([env.goal, obs[:2]]))
    assert np.array_equal(places[0], places[1]) and len(np.unique(np.stack(places), axis=0)) == 3


def test_reaching_the_goal_terminates_with_score_one(umaze: Any) -> None:
    umaze.reset(seed=0)
    umaze.set_state(near_goal(umaze, 0.7))
    _, reward, terminated, _, info = umaze.step(np.zeros(8))
    assert (reward, terminated, info["success"], info["score"]) == (0.0, False, False, 0.0)
    umaze.set_state(near_goal(umaze, 0.3))
    _, reward, terminated, _, info = umaze.step(np.zeros(8))
    assert (reward, terminated, info["success"], info["score"]) == (1.0, True, True, 1.0)
    assert info["tasks_done"].tolist() == [1.0]
    assert umaze.reset(seed=0)[1]["score"] == 0.0


def test_a_fallen_ant_is_not_the_end(umaze: Any) -> None:
    umaze.reset(seed=0)
    joints = near_goal(umaze, 4.0)
    joints[3:7] = (0.0, 1.0, 0.0, 0.0)  # on its back
    umaze.set_state(np.append(joints, 698))
    assert umaze.step(np.zeros(8))[2:4] == (False, False)
    assert umaze.step(np.zeros(8))[2:4] == (False, True)


def test_restored_states_continue_exactly_towards_their_own_goal() -> None:
    env: Any = make("antmaze-umaze", "state", random_goal=True)
    other: Any = make("antmaze-umaze", "state", random_goal=True)
    env.reset(seed=0)
    moves = np.random.default_rng(0).uniform(-1, 1, (40, 8))
    for action in moves[:20]:
        last = env.step(action)[0]
    state = env.get_state()
    obs, _ = other.reset(seed=7, options={"sim_state": state})
    assert np.array_equal(obs, last) and np.array_equal(other.goal, env.goal)
    for action in moves[20:]:
        assert np.array_equal(other.step(action)[0], env.step(action)[0])
    assert np.array_equal(other.get_state(), env.get_state())
    other.set_state(near_goal(env, 0.2))
    assert other.step(np.zeros(8))[2]  # the goal that counts is the restored one
    with pytest.raises(EnvError, match="simulator state"):
        env.set_state(np.zeros(30 + 1))


@pytest.mark.parametrize("name", ["umaze", "medium"])
def test_recorded_joints_give_the_recorded_observations(name: str, datasets: Path) -> None:
    data = recorded.rows(datasets, f"antmaze-{name}-v4-expert", 300)
    env: Any = make(f"antmaze-{name}", "state")
    for row in range(0, 300, 10):
        joints = np.concatenate([data["infos/qpos"][row], data["infos/qvel"][row]])
        obs, _ = env.reset(seed=row, options={"sim_state": joints})
        assert np.array_equal(obs, data["observations"][row])
    for step in range(40):
        joints = np.concatenate([data["infos/qpos"][step], data["infos/qvel"][step]])
        env.set_state(joints)
        obs = env.step(data["actions"][step])[0]
        assert np.abs(obs - data["observations"][step + 1]).max() < 1e-3, step


def test_no_scene_file_is_left_behind() -> None:
    before = set(Path(tempfile.gettempdir()).glob("ant_maze*.xml"))
    make("antmaze-umaze", "state").close()
    assert set(Path(tempfile.gettempdir()).glob("ant_maze*.xml")) <= before
