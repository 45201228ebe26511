"""demos.formats.robomimic: order, the time shift, states by name, cameras, what dones are, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from demos import convert, dataset, formats, inspect
from demos.dataset import DemoError
from envs.episode import Episode, to_pairs
from envs.frames import small
from tests.demos.samples import assert_damage_is_told, assert_refused

STATE = ("state",)
ENV = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}


def steps_of(number: int) -> int:
    """The steps of demonstration `number` in the files below."""
    return 3 + number


def write(
    path: Path, demos: int = 3, *, env: Any = ENV, after: bool = True, cameras: tuple[str, ...] = (), **changes: Any
) -> Path:
    """A file in robomimic's layout: counted observations and pictures, random actions.

    Args:
        path: where to write.
        demos: how many demonstrations.
        env: env_args, left out where None.
        after: with next_obs.
        cameras: their names without "_image".
        changes: arrays of demo_1 to replace ("obs__gripper" for obs/gripper), or to leave out where None.
    """
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if env is not None:
            data.attrs["env_args"] = env if isinstance(env, str) else json.dumps(env)
        for number in range(demos):
            steps = steps_of(number)
            t = np.arange(steps + 1.0) + 100 * number
            seen = {"object": np.stack([t, -t], 1), "eef_pos": np.stack([2 * t] * 3, 1), "gripper": 0.5 * t}
            for name in cameras:
                seen[f"{name}_image"] = rng.integers(0, 256, (steps + 1, 84, 84, 3), np.uint8)
                seen[f"{name}_depth"] = rng.random((steps + 1, 84, 84, 1), np.float32)
            arrays: dict[str, Any] = {f"obs__{key}": value[:-1] for key, value in seen.items()}
            if after:
                arrays |= {f"next_obs__{key}": value[1:] for key, value in seen.items()}
            arrays |= {"actions": rng.uniform(-1, 1, (steps, 2)), "rewards": np.arange(float(steps))}
            arrays |= {"dones": np.arange(steps) >= steps - 2, "states": np.zeros((steps, 9))}
            for key, value in (arrays | (changes if number == 1 else {})).items():
                if value is not None:
                    file[f"data/demo_{number}/{key.replace('__', '/')}"] = value
        file["mask/train"] = np.array([b"demo_0"])
    return path


def read(path: Path, **options: Any) -> list[Episode]:
    """All demonstrations with their states, checked."""
    return dataset.load(path, **{"obs_keys": STATE} | options)


@pytest.mark.parametrize("after", [True, False])
def test_an_action_leads_to_the_row_behind_it(tmp_path: Path, after: bool) -> None:
    path = write(tmp_path / "a.hdf5", after=after)
    found = read(path)
    assert [one.steps for one in found] == [steps_of(number) - (not after) for number in range(3)]
    with h5py.File(path) as file:
        for number, one in enumerate(found):
            pairs = to_pairs(one.obs["state"], one.action)
            t = np.arange(one.steps + 1.0) + 100 * number
            # in alphabetical order: eef_pos (3), gripper, object (2)
            np.testing.assert_array_equal(one.obs["state"], np.stack([2 * t, 2 * t, 2 * t, 0.5 * t, t, -t], 1))
            np.testing.assert_array_equal(pairs.action, file[f"data/demo_{number}/actions"][: one.steps].astype("f4"))
            assert not one.action[0].any() and np.isnan(one.reward).all()
            assert bool(one.meta["notes"]) is not after


def test_what_is_told_of_task_robot_and_score(tmp_path: Path) -> None:
    one = read(write(tmp_path / "a.hdf5"))[1]
    names = ["eef_pos[0]", "eef_pos[1]", "eef_pos[2]", "gripper", "object[0]", "object[1]"]
    assert one.meta["robot"] == {"dt": 0.05, "state": {"names": names}}
    assert one.meta["task"] == "robomimic-lift" and one.meta["return"] == 6 and one.meta["episode"] == 1
    for env, task in (({"env_name": "AdroitHandDoor-v1"}, "robomimic-adroithanddoor"), (None, "robomimic")):
        one = read(write(tmp_path / "a.hdf5", env=env))[0]
        assert one.meta["task"] == task and "dt" not in one.meta["robot"]
    assert dataset.load(tmp_path / "a.hdf5", obs_keys=STATE, rewards=True)[0].reward[1:].tolist() == [0, 1, 2]


def test_dones_terminate_nothing(tmp_path: Path) -> None:
    for found in (read(write(tmp_path / "a.hdf5")), read(write(tmp_path / "b.hdf5", dones=None, rewards=None))):
        assert not any(one.is_terminal.any() for one in found)
        assert {one.meta["ends_by"] for one in found} == {"end of recording"}


def test_demonstrations_are_sorted_by_number_and_later_ones_stay_unread(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", demos=12)
    assert [one.steps for one in read(path)] == [steps_of(number) for number in range(12)]
    write(path, actions=np.full((4, 2), np.nan))
    assert len(read(path, limit=1)) == 1
    with pytest.raises(DemoError, match="data/demo_1/actions"):
        read(path, limit=2)


def test_pictures_of_the_only_camera_or_the_one_that_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", cameras=("agentview",))
    two = write(tmp_path / "b.hdf5", cameras=("agentview", "wrist"))
    for file, options in ((path, {}), (two, {"camera": "wrist"}), (two, {"camera": "wrist_image"})):
        found = dataset.load(file, obs_keys=("image", "state"), **options)
        key = f"{options.get('camera', 'agentview').removesuffix('_image')}_image"
        with h5py.File(file) as raw:
            for number, one in enumerate(found):
                group = raw[f"data/demo_{number}"]
                expected = [*group[f"obs/{key}"][:], group[f"next_obs/{key}"][-1]]
                np.testing.assert_array_equal(one.obs["image"], [small(frame) for frame in expected])
                assert one.meta["robot"]["camera"]["key"] == key
                assert one.meta["robot"]["camera"]["frame"] == [84, 84, 3]
    with pytest.raises(DemoError, match="camera: there are agentview_image, wrist_image; name one"):
        dataset.load(two)
    assert "camera" not in read(two)[0].meta["robot"], "states need none"
    short = dataset.load(write(path, cameras=("agentview",), after=False))
    assert [len(one.obs["image"]) for one in short] == [3, 4, 5]


def test_it_is_told_from_the_other_hdf5_formats(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5")
    assert formats.sniff(path).NAME == "robomimic"
    for extra, name in (("observations", "d4rl"), ("episode_0/actions", "minari")):
        with h5py.File(write(tmp_path / "b.hdf5"), "a") as file:
            file[extra] = np.zeros((3, 2))
        found = formats.sniff(tmp_path / "b.hdf5")
        assert found is formats.FORMATS[name]


def _nan(rows: int, width: int) -> np.ndarray:
    value = np.zeros((rows, width))
    value[2, 0] = np.nan
    return value


def _only(path: Path, *keys: str, **attributes: str) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        for key in keys:
            file[key] = np.zeros((3, 2))


PICTURES = np.zeros((4, 8, 8, 3))
DEFECTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "cut": (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "file", "truncated or corrupt"),
    "empty": (lambda p: p.write_bytes(b""), "file", "truncated or corrupt"),
    "no demonstrations": (lambda p: _only(p, "data/x"), "data", "holds no demonstration"),
    "array in place of one": (lambda p: _only(p, "data/demo_0"), "data/demo_0", "is no group"),
    "raw collection": (
        lambda p: _only(p, "data/demo_1/states", "data/demo_1/actions"),
        "data/demo_1/obs",
        "dataset_states_to_obs.py",
    ),
    "no observations": (lambda p: _only(p, "data/demo_1/actions"), "data/demo_1/obs", "missing"),
    "observations are no group": (lambda p: _only(p, "data/demo_1/obs"), "data/demo_1/obs", "missing"),
    "no actions": (lambda p: write(p, actions=None), "data/demo_1/actions", "missing"),
    "no steps": (lambda p: write(p, actions=np.zeros((0, 2))), "data/demo_1/actions", "no transitions"),
    "action rows": (lambda p: write(p, actions=np.zeros((5, 2))), "data/demo_1/dones", "4 rows; actions has 5"),
    "action shape": (lambda p: write(p, actions=np.zeros(4)), "data/demo_1/actions", "2 axes"),
    "action nan": (lambda p: write(p, actions=_nan(4, 2)), "data/demo_1/actions", "first in row 2"),
    "action range": (lambda p: write(p, actions=np.full((4, 2), 1.5)), "action", "1.5; demos.robot.unit maps"),
    "action width": (lambda p: write(p, actions=np.zeros((4, 3))), "action", "not one data set"),
    "state rows": (lambda p: write(p, obs__object=np.zeros((3, 2))), "data/demo_1/obs/object", "3 rows; actions has 4"),
    "state nan": (lambda p: write(p, obs__object=_nan(4, 2)), "data/demo_1/obs/object", "first in row 2"),
    "state text": (lambda p: write(p, obs__object=["a"] * 4), "data/demo_1/obs/object", "expected numbers"),
    "state missing": (lambda p: write(p, obs__object=None), "data/demo_1/obs", "demonstration before: object"),
    "state more": (lambda p: write(p, obs__x=np.zeros((4, 1))), "data/demo_1/obs", "demonstration before: x"),
    "next rows": (
        lambda p: write(p, next_obs__object=np.zeros((3, 2))),
        "data/demo_1/next_obs/object",
        "3 rows; actions has 4",
    ),
    "next missing": (lambda p: write(p, next_obs__object=None), "data/demo_1/next_obs/object", "missing"),
    "next is another": (
        lambda p: write(p, next_obs__object=np.zeros((4, 2))),
        "data/demo_1/next_obs",
        "row 0 is not obs row 1",
    ),
    "rewards": (lambda p: write(p, rewards=np.zeros(3)), "data/demo_1/rewards", "3 rows"),
    "dones rows": (lambda p: write(p, dones=np.zeros(3)), "data/demo_1/dones", "3 rows"),
    "dones values": (lambda p: write(p, dones=np.arange(4)), "data/demo_1/dones", "other than 0 and 1"),
    "env_args": (lambda p: write(p, env="{"), "data/env_args", "not JSON"),
    "pictures of floats": (
        lambda p: write(p, cameras=("a",), obs__a_image=PICTURES),
        "data/demo_1/obs/a_image",
        "float64 (8, 8, 3); expected uint8",
    ),
    "picture rows": (
        lambda p: write(p, cameras=("a",), obs__a_image=PICTURES[:3].astype(np.uint8)),
        "data/demo_1/obs/a_image",
        "3 rows; actions has 4",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_refused_with_file_key_and_reason(tmp_path: Path, name: str) -> None:
    defect, key, reason = DEFECTS[name]
    path = write(tmp_path / "a.hdf5")
    defect(path)
    assert_refused(lambda: read(path, obs_keys=None), path, key, reason)


def test_one_row_without_next_observations_is_no_transition(tmp_path: Path) -> None:
    one = {f"obs__{key}": np.zeros((1, 2)) for key in ("object", "eef_pos", "gripper")}
    path = write(tmp_path / "a.hdf5", after=False, actions=np.zeros((1, 2)), rewards=None, dones=None, **one)
    with pytest.raises(DemoError, match="data/demo_1/actions: has 1 row"):
        read(path)


def test_pictures_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", cameras=("a",))
    with h5py.File(path, "a") as file:
        for number in range(3):
            for key in ("object", "eef_pos", "gripper"):
                del file[f"data/demo_{number}/obs/{key}"]
    assert set(dataset.load(path, obs_keys=None)[0].obs) == {"image"}
    with pytest.raises(DemoError, match="data/demo_0/obs: holds no numbers, only pictures"):
        read(path)


def test_every_cut_and_many_damages_are_refused_or_harmless(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5")
    assert_damage_is_told(lambda: read(path), [path], 150)


def test_convert_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write(tmp_path / "lift.hdf5", cameras=("a", "b")), tmp_path / "out"
    arguments = ["format=robomimic", f"src={source}", f"out={out}"]
    assert convert.main(arguments) == 1
    assert "name one: camera=NAME" in capsys.readouterr().err and not out.exists()
    assert convert.main([*arguments, "camera=b", "episodes=2"]) == 0
    assert [path.name for path in dataset.files(out)] == ["lift-0000.npz", "lift-0001.npz"]
    before = dataset.load(source, limit=2, obs_keys=None, camera="b")
    after = dataset.load(out, task="robomimic-lift", obs_keys=None)
    assert [dataset.checksum(one) for one in after] == [dataset.checksum(one) for one in before]
    assert after[0].meta == before[0].meta
    capsys.readouterr()
    assert inspect.main([str(source), "camera=a", f"out={tmp_path / 'look'}"]) == 0
    printed = capsys.readouterr().out
    assert "robomimic" in printed and "3 episodes, 12 steps" in printed and "image (64, 64, 3)" in printed


def test_public_file(datasets: Path) -> None:
    path = datasets / "robomimic_layout/door_human_low_dim.hdf5"
    if not path.is_file():
        pytest.skip(f"public data not found: {path}")
    found = read(path)
    assert len(found) == 15 and sum(one.steps for one in found) == 4171
    assert {one.obs["state"].shape[1] for one in found} == {39}
    assert found[0].meta["robot"]["state"]["names"][:4] == ["door[0]", "door[1]", "door_open", "hand_qpos[0]"]


def test_public_raw_collection_is_refused_with_the_remedy(datasets: Path) -> None:
    path = datasets / "robosuite/wipe/panda/demo.hdf5"
    if not path.is_file():
        pytest.skip(f"public data not found: {path}")
    with pytest.raises(DemoError, match="demo.hdf5: data/demo_1/obs: missing: .*dataset_states_to_obs.py"):
        read(path)
