"""demos.preferences: the file of comparisons, what it refuses, which segments are drawn; demos.label_page: the page."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demos import label_page, preferences
from demos.errors import DemoError
from demos.preferences import Comparisons, Segment
from envs.episode import Episode
from tests.demos.samples import edit

N, T, D, A = 5, 4, 3, 2


def made(key: str = "state", *, label: Any = (0, 1, 0.5, 1, 0), **meta: Any) -> Comparisons:
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(N, 2, T, D)).astype(np.float32)
    if key == "image":
        obs = rng.integers(0, 256, (N, 2, T, 6, 8, 3), dtype=np.uint8)
    action = rng.uniform(-1, 1, (N, 2, T, A)).astype(np.float32)
    return Comparisons(key, obs, action, np.array(label, np.float32), np.arange(N), {"task": "line"} | meta)


def episode(steps: int, *, terminal: bool = False, first: float = 0.0) -> Episode:
    """State t is first + t, the action taken in it t / 1000, its reward t."""
    t = np.arange(steps + 1, dtype=np.float32)
    flags = np.zeros((3, steps + 1), bool)
    flags[0, 0], flags[1, -1], flags[2, -1] = True, True, terminal
    action = np.concatenate([[0], t[:-1] / 1000]).astype(np.float32)[:, None]
    reward = np.concatenate([[np.nan], t[:-1]]).astype(np.float32)
    return Episode({"state": (first + t)[:, None]}, action, *flags, reward, meta={"task": "line"})


def refused(action: Callable[[], Any]) -> DemoError:
    with pytest.raises(DemoError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("key", ["state", "image"])
def test_round_trip_is_exact(tmp_path: Path, key: str) -> None:
    original = made(key, source="data set x", labels="hand", seed=3)
    preferences.save(tmp_path / "a.npz", original)
    found = preferences.load(tmp_path / "a.npz", task="line", key=key)
    for field in ("obs", "action", "label", "number"):
        here, there = getattr(found, field), getattr(original, field)
        assert here.dtype == there.dtype
        np.testing.assert_array_equal(here, there)
    assert (found.key, found.meta, found.checksum()) == (key, original.meta, original.checksum())
    assert not list(tmp_path.glob(".*")), "nothing temporary is left"
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        name = preferences.KEYS[key]
        assert set(archive.files) == {"preferences_version", name, "action", "label", "number", "meta"}, "no reward"


def test_what_a_learner_sees_decides_about_the_checksum() -> None:
    one = made()
    assert dataclasses.replace(one, meta={"task": "other"}).checksum() == one.checksum()
    assert made(label=(1, 1, 0.5, 1, 0)).checksum() != one.checksum()
    for field in ("obs", "action"):
        value = getattr(one, field).copy()
        value[2, 1, 3, 0] += 0.125
        assert dataclasses.replace(one, **{field: value}).checksum() != one.checksum()


def nan(shape: tuple[int, ...]) -> np.ndarray:
    value = np.zeros(shape, np.float32)
    value[3] = np.nan
    return value


@pytest.mark.parametrize(
    ("changes", "key", "reason"),
    [
        ({"action": None}, "action", "missing; the file has"),
        ({"label": None}, "label", "missing; the file has"),
        ({"state": None}, "state", "missing, and image_delta too"),
        ({"image_delta": np.zeros((N, 2, T, 4, 4, 3), np.uint8)}, "state", "is there beside image_delta"),
        ({"preferences_version": np.array(2)}, "preferences_version", "is 2; this program reads version 1"),
        ({"preferences_version": None}, "preferences_version", "no file of comparisons"),
        ({"state": nan((N, 2, T, D))}, "state", "NaN or infinity, first in comparison 3"),
        ({"action": nan((N, 2, T, A))}, "action", "NaN or infinity, first in comparison 3"),
        ({"action": np.full((N, 2, T, A), 1.5, np.float32)}, "action", "must lie in [-1, 1], largest magnitude is 1.5"),
        ({"action": np.zeros((N, 2, T, A))}, "action", "must be float32 (n, 2, t, A), got float64"),
        ({"action": np.zeros((N, 3, T, A), np.float32)}, "action", "must be float32 (n, 2, t, A)"),
        ({"state": np.zeros((N, 2, D), np.float32)}, "state", "must be float32 (n, 2, t, d)"),
        ({"state": np.zeros((N, 2, T + 1, D), np.float32)}, "state", "segments have equal lengths"),
        ({"state": np.zeros((N - 1, 2, T, D), np.float32)}, "state", "segments have equal lengths"),
        ({"label": np.zeros(N - 1, np.float32)}, "label", "must be float32 (5,), got float32 (4,)"),
        ({"label": np.full(N, np.nan, np.float32)}, "label", "nobody has said yet"),
        ({"label": nan((N,))}, "label", "must be 0, 0.5 or 1, is nan in comparison 3"),
        ({"label": np.full(N, 0.7, np.float32)}, "label", "must be 0, 0.5 or 1, is 0.7 in comparison 0"),
        ({"number": np.array([0, 1, 1, 2, 3])}, "number", "must ascend"),
        ({"meta": np.array("{")}, "meta", "is not JSON"),
        ({"meta": np.array("{}")}, "meta", "tells no task"),
        ({"meta": np.array("[]")}, "meta", "expected an object"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, changes: dict[str, Any], key: str, reason: str) -> None:
    preferences.save(tmp_path / "a.npz", made())
    path = edit(tmp_path / "a.npz", **changes)
    error = refused(lambda: preferences.load(path))
    assert error.path == path and error.key == key and reason in error.reason, error


def test_files_that_are_none(tmp_path: Path) -> None:
    assert refused(lambda: preferences.load(tmp_path / "no.npz")).reason == "no such file"
    preferences.save(tmp_path / "a.npz", made())
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    assert "truncated or corrupt npz" in refused(lambda: preferences.load(tmp_path / "half.npz")).reason
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(bytes(damaged))
    assert "truncated or corrupt npz" in refused(lambda: preferences.load(tmp_path / "flipped.npz")).reason
    objects = edit(tmp_path / "a.npz", label=np.array([None] * N, object))
    assert "pickle" in refused(lambda: preferences.load(objects)).reason


def test_another_task_or_observation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    preferences.save(path, made(options={"action": {"version": "v4"}}))
    assert refused(lambda: preferences.load(path, task="hopper")).reason == "is 'line'; this run is about 'hopper'"
    assert "the comparisons are of states, this run sees images" in str(
        refused(lambda: preferences.load(path, key="image"))
    )
    error = refused(lambda: preferences.load(path, options={"version": "v5"}))
    assert error.key == "action" and "set task.options.version=v4" in error.reason
    assert len(preferences.load(path, options={"version": "v4", "tremble": 0.0})) == N


def test_what_is_invalid_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    preferences.save(path, made())
    before = path.read_bytes()
    bad = dataclasses.replace(made(), action=made().action * 2)
    assert refused(lambda: preferences.save(path, bad)).key == "action"
    assert refused(lambda: preferences.save(path, made(nonsense=float("nan")))).key == "meta"
    assert refused(lambda: preferences.save(tmp_path / "a.txt", made())).key == "file"
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_every_segment_is_equally_likely_and_none_ends_by_termination() -> None:
    episodes = [episode(6), episode(5, terminal=True, first=100), episode(3, terminal=True), episode(2)]
    rng = np.random.default_rng(0)
    chosen, told = preferences.draw("x", episodes, pairs=4000, length=3, rng=rng)
    seen = Counter(pair[0] for pair in chosen)
    # episode 1's last segment, 2 3 4, ends in the terminal row; episode 2 has only such a one, episode 3 is too short
    assert set(seen) == {Segment(0, s) for s in range(4)} | {Segment(1, s) for s in range(2)}
    assert all(abs(count - 4000 / 6) < 5 * np.sqrt(4000 / 6) for count in seen.values())
    assert "left out: 2 that end by termination, 2 episodes too short" in told
    for one, two in chosen:
        assert one.episode != two.episode or abs(one.start - two.start) >= 3, "they do not overlap"


def test_segments_are_aligned_pairs(tmp_path: Path) -> None:
    episodes = [episode(6), episode(6, first=100)]
    chosen = [(Segment(0, 2), Segment(1, 3)), (Segment(1, 0), Segment(0, 0))]
    found = preferences.cut(episodes, chosen, 3, "state", {"source": "x"})
    assert found.obs[..., 0].tolist() == [[[2, 3, 4], [103, 104, 105]], [[100, 101, 102], [0, 1, 2]]]
    np.testing.assert_allclose(found.action[..., 0] * 1000, [[[2, 3, 4], [3, 4, 5]], [[0, 1, 2], [0, 1, 2]]], rtol=1e-5)
    assert preferences.returns(episodes, chosen, 3).tolist() == [[9, 12], [3, 3]]
    assert found.meta == {"task": "line", "source": "x", "labels": None} and np.isnan(found.label).all()
    preferences.save(tmp_path / "a.npz", found)
    assert refused(lambda: preferences.load(tmp_path / "a.npz")).key == "label"
    some = preferences.load(tmp_path / "a.npz", labelled=False).labelled({1: 0.5}, labels="hand")
    assert some.number.tolist() == [1] and some.label.tolist() == [0.5] and some.meta["labels"] == "hand"
    np.testing.assert_array_equal(some.obs, found.obs[1:])
    preferences.save(tmp_path / "some.npz", some)
    assert "waits for no answers" in str(refused(lambda: preferences.load(tmp_path / "some.npz", labelled=False)))


def test_segments_that_there_are_not() -> None:
    rng = np.random.default_rng(0)
    for episodes, length, reason in (
        ([episode(4)], 5, "the longest has 4 steps"),
        ([episode(5, terminal=True)], 5, "do not end by termination"),
        ([episode(5)], 3, "no two segments of 3 steps that do not overlap"),
        ([episode(5)], 0, "at least 1"),
    ):
        assert reason in refused(lambda: preferences.draw("x", episodes, pairs=2, length=length, rng=rng)).reason  # noqa: B023


def facts(html: str, name: str) -> Any:
    found = re.search(rf"^const {name} = (.*);$", html, re.MULTILINE)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_both_films_of_every_pair_and_needs_nothing_else() -> None:
    rows = label_page.shown(50)
    assert rows[0] == 0 and rows[-1] <= 50 and len(rows) <= label_page.MAX_FRAMES and set(np.diff(rows)) == {2}
    clips = np.zeros((3, 2, len(rows), 16, 24, 3), np.uint8)
    clips[1, 1, 5] = 200
    html = label_page.page("abc", "a <task>", 50, clips).decode()
    assert "a &lt;task&gt;" in html and "<task>" not in html and "http" not in html
    about = facts(html, "SET")
    assert (about["id"], about["frames"], about["height"], about["width"]) == ("abc", len(rows), 16, 24)
    assert about["wait"] == pytest.approx(80), "every second step, at the pace of the task"
    strips = facts(html, "STRIPS")
    assert [len(pair) for pair in strips] == [2, 2, 2]
    bright = np.array([
        np.asarray(Image.open(io.BytesIO(base64.b64decode(strip)))).reshape(len(rows), -1).mean(1) > 100
        for pair in strips for strip in pair
    ])  # fmt: skip
    assert np.argwhere(bright).tolist() == [[3, 5]]


def test_answers_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"

    def told(text: Any) -> Path:
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return path

    good = {"format": 1, "pairs": "abc", "answers": {"0": 0, "2": 1, "3": None, "4": 0.5}}
    assert label_page.read_answers(told(good), "abc", range(5)) == {0: 0.0, 2: 1.0, 4: 0.5}
    for bad, key, reason in (
        ("{", "file", "is not JSON"),
        ({"format": 2} | {"answers": {}}, "format", "is not what the page"),
        (good | {"pairs": "other"}, "pairs", "about other pairs"),
        (good | {"answers": {"7": 1}}, "answers", "no pair '7'"),
        (good | {"answers": {"x": 1}}, "answers", "no pair 'x'"),
        (good | {"answers": {"1": 2}}, "answers", "none of 0, 0.5, 1, null"),
        (good | {"answers": {"1": True}}, "answers", "none of 0, 0.5, 1, null"),
        (good | {"answers": {"1": "left"}}, "answers", "none of 0, 0.5, 1, null"),
    ):
        error = refused(lambda: label_page.read_answers(told(bad), "abc", range(5)))  # noqa: B023
        assert error.key == key and reason in error.reason
    assert refused(lambda: label_page.read_answers(tmp_path / "no.json", "abc", [])).key == "file"


BROWSER = """
const html = require("fs").readFileSync(process.argv[2], "utf8");
const source = html.split("<script>")[1].split("</script>")[0];
const store = {}, said = {};
function open() {
  const elements = {}, events = {};
  const element = id => elements[id] ??= {
    dataset: {}, blur() {}, getContext: () => ({drawImage() {}}), addEventListener(type, f) { this[type] = f; },
  };
  const canvases = [element("first"), element("second")];
  const button = what => Object.assign(element("do " + what), {dataset: {do: what}});
  const buttons = ["0", "0.5", "null", "1", "back"].map(button);
  const page = {
    document: {
      querySelectorAll: query => query === "canvas" ? canvases : buttons, getElementById: element,
      addEventListener(type, f) { events[type] = f; }, createElement: () => ({click() {}}),
    },
    localStorage: {getItem: key => store[key] ?? null, setItem(key, value) { store[key] = value; }},
    window: {addEventListener() {}}, setTimeout() {}, alert(text) { said.alert = text; },
    Image: class {}, Blob: class { constructor(parts) { said.saved = parts[0]; } }, URL: {createObjectURL: () => ""},
  };
  new Function(...Object.keys(page), source)(...Object.values(page));
  return {element, key: key => events.keydown({key, preventDefault() {}})};
}
(async () => {
  const one = open();
  ["ArrowLeft", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowRight", "Backspace", "Backspace"].forEach(one.key);
  one.element("do 0").click();  // the fourth pair again
  const again = open();  // the page is closed and opened
  again.key("ArrowRight");  // the sixth
  const load = text => again.element("load").change({target: {files: [{text: async () => JSON.stringify(text)}]}});
  await load({format: 1, pairs: "abc", answers: {"0": 1, "6": 0.5}});
  await load({format: 1, pairs: "other", answers: {"7": 1}});
  again.element("save").click();
  console.log(JSON.stringify({told: again.element("told").textContent, ...said}));
})();
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node, which runs the page's script, is not installed")
def test_the_page_keeps_answers_and_hands_them_out(tmp_path: Path) -> None:
    """Keys, buttons, going back, closing the page, going on from a file; in a stand-in for a browser."""
    html, script = tmp_path / "page.html", tmp_path / "browser.js"
    html.write_bytes(label_page.page("abc", "line", 8, np.zeros((8, 2, 9, 4, 4, 3), np.uint8)))
    script.write_text(BROWSER)
    done = subprocess.run(["node", script, html], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (tmp_path / "answers.json").write_text(found["saved"])
    answers = label_page.read_answers(tmp_path / "answers.json", "abc", range(8))
    assert answers == {0: 0.0, 1: 1.0, 3: 0.0, 4: 1.0, 5: 1.0, 6: 0.5}, "what is answered here comes first"
    assert json.loads(found["saved"])["answers"]["2"] is None
    assert found["told"].startswith("pair 8 of 8: 6 answered, 1 skipped")
    assert found["alert"] == "these answers are about other pairs"
