"""The five robots: the package's physics as published, exact restore, one clock, the trembling hand."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml

from envs.errors import EnvError, RenderingError
from envs.make import make, task_names, task_options
from envs.mujoco_scene import published_contacts
from envs.rendering import select_backend
from envs.vector import VectorEnv
from envs.wrappers import trembled
from tests.envs import recorded
from tests.envs.restored import actions, assert_continues

SIZES = {"hopper": (11, 3), "halfcheetah": (17, 6), "walker2d": (17, 6), "ant": (27, 8), "humanoid": (45, 17)}
FULL = {"ant": {"contact_forces": True}, "humanoid": {"full": True}}
TERMINATIONS = {"none", "hopper", "walker2d", "ant", "humanoid", "baoding"}


@pytest.fixture
def hopper() -> Iterator[Any]:
    """A Hopper with state."""
    env = make("hopper", "state")
    yield env
    env.close()


def joints(env: Any) -> np.ndarray:
    """The state as datasets store it, [qpos, qvel]."""
    return np.concatenate([env.data.qpos, env.data.qvel])


@pytest.mark.parametrize("task", SIZES)
def test_contract_of_spaces_and_info(task: str) -> None:
    env = make(task, "state")
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs) and (obs.size, env.action_space.shape[0]) == SIZES[task]
    assert (env.task, env.horizon, env.subtasks) == (task, 1000, ("survive",)) and env.full_score > 3000
    assert np.array_equal(info["state"], obs) and info["tasks_done"].tolist() == [0.0]
    assert info["score"] == 0.0 and info["success"] is False and env.get_state().dtype == np.float64


@pytest.mark.parametrize("version", ["v4", "v5"])
@pytest.mark.parametrize("task", SIZES)
def test_observations_and_rewards_are_the_packages(task: str, version: str) -> None:
    env: Any = make(task, "state", version=version, **FULL.get(task, {}))
    module, name = env.package.split(".")
    options = {"use_contact_forces": True} if (task, version) == ("ant", "v4") else {}
    stock = getattr(importlib.import_module(f"gymnasium.envs.mujoco.{module}_{version}"), name)(**options)
    published_contacts(stock.model)
    ours, theirs = [env.reset(seed=3)[0]], [stock.reset(seed=3)[0]]
    total = 0.0
    for action in actions(env, 15):
        obs, reward, terminated, _, info = env.step(action)
        edge = stock.action_space.high.astype(np.float64)  # of its box, which is centred
        expected, expected_reward, ended, _, _ = stock.step(action.astype(np.float64) * edge)
        ours.append(obs), theirs.append(expected)
        total += expected_reward
        assert (reward, terminated) == (expected_reward, ended)
    assert np.array_equal(np.stack(theirs).astype(np.float32), ours)
    assert info["score"] == pytest.approx(total)


@pytest.mark.parametrize(("task", "columns"), [("ant", 27), ("humanoid", 45)])
@pytest.mark.parametrize("version", ["v4", "v5"])
def test_short_states_are_the_first_columns_of_long_ones(task: str, columns: int, version: str) -> None:
    runs = []
    for options in ({}, FULL[task]):
        env = make(task, "state", version=version, **options)
        runs.append([env.reset(seed=1)[0], *(env.step(action)[0] for action in actions(env, 5))])
    assert np.array_equal(np.stack(runs[0]), np.stack(runs[1])[:, :columns])
    assert np.stack(runs[1]).shape[1] > columns


@pytest.mark.parametrize("options", [{}, {"long": True}], ids=["short", "long"])
@pytest.mark.parametrize("task", SIZES)
def test_restored_states_continue_exactly(task: str, options: dict[str, Any]) -> None:
    own = FULL.get(task, {}) if options else {}
    env, other = make(task, "state", **own), make(task, "state", **own)
    assert_continues(env, other, 40, 20)


def test_joints_alone_place_the_robot_and_may_set_the_clock(hopper: Any) -> None:
    hopper.reset(seed=0)
    for action in actions(hopper, 10):
        last, *_ = hopper.step(action)
    stored = joints(hopper)
    obs, info = hopper.reset(seed=5, options={"sim_state": stored})
    assert np.array_equal(obs, last) and info["score"] == 0.0
    assert not hopper.step(np.zeros(3))[3]
    hopper.reset(seed=5, options={"sim_state": np.append(stored, 998)})
    assert not hopper.step(np.zeros(3))[3]
    _, _, terminated, truncated, info = hopper.step(np.zeros(3))
    assert truncated and not terminated and info["success"] and info["tasks_done"].tolist() == [1.0]


def test_placing_joints_forgets_what_was_before(hopper: Any) -> None:
    hopper.reset(seed=0)
    stored, states = joints(hopper), []
    for history in (5, 30):
        for action in actions(hopper, history):
            hopper.step(action)
        hopper.set_state(stored)
        states.append(hopper.get_state())
    assert np.array_equal(states[0], states[1])


def test_placed_joints_come_with_their_contact_forces() -> None:
    env: Any = make("ant", "state", contact_forces=True)
    obs, _ = env.reset(seed=0)
    assert not obs[27:].any()
    for _ in range(40):
        obs, *_ = env.step(np.zeros(8))
    obs, _ = env.reset(seed=0, options={"sim_state": joints(env)})
    assert obs[27:].any()  # it lies on the floor


def test_the_clock_is_part_of_the_state_and_of_a_reset(hopper: Any) -> None:
    hopper.reset(seed=0)
    hopper.set_state(np.append(joints(hopper), 998))
    hopper.step(np.zeros(3))
    state = hopper.get_state()
    hopper.reset(seed=0)
    assert not hopper.step(np.zeros(3))[3]
    hopper.reset(seed=0, options={"sim_state": state})
    assert hopper.step(np.zeros(3))[3]


@pytest.mark.parametrize("steps", [0, 999])
def test_a_fall_terminates_and_is_no_success_even_on_the_last_step(hopper: Any, steps: int) -> None:
    hopper.reset(seed=0)
    fallen = np.append(joints(hopper), steps)
    fallen[1] = 0.4  # m, height of the torso
    hopper.set_state(fallen)
    _, _, terminated, truncated, info = hopper.step(np.zeros(3))
    assert terminated and truncated == (steps == 999)
    assert not info["success"] and info["tasks_done"].tolist() == [0.0]


def test_actions_are_clipped_and_checked(hopper: Any) -> None:
    ends = []
    for size in (1.0, 7.0):
        hopper.reset(seed=0)
        ends.append(hopper.step(np.full(3, size))[:2])
    assert np.array_equal(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]
    for bad in (np.zeros(4), np.full(3, np.nan)):
        with pytest.raises(EnvError, match="finite array of shape"):
            hopper.step(bad)


def test_bad_states_are_refused(hopper: Any) -> None:
    for bad in (np.zeros(11), np.full(12, np.inf)):
        with pytest.raises(EnvError, match=r"shape \(36,\), or \(12,\) for \[qpos, qvel\], or \(13,\) with the steps"):
            hopper.set_state(bad)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"version": "v3"}, "version must be one of"),
        ({"tremble": 1.5}, "tremble must be a probability"),
        ({"tremble": True}, "tremble must be a probability"),
        ({"contact_forces": True}, "no option 'contact_forces'"),
    ],
)
def test_mistakes_are_explained(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(EnvError, match=expected):
        make("hopper", "state", **options)


def test_the_hand_trembles_as_often_as_asked_with_uniform_actions() -> None:
    space = gymnasium.spaces.Box(-0.4, 0.4, (17,), np.float32)
    generator = np.random.default_rng(0)
    asked = np.full(space.shape, 0.1)
    executed = np.stack([trembled(asked, 0.25, space, generator) for _ in range(4000)])
    changed = (executed != asked).any(1)
    assert abs(changed.mean() - 0.25) < 0.03  # 4 standard errors
    drawn = executed[changed]
    assert np.abs(drawn).max() <= 0.4 and abs(drawn.mean()) < 0.01 and abs(drawn.std() - 0.4 / np.sqrt(3)) < 0.01
    before = generator.bit_generator.state
    assert trembled(asked, 0.0, space, generator) is asked and generator.bit_generator.state == before


def test_a_seed_decides_when_and_how_the_hand_trembles() -> None:
    env = make("hopper", "state", tremble=1.0)
    ends = []
    for seed, sign in ((3, 1.0), (3, -1.0), (4, 1.0)):
        env.reset(seed=seed)
        ends.append(np.stack([env.step(np.full(3, sign))[0] for _ in range(10)]))
    assert np.array_equal(ends[0], ends[1])  # at 1 nothing of the asked action is left
    assert not np.array_equal(ends[0], ends[2])
    calm = make("hopper", "state")
    assert np.array_equal(env.reset(seed=3)[0], calm.reset(seed=3)[0])


def test_start_and_hand_do_not_draw_the_same_numbers() -> None:
    env = make("hopper", "state", tremble=1.0)
    env.reset(seed=3)
    noise = (joints(env) - np.concatenate([env._sim.init_qpos, env._sim.init_qvel])) / 5e-3  # uniform in +-1
    env.step(np.zeros(3))
    assert not np.isclose(env.data.ctrl[:, None], noise[None]).any()


@pytest.mark.parametrize("task", ["hopper", "halfcheetah", "walker2d", "ant"])
def test_recorded_actions_replay_open_loop(task: str, datasets: Path) -> None:
    data = recorded.rows(datasets, f"{task}-v5-expert", 51)
    env = make(task, "state")
    start = np.concatenate([data["infos/qpos"][0], data["infos/qvel"][0]])
    obs, _ = env.reset(seed=0, options={"sim_state": start})
    for step in range(50):
        assert np.abs(obs - data["observations"][step, : obs.size]).max() < 1e-3, step
        obs, reward, *_ = env.step(data["actions"][step])
        assert step == 0 or reward == pytest.approx(data["rewards"][step], abs=1e-3), step


def test_recorded_humanoid_steps_agree(datasets: Path) -> None:
    data = recorded.rows(datasets, "humanoid-v5-expert", 41)
    env: Any = make("humanoid", "state")
    env.reset(seed=0)
    for step in range(40):  # one step each: open loop, rounding alone leaves the recording within 20
        env.set_state(np.concatenate([data["infos/qpos"][step], data["infos/qvel"][step]]))
        obs = env.step(data["actions"][step] / 0.4)[0]
        assert np.abs(obs - data["observations"][step + 1, :45]).max() < 1e-3, step


def test_an_action_of_one_is_the_edge_of_the_robots_box() -> None:
    env: Any = make("humanoid", "state")
    env.reset(seed=0)
    assert np.array_equal(env.action_space.low, -np.ones(17)) and np.array_equal(env.action_space.high, np.ones(17))
    for asked, done in ((0.5, 0.2), (1.0, 0.4), (-3.0, -0.4)):
        env.step(np.full(17, asked))
        np.testing.assert_allclose(env.data.ctrl, done, rtol=1e-6)


def test_contacts_begin_at_the_larger_margin(hopper: Any) -> None:
    hopper.reset(seed=0)
    margins = []
    for _ in range(30):
        hopper.step(np.zeros(3))
        margins += [contact.includemargin for contact in hopper.data.contact]
    assert margins and set(margins) == {0.001}  # m, as the scene file says of every geom


def test_pictures_follow_the_robot_and_leave_the_physics_alone() -> None:
    try:
        select_backend()
    except RenderingError as problem:
        pytest.skip(f"no picture can be drawn here: {problem}")
    env: Any = make("walker2d", "pixels")
    first, info = env.reset(seed=0)
    assert env.observation_space.contains(first) and info["state"].shape == (17,)
    assert env.render(128).shape == (128, 128, 3)
    away = joints(env)
    away[0] += 560.0  # m, a whole number of floor tiles; the scene's own floor ends at 40 m
    moved, _ = env.reset(options={"sim_state": away})
    assert np.abs(moved.astype(int) - first).mean() < 8  # of 255
    bent = joints(env)
    bent[4] -= 1.0  # rad, right knee
    assert (np.abs(env.reset(options={"sim_state": bent})[0].astype(int) - moved).max(2) > 30).sum() > 30
    ends = []
    for obs in ("pixels", "state"):
        one: Any = make("walker2d", obs)
        one.reset(seed=0)
        for action in actions(one, 5):
            one.step(action)
        ends.append(one.get_state())
        one.close()
    assert np.array_equal(ends[0], ends[1])
    env.close()


def test_vectors_tell_the_score_of_an_expert() -> None:
    for task, score in (("hopper", 3234.3), ("line", 1.0)):
        with VectorEnv(task, "state", 1, processes=False) as envs:
            assert envs.full_score == score


def test_every_task_file_names_a_task_its_options_and_a_termination(root: Path) -> None:
    files = sorted((root / "configs" / "task").glob("*.yaml"))
    assert {path.stem for path in files} == set(task_names())
    for path in files:
        config = yaml.safe_load(path.read_text())
        told = {"own": {"simulated"}, "gym": {"any_demos"}}.get(path.stem, set())
        told |= {"end"} if path.stem.startswith("antmaze") else set()
        assert set(config) == {"name", "chunk", "termination", "options"} | told and config["name"] == path.stem
        defaults = task_options(path.stem)
        for name, value in config["options"].items():
            default = list(defaults[name]) if isinstance(defaults[name], tuple) else defaults[name]
            given = {"${demos}", "${n_demos}", "${dataset}"} if path.stem == "own" else set()
            assert value == default or value in given
        known = path.stem if path.stem in TERMINATIONS else "none"
        assert config["termination"] == known
