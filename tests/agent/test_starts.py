"""Where rollouts begin: rows of replay, or demonstrations with probability p (algorithms 4.3, part S)."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest, chisquare

from agent.starts import MixtureStarts, ReplayStarts
from models.latent import Latent

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
    assert start.replay == B * T and start.rows.tolist() == list(range(T))
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
        assert start.replay == B * 3
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
        assert start.replay == 0, "no start is known to follow a replay pair"
    assert from_demo in (0, n) if p in (0, 1) else binomtest(from_demo, n, p).pvalue > 1e-3
    assert from_demo == n * p or 0 < p < 1
    assert mixed > 50 or p in (0, 1), "one coin per sample, not per batch"


def test_mixture_draws_all_rows_of_the_demonstrations() -> None:
    torch.manual_seed(0)
    drawn = torch.cat([MixtureStarts(1.0).sample(latents(), latents()).latent.stoch[:, 0] for _ in range(40)])
    _, counts = drawn.unique(return_counts=True)
    assert len(counts) == B * T and chisquare(counts).pvalue > 1e-3


def test_bad_probability_is_told() -> None:
    with pytest.raises(ValueError, match=r"starts\.p: 1\.2 is not a probability"):
        MixtureStarts(1.2)
