"""LeRobot data sets of known numbers, written in every layout that the reader knows."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

pyarrow = pytest.importorskip("pyarrow", reason="the extra lerobot is not installed")
from pyarrow import parquet  # noqa: E402

ROWS = (6, 4, 5)  # of the episodes; their numbers are 0, 1, 2
FPS = 10
SIDE = (96, 128)  # height and width of a frame
NAMES = ["shoulder", "elbow", "gripper"]
CAMERA = "observation.images.front"


def state(number: int) -> np.ndarray:
    """(rows, 2) of episode `number`: the row, and 10 times the episode."""
    t = np.arange(ROWS[number], dtype=np.float32)
    return np.stack([t, np.full_like(t, 10 * number)], 1)


def action(number: int) -> np.ndarray:
    """(rows, 3) in the robot's units: from 20 * number by 3 a row, from 0 down by 0.5, and always 7."""
    t = np.arange(ROWS[number], dtype=np.float32)
    return np.stack([20 * number + 3 * t, -0.5 * t, np.full_like(t, 7)], 1)


def grey(number: int, row: int) -> int:
    """The brightness of a frame: all differ by far more than a codec changes them."""
    return 20 + 15 * (row + sum(ROWS[:number]))


def write(root: Path, version: str = "v2.1", cameras: tuple[str, ...] = (), *, inside: bool = False) -> Path:
    """A data set of three episodes; returns its folder.

    Args:
        root: its folder, made if missing.
        version: v2.0, v2.1, v3.0.
        cameras: names of cameras, each with the same grey frames.
        inside: pictures as PNG in the Parquet files instead of videos.
    """
    three = version == "v3.0"
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["x", "y"]}},
        "action": {"dtype": "float32", "shape": [3], "names": [NAMES]},
    }
    features |= {key: {"dtype": "int64", "shape": [1], "names": None} for key in ("frame_index", "episode_index")}
    kind = "image" if inside else "video"
    features |= {f"observation.images.{name}": {"dtype": kind, "shape": [*SIDE, 3]} for name in cameras}
    info: dict[str, Any] = {"codebase_version": version, "robot_type": "Arm", "fps": FPS, "features": features}
    info |= {"total_episodes": len(ROWS), "chunks_size": 2}
    if three:
        info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    else:
        info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    lines: list[dict[str, Any]] = [
        {"episode_index": number, "tasks": [f"task {number}"], "length": rows} for number, rows in enumerate(ROWS)
    ]
    put(root / "meta/info.json", json.dumps(info))
    tables = [table(number, cameras if inside else ()) for number in range(len(ROWS))]
    keys = [] if inside else [f"observation.images.{name}" for name in cameras]
    if three:
        # episodes 0 and 1 share a file of rows, 1 and 2 one of frames
        for number, line in enumerate(lines):
            line |= {"data/chunk_index": 0, "data/file_index": number // 2}
            for key in keys:
                start = ROWS[1] / FPS if number == 2 else 0.0
                line |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": min(number, 1)}
                line |= {f"videos/{key}/from_timestamp": start}
                line |= {f"videos/{key}/to_timestamp": start + ROWS[number] / FPS}
        store(root / "meta/episodes/chunk-000/file-000.parquet", pyarrow.Table.from_pylist(lines))
        store(root / "data/chunk-000/file-000.parquet", pyarrow.concat_tables(tables[:2]))
        store(root / "data/chunk-000/file-001.parquet", tables[2])
        for key in keys:
            for file, numbers in enumerate(((0,), (1, 2))):
                film(root / f"videos/{key}/chunk-000/file-{file:03d}.mp4", *numbers)
    else:
        put(root / "meta/episodes.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        for number in range(len(ROWS)):
            fields = {"episode_chunk": number // 2, "episode_index": number}
            store(root / info["data_path"].format(**fields), tables[number])
            for key in keys:
                film(root / info["video_path"].format(video_key=key, **fields), number)
    ranges = [{"min": action(n).min(0).tolist(), "max": action(n).max(0).tolist()} for n in range(len(ROWS))]
    if version == "v2.1":
        told = [{"episode_index": n, "stats": {"action": one}} for n, one in enumerate(ranges)]
        put(root / "meta/episodes_stats.jsonl", "".join(json.dumps(line) + "\n" for line in told))
    else:
        least, most = ([one[side] for one in ranges] for side in ("min", "max"))
        whole = {"action": {"min": np.min(least, 0).tolist(), "max": np.max(most, 0).tolist()}}
        put(root / "meta/stats.json", json.dumps(whole))
    return root


def table(number: int, cameras: tuple[str, ...] = (), **changes: Any) -> Any:
    """The rows of an episode; `changes`: columns to replace ("observation__state"), or to leave out where None."""
    rows = ROWS[number]
    columns: dict[str, Any] = {
        "observation__state": listed(state(number)),
        "action": listed(action(number)),
        "frame_index": np.arange(rows),
        "episode_index": np.full(rows, number),
        "timestamp": np.arange(rows) / FPS,
    }
    for name in cameras:
        pictures = [{"bytes": png(number, row), "path": None} for row in range(rows)]
        columns[f"observation__images__{name}"] = pyarrow.array(pictures)
    columns |= changes
    return pyarrow.table({key.replace("__", "."): value for key, value in columns.items() if value is not None})


def listed(value: np.ndarray) -> Any:
    """(rows, width) as a column of lists of equal length."""
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(value.ravel()), value.shape[1])


def png(number: int, row: int) -> bytes:
    """A frame as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((*SIDE, 3), grey(number, row), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def film(path: Path, *numbers: int) -> None:
    """A video of the frames of these episodes; several are encoded each on its own and joined, as LeRobot does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for number in numbers:
        part = path.with_name(f"part-{number}.mp4")
        frames = b"".join(bytes([grey(number, row)]) * (3 * SIDE[0] * SIDE[1]) for row in range(ROWS[number]))
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIDE[1]}x{SIDE[0]}", "-r", str(FPS), "-i", "-"]
        ffmpeg(*raw, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "2", "-crf", "10", str(part), given=frames)
        parts.append(part)
    names = "".join(f"file '{part}'\n" for part in parts)
    put(path.with_suffix(".txt"), names)
    ffmpeg("-f", "concat", "-safe", "0", "-i", str(path.with_suffix(".txt")), "-c", "copy", str(path))
    for used in (*parts, path.with_suffix(".txt")):
        used.unlink()


def ffmpeg(*arguments: str, given: bytes = b"") -> None:
    """Run the ffmpeg that comes with imageio-ffmpeg."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-threads", "1", *arguments]
    subprocess.run(command, input=given, check=True)


def put(path: Path, text: str) -> Path:
    """Write text, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def store(path: Path, rows: Any) -> Path:
    """Write a Parquet file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(rows, path)
    return path


def change(path: Path, **entries: Any) -> Path:
    """Replace entries of a JSON file, or remove those that are None."""
    content = json.loads(path.read_text()) | entries
    return put(path, json.dumps({key: value for key, value in content.items() if value is not None}))
