"""A combination lock: exploration from the start fails where expert resets, real or in a model, solve it in a number
of rounds proportional to its length (algorithms 3.6, 5.5.14).
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.theory.tabular import Array

ACTIONS, EPISODES = 3, 20  # EPISODES a round for each state of the lock


def lock(length: int, seed: int) -> tuple[Array, Array]:
    """Next states (length + 2, ACTIONS) and the combination (length,): one right action in each state, else stuck.

    State ``length`` is open, ``length + 1`` stuck; nobody leaves either.
    """
    right = np.random.default_rng(seed).integers(0, ACTIONS, length)
    table = np.full((length + 2, ACTIONS), length + 1)
    table[np.arange(length), right] = np.arange(length) + 1
    table[length] = length
    return table, right


class Learner:
    """Monte-Carlo policy iteration on a table; an episode's first action is random, later ones once in ``length``."""

    def __init__(self, length: int, rng: np.random.Generator) -> None:
        self.length, self.rng = length, rng
        self.policy = rng.integers(0, ACTIONS, length + 2)
        self.returns, self.visits = np.zeros((2, length + 2, ACTIONS))

    def rollouts(self, table: Array, start: Array) -> tuple[Array, Array, Array]:
        """States, actions (length, n), and whether the episodes ended open (n,)."""
        state, states, actions = start, [], []
        for step in range(self.length):
            chance = self.rng.uniform(size=state.shape) < (1.0 if step == 0 else 1 / self.length)
            action = np.where(chance, self.rng.integers(0, ACTIONS, state.shape), self.policy[state])
            states.append(state)
            actions.append(action)
            state = table[state, action]
        return np.stack(states), np.stack(actions), state == self.length

    def improve(self, table: Array, start: Array, cost_of_open: float) -> None:
        """Rollouts, then greedy wherever a return told actions apart."""
        states, actions, opened = self.rollouts(table, start)
        np.add.at(self.visits, (states, actions), 1)
        np.add.at(self.returns, (states, actions), -cost_of_open * opened)
        q = self.returns / np.maximum(self.visits, 1)
        self.policy = np.where(np.ptp(q, 1) > 0, q.argmax(1), self.policy)

    def opens(self, table: Array) -> bool:
        """Whether the policy opens the real lock from its start."""
        state = 0
        for _ in range(self.length):
            state = table[state, self.policy[state]]
        return state == self.length


def rounds_to_open(
    length: int, *, resets: bool, model: str | None = None, limit: int = 100, seed: int = 0
) -> int | None:
    """Rounds of moment matching until the policy opens the lock, None if it does not within ``limit``.

    The costs see the outcome alone: -1 for open is what tells the expert from a policy that does not get there.
    resets: half of the episodes begin in states of the expert. model: None, the real lock is practised on; else a
    model of the learner's and perhaps the expert's transitions ("learner", "both"), which takes the unknown for stuck.
    """
    table, right = lock(length, seed)
    learner, known = Learner(length, np.random.default_rng(seed + 1)), np.full_like(table, length + 1)
    known[length] = length
    if model == "both":
        known[np.arange(length), right] = np.arange(length) + 1
    for k in range(limit):
        if learner.opens(table):
            return k
        start = np.zeros(EPISODES * length, int)
        if model is not None:
            states, actions, _ = learner.rollouts(table, start)  # real episodes have no resets then
            known[states, actions] = table[states, actions]
        if resets:
            start[::2] = learner.rng.integers(0, length, len(start[::2]))
        learner.improve(table if model is None else known, start, cost_of_open=-1.0)
    return None


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("model", [None, "both"])
def test_expert_resets_open_the_lock_in_time_proportional_to_its_length(model: str | None, seed: int) -> None:
    needed = {n: rounds_to_open(n, resets=True, model=model, seed=seed) for n in (5, 10, 20)}
    assert all(rounds is not None and rounds <= n for n, rounds in needed.items()), needed


@pytest.mark.parametrize("model", [None, "both"])
def test_without_resets_only_short_locks_open(model: str | None) -> None:
    assert rounds_to_open(4, resets=False, model=model) is not None, "the learner does explore"
    assert rounds_to_open(20, resets=False, model=model) is None


def test_resets_in_a_model_that_never_saw_the_expert_do_not_help() -> None:
    """The model must be fitted to both kinds of data (algorithms 3.6)."""
    assert rounds_to_open(20, resets=True, model="learner") is None
