"""benchmark.rollouts: a published actor, given as arrays, plays and is recorded; another task's is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.rollouts import Options, actor, record
from demos.errors import DemoError
from demos.formats import d4rl


def weights(path: Path, states: int, actions: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"latent_pi_0": (7, states), "latent_pi_2": (5, 7), "mu": (actions, 5)}
    found = {f"{name}_weight": rng.normal(size=size) for name, size in sizes.items()}
    found |= {f"{name}_bias": rng.normal(size=size[0]) for name, size in sizes.items()}
    np.savez(path, **found)
    return found


def test_recorded_actions_are_the_actors_in_the_recorded_states(tmp_path: Path) -> None:
    w = weights(tmp_path / "actor.npz", 11, 3)
    record(Options("hopper", tmp_path / "actor.npz", tmp_path / "made" / "hopper.hdf5", episodes=2, seed=3))
    episodes = d4rl.read(tmp_path / "made" / "hopper.hdf5")
    assert len(episodes) == 2 and not np.array_equal(episodes[0].obs["state"][0], episodes[1].obs["state"][0])
    for one in episodes:
        x = one.obs["state"][:-1].T
        for name in ("latent_pi_0", "latent_pi_2"):
            x = np.maximum(w[f"{name}_weight"] @ x + w[f"{name}_bias"][:, None], 0)
        expected = np.tanh(w["mu_weight"] @ x + w["mu_bias"][:, None]).T
        np.testing.assert_allclose(one.action[1:], expected, atol=1e-4)
        assert np.isnan(one.reward).all()


@pytest.mark.parametrize(("states", "actions"), [(17, 3), (11, 6)])
def test_an_actor_of_another_task_is_refused(tmp_path: Path, states: int, actions: int) -> None:
    weights(tmp_path / "actor.npz", states, actions)
    with pytest.raises(DemoError, match="from 11 numbers to 3 actions"):
        actor(tmp_path / "actor.npz", 11, 3)
