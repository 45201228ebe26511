"""benchmark.pack and benchmark/gpu.sh: what is worth keeping of a run, within a limit."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from benchmark import pack
from benchmark.pack import Options, acting_weights
from tests.agent.runs import local, start, state


@pytest.fixture
def trained(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with videos."""
    local(monkeypatch)
    start(run_dir, "steps=30", "eval.videos=true")
    (run_dir / "curves.png").write_bytes(b"a picture")
    return run_dir


def names(archive: Path) -> set[str]:
    """What an archive holds, below the run's name."""
    with tarfile.open(archive) as tar:
        return {member.name.split("/", 1)[1] for member in tar.getmembers()}


def test_the_archive_holds_a_run_in_small(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack.pack(Options(trained, out))
    held = names(out / "run.tar.gz")
    assert {"config.yaml", "versions.json", "curves.png", "metrics.jsonl.gz", "policy.safetensors"} <= held
    assert any(name.startswith("videos/policy-") for name in held)
    assert (out / "curves.png").read_bytes() == b"a picture"
    with tarfile.open(out / "run.tar.gz") as tar:
        file = tar.extractfile("run/policy.safetensors")
        assert file is not None
        weights = load(file.read())
        file = tar.extractfile("run/policy-chosen.safetensors")
        assert file is not None and load(file.read()).keys() == weights.keys()
    modules = state(trained)["modules"]
    parts = {key.rsplit(".", 2)[0].split(".")[1] for key in weights}
    assert parts == {"encoder", "rssm", "actor"} and not any("prior" in key for key in weights)
    assert all(value.dtype == torch.bfloat16 for value in weights.values())
    slow = modules["slow"]["world.rssm.post_out.weight"]
    assert torch.equal(weights["world.rssm.post_out.weight"], slow.to(torch.bfloat16)), "the averaged weights act"
    newest = modules["world"]["rssm.post_out.weight"]
    assert torch.equal(acting_weights({"world": modules["world"]})["world.rssm.post_out.weight"], newest.bfloat16())


def test_a_policy_of_states_keeps_the_scale_that_it_sees_them_at(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local(monkeypatch)
    start(run_dir, "algo=bc", "obs=state", "data.batch=4", "data.length=2", "steps=2")
    modules = state(run_dir)["modules"]
    weights = acting_weights(modules)
    for name in ("mean", "std"):
        assert torch.equal(weights[f"world.{name}"], modules["slow"][f"world.{name}"]), "not rounded"


def test_what_does_not_fit_is_left_out_and_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / "videos" / "eval-best-episode.mp4").write_bytes(os.urandom(400_000))
    pack.pack(Options(trained, tmp_path, limit_mb=0.3))
    assert (tmp_path / "run.tar.gz").stat().st_size < 0.3 * 2**20
    assert "videos/eval-best-episode.mp4 (0.4 MiB)" in capsys.readouterr().out
    assert "policy.safetensors" in names(tmp_path / "run.tar.gz")


def test_bad_arguments_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack.main([f"run={tmp_path / 'no'}", f"out={tmp_path}"]) == 1
    assert "run: no such run folder" in capsys.readouterr().err
    assert pack.main([f"run={tmp_path}", f"out={tmp_path / 'out'}"]) == 1
    assert "holds no checkpoint" in capsys.readouterr().err
    assert pack.main([f"runs={tmp_path}"]) == 1
    assert "did you mean 'run'?" in capsys.readouterr().err


@pytest.mark.slow
def test_the_gpu_script_can_be_rehearsed_on_a_cpu(root: Path, tmp_path: Path) -> None:
    settings = {"DEVICE": "cpu", "SIZE": "debug", "TASK": "line", "PIECE": "30", "EPISODES": "2", "UPDATES": "1"}
    folders = {"RUN": str(tmp_path / "run"), "OUT": str(tmp_path / "out"), "PYTHON": sys.executable}
    done = subprocess.run(
        ["benchmark/gpu.sh", "check", "step", "train", "evaluate", "pack", "--", "threads=1", "steps=300"],
        cwd=root,
        env=os.environ | settings | folders,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the training is complete" in done.stdout
    assert {"eval.json", "curves.png", "videos/eval-best-episode.mp4"} <= names(tmp_path / "out" / "run.tar.gz") or (
        "videos/eval-best-episode.gif" in names(tmp_path / "out" / "run.tar.gz")
    )
    assert '"seconds_per_update"' in (tmp_path / "out" / "step.jsonl").read_text()
    wrong = subprocess.run(["benchmark/gpu.sh", "trian"], cwd=root, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and "no stage trian" in wrong.stderr
