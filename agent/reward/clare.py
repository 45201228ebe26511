"""CLARE: a reward that sets demonstrations and well-known data against what the model imagines (algorithms 3.12; Yue et
al. 2023, arXiv:2302.04782).
"""

from __future__ import annotations

import torch
from torch import Tensor

from agent.errors import ConfigError
from agent.reward.base import RewardLearner
from models.latent import Losses
from models.reward_net import Anchor, RewardNet


def point_weights(c: Tensor, expert: int, threshold: float) -> Tensor:
    """beta (n,) of n transitions, the first ``expert`` of which are demonstrated, by their uncertainty c (n,) in 0..1:

        c < threshold                 (N / N_E) n_hi / n_lo       n_hi = #{demonstrated: c > threshold}
        c > threshold, demonstrated   -N / N_E                    n_lo = #{all: c < threshold}
        else                          0

    What the model does not know of the demonstrations is left out, and what it knows of all data gets their share: the
    mean of beta is 0. Raises ConfigError when it is certain of nothing.
    """
    low, high = c < threshold, c > threshold
    high[expert:] = False
    if not bool(low.any()):
        least = f"{float(c.min()):.2f} of the greatest"
        raise ConfigError(f"reward.threshold: {threshold}, but no transition's uncertainty is below {least}")
    scale = len(c) / expert
    return scale * int(high.sum()) / int(low.sum()) * low.to(c.dtype) - scale * high.to(c.dtype)


class CLAREReward(RewardLearner):
    """r(s, a) that minimises, over demonstrations E, all data D (E among them) and imagined pairs M,

    L = Z E_M[r] - E_E[r] - E_D[beta r] + c_reg Z mean r^2 over M and D,        Z = 1 + mean_D beta
    """

    policy_data = "weighted"  # `agent.rounds`: all data, by the model's uncertainty, against imagined transitions

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        hidden: int,
        layers: int,
        act: str,
        threshold: float,
        regularisation: float,
        added: int,
        anchor: bool,
    ) -> None:
        """threshold: of ``point_weights``, where the most uncertain transition has c = 1. regularisation: c_reg. added:
        imagined transitions that each round draws from the policy's memory, to keep. anchor: `Anchor` on imagined
        pairs: c_reg draws all rewards to about 0 and these below it, so that ending an episode would pay (its code has
        no values that could tell). Raises ValueError on bad options.
        """
        super().__init__()
        if not 0 < threshold < 1:
            raise ValueError(f"reward.threshold: {threshold} is not between 0 and 1, the greatest uncertainty")
        if added < 1:
            raise ValueError(f"reward.added: {added}, expected at least 1")
        self.net = RewardNet(feat + action, hidden=hidden, layers=layers, act=act)
        self.policy_moments = Anchor(rate=0.02) if anchor else None
        self.threshold, self.regularisation, self.added = threshold, regularisation, added

    def inputs(self, feat: Tensor, action: Tensor, *, noisy: bool) -> Tensor:
        """[s, a] (..., F + A)."""
        return torch.cat([feat, action], -1)

    def reward(self, x: Tensor) -> Tensor:
        """(...), before any penalty; bounded by nothing but c_reg."""
        return self.net(x) if self.policy_moments is None else self.policy_moments(self.net(x))

    def loss(
        self, expert: Tensor, data: Tensor, beta: Tensor, model: Tensor, z: Tensor
    ) -> tuple[Losses, dict[str, Tensor]]:
        """Demonstrated (n, X), all data (m, X) with its beta (m,), imagined (k, X), Z () -> terms and metrics."""
        r_expert, r_data, r_model = (self.net(x.detach()) for x in (expert, data, model))
        if self.policy_moments is not None:
            self.policy_moments.take(r_model.detach(), torch.ones_like(r_model))
        squares = torch.cat([r_model, r_data]).square().mean()
        losses = Losses(
            match=z * r_model.mean() - r_expert.mean() - (beta * r_data).mean(), norm=self.regularisation * z * squares
        )
        return losses, {
            "r_expert": r_expert.mean().detach(),
            "r_data": r_data.mean().detach(),
            "r_model": r_model.mean().detach(),
            "std": torch.cat([r_model, r_data]).std().detach(),
        }
