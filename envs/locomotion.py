"""gymnasium's MuJoCo robots (v5 and v4) with state or pixels, exact restore, and the trembling hand."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from envs.errors import EnvError
from envs.mujoco_env import MujocoEnvironment

VERSIONS = ("v4", "v5")


class Locomotion(MujocoEnvironment):
    """A robot that shall run for 1000 steps without falling; what all five share.

    Score: the package's return so far, undiscounted. Subtask and success: the last step is reached and the robot has
    not fallen. Terminated: it has fallen (never for HalfCheetah). Actions are clipped, so that none costs more reward
    than those at the edge of the package's box.
    """

    subtasks = ("survive",)
    horizon = 1000
    camera = "track"
    package: str
    _columns: int | None = None  # how many numbers of the package's observation are the state; None: all
    _reward_of_bodies = False  # whether it is measured from positions of bodies, which MuJoCo updates a step late

    def __init__(self, *, obs: str = "state", render: str = "fast", version: str = "v5", tremble: float = 0.0) -> None:
        """Build the simulation.

        Args:
            obs: "pixels" or "state".
            render: "fast" or "faithful" pictures.
            version: "v5", or "v4": another foot friction of Walker2d, no contact cost of Ant and Humanoid.
            tremble: probability per step that a uniform action is executed instead (HyPE: 0.01; Humanoid 0.025).

        Raises:
            EnvError: a bad option.
            RenderingError: pixels were asked for and no OpenGL backend works.
        """
        if version not in VERSIONS:
            raise EnvError(f"{self.task}: version must be one of {VERSIONS}, got {version!r}")
        module, name = self.package.split(".")
        found = importlib.import_module(f"gymnasium.envs.mujoco.{module}_{version}")
        sim = getattr(found, name)(**self._package_options(version))
        super().__init__(
            sim,
            obs=obs,
            render=render,
            tremble=tremble,
            size=self._columns or sim.observation_space.shape[0],
            memory=(sim.data.xpos, sim.data.xipos) if self._reward_of_bodies else (),
        )

    def _package_options(self, version: str) -> dict[str, Any]:
        """Return keyword arguments for the package's class of this version."""
        return {}

    def _reset_sim(self) -> np.ndarray:
        return self._sim.reset()[0][: self._vector.size]

    def _step_sim(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        vector, reward, terminated, _, _ = self._sim.step(action)
        fallen = bool(terminated)
        return vector[: self._vector.size], float(reward), fallen, self._steps >= self.horizon and not fallen

    def _sense(self) -> np.ndarray:
        return self._sim._get_obs()[: self._vector.size]

    def _score(self) -> float:
        return self._return


class HopperEnv(Locomotion):
    """Hopper: 3 torques, state 11 (positions without x 5, velocities clipped to +-10 6)."""

    task = "hopper"
    package = "hopper.HopperEnv"
    full_score = 3234.3  # this and the next three: D4RL's reference experts (infos.py)


class HalfCheetahEnv(Locomotion):
    """HalfCheetah: 6 torques, state 17 (positions without x 8, velocities 9); never falls."""

    task = "halfcheetah"
    package = "half_cheetah.HalfCheetahEnv"
    full_score = 12135.0


class Walker2dEnv(Locomotion):
    """Walker2d: 6 torques, state 17 (positions without x 8, velocities clipped to +-10 9)."""

    task = "walker2d"
    package = "walker2d.Walker2dEnv"
    full_score = 4592.3


class AntEnv(Locomotion):
    """Ant: 8 torques, state 27 (positions without x and y 13, velocities 14), or more with contact forces."""

    task = "ant"
    package = "ant.AntEnv"
    full_score = 3879.7
    _reward_of_bodies = True

    def __init__(
        self,
        *,
        obs: str = "state",
        render: str = "fast",
        version: str = "v5",
        tremble: float = 0.0,
        contact_forces: bool = False,
    ) -> None:
        """Build the simulation; contact_forces: append them to the state (105 numbers in v5, 111 in v4).

        In v4 the option also adds their cost to the reward, which v5 always has. The rest: see Locomotion.
        """
        self._contact_forces = contact_forces
        super().__init__(obs=obs, render=render, version=version, tremble=tremble)

    def _package_options(self, version: str) -> dict[str, Any]:
        name = "include_cfrc_ext_in_observation" if version == "v5" else "use_contact_forces"
        return {name: self._contact_forces}


class HumanoidEnv(Locomotion):
    """Humanoid: 17 torques (1 is the package's 0.4), state 45 (positions without x and y 22, velocities 23), or all."""

    task = "humanoid"
    package = "humanoid.HumanoidEnv"
    full_score = 5500.0  # HyPE's expert (figure; algorithms 3.5), as D4RL has no Humanoid
    _reward_of_bodies = True

    def __init__(
        self,
        *,
        obs: str = "state",
        render: str = "fast",
        version: str = "v5",
        tremble: float = 0.0,
        full: bool = False,
    ) -> None:
        """Build the simulation; full: the package's whole observation, with inertias, velocities and forces of bodies
        (348 numbers in v5, 376 in v4), rather than its first 45. The rest: see Locomotion.
        """
        self._columns = None if full else 45
        super().__init__(obs=obs, render=render, version=version, tremble=tremble)
