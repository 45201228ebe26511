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
        shown = torch.cat([self._features(number) for number in self.replay.ids("expert")])
        shown = shown[:: max(1, len(shown) // DEMONSTRATED)]
        mean, std = shown.mean(0), shown.std(0) + FLOOR
        shown = (shown - mean) / std
        found = {}
        for number in episodes:
            missed = torch.cdist(shown, (self._features(number) - mean) / std).min(1).values / shown.shape[1] ** 0.5
            found[number] = float(missed.mean() if self.by == "mean" else missed.max())
        return found

    def _features(self, episode: int) -> Tensor:
        """(T, F) of an episode's rows."""
        agent = self.agent
        chunk = to_device(self.replay.get(episode), 0, agent.device)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), agent.autocast():
            torch.manual_seed(0)
            return agent.world.observe(chunk).feat[0].float()


class Imitated:
    """Own episodes that are cloned beside the demonstrations: those that came nearest to them, as they were when they
    were played, and never more than half of all.

    What an imagined return teaches is no better than the model, which is wrong alike in all its heads about contacts
    that it takes for good; an own episode that went where demonstrations go says what does work from where the policy
    is now (self-imitation, Oh et al. 2018, with a distance in place of a return).
    """

    def __init__(self, nearness: Nearness, number: int) -> None:
        """number: so many at most; 0: none."""
        self.nearness, self.number = nearness, number
        self.distances: dict[int, float] = {}  # of the episodes that the replay holds, oldest first

    def add(self, episodes: Sequence[int]) -> None:
        """These have just been played, from the task's own start."""
        replay = self.nearness.replay
        if not self.number or not replay.expert_rows:
            return
        self.distances |= self.nearness.distances(episodes)
        held = set(replay.ids("online"))
        self.distances = {number: value for number, value in self.distances.items() if number in held}

    @property
    def episodes(self) -> list[int]:
        """Their identities, nearest first."""
        nearest = sorted(self.distances, key=self.distances.__getitem__)
        return nearest[: min(self.number, len(nearest) // 2)]

    def state_dict(self) -> list[tuple[int, float]]:
        """For the checkpoint."""
        return list(self.distances.items())

    def load_state_dict(self, state: Iterable[Sequence[float]]) -> None:
        """Inverse of ``state_dict``."""
        self.distances = {int(number): float(value) for number, value in state}
