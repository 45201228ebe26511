"""Episodes for a round of the reward alone: counted, seen by the round, by nothing else (algorithms 1.3, 3.5)."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.build import ConfigError
from agent.data import RowPairs
from agent.rounds import RewardRounds
from agent.trainer import Trainer
from agent.upkeep import Upkeep
from envs.toy import LINE_SPEED, LineEnv
from models.mlp_ensemble import MLPEnsemble
from tests.agent.runs import LocalVector, assert_same, lines, local, start, state
from tests.agent.test_ending import build
from tests.agent.test_trainer import at_call

# episodes of 30 steps: one that seeds, then one for every 6 updates, the first of which begins with a round
RUN = ("algo=hype_official", "obs=state", "data.batch=16", "data.updates_per_step=0.2", "data.seed_steps=30",
       "data.reward_batch=32", "data.reward_start=0", "data.reward_every=30", "data.reward_fresh=2", "steps=240",
       "eval.every=240")  # fmt: skip


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    local(monkeypatch)


def test_fresh_episodes_count_and_go_to_the_round_alone(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RowPairs] = []
    play = RewardRounds.play

    def noted(self: RewardRounds, k: int, rng: Any, recent: Any) -> Any:
        seen.append(recent)
        return play(self, k, rng, recent)

    monkeypatch.setattr(RewardRounds, "play", noted)
    start(run_dir, *RUN)
    found, n = state(run_dir), LineEnv.horizon
    counters = found["counters"]
    assert [counters[f"env_steps/{kind}"] for kind in ("seed", "policy", "reward")] == [n, 3 * n, 3 * 2 * n]
    assert found["step"] == counters["env_steps"] == 10 * n and counters["reward_rounds"] == len(seen) == 3
    assert counters["updates"] == 18, "fresh episodes pay for none"
    online = [entry for entry in found["replay"]["episodes"] if not entry[3]]
    assert len(online) == 4, "what the policy learns from"
    assert [line for line in lines(run_dir) if "env_steps/reward" in line][-1]["env_steps/reward"] == 6 * n
    assert [line for line in lines(run_dir) if "env_steps/official" in line][-1]["env_steps/official"] == 4 * n
    for pairs in seen:
        assert pairs.episode.tolist() == [0] * n + [1] * n and pairs.time.tolist() == 2 * list(range(n))
        np.testing.assert_allclose(pairs.next_obs, np.clip(pairs.obs + LINE_SPEED * pairs.action, -1, 1), atol=1e-6)
        assert not pairs.done.any()


@pytest.mark.parametrize("call", [130, 200])
def test_a_run_stopped_while_it_collects_them_continues_exactly(run_dir: Path, tmp_path: Path, call: int) -> None:
    """After an evaluation of 60 steps and two episodes; after one more episode. Two environments step at once."""
    start(run_dir, *RUN, "eval.at_start=true")
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, LocalVector, "step", call, lambda: signal.raise_signal(signal.SIGINT))
        start(tmp_path / "parts", *RUN, "eval.at_start=true", expect=130)
    counters = state(tmp_path / "parts")["counters"]
    rounds = [130, 200].index(call)
    assert [counters.get(key, 0) for key in ("env_steps/reward", "reward_rounds")] == [60 * rounds, rounds]
    start(tmp_path / "parts", *RUN, "eval.at_start=true")
    assert_same(run_dir, tmp_path / "parts")


def test_filter_resets_what_the_policy_learns_from_and_not_what_its_reward_sees(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training episodes begin at demonstrated states in the environment itself, those of the reward's rounds and of
    evaluations at its own (algorithms 3.5, H6).
    """
    played: dict[bool, list[tuple[Any, Any]]] = {True: [], False: []}
    play = Trainer._play

    def noted(self: Trainer, number: int, *, resets: bool) -> Any:
        found = play(self, number, resets=resets)
        played[resets] += found
        shown.update((t, float(x)) for d in self.demos for t, x in enumerate(d.obs["state"][:-1, 0]))
        return found

    shown: set[tuple[int, float]] = set()
    monkeypatch.setattr(Trainer, "_play", noted)
    start(run_dir, *RUN, "algo=hype_filter", "starts.env_reset=1", "steps=150")
    assert len(played[True]) >= 3 and len(played[False]) >= 2
    for trace, where in played[True]:
        assert (where.step, float(trace.arrays()["obs"][0, 0])) in shown
        assert trace.steps == LineEnv.horizon - where.step, "the demonstration's clock goes on"
    assert len({where.step for _, where in played[True]}) > 1
    for trace, where in played[False]:
        assert where is None and trace.steps == LineEnv.horizon
    assert state(run_dir)["recent"] == [], "no episode began at the task's own start"


