"""``python -m agent.export`` and ``agent.deploy``: a file that acts like the run, without torch."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent import deploy, evaluate, export
from agent.collect import play
from agent.deploy import DEPLOY_SEEDS, Deployed, DeployError
from agent.finished import open_run, restore
from agent.monitor import EVAL_SEEDS
from agent.record import RECORD_SEEDS
from demos import dataset
from envs.make import make
from tests.agent.runs import local, start

# a recurrent latent, frames, a normalised state; categorical latents, and a recurrent latent of states
RUNS = {
    "rssm": ("algo=cmil", "obs=pixels"),
    "categorical": ("algo=cmil", "obs=pixels", "world_model.latent=categorical"),
    "frames": ("task=count", "algo=bc_cnn", "obs=pixels", "data.length=4", "optim.actor.lr=1e-6"),
    "recurrent": ("algo=cmil_recurrent", "obs=state"),
    "state": ("algo=mm", "obs=state", "data.updates_per_step=0.2", "data.batch=8"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Path]]]:
    """Of every kind a run of a few updates and its exported policy."""
    root = tmp_path_factory.mktemp("export")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        local(patch)
        for name, arguments in RUNS.items():
            run, policy = root / name, root / f"{name}-policy"
            start(run, "steps=30", "eval.episodes=1", *arguments)
            assert export.main([f"run={run}", f"out={policy}"]) == 0
            found[name] = run, policy
    yield found


@pytest.mark.parametrize("kind", RUNS)
def test_the_file_acts_like_the_run_through_whole_episodes(made: dict[str, tuple[Path, Path]], kind: str) -> None:
    run, folder = made[kind]
    config, state = open_run(run)
    env = make(config["task"]["name"], config["obs"]["name"])
    agent = restore(run, config, state, env, "cpu")
    policy = Deployed.load(folder)
    for seed in (3, 4):  # the second one begins with the memory of the first
        policy.reset()
        rows = list(play(agent, env, seed, mode=True))
        actions = [policy.act(row.obs) for row in rows[:-1]]
        np.testing.assert_allclose(actions, [row.action for row in rows[1:]], atol=1e-5)
    assert np.ptp(actions) > 1e-3, "actions that differ, so that the comparison says something"


def test_the_card_and_the_folder_say_what_is_needed(made: dict[str, tuple[Path, Path]]) -> None:
    _, folder = made["rssm"]
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "deploy.py", "policy.json", "policy.onnx"]
    card = json.loads((folder / "policy.json").read_text())
    assert card["obs"] == {"key": "image", "shape": [64, 64, 3], "dtype": "uint8"}
    assert card["action"] == {"size": 1, "low": -1.0, "high": 1.0} and card["dt"] == make("line", "state").dt
    assert card["provenance"]["method"] == "cmil" and card["provenance"]["updates"] > 0
    assert 0 <= card["check"]["largest_difference"] < 1e-5
    assert "64 x 64 x 3 uint8" in (folder / "README.md").read_text()


def test_the_best_weights_are_exported_and_what_was_measured_of_them_is_told(
    made: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    run, folder = made["state"]
    assert json.loads((folder / "policy.json").read_text())["evaluation"] is None
    assert evaluate.main([f"run={run}", "episodes=2", "envs=1", "weights=best"]) == 0
    out = tmp_path / "best"
    assert export.main([f"run={run}", f"out={out}", "weights=best"]) == 0
    card = json.loads((out / "policy.json").read_text())
    report = json.loads((run / "eval-best.json").read_text())
    assert card["provenance"]["weights"] == "best"
    assert card["evaluation"] == {
        "episodes": 2,
        **{k: report["results"]["mode"][k] for k in ("success", "score", "measures")},
        "note": "",
    }
    assert "In 2 simulated episodes" in (out / "README.md").read_text()
    assert card["description"].startswith("A point on [-1, 1] moves by 0.1 a per step")
    report["checkpoint"]["step"] += 1
    (run / "eval-best.json").write_text(json.dumps(report))
    assert export.main([f"run={run}", f"out={out}", "weights=best"]) == 0
    assert json.loads((out / "policy.json").read_text())["evaluation"] is None, "of other weights"


def test_files_of_the_users_own_are_not_replaced(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = made["state"]
    (tmp_path / "README.md").write_text("mine")
    assert export.main([f"run={run}", f"out={tmp_path}"]) == 1
    assert "holds README.md, which this command has not written" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"] and (tmp_path / "README.md").read_text() == "mine"
    assert export.main([f"run={run}", f"out={folder}"]) == 0, "an earlier policy is replaced"


def test_chosen_weights_are_checked_where_the_run_has_been(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within two deviations of the states that it was shown: theirs is the scale that acts."""
    run, seen = made["state"][0], []
    act = Deployed.act
    monkeypatch.setattr(Deployed, "act", lambda self, obs: (seen.append(obs), act(self, obs))[1])
    assert export.main([f"run={run}", f"out={tmp_path / 'chosen'}", "weights=chosen"]) == 0
    slow = open_run(run, "chosen")[1]["modules"]["slow"]
    mean, std = slow["world.mean"].numpy(), slow["world.std"].numpy()
    assert abs(std[0] - 1) > 0.1 and len(seen) >= 5
    assert (np.abs(np.stack(seen) - mean) <= 2 * std + 1e-5).all()


