"""A demonstration beside the policy, drawn larger than the policy sees: ``python -m benchmark.film run=DIR out=GIF``.
For simulators of this project, with demonstrations that hold simulator states.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.finished import command, open_env, open_run, restore

USAGE = (
    "python -m benchmark.film run=DIR out=GIF [demos=PATH] [seed=1000] [size=160] [every=3] [fps=12] "
    "[weights=last|best|chosen]"
)


@dataclass(frozen=True)
class Options:
    """Arguments of the command:

    run         the run's folder
    out         the GIF
    demos       whose first is shown; none: the task's shipped ones
    seed        as in `agent.evaluate`
    size        pixels of each side
    every       every so many-th step is drawn
    fps         frames a second
    weights     last, best or chosen, as `agent.evaluate`'s
    """

    run: Path
    out: Path
    demos: Path | None = None
    seed: int = 1000
    size: int = 160
    every: int = 3
    fps: int = 12
    weights: str = "last"


def film(options: Options) -> None:
    """Run one episode with the policy's mode and write the GIF.

    Raises ConfigError, CheckpointError, DemoError, EnvError.
    """
    from agent import video
    from agent.build import ConfigError, pick_device
    from agent.collect import play
    from agent.monitor import EVAL_SEEDS
    from demos import dataset

    config, state = open_run(options.run, options.weights)
    env = open_env(config)
    agent = restore(options.run, config, state, env, pick_device("cpu"))
    sim, pictures, score = env.unwrapped, [], 0.0
    for row in play(agent, env, EVAL_SEEDS + options.seed, mode=True):
        pictures.append(sim.render(options.size))
        score = row.info["score"]
    (demo,) = dataset.load(options.demos or dataset.shipped(config["task"]["name"]), limit=1, obs_keys=None)
    if demo.sim_state is None:
        raise ConfigError("demos: the first holds no simulator states to draw")
    shown = []
    for kept in demo.sim_state:
        sim.set_state(kept)
        shown.append(sim.render(options.size))
    length = max(len(shown), len(pictures))
    clips = [np.stack(c + [c[-1]] * (length - len(c)))[:: options.every] for c in (shown, pictures)]
    label = f"policy: {round(score, 2):g}" + (f" of {sim.full_score:g}" if np.isfinite(sim.full_score) else "")
    path = video.write_gif(options.out, video.side_by_side(clips, ["demonstration", label]), options.fps)
    print(f"{path}: {label}, {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    sys.exit(command("benchmark.film", USAGE, film, Options, None))
