"""Where rollouts and training episodes begin: rows of replay, or demonstrations with probability p (algorithms 4.3,
part S).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare
from torch import Tensor

from agent.batch import to_device
from agent.collect import env_start
from agent.data import Replay
from agent.starts import MixtureStarts, ReplayStarts
from models.latent import Latent
from models.world_model import Chunk
from tests.agent.learner import make_agent
from tests.models.tiny import ACTION

B, T = 3, 8


def latents(base: float = 0.0) -> Latent:
    """Every part of row t of chunk b holds base + 100 b + t."""
    number = base + 100 * torch.arange(float(B))[:, None] + torch.arange(float(T))
    return Latent(*(number[..., None].expand(B, T, n) for n in (2, 3, 4)))


def consistent(z: Latent) -> bool:
    """All parts of each latent come from one row."""
    return all(torch.equal(part, z.stoch[..., :1].expand_as(part)) for part in (z.deter, z.stoch, z.params))


@pytest.mark.parametrize("per_chunk", [0, T, T + 1])
def test_all_posteriors_start_a_rollout(per_chunk: int) -> None:
    start = ReplayStarts(per_chunk).sample(latents(), latents(1000))
    assert start.own.shape == (B * T,) and start.own.all() and start.rows.tolist() == list(range(T))
    assert torch.equal(start.latent.stoch, latents().stoch.flatten(0, 1)) and consistent(start.latent)


def test_some_rows_of_each_chunk() -> None:
    torch.manual_seed(0)
    counts = torch.zeros(T)
    for _ in range(300):
        start = ReplayStarts(3).sample(latents(), latents(1000))
        rows = start.rows
        assert rows.shape == (3,) and bool((rows.diff() > 0).all()), "sorted, without repetition"
        # start b * R + r is row rows[r] of chunk b
        expected = (100 * torch.arange(B)[:, None] + rows).flatten().float()
        assert torch.equal(start.latent.stoch[:, 0], expected) and consistent(start.latent)
        assert start.own.shape == (B * 3,) and start.own.all()
        counts[rows] += 1
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_mixture_draws_demonstrations_with_its_probability(p: float) -> None:
    torch.manual_seed(0)
    starts, n, from_demo, mixed = MixtureStarts(p, 4), 0, 0, 0
    own = latents()
    for _ in range(100):
        start = starts.sample(own, latents(1000))
        assert consistent(start.latent)
        number = start.latent.stoch[:, 0]
        demo = number >= 1000
        expected = own[:, start.rows].flatten().stoch[:, 0]
        assert torch.equal(number[~demo], expected[~demo]), "replay starts stay where they are"
        n, from_demo, mixed = n + len(number), from_demo + int(demo.sum()), mixed + (0 < int(demo.sum()) < len(number))
        assert torch.equal(start.own, ~demo), "which starts follow a replay pair"
    assert from_demo in (0, n) if p in (0, 1) else binomtest(from_demo, n, p).pvalue > 1e-3
    assert from_demo == n * p or 0 < p < 1
    assert mixed > 50 or p in (0, 1), "one coin per sample, not per batch"


def test_mixture_draws_all_rows_of_the_demonstrations() -> None:
    torch.manual_seed(0)
    drawn = torch.cat([MixtureStarts(1.0).sample(latents(), latents()).latent.stoch[:, 0] for _ in range(40)])
    _, counts = drawn.unique(return_counts=True)
    assert len(counts) == B * T and chisquare(counts).pvalue > 1e-3


def test_demonstrated_posteriors_without_history_start_nothing() -> None:
    """Algorithms 4.3: of a chunk's first rows only those are drawn whose episode begins there."""
    torch.manual_seed(0)
    valid = torch.rand(B, T) < 0.6
    valid[0, 0], valid[2] = False, False
    starts = MixtureStarts(1.0)
    drawn = torch.cat([starts.sample(latents(), latents(), valid).latent.stoch[:, 0] for _ in range(60)])
    found, counts = drawn.unique(return_counts=True)
    assert found.tolist() == latents().stoch[..., 0][valid].tolist() and chisquare(counts).pvalue > 1e-3
    alone = starts.sample(latents(), latents(), torch.zeros(B, T, dtype=torch.bool)).latent
    assert bool((alone.stoch == 100 * (B - 1) + T - 1).all()), "where none has enough, the one that has most"


