"""Run a policy in real environments: the one loop behind collection, evaluation and recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from agent.agent import Agent
from envs.errors import EnvError
from envs.vector import VectorEnv


class Interrupted(Exception):
    """The user asked to stop while an episode was running; the episode is dropped."""


class Reset(NamedTuple):
    """A moment of a demonstration that an episode begins at: simulator state (S,), and how many steps had passed."""

    sim_state: np.ndarray
    step: int


def a_moment(sim_states: Sequence[np.ndarray], rng: np.random.Generator) -> Reset:
    """One in which a demonstration (T + 1, S) acts, all equally likely (algorithms 4.3: uniform over episode and t)."""
    ends = np.cumsum([len(states) - 1 for states in sim_states])  # nothing is done in a last state
    drawn = int(rng.integers(ends[-1]))
    one = int(np.searchsorted(ends, drawn, "right"))
    step = drawn - (int(ends[one - 1]) if one else 0)
    return Reset(sim_states[one][step], step)


def env_start(p: float, sim_states: Sequence[np.ndarray], rng: np.random.Generator) -> Reset | None:
    """FILTER (algorithms 3.5): a moment of the demonstrations with probability p; None: the task's own start."""
    return a_moment(sim_states, rng) if p > 0 and rng.random() < p else None


@dataclass(eq=False)
class Trace:
    """One episode in storage convention (``action[t]`` led to ``obs[t]``), with what only evaluation may know."""

    seed: int
    obs: list[np.ndarray]
    action: list[np.ndarray]
    terminal: bool = False
    score: float = 0.0
    success: bool = False
    rewards: list[float] = field(default_factory=lambda: [0.0])  # the environment's; only ``reward=truth`` keeps them
    limit: int | None = None  # steps at most; None: until the environment ends it
    tasks_done: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    measures: dict[str, float] = field(default_factory=dict)  # what else the task tells of the episode

    @property
    def steps(self) -> int:
        """Environment steps: rows - 1."""
        return len(self.obs) - 1

    @property
    def reward(self) -> float:
        """Undiscounted environment return."""
        return float(sum(self.rewards))

    def arrays(self) -> dict[str, np.ndarray]:
        """Rows for ``Replay.add_episode``; of the rewards, only a replay of ``reward=truth`` keeps anything."""
        rows = len(self.obs)
        first, last, terminal = (np.zeros(rows, bool) for _ in range(3))
        first[0], last[-1], terminal[-1] = True, True, self.terminal
        action = np.stack(self.action).astype(np.float32)
        return {
            "obs": np.stack(self.obs),
            "action": action,
            "is_first": first,
            "is_last": last,
            "is_terminal": terminal,
            "truth": np.array(self.rewards, np.float32),
        }

    def _see(self, info: dict[str, Any]) -> None:
        self.score, self.success = float(info["score"]), bool(info["success"])
        self.tasks_done = np.asarray(info["tasks_done"], np.float32)
        self.measures = dict(info.get("measures", {}))


@contextmanager
def one_thread() -> Iterator[None]:
    """Acting wants one torch thread: a second one gains nothing on a handful of frames, and spins after each product
    on the core that an environment's process needs (an acting step took 50 ms instead of 12 with two on two cores).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Row(NamedTuple):
    """One row of an episode that is played: ``action`` (None in row 0) led to ``obs`` and to the task's reward."""

    action: np.ndarray | None
    obs: np.ndarray
    info: dict[str, Any]
    terminated: bool
    reward: float


def play(agent: Agent, env: Any, seed: int, *, mode: bool, by_state: bool = False) -> Iterator[Row]:
    """The rows of one episode in an environment of this process, for those who look at the simulator between them.

    by_state: the agent acts on the state that the environment tells, and the rows show the pictures that it gives.
    """
    obs, info = env.reset(seed=seed)
    action, first = np.zeros((1, *env.action_space.shape), np.float32), np.ones(1, bool)
    carry, over = agent.world.initial(1), False
    yield Row(None, obs, info, False, float("nan"))
    while not over:
        seen = info["state"] if by_state else obs
        action, carry = agent.act(seen[None], action, first, carry, mode=mode)
        obs, reward, terminated, truncated, info = env.step(action[0])
        action = info.get("did", action[0])[None]
        first, over = np.zeros(1, bool), bool(terminated or truncated)
        yield Row(action[0], obs, info, bool(terminated), float(reward))


def run_episodes(
    agent: Agent,
    envs: VectorEnv,
    seeds: Sequence[int],
    *,
    mode: bool,
    noise: float = 0.0,
    starts: Sequence[Reset | None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int], None] = lambda steps: None,
) -> list[Trace]:
    """One episode per seed, ``len(envs)`` at a time, in lockstep; results do not depend on the number of processes'
    speed. ``starts``: for each episode the simulator state to begin with, or None for the task's own start.

    Raises Interrupted when ``should_stop`` says so between two steps.
    """
    traces: list[Trace] = []
    n = len(envs)
    places: Sequence[Reset | None] = [None] * len(seeds) if starts is None else starts
    for begin in range(0, len(seeds), n):
        group = list(zip(seeds[begin : begin + n], places[begin : begin + n], strict=True))
        try:
            with one_thread():
                traces += _run_group(agent, envs, group, mode, noise, should_stop, on_step)
        except EnvError as error:
            if should_stop():  # Ctrl-C and the end of a job reach the environments' processes as well
                raise Interrupted from error
            raise
    return traces


def _run_group(
    agent: Agent,
    envs: VectorEnv,
    group: Sequence[tuple[int, Reset | None]],
    mode: bool,
    noise: float,
    should_stop: Callable[[], bool],
    on_step: Callable[[int], None],
) -> list[Trace]:
    n, seeds = len(group), [seed for seed, _ in group]
    obs, infos = envs.reset(seeds)
    for i, (seed, start) in enumerate(group):
        if start is not None:
            obs[i], infos[i] = envs.reset_at(i, seed, start.sim_state)
    action = np.zeros((n, *envs.action_space.shape), np.float32)
    first, running = np.ones(n, bool), np.ones(n, bool)
    carry = agent.world.initial(n)
    traces = [Trace(seed, [o], [a]) for seed, o, a in zip(seeds, obs, action, strict=True)]
    for trace, (_, start) in zip(traces, group, strict=True):
        trace.limit = None if start is None else max(1, envs.horizon - start.step)
    for trace, info in zip(traces, infos, strict=True):
        trace._see(info)
    while running.any():
        if should_stop():
            raise Interrupted
        action, carry = agent.act(obs, action, first, carry, mode=mode, noise=noise)
        first = np.zeros(n, bool)
        here = np.flatnonzero(running)  # a simulator need not take a step after its last
        seen, reward, terminated, truncated, infos = envs.step(action[here], here.tolist())
        obs, action = obs.copy(), action.copy()
        for k, i in enumerate(here.tolist()):
            obs[i], action[i] = seen[k], infos[k].get("did", action[i])
            traces[i].obs.append(seen[k])
            traces[i].action.append(action[i])
            traces[i].rewards.append(float(reward[k]))
            traces[i]._see(infos[k])
            traces[i].terminal = bool(terminated[k])
        on_step(len(here))
        limited = np.array([t.limit is not None and t.steps >= t.limit for t in traces])
        running &= ~limited
        running[here] &= ~(terminated | truncated)
    return traces
