"""The learner: holds the six parts and makes one gradient step (algorithms 4.1). It knows no algorithm by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agent.batch import join, pair_weight, transitions
from agent.imagine import imagine, penalised
from agent.memory import TransitionMemory
from agent.optim import Optimiser
from agent.penalties import Penalty
from agent.policy.base import BothBatch, ClonePairs, DataPairs, PolicyBatch, TransitionBatch, row_shares
from agent.starts import Starts, StartSet
from envs.episode import to_pairs
from models.latent import Latent, Losses, Rollout, Transitions
from models.nets import frozen
from models.world_model import Chunk

FULL = frozenset({"world", "reward", "policy"})
FIT = "fit"  # its name among the optimisers' states


@dataclass(frozen=True)
class UpdateOptions:
    """Options of one update.

    horizon: H. real_fraction: share of a transition batch that comes from the chunk where a memory of imagined
    transitions gives the rest. joint_batch: fit the model on agent and expert chunks together. bf16: autocast. ema:
    decay of the averaged weights that act (0: the newest weights act). A cloned policy's trajectory is nearly
    deterministic, so that one update more or less decides between hooking a handle and missing it in *every* episode;
    averaging helps. clone_noise: std of the noise on features that actions are cloned from; a few demonstrations are
    learned by heart without it, or without shifts of pictures. ema_warm_up: a short memory in the first updates, for
    weights that begin at random; those of another run (``init``) would be thrown away by it.
    """

    horizon: int
    joint_batch: bool
    bf16: bool
    ema: float = 0.0
    clone_noise: float = 0.0
    real_fraction: float = 0.0
    ema_warm_up: bool = True


class Agent(nn.Module):
    """World model, reward learner (or None), starts, penalty and policy, with one optimiser per parameter group."""

    def __init__(
        self,
        world: Any,
        reward: Any,
        starts: Starts,
        penalty: Penalty,
        policy: Any,
        optim: Mapping[str, Mapping[str, Any]],
        options: UpdateOptions,
        memory: TransitionMemory | None = None,
        past: TransitionMemory | None = None,
    ) -> None:
        """world: `models.world_model.WorldModel`, reward: a learner of `agent.reward` or None, policy: of
        `agent.policy`; ``memory`` holds imagined transitions for a policy that wants them (`agent.upkeep` fills it),
        ``past`` those of earlier rounds for a reward that compares with them (`agent.rounds`).
        """
        super().__init__()
        self.world, self.reward, self.policy, self.memory, self.past = world, reward, policy, memory, past
        self.starts, self.penalty, self.options = starts, penalty, options
        self.coefficient = penalty.coefficient  # a module where it adapts: part of the checkpoint
        self.slow: nn.ModuleDict | None = (
            copy.deepcopy(nn.ModuleDict({"world": world, "actor": policy.actor})) if options.ema > 0 else None
        )
        if self.slow is not None:
            self.slow.requires_grad_(False)
            # walking through the modules for them costs more than averaging small networks
            self._averaged = self._acting(self.slow["world"], self.slow["actor"]), self._acting(world, policy.actor)
            self._copied = [*self.slow.buffers()], [*world.buffers(), *policy.actor.buffers()]
        groups = {"world": list(world.parameters())} if world.learns == "likelihood" else {}
        if hasattr(reward, "groups"):
            groups |= reward.groups()
        elif reward is not None and (learned := [p for p in reward.parameters() if p.requires_grad]):
            groups["reward"] = learned
        # an encoder that the policy trains belongs to the critics where there are some (P-DAC), else to the actor
        trains = "critics" if policy.wants in ("transitions", "both") else "actor"
        for name, params in policy.groups().items():
            extra = list(world.parameters()) if name == trains and world.learns == "policy" else []
            groups[name] = [*params, *extra]
        self.optimisers = {name: Optimiser(params, **optim[name]) for name, params in groups.items()}
        # the share of the imagined return that the policy hears (``agent.nearness``): a tensor, which graphs read anew
        self.practice: Tensor
        self.register_buffer("practice", torch.ones((), device=self.device), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.policy.parameters()).device

    def autocast(self) -> torch.autocast:
        """bf16 products where the size asks for them; distributions, losses and latents stay float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.options.bf16)

    @property
    def worlds(self) -> list[Any]:
        """The model, and the copy of it that acts, where there is one."""
        return [self.world, *([] if self.slow is None else [self.slow["world"]])]

    def set_normaliser(self, states: Tensor) -> None:
        """Statistics of states (n, d) for the model and for the copy of it that acts from the first episode on."""
        for world in self.worlds:
            world.set_normaliser(states.to(self.device))

    # ---- acting ----
    @property
    def acting(self) -> tuple[Any, Any]:
        """World model and actor that act: the averaged ones where there are some."""
        return (self.world, self.policy.actor) if self.slow is None else (self.slow["world"], self.slow["actor"])

    @torch.no_grad()
    def act(
        self, obs: np.ndarray, action: np.ndarray, is_first: np.ndarray, carry: Any, *, mode: bool, noise: float = 0.0
    ) -> tuple[np.ndarray, Any]:
        """obs (n, ...), the action that led to it (n, A), is_first (n,) -> next action (n, A) in [-1, 1], carry.

        ``mode``: the policy's most likely action on the posterior mean, else samples of both. ``noise``: std of
        Gaussian exploration on top.
        """
        tensors = [torch.from_numpy(np.ascontiguousarray(x)).to(self.device) for x in (obs, action, is_first)]
        world, actor = self.acting
        z, carry = world.filter(*tensors, carry, sample=not mode)
        dist = actor(z.feat)
        chosen = dist.mode() if mode else dist.rsample()
        if noise > 0:
            chosen = chosen + noise * torch.randn_like(chosen)
        return chosen.clamp(-1, 1).cpu().numpy(), carry

    # ---- learning ----
    def update(
        self, agent_chunk: Chunk, expert_chunk: Chunk, index: int, parts: frozenset[str] = FULL
    ) -> dict[str, Tensor]:
        """One gradient step (algorithms 3.1, steps 1-6) on the named ``parts``; metrics stay tensors (no
        synchronisation).

        parts: "world", "reward", "policy", or "clone" instead of "policy" for the BC term alone.
        """
        metrics = self.gradient_step(agent_chunk, expert_chunk, parts, index)
        self.after_step(index)
        return metrics

    def after_step(self, index: int) -> None:
        """Step 6, target critics, and the averaged weights: everything of an update that depends on its number."""
        self.policy.after_update(index)
        self.average(index)

    def gradient_step(
        self, agent_chunk: Chunk, expert_chunk: Chunk, parts: frozenset[str], index: int = 0
    ) -> dict[str, Tensor]:
        """Steps 1-5: fixed shapes, no branch on data, no synchronisation, so that ``graph.GraphedUpdate`` can capture
        it. ``index`` is for policies that learn only in some updates (TD3).
        """
        own, demo, metrics = self._fit_world(agent_chunk, expert_chunk, "world" in parts)
        if "policy" not in parts and "clone" not in parts:
            return metrics
        with self.autocast():
            pairs = self._pairs(demo, expert_chunk)
            clone = self._blurred(self._cloned(pairs, own, agent_chunk))
            if "policy" not in parts or self.policy.wants == "pairs":
                losses, found = self.policy.clone(PolicyBatch(clone))
            elif self.policy.wants == "transitions":
                losses, found = self._transition_losses(own, demo, clone, agent_chunk, expert_chunk, index)
            elif self.policy.wants == "both":
                losses, found = self.policy.losses(self._both(own, demo, clone, agent_chunk, expert_chunk))
            else:
                losses, found = self._imagined_losses(own, demo, pairs, clone, agent_chunk, expert_chunk)
            metrics |= found
        losses = {name: loss for name, loss in losses.items() if name != "reward" or "reward" in parts}
        # every loss and every gradient belongs to the same weights; only then do the optimisers move
        for name, loss in losses.items():
            self.optimisers[name].differentiate(loss.total)
            metrics |= {f"loss/{name}_{term}": value.detach() for term, value in loss.items()}
        for name in losses:
            metrics[f"grad/{name}"] = self.optimisers[name].apply()
        return metrics

    @torch.no_grad()
    def average(self, index: int) -> None:
        """Move the acting weights towards the newest ones."""
        if self.slow is None:
            return
        young = (1 + index) / (10 + index) if self.options.ema_warm_up else 1.0
        decay = min(self.options.ema, young)
        torch._foreach_lerp_(*self._averaged, 1 - decay)
        if self._copied[0]:  # statistics are not averaged: features would mean something between two scales
            torch._foreach_copy_(*self._copied)

    @staticmethod
    def _acting(world: Any, actor: Any) -> list[Tensor]:
        """The weights that act: a model that is fitted now and then (states) takes no part in it."""
        return [*(() if world.learns == "fit" else world.parameters()), *actor.parameters()]

    def _fit_world(
        self, agent_chunk: Chunk, expert_chunk: Chunk, fit: bool
    ) -> tuple[Latent, Latent, dict[str, Tensor]]:
        """Steps 1 and 2: model step on the replay chunk; posteriors (B, T) of both chunks (which may be one)."""
        same = expert_chunk is agent_chunk
        if self.world.learns == "policy":  # whose loss differentiates through the features
            with self.autocast():
                demo = self.world.loss(expert_chunk)[1]
                return demo if same else self.world.loss(agent_chunk)[1], demo, {}
        if self.world.learns != "likelihood" or not fit:  # a model that stays as it is still sees augmented chunks
            with self.autocast(), torch.no_grad():
                demo = self.world.observe(self.world.augmented(expert_chunk))
                return demo if same else self.world.observe(self.world.augmented(agent_chunk)), demo, {}
        joint = self.options.joint_batch and not same
        with self.autocast():
            losses, z, metrics = self.world.loss(join(agent_chunk, expert_chunk) if joint else agent_chunk)
        metrics["grad/world"] = self.optimisers["world"].step(losses.total)
        metrics |= {f"loss/world_{term}": value.detach() for term, value in losses.items()}
        z = z.detach()
        if joint:
            n = agent_chunk.action.shape[0]
            return z[:n], z[n:], metrics
        if same:
            return z, z, metrics
        with (
            torch.no_grad(),
            self.autocast(),
        ):  # a new context: within one, autocast would reuse its copies of the old weights
            return z, self.world.observe(self.world.augmented(expert_chunk)), metrics

    @staticmethod
    def _pairs(z: Latent, chunk: Chunk) -> ClonePairs:
        state, action, _, _ = to_pairs(z.feat, chunk.action, axis=1)
        return ClonePairs(state.flatten(0, 1), action.flatten(0, 1), pair_weight(chunk).flatten())

    def _cloned(self, pairs: ClonePairs, own: Latent, chunk: Chunk) -> ClonePairs:
        """The demonstrated pairs, and those of own episodes that came near to them (``data.clone_own``)."""
        if chunk.imitated is None:
            return pairs
        more = self._pairs(own, chunk)
        # a chunk that is longer than its episode goes on with another one, which nobody measured
        near = chunk.imitated[:, None] & (chunk.is_first[:, 1:].cumsum(1) == 0)
        weight = more.weight * near.flatten()
        both = (pairs.feat, more.feat), (pairs.action, more.action), (pairs.weight, weight)
        return ClonePairs(*(torch.cat(two) for two in both))

    def _blurred(self, pairs: ClonePairs) -> ClonePairs:
        """What is cloned, with noise on its features."""
        std = self.options.clone_noise
        return replace(pairs, feat=pairs.feat + std * torch.randn_like(pairs.feat)) if std > 0 else pairs

    def _imagined_losses(
        self,
        own: Latent,
        demo: Latent,
        pairs: ClonePairs,
        clone: ClonePairs,
        chunk: Chunk,
        expert_chunk: Chunk,
    ) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """Steps 3 and 4: imagine from the starts, then all losses at the same weights."""
        reward_net = self.reward
        start = self.starts.sample(own, demo, expert_chunk.valid)
        with frozen(self.world, reward_net):
            rollout = imagine(self.world, self.policy.actor, start.latent, self.options.horizon, self.penalty)
            x = reward_net.inputs(rollout.feat[:-1], rollout.action, noisy=True)
            learned = reward_net.reward(
                x if reward_net.noise_in_reward else reward_net.inputs(rollout.feat[:-1], rollout.action, noisy=False)
            )
            self.penalty.adapt(rollout.u.detach())
            reward = penalised(learned, rollout.u, self.penalty)
        batch = PolicyBatch(clone, rollout, reward, self._data_pairs(own, chunk, start))
        losses, metrics = self.policy.losses(batch)
        losses["actor"]["rl"] = self.practice * losses["actor"]["rl"]
        if reward_net.policy_data == "told":
            reward_loss, found = self._told(own, chunk)
        elif reward_net.policy_data in ("imagined", "replay"):
            x_expert = reward_net.inputs(pairs.feat, pairs.action, noisy=True)
            learner = x.flatten(0, 1), rollout.alive[:-1].flatten()
            if reward_net.policy_data == "replay":
                real = transitions(own, chunk)
                learner = self.reward_inputs(real, noisy=True), real.weight * _own_pairs(chunk)
            reward_loss, found = reward_net.loss(x_expert, learner[0], *self._reward_weights(pairs.weight, learner[1]))
        else:  # "fresh", "chunks": `agent.upkeep` plays the reward's rounds
            return losses, metrics | self._diagnostics(rollout, pairs, learned)
        return {"reward": reward_loss, **losses}, metrics | found | self._diagnostics(rollout, pairs, learned)

    def reward_inputs(self, pairs: Transitions, truth: Tensor | None = None, *, noisy: bool = False) -> Tensor:
        """What the reward learner wants to know of transitions (n,): (n, X)."""
        more: dict[str, Tensor | None] = {}
        if self.reward.needs_next:
            with torch.no_grad():
                log_pi = self.policy.actor(pairs.feat).log_prob(pairs.action)
            more = {"next_feat": pairs.next_feat, "done": pairs.done, "log_pi": log_pi}
        if self.reward.needs_truth:
            more = {"truth": truth}
        return self.reward.inputs(pairs.feat.detach(), pairs.action, noisy=noisy, **more)

    def _transition_losses(
        self, own: Latent, demo: Latent, clone: ClonePairs, chunk: Chunk, expert_chunk: Chunk, index: int
    ) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """The off-policy form of steps 3 and 4: rewards of the sampled transitions are computed now, never stored."""
        real = transitions(own, chunk)
        losses, metrics = {}, {}
        if self.reward.policy_data == "replay":
            expert = transitions(demo, expert_chunk)
            x = (self.reward_inputs(pairs, noisy=True) for pairs in (expert, real))
            weights = self._reward_weights(expert.weight, real.weight * _own_pairs(chunk))
            losses["reward"], metrics = self.reward.loss(*x, *weights)
        elif self.reward.policy_data == "told":
            losses["reward"], metrics = self._told(own, chunk)
        pairs, u, rows = real, torch.zeros_like(real.done), torch.arange(len(real.done), device=self.device)
        if self.memory is not None and self.memory.filled > 0:
            pairs, u, rows = self.memory.mixed(real, self.options.real_fraction)
            self.penalty.adapt(u[len(rows) :])
        truth = None if chunk.truth is None else chunk.truth[:, 1:].flatten()
        with torch.no_grad():
            learned = self.reward.reward(self.reward_inputs(pairs, truth))
            if truth is not None:
                n = len(rows)
                learned = torch.cat([self.reward.revealed(learned[:n], truth[rows]), learned[n:]])
            reward = penalised(learned, u, self.penalty)
        found, more = self.policy.losses(TransitionBatch(pairs, reward, clone, index))
        metrics |= more | {"reward": learned.mean(), "reward_std": learned.std(), "u": u.mean()}
        return losses | found, metrics

    def _told(self, own: Latent, chunk: Chunk) -> tuple[Losses, dict[str, Tensor]]:
        """Fit the reward to what the environment told of the agent's own transitions (``reward=truth``: debugging)."""
        if chunk.truth is None:
            raise ValueError("reward=truth: this replay keeps no rewards")
        real = transitions(own, chunk)
        weight = real.weight * _own_pairs(chunk)
        return self.reward.regression(self.reward_inputs(real), chunk.truth[:, 1:].flatten(), weight)

    @staticmethod
    def _both(own: Latent, demo: Latent, clone: ClonePairs, chunk: Chunk, expert_chunk: Chunk) -> BothBatch:
        """Demonstrated and own transitions, for a policy that compares them itself."""
        real = transitions(own, chunk)
        return BothBatch(transitions(demo, expert_chunk), replace(real, weight=real.weight * _own_pairs(chunk)), clone)

    def _reward_weights(self, *kinds: Tensor) -> tuple[Tensor, ...]:
        """Weights (n,) of pairs that may be used or not: a likelihood's sums become means, since chunks and rollouts of
        one gradient step are no whole trajectories (algorithms 4.5: CMIL with a likelihood reward).
        """
        return tuple(row_shares(w) if self.reward.needs_weights else w for w in kinds)

    def _data_pairs(self, own: Latent, chunk: Chunk, start: StartSet) -> DataPairs | None:
        """Replay pairs that end in an imagination start (not in one that a demonstration's took the place of); the last
        row of a chunk is no target (T - 2 pairs, algorithms 3.1), so that chunks of one transition have none.
        """
        if self.reward is None or chunk.action.shape[1] < 3:
            return None
        b, t = chunk.action.shape[:2]
        rows = start.rows
        before = (rows - 1).clamp_min(0)
        weight = (
            ((rows > 0) & (rows < t - 1)).float() * (~chunk.is_first[:, rows]).float() * chunk.valid[:, before].float()
        )
        feat, action = own.feat[:, before].flatten(0, 1), chunk.action[:, rows].flatten(0, 1)
        weight = weight.flatten() * start.own
        with torch.no_grad():
            reward = self.reward.reward(self.reward.inputs(feat, action, noisy=False))
        return DataPairs(feat, action, reward, torch.arange(b * len(rows), device=feat.device), weight)

    @torch.no_grad()
    def _diagnostics(self, rollout: Rollout, clone: ClonePairs, learned: Tensor) -> dict[str, Tensor]:
        """Scales that decide what is learned: reward against penalty, and the noise-free discriminator gap."""
        d_expert = self.reward.score(self.reward.inputs(clone.feat, clone.action, noisy=False))
        d_policy = self.reward.score(self.reward.inputs(rollout.feat[0], rollout.action[0], noisy=False))
        return {
            "d_expert": d_expert.mean(),
            "d_policy": d_policy.mean(),
            "d_gap": d_expert.mean() - d_policy.mean(),
            "reward": learned.mean(),
            "u": rollout.u.mean(),
            "u_weighted": self.penalty.alpha * rollout.u.mean(),
        }

    def learner_state(self) -> dict[str, Any]:
        """State of the optimisers, and of a fit of the model that was left before its end, for the checkpoint."""
        fit = self.world.ensemble.unfinished if self.world.learns == "fit" else None
        return {name: o.state_dict() for name, o in self.optimisers.items()} | ({} if fit is None else {FIT: fit})

    def load_learner_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``learner_state``."""
        for name, o in self.optimisers.items():
            o.load_state_dict(state[name])
        if FIT in state:
            self.world.ensemble.unfinished = dict(state[FIT])


def _own_pairs(chunk: Chunk) -> Tensor:
    """(B * (T-1),): 1 for the agent's own pairs, 0 for those of demonstrations in the same batch."""
    return (~chunk.expert).float().repeat_interleave(chunk.action.shape[1] - 1)
