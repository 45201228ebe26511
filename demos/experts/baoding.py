"""Planned expert of Baoding, recorded: ``python -m demos.experts.baoding out=DIR episodes=20 seed=0``.

The expert tries out action sequences in the simulator around a stored gait (see hand_plan). ``gait=FILE`` makes such a
gait from nothing instead of recording: it plans with a wide search and averages the half turns.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from demos import cli
from demos.dataset import DemoError, files, read, save, write_atomic
from demos.experts.hand_plan import HALF_TURN, HandPlanner, Search
from envs.baoding import JOINTS
from envs.episode import Episode, EpisodeBuilder
from envs.make import make

STEPS = 120  # as long as the public recordings
GAIT = Path(__file__).with_name("baoding_gait.json")
OPTIONS = {  # of the task, that each array depends on
    "action": {"actions": "clean", "direction": "ccw"},
    "state": {"layout": "proper"},
}
WIDE = Search(samples=40, horizon=6, spread=0.3)  # without a gait to start from


def load_gait(path: Path = GAIT) -> np.ndarray:
    """Return the stored gait: actions (HALF_TURN, 24) that turn the balls by half a turn, counter-clockwise."""
    gait = np.array(json.loads(path.read_text(encoding="utf-8")), np.float64)
    if gait.shape != (HALF_TURN, JOINTS):
        raise DemoError(path, "gait", f"has shape {gait.shape}; expected {(HALF_TURN, JOINTS)}")
    return gait


def record(env: gymnasium.Env[Any, Any], seed: int, search: Search, gait: np.ndarray | None) -> Episode:
    """Record one episode of a Baoding environment with pictures, until its limit or a drop.

    Args:
        env: made by envs.make("baoding", "pixels", limit=STEPS).
        seed: of the environment's start and of the planner.
        search: how much the planner tries.
        gait: what it starts from; None: nothing.

    Returns:
        Episode; meta: seed, options of the task, score, success, measures.
    """
    sim: Any = env.unwrapped
    image, info = env.reset(seed=seed)
    planner = HandPlanner(sim, search, seed, gait)
    meta = {"task": "baoding", "source": "planned expert", "seed": seed, "subtasks": list(sim.subtasks)}
    builder = EpisodeBuilder(meta | {"options": OPTIONS, "limit": sim.horizon})
    builder.start({"image": image, "state": info["state"]}, sim.get_state())
    over = False
    while not over:
        action = planner.act().astype(np.float32)
        image, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        row = {"image": image, "state": info["state"]}
        builder.add(action, row, terminated=terminated, sim_state=sim.get_state())
    planner.close()
    measures = {name: round(value, 4) for name, value in info["measures"].items()}
    builder.meta |= {"score": info["score"], "success": info["success"], "measures": measures}
    builder.meta["subtask_rows"] = {name: sim.horizon for name in sim.subtasks if info["success"]}
    return builder.finish()


def verify(env: gymnasium.Env[Any, Any], episode: Episode) -> bool:
    """Whether replaying the actions from row 0 gives every recorded simulator state to 1e-6, and success."""
    assert episode.sim_state is not None
    sim: Any = env.unwrapped
    _, info = env.reset(seed=episode.meta["seed"], options={"sim_state": episode.sim_state[0]})
    for action, state in zip(episode.action[1:], episode.sim_state[1:], strict=True):
        _, _, _, _, info = env.step(action)
        if np.abs(sim.get_state() - state).max() > 1e-6:
            return False
    return bool(info["success"])


@dataclass(frozen=True)
class Options:
    """Arguments of the command. One of out and gait is required."""

    out: Path | None = None
    gait: Path | None = None
    episodes: int = 20
    seed: int = 0
    samples: int = Search.samples
    threads: int = 1


def body(options: Options) -> None:
    """Record until `episodes` successful, verified episodes are saved, after those that are there; or make a gait."""
    for key, least in (("episodes", 1), ("samples", 4), ("threads", 1), ("seed", 0)):
        if getattr(options, key) < least:
            raise cli.UsageError(f"{key}={getattr(options, key)}: expected at least {least}")
    if (options.out is None) == (options.gait is None):
        raise cli.UsageError("out=DIR records episodes, gait=FILE makes a gait: give one of them")
    if options.gait is not None:
        _make_gait(options.gait, options)
    if options.out is not None:
        _record_all(options.out, options)


def _record_all(out: Path, options: Options) -> None:
    """Fill `out` with episode_00.npz, episode_01.npz, ...; seeds count up, failures are skipped."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(out, "out", f"cannot be made: {error.strerror or error}") from error
    there = files(out) if any(out.glob("*.npz")) else []
    seed = max([options.seed, *(read(path)[0].meta["seed"] + 1 for path in there)])
    kept, steps, begun = len(there), 0, time.monotonic()
    env, check = make("baoding", "pixels", limit=STEPS), make("baoding", "state", limit=STEPS)
    gait, search = load_gait(), Search(samples=options.samples, threads=options.threads)
    while kept < options.episodes:
        episode = record(env, seed, search, gait)
        steps += episode.steps
        good = verify(check, episode)
        if good:
            save(out / f"episode_{kept:02d}.npz", episode)
            kept += 1
        told = ", ".join(f"{name} {value:g}" for name, value in episode.meta["measures"].items())
        speed = steps / (time.monotonic() - begun)
        print(
            f"seed {seed}: {'kept' if good else 'not kept'}, score {episode.meta['score']:.3f}, {told};"
            f" {kept}/{options.episodes} episodes, {speed:.2f} steps/s",
            file=sys.stderr,
            flush=True,
        )
        seed += 1
    env.close()
    check.close()


def _make_gait(path: Path, options: Options) -> None:
    """Plan one episode from the key pose without a gait; write the mean action of each step of its later half turns.

    The mean is smoothed around the circle: planning without a gait repeats, at the beginning of every half turn, the
    leap from the key pose with which the episode began.
    """
    env = make("baoding", "state", limit=STEPS, start_noise=0.0)
    sim: Any = env.unwrapped
    env.reset(seed=options.seed)
    planner = HandPlanner(sim, replace(WIDE, threads=options.threads), options.seed)
    actions: list[np.ndarray] = []
    over = False
    while not over:
        actions.append(planner.act())
        _, _, terminated, truncated, info = env.step(actions[-1].astype(np.float32))
        over = terminated or truncated
        print(f"step {len(actions)}: {info['measures']}", file=sys.stderr, flush=True)
    planner.close()
    if not info["success"]:
        raise DemoError(path, "gait", f"not written: planning with seed={options.seed} failed; try another seed")
    turns = np.stack(actions[HALF_TURN:]).reshape(-1, HALF_TURN, JOINTS)
    gait = smoothed(np.round(turns.mean(0), 3))
    write_atomic(path, json.dumps(np.round(gait, 3).tolist()).encode())


def smoothed(gait: np.ndarray, rounds: int = 2) -> np.ndarray:
    """Return a gait (HALF_TURN, 24) whose rows are, `rounds` times, averaged with their neighbours (1/4, 1/2, 1/4)."""
    for _ in range(rounds):
        gait = 0.25 * np.roll(gait, 1, 0) + 0.5 * gait + 0.25 * np.roll(gait, -1, 0)
    return gait


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    usage = "python -m demos.experts.baoding out=DIR|gait=FILE [episodes=20] [seed=0] [samples=16] [threads=1]"
    return cli.run(body, Options, argv, usage)


if __name__ == "__main__":
    raise SystemExit(main())
