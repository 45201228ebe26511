"""Behaviour cloning (algorithms 3.3)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from agent.policy.base import PolicyBatch, clone_loss
from models.actor_critic import Actor
from models.latent import Losses


class BCPolicy(nn.Module):
    """Maximise the likelihood of the demonstrated actions; uses neither reward nor imagination."""

    wants = "pairs"
    explore_noise = 0.0

    def __init__(self, feat: int, action: int, *, hidden: int, layers: int, min_std: float, scale: float = 1.0) -> None:
        super().__init__()
        self.actor = Actor(feat, action, hidden=hidden, layers=layers, min_std=min_std)
        self.scale = scale

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Parameters by optimiser name."""
        return {"actor": self.actor.parameters()}

    def losses(self, batch: PolicyBatch) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """Only the clone term."""
        return self.clone(batch)

    def clone(self, batch: PolicyBatch) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """The BC term alone."""
        nll, metrics = clone_loss(self.actor, batch.clone)
        return {"actor": Losses(bc=self.scale * nll)}, metrics

    def after_update(self, update: int) -> None:
        """No targets."""
