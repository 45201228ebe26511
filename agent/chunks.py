"""What `agent.data` returns, and which rows a chunk consists of; all the randomness of a sample is spent here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from agent.ending import Rows
from envs.episode import to_pairs

By = Literal["episode", "row"]


class Entry(NamedTuple):
    """One stored episode: `rows` consecutive rows of the files from row `start` on."""

    id: int
    start: int
    rows: int
    expert: bool
    checksum: int


@dataclass(frozen=True, eq=False)
class Chunk:
    """B chunks of T rows in storage convention; the first row of each is a restart.

    A chunk longer than its episode goes on with another episode of the same kind; there `is_first` is True and the
    action zero, as in row 0. All arrays are new, contiguous and writable, so `torch.from_numpy` copies nothing.
    """

    obs: np.ndarray  # (B, T, *obs_shape) uint8 or float32
    action: np.ndarray  # (B, T, A) float32; action[t] led to obs[t]; zero where is_first
    is_first: np.ndarray  # (B, T) bool
    is_last: np.ndarray  # (B, T) bool
    is_terminal: np.ndarray  # (B, T) bool
    expert: np.ndarray  # (B,) bool
    episode: np.ndarray  # (B,) int64, identity of the episode that the chunk starts in
    offset: np.ndarray  # (B,) int64, row of that episode that the chunk starts at
    truth: np.ndarray | None = None  # (B, T) float32, the environment's reward, only of a replay that keeps it


class RowPairs(NamedTuple):
    """n transitions: obs, next_obs (n, *obs_shape), action (n, A), done (n,) bool, position (n,) in time 0..1.

    time (n,) int64: t = 0, 1, ... since the start of the episode. episode (n,) int64: which of those asked for, 0, 1,
    ...; whole episodes follow each other. truth (n,) float32: the true rewards, of a replay that keeps them.
    """

    obs: np.ndarray
    action: np.ndarray
    next_obs: np.ndarray
    done: np.ndarray
    position: np.ndarray
    time: np.ndarray
    episode: np.ndarray
    truth: np.ndarray | None = None


def pairs_of(episodes: Sequence[Rows]) -> RowPairs:
    """All pairs of episodes that no replay holds, without the true rewards."""
    kinds = [to_pairs(rows.obs, rows.action, rows.is_terminal) for rows in episodes]
    steps = np.array([len(pairs.action) for pairs in kinds])
    obs, action, next_obs, done = (np.concatenate(column) for column in zip(*kinds, strict=True))
    time, episode = np.concatenate([np.arange(n) for n in steps]), np.repeat(np.arange(len(steps)), steps)
    return RowPairs(obs, action, next_obs, done, (time / steps[episode]).astype(np.float32), time, episode)


class Plan(NamedTuple):
    """The rows of B chunks of T rows."""

    rows: np.ndarray  # (B, T) int64, in the files
    restart: np.ndarray  # (B, T) bool, where a chunk begins or goes on with another episode
    expert: np.ndarray  # (B,) bool
    episode: np.ndarray  # (B,) int64, identity of the episode that the chunk begins in
    offset: np.ndarray  # (B,) int64, row of that episode that the chunk begins at


class Table:
    """Columns of the episodes of one kind, in order of arrival."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.id, self.start, self.rows = (np.array([e[i] for e in entries], np.int64) for i in range(3))
        self.expert = np.array([e.expert for e in entries], bool)

    def draw(self, n: int, length: int, rng: np.random.Generator, by: By, last: int | None) -> np.ndarray:
        """(n,) positions in this table: uniform over episodes, or over the chunks of `length` rows that they hold."""
        first = 0 if last is None else max(0, len(self.id) - last)
        if by == "episode":
            return rng.integers(first, len(self.id), n)
        ends = np.cumsum(np.maximum(self.rows[first:] - length + 1, 1))
        return first + np.searchsorted(ends, rng.integers(0, ends[-1], n), side="right")


def draw_plan(
    table: Table,
    kinds: Callable[[str], Table],
    n: int,
    length: int,
    rng: np.random.Generator,
    start_prob: float,
    by: By,
    last: int | None,
) -> Plan:
    """Draw `n` chunks of `length` rows from a table that is not empty: an episode, then a chunk inside it uniformly.

    Args:
        kinds: "expert" | "online" -> the table that a chunk of a short episode of that kind goes on with.
        start_prob: probability of offset 0; by, last: see `Replay.sample`.
    """
    at = table.draw(n, length, rng, by, last)
    offset = rng.integers(0, np.maximum(table.rows[at] - length, 0) + 1)
    if start_prob > 0:
        offset[rng.random(n) < start_prob] = 0
    rows = (table.start[at] + offset)[:, None] + np.arange(length)
    restart = np.zeros((n, length), bool)
    restart[:, 0] = True
    plan = Plan(rows, restart, table.expert[at], table.id[at], offset)
    filled = table.rows[at] - offset
    while (filled < length).any():
        for expert, kind in ((True, "expert"), (False, "online")):
            short = np.flatnonzero((filled < length) & (plan.expert == expert))
            if short.size:
                _continue(plan, filled, short, kinds(kind), rng, by, last)
    return plan


def _continue(
    plan: Plan,
    filled: np.ndarray,
    b: np.ndarray,
    table: Table,
    rng: np.random.Generator,
    by: By,
    last: int | None,
) -> None:
    """Let the chunks `b`, which end after filled[b] rows, go on with another episode each; changes both in place."""
    length = plan.rows.shape[1]
    at = table.draw(len(b), length, rng, by, last)
    # Uniform over the pieces that fill the rest.
    offset = rng.integers(0, np.maximum(table.rows[at] - (length - filled[b]), 0) + 1)
    step = np.arange(length) - filled[b, None]
    start = (table.start[at] + offset)[:, None]
    plan.rows[b] = np.where(step >= 0, start + step, plan.rows[b])
    plan.restart[b, filled[b]] = True
    filled[b] += table.rows[at] - offset
