"""Replay: alignment, sampling, eviction, limits, and exact return to a checkpoint."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from agent import rows as rows_module
from agent.data import Chunk, Replay, ReplayError
from agent.rows import Extents
from envs.episode import to_pairs

Rows = dict[str, np.ndarray]


def make(folder: Path, capacity: int = 1000, **options: Any) -> Replay:
    """A replay of counting episodes: state (1,), action (1,)."""
    settings: dict[str, Any] = {"obs_shape": (1,), "obs_dtype": np.float32, "action_size": 1, "budget_gb": 1.0}
    return Replay(folder, capacity=capacity, **(settings | options))


def counting(n: int, base: int = 0, terminal: bool = False) -> Rows:
    """n rows: obs[t] = base + t; the action taken in it is ten times that and is stored one row later."""
    obs = (base + np.arange(n, dtype=np.float32))[:, None]
    action = np.zeros((n, 1), np.float32)
    action[1:] = 10 * obs[:-1]
    first, last, end = np.zeros((3, n), bool)
    first[0] = last[-1] = True
    end[-1] = terminal
    return {"obs": obs, "action": action, "is_first": first, "is_last": last, "is_terminal": end}


def same(chunk: Chunk, episode: Rows) -> bool:
    """A whole-episode chunk equals the episode that was added."""
    return all(np.array_equal(getattr(chunk, key)[0], value) for key, value in episode.items())


def pieces(chunk: Chunk, b: int) -> list[np.ndarray]:
    """Observations of chunk b, cut at its restarts."""
    return np.split(chunk.obs[b, :, 0], np.flatnonzero(chunk.is_first[b])[1:])


# ---------------------------------------------------------------------- alignment


@pytest.mark.parametrize("tensors", [False, True], ids=["numpy", "torch"])
def test_pairs_from_chunks_join_each_action_with_the_observation_it_was_taken_in(tmp_path: Path, tensors: bool) -> None:
    replay = make(tmp_path, capacity=120)
    for i in range(30):  # wraps the files several times; lengths 5..18, shorter and longer than a chunk
        replay.add_episode(**counting(5 + i * 7 % 14, base=1 + 1000 * i), expert=i < 2)
        replay.commit()
    chunk = replay.sample(64, 12, np.random.default_rng(0))
    convert = torch.from_numpy if tensors else np.asarray
    pairs = to_pairs(convert(chunk.obs), convert(chunk.action), convert(chunk.is_terminal), axis=1)
    valid = convert(~chunk.is_first[:, 1:])  # False where a short episode was continued
    assert 0 < int((~valid).sum()) < valid.shape[0] * valid.shape[1] / 2
    assert bool((pairs.action == 10 * pairs.state)[valid].all())
    assert bool((pairs.next_state == pairs.state + 1)[valid].all())
    # The pairing of some published code, a row late, must not pass the same check.
    assert not bool((convert(chunk.action)[:, :-1] == 10 * pairs.state)[valid].any())


def test_pixels_stay_uint8_and_match_their_actions(tmp_path: Path) -> None:
    replay = make(tmp_path, obs_shape=(8, 8, 3), obs_dtype=np.uint8)
    for i in range(4):
        rows = counting(20, base=1 + 30 * i)
        rows["obs"] = np.broadcast_to(rows["obs"][:, :, None, None].astype(np.uint8), (20, 8, 8, 3))
        replay.add_episode(**rows)
    chunk = replay.sample(16, 10, np.random.default_rng(0))
    assert chunk.obs.shape == (16, 10, 8, 8, 3) and chunk.obs.dtype == np.uint8
    assert (chunk.obs == chunk.obs[..., :1, :1, :1]).all()
    state = chunk.obs[..., 0, 0, :1].astype(np.float32)
    assert (chunk.action[:, 1:] == 10 * state[:, :-1]).all()


def test_chunks_begin_with_a_restart_and_a_zero_action_and_the_store_keeps_its_own(tmp_path: Path) -> None:
    replay = make(tmp_path)
    rows = counting(30, base=1)
    identity = replay.add_episode(**rows)
    chunk = replay.sample(64, 5, np.random.default_rng(0))
    assert (chunk.offset > 0).any()
    assert chunk.is_first[:, 0].all() and not chunk.is_first[:, 1:].any()
    assert (chunk.action[:, 0] == 0).all() and (chunk.action[:, 1:] != 0).all()
    assert (chunk.obs[:, 0, 0] == 1 + chunk.offset).all()
    chunk.action[:] = chunk.obs[:] = -1  # a learner may write into its batch
    assert same(replay.get(identity), rows)


def test_arrays_go_to_torch_without_a_copy(tmp_path: Path) -> None:
    replay = make(tmp_path, truth=True)
    replay.add_episode(**counting(30), expert=True)
    replay.add_episode(**counting(3))
    for options in ({}, {"expert_fraction": 0.5}):
        chunk = replay.sample(8, 5, np.random.default_rng(0), **options)
        for field in dataclasses.fields(Chunk):
            array = getattr(chunk, field.name)
            assert array.flags.c_contiguous and array.flags.writeable
            assert torch.from_numpy(array).data_ptr() == array.ctypes.data
    assert {f.name: getattr(chunk, f.name).dtype for f in dataclasses.fields(Chunk)} == {
        "obs": np.float32,
        "action": np.float32,
        "is_first": bool,
        "is_last": bool,
        "is_terminal": bool,
        "expert": bool,
        "episode": np.int64,
        "offset": np.int64,
        "truth": np.float32,
    }


def test_all_pairs_of_some_episodes(tmp_path: Path) -> None:
    """State, the action taken in it, next state; done only where an episode truly ended (algorithms 1.2, 1.4)."""
    replay = make(tmp_path)
    replay.add_episode(**counting(5, base=100), expert=True)
    ids = [replay.add_episode(**counting(3, base=1)), replay.add_episode(**counting(4, base=10, terminal=True))]
    pairs = replay.pairs()
    assert pairs.obs[:, 0].tolist() == [100, 101, 102, 103, 1, 2, 10, 11, 12]
    assert np.array_equal(pairs.action, 10 * pairs.obs) and np.array_equal(pairs.next_obs, pairs.obs + 1)
    assert pairs.done.tolist() == [False] * 8 + [True]
    assert pairs.position.tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 0, 0.5, 0, 1 / 3, 2 / 3])
    assert replay.pairs("online").obs[:, 0].tolist() == [1, 2, 10, 11, 12]
    assert replay.pairs("online", ids[1:]).obs[:, 0].tolist() == [10, 11, 12]
    with pytest.raises(ReplayError, match="no online episode to take pairs from"):
        replay.pairs("online", [99])


def test_the_true_reward_is_kept_only_where_it_is_asked_for(tmp_path: Path) -> None:
    rewards = np.arange(6, dtype=np.float32)
    plain, debug = make(tmp_path / "plain"), make(tmp_path / "debug", truth=True)
    for replay in (plain, debug):
        replay.add_episode(**counting(6), truth=rewards)
    assert plain.get(0).truth is None and not (tmp_path / "plain" / "truth.bin").exists()
    assert np.array_equal(debug.get(0).truth[0], rewards), "row t holds the reward of the step that led to it"
    debug.add_episode(**counting(4), expert=True)
    assert np.isnan(debug.get(1).truth).all(), "demonstrations have none"


def test_flags_tell_time_outs_from_terminations_and_no_reward_is_stored(tmp_path: Path) -> None:
    replay = make(tmp_path)
    for terminal in (False, True):
        replay.add_episode(**counting(6, terminal=terminal))
    time_out, end = replay.get(0), replay.get(1)
    assert time_out.is_last[0, -1] and not time_out.is_terminal.any()
    assert end.is_last[0, -1] and end.is_terminal[0, -1] and end.is_terminal.sum() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["action.bin", "flags.bin", "obs.bin"]


# ---------------------------------------------------------------------- which chunks


def test_episodes_are_equally_likely_and_so_are_the_chunks_inside_one(tmp_path: Path) -> None:
    replay = make(tmp_path)
    lengths = [5, 8, 12, 40, 100]
    for n in lengths:
        replay.add_episode(**counting(n))
    chunk = replay.sample(20_000, 5, np.random.default_rng(1))
    assert chisquare(np.bincount(chunk.episode, minlength=5)).pvalue > 0.001
    for i, n in enumerate(lengths):
        offsets = np.bincount(chunk.offset[chunk.episode == i], minlength=n - 4)
        assert len(offsets) == n - 4
        if n > 5:
            assert chisquare(offsets).pvalue > 0.001


def test_by_row_makes_all_chunks_equally_likely(tmp_path: Path) -> None:
    replay = make(tmp_path)
    for n in (5, 8, 12, 40):
        replay.add_episode(**counting(n))
    chunk = replay.sample(20_000, 5, np.random.default_rng(2), by="row")
    starts = np.array([1, 4, 8, 36])
    counts = np.bincount(chunk.episode, minlength=4)
    assert chisquare(counts, 20_000 * starts / starts.sum()).pvalue > 0.001


def test_short_episodes_survive_and_go_on_with_a_marked_restart(tmp_path: Path) -> None:
    replay = make(tmp_path)
    episodes = {1000 * i + 1: counting(3 + i % 3, base=1000 * i + 1) for i in range(6)}
    for i, rows in enumerate(episodes.values()):
        replay.add_episode(**rows, expert=i % 2 == 0)
    replay.add_episode(**counting(50, base=6001), expert=False)
    chunk = replay.sample(200, 20, np.random.default_rng(0))
    seen: set[float] = set()
    for b in range(200):
        assert (chunk.action[b][chunk.is_first[b]] == 0).all()
        assert chunk.is_last[b][:-1][chunk.is_first[b][1:]].all(), "a chunk goes on only where an episode has ended"
        for piece in pieces(chunk, b):
            assert (np.diff(piece) == 1).all(), "rows of two episodes without a restart between them"
            assert (piece[0] // 1000 % 2 == 0 and piece[0] < 6000) == chunk.expert[b], "kinds must not be mixed"
            seen.add(piece[0] // 1000)
    assert seen == {0, 1, 2, 3, 4, 5, 6}
    assert set(chunk.episode) == set(range(7))


def test_the_piece_that_completes_a_short_episode_is_uniform_too(tmp_path: Path) -> None:
    replay = make(tmp_path)
    replay.add_episode(**counting(3))
    replay.add_episode(**counting(10, base=100))
    chunk = replay.sample(20_000, 8, np.random.default_rng(3))
    second = chunk.obs[(chunk.episode == 0) & (chunk.obs[:, 3, 0] >= 100), 3, 0]
    assert chisquare(np.bincount(second.astype(int) - 100, minlength=6)).pvalue > 0.001


def test_from_start_prob_forces_offset_zero_for_that_share(tmp_path: Path) -> None:
    replay = make(tmp_path, capacity=2000)
    replay.add_episode(**counting(1000))
    rng = np.random.default_rng(0)
    assert (replay.sample(100, 10, rng, from_start_prob=1.0).offset == 0).all()
    assert 0.25 < (replay.sample(2000, 10, rng, from_start_prob=0.3).offset == 0).mean() < 0.35
    assert (replay.sample(2000, 10, rng).offset == 0).mean() < 0.01


@pytest.mark.parametrize(("fraction", "batch", "experts"), [(0.0, 7, 0), (0.29, 100, 29), (0.5, 7, 3), (1.0, 7, 7)])
def test_expert_fraction_is_exact(tmp_path: Path, fraction: float, batch: int, experts: int) -> None:
    replay = make(tmp_path)
    for i in range(6):
        replay.add_episode(**counting(10), expert=i < 2)
    chunk = replay.sample(batch, 5, np.random.default_rng(0), expert_fraction=fraction)
    assert chunk.expert.tolist() == [True] * experts + [False] * (batch - experts)
    assert ((chunk.episode < 2) == chunk.expert).all()


def test_which_and_last_choose_the_episodes(tmp_path: Path) -> None:
    replay = make(tmp_path)
    for i in range(8):
        replay.add_episode(**counting(10), expert=i in (0, 5))
    rng = np.random.default_rng(0)
    assert set(replay.sample(100, 5, rng, which="expert").episode) == {0, 5} == set(replay.ids("expert"))
    assert set(replay.sample(100, 5, rng, which="online").episode) == {1, 2, 3, 4, 6, 7}
    assert set(replay.sample(100, 5, rng, which="online", last=3).episode) == {4, 6, 7}
    assert set(replay.sample(100, 5, rng, last=99).episode) == set(range(8))


def test_the_generator_alone_decides(tmp_path: Path) -> None:
    replay = make(tmp_path)
    for i in range(5):
        replay.add_episode(**counting(4 + i, base=100 * i), expert=i < 2)
    draws = [replay.sample(9, 6, np.random.default_rng(seed), from_start_prob=0.2).obs for seed in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])


def test_impossible_requests_say_why(tmp_path: Path) -> None:
    replay, rng = make(tmp_path), np.random.default_rng(0)
    with pytest.raises(ReplayError, match="no episode to sample from"):
        replay.sample(4, 4, rng)
    replay.add_episode(**counting(5), expert=True)
    with pytest.raises(ReplayError, match="no online episode"):
        replay.sample(4, 4, rng, expert_fraction=0.5)
    with pytest.raises(ReplayError, match="'experts'"):
        replay.sample(4, 4, rng, which="experts")  # type: ignore[arg-type]
    with pytest.raises(ReplayError, match="expert_fraction is 1.5"):
        replay.sample(4, 4, rng, expert_fraction=1.5)
    with pytest.raises(ReplayError, match="cannot sample"):
        replay.sample(4, 0, rng)
    with pytest.raises(ReplayError, match="no episode 7"):
        replay.get(7)


# ---------------------------------------------------------------------- limits


def test_the_oldest_online_episodes_go_first_and_demonstrations_never(tmp_path: Path) -> None:
    replay = make(tmp_path, capacity=100)
    episodes = [counting(10, base=1000 * i) for i in range(40)]
    for i, rows in enumerate(episodes):
        replay.add_episode(**rows, expert=i in (0, 15))
        online = [j for j in range(i + 1) if j not in (0, 15)]
        experts = [j for j in (0, 15) if j <= i]
        assert replay.ids("online") == online[-(10 - len(experts)) :]
        assert replay.ids("expert") == experts
    assert (replay.rows, replay.expert_rows, replay.episodes) == (100, 20, 10)
    assert all(same(replay.get(i), episodes[i]) for i in replay.ids())


def test_an_episode_that_cannot_fit_beside_the_demonstrations_is_refused(tmp_path: Path) -> None:
    replay = make(tmp_path, capacity=30)
    replay.add_episode(**counting(20), expert=True)
    replay.add_episode(**counting(10))
    with pytest.raises(ReplayError, match="11 rows does not fit.*20 hold demonstrations"):
        replay.add_episode(**counting(11))
    assert replay.ids() == [0, 1]


def test_size_is_stated_and_the_budget_is_kept(tmp_path: Path) -> None:
    pixels: dict[str, Any] = {"obs_shape": (64, 64, 3), "obs_dtype": np.uint8, "action_size": 9}
    replay = make(tmp_path / "a", capacity=250_000, **(pixels | {"budget_gb": 4.0}))
    assert replay.describe() == f"replay: up to 250k rows, 2.9 GiB on disk at {tmp_path / 'a'}"
    used = sum(path.stat().st_blocks * 512 for path in (tmp_path / "a").iterdir())
    assert used < 2**20, "nothing is written before there is something to store"
    with pytest.raises(
        ReplayError, match=r"250000 rows needs 2.9 GiB.*budget of 2 GiB.*lower the capacity to \d+ rows"
    ):
        make(tmp_path / "b", capacity=250_000, **(pixels | {"budget_gb": 2.0}))


def test_too_little_free_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 5000})
    monkeypatch.setattr(rows_module.shutil, "disk_usage", lambda _: usage)
    make(tmp_path, capacity=500)
    with pytest.raises(ReplayError, match="only 0.0 MiB left"):
        make(tmp_path, capacity=600)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = make(tmp_path, capacity=100)
    rows = counting(10, base=5)
    replay.add_episode(**rows)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(rows_module.os, "pwrite", full)
        for _ in range(9):
            with pytest.raises(ReplayError, match="No space left on device"):
                replay.add_episode(**counting(20, base=50))
    assert replay.state_dict()["file_rows"] == 100, "rows that could not be written stay free"
    assert replay.ids() == [0] and same(replay.get(0), rows)
    assert same(replay.get(replay.add_episode(**counting(20, base=50))), counting(20, base=50))


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("action", lambda a: a + 1, r"action\[0\] must be zero"),
        ("action", lambda a: a.astype(np.float64), "action is float64"),
        ("action", lambda a: a * np.nan, "NaN"),
        ("obs", lambda o: o.astype(np.uint8), "obs is uint8"),
        ("obs", lambda o: np.concatenate([o, o], 1), r"\(2,\)"),
        ("obs", lambda o: o * np.inf, "NaN or infinite"),
        ("is_first", lambda f: ~f, "is_first marks row 0 only"),
        ("is_last", lambda f: np.zeros_like(f), "is_last the final row only"),
        ("is_terminal", lambda f: ~f, "is_terminal no other row"),
        ("is_last", lambda f: f.astype(np.uint8), "is_last is uint8"),
        ("is_last", lambda f: f[:-1], "is_last"),
    ],
)
def test_episodes_that_break_the_contract_are_refused(tmp_path: Path, key: str, change: Any, message: str) -> None:
    replay, rows = make(tmp_path), counting(6, base=1)
    with np.errstate(invalid="ignore"):
        rows[key] = change(rows[key])
    with pytest.raises(ReplayError, match=message):
        replay.add_episode(**rows)
    assert replay.episodes == 0


def test_one_row_is_no_episode(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="at least 2 rows"):
        make(tmp_path).add_episode(**counting(1))


# ---------------------------------------------------------------------- checkpoints


def reload(folder: Path, state: Any, **options: Any) -> Replay:
    """What a new process does: the index has been through JSON."""
    replay = make(folder, **options)
    replay.load_state_dict(json.loads(json.dumps(state)))
    return replay


def test_an_older_index_forgets_later_rows_exactly(tmp_path: Path) -> None:
    replay = make(tmp_path, capacity=60)
    episodes = [counting(10, base=1000 * i, terminal=i % 2 == 0) for i in range(30)]
    for i in range(6):
        replay.add_episode(**episodes[i], expert=i == 0)
    replay.flush()
    state = replay.state_dict()
    replay.commit()
    for i in range(6, 30):  # evicts every online episode that the checkpoint names
        replay.add_episode(**episodes[i])
    assert replay.ids("online") == [25, 26, 27, 28, 29]
    old = reload(tmp_path, state, capacity=60)
    assert old.ids() == [0, 1, 2, 3, 4, 5] and (old.rows, old.expert_rows) == (60, 10)
    assert all(same(old.get(i), episodes[i]) for i in old.ids())


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_every_kept_checkpoint_stays_loadable_and_the_files_stay_small(tmp_path: Path, keep: int) -> None:
    """A model check: random episodes, evictions, commits, kills; each kept index must find its rows untouched."""
    rng = np.random.default_rng(keep)
    replay = make(tmp_path, capacity=80, keep_checkpoints=keep)
    episodes: dict[int, Rows] = {}
    kept: list[Any] = []
    for save in range(150):
        for _ in range(rng.integers(0, 5)):
            rows = counting(int(rng.integers(2, 25)), base=int(rng.integers(1, 10**6)))
            identity = replay.add_episode(**rows, expert=len(episodes) < 2)
            episodes[identity] = rows
        # Here a kill would come at the worst moment: just before the next checkpoint.
        for state in kept:
            old = reload(tmp_path, state, capacity=80, keep_checkpoints=keep)
            assert all(same(old.get(i), episodes[i]) for i in old.ids())
            old.close()
        assert all(same(replay.get(i), episodes[i]) for i in replay.ids())
        if save % 7 == 6:  # killed; every other time the newest checkpoint is damaged, too
            kept = kept[: len(kept) - (save % 2 if keep > 1 else 0)]
            replay.close()
            replay = reload(tmp_path, kept[-1], capacity=80, keep_checkpoints=keep)
        kept = [*kept, replay.state_dict()][-keep:]
        replay.commit()
    assert replay.rows > 40 and len(episodes) > 150
    assert replay.state_dict()["file_rows"] < 80 + (keep + 2) * 100, "freed rows are used again"


def test_a_resumed_replay_goes_on_exactly_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def fill(replay: Replay, first: int, count: int) -> None:
        for i in range(first, first + count):
            replay.add_episode(**counting(3 + i * 5 % 17, base=1000 * i), expert=i < 2)

    straight, stopped = make(tmp_path / "a", capacity=100), make(tmp_path / "b", capacity=100)
    for replay in (straight, stopped):
        for part in range(10):
            fill(replay, 3 * part, 3)
            state = replay.state_dict()
            replay.commit()
    fill(stopped, 500, 9)  # lost with the kill
    stopped.close()
    resumed = reload(tmp_path / "b", state, capacity=100)
    assert straight.state_dict() == resumed.state_dict()
    for replay in (straight, resumed):
        for part in range(10, 20):
            fill(replay, 3 * part, 3)
            replay.commit()
    assert straight.state_dict() == resumed.state_dict()
    draws = [replay.sample(32, 12, np.random.default_rng(4)) for replay in (straight, resumed)]
    for field in dataclasses.fields(Chunk):
        assert np.array_equal(*(getattr(chunk, field.name) for chunk in draws)), field.name


def test_changed_files_and_other_shapes_are_noticed(tmp_path: Path) -> None:
    replay = make(tmp_path)
    replay.add_episode(**counting(10, base=1))
    state = replay.state_dict()
    replay.close()
    with pytest.raises(ReplayError, match="action_size.*1.*action_size.*2"):
        reload(tmp_path, state, action_size=2)
    (tmp_path / "action.bin").write_bytes(b"\0" * 4000)
    with pytest.raises(ReplayError, match="does not hold episode 0.*start a new run"):
        reload(tmp_path, state)
    moved = make(tmp_path / "elsewhere")
    with pytest.raises(ReplayError, match="does not hold episode 0"):
        moved.load_state_dict(state)
    assert moved.episodes == 0


def test_growing_past_the_budget_warns_once(tmp_path: Path) -> None:
    replay = make(tmp_path, capacity=1000, budget_gb=1000 * 9 / 2**30)
    with pytest.warns(UserWarning, match="save checkpoints more often") as caught:
        for _ in range(400):
            replay.add_episode(**counting(10))
    assert len(caught) == 1


def test_extents_merge_and_wrap() -> None:
    free = Extents(10, used=[(2, 3)])
    assert free.spans == [(0, 2), (5, 5)]
    assert free.take(3, head=0) == 5 and free.take(3, head=0) is None
    assert free.take(2, head=8) == 8 and free.take(1, head=8) == 0
    for start, n in ((8, 2), (0, 1), (2, 3), (5, 3)):
        free.give(start, n)
    assert free.spans == [(0, 10)]


def test_pairs_know_their_time_and_their_episode(tmp_path: Path) -> None:
    """Likelihood sums whole trajectories with weights by time; rewards of the data set belong to their actions."""
    replay = make(tmp_path, truth=True)
    for base, n in ((100, 4), (200, 6), (300, 3)):
        rows = counting(n, base)
        replay.add_episode(**rows, expert=base == 100, truth=rows["action"][:, 0] + 1)
    found = replay.pairs("online")
    assert found.time.tolist() == [0, 1, 2, 3, 4, 0, 1] and found.episode.tolist() == [0] * 5 + [1] * 2
    np.testing.assert_array_equal(found.obs[:, 0] % 100, found.time)
    assert found.truth is not None
    np.testing.assert_array_equal(found.truth, found.action[:, 0] + 1)
    np.testing.assert_allclose(found.position, found.time / np.array([5, 2])[found.episode])
    assert replay.pairs("expert").episode.tolist() == [0, 0, 0], "counted among those asked for"
    assert make(tmp_path / "other").truth is False
