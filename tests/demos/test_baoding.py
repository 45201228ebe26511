"""The Baoding expert turns the balls, and the episodes that come with the project are what their README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demos import convert, dataset
from demos.dataset import DemoError
from demos.experts.baoding import STEPS, load_gait
from demos.experts.baoding import main as record_main
from demos.experts.hand_plan import HALF_TURN, HandPlanner, Search
from envs.baoding import FLOOR, NEAR, SHARE, WARM_UP, BaodingEnv
from envs.errors import RenderingError
from envs.rendering import select_backend
from tests.demos.samples import assert_replays, cmil_hand

README = dataset.shipped("baoding") / "README.md"
LISTED = dict(re.findall(r"\| (episode_\d+\.npz) \| .*`([0-9a-f]{64})` \|", README.read_text(encoding="utf-8")))
FILES = sorted(LISTED)


@pytest.fixture(scope="module")
def env() -> BaodingEnv:
    """A Baoding of the recordings' length, without pictures."""
    return BaodingEnv(obs="state", limit=STEPS)


@pytest.fixture(scope="module")
def folder() -> Path:
    """The shipped episodes."""
    return dataset.shipped("baoding")


def test_expert_turns_the_balls_from_a_start_it_has_not_seen(env: BaodingEnv) -> None:
    """A quarter of a turn: from the tenth step on both balls are near, and the actions are smooth and inside."""
    env.reset(seed=4001)
    planner = HandPlanner(env, Search(), 4001, load_gait())
    actions, near = [], []
    for step in range(1, 26):
        actions.append(planner.act())
        obs, _, terminated, _, info = env.step(actions[-1].astype(np.float32))
        assert not terminated
        distances = np.linalg.norm(obs[[24, 25, 30, 31]].reshape(2, 2) - obs[36:].reshape(2, 2), axis=1)
        near.append((distances < NEAR).all() or step < WARM_UP)
    planner.close()
    assert np.mean(near) >= SHARE and info["measures"]["turns"] > 0.15
    assert np.abs(np.array(actions)).max() <= 1.0
    assert np.abs(np.diff(actions, axis=0)).mean() < 0.2


def test_plans_do_not_depend_on_the_number_of_threads(env: BaodingEnv) -> None:
    plans = []
    for threads in (1, 3):
        env.reset(seed=1)
        planner = HandPlanner(env, Search(samples=7, horizon=3, threads=threads), 5, load_gait())
        plans.append([planner.act() for _ in range(2)])
        planner.close()
    np.testing.assert_array_equal(plans[0], plans[1])


def test_planning_leaves_the_environment_alone(env: BaodingEnv) -> None:
    env.reset(seed=2)
    before = env.get_state()
    planner = HandPlanner(env, Search(samples=4, horizon=2), 0)
    planner.act()
    planner.close()
    np.testing.assert_array_equal(env.get_state(), before)


def test_the_gait_is_half_a_turn_of_actions() -> None:
    gait = load_gait()
    assert gait.shape == (HALF_TURN, 24) and np.abs(gait).max() <= 1.0
    around = np.abs(np.diff(np.concatenate([gait, gait[:1]]), axis=0)).mean(1)
    assert around.max() < 0.2, "no leaps, nor one from its end to its beginning"


def test_shipped_episodes_are_complete(folder: Path) -> None:
    """The README's files and no others, both observations, 120 steps, under 25 MB; its checksums are right."""
    found = dataset.files(folder)
    assert [path.name for path in found] == FILES == [f"episode_{number:02d}.npz" for number in range(len(FILES))]
    assert sum(path.stat().st_size for path in found) < 25e6
    episodes = dataset.load(folder, task="baoding", obs_keys=("image", "state"))
    for path, episode in zip(found, episodes, strict=True):
        assert episode.steps == STEPS and not episode.is_terminal.any()
        assert LISTED[path.name] == dataset.checksum(episode)
    starts = np.stack([episode.obs["state"][0] for episode in episodes])
    assert len(np.unique(starts, axis=0)) == len(episodes), "every episode begins elsewhere"


