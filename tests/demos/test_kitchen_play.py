"""Play in the Kitchen: some subtasks in any order, broken off and failed, which replays like a demonstration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demos import dataset
from demos.experts import toy
from demos.experts.kitchen import Disturbance, KitchenExpert
from demos.experts.kitchen_legs import Way
from demos.experts.kitchen_play import DISTURBANCE, LEGS, KitchenPlay
from demos.experts.kitchen_play import main as record_main
from demos.experts.recording import fill, verify
from envs.kitchen import KitchenEnv
from envs.make import make

STEPS = 120


def attempts(player: KitchenPlay) -> list[str]:
    """The subtasks of the legs in the player's log, in the order of the attempts."""
    legs = Way(player._kitchen, np.random.default_rng(0)).legs
    named = {legs[i].name: task for task, chosen in LEGS.items() for i in chosen}
    found: list[str] = []
    for _, leg in player.log:
        found += [named[leg]] if not found or found[-1] != named[leg] else []
    return found


@pytest.fixture(scope="module")
def played() -> dict[int, tuple[KitchenPlay, np.ndarray, np.ndarray]]:
    """seed -> the player, its actions, and the last state; seed 1 twice, the second time as 101."""
    found, env = {}, KitchenEnv(obs="state")
    for key in (1, 2, 101):
        env.reset(seed=key % 100)
        player = KitchenPlay(key % 100)
        player.reset(env)
        actions = []
        for _ in range(STEPS):
            actions.append(player.act(env))
            env.step(np.clip(actions[-1], -1, 1).astype(np.float32))
        found[key] = player, np.array(actions), env.get_state()
    env.close()
    return found


def test_play_tries_some_subtasks_in_some_order(played: dict[int, tuple[KitchenPlay, np.ndarray, np.ndarray]]) -> None:
    orders = {seed: attempts(player) for seed, (player, _, _) in played.items()}
    assert all(len(order) >= 2 for order in orders.values()), "more than one attempt in half an episode"
    assert orders[1] != orders[2] and any(order != sorted(order, key=list(LEGS).index) for order in orders.values())
    for player, actions, _ in played.values():
        assert actions.shape == (STEPS, 9) and np.abs(actions).max() <= 1.0
        assert player.source != KitchenExpert.source


def test_play_is_a_function_of_its_seed(played: dict[int, tuple[KitchenPlay, np.ndarray, np.ndarray]]) -> None:
    assert np.array_equal(played[1][1], played[101][1]) and np.array_equal(played[1][2], played[101][2])
    assert not np.array_equal(played[1][1], played[2][1])


def test_play_is_more_disturbed_than_a_demonstration() -> None:
    usual = Disturbance()
    for name in ("start", "drift", "push_chance", "push"):
        assert getattr(DISTURBANCE, name) > getattr(usual, name)


def test_episodes_that_fail_are_kept_if_they_replay(tmp_path: Path) -> None:
    def failed(seed: int) -> dataset.Episode:
        """The expert's episode with every action at rest."""
        episode = toy.record("line", seed)
        env = make("line", "state")
        env.reset(seed=seed, options={"sim_state": episode.sim_state[0]})  # type: ignore[index]
        states = [episode.sim_state[0]]  # type: ignore[index]
        for _ in range(episode.steps):
            env.step(np.zeros(1, np.float32))
            states.append(env.unwrapped.get_state())  # type: ignore[attr-defined]
        return dataset.Episode(**(vars(episode) | {"action": 0 * episode.action, "sim_state": np.array(states)}))

    env = make("line", "state")
    seed = next(s for s in range(20) if not verify(env, failed(s)))
    assert verify(env, failed(seed), success=False)
    assert not verify(
        env, dataset.Episode(**(vars(failed(seed)) | {"action": toy.record("line", seed).action})), success=False
    )
    fill(tmp_path, 2, seed, failed, env, lambda e: "", success=False)
    assert len(dataset.load(tmp_path, task="line")) == 2


@pytest.mark.parametrize("argument", ["episodes=0", "sed=3"])
def test_bad_arguments_are_one_line(argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record_main([f"out={tmp_path / 'made'}", argument]) == 1
    assert argument.split("=")[0] in capsys.readouterr().err and not (tmp_path / "made").exists()
