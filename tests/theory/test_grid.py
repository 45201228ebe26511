"""Likelihood rewards on a grid of 5 x 5: what is recovered, what of it transfers, and what pessimism does where there
are no data (algorithms 3.7, 3.10, 5.7.2-3).

Rewards, weights, losses, optimisers and penalties are the code's own; policies and their visits are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from agent.imagine import penalised
from agent.optim import Optimiser
from agent.penalties import Penalty, make_penalty
from agent.reward.ml import MLReward
from models.latent import HeadStats
from tests.theory.tabular import (
    GAMMA,
    Array,
    chain,
    improved,
    normalised,
    occupancy,
    q_values,
    soft_optimum,
    tv_pairs,
    value,
)

SIDE, MOVES = 5, ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # stay, up, down, left, right
S, A = SIDE**2, len(MOVES)
FIRST, GOAL = 10, 14  # the middles of the left and of the right edge
START = np.eye(S)[[FIRST]]
TRUTH = 5.0 * np.broadcast_to(np.eye(S)[GOAL][:, None], (1, S, A))  # 1, at a temperature of 0.2
STEPS, BOUND = 100, 5.0
PAIRS = torch.eye(S).repeat_interleave(A, 0), torch.eye(A).repeat(S, 1)  # states and actions as unit vectors
NONE = make_penalty("none", 0.0)


def grid(*, walls: Sequence[int] = (), slip: float = 0.0) -> Array:
    """Dynamics (1, S, A, S): who is at the goal begins anew; a share ``slip`` of the moves is drawn uniformly."""
    leads = np.zeros((S, A), int)
    for s in range(S):
        for a, (down, right) in enumerate(MOVES):
            row, column = s // SIDE + down, s % SIDE + right
            there = row * SIDE + column
            leads[s, a] = there if 0 <= row < SIDE and 0 <= column < SIDE and there not in walls else s
    leads[GOAL] = FIRST
    meant = np.eye(S)[leads]
    return ((1 - slip) * meant + slip * meant.mean(1, keepdims=True))[None]


def make(inputs: str) -> MLReward:
    torch.manual_seed(0)
    return MLReward(
        S, A, inputs=inputs, hidden=64, layers=2, act="relu", clamp="soft", bound=BOUND, weighting="discounted",
        gamma=GAMMA,
    )  # fmt: skip


def visits(dynamics: Array, policy: Array) -> Array:
    """P(s_t, a_t) of t = 0..STEPS - 1: (n, STEPS, S * A), float32."""
    moves, at = chain(dynamics, policy), [np.repeat(START, len(policy), 0)]
    for _ in range(STEPS - 1):
        at.append(np.einsum("ns,nst->nt", at[-1], moves))
    pairs = np.stack(at, 1)[..., None] * policy[:, None]
    return pairs.reshape(len(policy), STEPS, S * A).astype(np.float32)


@torch.no_grad()
def told(rewards: Sequence[MLReward], penalties: Sequence[Penalty], u: Array) -> Array:
    """What the policies get for every pair, r - alpha u: (n, S, A)."""
    tables = [
        penalised(reward.reward(reward.inputs(*PAIRS, noisy=False)), torch.from_numpy(each).flatten(), penalty)
        for reward, penalty, each in zip(rewards, penalties, u, strict=True)
    ]
    return torch.stack(tables).double().view(-1, S, A).numpy()


def learn(
    rewards: Sequence[MLReward], dynamics: Array, expert: Array, penalties: Sequence[Penalty], u: Array, rounds: int
) -> Array:
    """Likelihood ascent of n rewards at once, each against the soft-optimal policy in its own dynamics (n, S, A, S),
    with its own penalty and u (n, S, A); ``expert`` (STEPS, S * A): what the demonstrations visit. Returns the policies
    (n, S, A) of the last rewards.
    """
    # eps: once expert and policy meet, Adam would take steps as long as ever
    optimisers = [Optimiser(r.parameters(), lr=1e-2, clip=100.0, eps=1e-3, wd=0.0) for r in rewards]
    shown = torch.from_numpy(expert)
    for _ in range(rounds):
        policy = soft_optimum(dynamics, told(rewards, penalties, u), tolerance=1e-6)[2]
        own = torch.from_numpy(visits(dynamics, policy))
        for reward, optimiser, each in zip(rewards, optimisers, own, strict=True):
            x, weight = reward.inputs(*PAIRS, noisy=True), reward.weights(torch.arange(STEPS), 1)
            losses, _ = reward.loss(x, x, weight @ shown, weight @ each)
            optimiser.step(losses.total)
    return soft_optimum(dynamics, told(rewards, penalties, u))[2]


def greedy(dynamics: Array, reward: Array) -> Array:
    """The best policy without entropy: (n, S, A)."""
    uniform = np.full(reward.shape, 1 / A)
    return improved(dynamics, uniform, reward, np.ones(reward.shape[:2], bool))


def test_a_reward_of_states_survives_a_wall_and_one_of_pairs_need_not() -> None:
    """5.7.2: both tell what the expert does. But pairs may be paid for what is progress in the dynamics they were
    learned in, and then at a wall it is earned for ever without getting anywhere.
    """
    before, after = (np.repeat(grid(walls=walls), 2, 0) for walls in ((), (2, 7, 12, 17)))
    truth, start = np.repeat(TRUTH, 2, 0), np.repeat(START, 2, 0)
    expert = soft_optimum(before[:1], TRUTH)[2]
    assert occupancy(before[:1], expert, START).sum(-1).min() > 1e-3, "all states are visited"
    rewards, none = (make("state"), make("state_action")), np.zeros((2, S, A), np.float32)
    learn(rewards, before, visits(before[:1], expert)[0], [NONE] * 2, none, rounds=100)
    found = told(rewards, [NONE] * 2, none)

    best = q_values(before, greedy(before, truth), truth)[0]
    np.testing.assert_allclose(q_values(before, greedy(before, found), truth)[0], best, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found[0] - found[0].mean(), TRUTH[0] - TRUTH.mean(), rtol=0, atol=0.25)

    optimum = value(after, greedy(after, truth), truth, start)[0]
    assert value(after, greedy(before, truth), truth, start)[0] < 0.1 * optimum, "the wall is in the expert's way"
    by_states, by_pairs = value(after, greedy(after, found), truth, start)
    assert by_states > optimum - 1e-3
    assert by_pairs < 0.1 * optimum


# ---------------------------------------------------------------------- offline

HOLE = np.isin(np.arange(S), [1, 2, 3, 6, 7, 8])  # in the middle of the first two rows
MEMBERS, TRIES, WITHIN, BEYOND = 10, 100_000, 5.0, 60.0  # coefficients within and beyond the reach of the reward


def ensemble(true: Array, missing: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """The mean model (1, S, A, S) of data with TRIES transitions of every pair outside of ``missing`` (S,), and the
    members' disagreement u (S, A): each counts a bootstrap sample, on top of a prior opinion of its own.
    """
    seen = rng.multinomial(TRIES, true[0]) * ~missing[:, None, None]
    drawn = rng.multinomial(seen.sum(-1), normalised(seen + 1e-12), size=(MEMBERS, S, A))
    members = normalised(drawn + rng.dirichlet(np.full(S, 0.1), size=(MEMBERS, S, A)))
    u = make_penalty("max_dev", 1.0).u
    assert u is not None
    stats = HeadStats(torch.from_numpy(members).permute(1, 2, 0, 3).float())  # probabilities, as of discrete latents
    return members.mean(0)[None], u(stats).numpy()


@pytest.mark.parametrize("inputs", ["state", "state_action"])
def test_pessimism_keeps_out_of_what_the_data_omit_and_is_nothing_where_they_omit_nothing(inputs: str) -> None:
    """5.7.3. Demonstrations cross the hole, so that the likelihood asks for it: only a penalty that the reward's bound
    cannot outbid keeps the policy out; one within reach is learned away (r - alpha u is what likelihood determines).
    """
    true, rng = grid(slip=0.1), np.random.default_rng(0)
    (full, u_full), (holed, u_holed) = (ensemble(true, missing, rng) for missing in (np.zeros(S, bool), HOLE))
    assert WITHIN * u_holed.max() < 2 * BOUND < BEYOND * u_holed[HOLE].min(), "the reward spans 2 BOUND"
    assert BEYOND * max(u_full.max(), u_holed[~HOLE].max()) < 0.5, "what is known costs little"
    cases = [
        (true, 0 * u_full, 0.0),  # online
        *((full, u_full, alpha) for alpha in (0.0, BEYOND)),
        *((holed, u_holed, alpha) for alpha in (0.0, WITHIN, BEYOND)),
    ]
    dynamics, u = np.concatenate([case[0] for case in cases]), np.stack([case[1] for case in cases])
    penalties = [make_penalty("max_dev", case[2]) for case in cases]
    expert = visits(true, soft_optimum(true, TRUTH)[2])[0]
    policy = learn([make(inputs) for _ in cases], dynamics, expert, penalties, u, rounds=80)

    start = np.repeat(START, len(cases), 0)
    world, model = (occupancy(d, policy, start) for d in (np.repeat(true, len(cases), 0), dynamics))
    assert (tv_pairs(world, world[:1])[1:3] < 0.02).all(), "with full data offline is online"
    assert (tv_pairs(world, world[:1])[3:] > 0.05).all(), "and without it is not"
    (careless, bought, kept_out), (real_careless, _, real_kept_out) = (
        rho.sum(-1)[3:, HOLE].sum(-1) for rho in (model, world)
    )
    assert kept_out < 0.2 * careless and real_kept_out < 0.5 * real_careless
    assert bought > 0.5 * careless
