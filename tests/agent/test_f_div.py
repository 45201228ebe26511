"""f-IRL: its gradient against finite differences of the divergence, its ratio, its rounds (algorithms 3.8, 5.5.4)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agent.data import Replay
from agent.optim import Optimiser
from agent.reward.f_div import DIVERGENCES, FDivReward, Trajectories
from agent.rounds import RewardRounds, Tracks, joined
from agent.starts import ReplayStarts
from tests.agent.test_rounds import DATA, Learner, episode
from tests.models.tiny import numbers

S, T = 3, 4  # states, steps
OPTIONS: dict[str, Any] = {
    "divergence": "fkl",
    "hidden": 16,
    "layers": 2,
    "act": "relu",
    "clamp": "soft",
    "bound": 10.0,
    "ratio_hidden": 16,
    "ratio_blocks": 2,
    "ratio_clamp": 10.0,
    "ratio_steps": 20,
    "ratio_batch": 64,
}
F_OF: dict[str, Callable[[Tensor], Tensor]] = {
    "fkl": lambda u: u * u.log(),
    "rkl": lambda u: -u.log(),
    "js": lambda u: u * u.log() - (1 + u) * ((1 + u) / 2).log(),
}


def make(feat: int = S, **options: Any) -> FDivReward:
    torch.manual_seed(0)
    return FDivReward(feat, **(OPTIONS | options))


class Table(nn.Module):
    """One number for each of the states that are coded as unit vectors."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.values


