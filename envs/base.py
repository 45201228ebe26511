"""What every environment of this project offers beyond gymnasium.Env."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from envs.errors import EnvError
from envs.frames import SIZE

DT = 0.1  # seconds between two actions, where nobody tells


def wants_pictures(task: str, obs: str) -> bool:
    """Whether the option `obs` is "pixels"; EnvError unless it is that or "state"."""
    if obs not in ("pixels", "state"):
        raise EnvError(f"{task}: obs must be 'pixels' or 'state', got {obs!r}")
    return obs == "pixels"


def observations(pictures: bool, numbers: int) -> gymnasium.spaces.Box:
    """The space of pictures (64, 64, 3) uint8, or of states (numbers,) float32."""
    if pictures:
        return gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    return gymnasium.spaces.Box(-np.inf, np.inf, (numbers,), np.float32)


def pace(asked: float | None, told: float | None) -> tuple[float, bool]:
    """Seconds between two actions: as the option `dt` asks, or as recordings or simulator tell, or else 0.1; and
    whether anybody told. EnvError for an option that is not above 0.
    """
    if asked is not None and not asked > 0:
        raise EnvError(f"task.options.dt={asked}: expected the seconds between two actions")
    found = told if asked is None else asked
    return (DT, False) if found is None else (float(found), True)


class Environment(gymnasium.Env[np.ndarray, np.ndarray]):
    """A gymnasium environment with a name, a horizon, a state that can be saved and restored, and pictures.

    `reset` and `step` always give an info with "state" (d,) float32, "tasks_done" (len(subtasks),) float32 of 0 or 1,
    latched in an episode, "score" float, and "success" bool (all subtasks done); "measures" (name -> float, of the
    episode so far) where a task has more to tell in evaluations; "did" (A,) in a step where another action led to what
    is seen than the one that was asked for. reset(options={"sim_state": state}) continues from a saved state.
    `truncated` is true from step `horizon` on. The reward serves evaluation only.

    Attributes:
        task: the name that envs.make.make knows.
        subtasks: what "tasks_done" counts, in its order; empty where there are no such, and "success" is false unless a
            simulator tells it.
        horizon: environment steps an episode.
        dt: seconds between two actions, the pace at which a policy is deployed.
        limits: low, high (A,) float64: what actions -1 and 1 are in units of a simulator of one's own; None: not told.
        full_score: the score of an expert, so that a score can be shown beside it; NaN: not told.
        episodes: how many different ones there are, seeds being no more than their numbers; None: any number.
        note: what a reader of its scores has to know; empty where nothing is unusual.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"
    task: str
    subtasks: tuple[str, ...]
    horizon: int
    dt: float
    limits: tuple[np.ndarray, np.ndarray] | None = None
    full_score: float = 1.0
    episodes: int | None = None
    note: str = ""

    @property
    def unwrapped(self) -> Environment:
        """Return the environment itself, under any gymnasium wrapper."""
        return self

    def get_state(self) -> np.ndarray:
        """Return the whole simulator state, (S,) float64; empty where it cannot be restored."""
        raise NotImplementedError

    def set_state(self, state: np.ndarray) -> None:
        """Continue exactly from what get_state returned; EnvError for anything else."""
        raise NotImplementedError

    def render(self, size: int = 64) -> np.ndarray:  # type: ignore[override]
        """Return the picture of the current state, (size, size, 3) uint8."""
        raise NotImplementedError
