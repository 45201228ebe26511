"""The environment's own reward: for debugging, and for the experts that demonstrate; never for imitation."""

from __future__ import annotations

from torch import Tensor, nn

from models.latent import Losses


class TruthReward(nn.Module):
    """r(s, a) as the environment told it; nothing is learned."""

    policy_data = "none"
    needs_next = False
    needs_truth = True
    needs_weights = False
    noise_in_reward = False

    def inputs(self, feat: Tensor, action: Tensor, *, noisy: bool, truth: Tensor | None = None) -> Tensor:
        """truth (...) -> (..., 1). Raises ValueError without it."""
        if truth is None:
            raise ValueError("the true reward is known of real transitions only: truth is needed")
        return truth[..., None]

    def reward(self, x: Tensor) -> Tensor:
        """(...), before any penalty."""
        return x[..., 0]

    def score(self, x: Tensor) -> Tensor:
        """The reward (...), for diagnostics."""
        return self.reward(x)

    def loss(
        self, expert: Tensor, policy: Tensor, expert_weight: Tensor, policy_weight: Tensor
    ) -> tuple[Losses, dict[str, Tensor]]:
        """No terms."""
        return Losses(), {}
