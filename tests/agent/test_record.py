"""``python -m agent.record``: a policy's episodes as demonstrations that replay."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import record
from agent.build import build_agent
from agent.config import read_config
from agent.deploy import DEPLOY_SEEDS
from agent.label import LABEL_SEEDS
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


def test_pictures_are_recorded_of_what_a_policy_does_that_sees_states(run: Path, tmp_path: Path) -> None:
    plain, seen = (
        dataset.read(record.record(Options(run, tmp_path / str(pixels), episodes=1, pixels=pixels, device="cpu"))[0])[0]
        for pixels in (False, True)
    )
    assert set(plain.obs) == {"state"} and set(seen.obs) == {"state", "image"}
    np.testing.assert_array_equal(seen.obs["state"], plain.obs["state"])
    np.testing.assert_array_equal(seen.action, plain.action)
    assert seen.sim_state is not None
    env = LineEnv(obs="pixels")
    for state_, image in zip(seen.sim_state, seen.obs["image"], strict=True):
        env.set_state(state_)
        np.testing.assert_array_equal(image, env.render())


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
    real, scores = record.played, iter([0.1, 0.5, 0.4, 0.9, 0.1, 0.1, 0.4999])

    def scored(*args: Any, **options: Any) -> Any:
        episode = real(*args, **options)
        episode.meta["score"] = next(scores)
        return episode

    monkeypatch.setattr(record, "played", scored)
    paths = record.record(Options(run, tmp_path / "good", episodes=2, min_score=0.5, device="cpu"))
    assert [path.name for path in paths] == ["line-0000.npz", "line-0001.npz"]
    metas = [dataset.read(path)[0].meta for path in paths]
    assert [(m["score"], m["seed"] - RECORD_SEEDS) for m in metas] == [(0.5, 1), (0.9, 3)]
    out = tmp_path / "none"
    told = refused(capsys, f"run={run}", f"out={out}", "episodes=1", "min_score=0.5", "device=cpu")
    assert told == f"{out}: min_score: only 0 of 3 episodes reached 0.5"
    assert not out.exists()


@pytest.mark.parametrize("name", ["demos", "set.hdf5"])
def test_what_is_good_enough_is_written_where_it_is_too_few_but_replaces_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real, best = record.played, [0.9] * 2 + [0.1] * 7

    def scored(*args: Any, **options: Any) -> Any:
        episode = real(*args, **options)
        episode.meta["score"] = next(scores)
        return episode

    monkeypatch.setattr(record, "played", scored)
    out, scores = tmp_path / name, iter(best)
    arguments = [f"run={run}", f"out={out}", "episodes=3", "min_score=0.5", "device=cpu"]
    capsys.readouterr()
    assert record.main(arguments) == 1
    assert capsys.readouterr().err.endswith(f"{out}: min_score: only 2 of 9 episodes reached 0.5; these are written\n")
    assert len(dataset.load(out, task="line", obs_keys=("state",))) == 2
    before, scores = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}, iter(best)
    told = refused(capsys, *arguments, "force=true")
    assert told.endswith("only 2 of 9 episodes reached 0.5; what was there is kept")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["demos", "set.hdf5"])
def test_an_interrupted_recording_leaves_everything_as_it_was(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    arguments = [f"run={run}", f"out={tmp_path / name}", "episodes=2", "device=cpu"]
    real, count = record.played, 0

    def broken(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count % 2 == 0:
            raise KeyboardInterrupt
        return real(*args, **options)

    def again(*more: str) -> None:
        monkeypatch.setattr(record, "played", broken)
        assert record.main([*arguments, *more]) == 130
        assert capsys.readouterr().err.endswith("agent.record: interrupted; nothing was written\n")
        monkeypatch.setattr(record, "played", real)

    again()
    assert not list(tmp_path.iterdir())
    assert record.main(arguments) == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    again("seed=9", "force=true")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_what_others_have_written_is_never_replaced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"run={run}", f"out={tmp_path}", "episodes=1", "device=cpu", "force=true"]
    (tmp_path / "notes.txt").write_text("mine")
    assert record.main(arguments) == 0
    dataset.save(tmp_path / "line-0001.npz", dataset.load(dataset.shipped("line"), limit=1)[0])
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    told = refused(capsys, *arguments)
    assert told.endswith("holds line-0001.npz, which this command has not written: name another folder")
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    (tmp_path / "line-0001.npz").unlink()
    assert record.main([*arguments, "seed=9"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["line-0000.npz", "notes.txt"]


def test_mistakes_are_named_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"out={tmp_path / 'out'}"
    assert refused(capsys, f"run={tmp_path / 'no'}", out) == f"{tmp_path / 'no'}: no such run folder"
    assert refused(capsys, f"run={run}", out, "episodes=0") == "episodes must be at least 1"
    assert "unknown key 'episode'" in refused(capsys, f"run={run}", out, "episode=1")
    assert "out=... is missing" in refused(capsys, f"run={run}")
    told = refused(capsys, f"run={run}", f"out={tmp_path / 'set.hdf5'}", "pixels=true")
    assert told == "pixels=true: adds pictures to the episodes of a run with obs=state, in a folder"
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "config.yaml").write_text((run / "config.yaml").read_text())
    assert refused(capsys, f"run={fresh}", out) == f"{fresh}: holds no checkpoint yet"
    assert not (tmp_path / "out").exists()


def test_what_is_there_already_is_not_replaced_unasked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = tmp_path / "demos", tmp_path / "set.hdf5"
    common = [f"run={run}", "device=cpu"]
    for out in (folder, file):
        assert record.main([*common, f"out={out}", "episodes=2"]) == 0
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        assert "force=true replaces them" in refused(capsys, *common, f"out={out}", "episodes=1", "seed=9")
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert record.main([*common, f"out={folder}", "episodes=1", "seed=9", "force=true"]) == 0
    (only,) = dataset.load(folder, task="line", obs_keys=("state",))
    assert only.meta["seed"] == RECORD_SEEDS + 9, "none of the old ones is left among the new"


def test_seeds_are_those_of_nobody_else() -> None:
    assert RECORD_SEEDS >= EVAL_SEEDS + (1 << 29), "half of the seeds above training's are left to evaluation"
    firsts = [EVAL_SEEDS, RECORD_SEEDS, DEPLOY_SEEDS, LABEL_SEEDS, 1 << 31]
    assert all(later - first >= 1 << 27 for first, later in zip(firsts, firsts[1:], strict=False))


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on the true reward: three episodes of its own."""
    folder = tmp_path_factory.mktemp("expert") / "run"
    with pytest.MonkeyPatch.context() as patch:
        local(patch)
        start(folder, *EXPERT)
    yield folder


