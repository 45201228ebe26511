"""From one task to another through the command: demonstrations, rewards (algorithms 3.7, "Transfer setting")."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import artefact, rewards
from agent.build import build_agent
from agent.config import read_config
from agent.evaluate import main as evaluate
from demos import dataset
from envs.custom_ant import CustomAntEnv
from envs.episode import EpisodeBuilder
from envs.make import make
from tests.agent.runs import assert_same, lines, local, start, state

# three episodes of 30 steps, the first of which only seeds; 12 updates
ANT = ("obs=state", "n_demos=1", "data.batch=16", "data.length=2", "data.updates_per_step=0.2", "data.seed_steps=30",
       "data.reward_batch=32", "data.reward_every=30", "steps=90", "eval.every=90", "eval.episodes=1")  # fmt: skip
FROM_CUSTOM = "demos_task=ant-custom"


@pytest.fixture(autouse=True, scope="module")
def _local() -> Iterator[None]:
    """Runs in this process, of short episodes."""
    with pytest.MonkeyPatch.context() as patch:
        local(patch)
        patch.setattr(CustomAntEnv, "horizon", 30)
        yield


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One episode of the custom ant, moved at random."""
    folder = tmp_path_factory.mktemp("ant") / "demos"
    folder.mkdir()
    env: Any = make("ant-custom", "state")
    rng, builder = np.random.default_rng(0), EpisodeBuilder({"task": "ant-custom"})
    builder.start({"state": env.reset(seed=0)[0]}, env.get_state())
    for action in rng.uniform(-1, 1, (env.horizon, 8)).astype(np.float32):
        builder.add(action, {"state": env.step(action)[0]}, sim_state=env.get_state())
    dataset.save(folder / "ant.npz", builder.finish())
    return folder


@pytest.fixture(scope="module")
def learned(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """method -> a run in the custom ant with a reward of the state alone."""
    runs = {}
    for algo in ("ml_irl_s", "airl"):
        runs[algo] = tmp_path_factory.mktemp(algo) / "run"
        alone = ("reward.state_only=true",) if algo == "airl" else ()
        start(runs[algo], "task=ant-custom", f"algo={algo}", *ANT, f"demos={demos}", *alone)
    return runs


def refused(capsys: pytest.CaptureFixture[str], run: Path, *arguments: str) -> str:
    """What the command says in one line with exit code 1."""
    capsys.readouterr()
    start(run, *arguments, expect=1)
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error


def reward_transfer(source: Path) -> tuple[str, ...]:
    """Arguments of SAC from scratch, without demonstrations, on the reward of a run."""
    return ("task=ant-disabled", "algo=expert", "reward=frozen", f"reward.path={source}", *ANT)


@pytest.fixture(scope="module")
def transferred(learned: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """method -> a run in the disabled ant on what it has learned."""
    runs = {algo: tmp_path_factory.mktemp(f"frozen-{algo}") / "run" for algo in learned}
    for algo, source in learned.items():
        start(runs[algo], *reward_transfer(source))
    return runs


@pytest.mark.parametrize("algo", ["ml_irl_s", "airl"])
def test_a_reward_of_states_is_the_same_numbers_in_the_other_ant(
    learned: dict[str, Path], transferred: dict[str, Path], algo: str
) -> None:
    """And nothing of it moves; AIRL's goes without its shaping."""
    run = transferred[algo]
    found = state(run)
    given, kept = state(learned[algo])["modules"]["reward"], found["modules"]["reward"]
    weights = {key.removeprefix("net.g.") for key in given if algo != "airl" or key.startswith("net.g.")}
    prefix = "net." if algo == "airl" else ""
    assert set(kept) == {f"learned.{prefix}{key}" for key in weights} | {"mean", "std"}
    assert "reward" not in found["optimisers"] and found["counters"]["updates"] == 12
    config = read_config(run / "config.yaml")
    agents = []
    for folder, one in ((learned[algo], read_config(learned[algo] / "config.yaml")), (run, config)):
        agent = build_agent(one, 8, torch.device("cpu"), (27,))
        for name, module in state(folder)["modules"].items():
            getattr(agent, name).load_state_dict(module)
        agents.append(agent)
    states, action = torch.randn(9, 27), torch.rand(2, 9, 8) * 2 - 1
    source, target = agents
    feat = source.world.latent(states).feat
    with torch.no_grad():
        if algo == "airl":
            expected = source.reward.net["g"](feat)
        else:
            expected = source.reward.reward(source.reward.inputs(feat, action[0], noisy=False))
        for a in action:
            x = target.reward.inputs(target.world.latent(states).feat, a, noisy=False)
            torch.testing.assert_close(target.reward.reward(x), expected)
    assert expected.std() > 0
    assert evaluate([f"run={run}", "episodes=1", "envs=1", "mode=mode", "device=cpu"]) == 0


def test_true_rewards_stay_out_of_reward_transfer(
    learned: dict[str, Path], transferred: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = CustomAntEnv.step

    def poisoned(self: Any, action: np.ndarray) -> Any:
        obs, _, *rest = real(self, action)
        return obs, float("nan"), *rest

    monkeypatch.setattr(CustomAntEnv, "step", poisoned)
    start(tmp_path / "poisoned", *reward_transfer(learned["ml_irl_s"]))
    assert_same(transferred["ml_irl_s"], tmp_path / "poisoned")
    assert "truth" not in state(tmp_path / "poisoned")["replay"]["layout"]


def test_demonstrations_of_another_task_are_taken_where_the_user_says_so(
    demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data transfer; the command for looking at rewards finds them again."""
    run = tmp_path / "run"
    arguments = ("task=ant-disabled", "algo=ml_irl_s", f"demos={demos}", *ANT)
    error = refused(capsys, run, *arguments)
    assert "task: is 'ant-custom'; this run is about 'ant-disabled'; if another task's" in error and not run.exists()
    assert "task: is 'ant-custom'; this run is about 'ant'" in refused(capsys, run, *arguments, "demos_task=ant")
    error = refused(capsys, run, *arguments, FROM_CUSTOM)
    assert "transitions of other dynamics (data.expert_fraction=0.2): data.expert_fraction=0" in error
    start(run, *arguments, FROM_CUSTOM, "data.expert_fraction=0")
    assert state(run)["counters"]["reward_rounds"] > 0 and any("eval/score_mode" in line for line in lines(run))
    assert rewards.main([f"run={run}", "device=cpu"]) == 0
    assert artefact.read(run).card["task"] == "ant-disabled"


def test_sizes_must_agree_all_the_same(
    demos: Path, learned: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transfer = ("algo=ml_irl_s", f"demos={demos}", FROM_CUSTOM, "data.expert_fraction=0", *ANT)
    other = "task.options.contact_forces=true"
    error = refused(capsys, tmp_path / "a", "task=ant-disabled", other, *transfer)
    assert "demonstrations have observations (27,) and 8 actions, the task (111,) and 8" in error
    error = refused(capsys, tmp_path / "b", "task=hopper", *transfer)
    assert "(27,) and 8 actions, the task (11,) and 3" in error
    error = refused(capsys, tmp_path / "c", *reward_transfer(learned["ml_irl_s"]), other)
    assert "is about 27 state entries and 8 actions" in error
    assert not (tmp_path / "c").exists()
