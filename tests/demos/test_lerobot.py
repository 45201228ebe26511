"""demos.formats.lerobot: all layouts, the time shift, the scale of the actions, cameras, laziness, every refusal."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demos import convert, dataset, inspect
from demos.dataset import DemoError
from demos.formats import cameras, lerobot_index
from envs.episode import Episode, to_pairs
from tests.demos import lerobot_sets as sets
from tests.demos.lerobot_sets import CAMERA, NAMES, ROWS, SIDE, change, put, write

STATE = ("state",)
VERSIONS = ("v2.0", "v2.1", "v3.0")
# recorded: 0..46 (episode 2 reaches 40 + 12 = 52), -2.5..0, always 7; 1 % more on either side
LOW, HIGH = [0 - 0.52, -2.5 - 0.025, 7], [52 + 0.52, 0 + 0.025, 7]


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set with videos of two cameras in each of two layouts, which no test changes."""
    root = tmp_path_factory.mktemp("filmed")
    return {version: write(root / version, version, ("front", "wrist")) for version in ("v2.1", "v3.0")}


def read(path: Path, **options: Any) -> list[Episode]:
    """All episodes with their states, checked."""
    return dataset.load(path, **{"obs_keys": STATE} | options)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_action_leads_to_the_row_behind_it_and_the_last_one_is_dropped(tmp_path: Path, version: str) -> None:
    found = read(write(tmp_path, version))
    assert [one.meta["episode"] for one in found] == [0, 1, 2]
    for number, one in enumerate(found):
        pairs = to_pairs(one.obs["state"], one.action)
        np.testing.assert_array_equal(one.obs["state"], sets.state(number))
        assert not one.action[0].any() and not one.is_terminal.any() and np.isnan(one.reward).all()
        units = one.meta["robot"]["action"]
        low, high = np.array(units["low"]), np.array(units["high"])
        np.testing.assert_allclose(low + (pairs.action + 1) / 2 * (high - low), sets.action(number)[:-1], atol=1e-5)
        assert one.meta["instruction"] == [f"task {number}"] and one.meta["task"] == "lerobot-arm"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_scale_is_that_of_all_episodes_and_a_constant_action_is_safe(tmp_path: Path, version: str) -> None:
    root = write(tmp_path, version)
    for limit in (1, 3):
        for one in read(root, limit=limit):
            robot = dict(one.meta["robot"])
            units = robot.pop("action")
            assert robot == {"dt": 0.1, "state": {"names": ["x", "y"]}} and units["names"] == NAMES
            assert units["low"] == pytest.approx(LOW) and units["high"] == pytest.approx(HIGH)
            assert units["low"][2] == units["high"][2] and not one.action[:, 2].any()
    assert read(root)[0].action[1, 0] == pytest.approx(2 * 0.52 / 53.04 - 1)


def test_without_statistics_the_actions_of_all_episodes_are_read(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "meta/episodes_stats.jsonl").unlink()
    assert read(root, limit=1)[0].meta["robot"]["action"]["low"] == pytest.approx(LOW)


def test_names_of_any_shape(tmp_path: Path) -> None:
    root, info = write(tmp_path), tmp_path / "meta/info.json"
    features = json.loads(info.read_text())["features"]
    told = [["a", "b", "c"], {"axes": ["a", "b", "c"]}, {"left": ["a"], "right": ["b", "c"]}, None, ["a", "b"]]
    for names, expected in zip(
        told, [*3 * [["a", "b", "c"]], *2 * [["action[0]", "action[1]", "action[2]"]]], strict=True
    ):
        features["action"]["names"] = names
        change(info, features=features)
        assert read(root, limit=1)[0].meta["robot"]["action"]["names"] == expected


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_frames_are_those_of_their_row_also_in_joined_videos(filmed: dict[str, Path], version: str) -> None:
    for camera in ("front", CAMERA):
        found = dataset.load(filmed[version], obs_keys=("image",), camera=camera)
        for number, one in enumerate(found):
            assert one.obs["image"].shape == (ROWS[number], 64, 64, 3)
            expected = [sets.grey(number, row) for row in range(ROWS[number])]
            np.testing.assert_allclose(one.obs["image"].mean((1, 2, 3)), expected, atol=4)
            told = one.meta["robot"]["camera"]
            assert told["key"] == CAMERA and told["frame"] == [*SIDE, 3] and "mean of the area" in told["how"]