EXPERT = ("algo=expert", "obs=state", "steps=90", "eval.every=90", "data.batch=16", "data.length=2",
          "data.updates_per_step=0.2", "data.seed_steps=30")  # fmt: skip


def told(out: Path) -> list[Any]:
    """The episodes of a data set with their rewards."""
    return dataset.load(out, task="line", obs_keys=("state",), rewards=True)


def test_a_data_set_holds_the_recorded_episodes_with_their_true_rewards(run: Path, tmp_path: Path) -> None:
    arguments = [f"run={run}", "episodes=2", "sampled=true", "device=cpu"]
    for out in ("a.hdf5", "again/a.hdf5", "demos"):
        assert record.main([*arguments, f"out={tmp_path / out}"]) == 0
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "again" / "a.hdf5").read_bytes()
    wanted = dataset.load(tmp_path / "demos", task="line", obs_keys=("state",))
    for found, demo in zip(told(tmp_path / "a.hdf5"), wanted, strict=True):
        assert demo.sim_state is not None and found.sim_state is None
        for name in ("action", "is_first", "is_last", "is_terminal"):
            np.testing.assert_array_equal(getattr(found, name), getattr(demo, name))
        np.testing.assert_array_equal(found.obs["state"], demo.obs["state"])
        env = LineEnv(obs="state")
        env.reset(seed=demo.meta["seed"])
        rewards = [env.step(action)[1] for action in demo.action[1:]]
        np.testing.assert_allclose(found.reward[1:], rewards)
    without = dataset.load(tmp_path / "a.hdf5", task="line", obs_keys=("state",))
    assert all(np.isnan(e.reward).all() for e in without), "as demonstrations they have none"


