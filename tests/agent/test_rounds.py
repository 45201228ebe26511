"""Rounds of the reward player: whole trajectories, rollouts from where demonstrations begin, fits (algorithms 3.7,
3.10, 3.11).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.data import Replay
from agent.optim import Optimiser
from agent.reward.fitted import FittedReward
from agent.rounds import RewardRounds
from agent.starts import ReplayStarts
from models.latent import Losses
from tests.agent.test_upkeep import DATA, Learner, Reward

GAMMA = 0.5


class Whole(Reward):
    """Keeps inputs and weights; a pair of time t weighs GAMMA^t over the number of trajectories."""

    needs_weights = True

    def __init__(self, policy_data: str) -> None:
        super().__init__()
        self.policy_data = policy_data
        self.given: list[tuple[Tensor, Tensor]] = []

    def weights(self, time: Tensor, trajectories: int) -> Tensor:
        return GAMMA ** time.float() / trajectories

    def loss(self, expert: Tensor, policy: Tensor, w: Tensor, v: Tensor) -> tuple[Losses, dict[str, Tensor]]:
        self.given = [(expert, w), (policy, v)]
        return Losses(likelihood=torch.zeros(())), {}


def episode(
    replay: Replay, first: float, steps: int, *, expert: bool = False, terminal: bool = False, truth: float = 0.0
) -> int:
    """Observations count up from ``first``; the action taken in obs is obs / 1e4; every reward is truth * obs."""
    obs = (first + np.arange(steps + 1, dtype=np.float32))[:, None]
    action = np.concatenate([np.zeros((1, 1), np.float32), obs[:-1] / 1e4]).astype(np.float32)
    is_first, last, ends = (np.zeros(steps + 1, bool) for _ in range(3))
    is_first[0] = last[-1] = True
    ends[-1] = terminal
    rewards = np.concatenate([[np.nan], truth * obs[:-1, 0]]).astype(np.float32)
    return replay.add_episode(obs, action, is_first, last, ends, expert=expert, truth=rewards)


def rounds(replay: Replay, reward: Any, **data: Any) -> RewardRounds:
    learner = Learner(ReplayStarts(), "ens_std_mean")
    learner.reward = reward
    return RewardRounds(learner, replay, DATA | {"reward_restart": False, "reward_steps": 1} | data)  # type: ignore[arg-type]


@pytest.fixture
def replay(tmp_path: Path) -> Any:
    options: dict[str, Any] = {"obs_shape": (1,), "obs_dtype": np.float32, "action_size": 1, "capacity": 1000}
    replay = Replay(tmp_path, **options, budget_gb=1.0, truth=True)
    yield replay
    replay.close()


@pytest.mark.parametrize(("horizon", "lengths"), [(0, (5, 3)), (4, (4, 3))])
def test_fresh_trajectories_are_whole_and_weighted_by_their_time(
    replay: Replay, horizon: int, lengths: tuple[int, int]
) -> None:
    """All demonstrations against the newest episodes, of which each is no longer than one of them that ended by the
    clock, in turn; pairs, not rows one later.
    """
    episode(replay, 500, 5, expert=True)
    episode(replay, 600, 3, expert=True)
    episode(replay, 0, 7)
    new = [episode(replay, 100, 2, terminal=True), episode(replay, 200, 6)]
    work = rounds(replay, Whole("fresh"), reward_horizon=horizon)
    work.play(1, np.random.default_rng(0), new)
    (expert, w), (policy, v) = work.agent.reward.given
    first, second = lengths
    assert expert[:, 0].tolist() == [*range(500, 500 + first), *range(600, 600 + second)]
    assert w.tolist() == pytest.approx([GAMMA**t / 2 for n in lengths for t in range(n)])
    assert policy[:, 0].tolist() == [100, 101, *range(200, 203)], "the second demonstration has 3 steps"
    assert v.tolist() == pytest.approx([GAMMA**t / 2 for n in (2, 3) for t in range(n)])
    for x in (expert, policy):
        assert torch.allclose(x[:, 1], x[:, 0] / 1e4), "the action taken in the state"


def test_a_constant_reward_gains_nothing_by_the_clock(replay: Replay) -> None:
    """Demonstrations of 5 and 3 steps, own episodes of 7 and 6: both sums have the same weights (algorithms 4.5)."""
    episode(replay, 500, 5, expert=True)
    episode(replay, 600, 3, expert=True)
    new = [episode(replay, 100, 7), episode(replay, 200, 6)]
    work = rounds(replay, Whole("fresh"))
    work.play(1, np.random.default_rng(0), new)
    (_, w), (_, v) = work.agent.reward.given
    assert w.tolist() == pytest.approx(v.tolist()) and len(v) == 8


def test_what_a_terminated_demonstration_lacks_is_not_cut(replay: Replay) -> None:
    """The policy's steps after it are the point of the comparison; and means over pairs have no length."""
    episode(replay, 500, 5, expert=True, terminal=True)
    new = [episode(replay, 200, 6)]
    work = rounds(replay, Whole("fresh"))
    work.play(1, np.random.default_rng(0), new)
    assert work.agent.reward.given[1][0][:, 0].tolist() == [*range(200, 206)]
    means = rounds(replay, Reward(), reward_batch=500)
    means.play(1, np.random.default_rng(0), new)
    assert int(means.agent.reward.seen[0][1][:, 0].max()) == 205