def test_it_runs_without_torch(made: dict[str, tuple[Path, Path]]) -> None:
    program = "import sys; sys.modules['torch'] = None; from agent.deploy import main; sys.exit(main(sys.argv[1:]))"
    arguments = [f"policy={made['rssm'][1]}", "episodes=2", "pace=false"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *episodes, total = done.stdout.strip().splitlines()
    assert len(episodes) == 2 and "of 2 episodes succeed" in total and "ms a step" in total


def test_the_copy_beside_the_policy_works_without_the_project(
    made: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    folder = made["state"][1]
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "for name in ('torch', 'agent', 'envs', 'demos', 'models'): sys.modules[name] = None\n"
        "import numpy; from deploy import Deployed\n"
        "print(Deployed.load(sys.argv[1]).act(numpy.array([0.3], numpy.float32)).item())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, cwd=tmp_path, env={}
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(Deployed.load(folder).act(np.array([0.3])).item(), abs=1e-6)


def test_a_bad_observation_is_refused_and_forgotten(made: dict[str, tuple[Path, Path]]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 64, 64, 3), np.uint8)
    policy = Deployed.load(made["rssm"][1])
    undisturbed = [policy.act(image) for image in images]
    policy.reset()
    found = []
    for image in images:
        for bad, said in ((image[None], "shape"), (image / 255.0, "uint8"), (image[:32], "shape")):
            with pytest.raises(DeployError, match=said):
                policy.act(bad)
        found.append(policy.act(image))
    assert np.array_equal(found, undisturbed)
    with pytest.raises(DeployError, match="finite"):
        Deployed.load(made["state"][1]).act(np.array([np.nan]))


def test_what_was_really_done_is_what_it_goes_on_from(made: dict[str, tuple[Path, Path]]) -> None:
    policy = Deployed.load(made["rssm"][1])
    seen = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)

    def second(change: float | None) -> float:
        policy.reset()
        first = policy.act(seen[0])
        return float(policy.act(seen[1], None if change is None else first + change)[0])

    assert second(0.0) == second(None) != second(0.5)
    for bad in (np.zeros(2), np.array([np.nan])):
        with pytest.raises(DeployError, match="what was done"):
            policy.act(seen[0], bad)


