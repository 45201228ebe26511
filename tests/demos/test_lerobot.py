"""demos.formats.lerobot: all layouts, the time shift, the scale of the actions, cameras, laziness, every refusal."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demos import convert, dataset, inspect
from demos.dataset import DemoError
from demos.formats import cameras, lerobot_index
from envs.episode import Episode, to_pairs
from tests.demos import lerobot_sets as sets
from tests.demos.lerobot_sets import CAMERA, NAMES, ROWS, SIDE, change, listed, put, store, table, write

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


def _episode(number: int = 1) -> str:
    return f"data/chunk-000/episode_{number:06d}.parquet"


def _data(root: Path, **columns: Any) -> None:
    store(root / _episode(), table(1, **columns))


def _info(root: Path, **entries: Any) -> None:
    change(root / "meta/info.json", **entries)


def _feature(root: Path, key: str, **entries: Any) -> None:
    features = json.loads((root / "meta/info.json").read_text())["features"]
    _info(root, features=features | {key: features[key] | entries})


def _line(root: Path, name: str, number: int, **entries: Any) -> None:
    path = root / "meta" / name
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[number] |= entries
    put(path, "".join(json.dumps(line) + "\n" for line in lines))


def _cut(path: Path, keep: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def _nan(value: np.ndarray) -> Any:
    value[2, 0] = np.nan
    return listed(value)


INFO, LIST, STATS = "meta/info.json", "meta/episodes.jsonl", "meta/episodes_stats.jsonl"
# name -> (what is done to a v2.1 set, file, key, reason)
DEFECTS: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "data cut": (lambda r: _cut(r / _episode()), _episode(), "file", "truncated or corrupt Parquet"),
    "data empty": (lambda r: (r / _episode()).write_bytes(b""), _episode(), "file", "truncated or corrupt Parquet"),
    "data gone": (lambda r: (r / _episode()).unlink(), _episode(), "file", "missing; the data set's meta names it"),
    "info cut": (lambda r: _cut(r / INFO), INFO, "file", "not JSON"),
    "info is a list": (lambda r: put(r / INFO, "[1]"), INFO, "file", "a JSON list"),
    "list cut": (lambda r: _cut(r / LIST), LIST, "file", "not JSON"),
    "list cut between lines": (
        lambda r: put(r / LIST, (r / LIST).read_text().splitlines()[0]),
        INFO,
        "total_episodes",
        "is 3, but 1 episodes",
    ),
    "list gone": (lambda r: (r / LIST).unlink(), LIST, "file", "cannot be read"),
    "list empty": (lambda r: put(r / LIST, ""), INFO, "total_episodes", "no episode"),
    "listed twice": (lambda r: _line(r, "episodes.jsonl", 1, episode_index=0), INFO, "total_episodes", "twice"),
    "no length": (lambda r: _line(r, "episodes.jsonl", 1, length=None), LIST, "length", "of episode 1 is None"),
    "no number": (lambda r: _line(r, "episodes.jsonl", 1, episode_index="1"), LIST, "episode_index", "is '1'"),
    "other length": (lambda r: _line(r, "episodes.jsonl", 1, length=5), _episode(), "episode_index", "4 rows are of"),
    "version": (lambda r: _info(r, codebase_version="v1.6"), INFO, "codebase_version", "is v1.6; known are"),
    "no version": (lambda r: _info(r, codebase_version=None), INFO, "codebase_version", "is None"),
    "fps": (lambda r: _info(r, fps=0), INFO, "fps", "is 0"),
    "no features": (lambda r: _info(r, features=None), INFO, "features", "missing"),
    "chunks": (lambda r: _info(r, chunks_size=0), INFO, "chunks_size", "is 0"),
    "template": (lambda r: _info(r, data_path="{episode}"), INFO, "data_path", "cannot be filled in"),
    "no template": (lambda r: _info(r, data_path=None), INFO, "data_path", "expected a path"),
    "path outside": (lambda r: _info(r, data_path="../{episode_index}"), INFO, "data_path", "inside the data set"),
    "action shape": (lambda r: _feature(r, "action", shape=[3, 1]), INFO, "action", "expected one axis"),
    "stats cut": (lambda r: _cut(r / STATS), STATS, "file", "not JSON"),
    "stats lack an episode": (
        lambda r: put(r / STATS, (r / STATS).read_text().splitlines()[0]),
        STATS,
        "action",
        "of episode 1 are not told",
    ),
    "stats of another size": (
        lambda r: _line(r, "episodes_stats.jsonl", 1, stats={"action": {"min": [0], "max": [1]}}),
        STATS,
        "action",
        "of episode 1 are not 3 numbers",
    ),
    "stats in no order": (
        lambda r: _line(r, "episodes_stats.jsonl", 1, stats={"action": {"min": [2] * 3, "max": [1] * 3}}),
        STATS,
        "action",
        "in order",
    ),
    "stats of other data": (
        lambda r: _data(r, action=listed(np.full((4, 3), 60.0))),
        _episode(),
        "action",
        "number 0 is 60 in row 0 of episode 1, but meta tells a range of -0.52 to 52.52",
    ),
    "no action": (lambda r: _data(r, action=None), _episode(), "action", "missing; there are observation.state"),
    "no state": (lambda r: _data(r, observation__state=None), _episode(), "observation.state", "missing"),
    "no frame_index": (lambda r: _data(r, frame_index=None), _episode(), "frame_index", "missing"),
    "frame missing": (lambda r: _data(r, frame_index=[0, 1, 3, 4]), _episode(), "frame_index", "is 3 in row 2"),
    "other episode": (
        lambda r: _data(r, episode_index=[0] * 4),
        _episode(),
        "episode_index",
        "0 rows are of episode 1",
    ),
    "action nan": (lambda r: _data(r, action=_nan(sets.action(1))), _episode(), "action", "first in row 2"),
    "state nan": (
        lambda r: _data(r, observation__state=_nan(sets.state(1))),
        _episode(),
        "observation.state",
        "first in row 2",
    ),
    "action width": (lambda r: _data(r, action=listed(np.zeros((4, 2)))), _episode(), "action", "lists of 2 numbers"),
    "action lengths": (lambda r: _data(r, action=[[1.0], [2.0, 3.0], [], []]), _episode(), "action", "of 0, 1, 2 num"),
    "action missing": (
        lambda r: _data(r, action=[[1.0] * 3, None, [1.0] * 3, [1.0] * 3]),
        _episode(),
        "action",
        "None",
    ),
    "action text": (lambda r: _data(r, action=["a"] * 4), _episode(), "action", "holds string"),
    "texts in action": (lambda r: _data(r, action=[["a"] * 3] * 4), _episode(), "action", "holds string"),
    "null in action": (lambda r: _data(r, action=[[1.0, 1.0, None]] * 4), _episode(), "action", "4 of them missing"),
    "state is one number": (
        lambda r: _data(r, observation__state=np.zeros(4)),
        _episode(),
        "observation.state",
        "expected lists of 2 numbers",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_refused_with_file_key_and_reason(tmp_path: Path, name: str) -> None:
    defect, file, key, reason = DEFECTS[name]
    root = write(tmp_path)
    assert len(read(root)) == 3
    defect(root)
    with pytest.raises(DemoError) as caught:
        read(root)
    assert (caught.value.path, caught.value.key) == (root / file, key)
    assert reason in caught.value.reason and "\n" not in str(caught.value)


def _listed3(root: Path, number: int, **entries: Any) -> None:
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    rows = sets.parquet.read_table(path).to_pylist()
    rows[number] |= {key.replace("__", "/").replace("CAM", CAMERA): value for key, value in entries.items()}
    kept = [{key: value for key, value in row.items() if value != "gone"} for row in rows]
    store(path, sets.pyarrow.Table.from_pylist(kept))


DEFECTS3: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no list": (lambda r: (r / "meta/episodes/chunk-000/file-000.parquet").unlink(), "path", "no Parquet files"),
    "list cut": (lambda r: _cut(r / "meta/episodes/chunk-000/file-000.parquet"), "file", "truncated or corrupt"),
    "no file": (lambda r: _listed3(r, 1, data__file_index=None), "data/file_index", "is None"),
    "file gone": (lambda r: _listed3(r, 1, data__file_index=7), "file", "missing; the data set's meta names it"),
    "another file": (lambda r: _listed3(r, 1, data__file_index=1), "episode_index", "0 rows are of episode 1"),
    "no seconds": (lambda r: _listed3(r, 2, videos__CAM__from_timestamp=None), f"videos/{CAMERA}", "no seconds"),
    "other seconds": (lambda r: _listed3(r, 2, videos__CAM__to_timestamp=0.7), f"videos/{CAMERA}", "lasts 3 frames"),
    "behind the end": (
        lambda r: _listed3(r, 2, videos__CAM__from_timestamp=0.6, videos__CAM__to_timestamp=1.1),
        CAMERA,
        "has 3 frames; the episode has 5 rows",
    ),
    "video cut": (lambda r: _cut(r / f"videos/{CAMERA}/chunk-000/file-001.mp4"), CAMERA, "has 0 frames"),
    "video gone": (lambda r: (r / f"videos/{CAMERA}/chunk-000/file-001.mp4").unlink(), CAMERA, "missing"),
}


@pytest.mark.parametrize("name", DEFECTS3)
def test_defect_of_a_set_with_joined_files(tmp_path: Path, name: str) -> None:
    defect, key, reason = DEFECTS3[name]
    root = write(tmp_path, "v3.0", ("front",))
    defect(root)
    with pytest.raises(DemoError) as caught:
        dataset.load(root)
    assert caught.value.key == key and reason in caught.value.reason and "\n" not in str(caught.value)


def test_videos_of_one_episode_have_as_many_frames_as_it_has_rows(tmp_path: Path) -> None:
    root = write(tmp_path, cameras=("front",))
    path = root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4"
    for number, words in ((0, "has 5 or more frames; the episode has 4 rows"), (None, "missing")):
        path.unlink()
        if number is not None:
            sets.film(path, number)
        with pytest.raises(DemoError, match=f"episode_000001.mp4: {CAMERA}: {words}"):
            dataset.load(root)


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [([b"x"] * 4, "row 0 is no readable picture"), ([None] * 4, "does not hold the pictures themselves")],
)
def test_pictures_inside_that_are_none(tmp_path: Path, pictures: list[Any], reason: str) -> None:
    root = write(tmp_path, cameras=("front",), inside=True)
    column = sets.pyarrow.array([{"bytes": one, "path": "a.png"} for one in pictures])
    store(root / _episode(), table(1, observation__images__front=column))
    with pytest.raises(DemoError, match=f"episode_000001.parquet: {CAMERA}: {reason}"):
        dataset.load(root)


def test_every_cut_and_many_damages_are_refused_or_harmless(tmp_path: Path) -> None:
    root = write(tmp_path)
    rng, refused, tried = np.random.default_rng(0), 0, 0
    for path in (root / _episode(), root / INFO, root / LIST, root / STATS):
        good = path.read_bytes()
        for trial in range(30):
            content, place = bytearray(good), int(rng.integers(len(good) - 2))
            if trial % 2:
                content[place : place + 20] = rng.bytes(len(content[place : place + 20]))
            else:
                content = content[:place]
            path.write_bytes(content)
            tried += trial % 2 == 0
            try:
                read(root)
            except DemoError as error:
                refused += 1
                assert "\n" not in str(error)
        path.write_bytes(good)
    assert len(read(root)) == 3 and refused >= tried  # every cut; any other exception fails the test


def test_without_pyarrow_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert inspect.main([str(root)]) == 1
    said = capsys.readouterr().err.strip()
    assert "pip install 'understudy[lerobot]'" in said and "\n" not in said


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
    with pytest.raises(DemoError, match="set-0002.npz: robot: units, names, camera or pace differ"):
        read(out)


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
