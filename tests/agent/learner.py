"""A tiny learner, and stand-ins whose numbers can be computed by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agent.agent import Agent, UpdateOptions
from agent.penalties import make_penalty
from agent.policy.backprop import BackpropPolicy
from agent.policy.base import ClonePairs
from agent.policy.bc import BCPolicy
from agent.reward.bce import BCEReward
from agent.starts import MixtureStarts, ReplayStarts
from models.latent import Rollout
from tests.models.tiny import ACTION, make_world

OPTIM: dict[str, float] = {"lr": 1e-3, "clip": 100.0, "eps": 1e-5, "wd": 1e-6}
POLICY: dict[str, Any] = {
    "hidden": 8,
    "layers": 1,
    "critic": "q",
    "critics": 2,
    "gamma": 0.9,
    "lambda_": 0.7,
    "entropy": 0.01,
    "beta_bc": 2.0,
    "data_critic": True,
    "target_every": 100,
    "target_reduce": "min",
    "critic_weight_shift": 0,
    "min_std": 0.1,
    "explore_noise": 0.0,
    "rl_scale": 1.0,
}
REWARD: dict[str, Any] = {
    "hidden": 8,
    "layers": 1,
    "noise": 0.5,
    "noise_in_reward": True,
    "map": "prob",
    "gp": "none",
    "gp_weight": 1.0,
}


def make_reward(feat: int = 3, action: int = 2, **options: Any) -> BCEReward:
    """A small discriminator."""
    return BCEReward(feat, action, **(REWARD | options))


def make_policy(feat: int = 3, action: int = 2, **options: Any) -> BackpropPolicy:
    """A small actor-critic."""
    return BackpropPolicy(feat, action, **(POLICY | options))


def make_agent(
    *,
    seed: int = 0,
    policy: dict[str, Any] | None = None,
    reward: dict[str, Any] | None = None,
    world: dict[str, Any] | None = None,
    optim: dict[str, dict[str, float]] | None = None,
    starts: ReplayStarts | MixtureStarts | None = None,
    penalty: str = "ens_std_mean",
    horizon: int = 4,
    joint_batch: bool = False,
    bf16: bool = False,
    ema: float = 0.0,
    clone: bool = False,
) -> Agent:
    """CMIL in miniature; ``clone``: behaviour cloning on the same world model."""
    torch.manual_seed(seed)
    model = make_world(**(world or {}))
    settings = {name: OPTIM | (optim or {}).get(name, {}) for name in ("world", "reward", "actor", "critics")}
    return Agent(
        model,
        None if clone else make_reward(model.feat, ACTION, **(reward or {})),
        starts or ReplayStarts(),
        make_penalty(penalty, 0.0 if penalty == "none" else 3.0),
        BCPolicy(model.feat, ACTION, hidden=8, layers=1, min_std=0.1)
        if clone
        else make_policy(model.feat, ACTION, **(policy or {})),
        settings,
        UpdateOptions(horizon, joint_batch, bf16, ema),
    )


class FixedDist:
    """What the code asks of a policy's distribution, with a given sample."""

    def __init__(self, mean: Tensor, noise: Tensor | float = 0.0) -> None:
        self.loc, self.std = mean, torch.ones_like(mean)
        self._sample = mean + noise

    def rsample(self) -> Tensor:
        return self._sample

    def mode(self) -> Tensor:
        return self.loc

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * (x - self.loc).square().sum(-1)

    def entropy(self) -> Tensor:
        return self.loc.square().sum(-1)  # any function of the policy's parameters


class LinearCritics(nn.Module):
    """Critic i: feat . w_i + action . v_i, so that values can be computed by hand. w (n, F), v (n, A)."""

    def __init__(self, w: Tensor, v: Tensor) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(w), nn.Parameter(v)

    def forward(self, feat: Tensor, action: Tensor) -> Tensor:
        value = feat @ self.w.T + (action @ self.v.T if self.v.shape[1] else 0.0)
        return value.movedim(-1, 0)


def no_clone(policy: BackpropPolicy | BCPolicy, feat: int, action: int) -> ClonePairs:
    """Demo pairs that count for nothing."""
    like = next(policy.parameters())
    return ClonePairs(like.new_zeros(1, feat), like.new_zeros(1, action), like.new_zeros(1))


def rollout(feat: Tensor, action: Tensor, *, alive: Tensor | None = None, entropy: Tensor | None = None) -> Rollout:
    """feat (H+1, N, F), action (H, N, A) -> a rollout without penalty."""
    zeros = torch.zeros_like(action[..., 0])
    return Rollout(
        feat,
        action,
        zeros,
        torch.ones_like(feat[..., 0]) if alive is None else alive,
        zeros if entropy is None else entropy,
    )
