"""``python -m agent.label``: synthetic labels with the asked-for share of flips, and labels by hand that are kept."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agent import label
from agent.label import Options, lab_temperature, synthetic
from demos import dataset, label_page, preferences
from demos.errors import DemoError
from envs.make import make
from tests.agent.recorded import line
from tests.agent.runs import local, start
from tests.demos.test_robomimic import write

TINY = ("data.batch=16", "data.length=2", "steps=60", "eval.every=60")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A learner of two episodes from states, whose replay has no rewards."""
    folder = tmp_path_factory.mktemp("label") / "run"
    with pytest.MonkeyPatch.context() as patch:
        local(patch)
        start(folder, "algo=ml_irl", "obs=state", *TINY)
    yield folder


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of an error, with exit code 1."""
    capsys.readouterr()
    assert label.main(list(arguments)) == 1
    *_, told = capsys.readouterr().err.strip().splitlines()
    return told.removeprefix("agent.label: ")


def returns(found: preferences.Comparisons) -> np.ndarray:
    """True returns (n, 2) of segments on the line, from what is in the file."""
    ahead = np.clip(found.obs + 0.1 * found.action, -1, 1)[..., 0]
    return (np.abs(ahead - 0.5) < 0.1).sum(-1)


@pytest.mark.parametrize("flips", [0.02, 0.1, 0.3])
def test_the_expected_share_of_flips_is_the_asked_for_one(flips: float) -> None:
    rng = np.random.default_rng(0)
    totals = rng.normal(size=(4000, 2)) * 37
    gap = np.abs(totals[:, 1] - totals[:, 0])
    assert np.mean(1 / (1 + np.exp(gap / lab_temperature(gap, flips)))) == pytest.approx(flips, abs=1e-9)
    labels, told = synthetic(totals, flips, rng)
    wrong = (labels == 1) != (totals[:, 1] > totals[:, 0])
    assert wrong.mean() == pytest.approx(flips, abs=4 * np.sqrt(flips / 4000)) and f"{flips:.1%} expected" in told
    clear = gap > np.median(gap)
    assert wrong[clear].mean() < 0.5 * wrong[~clear].mean(), "most are wrong where little is at stake"


def test_no_flips_equal_returns_and_none_that_differ() -> None:
    rng = np.random.default_rng(0)
    totals = np.array([[0.0, 1.0], [3.0, 2.0]] * 50 + [[1.0, 1.0]] * 400)
    labels, told = synthetic(totals, 0.0, rng)
    assert labels[:100].tolist() == [1, 0] * 50 and 0.4 < labels[100:].mean() < 0.6 and "400 of equal" in told
    assert set(synthetic(totals * 1e9, 0.1, rng)[0]) == {0.0, 1.0}, "no overflow"
    for bad, reason in ((np.ones((5, 2)), "equal returns"), (np.full((5, 2), np.nan), "NaN")):
        with pytest.raises(DemoError, match=reason):
            synthetic(bad, 0.1, rng)


def test_synthetic_labels_of_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "told.npz"
    arguments = [f"dataset={line()}", f"out={out}", "pairs=300", "length=8", "seed=3"]
    assert label.main(arguments) == 0
    assert "10.0% expected" in capsys.readouterr().out
    found = preferences.load(out, task="line", key="state")
    assert found.obs.shape == (300, 2, 8, 1) and found.meta["labels"] == "oracle, 0.1 expected flips"
    totals = returns(found)
    differ = totals[:, 0] != totals[:, 1]
    wrong = (found.label == 1) != (totals[:, 1] > totals[:, 0])
    assert 0.03 < wrong[differ].mean() < 0.2
    before = out.read_bytes()
    assert label.main(arguments) == 0 and out.read_bytes() == before, "the seed decides"
    assert label.main([*arguments[:-1], "seed=4"]) == 0 and out.read_bytes() != before
    with np.load(out) as archive:
        assert not [name for name in archive.files if "reward" in name or "truth" in name]
    text = json.dumps(found.meta)
    assert "T" not in text and str(tmp_path) not in text


def test_an_oracle_looks_at_what_it_compares_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a data set with two cameras it needs none; a person needs to see one."""
    told = [f"dataset={write(tmp_path / 'set.hdf5', cameras=('front', 'wrist'))}", f"out={tmp_path / 'told.npz'}"]
    assert label.main([*told, "pairs=5", "length=2"]) == 0
    assert preferences.load(tmp_path / "told.npz", key="state").obs.shape == (5, 2, 2, 6)
    assert "name one: camera=NAME of demos.convert" in said(capsys, *told, "by=hand", "length=2")


