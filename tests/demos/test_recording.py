"""Filling a folder with verified episodes: what is kept, where it goes on, when it gives up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from demos.dataset import DemoError, read, save
from demos.experts.recording import TRIES, fill, verify
from demos.experts.toy import record
from envs.episode import Episode
from envs.make import make


def steps(episode: Episode) -> str:
    return f"{episode.steps} steps"


def broken(seed: int) -> Episode:
    """Its actions are not those that led to its states."""
    episode = record("line", seed)
    return dataclasses.replace(episode, action=-episode.action)


def test_only_verified_episodes_are_kept_and_a_second_call_goes_on(tmp_path: Path) -> None:
    env = make("line", "state")
    assert verify(env, record("line", 5)) and not verify(env, broken(5))
    fill(tmp_path, 2, 5, lambda seed: broken(seed) if seed == 5 else record("line", seed), env, steps)
    fill(tmp_path, 3, 0, lambda seed: record("line", seed), env, steps)
    paths = sorted(tmp_path.glob("*.npz"))
    assert [path.name for path in paths] == [f"episode_000{number}.npz" for number in range(3)]
    assert [read(path)[0].meta["seed"] for path in paths] == [6, 7, 8]


def test_after_a_deleted_episode_a_new_one_is_added_and_none_replaced(tmp_path: Path) -> None:
    def more(episodes: int) -> None:
        fill(tmp_path, episodes, 0, lambda seed: record("line", seed), make("line", "state"), steps)

    more(3)
    (tmp_path / "episode_0001.npz").unlink()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    more(2)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before, "two are there"
    more(3)
    assert {path: path.read_bytes() for path in before} == before
    (new,) = set(tmp_path.iterdir()) - set(before)
    assert new.name == "episode_0003.npz" and read(new)[0].meta["seed"] == 3


def test_a_folder_keeps_its_digits_and_is_full_when_these_are(tmp_path: Path) -> None:
    def more(episodes: int) -> None:
        fill(tmp_path, episodes, 0, lambda seed: record("line", seed), make("line", "state"), steps)

    save(tmp_path / "episode_98.npz", record("line", 0))
    save(tmp_path / "mine.npz", record("line", 1))
    more(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode_98.npz", "episode_99.npz", "mine.npz"]
    with pytest.raises(DemoError, match="episodes: names of 2 digits end at 99: fill another folder"):
        more(4)


def test_a_full_folder_is_told_and_one_of_another_task_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, 1, 0, lambda seed: record("line", seed), make("line", "state"), steps)
    capsys.readouterr()
    fill(tmp_path, 1, 7, lambda seed: record("line", seed), make("line", "state"), steps)
    assert capsys.readouterr().err.strip() == f"{tmp_path}: 1 episodes are there already; episodes=2 would add one"
    with pytest.raises(DemoError, match="task: holds episodes of line: fill another folder"):
        fill(tmp_path, 2, 0, lambda seed: record("count", seed), make("count", "state"), steps)


def test_an_expert_that_never_succeeds_ends_in_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DemoError, match=f"only 0 of 1 after {TRIES} tries"):
        fill(tmp_path, 1, 0, broken, make("line", "state"), steps)
    assert capsys.readouterr().err.count("not kept") == TRIES and not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(DemoError, match="cannot be made"):
        fill(tmp_path / "file" / "folder", 1, 0, broken, make("line", "state"), steps)
