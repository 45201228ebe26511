"""f-IRL: a reward of the state by descent on an f-divergence between state marginals (Ni et al. 2020, arXiv:2011.04709;
algorithms 3.8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent.reward.base import RewardLearner
from agent.reward.ml import CLAMPS
from models.latent import Losses
from models.reward_net import RatioNet, RewardNet, bce_loss

# h_f(u) = f(u) - u f'(u) of log u, up to a constant: FKL f = u log u, RKL -log u, JS u log u - (1 + u) log((1 + u) / 2)
DIVERGENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "fkl": lambda log_u: -log_u.exp(),
    "rkl": lambda log_u: -log_u,
    "js": lambda log_u: -F.softplus(log_u),
}


class Trajectories(NamedTuple):
    """m whole trajectories as n states, each as long as the longest once it counts as ``rest`` what an end cut off.

    x (n, F) states, track (n,) which trajectory each belongs to, share (m,) its weight, in all 1; rest (m,) steps that
    an end has left; horizon () steps of the longest; log_alive, log_rest () log of the expert's over the policy's share
    of time before, and after, an end.
    """

    x: Tensor
    track: Tensor
    share: Tensor
    rest: Tensor
    horizon: Tensor
    log_alive: Tensor
    log_rest: Tensor


class FDivReward(RewardLearner):
    """r_theta(s) with the policy soft-optimal for it, rho its states' distribution, averaged over T steps:

        grad D_f(rho_E || rho) = 1/T Cov_tau( sum_t h_f(rho_E(s_t) / rho(s_t)), sum_t grad r_theta(s_t) )

    at temperature 1. log(rho_E / rho) is the logit of a classifier, trained first in every round. The covariance is
    over the policy's trajectories together with resampled demonstrations, as in the official code: where the two hardly
    meet, the policy's alone would not tell what the expert's states are worth.

    What comes after a termination is one more state, of reward 0, so that all trajectories have T steps.
    """

    policy_data = "tracks"  # `agent.rounds`: the newest episodes, whole

    def __init__(
        self,
        feat: int,
        *,
        divergence: str,
        hidden: int,
        layers: int,
        act: str,
        clamp: str,
        bound: float,
        ratio_hidden: int,
        ratio_blocks: int,
        ratio_clamp: float,
        ratio_steps: int,
        ratio_batch: int,
    ) -> None:
        """divergence: fkl, rkl or js. clamp: soft, hard or none, of the reward at +-bound. ratio_clamp: bound of the
        classifier's logit where it stands for a ratio; ratio_steps: its gradient steps in a round, each on
        ``ratio_batch`` states of either kind. Raises ValueError on bad options.
        """
        super().__init__()
        for name, value, known in (("divergence", divergence, tuple(DIVERGENCES)), ("clamp", clamp, tuple(CLAMPS))):
            if value not in known:
                raise ValueError(f"reward.{name}: {value!r} is none of {', '.join(known)}")
        self.net = RewardNet(feat, hidden=hidden, layers=layers, act=act)
        self.ratio = RatioNet(feat, hidden=ratio_hidden, blocks=ratio_blocks)
        self.h, self.clamp, self.bound = DIVERGENCES[divergence], CLAMPS[clamp], bound
        self.ratio_clamp, self.ratio_steps, self.ratio_batch = ratio_clamp, ratio_steps, ratio_batch

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by optimiser name."""
        return {"reward": list(self.net.parameters()), "classifier": list(self.ratio.parameters())}

    def inputs(self, feat: Tensor, action: Tensor, *, noisy: bool) -> Tensor:
        """s alone: (..., F)."""
        return feat

    def reward(self, x: Tensor) -> Tensor:
        """(...), before any penalty."""
        return self.clamp(self.net(x), self.bound)

    def ratio_loss(self, expert: Tensor, policy: Tensor) -> tuple[Losses, dict[str, Tensor]]:
        """The classifier's, from states (n, F) and (m, F): label expert = 1."""
        h_expert, h_policy = self.ratio(expert), self.ratio(policy)
        ones = (torch.ones_like(h) for h in (h_expert, h_policy))
        return Losses(bce=bce_loss(h_expert, h_policy, *ones)), {
            "d_expert": torch.sigmoid(h_expert).mean().detach(),
            "d_policy": torch.sigmoid(h_policy).mean().detach(),
        }

    def loss(self, told: Trajectories) -> tuple[Losses, dict[str, Tensor]]:
        """A number whose gradient is the covariance above, and metrics."""
        with torch.no_grad():
            log_u = (self.ratio(told.x) + told.log_alive).clamp(-self.ratio_clamp, self.ratio_clamp)
            after = self.h(told.log_rest.clamp(-self.ratio_clamp, self.ratio_clamp))
            h = (told.rest * after).index_add(0, told.track, self.h(log_u))
            h = h - (told.share * h).sum()
        reward = self.reward(told.x.detach())
        sums = torch.zeros_like(told.share).index_add(0, told.track, reward)
        loss = (told.share * h * sums).sum() / told.horizon
        return Losses(covariance=loss), {
            "std": reward.std().detach(),
            "log_ratio": log_u.mean(),
            "rest": (told.share * told.rest).sum() / told.horizon,
        }
