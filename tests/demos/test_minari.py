"""demos.formats.minari: T + 1 observations, dictionaries, metadata of new and old versions, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from demos import convert, dataset, inspect
from demos.dataset import DemoError
from demos.formats import minari
from envs.episode import Episode, to_pairs
from tests.demos.samples import assert_refused

STATE = ("state",)
HOPPER = {"env_spec": json.dumps({"id": "Hopper-v5"}), "dataset_id": "mine/expert-v0"}
MAZE = {"dataset_id": "D4RL/antmaze/umaze-v1"}


def steps_of(number: int) -> int:
    """The steps of episode `number` in the files below."""
    return 3 + number


def write(folder: Path, metadata: dict[str, Any] | None = HOPPER, episodes: int = 3, **changes: Any) -> Path:
    """A dataset folder in Minari's layout; returns its data file.

    Args:
        folder: the dataset's folder.
        metadata: content of metadata.json, none if None.
        episodes: how many; episode 1 ends by termination, the others by truncation.
        changes: arrays of episode 1 to replace ("infos__qpos" for infos/qpos), or to leave out where None.
    """
    rng = np.random.default_rng(0)
    path = folder / minari.DATA
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for number in range(episodes):
            steps = steps_of(number)
            last = np.arange(steps) == steps - 1
            arrays: dict[str, Any] = {"observations": rng.normal(size=(steps + 1, 11))}
            arrays["actions"] = rng.uniform(-1, 1, (steps, 3)).astype(np.float32)
            arrays["rewards"] = np.full(steps, 0.5)
            arrays["terminations"], arrays["truncations"] = last & (number == 1), last & (number != 1)
            for key, value in (arrays | (changes if number == 1 else {})).items():
                if value is not None:
                    file[f"episode_{number}/{key.replace('__', '/')}"] = value
    if metadata is not None:
        (path.parent / "metadata.json").write_text(json.dumps(metadata))
    return path


def read(path: Path) -> list[Episode]:
    """All episodes, checked."""
    return dataset.load(path, obs_keys=STATE)


@pytest.mark.parametrize("named", ["folder", "data", "file"])
def test_episodes_by_folder_or_file(tmp_path: Path, named: str) -> None:
    path = write(tmp_path)
    found = read({"folder": tmp_path, "data": path.parent, "file": path}[named])
    assert [one.meta["episode"] for one in found] == [0, 1, 2]
    assert [bool(one.is_terminal[-1]) for one in found] == [False, True, False]
    assert [one.meta["ends_by"] for one in found] == ["time limit", "termination", "time limit"]
    with h5py.File(path) as file:
        for number, one in enumerate(found):
            raw = file[f"episode_{number}"]
            pairs = to_pairs(one.obs["state"], one.action)
            np.testing.assert_array_equal(one.obs["state"], raw["observations"][:].astype(np.float32))
            np.testing.assert_array_equal(pairs.action, raw["actions"][:])
            assert not one.action[0].any() and np.isnan(one.reward).all()
            assert one.meta["score"] == one.meta["return"] == 0.5 * steps_of(number)
            assert one.meta["task"] == "hopper" and one.meta["dataset_id"] == "mine/expert-v0"


@pytest.mark.parametrize(("name", "width", "kept"), [("mujoco/ant/expert-v0", 105, 27), ("mine/ant-arm-v0", 105, 105)])
def test_without_an_environment_the_data_set_s_name_is_the_task(
    tmp_path: Path, name: str, width: int, kept: int
) -> None:
    path = write(tmp_path, {"dataset_id": name}, observations=np.zeros((steps_of(1) + 1, width)))
    (one,) = [one for one in minari.read(path) if one.meta["episode"] == 1]
    assert one.meta["task"] == "ant" and one.obs["state"].shape[1] == kept
    assert read(write(tmp_path, {"dataset_id": "arm/Reach-v3"}))[0].meta["task"] == "arm/reach"


def test_episodes_are_sorted_by_number(tmp_path: Path) -> None:
    found = read(write(tmp_path, episodes=12))
    assert [one.steps for one in found] == [steps_of(number) for number in range(12)]


def test_limit_counts_episodes(tmp_path: Path) -> None:
    assert len(dataset.load(write(tmp_path), limit=2, obs_keys=STATE)) == 2


def maze_observations(rows: int, ant: int = 27) -> dict[str, np.ndarray]:
    """AntMaze's observation group for `write`: numbers that tell where they came from."""
    return {
        "observations": None,
        "observations__observation": 100 + np.arange(rows * ant).reshape(rows, ant) / 1e3,
        "observations__achieved_goal": np.arange(rows * 2.0).reshape(rows, 2),
        "observations__desired_goal": np.full((rows, 2), -7.0),
    }


