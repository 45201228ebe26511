"""Pictures of demonstrations: a contact sheet, and an animation of all episodes side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

UPSCALE = 2
GAP = 4
BACKGROUND = (24, 24, 28)
INK = (235, 235, 235)
# A GIF of every step of a long episode would be tens of megabytes; the eye does not miss every second frame.
MAX_FRAMES = 150


def contact_sheet(images: Sequence[np.ndarray], labels: Sequence[str], columns: int = 8) -> bytes:
    """One row of evenly spaced frames (first and last included) per episode, each marked with its row number.

    Args:
        images: per episode (n+1, h, w, 3) uint8, all of one h and w.
        labels: per episode, lines of text drawn at its left.
        columns: frames per episode.

    Returns:
        PNG bytes.
    """
    height, width = (UPSCALE * side for side in images[0].shape[1:3])
    font = ImageFont.load_default(13)
    margin = GAP * 2 + max(_text_width(label, font) for label in labels)
    canvas = Image.new("RGB", (margin + columns * (width + GAP) + GAP, len(images) * (height + GAP) + GAP), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for row, (frames, label) in enumerate(zip(images, labels, strict=True)):
        top = GAP + row * (height + GAP)
        draw.multiline_text((GAP, top + GAP), label, INK, font)
        for column, index in enumerate(np.linspace(0, len(frames) - 1, columns).round().astype(int)):
            left = margin + column * (width + GAP)
            canvas.paste(_enlarge(frames[index]), (left, top))
            _stamp(draw, (left + 2, top + height - 16), f"{index}", font)
    return _bytes(canvas)


def animation(images: Sequence[np.ndarray], captions: Sequence[Sequence[str]], fps: int = 25) -> bytes:
    """All episodes tiled in a grid, playing at once in an endless loop; a finished one holds its last frame.

    Args:
        images: per episode (n+1, h, w, 3) uint8, all of one h and w.
        captions: per episode and row, the text in the tile's corner.
        fps: environment steps shown per second; long episodes skip frames and keep this pace.

    Returns:
        GIF bytes.
    """
    length = max(len(frames) for frames in images)
    stride = -(-length // MAX_FRAMES)
    shown = [*range(0, length - 1, stride), length - 1]
    # One palette for all frames, taken from a few of them: a palette per frame flickers and compresses worse.
    few = [shown[i] for i in np.linspace(0, len(shown) - 1, 4).astype(int)]
    sample = np.concatenate([np.asarray(_tiles(images, captions, index)) for index in few])
    palette = Image.fromarray(sample).quantize(256, Image.Quantize.MEDIANCUT)
    # frame by frame: all of them in full colour would be the most of the memory
    frames = [_tiles(images, captions, i).quantize(palette=palette, dither=Image.Dither.NONE) for i in shown]
    step = 1000 * stride / fps
    durations = [round(step)] * (len(frames) - 1) + [1000]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return buffer.getvalue()


def _tiles(images: Sequence[np.ndarray], captions: Sequence[Sequence[str]], index: int) -> Image.Image:
    height, width = (UPSCALE * side for side in images[0].shape[1:3])
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    for number, (frames, caption) in enumerate(zip(images, captions, strict=True)):
        now = min(index, len(frames) - 1)
        left, top = GAP + number % columns * (width + GAP), GAP + number // columns * (height + GAP)
        canvas.paste(_enlarge(frames[now]), (left, top))
        _stamp(draw, (left + 2, top + 1), caption[now], font)
    return canvas


def _enlarge(frame: np.ndarray) -> Image.Image:
    # Nearest neighbour: the pixels the learner sees, not a smoothed version of them.
    height, width = frame.shape[:2]
    return Image.fromarray(frame).resize((UPSCALE * width, UPSCALE * height), Image.Resampling.NEAREST)


def _stamp(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, font: Font) -> None:
    draw.text(corner, text, INK, font, stroke_width=2, stroke_fill=(0, 0, 0))


def _text_width(text: str, font: Font) -> int:
    return int(max(font.getlength(line) for line in text.splitlines() or [""])) + GAP


def _bytes(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
