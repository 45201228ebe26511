"""Bounds that the methods rest on, on thousands of random processes, next to wrong versions of them that the same
draws refute (algorithms 5.4.7-9, 5.5.11-12).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.theory.tabular import (
    GAMMA,
    Array,
    Draws,
    dirichlet,
    draws,
    improved,
    mean,
    occupancy,
    q_values,
    tv,
    tv_pairs,
    value,
)

MODEL = GAMMA / (1 - GAMMA) ** 2  # coefficient of E[TV] at R_max = 1


def worst(sides: Callable[[Draws], tuple[Array, Array]], n: int, seed: int = 0) -> float:
    """Greatest left - right over draws where an inequality left <= right is claimed; > 0: refuted."""
    return max(float((left - right).max()) for left, right in map(sides, draws(n, seed)))


def greatest_ratio(sides: Callable[[Draws], tuple[Array, Array]], n: int, seed: int = 0) -> float:
    return max(float((left / np.maximum(right, 1e-9)).max()) for left, right in map(sides, draws(n, seed)))


def test_two_ways_to_the_same_return() -> None:
    for d in draws(60, seed=5):
        rho = occupancy(d.true, d.policy, d.start)
        np.testing.assert_allclose(rho.sum((-2, -1)), 1)
        np.testing.assert_allclose(mean(rho, d.reward) / (1 - GAMMA), value(d.true, d.policy, d.reward, d.start))


# ---------------------------------------------------------------------- CMIL, Theorem 2


def cmil(first: float = 2 / (1 - GAMMA), second: float = MODEL) -> Callable[[Draws], tuple[Array, Array]]:
    """|V_M^E - V_M^pi| <= first TV(rho_M^^pi, rho_M^E) + second E_{rho_M^^pi}[TV(M, M^)]."""

    def sides(d: Draws) -> tuple[Array, Array]:
        imagined = occupancy(d.model, d.policy, d.start)
        left = np.abs(value(d.true, d.expert, d.reward, d.start) - value(d.true, d.policy, d.reward, d.start))
        match = tv_pairs(imagined, occupancy(d.true, d.expert, d.start))
        return left, first * match + second * mean(imagined, d.gap)

    return sides


def test_cmil_bound_holds_and_needs_both_terms() -> None:
    assert worst(cmil(), 4000) <= 1e-10
    assert 0.3 < greatest_ratio(cmil(), 4000) < 1, "not vacuous"
    assert worst(cmil(first=0.0), 4000) > 0.1, "a perfect model does not make the policy an expert"
    assert worst(cmil(second=0.0), 4000) > 0.1, "imitation inside a wrong model proves nothing"


def model_term(factor: float, *, signed: bool) -> Callable[[Draws], tuple[Array, Array]]:
    """|V_M^pi - V_M^^pi| <= factor gamma/(1-gamma)^2 E_{rho_M^^pi}[TV(M, M^)]."""

    def sides(d: Draws) -> tuple[Array, Array]:
        reward = 2 * d.reward - 1 if signed else d.reward
        left = np.abs(value(d.true, d.policy, reward, d.start) - value(d.model, d.policy, reward, d.start))
        return left, factor * MODEL * mean(occupancy(d.model, d.policy, d.start), d.gap)

    return sides


def test_model_term_needs_rewards_of_one_sign_or_twice_the_factor() -> None:
    assert worst(model_term(1, signed=False), 4000) <= 1e-10
    assert worst(model_term(1, signed=True), 4000) > 0.1, "|r| <= 1 spans 2"
    assert worst(model_term(2, signed=True), 4000) <= 1e-10
    assert worst(model_term(0.9, signed=False), 4000) > 0.1, "the coefficient is tight"


# ---------------------------------------------------------------------- Theorem 3: data processing


def test_observations_are_no_further_apart_than_latents() -> None:
    rng, strict = np.random.default_rng(0), 0
    for s, x in ((2, 2), (3, 5), (6, 2), (5, 6)):
        p, q, emission = dirichlet(rng, 400, s), dirichlet(rng, 400, s), dirichlet(rng, 400, s, x)
        seen = tv(*(np.einsum("ns,nsx->nx", latent, emission) for latent in (p, q)))
        assert (seen <= tv(p, q) + 1e-12).all()
        strict += int((seen < 0.5 * tv(p, q)).sum())
        # an emission that is no distribution (rows summing to 2) is no observation, and the test sees it
        assert (tv(*(np.einsum("ns,nsx->nx", latent, 2 * emission) for latent in (p, q))) > tv(p, q)).any()
        # nothing is lost where the observation tells the state
        revealing = np.eye(s)[rng.permutation(s)]
        np.testing.assert_allclose(tv(p @ revealing, q @ revealing), tv(p, q))
    assert strict > 100, "blurring observations do lose something"


# ---------------------------------------------------------------------- MOPO


def mopo(coefficient: float) -> Callable[[Draws], tuple[Array, Array]]:
    """V_M^^pi of r - coefficient TV(M, M^) <= V_M^pi."""

    def sides(d: Draws) -> tuple[Array, Array]:
        penalised = d.reward - coefficient * d.gap
        return value(d.model, d.policy, penalised, d.start), value(d.true, d.policy, d.reward, d.start)

    return sides


def test_penalised_return_in_the_model_is_a_lower_bound() -> None:
    assert worst(mopo(GAMMA / (1 - GAMMA)), 2000) <= 1e-10
    assert worst(mopo(0.5 * GAMMA / (1 - GAMMA)), 2000) > 0.1, "u must not be less than the error"
    assert worst(mopo(GAMMA), 2000) > 0.1, "errors act for 1/(1 - gamma) steps"
    assert worst(mopo(0.0), 2000) > 1.0, "without pessimism the model promises too much"
    assert worst(mopo(-GAMMA / (1 - GAMMA)), 2000) > 1.0, "the sign matters"


# ---------------------------------------------------------------------- HyPER


def hyper(on_expert: float, on_policy: float) -> Callable[[Draws], tuple[Array, Array]]:
    """J_M(E) - J_M(pi) <= J_M^(E) - J_M^(pi) + MODEL (on_expert E_{rho_M^E}[TV] + on_policy E_{rho_M^pi}[TV])."""

    def sides(d: Draws) -> tuple[Array, Array]:
        true, model = (
            value(m, d.expert, d.reward, d.start) - value(m, d.policy, d.reward, d.start) for m in (d.true, d.model)
        )
        error = on_expert * mean(occupancy(d.true, d.expert, d.start), d.gap)
        error = error + on_policy * mean(occupancy(d.true, d.policy, d.start), d.gap)
        return true, model + MODEL * error

    return sides


def test_hyper_bound_needs_a_model_that_is_right_where_both_go() -> None:
    assert worst(hyper(1, 1), 2000) <= 1e-10
    assert worst(hyper(1, 0), 2000) > 0.1, "a model of the expert's data alone"
    assert worst(hyper(0, 1), 2000) > 0.1, "a model of the policy's data alone"
    assert worst(hyper(0.5, 0.5), 2000) > 0.1, "the average of both errors is too little"


# ---------------------------------------------------------------------- performance difference


def test_performance_difference_is_the_advantage_where_the_expert_goes() -> None:
    wrong = 0.0
    for d in draws(300, seed=1):
        v, q = q_values(d.true, d.policy, d.reward)
        advantage = q - v[..., None]
        gap = value(d.true, d.expert, d.reward, d.start) - value(d.true, d.policy, d.reward, d.start)
        at_expert, at_policy = (
            mean(occupancy(d.true, p, d.start), advantage) / (1 - GAMMA) for p in (d.expert, d.policy)
        )
        np.testing.assert_allclose(at_expert, gap, rtol=0, atol=1e-12)
        wrong = max(wrong, float(np.abs(at_policy - gap).max()))
    assert wrong > 0.5, "a policy has no advantage over itself"


def expert_places(rng: np.random.Generator, n: int, s: int, a: int) -> tuple[Array, Array, Array, Array]:
    """Dynamics, start, a deterministic expert, and where it goes (n, S): never outside the first half of the states."""
    dynamics = dirichlet(rng, n, s, a, s)
    home = np.arange(s) < s // 2
    dynamics[:, :, 0] *= home  # action 0, the expert's, stays there
    dynamics /= dynamics.sum(-1, keepdims=True)
    start = dirichlet(rng, n, s) * home
    start /= start.sum(-1, keepdims=True)
    expert = np.broadcast_to(np.eye(a)[0], (n, s, a))
    return dynamics, start, expert, np.broadcast_to(home, (n, s))


@pytest.mark.parametrize("seed", [0, 1])
def test_no_advantage_on_expert_states_means_no_gap(seed: int) -> None:
    """So it suffices to improve the policy from expert resets (HyPER); some of the states do not suffice."""
    rng = np.random.default_rng(seed)
    n, s, a = 200, 8, 3
    dynamics, start, expert, home = expert_places(rng, n, s, a)
    reward, anything = rng.uniform(size=(n, s, a)), dirichlet(rng, n, s, a)
    target = value(dynamics, expert, reward, start)
    assert (value(dynamics, anything, reward, start) < target - 0.1).any(), "there is something to learn"
    there = improved(dynamics, anything, reward, home)
    assert (value(dynamics, there, reward, start) >= target - 1e-9).all()
    assert np.array_equal(there[:, s // 2 :], anything[:, s // 2 :]), "elsewhere the policy is as it was"
    partly = improved(dynamics, anything, reward, home & (np.arange(s) > 0))
    assert (value(dynamics, partly, reward, start) < target - 0.1).any()
