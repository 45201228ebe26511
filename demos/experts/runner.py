"""Linear policies of running robots, recorded: ``python -m demos.experts.runner out=DIR task=hopper episodes=10``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demos import cli
from demos.experts.ars import TASKS, LinearPolicy
from demos.experts.recording import fill
from envs.episode import Episode, EpisodeBuilder
from envs.make import make

NOISE, MEMORY = 0.02, 0.8  # standard deviation of the smooth noise on recorded actions; its share kept each step


def shipped(task: str) -> Path:
    """Where the policy that comes with the project lies, if there is one for this task."""
    return Path(__file__).parent / f"{task}.json"


def record(env: Any, policy: LinearPolicy, seed: int, noise: float = NOISE) -> Episode:
    """Record one episode of a locomotion environment made with obs="state"; it may fall.

    Args:
        env: the environment.
        policy: what `demos.experts.ars` found for it.
        seed: of the environment and of the noise.
        noise: standard deviation of the smooth zero-mean noise (Ornstein-Uhlenbeck) on the actions; the recorded
            action is the executed one.

    Returns:
        Episode that ends at a fall or at the time limit; meta: seed, subtasks, score, success.
    """
    sim, rng = env.unwrapped, np.random.default_rng([seed, 7])
    state, info = env.reset(seed=seed)
    meta = {"task": sim.task, "source": "linear policy, random search", "seed": seed, "subtasks": list(sim.subtasks)}
    builder = EpisodeBuilder(meta)
    builder.start({"state": state}, sim.get_state())
    drift, over = np.zeros(env.action_space.shape), False
    while not over:
        drift = MEMORY * drift + np.sqrt(1 - MEMORY**2) * noise * rng.normal(size=drift.shape)
        executed = np.clip(policy.act(state) + drift, -1, 1).astype(np.float32)
        state, _, terminated, truncated, info = env.step(executed)
        builder.add(executed, {"state": state}, terminated=terminated, sim_state=sim.get_state())
        over = terminated or truncated
    builder.meta |= {"score": info["score"], "success": info["success"]}
    return builder.finish()


@dataclass(frozen=True)
class Options:
    """Arguments of the command."""

    out: Path
    task: str = "hopper"
    episodes: int = 10
    seed: int = 0
    noise: float = NOISE
    policy: Path | None = None


def body(options: Options) -> None:
    """Record until `episodes` verified episodes are saved, after those that are there."""
    if options.episodes < 1:
        raise cli.UsageError(f"episodes={options.episodes}: expected at least 1")
    if options.task not in TASKS:
        raise cli.UsageError(f"task={options.task}: expected one of {', '.join(TASKS)}")
    if options.noise < 0:
        raise cli.UsageError(f"noise={options.noise:g}: expected 0 or more")
    path = options.policy or shipped(options.task)
    if options.policy is None and not path.exists():
        raise cli.UsageError(f"policy=FILE is missing for {options.task}: python -m demos.experts.ars finds one")
    policy = LinearPolicy.load(path)
    env, replay = make(options.task, "state"), make(options.task, "state")
    fill(
        options.out,
        options.episodes,
        options.seed,
        lambda seed: record(env, policy, seed, options.noise),
        replay,
        lambda episode: f"{episode.steps} steps, return {episode.meta['score']:.0f}",
    )
    env.close()
    replay.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    usage = "python -m demos.experts.runner out=DIR [task=hopper] [episodes=10] [seed=0] [noise=0.02] [policy=FILE]"
    return cli.run(body, Options, argv, usage)


if __name__ == "__main__":
    raise SystemExit(main())
