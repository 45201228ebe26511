"""AIRL: a discriminator whose structure separates reward and shaping (algorithms 3.9; Fu et al. 2018,
arXiv:1710.11248).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agent.reward.base import RewardLearner
from models.latent import Losses
from models.reward_net import RewardNet, bce_loss, weighted_mean

MAPS = ("f", "g", "logit")
# nats per action dimension: at the ends of a squashed policy's range densities go to 0 or infinity, so that an expert
# who acts there would be told by his actions' size alone, and f would have to follow without bound
LOG_PI_BOUND = 5.0


class Unshaped(RewardLearner):
    """g(s, a) or g(s), a reward of pairs."""

    def __init__(self, net: nn.Module, state_only: bool) -> None:
        super().__init__()
        self.net, self.state_only = net, state_only

    def inputs(self, feat: Tensor, action: Tensor, *, noisy: bool) -> Tensor:
        """s, or [s, a]."""
        return feat if self.state_only else torch.cat([feat, action], -1)

    def reward(self, x: Tensor) -> Tensor:
        """(...), before any penalty."""
        return self.net(x)


class AIRLReward(RewardLearner):
    """f(s, a, s') = g(s, a) + gamma (1 - done) phi(s') - phi(s),  D = exp f / (exp f + pi(a|s)) = sigmoid(f - log pi).

    Rewards: ``f`` for a policy that maximises entropy as well (its temperature times entropy plays the part of
    -log pi), ``logit`` = f - log pi for one that does not, ``g`` without shaping, for transfer.
    """

    needs_next = True

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        hidden: int,
        layers: int,
        act: str,
        gamma: float,
        map: str,
        state_only: bool,
        policy_data: str = "replay",
    ) -> None:
        """gamma: the policy's discount. state_only: g(s). Raises ValueError on bad options."""
        super().__init__()
        if map not in MAPS:
            raise ValueError(f"reward.map: {map!r} is none of {', '.join(MAPS)}")
        if policy_data != "replay":
            raise ValueError(f"reward.policy_data: {policy_data!r}, but AIRL needs real transitions: replay")
        self.sizes = [feat, action, feat, 1, 1]
        self.gamma, self.map, self.state_only, self.policy_data = gamma, map, state_only, policy_data
        widths = {"g": feat if state_only else feat + action, "phi": feat}
        self.net = nn.ModuleDict({k: RewardNet(n, hidden=hidden, layers=layers, act=act) for k, n in widths.items()})

    def inputs(
        self,
        feat: Tensor,
        action: Tensor,
        *,
        noisy: bool,
        next_feat: Tensor | None = None,
        done: Tensor | None = None,
        log_pi: Tensor | None = None,
    ) -> Tensor:
        """[s, a, s', done, log pi(a|s)] (..., 2F + A + 2), with log pi of the current policy, cut at +-LOG_PI_BOUND A;
        never noisy.

        Raises ValueError when one is missing.
        """
        if next_feat is None or done is None or log_pi is None:
            raise ValueError("AIRL's reward is one of transitions: next_feat, done and log_pi are needed")
        bound = LOG_PI_BOUND * action.shape[-1]
        return torch.cat([feat, action, next_feat, done[..., None], log_pi.clamp(-bound, bound)[..., None]], -1)

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """g, f and log pi, (...) each."""
        feat, action, next_feat, done, log_pi = x.split(self.sizes, -1)
        g = self.net["g"](feat if self.state_only else torch.cat([feat, action], -1))
        ahead = (1 - done[..., 0]) * self.net["phi"](next_feat)
        return g, g + self.gamma * ahead - self.net["phi"](feat), log_pi[..., 0]

    def reward(self, x: Tensor) -> Tensor:
        """(...), before any penalty."""
        g, f, log_pi = self._terms(x)
        if self.map == "g":
            return g
        return f if self.map == "f" else f - log_pi

    def alone(self) -> Unshaped:
        """What other dynamics may keep of it: the reward without its shaping (Fu et al. 2018, section 5)."""
        return Unshaped(self.net["g"], self.state_only)

    def score(self, x: Tensor) -> Tensor:
        """D (...), for diagnostics."""
        _, f, log_pi = self._terms(x)
        return torch.sigmoid(f - log_pi)

    def loss(
        self, expert: Tensor, policy: Tensor, expert_weight: Tensor, policy_weight: Tensor
    ) -> tuple[Losses, dict[str, Tensor]]:
        """expert (n, X), policy (m, X), weights (n,), (m,) -> terms and metrics."""
        (_, f_e, log_e), (_, f_p, log_p) = self._terms(expert.detach()), self._terms(policy.detach())
        h_expert, h_policy = f_e - log_e, f_p - log_p
        return Losses(bce=bce_loss(h_expert, h_policy, expert_weight, policy_weight)), {
            "d_expert": weighted_mean(torch.sigmoid(h_expert), expert_weight).detach(),
            "d_policy": weighted_mean(torch.sigmoid(h_policy), policy_weight).detach(),
            "f_expert": weighted_mean(f_e, expert_weight).detach(),
            "f_policy": weighted_mean(f_p, policy_weight).detach(),
        }
