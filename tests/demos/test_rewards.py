"""Recorded rewards reach those who ask for them, beside the right actions, and nobody else (algorithms 1.5)."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from demos import dataset
from demos.errors import DemoError
from envs.episode import to_pairs
from tests.demos.samples import episode

ROWS = 9


def d4rl(path: Path, *, ahead: bool, **changes: np.ndarray) -> Path:
    """Two episodes of Hopper, of 5 and 4 rows; the action in row t is t / 100, its reward 10 t, its state t."""
    t = np.arange(ROWS, dtype=np.float32)
    arrays = {
        "observations": np.repeat(t[:, None], 11, 1),
        "actions": np.repeat(t[:, None] / 100, 3, 1),
        "rewards": 10 * t,
        "terminals": np.zeros(ROWS, bool),
        "timeouts": np.isin(t, (4, 8)),
    }
    if ahead:
        arrays["next_observations"] = arrays["observations"] + 1
    with h5py.File(path, "w") as file:
        for key, value in (arrays | changes).items():
            file[key] = value
        file["metadata/env_id"] = "Hopper-v5"
    return path


@pytest.mark.parametrize("ahead", [True, False])
def test_rewards_belong_to_their_actions(tmp_path: Path, ahead: bool) -> None:
    episodes = dataset.load(d4rl(tmp_path / "hopper.hdf5", ahead=ahead), obs_keys=("state",), rewards=True)
    assert [one.steps for one in episodes] == ([5, 4] if ahead else [4, 3])
    for one in episodes:
        pairs = to_pairs(one.obs["state"], one.action)
        np.testing.assert_allclose(one.reward[1:], 10 * pairs.state[:, 0])
        np.testing.assert_allclose(one.reward[1:], 1000 * pairs.action[:, 0], rtol=1e-5)
        assert np.isnan(one.reward[0]), "no action led to the first row"


def test_nobody_else_sees_them(tmp_path: Path) -> None:
    path = d4rl(tmp_path / "hopper.hdf5", ahead=True)
    for episodes in (dataset.load(path, obs_keys=("state",)), dataset.read(path)):
        assert all(np.isnan(one.reward).all() for one in episodes)


def test_who_asks_for_rewards_that_are_not_there_is_told(tmp_path: Path) -> None:
    rewards = np.arange(ROWS, dtype=np.float32)
    rewards[6] = np.nan
    path = d4rl(tmp_path / "hopper.hdf5", ahead=True, rewards=rewards)
    assert len(dataset.load(path, obs_keys=("state",))) == 2
    with pytest.raises(DemoError, match="reward: is not told, or not finite.*episode 1 of the file"):
        dataset.load(path, obs_keys=("state",), rewards=True)
    dataset.save(tmp_path / "own.npz", episode())
    with pytest.raises(DemoError, match="reward: is not told"):
        dataset.load(tmp_path / "own.npz", rewards=True)
