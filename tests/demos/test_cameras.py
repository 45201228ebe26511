"""demos.formats.cameras: the choice of a camera, videos and their damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demos.errors import DemoError
from demos.formats import cameras


def test_the_only_camera_or_the_one_that_is_asked_for() -> None:
    path, two = Path("x"), ["observation.images.front", "observation.images.wrist"]
    assert cameras.choose(path, [], None) is None and cameras.choose(path, two[:1], None) == two[0]
    for asked in ("wrist", two[1]):
        assert cameras.choose(path, two, asked) == two[1]
    assert cameras.choose(path, ["a_image", "b_image"], "b") == "b_image"
    for given, asked in ((two, None), (two, "left"), ([], "left")):
        with pytest.raises(DemoError, match="x: camera: .*there are (none|.*images.front, .*wrist)"):
            cameras.choose(path, given, asked)


def test_public_video(datasets: Path, tmp_path: Path) -> None:
    path = datasets / "lerobot/g1_video_sample/episode_000029.mp4"
    if not path.is_file():
        pytest.skip(f"public data not found: {path}")
    frames, told = cameras.video(path, "front", 221, 30.0)
    assert frames.shape == (221, 64, 64, 3) and told["frame"] == [480, 640, 3]
    assert frames.std() > 20 and 0 < np.abs(np.diff(frames.astype(int), axis=0)).mean() < 10, "a scene that moves a bit"
    later, _ = cameras.video(path, "front", 40, 30.0, start=3.0)
    np.testing.assert_array_equal(later, frames[90:130])
    for count, words in ((220, "has 221 or more frames"), (222, "has 221 frames; the episode has 222")):
        with pytest.raises(DemoError, match=words):
            cameras.video(path, "front", count, 30.0)
    content, cut = path.read_bytes(), tmp_path / "cut.mp4"
    for length in (0, 100, len(content) // 2, len(content) - 100):
        cut.write_bytes(content[:length])
        with pytest.raises(DemoError, match=r"cut.mp4: front: .* \(ffmpeg: .*\)"):
            cameras.video(cut, "front", 221, 30.0)