def test_steps_count_whole_episodes(run: Path, tmp_path: Path) -> None:
    for steps, episodes in ((LineEnv.horizon, 1), (LineEnv.horizon + 1, 2)):
        out = tmp_path / f"{steps}.hdf5"
        record.record(Options(run, out, steps=steps, device="cpu"))
        assert len(told(out)) == episodes


def test_what_a_run_has_collected_is_a_data_set_that_others_learn_from(
    expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Medium-replay: every episode of the run's own in order, with the rewards that it learned from."""
    local(monkeypatch)
    out = tmp_path / "sets" / "replay.hdf5"
    assert record.main([f"run={expert}", f"out={out}", "source=replay"]) == 0
    episodes, index = told(out), state(expert)["replay"]["episodes"]
    assert [len(e) for e in episodes] == [rows for _, _, rows, *_ in index] and len(episodes) == 3
    for episode in episodes:
        good = np.abs(episode.obs["state"][1:, 0] - LINE_GOAL) < LINE_TOLERANCE
        np.testing.assert_array_equal(episode.reward[1:], good)
        assert not episode.is_terminal.any() and episode.obs["state"].std() > 0
    start(tmp_path / "again", *EXPERT)
    record.record(Options(tmp_path / "again", tmp_path / "again.hdf5", source="replay"))
    assert out.read_bytes() == (tmp_path / "again.hdf5").read_bytes(), "the same commands, the same bytes"
    record.record(Options(expert, out.with_name("expert.hdf5"), episodes=1, device="cpu"))
    assert len(told(out.parent)) == 4, "a folder of sets is their union"
    tiny = ("size.epoch=8", "size.offline_fit=20", "data.batch=16", "data.length=2", "data.updates_per_step=1")
    start(tmp_path / "mopo", "algo=mopo", "obs=state", f"dataset={out.parent}", *tiny, "steps=16", "eval.every=16")
    held = state(tmp_path / "mopo")["replay"]
    assert len(held["episodes"]) == 4 and held["layout"]["truth"]


def test_runs_that_were_told_no_rewards_tell_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local(monkeypatch)
    start(tmp_path / "run", "algo=hype", *EXPERT[1:], "data.reward_batch=32", "data.reward_every=30")
    out = tmp_path / "replay.hdf5"
    assert record.main([f"run={tmp_path / 'run'}", f"out={out}", "source=replay"]) == 0
    assert capsys.readouterr().err.strip().endswith("3 episodes, 90 steps, without rewards")
    with pytest.raises(dataset.DemoError, match="reward: is not told"):
        told(out)
    assert len(dataset.load(out, task="line", obs_keys=("state",))) == 3, "demonstrations are not among them"


def test_what_cannot_be_recorded_like_that_is_told(
    run: Path, expert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    local(monkeypatch)
    out = f"out={tmp_path / 'a.hdf5'}"
    assert refused(capsys, f"run={run}", out, "source=model") == "source=model: expected one of policy, replay"
    assert refused(capsys, f"run={run}", out, "steps=0") == "steps must be at least 1"
    assert "out must name a .hdf5 file" in refused(capsys, f"run={expert}", f"out={tmp_path}", "source=replay")
    for more in ("sampled=true", "weights=best", "episodes=3"):
        told = refused(capsys, f"run={expert}", out, "source=replay", more)
        assert "no episodes, sampled, steps, min_score, weights" in told
    assert "has collected no episodes" in refused(capsys, f"run={run}", out, "source=replay")
    moved = tmp_path / "moved"
    shutil.copytree(expert, moved, ignore=shutil.ignore_patterns("replay"))
    assert refused(capsys, f"run={moved}", out, "source=replay") == f"{moved}: its replay is not there any more"
    (moved / "replay").mkdir()
    assert "does not hold episode 0" in refused(capsys, f"run={moved}", out, "source=replay")
    start(tmp_path / "other", *EXPERT, "data.termination=fixed_horizon")
    told = refused(capsys, f"run={tmp_path / 'other'}", out, "source=replay")
    assert "its replay holds other ends of episodes than the environment's (data.termination)" in told
    assert not (tmp_path / "a.hdf5").exists()
