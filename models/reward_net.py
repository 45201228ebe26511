"""Scalar networks h(feat, a) behind the learned rewards, their losses and logit-to-reward maps (algorithms 2.4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nets import MLP


class RewardNet(nn.Module):
    """h: concatenated [feat, a] (..., F + A) -> (...), float32; higher = more expert-like."""

    def __init__(self, n_in: int, *, hidden: int, layers: int) -> None:
        super().__init__()
        self.net = MLP(n_in, 1, hidden=hidden, layers=layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logit of "expert"."""
        return self.net(x).float().squeeze(-1)


# D = sigmoid(h) is the probability of "expert"; every map is increasing in h (algorithms 2.4)
REWARD_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "prob": torch.sigmoid,  # D in (0, 1): CMIL and V-MAIL code
    "logit": lambda h: h,  # log D - log(1 - D): CMIL paper eq. 10, DAC, AIRL
    "softplus": F.softplus,  # -log(1 - D) >= 0: GAIL
    "log_d": lambda h: -F.softplus(-h),  # log D <= 0
}


def bce_loss(expert: Tensor, policy: Tensor, expert_weight: Tensor, policy_weight: Tensor) -> Tensor:
    """-E_E[log D] - E_pi[log(1 - D)] from logits; both means weighted (weights sum to anything > 0)."""
    expert_term = (F.softplus(-expert) * expert_weight).sum() / expert_weight.sum().clamp_min(1e-6)
    policy_term = (F.softplus(policy) * policy_weight).sum() / policy_weight.sum().clamp_min(1e-6)
    return expert_term + policy_term
