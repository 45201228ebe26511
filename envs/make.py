"""(task, observation) -> environment. A suite's module is imported only when one of its tasks is asked for."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from envs.base import Environment
from envs.errors import EnvError, nearest

__all__ = ["EnvError", "check", "make", "task_names", "task_options"]

OBS = ("pixels", "state")
RENDER = ("fast", "faithful")


@dataclass(frozen=True)
class _Entry:
    """Where a task's class lives, and whether importing its module decides on an OpenGL backend (mujoco does)."""

    module: str
    name: str
    mujoco: bool
    bound: tuple[str, ...] = ()  # the class's first arguments, where one class serves many tasks


_TASKS: dict[str, _Entry] = {
    "count": _Entry("envs.toy", "CountEnv", False),
    "line": _Entry("envs.toy", "LineEnv", False),
    "gym": _Entry("envs.gym", "GymEnv", False),
    "own": _Entry("demos.recorded_env", "RecordedEnv", False),  # plays demonstrations, so it lives with them
    "kitchen": _Entry("envs.kitchen", "KitchenEnv", True),
    "baoding": _Entry("envs.baoding", "BaodingEnv", True),
    "hopper": _Entry("envs.locomotion", "HopperEnv", True),
    "halfcheetah": _Entry("envs.locomotion", "HalfCheetahEnv", True),
    "walker2d": _Entry("envs.locomotion", "Walker2dEnv", True),
    "ant": _Entry("envs.locomotion", "AntEnv", True),
    "ant-custom": _Entry("envs.custom_ant", "CustomAntEnv", True),
    "ant-disabled": _Entry("envs.custom_ant", "DisabledAntEnv", True),
    "humanoid": _Entry("envs.locomotion", "HumanoidEnv", True),
    "antmaze-umaze": _Entry("envs.antmaze", "UMazeEnv", True),
    "antmaze-medium": _Entry("envs.antmaze", "MediumMazeEnv", True),
    "antmaze-large": _Entry("envs.antmaze", "LargeMazeEnv", True),
    "door": _Entry("envs.adroit", "DoorEnv", True),
    "hammer": _Entry("envs.adroit", "HammerEnv", True),
    "pen": _Entry("envs.adroit", "PenEnv", True),
    "relocate": _Entry("envs.adroit", "RelocateEnv", True),
    **{
        task: _Entry("envs.dmc", "DmcEnv", True, (task,))
        for task in (
            "dmc-cartpole-swingup",
            "dmc-cheetah-run",
            "dmc-finger-spin",
            "dmc-hopper-hop",
            "dmc-hopper-stand",
            "dmc-reacher-easy",
            "dmc-walker-walk",
        )
    },
}


def task_names() -> tuple[str, ...]:
    """Return the names of the tasks that have a file in configs/task, sorted; `make` takes any dmc-DOMAIN-TASK."""
    return tuple(sorted(_TASKS))


def task_options(task: str) -> dict[str, Any]:
    """Return the options of a task and their defaults; imports its suite. Raises EnvError for an unknown task."""
    signature = inspect.signature(_class_of(task))
    own = {"obs", "render"}
    return {name: parameter.default for name, parameter in signature.parameters.items() if name not in own}


def make(task: str, obs: str, *, render: str = "fast", **options: Any) -> Environment:
    """Make an environment.

    Args:
        task: one of task_names(), or dmc-DOMAIN-TASK for any other task of the dm-control suite.
        obs: "pixels" (64, 64, 3) uint8, or "state" (d,) float32.
        render: "fast" or "faithful" pictures (see envs.rendering).
        options: the task's own options (see task_options), such as subtasks of the kitchen.

    Raises:
        EnvError: an unknown task, observation, style, or option (the nearest valid name is given), or a bad value.
        RenderingError: pixels were asked for and no OpenGL backend works.
    """
    check(task, obs, render, options)
    return _class_of(task)(obs=obs, render=render, **options)


def check(task: str, obs: str, render: str, options: Mapping[str, Any]) -> str:
    """Raise what `make` would for unknown names, making nothing; the values of options are the suite's to check.

    Returns the OpenGL backend that is going to draw pictures; empty where none is needed.
    """
    entry = _find(task)
    if obs not in OBS:
        raise EnvError(f"unknown observation {obs!r}{nearest(obs, OBS)}")
    if render not in RENDER:
        raise EnvError(f"unknown render style {render!r}{nearest(render, RENDER)}")
    backend = ""
    if entry.mujoco and obs == "pixels":
        from envs.rendering import select_backend

        # mujoco reads MUJOCO_GL when it is imported, so the backend must be known before the suite's import
        backend = select_backend()
    valid = task_options(task)
    for name in options:
        if name not in valid:
            raise EnvError(f"task {task!r} has no option {name!r}{nearest(name, valid)}")
    return backend


def _class_of(task: str) -> Callable[..., Environment]:
    """Import a task's suite and return its class; EnvError if the import fails, with the cause."""
    entry = _find(task)
    try:
        found: Callable[..., Environment] = getattr(importlib.import_module(entry.module), entry.name)
    except (ImportError, RuntimeError) as error:
        raise EnvError(f"the suite of task {task!r} cannot be imported: {error}") from error
    return functools.partial(found, *entry.bound) if entry.bound else found


def _find(task: str) -> _Entry:
    """Return the entry of a task, or raise EnvError with the nearest name."""
    if task not in _TASKS and task.startswith("dmc-"):
        return _Entry("envs.dmc", "DmcEnv", True, (task,))
    if task not in _TASKS:
        raise EnvError(f"unknown task {task!r}{nearest(task, _TASKS)}")
    return _TASKS[task]
