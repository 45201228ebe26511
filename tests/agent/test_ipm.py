"""Moment matching: optimum, gradient penalty, ensemble, statistics, orientation (algorithms 2.4, 3.5, 4.5, 5.5.2-3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import configs
from agent.reward.ipm import IPMReward
from models.reward_net import CostNet
from tests.models.tiny import numbers

IPM: dict[str, Any] = {
    "hidden": 16,
    "layers": 2,
    "members": 1,
    "reduce": "mean",
    "clip": 0.0,
    "gp_weight": 10.0,
    "gp_target": 0.4,
    "standardise": False,
    "standard_clip": 5.0,
    "input_standardise": False,
    "stats_rate": 0.02,
    "anchor": False,
}


def make(feat: int = 3, action: int = 2, *, seed: int = 0, **options: Any) -> IPMReward:
    torch.manual_seed(seed)
    return IPMReward(feat, action, **(IPM | options))


def cost(reward: IPMReward, *weights: list[float], bias: float = 0.0) -> IPMReward:
    """Makes the costs (``layers`` = 0) linear with the given weights."""
    with torch.no_grad():
        reward.net.layers[0].weight.copy_(torch.tensor(weights)[..., None])
        reward.net.layers[0].bias.fill_(bias)
    return reward


def ones(*xs: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.ones(len(x)) for x in xs)


# ---------------------------------------------------------------------- optimum


def fitted(expert: Tensor, policy: Tensor, **options: Any) -> Tensor:
    """Weights of the best linear cost, by gradient descent (the loss is quadratic in the norm)."""
    reward = make(2, 0, layers=0, **options)
    for _ in range(200):
        loss = reward.loss(expert, policy, *ones(expert, policy))[0].total
        reward.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in reward.parameters():
                p -= 0.045 * p.grad
    return reward.net.layers[0].weight.detach()[0, :, 0]


@pytest.mark.parametrize(("gp_weight", "gp_target"), [(10.0, 0.4), (5.0, 1.0)])
def test_linear_optimum_in_closed_form(gp_weight: float, gp_target: float) -> None:
    """min_w w.Delta + c (||w|| - g0)^2: ||w|| = g0 + ||Delta|| / (2 c), against Delta; .4 + ||Delta|| / 20 in HyPE."""
    expert, policy = numbers(50, 2) + torch.tensor([1.5, -2.0]), numbers(70, 2, seed=1)
    delta = expert.mean(0) - policy.mean(0)
    w = fitted(expert, policy, gp_weight=gp_weight, gp_target=gp_target)
    assert w.norm().item() == pytest.approx(gp_target + delta.norm().item() / (2 * gp_weight), abs=1e-3)
    assert torch.cosine_similarity(w, -delta, 0).item() == pytest.approx(1.0, abs=1e-5), "low on experts"


def test_penalty_is_zero_exactly_at_the_target_norm() -> None:
    expert, policy = numbers(16, 2), numbers(24, 2, seed=1)
    for scale, expected in ((1.0, 0.0), (1.5, 10 * 0.2**2), (0.0, 10 * 0.4**2)):
        reward = cost(make(2, 0, layers=0), [scale * 0.24, scale * 0.32])
        losses, metrics = reward.loss(expert, policy, *ones(expert, policy))
        assert losses["gp"].item() == pytest.approx(expected, abs=1e-5)
        assert metrics["grad_norm"].item() == pytest.approx(scale * 0.4, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"members": 3, "reduce": "min"}, {"members": 3, "reduce": "max"}])
@pytest.mark.parametrize("standardise", [False, True])
def test_expert_like_pairs_earn_more(options: dict[str, Any], standardise: bool) -> None:
    reward = make(1, 1, standardise=standardise, input_standardise=standardise, clip=40.0, **options)
    expert, policy = numbers(64, 2) + 2, numbers(64, 2, seed=1) - 2
    optimiser = torch.optim.Adam(reward.parameters(), lr=0.01)
    for _ in range(80):
        losses, metrics = reward.loss(expert, policy, *ones(expert, policy))
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    assert reward.reward(expert).mean() > reward.reward(policy).mean() + 0.5
    assert metrics["f_expert"] < metrics["f_policy"] and metrics["gap"] > 0, "f is a cost"


# ---------------------------------------------------------------------- ensemble


@pytest.mark.parametrize(("reduce", "expected"), [("mean", -2.0), ("min", -4.0), ("max", -1.0)])
def test_reduction_is_that_of_the_reward(reduce: str, expected: float) -> None:
    """Costs 1, 1, 4: the greatest reward belongs to the least cost."""
    reward = cost(make(1, 0, members=3, reduce=reduce, layers=0), [1.0], [1.0], [4.0])
    assert reward.reward(torch.ones(5, 4, 1)).tolist() == [[expected] * 4] * 5


def test_members_differ_and_learn_as_if_alone() -> None:
    expert, policy = numbers(12, 5), numbers(20, 5, seed=1)
    both = make(members=2)
    assert not torch.equal(both.net.layers[0].weight[0], both.net.layers[0].weight[1])

    def gradients(reward: IPMReward) -> list[Tensor]:
        torch.manual_seed(3)  # the same interpolates
        loss = reward.loss(expert, policy, *ones(expert, policy))[0].total
        return [*torch.autograd.grad(loss, list(reward.net.layers.parameters()), allow_unused=True)][:-1]

    together = gradients(both)
    for k in range(2):
        alone = make(members=1)
        with torch.no_grad():
            for p, q in zip(alone.net.parameters(), both.net.parameters(), strict=True):
                p.copy_(q[k : k + 1])
        for found, expected in zip(together, gradients(alone), strict=True):
            torch.testing.assert_close(found[k : k + 1], expected, rtol=1e-4, atol=1e-5)


def test_weights_are_orthogonal_and_biases_zero() -> None:
    net = CostNet(6, members=2, hidden=6, layers=2)
    eye = torch.eye(6).expand(2, 6, 6)
    torch.testing.assert_close(net.layers[1].weight.mT @ net.layers[1].weight, eye)
    assert not any(layer.bias.any() for layer in net.layers)


def test_soft_clip_bounds_the_cost_and_leaves_a_gradient() -> None:
    x = torch.tensor([[0.01], [50.0], [1e4]]).requires_grad_()
    reward = cost(make(1, 0, layers=0, clip=40.0), [1.0])
    r = reward.reward(x)
    assert r[0].item() == pytest.approx(-0.01, rel=1e-4) and r.min() >= -40
    (grad,) = torch.autograd.grad(r[1], x)
    assert grad[1].item() < -0.1


# ---------------------------------------------------------------------- statistics


def test_standardised_reward_does_not_know_the_scale_or_offset_of_the_cost() -> None:
    expert, policy = numbers(40, 2) + 1, numbers(60, 2, seed=1)

    def rewards(scale: float, bias: float, **options: Any) -> Tensor:
        reward = cost(make(2, 0, layers=0, **options), [scale * 0.3, scale * -0.8], bias=bias)
        reward.loss(expert, policy, *ones(expert, policy))
        return torch.cat([reward.reward(expert), reward.reward(policy)])

    expected = rewards(1.0, 0.0, standardise=True)
    torch.testing.assert_close(rewards(30.0, 7.0, standardise=True), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(rewards(30.0, 7.0), rewards(1.0, 0.0))
    halves = expected[:40], expected[40:]
    mean = sum(h.mean() for h in halves) / 2
    assert mean.item() == pytest.approx(0.0, abs=1e-5), "both kinds of pairs count half"
    var = sum((h - mean).square().mean() for h in halves) / 2
    assert var.item() == pytest.approx(1.0, abs=1e-4)


def test_standardised_reward_is_cut() -> None:
    reward = cost(make(1, 0, layers=0, standardise=True, standard_clip=3.0), [1.0])
    assert reward.reward(torch.tensor([[-50.0], [2.0], [50.0]])).tolist() == [3.0, -2.0, -3.0], "no data: as it is"


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("bias", [-30.0, 0.0, 30.0])
def test_anchor_makes_going_on_worth_more_than_ending(bias: float, standardise: bool) -> None:
    """Whatever the offset of f: the policy's rewards have a mean of one standard deviation above 0."""
    expert, policy = numbers(40, 2) + 1, numbers(60, 2, seed=1)
    counts = (torch.arange(60) % 3 > 0).float()
    found = {}
    for anchor in (False, True):
        options = {"anchor": anchor, "standardise": standardise, "standard_clip": 20.0}
        reward = cost(make(2, 0, layers=0, **options), [0.3, -0.8], bias=bias)
        reward.loss(expert, policy, torch.ones(40), counts)
        found[anchor] = reward.reward(policy)[counts > 0]
    assert found[True].mean().item() == pytest.approx(found[True].std(correction=0).item(), abs=1e-4)
    shift = found[True] - found[False]
    torch.testing.assert_close(shift, shift[:1].expand(40), atol=1e-4, rtol=0, msg="a shift, no change of scale")


