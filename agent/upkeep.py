"""What happens between gradient steps at cadences of its own (algorithms 4.1: fit model, imagine, fit reward).

    every ``fit_every`` environment steps      the world model is fitted to all data
    every ``reward_every`` environment steps   a round of the reward player (`agent.rounds`), from ``reward_start`` on,
                                               perhaps on ``reward_fresh`` episodes that are collected for it alone
    every ``imagine_every`` environment steps  imagined transitions are added to the memory of a policy that wants them

Where no environment is stepped, updates are counted instead; 0 means once, before the first update. Methods that do all
within each gradient step (CMIL, GAIL) have nothing to do here. Like the trainer, this knows no algorithm: a world model
says ``learns = "fit"``, a reward learner where its ``policy_data`` come from.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent.agent import Agent
from agent.data import Replay, RowPairs, Which
from agent.errors import ConfigError
from agent.imagine import stepped
from agent.rounds import RewardRounds
from models.latent import Latent
from models.mlp_ensemble import Pause, never

MIXTURES = ("all", "one_to_one")


class Upkeep:
    """Fits, rollouts and reward rounds of one agent; all state is in the agent and in the trainer's counters."""

    def __init__(
        self,
        agent: Agent,
        replay: Replay,
        data: Mapping[str, Any],
        total: int,
        pause: Pause = never,
    ) -> None:
        """data: the configuration's data regime; total: environment steps (updates) of the whole run. pause: asked
        between two updates of a fit. Raises ConfigError on an unknown ``model_mixture``.
        """
        if data["model_mixture"] not in MIXTURES:
            raise ConfigError(f"data.model_mixture: {data['model_mixture']!r} is none of {', '.join(MIXTURES)}")
        self.pause = pause
        self.agent, self.replay, self.data, self.total = agent, replay, data, total
        self.fits = agent.world.learns == "fit" and not agent.world.given
        self.rounds = RewardRounds(agent, replay, data)
        self.clock = "env_steps" if data["episodes_per_cycle"] > 0 else "updates"
        per_step = max(float(data["updates_per_step"]), 1e-9)
        self.start = round(data["reward_start"] * per_step)
        self.every = {k: round(data[f"{k}_every"] * per_step) for k in ("fit", "reward", "imagine")}
        for name, updates in self.every.items():
            if data[f"{name}_every"] > 0:
                self.every[name] = max(1, updates)

    def before(
        self, counters: MutableMapping[str, float], rng: np.random.Generator, recent: Sequence[int] | RowPairs
    ) -> dict[str, Tensor]:
        """Whatever is due before the next update; ``recent``: episodes for the reward's rounds; empty: all.

        Raises FitStopped when a fit was stopped: nothing has been done or counted then.
        """
        found = self.fit_if_due(counters)
        done = int(counters["paid"])
        round_due = self.round_due(counters)
        counters["paid"] += 1
        if round_due:
            counters["reward_rounds"] += 1
            found |= self.rounds.play(int(counters["reward_rounds"]), rng, recent)
        if self.agent.memory is not None and self._due("imagine", done):
            step = counters[self.clock]
            # episodes for the reward alone are no practice: rollouts grow with what the policy has learned from
            found |= self.imagine(step - counters["env_steps/reward"], rng, step / max(1, self.total))
        return found

    def round_due(self, counters: Mapping[str, float]) -> bool:
        """Whether ``before`` is going to play a round of the reward player."""
        return self.rounds.wanted and self._due("reward", int(counters["paid"]) - self.start)

    def _due(self, what: str, done: int) -> bool:
        every = self.every[what]
        return done >= 0 and (done % every == 0 if every else done == 0)

    # ---- world model ----
    def fit_if_due(self, counters: MutableMapping[str, float]) -> dict[str, Tensor]:
        """The fit that belongs before the next update, unless it has been made. Raises FitStopped."""
        done = int(counters["paid"])
        if not self.fits or not self._due("fit", done) or counters["fitted"] > done:
            return {}
        found = self.fit()
        counters["fitted"] = done + 1
        return found

    def fit(self) -> dict[str, Tensor]:
        """Fit the world model to every transition there is, demonstrations among them (algorithms 3.6).

        Raises FitStopped.
        """
        kinds: tuple[Which, ...] = ("expert", "online") if self.data["model_mixture"] == "one_to_one" else ("all",)
        parts = [self.replay.pairs(kind) for kind in kinds if self.replay.ids(kind)]
        obs, action, ahead = (np.concatenate([getattr(p, k) for p in parts]) for k in ("obs", "action", "next_obs"))
        # of two kinds, each is drawn as often as the other, however many transitions there are of it
        weight = self._tensor(np.concatenate([np.full(len(p.obs), 1 / len(p.obs)) for p in parts]))
        x, act, y = self._feat(obs), self._tensor(action), self._feat(ahead)
        found = self.agent.world.fit(x, act, y, self.pause, weight if len(parts) > 1 else None)
        self.rounds.weighted = None  # weights by the model's uncertainty are those of the model before
        found |= self._doubt(obs, act)
        return {f"model/{name}": torch.as_tensor(float(value)) for name, value in found.items()}

    @torch.no_grad()
    def _doubt(self, obs: np.ndarray, action: Tensor) -> dict[str, float]:
        """u on transitions that the model has not seen. How many times as large it is along rollouts (``model/u``)
        tells how far these leave the data (algorithms 2.3). Looking does not change the training's random numbers.
        """
        agent = self.agent
        if agent.penalty.u is None or (rows := agent.world.held_out) is None:
            return {}
        z = agent.world.latent(self._tensor(obs[rows.cpu().numpy()]))
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(0)
            u = stepped(agent.world, z, action[rows], agent.penalty)[1]
        return {"u_held_out": float(u.mean())}

    def horizon(self, step: float) -> int:
        """Length of imagined rollouts: from ``rollout_horizon[0]`` to ``[1]`` between steps ``[2]`` and ``[3]``."""
        low, high, begin, end = self.data["rollout_horizon"]
        return int(low + (high - low) * min(1.0, max(0.0, (step - begin) / max(1.0, end - begin))))

    @torch.no_grad()
    def imagine(self, step: float, rng: np.random.Generator, through: float) -> dict[str, Tensor]:
        """Rollouts with the sampled policy from the agent's kind of starts, into the memory. step: of practice, by
        which their length grows; through: share of the run that is over, by which a window of starts moves.
        """
        agent = self.agent
        assert agent.memory is not None
        horizon = self.horizon(step)
        n = max(1, round(self.data["rollouts_per_step"] * self.data["imagine_every"]))
        # all depths have to fit: what comes later would push out the first steps, and with them every start
        n = min(n, max(1, agent.memory.capacity // horizon))
        own = self._states(self.replay.pairs("online") if self.replay.ids("online") else self.replay.pairs(), n, rng)
        demo = own
        if self.replay.ids("expert"):
            low, high = agent.starts.expert_range(through)
            pairs = self.replay.pairs("expert")
            steps = np.bincount(pairs.episode)[pairs.episode]  # a state lasts from its position to the next one's
            demo = self._states(pairs, n, rng, ((pairs.time + 1) / steps > low) & (pairs.position <= high))
        z = agent.starts.sample(own, demo).latent
        us, added = [], 0
        for _ in range(horizon):
            action = agent.policy.actor(z.feat).rsample().clamp(-1, 1)
            ahead, u = stepped(agent.world, z, action, agent.penalty)
            done = agent.world.terminated(ahead.feat)
            agent.memory.add(z.feat, action, ahead.feat, done, u)
            us.append(u.mean())
            added += len(done)
            z = ahead[~done]
            if not len(z.stoch):
                break
        return {"model/imagined": torch.tensor(float(added)), "model/u": torch.stack(us).mean()}

    def _states(self, pairs: RowPairs, n: int, rng: np.random.Generator, where: np.ndarray | None = None) -> Latent:
        """n states drawn uniformly (of those ``where`` is true, unless it never is), as a Latent (n, 1)."""
        among = np.flatnonzero(where) if where is not None and where.any() else np.arange(len(pairs.obs))
        return self.agent.world.latent(self._tensor(pairs.obs[rng.choice(among, n)]))[:, None]

    # ---- tensors ----
    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.agent.device)

    def _feat(self, obs: np.ndarray) -> Tensor:
        return self.agent.world.latent(self._tensor(obs)).feat
