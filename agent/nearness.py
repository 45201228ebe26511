"""How near own episodes came to the demonstrations, in the world model's features. No score or reward takes part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from agent.agent import Agent
from agent.batch import to_device
from agent.build import ConfigError
from agent.data import Replay

DEMONSTRATED = 2000  # rows of demonstrations that are looked for, about
FLOOR = 1e-2  # of a feature's spread
NEWEST = 3  # episodes that say how near the policy is now


class Nearness:
    """How far an episode stays from what was demonstrated:

        distance = mean, or largest, over demonstrated rows i of min over own rows j of ||f_i - f_j|| / sqrt(F)

    with features f of the world model as it is now, in units of their spread over the demonstrations. It asks of an
    episode that it goes wherever demonstrations go, so that one that stops half-way, or falls, is far. The largest
    (``furthest``) is about the one moment that was missed most, such as a cabinet that stayed closed. A reward would
    not do: it is learned against the newest policy, and has forgotten, or not yet seen, what is wrong with the others.

    Nothing here reads an environment's reward, and looking does not change the training's random numbers.
    """

    def __init__(self, agent: Agent, replay: Replay, by: str = "mean") -> None:
        """by: "mean" or "furthest". Raises ConfigError."""
        if by not in ("mean", "furthest"):
            raise ConfigError(f"choose_by: {by!r} is none of mean, furthest")
        self.agent, self.replay, self.by = agent, replay, by

    @torch.no_grad()
    def distances(self, episodes: Iterable[int]) -> dict[int, float]:
        """Of own episodes, by their identities in the replay."""
        shown, mean, std = self._shown()
        return self._distances(episodes, torch.cat(shown), mean, std)

    @torch.no_grad()
    def relative(self, episodes: Iterable[int]) -> dict[int, float]:
        """The same in units of how far a demonstration is from all others, on average: 1 is as near as they are. With a
        single demonstration, of none.
        """
        shown, mean, std = self._shown()
        if len(shown) < 2:
            return {}
        others = [torch.cat(shown[:i] + shown[i + 1 :]) for i in range(len(shown))]
        unit = sum(self._missed(rest, one) for rest, one in zip(others, shown, strict=True)) / len(shown)
        found = self._distances(episodes, torch.cat(shown), mean, std)
        return {number: distance / max(unit, FLOOR) for number, distance in found.items()}

    def _shown(self) -> tuple[list[Tensor], Tensor, Tensor]:
        """Features (T, F) of each demonstration in units of their spread, and what it takes to bring others there."""
        features = [self._features(number) for number in self.replay.ids("expert")]
        rows = torch.cat(features)
        mean, std = rows.mean(0), rows.std(0) + FLOOR
        return [(each - mean) / std for each in features], mean, std

    def _distances(self, episodes: Iterable[int], shown: Tensor, mean: Tensor, std: Tensor) -> dict[int, float]:
        return {number: self._missed(shown, (self._features(number) - mean) / std) for number in episodes}

    def _missed(self, shown: Tensor, own: Tensor) -> float:
        shown = shown[:: max(1, len(shown) // DEMONSTRATED)]
        missed = torch.cdist(shown, own).min(1).values / shown.shape[1] ** 0.5
        return float(missed.mean() if self.by == "mean" else missed.max())

    def _features(self, episode: int) -> Tensor:
        """(T, F) of an episode's rows."""
        agent = self.agent
        chunk = to_device(self.replay.get(episode), 0, agent.device)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), agent.autocast():
            torch.manual_seed(0)
            return agent.world.observe(chunk).feat[0].float()


class Imitated:
    """Own episodes that are cloned beside demonstrations: those that came as near to them, when they were played, as
    they are to each other; and how much the policy practises, which rests while its newest episodes are as near.

    What an imagined return teaches is no better than the model, which is wrong alike in all its heads about contacts
    that it takes for good; an own episode that went where demonstrations go says what does work from where the policy
    is now (self-imitation, Oh et al. 2018, with a distance in place of a return). Nor has a return more to say once
    nothing tells own episodes from demonstrations: followed further, it leads away again. So does cloning on, more
    slowly: with ``data.rest_all`` the whole agent stays as it is (`agent.trainer`), until an episode says otherwise.
    """

    def __init__(self, nearness: Nearness, number: int, rest: float = 0.0) -> None:
        """number: so many at most, the nearest; 0: none. rest: the distance up to which practice rests; 0: never.

        Raises ConfigError where there is nothing to rest from.
        """
        if rest > 0 and nearness.agent.policy.wants != "rollout":
            raise ConfigError("data.near_enough: this policy hears no imagined return that it could rest from")
        self.nearness, self.number, self.rest = nearness, number, rest
        self.distances: dict[int, float] = {}  # of the episodes that the replay holds, oldest first

    def add(self, episodes: Sequence[int]) -> dict[str, float]:
        """These have just been played, from the task's own start. Metrics: their mean distance, how many are cloned."""
        replay = self.nearness.replay
        measured = self.number > 0 or self.rest > 0
        if not measured or not replay.expert_rows or not episodes:
            return {}
        found = self.nearness.relative(episodes)
        held = set(replay.ids("online"))
        self.distances = {n: value for n, value in (self.distances | found).items() if n in held}
        seen = {"train/distance": sum(found.values()) / len(found)} if found else {}
        return seen | {"train/imitated": float(len(self.episodes)), "train/practice": self._practise()}

    @property
    def episodes(self) -> list[int]:
        """Their identities, nearest first."""
        near = [number for number, value in self.distances.items() if value <= 1]
        return sorted(near, key=self.distances.__getitem__)[: self.number]

    def _practise(self) -> float:
        """Set, and return, the share of the imagined return that the policy hears: none of it while the newest episodes
        are no farther than ``rest`` on average, all of it a twentieth beyond.
        """
        newest, share = list(self.distances.values())[-NEWEST:], 1.0
        if self.rest > 0 and newest:
            share = min(max(20 * (sum(newest) / len(newest) - self.rest), 0.0), 1.0)
        self.nearness.agent.practice.fill_(share)
        return share

    def state_dict(self) -> list[tuple[int, float]]:
        """For the checkpoint."""
        return list(self.distances.items())

    def load_state_dict(self, state: Iterable[Sequence[float]]) -> None:
        """Inverse of ``state_dict``."""
        self.distances = {int(number): float(value) for number, value in state}
        self._practise()
