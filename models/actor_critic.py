"""Actors and critics on latent features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.dists import Idle, PointMass, SquashedNormal, TruncatedNormal
from models.nets import MLP, StackedMLP


class Actor(nn.Module):
    """feat (..., F) -> TruncatedNormal over actions (..., A) in (-1, 1)."""

    def __init__(self, feat: int, action: int, *, hidden: int, layers: int, min_std: float = 0.1) -> None:
        super().__init__()
        self.net = MLP(feat, 2 * action, hidden=hidden, layers=layers)
        self.min_std = min_std

    def forward(self, feat: Tensor) -> TruncatedNormal:
        """The policy's distribution."""
        return TruncatedNormal.from_raw(self.net(feat), self.min_std)


class SquashedActor(nn.Module):
    """feat (..., F) -> SquashedNormal over actions (..., A) in (-1, 1) (SAC).

    ``flagged``: the last entry of feat is 1 in absorbing states, where action 0 is the only one.
    """

    flagged = False

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        hidden: int,
        layers: int,
        act: str = "relu",
        min_log_std: float = -5.0,
        max_log_std: float = 2.0,
    ) -> None:
        super().__init__()
        self.net = MLP(feat, 2 * action, hidden=hidden, layers=layers, act=act)
        self.bounds = min_log_std, max_log_std

    def forward(self, feat: Tensor) -> SquashedNormal | Idle:
        """The policy's distribution."""
        dist = SquashedNormal.from_raw(self.net(feat), *self.bounds)
        return Idle(dist, feat[..., -1:]) if self.flagged else dist

    def decides(self, feat: Tensor) -> Tensor:
        """feat (..., F) -> (...): 0 in absorbing states, 1 in all others."""
        return 1 - feat[..., -1] if self.flagged else torch.ones_like(feat[..., -1])


class DeterministicActor(nn.Module):
    """feat (..., F) -> PointMass at an action (..., A) in (-1, 1): tanh of the network's output (TD3)."""

    def __init__(self, feat: int, action: int, *, hidden: int, layers: int, act: str = "relu") -> None:
        super().__init__()
        self.net = MLP(feat, action, hidden=hidden, layers=layers, act=act)

    def forward(self, feat: Tensor) -> PointMass:
        """The policy's action, as a distribution."""
        return PointMass(torch.tanh(self.net(feat).float()))


class Critics(nn.Module):
    """An ensemble of Q(feat, a) (``action`` > 0) or V(feat) (``action`` = 0) -> (n, ...)."""

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        number: int,
        hidden: int,
        layers: int,
        act: str = "elu",
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.nets = StackedMLP(number, feat + action, hidden=hidden, layers=layers, act=act, norm=norm)
        self.uses_action = action > 0

    def forward(self, feat: Tensor, action: Tensor) -> Tensor:
        """Values of all critics, float32: (n, ...)."""
        return self.nets(torch.cat([feat, action], -1) if self.uses_action else feat)