def test_standardised_inputs_hide_the_scale_of_features() -> None:
    expert, policy = numbers(40, 5) + 1, numbers(60, 5, seed=1)
    scale, shift = torch.tensor([0.2, 5.0, 1.0, 30.0, 2.0]), torch.tensor([0.0, 3.0, -9.0, 1.0, 2.0])
    found = []
    for a, b in ((torch.ones(5), torch.zeros(5)), (scale, shift)):
        reward = make(input_standardise=True)
        torch.manual_seed(1)
        losses = reward.loss(a * expert + b, a * policy + b, *ones(expert, policy))[0]
        found.append(torch.stack([losses["ipm"], losses["gp"], *reward.reward(a * policy + b)]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_entries_that_never_move_stay_small() -> None:
    reward = make(1, 0, input_standardise=True)
    assert reward.input_moments is not None
    x = torch.full((8, 1), 3.0)
    for _ in range(200):
        reward.loss(x, x, *ones(x, x))
    assert abs(reward.input_moments(x + 1e-4)).max() < 0.1


def test_statistics_are_an_average_at_first_and_follow_later() -> None:
    reward = make(1, 0, input_standardise=True, stats_rate=0.25)
    moments = reward.input_moments
    assert moments is not None
    seen = []
    for value in (4.0, 2.0, 6.0, 8.0, 0.0):
        x = torch.full((8, 1), value)
        reward.loss(x + 1, x - 1, *ones(x, x))
        seen.append(moments.mean.item())
    assert seen == pytest.approx([4, 3, 4, 5, 3.75]), "rates 1, 1/2, 1/3, 1/4, 1/4"
    assert moments.var.item() == pytest.approx(1.0, rel=1e-5), "expert and policy are 2 apart"


# ---------------------------------------------------------------------- weights, gradients, options


def test_pairs_of_weight_zero_do_not_count() -> None:
    reward = cost(make(2, 0, layers=0, members=2), [0.5, 1.0], [1.0, 0.0])
    expert, policy = numbers(6, 2), numbers(8, 2, seed=1)
    keep_e, keep_p = torch.tensor([1.0, 1, 0, 1, 0, 1]), torch.tensor([1.0, 0, 1, 1, 1, 1, 0, 0])
    spoiled = torch.where(keep_p[:, None] > 0, policy, 1e3)
    some = reward.loss(expert, spoiled, keep_e, keep_p)[0]["ipm"]
    kept = reward.loss(expert[keep_e > 0], policy[keep_p > 0], torch.ones(4), torch.ones(5))[0]["ipm"]
    torch.testing.assert_close(some, kept)


def test_penalty_skips_interpolates_with_pairs_that_do_not_count() -> None:
    """relu(x): gradient 1 at positive x, where all pairs that count lie, else 0."""
    reward = make(1, 0, layers=1, hidden=1, gp_target=1.0)
    with torch.no_grad():
        for layer in reward.net.layers:
            layer.weight.fill_(1.0)
    x = torch.cat([torch.ones(30, 1), -torch.ones(30, 1)])
    keep = (x[:, 0] > 0).float()
    assert reward.loss(x, x, keep, keep)[0]["gp"].item() == pytest.approx(0.0, abs=1e-9)
    assert reward.loss(x, x, *ones(x, x))[0]["gp"].item() > 1


def test_without_one_kind_of_pairs_nothing_moves() -> None:
    """As at the start of training, when replay holds demonstrations only."""
    reward = make(standardise=True, input_standardise=True, anchor=True)
    expert, policy = numbers(6, 5), numbers(8, 5, seed=1)
    before = {name: value.clone() for name, value in reward.named_buffers()}
    losses, _ = reward.loss(expert, policy, torch.ones(6), torch.zeros(8))
    assert losses.total.item() == 0
    assert all(torch.equal(value, before[name]) for name, value in reward.named_buffers())
    reward.loss(expert, policy, *ones(expert, policy))
    assert not any(torch.equal(value, before[name]) for name, value in reward.named_buffers())


def test_only_the_network_is_trained_by_the_loss_but_the_reward_reaches_its_inputs() -> None:
    reward = make(members=2, standardise=True, input_standardise=True)
    expert, policy = numbers(6, 5).requires_grad_(), numbers(8, 5, seed=1).requires_grad_()
    loss = reward.loss(expert, policy, *ones(expert, policy))[0].total
    to_expert, to_policy, *to_net = torch.autograd.grad(
        loss, [expert, policy, *reward.parameters()], allow_unused=True, retain_graph=True
    )
    assert to_expert is None and to_policy is None and all(g is not None for g in to_net[:-1])
    (grad,) = torch.autograd.grad(reward.reward(policy).sum(), policy)
    assert (grad.abs().sum(1) > 0).all()


def test_bad_options_are_told() -> None:
    with pytest.raises(ValueError, match=r"reward\.reduce: 'sum' is none of mean, min, max"):
        make(reduce="sum")
    with pytest.raises(ValueError, match=r"reward\.policy_data: 'old' is none of imagined, replay, fresh"):
        make(policy_data="old")


def test_configured_options_are_those_of_the_class() -> None:
    options: Any = OmegaConf.load(Path(configs.__file__).parent / "reward" / "ipm.yaml")
    assert options.pop("kind") == "ipm"
    options["hidden"] = 8
    reward = IPMReward(3, 2, **options)
    assert reward.policy_data == "fresh" and reward.gp_weight == 10 and reward.gp_target == 0.4, "HyPE (H2)"
    assert set(options) == set(IPM) | {"policy_data"}
