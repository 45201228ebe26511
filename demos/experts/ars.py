"""Linear policies for running robots by augmented random search: ``python -m demos.experts.ars task=hopper out=FILE``.

Mania, Guy and Recht 2018 (arXiv:1803.07055), version V2-t: states are standardised, the step goes along the differences
of mirrored rollouts in the best directions, divided by the standard deviation of their returns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demos import cli
from demos.experts.policies import Moments, Policy, episode, trials
from demos.experts.recording import make_room
from envs.make import make

SURVIVAL = {"hopper": 1.0}  # reward of each step without a fall, which the search leaves out
SOURCE = "linear policy, random search"


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
    keep: Callable[[Policy], None] = lambda policy: None,
) -> Policy:
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
    policy = Policy.linear(np.zeros((env.action_space.shape[0], len(seen.read()[0]))), *seen.read(), SOURCE)
    found, record = policy, -np.inf
    begun, steps = time.monotonic(), 0
    for number in range(1, rounds + 1):
        ways = rng.standard_normal((directions, *policy.weights[0].shape))
        returns = np.zeros((directions, 2))
        for way, row in zip(ways, returns, strict=True):
            start = int(rng.integers(2**30))
            for side, sign in enumerate((1.0, -1.0)):
                tried = Policy.linear(policy.weights[0] + sign * noise * way, policy.mean, policy.std)
                total, length = episode(env, tried, start, seen)
                row[side], steps = total - survival * length, steps + length
        top = np.argsort(-returns.max(1), kind="stable")[:best]
        step = np.tensordot(returns[top, 0] - returns[top, 1], ways[top], 1) / (best * (returns[top].std() + 1e-6))
        policy = Policy.linear(policy.weights[0] + rate * step, *seen.read(), SOURCE)
        if number % 20 == 0 or number == rounds:
            tried_returns = trials(env, policy)
            if min(tried_returns) > record:
                found, record = policy, min(tried_returns)
                keep(found)
            print(
                f"round {number}, {steps} steps, {time.monotonic() - begun:.0f} s: return {np.mean(tried_returns):.0f},"
                f" worst {min(tried_returns):.0f}; best so far {record:.0f}",
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
    if options.task not in SURVIVAL:
        raise cli.UsageError(f"task={options.task}: expected one of {', '.join(SURVIVAL)}")
    if not 1 <= options.best <= options.directions:
        raise cli.UsageError(f"best={options.best}: expected 1 to directions={options.directions}")
    for name in ("rounds", "noise", "rate"):
        if getattr(options, name) <= 0:
            raise cli.UsageError(f"{name}={getattr(options, name):g}: expected more than 0")
    make_room(options.out)
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
