"""The dm-control suite: its own observations, rewards and pictures, one clock, exact restore."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.errors import EnvError, RenderingError
from envs.make import make, task_names, task_options
from envs.rendering import select_backend

pytest.importorskip("dm_control", reason="the extra dmc is not installed")

from envs.dmc import TASKS  # noqa: E402
from tests.envs.restored import actions, assert_continues  # noqa: E402

SIZES = {
    "dmc-cartpole-swingup": (5, 1),
    "dmc-cheetah-run": (17, 6),
    "dmc-finger-spin": (9, 2),
    "dmc-hopper-hop": (15, 4),
    "dmc-hopper-stand": (15, 4),
    "dmc-reacher-easy": (6, 2),
    "dmc-walker-walk": (24, 6),
}
# integrators, scenes that starts draw, touch sensors: one task of each kind
VARIETY = (*SIZES, "dmc-finger-turn-easy", "dmc-manipulator-bring-ball", "dmc-point-mass-hard")


def package(task: str, env: Any) -> Any:
    """The suite's own environment, put where ours is."""
    from dm_control import suite

    theirs = suite.load(*TASKS[task], task_kwargs={"random": 0})
    theirs.reset()
    for name in ("geom_pos", "site_pos", "body_pos", "body_quat", "wrap_prm"):
        getattr(theirs.physics.model, name)[:] = getattr(env.model, name)
    with theirs.physics.reset_context():
        theirs.physics.data.qpos[:], theirs.physics.data.qvel[:] = env.data.qpos, env.data.qvel
    return theirs


@pytest.mark.parametrize("task", SIZES)
def test_contract_of_spaces_and_info(task: str) -> None:
    env: Any = make(task, "state")
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs) and (obs.size, env.action_space.shape[0]) == SIZES[task]
    assert (env.task, env.horizon, env.subtasks, env.full_score) == (task, 1000, (), 1000.0)
    assert env.action_space.low.min() == -1.0 and env.action_space.high.max() == 1.0
    assert np.array_equal(info["state"], obs) and info["tasks_done"].shape == (0,)
    assert info["score"] == 0.0 and info["success"] is False and env.get_state().dtype == np.float64


def test_the_listed_tasks_are_the_ones_with_files() -> None:
    assert set(SIZES) == {name for name in task_names() if name.startswith("dmc-")} <= set(TASKS)
    assert len(TASKS) > 40
    assert task_options("dmc-walker-walk") == {"tremble": 0.0, "action_repeat": 1}


@pytest.mark.parametrize("task", VARIETY)
def test_observations_and_rewards_are_the_suites(task: str) -> None:
    env: Any = make(task, "state")
    env.reset(seed=3)
    theirs = package(task, env)
    env.set_state(np.concatenate([env.data.qpos, env.data.qvel, *env._scene]))
    moves = actions(env, 15)
    total = 0.0
    for move in moves:
        obs, reward, terminated, _, info = env.step(move)
        expected = theirs.step(move)
        assert np.allclose(obs, np.concatenate([np.ravel(v) for v in expected.observation.values()]), atol=1e-6)
        assert reward == pytest.approx(expected.reward, abs=1e-9) and not terminated
        total += expected.reward
    assert info["score"] == pytest.approx(total)
    assert sum(env.parts.values()) == obs.size and list(env.parts) == list(expected.observation)


@pytest.mark.parametrize("task", VARIETY)
def test_restored_states_continue_exactly(task: str) -> None:
    env, other = make(task, "state"), make(task, "state")
    assert_continues(env, other, 30, 10)


def test_a_seed_decides_the_start_and_its_scene() -> None:
    env: Any = make("dmc-reacher-easy", "state")
    starts = [np.concatenate([env.reset(seed=seed)[0], *env._scene]) for seed in (0, 0, 1)]
    assert np.array_equal(starts[0], starts[1])
    target = [start[-3:] for start in starts]
    assert not np.array_equal(target[0], target[2])
    going_on = env.reset()[0]  # without a seed the draws go on
    assert not np.array_equal(going_on, starts[2][: going_on.size])


def test_the_target_of_a_dataset_is_placed_with_its_joints() -> None:
    env: Any = make("dmc-reacher-easy", "state")
    obs, _ = env.reset(seed=1)
    stored = np.concatenate([env.data.qpos, env.data.qvel, *env._scene])
    env.reset(seed=2)
    found, _ = env.reset(options={"sim_state": stored})
    assert np.allclose(found, obs, atol=1e-6)
    with pytest.raises(EnvError, match=r"for \[qpos, qvel, scene\]"):
        env.set_state(np.zeros(4))


