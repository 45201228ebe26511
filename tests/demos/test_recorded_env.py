"""task=own: recordings of a robot without a simulator, from training to the exported policy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agent import deploy, evaluate, export, record, train
from agent.collect import play, run_episodes
from demos import dataset
from demos.recorded_env import RecordedEnv
from envs.episode import Episode
from envs.errors import EnvError
from envs.vector import VectorEnv
from tests.agent.runs import local, overrides, start, state

STEPS = (5, 7, 6, 4)


def recording(number: int, *, image: bool = False, actions: int = 2) -> Episode:
    """States and actions of recording ``number`` are known; 0.1 (number + 1) t is the first number of action t."""
    rows = STEPS[number] + 1
    t = np.arange(rows, dtype=np.float32)
    action = np.stack([0.02 * (number + 1) * t] * actions, 1).astype(np.float32)
    obs = {"state": np.stack([t, 100.0 * number + t, -t], 1).astype(np.float32)}
    if image:
        obs["image"] = np.random.default_rng(number).integers(0, 256, (rows, 64, 64, 3), np.uint8)
    last = np.arange(rows) == rows - 1
    return Episode(
        obs=obs,
        action=action,
        is_first=np.arange(rows) == 0,
        is_last=last,
        is_terminal=last & (number == 1),
        reward=np.full(rows, np.nan, np.float32),
        sim_state=None,
        meta={"task": "my-arm"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four recordings of 5, 7, 6 and 4 steps."""
    made = tmp_path / "mine"
    made.mkdir()
    for number in range(4):
        dataset.save(made / f"episode-{number}.npz", recording(number, image=True))
    return made


def test_recorded_observations_are_played_and_actions_compared(folder: Path) -> None:
    env = RecordedEnv(recordings=str(folder), used=None)
    assert (env.observation_space.shape, env.action_space.shape, env.horizon) == ((3,), (2,), 7)
    expected = recording(2)
    obs, info = env.reset(seed=6)  # 6 modulo 4
    errors, over = [], False
    for t in range(6):
        assert not over and np.array_equal(obs, expected.obs["state"][t])
        away = np.array([0.1, -0.3]) if t % 2 else np.zeros(2)
        obs, reward, terminated, over, info = env.step(expected.action[t + 1] + away)
        errors.append(0.2 if t % 2 else 0.0)
        assert reward == pytest.approx(-errors[-1], abs=1e-6) and not terminated
    assert over and info["measures"]["error"] == pytest.approx(np.mean(errors), abs=1e-6)
    assert info["score"] == pytest.approx(1 - np.mean(errors) / 2, abs=1e-6)
    env.reset(seed=1)
    ends = [env.step(np.zeros(2))[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(True, False)], "the second one terminates"


def test_recordings_that_nothing_learned_from_are_played_where_there_are_some(folder: Path) -> None:
    assert {RecordedEnv(recordings=str(folder), used=2).reset(seed=s)[0][1] for s in range(9)} == {200.0, 300.0}
    assert {RecordedEnv(recordings=str(folder), used=4).reset(seed=s)[0][1] for s in range(9)} == {0, 100, 200, 300}
    assert len(RecordedEnv(recordings=str(folder), used=3).held_out) == 1
    one, none = (RecordedEnv(recordings=str(folder), used=used) for used in (3, 4))
    assert (one.episodes, none.episodes) == (1, 4)
    assert one.note == "1 recordings that nothing was learned from" and "no recording is held out" in none.note


def test_recordings_that_a_data_set_holds_are_not_held_out(folder: Path, tmp_path: Path) -> None:
    (more := tmp_path / "more").mkdir()
    dataset.save(more / "play.npz", recording(3, image=True))
    kinds = {"recordings": str(folder), "used": 2}
    assert RecordedEnv(**kinds, learned=str(more)).reset(seed=5)[0][1] == 200.0, "of 2 and 3, 3 was learned from"
    everything = RecordedEnv(**kinds, learned=str(folder))
    assert everything.episodes == 4 and "no recording is held out" in everything.note


def test_what_was_recorded_led_to_what_is_seen_and_not_what_the_policy_asked_for(folder: Path) -> None:
    """A policy of pictures is told the recorded action before the next picture, as on the robot."""

    class Listens:
        world = type("World", (), {"initial": staticmethod(lambda n: None)})

        def __init__(self) -> None:
            self.told: list[np.ndarray] = []

        def act(self, obs: np.ndarray, action: np.ndarray, *rest: object, **kinds: object) -> tuple[np.ndarray, None]:
            self.told.append(action[0].copy())
            return np.full((1, 2), 0.5, np.float32), None

    listener, expected = Listens(), recording(2).action[:-1]
    with VectorEnv("own", "state", 1, processes=False, options={"recordings": str(folder)}) as envs:
        run_episodes(listener, envs, [2], mode=True)  # type: ignore[arg-type]
    np.testing.assert_array_equal(listener.told, expected)
    again = Listens()
    list(play(again, RecordedEnv(recordings=str(folder)), 2, mode=True))  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.told, expected)


