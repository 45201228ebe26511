"""Recorded transitions of LineEnv of mixed quality, in D4RL's layout, for the methods that step no environment,
comparisons of segments of them, and demonstrations of a pendulum.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from agent import label
from demos import dataset, preferences
from envs.episode import Episode, EpisodeBuilder
from envs.make import make
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


@functools.cache
def comparisons(pairs: int = 40, length: int = 8, seed: int = 0) -> Path:
    """Synthetic labels on segments of `line`."""
    out = Path(_FOLDER.name) / f"told-{pairs}-{length}-{seed}.npz"
    return label.label(label.Options(out, dataset=line(), pairs=pairs, length=length, seed=seed))


@functools.cache
def pictures(episodes: int = 6) -> Path:
    """A folder of LineEnv episodes that wander to random places, with pictures and without rewards."""
    folder, rng, env = Path(_FOLDER.name) / f"pictures-{episodes}", np.random.default_rng(1), LineEnv(obs="pixels")
    folder.mkdir()
    for number in range(episodes):
        image, _ = env.reset(seed=20_000 + number)
        builder = EpisodeBuilder(
            {"task": "line", "seed": 20_000 + number, "source": "tests", "subtasks": list(env.subtasks)}
        )
        builder.start({"image": image})
        over = False
        while not over:
            action = rng.uniform(-1, 1, 1).astype(np.float32)
            image, _, terminated, over, _ = env.step(action)
            builder.add(action, {"image": image}, terminated=terminated)
        dataset.save(folder / f"line-{number}.npz", builder.finish())
    return folder


@functools.cache
def seen_comparisons(length: int = 10) -> Path:
    """Comparisons of segments of pictures, from the shipped demonstrations: the first is preferred, or neither."""
    episodes = dataset.load(dataset.shipped("line"), limit=3)
    chosen, _ = preferences.draw(_FOLDER.name, episodes, pairs=6, length=length, rng=np.random.default_rng(0))
    waiting = preferences.cut(episodes, chosen, length, "image", {})
    out = Path(_FOLDER.name) / f"seen-{length}.npz"
    preferences.save(out, waiting.labelled({0: 0, 1: 0, 2: 0.5, 3: 0, 4: 0.5}, labels="hand"))
    return out


def swing_up(obs: np.ndarray) -> np.ndarray:
    """Gymnasium's pendulum, (cos, sin, speed) -> torque: energy until it is nearly upright, then held there."""
    cosine, sine, speed = (float(x) for x in obs)
    energy = speed**2 / 6 + 5 * (cosine - 1)  # 0 at rest, upright
    if cosine > 0.9 and abs(speed) < 4:
        torque = -10 * np.arctan2(sine, cosine) - 2 * speed
    else:
        torque = np.copysign(2.0, speed) * (1 if energy < 0 else -1)
    return np.clip([torque / 2], -1, 1).astype(np.float32)


def swung_up(seed: int, policy: Callable[[np.ndarray], np.ndarray]) -> tuple[Episode, float]:
    """An episode of the pendulum, and its return."""
    env = make("gym", "state", id="Pendulum-v1")
    obs, _ = env.reset(seed=seed)
    builder = EpisodeBuilder({"task": "gym", "seed": seed, "source": "tests", "subtasks": []})
    builder.start({"state": obs})
    total, over = 0.0, False
    while not over:
        action = policy(obs)
        obs, reward, terminated, over, _ = env.step(action)
        builder.add(action, {"state": obs}, terminated=terminated)
        total += float(reward)
    return builder.finish(), total


@functools.cache
def pendulum(episodes: int = 5) -> Path:
    """A folder of demonstrations of `swing_up`."""
    folder = Path(_FOLDER.name) / f"pendulum-{episodes}"
    folder.mkdir()
    for number in range(episodes):
        dataset.save(folder / f"pendulum-{number}.npz", swung_up(30_000 + number, swing_up)[0])
    return folder
