"""Sampled numpy rows -> the tensors that the agent learns from."""

from __future__ import annotations

import numpy as np
import torch

from agent.data import Chunk as Rows
from models.world_model import Chunk


def to_device(rows: Rows, burn_in: int, device: torch.device) -> Chunk:
    """Sampled numpy rows -> tensors. ``valid``: the row has ``burn_in`` rows of history in its chunk, or all there is.

    What continues a short episode may begin in the middle of another one, so that history counts from the last restart;
    only of a chunk's first piece is it known whether it begins where its episode does.
    """
    t = np.arange(rows.action.shape[1])
    start = np.maximum.accumulate(np.where(rows.is_first, t, 0), 1)
    valid = (t - start >= burn_in) | ((start == 0) & (rows.offset == 0)[:, None])
    arrays = (rows.obs, rows.action, rows.is_first, rows.is_last, rows.is_terminal, rows.expert, valid)
    tensors = (torch.from_numpy(a) for a in arrays)
    if device.type == "cuda":
        return Chunk(*(x.pin_memory().to(device, non_blocking=True) for x in tensors))
    return Chunk(*tensors)
