"""A demonstration beside the policy, drawn larger than the policy sees: ``python -m benchmark.film run=DIR
[out=docs/policy.gif]``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demos import cli

USAGE = "python -m benchmark.film run=DIR [out=docs/policy.gif] [seed=1000] [size=160] [every=3] [fps=12]"


@dataclass(frozen=True)
class Options:
    """``seed`` as in ``agent.evaluate``; ``size`` in pixels; every ``every``-th step is drawn."""

    run: Path
    out: Path = Path("docs/policy.gif")
    seed: int = 1000
    size: int = 160
    every: int = 3
    fps: int = 12


def film(options: Options) -> None:
    """Run one episode with the policy's mode and write the GIF. Raises ConfigError, CheckpointError."""
    import torch

    from agent import checkpoint, video
    from agent.build import ConfigError, build_agent
    from agent.config import read_config
    from agent.monitor import EVAL_SEEDS
    from demos import dataset
    from envs.make import make

    config = read_config(options.run / "config.yaml")
    state = checkpoint.load(options.run / "checkpoint")
    if state is None:
        raise ConfigError(f"{options.run}: holds no checkpoint")
    env = make(config["task"]["name"], config["obs"]["name"], **config["task"]["options"])
    agent = build_agent(config, env.action_space.shape[0], torch.device("cpu"))
    for name, module in state["modules"].items():
        getattr(agent, name).load_state_dict(module)
    agent.eval()
    sim = env.unwrapped
    obs, info = env.reset(seed=EVAL_SEEDS + options.seed)
    action, first, carry = np.zeros((1, *env.action_space.shape), np.float32), np.ones(1, bool), agent.world.initial(1)
    pictures, over = [sim.render(options.size)], False
    while not over:
        action, carry = agent.act(obs[None], action, first, carry, mode=True)
        obs, _, terminated, truncated, info = env.step(action[0])
        first, over = np.zeros(1, bool), terminated or truncated
        pictures.append(sim.render(options.size))
    (demo,) = dataset.load(dataset.shipped(config["task"]["name"]), limit=1, obs_keys=None)
    assert demo.sim_state is not None
    shown = []
    for row in demo.sim_state:
        sim.set_state(row)
        shown.append(sim.render(options.size))
    length = max(len(shown), len(pictures))
    clips = [np.stack(c + [c[-1]] * (length - len(c)))[:: options.every] for c in (shown, pictures)]
    label = f"policy: {info['score']:g} of {len(sim.subtasks)}"
    path = video.write_gif(options.out, video.side_by_side(clips, ["demonstration", label]), options.fps)
    print(f"{path}: {label}, {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    sys.exit(cli.run(film, Options, None, USAGE))
