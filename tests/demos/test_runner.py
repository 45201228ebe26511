"""Searches climb, their policies survive a file, and the runners that come with the project run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.running_mean_std import RunningMeanStd

from demos import dataset
from demos.errors import DemoError
from demos.experts import ars, baoding, ppo
from demos.experts.ars import main as search_main
from demos.experts.ars import search
from demos.experts.policies import Moments, Policy, episode, trials
from demos.experts.ppo import main as ppo_main
from demos.experts.ppo import read, train
from demos.experts.runner import main as record_main
from demos.experts.runner import record, shipped
from envs.make import make
from tests.demos.samples import assert_replays


class Balance(gymnasium.Env[Any, Any]):
    """s' = 1.2 s + a, 20 steps, reward 1 - |s'| and over where |s'| > 2: a = -s does it, a = 0 is thrown out."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._s, self._t = self.np_random.uniform(-0.5, 0.5), 0
        return self._look(), {}

    def _look(self) -> np.ndarray:
        return np.array([self._s, 3.0 + self._t % 2])  # the second number tells nothing

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._s, self._t = 1.2 * self._s + float(np.clip(action[0], -1, 1)), self._t + 1
        fallen = abs(self._s) > 2
        return self._look(), 1.0 - abs(self._s), fallen, self._t == 20 and not fallen, {}


def searched(rounds: int, seed: int = 0) -> tuple[Policy, list[Policy]]:
    """What a search finds, and all that it kept on the way."""
    kept: list[Policy] = []
    options = {"survival": 1.0, "directions": 4, "best": 2, "noise": 0.3, "rate": 0.05}
    return search(Balance(), seed, rounds, **options, keep=kept.append), kept  # type: ignore[arg-type]


def test_search_climbs_and_depends_on_the_seed_alone() -> None:
    found, kept = searched(60)
    still = Policy.linear(np.zeros((1, 2)), np.zeros(2), np.ones(2))
    returns = [np.mean([episode(Balance(), policy, seed)[0] for seed in range(20)]) for policy in (found, still)]
    assert returns[0] > 17.0 > 5.0 > returns[1]
    assert kept[-1] is found and len(kept) < 4
    assert np.array_equal(searched(60)[0].weights, found.weights)
    assert not np.array_equal(searched(60, seed=1)[0].weights, found.weights)


def test_reinforcement_climbs_and_depends_on_the_seed_alone() -> None:
    looks: list[tuple[int, float]] = []

    def learned(seed: int, steps: int = 512) -> Policy:
        return train(Balance, seed, steps, envs=4, rate=1e-3, rollout=128, look_every=1024, look=keep)

    def keep(policy: Policy, steps: int) -> bool:
        looks.append((steps, float(np.mean(trials(Balance(), policy)))))
        return enough is None or steps < enough

    enough = None

    found = learned(0, 4096)
    assert [steps for steps, _ in looks] == [1024, 2048, 3072, 4096]
    assert np.mean(trials(Balance(), found)) > 15.0 > looks[0][1]
    enough = 2048
    learned(0, 4096)
    assert [steps for steps, _ in looks[4:]] == [1024, 2048], "it stops where a look says so"
    once = learned(0)
    assert all(np.array_equal(a, b) for a, b in zip(learned(0).weights, once.weights, strict=True))
    assert not np.array_equal(learned(1).weights[0], once.weights[0])


def test_a_policy_is_read_from_a_model_as_it_acts() -> None:
    """The mean of its actions in states as they are, not normalised, without torch."""
    model = PPO("MlpPolicy", Balance(), policy_kwargs={"net_arch": [5, 3]}, seed=0, device="cpu")
    moments = RunningMeanStd(shape=(2,))
    moments.mean, moments.var = np.array([0.5, -1.0]), np.array([4.0, 0.25])
    policy = read(model, moments)
    for state in np.random.default_rng(0).normal(size=(5, 2)):
        expected, _ = model.predict((state - moments.mean) / np.sqrt(moments.var), deterministic=True)
        assert policy.act(state) == pytest.approx(expected, abs=1e-6)
    assert [w.shape for w in policy.weights] == [(5, 2), (3, 5), (1, 3)]


def test_without_its_library_reinforcement_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    assert ppo_main([f"out={tmp_path / 'policy.json'}"]) == 1
    assert "pip install stable-baselines3" in capsys.readouterr().err


def test_moments_are_those_of_all_states() -> None:
    states, seen = np.random.default_rng(0).normal(3.0, 2.0, (50, 4)), Moments(4)
    assert np.array_equal(seen.read(), [np.zeros(4), np.ones(4)])
    for state in states:
        seen.add(state)
    assert np.allclose(seen.read(), [states.mean(0), states.std(0)])


