"""A reward fitted to the rewards of a transition set, for methods that are told them (MOPO; algorithms 3.11)."""

from __future__ import annotations

import torch
from torch import Tensor

from agent.reward.base import RewardLearner
from models.latent import Losses
from models.reward_net import RewardNet


class FittedReward(RewardLearner):
    """r(s, a) by least squares on the rewards that came with the transitions. Imagined ones have none of their own.

    MOPO predicts it with a head of its world model; here the world model stays the one that all methods share.
    """

    policy_data = "truth"  # `agent.rounds` fits it to the true rewards of the data set

    def __init__(self, feat: int, action: int, *, hidden: int, layers: int, act: str) -> None:
        """Raises ValueError for another activation than elu, tanh, relu."""
        super().__init__()
        self.net = RewardNet(feat + action, hidden=hidden, layers=layers, act=act)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def inputs(self, feat: Tensor, action: Tensor, *, noisy: bool) -> Tensor:
        """[s, a] (..., F + A)."""
        return torch.cat([feat, action], -1)

    def reward(self, x: Tensor) -> Tensor:
        """(...), in the units of the data set, before any penalty."""
        return self.get_buffer("mean") + self.get_buffer("std") * self.net(x)

    def standardise(self, truth: Tensor) -> None:
        """Let the network work in units of the rewards (n,). Raises ValueError where they are not finite."""
        if not bool(truth.isfinite().all()):
            raise ValueError("reward=fitted: the transitions hold no rewards, or rewards that are not finite")
        self.get_buffer("mean").copy_(truth.mean())
        self.get_buffer("std").copy_(truth.std(correction=0).clamp_min(1e-6))

    def regression(self, x: Tensor, truth: Tensor) -> tuple[Losses, dict[str, Tensor]]:
        """Squared error (n, X), (n,), in units of the rewards' variance."""
        error = ((self.reward(x.detach()) - truth) / self.get_buffer("std")).square().mean()
        return Losses(squared_error=error), {"unexplained": error.detach()}
