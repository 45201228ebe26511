"""Which chunks an update learns from: the agent's, the demonstrations', or both together (algorithms 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch

from agent.batch import to_device
from agent.build import ConfigError
from agent.chunks import By
from agent.data import Replay
from agent.nearness import Imitated
from models.world_model import Chunk


def scheduled(value: float | Sequence[Sequence[float]] | None, at: float) -> float | None:
    """A number as it is, or a piecewise linear function given as [[at, value], ...] (HyPE's expert fraction)."""
    if value is None or isinstance(value, int | float):
        return value
    knots = np.asarray(value, np.float64)
    return float(np.interp(at, knots[:, 0], knots[:, 1]))


class Sampler:
    """Draws from a replay as the data regime says; the random stream is the caller's."""

    def __init__(
        self,
        replay: Replay,
        data: Mapping[str, Any],
        device: torch.device,
        *,
        online: bool,
        imitated: Imitated | None = None,
    ) -> None:
        """data: the configuration's data regime; online: whether it steps environments; imitated: own episodes that are
        cloned.

        Raises ConfigError for a ``sample_by`` that there is not.
        """
        if data["sample_by"] not in get_args(By):
            raise ConfigError(f"data.sample_by: {data['sample_by']!r} is none of {', '.join(get_args(By))}")
        self.replay, self.data, self.device, self.online = replay, data, device, online
        self.imitated = imitated

    def draw(self, rng: np.random.Generator, paid: float) -> tuple[Chunk, Chunk]:
        """An agent chunk and an expert chunk; while there are only demonstrations and both would be fitted, one for
        two. paid: updates so far that collected steps paid for, by which the share of demonstrations may change.
        """
        data = self.data
        how: dict[str, Any] = {"from_start_prob": data["from_start"], "by": data["sample_by"]}
        if not self.replay.expert_rows:
            rows = self.replay.sample(data["batch"], data["length"], rng, **how)
            own = to_device(rows, data["burn_in"], self.device)
            return own, own
        own_rows = self.replay.rows > self.replay.expert_rows
        alone = not own_rows and (not self.online or data["joint_batch"])
        size = (data["batch"] * (2 if alone and data["joint_batch"] else 1), data["length"], rng)
        expert_rows = self.replay.sample(*size, which="expert", **how)
        expert = to_device(expert_rows, data["burn_in"], self.device)
        if alone:
            return expert, expert
        fraction = scheduled(data["expert_fraction"], paid) if own_rows else None
        rows = self.replay.sample(*size, expert_fraction=fraction, **how)
        own = to_device(rows, data["burn_in"], self.device)
        if own_rows and self.imitated is not None and self.imitated.number:
            flags = torch.from_numpy(np.isin(rows.episode, self.imitated.episodes))
            own = replace(own, imitated=flags.to(self.device, non_blocking=True))
        return own, expert
