"""The dm-control suite: any of its tasks with state or pixels, in [-1, 1], 1000 control steps an episode."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np

from envs.errors import EnvError, nearest
from envs.mujoco_env import MujocoEnvironment

_asked = os.environ.get("MUJOCO_GL")
os.environ["MUJOCO_GL"] = "disable"  # this project draws the frames; the package would load a windowing library
try:
    from dm_control import suite
except ImportError as problem:
    raise EnvError(
        f"dmc-* tasks need the package dm-control ({problem}): pip install -c constraints.txt -e '.[dmc]'; "
        "a part of it, labmaze, needs Python 3.12 or older"
    ) from problem
finally:
    os.environ.pop("MUJOCO_GL")
    if _asked is not None:
        os.environ["MUJOCO_GL"] = _asked

STEPS = 1000  # control steps an episode, of every task of the suite
_STARTS = 4  # how many starts are compared to find what of the model they change
_TERRAIN = "dmc-quadruped-escape"
TASKS = {f"dmc-{domain}-{task}".replace("_", "-"): (domain, task) for domain, task in suite.ALL_TASKS}


class _Suite:
    """A task of the suite and its physics, under the names that MujocoEnvironment expects of a simulation."""

    def __init__(self, domain: str, task: str) -> None:
        """Load it; `random` matters to models that are themselves drawn at random (lqr)."""
        env = suite.load(domain, task, task_kwargs={"random": 0})
        self.physics, self.task = env.physics, env.task
        self.substeps = round(env.control_timestep() / env.physics.timestep())
        self.dt = env.control_timestep()
        spec = env.action_spec()
        self.low, self.high = np.broadcast_to(spec.minimum, spec.shape), np.broadcast_to(spec.maximum, spec.shape)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, spec.shape, np.float32)
        self.np_random: np.random.Generator = np.random.default_rng(0)

    @property
    def model(self) -> mujoco.MjModel:
        return self.physics.model.ptr

    @property
    def data(self) -> mujoco.MjData:
        return self.physics.data.ptr

    def start(self) -> None:
        """Begin an episode with draws that np_random decides."""
        self.task.random.seed(int(self.np_random.integers(2**32)))
        with self.physics.reset_context():
            self.task.initialize_episode(self.physics)

    def close(self) -> None:
        self.physics.free()


class DmcEnv(MujocoEnvironment):
    """One task of the suite, `dmc-DOMAIN-TASK` with dashes throughout: dmc-walker-walk, dmc-ball-in-cup-catch.

    State: the suite's observations one after the other, in the suite's order (`parts` names them). Actions in [-1, 1]
    are stretched over the suite's box, which nearly always is the same. Score: the return so far, at most 1000, since
    the suite's rewards lie in [0, 1]; there is no threshold of success and no subtask. Nothing ends an episode early.

    What a start draws in the model itself (Reacher's target, the Finger's) is the scene: part of the simulator state,
    and datasets must add it: [qpos, qvel, scene].

    Attributes:
        parts: name and size of each observation in the state, in order.
    """

    subtasks = ()
    full_score = float(STEPS)
    camera = 0  # the one that published results from pixels use
    mended = False

    def __init__(
        self, task: str, *, obs: str = "state", render: str = "fast", tremble: float = 0.0, action_repeat: int = 1
    ) -> None:
        """Build the simulation.

        Args:
            task: dmc-DOMAIN-TASK.
            obs: "pixels" (the model's camera 0) or "state".
            render: "fast" or "faithful" pictures.
            tremble: probability per step that a uniform action is executed instead.
            action_repeat: control steps of the suite that one action lasts, a divisor of 1000; rewards add up.

        Raises:
            EnvError: no such task, a task that this project cannot restore or steer, or a bad option.
            RenderingError: pixels were asked for and no OpenGL backend works.
        """
        if task not in TASKS:
            raise EnvError(f"unknown task {task!r}{nearest(task, TASKS)}")
        if task == _TERRAIN:
            raise EnvError(f"{task}: every start has its own terrain, too large for a simulator state")
        if isinstance(action_repeat, bool) or action_repeat < 1 or STEPS % action_repeat:
            raise EnvError(f"{task}: action_repeat must be a divisor of {STEPS}, got {action_repeat}")
        self.task = task
        self.horizon = STEPS // action_repeat
        self._repeat = int(action_repeat)
        sim = _Suite(*TASKS[task])
        if not sim.model.actuator_ctrllimited.all():
            raise EnvError(f"{task}: its actions have no bounds, so there is nothing to stretch [-1, 1] over")
        scene = _drawn_by_starts(sim)
        seen = sim.task.get_observation(sim.physics)
        self.parts = {name: int(np.size(value)) for name, value in seen.items()}
        super().__init__(sim, obs=obs, render=render, tremble=tremble, size=sum(self.parts.values()), scene=scene)

    def _reset_sim(self) -> np.ndarray:
        self._sim.start()
        return self._sense()

    def _step_sim(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        sim, total = self._sim, 0.0
        stretched = sim.low + (action + 1.0) / 2.0 * (sim.high - sim.low)
        for _ in range(self._repeat):
            sim.task.before_step(stretched, sim.physics)
            sim.physics.step(sim.substeps)
            sim.task.after_step(sim.physics)
            total += float(sim.task.get_reward(sim.physics))
        return self._sense(), total, False, False

    def _sense(self) -> np.ndarray:
        return _flat(self._sim.task.get_observation(self._sim.physics))

    def _info(self) -> dict[str, Any]:
        return super()._info() | {"tasks_done": np.zeros(0, np.float32)}

    def _score(self) -> float:
        return self._return


def _flat(seen: Mapping[str, Any]) -> np.ndarray:
    """Return the observations (d,) one after the other; numbers count as vectors of one."""
    return np.concatenate([np.ravel(value) for value in seen.values()])


def _drawn_by_starts(sim: _Suite) -> tuple[np.ndarray, ...]:
    """Return views of all that differs between starts in the model: rows of its tables, or a whole list of numbers."""
    names = [name for name in dir(sim.model) if _is_float_array(getattr(sim.model, name, None))]
    starts = []
    for _ in range(_STARTS):
        sim.start()
        starts.append({name: getattr(sim.model, name).copy() for name in names})
    views: list[np.ndarray] = []
    for name in names:
        differs = np.any([start[name] != starts[0][name] for start in starts], axis=0)
        array = getattr(sim.model, name)
        if array.ndim == 2:
            views += [array[row] for row in np.flatnonzero(differs.any(1))]
        elif differs.any():
            views.append(array)
    return tuple(views)


def _is_float_array(value: Any) -> bool:
    """Return whether this is an array of real numbers, as places, sizes and directions are."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"
