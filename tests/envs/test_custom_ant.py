"""The two ants of the transfer experiments (algorithms 3.7): bodies, motors, reward by hand, restore, pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from envs.errors import RenderingError
from envs.make import make
from envs.rendering import select_backend
from tests.envs.restored import actions, assert_continues

TASKS = ("ant-custom", "ant-disabled")
FRONT, BACK = (1, 2), (3, 4)
FEET = {1: "left", 2: "right", 3: "third", 4: "fourth"}  # as the scene file calls them


def capsule(length: float) -> float:
    """Mass of a leg's segment along a diagonal, `length` along x and along y."""
    return 5.0 * (np.pi * 0.08**2 * length * np.sqrt(2) + 4 / 3 * np.pi * 0.08**3)


def segments(env: Any, leg: int) -> list[int]:
    """The bodies of a leg from the middle outwards; the last has no name."""
    aux = env.model.body(f"aux_{leg}").id
    return [int(env.model.body_parentid[aux]), aux, aux + 1]


@pytest.mark.parametrize("task", TASKS)
def test_bodies_are_of_the_given_size_and_density(task: str) -> None:
    env: Any = make(task, "state")
    model = env.model
    assert model.geom("torso_geom").size[0] == 0.25
    assert model.body("torso").mass[0] == pytest.approx(5.0 * 4 / 3 * np.pi * 0.25**3)
    for leg in (*FRONT, *BACK):
        short = task == "ant-disabled" and leg in BACK
        lengths = (0.2, 0.1, 0.2) if short else (0.2, 0.2, 0.4)
        root, aux, foot = segments(env, leg)
        assert model.body_mass[[root, aux, foot]].tolist() == pytest.approx([capsule(x) for x in lengths])
        assert np.abs(model.body_pos[[root, aux, foot], :2]).T.tolist() == [pytest.approx([0, *lengths[:2]])] * 2
        ends = model.geom(f"{FEET[leg]}_ankle_geom")
        assert ends.size[:2].tolist() == pytest.approx([0.08, lengths[2] * np.sqrt(2) / 2])
        assert np.abs(ends.pos).tolist() == pytest.approx([lengths[2] / 2, lengths[2] / 2, 0])


def test_motors_come_in_one_order_and_those_of_the_back_legs_are_weak() -> None:
    custom, disabled = (make(task, "state") for task in TASKS)
    gears: list[dict[str, float]] = []
    for env in (custom, disabled):
        model = env.model  # type: ignore[attr-defined]
        names = [model.joint(joint).name for joint in model.actuator_trnid[:, 0]]
        gears.append(dict(zip(names, model.actuator_gear[:, 0].tolist(), strict=True)))
        assert env.action_space.shape == (8,) and env.observation_space.shape == (27,)
    assert list(gears[0]) == list(gears[1])
    assert set(gears[0].values()) == {30.0}
    assert gears[1] == {name: 1.0 if name[-1] in "34" else 30.0 for name in gears[0]}


@pytest.mark.parametrize("task", TASKS)
def test_state_and_reward_are_the_formulas(task: str) -> None:
    env: Any = make(task, "state")
    long: Any = make(task, "state", contact_forces=True)
    assert long.observation_space.shape == (111,)
    assert np.array_equal(env.reset(seed=0)[0], long.reset(seed=0)[0][:27])
    total, touched = 0.0, False
    for step, action in enumerate(actions(env, 60), 1):
        obs, reward, *_, info = env.step(action)
        whole = long.step(action)[0]
        data = env.data
        assert np.array_equal(obs, np.concatenate([data.qpos[2:], data.qvel]).astype(np.float32))
        forces = np.clip(data.cfrc_ext, -1, 1)
        assert np.array_equal(whole, np.concatenate([obs, forces.ravel().astype(np.float32)]))
        touched = touched or bool(forces.any())
        a = action.astype(np.float64)
        assert reward == pytest.approx(data.qvel[0] - 0.01 * (a @ a) - 0.0005 * (forces**2).sum())
        total += reward
        assert info["score"] == pytest.approx(total) and info["tasks_done"].shape == (0,) and not info["success"], step
    assert touched, "the feet have met the floor: the forces are there"


@pytest.mark.parametrize("task", TASKS)
def test_lying_costs_one_and_ends_nothing(task: str) -> None:
    env: Any = make(task, "state")
    env.reset(seed=0)
    state = np.concatenate([env.data.qpos, env.data.qvel])
    rewards = []
    for height in (0.19, 0.21):
        state[2] = height
        env.set_state(state)
        env._sim.do_simulation = lambda action, frames: None  # the reward alone, of this very state
        _, reward, terminated, truncated, _ = env.step(np.zeros(8))
        assert not terminated and not truncated
        rewards.append(reward + 0.0005 * np.square(np.clip(env.data.cfrc_ext, -1, 1)).sum())
    assert rewards[1] - rewards[0] == pytest.approx(1.0)


@pytest.mark.parametrize("task", TASKS)
def test_episodes_last_500_steps_and_a_seed_decides_them(task: str) -> None:
    env: Any = make(task, "state")
    ends = []
    for seed in (1, 1, 2):
        env.reset(seed=seed)
        flags = [env.step(action)[2:4] for action in actions(env, 500, seed)]
        assert flags == [(False, False)] * 499 + [(False, True)]
        ends.append(env.get_state())
    assert np.array_equal(ends[0], ends[1]) and not np.array_equal(ends[0], ends[2])


@pytest.mark.parametrize("contact_forces", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_restored_states_continue_exactly(task: str, contact_forces: bool) -> None:
    env, other = (make(task, "state", contact_forces=contact_forces) for _ in range(2))
    assert_continues(env, other, 40, 20)


def test_the_back_legs_hardly_obey() -> None:
    """The same push at all hips: the torso of the disabled ant turns less, its back hips move less."""
    moved = {}
    for task in TASKS:
        env: Any = make(task, "state")
        env.reset(seed=0)
        hips = [int(env.model.joint(f"hip_{leg}").qposadr[0]) for leg in (*FRONT, *BACK)]
        before = env.data.qpos[hips].copy()
        push = np.array([name.startswith("hip") for name in _motors(env)], float)
        env.step(push)
        moved[task] = np.abs(env.data.qpos[hips] - before)
    assert (moved["ant-disabled"][2:] < 0.5 * moved["ant-custom"][2:]).all()


def _motors(env: Any) -> list[str]:
    return [env.model.joint(joint).name for joint in env.model.actuator_trnid[:, 0]]


def test_pictures_show_which_ant_it_is() -> None:
    try:
        select_backend()
    except RenderingError as problem:
        pytest.skip(f"no picture can be drawn here: {problem}")
    frames = []
    for task in TASKS:
        env = make(task, "pixels")
        first, info = env.reset(seed=0)
        assert env.observation_space.contains(first) and info["state"].shape == (27,) and np.ptp(first) > 50
        frames.append(first.astype(int))
        env.close()
    assert (np.abs(frames[0] - frames[1]).max(2) > 30).sum() > 20
