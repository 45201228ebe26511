"""Exact quantities of finite Markov decision processes, many at once (algorithms 5: tabular fixtures).

Legend: n processes, S states, A actions. Dynamics (n, S, A, S), policies (n, S, A), rewards (n, S, A), starts (n, S).
Values follow algorithms 1.1: J = E sum gamma^t r, and occupancies are normalised: J = <rho, r> / (1 - gamma).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

GAMMA = 0.9
Array = np.ndarray


def dirichlet(rng: np.random.Generator, *shape: int) -> Array:
    """Distributions along the last axis, from nearly deterministic to nearly uniform."""
    concentration = 10.0 ** rng.uniform(-1.5, 0.5, (shape[0], *[1] * (len(shape) - 1)))
    x = rng.gamma(np.broadcast_to(concentration, shape)) + 1e-12
    return normalised(x)


def normalised(x: Array) -> Array:
    """x >= 0 as distributions along the last axis."""
    return x / x.sum(-1, keepdims=True)


@dataclass(frozen=True)
class Draws:
    """n random (M, M^, expert, pi) with rewards in [0, 1]; M^ is wrong in some pairs, pi is like the expert or not."""

    start: Array
    true: Array
    model: Array
    expert: Array
    policy: Array
    reward: Array

    @property
    def gap(self) -> Array:
        """TV(M, M^)(s, a): (n, S, A)."""
        return tv(self.true, self.model)


def draws(n: int, seed: int) -> Iterator[Draws]:
    """About n draws with S in 2..6 and A in 2..4; half of the rewards are 0 or 1.

    In half of the draws the last state is a pit: nobody leaves it, it pays nothing, and which actions fall into it is
    another matter in M^ than in M. Small causes have great effects there, so that bounds are nearly tight.
    """
    rng = np.random.default_rng(seed)
    sizes = [(s, a) for s in range(2, 7) for a in range(2, 5)]
    m = -(-n // len(sizes))
    for s, a in sizes:
        true, expert, start = dirichlet(rng, m, s, a, s), dirichlet(rng, m, s, a), dirichlet(rng, m, s)
        pit, home = np.arange(m) % 2 == 0, np.arange(s) < s - 1
        true[pit] = normalised(true[pit] * home)
        start[pit] = normalised(start[pit] * home)
        expert[pit] = np.eye(a)[expert[pit].argmax(-1)]
        wrong = rng.uniform(size=(m, s, a, 1)) * (rng.uniform(size=(m, s, a, 1)) < rng.uniform(size=(m, 1, 1, 1)))
        model = (1 - wrong) * true + wrong * dirichlet(rng, m, s, a, s)
        for dynamics in (true, model):
            falls = rng.uniform(size=(m, 1, a, 1)) * (rng.uniform(size=(m, 1, a, 1)) < 0.5) * pit[:, None, None, None]
            dynamics[...] = (1 - falls) * dynamics + falls * np.eye(s)[-1]
            dynamics[pit, -1] = np.eye(s)[-1]
        other = rng.uniform(size=(m, 1, 1)) ** 3
        policy = (1 - other) * expert + other * dirichlet(rng, m, s, a)
        reward = rng.uniform(size=(m, s, a))
        reward[: m // 2] = reward[: m // 2].round()
        reward[pit, -1] = 0
        yield Draws(start, true, model, expert, policy, reward)


def tv(p: Array, q: Array) -> Array:
    """Total variation along the last axis."""
    return 0.5 * np.abs(p - q).sum(-1)


def tv_pairs(p: Array, q: Array) -> Array:
    """Total variation of occupancies (n, S, A): (n,)."""
    return 0.5 * np.abs(p - q).sum((-2, -1))


def mean(rho: Array, x: Array) -> Array:
    """E_rho[x]: (n, S, A) twice -> (n,)."""
    return (rho * x).sum((-2, -1))


def chain(dynamics: Array, policy: Array) -> Array:
    """State transitions under the policy: (n, S, S)."""
    return np.einsum("nsat,nsa->nst", dynamics, policy)


def occupancy(dynamics: Array, policy: Array, start: Array, gamma: float = GAMMA) -> Array:
    """rho = (1 - gamma) sum_t gamma^t P(s_t, a_t): (n, S, A), sums to 1."""
    eye = np.eye(start.shape[-1])
    flow = eye - gamma * chain(dynamics, policy).swapaxes(-1, -2)
    return np.linalg.solve(flow, (1 - gamma) * start[..., None]) * policy


def q_values(dynamics: Array, policy: Array, reward: Array, gamma: float = GAMMA) -> tuple[Array, Array]:
    """V (n, S) and Q (n, S, A) of the policy."""
    eye = np.eye(policy.shape[-2])
    own = (policy * reward).sum(-1)
    v = np.linalg.solve(eye - gamma * chain(dynamics, policy), own[..., None])[..., 0]
    return v, reward + gamma * np.einsum("nsat,nt->nsa", dynamics, v)


def value(dynamics: Array, policy: Array, reward: Array, start: Array, gamma: float = GAMMA) -> Array:
    """J (n,) by the Bellman equation, independent of ``occupancy``."""
    return (q_values(dynamics, policy, reward, gamma)[0] * start).sum(-1)


def improved(
    dynamics: Array, policy: Array, reward: Array, where: Array, gamma: float = GAMMA, rounds: int = 100
) -> Array:
    """Policy iteration in the states ``where`` (n, S) only, until no action there has an advantage."""
    for _ in range(rounds):
        v, q = q_values(dynamics, policy, reward, gamma)
        better = where & (q.max(-1) > v + 1e-12)
        if not better.any():
            break
        policy = np.where(better[..., None], np.eye(policy.shape[-1])[q.argmax(-1)], policy)
    return policy


# ---------------------------------------------------------------------- entropy-regularised optima (temperature 1)


def soft_backup(dynamics: Array, reward: Array, q: Array, gamma: float = GAMMA) -> Array:
    """The soft Bellman operator: r + gamma E[log sum exp Q(s', .)], (n, S, A)."""
    return reward + gamma * np.einsum("nsat,nt->nsa", dynamics, soft_value(q))


def soft_value(q: Array) -> Array:
    """log sum_a exp Q: (n, S, A) -> (n, S)."""
    top = q.max(-1)
    return top + np.log(np.exp(q - top[..., None]).sum(-1))


def soft_optimum(
    dynamics: Array, reward: Array, gamma: float = GAMMA, *, tolerance: float = 1e-14
) -> tuple[Array, Array, Array]:
    """V (n, S), Q and policy (n, S, A) of the fixed point, within ``tolerance`` of Q's size; pi = exp(Q - V)."""
    q = np.zeros_like(reward)
    for _ in range(5000):
        ahead = soft_backup(dynamics, reward, q, gamma)
        gap, q = np.abs(ahead - q).max(), ahead
        if gap < tolerance * max(1.0, float(np.abs(q).max())):
            break
    v = soft_value(q)
    return v, q, np.exp(q - v[..., None])


def entropies(policy: Array) -> Array:
    """Of pi(.|s): (n, S, A) -> (n, S)."""
    return -(policy * np.log(np.maximum(policy, 1e-300))).sum(-1)


def discounted_entropy(dynamics: Array, policy: Array, start: Array, gamma: float = GAMMA) -> Array:
    """Ent(pi) = E_pi sum gamma^t H(pi(.|s_t)): (n,)."""
    visits = occupancy(dynamics, policy, start, gamma).sum(-1) / (1 - gamma)
    return (visits * entropies(policy)).sum(-1)


def likelihood(dynamics: Array, expert: Array, policy: Array, start: Array, gamma: float = GAMMA) -> Array:
    """L = E_E sum gamma^t log pi(a_t|s_t): (n,)."""
    rho = occupancy(dynamics, expert, start, gamma)
    return mean(rho, np.log(np.maximum(policy, 1e-300))) / (1 - gamma)
