"""Replay: whole episodes in memory-mapped files, sampled as chunks (algorithms 1.2, 1.5, 3.1 C17).

Rows follow the storage convention: `action[t]` led to `obs[t]`. No reward is stored; rewards are computed with the
current reward learner whenever a chunk is sampled.

    files    obs.bin, action.bin, flags.bin: one record a row, row r of each is the same instant; sparse until written
    index    which rows belong to which episode: in memory, and in every checkpoint (`state_dict`)

The files are not copied into checkpoints: one is worth loading only while the rows that it names are untouched. Rows of
an evicted episode are therefore reused only when no kept checkpoint can name them any more (`commit`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agent.chunks import By, Chunk, Entry, Plan, RowPairs, Table, draw_plan
from agent.contract import ReplayError, check_episode
from agent.ending import UNCHANGED, Rows, ended, stored_shape
from agent.rows import GIB, Extents, RowFiles, human_size

FIRST, LAST, TERMINAL = 1, 2, 4
Which = Literal["all", "expert", "online"]


class Replay:
    """Episodes on disk; the oldest online episodes are evicted first, demonstrations never.

    Args:
        folder: where the three files live; made if missing. Existing files are kept for `load_state_dict`.
        obs_shape, obs_dtype: of one observation; uint8 or float32, stored as it comes.
        action_size: A.
        capacity: rows held at most (n + 1 for an episode of n steps).
        budget_gb: GiB of disk that `capacity` rows may take.
        keep_checkpoints: how many checkpoints must stay loadable; see `commit`.
        truth: also keep the environment's reward of each row: for ``reward=truth`` alone (making experts, debugging).
        termination: what becomes of an episode's end (`agent.ending`); what is sampled may be wider than `obs_shape`.
    Raises:
        ReplayError: the capacity does not fit the budget or the disk.
    """

    def __init__(
        self,
        folder: Path,
        *,
        obs_shape: tuple[int, ...],
        obs_dtype: Any,
        action_size: int,
        capacity: int,
        budget_gb: float,
        keep_checkpoints: int = 2,
        truth: bool = False,
        termination: str = "mask",
    ) -> None:
        self.folder, self.capacity, self.budget_gb = Path(folder), int(capacity), float(budget_gb)
        self.obs_shape, self.obs_dtype, self.action_size = tuple(obs_shape), np.dtype(obs_dtype), int(action_size)
        if self.obs_dtype not in (np.dtype(np.uint8), np.dtype(np.float32)):
            raise ReplayError(f"replay: observations are uint8 or float32, got {self.obs_dtype}")
        if self.capacity < 2:
            raise ReplayError(f"replay: capacity is {capacity} rows, an episode needs at least 2")
        self._keep, self.truth, self.termination = int(keep_checkpoints), bool(truth), termination
        fields = {
            "obs": (self.obs_dtype, stored_shape(self.obs_shape, termination)),
            "action": (np.dtype(np.float32), (self.action_size,)),
            "flags": (np.dtype(np.uint8), ()),
        }
        try:
            self._files = RowFiles(self.folder, fields | ({"truth": (np.dtype(np.float32), ())} if truth else {}))
            self._check_room()
            self._reset()
        except OSError as error:
            raise ReplayError(f"replay: cannot use {self.folder}: {error.strerror}") from error

    # ------------------------------------------------------------------ size

    @property
    def episodes(self) -> int:
        """Episodes held now."""
        return len(self._entries)

    @property
    def rows(self) -> int:
        """Rows held now."""
        return self._rows

    @property
    def expert_rows(self) -> int:
        """Rows of demonstrations held now."""
        return self._expert_rows

    @property
    def row_bytes(self) -> int:
        """Bytes of disk that one row takes."""
        return self._files.row_bytes

    def describe(self) -> str:
        """One line for the log: how large this replay may grow, and where."""
        rows = f"{self.capacity / 1000:.4g}k" if self.capacity >= 1000 else str(self.capacity)
        return f"replay: up to {rows} rows, {human_size(self.capacity * self.row_bytes)} on disk at {self.folder}"

    def _check_room(self) -> None:
        need = self.capacity * self.row_bytes
        if need > self.budget_gb * GIB:
            fits = int(self.budget_gb * GIB // self.row_bytes)
            raise ReplayError(
                f"replay: a capacity of {self.capacity} rows needs {human_size(need)}, more than the budget of "
                f"{self.budget_gb:g} GiB: lower the capacity to {fits} rows or raise the budget"
            )
        if need > (room := self._files.room()):
            raise ReplayError(
                f"replay: a capacity of {self.capacity} rows needs {human_size(need)}, but the disk of "
                f"{self.folder} has only {human_size(room)} left: lower the capacity or use another folder"
            )

    def _reset(self) -> None:
        self._entries: dict[int, Entry] = {}  # in order of arrival
        self._next_id = self._rows = self._expert_rows = self._head = 0
        self._pending: list[list[tuple[int, int]]] = [[] for _ in range(self._keep)]  # rows evicted; newest last
        self._free = Extents(self.capacity)
        self._tables: dict[str, Table] = {}
        self._warned = False
        self._files.open(self.capacity)

    # ------------------------------------------------------------------ adding

    def add_episode(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        is_first: np.ndarray,
        is_last: np.ndarray,
        is_terminal: np.ndarray,
        *,
        expert: bool = False,
        truth: np.ndarray | None = None,
        horizon: int = 0,
    ) -> int:
        """Store a finished episode of n steps and return its identity; evicts the oldest online episodes when full.

        Args:
            obs: (n+1, *obs_shape) of the replay's dtype.
            action: (n+1, A) float32, row 0 zero.
            is_first, is_last, is_terminal: (n+1,) bool, set at row 0, at row n, and at row n of a true termination.
            expert: a demonstration.
            truth: (n+1,) float32, the environment's rewards; not stored unless this replay keeps them.
            horizon: steps that the episode could have had, for ``termination=fixed_horizon``.
        Raises:
            ReplayError: the episode breaks this contract, cannot fit, or the disk is full; it is not stored then.
        """
        rows = Rows(obs, action, is_first, is_last, is_terminal, truth)
        check_episode(self.obs_shape, self.obs_dtype, self.action_size, *rows[:5])
        if self.termination != "ignore":  # then the environment's ends are kept, and nobody is told (`_terminal`)
            rows = ended(rows, self.termination, horizon)
        n = len(rows.obs)
        if n > self.capacity - self._expert_rows:
            raise ReplayError(
                f"replay: an episode of {n} rows does not fit: of the capacity of {self.capacity} rows, "
                f"{self._expert_rows} hold demonstrations, which are never evicted"
            )
        while self._rows + n > self.capacity:
            self._evict()
        flags = (rows.is_first * FIRST + rows.is_last * LAST + rows.is_terminal * TERMINAL).astype(np.uint8)
        start: int | None = None
        try:
            start = self._allocate(n)
            values = {"obs": rows.obs, "action": rows.action, "flags": flags}
            if self.truth:
                values["truth"] = np.full(n, np.nan) if rows.truth is None else rows.truth
                values["truth"] = values["truth"].astype(np.float32)
            self._files.write(start, values)
        except OSError as error:
            if start is not None:
                self._free.give(start, n)
            raise ReplayError(f"replay: cannot write to {self.folder}: {error.strerror}") from error
        self._insert(Entry(self._next_id, start, n, bool(expert), self._checksum(start, n)))
        self._next_id += 1
        self._head = start + n
        return self._next_id - 1

    def _insert(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        self._rows += entry.rows
        self._expert_rows += entry.rows if entry.expert else 0
        self._tables.clear()

    def _evict(self) -> None:
        oldest = next(entry for entry in self._entries.values() if not entry.expert)
        del self._entries[oldest.id]
        self._rows -= oldest.rows
        self._pending[-1].append((oldest.start, oldest.rows))
        self._tables.clear()

    def _allocate(self, n: int) -> int:
        """Start of `n` free rows; extends the files where checkpoints still hold on to what was evicted."""
        if (start := self._free.take(n, self._head)) is not None:
            return start
        rows = self._files.rows
        more = max(n, min(1024, self.capacity))
        self._files.open(rows + more)
        self._free.give(rows, more)
        if (rows + more) * self.row_bytes > self.budget_gb * GIB and not self._warned:
            self._warned = True
            warnings.warn(
                f"replay: {self.folder} grows to {human_size((rows + more) * self.row_bytes)}, over its budget of "
                f"{self.budget_gb:g} GiB, because what was evicted since the last {self._keep} checkpoints is kept: "
                "save checkpoints more often",
                stacklevel=3,
            )
        start = self._free.take(n, self._head)
        assert start is not None
        return start

    def _checksum(self, start: int, n: int) -> int:
        """Cheap: all actions and flags, but only the first and the last observation."""
        rows = slice(start, start + n)
        ends = self._files.checksum("obs", [start, start + n - 1])
        return self._files.checksum("flags", rows, self._files.checksum("action", rows, ends))

    # ------------------------------------------------------------------ sampling

    def ids(self, which: Which = "all") -> list[int]:
        """Identities of the episodes held, oldest first."""
        return self._table(which).id.tolist()

    def get(self, episode: int) -> Chunk:
        """One whole episode: B = 1, T = its rows. Raises ReplayError when it is not held."""
        if episode not in self._entries:
            raise ReplayError(f"replay: no episode {episode}")
        entry = self._entries[episode]
        rows = np.arange(entry.start, entry.start + entry.rows)[None]
        at = np.array([episode], np.int64), np.zeros(1, np.int64)
        return self._gather(Plan(rows, np.zeros(rows.shape, bool), np.array([entry.expert]), *at))

    def sample(
        self,
        batch: int,
        length: int,
        rng: np.random.Generator,
        *,
        which: Which = "all",
        expert_fraction: float | None = None,
        from_start_prob: float = 0.0,
        by: By = "episode",
        last: int | None = None,
    ) -> Chunk:
        """`batch` chunks of `length` rows: an episode uniformly, then a chunk inside it uniformly (algorithms 3.1).

        Args:
            which: the episodes to draw from; not used when `expert_fraction` is given.
            expert_fraction: a number puts exactly floor(fraction * batch) demonstration chunks first and online chunks
                after them (algorithms 5.1.5); None (`episode_uniform`) draws from `which`.
            from_start_prob: probability with which a chunk starts at row 0 of its episode.
            by: "row" weights episodes by the chunks they hold, so that every chunk is equally likely.
            last: draw from the newest `last` episodes (of each kind asked for) only.
        Raises:
            ReplayError: nothing to draw from, or a bad argument.
        """
        if batch < 1 or length < 1 or (last is not None and last < 1) or by not in ("episode", "row"):
            raise ReplayError(f"replay: cannot sample batch={batch} length={length} by={by!r} last={last}")
        parts: list[tuple[Which, int]] = [(which, batch)]
        if expert_fraction is not None:
            if not 0 <= expert_fraction <= 1:
                raise ReplayError(f"replay: expert_fraction is {expert_fraction}, expected 0..1")
            # The small term undoes products such as 0.29 * 100 = 28.999999999999996.
            experts = math.floor(expert_fraction * batch + 1e-9)
            parts = [("expert", experts), ("online", batch - experts)]
        tables = [(self._filled_table(kind), n) for kind, n in parts if n]
        plans = [draw_plan(t, self._table, n, length, rng, from_start_prob, by, last) for t, n in tables]
        return self._gather(Plan(*(np.concatenate(column) for column in zip(*plans, strict=True))))

    def _gather(self, plan: Plan) -> Chunk:
        flags = self._files["flags"][plan.rows]
        is_first = (flags & FIRST > 0) | plan.restart
        action = self._files["action"][plan.rows]
        action[is_first] = 0
        obs = self._files["obs"][plan.rows]
        ends = flags & LAST > 0, self._terminal(flags)
        truth = self._files["truth"][plan.rows] if self.truth else None
        return Chunk(obs, action, is_first, *ends, plan.expert, plan.episode, plan.offset, truth)

    def _terminal(self, flags: np.ndarray) -> np.ndarray:
        """Which rows learners see as terminations: of none with ``ignore``."""
        return flags & TERMINAL > 0 if self.termination != "ignore" else np.zeros(flags.shape, bool)

    def pairs(self, which: Which = "all", ids: Sequence[int] | None = None) -> RowPairs:
        """All pairs of the episodes of a kind, or of those in ``ids`` that are still held; arrays of n rows, copied.

        Raises:
            ReplayError: there is no such episode.
        """
        kept = None if ids is None else set(ids)
        entries = [e for e in self._entries.values() if which == "all" or e.expert == (which == "expert")]
        entries = [e for e in entries if kept is None or e.id in kept]
        if not entries:
            raise ReplayError(f"replay: no {which} episode to take pairs from ({self.episodes} episodes held)")
        rows = np.concatenate([np.arange(e.start, e.start + e.rows - 1) for e in entries])
        steps = np.array([e.rows - 1 for e in entries])
        time, episode = np.concatenate([np.arange(n) for n in steps]), np.repeat(np.arange(len(steps)), steps)
        position = (time / steps[episode]).astype(np.float32)
        obs, flags = self._files["obs"], self._files["flags"]
        done = self._terminal(flags[rows + 1])
        truth = self._files["truth"][rows + 1] if self.truth else None
        action = self._files["action"][rows + 1]
        return RowPairs(obs[rows], action, obs[rows + 1], done, position, time, episode, truth)

    def _filled_table(self, which: str) -> Table:
        table = self._table(which)
        if not len(table.id):
            kind = "" if which == "all" else f"{which} "
            raise ReplayError(f"replay: no {kind}episode to sample from ({self.episodes} episodes held)")
        return table

    def _table(self, which: str) -> Table:
        if which not in ("all", "expert", "online"):
            raise ReplayError(f"replay: which is {which!r}, expected 'all', 'expert' or 'online'")
        if which not in self._tables:
            entries = self._entries.values()
            self._tables[which] = Table([e for e in entries if which == "all" or e.expert == (which == "expert")])
        return self._tables[which]

    # ------------------------------------------------------------------ checkpoints

    def flush(self) -> None:
        """Wait until every row is on the disk; call before a checkpoint that names the rows is written."""
        self._files.sync()

    def commit(self) -> None:
        """A checkpoint with the present `state_dict()` has been written: free the rows that no kept one names.

        Rows evicted between checkpoints k-1 and k are named by k-1, which is dropped when k-1 + keep is saved.
        """
        for start, n in self._pending.pop(0):
            self._free.give(start, n)
        self._pending.append([])

    def state_dict(self) -> dict[str, Any]:
        """The index, JSON-able: the episodes, counters, and the rows that wait for `commit`."""
        return {
            "layout": self._layout(),
            "episodes": [list(entry) for entry in self._entries.values()],
            "pending": [[list(span) for span in generation] for generation in self._pending],
            "next_id": self._next_id,
            "head": self._head,
            "file_rows": self._files.rows,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to the moment just after the checkpoint with this index was committed; later rows are forgotten.

        Raises:
            ReplayError: other shapes, or the files do not hold what the index says (moved, damaged); it is empty then.
        """
        if state["layout"] != self._layout():
            raise ReplayError(f"replay: the checkpoint has {state['layout']}, this replay {self._layout()}")
        self._reset()
        rows = max(int(state["file_rows"]), self.capacity)
        self._files.open(rows)
        for episode in state["episodes"]:
            entry = Entry(*episode)
            if entry.start + entry.rows > rows or self._checksum(entry.start, entry.rows) != entry.checksum:
                self._reset()
                raise ReplayError(
                    f"replay: {self.folder} does not hold episode {entry.id} of the checkpoint; its files were moved "
                    "or changed: put them back, or start a new run"
                )
            self._insert(entry)
        self._pending = [[(s, n) for s, n in generation] for generation in state["pending"]]
        used = [(e.start, e.rows) for e in self._entries.values()]
        self._free = Extents(rows, used + [span for generation in self._pending for span in generation])
        self._next_id, self._head = int(state["next_id"]), int(state["head"])
        self.commit()

    def _layout(self) -> dict[str, Any]:
        layout = {
            "obs_shape": list(self.obs_shape),
            "obs_dtype": self.obs_dtype.name,
            "action_size": self.action_size,
            "keep_checkpoints": self._keep,
        }
        more = {"termination": self.termination} if self.termination not in UNCHANGED else {}
        return layout | ({"truth": True} if self.truth else {}) | more

    def close(self) -> None:
        """Close the files; the replay is unusable afterwards."""
        self._files.close()
