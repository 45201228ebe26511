"""demos.formats.d4rl: the time shift, ends of episodes, what is dropped and noted, and every refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from demos import convert, dataset, inspect
from demos.dataset import DemoError
from demos.formats import d4rl, transitions
from envs.episode import Episode, to_pairs
from envs.make import make
from tests.demos import samples
from tests.demos.samples import assert_damage_is_told, assert_refused

STATE = ("state",)
LENGTHS = (4, 3, 2)  # rows of the three episodes below; the second ends by a terminal, the last with the file


def hopper(path: Path, *, env_id: str | None = "Hopper-v5", after: bool = False, **changes: Any) -> Path:
    """A file in D4RL's layout: counted observations (row t of the file holds t), random actions and states.

    Args:
        path: where to write.
        env_id: metadata/env_id, none if None.
        after: add next_observations.
        changes: arrays to replace ("infos__qpos" for infos/qpos), or to leave out where None.
    """
    rng = np.random.default_rng(0)
    rows = sum(LENGTHS)
    qpos, qvel = rng.normal(size=(rows, 6)), rng.normal(size=(rows, 6))
    qvel[1, 2] = 14  # Hopper observes velocities clipped to +-10
    obs = np.concatenate([qpos[:, 1:], np.clip(qvel, -10, 10)], 1).astype(np.float32)
    arrays: dict[str, Any] = {"observations": obs, "infos__qpos": qpos, "infos__qvel": qvel}
    arrays["actions"] = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
    arrays["rewards"] = np.arange(rows, dtype=np.float32)
    arrays["terminals"], arrays["timeouts"] = np.arange(rows) == 6, np.arange(rows) == 3
    if after:
        arrays["next_observations"] = np.concatenate([obs[1:], obs[:1]])
        arrays["next_observations"][[3, 6]] += 100  # not the first observation of the episode behind
    arrays |= changes
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            if value is not None:
                file[key.replace("__", "/")] = value
        if env_id is not None:
            file["metadata/env_id"] = env_id
    return path


def raw(path: Path, key: str) -> np.ndarray:
    """An array as it stands in the file."""
    with h5py.File(path) as file:
        return file[key][:]


def read(path: Path) -> list[Episode]:
    """All episodes, checked."""
    return dataset.load(path, obs_keys=STATE)


def test_action_moves_to_the_row_it_led_to(tmp_path: Path) -> None:
    path = hopper(tmp_path / "a.hdf5")
    obs, action = raw(path, "observations"), raw(path, "actions")
    found = read(path)
    assert [one.steps for one in found] == [length - 1 for length in LENGTHS]
    for one, start in zip(found, (0, 4, 7), strict=True):
        pairs = to_pairs(one.obs["state"], one.action, one.is_terminal)
        stop = start + one.steps
        np.testing.assert_array_equal(pairs.state, obs[start:stop])
        np.testing.assert_array_equal(pairs.action, action[start:stop])
        np.testing.assert_array_equal(pairs.next_state, obs[start + 1 : stop + 1])
        assert not one.action[0].any() and not pairs.done.any()


def test_with_next_observations_no_step_and_no_termination_is_lost(tmp_path: Path) -> None:
    path = hopper(tmp_path / "a.hdf5", after=True)
    obs, after, action = (raw(path, key) for key in ("observations", "next_observations", "actions"))
    found = read(path)
    assert [one.steps for one in found] == list(LENGTHS)
    assert [bool(one.is_terminal[-1]) for one in found] == [False, True, False]
    for one, start in zip(found, (0, 4, 7), strict=True):
        pairs = to_pairs(one.obs["state"], one.action)
        stop = start + one.steps
        np.testing.assert_array_equal(pairs.state, obs[start:stop])
        np.testing.assert_array_equal(pairs.action, action[start:stop])
        np.testing.assert_array_equal(pairs.next_state, after[start:stop])
        assert one.sim_state is not None
        np.testing.assert_array_equal(one.sim_state[-1], one.sim_state[-2])
        assert any("final row repeats" in note for note in one.meta["notes"])


def test_a_lost_termination_is_noted_and_ends_are_told(tmp_path: Path) -> None:
    found = read(hopper(tmp_path / "a.hdf5"))
    assert [one.meta["ends_by"] for one in found] == ["time limit", "termination", "end of file"]
    assert [any("termination" in note for note in one.meta["notes"]) for one in found] == [False, True, False]
    assert not any(one.is_terminal.any() for one in found)


def test_simulator_states_are_those_of_their_row(tmp_path: Path) -> None:
    path = hopper(tmp_path / "a.hdf5")
    both = np.concatenate([raw(path, "infos/qpos"), raw(path, "infos/qvel")], axis=1)
    for one, start in zip(read(path), (0, 4, 7), strict=True):
        assert one.sim_state is not None and one.sim_state.dtype == np.float64
        np.testing.assert_array_equal(one.sim_state, both[start : start + len(one)])
        assert one.meta["sim_state"] == "qpos+qvel"


def test_simulator_states_of_the_row_behind_are_left_out(tmp_path: Path) -> None:
    path = hopper(tmp_path / "a.hdf5")
    shifted = {f"infos__{key}": np.roll(raw(path, f"infos/{key}"), -1, axis=0) for key in ("qpos", "qvel")}
    for one in read(hopper(path, **shifted)):
        assert one.sim_state is None and "sim_state" not in one.meta
        assert any("infos/qpos" in note for note in one.meta["notes"])
    assert all(one.sim_state is None and not one.meta["notes"] for one in read(hopper(path, infos__qvel=None))[::2])


def test_scene_counts_as_the_episode_began(tmp_path: Path) -> None:
    place = np.arange(27.0).reshape(9, 3)
    path = hopper(tmp_path / "a.hdf5", env_id="AdroitHandDoor-v1", infos__door_body_pos=place)
    for one, start in zip(read(path), (0, 4, 7), strict=True):
        assert one.sim_state is not None and one.meta["sim_state"] == "qpos+qvel+door_body_pos"
        np.testing.assert_array_equal(one.sim_state[:, 12:], np.tile(place[start], (len(one), 1)))
    assert read(hopper(path, env_id="AdroitHandDoor-v1"))[0].sim_state is None


def test_rewards_are_told_to_people_only(tmp_path: Path) -> None:
    path = hopper(tmp_path / "a.hdf5")
    found = read(path)
    assert all(np.isnan(one.reward).all() for one in found)
    # All rows count, also the one whose action was dropped.
    assert [one.meta["score"] for one in found] == [6, 15, 15]
    assert found[0].meta["reference"] == {"random": -20.272305, "expert": 3234.3}
    poisoned = read(hopper(path, rewards=np.full(9, np.nan)))
    assert "score" not in poisoned[0].meta
    assert [dataset.checksum(one) for one in poisoned] == [dataset.checksum(one) for one in found]


@pytest.mark.parametrize(
    ("env_id", "success", "score"),
    [("AntMaze_UMaze-v4", None, 1.0), ("AdroitHandPen-v1", None, None), ("AdroitHandPen-v1", [1, 0, 0, 0], 1.0)],
)
def test_score_is_in_the_unit_of_the_environment(
    tmp_path: Path, env_id: str, success: list[int] | None, score: float | None
) -> None:
    flags = None if success is None else np.array([*success, 0, 0, 0, 0, 0])
    (one, *_) = read(hopper(tmp_path / "a.hdf5", env_id=env_id, infos__success=flags))
    assert one.meta["return"] == 6 and one.meta.get("score") == score


def test_normalised_scores() -> None:
    assert d4rl.normalised("hopper", 3234.3) == pytest.approx(100)
    assert d4rl.normalised("ant", -325.6) == pytest.approx(0)
    assert d4rl.normalised("walker2d", (4592.3 + 1.629008) / 2) == pytest.approx(50)
    assert d4rl.normalised("pen", 96.262799) == pytest.approx(0)
    assert d4rl.normalised("relocate", 2 * 4233.877798 + 6.425911) == pytest.approx(200)
    with pytest.raises(ValueError, match="humanoid"):
        d4rl.normalised("humanoid", 1)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("Hopper-v5", "hopper"),
        ("halfcheetah_medium_replay-v2", "halfcheetah"),
        ("Walker2d-v4", "walker2d"),
        ("ant-v5-expert", "ant"),
        ("AntMaze_UMaze-v4", "antmaze-umaze"),
        ("AntMaze_Large_Diverse_GR-v5", "antmaze-large"),
        ("antmaze-medium-play-v2", "antmaze-medium"),
        ("Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse", "antmaze-medium"),
        ("D4RL/antmaze/umaze-v1", "antmaze-umaze"),
        ("AdroitHandHammerSparse-v1", "hammer"),
        ("door-v0-human", "door"),
        ("FrankaKitchen-v1", "kitchen"),
        ("AntMaze_Unheard-v4", None),
        ("mine", None),
        ("", None),
    ],
)
def test_names_of_tasks(name: str, task: str | None) -> None:
    assert transitions.task_of(name) == task


def test_task_from_the_file_name_or_an_unknown_environment(tmp_path: Path) -> None:
    assert read(hopper(tmp_path / "my-hopper.hdf5", env_id=None))[0].meta["task"] == "hopper"
    assert read(hopper(tmp_path / "hopper.hdf5", env_id="Swimmer-v5"))[0].meta["task"] == "swimmer"
    for name in ("Reach-v2", "reach-again"):
        (one, *_) = read(hopper(tmp_path / "own" / f"{name}.hdf5", env_id=None))
        assert one.meta["task"] == name.lower().removesuffix("-v2")
    assert len(read(tmp_path / "own")) == 6, "one data set, whatever its files are called"
    with pytest.raises(DemoError, match="reach-again.hdf5: task: is 'reach-again', by the file's name; .* 'hopper'"):
        dataset.load(tmp_path / "own" / "reach-again.hdf5", task="hopper", obs_keys=STATE)
    hopper(tmp_path / "own" / "z.hdf5")
    with pytest.raises(DemoError, match="z.hdf5: task: is hopper, but reach in Reach-v2.hdf5: not one data set"):
        read(tmp_path / "own")


@pytest.mark.parametrize(
    ("env_id", "width", "kept"), [("Ant-v5", 105, 27), ("Ant-v4", 111, 27), ("Humanoid-v5", 348, 45)]
)
def test_contact_values_are_dropped_and_noted(tmp_path: Path, env_id: str, width: int, kept: int) -> None:
    obs = np.random.default_rng(0).normal(size=(9, width)).astype(np.float32)
    obs[5, kept:] = np.nan  # what is dropped is not even looked at
    still = np.zeros((9, 3), np.float32)
    (one, *_) = read(hopper(tmp_path / "a.hdf5", env_id=env_id, observations=obs, actions=still))
    np.testing.assert_array_equal(one.obs["state"], obs[:4, :kept])
    assert any(f"first {kept} of {width}" in note for note in one.meta["notes"])


@pytest.mark.parametrize(
    ("name", "kept"),
    [("ant_medium_replay-v2", 27), ("ant-v5-expert", 27), ("ant-arm", 105), ("my-ant-v2", 105), ("ant", 105)],
)
def test_of_another_robot_everything_is_kept(tmp_path: Path, name: str, kept: int) -> None:
    """Its file may speak of an ant, and its states may have the width of Gymnasium's."""
    obs = np.random.default_rng(0).normal(size=(9, 105)).astype(np.float32)
    for path in (
        hopper(tmp_path / f"{name}.hdf5", env_id=None, observations=obs),
        hopper(tmp_path / "x.hdf5", env_id=name, observations=obs),
    ):
        (one, *_) = read(path)
        np.testing.assert_array_equal(one.obs["state"], obs[:4, :kept])
        assert any("first 27" in note for note in one.meta["notes"]) == (kept == 27)


