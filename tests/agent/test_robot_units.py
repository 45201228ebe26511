"""The robot's units, names, camera and pace: from a LeRobot data set through training to the exported policy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent import deploy, evaluate, export, record, train
from agent.deploy import Deployed, DeployError
from agent.given import gather
from demos import convert, dataset
from demos.robot import differing, unit
from envs.episode import Episode, to_pairs
from envs.frames import small
from tests.agent.recorded import line
from tests.agent.runs import cached_config, local, overrides, start
from tests.demos import lerobot_sets as sets

SHORT = ("task=own", "steps=3", "eval.every=3", "data.length=2", "n_demos=2")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run from state on two episodes of a LeRobot data set, which lies beside it."""
    local(monkeypatch)
    sets.write(tmp_path / "set", cameras=("front",))
    start(tmp_path / "run", *SHORT, f"demos={tmp_path / 'set'}", "algo=bc", "obs=state")
    return tmp_path / "run"


def exported(run: Path, out: Path) -> dict[str, Any]:
    """The card of the run's policy."""
    assert export.main([f"run={run}", f"out={out}"]) == 0
    return json.loads((out / "policy.json").read_text())


def test_units_reach_the_card_and_lead_back_to_what_was_recorded(run: Path, tmp_path: Path) -> None:
    card = exported(run, tmp_path / "policy")
    assert card["dt"] == 0.1 and card["action"] == {"size": 3, "low": -1.0, "high": 1.0}
    assert card["robot"]["state"] == {"names": ["x", "y"]} and "camera" not in card["robot"]
    assert card["robot"]["action"]["names"] == sets.NAMES
    policy = Deployed.load(tmp_path / "policy")
    for number, one in enumerate(dataset.load(tmp_path / "set", obs_keys=("state",))):
        taken = to_pairs(one.obs["state"], one.action).action
        np.testing.assert_allclose([policy.to_robot(a) for a in taken], sets.action(number)[:-1], atol=1e-5)
    units = card["robot"]["action"]
    assert units["recorded"] == {"low": [0.0, -2.5, 7.0], "high": [52.0, 0.0, 7.0]}
    low, high = (np.array(units["recorded"][side]) for side in ("low", "high"))
    assert units["low"][0] < low[0] and units["high"][0] > high[0]
    assert policy.to_robot(np.full(3, -1)).tolist() == low.tolist(), "no command lies beyond what was recorded"
    assert policy.to_robot(np.full(3, 9.0)).tolist() == high.tolist()
    assert policy.to_robot(np.array([0.0, 0.0, 0.9]))[2] == 7, "a constant action stays what it was"
    acted = policy.to_robot(policy.act(np.array([1, 10], np.float32)))
    assert ((low <= acted) & (acted <= high)).all()
    for bad in (np.zeros(2), np.array([0, np.nan, 0])):
        with pytest.raises(DeployError, match=r"expected \(3,\), finite"):
            policy.to_robot(bad)
    text = (tmp_path / "policy/README.md").read_text()
    assert "`policy.from_robot(done)`" in text
    assert "| shoulder | -0.52 | 52.52 | 0 | 52 |" in text and "in this order: x, y." in text


@pytest.mark.parametrize("number", [1, 2])
def test_training_says_once_that_it_learns_several_instructions_as_one_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    local(monkeypatch)
    given = (f"demos={sets.write(tmp_path / 'set')}", f"n_demos={number}", "algo=bc", "obs=state")
    start(tmp_path / "run", "task=own", "steps=3", "eval.every=3", "data.length=2", *given)
    assert capsys.readouterr().err.count("instructions ('task 0', 'task 1'") == 1


