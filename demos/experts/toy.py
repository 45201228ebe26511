"""Experts of the toy tasks, recorded: ``python -m demos.experts.toy task=line out=DIR episodes=10 seed=0``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demos import cli
from demos.dataset import DemoError, save
from envs.episode import Episode, EpisodeBuilder
from envs.make import make
from envs.toy import count_expert, line_expert

EXPERTS = {"line": line_expert, "count": count_expert}


@dataclass(frozen=True)
class Options:
    """Arguments of the command."""

    task: str
    out: Path
    episodes: int = 10
    seed: int = 0


def record(task: str, seed: int) -> Episode:
    """One episode of the toy ``task``'s expert with both observations. Raises DemoError for an unknown task."""
    if task not in EXPERTS:
        raise DemoError(task, "task", f"is none of {', '.join(EXPERTS)}")
    env = make(task, "pixels")
    image, info = env.reset(seed=seed)
    subtasks = list(env.unwrapped.subtasks)
    builder = EpisodeBuilder({"task": task, "seed": seed, "source": "demos.experts.toy", "subtasks": subtasks})
    builder.start({"image": image, "state": info["state"]}, env.unwrapped.get_state())
    over = False
    while not over:
        action = np.asarray(EXPERTS[task](info["state"]), np.float32)
        image, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        row = {"image": image, "state": info["state"]}
        builder.add(action, row, terminated=terminated, sim_state=env.unwrapped.get_state())
    builder.meta["score"] = info["score"]
    return builder.finish()


def body(options: Options) -> None:
    """Record and save the episodes."""
    for seed in range(options.seed, options.seed + options.episodes):
        save(options.out / f"{options.task}-{seed:04d}.npz", record(options.task, seed))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(body, Options, argv, "python -m demos.experts.toy task=line out=DIR [episodes=10] [seed=0]")


if __name__ == "__main__":
    raise SystemExit(main())