def test_methods_without_rounds_on_new_episodes_refuse_them() -> None:
    for algo in ("gail", "value_dice"):
        with pytest.raises(ConfigError, match=r"data\.reward_fresh: episodes of their own"):
            build(algo, "state", "data.reward_fresh=4")


def test_a_run_stopped_in_a_fit_after_them_continues_exactly(run_dir: Path, tmp_path: Path) -> None:
    """They were played for a round that never came: played and counted again, by the same weights and seeds."""
    given = (*RUN, "algo=hyper_official", "data.fit_every=30", "data.rollouts_per_step=2", "data.memory=2000",
             "world_model.hidden=32", "world_model.max_epochs=2", "world_model.patience=1")  # fmt: skip
    start(run_dir, *given)
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, MLPEnsemble, "fit", 2, lambda: signal.raise_signal(signal.SIGINT))
        start(tmp_path / "parts", *given, expect=130)
    counters = state(tmp_path / "parts")["counters"]
    assert (counters["env_steps/reward"], counters["reward_rounds"]) == (60, 1), "those of the first round alone"
    start(tmp_path / "parts", *given)
    assert_same(run_dir, tmp_path / "parts")


def test_episodes_for_a_round_are_not_played_again_for_a_fit_that_is_left(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit that is due before the same update comes first: however often it is left to save, they are played once."""
    given = (*RUN, "algo=hyper_official", "data.fit_every=30", "data.rollouts_per_step=2", "data.memory=2000",
             "world_model.hidden=32", "world_model.max_epochs=3", "world_model.patience=9")  # fmt: skip
    start(run_dir, *given)
    played, saves = [], []
    fresh, save = Trainer._fresh, Trainer.save
    monkeypatch.setattr(Trainer, "_fresh", lambda self: (played.append(0), fresh(self))[1])
    monkeypatch.setattr(Trainer, "save", lambda self: (saves.append(0), save(self))[1])
    monkeypatch.setattr(Trainer, "_save_is_due", lambda self: True)
    start(tmp_path / "saved", *given)
    assert len(saves) > 20 and len(played) == state(run_dir)["counters"]["reward_rounds"] == 3
    assert_same(run_dir, tmp_path / "saved")


def test_rollouts_grow_with_practice_and_windows_with_the_run(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes for the reward alone count, and are no practice (algorithms 3.6, HR8)."""
    seen = []
    imagine = Upkeep.imagine

    def noted(self: Upkeep, step: float, rng: Any, through: float) -> Any:
        seen.append((step, through))
        return imagine(self, step, rng, through)

    monkeypatch.setattr(Upkeep, "imagine", noted)
    start(run_dir, *RUN, "algo=hyper_official", "data.fit_every=30", "data.imagine_every=30",
          "data.rollouts_per_step=2", "data.memory=2000", "world_model.hidden=32", "world_model.max_epochs=1",
          "world_model.patience=1")  # fmt: skip
    # an episode of 30 steps seeds; before each update of the next ones a round has just played two
    assert seen == [(60.0, 120 / 240), (90.0, 210 / 240), (120.0, 300 / 240)]


def test_a_reward_never_sees_episodes_that_began_elsewhere(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without episodes of its own it looks at the newest that began at the task's start, so that one comes first."""
    seen: list[list[int]] = []
    play = RewardRounds.play

    def noted(self: RewardRounds, k: int, rng: Any, recent: Any) -> Any:
        seen.append(list(recent))
        return play(self, k, rng, recent)

    monkeypatch.setattr(RewardRounds, "play", noted)
    start(run_dir, *RUN, "algo=hype_filter", "starts.env_reset=0.99", "data.reward_fresh=0", "steps=150")
    assert len(seen) >= 2 and all(seen), "no round without one"
    logged = lines(run_dir)
    episodes, scored = (sum(key in line for line in logged) for key in ("env_steps/policy", "train/score"))
    assert 0 < scored < episodes, "a score from a demonstration's middle on is in part the demonstration's"
    whole = {entry[0] for entry in state(run_dir)["replay"]["episodes"] if entry[2] == LineEnv.horizon + 1}
    assert set().union(*seen) <= whole
    with pytest.raises(ConfigError, match=r"env_reset=1: the reward compares episodes from the task's own start"):
        build("hype_filter", "state", "starts.env_reset=1", "data.reward_fresh=0")
