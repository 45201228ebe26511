"""What the ``meta`` folder of a LeRobot data set tells: where each episode lies, its cameras, the range of its actions.

See `demos.formats.lerobot` for both layouts, and for what of them is known from files and what from documentation.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from demos.errors import DemoError
from demos.formats import parquet

INFO = Path("meta", "info.json")
EPISODE = "episode_index"
# Of the recorded range, on either side: policies that squash their actions never quite reach the ends of [-1, 1].
MARGIN = 0.01

_V2_LIST, _V2_STATS, _STATS = (
    Path("meta", "episodes.jsonl"),
    Path("meta", "episodes_stats.jsonl"),
    Path("meta/stats.json"),
)
_V3_LIST = Path("meta", "episodes")


class Clip(NamedTuple):
    """A video file, and the seconds into it at which an episode begins; None: the file is this episode's alone."""

    path: Path
    start: float | None


@dataclass(frozen=True)
class Piece:
    """One episode: its number, rows, the tasks in words, and its files."""

    number: int
    rows: int
    tasks: tuple[str, ...]
    data: Path
    clips: Mapping[str, Clip]


@dataclass(frozen=True)
class Index:
    """A data set. fps: rows a second. features: of info.json, by column. pieces: by number."""

    root: Path
    robot: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    pieces: tuple[Piece, ...]

    @property
    def info(self) -> Path:
        """The file that messages about features name."""
        return self.root / INFO

    @property
    def cameras(self) -> list[str]:
        """Columns of colour pictures: ``video`` in files of their own, ``image`` in the Parquet files."""
        kinds = {key: spec.get("dtype") for key, spec in self.features.items() if not _depth(spec)}
        return [key for key, kind in kinds.items() if kind in ("video", "image")]

    def width(self, key: str) -> int:
        """How many numbers the column `key` holds a row. Raises DemoError: it is not there, or has other axes."""
        if key not in self.features:
            raise DemoError(self.info, key, f"missing; the features are {', '.join(self.features)}")
        shape = self.features[key].get("shape")
        if not isinstance(shape, list) or len(shape) != 1 or not _whole(shape[0], 1):
            raise DemoError(self.info, key, f"has shape {shape}; expected one axis")
        return shape[0]

    def names(self, key: str) -> list[str]:
        """What the numbers of the column `key` are called; "key[0]", ... where their names are not told."""
        width, found = self.width(key), list(_strings(self.features[key].get("names")))
        return found if len(found) == width else [f"{key}[{number}]" for number in range(width)]

    @functools.cached_property
    def recorded(self) -> tuple[np.ndarray, np.ndarray]:
        """least, most (A,) float64 of what is recorded of the actions of ALL episodes.

        Raises DemoError: the statistics are damaged, or lack an episode.
        """
        least, most = (np.stack(side) for side in zip(*self._ranges(self.width("action")), strict=True))
        return least.min(0), most.max(0)

    @functools.cached_property
    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """low, high (A,) float64: the actions that become -1 and 1, from what is recorded of ALL episodes.

        They lie 1 % of the range outside the recorded ones. low = high, the value itself, where an action is constant.

        Raises DemoError: the statistics are damaged, or lack an episode.
        """
        low, high = self.recorded
        span = high - low
        still = span <= 1e-6 * (1 + np.abs(low))
        return np.where(still, low, low - MARGIN * span), np.where(still, low, high + MARGIN * span)

    def _ranges(self, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(least, most) of the actions, for each episode or for all at once."""
        lines, whole = self.root / _V2_STATS, self.root / _STATS
        if lines.is_file():
            told = {one.get(EPISODE): one.get("stats") for one in _lines(lines)}
            for piece in self.pieces:
                yield _range(lines, told.get(piece.number), width, f" of episode {piece.number}")
        elif whole.is_file():
            yield _range(whole, _object(whole), width, "")
        else:  # nothing is told of them, so all are read
            for path in dict.fromkeys(piece.data for piece in self.pieces):
                action = parquet.numbers(path, parquet.table(path, ["action"]), "action", width)
                yield action.min(0), action.max(0)


def root_of(path: Path) -> Path | None:
    """The data set's folder that a file lies in; None if it lies in none."""
    return next((folder for folder in path.parents if (folder / INFO).is_file()), None)


def index(root: Path) -> Index:
    """What the ``meta`` folder of the data set at `root` tells; kept until a file there changes.

    Raises DemoError: a file is missing, damaged or contradicts another; a version that is not known; pyarrow is needed
    (v3) and not installed.
    """
    found = sorted(path for path in (root / "meta").rglob("*") if path.is_file())
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in found]
    return _index(root, tuple(stamps))


@functools.lru_cache(maxsize=4)
def _index(root: Path, stamps: tuple[Any, ...]) -> Index:
    path = root / INFO
    info = _object(path)
    version = str(info.get("codebase_version"))
    if version not in ("v2.0", "v2.1", "v3.0"):
        raise DemoError(path, "codebase_version", f"is {version}; known are v2.0, v2.1 and v3.0")
    fps = info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        raise DemoError(path, "fps", f"is {fps!r}; expected the rows a second")
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(spec, dict) for spec in features.values()):
        raise DemoError(path, "features", "missing, or not one object a column")
    videos = [key for key, spec in features.items() if spec.get("dtype") == "video"]
    pieces = list((_v2 if version.startswith("v2") else _v3)(root, info, videos))
    pieces.sort(key=lambda piece: piece.number)
    numbers = [piece.number for piece in pieces]
    if not pieces or len(set(numbers)) < len(numbers):
        raise DemoError(path, "total_episodes", "no episode is listed" if not pieces else "an episode is listed twice")
    total = info.get("total_episodes", len(pieces))
    if total != len(pieces):
        raise DemoError(path, "total_episodes", f"is {total}, but {len(pieces)} episodes are listed beside it")
    return Index(root, str(info.get("robot_type") or "robot"), float(fps), features, tuple(pieces))


