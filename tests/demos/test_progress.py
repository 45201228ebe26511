"""demos.progress: which sub-tasks were finished when, from meta or from the simulator."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from demos.progress import Progress, of_episodes
from envs.episode import Episode, EpisodeBuilder
from envs.make import make
from envs.toy import line_expert
from tests.demos.samples import episode


def line(steps: int) -> Episode:
    """An episode of the line's expert with simulator states and no word in meta about its success."""
    env: Any = make("line", "state")
    obs, _ = env.reset(seed=0)
    builder = EpisodeBuilder({"task": "line"})
    builder.start({"state": obs}, env.unwrapped.get_state())
    for _ in range(steps):
        action = line_expert(obs)
        obs = env.step(action)[0]
        builder.add(action, {"state": obs}, sim_state=env.unwrapped.get_state())
    return builder.finish()


@pytest.mark.parametrize(
    ("rows", "done"), [({"kettle": 4, "lamp": 2}, ((2, "lamp"), (4, "kettle"))), ([5], ((5, ""),))]
)
def test_meta_tells(rows: object, done: tuple[tuple[int, str], ...]) -> None:
    made = dataclasses.replace(episode(), meta={"task": "?", "subtasks": ["kettle", "lamp"], "subtask_rows": rows})
    assert of_episodes([made]) == [Progress(2, done)]


def test_simulator_tells_the_exact_row() -> None:
    assert of_episodes([line(30), line(20)]) == [Progress(1, ((30, "reach"),)), Progress(1, ())]


@pytest.mark.parametrize("change", [{"meta": {"task": "unheard of"}}, {"sim_state": None}, {"meta": {}}])
def test_unknown_rather_than_an_error(change: dict[str, Any]) -> None:
    assert of_episodes([dataclasses.replace(line(3), **change)]) == [Progress(0, ())]


def test_states_of_another_simulator_are_unknown() -> None:
    made = line(3)
    assert made.sim_state is not None
    foreign = dataclasses.replace(made, sim_state=np.zeros((4, 99)))
    assert of_episodes([foreign, made])[0] == Progress(0, ())


def test_words() -> None:
    assert Progress(0, ()).words() == "-"
    assert Progress(4, ()).words() == "0/4"
    known = Progress(4, ((32, "microwave"), (57, "kettle")))
    assert known.words() == "2/4: microwave 32, kettle 57"
    assert [known.count(row) for row in (31, 32, 56, 57, 99)] == [0, 1, 1, 2, 2]
