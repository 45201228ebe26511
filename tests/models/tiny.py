"""Tiny worlds and chunks that several test modules share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agent.config import set_threads
from models.dists import CategoricalLatent, GaussianLatent
from models.latent import Latent
from models.rssm import RSSM
from models.world_model import Chunk, PixelWorldModel

STOCH, DETER, ACTION, EMBED = 4, 6, 2, 5
set_threads(0)  # as in training: memory is kept between updates, without which these tests take several times as long


def make_rssm(members: int = 3, *, categorical: bool = False, seed: int = 0) -> RSSM:
    """An RSSM small enough to compute by hand; feat has STOCH + DETER entries."""
    torch.manual_seed(seed)
    latent = CategoricalLatent(2, 2) if categorical else GaussianLatent(STOCH)
    rssm = RSSM(latent, deter=DETER, hidden=8, members=members, embed=EMBED, action=ACTION)
    with torch.no_grad():  # biases and norms away from their neutral initial values
        for p in rssm.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return rssm


def make_world(members: int = 3, *, categorical: bool = False, seed: int = 0, **options: Any) -> PixelWorldModel:
    """A pixel world model with two channels in its first convolution."""
    torch.manual_seed(seed)
    latent = CategoricalLatent(2, 2) if categorical else GaussianLatent(STOCH)
    return PixelWorldModel(
        action=ACTION, depth=2, latent=latent, deter=DETER, hidden=8, members=members, behaviour_hidden=8, **options
    )


def make_chunk(
    b: int = 3, t: int = 6, *, expert: bool = False, seed: int = 0, restart: int | None = None, size: int = 64
) -> Chunk:
    """Random frames and actions; the chunk starts afresh at row 0 and, if given, at row ``restart``.

    Another ``size`` than 64 suits tests that replace encoder and decoder.
    """
    g = torch.Generator().manual_seed(seed)
    first = torch.zeros(b, t, dtype=torch.bool)
    first[:, 0] = True
    action = torch.rand(b, t, ACTION, generator=g) * 1.8 - 0.9
    if restart is not None:
        first[:, restart] = True
    action[first] = 0
    none = torch.zeros(b, t, dtype=torch.bool)
    obs = torch.randint(0, 256, (b, t, size, size, 3), generator=g, dtype=torch.uint8)
    return Chunk(obs, action, first, none, none, torch.full((b,), expert), torch.ones(b, t, dtype=torch.bool))


def zero_latent(*lead: int) -> Latent:
    """An all-zero latent of the tiny sizes."""
    return Latent(torch.zeros(*lead, DETER), torch.zeros(*lead, STOCH), torch.zeros(*lead, 2 * STOCH))


def equal_latents(a: Latent, b: Latent) -> bool:
    """Bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Reproducible standard-normal numbers that do not touch the global random state."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