@pytest.mark.parametrize("name", FILES)
def test_shipped_episode_succeeds_by_its_states(folder: Path, name: str) -> None:
    """No drop, and both balls near in nine tenths of the rows from the tenth on, as the stored rows tell."""
    (episode,) = dataset.read(folder / name)
    state = episode.obs["state"]
    balls, targets = state[:, [24, 25, 30, 31]].reshape(-1, 2, 2), state[:, 36:].reshape(-1, 2, 2)
    assert state[:, [26, 32]].min() > FLOOR
    distances = np.linalg.norm(balls - targets, axis=2)
    assert (distances[WARM_UP:] < NEAR).all(1).mean() >= SHARE
    assert 100 * distances[1:].mean() == pytest.approx(episode.meta["measures"]["error"], abs=0.01)
    assert episode.meta["success"] and episode.meta["measures"]["turns"] > 1.6


@pytest.mark.parametrize("name", [FILES[0], FILES[-1]])
def test_shipped_episode_replays(env: BaodingEnv, folder: Path, name: str) -> None:
    """A replay gives the recorded states and success, and a changed action does not.

    Contacts amplify rounding, so another processor or MuJoCo version may leave the recording after a while.
    """
    (episode,) = dataset.read(folder / name)
    assert_replays(env, episode)


def test_shipped_pictures_are_those_of_the_environment(folder: Path) -> None:
    try:
        select_backend()
    except RenderingError as problem:
        pytest.skip(f"no picture can be drawn here: {problem}")
    (episode,) = dataset.read(folder / FILES[0])
    assert episode.sim_state is not None
    drawing: Any = BaodingEnv(obs="pixels", limit=STEPS)
    for row in (0, 40, 120):
        drawing.set_state(episode.sim_state[row])
        assert np.abs(drawing.render().astype(int) - episode.obs["image"][row]).mean() < 0.5
    drawing.close()


def test_options_that_demonstrations_need_are_named(tmp_path: Path) -> None:
    """The public files mean something else by actions and state than the defaults; the message says what to set."""
    cmil_hand(tmp_path / "a.npz")
    options = {"actions": "recorded", "layout": "proper", "direction": "ccw", "limit": 75}
    assert len(dataset.load(tmp_path, obs_keys=("image",), options=options)) == 1
    with pytest.raises(DemoError, match=r"state: .*layout=recorded, .*set task\.options\.layout=recorded"):
        dataset.load(tmp_path, obs_keys=("state",), options=options)
    with pytest.raises(DemoError, match=r"action: .*set task\.options\.actions=recorded"):
        dataset.load(tmp_path, obs_keys=("image",), options=options | {"actions": "clean"})


def test_training_refuses_demonstrations_of_other_options(root: Path, tmp_path: Path) -> None:
    cmil_hand(tmp_path / "a.npz")
    command = ["-m", "agent.train", "task=baoding", "obs=state", "size=debug", f"demos={tmp_path}"]
    result = subprocess.run(
        [sys.executable, *command, f"run={tmp_path / 'run'}"], cwd=root, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1 and "set task.options.actions=recorded" in result.stderr
    assert not (tmp_path / "run").exists()


def test_redrawing_gives_the_environments_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        select_backend()
    except RenderingError as problem:
        pytest.skip(f"no picture can be drawn here: {problem}")
    source, out = tmp_path / "src", tmp_path / "out"
    source.mkdir()
    cmil_hand(source / "a.npz")
    assert convert.main(["format=cmil", f"src={source}", f"out={out}", "redraw=true"]) == 0
    (before,), (after,) = dataset.read(source / "a.npz"), dataset.read(out / "a.npz")
    assert not np.array_equal(after.obs["image"], before.obs["image"])
    np.testing.assert_array_equal(after.obs["state"], before.obs["state"])
    env: Any = BaodingEnv(obs="pixels")
    state = before.obs["state"][2].astype(np.float64)
    joints = np.concatenate([state[:27], [1, 0, 0, 0], state[30:33], [1, 0, 0, 0], np.zeros(36)])
    env.set_state(joints)
    np.testing.assert_array_equal(after.obs["image"][2], env.render())
    env.close()
    capsys.readouterr()


@pytest.mark.parametrize("argument", ["episodes=0", "episode=3", "samples=2", "seed=-1"])
def test_bad_arguments_are_one_line(argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error names the argument and leaves nothing behind."""
    assert record_main([f"out={tmp_path / 'made'}", argument]) == 1
    assert argument.split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_one_thing_is_made_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record_main([]) == 1 and record_main([f"out={tmp_path}", f"gait={tmp_path / 'g.json'}"]) == 1
    assert capsys.readouterr().err.count("give one of them") == 2
