"""TD3+BC's losses by hand, its delays and its smoothing (algorithms 3.5, 5.6.4, 5.6.8)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agent.optim import Optimiser
from agent.policy.base import PolicyBatch, TransitionBatch
from agent.policy.td3_bc import TD3BCPolicy
from models.dists import PointMass
from models.latent import Transitions
from tests.agent.batches import CLONE, PAIRS, REWARD, A, F, N
from tests.agent.learner import LinearCritics
from tests.models.tiny import numbers

TD3: dict[str, Any] = {
    "hidden": 16,
    "layers": 1,
    "act": "relu",
    "critics": 2,
    "critic_norm": False,
    "gamma": 0.9,
    "polyak": 0.1,
    "delay": 2,
    "alpha": 2.5,
    "target_noise": 0.0,
    "noise_clip": 0.5,
    "bc_rows": "all",
    "reward_scale": 1.0,
    "explore_noise": 0.1,
}
CHOSEN, AHEAD = torch.tensor([0.3, -0.8]), torch.tensor([0.9, -0.1])


def make_td3(feat: int = F, action: int = A, **options: Any) -> TD3BCPolicy:
    torch.manual_seed(0)
    return TD3BCPolicy(feat, action, **(TD3 | options))


def batch(index: int = 0, pairs: Transitions = PAIRS) -> TransitionBatch:
    return TransitionBatch(pairs, REWARD, CLONE, index)


class FixedActor(nn.Module):
    """Does the same everywhere."""

    def __init__(self, action: Tensor) -> None:
        super().__init__()
        self.action = nn.Parameter(action.clone())

    def forward(self, feat: Tensor) -> PointMass:
        return PointMass(self.action.expand(len(feat), -1))


def by_hand(**options: Any) -> TD3BCPolicy:
    """Known critics, targets and actions."""
    policy = make_td3(**options)
    policy.actor, policy.target_actor = FixedActor(CHOSEN), FixedActor(AHEAD)
    policy.critics = LinearCritics(numbers(2, F, seed=10), numbers(2, A, seed=11))
    policy.target = LinearCritics(numbers(2, F, seed=12), numbers(2, A, seed=13)).requires_grad_(False)
    return policy


def value(critics: nn.Module, i: int, feat: Tensor, action: Tensor) -> float:
    return ((feat * critics.w[i]).sum() + (action * critics.v[i]).sum()).item()


def critic_loss_by_hand(policy: TD3BCPolicy, ahead: Tensor) -> float:
    """Row 1 terminated and does not bootstrap; row 3 does not count."""
    total = 0.0
    for n in range(3):
        target = min(value(policy.target, i, PAIRS.next_feat[n], ahead[n]) for i in range(2))
        y = REWARD[n].item() + (0.0 if n == 1 else 0.9 * target)
        total += sum((value(policy.critics, i, PAIRS.feat[n], PAIRS.action[n]) - y) ** 2 for i in range(2)) / 3
    return total


def test_critic_loss_by_hand() -> None:
    policy = by_hand()
    losses, metrics = policy.losses(batch())
    total = critic_loss_by_hand(policy, AHEAD.expand(N, A))
    assert losses["critics"].total.item() == pytest.approx(total, rel=1e-5)
    assert metrics["td_error"].item() == pytest.approx(total / 2, rel=1e-5)
    assert not any(m.requires_grad for m in metrics.values())


def test_smoothing_noise_is_clipped_and_so_is_the_action(monkeypatch: pytest.MonkeyPatch) -> None:
    """sigma times these draws is +-0.1 or far beyond +-0.5; 0.9 + 0.5 is no action."""
    draws = torch.tensor([[0.5, 9.0], [9.0, -0.5], [-9.0, 0.5], [9.0, 9.0]])
    monkeypatch.setattr(torch, "randn_like", lambda x: draws)
    policy = by_hand(target_noise=0.2)
    smoothed = torch.tensor([[1.0, 0.4], [1.0, -0.2], [0.4, 0.0], [1.0, 0.4]])
    found = policy.losses(batch())[0]["critics"].total.item()
    assert found == pytest.approx(critic_loss_by_hand(policy, smoothed), rel=1e-5)


@pytest.mark.parametrize("rows", ["all", "demos"])
def test_actor_loss_by_hand(rows: str) -> None:
    policy = by_hand(bc_rows=rows)
    q = [value(policy.critics, 0, PAIRS.feat[n], CHOSEN) for n in range(3)]
    scale = 2.5 / (sum(abs(x) for x in q) / 3)
    source = PAIRS if rows == "all" else CLONE
    counted = [n for n in range(N) if source.weight[n] > 0]
    bc = sum(float((CHOSEN - source.action[n]).square().mean()) for n in counted) / 3
    loss = policy.losses(batch())[0]["actor"]
    assert loss["rl"].item() == pytest.approx(-scale * sum(q) / 3, rel=1e-5)
    assert loss["bc"].item() == pytest.approx(bc, rel=1e-5)
    (grad,) = torch.autograd.grad(loss["rl"], policy.actor.action)
    torch.testing.assert_close(grad, -scale * policy.critics.v[0].detach())  # the scale itself has no gradient


def test_actor_and_targets_move_in_every_second_update() -> None:
    policy = make_td3()
    assert [set(policy.losses(batch(i))[0]) for i in range(3)] == [
        {"critics", "actor"},
        {"critics"},
        {"critics", "actor"},
    ]
    pairs = ((policy.target, policy.critics), (policy.target_actor, policy.actor))
    start = [[p.clone() for p in target.parameters()] for target, _ in pairs]
    with torch.no_grad():
        for _, online in pairs:
            for p in online.parameters():
                p.add_(1.0)
    for index in range(6):
        policy.after_update(index)
    for (target, online), before in zip(pairs, start, strict=True):
        for p, q, s in zip(target.parameters(), online.parameters(), before, strict=True):
            torch.testing.assert_close(p.detach(), (q + 0.9**3 * (s - q)).detach())


@pytest.mark.parametrize("name", ["actor", "critics"])
def test_each_loss_moves_only_its_own_parameters(name: str) -> None:
    policy = make_td3(target_noise=0.2)
    leaf = PAIRS.feat.clone().requires_grad_()
    loss = policy.losses(batch(pairs=dataclasses.replace(PAIRS, feat=leaf)))[0][name].total
    (reached,) = torch.autograd.grad(loss, [leaf], allow_unused=True, retain_graph=True)
    assert (reached is not None) == (name == "critics"), "an encoder behind the features learns from the critics alone"
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    opt = Optimiser(policy.groups()[name], lr=1e-2, clip=100.0, eps=1e-8, wd=0.0)
    opt.step(loss)
    moved = {n for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved and moved == {n for n, _ in policy.named_parameters() if n.startswith(name + ".")}


def test_clone_is_least_squares() -> None:
    policy = by_hand()
    losses, metrics = policy.clone(PolicyBatch(CLONE))
    expected = sum(float((CHOSEN - CLONE.action[n]).square().sum()) for n in (0, 1, 3)) / 3
    assert losses["actor"]["bc"].item() == pytest.approx(expected, rel=1e-4)
    assert metrics["bc_error"].item() == pytest.approx(expected, rel=1e-4)


def test_unknown_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="none of all, demos"):
        make_td3(bc_rows="expert")


def test_bandit_learns_the_best_action_between_value_and_data() -> None:
    """One step, reward 1 - (a - 0.5)^2, actions around 0: a large alpha finds 0.5, a small one the data's mean."""
    found = {}
    for alpha in (1e3, 1e-3):
        policy = make_td3(1, 1, alpha=alpha, act="elu", hidden=32)
        rates = {"actor": 2e-3, "critics": 1e-2}
        opts = {n: Optimiser(p, lr=rates[n], clip=1e9, eps=1e-8, wd=0.0) for n, p in policy.groups().items()}
        ones = torch.ones(64)
        torch.manual_seed(0)
        for index in range(500):
            a = 2 * torch.rand(64, 1) - 1
            pairs = Transitions(ones[:, None], a, ones[:, None], ones, ones)
            losses, _ = policy.losses(TransitionBatch(pairs, 1 - (a[:, 0] - 0.5).square(), CLONE, index))
            learned = [name for name in losses if name == "critics" or index > 200]
            for name in learned:
                opts[name].differentiate(losses[name].total)
            for name in learned:
                opts[name].apply()
        found[alpha] = policy.actor(ones[:1, None]).mode().item()
    assert found[1e3] == pytest.approx(0.5, abs=0.1) and found[1e-3] == pytest.approx(0.0, abs=0.1)
