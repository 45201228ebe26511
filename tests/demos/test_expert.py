"""The Kitchen expert solves its task, and the episodes that come with the project are what their README says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demos import dataset
from demos.experts.arm import JOINTS, Arm, rotation_error, tool_rotation, turned
from demos.experts.kitchen import KitchenExpert
from demos.experts.kitchen import main as record_main
from envs.kitchen import BONUS_THRESH, OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES, KitchenEnv, qpos_of
from tests.demos.samples import assert_replays

SUBTASKS = ("microwave", "kettle", "light switch", "slide cabinet")
FILES = [f"episode_{number:02d}.npz" for number in range(10)]


@pytest.fixture(scope="module")
def env() -> KitchenEnv:
    """A Kitchen without pictures, with its default noise."""
    return KitchenEnv(obs="state")


@pytest.mark.parametrize("seed", [3001, 3002])
def test_expert_solves_all_four_with_default_noise(env: KitchenEnv, seed: int) -> None:
    """Seeds that were not used while the expert was made; the actions stay clear of their bounds and smooth."""
    env.reset(seed=seed)
    expert = KitchenExpert(seed)
    expert.reset(env)
    order: list[str] = []
    actions: list[np.ndarray] = []
    info: dict[str, Any] = {"success": False}
    while not info["success"] and len(actions) < env.horizon:
        actions.append(expert.act(env))
        *_, info = env.step(actions[-1].astype(np.float32))
        order += [name for name, done in zip(SUBTASKS, info["tasks_done"], strict=True) if done and name not in order]
    assert order == list(SUBTASKS)
    assert len(actions) < 260
    values = np.array(actions)
    assert np.abs(values).max() <= 0.95
    assert np.abs(np.diff(values[:, :JOINTS], axis=0)).mean() < 0.1


def test_expert_comes_back_after_pushes(env: KitchenEnv) -> None:
    """Closed loop: five steps of a push in free space, before the microwave and before the switch, lose no subtask."""
    env.reset(seed=3003)
    expert = KitchenExpert(3003)
    expert.reset(env)
    pushed = {"reach for the microwave": 5, "reach for the switch": 5}
    info: dict[str, Any] = {}
    for _ in range(env.horizon):
        action = expert.act(env)
        if pushed.get(expert.leg.name, 0) > 0:
            pushed[expert.leg.name] -= 1
            action[:JOINTS] += 0.4 * np.array([1, -1, 1, 1, -1, 1, -1])
        *_, info = env.step(np.clip(action, -1, 1).astype(np.float32))
    assert not any(pushed.values())
    assert info["success"]


def test_kinematics_agree_with_the_jacobian(env: KitchenEnv) -> None:
    """A joint velocity asked for moves tool point and rotation as wanted, to second order."""
    arm = Arm(env.model)
    joints = np.array([-0.9, -1.2, 1.9, -2.0, 0.1, 1.3, 1.2])
    point, rotation = arm.place(joints)
    linear, angular = np.array([0.02, -0.03, 0.01]), np.array([0.02, 0.03, -0.04])
    velocity = arm.joint_velocity(joints, linear, angular, np.zeros(JOINTS))
    later, turned_rotation = arm.place(joints + 0.1 * velocity)
    np.testing.assert_allclose(later - point, 0.1 * linear, atol=6e-4)
    np.testing.assert_allclose(rotation_error(turned_rotation, rotation), 0.1 * angular, atol=2e-3)
    np.testing.assert_allclose(turned(rotation, rotation_error(turned_rotation, rotation)), turned_rotation, atol=1e-9)
    np.testing.assert_allclose(tool_rotation(0.0, 0.0)[:, 2], [0, 1, 0], atol=1e-12)


def test_joint_velocity_keeps_the_limits(env: KitchenEnv) -> None:
    """At a limit a joint is never sent further, however much the tool should move."""
    arm = Arm(env.model)
    joints = np.array([0.0, arm.low[1], 1.9, -2.0, 0.1, arm.high[5], 1.2])
    for direction in np.eye(3):
        for sign in (1.0, -1.0):
            velocity = arm.joint_velocity(joints, sign * direction, np.zeros(3), np.zeros(JOINTS))
            assert velocity[1] >= -1e-9
            assert velocity[5] <= 1e-9


@pytest.fixture(scope="module")
def folder() -> Path:
    """The shipped episodes."""
    return dataset.shipped("kitchen")


def test_shipped_episodes_are_complete(folder: Path) -> None:
    """Ten files, both observations, 280 steps, actions in range, under 15 MB; the README's checksums are right."""
    found = dataset.files(folder)
    assert [path.name for path in found] == FILES
    assert sum(path.stat().st_size for path in found) < 15e6
    listed = dict(re.findall(r"\| (episode_\d+\.npz) \| `([0-9a-f]{64})` \|", (folder / "README.md").read_text()))
    for path, episode in zip(found, dataset.load(folder, task="kitchen", obs_keys=("image", "state")), strict=True):
        assert episode.steps == 280
        assert np.abs(episode.action).max() <= 1
        assert listed[path.name] == dataset.checksum(episode)


@pytest.mark.parametrize("name", FILES)
def test_shipped_episode_solves_the_subtasks_in_order(folder: Path, name: str) -> None:
    """The steps in meta and README are those at which the simulator states first meet the package's definition."""
    (episode,) = dataset.read(folder / name)
    assert episode.sim_state is not None
    qpos = qpos_of(episode.sim_state)
    steps = []
    for subtask in SUBTASKS:
        distance = np.linalg.norm(qpos[:, OBS_ELEMENT_INDICES[subtask]] - OBS_ELEMENT_GOALS[subtask], axis=1)
        assert (distance < BONUS_THRESH).any(), subtask
        steps.append(int(np.argmax(distance < BONUS_THRESH)))
    assert steps == sorted(steps)
    assert [episode.meta["done_at"][subtask] for subtask in SUBTASKS] == steps
    row = f"| {name} | {episode.meta['seed']} | " + " | ".join(map(str, steps)) + " |"
    assert row in (folder / "README.md").read_text()


def test_shipped_episode_replays(env: KitchenEnv, folder: Path) -> None:
    """Actions, time alignment and noise are right: a replay gives the recorded states, and a changed action does not.

    Contacts amplify rounding, so another processor or MuJoCo version may leave the recording after a while.
    """
    (episode,) = dataset.read(folder / FILES[1])
    assert_replays(env, episode)


@pytest.mark.parametrize("argument", ["episodes=0", "episode=3", "seed=x"])
def test_bad_arguments_are_one_line(argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error names the argument and leaves nothing behind."""
    assert record_main([f"out={tmp_path / 'made'}", argument]) == 1
    assert argument.split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
