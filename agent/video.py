"""Pictures in motion: scale, label and join (T, H, W, 3) uint8 clips, and write them as GIF or MP4."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LABEL_HEIGHT = 14


def upscale(frames: np.ndarray, k: int) -> np.ndarray:
    """Repeat every pixel k times in both directions: (..., H, W, 3) -> (..., k H, k W, 3)."""
    return frames.repeat(k, axis=-3).repeat(k, axis=-2)


def label(frames: np.ndarray, text: str) -> np.ndarray:
    """Add a black strip with white text above every frame: (T, H, W, 3) -> (T, H + 14, W, 3)."""
    t, _, width, _ = _check(frames).shape
    strip = Image.new("RGB", (width, LABEL_HEIGHT))
    ImageDraw.Draw(strip).text((2, 1), text, fill=(255, 255, 255), font=ImageFont.load_default(10))
    above = np.broadcast_to(np.asarray(strip, np.uint8), (t, LABEL_HEIGHT, width, 3))
    return np.concatenate([above, frames], axis=1)


def side_by_side(clips: Sequence[np.ndarray], labels: Sequence[str] | None = None, gap: int = 2) -> np.ndarray:
    """Join clips (T_i, H_i, W_i, 3) left to right; short ones hold their last frame, low ones are padded with black."""
    if labels is not None and len(labels) != len(clips):
        raise ValueError(f"{len(clips)} clips but {len(labels)} labels")
    clips = list(clips) if labels is None else [label(clip, text) for clip, text in zip(clips, labels, strict=True)]
    t, height = max(len(_check(clip)) for clip in clips), max(clip.shape[1] for clip in clips)
    parts: list[np.ndarray] = []
    for clip in clips:
        held = np.concatenate([clip, clip[-1:].repeat(t - len(clip), axis=0)])
        parts += [np.pad(held, ((0, 0), (0, height - clip.shape[1]), (0, 0), (0, 0)))]
        parts += [np.zeros((t, height, gap, 3), np.uint8)]
    return np.concatenate(parts[:-1], axis=2)


def open_loop(
    truth: np.ndarray, model: np.ndarray, error: np.ndarray | None = None, *, context: int = 0, scale: int = 1
) -> np.ndarray:
    """What happened, what the model dreamt, and the difference.

    Args:
        truth, model: (B, T, H, W, 3) uint8, B samples.
        error: same shape; default 128 + (model - truth) / 2, so grey means right.
        context: rows that the model saw, marked by a green frame around its picture; the dream begins after them.
        scale: pixels are repeated this many times.
    Returns:
        (T, 3 scale H + labels, B scale W, 3) uint8: rows truth, model, error; one column a sample.
    """
    if truth.shape != model.shape or truth.ndim != 5:
        raise ValueError(f"open_loop: truth {truth.shape} and model {model.shape} must be equal (B, T, H, W, 3)")
    if error is None:
        error = (128 + (model.astype(np.int16) - truth) // 2).astype(np.uint8)
    dream = model.copy()
    for edge in (np.s_[:, :context, [0, -1]], np.s_[:, :context, :, [0, -1]]):
        dream[edge] = (0, 200, 0)
    rows = []
    for name, clips in (("truth", truth), ("model", dream), ("error", error)):
        strip = np.concatenate(list(upscale(clips, scale)), axis=2)
        rows.append(label(strip, name))
    return np.concatenate(rows, axis=1)


def write_gif(path: Path, frames: np.ndarray, fps: float = 20.0) -> Path:
    """Write (T, H, W, 3) uint8 frames as an endless GIF (palette of 256 colours a frame); returns `path`."""
    images = [Image.fromarray(frame) for frame in _check(frames)]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"tmp-{path.name}")
    # GIF counts in hundredths of a second, and viewers slow down what is faster than 0.02 s.
    duration = max(20, 10 * round(100 / fps))
    images[0].save(temporary, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    os.replace(temporary, path)
    return path


def write_mp4(path: Path, frames: np.ndarray, fps: float = 20.0) -> Path | None:
    """Write (T, H, W, 3) uint8 frames as H.264; returns `path`, or None when no ffmpeg is there to do it."""
    _check(frames)
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    even = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    temporary = path.with_name(f"tmp-{path.name}")
    try:
        imageio.mimwrite(temporary, list(even), fps=fps, macro_block_size=2, quality=7)
        os.replace(temporary, path)
    except OSError:  # ffmpeg without libx264, or it died; the GIF is the copy that counts
        temporary.unlink(missing_ok=True)
        return None
    return path


def _check(frames: np.ndarray) -> np.ndarray:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"expected frames (T, H, W, 3) uint8 with T > 0, got {frames.dtype} {frames.shape}")
    return frames