@pytest.mark.parametrize(("env_id", "half"), [("Humanoid-v5", 0.4), ("my-humanoid-v5", 1.0), ("Hopper-v5", 1.0)])
def test_actions_are_shares_of_the_robots_box(tmp_path: Path, env_id: str, half: float) -> None:
    """Else every policy would ask for more than its robot can do, and nothing would tell."""
    given = np.linspace(-0.4, 0.4, 9, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    found = read(hopper(tmp_path / "a.hdf5", env_id=env_id, actions=given))
    np.testing.assert_allclose(found[0].action[1:], given[:3] / half, rtol=1e-6)
    assert any("divided by 0.4" in note for note in found[0].meta["notes"]) == (half != 1)


@pytest.mark.parametrize(
    ("env_id", "timeouts", "ends"),
    [("Hopper-v5", (3,), True), ("Hopper-v5", (3, 6), False), ("HalfCheetah-v5", (3,), False)],
)
def test_a_time_out_is_no_termination_whatever_the_flags_say(
    tmp_path: Path, env_id: str, timeouts: tuple[int, ...], ends: bool
) -> None:
    found = read(hopper(tmp_path / "a.hdf5", env_id=env_id, after=True, timeouts=np.isin(np.arange(9), timeouts)))
    assert [bool(one.is_terminal[-1]) for one in found] == [False, ends, False]
    assert any("nothing but the clock" in note for note in found[1].meta["notes"]) == (env_id == "HalfCheetah-v5")


def test_files_of_our_own_give_back_every_step_and_end(tmp_path: Path) -> None:
    """Also those of tasks that no environment id names, and of observations with contact forces."""
    made = [samples.episode(rows, rows, task="ant-custom", actions=8) for rows in (5, 3)]
    made[0].is_terminal[-1] = True
    for one in made:
        one.obs["state"] = np.tile(one.obs["state"], 21)
        one.reward[:] = np.arange(len(one))
    made[1].reward[2] = np.nan
    path = tmp_path / "x.hdf5"
    path.write_bytes(d4rl.encode(made))
    again = d4rl.encode(made)
    assert again == path.read_bytes()
    for one, found in zip(made, d4rl.read(path), strict=True):
        assert found.meta["task"] == "ant-custom" and found.obs["state"].shape[1] == 105
        np.testing.assert_array_equal(found.obs["state"], one.obs["state"])
        np.testing.assert_array_equal(found.reward[1:], one.reward[1:])
        for name in ("action", "is_first", "is_last", "is_terminal"):
            np.testing.assert_array_equal(getattr(found, name), getattr(one, name))
    assert [one.meta["ends_by"] for one in d4rl.read(path)] == ["termination", "time limit"]
    ant = tmp_path / "ant.hdf5"
    made[0].meta["task"] = "ant"
    ant.write_bytes(d4rl.encode(made[:1]))
    assert d4rl.read(ant)[0].obs["state"].shape[1] == 105, "nothing is left out of what we wrote"


def test_an_episode_of_one_row_is_passed_over(tmp_path: Path) -> None:
    path = hopper(tmp_path / "a.hdf5", timeouts=np.isin(np.arange(9), (3, 4)))
    assert [(one.meta["episode"], one.steps) for one in read(path)] == [(0, 3), (2, 1), (3, 1)]
    with pytest.raises(DemoError, match="observations: .*holds no transitions"):
        read(hopper(path, timeouts=np.ones(9, bool)))


def _nan(index: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    value = np.zeros(shape, np.float32)
    value[index] = np.nan
    return value


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DEFECTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "cut": (_cut, "file", "truncated or corrupt"),
    "not HDF5": (lambda p: p.write_bytes(b"what is this" * 99), "file", "truncated or corrupt"),
    "empty": (lambda p: p.write_bytes(b""), "file", "truncated or corrupt"),
    "other arrays": (lambda p: h5py.File(p, "w").close(), "file", "no known format"),
    "no observations": (lambda p: hopper(p, observations=None), "observations", "missing"),
    "no actions": (lambda p: hopper(p, actions=None), "actions", "missing"),
    "no rewards": (lambda p: hopper(p, rewards=None), "rewards", "missing"),
    "no terminals": (lambda p: hopper(p, terminals=None), "terminals", "missing"),
    "no timeouts": (lambda p: hopper(p, timeouts=None), "timeouts", "missing"),
    "no rows": (lambda p: hopper(p, observations=np.zeros((0, 11))), "observations", "no transitions"),
    "observations shape": (lambda p: hopper(p, observations=np.zeros(9)), "observations", "2 axes"),
    "observations rows": (lambda p: hopper(p, observations=np.zeros((8, 11))), "actions", "9 rows; observations has 8"),
    "observations nan": (lambda p: hopper(p, observations=_nan((5, 1), (9, 11))), "observations", "first in row 5"),
    "observations text": (lambda p: hopper(p, observations="x"), "observations", "expected numbers"),
    "observations group": (lambda p: hopper(p, observations=None, observations__x=1), "observations", "group of x"),
    "actions shape": (lambda p: hopper(p, actions=np.zeros(9)), "actions", "2 axes"),
    "actions nan": (lambda p: hopper(p, actions=_nan((8, 0), (9, 3))), "actions", "first in row 8"),
    "actions rows": (lambda p: hopper(p, actions=np.zeros((10, 3))), "actions", "10 rows; observations has 9"),
    "actions too large": (lambda p: hopper(p, actions=np.full((9, 3), 1.3)), "action", "1.3; demos.robot.unit maps"),
    "rewards shape": (lambda p: hopper(p, rewards=np.zeros((9, 1))), "rewards", "1 axes"),
    "flags": (lambda p: hopper(p, timeouts=np.arange(9)), "timeouts", "other than 0 and 1"),
    "qpos rows": (lambda p: hopper(p, infos__qpos=np.zeros((8, 6))), "infos/qpos", "8 rows"),
    "qpos nan": (lambda p: hopper(p, infos__qpos=_nan((2, 0), (9, 6))), "infos/qpos", "first in row 2"),
    "next width": (lambda p: hopper(p, next_observations=np.zeros((9, 2))), "next_observations", "(9, 2)"),
    "next is another": (lambda p: hopper(p, next_observations=np.zeros((9, 11))), "next_observations", "row 0"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_refused_with_file_key_and_reason(tmp_path: Path, name: str) -> None:
    defect, key, reason = DEFECTS[name]
    path = hopper(tmp_path / "a.hdf5")
    defect(path)
    assert_refused(lambda: read(tmp_path), path, key, reason)


def test_every_cut_and_many_damages_are_refused_or_harmless(tmp_path: Path) -> None:
    path = hopper(tmp_path / "a.hdf5", after=True)
    assert_damage_is_told(lambda: read(path), [path], 150)


def test_limit_counts_episodes_and_leaves_later_files_unread(tmp_path: Path) -> None:
    hopper(tmp_path / "a.hdf5")
    (tmp_path / "b.hdf5").write_bytes(b"broken")
    for limit in (1, 2, 3):
        assert [one.meta["episode"] for one in dataset.load(tmp_path, limit=limit, obs_keys=STATE)] == [*range(limit)]
    with pytest.raises(DemoError, match="b.hdf5"):
        dataset.load(tmp_path, limit=4, obs_keys=STATE)
    assert [one.steps for one in dataset.read(tmp_path / "a.hdf5")] == [3, 2, 1]


def test_convert_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = hopper(tmp_path / "my.hdf5"), tmp_path / "out"
    arguments = ["format=d4rl", f"src={source}", f"out={out}"]
    assert convert.main([*arguments, "episodes=2"]) == 0
    assert [path.name for path in dataset.files(out)] == ["my-0000.npz", "my-0001.npz"]
    before, after = read(source), dataset.load(out, task="hopper", obs_keys=STATE)
    assert [dataset.checksum(one) for one in after] == [dataset.checksum(one) for one in before[:2]]
    assert after[0].sim_state is not None and after[0].meta == before[0].meta
    assert convert.main([*arguments, "episodes=0"]) == 1
    capsys.readouterr()
    for path in (source, out):
        assert inspect.main([str(path), "limit=2"]) == 0
        printed = capsys.readouterr().out
        for words in ("2 episodes, 5 steps", "6.0 (1 %)", "time limit", "termination", "no images", "state (11,)"):
            assert words in printed
        assert "0/1" not in printed  # without a clock the simulator cannot tell that the hopper survived
    assert sorted(child.name for child in tmp_path.iterdir()) == ["my.hdf5", "out"]


# name -> (task, steps of the episodes, how many of them lost their termination)
PUBLIC: dict[str, tuple[str, list[int], int]] = {
    "hopper-v5-expert": ("hopper", [999, 870, 999, 999, 999], 1),
    "halfcheetah-v5-expert": ("halfcheetah", [999] * 3, 0),
    "walker2d-v5-expert": ("walker2d", [999] * 3, 0),
    "ant-v5-expert": ("ant", [999] * 4, 0),
    "humanoid-v5-expert": ("humanoid", [341, 999, 999], 1),
    "antmaze-umaze-v4-expert": ("antmaze-umaze", [304, 999, 332, 381, 999], 3),
    "door-v1-expert": ("door", [199] * 10, 0),
    "relocate-v1-expert": ("relocate", [199] * 10, 0),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_files(datasets: Path, name: str) -> None:
    task, steps, lost = PUBLIC[name]
    path = _public(datasets / "d4rl_layout" / f"{name}.hdf5")
    found = dataset.load(path, task=task, obs_keys=STATE)
    assert [one.steps for one in found] == steps
    assert sum(any("termination" in note for note in one.meta["notes"]) for one in found) == lost
    for one in found:
        assert one.sim_state is not None and one.obs["state"].shape[1] == {"ant": 27, "humanoid": 45}.get(
            task, raw(path, "observations").shape[1]
        )


@pytest.mark.parametrize(("name", "task"), [("hopper-v5-expert", "hopper"), ("relocate-v1-expert", "relocate")])
def test_environments_continue_from_public_states(datasets: Path, name: str, task: str) -> None:
    """State t of the reader and action t + 1 give observation t + 1: both are where the environment wants them."""
    (one,) = dataset.load(_public(datasets / "d4rl_layout" / f"{name}.hdf5"), limit=1, obs_keys=STATE)
    assert one.sim_state is not None
    env = make(task, "state")
    for row in (0, 60, one.steps - 1):
        env.reset(options={"sim_state": one.sim_state[row]})
        np.testing.assert_allclose(env.step(one.action[row + 1])[0], one.obs["state"][row + 1], rtol=0, atol=1e-4)
    env.close()


def test_public_returns(datasets: Path) -> None:
    found = read(_public(datasets / "d4rl_layout" / "hopper-v5-expert.hdf5"))
    assert [one.meta["score"] for one in found] == pytest.approx([3643, 3261, 3655, 3666, 3648], abs=1)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("d4rl_layout/door-v0-human", "action"),
        ("d4rl_original/med_test_singstartAntmaze_medium_test_multistart_False_multigoal_False", "observations"),
    ],
)
def test_public_files_that_do_not_fit_are_refused(datasets: Path, name: str, key: str) -> None:
    with pytest.raises(DemoError) as caught:
        read(_public(datasets / f"{name}.hdf5"))
    assert caught.value.key == key


def test_public_file_cut_in_the_middle(datasets: Path, tmp_path: Path) -> None:
    content = _public(datasets / "d4rl_layout" / "hopper-v5-medium.hdf5").read_bytes()
    (tmp_path / "hopper.hdf5").write_bytes(content[: len(content) // 2])
    with pytest.raises(DemoError, match="hopper.hdf5: file: truncated"):
        read(tmp_path)


def _public(path: Path) -> Path:
    if not path.is_file():
        pytest.skip(f"public data not found: {path}")
    return path