def test_a_policy_is_read_as_written_and_bad_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    deep = Policy(
        (np.array([[0.5, -0.25]]), np.array([[2.0], [0.125]])),
        (np.array([0.1]), np.array([0.0, 0.75])),
        np.array([1.0, 0.0]),
        np.array([0.5, 2.0]),
        "by hand",
    )
    deep.save(path)
    assert Policy.load(path).source == "by hand"
    hidden = np.tanh(0.5 * 2.0 - 0.25 * 0.5 + 0.1)
    assert Policy.load(path).act(np.array([2.0, 1.0])) == pytest.approx([1.0, 0.125 * hidden + 0.75])
    policy = Policy.linear(np.array([[0.25, -2.0]]), np.array([1.0, 0.0]), np.array([0.5, 2.0]))
    policy.save(path)
    assert Policy.load(path).act(np.array([2.0, 1.0])) == pytest.approx([-0.5])
    assert [p.name for p in tmp_path.iterdir()] == ["policy.json"]
    whole = path.read_text()
    changes = [
        ("0.5", "0.0"),
        ("[1.0, 0.0]", "[1.0]"),
        ("0.25", "NaN"),
        ("[[[0.25, -2.0]]]", "[]"),
        ("[[0.0]]", "[[]]"),
    ]
    for text in ("[", "{}", *(whole.replace(*change) for change in changes)):
        assert text != whole
        path.write_text(text)
        with pytest.raises(DemoError, match="policy"):
            Policy.load(path)
    with pytest.raises(DemoError, match="out"):
        policy.save(tmp_path / "nowhere" / "policy.json")


RUNNERS = {"hopper": 2900, "walker2d": 4400}  # and what each returns at least


@pytest.fixture(scope="module", params=RUNNERS)
def env(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One of the robots with a policy that comes with the project."""
    found = make(request.param, "state")
    yield found
    found.close()


@pytest.fixture(scope="module")
def policy(env: Any) -> Policy:
    """The one that comes with the project."""
    return Policy.load(shipped(env.task))


def test_the_shipped_policy_runs_without_a_fall(env: Any, policy: Policy) -> None:
    """Seeds that were not used while the expert was made."""
    total, steps = episode(env, policy, 5003)
    assert steps == 1000 and total > RUNNERS[env.task]


def test_the_seed_decides_and_the_noise_is_in_the_recorded_actions(env: Any, policy: Policy) -> None:
    first, again = record(env, policy, 1), record(env, policy, 1)
    assert dataset.checksum(first) == dataset.checksum(again)
    state, _ = env.reset(seed=1)
    assert 0.0 < np.abs(first.action[1] - policy.act(state)).max() < 0.1


def test_shipped_episodes_are_complete(env: Any) -> None:
    """Ten small files; their README's seeds, returns and checksums are right; nobody falls; a replay is exact."""
    folder = dataset.shipped(env.task)
    found = dataset.files(folder)
    assert len(found) == 10 and sum(path.stat().st_size for path in found) < 5e6
    readme = (folder / "README.md").read_text()
    listed = dict(re.findall(r"\| (episode_\d+\.npz) \| `([0-9a-f]{64})` \|", readme))
    for path, one in zip(found, dataset.load(folder, task=env.task, obs_keys=("state",)), strict=True):
        assert listed[path.name] == dataset.checksum(one)
        assert f"| {path.name} | {one.meta['seed']} | {one.meta['score']:.0f} |" in readme
        assert one.steps == 1000 and one.meta["success"] and not one.is_terminal.any()
    assert_replays(env, dataset.read(found[1])[0])


@pytest.mark.parametrize("argument", ["episodes=0", "task=kitchen", "noise=-1", "episode=3", "policy=nowhere.json"])
def test_bad_arguments_of_the_recorder_are_one_line(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record_main([f"out={tmp_path / 'made'}", argument]) == 1
    assert argument.split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_a_task_without_a_policy_of_its_own_wants_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record_main([f"out={tmp_path / 'made'}", "task=halfcheetah"]) == 1
    assert "policy=FILE is missing for halfcheetah" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["steps=0", "task=kitchen", "envs=0", "rate=-1", "round=3"])
def test_bad_arguments_of_reinforcement_are_one_line(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ppo_main([f"out={tmp_path / 'made'}", argument]) == 1
    assert argument.split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("module", "long"), [(ppo, "train"), (ars, "search"), (baoding, "_make_gait")])
def test_a_search_knows_from_the_start_that_its_file_can_be_written(
    module: Any, long: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reached(*_: Any, **__: Any) -> None:
        assert (tmp_path / "new" / "deep").is_dir()
        raise KeyboardInterrupt

    key = "gait" if module is baoding else "out"
    monkeypatch.setattr(module, long, reached)
    assert module.main([f"{key}={tmp_path / 'new' / 'deep' / 'found.json'}"]) == 130
    (tmp_path / "file").write_text("")
    for place, reason in ((tmp_path / "file" / "found.json", "cannot be made"), (tmp_path, "is a folder")):
        capsys.readouterr()
        assert module.main([f"{key}={place}"]) == 1
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["rounds=0", "task=ant", "best=9", "rate=0"])
def test_bad_arguments_of_the_search_are_one_line(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search_main([f"out={tmp_path / 'made'}", argument]) == 1
    assert argument.split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
