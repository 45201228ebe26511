"""Demonstrated chunks, and beside each a rollout of the same length from its first posterior (algorithms 4.5).

For rewards of a model whose states are filtered from pictures: a state's latent exists within a chunk only, so that a
demonstration is compared piece by piece. Sums of different length are never compared: what ends one side of a pair of
trajectories ends the other at the same time.

    chunk      rows 0 .. b-1    b          b+1  ...        b+T       b: rows of history that a posterior wants (burn-in)
    expert                      (z_0,a_0)  (z_1,a_1) ...             posteriors and demonstrated actions, or what the
                                                                     model makes of these (``reward_expert=prior``)
    policy                      (z_0,a'_0) (z'_1,a'_1) ...           z'_t imagined
    weight                      w_0        w_1       ...             of both, 0 from the cut on
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agent.agent import Agent
from agent.batch import to_device, transitions
from agent.data import Replay, Which
from agent.imagine import imagine, stepped
from envs.episode import to_pairs
from models.latent import Latent
from models.world_model import Chunk

EXPERTS = ("posterior", "prior")


class Beside(NamedTuple):
    """T pairs of N chunks and N rollouts: feat (T, N, F) and action (T, N, A) of each, kept (T, N) bool: both sides
    count; alive (T, N) bool: the rollout has not terminated; u (T, N) of the rollouts, limit () where it cuts.
    """

    expert_feat: Tensor
    expert_action: Tensor
    policy_feat: Tensor
    policy_action: Tensor
    kept: Tensor
    alive: Tensor
    u: Tensor
    limit: Tensor


@torch.no_grad()
def beside(agent: Agent, replay: Replay, data: Mapping[str, Any], rng: np.random.Generator) -> Beside:
    """``reward_rollouts`` chunks of demonstrations and sampled rollouts of ``reward_horizon`` pairs (0: what a chunk of
    ``length`` rows has).

    ``reward_expert=prior``: the expert's side is imagined, too, with the demonstrated actions: else a reward may tell
    posteriors from what a model predicts, which no policy can change.

    A rollout is cut where the model's disagreement is above the ``reward_cut`` quantile of that on recorded data: what
    comes after is the model's invention, which a reward would learn to tell from demonstrations.
    """
    burn_in, steps = data["burn_in"], data["reward_horizon"] or data["length"] - 1
    size = (data["reward_rollouts"], burn_in + steps + 1, rng)
    demo = to_device(replay.sample(*size, which="expert", from_start_prob=data["from_start"]), burn_in, agent.device)
    with agent.autocast():
        z = agent.world.observe(demo)
        rollout = imagine(agent.world, agent.policy.actor, z[:, burn_in], steps, agent.penalty)
    feat, action, _, _ = to_pairs(z.feat[:, burn_in:], demo.action[:, burn_in:], axis=1)
    feat = feat.transpose(0, 1)
    if data["reward_expert"] == "prior":
        feat = predicted(agent, z[:, burn_in], action)
    # a chunk may go on with another episode, where what the rollout was beside is over
    one = demo.valid[:, burn_in, None] & ~demo.is_first[:, burn_in + 1 :]
    limit = rollout.u.new_full((), torch.inf)
    if agent.penalty.u is not None and data["reward_cut"] < 1:
        which: Which = "online" if replay.ids("online") else "all"
        own = to_device(replay.sample(*size, which=which), burn_in, agent.device)
        limit = disagreement(agent, own).float().quantile(data["reward_cut"])
    kept = (one.t() & (rollout.u <= limit)).cumprod(0).bool()
    sides = feat, action.transpose(0, 1), rollout.feat[:-1], rollout.action
    return Beside(*sides, kept, rollout.alive[:-1] > 0, rollout.u, limit)


@torch.no_grad()
def predicted(agent: Agent, start: Latent, action: Tensor) -> Tensor:
    """feat (T, N, F) in which the model takes actions (N, T, A) to be done, from ``start`` (N,) on."""
    feats, z = [start.feat], start
    with agent.autocast():
        for t in range(action.shape[1] - 1):
            z, _ = agent.world.step(z, action[:, t], stats=False, need_std=False)
            feats.append(z.feat)
    return torch.stack(feats)


@torch.no_grad()
def disagreement(agent: Agent, chunk: Chunk) -> Tensor:
    """u (n,) of the model at the recorded pairs of a chunk that have enough history."""
    with agent.autocast():
        z = agent.world.observe(chunk)
        pairs = transitions(z, chunk)
        _, u = stepped(agent.world, z[:, :-1].flatten(), pairs.action, agent.penalty)
    return u[pairs.weight > 0]