def test_labels_need_rewards_and_nothing_else_is_told_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"out={tmp_path / 'told.npz'}"
    assert "reward: is not told" in said(capsys, f"dataset={line(poison=True)}", out, "length=8")
    assert "holds no true rewards" in said(capsys, f"run={run}", out, "length=8")
    assert not (tmp_path / "told.npz").exists()
    assert label.main([f"run={run}", out, "episodes=3", "pairs=20", "length=8", "device=cpu"]) == 0
    found = preferences.load(tmp_path / "told.npz", task="line")
    assert len(found) == 20 and found.meta["source"].startswith("policy of run run at step 60")


def test_a_replay_that_keeps_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local(monkeypatch)
    start(tmp_path / "run", "algo=expert", "obs=state", *TINY)
    out = tmp_path / "told.npz"
    label.label(Options(out, run=tmp_path / "run", pairs=50, length=8, flips=0.0))
    found = preferences.load(out, task="line", key="state")
    totals = returns(found)
    differ = totals[:, 0] != totals[:, 1]
    assert differ.any() and ((found.label == 1) == (totals[:, 1] > totals[:, 0]))[differ].all()


@pytest.mark.parametrize(
    ("by", "obs", "expected"), [("oracle", "state", 500), ("oracle", "pixels", 200), ("hand", "state", 100),
                                ("hand", "pixels", 100)]
)  # fmt: skip
def test_how_many_pairs_there_are_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str, obs: str, expected: int
) -> None:
    """Algorithms 3.15: 500 synthetic labels for the state tasks, 200 for pixels."""
    asked: list[int] = []

    def draw(path: Path, episodes: Any, *, pairs: int, **_: Any) -> Any:
        asked.append(pairs)
        raise DemoError(path, "pairs", "seen")

    load = dataset.load
    monkeypatch.setattr(dataset, "load", lambda *a, **options: load(*a, **(options | {"rewards": False})))
    monkeypatch.setattr(preferences, "draw", draw)
    for pairs in (None, 7):
        with pytest.raises(DemoError, match="seen"):
            label.label(
                Options(tmp_path / "p.npz", dataset=dataset.shipped("line"), by=by, obs=obs, pairs=pairs, limit=2)
            )
    assert asked == [expected, 7]


# ---- by hand ----
def films(html: Path) -> list[list[np.ndarray]]:
    """The films (f, h, w, 3) of each pair on a page."""
    text = html.read_text()
    (told,) = re.findall(r"^const STRIPS = (.*);$", text, re.MULTILINE)
    (about,) = re.findall(r"^const SET = (.*);$", text, re.MULTILINE)
    height = json.loads(about)["height"]

    def film(strip: str) -> np.ndarray:
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip))))
        return image.reshape(-1, height, *image.shape[1:])

    return [[film(strip) for strip in pair] for pair in json.loads(told)]


def answer(path: Path, waiting: preferences.Comparisons, answers: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"format": 1, "pairs": waiting.checksum(), "answers": answers}))
    return path


