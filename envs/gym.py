"""``task=gym``: whatever gymnasium.make can make, a simulator of one's own among it."""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.base import Environment, observations, pace, wants_pictures
from envs.errors import EnvError, RenderingError
from envs.frames import SIZE, small
from envs.rendering import select_backend

SUCCESS = ("success", "is_success")  # entries of an environment's info
_Path = tuple[str, ...]  # keys that lead to a part of an observation


class GymEnv(Environment):
    """An environment that is registered in Gymnasium, with its actions mapped linearly to [-1, 1].

    State: the numbers of the observation, a Box or a Dict of such, one after the other in the space's order. Picture:
    the (height, width, 3) uint8 of the observation, else what render() draws; the whole frame, reduced to 64 x 64.
    Score: the undiscounted return so far. Success: the environment has told it in this episode, by info["success"] or
    info["is_success"]. It alone terminates; step `horizon` truncates.

    Simulator state of an environment of MuJoCo (`model` and `data` of unwrapped), float64: all that MuJoCo integrates,
    the goal if unwrapped has one, state, steps, return, success. What else an environment remembers is not in it, and
    what MuJoCo computes one physics step late (the bodies' places) is up to date after a restore. Others have an empty
    state and cannot be restored; nor can pictures that come with observations.
    """

    task = "gym"
    subtasks = ()

    def __init__(
        self,
        *,
        obs: str = "state",
        render: str = "fast",
        id: str = "",
        kwargs: str = "{}",
        horizon: int | None = None,
        dt: float | None = None,
    ) -> None:
        """Make the environment.

        Args:
            obs: "pixels" (64, 64, 3) uint8 or "state" (d,) float32.
            render: both styles look the same.
            id: as gymnasium.make takes it; "module:Id" imports the module, which registers it.
            kwargs: further arguments for it, a JSON object.
            horizon: steps an episode; None: as it is registered (max_episode_steps).
            dt: seconds between two actions; None: dt of unwrapped, else 1 / metadata["render_fps"], else 0.1.

        Raises:
            EnvError: it cannot be made, or its observations or actions cannot be used.
        """
        if not id:
            raise EnvError("task.options.id is missing: what gymnasium.make takes, such as my_package:MyRobot-v0")
        if horizon is not None and (isinstance(horizon, bool) or horizon < 1 or horizon != int(horizon)):
            raise EnvError(f"task.options.horizon={horizon}: expected a number of steps")
        pace(dt, None)
        self.render_style = render
        self._id, self._pixels = id, wants_pictures(self.task, obs)
        given = _parsed(kwargs) | ({} if horizon is None else {"max_episode_steps": int(horizon)})
        if self._pixels:
            with contextlib.suppress(RenderingError):  # not everything that draws needs OpenGL
                select_backend()  # before the environment's module imports mujoco
        self._env, why = _made(id, given, self._pixels)
        self._sim: Any = self._env.unwrapped
        self.dt, _ = pace(dt, _told(self._env))
        spec = self._env.spec
        if spec is None or spec.max_episode_steps is None:
            raise EnvError(f"task.options.horizon is missing: {id} is registered without max_episode_steps")
        self.horizon = spec.max_episode_steps
        self.full_score = float(spec.reward_threshold or "nan")
        self._box = _bounded(id, self._env.action_space)
        low, high = (side.ravel().astype(np.float64) for side in (self._box.low, self._box.high))
        self.limits: tuple[np.ndarray, np.ndarray] = low, high
        self.action_space = spaces.Box(-1.0, 1.0, low.shape, np.float32)
        parts = dict(_boxes(id, self._env.observation_space))
        pictures = [path for path, part in parts.items() if _is_picture(part)]
        self._numbers = [path for path in parts if path not in pictures]
        self._picture = pictures[0] if pictures else None
        size = self._size = sum(int(np.prod(parts[path].shape)) for path in self._numbers)
        if not self._pixels and not size:
            raise EnvError(f"{id}: observations hold no numbers; obs=pixels takes their picture")
        if self._pixels and len(pictures) > 1:
            names = ", ".join(".".join(path) for path in pictures)
            raise EnvError(f"{id}: observations hold several pictures ({names}); obs=pixels takes one")
        if self._pixels and not pictures and self._env.render_mode != "rgb_array":
            raise EnvError(
                f"{id}: obs=pixels takes a (height, width, 3) uint8 of the observation, or what render() draws with "
                f"render_mode='rgb_array'; it has neither{why}"
            )
        self.observation_space = observations(self._pixels, size)
        mujoco = sys.modules.get("mujoco")  # whoever has made an environment of MuJoCo has imported it
        physical = mujoco is not None and isinstance(getattr(self._sim, "data", None), mujoco.MjData)
        self._mujoco: Any = mujoco if physical and not (self._pixels and pictures) else None
        self._vector: np.ndarray
        self.reset(seed=0)  # fail now, not at the first episode, if nothing can draw

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode, or continue from options["sim_state"]; return (obs, info)."""
        seen, info = self._env.reset(seed=seed)
        self._steps, self._return, self._success = 0, 0.0, False
        self._see(seen, info)
        if options and options.get("sim_state") is not None:
            self.set_state(options["sim_state"])
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Execute `action` (A,), clipped to [-1, 1]; the reward is the environment's, for evaluation only."""
        values = np.asarray(action, np.float64)
        if values.shape != self.action_space.shape or not np.isfinite(values).all():
            raise EnvError(f"{self._id}: an action is a finite array of shape {self.action_space.shape}, got {action}")
        box, share = self._box, values.reshape(self._box.shape)
        low, high = (side.reshape(box.shape) for side in self.limits)
        asked = ((1.0 - share) * low + (1.0 + share) * high) / 2.0  # exactly low and high at -1 and 1
        executed = np.clip(asked, low, high).astype(box.dtype)
        seen, reward, terminated, truncated, info = self._env.step(executed)
        self._steps += 1
        self._return += float(reward)
        self._see(seen, info)
        over = bool(truncated) or self._steps >= self.horizon
        return self._observe(), float(reward), bool(terminated), over, self._info()

    def get_state(self) -> np.ndarray:
        """Return the simulator state (S,) float64; the class docstring says of which environments, and what is in it.
        (0,) of the others.
        """
        if self._mujoco is None:
            return np.zeros(0)
        physics = np.empty(self._physics_size)
        self._mujoco.mj_getState(self._sim.model, self._sim.data, physics, self._bits)
        clock = [self._steps, self._return, self._success]
        return np.concatenate([physics, self._goal.ravel(), self._vector, clock])

    def set_state(self, state: np.ndarray) -> None:
        """Continue from what get_state returned; EnvError for anything else, and where there is nothing to restore."""
        if self._mujoco is None:
            raise EnvError(
                f"{self._id}: cannot be put into a state; MuJoCo's environments can, if they draw their pictures"
            )
        values, goal = np.asarray(state, np.float64), self._goal
        full = self._physics_size + goal.size + self._vector.size + 3
        if values.shape != (full,) or not np.isfinite(values).all():
            raise EnvError(f"{self._id}: a simulator state is a finite array of shape ({full},), got {values.shape}")
        physics, aim, vector, clock = np.split(values, np.cumsum([self._physics_size, goal.size, self._vector.size]))
        if goal.size:
            self._sim.goal = aim.reshape(goal.shape).astype(goal.dtype)
        model, data = self._sim.model, self._sim.data
        self._mujoco.mj_setState(model, data, physics, self._bits)
        self._mujoco.mj_forward(model, data)
        self._mujoco.mj_setState(model, data, physics, self._bits)  # forward changed the warm start before MuJoCo 3.3.6
        self._vector = vector.astype(np.float32)
        self._steps, self._return, self._success = int(clock[0]), float(clock[1]), bool(clock[2])

    def render(self, size: int = SIZE) -> np.ndarray:
        """Return the picture of the current state, (64, 64, 3) uint8; EnvError without obs=pixels, for another size,
        or when the environment cannot draw it.
        """
        if not self._pixels:
            raise EnvError(f"{self._id}: made from state, without a renderer: pictures need obs=pixels")
        if size != SIZE:
            raise EnvError(f"{self._id}: pictures are {SIZE} x {SIZE}: size={SIZE}")
        try:
            frame = self._env.render() if self._picture is None else _read(self._seen, self._picture)
            return small(np.array(frame))
        except Exception as error:  # whatever is wrong with a renderer that nobody here knows
            raise EnvError(f"{self._id}: no picture: {_cause(error)}") from error

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    @property
    def _bits(self) -> int:
        """What of MuJoCo's state is kept: all that its integration reads."""
        return int(self._mujoco.mjtState.mjSTATE_INTEGRATION)

    @property
    def _physics_size(self) -> int:
        return int(self._mujoco.mj_stateSize(self._sim.model, self._bits))

    @property
    def _goal(self) -> np.ndarray:
        """What gymnasium-robotics' environments draw at a reset and keep beside MuJoCo's data; (0,) of the others."""
        goal = getattr(self._sim, "goal", None)
        return goal if isinstance(goal, np.ndarray) and goal.dtype.kind == "f" else np.zeros(0)

    def _see(self, seen: Any, info: dict[str, Any]) -> None:
        """Take what the environment tells after a reset or a step."""
        self._seen = seen
        parts = [np.ravel(_read(seen, path)) for path in self._numbers]
        self._vector = np.concatenate([np.zeros(0), *parts]).astype(np.float32)
        if self._vector.size != self._size:
            told = f"an observation of {self._vector.size} numbers, where its space has {self._size}"
            raise EnvError(f"{self._id}: {told} (step {self._steps})")
        if not np.isfinite(self._vector).all():
            index = int(np.flatnonzero(~np.isfinite(self._vector))[0])
            raise EnvError(f"{self._id}: observation[{index}] is {self._vector[index]} (step {self._steps})")
        self._success = self._success or any(bool(info.get(key)) for key in SUCCESS)

    def _observe(self) -> np.ndarray:
        """Return the picture or the state, as chosen."""
        return self.render() if self._pixels else self._vector

    def _info(self) -> dict[str, Any]:
        """Return the facts that every environment reports with each row."""
        return {
            "state": self._vector,
            "tasks_done": np.zeros(0, np.float32),
            "score": self._return,
            "success": self._success,
        }