def test_what_the_robot_did_leads_back_to_what_the_policy_is_told(run: Path, tmp_path: Path) -> None:
    units = exported(run, tmp_path / "policy")["robot"]["action"]
    policy = Deployed.load(tmp_path / "policy")
    for one in dataset.load(tmp_path / "set", obs_keys=("state",)):
        for action in one.action[1:]:
            did = policy.from_robot(policy.to_robot(action))
            assert did.dtype == np.float32 and did.shape == (3,)
            np.testing.assert_allclose(did, action, atol=1e-6)
    seen = np.array([1, 10], np.float32)
    low, high = (np.array(units[side]) for side in ("low", "high"))
    near = policy.from_robot(high + [3.0, 0.2, 0.2])
    assert near.tolist() == [1, 1, 0], "a little outside; and a number that never changed"
    policy.act(seen, near)
    for bad in ([60.0, 0, 7], [0, low[1] - 0.3, 7]):
        with pytest.raises(DeployError, match=r"^(shoulder: 60|elbow: .*) is far outside of .* other units"):
            policy.from_robot(np.array(bad))
    with pytest.raises(DeployError, match=r"expected \(3,\), finite"):
        policy.from_robot(np.zeros((1, 3)))
    with pytest.raises(DeployError, match=r"outside of \[-1, 1\]: from_robot"):
        policy.act(seen, np.array([20.0, 0, 7]))
    policy.act(seen, np.array([1 + 1e-7, 0, -1]))


def test_they_are_kept_with_the_run_and_come_back_when_it_is_resumed(run: Path, tmp_path: Path) -> None:
    kept = (run / "robot.json").read_text()
    (run / "robot.json").unlink()
    start(run, *SHORT, f"demos={tmp_path / 'set'}", "algo=bc", "obs=state")
    assert (run / "robot.json").read_text() == kept
    (run / "robot.json").write_text("{")
    assert export.main([f"run={run}", f"out={tmp_path / 'policy'}"]) == 1
    assert not (tmp_path / "policy").exists()


def test_a_policy_s_own_episodes_are_in_the_same_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local(monkeypatch)
    run, told = tmp_path / "run", {"action": {"names": ["push"], "low": [-3.0], "high": [5.0]}}
    start(run, "task=line", "algo=bc", "obs=state", "steps=2", "data.length=2")
    (run / "robot.json").write_text(json.dumps(told))
    assert record.main([f"run={run}", f"out={tmp_path / 'again'}", "episodes=1", "device=cpu"]) == 0
    (one,) = dataset.load(tmp_path / "again", obs_keys=("state",))
    assert one.meta["robot"] == told


