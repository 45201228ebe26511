"""What the commands on a run that has been trained share: their frame, opening the run, its agent.

Environment processes import the modules of commands, so torch stays inside functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from demos import cli

if TYPE_CHECKING:
    from agent.agent import Agent
    from envs.base import Environment
    from envs.vector import VectorEnv

Options = TypeVar("Options")
ROBOT = "robot.json"  # of a run whose demonstrations tell of a robot: what they tell
# of a run: its newest weights, those that scored best when it was monitored, those nearest to the demonstrations
FOLDERS = {"last": "checkpoint", "best": "best", "chosen": "chosen"}


def command(
    program: str,
    usage: str,
    body: Callable[[Options], Any],
    options: type[Options],
    argv: Sequence[str] | None,
    interrupted: str = "interrupted; only what was complete is written",
) -> int:
    """Parse, do ``body``; the exit code: 0 done, 1 a problem that is told in one line, 130 interrupted."""
    from agent.build import ConfigError
    from agent.checkpoint import CheckpointError

    errors = ConfigError, CheckpointError, OSError
    return cli.run(
        body, options, argv, cli.explained(usage, options), program=program, errors=errors, interrupted=interrupted
    )


def open_run(run: Path, weights: str = "last") -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's configuration and its newest checkpoint, or the weights that scored best on the seeds that it was
    monitored with. Raises ConfigError, CheckpointError when there is none.
    """
    from agent import checkpoint
    from agent.build import ConfigError
    from agent.checkpoint import CheckpointError
    from agent.config import fingerprint, read_config

    if not run.is_dir():
        raise ConfigError(f"{run}: no such run folder")
    if weights not in FOLDERS:
        raise ConfigError(f"weights={weights}: expected one of {', '.join(FOLDERS)}")
    config = read_config(run / "config.yaml")
    state = checkpoint.load(run / FOLDERS[weights], fingerprint(config), counts=fingerprint, weights_alone=True)
    if state is None:
        raise CheckpointError(f"{run}: holds no {FOLDERS[weights]} yet")
    return config, state


def open_envs(config: Mapping[str, Any], n: int) -> VectorEnv:
    """``n`` environments of the run's task, each in a process; recordings, which cost nothing to play and much to read,
    in this one, once.
    """
    from agent.given import simulated
    from envs.vector import VectorEnv

    task, played = config["task"], simulated(config)
    how: dict[str, Any] = {"processes": played, "options": task["options"], "render": config.get("render", "fast")}
    return VectorEnv(task["name"], config["obs"]["name"], n if played else 1, **how)


def open_env(config: Mapping[str, Any], obs: str | None = None) -> Environment:
    """One environment of the run's task in this process, drawn as the run's pictures were. obs: another observation
    than the run's.
    """
    from envs.make import make

    task = config["task"]
    return make(task["name"], obs or config["obs"]["name"], render=config.get("render", "fast"), **task["options"])


def refuse_recordings(config: Mapping[str, Any]) -> None:
    """Raise ConfigError where the task has no simulator, so that nothing can be played in it."""
    from agent.build import ConfigError
    from agent.given import simulated

    if not simulated(config):
        raise ConfigError(f"task={config['task']['name']} has no simulator: no new episodes can be played in it")


def robot_of(run: Path) -> dict[str, Any] | None:
    """What the run's demonstrations tell of the robot; None: nothing. Raises ConfigError when the file is damaged."""
    from agent.build import ConfigError

    path = run / ROBOT
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: not readable ({error}); the command that trained the run writes it again"
        ) from error
    return dict(found)


def restore(run: Path, config: dict[str, Any], state: dict[str, Any], env: Any, device: Any) -> Agent:
    """The agent of a run with the checkpoint's weights, for environments with the spaces of ``env`` (or of a vector).

    Raises ConfigError when they do not belong together.
    """
    return rebuild(run, config, state, env.action_space.shape[0], env.observation_space.shape, device)


def rebuild(
    run: Path, config: dict[str, Any], state: dict[str, Any], actions: int, obs: tuple[int, ...], device: Any
) -> Agent:
    """The same for ``actions`` numbers an action and observations of shape ``obs``."""
    from agent.build import ConfigError, build_agent

    try:
        agent = build_agent(config, actions, device, obs)
        for name, module in state["modules"].items():
            getattr(agent, name).load_state_dict(module)
    except (KeyError, TypeError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{run}: was made for other shapes, or by another version of this project ({cause})"
        ) from error
    return agent