@pytest.mark.parametrize("ant", [27, 105])
def test_maze_observation_is_place_then_ant_without_goal(tmp_path: Path, ant: int) -> None:
    obs = maze_observations(steps_of(1) + 1, ant)
    path = write(tmp_path, MAZE, **obs)
    with h5py.File(path, "a") as file:
        for number in (0, 2):
            del file[f"episode_{number}"]
    (one,) = read(path)
    expected = np.concatenate([obs["observations__achieved_goal"], obs["observations__observation"][:, :27]], axis=1)
    np.testing.assert_array_equal(one.obs["state"], expected.astype(np.float32))
    assert one.meta["task"] == "antmaze-umaze" and any("desired_goal" in note for note in one.meta["notes"])


def test_simulator_states_need_one_for_every_observation(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = steps_of(1) + 1
    qpos, qvel = rng.normal(size=(rows, 6)), rng.normal(size=(rows, 6))
    obs = np.concatenate([qpos[:, 1:], qvel], axis=1)
    one = read(write(tmp_path, observations=obs, infos__qpos=qpos, infos__qvel=qvel))[1]
    assert one.sim_state is not None and one.meta["sim_state"] == "qpos+qvel"
    np.testing.assert_array_equal(one.sim_state, np.concatenate([qpos, qvel], axis=1))
    short = {"infos__qpos": qpos[1:], "infos__qvel": qvel[1:]}
    other = {"infos__qpos": qpos[::-1], "infos__qvel": qvel[::-1]}
    for infos in (short, other):
        one = read(write(tmp_path, observations=obs, **infos))[1]
        assert one.sim_state is None and any("infos/qpos" in note for note in one.meta["notes"])


def test_metadata_of_old_versions_are_attributes(tmp_path: Path) -> None:
    path = write(tmp_path, None)
    with h5py.File(path, "a") as file:
        file.attrs["env_spec"] = json.dumps({"id": "Walker2d-v4"})
    assert read(path)[0].meta["task"] == "walker2d"


DEFECTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "cut": (lambda p: _data(p).write_bytes(_data(p).read_bytes()[:9000]), "file", "truncated or corrupt"),
    "no observations": (lambda p: write(p, observations=None), "episode_1/observations", "missing"),
    "no actions": (lambda p: write(p, actions=None), "episode_1/actions", "missing"),
    "no rewards": (lambda p: write(p, rewards=None), "episode_1/rewards", "missing"),
    "no terminations": (lambda p: write(p, terminations=None), "episode_1/terminations", "missing"),
    "no truncations": (lambda p: write(p, truncations=None), "episode_1/truncations", "missing"),
    "no steps": (lambda p: write(p, actions=np.zeros((0, 3))), "episode_1/actions", "no transitions"),
    "observation rows": (lambda p: write(p, observations=np.zeros((4, 11))), "episode_1/observations", "expected 5"),
    "observation nan": (lambda p: write(p, observations=np.full((5, 11), np.nan)), "episode_1/observations", "NaN"),
    "observation shape": (lambda p: write(p, observations=np.zeros(5)), "episode_1/observations", "2 axes"),
    "observation width": (lambda p: write(p, observations=np.zeros((5, 4))), "state", "not one data set"),
    "action nan": (lambda p: write(p, actions=np.full((4, 3), np.inf)), "episode_1/actions", "infinity"),
    "action range": (lambda p: write(p, actions=np.full((4, 3), 2.0)), "action", "(episode 1 of the file)"),
    "reward rows": (lambda p: write(p, rewards=np.zeros(3)), "episode_1/rewards", "3 rows; actions has 4"),
    "flag rows": (lambda p: write(p, terminations=np.zeros(5, bool)), "episode_1/terminations", "5 rows"),
    "early end": (lambda p: write(p, terminations=np.arange(4) == 1), "episode_1/terminations", "row 1, before"),
    "other groups": (lambda p: write(p, observations=None, observations__x=1), "episode_1/observations", "group of x"),
    "maze lacks ant": (
        lambda p: write(p, MAZE, **{k: v for k, v in maze_observations(5).items() if "__obs" not in k}),
        "episode_1/observations/observation",
        "missing",
    ),
    "no metadata": (lambda p: (_data(p).parent / "metadata.json").unlink(), "metadata.json", "no known task"),
    "bad metadata": (lambda p: (_data(p).parent / "metadata.json").write_text("{"), "metadata.json", "not JSON"),
    "bad env_spec": (lambda p: write(p, {"env_spec": "{"}), "env_spec", "not JSON"),
}


