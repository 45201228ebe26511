"""Expert of the AntMaze, recorded: ``python -m demos.experts.antmaze out=DIR episodes=10 seed=0``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demos import cli
from demos.experts.ant import FALLEN, STEP, Gait, Legs, upright
from demos.experts.recording import check, fill_from_state, play
from envs.episode import Episode

TASKS = ("antmaze-umaze", "antmaze-medium", "antmaze-large")
LOOK = 2.0  # m that the ant aims ahead on its way: rounds corners, and pulls it back to the way
PLACES = 0.1  # m between the places of the way
NOISE = 0.1  # standard deviation of the smooth noise on recorded actions


class AntMazeExpert:
    """Trots along the shortest way through the maze: from the present state, except for a clock that times the steps.

    It never turns: the body keeps the heading 0, and the legs walk to whichever side the way leads.
    """

    def __init__(self, gait: Gait | None = None) -> None:
        """Choose the gait; None: the one that the search found."""
        self._gait = gait or Gait()

    def reset(self, env: Any) -> None:
        """Plan for an AntMaze environment's present state."""
        sim = env.unwrapped
        self._legs = Legs(sim.model)
        self._way = shortest_way(sim.maze, sim.place_of, sim.data.qpos[:2], sim.goal)
        self._steps = 0

    def act(self, env: Any) -> np.ndarray:
        """Return the action (8,) float64 for the environment's present state; call once per step."""
        data = env.unwrapped.data
        here = data.qpos[:2]
        nearest = int(np.argmin(np.linalg.norm(self._way - here, axis=1)))
        ahead = self._way[min(nearest + round(LOOK / PLACES), len(self._way) - 1)] - here
        self._steps += 1
        way = ahead / max(float(np.linalg.norm(ahead)), 1e-6)
        return self._legs.action(self._gait, (self._steps - 1) * STEP, data, way)


def shortest_way(maze: Sequence[Sequence[Any]], place_of: Any, start: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return places (p, 2) every 0.1 m from start to goal (2,), through the centres of the cells between.

    Args:
        maze: rows of cells, 1 where there is a wall.
        place_of: (row, column) -> x and y of a cell's centre.
        start, goal: where the way begins and ends.

    Raises:
        ValueError: walls lie between them.
    """
    free = [(r, c) for r, row in enumerate(maze) for c, cell in enumerate(row) if cell != 1]
    centres = np.array([place_of(cell) for cell in free])
    first, last = (free[int(np.argmin(np.linalg.norm(centres - place, axis=1)))] for place in (start, goal))
    before: dict[tuple[int, int], tuple[int, int]] = {last: last}
    queue = deque([last])
    while queue and first not in before:
        row, column = queue.popleft()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if cell in free and cell not in before:
                before[cell] = (row, column)
                queue.append(cell)
    if first not in before:
        raise ValueError("walls lie between start and goal")
    corners, cell = [np.asarray(start, np.float64)], first
    while cell != last:
        cell = before[cell]
        corners.append(np.asarray(place_of(cell), np.float64))
    corners[-1 if len(corners) > 1 else len(corners) :] = [np.asarray(goal, np.float64)]
    places = []
    for a, b in zip(corners, corners[1:], strict=False):
        count = max(int(np.ceil(np.linalg.norm(b - a) / PLACES)), 1)
        places += [a + (b - a) * step / count for step in range(count)]
    return np.array([*places, corners[-1]])


def record(env: Any, seed: int, noise: float = NOISE) -> Episode:
    """Record one episode of an AntMaze environment made with obs="state", until the goal, a fall, or the time limit.

    See `recording.play`.
    """
    expert = AntMazeExpert()

    def begin(_: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        expert.reset(env)
        return lambda _: expert.act(env)

    return play(env, seed, noise, "scripted expert", begin, lambda: upright(env.unwrapped.data.qpos) < FALLEN)


@dataclass(frozen=True)
class Options:
    """Arguments of the command."""

    out: Path
    task: str = "antmaze-umaze"
    episodes: int = 10
    seed: int = 0
    noise: float = NOISE


def body(options: Options) -> None:
    """Record until `episodes` verified episodes are saved, after those that are there."""
    check(options.task, TASKS, options.episodes, options.noise)
    fill_from_state(
        options.out,
        options.task,
        options.episodes,
        options.seed,
        lambda env, seed: record(env, seed, options.noise),
        lambda episode: f"{episode.steps} steps",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    usage = "python -m demos.experts.antmaze out=DIR [task=antmaze-umaze] [episodes=10] [seed=0] [noise=0.1]"
    return cli.run(body, Options, argv, usage)


if __name__ == "__main__":
    raise SystemExit(main())
