"""``task=own``: a robot of one's own, of which there are recordings and no simulator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from demos import dataset
from demos.errors import DemoError
from demos.robot import differing
from envs.base import Environment, observations, pace, wants_pictures
from envs.errors import EnvError


def other_robot(recordings: Path, told: Mapping[str, Any], key: str) -> str | None:
    """How the robot that recordings tell of differs from the one that is told of elsewhere; None: it is the same.

    key: "image" or "state", the policy's observations. Raises DemoError.
    """
    (first,) = dataset.load(recordings, limit=1, obs_keys=(key,))
    return differing(told, first.meta.get("robot", {}), key, both=True)


class RecordedEnv(Environment):
    """Plays recorded observations, whatever the actions, and tells how near these come to the recorded ones.

    That is what can be measured without the robot: nobody knows what another action would have led to. Only methods
    that step no environment can learn with it.

    Recordings after the first ``used`` are played that are not in ``learned`` either, so that nothing learned from
    them; without such, all of them, and ``note`` says so. Seeds are numbers of recordings. The simulator state is
    [recording, row, sum of errors]. score: 1 - mean |action - recorded action| / 2; "error" in measures: that mean, in
    [-1, 1]'s unit; "did": the recorded one.
    """

    task = "own"
    subtasks = ()

    def __init__(
        self,
        *,
        obs: str = "state",
        render: str = "fast",
        recordings: str = "",
        used: int | None = None,
        learned: str | None = None,
        dt: float | None = None,
    ) -> None:
        """Read the recordings. recordings: a folder or file in any known format. used: how many of them, the first
        ones, are learned from. learned: a data set of transitions that are learned from too. dt: seconds between two
        actions; None: as the recordings tell, or else 0.1. `render` styles look the same.

        Raises EnvError where they cannot be read.
        """
        pictures = wants_pictures(self.task, obs)
        pace(dt, None)  # a bad option is told before minutes of reading
        self._key = "image" if pictures else "state"
        try:
            found = dataset.load(recordings, obs_keys=(self._key,))
            more = [] if learned is None else dataset.load(learned, obs_keys=(self._key,))
        except DemoError as error:
            raise EnvError(f"task.options.recordings: {error}") from error
        self.dt, self.render_style = pace(dt, found[0].meta.get("robot", {}).get("dt"))[0], render
        known, rest = {dataset.checksum(one) for one in more}, [] if used is None else found[used:]
        self.held_out = [one for one in rest if dataset.checksum(one) not in known]
        self._episodes = self.held_out or found
        self.episodes = len(self._episodes)
        self.note = f"{self.episodes} recordings that nothing was learned from"
        if not self.held_out:
            self.note = f"no recording is held out: scores are of the {self.episodes} that are learned from"
        self.horizon = max(one.steps for one in self._episodes)
        first = found[0]
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, first.action.shape[1:], np.float32)
        self.observation_space = observations(pictures, first.obs[self._key].shape[1])
        self._number, self._row, self._error = 0, 0, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin recording ``seed`` modulo their number, or go on at options["sim_state"]; return (obs, info)."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(len(self._episodes))) if seed is None else seed % len(self._episodes)
        self._number, self._row, self._error = number, 0, 0.0
        if options and options.get("sim_state") is not None:
            self.set_state(options["sim_state"])
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Compare `action` (A,) with the recorded one and go to the next row; the reward is minus their distance."""
        values, episode = np.asarray(action, np.float64), self._episodes[self._number]
        if values.shape != self.action_space.shape or not np.isfinite(values).all():
            raise EnvError(f"own: an action is a finite array of shape {self.action_space.shape}, got {action!r}")
        did = episode.action[self._row + 1]
        error = float(np.abs(values - did).mean())
        self._row += 1
        self._error += error
        over = self._row == episode.steps
        terminal = over and bool(episode.is_terminal[-1])
        return self._observe(), -error, terminal, over and not terminal, self._info() | {"did": did}

    def get_state(self) -> np.ndarray:
        """Return [recording, row, sum of errors], (3,) float64."""
        return np.array([self._number, self._row, self._error], np.float64)

    def set_state(self, state: np.ndarray) -> None:
        """Continue exactly from what get_state returned; EnvError for anything else."""
        values = np.asarray(state, np.float64)
        if values.shape != (3,) or not 0 <= values[0] < len(self._episodes):
            raise EnvError(f"own: a simulator state is [recording, row, sum of errors], got {state!r}")
        if not 0 <= values[1] < self._episodes[int(values[0])].steps:
            raise EnvError(f"own: recording {values[0]:.0f} has no step after row {values[1]:.0f}")
        self._number, self._row, self._error = int(values[0]), int(values[1]), float(values[2])

    def render(self, size: int = 64) -> np.ndarray:  # type: ignore[override]
        """Return the recorded picture; EnvError where there is none, or for another size."""
        if self._key != "image" or size != 64:
            raise EnvError("own: pictures are those that were recorded, 64 x 64")
        return self._observe()

    def _observe(self) -> np.ndarray:
        return self._episodes[self._number].obs[self._key][self._row]

    def _info(self) -> dict[str, Any]:
        error = self._error / max(1, self._row)
        state = self._observe() if self._key == "state" else np.zeros(0, np.float32)
        return {
            "state": state,
            "tasks_done": np.zeros(0, np.float32),
            "score": 1 - error / 2,
            "success": False,
            "measures": {"error": error},
        }
