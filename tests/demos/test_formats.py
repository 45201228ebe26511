"""demos.formats: the CMIL reader against small files and the published ones, and the size of our own files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from demos import dataset, formats
from demos.dataset import DemoError, load
from demos.formats import cmil, own
from tests.demos.samples import assert_refused, cmil_hand, cmil_kitchen, edit, episode

# Sum of uint8 differences that overflow and underflow: the modulo arithmetic must give back the bytes.
EXTREMES = np.array([0, 255, 0, 1, 255, 128], np.uint8)


@pytest.fixture
def kitchen(datasets: Path) -> Path:
    """The published Kitchen demonstrations; skips without them."""
    return _folder(datasets / "cmil" / "kitchen")


@pytest.fixture
def hand(datasets: Path) -> Path:
    """The published Shadow Hand demonstrations; skips without them."""
    return _folder(datasets / "cmil" / "shadowhand")


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"public demonstrations not found: {path}")
    return path


def test_difference_coding_is_exact_at_the_extremes(tmp_path: Path) -> None:
    made = episode(rows=6)
    made.obs["image"][:] = EXTREMES[:, None, None, None]
    dataset.save(tmp_path / "a.npz", made)
    np.testing.assert_array_equal(load(tmp_path)[0].obs["image"], made.obs["image"])


def test_sniffing(tmp_path: Path) -> None:
    dataset.save(tmp_path / "own.npz", episode())
    cmil_kitchen(tmp_path / "cmil.npz")
    assert formats.sniff(tmp_path / "own.npz").NAME == "own"
    assert formats.sniff(tmp_path / "cmil.npz").NAME == "cmil"
    assert not cmil.can_read(tmp_path / "own.npz") and not own.can_read(tmp_path / "cmil.npz")


def test_cmil_kitchen_layout(tmp_path: Path) -> None:
    (loaded,) = load(cmil_kitchen(tmp_path / "a.npz"), task="kitchen", obs_keys=None)
    original = episode()
    assert set(loaded.obs) == {"image"}
    np.testing.assert_array_equal(loaded.obs["image"], original.obs["image"])
    np.testing.assert_array_equal(loaded.action, original.action)
    assert np.isnan(loaded.reward).all()
    assert loaded.meta["subtask_rows"] == [2, 4]
    assert loaded.sim_state is None


def test_cmil_hand_layout(tmp_path: Path) -> None:
    path = cmil_hand(tmp_path / "a.npz")
    (loaded,) = load(path, task="baoding", obs_keys=("image", "state"))
    with np.load(path, allow_pickle=False) as raw:
        image, obs = raw["image"].astype(float), raw["obs"]
    assert loaded.action.dtype == np.float32 and loaded.obs["state"].dtype == np.float32
    np.testing.assert_allclose(loaded.obs["state"], obs, rtol=1e-6)
    means = (image[:, ::2, ::2] + image[:, 1::2, ::2] + image[:, ::2, 1::2] + image[:, 1::2, 1::2]) / 4
    np.testing.assert_array_equal(loaded.obs["image"], np.floor(means + 0.5))
    assert loaded.is_first.tolist() == [True, False, False, False]
    assert loaded.is_last.tolist() == [False, False, False, True]
    assert not loaded.is_terminal.any()
    assert any("2x2" in note for note in loaded.meta["notes"])


def _terminal(path: Path) -> None:
    edit(path, is_terminal=np.arange(6) == 5)


KITCHEN_DEFECTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no image": (lambda p: edit(p, image=None), "image", "missing"),
    "no action": (lambda p: edit(p, action=None), "action", "missing"),
    "no flag": (lambda p: edit(p, is_first=None), "is_first", "missing"),
    "terminal": (_terminal, "is_terminal", "row 5"),
    "flag values": (lambda p: edit(p, is_first=np.arange(6)), "is_first", "0 and 1"),
    "action size": (lambda p: edit(p, action=np.zeros((6, 7), np.float32)), "action", "(rows, 9) for kitchen"),
    "action dtype": (lambda p: edit(p, action=np.zeros((6, 9), np.int64)), "action", "int64"),
    "first action": (lambda p: edit(p, action=np.ones((6, 9), np.float32)), "action", "row 0"),
    "action range": (lambda p: edit(p, action=np.eye(6, 9, -1, dtype=np.float32) * 2), "action", "magnitude is 2"),
    "rows": (lambda p: edit(p, image=np.zeros((5, 64, 64, 3), np.uint8)), "obs[image]", "(5, 64, 64, 3)"),
    "image dtype": (lambda p: edit(p, image=np.zeros((6, 64, 64, 3))), "image", "float64"),
    "image size": (lambda p: edit(p, image=np.zeros((6, 100, 100, 3), np.uint8)), "image", "100x100"),
    "image channels": (lambda p: edit(p, image=np.zeros((6, 64, 64), np.uint8)), "image", "(6, 64, 64)"),
    "objects": (lambda p: edit(p, image=np.array([{}], object)), "image", "Python objects"),
}


@pytest.mark.parametrize("name", KITCHEN_DEFECTS)
def test_cmil_defect_is_refused_with_file_key_and_reason(tmp_path: Path, name: str) -> None:
    defect, key, reason = KITCHEN_DEFECTS[name]
    path = cmil_kitchen(tmp_path / "a.npz")
    defect(path)
    assert_refused(lambda: load(tmp_path), path, key, reason)


def test_published_kitchen(kitchen: Path) -> None:
    episodes = load(kitchen, task="kitchen", limit=10)
    assert len(episodes) == 6
    for one in episodes:
        assert len(one) == 281 and one.action.shape == (281, 9) and set(one.obs) == {"image"}
        assert not one.action[0].any() and one.action[1].any()
        assert np.isnan(one.reward).all() and not one.is_terminal.any() and one.is_last[-1]
        # Measured on the files: the fourth sub-task is finished between rows 136 and 153.
        rows = one.meta["subtask_rows"]
        assert len(rows) == 4 and sorted(rows) == rows and 136 <= rows[-1] <= 153


def test_published_kitchen_state_is_not_there(kitchen: Path) -> None:
    with pytest.raises(DemoError, match=r"\.npz: state: .*the file has image"):
        load(kitchen, obs_keys=("state",))


def test_published_hand_alignment(hand: Path) -> None:
    """Angles follow the action stored in their own row, not the one in the row before (algorithms 1.2)."""
    episodes = load(hand, task="baoding", obs_keys=("image", "state"), limit=3)
    lags: dict[int, list[float]] = {-1: [], 0: [], 1: []}
    for one in episodes:
        assert one.obs["image"].shape == (121, 64, 64, 3) and one.action.shape == (121, 24)
        assert not one.action[0].any() and one.is_last[-1] and not one.is_terminal.any()
        # action is a joint target: how a joint moves into a row goes with how its target moved into that row.
        moved, turned = np.diff(one.obs["state"][:, :24], axis=0), np.diff(one.action, axis=0)
        for lag, found in lags.items():
            found.append(float(np.mean(moved[1:-1] * turned[1 + lag : len(turned) - 1 + lag])))
    assert np.mean(lags[0]) > 4 * max(abs(np.mean(lags[-1])), abs(np.mean(lags[1])))


@pytest.mark.parametrize("name", ["kitchen", "shadowhand"])
def test_published_files_survive_conversion_and_shrink(datasets: Path, tmp_path: Path, name: str) -> None:
    folder = _folder(datasets / "cmil" / name)
    (original,) = load(folder, limit=1, obs_keys=None)
    target = tmp_path / "a.npz"
    dataset.save(target, original)
    (again,) = load(target, obs_keys=None)
    assert dataset.checksum(again) == dataset.checksum(original)
    assert again.meta == original.meta
    assert target.stat().st_size < dataset.files(folder)[0].stat().st_size
