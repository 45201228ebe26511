"""The environment's own reward: for debugging, and for the experts that demonstrate; never for imitation."""

from __future__ import annotations

from torch import Tensor

from agent.reward.base import RewardLearner
from models.latent import Losses


class TruthReward(RewardLearner):
    """r(s, a) as the environment told it; nothing is learned."""

    policy_data = "none"
    needs_truth = True

    def inputs(self, feat: Tensor, action: Tensor, *, noisy: bool, truth: Tensor | None = None) -> Tensor:
        """truth (...) -> (..., 1). Raises ValueError without it."""
        if truth is None:
            raise ValueError("the true reward is known of real transitions only: truth is needed")
        return truth[..., None]

    def reward(self, x: Tensor) -> Tensor:
        """(...), before any penalty."""
        return x[..., 0]

    def loss(
        self, expert: Tensor, policy: Tensor, expert_weight: Tensor, policy_weight: Tensor
    ) -> tuple[Losses, dict[str, Tensor]]:
        """No terms."""
        return Losses(), {}
