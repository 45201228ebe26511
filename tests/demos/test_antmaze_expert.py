"""The AntMaze expert finds its way, and the episodes that come with the project are what their README says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demos import dataset
from demos.experts.ant import Gait, Legs, trial, upright, yaw
from demos.experts.antmaze import PLACES, AntMazeExpert, record, shortest_way
from demos.experts.antmaze import main as record_main
from envs.make import make
from tests.demos.samples import assert_replays

FILES = [f"episode_{number:02d}.npz" for number in range(10)]
MAZE = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
REACHED = 0.45  # m, the package's


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    """The U with state."""
    found = make("antmaze-umaze", "state")
    yield found
    found.close()


def turned(env: Any, angle: float) -> None:
    """Turn the ant as it stands about the vertical; its joints stay."""
    half, quaternion = angle / 2, env.data.qpos[3:7].copy()
    w, x, y, z = quaternion
    c, s = np.cos(half), np.sin(half)
    env.data.qpos[3:7] = [c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w]


def test_the_way_leads_around_the_walls() -> None:
    way = shortest_way(
        MAZE, lambda cell: np.array([4.0 * cell[1], -4.0 * cell[0]]), np.array([4.3, -4.0]), [4.0, -12.5]
    )
    assert np.array_equal(way[0], [4.3, -4.0]) and np.array_equal(way[-1], [4.0, -12.5])
    assert np.linalg.norm(np.diff(way, axis=0), axis=1).max() <= PLACES + 1e-9
    cells = np.unique(np.round([-way[:, 1] / 4, way[:, 0] / 4]).astype(int).T, axis=0)
    assert {tuple(cell) for cell in cells} == {(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)}


def test_a_way_within_one_cell_is_straight_and_walls_are_told() -> None:
    def place(cell: Any) -> np.ndarray:
        return 4.0 * np.asarray(cell, np.float64)

    way = shortest_way(MAZE, place, np.array([4.0, 4.0]), np.array([4.5, 4.0]))
    assert np.allclose(way[:, 1], 4.0) and np.allclose(way[[0, -1], 0], [4.0, 4.5])
    with pytest.raises(ValueError, match="walls"):
        shortest_way([[0, 1, 0]], place, np.zeros(2), np.array([0.0, 8.0]))


def test_walking_is_the_same_to_all_four_sides(env: Any) -> None:
    """A quarter turn of the way, the body standing, hands each leg's part to the next leg."""
    env.reset(seed=0)
    env.data.qpos[3:7] = [1.0, 0.0, 0.0, 0.0]
    env.data.qpos[7:] = env.model.qpos0[7:]
    env.data.qvel[:] = 0.0
    legs = Legs(env.model)
    still = Gait(stiffness=0.5, lift=0.0)  # no lift: it alone depends on which pair of legs is up
    by_leg = []
    for way in ([1.0, 0.0], [0.0, 1.0]):
        action = legs.action(still, 0.0, env.data, np.array(way))
        by_leg.append({(leg, hip): a for leg, hip, a in zip(legs._leg, legs._is_hip, action, strict=True)})
    for leg in range(4):
        # the next leg is at the other end of its stride: hips swing the other way
        assert by_leg[1][((leg + 1) % 4, True)] == pytest.approx(-by_leg[0][(leg, True)])
    assert max(abs(value) for value in by_leg[0].values()) > 0.1


def test_the_body_keeps_its_heading(env: Any) -> None:
    env.reset(seed=0)
    env.data.qpos[3:7] = [1.0, 0.0, 0.0, 0.0]
    env.data.qvel[:] = 0.0
    legs, way, actions = Legs(env.model), np.array([1.0, 0.0]), []
    for angle in (0.4, -0.8):
        turned(env, angle)
        assert upright(env.data.qpos) > 0.99
        actions.append(legs.action(Gait(swing=0.0, reach=0.0), 0.0, env.data, way)[legs._is_hip])
    assert yaw(env.data.qpos) == pytest.approx(-0.4)
    # in the stance that begins, hips of diagonal legs turn the body back: one sign for a heading too large, the other
    difference = actions[0] - actions[1]
    pairs = legs._leg[legs._is_hip] % 2
    assert (difference[pairs == 0] < -0.2).all() and (difference[pairs == 1] > 0.2).all()


def test_the_gait_walks_faster_than_a_metre_a_second() -> None:
    ant = make("ant", "state", version="v4")
    assert trial(ant, Gait(), 0.7, seed=5) > 4.0
    assert trial(ant, Gait(swing=0.0, reach=0.0), 0.7, seed=5) < 1.0
    ant.close()


def test_the_expert_reaches_the_goal_in_spite_of_a_push(env: Any) -> None:
    """Seeds and pushes that were not used while the expert was made."""
    env.reset(seed=3001)
    expert = AntMazeExpert()
    expert.reset(env)
    info: dict[str, Any] = {"success": False}
    steps = 0
    while not info["success"] and steps < env.horizon:
        action = expert.act(env)
        assert np.abs(action).max() <= 1.0
        *_, info = env.step(np.zeros(8) if 50 <= steps < 55 else action)
        steps += 1
    assert info["success"] and steps < 400


def test_the_seed_decides_and_the_noise_is_in_the_recorded_actions(env: Any) -> None:
    first, again = record(env, 1), record(env, 1)
    assert dataset.checksum(first) == dataset.checksum(again)
    env.reset(seed=1)
    expert = AntMazeExpert()
    expert.reset(env)
    assert 0.0 < np.abs(first.action[1] - expert.act(env)).max() < 0.5


@pytest.fixture(scope="module")
def folder() -> Path:
    """The shipped episodes."""
    return dataset.shipped("antmaze-umaze")


def test_shipped_episodes_are_complete_and_reach_the_goal(folder: Path) -> None:
    """Ten small files with states; the README's seeds, steps and checksums are right; the goal ends each episode."""
    found = dataset.files(folder)
    assert [path.name for path in found] == FILES
    assert sum(path.stat().st_size for path in found) < 5e6
    readme = (folder / "README.md").read_text()
    listed = dict(re.findall(r"\| (episode_\d+\.npz) \| `([0-9a-f]{64})` \|", readme))
    for path, episode in zip(found, dataset.load(folder, task="antmaze-umaze", obs_keys=("state",)), strict=True):
        assert listed[path.name] == dataset.checksum(episode)
        assert f"| {path.name} | {episode.meta['seed']} | {episode.steps} |" in readme
        place = episode.obs["state"][:, :2]
        distance = np.linalg.norm(place - [-4.0, -4.0], axis=1)
        assert episode.is_terminal[-1] and distance[-1] <= REACHED < distance[:-1].min()
        assert episode.meta["success"] and episode.meta["score"] == 1.0


def test_shipped_episode_replays(env: Any, folder: Path) -> None:
    """A replay gives the recorded states, and a changed action does not."""
    (episode,) = dataset.read(folder / FILES[1])
    assert_replays(env, episode)


@pytest.mark.parametrize("argument", ["episodes=0", "task=kitchen", "noise=-1", "episode=3"])
def test_bad_arguments_are_one_line(argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record_main([f"out={tmp_path / 'made'}", argument]) == 1
    assert argument.split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
