"""``python -m agent.evaluate``: the right episodes, honest intervals, results that are whole or absent."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent import collect, evaluate, video
from agent.evaluate import Options
from agent.finished import open_env
from agent.monitor import EVAL_SEEDS
from agent.score import mean_interval, rate_interval
from envs import vector
from envs.errors import RenderingError
from tests.agent.runs import LocalVector, local, start, state


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with a checkpoint."""
    run = tmp_path_factory.mktemp("evaluate") / "run"
    with pytest.MonkeyPatch.context() as patch:
        local(patch)
        start(run, "steps=30")
    yield run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("replay", "tensorboard"))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment processes."""
    monkeypatch.setattr(vector, "VectorEnv", LocalVector)


def results(run: Path) -> dict[str, Any]:
    """What eval.json says."""
    return json.loads((run / "eval.json").read_text())


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the program says, in one line and with exit code 1."""
    capsys.readouterr()
    assert evaluate.main(list(arguments)) == 1
    told = capsys.readouterr().err.strip()
    assert "\n" not in told and told.startswith("agent.evaluate: ")
    return told.removeprefix("agent.evaluate: ")


# ---------------------------------------------------------------------- what it does


def test_a_run_is_evaluated_in_parallel_processes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([f"run={run}", "episodes=5", "envs=2", "seed=7"]) == 0
    found, table = results(run), capsys.readouterr().out
    assert found["config"] == "line-pixels-cmil-debug-seed0"
    at = state(run)
    assert found["checkpoint"] == {"weights": "last", "step": 30, "updates": at["counters"]["updates"]}
    assert found["seeds"] == {"seed": 7, "first": EVAL_SEEDS + 7, "last": EVAL_SEEDS + 11}
    assert found["subtasks"] == ["reach"] and found["envs"] == 2 and found["versions"]["torch"]
    for kind in ("mode", "sampled"):
        result = found["results"][kind]
        assert [e["seed"] for e in result["each"]] == [EVAL_SEEDS + 7 + i for i in range(5)]
        assert all(e["steps"] == 30 and e["success"] == (e["done"] == ["reach"]) for e in result["each"])
        assert result["score"] == list(mean_interval([e["score"] for e in result["each"]]))
        solved = sum(e["success"] for e in result["each"])
        assert result["success"] == result["tasks"]["reach"] == list(rate_interval(solved, 5))
    for text in ("mode", "sampled", "reach", "tasks solved of 1", "all tasks solved", "within 0.1 of the goal"):
        assert text in table
    for name in ("best", "worst"):
        assert found["videos"][name] == f"videos/eval-{name}-episode.gif"
        assert (run / found["videos"][name]).read_bytes().startswith(b"GIF8")
    assert not [*run.rglob("tmp-*"), *run.glob(".eval.json*")]


@pytest.mark.usefixtures("in_process")
def test_kinds_of_actions_and_runs_of_the_command_do_not_influence_each_other(run: Path) -> None:
    both = evaluate.evaluate(Options(run, episodes=4, envs=2, videos=False))["results"]
    assert both["mode"]["each"] != both["sampled"]["each"]
    for kind in ("mode", "sampled"):
        alone = evaluate.evaluate(Options(run, episodes=4, envs=2, videos=False, mode=kind))["results"]
        assert alone == {kind: both[kind]}
    other = evaluate.evaluate(Options(run, episodes=4, envs=2, videos=False, seed=2000))["results"]
    assert other["mode"]["each"] != both["mode"]["each"]


