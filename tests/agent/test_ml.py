"""The likelihood reward: what is added up with which weights, its bounds, its inputs (algorithms 2.4, 3.7, 3.10)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agent.optim import Optimiser
from agent.reward.ml import MLReward
from tests.models.tiny import numbers

F, A, GAMMA = 3, 2, 0.9
OPTIONS: dict[str, Any] = {
    "inputs": "state_action",
    "hidden": 16,
    "layers": 2,
    "act": "relu",
    "clamp": "soft",
    "bound": 10.0,
    "weighting": "discounted",
    "gamma": GAMMA,
}


def make(**options: Any) -> MLReward:
    torch.manual_seed(0)
    return MLReward(F, A, **(OPTIONS | options))


def test_weights_of_whole_trajectories() -> None:
    """Two trajectories of 3 and 2 pairs; a long one weighs 1 in all, so that sums are comparable with rewards."""
    time = torch.tensor([0, 1, 2, 0, 1])
    expected = (1 - GAMMA) * GAMMA ** time.float() / 2
    torch.testing.assert_close(make().weights(time, 2), expected)
    assert make().weights(torch.arange(1000), 1).sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(make(weighting="sum").weights(time, 2), torch.full((5,), 0.5))
    torch.testing.assert_close(make(weighting="mean").weights(time, 2), torch.full((5,), 0.2))


def test_loss_is_the_policys_sum_less_the_experts() -> None:
    reward = make()
    x, y, w, v = numbers(4, F + A), numbers(3, F + A, seed=1), torch.rand(4), torch.rand(3)
    losses, metrics = reward.loss(x, y, w, v)
    expert, policy = ((reward.reward(z) * weight).sum() for z, weight in ((x, w), (y, v)))
    torch.testing.assert_close(losses.total, policy - expert)
    torch.testing.assert_close(metrics["gap"], (expert - policy).detach())
    # what has ended adds nothing: not a mean over what is left
    short = reward.loss(x, y[:1], w, v[:1])[0].total
    torch.testing.assert_close(short, v[0] * reward.reward(y[:1])[0] - expert)


def test_a_steep_reward_costs_what_is_above_the_limit() -> None:
    """Closed form: between two points a linear reward is as steep as its weights are long."""
    reward = make(lipschitz=0.5, gp_weight=3.0, clamp="none", layers=0)
    weight = torch.zeros(F + A)
    weight[0], weight[3] = 1.2, 1.6
    with torch.no_grad():
        reward.net.net[-1].weight.copy_(weight[None])
    x, y, ones = numbers(4, F + A), numbers(4, F + A, seed=1), torch.ones(4)
    losses, _ = reward.loss(x, y, ones, ones)
    assert losses["gp"].item() == pytest.approx(3.0 * (2.0 - 0.5) ** 2, rel=1e-5)
    losses["gp"].backward()
    slope = reward.net.net[-1].weight.grad
    assert slope is not None
    torch.testing.assert_close(slope[0], 3.0 * 2 * (2.0 - 0.5) * weight / 2.0)
    assert make(lipschitz=2.5, clamp="none", layers=0).loss(x, y, ones, ones)[0]["gp"].item() == 0.0
    assert "gp" not in make().loss(x, y, ones, ones)[0]
    nowhere = torch.zeros(4)
    assert reward.loss(x, y, ones, nowhere)[0]["gp"].item() == 0.0, "pairs that have ended count nowhere"


def test_rewards_are_bounded_and_only_a_hard_bound_has_no_gradient() -> None:
    far = 1e4 * numbers(50, F + A).abs()
    for clamp, bounded, gradient in (("soft", True, False), ("hard", True, False), ("none", False, True)):
        reward = make(clamp=clamp, bound=2.0)
        found = reward.reward(far)
        assert (found.abs().max() <= 2.0).item() == bounded, clamp
        (slope,) = torch.autograd.grad(found.sum(), [reward.net.net[-1].bias])
        assert (slope.abs().item() > 1.0) == gradient
    h = torch.tensor([-3.0, 0.1, 3.0])
    soft, hard = make(bound=2.0).clamp(h, 2.0), make(clamp="hard", bound=2.0).clamp(h, 2.0)
    torch.testing.assert_close(soft, 2 * torch.tanh(h / 2))
    assert hard.tolist() == pytest.approx([-2.0, 0.1, 2.0])


def test_a_state_only_reward_sees_no_action() -> None:
    feat, one, two = numbers(6, F), numbers(6, A, seed=1), numbers(6, A, seed=2)
    for inputs, same in (("state", True), ("state_action", False)):
        reward = make(inputs=inputs)
        found = [reward.reward(reward.inputs(feat, action, noisy=True)) for action in (one, two)]
        assert torch.equal(*found) == same


def test_what_the_expert_does_is_worth_more() -> None:
    """Orientation on two clusters, and L2 keeps weights that nothing asks for small."""
    norms = []
    for l2 in (0.0, 0.1):
        reward = make()
        optimiser = Optimiser(reward.parameters(), lr=1e-2, clip=100.0, eps=1e-8, wd=0.0, l2=l2)
        expert, policy = torch.randn(64, F + A) + 1, torch.randn(64, F + A) - 1
        weight = torch.full((64,), 1 / 64)
        for _ in range(150):
            optimiser.step(reward.loss(expert, policy, weight, weight)[0].total)
        gap = reward.reward(expert).mean() - reward.reward(policy).mean()
        assert gap > 1.0
        norms.append(sum(p.square().sum().item() for p in reward.parameters()))
    assert norms[1] < 0.7 * norms[0]


def test_l2_is_part_of_the_gradient_that_adam_rescales() -> None:
    """Equals plain Adam's ``weight_decay`` (official code), and not the decoupled decay."""
    torch.manual_seed(0)
    start, target = torch.randn(5), torch.randn(5)
    results = []
    for kind in ("ours", "torch", "decoupled"):
        w = torch.nn.Parameter(start.clone())
        if kind == "torch":
            adam: Any = torch.optim.Adam([w], lr=1e-2, eps=1e-8, weight_decay=0.3)
        else:
            decay = {"l2": 0.3} if kind == "ours" else {"l2": 0.0}
            adam = Optimiser([w], lr=1e-2, clip=1e9, eps=1e-8, wd=0.0 if kind == "ours" else 0.003, **decay)
        for _ in range(20):
            loss = (w - target).square().sum()
            if kind == "torch":
                adam.zero_grad()
                loss.backward()
                adam.step()
            else:
                adam.step(loss)
        results.append(w.detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(results[2], results[1], atol=1e-4)


@pytest.mark.parametrize("bad", [{"inputs": "action"}, {"clamp": "firm"}, {"weighting": "all"}, {"policy_data": "old"}])
def test_bad_options_are_told(bad: dict[str, str]) -> None:
    (name,) = bad
    with pytest.raises(ValueError, match=rf"reward\.{name}: '{bad[name]}' is none of"):
        make(**bad)
