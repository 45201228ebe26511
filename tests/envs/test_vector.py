"""A vector of environments equals single ones, with and without processes; failures arrive with their traceback."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

from envs.errors import EnvError
from envs.make import make
from envs.vector import VectorEnv


@pytest.mark.parametrize("processes", [True, False])
def test_vector_equals_single_environments(processes: bool) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 2, 1))
    singles = [make("line", "pixels") for _ in range(2)]
    with VectorEnv("line", "pixels", 2, processes=processes) as vector:
        assert (len(vector), vector.horizon, vector.subtasks) == (2, 30, ("reach",))
        obs, infos = vector.reset([3, 4])
        expected = [env.reset(seed=seed) for env, seed in zip(singles, (3, 4), strict=True)]
        assert np.array_equal(obs, [first for first, _ in expected])
        assert not np.array_equal(obs[0], obs[1])
        for action in actions:
            obs, reward, terminated, truncated, infos = vector.step(action)
            steps = [env.step(a) for env, a in zip(singles, action, strict=True)]
            assert np.array_equal(obs, [step[0] for step in steps])
            assert reward.tolist() == [step[1] for step in steps]
            assert not terminated.any() and not truncated.any()
            assert [info["state"].tolist() for info in infos] == [step[4]["state"].tolist() for step in steps]
        states = vector.get_states()
        assert np.array_equal(states, [env.unwrapped.get_state() for env in singles])
        assert np.array_equal(vector.render_at(1), obs[1])
        again, _ = vector.reset_at(0, 3)
        assert np.array_equal(again, expected[0][0])
        assert np.array_equal(vector.get_states()[1], states[1])
        vector.reset_at(0, 9, states[1])
        assert np.array_equal(vector.get_states()[0], states[1])


def test_nothing_resets_by_itself() -> None:
    with VectorEnv("count", "state", 1, processes=False) as vector:
        vector.reset([0])
        for _ in range(20):
            obs, _, _, truncated, _ = vector.step(np.zeros((1, 1)))
        assert truncated.all() and obs[0, 0] == 20


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (np.nan, r"worker 1[^\n]* failed: [^\n]*an action is a finite array[^\n]*$"),
        ("x", r"(?s)worker 1.*Traceback.*ValueError"),
    ],
)
def test_a_failing_worker_tells_the_cause_and_closes_all(action: object, told: str) -> None:
    vector = VectorEnv("line", "state", 2)
    vector.reset([0, 1])
    with pytest.raises(EnvError, match=told):
        vector.step(np.array([[0.0], [action]], object))
    with pytest.raises(EnvError, match="closed"):
        vector.reset([0, 1])
    vector.close()


def test_an_environment_that_cannot_be_made_is_told_in_one_line() -> None:
    with pytest.raises(EnvError, match=r"worker 0 \(own, state\) failed: task.options.recordings: nowhere: ") as caught:
        VectorEnv("own", "state", 1, options={"recordings": "nowhere"})
    assert "\n" not in str(caught.value)


def test_a_killed_worker_is_reported() -> None:
    with VectorEnv("line", "state", 1) as vector:
        vector.reset([0])
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(EnvError, match="died without a traceback"):
            vector.step(np.zeros((1, 1)))


def test_mistakes_fail_before_any_process_starts() -> None:
    with pytest.raises(EnvError, match="did you mean"):
        VectorEnv("lines", "state", 2)
    with pytest.raises(EnvError, match="1 or more"):
        VectorEnv("line", "state", 0)
    with VectorEnv("line", "state", 2, processes=False) as vector:
        with pytest.raises(EnvError, match="seeds"):
            vector.reset([0, 1, 2])
        with pytest.raises(EnvError, match="actions"):
            vector.step(np.zeros((3, 1)))
        with pytest.raises(EnvError, match="no environment 2"):
            vector.reset_at(2, 0)


def test_those_that_are_named_are_stepped_and_no_others() -> None:
    with VectorEnv("line", "state", 3, processes=False) as vector:
        obs, _ = vector.reset([3, 4, 5])
        before = vector.get_states()
        seen, *_, infos = vector.step(np.full((2, 1), 0.5, np.float32), [2, 0])
        np.testing.assert_allclose(seen, np.clip(obs[[2, 0]] + 0.05, -1, 1), atol=1e-6)
        assert len(infos) == 2 and np.array_equal(vector.get_states()[1], before[1])
        for wrong in ([0, 0], [1], [0, 1, 2]):
            with pytest.raises(EnvError, match="actions"):
                vector.step(np.zeros((2, 1)), wrong)


def test_fewer_seeds_or_actions_concern_the_first_environments_only() -> None:
    with VectorEnv("line", "state", 2, processes=False) as both, VectorEnv("line", "state", 1, processes=False) as one:
        both.reset([3, 4])
        before = both.get_states()[1]
        obs, infos = both.reset([5])
        alone, _ = one.reset([5])
        assert obs.shape == alone.shape and len(infos) == 1
        for _ in range(3):
            action = np.full((1, 1), 0.5, np.float32)
            np.testing.assert_array_equal(both.step(action)[0], one.step(action)[0])
        np.testing.assert_array_equal(both.get_states()[1], before)
