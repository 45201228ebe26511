"""How the end of an episode is told to those who learn from it (algorithms 1.4): ``data.termination``. Used by
`agent.data`, so that demonstrations and the agent's own episodes are treated alike.

    mask            rows as they are: nothing is worth anything after a true termination
    ignore          no end is a termination: values go on after it, as they do after a time-out
    fixed_horizon   a terminal row is repeated, with action 0, for as many steps as the task has (f-IRL's environments)
    absorbing       a true termination leads to the absorbing state, and that to itself (DAC, ValueDICE)

With ``absorbing`` every state has one entry more, 0, and the absorbing state is 0 but for this entry, which is 1. In it
there is nothing to decide: the only action is 0.

    row        0        1              T-1          T          T + 1
    obs        (x0,0)   (x1,0)   ...   (x_{T-1},0)  (0,1)      (0,1)        in place of x_T, and one row more
    action     0        a0       ...   a_{T-2}      a_{T-1}    0

Only with ``mask`` is a row terminal, so that nothing else is ever masked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TERMINATIONS = ("mask", "ignore", "fixed_horizon", "absorbing")
UNCHANGED = ("mask", "ignore")  # whose replays hold what the environment showed


class Rows(NamedTuple):
    """An episode of n + 1 rows in storage convention: obs (n+1, *shape), action (n+1, A), flags (n+1,) bool, the true
    rewards (n+1,) or None.
    """

    obs: np.ndarray
    action: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray
    truth: np.ndarray | None = None


def stored_shape(obs_shape: tuple[int, ...], termination: str) -> tuple[int, ...]:
    """Of one observation, once ``ended`` has seen it."""
    return (obs_shape[0] + 1,) if termination == "absorbing" else obs_shape


def ended(rows: Rows, termination: str, horizon: int) -> Rows:
    """The rows to learn from. horizon: steps of a whole episode. Raises ValueError for an unknown mode."""
    if termination not in TERMINATIONS:
        raise ValueError(f"data.termination: {termination!r} is none of {', '.join(TERMINATIONS)}")
    if termination == "mask":
        return rows
    over = bool(rows.is_terminal[-1])
    rows = rows._replace(is_terminal=np.zeros_like(rows.is_terminal))
    if termination == "absorbing":
        flag = np.zeros_like(rows.obs[:, :1])
        rows = rows._replace(obs=np.concatenate([rows.obs, flag], 1))
        if over:
            rows.obs[-1] = 0
            rows.obs[-1, -1] = 1
            rows = _repeated(rows, 1)
    elif termination == "fixed_horizon" and over:
        rows = _repeated(rows, max(0, horizon - (len(rows.obs) - 1)))
    return rows


def _repeated(rows: Rows, times: int) -> Rows:
    """The last observation again and again, after action 0 and with reward 0."""
    n = len(rows.obs) + times

    def longer(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((times, *x.shape[1:]), x.dtype)])

    return Rows(
        np.concatenate([rows.obs, np.repeat(rows.obs[-1:], times, 0)]),
        longer(rows.action),
        longer(rows.is_first),
        np.arange(n) == n - 1,
        longer(rows.is_terminal),
        None if rows.truth is None else longer(rows.truth),
    )
