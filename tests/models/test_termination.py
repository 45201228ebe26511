"""Termination functions against the environments whose rule they repeat (algorithms 1.4.3)."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from models.termination import TERMINATIONS

# id and, per task, ranges that straddle every bound: height, pitch (None: a free joint, no pitch), largest velocity
TASKS: dict[str, tuple[str, tuple[float, float], float | None, float]] = {
    "hopper": ("Hopper-v5", (0.6, 1.5), 0.3, 150.0),
    "walker2d": ("Walker2d-v5", (0.6, 2.2), 1.3, 10.0),
    "ant": ("Ant-v5", (0.1, 1.2), None, 10.0),
    "humanoid": ("Humanoid-v5", (0.8, 2.2), None, 10.0),
}


@functools.cache
def environment(task: str) -> Any:
    return gymnasium.make(TASKS[task][0]).unwrapped


@pytest.mark.parametrize("task", TASKS)
def test_agrees_with_the_environment_on_random_rollouts(task: str) -> None:
    env, done = environment(task), TERMINATIONS[task]
    observations, terminated = [], []
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    ended = True
    for _ in range(400):
        if ended:
            obs, _ = env.reset()
        obs, _, ended, _, _ = env.step(env.action_space.sample())
        observations.append(obs)
        terminated.append(ended)
    assert done(torch.tensor(np.array(observations))).tolist() == terminated
    if task != "ant":  # which survives its random actions for long
        assert 0 < sum(terminated) < len(terminated)


@pytest.mark.parametrize("task", TASKS)
def test_agrees_with_the_environment_on_states_around_every_bound(task: str) -> None:
    env, done = environment(task), TERMINATIONS[task]
    _, heights, pitches, speed = TASKS[task]
    rng = np.random.default_rng(0)
    healthy, observations = [], []
    for _ in range(300):
        qpos, qvel = env.init_qpos.copy(), np.zeros(env.model.nv)
        qpos[1 if pitches is not None else 2] = rng.uniform(*heights)
        if pitches is not None:
            qpos[2] = rng.uniform(-pitches, pitches)
            qpos[3:] = rng.uniform(-1, 1, len(qpos) - 3)
        if rng.random() < 0.5:
            qpos[-1] = rng.choice([-1, 1]) * rng.uniform(0, speed)
        env.set_state(qpos, qvel)
        healthy.append(bool(env.is_healthy))
        observations.append(env._get_obs())
    assert (~done(torch.tensor(np.array(observations)))).tolist() == healthy
    assert 30 < sum(healthy) < 270


def test_hopper_ends_where_any_entry_but_the_height_leaves_its_range() -> None:
    state = torch.zeros(12, 11)
    state[:, 0] = 1.25
    state[1:, :] += 100 * torch.eye(11)
    assert TERMINATIONS["hopper"](state).tolist() == [False, False] + [True] * 10


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_ant_ends_where_a_position_or_velocity_is_not_finite(value: float) -> None:
    state = torch.zeros(3, 105)
    state[:, 0] = 0.5
    state[1, 26], state[2, 27] = value, value  # the last velocity; the first contact force
    assert TERMINATIONS["ant"](state).tolist() == [False, True, False]


@pytest.mark.parametrize("task", ["hopper", "walker2d", "ant", "humanoid"])
def test_a_height_that_is_not_a_number_ends_the_episode(task: str) -> None:
    """NaN compares false with every bound; the environments call such a state unhealthy, too."""
    state = torch.zeros(1, 45)
    state[:, 0] = torch.nan
    assert TERMINATIONS[task](state).tolist() == [True]


@pytest.mark.parametrize("task", TERMINATIONS)
def test_any_leading_shape(task: str) -> None:
    state = torch.randn(4, 3, 45)
    done = TERMINATIONS[task](state)
    assert done.shape == (4, 3) and done.dtype == torch.bool
    assert torch.equal(done.flatten(), TERMINATIONS[task](state.flatten(0, 1)))


def test_none_never_ends() -> None:
    assert not TERMINATIONS["none"](torch.full((3, 2), torch.nan)).any()
