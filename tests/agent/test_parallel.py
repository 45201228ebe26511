"""Updates that several processes share (``torchrun``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.build import ConfigError
from agent.parallel import Team
from tests.agent.runs import assert_same, lines, state
from tests.test_presets import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `shared` leaves when two processes have run it."""
    made = tmp_path_factory.mktemp("parallel")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.agent.shared", str(made)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (made / "said").write_text(done.stderr)
    yield made


def test_shares_of_a_batch_learn_what_the_batch_would(folder: Path) -> None:
    found = json.loads((folder / "found.json").read_text())
    assert max(found["weights"]) < 1e-6 and found["moved"] > 0.1
    # of running numbers process 0's count: of its own share, every other chunk, half of which are demonstrations
    assert found["seen"] == pytest.approx([sum(found["share"]), 6 * 0.5], rel=1e-5)


def test_random_numbers_of_the_others_are_their_own_and_follow_from_the_update(folder: Path) -> None:
    noise = json.loads((folder / "noise").read_text())
    assert len(set(noise)) == len(noise) == 7


def test_all_hear_the_same_share_of_the_return(folder: Path) -> None:
    assert json.loads((folder / "heard").read_text())[:6] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_weights_that_come_to_differ_are_noticed(folder: Path) -> None:
    assert "the weights of 1 of 2 processes have come to differ" in (folder / "told").read_text()


def test_a_shared_run_is_whole_and_resumes_as_if_uninterrupted(folder: Path) -> None:
    assert_same(folder / "whole", folder / "pieces")
    counters = state(folder / "whole")["counters"]
    assert counters["env_steps"] == 120 and counters["updates"] > 8
    assert any("train/loss/actor_rl" in line for line in lines(folder / "whole"))
    assert "2 processes share each update of 2 chunks" in (folder / "whole" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("obs", "algos"),
    [
        ("pixels", ("cmil", "cmil_official", "cmil_resets", "hyper", "hyper_pess", "vmail", "bc_rssm", "bc_cnn")),
        ("state", ("cmil_recurrent", "hyper_recurrent")),
    ],
)
def test_methods_whose_updates_are_all_of_their_learning_are_taken(obs: str, algos: tuple[str, ...]) -> None:
    for algo in algos:
        agent = build(algo, "debug", obs)
        Team.__new__(Team).take(agent)  # which no other process hears of
        assert all(optimiser.shared for optimiser in agent.optimisers.values()), algo


@pytest.mark.parametrize(
    ("obs", "algo"), [("pixels", "ml_irl"), ("pixels", "dac"), ("state", "hyper"), ("state", "mm")]
)
def test_others_are_not(obs: str, algo: str) -> None:
    with pytest.raises(ConfigError, match="torchrun: this method learns between its updates as well"):
        Team.__new__(Team).take(build(algo, "debug", obs))


def test_methods_that_learn_between_updates_are_refused_once(folder: Path) -> None:
    assert (folder / "said").read_text().count("torchrun: this method learns between its updates as well") == 1
    assert not (folder / "refused").exists()


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with (
        pytest.raises(ConfigError, match="data.batch=6: 4 processes cannot share it out equally"),
        Team.joined({"data": {"batch": 6}}),
    ):
        pass
    monkeypatch.delenv("WORLD_SIZE")
    with Team.joined({}) as team:
        assert team is None
