"""Small episodes and files that the tests of demonstrations share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demos.errors import DemoError
from demos.experts.recording import verify
from envs.episode import Episode


def episode(rows: int = 6, seed: int = 0, *, task: str = "kitchen", actions: int = 9, state: bool = True) -> Episode:
    """A valid episode of noise with real rewards, so that their disappearance can be seen."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (rows, actions)).astype(np.float32)
    action[0] = 0
    index = np.arange(rows)
    obs = {"image": rng.integers(0, 256, (rows, 64, 64, 3), dtype=np.uint8)}
    if state:
        obs["state"] = rng.normal(size=(rows, 5)).astype(np.float32)
    return Episode(
        obs=obs,
        action=action,
        is_first=index == 0,
        is_last=index == rows - 1,
        is_terminal=np.zeros(rows, bool),
        reward=np.ones(rows, np.float32),
        sim_state=rng.normal(size=(rows, 7)),
        meta={"task": task, "seed": seed, "subtasks": ["kettle", "microwave"], "subtask_rows": {"kettle": 3}},
    )


def edit(path: Path, **changes: Any) -> Path:
    """Rewrite an npz file with some arrays replaced, or removed where the value is None. May store objects."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays |= changes
    kept: dict[str, Any] = {key: np.asarray(value) for key, value in arrays.items() if value is not None}
    np.savez_compressed(path, **kept)
    return path


def cmil_kitchen(path: Path, rows: int = 6, seed: int = 0) -> Path:
    """A file in the layout of the published Kitchen demonstrations."""
    made = episode(rows, seed)
    count = np.repeat(np.arange(3), rows // 3).astype(np.float32)
    flags = {key: getattr(made, key) for key in ("is_first", "is_last", "is_terminal")}
    np.savez_compressed(path, image=made.obs["image"], action=made.action, reward=count, **flags)
    return path


def cmil_hand(path: Path, rows: int = 4, seed: int = 0, side: int = 128) -> Path:
    """A file in the layout of the published Shadow Hand demonstrations: float64, big frames, no flags."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (rows, 24))
    action[0] = 0
    zeros = np.zeros(rows, np.int64)
    image = rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
    np.savez_compressed(path, image=image, action=action, obs=rng.normal(size=(rows, 40)), reward=zeros, discount=zeros)
    return path


def assert_replays(env: Any, episode: Episode, row: int = 20, change: float = 0.05) -> None:
    """A replay gives the recorded states and success, and a changed action does not.

    Contacts amplify rounding, so another processor or MuJoCo version may leave the recording after a while.
    """
    assert episode.sim_state is not None
    env.reset(seed=episode.meta["seed"], options={"sim_state": episode.sim_state[0]})
    env.step(episode.action[1])
    if np.abs(env.get_state() - episode.sim_state[1]).max() > 1e-12:
        pytest.skip("this machine's arithmetic differs from the recording's, so a replay cannot be exact")
    assert verify(env, episode)
    episode.action[row, 0] -= change * np.sign(episode.action[row, 0])
    assert not verify(env, episode)


def assert_refused(read: Callable[[], object], path: Path, key: str, reason: str) -> None:
    """`read` fails in one line that names the file, the key and the reason."""
    with pytest.raises(DemoError) as caught:
        read()
    assert (caught.value.path, caught.value.key) == (path, key)
    assert reason in caught.value.reason and "\n" not in str(caught.value)


def assert_damage_is_told(read: Callable[[], object], paths: Iterable[Path], trials: int, spared: int = 0) -> None:
    """Every cut of a file is refused, and so is any other damage or it is harmless; another exception fails the test.

    spared: bytes at the end of a file without which it may still be whole. The files are whole again afterwards.
    """
    rng = np.random.default_rng(0)
    for path in paths:
        good, refused = path.read_bytes(), 0
        for trial in range(trials):
            content, place = bytearray(good), int(rng.integers(len(good) - spared))
            if trial % 2:
                content[place : place + 20] = rng.bytes(len(content[place : place + 20]))
            else:
                content = content[:place]
            path.write_bytes(content)
            try:
                read()
            except DemoError as error:
                refused += 1
                assert "\n" not in str(error)
        assert refused >= trials // 2, f"{path.name}: {refused} of {trials} refused"
        path.write_bytes(good)
    read()
