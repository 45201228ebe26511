"""Known termination functions of predicted states (algorithms 1.4.3): task knowledge, which a run has to report.

A learned state model has no "done" output; for these tasks the environment ends an episode by a rule on the state that
it has reached, so the same rule applied to a predicted next state ends an imagined episode. The rules and their strict
or inclusive bounds are those of gymnasium's MuJoCo environments, version 5 (``is_healthy``), with the default layout of
the observation: horizontal position left out, so that entry 0 is the height.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def never(state: Tensor) -> Tensor:
    """(..., d) -> (...) False: tasks that only time ends (HalfCheetah, Kitchen, AntMaze before its goal)."""
    return torch.zeros_like(state[..., 0], dtype=torch.bool)


def hopper(state: Tensor) -> Tensor:
    """(..., 11) -> (...): height in (0.7, inf), pitch in (-0.2, 0.2) rad, every entry but the height in (-100, 100)."""
    height, rest = state[..., 0], state[..., 1:]
    return ~((height > 0.7) & (rest[..., 0].abs() < 0.2) & (rest.abs() < 100).all(-1))


def walker2d(state: Tensor) -> Tensor:
    """(..., 17) -> (...): height in (0.8, 2), pitch in (-1, 1) rad."""
    height, pitch = state[..., 0], state[..., 1]
    return ~((height > 0.8) & (height < 2.0) & (pitch.abs() < 1.0))


def ant(state: Tensor) -> Tensor:
    """(..., 27 or more) -> (...): height in [0.2, 1], position and velocity finite."""
    height = state[..., 0]
    return ~((height >= 0.2) & (height <= 1.0) & state[..., :27].isfinite().all(-1))


def humanoid(state: Tensor) -> Tensor:
    """(..., 45 or more) -> (...): height in (1, 2)."""
    height = state[..., 0]
    return ~((height > 1.0) & (height < 2.0))


def baoding(state: Tensor) -> Tensor:
    """(..., 40 or 41) -> (...): a ball below 0.06 m; entries 26 and 32 are the balls' heights."""
    return (state[..., 26] < 0.06) | (state[..., 32] < 0.06)


TERMINATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": never,
    "hopper": hopper,
    "walker2d": walker2d,
    "ant": ant,
    "humanoid": humanoid,
    "baoding": baoding,
}