@pytest.mark.usefixtures("in_process")
def test_only_the_best_and_the_worst_episode_keep_their_frames(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    shown: list[np.ndarray] = []
    summary = evaluate._summary

    def look(traces: Any, subtasks: Any) -> Any:
        held.append(sum(frame.nbytes for trace in traces for frame in trace.obs))
        assert all(trace.steps == 30 for trace in traces)
        return summary(traces, subtasks)

    monkeypatch.setattr(evaluate, "_summary", look)
    monkeypatch.setattr(video, "write_gif", lambda path, frames, fps: shown.append(frames))
    monkeypatch.setattr(video, "write_mp4", lambda path, frames, fps: None)
    evaluate.evaluate(Options(run, episodes=5, envs=2))
    assert held == [0, 0]
    assert [frames.shape for frames in shown] == [(16, 256 + video.LABEL_HEIGHT, 256, 3)] * 2


@pytest.fixture(scope="module")
def from_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run from state with a checkpoint."""
    run = tmp_path_factory.mktemp("evaluate") / "run"
    with pytest.MonkeyPatch.context() as patch:
        local(patch)
        start(run, "obs=state", "algo=bc", "steps=2", "eval.every=2")
    yield run


@pytest.mark.usefixtures("in_process")
def test_from_state_the_best_and_the_worst_episode_are_drawn(from_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second row; the pictures are those of the states that the episode went through."""
    shown: dict[str, np.ndarray] = {}
    ends: list[collect.Trace] = []
    frames = evaluate._frames

    def look(envs: Any, trace: collect.Trace, obs: str) -> np.ndarray:
        ends.append(trace)
        return frames(envs, trace, obs)

    monkeypatch.setattr(evaluate, "_frames", look)
    monkeypatch.setattr(video, "write_gif", lambda path, frames, fps: shown.update({path.name: frames}))
    monkeypatch.setattr(video, "write_mp4", lambda path, frames, fps: None)
    found = evaluate.evaluate(Options(from_state, episodes=3, envs=2))
    assert found["videos"] == {n: f"videos/eval-{n}-episode.gif" for n in ("best", "worst")} and found["note"] == ""
    each = {e["seed"]: e for e in found["results"]["mode"]["each"]}
    env = open_env(evaluate.open_run(from_state)[0], "state")
    for trace, clip in zip(ends, shown.values(), strict=True):
        assert trace.score == each[trace.seed]["score"] and clip.shape == (16, 256 + video.LABEL_HEIGHT, 256, 3)
        env.reset(seed=trace.seed)
        for t, action in enumerate(trace.action):
            if t:
                env.step(action)
            if t % 2 == 0:
                assert np.array_equal(clip[t // 2, video.LABEL_HEIGHT :], env.render(256)), t
    assert "videos" not in evaluate.evaluate(Options(from_state, episodes=1, videos=False))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("trouble", ["nothing draws", "elsewhere"])
def test_what_cannot_be_drawn_costs_no_figures(
    from_state: Path, tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(from_state, tmp_path / "run", ignore=shutil.ignore_patterns("replay", "tensorboard"))
    expected = evaluate.evaluate(Options(run, episodes=2, videos=False))["results"]
    if trouble == "nothing draws":

        def draw(self: Any, index: int, size: int = 64) -> np.ndarray:
            raise RenderingError("no OpenGL")

        monkeypatch.setattr(LocalVector, "render_at", draw)
    else:
        reset_at = LocalVector.reset_at
        monkeypatch.setattr(LocalVector, "reset_at", lambda self, index, seed: reset_at(self, index, seed + 1))
    found = evaluate.evaluate(Options(run, episodes=2))
    assert found["results"] == expected and "videos" not in found and results(run)["note"] == found["note"]
    cause = "no OpenGL" if trouble == "nothing draws" else "lead elsewhere when they are played again"
    assert found["note"].startswith("no videos: ") and found["note"].endswith(cause)


def test_best_and_worst_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scores = [0.5, 0.9, 0.1, 0.9, 0.1]

    def run_episodes(agent: Any, envs: Any, seeds: list[int], **_: Any) -> list[collect.Trace]:
        return [collect.Trace(s, [np.zeros(3)] * 4, [np.zeros(1)] * 4, score=scores[s]) for s in seeds]

    monkeypatch.setattr(collect, "run_episodes", run_episodes)
    progress = evaluate._Progress(1, open(tmp_path / "out", "w"))  # noqa: SIM115
    traces, (best, worst) = evaluate._episodes(None, [0, 1], list(range(5)), True, progress)  # type: ignore[arg-type]
    assert [t.score for t in traces] == scores
    assert (best.seed, worst.seed) == (1, 2) and len(best.obs) == 4


# ---------------------------------------------------------------------- trouble


def test_bad_arguments_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown key 'episods'; did you mean 'episodes'?" in refused(capsys, f"run={run}", "episods=3")
    assert "run=... is missing" in refused(capsys, "episodes=3")
    assert "episodes=many: expected int" in refused(capsys, f"run={run}", "episodes=many")
    assert "expected one of both, mode, sampled" in refused(capsys, f"run={run}", "mode=best")
    assert "at least 1" in refused(capsys, f"run={run}", "episodes=0")
    assert "is not a device" in refused(capsys, f"run={run}", "device=gpu")
    assert refused(capsys, f"run={tmp_path / 'no'}") == f"{tmp_path / 'no'}: no such run folder"


@pytest.mark.parametrize(("seed", "episodes"), [(1_000_000, 1), (999_990, 11), (999_990, 50)])
def test_seeds_that_training_was_watched_with_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str], seed: int, episodes: int
) -> None:
    told = refused(capsys, f"run={run}", f"seed={seed}", f"episodes={episodes}")
    assert "would use seeds 1000000..1000000 again" in told
    assert not (run / "eval.json").exists()


def test_runs_that_cannot_be_read_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("gamma: 0.99", "gamma: 0.5"))
    assert "policy.gamma: saved 0.99, now 0.5" in refused(capsys, f"run={run}")
    (run / "config.yaml").unlink()
    assert f"{run / 'config.yaml'}: not a readable run configuration" in refused(capsys, f"run={run}")
    (run / "config.yaml").write_text(config)
    shutil.rmtree(run / "checkpoint")
    assert refused(capsys, f"run={run}") == f"{run}: holds no checkpoint yet"


@pytest.mark.usefixtures("in_process")
def test_the_best_weights_are_evaluated_on_demand(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They have a report of their own."""
    arguments = [f"run={run}", "episodes=1", "videos=false", "mode=mode"]
    assert evaluate.main([*arguments, "weights=best"]) == 0
    assert not (run / "eval.json").exists()
    report = json.loads((run / "eval-best.json").read_text())
    assert report["checkpoint"]["weights"] == "best" and report["checkpoint"]["step"] in (0, 30)
    assert evaluate.main(arguments) == 0
    assert results(run)["checkpoint"]["weights"] == "last" and str(run / "eval.json") in capsys.readouterr().out
    assert refused(capsys, *arguments, "weights=worst") == "weights=worst: expected one of last, best, chosen"
    shutil.rmtree(run / "best")
    assert refused(capsys, *arguments, "weights=best") == f"{run}: holds no best yet"


@pytest.mark.usefixtures("in_process")
def test_a_failed_write_keeps_the_earlier_results(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [f"run={run}", "episodes=1", "videos=false", "mode=mode"]
    assert evaluate.main(arguments) == 0
    before = (run / "eval.json").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    capsys.readouterr()
    assert evaluate.main([*arguments, "seed=2000"]) == 1
    told = capsys.readouterr()
    assert "No space left on device" in told.err and "all tasks solved" in told.out, "the figures are not lost"
    assert "written to" not in told.out
    assert (run / "eval.json").read_bytes() == before and not list(run.glob(".eval.json*"))


def test_a_run_that_cannot_be_written_to_is_told_before_anything_is_played(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == run and mode == os.W_OK))
    monkeypatch.setattr("agent.finished.open_envs", None)
    assert refused(capsys, f"run={run}") == f"{run}: cannot be written to, and eval.json belongs there"


@pytest.mark.usefixtures("in_process")
def test_ctrl_c_ends_it_without_results(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalVector, "step", interrupt)
    assert evaluate.main([f"run={run}"]) == 130
    assert "interrupted" in capsys.readouterr().err and not (run / "eval.json").exists()


def test_every_program_sees_pictures_drawn_as_the_run_did() -> None:
    config: dict[str, Any] = {"task": {"name": "line", "options": {}}, "obs": {"name": "pixels"}}
    for told, style in (({}, "fast"), ({"render": "faithful"}, "faithful")):
        for obs in (None, "pixels"):
            env = open_env(config | told, obs)
            assert env.unwrapped.render_style == style
            env.close()
