"""Policies for running robots from the true reward: ``python -m demos.experts.ppo task=walker2d out=FILE``.

Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347) by Stable-Baselines3, which the extra ``experts``
installs. On a processor it makes an expert in minutes where random search or SAC would take hours.
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
from demos.experts.policies import Policy, trials
from demos.experts.recording import make_room
from envs.make import make

TASKS = ("hopper", "walker2d", "halfcheetah", "ant")
SOURCE = "neural policy, proximal policy optimisation"
LOOK_EVERY = 50_000  # environment steps between looks at the policy without noise
ROLLOUT = 512  # steps of each environment between two improvements


def read(model: Any, moments: Any) -> Policy:
    """The mean action of a trained policy, as arrays.

    Args:
        model: `stable_baselines3.PPO` with tanh layers.
        moments: the running mean and variance of states (d,) by which its inputs were normalised.
    """
    hidden = [layer for layer in model.policy.mlp_extractor.policy_net if hasattr(layer, "weight")]
    layers = [*hidden, model.policy.action_net]
    weights, biases = ([getattr(x, n).detach().numpy().astype(float) for x in layers] for n in ("weight", "bias"))
    return Policy(tuple(weights), tuple(biases), moments.mean.copy(), np.sqrt(moments.var + 1e-8), SOURCE)


def train(
    make_env: Callable[[], Any],
    seed: int,
    steps: int,
    *,
    envs: int,
    rate: float,
    look: Callable[[Policy, int], bool],
    look_every: int = LOOK_EVERY,
    rollout: int = ROLLOUT,
) -> Policy:
    """Learn for so many environment steps, or until `look` says that it is enough; return the last policy.

    Args:
        make_env: makes a gymnasium environment with a state and actions in [-1, 1].
        seed: of weights, actions and episodes.
        steps: environment steps in all, rounded up to whole rollouts.
        envs: environments, stepped one after the other in this process.
        rate: learning rate at the beginning; it falls to 0 in a line.
        look: called every `look_every` steps with the policy without noise and the steps made so far; False: enough.
        look_every: see `look`.
        rollout: steps of each environment between two improvements.

    Raises:
        UsageError: Stable-Baselines3 is not installed.
    """
    try:
        from stable_baselines3 import PPO
        from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
    except ImportError as error:
        raise cli.UsageError("Stable-Baselines3 is missing: pip install stable-baselines3") from error
    together = VecNormalize(DummyVecEnv([make_env] * envs), gamma=0.99)
    due = look_every

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        nonlocal due
        if local["self"].num_timesteps >= due:
            due += look_every
            return look(read(local["self"], together.obs_rms), local["self"].num_timesteps)
        return True

    model = PPO(
        "MlpPolicy",
        together,
        learning_rate=lambda left: rate * left,
        n_steps=rollout,
        batch_size=128,
        n_epochs=10,
        policy_kwargs={"log_std_init": -1.0, "net_arch": [64, 64]},
        seed=seed,
        device="cpu",
    )
    model.learn(steps, callback=watch)
    found = read(model, together.obs_rms)
    together.close()
    return found


@dataclass(frozen=True)
class Options:
    """Arguments of the command."""

    out: Path
    task: str = "walker2d"
    seed: int = 0
    steps: int = 2_000_000
    envs: int = 8
    rate: float = 3e-4
    stop_at: float | None = None  # the worst trial's return that is enough


def body(options: Options) -> None:
    """Learn, and save the policy whose worst trial was best."""
    if options.task not in TASKS:
        raise cli.UsageError(f"task={options.task}: expected one of {', '.join(TASKS)}")
    for name in ("steps", "envs", "rate"):
        if getattr(options, name) <= 0:
            raise cli.UsageError(f"{name}={getattr(options, name):g}: expected more than 0")
    make_room(options.out)
    env, best, begun = make(options.task, "state"), -np.inf, time.monotonic()

    def look(policy: Policy, steps: int) -> bool:
        nonlocal best
        returns = trials(env, policy)
        if min(returns) > best:
            best = min(returns)
            policy.save(options.out)  # at once: a search may be cut
        spent = time.monotonic() - begun
        print(
            f"{steps} steps, {spent:.0f} s, {max(0.0, spent * (options.steps / steps - 1)):.0f} s left: return"
            f" {np.mean(returns):.0f}, worst {min(returns):.0f}; best so far {best:.0f}",
            file=sys.stderr,
            flush=True,
        )
        return options.stop_at is None or best < options.stop_at

    last = train(
        lambda: make(options.task, "state"),
        options.seed,
        options.steps,
        envs=options.envs,
        rate=options.rate,
        look=look,
    )
    if options.stop_at is None or best < options.stop_at:
        look(last, options.steps)
    env.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    usage = "python -m demos.experts.ppo out=FILE [task=walker2d] [seed=0] [steps=2000000] [stop_at=RETURN] [...]"
    return cli.run(body, Options, argv, usage)


if __name__ == "__main__":
    raise SystemExit(main())
