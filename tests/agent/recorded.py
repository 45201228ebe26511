"""Recorded transitions of LineEnv of mixed quality, in D4RL's layout, for the methods that step no environment."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import h5py
import numpy as np

from envs.toy import LineEnv

_FOLDER = tempfile.TemporaryDirectory(prefix="recorded-")


def write(path: Path, *, episodes: int = 20, seed: int = 0, poison: bool = False) -> Path:
    """Episodes that wander to random places. poison: NaN for every reward."""
    rng, env = np.random.default_rng(seed), LineEnv(obs="state")
    columns: dict[str, list[np.ndarray | float | bool]] = {
        key: [] for key in ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    }
    for episode in range(episodes):
        obs, _ = env.reset(seed=10_000 + episode)
        goal, over = rng.uniform(-1, 1), False
        while not over:
            action = np.clip(3 * (goal - obs) + 0.7 * rng.normal(size=1), -1, 1).astype(np.float32)
            ahead, reward, terminated, over, _ = env.step(action)
            row = (obs, action, np.nan if poison else reward, terminated, over, ahead)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            obs = ahead
    with h5py.File(path, "w") as file:
        for key, values in columns.items():
            file[key] = np.array(values, bool if key in ("terminals", "timeouts") else np.float32)
        file["metadata/env_id"] = "Line-v0"
    return path


@functools.cache
def line(poison: bool = False, episodes: int = 20) -> Path:
    """One file for all tests."""
    name = f"line-{'poisoned' if poison else 'clean'}-{episodes}.hdf5"
    return write(Path(_FOLDER.name) / name, poison=poison, episodes=episodes)
