"""demos.formats.lerobot: every damage and contradiction is refused with the file, the key and the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demos import dataset
from demos.dataset import DemoError
from envs.episode import Episode
from tests.demos import lerobot_sets as sets
from tests.demos.lerobot_sets import CAMERA, change, listed, put, store, table, write
from tests.demos.samples import assert_damage_is_told, assert_refused


def read(path: Path) -> list[Episode]:
    """All episodes with their states, checked."""
    return dataset.load(path, obs_keys=("state",))


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
    assert_refused(lambda: read(root), root / file, key, reason)


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
    paths = [root / _episode(), root / INFO, root / LIST, root / STATS]
    assert_damage_is_told(lambda: read(root), paths, 30, spared=2)  # a line's end
