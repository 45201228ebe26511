"""Which sub-tasks a demonstration finished, and when: for people who look at it, never for a learner."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium

from envs.episode import Episode
from envs.errors import EnvError
from envs.make import make, task_options


@dataclass(frozen=True)
class Progress:
    """Which sub-tasks an episode finished and when.

    Attributes:
        total: how many sub-tasks the task has, 0 if unknown.
        done: (row, name) by row; name is "" where the file counts sub-tasks without naming them.
    """

    total: int
    done: tuple[tuple[int, str], ...]

    def count(self, row: int) -> int:
        """Sub-tasks finished at `row` or before."""
        return sum(when <= row for when, _ in self.done)

    def words(self) -> str:
        """For example ``2/4: kettle 57, microwave 98``; a dash when nothing is known."""
        if not self.total:
            return "-"
        listed = ", ".join(f"{name} {row}".strip() for row, name in self.done)
        return f"{len(self.done)}/{self.total}" + (f": {listed}" if listed else "")


def of_episodes(episodes: Sequence[Episode]) -> list[Progress]:
    """The progress of each episode, as meta tells it or else as the simulator does when put into the stored states.

    Meta tells it by ``subtasks`` (names) and ``subtask_rows`` (name -> row where it was finished, or just the rows).
    An episode with neither those nor states that its task's environment accepts gives Progress(0, ()).
    """
    simulators: dict[tuple[str, tuple[str, ...]], gymnasium.Env[Any, Any] | None] = {}
    try:
        return [_of_meta(episode) or _of_simulator(episode, simulators) for episode in episodes]
    finally:
        for env in simulators.values():
            if env is not None:
                env.close()


def _of_meta(episode: Episode) -> Progress | None:
    names, rows = episode.meta.get("subtasks"), episode.meta.get("subtask_rows")
    if not isinstance(names, list) or not isinstance(rows, dict | list):
        return None
    pairs = [(row, str(name)) for name, row in rows.items()] if isinstance(rows, dict) else [(row, "") for row in rows]
    done = sorted((row, name) for row, name in pairs if isinstance(row, int))
    return Progress(len(names), tuple(done))


def _of_simulator(
    episode: Episode, simulators: dict[tuple[str, tuple[str, ...]], gymnasium.Env[Any, Any] | None]
) -> Progress:
    unknown = Progress(0, ())
    if episode.sim_state is None:
        return unknown
    states = episode.sim_state
    names = episode.meta.get("subtasks")
    subtasks = tuple(str(name) for name in names) if isinstance(names, list) else ()
    key = (str(episode.meta.get("task")), subtasks)
    try:
        if key not in simulators:
            simulators[key] = None
            options: dict[str, Any] = {"subtasks": subtasks} if subtasks and "subtasks" in task_options(key[0]) else {}
            simulators[key] = make(key[0], "state", **options)
        env = simulators[key]
        if env is None:
            return unknown
        known: tuple[str, ...] = env.unwrapped.subtasks  # type: ignore[attr-defined]
        done = []
        for index, name in enumerate(known):

            def finished(row: int, index: int = index) -> bool:
                _, info = env.reset(options={"sim_state": states[row]})
                return bool(info["tasks_done"][index])

            # A finished sub-task stays finished within the episode, so the row can be found by halving.
            row = bisect.bisect_left(range(len(states)), True, key=finished)
            if row < len(states):
                done.append((row, name))
    except EnvError:
        return unknown
    return Progress(len(known), tuple(sorted(done)))
