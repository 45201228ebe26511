"""Sampled numpy rows -> the tensors that the agent learns from."""

from __future__ import annotations

import numpy as np
import torch

from agent.data import Chunk as Rows
from models.world_model import Chunk


def to_device(rows: Rows, burn_in: int, device: torch.device) -> Chunk:
    """Sampled numpy rows -> tensors. ``valid``: the row has ``burn_in`` rows of history in its chunk, or all there is."""
    t = np.arange(rows.action.shape[1])
    restarted = np.cumsum(rows.is_first[:, 1:], 1, dtype=bool)
    restarted = np.concatenate([np.zeros_like(restarted[:, :1]), restarted], 1)
    valid = (t >= burn_in)[None] | (rows.offset == 0)[:, None] | restarted
    arrays = (rows.obs, rows.action, rows.is_first, rows.is_last, rows.is_terminal, rows.expert, valid)
    tensors = (torch.from_numpy(a) for a in arrays)
    if device.type == "cuda":
        return Chunk(*(x.pin_memory().to(device, non_blocking=True) for x in tensors))
    return Chunk(*tensors)
