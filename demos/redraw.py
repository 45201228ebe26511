"""Pictures of demonstrations drawn anew by the environment, so that both come out of one pipeline (algorithms 1.6)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from demos.errors import DemoError
from envs.episode import Episode
from envs.errors import EnvError
from envs.make import make


def redrawn(path: Path, episode: Episode, size: int = 64) -> Episode:
    """The episode with its task's own pictures of every row, from simulator states, or from Baoding's state vectors.

    size: of the pictures; a learner takes those of 64 alone.

    Raises:
        DemoError: the file tells no positions, or its task draws none.
    """
    task = str(episode.meta.get("task"))
    states = episode.sim_state
    if states is None and task == "baoding" and "state" in episode.obs:
        from envs.baoding import placed

        states = placed(episode.obs["state"].astype(np.float64))
    if states is None:
        raise DemoError(path, "sim_state", f"missing, and nothing else tells the positions of {task!r}: cannot redraw")
    try:
        env = make(task, "pixels")
        sim = env.unwrapped
        pictures = []
        for state in states:
            sim.set_state(state)
            pictures.append(sim.render(size))
        env.close()
    except EnvError as error:
        raise DemoError(path, "image", f"cannot be redrawn: {error}") from error
    notes = [*episode.meta.get("notes", []), "pictures drawn anew by this project's environment"]
    notes = [note for note in notes if not str(note).startswith("image ")]
    image = np.stack(pictures)
    return dataclasses.replace(episode, obs=episode.obs | {"image": image}, meta=episode.meta | {"notes": notes})
