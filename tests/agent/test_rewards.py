"""Learned rewards as files, and ``python -m agent.rewards`` (algorithms 3.7, 3.11)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from agent import artefact, rewards
from agent.build import REWARDS, build_agent
from agent.config import read_config
from agent.reward.frozen import FrozenReward
from demos import dataset
from demos.formats import cameras
from models.state_model import StateModel
from tests.agent.recorded import line
from tests.agent.runs import local, replaced, start, state
from tests.demos import lerobot_sets as sets
from tests.models.tiny import numbers


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A likelihood reward on normalised states, after a few rounds."""
    folder = tmp_path_factory.mktemp("rewards") / "run"
    with pytest.MonkeyPatch.context() as patch:
        local(patch)
        options = ("data.batch=16", "data.length=2", "size.epoch=8", "size.offline_ml_every=8", "size.offline_fit=20")
        start(folder, "algo=offline_ml_irl", "obs=state", f"dataset={line()}", *options, "steps=24", "eval.every=24")
    yield folder


def of(run: Path, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The run's reward of raw states and actions, computed by the run's own agent."""
    agent = build_agent(read_config(run / "config.yaml"), 1, torch.device("cpu"), (1,))
    for name, module in state(run)["modules"].items():
        getattr(agent, name).load_state_dict(module)
    feat = agent.world.latent(torch.from_numpy(states)).feat
    with torch.no_grad():
        return agent.reward.reward(agent.reward.inputs(feat, torch.from_numpy(actions), noisy=False)).numpy()


def test_the_command_writes_the_reward_and_says_how_it_ranks(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "reward"
    assert rewards.main([f"run={run}", f"out={out}", f"dataset={line()}", "episode=3", "device=cpu"]) == 0
    names = {"reward.json", "reward.safetensors", "eval.json", "along.png", "against_truth.png"}
    assert {path.name for path in out.iterdir()} == names
    report = json.loads((out / "eval.json").read_text())
    episodes = dataset.load(line(), obs_keys=("state",), rewards=True)
    pairs = [(e.obs["state"][:-1], e.action[1:], e.reward[1:]) for e in episodes]
    learned = np.concatenate([of(run, s, a) for s, a, _ in pairs])
    truth = np.concatenate([r for *_, r in pairs])
    assert report["transitions"] == 20 * 30 and report["mean"] == pytest.approx(learned.mean(), abs=1e-5)
    # float32 sums in another order may swap neighbours
    assert report["spearman"] == pytest.approx(spearmanr(learned, truth).statistic, abs=1e-3)
    assert report["pearson"] == pytest.approx(pearsonr(learned, truth).statistic, abs=1e-3)
    assert set(truth) == {0.0, 1.0}, "ties are many"


def test_what_it_writes_of_the_reward_is_whole(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = replaced(monkeypatch)
    assert rewards.main([f"run={run}", f"out={tmp_path}", "device=cpu"]) == 0
    assert names == {"reward.json", "reward.safetensors", "eval.json"}


def test_the_card_says_what_the_numbers_mean(run: Path, tmp_path: Path) -> None:
    found = artefact.read(run)
    found.save(tmp_path / "reward")
    for path in (tmp_path / "reward", tmp_path / "reward" / "reward.json"):
        again = artefact.read(path)
        assert again.card == found.card
        assert all(torch.equal(value, again.weights[name]) for name, value in found.weights.items())
    card = found.card
    assert (card["task"], card["obs"], card["feat"], card["action"]) == ("line", "state", 1, 1)
    assert card["provenance"]["method"] == "offline_ml_irl" and card["provenance"]["step"] == 24
    assert card["provenance"]["data_set"] == line().name and card["temperature"] > 0
    assert str(run.parent) not in (tmp_path / "reward" / "reward.json").read_text(), "no path of this machine"


@pytest.mark.parametrize("normalise", [True, False])
def test_a_frozen_reward_is_the_same_function_of_states_in_another_run(run: Path, normalise: bool) -> None:
    """The new run normalises with its own statistics, or not at all."""
    world = StateModel(1, normalise=normalise)
    world.set_normaliser(3 + 5 * numbers(50, 1))
    reward = REWARDS["frozen"]({"kind": "frozen", "path": str(run)}, world, 1)
    assert isinstance(reward, FrozenReward) and not [p for p in reward.parameters() if p.requires_grad]
    states, actions = numbers(20, 1), numbers(20, 1, seed=1).tanh()
    feat = world.latent(states).feat
    found = reward.reward(reward.inputs(feat, actions, noisy=True))
    np.testing.assert_allclose(found.numpy(), of(run, states.numpy(), actions.numpy()), rtol=1e-4, atol=1e-5)
    if normalise:
        careless = reward.learned.reward(reward.learned.inputs(feat, actions, noisy=False))
        assert not np.allclose(careless, found, atol=1e-3), "features of one run are not those of another"
    (slope,) = torch.autograd.grad(
        reward.reward(reward.inputs(feat.requires_grad_(), actions, noisy=False)).sum(), feat
    )
    assert slope.abs().sum() > 0, "gradients pass through for policies that want them"


def test_without_true_rewards_there_is_a_picture_all_the_same(run: Path, tmp_path: Path) -> None:
    """The shipped demonstrations hold frames and no rewards."""
    report = rewards.look(rewards.Options(run, tmp_path / "out", device="cpu"))
    assert "spearman" not in report and report["episodes"] == 3
    assert (tmp_path / "out" / "along.png").stat().st_size > 10_000
    assert not (tmp_path / "out" / "against_truth.png").exists()


def test_of_a_set_with_cameras_only_the_drawn_episode_s_pictures_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local(monkeypatch)
    two, one = (sets.write(tmp_path / names[0], cameras=names) for names in (("front", "wrist"), ("top",)))
    given = ("task=own", f"demos={two}", f"dataset={two}", "n_demos=3")
    options = ("data.batch=4", "data.length=2", "size.epoch=8", "size.offline_ml_every=8", "size.offline_fit=20")
    start(tmp_path / "run", "algo=offline_ml_irl", "obs=state", *given, *options, "steps=8", "eval.every=8")
    real, opened = cameras.video, list[str]()

    def video(path: Path, *more: Any) -> Any:
        opened.append(path.name)
        return real(path, *more)

    monkeypatch.setattr(cameras, "video", video)
    assert rewards.look(rewards.Options(tmp_path / "run", tmp_path / "out", device="cpu"))["episodes"] == 3
    assert not opened, "nobody has said which camera"
    rewards.look(rewards.Options(tmp_path / "run", tmp_path / "out", dataset=one, episode=2, device="cpu"))
    assert opened == ["episode_000002.mp4"]


def test_a_run_without_demonstrations_needs_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local(monkeypatch)
    start(tmp_path / "run", "algo=expert", "obs=state", "data.batch=16", "data.length=2", "steps=60", "eval.every=60")
    assert rewards.main([f"run={tmp_path / 'run'}", "device=cpu"]) == 1
    assert "run: learned from no demonstrations: dataset=PATH names episodes" in capsys.readouterr().err


def test_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    for n in (3, 50, 500):
        a, b = rng.normal(size=n), rng.integers(0, 4, n).astype(float)
        b[:2] = 0, 1
        assert rewards.rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
        assert rewards.rank_correlation(a, np.exp(a)) == pytest.approx(1.0)
    assert rewards.rank_correlation(np.ones(5), np.arange(5.0)) == 0.0


def test_mistakes_are_named_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> str:
        capsys.readouterr()
        assert rewards.main([*arguments, "device=cpu", f"out={tmp_path / 'out'}"]) == 1
        (said,) = capsys.readouterr().err.strip().splitlines()
        return said.removeprefix("agent.rewards: ")

    assert told(f"run={tmp_path / 'no'}").endswith("no such run folder")
    assert told(f"run={run}", "episode=99") == "episode=99: there are 3, counted from 0"
    assert "unknown key 'datset'" in told(f"run={run}", "datset=x")
    assert "no such file or folder" in told(f"run={run}", "dataset=nowhere")
    damaged = tmp_path / "damaged"
    artefact.read(run).save(damaged)
    (damaged / "reward.safetensors").write_bytes(b"nothing")
    with pytest.raises(artefact.ConfigError, match="not a readable reward"):
        artefact.read(damaged)


def test_a_run_that_learned_no_reward_has_none_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local(monkeypatch)
    start(tmp_path / "run", "algo=bc", "obs=state", "steps=2", "eval.every=2", "data.length=2")
    assert rewards.main([f"run={tmp_path / 'run'}", "device=cpu"]) == 1
    assert "has learned no reward" in capsys.readouterr().err
    with pytest.raises(artefact.ConfigError, match="does not stand alone"):
        artefact.read(tmp_path / "run")


def test_a_reward_of_features_with_a_memory_needs_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local(monkeypatch)
    start(tmp_path / "run", "algo=cmil_recurrent", "obs=state", "steps=0", "eval.at_start=false")
    with pytest.raises(artefact.ConfigError, match="a reward of a recurrent model's features means nothing without"):
        artefact.read(tmp_path / "run")
