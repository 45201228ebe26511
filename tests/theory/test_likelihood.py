"""Maximum-likelihood IRL on tabular processes: its gradient, its gap, its dual, and what the code makes of it
(algorithms 3.7, 5.4.1-4).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, root
from torch import Tensor

from agent.reward.ml import MLReward
from tests.theory.tabular import (
    GAMMA,
    Array,
    dirichlet,
    discounted_entropy,
    draws,
    entropies,
    likelihood,
    normalised,
    occupancy,
    q_values,
    soft_backup,
    soft_optimum,
    soft_value,
    value,
)


def process(seed: int, s: int = 4, a: int = 3) -> tuple[Array, Array, Array]:
    """Dynamics (1, S, A, S), start (1, S), a stochastic expert (1, S, A)."""
    rng = np.random.default_rng(seed)
    expert = normalised(rng.gamma(1.0, size=(1, s, a)) + 0.05)
    return normalised(rng.gamma(1.0, size=(1, s, a, s))), normalised(rng.gamma(1.0, size=(1, s))), expert


def reward_of(theta: Array, features: Array) -> Array:
    """Linear rewards: (F,), (S, A, F) -> (1, S, A)."""
    return (features @ theta)[None]


def exact_gradient(dynamics: Array, start: Array, expert: Array, reward: Array, features: Array) -> Array:
    """E_E[sum gamma^t phi] - E_pi[sum gamma^t phi]: (F,)."""
    policy = soft_optimum(dynamics, reward)[2]
    gap = occupancy(dynamics, expert, start) - occupancy(dynamics, policy, start)
    return np.einsum("sa,saf->f", gap[0], features) / (1 - GAMMA)


@pytest.mark.parametrize("kind", ["state_action", "state"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradient_of_the_likelihood_is_the_difference_of_occupancies(kind: str, seed: int) -> None:
    """Lemma 1, by central differences in float64."""
    dynamics, start, expert = process(seed)
    s, a = expert.shape[1:]
    features = np.eye(s * a).reshape(s, a, s * a)
    if kind == "state":
        features = np.broadcast_to(np.eye(s)[:, None], (s, a, s))
    theta = np.random.default_rng(seed).normal(size=features.shape[-1])

    def of(theta: Array) -> float:
        policy = soft_optimum(dynamics, reward_of(theta, features))[2]
        return float(likelihood(dynamics, expert, policy, start)[0])

    steps = 1e-5 * np.eye(len(theta))
    by_differences = np.array([(of(theta + h) - of(theta - h)) / 2e-5 for h in steps])
    found = exact_gradient(dynamics, start, expert, reward_of(theta, features), features)
    np.testing.assert_allclose(found, by_differences, rtol=0, atol=1e-8)
    assert np.abs(found).max() > 0.05, "there is a gradient"


def trajectories(
    dynamics: Array, start: Array, policy: Array, n: int, *, steps: int, stop: float, seed: int
) -> tuple[Array, ...]:
    """n sampled trajectories that end after ``steps``, or with chance ``stop`` after any. Of every pair: whose it is,
    time, state, action.
    """
    rng = np.random.default_rng(seed)

    def draw(p: Array) -> Array:
        return (rng.uniform(size=(len(p), 1)) > p.cumsum(-1)[:, :-1]).sum(-1)

    track, state, found = np.arange(n), draw(np.repeat(start, n, 0)), []
    for t in range(steps):
        action = draw(policy[0, state])
        found.append((track, np.full(len(track), t), state, action))
        on = rng.uniform(size=len(track)) >= stop
        track, state = track[on], draw(dynamics[0, state[on], action[on]])
    return tuple(np.concatenate(x) for x in zip(*found, strict=True))


@pytest.mark.parametrize("inputs", ["state_action", "state"])
@pytest.mark.parametrize(
    ("n", "stop", "right", "wrong"),
    [
        (4000, 0.0, ("discounted", 1.0), [("sum", 0.01), ("mean", 1.0)]),
        # who stops with chance 1 - gamma is discounted already
        (100_000, 1 - GAMMA, ("sum", 1 - GAMMA), [("discounted", 1 + GAMMA)]),
    ],
    ids=["whole", "stopped"],
)
def test_what_the_code_estimates_is_that_gradient(
    n: int, stop: float, right: tuple[str, float], wrong: list[tuple[str, float]], inputs: str
) -> None:
    """Sampled trajectories, inputs, weights and loss of the real learner: within 3 standard errors of the exact
    gradient, and far from it with weights that discount wrongly, though they add up to as much.
    """
    dynamics, start, expert = process(seed=3)
    # slow mixing, and a start that is never returned to, so that *when* a pair is visited matters
    dynamics = 0.9 * np.eye(4)[None, :, None] + 0.1 * dynamics
    start = np.eye(4)[:1]
    s, a = 4, 3
    reward = MLReward(
        s, s * a, inputs=inputs, hidden=1, layers=0, act="relu", clamp="none", bound=1.0, weighting="sum", gamma=GAMMA
    )

    def coded(state: Array, action: Array) -> Tensor:
        """Unit vectors of the state, and of the pair for an action, so that a linear reward is a table."""
        return reward.inputs(torch.eye(s)[state], torch.eye(s * a)[state * a + action], noisy=True)

    features = coded(*np.indices((s, a))).double().numpy()
    told = reward_of(np.random.default_rng(3).normal(size=features.shape[-1]), features)
    exact = (1 - GAMMA) * exact_gradient(dynamics, start, expert, told, features)
    policies = expert, soft_optimum(dynamics, told)[2]
    sides = [trajectories(dynamics, start, p, n, steps=100, stop=stop, seed=10 + i) for i, p in enumerate(policies)]

    def deviation(weighting: str, scale: float) -> float:
        """In standard errors, which the sums over single trajectories tell; the greatest."""
        reward.weighting = weighting
        weights = [reward.weights(torch.from_numpy(time), n) for _, time, _, _ in sides]
        losses, _ = reward.loss(*(coded(state, action) for *_, state, action in sides), *weights)
        (grad,) = torch.autograd.grad(losses.total, [reward.net.net[-1].weight])
        variance = 0.0
        for (track, _, state, action), weight in zip(sides, weights, strict=True):
            pairs = np.bincount((track * s + state) * a + action, n * weight.numpy(), n * s * a).reshape(n, s * a)
            variance = variance + (scale * pairs @ features.reshape(s * a, -1)).var(0) / n
        return float((np.abs(-scale * grad[0].double().numpy() - exact) / np.sqrt(variance)).max())

    assert deviation(*right) < 3
    for other in wrong:
        assert deviation(*other) > 10, other


def test_likelihood_is_return_less_value_and_its_gap_is_one_of_values() -> None:
    """L = E_E[sum gamma^t r] - E[V(s_0)]; Lemma 3: -L - Ent(pi_E) = E[V(s_0)] - E[V^E(s_0)] >= 0."""
    strict = 0
    for d in draws(200, seed=4):
        reward = 6 * d.reward - 3
        v, _, policy = soft_optimum(d.true, reward)
        found, at_start = likelihood(d.true, d.expert, policy, d.start), (v * d.start).sum(-1)
        np.testing.assert_allclose(found, value(d.true, d.expert, reward, d.start) - at_start, rtol=0, atol=1e-9)
        told = discounted_entropy(d.true, d.expert, d.start)
        soft_reward = reward + entropies(d.expert)[..., None]
        gap = at_start - value(d.true, d.expert, soft_reward, d.start)
        np.testing.assert_allclose(-found - told, gap, rtol=0, atol=1e-9)
        assert (gap >= -1e-10).all()
        strict += int((gap > 0.1).sum())
        own = at_start - value(d.true, policy, reward + entropies(policy)[..., None], d.start)
        np.testing.assert_allclose(own, 0, atol=1e-9)  # of the optimum itself
    assert strict > 50


@pytest.mark.parametrize("seed", [0, 1])
def test_the_dual_of_maximum_entropy(seed: int) -> None:
    """Linear rewards: at the optimum features match, and -L is the discounted entropy of the policy."""
    dynamics, start, expert = process(seed, s=5)
    features = np.random.default_rng(seed).normal(size=(5, 3, 3))

    def objective(theta: Array) -> tuple[float, Array]:
        reward = reward_of(theta, features)
        policy = soft_optimum(dynamics, reward)[2]
        gradient = exact_gradient(dynamics, start, expert, reward, features)
        return -float(likelihood(dynamics, expert, policy, start)[0]), -gradient

    found = minimize(objective, np.zeros(3), jac=True, method="BFGS", options={"gtol": 1e-9})
    assert np.abs(found.jac).max() < 1e-6, "features match"
    # both sides differ by theta times what is left of the gradient
    best = root(lambda theta: objective(theta)[1], found.x, tol=1e-13).x
    entropy = discounted_entropy(dynamics, soft_optimum(dynamics, reward_of(best, features))[2], start)[0]
    assert objective(best)[0] == pytest.approx(entropy, abs=1e-12)
    assert entropy > discounted_entropy(dynamics, expert, start)[0] + 1e-3, "the most random policy with these features"
    assert abs(objective(best + 0.3)[0] - entropy) > 1e-3, "elsewhere it is not"


def test_soft_bellman_operator() -> None:
    """A contraction by gamma; soft policy iteration improves everywhere and ends in the same fixed point."""
    rng = np.random.default_rng(0)
    ratios = []
    for d in draws(60, seed=6):
        reward = 4 * d.reward - 2
        one, two = (rng.normal(size=reward.shape) * 5 for _ in range(2))
        before = np.abs(one - two).max((-2, -1))
        after = np.abs(soft_backup(d.true, reward, one) - soft_backup(d.true, reward, two)).max((-2, -1))
        ratios.append(after / before)
        assert (after <= GAMMA * before + 1e-12).all()
        v, fixed, policy = soft_optimum(d.true, reward)
        np.testing.assert_allclose(policy.sum(-1), 1, atol=1e-10)
        own, best = dirichlet(rng, *reward.shape), None
        for _ in range(60):
            # soft Q of a policy: entropy is paid from the next state on
            with_entropy = entropies(own)
            ahead = reward + GAMMA * np.einsum("nsat,nt->nsa", d.true, with_entropy)
            q = q_values(d.true, own, ahead)[1]
            assert best is None or (q >= best - 1e-9).all(), "policy improvement"
            best, own = q, np.exp(q - soft_value(q)[..., None])
        assert best is not None
        np.testing.assert_allclose(best, fixed, rtol=0, atol=1e-8)
    assert np.concatenate(ratios).max() > 0.5 * GAMMA, "the factor is not vacuous"
