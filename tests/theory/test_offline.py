"""Offline ML-IRL and pessimism on tabular processes with a wrong model (algorithms 3.10, 5.4.5-6, 5.4.10)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.theory.tabular import (
    GAMMA,
    Array,
    Draws,
    chain,
    dirichlet,
    draws,
    improved,
    likelihood,
    mean,
    normalised,
    occupancy,
    soft_optimum,
    value,
)

PENALTY = 2.0


def penalised(d: Draws) -> Array:
    """r + U with U = -alpha u, u the model's error: (n, S, A)."""
    return 4 * d.reward - 2 - PENALTY * d.gap


def surrogate(d: Draws, reward: Array) -> Array:
    """L^ = E_{E, P}[sum gamma^t (r + U)] - E[V(s_0)], V of the model: (n,)."""
    v = soft_optimum(d.model, reward)[0]
    return value(d.true, d.expert, reward, d.start) - (v * d.start).sum(-1)


def test_what_the_surrogate_leaves_out() -> None:
    """Lemma 8: exactly the model's error in V where the expert goes; Lemma 9 bounds it."""
    tightest = 0.0
    for d in draws(300, seed=0):
        reward = penalised(d)
        v, _, policy = soft_optimum(d.model, reward)
        rho = occupancy(d.true, d.expert, d.start)
        error = np.einsum("nsat,nt->nsa", d.model - d.true, v)
        missing = likelihood(d.true, d.expert, policy, d.start) - surrogate(d, reward)
        np.testing.assert_allclose(missing, GAMMA / (1 - GAMMA) * mean(rho, error), rtol=0, atol=1e-10)
        bound = GAMMA * np.abs(v).max(-1) / (1 - GAMMA) * mean(rho, 2 * d.gap)
        assert (np.abs(missing) <= bound + 1e-9).all()
        tightest = max(tightest, float((np.abs(missing) / np.maximum(bound, 1e-9)).max()))
        imagined = mean(occupancy(d.model, d.expert, d.start), error)
        assert np.abs(missing - GAMMA / (1 - GAMMA) * imagined).max() > 1e-3, "where the *expert really* goes"
    assert tightest > 0.2, "the bound is not vacuous"


@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_of_the_surrogate(seed: int) -> None:
    """Lemma 10: demonstrations in the world, the policy's rollouts in the *model*; the penalty has no gradient."""
    *_, d = draws(90, seed)
    s, a = d.reward.shape[1:]
    worst = int(d.gap.mean((1, 2)).argmax())
    one = Draws(*(x[worst : worst + 1] for x in (d.start, d.true, d.model, d.expert, d.policy, d.reward)))
    reward = penalised(one)
    policy = soft_optimum(one.model, reward)[2]
    expert = occupancy(one.true, one.expert, one.start)
    exact, wrong = (
        (expert - occupancy(dynamics, policy, one.start))[0] / (1 - GAMMA) for dynamics in (one.model, one.true)
    )
    by_differences = np.zeros((s, a))
    for i in range(s):
        for j in range(a):
            step = np.zeros_like(reward)
            step[0, i, j] = 1e-5
            up, down = surrogate(one, reward + step), surrogate(one, reward - step)
            by_differences[i, j] = (up - down)[0] / 2e-5
    np.testing.assert_allclose(exact, by_differences, rtol=0, atol=1e-7)
    assert np.abs(wrong - by_differences).max() > 1e-3, "rollouts of the policy in the world would not do"


def test_with_a_perfect_model_offline_is_online_and_constants_change_nothing() -> None:
    for d in draws(60, seed=2):
        perfect = Draws(d.start, d.true, d.true, d.expert, d.policy, d.reward)
        reward = 4 * d.reward - 2
        v, _, policy = soft_optimum(d.true, reward)
        online = likelihood(d.true, d.expert, policy, d.start)
        np.testing.assert_allclose(surrogate(perfect, reward), online, rtol=0, atol=1e-9)
        shifted, _, same = soft_optimum(d.true, reward - 3.0)
        np.testing.assert_allclose(shifted, v - 3.0 / (1 - GAMMA), rtol=0, atol=1e-9)
        np.testing.assert_allclose(same, policy, rtol=0, atol=1e-10)


def test_cutting_trajectories_leaves_an_error_that_decays_like_the_discount() -> None:
    """||exact - truncated gradient|| / gamma^T: constant once both chains have mixed."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        dynamics = normalised(rng.gamma(1.0, size=(1, 5, 3, 5)))
        start, expert, policy = normalised(rng.gamma(1.0, size=(1, 5))), *(dirichlet(rng, 1, 5, 3) for _ in range(2))
        exact = (occupancy(dynamics, expert, start) - occupancy(dynamics, policy, start)) / (1 - GAMMA)
        partial, visits = np.zeros_like(exact), [start, start]
        ratios = []
        for t in range(41):
            if t in (20, 30, 40):
                ratios.append(float(np.linalg.norm(exact - partial)) / GAMMA**t)
            for k, (sign, pi) in enumerate(((1, expert), (-1, policy))):
                partial = partial + sign * GAMMA**t * visits[k][..., None] * pi
                visits[k] = np.einsum("ns,nst->nt", visits[k], chain(dynamics, pi))
        assert max(ratios) / min(ratios) < 1.01 and min(ratios) > 1e-3, ratios


# ---------------------------------------------------------------------- pessimism


def test_a_greater_penalty_means_less_of_what_it_penalises() -> None:
    """E[u] under the soft-optimal policy of r - alpha u in the model never grows with alpha; at alpha < 0 it does."""
    falls = 0
    for d in draws(200, seed=3):
        met = []
        for alpha in (-4.0, 0.0, 0.5, 2.0, 8.0, 32.0):
            policy = soft_optimum(d.model, 4 * d.reward - alpha * d.gap)[2]
            met.append(mean(occupancy(d.model, policy, d.start), d.gap))
        steps = np.diff(np.stack(met), axis=0)
        assert (steps <= 1e-9).all()
        falls += int((met[1] - met[-1] > 1e-2).sum())
    assert falls > 50


def test_unvisited_pairs_are_avoided_as_far_as_they_can_be() -> None:
    """u = 1 where the data have nothing: with a large alpha the least occupancy that any policy can have."""
    avoidable = 0
    for d in draws(100, seed=4):
        rng = np.random.default_rng(0)
        hole = (rng.uniform(size=d.reward.shape) < 0.3).astype(float)
        policy = soft_optimum(d.model, 4 * d.reward - 3000.0 * hole)[2]
        met = mean(occupancy(d.model, policy, d.start), hole)
        uniform = np.full_like(policy, 1 / policy.shape[-1])
        best = improved(d.model, uniform, -hole, np.ones(hole.shape[:2], bool))
        least = mean(occupancy(d.model, best, d.start), hole)
        np.testing.assert_allclose(met, least, rtol=0, atol=2e-3)
        careless = mean(occupancy(d.model, soft_optimum(d.model, 4 * d.reward)[2], d.start), hole)
        avoidable += int((careless - least > 0.05).sum())
    assert avoidable > 20