def test_ones_own_recordings_tell_units_and_pace_as_lerobot_s_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/robot.md says it."""
    local(monkeypatch)
    low, high = [-3.14, 0.0], [3.14, 0.07]
    commands = np.random.default_rng(0).uniform(low, high, (6, 2))
    rows = np.arange(len(commands) + 1)
    action = np.concatenate([np.zeros((1, 2), np.float32), unit(commands, low, high)])
    last = rows == rows[-1]
    told = {"action": {"names": ["elbow", "gripper"], "low": low, "high": high}, "dt": 0.02}
    episode = Episode(
        obs={"state": np.stack([rows, -rows], 1).astype(np.float32)},
        action=action,
        is_first=rows == 0,
        is_last=last,
        is_terminal=np.zeros(len(rows), bool),
        reward=np.full(len(rows), np.nan, np.float32),
        sim_state=None,
        meta={"task": "mine", "robot": told},
    )
    (tmp_path / "mine").mkdir()
    dataset.save(tmp_path / "mine/a.npz", episode)
    start(tmp_path / "run", *SHORT, "n_demos=1", f"demos={tmp_path / 'mine'}", "algo=bc", "obs=state")
    card = exported(tmp_path / "run", tmp_path / "policy")
    assert card["dt"] == 0.02 and card["robot"]["action"] == told["action"]
    policy = Deployed.load(tmp_path / "policy")
    np.testing.assert_allclose([policy.to_robot(a) for a in action[1:]], commands, atol=1e-6)


def test_actions_outside_of_their_units_are_told() -> None:
    with pytest.raises(ValueError, match="number 1 of the action is 0.08 in row 0, outside of 0 to 0.07"):
        unit(np.array([[0.0, 0.08]]), [-1, 0], [1, 0.07])
    with pytest.raises(ValueError, match=r"expected \(rows, A\)"):
        unit(np.zeros(2), [-1, 0], [1, 0.07])
    assert unit(np.array([[5.0]]), [5], [5]).tolist() == [[0.0]]


def test_from_pixels_the_camera_is_told_and_the_frames_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local(monkeypatch)
    root, run, policy = sets.write(tmp_path / "set", "v3.0", ("front",)), tmp_path / "run", tmp_path / "policy"
    assert convert.main(["format=lerobot", f"src={root}", f"out={tmp_path / 'own'}"]) == 0
    start(run, *SHORT, f"demos={tmp_path / 'own'}", "algo=bc_cnn", "obs=pixels", "data.length=4")
    card = exported(run, policy)
    camera = card["robot"]["camera"]
    assert camera["key"] == sets.CAMERA and camera["frame"] == [*sets.SIDE, 3] and "state" not in card["robot"]
    assert "RGB frames 128 wide and 96 high" in (policy / "README.md").read_text()
    frame = np.random.default_rng(0).integers(0, 256, (*sets.SIDE, 3), np.uint8)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "for name in ('torch', 'agent', 'envs', 'demos', 'models'): sys.modules[name] = None\n"
        "import numpy; from deploy import Deployed; from frames import small\n"
        f"frame = numpy.random.default_rng(0).integers(0, 256, {frame.shape}, numpy.uint8)\n"
        "policy = Deployed.load(sys.argv[1]); print(policy.to_robot(policy.act(small(frame))).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program, str(policy)], capture_output=True, text=True, env={})
    assert done.returncode == 0, done.stderr
    here = Deployed.load(policy)
    np.testing.assert_allclose(json.loads(done.stdout), here.to_robot(here.act(small(frame))), atol=1e-5)


def test_without_units_nothing_changes_and_asking_for_them_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local(monkeypatch)
    run, policy = tmp_path / "run", tmp_path / "policy"
    start(run, "algo=bc", "obs=state", "steps=3", "eval.every=3")
    assert not (run / "robot.json").exists() and "robot" not in exported(run, policy)
    assert not (policy / "frames.py").exists() and "The robot" not in (policy / "README.md").read_text()
    for change in (Deployed.load(policy).to_robot, Deployed.load(policy).from_robot):
        with pytest.raises(DeployError, match="told units of the robot"):
            change(np.zeros(1))


def test_the_pace_is_that_of_the_recordings_unless_another_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local(monkeypatch)
    sets.change(sets.write(tmp_path / "set") / "meta/info.json", fps=25)
    for name, more, dt in (("own", (), 0.04), ("asked", ("task.options.dt=0.25",), 0.25)):
        start(tmp_path / name, *SHORT, f"demos={tmp_path / 'set'}", "algo=bc", "obs=state", *more)
        assert exported(tmp_path / name, tmp_path / f"{name}-policy")["dt"] == dt
        played = [f"policy={tmp_path / f'{name}-policy'}", f"recordings={tmp_path / 'set'}", "episodes=1", "pace=false"]
        assert deploy.main(played) == 0


def telling(folder: Path, source: Path, **robot: Any) -> Path:
    """The state episodes of a data set again, in a folder of their own; what they tell of the robot, replaced or
    (None) left out.
    """
    folder.mkdir()
    for number, one in enumerate(dataset.load(source, obs_keys=("state",))):
        one.meta["robot"] = {k: v for k, v in (one.meta["robot"] | robot).items() if v is not None}
        dataset.save(folder / f"{number}.npz", one)
    return folder


UNITS = {"names": sets.NAMES, "low": [-9.0] * 3, "high": [99.0] * 3}
OTHERS = [
    ({"action": UNITS}, "action.high is [52.52, 0.025, 7.0] and [99.0, 99.0, 99.0] (demos.convert like"),
    ({"action": None}, "action is told by one of them alone"),
    ({"state": {"names": ["y", "x"]}}, "state.names is ['x', 'y'] and ['y', 'x']"),
    ({"dt": 0.02}, "dt is 0.1 and 0.02"),
    (dict.fromkeys(("action", "state", "dt")), "action is told by one of them alone"),
]


@pytest.mark.parametrize(("change", "said"), OTHERS)
def test_other_transitions_of_another_robot_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    said: str,
) -> None:
    local(monkeypatch)
    one = sets.write(tmp_path / "set", "v2.0")
    other = telling(tmp_path / "other", one, **change)
    for demos, others in ((one, other), (other, one)):
        given = ("task=own", f"demos={demos}", "obs=state", "algo=offline_ml_irl", f"dataset={others}")
        assert train.main(overrides(tmp_path / "run", *given)) == 1
        told = capsys.readouterr().err
        assert "demos and dataset are not of one robot: " in told and (said in told or demos == other)


@pytest.mark.parametrize(("change", "said"), OTHERS)
def test_weights_and_policies_of_another_robot_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], said: str
) -> None:
    common = (*SHORT, "algo=bc", "obs=state", f"init={run}")
    start(tmp_path / "same", *common, f"demos={telling(tmp_path / 'again', tmp_path / 'set')}")
    other = telling(tmp_path / "other", tmp_path / "set", **change)
    start(tmp_path / "next", *common, f"demos={other}", expect=1)
    told = capsys.readouterr().err
    assert f"init: {run} and this run are not of one robot: {said}" in told
    assert not (tmp_path / "next/checkpoint").exists()
    exported(run, tmp_path / "policy")
    for played, code in ((tmp_path / "again", 0), (other, 1)):
        arguments = [f"policy={tmp_path / 'policy'}", f"recordings={played}", "episodes=1", "pace=false"]
        assert deploy.main(arguments) == code
        assert evaluate.main([f"run={run}", f"recordings={played}", "episodes=1", "seed=0", "envs=1"]) == code
    told = capsys.readouterr().err
    assert f"recordings={other}: are not of the policy's robot: {said}" in told
    assert f"recordings={other}: are not of the robot of {run}: {said}" in told


def test_weights_may_come_from_a_simulator_which_tells_of_no_robot(run: Path, tmp_path: Path) -> None:
    (run / "robot.json").unlink()
    common = (*SHORT, "algo=bc", "obs=state", f"init={run}", f"demos={tmp_path / 'set'}")
    start(tmp_path / "next", *common, expect=1)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("simulated: false", "simulated: true"))
    start(tmp_path / "next", *common)


def test_a_camera_that_nobody_sees_and_a_robot_that_a_simulator_knows_need_not_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local(monkeypatch)
    one = sets.write(tmp_path / "set", "v2.0")
    other = telling(tmp_path / "other", one, camera={"key": "top", "frame": [9, 9, 3], "how": "whole"})
    both = ("obs=state", "algo=offline_ml_irl")
    for each in sorted(other.glob("*.npz"))[:2]:  # the range is that of all who tell one
        (episode,) = dataset.read(each)
        episode.meta["recorded_actions"] = {"low": [-0.5, 0.0, 7.0], "high": [3.0, 0.01, 7.0]}
        dataset.save(each, episode)
    given = gather(cached_config(overrides(tmp_path, "task=own", f"demos={one}", f"dataset={other}", *both))[0])
    assert given.robot is not None
    assert given.robot["action"]["recorded"] == {"low": [-0.5, -2.5, 7.0], "high": [52.0, 0.01, 7.0]}
    (tmp_path / "line").mkdir()
    for number, demo in enumerate(dataset.load(dataset.shipped("line"), limit=3, obs_keys=("state",))):
        demo.meta["robot"] = {"action": {"names": ["push"], "low": [-3.0], "high": [5.0]}}
        dataset.save(tmp_path / f"line/{number}.npz", demo)
    given = gather(cached_config(overrides(tmp_path, f"demos={tmp_path / 'line'}", f"dataset={line()}", *both))[0])
    assert given.robot is not None and given.robot["action"]["names"] == ["push"]
    seen = ({"camera": {"key": key}} for key in ("front", "top"))
    assert differing(*seen, "image", both=True) == "camera.key is front and top"


@pytest.mark.parametrize(
    ("robot", "reason"),
    [
        ([], "is a list"),
        ({"action": 3}, "is no object"),
        ({"action": {"names": ["a"], "low": [0.0], "high": [1.0]}}, "of every action"),
        ({"action": {"names": list("abc"), "low": [0.0] * 3, "high": [0.0, 1.0, -1.0]}}, "low <= high"),
        ({"state": {"names": ["x"]}}, "the name of every number"),
        ({"camera": {"key": "front"}}, "expected key, frame"),
        ({"dt": 0}, "seconds between two rows"),
    ],
)
def test_what_an_episode_tells_of_the_robot_is_checked(tmp_path: Path, robot: Any, reason: str) -> None:
    (one,) = dataset.load(sets.write(tmp_path / "set"), limit=1, obs_keys=("state",))
    one.meta["robot"] = robot
    with pytest.raises(dataset.DemoError, match=f"robot: .*{reason}"):
        dataset.save(tmp_path / "x.npz", one)