def test_expert_starts_are_posteriors_of_a_demonstrations_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Algorithms 5.5.10, through replay, chunks and the agent: what the model infers from the frames up to that moment,
    no fewer than ``burn_in`` of them unless the episode has no more.
    """
    burn_in, steps, n, rng = 3, 14, 8, np.random.default_rng(0)
    replay = Replay(tmp_path, obs_shape=(64, 64, 3), obs_dtype=np.uint8, action_size=ACTION, capacity=99, budget_gb=1.0)
    frames = rng.integers(0, 256, (steps, 64, 64, 3)).astype(np.uint8)
    action = rng.uniform(-0.9, 0.9, (steps, ACTION)).astype(np.float32)
    action[0] = 0
    flags = np.arange(steps) == 0, np.arange(steps) == steps - 1, np.zeros(steps, bool)
    replay.add_episode(frames, action, *flags, expert=True)
    replay.add_episode(255 - frames, action, *flags, expert=False)
    agent = make_agent(starts=MixtureStarts(1.0), horizon=2, penalty="none")
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # posterior means
    sample, seen = agent.starts.sample, []
    monkeypatch.setattr(agent.starts, "sample", lambda *given: seen.append(sample(*given)) or seen[-1])
    demo = replay.sample(n, 7, rng, which="expert", from_start_prob=0.3)
    own = replay.sample(n, 7, rng, which="online")
    agent.update(*(to_device(rows, burn_in, agent.device) for rows in (own, demo)), 0, frozenset({"policy"}))
    told: dict[tuple[int, int], Tensor] = {}  # (first frame, last frame) -> what the model makes of them
    for first in sorted(set(demo.offset.tolist())):
        row = torch.arange(7)[None] == 0
        led = torch.from_numpy(action[first : first + 7])[None] * ~row[..., None]
        shown = torch.from_numpy(frames[first : first + 7])[None]
        z = agent.world.observe(Chunk(shown, led, row, ~row, ~row, row[:, 0], ~row)).feat.detach()
        told |= {(first, first + t): z[0, t] for t in range(7)}
    distance = torch.cdist(seen[0].latent.feat, torch.stack(list(told.values())))
    assert distance.amin(1).max() < 1e-3
    used = {list(told)[k] for k in distance.argmin(1).tolist()}
    enough = {(first, last) for first, last in told if first == 0 or last - first >= burn_in}
    assert used <= enough < set(told) and len(used) > 0.6 * len(enough)
    assert {last for first, last in used if first == 0} >= {0, 1}, "an episode's own beginning needs no history"


def test_bad_probability_is_told() -> None:
    with pytest.raises(ValueError, match=r"starts\.p: 1\.2 is not a probability"):
        MixtureStarts(1.2)


def test_one_coin_for_all_samples() -> None:
    torch.manual_seed(0)
    starts, demos = MixtureStarts(0.5, 4, per_batch=True), 0
    for _ in range(60):
        demo = starts.sample(latents(), latents(1000)).latent.stoch[:, 0] >= 1000
        assert bool(demo.all()) or not bool(demo.any())
        demos += int(demo.all())
    assert binomtest(demos, 60, 0.5).pvalue > 1e-3


@pytest.mark.parametrize(("progress", "expected"), [(0.0, (1.0, 1.0)), (0.5, (0.5, 0.6)), (1.0, (0.0, 0.1))])
def test_backward_window_moves_from_the_end_to_the_beginning(progress: float, expected: tuple[float, float]) -> None:
    """Algorithms 5.5.10; HyPER's curriculum on AntMaze."""
    assert MixtureStarts(1.0, window=0.1).expert_range(progress) == pytest.approx(expected, abs=1e-5)
    assert MixtureStarts(1.0).expert_range(progress) == (0.0, 1.0) == ReplayStarts().expert_range(progress)


def test_impossible_options_are_refused() -> None:
    for make in (
        lambda: MixtureStarts(1.5),
        lambda: MixtureStarts(0.5, window=2.0),
        lambda: ReplayStarts(env_reset=-1),
    ):
        with pytest.raises(ValueError, match=r"starts\."):
            make()


# ---------------------------------------------------------------------- training episodes (FILTER)


# demonstrations of 4, 10 and 1 actions
MOMENTS = [np.array([[e, t] for t in range(n + 1)]) for e, n in ((0, 4), (1, 10), (2, 1))]


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_training_episodes_begin_at_every_demonstrated_moment_alike(p: float) -> None:
    """Algorithms 4.3 and 5.5.10: uniform over (episode, t), however long its episode is; never where it is over."""
    rng, n, counts = np.random.default_rng(0), 3000, {(e, t): 0 for e, k in ((0, 4), (1, 10), (2, 1)) for t in range(k)}
    drawn = [start for _ in range(n) if (start := env_start(p, MOMENTS, rng)) is not None]
    for start in drawn:
        episode, step = start.sim_state
        assert start.step == step, "the clock goes on where the demonstration was"
        counts[int(episode), int(step)] += 1
    assert len(drawn) == n if p == 1 else binomtest(len(drawn), n, p).pvalue > 1e-3
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_without_env_resets_nothing_is_drawn() -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert all(env_start(0.0, MOMENTS, rng) is None for _ in range(50))
    assert rng.bit_generator.state == before, "the seeds of training episodes are those of other methods"
