"""Storage contract and time alignment: to_pairs, Episode.validate, EpisodeBuilder."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from envs.episode import Episode, EpisodeBuilder, EpisodeError, to_pairs


def good(rows: int = 5) -> Episode:
    """Return a valid episode with both observations."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    action[0] = 0
    flags = {key: np.zeros(rows, np.bool_) for key in ("is_first", "is_last", "is_terminal")}
    flags["is_first"][0] = flags["is_last"][-1] = True
    return Episode(
        obs={
            "image": rng.integers(0, 255, (rows, 64, 64, 3), np.uint8),
            "state": rng.normal(size=(rows, 3)).astype(np.float32),
        },
        action=action,
        reward=np.full(rows, np.nan, np.float32),
        sim_state=rng.normal(size=(rows, 7)),
        meta={"task": "line", "seed": 3},
        **flags,
    )


def test_pairs_join_each_state_with_the_action_taken_in_it() -> None:
    state = np.arange(5)[:, None] * 10.0
    action = np.array([0, 0, 1, 2, 3])[:, None]  # the action taken in state t is t, stored one row later
    done = np.array([False, False, False, False, True])
    pairs = to_pairs(state, action, done)
    assert pairs.state[:, 0].tolist() == [0, 10, 20, 30]
    assert pairs.action[:, 0].tolist() == [0, 1, 2, 3]
    assert pairs.next_state[:, 0].tolist() == [10, 20, 30, 40]
    assert pairs.done.tolist() == [False, False, False, True]
    assert to_pairs(state, action).done is None


@pytest.mark.parametrize("axis", [0, 1])
def test_pairs_of_tensors_equal_pairs_of_arrays(axis: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    state, action, done = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 5, 2)), rng.random((4, 5)) < 0.5
    arrays = to_pairs(state, action, done, axis=axis)
    tensors = to_pairs(torch.tensor(state), torch.tensor(action), torch.tensor(done), axis=axis)
    for ours, theirs in zip(arrays, tensors, strict=True):
        assert np.array_equal(ours, theirs.numpy())
    assert arrays.state.shape[axis] == state.shape[axis] - 1


def test_pairs_accept_anything_that_slices() -> None:
    class Latent:
        def __init__(self, rows: list[int]) -> None:
            self.rows = rows

        def __getitem__(self, key: slice) -> Latent:
            return Latent(self.rows[key])

    pairs = to_pairs(Latent([1, 2, 3]), np.zeros((3, 1)))
    assert pairs.state.rows == [1, 2] and pairs.next_state.rows == [2, 3]


def test_pairs_refuse_unequal_rows_and_negative_axes() -> None:
    with pytest.raises(ValueError, match="same number of rows"):
        to_pairs(np.zeros((5, 1)), np.zeros((4, 1)))
    with pytest.raises(ValueError, match="axis"):
        to_pairs(np.zeros((5, 1)), np.zeros((5, 1)), axis=-1)


def test_a_good_episode_is_valid() -> None:
    episode = good()
    episode.validate()
    assert len(episode) == 5 and episode.steps == 4


def _with(key: str, row: Any, value: Any) -> np.ndarray:
    """Return a copy of a good episode's array with one entry changed."""
    array: np.ndarray = getattr(good(), key).copy()
    array[row] = value
    return array


DEFECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "large action": ("action", {"action": _with("action", 2, 1.5)}),
    "NaN action": ("action", {"action": _with("action", 2, np.nan)}),
    "action before the start": ("action", {"action": _with("action", 0, 0.1)}),
    "float64 action": ("action", {"action": good().action.astype(np.float64)}),
    "flat action": ("action", {"action": good().action[:, 0]}),
    "one row": ("action", {"action": good().action[:1]}),
    "no observation": ("obs", {"obs": {}}),
    "unknown observation": ("obs[depth]", {"obs": {"depth": np.zeros((5, 3), np.float32)}}),
    "float image": ("obs[image]", {"obs": {"image": np.zeros((5, 64, 64, 3), np.float32)}}),
    "small image": ("obs[image]", {"obs": {"image": np.zeros((5, 32, 32, 3), np.uint8)}}),
    "missing row": ("obs[state]", {"obs": {"state": np.zeros((4, 3), np.float32)}}),
    "NaN state": ("obs[state]", {"obs": {"state": np.full((5, 3), np.nan, np.float32)}}),
    "two starts": ("is_first", {"is_first": _with("is_first", 2, True)}),
    "no start": ("is_first", {"is_first": _with("is_first", 0, False)}),
    "no end": ("is_last", {"is_last": _with("is_last", -1, False)}),
    "early end": ("is_last", {"is_last": _with("is_last", 1, True)}),
    "early terminal": ("is_terminal", {"is_terminal": _with("is_terminal", 1, True)}),
    "int flags": ("is_terminal", {"is_terminal": np.zeros(5, np.int64)}),
    "infinite reward": ("reward", {"reward": np.full(5, np.inf, np.float32)}),
    "short reward": ("reward", {"reward": np.zeros(4, np.float32)}),
    "float32 simulator": ("sim_state", {"sim_state": good().obs["state"]}),
    "NaN simulator": ("sim_state", {"sim_state": np.full((5, 2), np.nan)}),
    "array in meta": ("meta", {"meta": {"seed": np.zeros(2)}}),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_every_defect_is_found_and_named(name: str) -> None:
    key, change = DEFECTS[name]
    with pytest.raises(EpisodeError) as caught:
        dataclasses.replace(good(), **change).validate()
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key}: ")


def test_builder_copies_rows_and_marks_the_ends() -> None:
    builder = EpisodeBuilder({"task": "line"})
    buffer = np.zeros(1, np.float32)
    builder.start({"state": buffer}, np.zeros(2))
    for step in range(3):
        buffer[:] = step + 1
        builder.add(np.array([0.5]), {"state": buffer}, terminated=step == 2, sim_state=np.full(2, step + 1.0))
    builder.meta["success"] = True
    episode = builder.finish()
    assert episode.obs["state"][:, 0].tolist() == [0, 1, 2, 3]
    assert episode.action[:, 0].tolist() == [0, 0.5, 0.5, 0.5]
    assert episode.is_terminal.tolist() == [False, False, False, True]
    assert episode.sim_state is not None and episode.sim_state[:, 0].tolist() == [0, 1, 2, 3]
    assert np.isnan(episode.reward).all()
    assert episode.meta == {"task": "line", "success": True}


def test_an_empty_simulator_state_is_none() -> None:
    builder = EpisodeBuilder({"task": "line"})
    builder.start({"state": np.zeros(2, np.float32)}, np.zeros(0))
    builder.add(np.array([0.5]), {"state": np.ones(2, np.float32)}, sim_state=np.zeros(0))
    assert builder.finish().sim_state is None


def test_builder_refuses_misuse() -> None:
    row = {"state": np.zeros(1, np.float32)}
    builder = EpisodeBuilder()
    with pytest.raises(EpisodeError, match="start"):
        builder.add(np.zeros(1), row)
    builder.start(row)
    with pytest.raises(EpisodeError, match="already"):
        builder.start(row)
    with pytest.raises(EpisodeError, match="at least 2 rows"):
        builder.finish()
    with pytest.raises(EpisodeError, match="keys"):
        builder.add(np.zeros(1), {"image": np.zeros((64, 64, 3), np.uint8)})
    builder.add(np.zeros(1), row, terminated=True)
    with pytest.raises(EpisodeError, match="terminal"):
        builder.add(np.zeros(1), row)