def test_a_page_for_new_episodes_shows_what_the_pairs_are(run: Path, tmp_path: Path) -> None:
    """States alone cannot be seen: the episodes are drawn from their simulator states."""
    out = tmp_path / "mine.npz"
    arguments = [f"run={run}", f"out={out}", "by=hand", "episodes=2", "pairs=4", "length=10", "size=96", "device=cpu"]
    assert label.main(arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.html", "mine.pairs.npz"]
    waiting = preferences.load(tmp_path / "mine.pairs.npz", task="line", key="state", labelled=False)
    env = make("line", "pixels").unwrapped
    shown = films(tmp_path / "mine.html")
    assert len(shown) == 4
    for pair, obs in zip(shown, waiting.obs, strict=True):
        for film, states in zip(pair, obs[:, :, 0], strict=True):
            assert film.shape == (11, 96, 96, 3)
            for frame, x in zip(film, states, strict=False):
                env.set_state(np.array([0, x, 0, 0], np.float64))
                assert np.abs(env.render(96).astype(int) - frame).mean() < 4, "up to what JPEG loses"


def test_answers_become_comparisons_and_later_ones_are_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.npz"
    page = [f"dataset={dataset.shipped('line')}", f"out={out}", "by=hand", "pairs=6", "length=10"]
    assert label.main(page) == 0
    waiting = preferences.load(tmp_path / "mine.pairs.npz", labelled=False)
    first = answer(tmp_path / "a.json", waiting, {"0": 1, "1": None, "4": 0.5})
    assert label.main([f"answers={first}", f"out={out}"]) == 0
    found = preferences.load(out, task="line", key="state")
    assert (found.number.tolist(), found.label.tolist(), found.meta["labels"]) == ([0, 4], [1.0, 0.5], "hand")
    np.testing.assert_array_equal(found.obs, waiting.obs[[0, 4]])
    np.testing.assert_array_equal(found.action, waiting.action[[0, 4]])
    # another browser, which knows nothing of the first answers; one is changed
    second = answer(tmp_path / "b.json", waiting, {"4": 0, "5": 1, "1": None})
    assert label.main([f"answers={second}", f"out={out}"]) == 0
    found = preferences.load(out)
    assert (found.number.tolist(), found.label.tolist()) == ([0, 4, 5], [1.0, 0.0, 1.0])
    assert "3 comparisons of 6 pairs, 1 of them new" in capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    # nothing that would lose them goes through
    assert "holds other pairs" in said(capsys, *page, "seed=1")
    assert "name another file" in said(capsys, f"dataset={line()}", f"out={out}", "length=8")
    other = answer(tmp_path / "c.json", dataclasses.replace(waiting, obs=waiting.obs + 1), {"0": 1})
    assert "about other pairs" in said(capsys, f"answers={other}", f"out={out}")
    other.unlink()
    assert label.main(page) == 0, "the same page again"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_recorded_pictures_are_shown_as_they_are(tmp_path: Path) -> None:
    label.label(Options(tmp_path / "p.npz", dataset=dataset.shipped("line"), by="hand", pairs=2, length=30, limit=4,
                        obs="pixels"))  # fmt: skip
    found = preferences.load(tmp_path / "p.pairs.npz", key="image", labelled=False)
    rows = label_page.shown(30)
    for pair, obs in zip(films(tmp_path / "p.html"), found.obs, strict=True):
        for film, images in zip(pair, obs, strict=True):
            assert film.shape == (len(rows), 64, 64, 3) and rows[-1] == 30, "the last is what the last action led to"
            assert np.abs(images[rows[:-1]].astype(int) - film[:-1]).mean() < 4


def test_what_cannot_be_drawn_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"out={tmp_path / 'p.npz'}"
    assert "episodes=N plays new ones, which can" in said(capsys, f"run={run}", out, "by=hand", "length=8")
    assert "cannot redraw" in said(capsys, f"dataset={line()}", out, "by=hand", "length=8", "pairs=2")
    assert not list(tmp_path.iterdir())


def test_mistakes_are_named_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"out={tmp_path / 'p.npz'}"
    for arguments, told in (
        ((out,), "one of run=..., dataset=..., answers=... is needed, there are 0"),
        ((out, f"run={run}", f"dataset={line()}"), "there are 2"),
        ((out, f"dataset={line()}", "by=foot"), "by=foot: expected one of oracle, hand"),
        ((out, f"dataset={line()}", "flips=0.5"), "flips=0.5"),
        ((out, f"dataset={line()}", "pairs=0"), "pairs: expected at least 1"),
        ((out, f"dataset={line()}", "length=31"), "the longest has 30 steps"),
        ((out, f"dataset={line()}", "obs=image"), "obs=image"),
        ((out, f"dataset={line()}", "obs=pixels"), "image: no such observation"),
        ((out, f"dataset={line()}", "episodes=3"), "episodes=3"),
        ((out, "dataset=nowhere"), "no such file or folder"),
        ((out, f"run={tmp_path / 'no'}"), "no such run folder"),
        ((out, "answers=no.json"), "p.pairs.npz: path: no such file"),
        ((f"out={tmp_path / 'p'}", f"dataset={line()}"), "must end in .npz"),
        ((f"dataset={line()}",), "out=... is missing"),
        ((out, f"dataset={line()}", "pair=3"), "unknown key 'pair'"),
    ):
        assert told in said(capsys, *arguments), arguments
