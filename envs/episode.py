"""The one definition of a step, an episode, and time alignment.

Storage (algorithms 1.2): row t holds obs[t] and the action[t] that LED TO it, so action[0] is zero padding and an
episode of n environment steps has n + 1 rows. Learning uses pairs; `to_pairs` is the only conversion between the two.

    row        0           1           2                n
    obs        x0          x1          x2      ...      xn
    action     0 (pad)     a0          a1      ...      a_{n-1}      stored at the row it led to
    pair            (x0,a0)     (x1,a1)   ...   (x_{n-1},a_{n-1})
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

IMAGE_SHAPE = (64, 64, 3)
OBS_KEYS = ("image", "state")


class EpisodeError(ValueError):
    """An episode breaks the storage contract; `key` names the array, `reason` what is wrong with it."""

    def __init__(self, key: str, reason: str) -> None:
        """Keep both parts, and join them to the message "key: reason"."""
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


class Pairs(NamedTuple):
    """(s, a, s', done) with one entry fewer than the rows they came from; done is None if no flags were given."""

    state: Any
    action: Any
    next_state: Any
    done: Any


def to_pairs(state: Any, action: Any, is_terminal: Any = None, *, axis: int = 0) -> Pairs:
    """Convert rows to (state, action, next state, done) pairs along `axis`: the only place where time is shifted.

    Args:
        state: rows (..., n+1, ...): numpy array, torch tensor, or any object whose __getitem__ slices that axis.
        action: (..., n+1, A); action[t] led to state[t].
        is_terminal: (..., n+1) or None; true where the episode really ended (time-outs are false).
        axis: position of time, counted from the front (0 or more).

    Returns:
        Pairs of n entries: (state[:-1], action[1:], state[1:], is_terminal[1:]) along `axis` (algorithms 1.2).

    Raises:
        ValueError: `axis` is negative, or the inputs that have a shape disagree on the number of rows.
    """
    if axis < 0:
        raise ValueError(f"axis must be counted from the front, got {axis}")
    rows = {
        name: value.shape[axis]
        for name, value in (("state", state), ("action", action), ("is_terminal", is_terminal))
        if hasattr(value, "shape")
    }
    if len(set(rows.values())) > 1:
        raise ValueError(f"to_pairs needs the same number of rows along axis {axis}, got {rows}")
    lead = (slice(None),) * axis
    first: Any = (*lead, slice(None, -1)) if axis else slice(None, -1)
    second: Any = (*lead, slice(1, None)) if axis else slice(1, None)
    done = None if is_terminal is None else is_terminal[second]
    return Pairs(state[first], action[second], state[second], done)


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode of n environment steps in storage convention: every array has n + 1 rows.

    Attributes:
        obs: "image" (n+1, 64, 64, 3) uint8 and/or "state" (n+1, d) float32; row t of both is the same instant.
        action: (n+1, A) float32 in [-1, 1]; action[t] led to obs[t]; action[0] = 0.
        is_first, is_last, is_terminal: (n+1,) bool; a time-out is last but not terminal.
        reward: (n+1,) float32; NaN wherever a learner could see it (rewards are learned, not given).
        sim_state: (n+1, S) float64 full simulator state as env.get_state() returns it, or None.
        meta: JSON-able facts: task, seed, source, subtasks, ...
    """

    obs: dict[str, np.ndarray]
    action: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray
    reward: np.ndarray
    sim_state: np.ndarray | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows, n + 1."""
        return len(self.action)

    @property
    def steps(self) -> int:
        """Return the number of environment steps, n."""
        return len(self) - 1

    def validate(self) -> None:
        """Check the whole contract of the class docstring.

        Raises:
            EpisodeError: the first array that breaks it, and how.
        """
        if not isinstance(self.action, np.ndarray) or self.action.ndim != 2:
            raise EpisodeError("action", f"must be an array (rows, A), got {_describe(self.action)}")
        rows = len(self.action)
        if rows < 2:
            raise EpisodeError("action", f"an episode has at least 2 rows (one step), got {rows}")
        _check(self.action, "action", np.float32, (rows, max(self.action.shape[1], 1)))
        if float(np.abs(self.action).max()) > 1.0:
            raise EpisodeError("action", f"must lie in [-1, 1], largest magnitude is {np.abs(self.action).max():.6g}")
        if self.action[0].any():
            raise EpisodeError("action", "row 0 must be zero: action[t] led to obs[t], and nothing led to obs[0]")
        self._validate_obs(rows)
        self._validate_flags(rows)
        _check(self.reward, "reward", np.float32, (rows,), finite=False)
        if np.isinf(self.reward).any():
            raise EpisodeError("reward", "contains infinities (unknown rewards are NaN)")
        if self.sim_state is not None:
            width = self.sim_state.shape[1] if getattr(self.sim_state, "ndim", 0) == 2 else 1
            _check(self.sim_state, "sim_state", np.float64, (rows, width))
        try:
            json.dumps(self.meta, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise EpisodeError("meta", f"must be JSON-able: {error}") from error

    def _validate_obs(self, rows: int) -> None:
        """Check names, shapes, types, and finiteness of the observations; raises EpisodeError."""
        if not self.obs:
            raise EpisodeError("obs", f"is empty; it needs at least one of {', '.join(OBS_KEYS)}")
        for key, value in self.obs.items():
            if key not in OBS_KEYS:
                raise EpisodeError(f"obs[{key}]", f"unknown observation; valid are {', '.join(OBS_KEYS)}")
            if key == "image":
                _check(value, "obs[image]", np.uint8, (rows, *IMAGE_SHAPE))
            else:
                width = value.shape[1] if getattr(value, "ndim", 0) == 2 else 1
                _check(value, "obs[state]", np.float32, (rows, width))

    def _validate_flags(self, rows: int) -> None:
        """Check that the flags mark row 0 and the final row and nothing else; raises EpisodeError."""
        for key in ("is_first", "is_last", "is_terminal"):
            _check(getattr(self, key), key, np.bool_, (rows,), finite=False)
        if not self.is_first[0] or self.is_first[1:].any():
            raise EpisodeError("is_first", "must be true in row 0 and only there")
        if not self.is_last[-1] or self.is_last[:-1].any():
            raise EpisodeError("is_last", "must be true in the final row and only there")
        if self.is_terminal[:-1].any():
            raise EpisodeError("is_terminal", "can be true in the final row only")


class EpisodeBuilder:
    """Collect rows while stepping an environment, then `finish` to a validated Episode.

    Usage: `builder.start(obs)` after reset, `builder.add(action, obs, terminated=..., ...)` after each step.
    """

    def __init__(self, meta: Mapping[str, Any] | None = None) -> None:
        """Start without rows; `meta` (JSON-able) goes into the episode and may be changed until `finish`."""
        self.meta: dict[str, Any] = dict(meta or {})
        self._obs: dict[str, list[np.ndarray]] = {}
        self._action: list[np.ndarray | None] = []
        self._reward: list[float] = []
        self._sim_state: list[np.ndarray | None] = []
        self._terminal = False

    def __len__(self) -> int:
        """Return the number of rows collected."""
        return len(self._action)

    def start(self, obs: Mapping[str, np.ndarray], sim_state: np.ndarray | None = None) -> None:
        """Add row 0: observations after reset ("image" (64, 64, 3), "state" (d,)) and the simulator state (S,).

        An empty one, of a simulator that cannot be restored, is none.
        """
        if self._action:
            raise EpisodeError("obs", "the episode has already been started")
        self._obs = {key: [] for key in obs}
        self._append(None, obs, float("nan"), sim_state)

    def add(
        self,
        action: np.ndarray,
        obs: Mapping[str, np.ndarray],
        *,
        terminated: bool = False,
        reward: float = float("nan"),
        sim_state: np.ndarray | None = None,
    ) -> None:
        """Add the row that `action` (A,) led to. Raises EpisodeError after a terminal row or before `start`."""
        if not self._action:
            raise EpisodeError("action", "call start(obs) with the first observation before adding steps")
        if self._terminal:
            raise EpisodeError("is_terminal", "no row can follow a terminal one")
        if set(obs) != set(self._obs):
            raise EpisodeError("obs", f"every row needs the keys {sorted(self._obs)}, got {sorted(obs)}")
        self._append(np.asarray(action, np.float32), obs, reward, sim_state)
        self._terminal = bool(terminated)

    def finish(self) -> Episode:
        """Stack the rows, mark the final one as last, and return the validated Episode; raises EpisodeError."""
        if len(self) < 2:
            raise EpisodeError("action", f"an episode has at least 2 rows (one step), got {len(self)}")
        rows = len(self)
        first_action = self._action[1]
        assert first_action is not None
        action = np.stack([np.zeros_like(first_action) if a is None else a for a in self._action])
        is_first, is_last, is_terminal = (np.zeros(rows, np.bool_) for _ in range(3))
        is_first[0] = is_last[-1] = True
        is_terminal[-1] = self._terminal
        known = [state is not None for state in self._sim_state]
        if any(known) and not all(known):
            raise EpisodeError("sim_state", f"row {known.index(False)} has no simulator state while others have one")
        states = [state for state in self._sim_state if state is not None]
        episode = Episode(
            obs={key: np.stack(values) for key, values in self._obs.items()},
            action=action,
            is_first=is_first,
            is_last=is_last,
            is_terminal=is_terminal,
            reward=np.asarray(self._reward, np.float32),
            sim_state=np.stack(states) if states else None,
            meta=dict(self.meta),
        )
        episode.validate()
        return episode

    def _append(
        self, action: np.ndarray | None, obs: Mapping[str, np.ndarray], reward: float, sim_state: np.ndarray | None
    ) -> None:
        """Append one row; arrays are copied, because environments reuse their buffers."""
        for key, value in obs.items():
            self._obs[key].append(np.array(value))
        self._action.append(None if action is None else action.copy())
        self._reward.append(float(reward))
        self._sim_state.append(None if sim_state is None or not np.size(sim_state) else np.array(sim_state, np.float64))


def _describe(value: Any) -> str:
    """Return "dtype shape" of an array, or the type of anything else."""
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _check(value: Any, key: str, dtype: Any, shape: tuple[int, ...], *, finite: bool = True) -> None:
    """Raise EpisodeError(key, ...) unless `value` is an array of this dtype and shape (and finite, if asked)."""
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
        raise EpisodeError(key, f"must be {np.dtype(dtype)} {shape}, got {_describe(value)}")
    if finite and value.dtype.kind == "f" and not np.isfinite(value).all():
        row = int(np.argwhere(~np.isfinite(value))[0][0])
        raise EpisodeError(key, f"contains NaN or infinity, first in row {row}")
