"""How near own episodes came to the demonstrations. No score or reward takes part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from agent.agent import Agent
from agent.batch import to_device
from agent.build import ConfigError
from agent.data import Replay

DEMONSTRATED = 2000  # rows of demonstrations that are looked for, about
FLOOR = 1e-2  # of a spread
NEWEST = 3  # episodes that say how near the policy is now
QUARTERS = 4
GRID = 16  # cells a side
MARGIN = 0.5  # in spreads, beyond the demonstrated range: farther is no farther
STEADY = 0.3  # in spreads: what demonstrations agree on may differ by so much
HALF_AS_FAR_AGAIN = 1.5  # own episodes differ by more than demonstrations do, however good they are
MEASURES = "mean", "furthest", "scene"


class Nearness:
    """How far an episode stays from what was demonstrated:

        distance = mean, or largest, over demonstrated rows i of min over own rows j of ||f_i - f_j|| / sqrt(F)

    with features f of the world model as it is now, in units of their spread over the demonstrations. It asks of an
    episode that it goes wherever demonstrations go, so that one that stops half-way, or falls, is far. The largest
    (``furthest``) is about the one moment that was missed most, such as a cabinet that stayed closed. A reward would
    not do: it is learned against the newest policy, and has forgotten, or not yet seen, what is wrong with the others.

    ``scene`` asks what stays to be seen when: by entry e of the observation (of pictures, the mean colours of 16 x 16
    cells), in units of the entry's spread over the demonstrated rows, in each quarter q of an episode's time,

        s[q, e] = median over the quarter's rows;  z = |s - mean of demonstrations| / (std of demonstrations + 0.3)
        distance = max over quarters of mean over entries of z

    A median does not hear what passes, as an arm does, and holds what stays done, which a model's few nats need not.
    Episodes that end early stay as they are; its unit is 1.5 times as large.

    Nothing here reads an environment's reward, and looking does not change the training's random numbers.
    """

    def __init__(self, agent: Agent, replay: Replay, by: str = "mean") -> None:
        """by: one of ``MEASURES``. Raises ConfigError."""
        if by not in MEASURES:
            raise ConfigError(f"choose_by: {by!r} is none of {', '.join(MEASURES)}")
        self.agent, self.replay, self.by = agent, replay, by

    @torch.no_grad()
    def distances(self, episodes: Iterable[int]) -> dict[int, float]:
        """Of own episodes, by their identities in the replay."""
        shown, look = self._looks()
        return {number: self._missed(shown, look(number)) for number in episodes}

    @torch.no_grad()
    def relative(self, episodes: Iterable[int]) -> dict[int, float]:
        """The same in units of how far a demonstration is from all others, on average: 1 is as near as they are. With a
        single demonstration, of none.
        """
        shown, look = self._looks()
        if len(shown) < 2:
            return {}
        others = [shown[:i] + shown[i + 1 :] for i in range(len(shown))]
        unit = sum(self._missed(rest, one) for rest, one in zip(others, shown, strict=True)) / len(shown)
        unit *= HALF_AS_FAR_AGAIN if self.by == "scene" else 1.0
        return {number: self._missed(shown, look(number)) / max(unit, FLOOR) for number in episodes}

    def _looks(self) -> tuple[list[Tensor], Callable[[int], Tensor]]:
        """Each demonstration, and what an own episode looks like, in units of the demonstrated rows' spread: rows
        (T, F), or quarters (Q, E).
        """
        demos = [self._rows(number) for number in self.replay.ids("expert")]
        rows = torch.cat(demos)
        mean, std = rows.mean(0), rows.std(0) + FLOOR
        demos = [(each - mean) / std for each in demos]
        if self.by != "scene":
            return demos, lambda number: (self._rows(number) - mean) / std
        rows, longest = torch.cat(demos), max(map(len, demos))
        low, high = rows.amin(0) - MARGIN, rows.amax(0) + MARGIN

        def quarters(look: Tensor) -> Tensor:
            held = torch.cat([look, look[-1:].expand(max(longest - len(look), 0), -1)])[:longest].clamp(low, high)
            return torch.stack([part.median(0).values for part in held.tensor_split(min(QUARTERS, longest))])

        return [quarters(each) for each in demos], lambda number: quarters((self._rows(number) - mean) / std)

    def _missed(self, shown: list[Tensor], own: Tensor) -> float:
        if self.by == "scene":
            scenes = torch.stack(shown)
            off = (own - scenes.mean(0)).abs() / (scenes.std(0, correction=0) + STEADY)
            return float(off.mean(1).max())
        rows = torch.cat(shown)
        rows = rows[:: max(1, len(rows) // DEMONSTRATED)]
        missed = torch.cdist(rows, own).min(1).values / rows.shape[1] ** 0.5
        return float(missed.mean() if self.by == "mean" else missed.max())

    def _rows(self, episode: int) -> Tensor:
        """What an episode's rows are compared by: features (T, F), or observations (T, E)."""
        agent = self.agent
        chunk = to_device(self.replay.get(episode), 0, agent.device)
        if self.by == "scene":
            obs = chunk.obs[0]
            if obs.ndim == 2:
                return obs.float()
            return F.adaptive_avg_pool2d(obs.permute(0, 3, 1, 2).float() / 255, GRID).flatten(1)
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
