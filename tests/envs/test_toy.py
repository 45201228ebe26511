"""CountEnv shows misalignment, LineEnv is solved by its expert and by nothing simpler."""

from __future__ import annotations

import numpy as np
import pytest

from envs.episode import EpisodeBuilder, to_pairs
from envs.errors import EnvError
from envs.make import make
from envs.toy import count_expert, count_from_image, line_expert


def test_count_shows_its_step_in_pixels_and_state() -> None:
    env = make("count", "pixels")
    obs, info = env.reset(seed=0)
    for step in range(env.unwrapped.horizon):
        assert count_from_image(obs) == step == info["state"][0]
        obs, _, terminated, truncated, info = env.step(count_expert(info["state"]))
        assert not terminated and truncated == (step == 19)
    assert count_from_image(obs) == 20
    assert info["success"] and info["score"] == 1.0 and info["tasks_done"].tolist() == [1.0]


def test_count_expert_actions_line_up_through_storage_and_pairs() -> None:
    env = make("count", "state")
    obs, info = env.reset(seed=0)
    builder = EpisodeBuilder()
    builder.start({"state": obs})
    truncated = False
    while not truncated:
        action = count_expert(obs)
        obs, _, terminated, truncated, info = env.step(action)
        builder.add(action, {"state": obs}, terminated=terminated)
    episode = builder.finish()
    pairs = to_pairs(episode.obs["state"], episode.action, episode.is_terminal)
    assert np.allclose(pairs.action, [count_expert(state) for state in pairs.state])
    # rows paired as they are stored would be wrong everywhere, the check above is not vacuous
    assert not np.isclose(episode.action, [count_expert(state) for state in episode.obs["state"]]).any()
    assert not pairs.done.any()


def test_count_fails_with_actions_one_step_late() -> None:
    env = make("count", "state")
    obs, _ = env.reset(seed=0)
    late = np.zeros(1, np.float32)
    for _ in range(20):
        following = count_expert(obs)
        obs, _, _, _, info = env.step(late)
        late = following
    assert info["score"] == 0.0 and not info["success"]


@pytest.mark.parametrize("seed", range(5))
def test_line_expert_solves_every_start(seed: int) -> None:
    env = make("line", "state")
    obs, info = env.reset(seed=seed)
    assert not info["success"]
    for _ in range(30):
        obs, _, _, truncated, info = env.step(line_expert(obs))
    assert truncated and info["success"] and info["score"] >= 0.5
    assert abs(float(obs[0]) - 0.5) < 1e-3


def test_line_is_not_solved_by_standing_still() -> None:
    env = make("line", "state")
    solved = 0
    for seed in range(20):
        env.reset(seed=seed)
        for _ in range(30):
            *_, info = env.step(np.zeros(1))
        solved += info["success"]
    assert solved <= 5


def test_line_pictures_show_small_movements() -> None:
    env = make("line", "pixels")
    first, _ = env.reset(seed=0)
    second, *_ = env.step(np.array([0.1]))
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert np.abs(first.astype(int) - second).max() > 10
    assert (first.max(2) > 200).sum() >= 200  # the point is large enough for a small convolution


@pytest.mark.parametrize("task", ["count", "line"])
def test_toys_restore_exactly_and_are_seeded(task: str) -> None:
    env, other = make(task, "state"), make(task, "state")
    first, _ = env.reset(seed=7)
    assert np.array_equal(first, other.reset(seed=7)[0])
    env.step(np.array([0.3]))
    state = env.unwrapped.get_state()
    ahead = [env.step(np.array([0.2]))[0] for _ in range(3)]
    other.reset(seed=1, options={"sim_state": state})
    assert np.array_equal(ahead, [other.step(np.array([0.2]))[0] for _ in range(3)])
    assert np.array_equal(env.unwrapped.get_state(), other.unwrapped.get_state())


def test_toys_refuse_bad_actions_and_states() -> None:
    env = make("line", "state")
    env.reset(seed=0)
    for bad in (np.zeros(2), np.array([np.nan])):
        with pytest.raises(EnvError, match="action"):
            env.step(bad)
    with pytest.raises(EnvError, match="shape"):
        env.unwrapped.set_state(np.zeros(3))
