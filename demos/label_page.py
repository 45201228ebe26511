"""A page on which a person says which of two segments is better, and the answers that it gives back.

The page is one HTML file that needs no server and no network. It keeps the answers in the browser as they are given,
and hands them out as JSON at any time:

    {"format": 1, "pairs": checksum of the pairs, "answers": {number: 0, 1, 0.5 (alike), or null (skipped)}}
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from demos.errors import DemoError

FORMAT = 1
QUALITY = 85
MAX_FRAMES = 26  # of a segment: longer ones skip frames and keep their pace
SECONDS_A_STEP = 1 / 25


def shown(steps: int) -> np.ndarray:
    """Which rows of a segment of ``steps`` pairs, 0 to ``steps``, the page shows."""
    stride = -(-(steps + 1) // MAX_FRAMES)
    return np.arange(0, steps + 1, stride)


def page(identity: str, task: str, steps: int, clips: Iterable[np.ndarray]) -> bytes:
    """The HTML file.

    Args:
        identity: checksum of the pairs.
        steps: pairs of a segment.
        clips: for each pair the pictures (2, f, h, w, 3) uint8 of both segments, of the rows that `shown` names.
    """
    strips: list[list[str]] = []
    size = (0, 0, 0)
    for clip in clips:
        size = clip.shape[1:4]
        strips.append([_strip(frames) for frames in clip])
    rows = shown(steps)
    milliseconds = 1000 * SECONDS_A_STEP * (int(rows[1]) if len(rows) > 1 else 1)
    facts = {"id": identity, "frames": size[0], "height": size[1], "width": size[2], "wait": milliseconds}
    told = f"const SET = {json.dumps(facts)};\nconst STRIPS = {json.dumps(strips)};\nconst FORMAT = {FORMAT};"
    return _PAGE.replace("@TASK@", escape(task)).replace("@DATA@", told).encode()


def _strip(frames: np.ndarray) -> str:
    """Frames (f, h, w, 3) one below the other as a JPEG, in a form that a page can hold."""
    buffer = io.BytesIO()
    Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(buffer, "JPEG", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()


def read_answers(path: str | Path, identity: str, numbers: Iterable[int]) -> dict[int, float]:
    """Number of the pair -> 0, 0.5 or 1, of a JSON file that the page gave; skipped pairs are left out.

    Raises:
        DemoError: no such file, not what the page writes, answers about other pairs than ``identity``'s ``numbers``.
    """
    path, known = Path(path), set(numbers)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DemoError(path, "file", error.strerror or str(error)) from error
    except ValueError as error:
        raise DemoError(path, "file", f"is not JSON: {error}") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT or not isinstance(told.get("answers"), dict):
        raise DemoError(path, "format", "is not what the page of agent.label writes")
    if told.get("pairs") != identity:
        raise DemoError(path, "pairs", "these answers are about other pairs")
    found = {}
    for key, value in told["answers"].items():
        if not key.isdecimal() or int(key) not in known:
            raise DemoError(path, "answers", f"there is no pair {key!r}")
        if value is not None and (isinstance(value, bool) or value not in (0, 0.5, 1)):
            raise DemoError(path, "answers", f"of pair {key}: {value!r} is none of 0, 0.5, 1, null")
        if value is not None:
            found[int(key)] = float(value)
    return found


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Which is better? @TASK@</title>
<style>
body { background: #18181c; color: #ebebeb; font: 16px sans-serif; text-align: center; margin: 1em; }
canvas { width: 40vw; max-width: 30em; image-rendering: pixelated; border: 3px solid #444; cursor: pointer; }
canvas:hover { border-color: #8bf; }
button { font-size: 1em; padding: .5em 1em; margin: .2em; }
progress { width: 60vw; }
#left, #right { display: inline-block; margin: .5em; }
.chosen canvas { border-color: #6c6; }
</style></head><body>
<h1>Which one does the task better? (@TASK@)</h1>
<p><progress id="bar" value="0"></progress><br><span id="told"></span></p>
<div id="left"><canvas></canvas></div><div id="right"><canvas></canvas></div>
<p><button data-do="0">&larr; left</button><button data-do="0.5">&uarr; alike</button>
<button data-do="null">&darr; skip</button><button data-do="1">right &rarr;</button>
<button data-do="back">Backspace: back</button></p>
<p><button id="save">Download the answers</button>
<label>Go on from a file: <input type="file" id="load" accept=".json,application/json"></label></p>
<p>Answers are kept in this browser as they are given. Download them at any time, then
<code>python -m agent.label answers=FILE out=...</code></p>
<script>
"use strict";
@DATA@
const KEY = "understudy-labels-" + SET.id;
const BY_KEY = {ArrowLeft: "0", ArrowRight: "1", ArrowUp: "0.5", ArrowDown: "null", Backspace: "back"};
const canvases = [...document.querySelectorAll("canvas")];
let answers = {}, at = 0, frame = 0, strips = [], unsaved = false;

function keep() { try { localStorage.setItem(KEY, JSON.stringify(answers)); } catch (error) { /* private window */ } }
function next() { let i = 0; while (i < STRIPS.length && i in answers) i++; return i; }

function show(i) {
  at = Math.max(0, Math.min(i, STRIPS.length - 1));
  frame = 0;
  strips = STRIPS[at].map(data => Object.assign(new Image(), {src: "data:image/jpeg;base64," + data}));
  const done = Object.keys(answers).length, said = Object.values(answers).filter(x => x !== null).length;
  document.getElementById("bar").max = STRIPS.length;
  document.getElementById("bar").value = done;
  document.getElementById("told").textContent = "pair " + (at + 1) + " of " + STRIPS.length + ": " + said +
    " answered, " + (done - said) + " skipped" + (done === STRIPS.length ? ". All done: download the answers." : "");
  ["left", "right"].forEach((id, side) => {
    document.getElementById(id).className = answers[at] === side ? "chosen" : "";
  });
}

function act(what) {
  if (what === "back") { show(at - 1); return; }
  answers[at] = JSON.parse(what);
  unsaved = true;
  keep();
  show(at + 1 < STRIPS.length && !((at + 1) in answers) ? at + 1 : next());
}

function draw() {
  const w = SET.width, h = SET.height;
  canvases.forEach(canvas => Object.assign(canvas, {width: w, height: h}));
  canvases.forEach((canvas, side) => {
    const image = strips[side];
    if (image && image.complete && image.naturalWidth)
      canvas.getContext("2d").drawImage(image, 0, frame * h, w, h, 0, 0, w, h);
  });
  frame = (frame + 1) % SET.frames;
  setTimeout(draw, frame === 0 ? SET.wait + 500 : SET.wait);
}

document.querySelectorAll("[data-do]").forEach(button => button.addEventListener("click", () => {
  act(button.dataset.do);
  button.blur();
}));
canvases.forEach((canvas, side) => canvas.addEventListener("click", () => act(String(side))));
document.addEventListener("keydown", event => {
  if (event.key in BY_KEY) { event.preventDefault(); act(BY_KEY[event.key]); }
});
document.getElementById("save").addEventListener("click", () => {
  const text = JSON.stringify({format: FORMAT, pairs: SET.id, answers: answers}, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "answers-" + SET.id.slice(0, 8) + ".json";
  link.click();
  unsaved = false;
});
document.getElementById("load").addEventListener("change", async event => {
  try {
    const told = JSON.parse(await event.target.files[0].text());
    if (told.format !== FORMAT || told.pairs !== SET.id) throw new Error("these answers are about other pairs");
    answers = Object.assign({}, told.answers, answers);
    keep();
    show(next());
  } catch (error) { alert(error.message); }
});
window.addEventListener("beforeunload", event => { if (unsaved) event.preventDefault(); });
try { answers = JSON.parse(localStorage.getItem(KEY)) || {}; } catch (error) { answers = {}; }
show(next());
draw();
</script></body></html>
"""
