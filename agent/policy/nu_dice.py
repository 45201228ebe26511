"""ValueDICE: distribution matching off the policy's data, without a reward (Kostrikov et al. 2020, arXiv:1912.05032;
algorithms 3.13).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from agent.policy.base import BothBatch, HasClone, clone_loss, row_shares
from models.actor_critic import Critics, SquashedActor
from models.latent import Losses, Transitions
from models.nets import frozen
from models.reward_net import interpolates, steepness, weighted_mean


class NuDicePolicy(nn.Module):
    """Squashed-normal actor against a function nu(s, a), with D nu = nu(s, a) - gamma (1 - done) nu(s', a'), a' ~ pi:

        J = log E_d[exp D nu] - (1 - zeta) (1 - gamma) E_E[nu(s, a_pi)] - zeta E_own[D nu],    a_pi ~ pi(.|s)
        d = (1 - zeta) d^E + zeta d^own

    nu descends on J, which at its minimum and zeta = 0 is -KL(d^pi || d^E); the policy ascends. Every demonstrated
    state stands for a first one. After what is ``done`` nu is 0; in absorbing states, which official runs have instead,
    a' = 0 is certain. The batch's log-mean-exp is biased, and so is that of one s' and a' where those are random.
    """

    wants = "both"

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        hidden: int,
        layers: int,
        act: str,
        gamma: float,
        zeta: float,
        gp_weight: float,
        orthogonal: float,
        min_log_std: float,
        max_log_std: float,
        explore_noise: float,
    ) -> None:
        """zeta: share of own transitions. gp_weight: of (||grad nu|| - 1)^2 between both kinds. orthogonal: weight of
        the actor's squared off-diagonal products of units.
        """
        super().__init__()
        self.actor = SquashedActor(
            feat, action, hidden=hidden, layers=layers, act=act, min_log_std=min_log_std, max_log_std=max_log_std
        )
        self.critics = Critics(feat, action, number=1, hidden=hidden, layers=layers, act=act)
        self.gamma, self.zeta, self.gp_weight, self.orthogonal = gamma, zeta, gp_weight, orthogonal
        self.explore_noise = explore_noise

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Parameters by optimiser name."""
        return {"actor": self.actor.parameters(), "critics": self.critics.parameters()}

    def losses(self, batch: BothBatch) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """nu's and the actor's loss at the same weights, on the same sampled actions."""
        # an encoder behind the features learns from nu alone
        drawn = [
            self.actor(feat.detach()).rsample()
            for feat in (batch.expert.feat, batch.expert.next_feat, batch.own.next_feat)
        ]
        fixed = [action.detach() for action in drawn]
        objective, metrics = self.objective(batch, *fixed)
        critics = Losses(dual=objective)
        if self.gp_weight > 0:
            critics["gp"] = self.gp_weight * self._gradient_penalty(batch, fixed[1], fixed[2])
        with frozen(self.critics):
            actor = Losses(dual=-self.objective(_detached(batch), *drawn)[0])
        if self.orthogonal > 0:
            actor["orthogonal"] = self.orthogonal * _overlap(self.actor)
        return {"critics": critics, "actor": actor}, metrics

    def objective(
        self, batch: BothBatch, first: Tensor, expert_ahead: Tensor, own_ahead: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """J () with the policy's actions in the expert's states (n, A), in its next ones (n, A), in own next ones
        (m, A); and metrics.
        """
        expert, own = (row_shares(kind.weight) for kind in (batch.expert, batch.own))
        zeta = self.zeta * own.sum()  # 0 while there is nothing of its own
        d_expert, d_own = self.change(batch.expert, expert_ahead), self.change(batch.own, own_ahead)
        share = torch.cat([(1 - zeta) * expert, zeta * own])
        log_mean = torch.logsumexp(torch.cat([d_expert, d_own]) + share.clamp_min(1e-30).log(), 0)
        start = (1 - self.gamma) * (expert * self.critics(batch.expert.feat, first)[0]).sum()
        change = (own * d_own).sum()
        metrics = {"dual_log": log_mean, "dual_start": start, "nu_expert": (expert * d_expert).sum(), "nu_own": change}
        return log_mean - (1 - zeta) * start - zeta * change, {name: x.detach() for name, x in metrics.items()}

    def change(self, pairs: Transitions, ahead: Tensor) -> Tensor:
        """D nu (n,) of transitions with the policy's next actions (n, A)."""
        following = (1 - pairs.done) * self.critics(pairs.next_feat, ahead)[0]
        return self.critics(pairs.feat, pairs.action)[0] - self.gamma * following

    def _gradient_penalty(self, batch: BothBatch, expert_ahead: Tensor, own_ahead: Tensor) -> Tensor:
        """On interpolates of the pairs, and of the next ones, of both kinds, as far as these count; where nothing is
        its own, as offline, of the expert's with one another: without any slope to keep to, nu falls without end.
        """
        there = batch.own.weight.sum() > 0
        rows = torch.arange(len(batch.own.weight), device=there.device) % len(batch.expert.weight)

        def inputs(pairs: Transitions, ahead: Tensor) -> Tensor:
            both = torch.cat([pairs.feat, pairs.action], -1), torch.cat([pairs.next_feat, ahead], -1)
            return torch.stack(both).detach()

        expert = inputs(batch.expert, expert_ahead)
        other = torch.where(there, inputs(batch.own, own_ahead), expert[:, rows])
        other_weight = torch.where(there, batch.own.weight, batch.expert.weight[rows])
        found = [interpolates(*now) for now in zip(expert, other, strict=True)]
        x, size = torch.cat([x for x, _ in found]), batch.expert.feat.shape[-1]
        weight = torch.cat([batch.expert.weight * other_weight[pick] for _, pick in found])
        return weighted_mean((steepness(self.critics(x[:, :size], x[:, size:]), x) - 1).square(), weight)

    def clone(self, batch: HasClone) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """The BC term alone (BC initialisation)."""
        nll, metrics = clone_loss(self.actor, batch.clone.detach())
        return {"actor": Losses(bc=nll)}, metrics

    def after_update(self, update: int) -> None:
        """No targets."""


def _detached(batch: BothBatch) -> BothBatch:
    expert, own = (Transitions(*(x.detach() for x in vars(kind).values())) for kind in (batch.expert, batch.own))
    return BothBatch(expert, own, batch.clone)


def _overlap(net: nn.Module) -> Tensor:
    """Sum over dense layers of the squared products of different units' weights."""
    total = torch.zeros(())
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            products = layer.weight @ layer.weight.T
            total = total.to(products.device) + (products - products.diagonal().diag()).square().sum()
    return total
