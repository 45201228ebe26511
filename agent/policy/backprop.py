"""Actor-critic by backpropagation through imagined rollouts (algorithms 2.6, 3.1, 3.2; CMIL eq. 11-14)."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from agent.policy.base import DataPairs, PolicyBatch, clone_loss
from models.actor_critic import Actor, Critics
from models.latent import Losses, Rollout
from models.nets import frozen
from models.returns import lambda_return


class BackpropPolicy(nn.Module):
    """TD(lambda) through the dynamics with Q- or V-critics, a critic data term and a BC term.

    k            0        1        2     ...    H-1      H
    a            a0       a1       a2           a_{H-1}
    reward       r0       r1       r2           (r_{H-1})
    Q critics    Q0       Q1       Q2           Q_{H-1}             N = H-1 rewards, Q_{H-1} bootstraps (C7)
    V critics    V0       V1       V2           V_{H-1}  V_H        N = H rewards, V_H bootstraps
    return R     R0       R1       R2 .. R_{N-1}
    losses       x        x        x  ..  k = 0..N-1,  weight gamma^k * alive_k

    ``soft``: values count the entropy of all later actions as well, r_k + gamma eta Ent_{k+1} in place of r_k, so that
    the optimum is the entropy-regularised one that likelihood gradients need (algorithms 3.7, 4.5); without it entropy
    is a bonus of the actor at each state (C20).
    """

    wants = "rollout"

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        hidden: int,
        layers: int,
        critic: str,
        critics: int,
        gamma: float,
        lambda_: float,
        entropy: float,
        beta_bc: float,
        data_critic: bool,
        target_every: int,
        target_reduce: str,
        critic_weight_shift: int,
        min_std: float,
        explore_noise: float,
        rl_scale: float,
        soft: bool = False,
        critic_norm: bool = False,
    ) -> None:
        super().__init__()
        if critic not in ("q", "v"):
            raise ValueError(f"policy.critic: {critic!r} is none of q, v")
        if target_reduce not in ("min", "random"):
            raise ValueError(f"policy.target_reduce: {target_reduce!r} is none of min, random")
        if soft and critic != "q":
            raise ValueError("policy.soft: values with entropy are those of pairs: policy.critic=q")
        self.actor = Actor(feat, action, hidden=hidden, layers=layers, min_std=min_std)
        self.critics = Critics(
            feat, action if critic == "q" else 0, number=critics, hidden=hidden, layers=layers, norm=critic_norm
        )
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.q, self.data_critic = critic == "q", data_critic
        self.gamma, self.lambda_, self.entropy, self.beta_bc, self.rl_scale = gamma, lambda_, entropy, beta_bc, rl_scale
        self.target_every, self.target_reduce, self.shift = target_every, target_reduce, critic_weight_shift
        self.explore_noise, self.soft = explore_noise, soft

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Parameters by optimiser name, in the order of the optimiser steps."""
        return {"actor": self.actor.parameters(), "critics": self.critics.parameters()}

    def _values(self, critics: Critics, rollout: Rollout, reduce: str) -> Tensor:
        """(N+1, n) values along the rollout, reduced over the critics."""
        feat = rollout.feat[:-1] if self.q else rollout.feat  # k = 0..H-1, or 0..H
        values = critics(feat, rollout.action)
        if reduce == "random":
            return values[torch.randint(values.shape[0], (1,), device=values.device)].squeeze(0)
        return values.amin(0)

    def losses(self, batch: PolicyBatch) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """Actor and critic losses, all at the same weights (before any optimiser step)."""
        rollout, reward = batch.rollout, batch.reward
        assert rollout is not None and reward is not None
        n = reward.shape[0] - 1 if self.q else reward.shape[0]
        reward = self._with_entropy(reward[:n], rollout)
        with frozen(self.critics):
            value = self._values(self.critics, rollout, "min")
        discount = self.gamma * rollout.alive[1 : n + 1]  # nothing follows a termination (algorithms 1.4, "mask")
        ret = lambda_return(reward, value, discount, self.lambda_)
        weight = self.gamma ** torch.arange(n, device=ret.device)[:, None] * rollout.alive[:n].detach()
        # with Q the immediate value also carries a gradient to a_k; V(z_k) does not depend on a_k (V-MAIL: return only)
        gain = (1 - self.lambda_) * value[:n] + self.lambda_ * ret if self.q else ret
        gain = gain + self.entropy * rollout.entropy[:n]
        actor = Losses(rl=-self.rl_scale * (weight * gain).mean())
        bc, metrics = clone_loss(self.actor, batch.clone)
        if self.beta_bc > 0:
            actor["bc"] = self.beta_bc * bc
        critics, critic_metrics = self._critic_losses(rollout, reward.detach(), batch.data, weight, n)
        metrics |= critic_metrics | {"value": value.mean().detach(), "entropy": rollout.entropy.mean().detach()}
        return {"actor": actor, "critics": critics}, metrics

    def _with_entropy(self, reward: Tensor, rollout: Rollout) -> Tensor:
        """What returns add up, (N, n): with ``soft`` a pair's reward and the entropy of the action after it."""
        if not self.soft:
            return reward
        n = len(reward)
        return reward + self.gamma * self.entropy * rollout.alive[1 : n + 1] * rollout.entropy[1 : n + 1]

    def _critic_losses(
        self, rollout: Rollout, reward: Tensor, data: DataPairs | None, weight: Tensor, n: int
    ) -> tuple[Losses, dict[str, Tensor]]:
        """Half squared errors averaged over critics: imagined pairs, and replay pairs against a one-step-longer
        return (3.1).
        """
        with torch.no_grad():
            target_value = self._values(self.target, rollout, self.target_reduce)
            discount = self.gamma * rollout.alive[1 : n + 1]
            target = lambda_return(reward, target_value, discount, self.lambda_)  # Rbar_k
        feat, action = rollout.feat[:n].detach(), rollout.action[:n].detach()
        predicted = self.critics(feat, action)
        error = (predicted - target).square()
        losses = Losses(model=0.5 * (weight * self.gamma**self.shift * error).mean())
        metrics = {"td_error": error.mean().detach()}
        if self.data_critic and data is not None:
            # y_j = r_j + gamma [(1-lambda) Qbar(z_{j+1}, a^_{j+1}) + lambda Rbar_0]: a^ is the first imagined action
            # at z_{j+1}
            ahead = (1 - self.lambda_) * target_value[0] + self.lambda_ * target[0]
            if self.soft:
                ahead = ahead + self.entropy * rollout.entropy[0].detach()
            y = data.reward + self.gamma * (rollout.alive[0] * ahead)[data.start]
            data_error = (self.critics(data.feat, data.action) - y).square() * data.weight
            losses["data"] = 0.5 * (data_error.sum(1) / data.weight.sum().clamp_min(1.0)).mean()
        return losses, metrics

    def clone(self, batch: PolicyBatch) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """The BC term alone (BC initialisation)."""
        nll, metrics = clone_loss(self.actor, batch.clone)
        return {"actor": Losses(bc=nll)}, metrics

    def after_update(self, update: int) -> None:
        """Hard copy of the critics into the targets at updates 0, E, 2E, ... (step 6 of algorithms 3.1)."""
        if update % self.target_every == 0:
            with torch.no_grad():
                for p, q in zip(self.target.parameters(), self.critics.parameters(), strict=True):
                    p.copy_(q)
