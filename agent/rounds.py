"""Rounds of a reward player that learns between gradient steps, at a cadence of its own (`agent.upkeep`).

Where a round's pairs come from is the reward's ``policy_data``:

    fresh      the newest episodes of the environment
    imagined   rollouts in the model that begin where the demonstrations begin (starts ``expert_init``)
    chunks     rollouts in the model beside pieces of the demonstrations, both cut at the same time (`agent.beside`)
    tracks     the newest episodes as whole trajectories, to which demonstrations are joined; each round first trains a
               classifier between the states of both
    truth      the transitions of the data set with their true rewards: nothing is compared, the reward is fitted
    weighted   imagined transitions, of this and of earlier rounds; demonstrations are joined by the data set, every
               transition with a weight by the model's uncertainty about it

A reward that ``needs_weights`` sees whole trajectories, every pair with a weight by its time; others see pairs drawn
uniformly. One that ``needs_preferences`` sees comparisons of segments in every step, beside the pairs or instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agent.agent import Agent
from agent.beside import EXPERTS, beside
from agent.data import Replay, RowPairs
from agent.errors import ConfigError
from agent.imagine import imagine, stepped
from agent.reward.clare import point_weights
from agent.reward.f_div import Trajectories
from models.latent import Losses
from models.world_model import Chunk

Recent = Sequence[int] | RowPairs  # identities in the replay, or the pairs of episodes that it does not hold


class Tracks(NamedTuple):
    """The pairs of ``number`` trajectories: feat (n, F), action (n, A), time (n,) since each one's start, done (n,)
    bool where it terminates with this pair, and track (n,), which of them it belongs to: 0, 1, ...
    """

    feat: Tensor
    action: Tensor
    time: Tensor
    done: Tensor
    number: int
    track: Tensor


class Weighted(NamedTuple):
    """Inputs x (n, X) of the reward for all pairs of the data, the first ``expert`` of which are demonstrated, and
    their weights beta (n,).
    """

    x: Tensor
    beta: Tensor
    expert: int


class RewardRounds:
    """Plays the rounds of one agent's reward learner; all state is in the agent."""

    def __init__(self, agent: Agent, replay: Replay, data: Mapping[str, Any]) -> None:
        """data: the configuration's data regime."""
        self.agent, self.replay, self.data = agent, replay, data
        source = "none" if agent.reward is None else agent.reward.policy_data
        # a policy that learns on rollouts hands its own to the reward, in every gradient step
        self.imagined = source == "imagined" and agent.policy.wants == "transitions"
        self.fitted = source == "truth"
        self.beside = source == "chunks"
        if self.beside and data["reward_expert"] not in EXPERTS:
            raise ConfigError(f"data.reward_expert: {data['reward_expert']!r} is none of {', '.join(EXPERTS)}")
        self.whole = source == "tracks"
        self.preferred = agent.reward is not None and agent.reward.needs_preferences
        self.weighs = source == "weighted"
        self.weighted: Weighted | None = None  # computed when first needed: a function of the data and the fitted model
        self.wanted = source == "fresh" or self.imagined or self.fitted or self.whole or self.weighs or self.beside

    def play(self, k: int, rng: np.random.Generator, recent: Recent) -> dict[str, Tensor]:
        """Round k = 1, 2, ... of ``reward_steps`` steps; ``recent``: the newest episodes (none named: all), or their
        pairs.

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
        elif self.weighs:
            found = self._weigh(optimiser, rng)
        elif self.preferred and not self.agent.reward.needs_demos:
            found = self._prefer(optimiser, rng)
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

    def _compare(self, optimiser: Any, rng: np.random.Generator, recent: Recent) -> dict[str, Tensor]:
        agent = self.agent
        found: dict[str, Tensor] = {}
        more: dict[str, Tensor] = {}
        if self.beside:
            kinds, more = self._pieces(rng)
        elif self.imagined:
            expert = self.replay.pairs("expert")
            policy, more = self._rollouts(expert)
            kinds = self._tracks(expert), policy
        else:
            kinds = self._played(recent)
        told = {"tracks": tuple((t.track, t.number) for t in kinds)} if agent.reward.needs_tracks else {}
        for _ in range(self.data["reward_steps"]):
            (x_expert, w_expert), (x_policy, w_policy) = (self._batch(tracks, rng) for tracks in kinds)
            losses, found = agent.reward.loss(x_expert, x_policy, w_expert, w_policy, **told)
            if self.preferred:
                also, how = self._preference(rng)
                losses, found = Losses(losses | also), found | how
            found["grad"] = optimiser.step(losses.total)
        return found | more

    def _prefer(self, optimiser: Any, rng: np.random.Generator) -> dict[str, Tensor]:
        """Comparisons alone: the reward of RLHF (algorithms 3.15)."""
        found: dict[str, Tensor] = {}
        for _ in range(self.data["reward_steps"]):
            losses, found = self._preference(rng)
            found["grad"] = optimiser.step(losses.total)
        return found

    def _preference(self, rng: np.random.Generator) -> tuple[Losses, dict[str, Tensor]]:
        reward, world = self.agent.reward, self.agent.world
        obs, action, label = reward.drawn(rng)
        if hasattr(world, "latent"):
            feat = world.latent(obs).feat
        else:
            feat, action = self._filtered(obs, action)
        return reward.preference(reward.inputs(feat, action, noisy=True), label)

    @torch.no_grad()
    def _filtered(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Posteriors (n, 2, t - b, F) of segments of pictures, and their actions, without the b first pairs: these have
        too little history.
        """
        led = torch.cat([torch.zeros_like(action[:, :, :1]), action[:, :, :-1]], 2).flatten(0, 1)
        none = torch.zeros(led.shape[:2], dtype=torch.bool, device=led.device)
        first, burn_in = none.clone(), min(self.data["burn_in"], action.shape[2] - 1)
        first[:, 0] = True
        with self.agent.autocast():
            z = self.agent.world.observe(Chunk(obs.flatten(0, 1), led, first, none, none, none[:, 0], ~none))
        return z.feat.float().unflatten(0, action.shape[:2])[:, :, burn_in:], action[:, :, burn_in:]

    def _match(self, optimiser: Any, rng: np.random.Generator, recent: Recent) -> dict[str, Tensor]:
        """The classifier's steps, then the reward's, on the same trajectories (algorithms 3.8)."""
        reward, classifier = self.agent.reward, self.agent.optimisers["classifier"]
        found: dict[str, Tensor] = {}
        more: dict[str, Tensor] = {}
        kinds = self._played(recent)
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

    def _weigh(self, optimiser: Any, rng: np.random.Generator) -> dict[str, Tensor]:
        """Weighted data against imagined transitions, some of which are kept for later rounds (algorithms 3.12)."""
        agent = self.agent
        assert agent.memory is not None and agent.past is not None
        if agent.memory.filled == 0:
            raise ConfigError("data.reward_start: a first round before anything was imagined: later than update 0")
        if self.weighted is None:
            self.weighted = self._weights()
        x, beta, expert = self.weighted
        new, u = agent.memory.sample(agent.reward.added)
        agent.past.add(new.feat, new.action, new.next_feat, new.done, u)
        found: dict[str, Tensor] = {}
        for _ in range(self.data["reward_steps"]):
            drawn = (rng.integers(0, n, self.data["reward_batch"]) for n in (expert, len(x)))
            demo, rows = (torch.from_numpy(each).to(x.device) for each in drawn)
            model, _ = agent.past.sample(self.data["reward_batch"])
            x_model = agent.reward.inputs(model.feat, model.action, noisy=True)
            losses, found = agent.reward.loss(x[demo], x[rows], beta[rows], x_model, 1 + beta.mean())
            found["grad"] = optimiser.step(losses.total)
        # where the model knows all demonstrations, or none, the weights say nothing
        return found | {"unknown": (beta[:expert] < 0).float().mean()}

    @torch.no_grad()
    def _weights(self) -> Weighted:
        """Of every pair there is, by the penalty's u over its maximum. A resumed run computes the same numbers again:
        no random number of the training is spent.
        """
        agent = self.agent
        kinds = [self.replay.pairs(which) for which in ("expert", "online") if self.replay.ids(which)]
        obs, action = (self._tensor(np.concatenate([getattr(p, k) for p in kinds])) for k in ("obs", "action"))
        z = agent.world.latent(obs)
        us = []
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(0)
            for rows in torch.arange(len(action), device=action.device).split(4096):
                us.append(stepped(agent.world, z[rows], action[rows], agent.penalty)[1])
        u, expert = torch.cat(us), len(kinds[0].action)
        c = u / u.max().clamp_min(torch.finfo(u.dtype).tiny)
        x = agent.reward.inputs(z.feat, action, noisy=False)
        return Weighted(x, point_weights(c, expert, agent.reward.threshold), expert)

    def _played(self, recent: Recent) -> tuple[Tracks, Tracks]:
        """Demonstrations and the newest episodes. Where whole trajectories are compared, each of these is as long as a
        demonstration, all in turn (``_lengths``).
        """
        expert = self.replay.pairs("expert")
        own = recent if isinstance(recent, RowPairs) else self.replay.pairs("online", recent or None)
        whole = self.agent.reward.needs_weights or self.whole
        length = _lengths(expert, len(own.time)) if whole else np.array([len(own.time)])
        return self._tracks(expert), self._tracks(own, length[own.episode % len(length)])

    def _tracks(self, pairs: RowPairs, limit: np.ndarray | None = None) -> Tracks:
        """Of each episode the first ``reward_horizon`` pairs (0: all), and no more than ``limit`` (n,) says of its
        pairs, as tensors.
        """
        kept = pairs.time < (self.data["reward_horizon"] or len(pairs.time))
        if limit is not None:
            kept &= pairs.time < limit
        action, time, done, track = (
            self._tensor(x[kept]) for x in (pairs.action, pairs.time, pairs.done, pairs.episode)
        )
        return Tracks(self._feat(pairs.obs[kept]), action, time, done, int(pairs.episode[-1]) + 1, track)

    def _pieces(self, rng: np.random.Generator) -> tuple[tuple[Tracks, Tracks], dict[str, Tensor]]:
        """Demonstrated chunks and the rollouts beside them: of both, what no cut has removed."""
        found = beside(self.agent, self.replay, self.data, rng)
        steps, number = found.kept.shape
        time, track = torch.meshgrid(*(torch.arange(n, device=found.u.device) for n in (steps, number)), indexing="ij")

        def side(feat: Tensor, action: Tensor, there: Tensor) -> Tracks:
            done = torch.zeros_like(there[there])
            return Tracks(feat[there].float(), action[there], time[there], done, number, track[there])

        expert = side(found.expert_feat, found.expert_action, found.kept)
        policy = side(found.policy_feat, found.policy_action, found.kept & found.alive)
        more = {"u": found.u.mean(), "u_limit": found.limit, "length": found.kept.float().sum(0).mean()}
        return (expert, policy), more

    @torch.no_grad()
    def _rollouts(self, expert: RowPairs) -> tuple[Tracks, dict[str, Tensor]]:
        """Sampled rollouts from the first states of the demonstrations, all equally often, at least
        ``reward_rollouts``; and how much they leave the data (algorithms 3.10: a reward that learns "what the model
        invents is bad" looks like success). A rollout is as long as its demonstration (``_lengths``).
        """
        agent, first = self.agent, np.flatnonzero(expert.time == 0)
        length = _lengths(expert, self.data["reward_horizon"] or int(expert.time.max()) + 1)
        each = -(-self.data["reward_rollouts"] // len(first))
        limit = self._tensor(np.tile(length, each))
        start = agent.world.latent(self._tensor(expert.obs[np.tile(first, each)]))
        rollout = imagine(agent.world, agent.policy.actor, start, int(limit.max()), agent.penalty)
        time = torch.arange(len(rollout.action), device=limit.device)[:, None].expand(-1, len(limit))
        there = (rollout.alive[:-1] > 0) & (time < limit)
        done = rollout.alive[1:] == 0
        track = torch.arange(len(limit), device=limit.device).expand_as(time)[there]
        tracks = Tracks(rollout.feat[:-1][there], rollout.action[there], time[there], done[there], len(limit), track)
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


def _lengths(expert: RowPairs, longest: int) -> np.ndarray:
    """How many pairs, at most ``longest``, a trajectory may have that is compared with each demonstration: (number,).

    As many as that has, where it ended by the clock, so that both sums have the same weights (algorithms 4.5); what a
    *terminated* demonstration lacks is the point of the comparison.
    """
    last = np.append(np.flatnonzero(expert.time == 0)[1:], len(expert.time)) - 1
    return np.where(expert.done[last], longest, np.minimum(longest, expert.time[last] + 1))


def joined(x: Sequence[Tensor], kinds: Sequence[Tracks], drawn: Tensor) -> Trajectories:
    """The expert's and the policy's inputs x (n, X), (m, X) of episodes one after the other, as one set of
    trajectories; each of the expert's counts ``drawn`` (number,) times.
    """
    horizon = max(int(tracks.time.max()) + 1 for tracks in kinds)
    track, rest, left = [], [], []
    for tracks in kinds:
        track.append(tracks.track)
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
