"""Episodes in real environments: where they begin and end, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from agent.collect import Interrupted, Reset, one_thread, run_episodes
from envs.toy import LineEnv
from envs.vector import VectorEnv


class Pushing:
    """Always acts 0.5; stands in for an agent and notes torch's threads."""

    def __init__(self) -> None:
        self.world, self.threads = self, set[int]()

    def initial(self, n: int) -> None:
        """No carry."""

    def act(self, obs: np.ndarray, action: np.ndarray, first: np.ndarray, carry: Any, **_: Any) -> Any:
        self.threads.add(torch.get_num_threads())
        return np.full((len(obs), 1), 0.5, np.float32), carry


@pytest.fixture
def envs() -> Iterator[VectorEnv]:
    with VectorEnv("line", "state", 2, processes=False) as found:
        yield found


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def moment(step: int, x: float, *, clock: int = 0) -> Reset:
    """A demonstrated moment at x; ``clock``: the steps that the simulator itself remembers."""
    return Reset(np.array([clock, x, 0.0, 0.0]), step)


def test_episodes_begin_at_stored_states_and_end_when_the_demonstration_would_have(envs: VectorEnv) -> None:
    """FILTER: the horizon less the steps that had passed, whether or not the simulator's state tells them."""
    starts = [None, moment(25, 0.25), moment(28, -0.5, clock=28), moment(40, 0.0), None]
    traces = run_episodes(Pushing(), envs, [3, 4, 5, 6, 7], mode=True, starts=starts)  # type: ignore[arg-type]
    assert [t.steps for t in traces] == [LineEnv.horizon, 5, 2, 1, LineEnv.horizon], "at least one step"
    assert [t.seed for t in traces] == [3, 4, 5, 6, 7]
    for trace, start in zip(traces, starts, strict=True):
        found = trace.arrays()
        first = envs.reset([trace.seed])[0][0] if start is None else np.float32(start.sim_state[1:2])
        np.testing.assert_array_equal(found["obs"][0], first)
        assert not found["action"][0].any() and found["is_first"].tolist() == [True] + [False] * trace.steps
        np.testing.assert_allclose(found["obs"][1], first + 0.05, atol=1e-6)
        assert found["is_last"].tolist() == [False] * trace.steps + [True]
        assert not found["is_terminal"].any(), "running out of time is no termination"


def test_no_environment_is_stepped_after_its_end(envs: VectorEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulators may refuse it; and what the others see does not depend on who has ended."""
    steps: dict[int, int] = {}
    step, reset = LineEnv.step, LineEnv.reset

    def ends(self: Any, action: np.ndarray) -> Any:
        assert steps[id(self)] < self.last, "executing action in terminated episode"
        steps[id(self)] += 1
        obs, reward, _, truncated, info = step(self, action)
        return obs, reward, steps[id(self)] == self.last, truncated, info

    def begins(self: Any, **options: Any) -> Any:
        steps[id(self)], self.last = 0, 4 if options["seed"] % 2 else 9
        return reset(self, **options)

    alone = [run_episodes(Pushing(), envs, [seed], mode=True)[0] for seed in (3, 4)]  # type: ignore[arg-type]
    monkeypatch.setattr(LineEnv, "step", ends)
    monkeypatch.setattr(LineEnv, "reset", begins)
    traces = run_episodes(Pushing(), envs, [3, 4], mode=True)  # type: ignore[arg-type]
    assert [(t.steps, t.terminal) for t in traces] == [(4, True), (9, True)]
    for trace, other in zip(traces, alone, strict=True):
        found, expected = trace.arrays(), other.arrays()
        for name in ("obs", "action"):
            np.testing.assert_array_equal(found[name], expected[name][: trace.steps + 1])


def test_without_starts_all_episodes_are_the_tasks_own(envs: VectorEnv) -> None:
    plain, same = (
        run_episodes(Pushing(), envs, [1, 2, 3], mode=True, starts=starts)  # type: ignore[arg-type]
        for starts in (None, [None] * 3)
    )
    for a, b in zip(plain, same, strict=True):
        np.testing.assert_array_equal(a.arrays()["obs"], b.arrays()["obs"])


def test_acting_uses_one_thread_and_gives_the_others_back(envs: VectorEnv, two_threads: None) -> None:
    agent = Pushing()
    run_episodes(agent, envs, [1], mode=True)  # type: ignore[arg-type]
    assert agent.threads == {1} and torch.get_num_threads() == 2
    with pytest.raises(Interrupted):
        run_episodes(agent, envs, [1], mode=True, should_stop=lambda: True)  # type: ignore[arg-type]
    assert torch.get_num_threads() == 2, "whatever ended the episode"
    with one_thread():
        assert torch.get_num_threads() == 1