@pytest.mark.parametrize("ends", [False, True], ids=["whole", "ends"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_covariance_is_the_gradient_of_the_divergence(divergence: str, ends: bool) -> None:
    """5.5.4, by enumeration of all trajectories; also where some end early, after which nothing is paid."""
    steps = list(itertools.product(range(S), repeat=T))
    length = torch.tensor([(1 + t.index(0) if ends and 0 in t else T) for t in steps])
    paths = torch.tensor(steps)
    there = torch.arange(T) < length[:, None]
    base = numbers(len(paths), seed=1, dtype=torch.float64)  # log of the dynamics' law
    # visits of S states and of what comes after an end, averaged over time: (trajectories, S + 1)
    each = torch.nn.functional.one_hot(torch.where(there, paths, S), S + 1).double().mean(1)
    expert = numbers(len(paths), seed=2, dtype=torch.float64).softmax(0) @ each

    def law(theta: Tensor) -> Tensor:
        return (base + T * each[:, :S] @ theta).softmax(0)

    def divergence_of(theta: Tensor) -> Tensor:
        rho = law(theta) @ each
        rho, target = (x[: S + ends] for x in (rho, expert))
        return (rho * F_OF[divergence](target / rho)).sum()

    theta = 0.3 * numbers(S, seed=3, dtype=torch.float64)
    rho, share = law(theta) @ each, law(theta)
    reward = make(divergence=divergence, clamp="none", ratio_clamp=50.0)
    reward.net, reward.ratio = Table(theta.clone()), Table((expert / rho)[:S].log())  # type: ignore[assignment]
    track = torch.arange(len(paths))[:, None].expand(-1, T)[there]
    states = torch.eye(S, dtype=torch.float64)[paths[there]]
    zero, after = torch.zeros(()).double(), (expert / rho)[S].log() if ends else torch.zeros(()).double()
    told = Trajectories(states, track, share, (T - length).double(), torch.tensor(float(T)), zero, after)
    (found,) = torch.autograd.grad(reward.loss(told)[0].total, [reward.net.values])  # type: ignore[list-item]
    for i, unit in enumerate(1e-3 * torch.eye(S, dtype=torch.float64)):
        near, far = (divergence_of(theta + k * unit) - divergence_of(theta - k * unit) for k in (1, 2))
        slope = (8 * near - far) / (12 * 1e-3)  # of fourth order: longer steps, on which rounding is nothing
        assert found[i].item() == pytest.approx(slope.item(), abs=1e-10)
    assert found.abs().max() > 1e-3


def test_the_classifier_finds_the_log_ratio() -> None:
    """Two states, visited 3 : 1 by the expert and 1 : 3 by the policy."""
    reward = make(2)
    optimiser = Optimiser(reward.groups()["classifier"], lr=1e-2, clip=100.0, eps=1e-8, wd=0.0)
    x = torch.eye(2)
    for _ in range(300):
        optimiser.step(reward.ratio_loss(x[[0, 0, 0, 1]], x[[0, 1, 1, 1]])[0].total)
    torch.testing.assert_close(reward.ratio(x).detach(), torch.tensor([3.0, 1 / 3]).log(), atol=1e-2, rtol=0)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_what_the_expert_visits_is_worth_more(divergence: str) -> None:
    """And a ratio that would overflow is bounded."""
    reward = make(divergence=divergence)
    optimiser = Optimiser(reward.groups()["reward"], lr=1e-2, clip=100.0, eps=1e-8, wd=0.0)
    x = torch.cat([numbers(20, S) + 1, numbers(20, S, seed=1) - 1])
    reward.ratio = Table(torch.full((S,), 100.0))  # type: ignore[assignment]
    track, even = torch.arange(40) // 10, torch.full((4,), 0.25)
    zero = torch.zeros(())
    told = Trajectories(x, track, even, torch.zeros(4), torch.tensor(10.0), zero, zero)
    for _ in range(100):
        losses, _ = reward.loss(told)
        assert losses.total.isfinite()
        optimiser.step(losses.total)
    assert reward.reward(x[:20]).mean() > reward.reward(x[20:]).mean() + 1


def tracks(*episodes: tuple[int, bool]) -> Tracks:
    """Episodes of (steps, terminates)."""
    time = torch.cat([torch.arange(n) for n, _ in episodes])
    done = torch.cat([torch.tensor([False] * (n - 1) + [end]) for n, end in episodes])
    track = (time == 0).cumsum(0) - 1
    return Tracks(torch.zeros(len(time), S), torch.zeros(len(time), 2), time, done, len(episodes), track)


def test_trajectories_are_joined_with_the_time_that_ends_have_left() -> None:
    kinds = [tracks((4, False), (2, False)), tracks((3, True), (1, True))]
    told = joined([each.feat for each in kinds], kinds, torch.tensor([2.0, 0.0]))
    assert told.track.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 3]
    assert told.share.tolist() == [0.5, 0.0, 0.25, 0.25]
    assert told.rest.tolist() == [0, 0, 1, 3], "what the clock has cut off is not known"
    assert told.horizon == 4
    # alive: all of the expert's time, half of the policy's
    assert told.log_alive.item() == pytest.approx(np.log(2)) and told.log_rest.item() < -10


def test_a_round_trains_the_classifier_and_then_the_reward(tmp_path: Path) -> None:
    """States 0..5 of the expert, 6..11 of the policy."""
    replay = Replay(tmp_path, obs_shape=(1,), obs_dtype=np.float32, action_size=1, capacity=1000, budget_gb=1.0)
    for first, expert in ((0.0, True), (0.1, True), (6.0, False), (6.1, False), (6.2, False)):
        episode(replay, first, 5, expert=expert)
    reward = make(1, ratio_steps=100)
    learner = Learner(ReplayStarts(), "ens_std_mean")
    learner.reward = reward
    groups = reward.groups().items()
    learner.optimisers = {name: Optimiser(p, lr=1e-2, clip=100.0, eps=1e-8, wd=0.0) for name, p in groups}
    data = DATA | {"reward_restart": False, "reward_steps": 20, "reward_horizon": 0}
    work = RewardRounds(learner, replay, data)  # type: ignore[arg-type]
    assert work.wanted
    found = work.play(1, np.random.default_rng(0), ())
    assert found["reward/d_expert"] > 0.5 > found["reward/d_policy"]
    demo, own = (reward.reward(torch.from_numpy(replay.pairs(kind).obs)).mean() for kind in ("expert", "online"))
    assert demo > own


@pytest.mark.parametrize("bad", [{"divergence": "kl"}, {"clamp": "firm"}])
def test_bad_options_are_told(bad: dict[str, str]) -> None:
    (name,) = bad
    with pytest.raises(ValueError, match=rf"reward\.{name}: '{bad[name]}' is none of"):
        make(**bad)
