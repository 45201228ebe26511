"""Pictures of data sets with cameras: which camera, and its frames at 64 x 64, read one after the other."""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np
from PIL import Image, UnidentifiedImageError

from demos.errors import DemoError
from envs.frames import HOW, SIZE, small

# What the readers of picture files are known to raise on damaged bytes.
_DAMAGE = (
    UnidentifiedImageError,
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
    Image.DecompressionBombError,
)


def choose(path: Path, cameras: Sequence[str], asked: str | None) -> str | None:
    """The camera to read: the one asked for, else the only one; None where there is none and none is asked for.

    asked: a camera's whole name, or what is left of it without "observation.images." or "_image".

    Raises DemoError that names all cameras: there is no such one, or there are several and none is asked for.
    """
    there = f"there are {', '.join(cameras)}" if cameras else "there are none"
    if asked is not None:
        found = [one for one in cameras if asked in (one, one.rpartition(".")[2], one.removesuffix("_image"))]
        if len(found) != 1:
            raise DemoError(path, "camera", f"{asked!r} is none of the cameras; {there}")
        return found[0]
    if len(cameras) > 1:
        raise DemoError(path, "camera", f"{there}; name one: camera=NAME of demos.convert and demos.inspect")
    return cameras[0] if cameras else None


def told(key: str, height: int, width: int) -> dict[str, object]:
    """What meta["robot"]["camera"] says of the camera `key` with frames of this size."""
    return {"key": key, "frame": [height, width, 3], "how": HOW}


def reduced(path: Path, key: str, frames: Iterable[np.ndarray], count: int) -> tuple[np.ndarray, dict[str, object]]:
    """Frames (height, width, 3) uint8 of one size -> (count, 64, 64, 3) uint8, and what `told` says of them.

    Raises DemoError: another number of frames than `count`, another type, or sizes that differ.
    """
    images, size, seen = np.empty((count, SIZE, SIZE, 3), np.uint8), None, 0
    for frame in frames:
        if seen < count:
            try:
                images[seen] = small(frame)
            except ValueError as error:
                raise DemoError(path, key, str(error)) from error
            if size is not None and frame.shape[:2] != size:
                raise DemoError(path, key, f"frame {seen} is {frame.shape[:2]}, those before are {size}")
            size = frame.shape[:2]
        seen += 1
    if seen != count or size is None:
        more = "or more " if seen > count else ""
        raise DemoError(path, key, f"has {seen} {more}frames; the episode has {count} rows")
    return images, told(key, *size)


def video(
    path: Path, key: str, count: int, fps: float, start: float | None = None
) -> tuple[np.ndarray, dict[str, object]]:
    """`count` frames of a video file at 64 x 64, as `reduced`; one frame at a time is in memory at full size.

    Args:
        path: the file; any container and codec that the ffmpeg of imageio-ffmpeg knows (AV1, H.264, ...).
        key: what messages call the video.
        count: the rows of the episode.
        fps: frames a second.
        start: seconds into the file at which the episode begins; None: the file holds this episode alone, so that a
            further frame is an error.

    Raises DemoError: no such file, damaged, or another number of frames.
    """
    if not path.is_file():
        raise DemoError(path, key, "missing; the data set's meta names it")
    # half a frame early: times are rounded, and the first frame at or after the moment is taken
    seek = ["-ss", f"{start - 0.5 / fps:.6f}"] if start is not None and start > 0.5 / fps else []
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-xerror", *seek, "-i", str(path)]
    command += ["-map", "0:v:0", "-fps_mode", "passthrough", "-frames:v", str(count + (start is None))]
    command += ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        try:
            found = reduced(path, key, _ppm(process.stdout), count)
            if process.wait() == 0:
                return found
            reason = "truncated or corrupt video"
        except DemoError as error:
            reason = error.reason
        finally:
            process.kill()
        log.seek(0)
        said = " ".join(log.read(2000).decode("utf-8", "replace").split())[:200]
    raise DemoError(path, key, reason + (f" (ffmpeg: {said})" if said else ""))


def packed(path: Path, key: str, blobs: Iterable[bytes]) -> Iterable[np.ndarray]:
    """Frames (height, width, 3) uint8 of picture files (PNG, JPEG) in memory. Raises DemoError for damaged ones."""
    for row, blob in enumerate(blobs):
        try:
            with Image.open(io.BytesIO(blob)) as picture:
                yield np.asarray(picture.convert("RGB"))
        except _DAMAGE as error:
            raise DemoError(path, key, f"row {row} is no readable picture ({error})") from error


def _ppm(stream: IO[bytes]) -> Iterable[np.ndarray]:
    """The frames of a stream of binary PPM pictures; one that is cut off ends it."""
    while stream.readline() == b"P6\n":
        width, height = map(int, stream.readline().split())
        stream.readline()  # 255
        content = stream.read(3 * width * height)
        if len(content) < 3 * width * height:
            return
        yield np.frombuffer(content, np.uint8).reshape(height, width, 3)
