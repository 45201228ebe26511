"""Fits of the state model in a run: left and gone on with, or taken from another run."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.evaluate import main as evaluate
from agent.trainer import Trainer
from models.mlp_ensemble import MLPEnsemble
from tests.agent import recorded
from tests.agent.runs import assert_same, lines, local, start, state

# 480 rows to fit to: 3 updates an epoch of 16 a batch would take 30
FIT = ("obs=state", "algo=offline_ml_irl", "steps=12", "eval.every=12", "eval.episodes=1", "data.batch=16",
       "data.length=2", "world_model.max_updates=60", "world_model.batch=64", "world_model.patience=100")  # fmt: skip


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    local(monkeypatch)


@pytest.fixture
def given() -> tuple[str, ...]:
    return (*FIT, f"dataset={recorded.line()}")


class Killed(BaseException):
    """Nothing is cleaned up, as after a kill."""


def losses(patch: pytest.MonkeyPatch, at: dict[int, Any]) -> list[int]:
    """Count the updates of fits from now on; ``at``: what to do in some of them."""
    seen: list[int] = []
    loss = MLPEnsemble.loss

    def noted(self: MLPEnsemble, *rows: Any) -> Any:
        seen.append(len(seen))
        at.get(len(seen), lambda: None)()
        return loss(self, *rows)

    patch.setattr(MLPEnsemble, "loss", noted)
    return seen


def test_a_run_that_is_stopped_in_a_fit_goes_on_with_it(run_dir: Path, tmp_path: Path, given: tuple[str, ...]) -> None:
    start(run_dir, *given)
    with pytest.MonkeyPatch.context() as patch:
        losses(patch, {23: lambda: signal.raise_signal(signal.SIGINT)})
        start(tmp_path / "parts", *given, expect=130)
    assert state(tmp_path / "parts")["optimisers"]["fit"]["course"]["updates"] == 23
    with pytest.MonkeyPatch.context() as patch:
        seen = losses(patch, {})
        start(tmp_path / "parts", *given)
        assert len(seen) == 60 - 23
    assert_same(run_dir, tmp_path / "parts")


def test_a_long_fit_is_saved_on_its_way(run_dir: Path, tmp_path: Path, given: tuple[str, ...]) -> None:
    """A kill costs what was done since, and neither that nor the saving changes what is learned."""
    start(run_dir, *given)

    def killed() -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_save_is_due", lambda self: len(seen) % 10 == 0)
        seen = losses(patch, {35: killed})
        with pytest.raises(Killed):
            start(tmp_path / "parts", *given)
    assert state(tmp_path / "parts")["optimisers"]["fit"]["course"]["updates"] == 30
    with pytest.MonkeyPatch.context() as patch:
        seen = losses(patch, {})
        start(tmp_path / "parts", *given)
        assert len(seen) == 30
    assert_same(run_dir, tmp_path / "parts")


def test_the_progress_of_a_fit_is_told(run_dir: Path, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    progress = Trainer._progress
    monkeypatch.setattr(Trainer, "_progress", lambda self, phase="": (told.append(phase), progress(self, phase))[1])
    start(run_dir, *given)
    fits = [phase for phase in told if phase.startswith("fitting the model")]
    assert len(fits) == 59 and fits[0] == "fitting the model"
    assert fits[-1].startswith("fitting the model: epoch ") and 0 < float(fits[-1].split()[-1]) < 1


def test_a_model_of_another_run_is_taken_as_it_is(run_dir: Path, tmp_path: Path, given: tuple[str, ...]) -> None:
    """Nothing is fitted; another method learns on it; a resumed run and an evaluation do not need the other run."""
    start(run_dir, *given)
    model = state(run_dir)["modules"]["world"]
    path = f"world_model.path={run_dir}"
    learner = (*given, "algo=mopo", path)
    with pytest.MonkeyPatch.context() as patch:
        seen = losses(patch, {})
        start(tmp_path / "other", *learner)
        start(tmp_path / "parts", *learner, "steps=6")
        run_dir.rename(tmp_path / "gone")
        start(tmp_path / "parts", *learner)
        assert not seen
    found = state(tmp_path / "other")["modules"]
    assert all(torch.equal(value, model[name]) for name, value in found["world"].items())
    assert found["memory"]["_ends"][0] > 0, "it was imagined with"
    assert not any(name.startswith("train/model/mse") for line in lines(tmp_path / "other") for name in line)
    assert evaluate([f"run={tmp_path / 'other'}", "episodes=1", "envs=1", "mode=mode", "device=cpu"]) == 0


def test_a_model_that_does_not_fit_is_refused(
    run_dir: Path, tmp_path: Path, given: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        capsys.readouterr()
        start(tmp_path / "refused", *given, f"world_model.path={run_dir}", *arguments, expect=1)
        return capsys.readouterr().err.strip()

    assert "holds no checkpoint" in refused()
    with pytest.MonkeyPatch.context() as patch:
        losses(patch, {3: lambda: signal.raise_signal(signal.SIGINT)})
        start(run_dir, *given, expect=130)
    assert "is not fitted yet" in refused()
    start(run_dir, *given)
    assert "has other tensors: ensemble." in refused("world_model.hidden=7")
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("task:\n  name: line\n", "task:\n  name: other\n"))
    assert "is of task=other, this run of task=line" in refused()
