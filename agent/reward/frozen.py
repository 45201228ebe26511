"""A reward that another run has learned, unchanged: the reward-transfer experiment (algorithms 3.7, 3.11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from agent.reward.base import RewardLearner


class FrozenReward(RewardLearner):
    """The reward of another run on this run's features.

    Both runs may normalise states, each with its own statistics: a feature is turned back into the state that it
    stands for, and that into the feature that the reward knows.
    """

    policy_data = "none"
    mean: Tensor
    std: Tensor

    @property
    def settings(self) -> tuple[str, ...]:
        """All of it: which reward this is, the configuration says (``init=RUN`` replaces none of it)."""
        return tuple(self.state_dict())

    def __init__(self, learned: Any, mean: Tensor, std: Tensor, clip: float, state: Callable[[Tensor], Tensor]) -> None:
        """learned: a reward of pairs (s, a) alone. mean, std (d,): its run's normaliser, 0 and 1 for none; clip: of
        its features, inf for none. state: this run's features (..., F) -> states (..., d).
        """
        super().__init__()
        self.learned = learned.requires_grad_(False)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.clip, self.state = clip, state

    def inputs(self, feat: Tensor, action: Tensor, *, noisy: bool) -> Tensor:
        """What the learned reward takes of the pair, without its noise: (..., X)."""
        there = ((self.state(feat) - self.mean) / self.std).clamp(-self.clip, self.clip)
        return self.learned.inputs(there, action, noisy=False)

    def reward(self, x: Tensor) -> Tensor:
        """(...), before any penalty."""
        return self.learned.reward(x)
