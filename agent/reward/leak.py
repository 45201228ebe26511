"""Maximum-likelihood IRL as its released offline code runs, with the oracle's leak (algorithms 3.10, O1)."""

from __future__ import annotations

import torch
from torch import Tensor

from agent.reward.ml import MLReward


class LeakReward(MLReward):
    """r_theta, and of real transitions r_theta + the true reward, which the data set brings along: to measure what
    published numbers owe to it. Nothing else may use it.
    """

    def revealed(self, learned: Tensor, truth: Tensor) -> Tensor:
        """(n,): the sum; demonstrations come without a true one."""
        return torch.where(truth.isfinite(), learned + truth, learned)
