"""demos.dataset: nothing lost, nothing leaked, nothing broken let in, and every refusal says where and why."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demos import dataset
from demos.dataset import DemoError, load, save
from tests.demos.samples import cmil_hand, cmil_kitchen, edit, episode

ALL = ("image", "state")


def refused(action: Callable[[], Any]) -> DemoError:
    """The DemoError that `action` raises, which must be one line "file: key: reason"."""
    with pytest.raises(DemoError) as caught:
        action()
    error = caught.value
    assert "\n" not in str(error)
    assert str(error) == f"{error.path}: {error.key}: {error.reason}"
    return error


@pytest.mark.parametrize("state", [True, False])
def test_round_trip_is_exact_except_for_rewards(tmp_path: Path, state: bool) -> None:
    original = episode(state=state)
    save(tmp_path / "a.npz", original)
    (loaded,) = load(tmp_path, task="kitchen", obs_keys=None)
    assert loaded.obs.keys() == original.obs.keys()
    for key in ("obs", "action", "is_first", "is_last", "is_terminal", "sim_state"):
        here, there = getattr(loaded, key), getattr(original, key)
        for a, b in [(here[k], there[k]) for k in there] if key == "obs" else [(here, there)]:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert loaded.meta == original.meta
    assert np.isnan(loaded.reward).all() and loaded.reward.shape == (6,) and loaded.reward.dtype == np.float32
    assert dataset.checksum(loaded) == dataset.checksum(original)


def test_no_reward_is_written(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", episode())
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert "reward" not in archive.files


def test_without_sim_state(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", dataclasses.replace(episode(), sim_state=None))
    assert load(tmp_path)[0].sim_state is None


def test_terminal_flag_survives(tmp_path: Path) -> None:
    ended = episode()
    ended.is_terminal[-1] = True
    save(tmp_path / "a.npz", ended)
    assert load(tmp_path)[0].is_terminal.tolist() == [False] * 5 + [True]


def test_only_the_observations_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", episode())
    assert set(load(tmp_path)[0].obs) == {"image"}
    assert set(load(tmp_path, obs_keys=("state",))[0].obs) == {"state"}
    assert set(load(tmp_path, obs_keys=ALL)[0].obs) == set(ALL)


def test_missing_observation_says_what_there_is(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", episode(state=False))
    error = refused(lambda: load(tmp_path, obs_keys=("state",)))
    assert error.path.name == "a.npz" and error.key == "state" and "has image" in error.reason


def test_sorted_by_name_and_limited(tmp_path: Path) -> None:
    for seed, name in enumerate("bca"):
        save(tmp_path / f"{name}.npz", episode(seed=seed))
    (tmp_path / "README.md").write_text("not a demonstration")
    assert [one.meta["seed"] for one in load(tmp_path)] == [2, 0, 1]
    assert [one.meta["seed"] for one in load(tmp_path, limit=2)] == [2, 0]
    assert len(load(tmp_path, limit=10)) == 3
    assert refused(lambda: load(tmp_path, limit=0)).key == "limit"


def test_formats_may_mix(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", episode())
    cmil_kitchen(tmp_path / "b.npz")
    assert [one.meta.get("source") for one in load(tmp_path)] == [None, "cmil"]


def test_single_file(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", episode())
    assert len(load(tmp_path / "a.npz")) == 1


def test_action_a_hair_outside_is_clipped(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", episode())
    action = episode().action
    action[2, 3], action[3, 3] = np.nextafter(np.float32(1), np.float32(2)), -1 - 9e-7
    edit(tmp_path / "a.npz", action=action)
    loaded = load(tmp_path)[0].action
    assert loaded[2, 3] == 1 and loaded[3, 3] == -1
    assert np.abs(loaded).max() == 1


def _with(key: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], object]:
    """A defect: the array `key` of an own-format file replaced by what `change` makes of it."""

    def apply(path: Path) -> None:
        with np.load(path, allow_pickle=False) as archive:
            value = archive[key].copy()
        edit(path, **{key: change(value)})

    return apply


def _put(index: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


def _damage_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)


def _cut(share: float) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


DEFECTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated": (_cut(0.6), "file", "truncated or corrupt"),
    "cut to nothing": (_cut(0), "file", "truncated or corrupt"),
    "not a zip": (lambda p: p.write_bytes(b"what is this" * 99), "file", "truncated or corrupt"),
    "damaged inside": (_damage_middle, "image_delta", "truncated or corrupt"),
    "other arrays": (lambda p: np.savez(p, weights=np.zeros(3)), "file", "no known format"),
    "no action": (lambda p: edit(p, action=None), "action", "missing"),
    "no flag": (lambda p: edit(p, is_last=None), "is_last", "missing"),
    "no meta": (lambda p: edit(p, meta=None), "meta", "missing"),
    "no observation": (lambda p: edit(p, image_delta=None, state=None), "image_delta", "no observation"),
    "objects": (lambda p: edit(p, action=np.array([{}, 1], object)), "action", "Python objects"),
    "object meta": (lambda p: edit(p, meta=np.array({"task": 1}, object)), "meta", "Python objects"),
    "meta is no json": (lambda p: edit(p, meta=np.array("{task")), "meta", "not JSON"),
    "meta is no object": (lambda p: edit(p, meta=np.array("[1]")), "meta", "expected an object"),
    "future version": (lambda p: edit(p, format_version=np.int64(99)), "format_version", "reads version 1"),
    "image dtype": (_with("image_delta", lambda a: a.astype(np.float32)), "image_delta", "uint8"),
    "image size": (_with("image_delta", lambda a: a[:, :32, :32]), "obs[image]", "(6, 32, 32, 3)"),
    "image rows": (_with("image_delta", lambda a: a[:-1]), "obs[image]", "(5, 64, 64, 3)"),
    "state dtype": (_with("state", lambda a: a.astype(np.float64)), "obs[state]", "float32"),
    "state rows": (_with("state", lambda a: a[1:]), "obs[state]", "(5, 5)"),
    "state nan": (_with("state", _put((4, 0), np.nan)), "obs[state]", "NaN or infinity, first in row 4"),
    "action dtype": (_with("action", lambda a: a.astype(np.float64)), "action", "float32"),
    "action shape": (_with("action", lambda a: a[:, 0]), "action", "(6,)"),
    "action rows": (_with("action", lambda a: np.concatenate([a, a[1:2]])), "obs[image]", "(7, 64, 64, 3)"),
    "action nan": (_with("action", _put((3, 1), np.nan)), "action", "NaN or infinity, first in row 3"),
    "action infinite": (_with("action", _put((3, 1), np.inf)), "action", "NaN or infinity, first in row 3"),
    "action too large": (_with("action", _put((2, 0), 1.00001)), "action", "[-1, 1]"),
    "action too small": (_with("action", _put((2, 0), -5.1)), "action", "5.1"),
    "first action": (_with("action", _put((0, 0), 0.5)), "action", "row 0 must be zero"),
    "one row": (
        lambda p: [_with(k, lambda a: a[:1])(p) for k in ("action", "image_delta", "is_first", "is_last")],
        "action",
        "at least 2 rows",
    ),
    "flag dtype": (_with("is_last", lambda a: a.astype(np.int64)), "is_last", "bool"),
    "flag rows": (_with("is_first", lambda a: a[:-1]), "is_first", "(5,)"),
    "flag scalar": (_with("is_first", lambda a: a[0]), "is_first", "bool"),
    "two starts": (_with("is_first", _put(3, True)), "is_first", "row 0"),
    "no end": (_with("is_last", _put(-1, False)), "is_last", "final row"),
    "terminal inside": (_with("is_terminal", _put(2, True)), "is_terminal", "final row"),
    "sim_state rows": (_with("sim_state", lambda a: a[:-1]), "sim_state", "(5, 7)"),
    "sim_state nan": (_with("sim_state", _put((1, 1), np.nan)), "sim_state", "row 1"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_refused_with_file_key_and_reason(tmp_path: Path, name: str) -> None:
    defect, key, reason = DEFECTS[name]
    for file in ("good.npz", "other.npz"):
        save(tmp_path / file, episode())
    defect(tmp_path / "other.npz")
    error = refused(lambda: load(tmp_path, obs_keys=None))
    assert error.path == tmp_path / "other.npz"
    assert error.key == key
    assert reason in error.reason
    load(tmp_path / "good.npz")


def test_unreadable_path(tmp_path: Path) -> None:
    error = refused(lambda: load(tmp_path / "nowhere"))
    assert error.path == tmp_path / "nowhere" and error.key == "path" and "no such" in error.reason
    error = refused(lambda: load(tmp_path))
    assert error.path == tmp_path and "no demonstrations" in error.reason
    (tmp_path / "notes.txt").write_text("x")
    assert "known format" in refused(lambda: load(tmp_path / "notes.txt")).reason


def test_other_task_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", episode(task="baoding"))
    error = refused(lambda: load(tmp_path, task="kitchen"))
    assert error.path.name == "a.npz" and error.key == "task" and "'baoding'" in error.reason
    save(tmp_path / "a.npz", dataclasses.replace(episode(), meta={}))
    assert "None" in refused(lambda: load(tmp_path, task="kitchen")).reason


@pytest.mark.parametrize(
    ("odd", "key"),
    [
        (episode(task="baoding"), "task"),
        (episode(actions=8), "action"),
        (episode(state=False), "state"),
        (dataclasses.replace(episode(), obs={**episode().obs, "state": np.zeros((6, 4), np.float32)}), "state"),
    ],
)
def test_files_that_differ_are_refused(tmp_path: Path, odd: Any, key: str) -> None:
    save(tmp_path / "a.npz", episode())
    save(tmp_path / "b.npz", odd)
    error = refused(lambda: load(tmp_path, obs_keys=None))
    assert error.path.name == "b.npz" and error.key == key and "a.npz" in error.reason


def test_mixed_image_sizes_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", episode(actions=24, task="baoding"))
    cmil_hand(tmp_path / "b.npz", side=96)
    error = refused(lambda: load(tmp_path))
    assert error.path.name == "b.npz" and error.key == "image" and "96x96" in error.reason


def test_save_refuses_an_invalid_episode(tmp_path: Path) -> None:
    bad = episode()
    bad.action[0, 0] = 1
    assert refused(lambda: save(tmp_path / "a.npz", bad)).key == "action"
    assert refused(lambda: save(tmp_path / "a.npz", dataclasses.replace(bad, meta={"x": {1}}))).path.name == "a.npz"
    assert "end in .npz" in refused(lambda: save(tmp_path / "a.hdf5", episode())).reason
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refused(lambda: save(tmp_path / "file" / "a.npz", episode())).reason


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.npz"
    save(path, episode(seed=1))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "write":
        real_open = open

        class Disk:
            """A file on a disk that takes 100 bytes and no more."""

            def __init__(self, *arguments: Any) -> None:
                self.file = real_open(*arguments)

            def __enter__(self) -> Disk:
                return self

            def __exit__(self, *_: object) -> None:
                self.file.close()

            def write(self, content: bytes) -> None:
                self.file.write(content[:100])
                full()

        monkeypatch.setattr(dataset, "open", Disk, raising=False)
    else:
        monkeypatch.setattr(dataset.os, step, full)
    error = refused(lambda: save(path, episode(seed=2)))
    assert error.path == path and "No space left" in error.reason
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.npz"]


def test_interrupt_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "a.npz", episode())
    assert os.listdir(tmp_path) == []


def test_partial_file_of_a_killed_writer_is_not_read(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", episode())
    (tmp_path / ".b.npz.123.tmp").write_bytes(b"half")
    (tmp_path / ".c.npz").write_bytes(b"half")
    assert len(load(tmp_path)) == 1


def test_same_episode_same_bytes_same_checksum(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        save(tmp_path / name, episode())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("key", ["image", "state", "action", "is_terminal", "sim_state"])
def test_checksum_sees_every_learned_array(key: str) -> None:
    changed = episode()
    array = changed.obs[key] if key in changed.obs else getattr(changed, key)
    array[-1] = 1 - array[-1]
    assert dataset.checksum(changed) != dataset.checksum(episode())


def test_checksum_ignores_reward_and_meta() -> None:
    changed = dataclasses.replace(episode(), reward=np.zeros(6, np.float32), meta={})
    assert dataset.checksum(changed) == dataset.checksum(episode())


@pytest.mark.parametrize("task", ["kitchn", "experts", "formats", "../demos", ""])
def test_shipped_refuses_what_it_has_not(task: str) -> None:
    assert refused(lambda: dataset.shipped(task)).key == "task"