@pytest.mark.parametrize("repeat", [1, 4])
def test_the_clock_counts_actions_and_nothing_ends_early(repeat: int) -> None:
    env: Any = make("dmc-cartpole-swingup", "state", action_repeat=repeat)
    assert env.horizon == 1000 // repeat
    env.reset(seed=0)
    env.set_state(np.concatenate([env.data.qpos, env.data.qvel, [env.horizon - 2]]))
    assert env.step(np.ones(1))[2:4] == (False, False)
    assert env.step(np.ones(1))[2:4] == (False, True)


def test_a_repeated_action_is_that_action_twice() -> None:
    once: Any = make("dmc-walker-walk", "state")
    twice: Any = make("dmc-walker-walk", "state", action_repeat=2)
    assert np.array_equal(once.reset(seed=0)[0], twice.reset(seed=0)[0])
    for move in actions(once, 5):
        rewards = [once.step(move)[1] for _ in range(2)]
        obs, reward, *_ = twice.step(move)
        assert reward == pytest.approx(sum(rewards)) and reward > 0
    assert np.array_equal(obs, once._vector)


def test_the_hand_trembles() -> None:
    env = make("dmc-cheetah-run", "state", tremble=1.0)
    ends = []
    for seed, sign in ((3, 1.0), (3, -1.0), (4, 1.0)):
        env.reset(seed=seed)
        ends.append(np.stack([env.step(np.full(6, sign))[0] for _ in range(5)]))
    assert np.array_equal(ends[0], ends[1]) and not np.array_equal(ends[0], ends[2])


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        ("dmc-waker-walk", {}, "did you mean 'dmc-walker-walk'"),
        ("dmc-walker-walk", {"action_repeat": 3}, "a divisor of 1000"),
        ("dmc-walker-walk", {"action_repeat": 0}, "a divisor of 1000"),
        ("dmc-walker-walk", {"tremble": 2.0}, "tremble must be a probability"),
        ("dmc-walker-walk", {"version": "v5"}, "no option 'version'"),
        ("dmc-lqr-lqr-2-1", {}, "no bounds"),
        ("dmc-quadruped-escape", {}, "terrain"),
    ],
)
def test_mistakes_are_explained(task: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(EnvError, match=expected) as caught:
        make(task, "state", **options)
    assert "\n" not in str(caught.value)


def test_without_the_package_an_error_names_the_remedy(root: Path) -> None:
    code = (
        "import sys; sys.modules['dm_control'] = None\n"
        "from envs.make import make\n"
        "try:\n    make('dmc-walker-walk', 'state')\n"
        "except ValueError as error:\n    print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ".[dmc]" in result.stdout and result.stdout.count("\n") == 1


SUITE_FRAME = """
import sys, numpy as np
from dm_control import suite
domain, task, file = sys.argv[1:]
env, values = suite.load(domain, task), np.load(file)
env.reset()
with env.physics.reset_context():
    env.physics.data.qpos[:] = values[: env.physics.model.nq]
if domain == "reacher":
    env.physics.named.model.geom_pos["target"] = values[env.physics.model.nq :]
    env.physics.forward()
np.save(file, env.physics.render(64, 64, camera_id=0))
"""


def rendered_by_the_suite(task: str, values: np.ndarray, folder: Path) -> np.ndarray:
    """The suite's own picture (64, 64, 3) of joint positions and scene, from a process where its renderer is on."""
    file = folder / "values.npy"
    np.save(file, values)
    env = os.environ | {"MUJOCO_GL": select_backend()}
    subprocess.run([sys.executable, "-c", SUITE_FRAME, *TASKS[task], str(file)], env=env, check=True)
    picture: np.ndarray = np.load(file)
    return picture


@pytest.fixture
def backend() -> str:
    """The OpenGL backend; the test is skipped where none works."""
    try:
        return select_backend()
    except RenderingError as problem:
        pytest.skip(f"no picture can be drawn here: {problem}")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["dmc-reacher-easy", "dmc-ball-in-cup-catch"], ids=["target", "string"])
def test_faithful_pictures_are_the_suites(backend: str, task: str, tmp_path: Path) -> None:
    env: Any = make(task, "pixels", render="faithful")
    obs, _ = env.reset(seed=1)
    theirs = rendered_by_the_suite(task, np.concatenate([env.data.qpos, *env._scene]), tmp_path)
    assert np.abs(obs.astype(int) - theirs).mean() < 1  # of 255
    env.close()


def test_pictures_follow_the_state_and_leave_the_physics_alone(backend: str) -> None:
    env: Any = make("dmc-reacher-easy", "pixels")
    first, info = env.reset(seed=0)
    assert env.observation_space.contains(first) and info["state"].shape == (6,)
    joints = np.concatenate([env.data.qpos, env.data.qvel])
    target = -env._scene[0]
    moved, _ = env.reset(options={"sim_state": np.concatenate([joints, target])})
    assert (np.abs(moved.astype(int) - first).max(2) > 30).sum() > 10
    before = env.get_state()
    env.render(128)
    assert np.array_equal(env.get_state(), before)
    env.close()
