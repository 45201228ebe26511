"""Sampled numpy rows -> the tensors that the agent learns from, and the pairs in them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agent.data import Chunk as Rows
from envs.episode import to_pairs
from models.latent import Latent, Transitions
from models.world_model import Chunk


def to_device(rows: Rows, burn_in: int, device: torch.device) -> Chunk:
    """Sampled numpy rows -> tensors. ``valid``: the row has ``burn_in`` rows of history in its chunk, or all there is.

    What continues a short episode may begin in the middle of another one, so that history counts from the last restart;
    only of a chunk's first piece is it known whether it begins where its episode does.
    """
    t = np.arange(rows.action.shape[1])
    start = np.maximum.accumulate(np.where(rows.is_first, t, 0), 1)
    valid = (t - start >= burn_in) | ((start == 0) & (rows.offset == 0)[:, None])
    arrays = [rows.obs, rows.action, rows.is_first, rows.is_last, rows.is_terminal, rows.expert, valid]
    tensors = (torch.from_numpy(a) for a in (arrays if rows.truth is None else [*arrays, rows.truth]))
    if device.type == "cuda":
        return Chunk(*(x.pin_memory().to(device, non_blocking=True) for x in tensors))
    return Chunk(*tensors)


def join(a: Chunk, b: Chunk) -> Chunk:
    """The chunks of both, (B + B, T), without the environment's rewards."""
    names = ("obs", "action", "is_first", "is_last", "is_terminal", "expert", "valid")
    return Chunk(*(torch.cat([getattr(a, n), getattr(b, n)]) for n in names))


def pair_weight(chunk: Chunk) -> Tensor:
    """(B, T-1): 1 for pairs whose state has enough history and whose successor belongs to the same episode."""
    return (chunk.valid[:, :-1] & ~chunk.is_first[:, 1:]).float()


def transitions(z: Latent, chunk: Chunk) -> Transitions:
    """The chunk's pairs as transitions (B * (T-1),); time-outs are not ``done`` (algorithms 1.4)."""
    feat, action, next_feat, done = to_pairs(z.feat, chunk.action, chunk.is_terminal, axis=1)
    rows = (feat, action, next_feat, done.float(), pair_weight(chunk))
    return Transitions(*(x.flatten(0, 1) for x in rows))
