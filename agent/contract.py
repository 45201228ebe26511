"""What an episode must look like to be stored (algorithms 1.2). Used by `agent.data`."""

from __future__ import annotations

import numpy as np


class ReplayError(ValueError):
    """Bad episode, impossible request, or not enough room; the message names the cause."""


def check_episode(
    obs_shape: tuple[int, ...],
    obs_dtype: np.dtype,
    action_size: int,
    obs: np.ndarray,
    action: np.ndarray,
    is_first: np.ndarray,
    is_last: np.ndarray,
    is_terminal: np.ndarray,
) -> int:
    """Rows of an episode for a replay of observations (*obs_shape) of ``obs_dtype`` and actions (``action_size``,).

    Raises ReplayError when it breaks the contract of `Replay.add_episode`.
    """
    n = len(obs)
    if n < 2:
        raise ReplayError(f"replay: an episode needs at least 2 rows (one step), got {n}")
    if obs.shape[1:] != obs_shape or obs.dtype != obs_dtype:
        raise ReplayError(f"replay: obs is {obs.dtype} {obs.shape[1:]}, this replay holds {obs_dtype} {obs_shape}")
    if action.shape != (n, action_size) or action.dtype != np.float32:
        raise ReplayError(f"replay: action is {action.dtype} {action.shape}, expected float32 {(n, action_size)}")
    if not np.isfinite(action).all() or (obs_dtype == np.float32 and not np.isfinite(obs).all()):
        raise ReplayError("replay: the episode contains NaN or infinite values")
    for name, flag in (("is_first", is_first), ("is_last", is_last), ("is_terminal", is_terminal)):
        if flag.shape != (n,) or flag.dtype != bool:
            raise ReplayError(f"replay: {name} is {flag.dtype} {flag.shape}, expected bool {(n,)}")
    if not is_first[0] or is_first[1:].any() or not is_last[-1] or is_last[:-1].any() or is_terminal[:-1].any():
        raise ReplayError("replay: is_first marks row 0 only, is_last the final row only, is_terminal no other row")
    if action[0].any():
        raise ReplayError("replay: action[0] must be zero, because action[t] is the action that led to obs[t]")
    return n
