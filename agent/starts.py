"""Where imagined rollouts begin (algorithms 4.3, part S)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.latent import Latent


@dataclass(frozen=True)
class StartSet:
    """Starts of one update.

    latent: (N,), N = B R: one for each of the rows ``rows`` (R,) of the agent chunk's B.
    own: (N,) bool: that row itself rather than another state in its place.
    """

    latent: Latent
    rows: Tensor
    own: Tensor


def _pick_rows(t: int, per_chunk: int, device: torch.device) -> Tensor:
    if per_chunk <= 0 or per_chunk >= t:
        return torch.arange(t, device=device)
    return torch.rand(t, device=device).argsort()[:per_chunk].sort().values  # randperm would synchronise


def _pick_valid(rows: int, n: int, valid: Tensor | None, device: torch.device) -> Tensor:
    """n of the rows (B * T) that are ``valid`` (B, T), all equally likely; the last one where none is."""
    if valid is None:
        return torch.randint(rows, (n,), device=device)
    ends = valid.flatten().float().cumsum(0)  # how many there are would have to be waited for
    return torch.searchsorted(ends, torch.rand(n, device=device) * ends[-1], right=True).clamp_max(rows - 1)


class ReplayStarts:
    """All posteriors of the current agent chunk (CMIL, V-MAIL), or ``per_chunk`` random rows of it.

    ``env_reset``: probability that a *training episode in the real environment* begins at a demonstrated state
    (FILTER).
    """

    def __init__(self, per_chunk: int = 0, env_reset: float = 0.0) -> None:
        if not 0 <= env_reset <= 1:
            raise ValueError(f"starts.env_reset: {env_reset} is not a probability")
        self.per_chunk, self.env_reset = per_chunk, env_reset

    def expert_range(self, progress: float) -> tuple[float, float]:
        """Which part of a demonstration's time starts may come from, 0..1: all of it."""
        return 0.0, 1.0

    def sample(self, agent: Latent, expert: Latent, valid: Tensor | None = None) -> StartSet:
        """agent, expert: posteriors (B, T), of the expert's those with enough history ``valid`` (None: all)."""
        rows = _pick_rows(agent.stoch.shape[1], self.per_chunk, agent.stoch.device)
        z = agent[:, rows].flatten()
        return StartSet(z, rows, torch.ones_like(z.stoch[:, 0], dtype=torch.bool))


class MixtureStarts(ReplayStarts):
    """Bernoulli(p) per sample: posterior of a demonstration, else of replay (HyPER; pixel form of algorithms 4.5). Of
    demonstrations only posteriors with ``data.burn_in`` frames of history, or all there is of it (algorithms 4.3).

    ``per_batch``: one coin for all, as HyPER's code has it. ``window`` > 0: demonstrated states come from a window of
    that width that moves from the end of the demonstrations to their beginning (HyPER on AntMaze).
    """

    def __init__(self, p: float, per_chunk: int = 0, per_batch: bool = False, window: float = 0.0) -> None:
        super().__init__(per_chunk)
        if not 0 <= p <= 1:
            raise ValueError(f"starts.p: {p} is not a probability")
        if not 0 <= window <= 1:
            raise ValueError(f"starts.window: {window} is no share of a demonstration")
        self.p, self.per_batch, self.window = p, per_batch, window

    def expert_range(self, progress: float) -> tuple[float, float]:
        """All of a demonstration, or [1 - progress, 1 - progress + window]."""
        if self.window == 0:
            return 0.0, 1.0
        low = 1.0 - min(1.0, max(0.0, progress))
        return min(low, 1.0 - 1e-6), min(1.0, low + self.window)

    def sample(self, agent: Latent, expert: Latent, valid: Tensor | None = None) -> StartSet:
        """Each row of the agent chunk is replaced with probability p by an expert row that has enough history."""
        rows = _pick_rows(agent.stoch.shape[1], self.per_chunk, agent.stoch.device)
        own, demo = agent[:, rows].flatten(), expert.flatten()
        n = own.stoch.shape[0]
        pick = _pick_valid(demo.stoch.shape[0], n, valid, own.stoch.device)
        coin = torch.rand(1 if self.per_batch else n, 1, device=own.stoch.device) < self.p
        drawn = demo[pick]
        mixed = Latent(*(torch.where(coin, getattr(drawn, f), getattr(own, f)) for f in ("deter", "stoch", "params")))
        return StartSet(mixed, rows, ~coin[:, 0].expand(n))


Starts = ReplayStarts