def test_pictures_inside_the_rows(tmp_path: Path) -> None:
    found = dataset.load(write(tmp_path, cameras=("front",), inside=True), obs_keys=("image", "state"))
    for number, one in enumerate(found):
        expected = [sets.grey(number, row) for row in range(ROWS[number])]
        np.testing.assert_array_equal(
            one.obs["image"], np.broadcast_to(np.array(expected)[:, None, None, None], one.obs["image"].shape)
        )


def test_pictures_without_states(tmp_path: Path) -> None:
    info = write(tmp_path, cameras=("front",), inside=True) / "meta/info.json"
    features = json.loads(info.read_text())["features"]
    del features["observation.state"]
    change(info, features=features)
    (one, *_) = dataset.load(tmp_path, obs_keys=None)
    assert set(one.obs) == {"image"} and "state" not in one.meta["robot"]
    with pytest.raises(DemoError, match="info.json: observation.state: missing"):
        read(tmp_path)


def test_several_cameras_need_a_name_and_states_need_none(
    filmed: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, words in (({}, "front, .*wrist; name one"), ({"camera": "left"}, "'left' is none of the cameras")):
        with pytest.raises(DemoError, match=f"info.json: camera: .*{words}"):
            dataset.load(filmed["v2.1"], **options)
    monkeypatch.setattr(cameras, "video", None)
    assert "camera" not in read(filmed["v2.1"])[0].meta["robot"], "no video is opened for them"


def test_depth_is_no_camera(filmed: dict[str, Path]) -> None:
    root = filmed["v2.1"]
    found = lerobot_index.index(root)
    assert found.cameras == [CAMERA, "observation.images.wrist"]
    for info in ({"is_depth_map": True}, {"video.is_depth_map": True}):
        features = {**found.features, CAMERA: {**found.features[CAMERA], "info": info}}
        assert lerobot_index.Index(root, "arm", 10, features, found.pieces).cameras == ["observation.images.wrist"]


@pytest.mark.parametrize("version", VERSIONS)
def test_only_what_is_wanted_is_read(tmp_path: Path, version: str) -> None:
    root = write(tmp_path, version)
    last = dataset.files(root)[-1]
    last.write_bytes(b"broken")
    assert [len(one) for one in read(root, limit=2)] == [6, 4]
    with pytest.raises(DemoError, match=f"{last.name}: file: truncated or corrupt Parquet"):
        read(root, limit=3)


def test_one_file_may_be_named_and_one_outside_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    path = root / "data/chunk-000/episode_000001.parquet"
    assert [one.meta["episode"] for one in read(path)] == [1]
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(path.read_bytes())
    with pytest.raises(DemoError, match="copy.parquet: file: is of no known format: no folder above it has meta/info"):
        read(copy)
    copy.rename(root / "data/copy.parquet")
    with pytest.raises(DemoError, match="copy.parquet: file: no episode"):
        read(root / "data/copy.parquet")


def test_without_pyarrow_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert inspect.main([str(root)]) == 1
    said = capsys.readouterr().err.strip()
    assert "pip install pyarrow" in said and "\n" not in said


def test_other_formats_are_read_without_importing_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def no_arrow(name: str, *rest: Any, **more: Any) -> Any:
        assert name.split(".")[0] != "pyarrow"
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_arrow)
    assert dataset.load(dataset.shipped("line"), limit=1)


def test_episodes_of_sets_with_other_units_are_not_one_data_set(tmp_path: Path) -> None:
    root, out = write(tmp_path / "set"), tmp_path / "out"
    assert convert.main(["format=lerobot", f"src={root}", f"out={out}", "episodes=2"]) == 0
    (root / "meta/episodes_stats.jsonl").unlink()
    put(root / "meta/stats.json", json.dumps({"action": {"min": [-9.0] * 3, "max": [99.0] * 3}}))
    assert convert.main(["format=lerobot", f"src={root}", f"out={tmp_path / 'other'}"]) == 0
    (tmp_path / "other/set-0002.npz").rename(out / "set-0002.npz")
    with pytest.raises(DemoError, match="set-0002.npz: robot: action.high is .*like=PATH.* set-0000.npz: not one"):
        read(out)


