"""Demonstrations by a Stable-Baselines3 actor that somebody published as plain arrays:
``python -m benchmark.rollouts task=hopper weights=FILE.npz out=FILE.hdf5 [episodes=10]``.

The arrays of `FILE.npz`: latent_pi_{0,2}_{weight,bias} and mu_{weight,bias}, weights (out, in); the action is
tanh(mu(relu(relu(x)))). States and actions are recorded, rewards are not (NaN).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demos import cli
from demos.dataset import write_atomic
from demos.errors import DemoError
from demos.experts.recording import play
from demos.formats import d4rl, npz
from envs.make import make

USAGE = "python -m benchmark.rollouts task=NAME weights=FILE.npz out=FILE.hdf5 [episodes=10] [seed=0]"
LAYERS = ("latent_pi_0", "latent_pi_2", "mu")


@dataclass(frozen=True)
class Options:
    """Episodes have the seeds ``seed``, ``seed + 1``, ..."""

    task: str
    weights: Path
    out: Path
    episodes: int = 10
    seed: int = 0


def actor(path: Path, states: int, actions: int) -> Callable[[np.ndarray], np.ndarray]:
    """The mean action (A,) in [-1, 1] for a state (d,). Raises DemoError when the file is no such actor, or not of
    ``states`` numbers and ``actions`` actions.
    """
    names = tuple(f"{layer}_{part}" for layer in LAYERS for part in ("weight", "bias"))
    found = npz.arrays(path, names)
    (w0, b0), (w1, b1), (w2, b2) = ((found[f"{x}_weight"], found[f"{x}_bias"]) for x in LAYERS)
    wanted = ((len(b0), states), (len(b1), len(b0)), (actions, len(b1)))
    if tuple(w.shape for w in (w0, w1, w2)) != wanted or len(b2) != actions:
        raise DemoError(path, "weights", f"expected layers from {states} numbers to {actions} actions")

    def act(state: np.ndarray) -> np.ndarray:
        x = np.maximum(w0 @ state + b0, 0)
        return np.tanh(w2 @ np.maximum(w1 @ x + b1, 0) + b2)

    return act


def record(options: Options) -> None:
    """Play, print each return and write the file. Raises DemoError, EnvError."""
    env = make(options.task, "state")
    states, actions = (space.shape or (0,) for space in (env.observation_space, env.action_space))
    act, episodes = actor(options.weights, states[0], actions[0]), []
    for seed in range(options.seed, options.seed + options.episodes):
        one = play(env, seed, 0.0, f"the actor of {options.weights.name}", lambda _: act)
        print(f"seed {seed}: {one.steps} steps, return {one.meta['score']:.0f}")
        episodes.append(one)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out, d4rl.encode(episodes))


if __name__ == "__main__":
    sys.exit(cli.run(record, Options, None, USAGE))
