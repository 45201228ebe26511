"""Policies of running robots, recorded: ``python -m demos.experts.runner out=DIR task=hopper episodes=10``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demos import cli
from demos.experts.policies import Policy
from demos.experts.ppo import TASKS
from demos.experts.recording import check, fill_from_state, play
from envs.episode import Episode

NOISE = 0.02  # standard deviation of the smooth noise on recorded actions


def shipped(task: str) -> Path:
    """Where the policy that comes with the project lies, if there is one for this task."""
    return Path(__file__).parent / f"{task}.json"


def record(env: Any, policy: Policy, seed: int, noise: float = NOISE) -> Episode:
    """Record one episode of a locomotion environment made with obs="state", until a fall or the time limit.

    policy: what `demos.experts.ppo` or `ars` found for it. The rest: see `recording.play`.
    """
    return play(env, seed, noise, policy.source, lambda _: policy.act)


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
    check(options.task, TASKS, options.episodes, options.noise)
    path = options.policy or shipped(options.task)
    if options.policy is None and not path.exists():
        raise cli.UsageError(f"policy=FILE is missing for {options.task}: python -m demos.experts.ppo finds one")
    policy = Policy.load(path)
    fill_from_state(
        options.out,
        options.task,
        options.episodes,
        options.seed,
        lambda env, seed: record(env, policy, seed, options.noise),
        lambda episode: f"{episode.steps} steps, return {episode.meta['score']:.0f}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    usage = "python -m demos.experts.runner out=DIR [task=hopper] [episodes=10] [seed=0] [noise=0.02] [policy=FILE]"
    return cli.run(body, Options, argv, usage)


if __name__ == "__main__":
    raise SystemExit(main())
