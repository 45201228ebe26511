"""Own episodes that are cloned beside demonstrations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agent.nearness import Imitated, Nearness
from agent.sampler import Sampler
from tests.agent.replays import played, states
from tests.agent.runs import start, state


def test_the_nearest_are_cloned_and_never_more_than_half(tmp_path: Path) -> None:
    replay, agent = states(tmp_path)
    imitated = Imitated(Nearness(agent, replay), 2)
    far, near, nearer = [0.0], [0.0, 1.0], [0.0, 1.0, 1.9]
    numbers = []
    for path, expected in ((near, []), (far, [0]), (nearer, [2]), (far, [2, 0]), (far, [2, 0]), (nearer, [2, 5])):
        numbers.append(played(replay, path))
        imitated.add(numbers[-1:])
        assert imitated.episodes == [numbers[i] for i in expected]


def test_none_are_where_none_are_asked_for_or_nothing_was_shown(tmp_path: Path) -> None:
    replay, agent = states(tmp_path / "shown")
    alone, nobody = states(tmp_path / "alone", demonstrations=False)
    for imitated in (Imitated(Nearness(agent, replay), 0), Imitated(Nearness(nobody, alone), 3)):
        for _ in range(4):
            imitated.add([played(imitated.nearness.replay, [0.0, 1.0])])
        assert imitated.episodes == [] and imitated.state_dict() == []


def test_what_the_replay_has_lost_is_forgotten_and_the_state_is_restored(tmp_path: Path) -> None:
    replay, agent = states(tmp_path)
    imitated = Imitated(Nearness(agent, replay), 3)
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
    replay, agent = states(tmp_path)
    imitated = Imitated(Nearness(agent, replay), number)
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


def test_a_run_clones_its_own_and_remembers_which(run_dir: Path, tmp_path: Path) -> None:
    start(run_dir, "data.clone_own=1")
    measured = state(run_dir)["imitated"]
    assert len(measured) == 4 and all(value > 0 for _, value in measured)
    start(tmp_path / "none", "data.clone_own=0")
    assert state(tmp_path / "none")["imitated"] == []
    ours, theirs = (state(run)["modules"]["policy"] for run in (run_dir, tmp_path / "none"))
    assert any(not torch.equal(torch.as_tensor(ours[k]), torch.as_tensor(theirs[k])) for k in ours)
