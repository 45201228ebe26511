"""Own episodes that are cloned beside demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent.build import ConfigError
from agent.data import Replay
from agent.nearness import Imitated, Nearness
from agent.sampler import Sampler
from tests.agent.replays import played, states
from tests.agent.runs import assert_same, lines, start, state


def two(folder: Path) -> Nearness:
    """Demonstrations through 0, 1, 2 and 0, 1, 1.5: each misses one row of the other by a half."""
    replay, agent = states(folder)
    played(replay, [0.0, 1.0, 1.5], expert=True)
    return Nearness(agent, replay)


def test_the_unit_is_how_far_demonstrations_are_from_each_other(tmp_path: Path) -> None:
    nearness = two(tmp_path)
    numbers = [played(nearness.replay, path) for path in ([0.0, 1.0, 2.0], [0.0, 1.0, 1.75], [0.0, 1.0])]
    # of six rows, in thirds of a half
    assert nearness.relative(numbers) == pytest.approx(dict(zip(numbers, (0.5, 0.5, 1.5), strict=True)))
    furthest = Nearness(nearness.agent, nearness.replay, "furthest")
    assert furthest.relative(numbers) == pytest.approx(dict(zip(numbers, (1.0, 0.5, 2.0), strict=True)))
    replay, agent = states(tmp_path / "one")
    assert Nearness(agent, replay).relative([played(replay, [0.0])]) == {}


def test_scenes_are_compared_by_what_stays_in_each_quarter(tmp_path: Path) -> None:
    """Two entries and eight rows: one that moves on, and a lamp that is lit from the fifth row on."""
    layout: dict[str, Any] = {"obs_shape": (2,), "obs_dtype": "float32", "action_size": 1}
    replay = Replay(tmp_path / "replay", **layout, capacity=200, budget_gb=1.0)
    lit = [0.0] * 4 + [1.0] * 4

    def play(lamp: list[float], off: float, *, expert: bool = False) -> int:
        return played(replay, [[t + off, x] for t, x in enumerate(lamp)], expert=expert)

    demos = [play(lit, off, expert=True) for off in (0.0, 0.5)]
    assert demos == replay.ids("expert")
    near = Nearness(states(tmp_path / "other")[1], replay, "scene")
    rows = np.array([[t + off, x] for off in (0.0, 0.5) for t, x in enumerate(lit)])
    std = rows.std(0, ddof=1) + 0.01
    low, high = rows.min(0) / std - 0.5, rows.max(0) / std + 0.5  # in spreads, the mean not yet taken off

    def scene(episode: list[tuple[float, float]]) -> np.ndarray:
        held = np.array([*episode, *[episode[-1]] * 8])[:8] / std
        return np.clip(held, low, high).reshape(4, 2, 2)[:, 0]  # torch's median of two is the smaller, here the first

    shown = np.stack([scene([(t + off, x) for t, x in enumerate(lit)]) for off in (0.0, 0.5)])
    spread = shown.std(0) + 0.3

    def expected(episode: list[tuple[float, float]]) -> float:
        return float((np.abs(scene(episode) - shown.mean(0)) / spread).mean(1).max())

    cases = {
        "as shown": [(t + 0.25, x) for t, x in enumerate(lit)],
        "dark": [(t + 0.25, 0.0) for t in range(8)],
        "lit too late": [(t + 0.25, float(t > 5)) for t in range(8)],
        "ended early": [(t + 0.25, 0.0) for t in range(3)],
        "out of range": [(t + 0.25 if t < 4 else 900.0 + t, x) for t, x in enumerate(lit)],
    }
    numbers = {name: played(replay, [list(row) for row in case]) for name, case in cases.items()}
    found = {name: near.distances([number])[number] for name, number in numbers.items()}
    assert found == pytest.approx({name: expected(case) for name, case in cases.items()}, rel=1e-4, abs=1e-5)
    assert found["as shown"] < 0.01 and found["dark"] == found["lit too late"] > 2 and found["out of range"] < 10
    relative = near.relative([n := play(lit, 0.25)])[n]
    apart = float((np.abs(shown[0] - shown[1]) / 0.3).mean(1).max())  # each from the other, which agrees with itself
    assert relative == pytest.approx(near.distances([n])[n] / (1.5 * apart), rel=1e-4)


def test_scenes_of_pictures_are_cells(tmp_path: Path) -> None:
    """One cell of 256 that is brighter, in one colour, is all that differs; what moves within a cell does not count."""
    shape = (32, 32, 3)
    replay = Replay(tmp_path / "replay", obs_shape=shape, obs_dtype="uint8", action_size=1, capacity=200, budget_gb=1.0)
    agent = states(tmp_path / "other")[1]
    flags = np.arange(4) == 0, np.arange(4) == 3, np.zeros(4, bool)

    def play(bright: int, at: int, *, expert: bool = False) -> int:
        obs = np.full((4, *shape), 100, np.uint8)
        obs[:, 2:4, 4:6, 1] += np.uint8(bright)
        obs[:, 8 + at, 8, 0] = 200  # within one cell of two by two
        return replay.add_episode(obs, np.zeros((4, 1), np.float32), *flags, expert=expert, horizon=10)

    for at in (0, 1):
        play(0, at, expert=True)
    near = Nearness(agent, replay, "scene")
    same, brighter = play(0, 1), play(51, 1)
    found = near.distances([same, brighter])
    assert found[same] == pytest.approx(0, abs=1e-6)
    # far beyond what was shown, whose spread is the floor: cut at half of one, where 0.3 of one is steady
    assert found[brighter] == pytest.approx(0.5 / 0.3 / (256 * 3), rel=1e-4)


def test_what_is_as_near_as_demonstrations_are_is_cloned(tmp_path: Path) -> None:
    imitated = Imitated(two(tmp_path), 2)
    far, near, nearer = [0.0, 1.0], [0.0, 1.0, 1.4], [0.0, 1.0, 1.6]
    numbers: list[int] = []
    for path, expected in ((far, []), (near, [1]), (far, [1]), (nearer, [3, 1]), (nearer, [3, 4]), (far, [3, 4])):
        numbers.append(played(imitated.nearness.replay, path))
        seen = imitated.add(numbers[-1:])
        assert imitated.episodes == [numbers[i] for i in expected]
        assert seen["train/imitated"] == len(expected) and (seen["train/distance"] > 1) == (path is far)
    assert imitated.add([]) == {}


def test_practice_rests_while_own_episodes_are_as_near(tmp_path: Path) -> None:
    near, far = [0.0, 1.0, 1.5], [0.0, 1.0]  # 0.5 and 1.5
    resting, never = Imitated(two(tmp_path / "a"), 0, 1.0), Imitated(two(tmp_path / "b"), 5, 0.0)
    agent, other = resting.nearness.agent, never.nearness.agent
    for path, expected in ((far, 1), (near, 0), (near, 0), (near, 0), (far, 0), (far, 1)):
        for imitated in (resting, never):
            seen = imitated.add([played(imitated.nearness.replay, path)])
            assert float(imitated.nearness.agent.practice) == pytest.approx(seen["train/practice"])
        assert float(agent.practice) == pytest.approx(expected, abs=1e-3) and other.practice == 1
    assert resting.episodes == []
    again = Imitated(resting.nearness, 0, 1.14)  # 1.167 is between it and a twentieth beyond
    again.load_state_dict([])
    assert agent.practice == 1, "nothing has been played"
    again.load_state_dict(resting.state_dict())
    assert float(agent.practice) == pytest.approx(20 * (3.5 / 3 - 1.14), abs=1e-3)
    agent.policy.wants = "transitions"
    with pytest.raises(ConfigError, match="data.near_enough: this policy hears no imagined return"):
        Imitated(resting.nearness, 0, 1.0)


def test_none_are_where_none_are_asked_for_or_little_was_shown(tmp_path: Path) -> None:
    replay, agent = states(tmp_path / "one")
    nothing, nobody = states(tmp_path / "nothing", demonstrations=False)
    off = Imitated(two(tmp_path / "off"), 0)
    for imitated in (off, Imitated(Nearness(agent, replay), 3), Imitated(Nearness(nobody, nothing), 3)):
        for _ in range(4):
            imitated.add([played(imitated.nearness.replay, [0.0, 1.0, 2.0])])
        assert imitated.episodes == [] and imitated.state_dict() == []


def test_what_the_replay_has_lost_is_forgotten_and_the_state_is_restored(tmp_path: Path) -> None:
    imitated = Imitated(two(tmp_path), 3)
    replay = imitated.nearness.replay
    first = played(replay, [0.0, 1.0, 2.0])
    imitated.add([first])
    imitated.add([played(replay, [0.0])])
    assert imitated.episodes == [first]
    again = Imitated(imitated.nearness, 3)
    again.load_state_dict([list(pair) for pair in imitated.state_dict()])
    assert again.distances == imitated.distances
    for _ in range(8):
        imitated.add([played(replay, [0.0] * 9)])  # the oldest are evicted
    assert first not in imitated.distances and set(imitated.distances) == set(replay.ids("online"))


@pytest.mark.parametrize("number", [0, 1])
def test_chunks_say_whose_actions_are_cloned(tmp_path: Path, number: int) -> None:
    imitated = Imitated(two(tmp_path), number)
    replay = imitated.nearness.replay
    how = {"batch": 40, "length": 2, "burn_in": 0, "from_start": 0.0, "sample_by": "episode", "joint_batch": False,
           "expert_fraction": 0.5}  # fmt: skip
    sampler = Sampler(replay, how, torch.device("cpu"), online=True, imitated=imitated)
    assert sampler.draw(np.random.default_rng(0), 0)[0].imitated is None, "demonstrations alone"
    for path in ([0.25, 0.25], [0.0, 1.0, 1.75]):
        imitated.add([played(replay, path)])
    own, demo = sampler.draw(np.random.default_rng(0), 0)
    assert demo.imitated is None
    if number == 0:
        assert own.imitated is None
        return
    assert own.imitated is not None and own.imitated.tolist() == [
        not expert and float(rows.max()) != 0.25 for expert, rows in zip(own.expert, own.obs, strict=True)
    ]
    assert own.imitated.any() and not own.imitated[: len(own.imitated) // 2].any(), "demonstrations come first"


def test_a_run_clones_its_own_and_remembers_which(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relative = Nearness.relative
    monkeypatch.setattr(Nearness, "relative", lambda self, n: {k: v / 1000 for k, v in relative(self, n).items()})
    start(run_dir, "data.clone_own=1")
    measured = state(run_dir)["imitated"]
    assert len(measured) == 4 and all(0 < value < 1 for _, value in measured)
    assert [line["train/imitated"] for line in lines(run_dir) if "train/imitated" in line] == [1.0] * 4
    start(tmp_path / "none", "data.clone_own=0", "data.near_enough=0")
    assert state(tmp_path / "none")["imitated"] == []
    ours, theirs = (state(run)["modules"]["policy"] for run in (run_dir, tmp_path / "none"))
    assert any(not torch.equal(torch.as_tensor(ours[k]), torch.as_tensor(theirs[k])) for k in ours)


def test_a_resumed_run_rests_as_it_did(run_dir: Path, tmp_path: Path) -> None:
    """How much is learned is part of where a run stands."""
    start(tmp_path / "never", "data.near_enough=0.001")
    first = next(line["train/distance"] for line in lines(tmp_path / "never") if "train/distance" in line)
    rest = f"data.near_enough={first - 0.025}", "data.rest_all=true"  # half of it after the first episode
    start(tmp_path / "whole", *rest)
    shares = [line["train/practice"] for line in lines(tmp_path / "whole") if "train/practice" in line]
    assert shares[0] == pytest.approx(0.5, abs=1e-3)
    start(run_dir, *rest, "steps=60")
    start(run_dir, *rest)
    assert_same(run_dir, tmp_path / "whole")
    ours, theirs = (state(run)["counters"]["updates"] for run in (run_dir, tmp_path / "never"))
    assert ours < theirs


def test_nothing_is_learned_while_own_episodes_are_near_enough(run_dir: Path) -> None:
    start(run_dir, "data.near_enough=1000", "data.rest_all=true")
    counters = state(run_dir)["counters"]
    assert counters["updates"] == sum(value for key, value in counters.items() if key.startswith("stage"))
    assert counters["env_steps"] == 120 and counters["episodes"] == 4


def test_practice_alone_rests_otherwise(run_dir: Path) -> None:
    start(run_dir, "data.near_enough=1000")
    heard = [line["train/loss/actor_rl"] for line in lines(run_dir) if "train/loss/actor_rl" in line]
    assert heard[-1] == 0, "updates go on, and the return is not heard in them"