def test_rollouts_begin_with_the_demonstrations_and_are_no_longer(replay: Replay) -> None:
    """Timed-out demonstrations of 5 and 3 steps, a terminated one of 2 (no limit but the horizon, 6)."""
    episode(replay, 500, 5, expert=True)
    episode(replay, 600, 3, expert=True)
    episode(replay, 700, 2, expert=True, terminal=True)
    work = rounds(replay, Whole("imagined"), reward_horizon=6, reward_rollouts=4)
    found = work.play(1, np.random.default_rng(0), [])
    (expert, w), (policy, v) = work.agent.reward.given
    assert len(expert) == 10 and w.sum().item() == pytest.approx(sum(GAMMA**t / 3 for n in (5, 3, 2) for t in range(n)))
    states = policy[:, 0].tolist()
    wanted = {(start + t): GAMMA**t / 6 for start, n in ((500, 5), (600, 3), (700, 6)) for t in range(n)}
    assert sorted(states) == sorted(2 * list(wanted)), "six rollouts: at least 4, every demonstration equally often"
    assert v.tolist() == pytest.approx([wanted[s] for s in states])
    assert bool((policy[:, 1] == 0.25).all()), "the policy's own actions"
    assert found["reward/length"].item() == pytest.approx((5 + 3 + 6) / 3)
    assert found["reward/u"].item() == pytest.approx(np.mean(states)), "the heads are +-state"


def test_rollouts_end_where_the_model_says_so(replay: Replay) -> None:
    episode(replay, 997, 6, expert=True)
    work = rounds(replay, Whole("imagined"), reward_horizon=6, reward_rollouts=1)
    work.play(1, np.random.default_rng(0), [])
    assert work.agent.reward.given[1][0][:, 0].tolist() == [997, 998, 999], "1000 ends it: no pair begins there"


def test_a_fitted_reward_explains_the_rewards_of_the_data_set(replay: Replay) -> None:
    for first in range(-4, 4):
        episode(replay, float(first), 8, truth=3.0)
    torch.manual_seed(0)
    reward = FittedReward(1, 1, hidden=32, layers=2, act="relu")
    work = rounds(replay, reward, reward_steps=400, reward_batch=64)
    work.agent.optimisers["reward"] = Optimiser(reward.parameters(), lr=1e-2, clip=100.0, eps=1e-8, wd=0.0)
    found = work.play(1, np.random.default_rng(0), [])
    assert found["reward/unexplained"] < 1e-2
    feat = torch.tensor([[-2.0], [0.0], [4.0]])
    np.testing.assert_allclose(reward.reward(reward.inputs(feat, feat / 1e4, noisy=True)).detach(), [-6, 0, 12], atol=1)


def test_a_reward_is_fitted_to_what_was_told_of_own_transitions() -> None:
    """Of demonstrations none is known (NaN), and of transitions that do not count none is wanted."""
    torch.manual_seed(0)
    reward = FittedReward(1, 1, hidden=4, layers=1, act="relu", policy_data="told")
    x, truth = torch.randn(6, 2), torch.tensor([1.0, float("nan"), 2.0, 5.0, 0.0, 1.0])
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    losses, found = reward.regression(x, truth, weight)
    rows = [0, 2, 4]
    torch.testing.assert_close(losses.total, (reward.reward(x[rows]) - truth[rows]).square().mean())
    assert torch.autograd.grad(losses.total, next(reward.parameters()))[0].isfinite().all()
    assert reward.regression(x, truth, 0 * weight)[0].total.item() == 0
    with pytest.raises(ValueError, match="none of truth, told"):
        FittedReward(1, 1, hidden=4, layers=1, act="relu", policy_data="fresh")


def test_rewards_that_are_not_there_cannot_be_fitted(replay: Replay) -> None:
    episode(replay, 0, 5, truth=float("nan"))
    with pytest.raises(ValueError, match="no rewards, or rewards that are not finite"):
        rounds(replay, FittedReward(1, 1, hidden=4, layers=1, act="relu")).play(1, np.random.default_rng(0), [])


def test_who_wants_rounds(replay: Replay) -> None:
    for source, wants, expected in (
        ("fresh", "transitions", True),
        ("imagined", "transitions", True),
        ("imagined", "rollout", False),
        ("replay", "transitions", False),
    ):
        learner = Learner(ReplayStarts())
        learner.reward, learner.policy.wants = Whole(source), wants
        assert RewardRounds(learner, replay, DATA).wanted == expected  # type: ignore[arg-type]
