"""The two ants of the transfer experiments: same sensors and motors, other legs (algorithms 3.7)."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco import ant_v5

from envs.mujoco_env import MujocoEnvironment

TORSO = 0.25  # m, radius
DENSITY = 5.0  # kg/m^3
LEG = (0.2, 0.2, 0.4)  # m, along x and along y: from the middle to the hip, to the ankle, to the foot
DISABLED_LEG = (0.2, 0.1, 0.2)
GEAR, DISABLED_GEAR = 30.0, 1.0  # Nm at full action
BACK = ("3", "4")  # how the names of the back legs' joints end
LYING = 0.2  # m, height of the torso below which the ant is fallen


class _Body(ant_v5.AntEnv):
    """gymnasium's Ant with other legs and motors; only its simulation is used."""

    def __init__(self, disabled: tuple[str, ...]) -> None:
        self._disabled = disabled
        super().__init__()

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = _compiled(self.fullpath, self._disabled)
        return model, mujoco.MjData(model)


def _compiled(path: str, disabled: tuple[str, ...]) -> mujoco.MjModel:
    """Return the model of a scene file with the constants above; disabled: numbers of the legs that are."""
    spec = mujoco.MjSpec.from_file(path)
    for geom in spec.geoms:
        geom.density = DENSITY
    spec.geom("torso_geom").size[0] = TORSO
    for motor in spec.actuators:
        motor.gear[0] = DISABLED_GEAR if motor.target[-1] in disabled else GEAR
    for body in spec.body("torso").bodies:
        segments = [body, body.bodies[0], body.bodies[0].bodies[0]]
        lengths = DISABLED_LEG if segments[1].joints[0].name[-1] in disabled else LEG
        for segment, length, inner in zip(segments, lengths, (0.0, *lengths), strict=False):
            # the stock legs lie along the diagonals of the xy plane: only their lengths change
            segment.geoms[0].fromto[3:] = length * np.sign(segment.geoms[0].fromto[3:])
            segment.pos = inner * np.sign(segment.pos)
    return spec.compile()


class CustomAntEnv(MujocoEnvironment):
    """An ant with weak motors that shall run along x for 500 steps; nothing ends an episode early.

    8 torques in gymnasium's order (legs 4, 1, 2, 3: hip, ankle), for both ants. State 27: positions without x and y 13,
    velocities 14; or 111 with the contact forces on all bodies, clipped to +-1. Score: the return so far. Reward, of
    the moment that the step led to: forward velocity - 0.01 |a|^2 - 0.0005 |clipped contact forces|^2 - 1 if lying.
    """

    task = "ant-custom"
    subtasks = ()
    horizon = 500
    full_score = 320.15  # SAC on the true reward in the disabled ant (thesis, table 2.2), the one figure there is
    camera = "track"
    disabled: tuple[str, ...] = ()

    def __init__(
        self, *, obs: str = "state", render: str = "fast", tremble: float = 0.0, contact_forces: bool = False
    ) -> None:
        """Build the simulation.

        Args:
            obs: "pixels" or "state".
            render: "fast" or "faithful" pictures.
            tremble: probability per step that a uniform action is executed instead.
            contact_forces: append them to the state; in several versions of MuJoCo they are all zero.

        Raises:
            EnvError: a bad option.
            RenderingError: pixels were asked for and no OpenGL backend works.
        """
        self._contact_forces = contact_forces
        super().__init__(
            _Body(self.disabled), obs=obs, render=render, tremble=tremble, size=111 if contact_forces else 27
        )

    def _reset_sim(self) -> np.ndarray:
        self._sim.reset()
        return self._sense()

    def _step_sim(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        self._sim.do_simulation(action, self._sim.frame_skip)
        lying = self.data.qpos[2] < LYING
        costs = 0.01 * np.square(action).sum() + 0.5e-3 * np.square(self._forces()).sum() + lying
        return self._sense(), float(self.data.qvel[0] - costs), False, False

    def _sense(self) -> np.ndarray:
        forces = [self._forces()] if self._contact_forces else []
        return np.concatenate([self.data.qpos[2:], self.data.qvel, *forces])

    def _forces(self) -> np.ndarray:
        """Return forces and torques of contacts on every body, (84,), clipped."""
        return np.clip(self.data.cfrc_ext, -1.0, 1.0).ravel()

    def _info(self) -> dict[str, Any]:
        return super()._info() | {"tasks_done": np.zeros(0, np.float32)}

    def _score(self) -> float:
        return self._return


class DisabledAntEnv(CustomAntEnv):
    """The same with short, almost powerless back legs."""

    task = "ant-disabled"
    disabled = BACK