def session(root: Path) -> Path:
    """A set of the same arm whose shoulder goes from 0 to 90 instead."""
    write(root, "v2.0")
    far = sets.action(2)
    far[:, 0] = np.linspace(0, 90, len(far))
    sets.store(root / "data/chunk-001/episode_000002.parquet", sets.table(2, action=sets.listed(far)))
    put(root / "meta/stats.json", json.dumps({"action": {"min": [0, -2.5, 7], "max": [90, 0, 7]}}))
    return root


def commands(found: list[Episode]) -> list[np.ndarray]:
    """The actions (steps, 3) of each episode in the robot's units."""
    units = found[0].meta["robot"]["action"]
    low, high = np.array(units["low"]), np.array(units["high"])
    return [low + (one.action[1:].astype(np.float64) + 1) / 2 * (high - low) for one in found]


def test_sessions_of_one_robot_become_one_data_set_by_a_scale_for_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, out = write(tmp_path / "first"), session(tmp_path / "second"), tmp_path / "out"
    arguments = ["format=lerobot", f"out={out}"]
    assert convert.main([*arguments, f"src={first}", "low=[-180, -2.5, 0]", "high=[180, 0, 10]"]) == 0
    card = put(tmp_path / "policy/policy.json", json.dumps({"robot": read(out, limit=1)[0].meta["robot"]}))
    for like in (out, out / "first-0000.npz", card, card.parent):
        assert convert.main([*arguments, f"src={second}", f"like={like}", "force=true"]) == 0
    found = read(out)
    assert len(found) == 6 and found[5].meta["robot"]["action"] == {
        "names": NAMES,
        "low": [-180, -2.5, 0],
        "high": [180, 0, 10],
    }
    wanted = [sets.action(number)[:-1] for number in (0, 1, 2, 0, 1, 2)]
    wanted[5][:, 0] = np.linspace(0, 90, ROWS[2])[:-1]
    for here, there in zip(commands(found), wanted, strict=True):
        np.testing.assert_allclose(here, there, atol=2e-5)  # float32 of a span of 360
    capsys.readouterr()
    assert inspect.main([str(out)]) == 0
    assert "actions -1 to 1: shoulder -180 to 180, elbow -2.5 to 0, gripper 0 to 10" in capsys.readouterr().out


def test_an_action_outside_of_the_scale_is_told_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write(tmp_path / "first"), session(tmp_path / "second")
    assert convert.main(["format=lerobot", f"src={first}", f"out={tmp_path / 'own'}"]) == 0

    def told(*more: str) -> str:
        capsys.readouterr()
        assert convert.main(["format=lerobot", f"src={second}", f"out={tmp_path / 'out'}", *more]) == 1
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err.splitlines()[-1]

    # its last recorded action is dropped: 67.5 is the furthest
    like = f"like={tmp_path / 'own'}"
    assert told(like).endswith("action: shoulder is 67.5 in row 4, 14.98 outside of -0.52 to 52.52")
    assert "elbow is -2 in row 5, 1 outside of -1 to 1" in told("low=[-99, -1, 7]", "high=[99, 1, 7]")
    assert "gripper is 7 in row 1, 1 outside of 8 to 9" in told("low=[-99, -9, 8]", "high=[99, 9, 9]")
    assert "the actions are shoulder, elbow, gripper; the other" in told("low=[0]", "high=[1]")
    assert "low and high go together" in told("low=[0]") and "without like" in told("high=[1]", like)
    assert "low=wide: expected numbers" in told("low=wide", "high=[1]")
    assert "expected equally many, low <= high" in told("low=[1]", "high=[0]")
    change(put(tmp_path / "robot.json", "{}"), robot={"action": {"names": ["x"], "low": [0], "high": [1]}})
    assert "the other low and high are of other ones" in told(f"like={tmp_path / 'robot.json'}")
    put(tmp_path / "robot.json", "{}")
    assert "robot.json: like: tells no low and high" in told(f"like={tmp_path / 'robot.json'}")
    put(tmp_path / "robot.json", "{")
    assert "robot.json: like: is no readable JSON" in told(f"like={tmp_path / 'robot.json'}")
    assert "tells no low and high" in told(f"like={dataset.shipped('line')}")
    line = ["format=own", f"src={dataset.shipped('line')}", "episodes=1", "low=[0]", "high=[1]"]
    assert convert.main([*line, f"out={tmp_path / 'out'}"]) == 1
    assert "action: no low and high of the actions are told" in capsys.readouterr().err


