"""Imagined rollouts: one implementation for every world model (algorithms 4.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from agent.penalties import Penalty
from models.dists import TruncatedNormal
from models.latent import Latent, Rollout
from models.world_model import WorldModel


def imagine(
    world: WorldModel, policy: Callable[[Tensor], TruncatedNormal], start: Latent, horizon: int, penalty: Penalty
) -> Rollout:
    """Roll the policy H steps from N starts.

    k        0         1        ...   H-1        H
    z        z0 ---->  z1             z_{H-1} -> z_H
    a        a0        a1             a_{H-1}              a_k ~ pi(. | sg feat_k)   (Dreamer: the actor's input is
    detached)
    u        u0        u1             u_{H-1}              disagreement of the heads that produced z_{k+1}

    ``alive`` is 0 from the state on that ends an episode; a start may be one.
    """
    z = start.detach()
    feats, actions, us, entropies = [z.feat], [], [], []
    alive = [(~world.terminated(z.feat)).float()]
    for _ in range(horizon):
        dist = policy(feats[-1].detach())
        action = dist.rsample()
        z, u = stepped(world, z, action, penalty)
        feats.append(z.feat)
        alive.append(alive[-1] * (~world.terminated(z.feat)).float())
        actions.append(action)
        entropies.append(dist.entropy())
        us.append(u)
    return Rollout(
        torch.stack(feats), torch.stack(actions), torch.stack(us), torch.stack(alive), torch.stack(entropies)
    )


def stepped(world: Any, z: Latent, action: Tensor, penalty: Penalty) -> tuple[Latent, Tensor]:
    """z' and the disagreement u (n,) of the heads about it, 0 where no penalty asks for it."""
    ahead, stats = world.step(z, action, stats=penalty.u is not None, need_std=penalty.needs_std)
    return ahead, action.new_zeros(action.shape[0]) if penalty.u is None or stats is None else penalty.u(stats)


def penalised(reward: Tensor, u: Tensor, penalty: Penalty) -> Tensor:
    """r - alpha_pen u: the only place where a penalty meets a reward."""
    return reward - penalty.alpha * u