def _v2(root: Path, info: dict[str, Any], videos: list[str]) -> Iterator[Piece]:
    """One file an episode, in chunks of ``chunks_size``."""
    path = root / _V2_LIST
    size = info.get("chunks_size")
    if not isinstance(size, int) or not _whole(size, 1):
        raise DemoError(root / INFO, "chunks_size", f"is {size!r}; expected a number of episodes")
    for line in _lines(path):
        number, rows, tasks = _entry(path, line)
        fields = {"episode_chunk": number // size, EPISODE: number}
        clips = {key: Clip(_place(root, info, "video_path", video_key=key, **fields), None) for key in videos}
        yield Piece(number, rows, tasks, _place(root, info, "data_path", **fields), clips)


def _v3(root: Path, info: dict[str, Any], videos: list[str]) -> Iterator[Piece]:
    """Many episodes a file; the list of episodes tells the file, and the second at which a video begins."""
    paths = sorted((root / _V3_LIST).rglob("*.parquet"))
    if not paths:
        raise DemoError(root / _V3_LIST, "path", "holds no Parquet files: the episodes are not listed")
    where = ("chunk_index", "file_index")
    ends = ("from_timestamp", "to_timestamp")
    columns = [EPISODE, "length", *(f"data/{name}" for name in where)]
    columns += [f"videos/{key}/{name}" for key in videos for name in (*where, *ends)]
    for path in paths:
        for line in parquet.rows(path, parquet.table(path, columns, ["tasks"])):
            number, rows, tasks = _entry(path, line)
            data = {name: _index_of(path, line, f"data/{name}") for name in where}
            clips = {}
            for key in videos:
                file = {name: _index_of(path, line, f"videos/{key}/{name}") for name in where}
                start, stop = (line[f"videos/{key}/{name}"] for name in ends)
                # else rows would get the next episode's frames
                if not isinstance(start, int | float) or not isinstance(stop, int | float) or not start >= 0:
                    raise DemoError(path, f"videos/{key}", f"no seconds are told for episode {number}")
                if not abs((stop - start) * info["fps"] - rows) < 1:
                    told = f"episode {number} has {rows} rows, but lasts {(stop - start) * info['fps']:.4g} frames"
                    raise DemoError(path, f"videos/{key}", told)
                clips[key] = Clip(_place(root, info, "video_path", video_key=key, **file), start)
            yield Piece(number, rows, tasks, _place(root, info, "data_path", **data), clips)


def _entry(path: Path, line: Mapping[str, Any]) -> tuple[int, int, tuple[str, ...]]:
    """(number, rows, tasks) of a line of the list of episodes."""
    number, rows, tasks = line.get(EPISODE), line.get("length"), line.get("tasks")
    if not _whole(number, 0):
        raise DemoError(path, EPISODE, f"is {number!r} in some line")
    if not _whole(rows, 1):
        raise DemoError(path, "length", f"of episode {number} is {rows!r}; expected a number of rows")
    assert isinstance(number, int) and isinstance(rows, int)
    return number, rows, tuple(map(str, tasks)) if isinstance(tasks, list) else ()


def _index_of(path: Path, line: Mapping[str, Any], key: str) -> int:
    if not _whole(line[key], 0):
        raise DemoError(path, key, f"is {line[key]!r} in some row")
    return int(line[key])


def _place(root: Path, info: dict[str, Any], key: str, **fields: Any) -> Path:
    """A file of the data set, from info.json's template `key`."""
    template = info.get(key)
    try:
        place = Path(str(template).format(**fields)) if isinstance(template, str) else None
    except (KeyError, ValueError, IndexError, AttributeError, TypeError, MemoryError, OverflowError) as error:
        raise DemoError(root / INFO, key, f"is {template!r}, which cannot be filled in ({error})") from error
    if place is None or place.is_absolute() or ".." in place.parts:
        raise DemoError(root / INFO, key, f"is {template!r}; expected a path inside the data set")
    return root / place


def _range(path: Path, stats: Any, width: int, of: str) -> tuple[np.ndarray, np.ndarray]:
    action = stats.get("action") if isinstance(stats, dict) else None
    try:
        least, most = (np.asarray(action[side], np.float64) for side in ("min", "max"))  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise DemoError(path, "action", f"the least and largest actions{of} are not told") from error
    if (
        least.shape != (width,)
        or most.shape != (width,)
        or not (least <= most).all()
        or not np.isfinite(least + most).all()
    ):
        raise DemoError(path, "action", f"min and max{of} are not {width} numbers each, in order")
    return least, most


def _object(path: Path) -> dict[str, Any]:
    return _json(path, _text(path))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [_json(path, line) for line in _text(path).splitlines() if line.strip()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DemoError(path, "file", f"cannot be read: {error.strerror or error}") from error


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DemoError(path, "file", f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DemoError(path, "file", f"holds a JSON {type(value).__name__}; expected an object")
    return value


def _strings(names: Any) -> Iterator[str]:
    """All strings in lists and objects of any depth: both are in use, also one in the other."""
    if isinstance(names, str):
        yield names
    elif isinstance(names, dict | list):
        for one in names.values() if isinstance(names, dict) else names:
            yield from _strings(one)


def _depth(spec: Mapping[str, Any]) -> bool:
    info = spec.get("info") or spec.get("video_info")
    return isinstance(info, dict) and bool(info.get("is_depth_map") or info.get("video.is_depth_map"))


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
