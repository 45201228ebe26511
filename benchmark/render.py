"""How fast the Kitchen runs here: frames a second in both styles, environment steps a second with and without pictures.

`python -m benchmark.render [seconds=2] [picture=PATH.png]` prints JSON; with `picture` it also writes both styles side
by side, at 64 and 256 pixels, for the start and for all four tasks done. Everything is measured in one process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from demos.cli import asks_for_help
from envs.errors import EnvError, nearest
from envs.kitchen_scene import START_QPOS, kitchen_frames
from envs.make import make
from envs.rendering import select_backend


def done_qpos() -> np.ndarray:
    """Return joint positions (30,) with the microwave and the cabinet open, the light on, and the kettle moved."""
    qpos = START_QPOS.copy()
    qpos[[17, 18]] = -0.69, -0.05
    qpos[19], qpos[22] = 0.37, -0.75
    qpos[[23, 24]] = -0.23, 0.75
    return qpos


def rate(call: Callable[[], Any], seconds: float) -> float:
    """Return calls a second of `call` over about `seconds`, after one call that does not count."""
    call()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        call()
        count += 1
    return round(count / (time.perf_counter() - start), 1)


def measure(seconds: float) -> dict[str, Any]:
    """Return what this machine reaches, each number measured for about `seconds`."""
    backend = select_backend()
    result: dict[str, Any] = {"backend": backend, "cores": len(os.sched_getaffinity(0))}
    for style in ("fast", "faithful"):
        renderer = kitchen_frames(style)
        result[f"frames_per_s_{style}"] = rate(partial(renderer.frame, START_QPOS), seconds)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (256, 9)).astype(np.float32)
    for name, obs in (("pixels", "pixels"), ("physics_only", "state")):
        env = make("kitchen", obs)
        env.reset(seed=0)
        turn = iter(range(sys.maxsize))

        def step(env: Any = env, turn: Any = turn) -> None:
            index = next(turn)
            if index % 280 == 279:
                env.reset()
            env.step(actions[index % len(actions)])

        result[f"env_steps_per_s_{name}"] = rate(step, seconds)
        env.close()
    return result


def side_by_side() -> np.ndarray:
    """Return both styles as one picture (1024, 1024, 3): left fast, right faithful; 64 pixels (enlarged) above 256."""
    states = (START_QPOS, done_qpos())
    rows = []
    for size in (64, 256):
        scale = 256 // size
        for style in ("fast", "faithful"):
            frames = [kitchen_frames(style, size).frame(qpos) for qpos in states]
            rows.append(np.concatenate([frame.repeat(scale, 0).repeat(scale, 1) for frame in frames], 0))
    small, large = np.concatenate(rows[:2], 1), np.concatenate(rows[2:], 1)
    return np.concatenate([small, large], 1)


def main(arguments: list[str]) -> None:
    """Run from key=value arguments; EnvError for an unknown one."""
    if asks_for_help(arguments):
        print("python -m benchmark.render [seconds=2] [picture=FILE.png]")
        return
    options = {"seconds": "2", "picture": ""}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in options:
            raise EnvError(f"unknown argument {argument!r}{nearest(key, options)}")
        options[key] = value
    print(json.dumps(measure(float(options["seconds"])), indent=2))
    if options["picture"]:
        import imageio.v3

        path = Path(options["picture"])
        path.parent.mkdir(parents=True, exist_ok=True)
        imageio.v3.imwrite(path, side_by_side())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (EnvError, ValueError) as problem:
        sys.exit(f"benchmark.render: {problem}")