def test_convert_and_inspect(filmed: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["format=lerobot", f"src={filmed['v3.0']}", f"out={out}", "episodes=2"]
    assert convert.main(arguments) == 1
    assert "name one: camera=NAME" in capsys.readouterr().err and not out.exists()
    assert convert.main([*arguments, "camera=wrist"]) == 0
    assert [path.name for path in dataset.files(out)] == ["v3.0-0000.npz", "v3.0-0001.npz"]
    before = dataset.load(filmed["v3.0"], limit=2, obs_keys=None, camera="wrist")
    after = dataset.load(out, obs_keys=None)
    assert [dataset.checksum(one) for one in after] == [dataset.checksum(one) for one in before]
    assert [one.meta for one in after] == [one.meta for one in before]
    capsys.readouterr()
    assert inspect.main([str(filmed["v2.1"]), "camera=front", f"out={tmp_path / 'look'}"]) == 0
    printed = capsys.readouterr().out
    for words in ("lerobot", "3 episodes, 12 steps, 3 actions", "image (64, 64, 3)", "robot's units to [-1, 1]"):
        assert words in printed
    assert (tmp_path / "look/contact_sheet.png").is_file()
    assert convert.main(["format=own", f"src={out}", f"out={tmp_path / 'x'}", "camera=wrist"]) == 1
    assert "files of the format own name no cameras" in capsys.readouterr().err


def test_several_instructions_are_told_and_one_can_be_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = write(tmp_path / "set", "v3.0", cameras=("front",)), tmp_path / "out"
    line = f"{root}: 3 instructions ('task 0', 'task 1', 'task 2') count as one task; demos.convert instruction=TEXT"
    capsys.readouterr()
    read(root)
    read(root)
    assert capsys.readouterr().err.count(line) == 1, "once"
    read(root, limit=1)
    assert inspect.main([str(root), f"out={tmp_path / 'look'}"]) == 0
    printed = capsys.readouterr()
    assert not printed.err and "instruction: task 1 (1 episodes)" in printed.out
    arguments = ["format=lerobot", f"src={root}", f"out={out}"]
    assert convert.main(arguments) == 0
    assert capsys.readouterr().err.count(line) == 1
    opened, real = list[int](), cameras.video
    monkeypatch.setattr(cameras, "video", lambda *given: opened.append(given[2]) or real(*given))
    assert convert.main([*arguments, "instruction=task 2", "episodes=1", "force=true"]) == 0
    assert opened == [ROWS[2]] and "instructions" not in capsys.readouterr().err
    again = ["format=own", f"src={out}", f"out={tmp_path / 'again'}"]
    assert convert.main([*again, "instruction=task 1"]) == 0
    assert [one.meta["episode"] for one in read(tmp_path / "again")] == [1]
    for given in (arguments, again):
        capsys.readouterr()
        assert convert.main([*given, "instruction=fly"]) == 1
        assert "instruction: no episode has 'fly'; demos.inspect lists" in capsys.readouterr().err


def test_public_set(datasets: Path) -> None:
    root = datasets / "lerobot/g1_v2.1"
    if not root.is_dir():
        pytest.skip(f"public data not found: {root}")
    found = read(root)
    assert [one.steps for one in found] == [478, 392, 342, 458]
    everything = np.concatenate([one.action[1:] for one in found])
    assert everything.shape == (1670, 26) and 0.97 < np.abs(everything).max() <= 1
    robot = found[0].meta["robot"]
    assert robot["dt"] == pytest.approx(1 / 30) and robot["action"]["names"][3] == "kLeftElbow"
    assert read(root, limit=1)[0].meta["robot"] == robot
    # joints follow what is commanded: the state moves towards the action of its row
    low, high = np.array(robot["action"]["low"]), np.array(robot["action"]["high"])
    for one in found:
        pairs = to_pairs(one.obs["state"].astype(np.float64), one.action.astype(np.float64))
        gap = low + (pairs.action + 1) / 2 * (high - low) - pairs.state
        assert np.mean(gap * (pairs.next_state - pairs.state)) > 0
        ahead = np.abs(low + (pairs.action[:-5] + 1) / 2 * (high - low) - pairs.state[5:]).mean()
        assert ahead < np.abs(gap).mean(), "the state is nearer to an action five rows later than in its own row"
