"""AntMaze: gymnasium-robotics' AntMaze_*-v4 as D4RL uses it: one start, one goal, 29 numbers, 0/1 score."""

from __future__ import annotations

import contextlib
import io
import os

import numpy as np

from envs.mujoco_env import MujocoEnvironment

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    # the import prints a notice about other environments' rewards
    from gymnasium_robotics.envs.maze import maps
    from gymnasium_robotics.envs.maze.ant_maze_v4 import AntMazeEnv as PackageMaze

START_NOISE = 0.1  # of positions (uniform, +-) and velocities (normal), as D4RL's ant has; the package's has none


class AntMazeEnv(MujocoEnvironment):
    """An ant walks through a maze to a goal that its state does not show; what all three mazes share.

    State 29: positions with x and y (15), velocities (14), as in D4RL. The goal is reached within 0.45 m (D4RL: 0.5);
    then the episode terminates. Score, success, reward of that step: 1. A fallen ant may lie until the time is up.

    By default the ant starts in D4RL's start cell (with D4RL's noise of joints and velocities) and the goal is the
    centre of D4RL's goal cell at the other end (antmaze-*-play, -diverse; D4RL adds up to 1.5 m to the goal, which no
    state shows). The simulator state holds the goal; [qpos, qvel] leaves the goal where the reset put it.
    """

    subtasks = ("goal",)
    horizon = 1000
    camera = "track"
    maze: list[list[int]]
    start_cell = (1, 1)  # row, column of the maze
    goal_cell: tuple[int, int]

    def __init__(
        self, *, obs: str = "state", render: str = "fast", tremble: float = 0.0, random_goal: bool = False
    ) -> None:
        """Build the simulation.

        Args:
            obs: "pixels" or "state".
            render: "fast" or "faithful" pictures.
            tremble: probability per step that a uniform action is executed instead.
            random_goal: draw goal and start as the package does: any two cells, each up to 1 m from its centre.

        Raises:
            EnvError: a bad option.
            RenderingError: pixels were asked for and no OpenGL backend works.
        """
        sim = PackageMaze(maze_map=self.maze, continuing_task=False)
        with contextlib.suppress(OSError):
            os.remove(sim.tmp_xml_file_path)  # the package leaves its scene file behind
        sim.ant_env._reset_noise_scale = START_NOISE
        sim.dt = sim.ant_env.dt
        if not random_goal:
            sim.position_noise_range = 0.0
        self._random_goal = random_goal
        self._goal = np.zeros(2)
        memory = (self._goal, sim.model.site_pos[sim.target_site_id])
        super().__init__(sim, obs=obs, render=render, tremble=tremble, size=29, memory=memory)

    @property
    def goal(self) -> np.ndarray:
        """Return the goal's x and y, (2,) float64, in metres."""
        return self._goal.copy()

    def place_of(self, cell: tuple[int, int]) -> np.ndarray:
        """Return x and y, (2,) float64, in metres, of the centre of a cell (row, column)."""
        return self._sim.maze.cell_rowcol_to_xy(np.array(cell))

    def _reset_sim(self) -> np.ndarray:
        self._sim.ant_env.np_random = self.np_random
        cells = {"goal_cell": self.goal_cell, "reset_cell": self.start_cell}
        self._sim.reset(options=None if self._random_goal else cells)
        self._goal[:] = self._sim.goal
        self._sim.goal = self._goal  # so that a restored goal is the package's too
        return self._sense()

    def _step_sim(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        _, reward, terminated, _, info = self._sim.step(action)
        return self._sense(), float(reward), bool(terminated), bool(info["success"])

    def _sense(self) -> np.ndarray:
        return self._sim.ant_env._get_obs()


class UMazeEnv(AntMazeEnv):
    """The U: 5 x 5 cells of 4 m, 700 steps."""

    task = "antmaze-umaze"
    horizon = 700
    maze = maps.U_MAZE
    goal_cell = (3, 1)


class MediumMazeEnv(AntMazeEnv):
    """The medium maze: 8 x 8 cells of 4 m."""

    task = "antmaze-medium"
    maze = maps.MEDIUM_MAZE
    goal_cell = (6, 6)


class LargeMazeEnv(AntMazeEnv):
    """The large maze: 9 x 12 cells of 4 m."""

    task = "antmaze-large"
    maze = maps.LARGE_MAZE
    goal_cell = (7, 9)
