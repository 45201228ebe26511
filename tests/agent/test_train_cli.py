"""``python -m agent.train``: what a run leaves behind, what it says about bad input, and that no kill can hurt it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent import train
from agent.config import read_config
from demos import dataset
from tests.agent.runs import TINY, assert_same, lines, local, moments, overrides, start, state

# with stages and videos; a cycle of every other method is in test_algorithms
CYCLED = ("bc_cnn", "bc_rssm", "cmil", "cmil_official", "cmil_paper", "vmail", "vmail_official")


def command(run: Path, *arguments: str) -> list[str]:
    """The command line of a training."""
    return [sys.executable, "-m", "agent.train", *arguments, f"run={run}"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the program says, in one line and with exit code 1, to arguments that it cannot use."""
    capsys.readouterr()
    assert train.main(list(arguments)) == 1
    told = capsys.readouterr().err.strip()
    assert "\n" not in told and told.startswith("agent.train: ")
    return told.removeprefix("agent.train: ")


# ---------------------------------------------------------------------- a whole run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Path]:
    """A run as a user starts it, with environment processes, videos and pictures."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    options = "task=count obs=pixels size=debug threads=1 steps=60 eval.every=40 eval.at_start=true log_every=2"
    arguments = options.split()
    done = subprocess.run(
        command(folder, *arguments), cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "new run: 10 demonstrations" in done.stdout and "step 60 " in done.stdout
    yield folder


def test_a_run_leaves_a_complete_folder(run: Path) -> None:
    from agent.config import read_config

    for name in ("config.yaml", "versions.json", "metrics.jsonl", "log.txt", "curves.png", "theorem2.png"):
        assert (run / name).stat().st_size > 50, name
    for pattern in ("tensorboard/events.*", "videos/policy-000000060.gif", "videos/open_loop-000000060.gif"):
        assert list(run.glob(pattern)), pattern
    assert {"world.safetensors", "reward.safetensors", "policy.safetensors", "arrays.safetensors", "state.json"} <= {
        path.name for path in (run / "checkpoint" / "step-000000060").iterdir()
    }
    assert read_config(run / "config.yaml")["task"]["name"] == "count"
    versions = json.loads((run / "versions.json").read_text())
    assert {"python", "torch", "mujoco", "commit", "hardware"} <= versions.keys()
    assert not list(run.rglob("tmp-*"))


def test_metrics_hold_scores_with_intervals_losses_and_diagnostics(run: Path) -> None:
    written = lines(run)
    evaluations = [line for line in written if "eval/score_mode" in line]
    assert [line["step"] for line in evaluations] == [0, 40, 60]
    for line in evaluations[1:]:
        for name in ("success", "score"):
            for kind in ("mode", "sampled"):
                low, mean, high = (line[f"eval/{name}_{kind}{end}"] for end in ("_low", "", "_high"))
                assert 0 <= low <= mean <= high <= 1
        assert {"diag/return_gap", "diag/disc_gap", "diag/u_model", "diag/u_data", "eval/count_mode"} <= line.keys()
    losses = {key for line in written for key in line if key.startswith("train/loss/")}
    named = ("world_image", "world_kl", "reward_bce", "actor_rl", "actor_bc", "critics_model", "critics_data")
    assert {f"train/loss/{name}" for name in named} <= losses
    assert all(value is not None for line in written for value in line.values()), "nothing is NaN or infinite"


@pytest.mark.parametrize("algo", CYCLED)
def test_algorithms_run_a_cycle_with_stages_and_videos(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, algo: str
) -> None:
    local(monkeypatch)
    small = ["data.batch=3", "data.length=6", "policy.horizon=3", "data.seed_steps=30", "data.updates_per_step=0.1"]
    if not algo.startswith("bc"):
        full = "{name: a, updates: 2, parts: [world, reward, policy]}"
        stages = f"data.stages=[{full}, {{name: b, updates: 1, parts: [world, clone]}}]"
        start(run_dir, f"algo={algo}", *small, stages, "steps=60", "eval.videos=true")
        counters = state(run_dir)["counters"]
        logged = [line for line in lines(run_dir) if "env_steps/official" in line]
        # CMIL's code counts the steps of its demonstrations and its updates of cloning (C15)
        more = sum(one.steps for one in dataset.load(dataset.shipped("line"), limit=3)) + 1
        assert logged[-1]["env_steps/official"] == 60 + more * (algo == "cmil_official")
        assert (counters["env_steps"], counters["env_steps/seed"], counters["updates"]) == (60, 30, 6)
    else:
        start(run_dir, f"algo={algo}", *small[:2], "steps=4", "eval.videos=true")
        counters = state(run_dir)["counters"]
        assert counters["updates"] == 4 and not counters.get("env_steps"), "no environment is stepped for learning"
    assert any("eval/score_sampled" in line for line in lines(run_dir))


def test_state_observations_are_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, *TINY, "obs=stat", f"run={tmp_path / 'run'}")
    assert told.startswith("obs=stat: no such obs")


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("stesp=5", "unknown key 'stesp'; did you mean 'steps'?"),
        ("policy.gama=0.9", "unknown key 'policy.gama'; did you mean 'policy.gamma'?"),
        ("algo=cmli", "algo=cmli: no such algo; did you mean 'cmil'? (known: aihf, aihf_offline, airl,"),
        ("task=kitchn", "task=kitchn: no such task; did you mean 'kitchen'?"),
        ("size=smal", "size=smal: no such size; did you mean 'small'?"),
        ("steps=many", "steps=many: expected a number"),
        ("steps", "'steps': arguments have the form key=value"),
        ("--steps=5", "'--steps=5': arguments have the form key=value"),
        ("eval.every=0", "eval.every=0: expected at least 1"),
        ("device=gpu", "device: 'gpu' is not a device (auto, cpu, cuda, cuda:N)"),
        ("world_model.latent=gausian", "world_model.latent: 'gausian' is none of gaussian, categorical"),
        ("data.envs=0", "data.envs=0: expected at least 1"),
        ("data.sample_by=rows", "data.sample_by: 'rows' is none of episode, row"),
        ("n_demos=0", "n_demos=0: expected at least 1"),
        ("steps=-5", "steps=-5: expected at least 0"),
        ("minutes=-1", "minutes=-1: expected at least 0"),
        ("threads=-1", "threads=-1: expected at least 0"),
        ("ema=2", "ema=2: expected at most 1"),
        ("world_model.act=gelu", "act: 'gelu' is none of elu, relu"),
        ("render=fine", "unknown render style 'fine'"),
        ("data.model_mixture=one_to_on", "data.model_mixture: 'one_to_on' is none of all, one_to_one"),
        ("optim.actor.lr=-1", "optim.actor.lr=-1: expected more than 0"),
        ("task.options={foo:1}", "Could not override 'task.options'."),
        ("data.capacity=50", "replay: an episode of 31 rows does not fit"),
        ("data.budget_gb=0.001", "more than the budget of 0.001 GiB"),
    ],
)
def test_bad_arguments_are_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argument: str, expected: str
) -> None:
    local(monkeypatch)
    told = refused(capsys, *overrides(tmp_path / "run", argument))
    assert expected in told
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_demonstrations_that_are_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    folder = tmp_path / "mine"

    def told(source: Path) -> str:
        return refused(capsys, *overrides(tmp_path / "run", f"demos={source}"))

    assert told(folder) == f"{folder}: path: no such file or folder"
    folder.mkdir()
    assert told(folder).startswith(f"{folder}: path: holds no demonstrations")
    source = root / "demos" / "line" / "line-0000.npz"
    (folder / "cut.npz").write_bytes(source.read_bytes()[:-500])
    assert told(folder).startswith(f"{folder / 'cut.npz'}: ")
    other = root / "demos" / "count"
    assert told(other).startswith(f"{other / 'count-0000.npz'}: task: is 'count'; this run is about 'line'; if ")
    assert not (tmp_path / "run").exists(), "a run that cannot begin leaves nothing behind"


def test_a_checkpoint_of_another_configuration_is_refused_naming_the_keys(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    told = refused(
        capsys, "task=count", "size=debug", "threads=1", "policy.gamma=0.9", "data.batch=5", "algo=vmail", f"run={run}"
    )
    assert "policy.gamma: saved 0.99, now 0.9" in told and "data.batch: saved 4, now 5" in told
    assert 'algo.name: saved "cmil", now "vmail"' in told
    changed = {path for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert {path.name for path in changed} <= {"lock"}, "a refused command changes nothing"


def test_a_run_goes_on_with_its_own_demonstrations_only(
    run_dir: Path, tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    local(monkeypatch)
    files = sorted((root / "demos" / "line").glob("*.npz"))
    mine, others = tmp_path / "mine", tmp_path / "others"
    for folder, chosen in ((mine, files[:3]), (others, files[1:4])):
        folder.mkdir()
        for file in chosen:
            shutil.copy(file, folder)
    bc = ("algo=bc", "obs=state", "data.batch=4", "data.length=2", "eval.every=4")
    start(run_dir, *bc, f"demos={mine}", "steps=4")
    told = refused(capsys, *overrides(run_dir, *bc, f"demos={others}", "steps=8"))
    assert "demos_sha256: saved" in told
    assert read_config(run_dir / "config.yaml")["demos"] == str(mine)
    mine.rename(tmp_path / "moved")
    start(run_dir, *bc, f"demos={tmp_path / 'moved'}", "steps=8")
    assert state(run_dir)["counters"]["updates"] == 8, "the same ones may lie elsewhere"


def test_how_many_demonstrations_are_used_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    local(monkeypatch)
    there = len(list((root / "demos" / "line").glob("*.npz")))
    bc = ("algo=bc", "obs=state", "data.batch=4", "data.length=2", "eval.every=2", "steps=2", "quiet=false")
    said = {}
    for number in ("2", str(there), "null"):
        folder = tmp_path / number
        start(folder, *bc, f"n_demos={number}")
        said[number] = "".join(capsys.readouterr())
        assert f"next: python -m agent.evaluate run={folder}" in said[number].replace("\n", "")
    assert "2 demonstrations (there are more: n_demos=null takes all)" in said["2"]
    for number in (str(there), "null"):
        assert f"{there} demonstrations, device" in said[number]
    start(tmp_path / "2", *bc, "n_demos=2")
    assert "resumed at 2 steps, 2 updates: complete; a larger steps= (or minutes=) goes on" in "".join(
        capsys.readouterr()
    ).replace("\n", " ")


def test_help_lists_choices_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "algo: aihf" in told and "n_demos: 10" in told and "# stop after this much training time" in told


@pytest.mark.parametrize("theirs", ["envs/make.py", "demos.py"])
def test_what_hides_a_module_of_the_project_is_named_in_one_line(tmp_path: Path, root: Path, theirs: str) -> None:
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).touch()
    if theirs == "envs/make.py":
        (tmp_path / "envs/__init__.py").touch()
    environment = os.environ | {"PYTHONPATH": str(root)}
    for module, bad in (("agent.train", "steps=x"), ("agent.evaluate", "run=none")):
        arguments = [sys.executable, "-m", module, bad]
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
        assert f"{(tmp_path / theirs).parent}" in done.stderr and "in place of this project's" in done.stderr


def test_folders_that_hide_nothing_may_be_called_alike(tmp_path: Path, root: Path) -> None:
    for name in ("configs", "demos", "envs", "models"):
        (tmp_path / name).mkdir()
    (tmp_path / "configs/__init__.py").touch()
    (tmp_path / "models/weights.bin").touch()
    environment = os.environ | {"PYTHONPATH": str(root)}
    arguments = [sys.executable, "-m", "agent.train", "steps=x"]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == "agent.train: steps=x: expected a number\n"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "Not a directory" in refused(capsys, *TINY, f"run={tmp_path / 'file' / 'run'}")


def test_a_run_stops_when_it_is_good_enough_and_goes_on_when_it_shall_be_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``eval.stop_at``: at an evaluation, and as if it had never stopped."""
    local(monkeypatch)
    options = ("algo=expert", "obs=state", "data.batch=16", "data.length=2", "data.updates_per_step=0.2", "steps=90",
               "eval.every=30", "eval.at_start=true")  # fmt: skip
    start(tmp_path / "whole", *options)
    start(tmp_path / "pieces", *options, "eval.stop_at=0")
    seen = [line for line in lines(tmp_path / "pieces") if "eval/score_mode" in line]
    assert state(tmp_path / "pieces")["step"] == seen[-1]["step"] == 0, "no score is lower than 0"
    start(tmp_path / "pieces", *options, "eval.stop_at=2")
    assert state(tmp_path / "pieces")["step"] == 90, "no score is that high"
    assert_same(tmp_path / "whole", tmp_path / "pieces")