def _data(folder: Path) -> Path:
    return folder / minari.DATA


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_refused_with_file_key_and_reason(tmp_path: Path, name: str) -> None:
    defect, key, reason = DEFECTS[name]
    path = write(tmp_path)
    defect(tmp_path)
    assert_refused(lambda: read(tmp_path), path, key, reason)


def test_array_in_place_of_an_episode(tmp_path: Path) -> None:
    path = write(tmp_path)
    with h5py.File(path, "a") as file:
        file["episode_7"] = np.zeros(3)
    with pytest.raises(DemoError, match="episode_7: is no group"):
        read(path)


def test_convert_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write(source)
    assert convert.main(["format=minari", f"src={source}", f"out={out}", "episodes=2"]) == 0
    assert [path.name for path in dataset.files(out)] == ["mine-expert-v0-0000.npz", "mine-expert-v0-0001.npz"]
    after = dataset.load(out, task="hopper", obs_keys=STATE)
    assert [dataset.checksum(one) for one in after] == [dataset.checksum(one) for one in read(source)[:2]]
    capsys.readouterr()
    assert inspect.main([str(source)]) == 0
    printed = capsys.readouterr().out
    assert "minari" in printed and "3 episodes, 12 steps" in printed and "termination" in printed
    assert not (source / "inspect").exists()


def test_public_hopper_is_the_same_as_in_the_d4rl_layout(datasets: Path) -> None:
    """Two writers recorded the same rollouts: minari's copy only has the last observation too."""
    folder, file = datasets / "minari/locomotion/hopper/expert-v0", datasets / "d4rl_layout/hopper-v5-expert.hdf5"
    if not (folder.is_dir() and file.is_file()):
        pytest.skip(f"public data not found: {folder}, {file}")
    found, other = dataset.load(folder, task="hopper", obs_keys=STATE), dataset.load(file, limit=3, obs_keys=STATE)
    assert [one.steps for one in found] == [1000, 871, 1000]
    assert [bool(one.is_terminal[-1]) for one in found] == [False, True, False]
    for one, same in zip(found, other, strict=True):
        np.testing.assert_allclose(one.obs["state"][:-1], same.obs["state"], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(one.action[:-1], same.action)
        assert one.meta["score"] == pytest.approx(same.meta["score"], abs=0.01)


def test_public_maze(datasets: Path) -> None:
    folder = datasets / "minari/antmaze/umaze/expert-v0"
    if not folder.is_dir():
        pytest.skip(f"public data not found: {folder}")
    found = dataset.load(folder, task="antmaze-umaze", obs_keys=STATE)
    assert [one.obs["state"].shape for one in found] == [(306, 29), (1001, 29), (334, 29)]
    assert [one.meta["score"] for one in found] == [1, 0, 1]