def _parsed(kwargs: str) -> dict[str, Any]:
    """Read the option; EnvError unless it is a JSON object."""
    try:
        found = json.loads(kwargs)
    except ValueError as error:
        raise EnvError(f"task.options.kwargs={kwargs}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise EnvError(f'task.options.kwargs={kwargs}: expected a JSON object, such as {{"reward_type": "sparse"}}')
    return found


def _made(id: str, given: dict[str, Any], pixels: bool) -> tuple[gymnasium.Env[Any, Any], str]:
    """Make the environment, for pixels with a renderer if it takes one; also ": why not", or nothing. EnvError."""
    why = ""
    if pixels:
        try:
            return gymnasium.make(id, **given, render_mode="rgb_array"), why
        except Exception as error:  # it may give pictures without; what else is wrong shows below
            why = f": {_cause(error)}"
    try:
        return gymnasium.make(id, **given), why
    except Exception as error:  # a constructor that nobody here knows
        raise EnvError(f"task.options.id={id}: gymnasium cannot make it: {_cause(error)}") from error


def _told(env: gymnasium.Env[Any, Any]) -> float | None:
    """Return the seconds between two actions, if the environment tells them."""
    told = getattr(env.unwrapped, "dt", None)
    if isinstance(told, int | float | np.floating) and told > 0:
        return float(told)
    rate = env.metadata.get("render_fps")
    return 1.0 / float(rate) if rate else None


def _bounded(id: str, space: gymnasium.Space[Any]) -> spaces.Box:
    """Return the space of actions; EnvError unless [-1, 1] can be stretched over it."""
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f" or not space.is_bounded():
        raise EnvError(f"{id}: actions are {_line(space)}; expected a Box of real numbers, with bounds")
    return space


def _boxes(id: str, space: gymnasium.Space[Any], path: _Path = ()) -> Iterator[tuple[_Path, spaces.Box]]:
    """Yield the Boxes that observations consist of, in the order of gymnasium.spaces.flatten; EnvError for others."""
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            yield from _boxes(id, part, (*path, key))
    elif not isinstance(space, spaces.Box):
        raise EnvError(f"{id}: observations hold {_line(space)}; expected a Box, or a Dict of them")
    elif len(space.shape) > 2 and not _is_picture(space):
        raise EnvError(f"{id}: observations hold {_line(space)}; a picture is (height, width, 3) uint8")
    else:
        yield path, space


def _is_picture(box: spaces.Box) -> bool:
    """Return whether its values are RGB pictures."""
    return box.dtype == np.uint8 and len(box.shape) == 3 and box.shape[2] == 3


def _read(seen: Any, path: _Path) -> Any:
    """Return the part of an observation that a path leads to."""
    return functools.reduce(operator.getitem, path, seen)


def _cause(error: Exception) -> str:
    """Return what is wrong in one line."""
    return f"{type(error).__name__}: {_line(error)}"


def _line(thing: object) -> str:
    """Return what a thing says of itself in one line."""
    return " ".join(str(thing).split())