def test_a_moment_is_restored_and_bad_ones_are_told(folder: Path) -> None:
    env = RecordedEnv(recordings=str(folder), obs="pixels")
    env.reset(seed=1)
    env.step(np.ones(2))
    moment = env.get_state()
    rest = [env.step(np.zeros(2))[-1]["score"] for _ in range(6)]
    obs, _ = env.reset(seed=0, options={"sim_state": moment})
    assert np.array_equal(obs, recording(1, image=True).obs["image"][1]) and np.array_equal(env.render(), obs)
    assert [env.step(np.zeros(2))[-1]["score"] for _ in range(6)] == rest
    for bad in (np.zeros(2), np.array([4.0, 0, 0]), np.array([0.0, 5, 0])):
        with pytest.raises(EnvError, match="own"):
            env.set_state(bad)
    with pytest.raises(EnvError, match="finite array of shape"):
        env.step(np.array([np.nan, 0]))
    with pytest.raises(EnvError, match="64 x 64"):
        env.render(128)
    for options in ({"dt": 0.0}, {"recordings": str(folder / "none")}):
        with pytest.raises(EnvError, match=f"task.options.{next(iter(options))}"):
            RecordedEnv(**{"recordings": str(folder)} | options)


@pytest.mark.parametrize("given", [("bc", "state"), ("bc_rssm", "pixels"), ("value_dice", "state", "data=demos_state")])
def test_from_recordings_to_a_policy_on_the_robot(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...],
) -> None:
    local(monkeypatch)
    run, policy = tmp_path / "run", tmp_path / "policy"
    algo, obs, *more = given
    length = "data.length=2" if obs == "state" else "data.length=4"
    common = ("task=own", f"demos={folder}", f"algo={algo}", f"obs={obs}", *more, "steps=3", "eval.every=3", length)
    start(run, *common, "n_demos=3", "task.options.dt=0.05")
    assert state(run)["counters"]["updates"] == 3 and not state(run)["counters"].get("env_steps")
    assert evaluate.main([f"run={run}", "episodes=2", "envs=1", "videos=false"]) == 0
    whole = json.loads((run / "eval.json").read_text())
    report = whole["results"]["mode"]
    assert [one["steps"] for one in report["each"]] == [4] and whole["episodes"] == 1, "what is held out, once"
    assert report["score"][0] == pytest.approx(1 - report["measures"]["error"][0] / 2)
    assert "1 recordings that nothing was learned from" in capsys.readouterr().out
    folder = folder.rename(tmp_path / "moved")
    assert evaluate.main([f"run={run}", "episodes=2", "videos=false"]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1, "where the recordings were, in one line"
    assert evaluate.main([f"run={run}", "episodes=2", "videos=false", f"recordings={folder}", "weights=best"]) == 0
    again = json.loads((run / "eval-best.json").read_text())
    assert again["results"]["mode"]["score"] == report["score"]
    assert again["note"] == f"{whole['note']}; these weights were chosen by their scores on them"
    (run / "eval-best.json").unlink()
    assert export.main([f"run={run}", f"out={policy}"]) == 0, "which needs no recordings"
    card = json.loads((policy / "policy.json").read_text())
    assert (card["dt"], card["dt_is_assumed"], card["action"]["size"]) == (0.05, False, 2)
    about = (policy / "README.md").read_text()
    error = report["measures"]["error"][0]
    assert (
        f"Mean distance of its actions from recorded ones: {error:.3f}" in about and "simulated episodes" not in about
    )
    assert str(tmp_path) not in about + (policy / "policy.json").read_text()
    assert deploy.main([f"policy={policy}", "episodes=1", "pace=false"]) == 1
    assert "recordings=PATH" in capsys.readouterr().err
    assert deploy.main([f"policy={policy}", f"recordings={folder}", "episodes=2", "pace=false"]) == 0
    assert "steps" in (told := capsys.readouterr().out) and "succe" not in told
    assert record.main([f"run={run}", f"out={tmp_path / 'again'}", "episodes=1", "device=cpu"]) == 1
    assert "no new episodes" in capsys.readouterr().err and not (tmp_path / "again").exists()
    common = (common[0], f"demos={folder}", *common[2:])
    start(run, *common, "n_demos=3", "task.options.dt=0.02")  # the same recordings elsewhere, another pace: goes on
    assert evaluate.main([f"run={run}", "episodes=2", "videos=false"]) == 0
    assert export.main([f"run={run}", f"out={policy}"]) == 0
    assert json.loads((policy / "policy.json").read_text())["dt"] == 0.02


def test_a_pace_that_nobody_told_is_said_to_be_assumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local(monkeypatch)
    run, policy = tmp_path / "run", tmp_path / "policy"
    start(run, "task=own", f"demos={folder}", "algo=bc", "obs=state", "n_demos=4", "steps=1", "data.length=2")
    assert "no recording is held out" in (run / "log.txt").read_text()
    assert export.main([f"run={run}", f"out={policy}"]) == 0
    assert "0.1 is assumed" in capsys.readouterr().err
    assert json.loads((policy / "policy.json").read_text())["dt_is_assumed"] is True
    assert "every 0.1 s (assumed: nobody told)" in (policy / "README.md").read_text()


def test_methods_that_play_episodes_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local(monkeypatch)
    for algo, obs in (("cmil", "pixels"), ("hype", "state")):
        given = overrides(tmp_path / "run", "task=own", f"demos={folder}", f"algo={algo}", f"obs={obs}")
        assert train.main(given) == 1
        assert f"task=own has no simulator, and algo={algo} plays episodes in one" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
