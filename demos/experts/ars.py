"""Linear policies for running robots by augmented random search: ``python -m demos.experts.ars task=hopper out=FILE``.

Mania, Guy and Recht 2018 (arXiv:1803.07055), version V2-t: states are standardised, the step goes along the differences
of mirrored rollouts in the best directions, divided by the standard deviation of their returns.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demos import cli
from demos.errors import DemoError
from envs.make import make

TASKS = ("hopper", "walker2d")
SURVIVAL = {"hopper": 1.0, "walker2d": 1.0}  # reward of each step without a fall, which the search leaves out
TRIALS = 5  # episodes that compare policies
TRIAL_SEED = 10**6


@dataclass(frozen=True)
class LinearPolicy:
    """The action clip(W (s - mean) / std, -1, 1).

    Attributes:
        weight: W (A, d).
        mean, std: (d,) of the states that the search has seen.
    """

    weight: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def act(self, state: np.ndarray) -> np.ndarray:
        """Return the action (A,) float64 for a state (d,)."""
        return np.clip(self.weight @ ((state - self.mean) / self.std), -1.0, 1.0)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all. Raises DemoError where that cannot be."""
        rows = {name: np.round(getattr(self, name), 6).tolist() for name in ("weight", "mean", "std")}
        text = "{\n" + ",\n".join(f'  "{name}": {json.dumps(values)}' for name, values in rows.items()) + "\n}\n"
        try:
            beside = path.with_name(path.name + ".tmp")
            beside.write_text(text)
            os.replace(beside, path)
        except OSError as error:
            raise DemoError(path, "out", f"cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: Path) -> LinearPolicy:
        """Read what `save` wrote. Raises DemoError when it is no such file."""
        try:
            rows = json.loads(path.read_text())
            found = cls(*(np.asarray(rows[name], np.float64) for name in ("weight", "mean", "std")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DemoError(path, "policy", f"is not a linear policy: {error}") from error
        size = found.weight.shape[-1:]
        if found.weight.ndim != 2 or found.mean.shape != size or found.std.shape != size or (found.std <= 0).any():
            raise DemoError(path, "policy", "weight (A, d), mean (d,) and positive std (d,) are expected")
        return found


class Moments:
    """Running mean and standard deviation of states (d,)."""

    def __init__(self, size: int) -> None:
        """Begin with nothing seen."""
        self._count, self._sum, self._square = 0, np.zeros(size), np.zeros(size)

    def add(self, state: np.ndarray) -> None:
        """Count one state."""
        self._count += 1
        self._sum += state
        self._square += state * state

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and std (d,); 0 and 1 of nothing."""
        if self._count == 0:
            return self._sum, np.ones_like(self._sum)
        mean = self._sum / self._count
        return mean, np.sqrt(np.maximum(self._square / self._count - mean**2, 1e-8))


def episode(env: Any, policy: LinearPolicy, seed: int, seen: Moments | None = None) -> tuple[float, int]:
    """Return the return and the length of one episode; states go to `seen`."""
    state, _ = env.reset(seed=seed)
    total, steps, over = 0.0, 0, False
    while not over:
        if seen is not None:
            seen.add(state)
        state, reward, terminated, truncated, _ = env.step(policy.act(state).astype(np.float32))
        total, steps, over = total + reward, steps + 1, terminated or truncated
    return total, steps


def search(
    env: Any,
    seed: int,
    rounds: int,
    *,
    survival: float,
    directions: int,
    best: int,
    noise: float,
    rate: float,
    keep: Callable[[LinearPolicy], None] = lambda policy: None,
) -> LinearPolicy:
    """Search for so many rounds; return the policy whose worst of five trials was best.

    Args:
        env: a locomotion environment made with obs="state".
        seed: of the directions and of the episodes' starts.
        rounds: steps of the search.
        survival: reward of each step that the search leaves out, so that standing still is worth nothing.
        directions, best: mirrored pairs of rollouts a step, and how many of them count.
        noise, rate: how far rollouts look, and how far a step goes.
        keep: called with every policy that is better than all before.
    """
    rng = np.random.default_rng(seed)
    seen = Moments(env.observation_space.shape[0])
    policy = LinearPolicy(np.zeros((env.action_space.shape[0], len(seen.read()[0]))), *seen.read())
    found, record = policy, -np.inf
    begun, steps = time.monotonic(), 0
    for number in range(1, rounds + 1):
        ways = rng.standard_normal((directions, *policy.weight.shape))
        returns = np.zeros((directions, 2))
        for way, row in zip(ways, returns, strict=True):
            start = int(rng.integers(2**30))
            for side, sign in enumerate((1.0, -1.0)):
                tried = LinearPolicy(policy.weight + sign * noise * way, policy.mean, policy.std)
                total, length = episode(env, tried, start, seen)
                row[side], steps = total - survival * length, steps + length
        top = np.argsort(-returns.max(1), kind="stable")[:best]
        step = np.tensordot(returns[top, 0] - returns[top, 1], ways[top], 1) / (best * (returns[top].std() + 1e-6))
        policy = LinearPolicy(policy.weight + rate * step, *seen.read())
        if number % 20 == 0 or number == rounds:
            trials = [episode(env, policy, TRIAL_SEED + i)[0] for i in range(TRIALS)]
            if min(trials) > record:
                found, record = policy, min(trials)
                keep(found)
            print(
                f"round {number}, {steps} steps, {time.monotonic() - begun:.0f} s: return {np.mean(trials):.0f},"
                f" worst {min(trials):.0f}; best so far {record:.0f}",
                file=sys.stderr,
                flush=True,
            )
    return found


@dataclass(frozen=True)
class Options:
    """Arguments of the command."""

    out: Path
    task: str = "hopper"
    seed: int = 0
    rounds: int = 300
    directions: int = 8
    best: int = 4
    noise: float = 0.025
    rate: float = 0.01


def body(options: Options) -> None:
    """Search, and save the best."""
    if options.task not in TASKS:
        raise cli.UsageError(f"task={options.task}: expected one of {', '.join(TASKS)}")
    if not 1 <= options.best <= options.directions:
        raise cli.UsageError(f"best={options.best}: expected 1 to directions={options.directions}")
    for name in ("rounds", "noise", "rate"):
        if getattr(options, name) <= 0:
            raise cli.UsageError(f"{name}={getattr(options, name):g}: expected more than 0")
    env = make(options.task, "state")
    search(
        env,
        options.seed,
        options.rounds,
        survival=SURVIVAL[options.task],
        directions=options.directions,
        best=options.best,
        noise=options.noise,
        rate=options.rate,
        keep=lambda policy: policy.save(options.out),  # at once: a search may be cut
    )
    env.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    usage = "python -m demos.experts.ars out=FILE [task=hopper] [seed=0] [rounds=300] [directions=8] [best=4] [...]"
    return cli.run(body, Options, argv, usage)


if __name__ == "__main__":
    raise SystemExit(main())
