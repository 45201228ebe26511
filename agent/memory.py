"""Imagined transitions, kept between updates for policies that want transitions (algorithms 3.6: "learner")."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn

from models.latent import Transitions


class TransitionMemory(nn.Module):
    """A ring of ``capacity`` imagined transitions and the penalty u of each. Rewards are never stored (algorithms 1.5).

    A module, so that checkpoints hold it: what was imagined before a resume cannot be imagined again.
    """

    feat: Tensor
    _ends: Tensor

    def __init__(self, feat: int, action: int, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        for name, width in (("feat", feat), ("action", action), ("next_feat", feat)):
            self.register_buffer(name, torch.zeros(capacity, width))
        for name in ("done", "u"):
            self.register_buffer(name, torch.zeros(capacity))
        self.register_buffer("_ends", torch.zeros(2, dtype=torch.int64))  # filled, head: for checkpoints
        self._filled = self._head = 0  # the same here: to ask a device for them would be to wait for it
        self.register_load_state_dict_post_hook(lambda memory, _: memory._restore())

    def _restore(self) -> None:
        self._filled, self._head = self._ends.tolist()

    @property
    def filled(self) -> int:
        """Transitions held now."""
        return self._filled

    @torch.no_grad()
    def add(self, feat: Tensor, action: Tensor, next_feat: Tensor, done: Tensor, u: Tensor) -> None:
        """Store n transitions (n, F), (n, A), (n, F), (n,), (n,) over the oldest ones; of too many, the last."""
        n = min(feat.shape[0], self.capacity)
        rows = (self._head + torch.arange(n, device=feat.device)) % self.capacity
        for name, value in (("feat", feat), ("action", action), ("next_feat", next_feat), ("done", done), ("u", u)):
            getattr(self, name)[rows] = value[-n:].to(getattr(self, name).dtype)
        self._filled, self._head = min(self._filled + n, self.capacity), (self._head + n) % self.capacity
        self._ends[0], self._ends[1] = self._filled, self._head

    def sample(self, n: int) -> tuple[Transitions, Tensor]:
        """n transitions, uniformly with replacement, and their u (n,)."""
        rows = torch.randint(self.filled, (n,), device=self.feat.device)
        feat, action, next_feat, done, u = (
            getattr(self, k)[rows] for k in ("feat", "action", "next_feat", "done", "u")
        )
        return Transitions(feat, action, next_feat, done, torch.ones_like(done)), u

    def mixed(self, real: Transitions, fraction: float) -> tuple[Transitions, Tensor, Tensor]:
        """As many transitions as ``real`` has (n,), the first ``fraction`` of them real, the rest samples; u (n,), 0 of
        real ones; and which of ``real`` these are. They are taken evenly, as demonstrations come first in a batch.
        """
        n = real.done.shape[0]
        kept = round(fraction * n)
        imagined, u = self.sample(n - kept)
        rows = torch.arange(kept, device=real.done.device) * n // max(1, kept)
        both = (torch.cat([getattr(real, f.name)[rows], getattr(imagined, f.name)]) for f in fields(real))
        return Transitions(*both), torch.cat([torch.zeros_like(real.done[rows]), u]), rows
