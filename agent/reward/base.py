"""What every reward learner says about itself, so that nobody has to ask which one it is."""

from __future__ import annotations

from torch import Tensor, nn


class RewardLearner(nn.Module):
    """``inputs`` -> ``reward`` or ``loss``; the flags tell the agent and `agent.rounds` what to bring.

    Attributes:
        policy_data: where the policy's pairs come from (see `agent.rounds`): imagined, replay, fresh, ...
        needs_next: the next feature, done and log pi(a|s).
        needs_truth: the environment's reward.
        needs_weights: whole trajectories, every pair with a weight by its time.
        needs_demos: demonstrations.
        needs_preferences: comparisons of segments.
        needs_tracks: which trajectory each pair belongs to.
        needs_rounds: steps of its own, between gradient steps.
        noise_in_reward: the policy's reward sees the noisy input, too.
    """

    policy_data: str
    needs_next = False
    needs_truth = False
    needs_weights = False
    needs_demos = True
    needs_preferences = False
    needs_tracks = False
    needs_rounds = False
    noise_in_reward = False

    def reward(self, x: Tensor) -> Tensor:
        """(...), before any penalty."""
        raise NotImplementedError

    def revealed(self, learned: Tensor, truth: Tensor) -> Tensor:
        """Rewards (n,) of real transitions of which the replay holds the true ones (n,), NaN of demonstrations: the
        learned ones, but for the few methods that are told.
        """
        return learned

    def score(self, x: Tensor) -> Tensor:
        """What diagnostics compare, (...): the reward, or a discriminator's D."""
        return self.reward(x)
