"""When a world model of pictures has learned enough: its open-loop error on episodes that it never learns from, and
the weights that had the least of it (algorithms 4.5; an open-loop prediction sees what reconstructions hide).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agent.agent import Agent
from agent.build import ConfigError
from envs.episode import Episode
from models.world_model import Chunk, scale_image

CONTEXT, AHEAD = 5, 15  # rows that a prediction looks at, and rows that it predicts
WINDOWS = 64  # at most, evenly over the episodes

Weights = dict[str, dict[str, Tensor]]


def split(episodes: Sequence[Episode], share: float, rng: np.random.Generator) -> tuple[list[Episode], list[Episode]]:
    """Episodes to learn from, and a random ``share`` of them, at least one, to look at only. Raises ConfigError."""
    if not 0 <= share < 1:
        raise ConfigError(f"data.holdout: {share} is no share of the episodes (0..1)")
    number = max(1, round(share * len(episodes))) if share > 0 and episodes else 0
    if number and number == len(episodes):
        raise ConfigError(
            f"data.holdout: a data set of {number} episodes leaves none to learn from (0 puts none aside)"
        )
    aside = set(rng.choice(len(episodes), number, replace=False).tolist()) if number else set()
    kinds: tuple[list[Episode], list[Episode]] = [], []
    for i, episode in enumerate(episodes):
        kinds[i in aside].append(episode)
    return kinds


class HoldOut:
    """Windows of the episodes that were put aside, as one chunk."""

    def __init__(self, agent: Agent, episodes: Sequence[Episode], key: str) -> None:
        """Raises ConfigError where the model predicts no pictures, or no episode is as long as a window."""
        if not hasattr(agent.world, "open_loop"):
            raise ConfigError("data.holdout: this world model predicts no pictures (its own fit has its own hold-out)")
        rows = CONTEXT + AHEAD
        starts = [(e, first) for e in episodes for first in range(0, len(e) - rows + 1, rows)]
        if not starts:
            raise ConfigError(f"data.holdout: no episode that was put aside has {rows} rows")
        kept = np.unique(np.linspace(0, len(starts) - 1, min(WINDOWS, len(starts))).round().astype(int))

        def windows(name: str) -> Tensor:
            columns = [(e.obs[key] if name == "obs" else getattr(e, name), at) for e, at in (starts[i] for i in kept)]
            return torch.from_numpy(np.stack([x[at : at + rows] for x, at in columns])).to(agent.device)

        obs, action, first, last, terminal = map(windows, ("obs", "action", "is_first", "is_last", "is_terminal"))
        first[:, 0] = True
        action[:, 0] = 0
        self.agent = agent
        self.chunk = Chunk(obs, action, first, last, terminal, torch.zeros_like(first[:, 0]), torch.ones_like(first))

    @torch.no_grad()
    def error(self) -> float:
        """Squared error of pictures predicted up to 15 steps ahead, summed over pixels, by the weights that act; the
        same random numbers every time, none of the training's.
        """
        world: Any = _acting(self.agent)["world"]
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), self.agent.autocast():
            torch.manual_seed(0)
            predicted = world.open_loop(self.chunk, CONTEXT)[:, CONTEXT:]
        truth = scale_image(self.chunk.obs[:, CONTEXT:]) + 0.5
        return float((predicted - truth).square().flatten(2).sum(-1).mean())


class EarlyStop:
    """Of a stage with ``check_every``: over when ``patience`` looks at what was put aside have not lessened the error
    by ``tolerance`` of it; then the weights of the least error are taken. Others are over after their updates.
    """

    def __init__(self, agent: Agent, aside: Sequence[Episode], key: str, counters: MutableMapping[str, float]) -> None:
        """aside: what nothing learns from, perhaps none. counters: the trainer's, part of every checkpoint."""
        self.agent, self.counters = agent, counters
        self.held = HoldOut(agent, aside, key) if aside else None
        self.weights: Weights = {}  # with the least error so far, while a stage is not over; part of every checkpoint

    def over(self, key: str, stage: Mapping[str, Any]) -> bool:
        """Whether the stage whose counters begin with ``key`` has ended."""
        stale = self.counters.get(f"{key}_stale", 0) >= stage.get("patience", math.inf)
        return stale or self.counters[key] >= stage["updates"]

    def look(self, key: str, stage: Mapping[str, Any]) -> dict[str, Tensor]:
        """After each update: the error, where it is time to look."""
        if self.held is None or "check_every" not in stage or self.counters[key] % stage["check_every"]:
            return {}
        error = self.held.error()
        self.counters[f"{key}_stale"] += 1
        if error < (1 - stage["tolerance"]) * self.counters.get(f"{key}_best", math.inf):
            self.counters[f"{key}_best"], self.counters[f"{key}_stale"] = error, 0
            self.weights = snapshot(self.agent)
        return {"model/open_loop": torch.tensor(error)}

    def settle(self, key: str, stage: Mapping[str, Any]) -> str:
        """At the end of a stage that looked: take the best weights; a line that tells it, else none."""
        if not self.weights or not self.over(key, stage):
            return ""
        settle(self.agent, self.weights)
        self.weights = {}
        error = self.counters[f"{key}_best"]
        return f"{stage['name']}: over after {int(self.counters[key])} updates, open-loop error {error:.4g}"


def _acting(agent: Agent) -> Mapping[str, nn.Module]:
    """The model and the actor that act: the averaged ones where there are some."""
    return dict(zip(("world", "actor"), agent.acting, strict=True))


def snapshot(agent: Agent) -> Weights:
    """A copy of the weights that act."""
    return {n: {k: v.detach().clone() for k, v in m.state_dict().items()} for n, m in _acting(agent).items()}


def settle(agent: Agent, weights: Weights) -> None:
    """Go on from a snapshot: model and actor that learn, and those that act, are the same from here."""
    for modules in ({"world": agent.world, "actor": agent.policy.actor}, _acting(agent)):
        for name, module in modules.items():
            module.load_state_dict(weights[name])
