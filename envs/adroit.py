"""Adroit: gymnasium-robotics' AdroitHand*-v1, four tasks of a Shadow Hand on an arm."""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any

import numpy as np

from envs.mujoco_env import MujocoEnvironment


class AdroitEnv(MujocoEnvironment):
    """What the four tasks share: position targets in [-1, 1], 0.01 s a step, no termination, latched success.

    Reward: the package's dense one. Score and success: whether the package's criterion has held after any step.
    What a start places (the scene) is part of the simulator state; datasets must add it: [qpos, qvel, scene].
    """

    horizon = 200
    camera = "fixed"
    package: str

    def __init__(self, *, obs: str = "state", render: str = "fast", tremble: float = 0.0) -> None:
        """Build the simulation.

        Args:
            obs: "pixels" or "state".
            render: "fast" or "faithful" pictures.
            tremble: probability per step that a uniform action is executed instead.

        Raises:
            EnvError: a bad option.
            RenderingError: pixels were asked for and no OpenGL backend works.
        """
        module, name = self.package.split(".")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            # the import prints a notice about the dense rewards
            found = importlib.import_module(f"gymnasium_robotics.envs.adroit_hand.{module}")
        sim = getattr(found, name)()
        self.subtasks: tuple[str, ...] = (self.task,)
        size = sim.observation_space.shape[0]
        super().__init__(sim, obs=obs, render=render, tremble=tremble, size=size, scene=self._scene_of(sim))

    def _reset_sim(self) -> np.ndarray:
        return self._sim.reset()[0]

    def _step_sim(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        vector, reward, _, _, info = self._sim.step(action)
        return vector, float(reward), False, bool(info["success"])

    def _sense(self) -> np.ndarray:
        return self._sim._get_obs()

    @staticmethod
    def _scene_of(sim: Any) -> tuple[np.ndarray, ...]:
        """Return views of the model's arrays that a start changes."""
        raise NotImplementedError


class DoorEnv(AdroitEnv):
    """Undo the latch and swing the door open: 28 actions, state 39, scene: the door's position (3)."""

    task = "door"
    package = "adroit_door.AdroitHandDoorEnv"

    @staticmethod
    def _scene_of(sim: Any) -> tuple[np.ndarray, ...]:
        return (sim.model.body_pos[sim.door_body_id],)


class HammerEnv(AdroitEnv):
    """Drive the nail into the board: 26 actions, state 46, scene: the board's position (3)."""

    task = "hammer"
    package = "adroit_hammer.AdroitHandHammerEnv"

    @staticmethod
    def _scene_of(sim: Any) -> tuple[np.ndarray, ...]:
        return (sim.model.body_pos[sim.target_body_id],)


class PenEnv(AdroitEnv):
    """Turn the pen like the green one: 24 actions, state 45, scene: the wanted quaternion (4). D4RL: 100 steps."""

    task = "pen"
    package = "adroit_pen.AdroitHandPenEnv"

    def _reset_sim(self) -> np.ndarray:
        sim = self._sim
        sim.reset()
        # measured anew at each start, so that their last bits, which no state holds, would depend on the start
        sim.pen_length, sim.tar_length = round(float(sim.pen_length), 9), round(float(sim.tar_length), 9)
        return self._sense()

    @staticmethod
    def _scene_of(sim: Any) -> tuple[np.ndarray, ...]:
        return (sim.model.body_quat[sim.target_obj_body_id],)


class RelocateEnv(AdroitEnv):
    """Carry the ball to the green one: 30 actions, state 39, scene: the ball's first position and the target (6)."""

    task = "relocate"
    package = "adroit_relocate.AdroitHandRelocateEnv"

    @staticmethod
    def _scene_of(sim: Any) -> tuple[np.ndarray, ...]:
        return (sim.model.body_pos[sim.obj_body_id], sim.model.site_pos[sim.target_obj_site_id])
