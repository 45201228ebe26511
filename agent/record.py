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

from demos import cli, dataset
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
    """Record one run's policy. Returns the exit code: 0 done, 1 a problem that is told in one line."""
    from agent.build import ConfigError
    from agent.checkpoint import CheckpointError
    from envs.errors import EnvError

    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help", "help"} & set(arguments):
        print(USAGE)
        return 0
    try:
        record(cli.parse(arguments, Options))
    except (cli.UsageError, ConfigError, CheckpointError, EnvError, DemoError, OSError) as error:
        print(f"agent.record: {error}", file=sys.stderr)
        return 1
    return 0


def record(options: Options) -> list[Path]:
    """Record until ``episodes`` are kept, or three times as many were tried; the files written.

    Raises:
        ConfigError, CheckpointError: no run or no checkpoint. EnvError: the task cannot run here.
        DemoError: too few episodes reach ``min_score``, or the disk refuses.
    """
    import torch

    from agent import checkpoint
    from agent.build import ConfigError, pick_device
    from agent.checkpoint import CheckpointError
    from agent.config import read_config
    from agent.evaluate import restore
    from agent.trainer import fingerprint
    from envs.make import make

    if options.episodes < 1:
        raise ConfigError("episodes must be at least 1")
    config = read_config(options.run / "config.yaml")
    state = checkpoint.load(options.run / "checkpoint", fingerprint(config))
    if state is None:
        raise CheckpointError(f"{options.run}: holds no checkpoint yet")
    task, obs = config["task"], config["obs"]
    env = make(task["name"], obs["name"], **task["options"])
    assert env.action_space.shape is not None and env.observation_space.shape is not None
    spaces = env.action_space.shape[0], env.observation_space.shape
    agent = restore(options.run, config, spaces, pick_device(options.device), state["modules"])
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
    sim = env.unwrapped
    obs, info = env.reset(seed=seed)
    action = np.zeros(env.action_space.shape, np.float32)
    carry, first, over = agent.world.initial(1), True, False
    meta = {"task": sim.task, "seed": seed, "source": "agent.record", "subtasks": list(sim.subtasks)}
    builder = EpisodeBuilder(meta)
    builder.start(_row(key, obs, info), sim.get_state())
    while not over:
        chosen, carry = agent.act(obs[None], action[None], np.array([first]), carry, mode=mode)
        action, first = chosen[0], False
        obs, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        builder.add(action, _row(key, obs, info), terminated=terminated, sim_state=sim.get_state())
    builder.meta |= {"score": float(info["score"]), "success": bool(info["success"])}
    return builder.finish()


def _row(key: str, obs: np.ndarray, info: dict[str, Any]) -> dict[str, np.ndarray]:
    state = {"state": np.asarray(info["state"], np.float32)}
    return state | {key: obs}


if __name__ == "__main__":
    sys.exit(main())
