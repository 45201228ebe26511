"""Where imagined rollouts begin (algorithms 4.3, part S)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.latent import Latent


@dataclass(frozen=True)
class StartSet:
    """Starts of one update: latent (N,), the first ``replay`` of which are rows ``rows`` (R,) of the agent chunk, as
    (B, R).
    """

    latent: Latent
    rows: Tensor
    replay: int


def _pick_rows(t: int, per_chunk: int, device: torch.device) -> Tensor:
    if per_chunk <= 0 or per_chunk >= t:
        return torch.arange(t, device=device)
    return torch.rand(t, device=device).argsort()[:per_chunk].sort().values  # randperm would synchronise


class ReplayStarts:
    """All posteriors of the current agent chunk (CMIL, V-MAIL), or ``per_chunk`` random rows of it."""

    def __init__(self, per_chunk: int = 0) -> None:
        self.per_chunk = per_chunk

    def sample(self, agent: Latent, expert: Latent) -> StartSet:
        """agent, expert: posteriors (B, T) -> StartSet."""
        rows = _pick_rows(agent.stoch.shape[1], self.per_chunk, agent.stoch.device)
        z = agent[:, rows].flatten()
        return StartSet(z, rows, z.stoch.shape[0])


class MixtureStarts:
    """Bernoulli(p) per sample: posterior of a demonstration, else of replay (HyPER; pixel form of algorithms 4.5)."""

    def __init__(self, p: float, per_chunk: int = 0) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"starts.p: {p} is not a probability")
        self.p, self.per_chunk = p, per_chunk

    def sample(self, agent: Latent, expert: Latent) -> StartSet:
        """Replay rows stay in the batch (the data critic uses them); each is replaced by an expert row with
        probability p.
        """
        rows = _pick_rows(agent.stoch.shape[1], self.per_chunk, agent.stoch.device)
        own, demo = agent[:, rows].flatten(), expert.flatten()
        n = own.stoch.shape[0]
        pick = torch.randint(demo.stoch.shape[0], (n,), device=own.stoch.device)
        coin = torch.rand(n, 1, device=own.stoch.device) < self.p
        drawn = demo[pick]
        mixed = Latent(*(torch.where(coin, getattr(drawn, f), getattr(own, f)) for f in ("deter", "stoch", "params")))
        return StartSet(mixed, rows, 0)


Starts = ReplayStarts | MixtureStarts
