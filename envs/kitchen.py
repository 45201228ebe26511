"""Franka Kitchen: gymnasium-robotics' FrankaKitchen-v1 with pixels or state, latched subtasks, exact restore."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np

from envs.base import Environment, observations, wants_pictures
from envs.errors import EnvError, nearest
from envs.kitchen_scene import kitchen_frames
from envs.wrappers import check_tremble, trembled

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    # the import prints a notice about other environments' rewards
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import (
        BONUS_THRESH,
        OBS_ELEMENT_GOALS,
        OBS_ELEMENT_INDICES,
    )
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import KitchenEnv as PackageKitchen

OBJECTS = tuple(OBS_ELEMENT_GOALS)
DEFAULT_SUBTASKS = ("microwave", "kettle", "light switch", "slide cabinet")
QPOS = slice(1, 31)  # where the 30 joint positions lie in a simulator state, after the time

# what MuJoCo needs to go on exactly: time, positions, velocities, activations; the solver's warm start; the controls
_STATE_BITS = int(
    mujoco.mjtState.mjSTATE_FULLPHYSICS | mujoco.mjtState.mjSTATE_WARMSTART | mujoco.mjtState.mjSTATE_CTRL
)


class KitchenEnv(Environment):
    """Nine joint velocities (7 arm, 2 fingers) move a Franka arm at 12.5 Hz in a kitchen for 280 steps.

    A subtask is done once its object's joints are within 0.3 of the package's goal, and stays done for the episode. The
    reward counts the subtasks that a step finishes, so the return is the number solved; success means all of them.
    Episodes never end early. Observations: the picture, or the package's vector of 59 (robot positions 9, velocities 9,
    object positions 21, velocities 20), with the package's noise and without goals.

    Simulator state: MuJoCo's (98), the joint reading that limits the next command (9), steps (1), objects done (7).
    The noise is drawn from the environment's generator, and the robot's part of it moves the arm, as the trembling hand
    does: a continuation from a state is exact with both noise ratios and tremble at 0, and otherwise only if the
    generator is in the same condition too.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12.5}
    task = "kitchen"
    horizon = 280
    dt = 0.08

    def __init__(
        self,
        *,
        obs: str = "pixels",
        render: str = "fast",
        subtasks: Sequence[str] = DEFAULT_SUBTASKS,
        robot_noise_ratio: float = 0.01,
        object_noise_ratio: float = 0.0005,
        tremble: float = 0.0,
    ) -> None:
        """Build the simulation (about a second).

        Args:
            obs: "pixels" or "state".
            render: "fast" or "faithful" pictures.
            subtasks: names out of OBJECTS, at least one, each once; their order is that of tasks_done.
            robot_noise_ratio, object_noise_ratio: scale of the uniform sensor noise, 0 or more; default as the package.
            tremble: probability per step that a uniform action is executed instead.

        Raises:
            EnvError: a bad option.
            RenderingError: pixels were asked for and no OpenGL backend works.
        """
        self._pixels = wants_pictures(self.task, obs)
        names = (subtasks,) if isinstance(subtasks, str) else tuple(subtasks)
        for name in names:
            if name not in OBJECTS:
                raise EnvError(f"kitchen: unknown subtask {name!r}{nearest(str(name), OBJECTS)}")
        if not names or len(set(names)) != len(names):
            raise EnvError(f"kitchen: subtasks must be one or more different names, got {names}")
        for option, ratio in (("robot_noise_ratio", robot_noise_ratio), ("object_noise_ratio", object_noise_ratio)):
            if not (np.isfinite(ratio) and ratio >= 0.0):
                raise EnvError(f"kitchen: {option} must be 0 or more, got {ratio}")
        self.subtasks: tuple[str, ...] = names
        self.full_score = float(len(names))
        self.render_style = render
        self._sim = PackageKitchen(
            tasks_to_complete=list(OBJECTS),
            terminate_on_tasks_completed=False,
            remove_task_when_completed=False,
            object_noise_ratio=object_noise_ratio,
            robot_noise_ratio=robot_noise_ratio,
        )
        self._robot = self._sim.robot_env
        self._physics_size = mujoco.mj_stateSize(self._sim.model, _STATE_BITS)
        self._done = np.zeros(len(OBJECTS), np.bool_)
        self._wanted = np.array([OBJECTS.index(name) for name in names])
        self._tremble = check_tremble("kitchen", tremble)
        self._steps = 0
        self._vector = np.zeros(59, np.float32)
        self._box = gymnasium.spaces.Box(-1.0, 1.0, (9,), np.float32)
        self.action_space = self._box
        self.observation_space = observations(self._pixels, 59)
        if self._pixels:
            kitchen_frames(render)  # fail now, not at the first reset, if nothing can draw

    @property
    def model(self) -> mujoco.MjModel:
        """Return the physics model (the package's, unedited)."""
        return self._sim.model

    @property
    def data(self) -> mujoco.MjData:
        """Return the simulation's data; reading is safe, write through set_state."""
        return self._sim.data

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode at the package's start pose, or continue from options["sim_state"]; return (obs, info)."""
        super().reset(seed=seed)
        # without a seed the noise goes on with the generators as they are
        observation, _ = self._sim.reset(seed=seed)
        self._steps = 0
        self._done[:] = False
        self._vector = observation["observation"].astype(np.float32)
        self._latch()
        if options and options.get("sim_state") is not None:
            self.set_state(options["sim_state"])
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply joint velocities (9,), clipped to [-1, 1], for 0.08 s; the reward counts subtasks finished by it."""
        values = np.asarray(action, np.float64)
        if values.shape != (9,) or not np.isfinite(values).all():
            raise EnvError(f"kitchen: an action is a finite array of shape (9,), got {action!r}")
        # from the stream of the noise: another one with the same seed would give the same numbers
        generator = self._robot.np_random
        executed = trembled(np.clip(values, -1.0, 1.0), self._tremble, self._box, generator)
        before = int(self._done[self._wanted].sum())
        observation, _, _, _, _ = self._sim.step(executed)
        self._steps += 1
        self._vector = observation["observation"].astype(np.float32)
        self._latch()
        reward = float(int(self._done[self._wanted].sum()) - before)
        return self._observe(), reward, False, self._steps >= self.horizon, self._info()

    def get_state(self) -> np.ndarray:
        """Return the whole simulator state (115,) float64; the class docstring says what is in it."""
        physics = np.empty(self._physics_size, np.float64)
        mujoco.mj_getState(self._sim.model, self._sim.data, physics, _STATE_BITS)
        return np.concatenate([physics, self._robot._last_robot_qpos, [self._steps], self._done])

    def set_state(self, state: np.ndarray) -> None:
        """Continue from what get_state returned, drawing no noise. EnvError for another shape or non-finite values."""
        values = np.asarray(state, np.float64)
        size = self._physics_size
        if values.shape != (size + 17,) or not np.isfinite(values).all():
            raise EnvError(f"kitchen: a simulator state is a finite array of shape ({size + 17},), got {values.shape}")
        model, data = self._sim.model, self._sim.data
        mujoco.mj_resetData(model, data)
        mujoco.mj_setState(model, data, values[:size], _STATE_BITS)
        mujoco.mj_forward(model, data)  # positions of bodies and sites, for callers that look at them
        mujoco.mj_setState(model, data, values[:size], _STATE_BITS)  # forward has moved the warm start
        self._robot._last_robot_qpos = values[size : size + 9].copy()
        self._steps = int(values[size + 9])
        self._done[:] = values[size + 10 :] > 0.5
        robot = np.concatenate([self._robot._last_robot_qpos, data.qvel[:9]])
        self._vector = np.concatenate([robot, data.qpos[9:], data.qvel[9:]]).astype(np.float32)

    def render(self, size: int = 64) -> np.ndarray:
        """Return the picture of the current state, (size, size, 3) uint8; raises RenderingError if nothing can draw."""
        return kitchen_frames(self.render_style, size).frame(self._sim.data.qpos)

    def close(self) -> None:
        """Close the simulation; renderers are shared by all environments of a process and stay."""
        self._sim.close()

    def _latch(self) -> None:
        """Mark every object that is within the package's threshold of its goal; marks stay until reset."""
        qpos = self._sim.data.qpos
        for index, name in enumerate(OBJECTS):
            distance = np.linalg.norm(qpos[OBS_ELEMENT_INDICES[name]] - OBS_ELEMENT_GOALS[name])
            self._done[index] |= bool(distance < BONUS_THRESH)

    def _observe(self) -> np.ndarray:
        """Return the picture or the vector, as chosen."""
        return self.render() if self._pixels else self._vector.copy()

    def _info(self) -> dict[str, Any]:
        """Return the facts that every environment reports with each row."""
        done = self._done[self._wanted]
        return {
            "state": self._vector.copy(),
            "tasks_done": done.astype(np.float32),
            "score": float(done.sum()),
            "success": bool(done.all()),
        }


def qpos_of(sim_state: np.ndarray) -> np.ndarray:
    """Return the joint positions (..., 30) in simulator states (..., S), for drawing them with kitchen_frames."""
    return np.asarray(sim_state)[..., QPOS]
