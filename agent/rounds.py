"""Rounds of a reward player that learns between gradient steps, at a cadence of its own (`agent.upkeep`).

Where a round's pairs come from is the reward's ``policy_data``:

    fresh      the newest episodes of the environment
    imagined   rollouts in the model that begin where the demonstrations begin (starts ``expert_init``)
    tracks     the newest episodes as whole trajectories, to which demonstrations are joined; each round first trains a
               classifier between the states of both
    truth      the transitions of the data set with their true rewards: nothing is compared, the reward is fitted

A reward that ``needs_weights`` sees whole trajectories, every pair with a weight by its time; others see pairs drawn
uniformly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agent.agent import Agent
from agent.data import Replay, RowPairs
from agent.imagine import imagine
from agent.reward.f_div import Trajectories


class Tracks(NamedTuple):
    """The pairs of ``number`` trajectories: feat (n, F), action (n, A), time (n,) since each one's start, and done (n,)
    bool where it terminates with this pair.
    """

    feat: Tensor
    action: Tensor
    time: Tensor
    done: Tensor
    number: int


class RewardRounds:
    """Plays the rounds of one agent's reward learner; all state is in the agent."""

    def __init__(self, agent: Agent, replay: Replay, data: Mapping[str, Any]) -> None:
        """data: the configuration's data regime."""
        self.agent, self.replay, self.data = agent, replay, data
        source = "none" if agent.reward is None else agent.reward.policy_data
        # a policy that learns on rollouts hands its own to the reward, in every gradient step
        self.imagined = source == "imagined" and agent.policy.wants == "transitions"
        self.fitted = source == "truth"
        self.whole = source == "tracks"
        self.wanted = source == "fresh" or self.imagined or self.fitted or self.whole

    def play(self, k: int, rng: np.random.Generator, recent: Sequence[int]) -> dict[str, Tensor]:
        """Round k = 1, 2, ... of ``reward_steps`` steps; ``recent``: the newest episodes; empty: all.

        With ``reward_restart`` the optimiser starts afresh with its learning rate divided by max(k - 1, 1) (HyPE's
        code: a no-regret step whose size falls like 1/k; algorithms 3.5).
        """
        optimiser = self.agent.optimisers["reward"]
        if self.data["reward_restart"]:
            optimiser.restart(optimiser.lr / max(k - 1, 1))
        if self.fitted:
            found = self._fit(optimiser, rng)
        elif self.whole:
            found = self._match(optimiser, rng, recent)
        else:
            found = self._compare(optimiser, rng, recent)
        return {f"reward/{name}": value.detach() for name, value in found.items()}

    def _fit(self, optimiser: Any, rng: np.random.Generator) -> dict[str, Tensor]:
        agent = self.agent
        found: dict[str, Tensor] = {}
        pairs = self.replay.pairs("online")
        assert pairs.truth is not None
        truth = self._tensor(pairs.truth)
        agent.reward.standardise(truth)
        x = agent.reward.inputs(self._feat(pairs.obs), self._tensor(pairs.action), noisy=False)
        for _ in range(self.data["reward_steps"]):
            rows = torch.from_numpy(rng.integers(0, len(truth), self.data["reward_batch"])).to(truth.device)
            losses, found = agent.reward.regression(x[rows], truth[rows])
            found["grad"] = optimiser.step(losses.total)
        return found

    def _compare(self, optimiser: Any, rng: np.random.Generator, recent: Sequence[int]) -> dict[str, Tensor]:
        agent = self.agent
        found: dict[str, Tensor] = {}
        more: dict[str, Tensor] = {}
        expert = self.replay.pairs("expert")
        if self.imagined:
            policy, more = self._rollouts(expert)
        else:
            policy = self._tracks(self.replay.pairs("online", recent or None))
        kinds = self._tracks(expert), policy
        for _ in range(self.data["reward_steps"]):
            (x_expert, w_expert), (x_policy, w_policy) = (self._batch(tracks, rng) for tracks in kinds)
            losses, found = agent.reward.loss(x_expert, x_policy, w_expert, w_policy)
            found["grad"] = optimiser.step(losses.total)
        return found | more

    def _match(self, optimiser: Any, rng: np.random.Generator, recent: Sequence[int]) -> dict[str, Tensor]:
        """The classifier's steps, then the reward's, on the same trajectories (algorithms 3.8)."""
        reward, classifier = self.agent.reward, self.agent.optimisers["classifier"]
        found: dict[str, Tensor] = {}
        more: dict[str, Tensor] = {}
        kinds = [self._tracks(self.replay.pairs("expert")), self._tracks(self.replay.pairs("online", recent or None))]
        x = [reward.inputs(tracks.feat, tracks.action, noisy=True) for tracks in kinds]
        for _ in range(reward.ratio_steps):
            rows = (torch.from_numpy(rng.integers(0, len(each), reward.ratio_batch)).to(each.device) for each in x)
            losses, found = reward.ratio_loss(*(each[row] for each, row in zip(x, rows, strict=True)))
            classifier.step(losses.total)
        drawn = rng.multinomial(kinds[1].number, np.full(kinds[0].number, 1 / kinds[0].number))
        told = joined(x, kinds, self._tensor(drawn).float())
        for _ in range(self.data["reward_steps"]):
            losses, more = reward.loss(told)
            more["grad"] = optimiser.step(losses.total)
        return found | more

    def _tracks(self, pairs: RowPairs) -> Tracks:
        """Of each episode the first ``reward_horizon`` pairs (0: all), as tensors."""
        kept = pairs.time < (self.data["reward_horizon"] or len(pairs.time))
        action, time, done = (self._tensor(x[kept]) for x in (pairs.action, pairs.time, pairs.done))
        return Tracks(self._feat(pairs.obs[kept]), action, time, done, int(pairs.episode[-1]) + 1)

    @torch.no_grad()
    def _rollouts(self, expert: RowPairs) -> tuple[Tracks, dict[str, Tensor]]:
        """Sampled rollouts from the first states of the demonstrations, all equally often, at least
        ``reward_rollouts``; and how much they leave the data (algorithms 3.10: a reward that learns "what the model
        invents is bad" looks like success).

        A rollout is as long as its demonstration where that ended by the clock, so that both sums have the same
        weights; what a *terminated* demonstration lacks is the point of the comparison.
        """
        agent, first = self.agent, np.flatnonzero(expert.time == 0)
        last = np.append(first[1:], len(expert.time)) - 1
        longest = self.data["reward_horizon"] or int(expert.time.max()) + 1
        length = np.where(expert.done[last], longest, np.minimum(longest, expert.time[last] + 1))
        each = -(-self.data["reward_rollouts"] // len(first))
        limit = self._tensor(np.tile(length, each))
        start = agent.world.latent(self._tensor(expert.obs[np.tile(first, each)]))
        rollout = imagine(agent.world, agent.policy.actor, start, int(limit.max()), agent.penalty)
        time = torch.arange(len(rollout.action), device=limit.device)[:, None].expand(-1, len(limit))
        there = (rollout.alive[:-1] > 0) & (time < limit)
        done = rollout.alive[1:] == 0
        tracks = Tracks(rollout.feat[:-1][there], rollout.action[there], time[there], done[there], len(limit))
        return tracks, {"u": rollout.u[there].mean(), "length": there.float().sum(0).mean()}

    def _batch(self, tracks: Tracks, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Inputs of the reward and their weights: all pairs, or ``reward_batch`` of them drawn uniformly."""
        reward = self.agent.reward
        if reward.needs_weights:
            return reward.inputs(tracks.feat, tracks.action, noisy=True), reward.weights(tracks.time, tracks.number)
        rows = torch.from_numpy(rng.integers(0, len(tracks.feat), self.data["reward_batch"])).to(tracks.feat.device)
        x = reward.inputs(tracks.feat[rows], tracks.action[rows], noisy=True)
        return x, torch.ones(len(rows), device=x.device)

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.agent.device)

    def _feat(self, obs: np.ndarray) -> Tensor:
        return self.agent.world.latent(self._tensor(obs)).feat


def joined(x: Sequence[Tensor], kinds: Sequence[Tracks], drawn: Tensor) -> Trajectories:
    """The expert's and the policy's inputs x (n, X), (m, X) of episodes one after the other, as one set of
    trajectories; each of the expert's counts ``drawn`` (number,) times.
    """
    horizon = max(int(tracks.time.max()) + 1 for tracks in kinds)
    track, rest, left = [], [], []
    for tracks in kinds:
        track.append((tracks.time == 0).cumsum(0) - 1)
        lost = (horizon - 1 - tracks.time) * tracks.done
        rest.append(torch.zeros(tracks.number, device=lost.device).index_add(0, track[-1], lost.float()))
        left.append(rest[-1].sum() / (rest[-1].sum() + len(lost)))
    # what only one side knows has no ratio: bounded here, and again where the ratio is taken
    log_alive, log_rest = (
        share[0].clamp_min(1e-6).log() - share[1].clamp_min(1e-6).log() for share in ([1 - x for x in left], left)
    )
    count = torch.cat([drawn, torch.ones_like(rest[1])])
    return Trajectories(
        torch.cat(list(x)),
        torch.cat([track[0], track[1] + kinds[0].number]),
        count / count.sum(),
        torch.cat(rest),
        torch.tensor(float(horizon), device=count.device),
        log_alive,
        log_rest,
    )
