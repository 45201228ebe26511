"""What the experts' commands share: filling a folder with verified episodes, replays that check, room for files."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from demos.cli import UsageError
from demos.dataset import DemoError, files, make_folder, read, save
from envs.episode import Episode, EpisodeBuilder
from envs.make import make

TRIES = 10  # for each episode asked for
MEMORY = 0.8  # share of the smooth noise on recorded actions that each step keeps
NUMBERED = re.compile(r"episode_(\d+)\.npz")
DIGITS = 4  # of the numbers in a new folder: names shall sort as numbers do


def play(
    env: gymnasium.Env[Any, Any],
    seed: int,
    noise: float,
    source: str,
    expert: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    fallen: Callable[[], bool] = lambda: False,
) -> Episode:
    """Record one episode of an environment made with obs="state"; it may fail.

    Args:
        env: the environment.
        seed: of the environment and of the noise.
        noise: standard deviation of the smooth zero-mean noise (Ornstein-Uhlenbeck) on the actions; the recorded
            action is the executed one.
        source: who acts, for people.
        expert: first state -> (state -> action); called when the environment has been reset.
        fallen: whether to give up.

    Returns:
        Episode that ends where the environment says so, or given up; meta: seed, subtasks, score, success.
    """
    sim: Any = env.unwrapped
    rng = np.random.default_rng([seed, 7])
    state, info = env.reset(seed=seed)
    act = expert(state)
    builder = EpisodeBuilder({"task": sim.task, "source": source, "seed": seed, "subtasks": list(sim.subtasks)})
    builder.start({"state": state}, sim.get_state())
    assert env.action_space.shape is not None
    drift, over = np.zeros(env.action_space.shape), False
    while not over:
        drift = MEMORY * drift + np.sqrt(1 - MEMORY**2) * noise * rng.normal(size=drift.shape)
        executed = np.clip(act(state) + drift, -1, 1).astype(np.float32)
        state, _, terminated, truncated, info = env.step(executed)
        builder.add(executed, {"state": state}, terminated=terminated, sim_state=sim.get_state())
        over = terminated or truncated or fallen()
    builder.meta |= {"score": info["score"], "success": info["success"]}
    return builder.finish()


def make_room(out: Path) -> None:
    """Make the folder of a file that is to be written after a long search. Raises DemoError where that cannot be, or
    `out` is a folder itself.
    """
    if out.is_dir():
        raise DemoError(out, "out", "is a folder; expected the name of a file")
    make_folder(out.parent)


def check(task: str, tasks: Sequence[str], episodes: int, noise: float) -> None:
    """Raise UsageError for arguments that no recorder of noisy episodes takes."""
    if episodes < 1:
        raise UsageError(f"episodes={episodes}: expected at least 1")
    if task not in tasks:
        raise UsageError(f"task={task}: expected one of {', '.join(tasks)}")
    if noise < 0:
        raise UsageError(f"noise={noise:g}: expected 0 or more")


def fill_from_state(
    out: Path,
    task: str,
    episodes: int,
    seed: int,
    record: Callable[[Any, int], Episode],
    told: Callable[[Episode], str],
) -> None:
    """`fill` with environments of `task` that show states; record: environment, seed -> episode."""
    env, replay = make(task, "state"), make(task, "state")
    fill(out, episodes, seed, lambda number: record(env, number), replay, told)
    env.close()
    replay.close()


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
    """Fill `out` with episode_0000.npz, episode_0001.npz, ... until `episodes` verified ones are there.

    Seeds count up from `seed`, or from the newest episode that is there already; failures are skipped. Numbers go on
    after the highest one that is there, with as many digits: nothing is replaced, and names stay in the order of seeds.

    Args:
        record: seed -> episode.
        replay: the environment to verify in.
        told: what to print of an episode.
        success: keep successful episodes only.

    Raises:
        DemoError: the folder cannot be made or holds episodes of another task, its names have too few digits for more,
            or nearly all tries fail.
    """
    make_folder(out)
    there = files(out) if any(out.glob("*.npz")) else []
    made = {str(read(path)[0].meta.get("task")) for path in there} - {replay.unwrapped.task}  # type: ignore[attr-defined]
    if made:
        raise DemoError(out, "task", f"holds episodes of {', '.join(sorted(made))}: fill another folder")
    if len(there) >= episodes:
        print(
            f"{out}: {len(there)} episodes are there already; episodes={len(there) + 1} would add one", file=sys.stderr
        )
        return
    first = max([seed, *(read(path)[0].meta.get("seed", -1) + 1 for path in there)])
    taken = [match[1] for path in there if (match := NUMBERED.fullmatch(path.name))]
    digits = max(map(len, taken), default=DIGITS)
    number = max(map(int, taken), default=-1) + 1
    if number + episodes - len(there) > 10**digits:
        raise DemoError(out, "episodes", f"names of {digits} digits end at {10**digits - 1}: fill another folder")
    kept, steps, begun = len(there), 0, time.monotonic()
    for tried in range(first, first + TRIES * episodes):
        if kept >= episodes:
            return
        episode = record(tried)
        steps += episode.steps
        good = verify(replay, episode, success=success)
        if good:
            save(out / f"episode_{number:0{digits}d}.npz", episode)
            kept, number = kept + 1, number + 1
        print(
            f"seed {tried}: {'kept' if good else 'not kept'}, {told(episode)}; {kept}/{episodes} episodes,"
            f" {steps / (time.monotonic() - begun):.3g} steps/s",
            file=sys.stderr,
            flush=True,
        )
    if kept < episodes:
        raise DemoError(out, "episodes", f"only {kept} of {episodes} after {TRIES * episodes} tries")
