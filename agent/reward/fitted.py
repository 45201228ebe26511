"""A reward fitted to true rewards, for methods that are told them (MOPO; algorithms 3.11) and for debugging."""

from __future__ import annotations

import torch
from torch import Tensor

from agent.reward.base import RewardLearner
from models.latent import Losses
from models.reward_net import RewardNet, weighted_mean


class FittedReward(RewardLearner):
    """r(s, a) by least squares on the rewards that came with the transitions. Imagined ones have none of their own.

    MOPO and Dreamer predict it with a head of their world models; here the world model stays the one that all methods
    share.
    """

    def __init__(
        self, feat: int, action: int, *, hidden: int, layers: int, act: str, policy_data: str = "truth"
    ) -> None:
        """policy_data: truth, where `agent.rounds` fits it to a data set; told, where each gradient step fits it to
        the own transitions of its chunk. Raises ValueError for another one, or an activation that there is not.
        """
        super().__init__()
        if policy_data not in ("truth", "told"):
            raise ValueError(f"reward.policy_data: {policy_data!r} is none of truth, told")
        self.policy_data = policy_data
        self.net = RewardNet(feat + action, hidden=hidden, layers=layers, act=act)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def inputs(self, feat: Tensor, action: Tensor, *, noisy: bool) -> Tensor:
        """[s, a] (..., F + A)."""
        return torch.cat([feat, action], -1)

    def reward(self, x: Tensor) -> Tensor:
        """(...), in the units of the data set, before any penalty."""
        return self.get_buffer("mean") + self.get_buffer("std") * self.net(x)

    def revealed(self, learned: Tensor, truth: Tensor) -> Tensor:
        """The true ones, which need no estimate."""
        return torch.where(truth.isfinite(), truth, learned)

    def standardise(self, truth: Tensor) -> None:
        """Let the network work in units of the rewards (n,). Raises ValueError where they are not finite."""
        if not bool(truth.isfinite().all()):
            raise ValueError("reward=fitted: the transitions hold no rewards, or rewards that are not finite")
        self.get_buffer("mean").copy_(truth.mean())
        self.get_buffer("std").copy_(truth.std(correction=0).clamp_min(1e-6))

    def regression(self, x: Tensor, truth: Tensor, weight: Tensor | None = None) -> tuple[Losses, dict[str, Tensor]]:
        """Squared error (n, X), (n,), in units of the rewards' variance. weight (n,): 0 for transitions that do not
        count; of rewards that nobody told (NaN) none does.
        """
        known = truth.isfinite().float() * (1.0 if weight is None else weight)
        wanted = torch.where(truth.isfinite(), truth, 0.0)
        error = weighted_mean(((self.reward(x.detach()) - wanted) / self.get_buffer("std")).square(), known)
        return Losses(squared_error=error), {"unexplained": error.detach()}