# ---------------------------------------------------------------------- ends that nobody planned


def test_ctrl_c_in_a_terminal_saves_and_says_so(run: Path, tmp_path: Path, root: Path) -> None:
    """A terminal sends the signal to the environments' processes as well."""
    folder = tmp_path / "run"
    options = "task=line size=debug threads=1 steps=1000000 eval.every=1000000 eval.at_start=true eval.videos=false"
    arguments = options.split()
    process = subprocess.Popen(
        command(folder, *arguments),
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        for text in process.stdout:
            if text.startswith("step 0 "):
                break
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 130, err
    assert "stopped and saved at" in out and "the same command continues this run" in out
    assert "Traceback" not in err and "stopping" in err
    assert state(folder)["counters"]["env_steps"] > 0


# A parent that has everything imported and forks one training after the other; it never runs torch itself.
FORKER = """
import os, signal, sys, time
import hydra, torch, torch.utils.tensorboard
import pytest
from pathlib import Path
from tests.agent import runs
from agent import checkpoint, config, plots, trainer
from agent.data import Replay
runs.cached_config(runs.overrides(Path("none"), "save_seconds=0"))

def child(run, dies_at):
    torch.set_num_threads(1)
    runs.local(pytest.MonkeyPatch())
    if dies_at:
        name, call = dies_at.split(":")
        owner = Replay if name == "commit" else checkpoint
        real, calls = getattr(owner, name), [0]
        def dies(*args):
            calls[0] += 1
            if calls[0] == int(call):
                if name == "_write":
                    args[0].write_bytes(args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)
        setattr(owner, name, dies)
    runs.start(Path(run), "save_seconds=0")

print("ready", flush=True)
for line in sys.stdin:
    run, dies_at, seconds = line.split()
    process = os.fork()
    if process == 0:
        child(run, "" if dies_at == "-" else dies_at)
        os._exit(0)
    deadline = time.monotonic() + float(seconds)
    done, status = 0, 0
    while not done and time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        time.sleep(0.002)
    if not done:
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
    print("killed" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}", flush=True)
"""


@pytest.fixture(scope="module")
def forker(root: Path) -> Iterator[subprocess.Popen[str]]:
    """See FORKER: lines "RUN FUNCTION:CALL SECONDS" in, "killed" or "exit CODE" out."""
    process = subprocess.Popen(
        [sys.executable, "-c", FORKER],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=20)


def attempt(forker: subprocess.Popen[str], run: Path, dies_at: str = "-", seconds: float = 120.0) -> str:
    """Train in a fork that dies at a call or after some time; returns how it ended."""
    assert forker.stdin is not None and forker.stdout is not None
    forker.stdin.write(f"{run} {dies_at} {seconds}\n")
    forker.stdin.flush()
    return forker.stdout.readline().strip()


@pytest.fixture(scope="module")
def whole(forker: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    run = tmp_path_factory.mktemp("kill") / "whole"
    assert attempt(forker, run) == "exit 0"
    return run


def test_killed_while_saving(forker: subprocess.Popen[str], whole: Path, run_dir: Path) -> None:
    """kill -9 in the middle of a file, before the folder is renamed, before latest.json, before the replay knows."""
    for place in ("_write:3", "_write:25", "_write_atomic:2", "_clean:4", "commit:3"):
        assert attempt(forker, run_dir, place) == "killed", place
    assert attempt(forker, run_dir) == "exit 0"
    assert_same(run_dir, whole)
    assert moments(run_dir) == moments(whole)


def test_killed_at_any_moment(forker: subprocess.Popen[str], whole: Path, run_dir: Path) -> None:
    rng = np.random.default_rng(7)
    ends = [attempt(forker, run_dir, seconds=float(s)) for s in rng.uniform(0.2, 1.4, 5)]
    assert "killed" in ends
    assert attempt(forker, run_dir) == "exit 0"
    assert_same(run_dir, whole)
    assert moments(run_dir) == moments(whole)
