"""Moment matching as a game: what a policy player must achieve, and what expert resets buy (algorithms 5.5.13-14)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from tests.theory.tabular import GAMMA, Array, dirichlet, improved, normalised, occupancy

COSTS, ROUNDS = 20, 300


# ---------------------------------------------------------------------- no-regret game


@dataclass(frozen=True)
class Game:
    """One process, an expert, and costs in [0, 1] (COSTS, S, A); ``home`` (1, S): the states that the expert visits."""

    dynamics: Array
    start: Array
    expert: Array
    home: Array
    costs: Array
    gamma: float

    def j(self, policy: Array) -> Array:
        """Expected costs of a policy (1, S, A): (COSTS,)."""
        rho = occupancy(self.dynamics, policy, self.start, self.gamma)
        return (rho * self.costs).sum((-2, -1)) / (1 - self.gamma)

    def improve(self, policy: Array, weights: Array, where: Array) -> Array:
        """The policy without advantages in the states ``where`` under a mixture of the costs (COSTS,)."""
        cost = np.einsum("c,csa->sa", weights, self.costs)[None]
        return improved(self.dynamics, policy, -cost, where, self.gamma)


Oracle = Callable[[Game, Array, np.random.Generator], Array]  # game, weights of the costs -> policy (1, S, A)


def expert_competitive(game: Game, weights: Array, rng: np.random.Generator) -> Array:
    """Improves a random policy where the expert goes, nowhere else: by resets to demonstrated states."""
    return game.improve(dirichlet(rng, *game.expert.shape), weights, game.home)


def careless(game: Game, weights: Array, rng: np.random.Generator) -> Array:
    """A policy player that competes with nobody."""
    return dirichlet(rng, *game.expert.shape)


@dataclass(frozen=True)
class Outcome:
    """gap: greatest excess cost of the average policy; eps_f, eps_pi: average regrets of both players;
    lost: average excess over the *best* policy on the costs of each round.
    """

    gap: float
    eps_f: float
    eps_pi: float
    lost: float


def play(game: Game, oracle: Oracle, *, rate: float, rounds: int = ROUNDS, seed: int = 0) -> Outcome:
    """Hedge with ``rate`` on the costs, against the oracle's answers to its mixtures."""
    rng, total, played, lost = np.random.default_rng(seed), np.zeros(COSTS), 0.0, 0.0
    target, everywhere = game.j(game.expert), np.ones_like(game.home)
    for _ in range(rounds):
        weights = normalised(np.exp(rate * (total - total.max())))
        policy = oracle(game, weights, rng)
        excess = game.j(policy) - target
        played += float(weights @ excess) / rounds
        lost += float(weights @ (game.j(policy) - game.j(game.improve(policy, weights, everywhere)))) / rounds
        total += excess
    gap = float(total.max()) / rounds
    return Outcome(gap, gap - played, played, lost)


def hedge_bound(span: float, rounds: int = ROUNDS) -> tuple[float, float]:
    """Learning rate and average regret of Hedge when excess costs lie in an interval of length ``span``."""
    return np.sqrt(8 * np.log(COSTS) / rounds) / span, span * np.sqrt(np.log(COSTS) / (2 * rounds))


def with_opposites(features: Array) -> Array:
    """Costs c and 1 - c, so that only a policy with the expert's features has no excess cost anywhere."""
    return np.concatenate([features, 1 - features])


def random_game(seed: int) -> Game:
    """The expert goes round in the first half of the states; other actions lead everywhere."""
    rng = np.random.default_rng(seed)
    s, a = 6, 3
    home = np.arange(s) < s // 2
    dynamics = dirichlet(rng, 1, s, a, s)
    dynamics[:, :, 0] = normalised(dynamics[:, :, 0] * home)
    expert = np.broadcast_to(np.eye(a)[0], (1, s, a))
    costs = with_opposites(rng.uniform(size=(COSTS // 2, s, a)))
    return Game(dynamics, normalised(home[None] * 1.0), expert, home[None], costs, GAMMA)


def tree_game(seed: int) -> Game:
    """A binary tree of depth 3, costs on its edges. The expert always goes left, which is best for none of the costs:
    always right costs 1 instead of 1.5. But who goes right without knowing the way pays more than the expert.
    """
    depth, rng = 3, np.random.default_rng(seed)
    s = 2 ** (depth + 1)  # node k has children 2k, 2k + 1; node 0 is the end
    nodes, inner = np.arange(s), np.arange(1, 2**depth)
    dynamics = np.zeros((1, s, 2, s))
    dynamics[:, :, :, 0] = 1
    dynamics[:, inner] = np.eye(s)[np.stack([2 * inner, 2 * inner + 1], 1)]
    spine, costs = np.isin(nodes, 2 ** np.arange(depth)), with_opposites(rng.uniform(size=(COSTS // 2, s, 2)))
    costs[:, spine, 0], costs[:, 1, 1] = 0.5, 1.0
    costs[:, [3, 6, 7]] = 1.0, 0.0  # below the root's right child
    costs[:, ~np.isin(nodes, inner)] = 0.0
    expert = np.broadcast_to(np.eye(2)[0], (1, s, 2))
    return Game(dynamics, np.eye(s)[1][None], expert, spine[None], costs, 0.99)


@pytest.mark.parametrize(("make", "span"), [(random_game, 1 / (1 - GAMMA)), (tree_game, 3.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_competing_with_the_expert_suffices(make: Callable[[int], Game], span: float, seed: int) -> None:
    """J(average, c) - J(E, c) <= eps_f + eps_pi for every cost c (3.5): at most Hedge's regret, since eps_pi <= 0."""
    game = make(seed)
    rate, bound = hedge_bound(span)
    found = play(game, expert_competitive, rate=rate)
    assert found.eps_pi <= 1e-9 and found.eps_f <= bound
    assert found.gap <= bound, "no cost tells the average policy from the expert"
    bad = play(game, careless, rate=rate)
    assert bad.eps_pi > 0 and bad.gap > bound, "the bound is no triviality"


def test_the_best_policy_is_not_needed() -> None:
    """The expert of the tree is best for no cost, and the oracle stays far from the best on the costs of each round."""
    game = tree_game(0)
    for i, weights in enumerate(np.eye(COSTS)):
        best = game.improve(game.expert, weights, np.ones_like(game.home))
        assert game.j(best)[i] < game.j(game.expert)[i] - 0.4
    rate, bound = hedge_bound(3.0)
    found = play(game, expert_competitive, rate=rate)
    assert found.gap <= bound and found.lost > 0.3


def test_the_costs_must_answer_the_policy() -> None:
    """A cost player that goes the wrong way has regret, and then the gap is not closed either."""
    game, (rate, bound) = random_game(0), hedge_bound(1 / (1 - GAMMA))
    wrong = play(game, expert_competitive, rate=-rate)
    assert wrong.eps_pi <= 1e-9 and wrong.eps_f > bound and wrong.gap > bound
