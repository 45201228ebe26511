"""Moment matching: a reward that is minus a Lipschitz cost (HyPE family, algorithms 2.4, 3.5, 3.6; pixels 4.5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agent.reward.base import RewardLearner
from models.latent import Losses
from models.reward_net import Anchor, CostNet, RunningMoments, both_present, interpolates, steepness, weighted_mean

# over members, of the *reward* -f: HyPER's code takes the least cost, which is "max" (HR3, optimistic)
REDUCE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda r: r.mean(0),
    "min": lambda r: r.amin(0),
    "max": lambda r: r.amax(0),
}


class IPMReward(RewardLearner):
    """r = reduce_k -f_k([feat, a]), every cost trained by

        L_k = E_E[f_k] - E_pi[f_k] + gp_weight E_interp (||grad f_k|| - gp_target)^2.

    The offset of f is unidentified: where episodes can end early, its drift rewards or punishes surviving (3.5).
    """

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        hidden: int,
        layers: int,
        members: int,
        reduce: str,
        clip: float,
        gp_weight: float,
        gp_target: float,
        standardise: bool,
        standard_clip: float,
        input_standardise: bool,
        stats_rate: float,
        anchor: bool,
        policy_data: str = "fresh",
    ) -> None:
        """standardise: rewards get running mean 0 and std 1 over both kinds of pairs, cut at +-standard_clip.
        input_standardise: the same for every input, uncut; for features that drift. stats_rate: weight of the newest
        batch in these statistics. anchor: `Anchor` on the policy's pairs. clip: soft bound of f, 0: none. Raises
        ValueError on bad options.
        """
        super().__init__()
        if reduce not in REDUCE:
            raise ValueError(f"reward.reduce: {reduce!r} is none of {', '.join(REDUCE)}")
        if policy_data not in ("imagined", "replay", "fresh"):
            raise ValueError(f"reward.policy_data: {policy_data!r} is none of imagined, replay, fresh")
        self.net = CostNet(feat + action, members=members, hidden=hidden, layers=layers, clip=clip)
        self.input_moments = RunningMoments(feat + action, rate=stats_rate, floor=1e-2) if input_standardise else None
        self.reward_moments = RunningMoments(1, rate=stats_rate, floor=1e-6) if standardise else None
        self.policy_moments = Anchor(stats_rate) if anchor else None
        self.reduce, self.policy_data = REDUCE[reduce], policy_data
        self.gp_weight, self.gp_target, self.standard_clip = gp_weight, gp_target, standard_clip

    def inputs(self, feat: Tensor, action: Tensor, *, noisy: bool) -> Tensor:
        """[feat, a] (..., F + A); moment matching knows no input noise."""
        return torch.cat([feat, action], -1)

    def reward(self, x: Tensor) -> Tensor:
        """(...), before any penalty."""
        x = x if self.input_moments is None else self.input_moments(x)
        r = self._scaled(self.reduce(-self.net(x)))
        return r if self.policy_moments is None else self.policy_moments(r)

    def _scaled(self, r: Tensor) -> Tensor:
        """Standardised where asked for: (...) -> (...)."""
        if self.reward_moments is None:
            return r
        return self.reward_moments(r[..., None])[..., 0].clamp(-self.standard_clip, self.standard_clip)

    def loss(
        self, expert: Tensor, policy: Tensor, expert_weight: Tensor, policy_weight: Tensor
    ) -> tuple[Losses, dict[str, Tensor]]:
        """expert (n, F + A), policy (m, F + A), weights (n,), (m,) -> terms and metrics; moves the statistics.

        Terms are sums over members: each gets the gradient that it would get alone.
        """
        expert, policy = expert.detach(), policy.detach()
        if self.input_moments is not None:
            self.input_moments.update(expert, policy, expert_weight, policy_weight)
            expert, policy = self.input_moments(expert), self.input_moments(policy)
        f_expert, f_policy = self.net(expert), self.net(policy)
        if self.reward_moments is not None:
            r_expert, r_policy = (self.reduce(-f.detach())[:, None] for f in (f_expert, f_policy))
            self.reward_moments.update(r_expert, r_policy, expert_weight, policy_weight)
        if self.policy_moments is not None:
            self.policy_moments.take(self._scaled(self.reduce(-f_policy.detach())), policy_weight)
        means = weighted_mean(f_expert, expert_weight), weighted_mean(f_policy, policy_weight)
        # with one kind missing the difference would have no minimum: the other mean would drift without bound
        gap = (means[1] - means[0]) * both_present(expert_weight, policy_weight)
        penalty, norm = self._gradient_penalty(expert, policy, expert_weight, policy_weight)
        return Losses(ipm=-gap.sum(), gp=self.gp_weight * penalty), {
            "f_expert": means[0].mean().detach(),
            "f_policy": means[1].mean().detach(),
            "gap": gap.mean().detach(),
            "grad_norm": norm,
        }

    def _gradient_penalty(
        self, expert: Tensor, policy: Tensor, expert_weight: Tensor, policy_weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """sum_k E (||grad_x f_k|| - gp_target)^2 between pairs that count, and the mean norm."""
        x, pick = interpolates(expert, policy)
        weight = expert_weight * policy_weight[pick]
        each = x.expand(self.net.members, *x.shape)  # one copy a member: gradients must not add up
        norm = steepness(self.net.each(each), each)
        return (
            weighted_mean((norm - self.gp_target).square(), weight).sum(),
            weighted_mean(norm, weight).mean().detach(),
        )
