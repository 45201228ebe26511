"""``python -m agent.record``: a policy's episodes as demonstrations that replay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import record
from agent.build import build_agent
from agent.config import read_config
from agent.monitor import EVAL_SEEDS
from agent.record import RECORD_SEEDS, Options
from demos import dataset
from envs.toy import LINE_GOAL, LINE_TOLERANCE, LineEnv
from tests.agent.runs import local, start, state


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A policy of a few updates on LineEnv."""
    folder = tmp_path_factory.mktemp("record") / "run"
    with pytest.MonkeyPatch.context() as patch:
        local(patch)
        start(folder, "algo=bc", "obs=state", "steps=20", "eval.every=20", "data.length=4", "data.updates_per_step=1")
    yield folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line that the program says with exit code 1; before it only what became of each episode."""
    capsys.readouterr()
    assert record.main(list(arguments)) == 1
    *progress, told = capsys.readouterr().err.strip().splitlines()
    assert all(line.startswith("score ") for line in progress) and told.startswith("agent.record: ")
    return told.removeprefix("agent.record: ")


def test_recorded_episodes_are_demonstrations_that_replay(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "demos"
    assert record.main([f"run={run}", f"out={out}", "episodes=3", "seed=5", "device=cpu"]) == 0
    assert [path.name for path in sorted(out.iterdir())] == [f"line-000{i}.npz" for i in range(3)]
    episodes = dataset.load(out, task="line", obs_keys=("state",))
    assert [e.meta["seed"] for e in episodes] == [RECORD_SEEDS + 5 + i for i in range(3)]
    env = LineEnv(obs="state")
    for episode in episodes:
        assert episode.steps == LineEnv.horizon and episode.is_last[-1] and not episode.is_terminal.any()
        assert np.isnan(episode.reward).all(), "demonstrations have no rewards"
        assert episode.sim_state is not None and not episode.action[0].any()
        x, info = env.reset(seed=episode.meta["seed"])
        for t in range(episode.steps + 1):
            if t:
                x, _, _, _, info = env.step(episode.action[t])
            np.testing.assert_array_equal(episode.obs["state"][t], x)
            np.testing.assert_array_equal(episode.sim_state[t], env.get_state())
        assert (episode.meta["score"], episode.meta["success"]) == (info["score"], info["success"])
        good = np.abs(episode.obs["state"][1:, 0] - LINE_GOAL) < LINE_TOLERANCE
        assert episode.meta["score"] == pytest.approx(good.mean())


def test_the_trained_policys_most_likely_actions_are_recorded(run: Path, tmp_path: Path) -> None:
    (path,) = record.record(Options(run, tmp_path / "mode", episodes=1, device="cpu"))
    (episode,) = dataset.read(path)
    config, modules = read_config(run / "config.yaml"), state(run)["modules"]
    agent = build_agent(config, 1, torch.device("cpu"), (1,))
    for name, module in modules.items():
        getattr(agent, name).load_state_dict(module)
    acting = agent.policy.actor if agent.slow is None else agent.slow["actor"]
    with torch.no_grad():
        wanted = acting(agent.world.latent(torch.from_numpy(episode.obs["state"][:-1])).feat).mode().numpy()
    np.testing.assert_allclose(episode.action[1:], wanted, atol=1e-6)
    first, again, mode = (
        dataset.read(record.record(Options(run, tmp_path / name, 1, sampled=sampled, device="cpu"))[0])[0].action
        for name, sampled in (("a", True), ("b", True), ("c", False))
    )
    assert np.array_equal(first, again), "the seed decides about samples, too"
    assert not np.allclose(first, mode)


def test_episodes_below_the_score_are_not_kept(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, scores = record._episode, iter([0.1, 0.5, 0.4, 0.9, 0.1, 0.1, 0.4999])

    def scored(*args: Any, **options: Any) -> Any:
        episode = real(*args, **options)
        episode.meta["score"] = next(scores)
        return episode

    monkeypatch.setattr(record, "_episode", scored)
    paths = record.record(Options(run, tmp_path / "good", episodes=2, min_score=0.5, device="cpu"))
    assert [path.name for path in paths] == ["line-0000.npz", "line-0001.npz"]
    metas = [dataset.read(path)[0].meta for path in paths]
    assert [(m["score"], m["seed"] - RECORD_SEEDS) for m in metas] == [(0.5, 1), (0.9, 3)]
    out = tmp_path / "none"
    told = refused(capsys, f"run={run}", f"out={out}", "episodes=1", "min_score=0.5", "device=cpu")
    assert told == f"{out}: min_score: only 0 of 3 episodes reached 0.5"
    assert not list(out.iterdir())


def test_mistakes_are_named_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"out={tmp_path / 'out'}"
    assert refused(capsys, f"run={tmp_path / 'no'}", out) == f"{tmp_path / 'no'}: no such run folder"
    assert refused(capsys, f"run={run}", out, "episodes=0") == "episodes must be at least 1"
    assert "unknown key 'episode'" in refused(capsys, f"run={run}", out, "episode=1")
    assert "out=... is missing" in refused(capsys, f"run={run}")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "config.yaml").write_text((run / "config.yaml").read_text())
    assert refused(capsys, f"run={fresh}", out) == f"{fresh}: holds no checkpoint yet"
    assert not (tmp_path / "out").exists()


def test_seeds_are_those_of_nobody_else() -> None:
    assert RECORD_SEEDS >= EVAL_SEEDS + (1 << 29), "half of the seeds above training's are left to evaluation"
    assert RECORD_SEEDS + (1 << 20) < 1 << 31
