"""Rows from replay become tensors; which of them have enough history to be learned from (algorithms 2.1, pitfall 4)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agent.batch import to_device
from agent.data import Chunk, Replay

CPU = torch.device("cpu")


def rows(first: list[list[int]], offset: list[int]) -> Chunk:
    """Chunks of 6 rows with is_first at the rows listed."""
    b = len(first)
    is_first = np.zeros((b, 6), bool)
    for i, at in enumerate(first):
        is_first[i, at] = True
    none = np.zeros((b, 6), bool)
    return Chunk(
        np.random.default_rng(0).random((b, 6, 2), np.float32),
        np.zeros((b, 6, 1), np.float32),
        is_first,
        none,
        none,
        np.arange(b) % 2 == 0,
        np.arange(b),
        np.array(offset),
    )


def test_tensors_hold_the_rows() -> None:
    given = rows([[0], [0, 3]], [4, 0])
    chunk = to_device(given, 0, CPU)
    for name in ("obs", "action", "is_first", "is_last", "is_terminal", "expert"):
        assert np.array_equal(getattr(chunk, name).numpy(), getattr(given, name))
    assert chunk.valid.dtype == torch.bool and bool(chunk.valid.all()), "without burn-in every row counts"


@pytest.mark.parametrize(
    ("first", "offset", "valid"),
    [
        ([0], 4, [0, 0, 1, 1, 1, 1]),  # starts in the middle of an episode
        ([0], 0, [1, 1, 1, 1, 1, 1]),  # starts where its episode does: there is no more history
        ([0, 3], 0, [1, 1, 1, 0, 0, 1]),  # goes on with another episode, perhaps in the middle of it
        ([0, 3], 4, [0, 0, 1, 0, 0, 1]),
        ([0, 1, 2], 0, [1, 0, 0, 0, 1, 1]),
    ],
)
def test_rows_without_history_are_not_valid(first: list[int], offset: int, valid: list[int]) -> None:
    assert to_device(rows([first], [offset]), 2, CPU).valid.int().tolist() == [valid]


def test_every_valid_row_of_a_replay_has_its_history(tmp_path: Path) -> None:
    replay = Replay(tmp_path, obs_shape=(1,), obs_dtype=np.float32, action_size=1, capacity=500, budget_gb=1.0)
    for n in (5, 7, 9, 20):
        index = np.arange(n)
        obs = index[:, None].astype(np.float32)  # the observation tells how far the episode is
        flags = index == 0, index == n - 1, np.zeros(n, bool)
        replay.add_episode(obs, np.zeros((n, 1), np.float32), *flags)
    sampled = replay.sample(200, 12, np.random.default_rng(0))
    chunk = to_device(sampled, 3, CPU)
    replay.close()
    history = torch.zeros(200, 12)
    for t in range(1, 12):
        history[:, t] = torch.where(chunk.is_first[:, t], 0, history[:, t - 1] + 1)
    complete = history == chunk.obs[..., 0]  # the whole past of this row lies in the chunk
    assert bool(((history >= 3) | complete)[chunk.valid].all())
    assert bool(chunk.valid[history >= 3].all())
    assert 0 < int(chunk.valid.sum()) < chunk.valid.numel()
