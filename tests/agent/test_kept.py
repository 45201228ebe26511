"""Weights whose own episodes come nearest to the demonstrations."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from agent import checkpoint, evaluate, kept
from agent.build import ConfigError
from agent.checkpoint import CheckpointError
from agent.data import Replay
from agent.finished import open_run, restore
from agent.kept import CANDIDATES, Candidate, Chosen
from agent.nearness import FLOOR, Nearness
from envs.make import make
from tests.agent.replays import played, states
from tests.agent.runs import lines, local, start, state


class Actor(nn.Module):
    """One number, so that one sees whose weights these are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


@pytest.fixture
def each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment's distance is its own, without its neighbours'."""
    monkeypatch.setattr(kept, "NEIGHBOURS", (1,))


alone = pytest.mark.usefixtures("each_alone")


def pieces(run: Path, keep: int = 2) -> tuple[Chosen, Replay, Any]:
    """Chosen on a replay of one-dimensional states, and its agent."""
    replay, agent = states(run)
    agent.policy = Actor()
    return Chosen(run, Nearness(agent, replay), keep, {}), replay, agent


def candidates(chosen: Chosen, replay: Replay, agent: Any, *episodes: list[float]) -> None:
    """One candidate after each episode; its weight is its step."""
    for path in episodes:
        with torch.no_grad():
            agent.policy.weight += 10
        step = int(agent.policy.weight)
        chosen.add(step, step, [played(replay, path)])


def order(chosen: Chosen) -> list[int]:
    return [candidate.step for _, candidate in chosen.ranked()]


@alone
def test_an_episode_is_as_far_as_its_nearest_rows_are_from_those_demonstrated(tmp_path: Path) -> None:
    chosen, replay, agent = pieces(tmp_path)
    candidates(chosen, replay, agent, [0.0, 1.0], [0.5, 2.0, 1.25, 9.0])
    before = torch.get_rng_state()
    spread = 1.0 + FLOOR  # of 0, 1, 2
    found = chosen.ranked()
    assert [value * spread for value, _ in found] == pytest.approx([(0.5 + 0.25 + 0) / 3, (0 + 0 + 1) / 3])
    assert [candidate.step for _, candidate in found] == [20, 10]
    assert torch.equal(torch.get_rng_state(), before)


@alone
def test_the_furthest_row_tells_what_was_missed(tmp_path: Path) -> None:
    """An episode that is near everywhere but at the end, and one that is a little off all along."""
    chosen, replay, agent = pieces(tmp_path)
    candidates(chosen, replay, agent, [0.0, 1.0, 1.2], [0.4, 1.4, 2.4])
    spread = 1.0 + FLOOR
    assert [round(value * spread, 5) for value, _ in chosen.ranked()] == [round(0.8 / 3, 5), round(1.2 / 3, 5)]
    assert order(chosen) == [10, 20]
    by = Chosen(tmp_path, Nearness(agent, replay, "furthest"), 2, {})
    by.load_state_dict(chosen.state_dict())
    assert [round(value * spread, 5) for value, _ in by.ranked()] == [0.4, 0.8] and order(by) == [20, 10]
    with pytest.raises(ConfigError, match=r"choose_by: 'best' is none of mean, furthest, scene"):
        Nearness(agent, replay, "best")


@alone
def test_features_count_alike(tmp_path: Path) -> None:
    """Each in units of its spread, and a distance does not grow with their number."""
    chosen, replay, agent = pieces(tmp_path)
    candidates(chosen, replay, agent, [0.0, 1.0])
    ((one, _),) = chosen.ranked()
    agent.world.observe = lambda chunk: SimpleNamespace(feat=torch.cat([chunk.obs, 1000 * chunk.obs], -1))
    ((two, _),) = chosen.ranked()
    assert two == pytest.approx(one, rel=0.01)


@alone
def test_a_candidate_with_several_episodes_is_their_mean(tmp_path: Path) -> None:
    chosen, replay, _ = pieces(tmp_path)
    chosen.add(10, 3, [played(replay, [0.0, 1.0, 2.0]), played(replay, [0.0, 1.0])])
    chosen.add(20, 4, [played(replay, [0.0, 1.0, 1.2])])
    assert [(round(value * (1 + FLOOR), 5), c.step) for value, c in chosen.ranked()] == [
        (round(1 / 6, 5), 10),
        (round(0.8 / 3, 5), 20),
    ]


@alone
def test_the_features_of_today_measure_the_episodes_of_yesterday(tmp_path: Path) -> None:
    chosen, replay, agent = pieces(tmp_path)
    candidates(chosen, replay, agent, [0.0, 1.0, 2.0], [0.0, 1.0, -2.0])
    assert order(chosen) == [10, 20]
    agent.world.observe = lambda chunk: SimpleNamespace(feat=-chunk.obs.abs().sub(1).abs())  # 0 is 2, which is -2
    assert order(chosen) == [20, 10], "of equals the newest"


@alone
def test_the_nearest_stay_when_there_are_twice_as_many(tmp_path: Path) -> None:
    chosen, replay, agent = pieces(tmp_path, keep=2)
    candidates(chosen, replay, agent, [0.0], [0.0, 1.0, 1.9], [0.1], [0.0, 1.0])
    assert [c.step for c in chosen.candidates] == [10, 20, 30, 40]
    candidates(chosen, replay, agent, [0.2])
    assert [c.step for c in chosen.candidates] == [20, 40]
    files = sorted(p.name for p in (tmp_path / CANDIDATES).iterdir())
    assert len(files) == 5, "a checkpoint may still name them"
    chosen.tidy()
    assert sorted(p.name for p in (tmp_path / CANDIDATES).iterdir()) == [c.file for c in chosen.candidates]


def test_a_moment_is_as_far_as_it_and_its_neighbours_are(tmp_path: Path) -> None:
    """One good episode among bad ones is luck; of a row of good ones the middle is taken."""
    chosen, replay, agent = pieces(tmp_path, keep=7)
    far, near, luck = [0.0, 1.0, 1.1], [0.0, 1.0, 1.7], [0.0, 1.0, 2.0]
    candidates(chosen, replay, agent, far, luck, far, far, near, near, near)
    a, b, c = ((2 - x[-1]) / 3 for x in (far, near, luck))
    expected = {
        10: (3 * a + 2 * c + a) / 6,
        20: (2 * a + 3 * c + 2 * a + a) / 8,
        30: (a + 2 * c + 3 * a + 2 * a + b) / 9,
        40: (c + 2 * a + 3 * a + 2 * b + b) / 9,
        50: (a + 2 * a + 3 * b + 2 * b + b) / 9,
        60: (a + 2 * b + 3 * b + 2 * b) / 8,
        70: (b + 2 * b + 3 * b) / 6,
    }
    found = {candidate.step: value * (1 + FLOOR) for value, candidate in chosen.ranked()}
    assert found == pytest.approx(expected)
    assert order(chosen)[:2] == [70, 60]
    candidates(chosen, replay, agent, far, far)
    assert order(chosen)[0] == 60, "now that what came after is known"


def test_neighbours_count_when_their_weights_are_gone(tmp_path: Path) -> None:
    """And the newest two stay, however they look: what comes after them is not known yet."""
    chosen, replay, agent = pieces(tmp_path, keep=1)
    good, bad = [0.0, 1.0, 2.0], [0.0]
    candidates(chosen, replay, agent, bad, good, bad, bad, bad)
    assert [c.step for c in chosen.candidates] == [20, 40, 50]
    assert [c.step for c in chosen.played] == [10, 20, 30, 40, 50]
    before = dict((c.step, value) for value, c in chosen.ranked())
    assert before[20] * (1 + FLOOR) == pytest.approx((2 + 0 + 2 + 1) * 1.0 / 8)
    again = Chosen(tmp_path, Nearness(agent, replay), 1, {})
    again.load_state_dict(chosen.state_dict())
    assert again.ranked() == chosen.ranked() and again.candidates == chosen.candidates
    again.load_state_dict([{"step": 20, "updates": 20, "episodes": [1]}])
    assert order(again) == [20], "as checkpoints of before told it"


@alone
def test_what_the_replay_or_the_folder_lost_is_no_candidate(tmp_path: Path) -> None:
    chosen, replay, agent = pieces(tmp_path)
    candidates(chosen, replay, agent, [0.0, 1.0, 2.0], [0.0, 0.0], [0.0, 1.0])
    (tmp_path / CANDIDATES / "step-000000030.safetensors").unlink()
    assert order(chosen) == [10, 20]
    for _ in range(8):
        played(replay, [0.0] * 9)  # the oldest are evicted
    assert order(chosen) == [] and chosen.publish() is None


@alone
def test_what_is_published_are_the_weights_of_that_moment(tmp_path: Path) -> None:
    chosen, replay, agent = pieces(tmp_path)
    candidates(chosen, replay, agent, [0.0], [0.0, 1.0], [0.0])
    best = chosen.publish()
    assert best is not None and (best.step, best.updates) == (20, 20)
    found = checkpoint.load(tmp_path / "chosen")
    assert found is not None and found["step"] == 20 and found["counters"]["updates"] == 20
    assert found["modules"]["policy"]["weight"].item() == 20 and agent.policy.weight.item() == 30
    candidates(chosen, replay, agent, [0.0, 1.0, 2.0])
    best = chosen.publish()
    assert best is not None and best.step == 40
    found = checkpoint.load(tmp_path / "chosen")
    assert found is not None and found["modules"]["policy"]["weight"].item() == 40


def test_its_state_is_restored(tmp_path: Path) -> None:
    chosen, replay, agent = pieces(tmp_path)
    candidates(chosen, replay, agent, [0.0], [0.0, 1.0])
    again = Chosen(tmp_path, Nearness(agent, replay), 2, {})
    again.load_state_dict(chosen.state_dict())
    assert again.ranked() == chosen.ranked()


@pytest.mark.parametrize("kind", ["no demonstrations", "off"])
def test_without_demonstrations_nothing_is_kept(tmp_path: Path, kind: str) -> None:
    _, replay, agent = pieces(tmp_path)
    if kind == "no demonstrations":
        replay = Replay(
            tmp_path / "own", obs_shape=(1,), obs_dtype="float32", action_size=1, capacity=60, budget_gb=1.0
        )
    chosen = Chosen(tmp_path, Nearness(agent, replay), 0 if kind == "off" else 2, {})
    candidates(chosen, replay, agent, [0.1])
    assert chosen.candidates == [] and chosen.publish() is None and not (tmp_path / CANDIDATES).exists()


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    chosen, replay, agent = pieces(tmp_path)
    (tmp_path / CANDIDATES).write_text("in the way")
    with pytest.raises(CheckpointError, match="weights that may be chosen were not kept"):
        candidates(chosen, replay, agent, [0.1])


# ---------------------------------------------------------------------- in a run


def test_a_run_keeps_evaluates_and_names_its_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local(monkeypatch)
    run = tmp_path / "run"
    start(run, "choose=1")
    assert (run / "log.txt").read_text().rstrip().endswith(f"python -m agent.evaluate run={run} weights=chosen")
    step = [line["eval/chosen_step"] for line in lines(run) if "eval/chosen_step" in line][-1]
    named = {c["step"] for c in state(run)["chosen"] if c["kept"]}
    assert step in named and {p.name for p in (run / CANDIDATES).iterdir()} == {Candidate(s, 0, ()).file for s in named}
    assert evaluate.main([f"run={run}", "episodes=2", "envs=1", "videos=false", "weights=chosen"]) == 0
    assert (run / "eval-chosen.json").exists()
    config, found = open_run(run, "chosen")
    env = make("line", "pixels")
    agent = restore(run, config, found, env, torch.device("cpu"))
    saved = load_file(run / CANDIDATES / f"step-{int(step):09d}.safetensors")
    modules = {"slow": agent.slow} if agent.slow is not None else {"world": agent.world, "policy": agent.policy}
    now = {f"{n}/{k}": v for n, m in modules.items() for k, v in m.state_dict().items()}
    assert now.keys() == saved.keys() and all(torch.equal(now[k], saved[k]) for k in now)
