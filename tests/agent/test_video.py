"""Clips: geometry, labels, and files that other programs can read."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

from agent import video


def noise(*shape: int) -> np.ndarray:
    """Random uint8 of this shape."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_upscale_repeats_pixels() -> None:
    frames = noise(2, 3, 4, 3)
    big = video.upscale(frames, 3)
    assert big.shape == (2, 9, 12, 3)
    for dy in range(3):
        for dx in range(3):
            assert (big[:, dy::3, dx::3] == frames).all()


def test_label_draws_above_and_leaves_the_picture() -> None:
    frames = noise(2, 10, 60, 3)
    labelled = video.label(frames, "model")
    strip = labelled[:, : video.LABEL_HEIGHT]
    assert labelled.shape == (2, 10 + video.LABEL_HEIGHT, 60, 3)
    assert (labelled[:, video.LABEL_HEIGHT :] == frames).all()
    assert strip.max() > 200 and (strip == 0).mean() > 0.5
    assert (video.label(frames, "truth")[:, : video.LABEL_HEIGHT] != strip).any()


def test_side_by_side_holds_short_clips_and_pads_low_ones() -> None:
    a, b = noise(2, 4, 5, 3), noise(3, 6, 7, 3)
    joined = video.side_by_side([a, b], gap=2)
    assert joined.shape == (3, 6, 5 + 2 + 7, 3)
    assert (joined[:2, :4, :5] == a).all() and (joined[2, :4, :5] == a[-1]).all()
    assert (joined[:, 4:, :5] == 0).all() and (joined[:, :, 5:7] == 0).all() and (joined[:, :, 7:] == b).all()
    assert video.side_by_side([a, b], ["a", "b"]).shape == (3, 6 + video.LABEL_HEIGHT, 14, 3)
    with pytest.raises(ValueError, match="2 clips but 1 labels"):
        video.side_by_side([a, b], ["a"])


def test_open_loop_rows_and_columns() -> None:
    truth, model = noise(3, 5, 8, 8, 3), noise(3, 5, 8, 8, 3)[::-1]
    picture = video.open_loop(truth, model, context=2, scale=2)
    step, strip = 16 + video.LABEL_HEIGHT, video.LABEL_HEIGHT
    assert picture.shape == (5, 3 * step, 3 * 16, 3)
    for b in range(3):
        column = np.s_[:, :, 16 * b : 16 * b + 16]
        assert (picture[:, strip:step][column][:, ::2, ::2] == truth[b]).all()
        dream = picture[:, step + strip : 2 * step][column][:, ::2, ::2]
        assert (dream[2:] == model[b, 2:]).all(), "after the context: the model's picture"
        assert (dream[:2, 0] == (0, 200, 0)).all() and (dream[:2, :, -1] == (0, 200, 0)).all()
        assert (dream[:2, 1:-1, 1:-1] == model[b, :2, 1:-1, 1:-1]).all()
        error = picture[:, 2 * step + strip :][column][:, ::2, ::2].astype(int)
        assert (np.abs(error - 128 - (model[b].astype(int) - truth[b]) / 2) <= 0.5).all()


def test_open_loop_of_equal_clips_is_grey_and_unequal_shapes_are_refused() -> None:
    truth = noise(1, 2, 8, 8, 3)
    assert (video.open_loop(truth, truth)[:, -8:] == 128).all()
    assert (video.open_loop(truth, truth, np.full_like(truth, 9))[:, -8:] == 9).all()
    with pytest.raises(ValueError, match="must be equal"):
        video.open_loop(truth, truth[:, :1])


def test_gif_has_every_frame_and_the_right_speed(tmp_path: Path) -> None:
    path = video.write_gif(tmp_path / "a" / "x.gif", noise(6, 20, 30, 3), fps=10)
    with Image.open(path) as image:
        assert (image.size, image.n_frames, image.info["duration"], image.info["loop"]) == ((30, 20), 6, 100, 0)
    assert [p.name for p in path.parent.iterdir()] == ["x.gif"]


def test_gif_colours_are_close(tmp_path: Path) -> None:
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[0, :8], frames[1, :, :8], frames[2] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    path = video.write_gif(tmp_path / "x.gif", frames)
    assert np.abs(imageio.imread(path, index=None)[..., :3].astype(int) - frames).max() <= 8


def test_mp4_keeps_length_and_content_for_odd_sizes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = np.zeros((8, 63, 65, 3), np.uint8)
    frames[:, :, :, 0] = (30 * np.arange(8))[:, None, None]
    path = video.write_mp4(tmp_path / "x.mp4", frames, fps=10)
    if path is None:
        pytest.skip("no ffmpeg with H.264 on this machine")
    back = imageio.imread(path, index=None)
    assert back.shape == (8, 64, 66, 3)
    assert not caplog.records, "padded, not rescaled by the encoder"
    assert np.abs(back[:, :63, :65].astype(int) - frames).mean() < 6
    assert [p.name for p in tmp_path.iterdir()] == ["x.mp4"]


def test_without_ffmpeg_there_is_no_mp4_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import imageio_ffmpeg

    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    assert video.write_mp4(tmp_path / "x.mp4", noise(2, 8, 8, 3)) is None


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4, 3)), np.zeros((0, 4, 4, 3), np.uint8)]
)
def test_wrong_frames_are_named(tmp_path: Path, frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected frames \(T, H, W, 3\) uint8"):
        video.write_gif(tmp_path / "x.gif", frames)
