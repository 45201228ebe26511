"""A replay of one-dimensional states with one demonstration through 0, 1, 2, for the tests of what is near to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from agent.data import Replay
from models.state_model import StateModel


def states(folder: Path, *, demonstrations: bool = True) -> tuple[Replay, Any]:
    """The replay, and an agent whose features are the states."""
    layout: dict[str, Any] = {"obs_shape": (1,), "obs_dtype": "float32", "action_size": 1}
    replay = Replay(folder / "replay", **layout, capacity=60, budget_gb=1.0)
    if demonstrations:
        played(replay, [0.0, 1.0, 2.0], expert=True)
    agent = SimpleNamespace(
        slow=None,
        policy=SimpleNamespace(wants="rollout"),
        practice=torch.ones(()),
        world=StateModel(1),
        device=torch.device("cpu"),
        autocast=lambda: torch.autocast("cpu", enabled=False),
    )
    return replay, agent


def played(replay: Replay, path: Sequence[float | Sequence[float]], *, expert: bool = False) -> int:
    """An episode that goes through these states, numbers or rows of them; its identity."""
    path = [*path] * 2 if len(path) == 1 else path  # an episode has a step
    n = len(path)
    flags = np.arange(n) == 0, np.arange(n) == n - 1, np.zeros(n, bool)
    obs, action = np.array(path, np.float32).reshape(n, -1), np.zeros((n, 1), np.float32)
    return replay.add_episode(obs, action, *flags, expert=expert, horizon=10)
