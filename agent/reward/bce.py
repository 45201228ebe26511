"""Adversarial rewards: a discriminator between expert and policy pairs (CMIL 3.1, V-MAIL 3.2, DAC 3.4, GAIL 3.9)."""

from __future__ import annotations

import torch
from torch import Tensor

from agent.reward.base import RewardLearner
from models.latent import Losses
from models.reward_net import REWARD_MAPS, RewardNet, bce_loss, interpolates, steepness, weighted_mean


class BCEReward(RewardLearner):
    """D = sigmoid(h([feat, a] + noise)); label expert = 1.

    ``inputs`` -> ``reward``/``loss`` are separate verbs because CMIL's policy reward and discriminator loss share one
    noisy input (C2).
    """

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        hidden: int,
        layers: int,
        noise: float,
        noise_in_reward: bool,
        map: str,
        gp: str,
        gp_weight: float,
        act: str = "elu",
        policy_data: str = "imagined",
    ) -> None:
        """policy_data: where policy pairs come from (imagined, replay, fresh). Raises ValueError on bad options."""
        super().__init__()
        if map not in REWARD_MAPS:
            raise ValueError(f"reward.map: {map!r} is none of {', '.join(REWARD_MAPS)}")
        if gp not in ("none", "input", "bound", "weight"):
            raise ValueError(f"reward.gp: {gp!r} is none of none, input, bound, weight")
        if policy_data not in ("imagined", "replay", "fresh"):
            raise ValueError(f"reward.policy_data: {policy_data!r} is none of imagined, replay, fresh")
        self.net = RewardNet(feat + action, hidden=hidden, layers=layers, act=act)
        self.noise, self.noise_in_reward, self.gp, self.gp_weight = noise, noise_in_reward, gp, gp_weight
        self.map, self.policy_data = REWARD_MAPS[map], policy_data

    def inputs(self, feat: Tensor, action: Tensor, *, noisy: bool) -> Tensor:
        """[feat, a] (..., F + A), with fresh N(0, noise^2) on every entry if ``noisy``."""
        x = torch.cat([feat, action], -1)
        return x + self.noise * torch.randn_like(x) if noisy and self.noise > 0 else x

    def reward(self, x: Tensor) -> Tensor:
        """Mapped logit (...), before any penalty."""
        return self.map(self.net(x))

    def score(self, x: Tensor) -> Tensor:
        """D (...), for diagnostics."""
        return torch.sigmoid(self.net(x))

    def loss(
        self, expert: Tensor, policy: Tensor, expert_weight: Tensor, policy_weight: Tensor
    ) -> tuple[Losses, dict[str, Tensor]]:
        """expert (n, F + A), policy (m, F + A), weights (n,), (m,) -> terms and metrics."""
        expert, policy = expert.detach(), policy.detach()
        h_expert, h_policy = self.net(expert), self.net(policy)
        losses = Losses(bce=bce_loss(h_expert, h_policy, expert_weight, policy_weight))
        if self.gp != "none":
            losses["gp"] = self.gp_weight * self._gradient_penalty(expert, policy, expert_weight, policy_weight)
        return losses, {
            "d_expert_noisy": torch.sigmoid(h_expert).mean().detach(),
            "d_policy_noisy": torch.sigmoid(h_policy).mean().detach(),
        }

    def _gradient_penalty(self, expert: Tensor, policy: Tensor, expert_weight: Tensor, policy_weight: Tensor) -> Tensor:
        """(||grad h|| - 1)^2 on interpolates of pairs that count (P-DAC's burn-in does not): w.r.t. inputs (``bound``:
        where it is above 1 alone, so that D may be flat where nothing tells the two apart), or w.r.t. the network's
        weights as in V-MAIL's code (3.2).
        """
        x, pick = interpolates(expert, policy)
        weight = expert_weight * policy_weight[pick]
        h = self.net(x)
        if self.gp == "weight":
            grads = torch.autograd.grad(weighted_mean(h, weight), list(self.net.parameters()), create_graph=True)
            norm = torch.sqrt(sum((g.square().sum() for g in grads), start=h.new_zeros(())) + 1e-12)
            return (norm - 1).square()
        off = steepness(h, x) - 1
        return weighted_mean((off.clamp_min(0) if self.gp == "bound" else off).square(), weight)
