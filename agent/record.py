"""``python -m agent.record run=DIR out=DIR episodes=10``: a trained policy's episodes as demonstrations.

Episodes that score less than ``min_score`` are not kept. What is recorded replays: every row holds the simulator state.
Seeds are neither those of training nor those of evaluation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.finished import command, open_run, restore
from demos import dataset
from demos.errors import DemoError
from envs.episode import Episode, EpisodeBuilder

USAGE = "python -m agent.record run=DIR out=DIR [episodes=10] [seed=0] [sampled=false] [min_score=none] [device=auto]"
RECORD_SEEDS = 3 << 29  # above training's and evaluation's


@dataclass(frozen=True)
class Options:
    """Arguments of the command. min_score: keep only episodes that score at least this."""

    run: Path
    out: Path
    episodes: int = 10
    seed: int = 0
    sampled: bool = False
    min_score: float | None = None
    device: str = "auto"


def main(argv: Sequence[str] | None = None) -> int:
    """Record one run's policy. Returns the exit code: 0 done, 1 a problem that is told in one line, 130 interrupted."""
    return command("agent.record", USAGE, record, Options, argv)


def record(options: Options) -> list[Path]:
    """Record until ``episodes`` are kept, or three times as many were tried; the files written.

    Raises:
        ConfigError, CheckpointError: no run or no checkpoint. EnvError: the task cannot run here.
        DemoError: too few episodes reach ``min_score``, or the disk refuses.
    """
    import torch

    from agent.build import ConfigError, pick_device
    from envs.make import make

    if options.episodes < 1:
        raise ConfigError("episodes must be at least 1")
    config, state = open_run(options.run)
    task, obs = config["task"], config["obs"]
    env = make(task["name"], obs["name"], **task["options"])
    agent = restore(options.run, config, state, env, pick_device(options.device))
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    written: list[Path] = []
    for tried in range(3 * options.episodes):
        episode = _episode(agent, env, obs["key"], RECORD_SEEDS + options.seed + tried, mode=not options.sampled)
        score = episode.meta["score"]
        good = options.min_score is None or score >= options.min_score
        if good:
            path = options.out / f"{task['name']}-{len(written):04d}.npz"
            dataset.save(path, episode)
            written.append(path)
        kept = f"{len(written)}/{options.episodes}"
        print(f"score {score:.6g}, {episode.steps} steps: {'kept' if good else 'not kept'}; {kept}", file=sys.stderr)
        if len(written) == options.episodes:
            break
    env.close()
    if len(written) < options.episodes:
        raise DemoError(
            options.out, "min_score", f"only {len(written)} of {tried + 1} episodes reached {options.min_score:g}"
        )
    return written


def _episode(agent: Any, env: Any, key: str, seed: int, *, mode: bool) -> Episode:
    """One episode of the policy with its observations, simulator states and score."""
    from agent.collect import play

    sim = env.unwrapped
    builder = EpisodeBuilder({"task": sim.task, "seed": seed, "source": "agent.record", "subtasks": list(sim.subtasks)})
    for row in play(agent, env, seed, mode=mode):
        seen = {"state": np.asarray(row.info["state"], np.float32)} | {key: row.obs}
        if row.action is None:
            builder.start(seen, sim.get_state())
        else:
            builder.add(row.action, seen, terminated=row.terminated, sim_state=sim.get_state())
        builder.meta |= {"score": float(row.info["score"]), "success": bool(row.info["success"])}
    return builder.finish()


if __name__ == "__main__":
    sys.exit(main())
