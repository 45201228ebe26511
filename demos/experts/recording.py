"""What the experts' commands share: filling a folder with verified episodes, and checking one by replay."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from demos.dataset import DemoError, files, read, save
from envs.episode import Episode

TRIES = 10  # for each episode asked for


def verify(env: gymnasium.Env[Any, Any], episode: Episode, *, success: bool = True) -> bool:
    """Whether replaying the actions from row 0 gives every simulator state to 1e-6, and, where wanted, success."""
    assert episode.sim_state is not None
    sim: Any = env.unwrapped
    _, info = env.reset(seed=episode.meta["seed"], options={"sim_state": episode.sim_state[0]})
    for action, state in zip(episode.action[1:], episode.sim_state[1:], strict=True):
        _, _, _, _, info = env.step(action)
        if np.abs(sim.get_state() - state).max() > 1e-6:
            return False
    return bool(info["success"]) or not success


def fill(
    out: Path,
    episodes: int,
    seed: int,
    record: Callable[[int], Episode],
    replay: gymnasium.Env[Any, Any],
    told: Callable[[Episode], str],
    *,
    success: bool = True,
) -> None:
    """Fill `out` with episode_00.npz, episode_01.npz, ... until `episodes` verified ones are there.

    Seeds count up from `seed`, or from the newest episode that is there already; failures are skipped.

    Args:
        record: seed -> episode.
        replay: the environment to verify in.
        told: what to print of an episode.
        success: keep successful episodes only.

    Raises:
        DemoError: the folder cannot be made, or nearly all tries fail.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(out, "out", f"cannot be made: {error.strerror or error}") from error
    there = files(out) if any(out.glob("*.npz")) else []
    first = max([seed, *(read(path)[0].meta.get("seed", -1) + 1 for path in there)])
    kept, steps, begun = len(there), 0, time.monotonic()
    for tried in range(first, first + TRIES * episodes):
        if kept >= episodes:
            return
        episode = record(tried)
        steps += episode.steps
        good = verify(replay, episode, success=success)
        if good:
            save(out / f"episode_{kept:02d}.npz", episode)
            kept += 1
        print(
            f"seed {tried}: {'kept' if good else 'not kept'}, {told(episode)}; {kept}/{episodes} episodes,"
            f" {steps / (time.monotonic() - begun):.3g} steps/s",
            file=sys.stderr,
            flush=True,
        )
    if kept < episodes:
        raise DemoError(out, "episodes", f"only {kept} of {episodes} after {TRIES * episodes} tries")
