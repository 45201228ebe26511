"""demos.frames and demos.formats.cameras: the mean of areas, the choice of a camera, videos and their damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demos.errors import DemoError
from demos.formats import cameras
from demos.frames import small


@pytest.mark.parametrize("side", [(64, 64), (128, 192), (84, 84), (48, 80), (1, 1), (480, 640)])
def test_a_pixel_is_the_mean_of_the_area_that_it_covers(side: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*side, 3), np.uint8)
    found = small(frame)
    # every source pixel split into 64 x 64 parts makes whole blocks, of one row of the picture at a time
    tall = np.repeat(frame[:, :, 0].astype(np.int64), 64, axis=1).reshape(side[0], 64, side[1]).sum(2)
    sums = np.stack([np.repeat(tall[:, column], 64).reshape(64, side[0]).sum(1) for column in range(64)], 1)
    expected = np.floor(sums / (side[0] * side[1]) + 0.5)
    assert found.shape == (64, 64, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[:, :, 0], expected)


def test_known_blocks_and_bounds() -> None:
    frame = np.zeros((128, 128, 3), np.uint8)
    frame[::2, ::2] = 255
    frame[:2, :2, 1] = [[1, 2], [3, 4]]
    found = small(frame)
    assert found[0, 0].tolist() == [64, 3, 64] and (found[1:, 1:] == 64).all()
    assert (small(np.full((97, 33, 3), 255, np.uint8)) == 255).all()


@pytest.mark.parametrize("bad", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), None])
def test_other_arrays_are_refused(bad: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="expected uint8|pixels on a side"):
        small(np.zeros((70_000, 1, 3), np.uint8) if bad is None else bad)


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