def test_a_policy_that_replaces_another_is_never_taken_for_it(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = made["state"][0], made["rssm"][1]
    out = tmp_path / "policy"
    shutil.copytree(other, out)
    (out / "frames.py").touch()
    assert export.main([f"run={run}", f"out={out}"]) == 0
    assert not (out / "frames.py").exists(), "this one sees no camera"
    for name in ("policy.onnx", "policy.json"):
        mixed = shutil.copytree(out, tmp_path / name)
        shutil.copy(other / name, mixed)
        with pytest.raises(DeployError, match="policy.onnx: is not the policy that policy.json is about"):
            Deployed.load(mixed)
    card = json.loads((out / "policy.json").read_text())
    del card["sha256"]  # of an earlier version
    (out / "policy.json").write_text(json.dumps(card))
    Deployed.load(out)
    write = dataset.write_atomic

    def stopped(path: Path, content: bytes) -> None:
        write(path, content)
        raise OSError("stopped")

    monkeypatch.setattr(dataset, "write_atomic", stopped)
    assert export.main([f"run={run}", f"out={out}"]) == 1
    with pytest.raises(DeployError, match="no policy.json"):
        Deployed.load(out)


@pytest.mark.parametrize("defect", ["nowhere", "no card", "no graph", "truncated", "not JSON", "later format"])
def test_folders_that_are_no_policy_are_told_in_one_line(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str], defect: str
) -> None:
    folder = tmp_path / "policy"
    if defect != "nowhere":
        folder.mkdir()
        card, graph = ((made["state"][1] / name).read_bytes() for name in ("policy.json", "policy.onnx"))
        changed = {"not JSON": b"{", "later format": card.replace(b'"format": 1', b'"format": 2')}.get(defect, card)
        if defect != "no card":
            (folder / "policy.json").write_bytes(changed)
        if defect != "no graph":
            (folder / "policy.onnx").write_bytes(graph[: len(graph) // 2] if defect == "truncated" else graph)
    assert deploy.main([f"policy={folder}"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("agent.deploy: ") and "\n" not in said


def test_bad_arguments_of_both_are_one_line(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = made["state"]
    for program, argument, said in (
        (deploy, "episode=3", "episodes"),
        (deploy, "episodes=0", "episodes"),
        (deploy, "task=hopper", "observations"),
        (export, "weight=best", "weights"),
        (export, "weights=middle", "last"),
        (export, f"out={__file__}", "is a file"),
    ):
        own = [f"policy={folder}"] if program is deploy else [f"run={run}", *([] if "out=" in argument else ["out=x"])]
        assert program.main([*own, argument]) == 1
        assert said in capsys.readouterr().err
    assert export.main([f"run={tmp_path / 'none'}", f"out={tmp_path / 'policy'}"]) == 1
    assert not (tmp_path / "policy").exists()


def test_a_file_that_acts_unlike_the_run_is_not_written(
    made: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    act = Deployed.act
    monkeypatch.setattr(Deployed, "act", lambda self, obs: act(self, obs) + 0.01)
    out = tmp_path / "policy"
    assert export.main([f"run={made['state'][0]}", f"out={out}"]) == 1
    assert "acts unlike the run (by 0.01)" in capsys.readouterr().err
    assert not out.exists()


def test_without_their_libraries_both_say_what_to_install(
    made: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, folder = made["state"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export.main([f"run={run}", f"out={tmp_path / 'policy'}"]) == 1
    assert "is missing: pip install onnx onnxscript onnxruntime" in capsys.readouterr().err
    assert deploy.main([f"policy={folder}"]) == 1
    assert "is missing: pip install onnxruntime numpy" in capsys.readouterr().err


class Clock:
    """Time that passes only where it is spent."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_actions_come_at_the_pace_and_late_ones_are_counted(
    made: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, times, policy, env = Clock(), [], Deployed.load(made["state"][1]), make("line", "state")
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    act = policy.act

    def slow(obs: np.ndarray, did: np.ndarray | None) -> np.ndarray:
        clock.now += 0.12 if len(times) == 3 else 0.01  # dt is 0.05
        times.append(clock.now)
        return act(obs, did)

    monkeypatch.setattr(policy, "act", slow)
    episode = deploy.play(policy, env, 0, pace=True)
    gaps = np.diff(times)
    assert episode.late == 1 and len(times) == env.horizon
    assert gaps[:2] == pytest.approx(0.05) and gaps[2] == pytest.approx(0.16)
    assert gaps[3] == pytest.approx(0.01), "the next one at once"
    assert gaps[4:] == pytest.approx(0.05), "and then at the pace again, without a burst"
    times.clear()
    assert deploy.play(policy, env, 0, pace=False).score == episode.score
    assert times[-1] - times[0] < 30 * 0.05 / 2


def test_its_seeds_are_no_others(made: dict[str, tuple[Path, Path]]) -> None:
    found: list[Any] = deploy.deploy(deploy.Options(made["state"][1], episodes=2, seed=5, pace=False), io.StringIO())
    assert [one.seed for one in found] == [DEPLOY_SEEDS + 5, DEPLOY_SEEDS + 6]
    assert DEPLOY_SEEDS > RECORD_SEEDS > EVAL_SEEDS
