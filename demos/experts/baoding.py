"""Planned expert of Baoding, recorded: ``python -m demos.experts.baoding out=DIR episodes=20 seed=0``.

The expert tries out action sequences in the simulator around a stored gait (see hand_plan). ``gait=FILE`` makes such a
gait from nothing instead of recording: it plans with a wide search and averages the half turns.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from demos import cli
from demos.dataset import DemoError, write_atomic
from demos.experts.hand_plan import HALF_TURN, HandPlanner, Search
from demos.experts.recording import fill, make_room
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
        make_room(options.gait)
        _make_gait(options.gait, options)
    if options.out is not None:
        _record_all(options.out, options)


def _record_all(out: Path, options: Options) -> None:
    env, check = make("baoding", "pixels", limit=STEPS), make("baoding", "state", limit=STEPS)
    gait, search = load_gait(), Search(samples=options.samples, threads=options.threads)

    def told(episode: Episode) -> str:
        measures = (f"{name} {value:g}" for name, value in episode.meta["measures"].items())
        return f"score {episode.meta['score']:.3f}, {', '.join(measures)}"

    fill(out, options.episodes, options.seed, lambda seed: record(env, seed, search, gait), check, told)
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
