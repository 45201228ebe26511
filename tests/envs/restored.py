"""Whether an environment goes on exactly from a restored state."""

from __future__ import annotations

from typing import Any

import numpy as np


def actions(env: Any, count: int, seed: int = 0) -> np.ndarray:
    """Uniform actions of the environment's box, (count, A)."""
    space = env.action_space
    return np.random.default_rng(seed).uniform(space.low, space.high, (count, *space.shape)).astype(np.float32)


def assert_continues(env: Any, other: Any, count: int, at: int) -> None:
    """``other``, placed in the state of ``env`` after ``at`` of ``count`` random actions, does to the bit the same."""
    env.reset(seed=0)
    moves = actions(env, count)
    for move in moves[:at]:
        last = env.step(move)[0]
    state = env.get_state()
    obs, _ = other.reset(seed=99, options={"sim_state": state})
    assert np.array_equal(obs, last) and np.array_equal(other.get_state(), state)
    for move in moves[at:]:
        expected, found = env.step(move), other.step(move)
        assert np.array_equal(found[0], expected[0]) and found[1:4] == expected[1:4]
        assert found[4]["score"] == expected[4]["score"]
    assert np.array_equal(other.get_state(), env.get_state())
