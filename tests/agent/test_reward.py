"""Adversarial rewards: optimum of the loss, maps, input noise, gradient penalties (algorithms 2.4, 5.5.1, 5.5.2)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.reward_net import REWARD_MAPS, bce_loss, interpolates, steepness
from tests.agent.learner import make_reward
from tests.models.tiny import numbers


class Linear(nn.Module):
    """h(x) = w . x + b."""

    def __init__(self, size: int, b: float = 0.0) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w + self.b


# ---------------------------------------------------------------------- optimum


@pytest.mark.parametrize("sigma", [0.0, 2.5, math.sqrt(2.5)])
def test_slope_of_the_optimal_logit_between_two_gaussians(sigma: float) -> None:
    """Unit Gaussians at +-m, noise of standard deviation sigma: slope 2m / (1 + sigma^2)."""
    m, n = 1.0, 40_000
    reward = make_reward(1, 0, noise=sigma)
    reward.net = Linear(1)
    torch.manual_seed(0)
    expert, policy = torch.randn(n, 1) + m, torch.randn(n, 1) - m
    noisy = [reward.inputs(x, x[:, :0], noisy=True) for x in (expert, policy)]
    ones = torch.ones(n)
    for _ in range(6):  # Newton's method on the slope and the offset
        params = list(reward.net.parameters())
        loss = reward.loss(*noisy, ones, ones)[0].total
        grad = torch.cat([g.flatten() for g in torch.autograd.grad(loss, params, create_graph=True)])
        rows = [torch.autograd.grad(g, params, retain_graph=True) for g in grad]
        hessian = torch.stack([torch.cat([x.flatten() for x in row]) for row in rows])
        step = torch.linalg.solve(hessian, grad.detach())
        with torch.no_grad():
            reward.net.w -= step[:1]
            reward.net.b -= step[1]
    assert reward.net.w.item() == pytest.approx(2 * m / (1 + sigma**2), rel=0.03)
    assert reward.net.b.item() == pytest.approx(0.0, abs=0.02)


def test_bce_is_the_sum_of_both_mean_log_losses() -> None:
    h_expert, h_policy = numbers(6, dtype=torch.float64), numbers(9, seed=1, dtype=torch.float64)
    expected = -torch.sigmoid(h_expert).log().mean() - (1 - torch.sigmoid(h_policy)).log().mean()
    torch.testing.assert_close(bce_loss(h_expert, h_policy, torch.ones(6).double(), torch.ones(9).double()), expected)


def test_pairs_of_weight_zero_do_not_count() -> None:
    reward = make_reward()
    expert, policy = numbers(6, 5), numbers(8, 5, seed=1)
    keep_e, keep_p = torch.tensor([1.0, 1, 0, 1, 0, 1]), torch.tensor([1.0, 0, 1, 1, 1, 1, 0, 0])
    some = reward.loss(expert, policy, keep_e, keep_p)[0].total
    kept = reward.loss(expert[keep_e > 0], policy[keep_p > 0], torch.ones(4), torch.ones(5))[0].total
    torch.testing.assert_close(some, kept)
    assert reward.loss(expert, policy, 0 * keep_e, 0 * keep_p)[0].total.item() == 0.0


@pytest.mark.parametrize("missing", ["expert", "policy"])
def test_against_nothing_there_is_nothing_to_tell_apart(missing: str) -> None:
    """With demonstrations alone, before the first episode, D would go to 1 everywhere."""
    reward = make_reward()
    weights = [torch.zeros(6) if kind == missing else torch.ones(6) for kind in ("expert", "policy")]
    loss = reward.loss(numbers(6, 5), numbers(6, 5, seed=1), *weights)[0].total
    loss.backward()
    assert loss.item() == 0 and not any(p.grad.any() for p in reward.parameters() if p.grad is not None)


def test_only_the_network_is_trained_by_the_loss() -> None:
    reward = make_reward(gp="input")
    expert, policy = numbers(6, 5).requires_grad_(), numbers(8, 5, seed=1).requires_grad_()
    loss = reward.loss(expert, policy, torch.ones(6), torch.ones(8))[0].total
    wanted = [expert, policy, *reward.net.parameters()]
    to_expert, to_policy, *to_net = torch.autograd.grad(loss, wanted, allow_unused=True)
    assert to_expert is None and to_policy is None and all(g is not None for g in to_net)


# ---------------------------------------------------------------------- maps


def test_maps_are_their_definitions() -> None:
    h = torch.linspace(-6, 6, 41, dtype=torch.float64)
    d = torch.sigmoid(h)
    expected = {"prob": d, "logit": d.log() - (1 - d).log(), "softplus": -(1 - d).log(), "log_d": d.log()}
    assert set(REWARD_MAPS) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(REWARD_MAPS[name](h), value)


@pytest.mark.parametrize("name", sorted(REWARD_MAPS))
def test_maps_increase_and_survive_extreme_logits(name: str) -> None:
    h = torch.linspace(-12, 12, 200, dtype=torch.float64)
    assert bool((REWARD_MAPS[name](h).diff() > 0).all())
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    value = REWARD_MAPS[name](far)
    assert bool(value.isfinite().all()) and bool(torch.autograd.grad(value.sum(), far)[0].isfinite().all())
    signs = {"prob": (0, 1), "softplus": (0, math.inf), "log_d": (-math.inf, 0), "logit": (-math.inf, math.inf)}
    low, high = signs[name]
    assert low <= value.min().item() and value.max().item() <= high


@pytest.mark.parametrize("name", sorted(REWARD_MAPS))
def test_expert_like_pairs_earn_more(name: str) -> None:
    torch.manual_seed(0)
    reward = make_reward(1, 1, map=name, noise=0.0)
    expert, policy = torch.randn(64, 2) + 2, torch.randn(64, 2) - 2
    optimiser = torch.optim.Adam(reward.parameters(), lr=0.02)
    for _ in range(60):
        loss = reward.loss(expert, policy, torch.ones(64), torch.ones(64))[0].total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert reward.reward(expert).min() > reward.reward(policy).max()


# ---------------------------------------------------------------------- input noise


def test_noise_has_the_given_std_on_features_and_actions_and_is_drawn_afresh() -> None:
    torch.manual_seed(0)
    reward = make_reward(noise=2.5)
    feat, action = numbers(5000, 3), numbers(5000, 2, seed=1)
    clean = reward.inputs(feat, action, noisy=False)
    assert torch.equal(clean, torch.cat([feat, action], -1))
    first, second = (reward.inputs(feat, action, noisy=True) - clean for _ in range(2))
    assert first.std(0).tolist() == pytest.approx([2.5] * 5, rel=0.05)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].item()) < 0.05
    silent = make_reward(noise=0.0)
    assert torch.equal(silent.inputs(feat, action, noisy=True), clean)


# ---------------------------------------------------------------------- gradient penalties


def gp(kind: str, w: list[float], b: float, expert: Tensor, policy: Tensor) -> Tensor:
    reward = make_reward(1, 1, gp=kind, gp_weight=3.0)
    reward.net = Linear(2, b)
    with torch.no_grad():
        reward.net.w.copy_(torch.tensor(w))
    losses = reward.loss(expert, policy, torch.ones(len(expert)), torch.ones(len(policy)))[0]
    (grad,) = torch.autograd.grad(losses["gp"], reward.net.w, allow_unused=True)
    assert kind == "weight" or grad is not None, "the penalty trains the network"
    return losses["gp"]


def test_input_gradient_penalty_pulls_the_norm_to_one() -> None:
    expert, policy = numbers(16, 2), numbers(24, 2, seed=1)
    assert gp("input", [3.0, 4.0], 0.0, expert, policy).item() == pytest.approx(3.0 * (5 - 1) ** 2, rel=1e-5)
    assert gp("input", [0.6, 0.8], 0.0, expert, policy).item() == pytest.approx(0.0, abs=1e-10)


def test_a_bound_on_the_slope_lets_it_be_flat() -> None:
    expert, policy = numbers(16, 2), numbers(24, 2, seed=1)
    assert gp("bound", [3.0, 4.0], 0.0, expert, policy).item() == pytest.approx(3.0 * (5 - 1) ** 2, rel=1e-5)
    assert gp("bound", [0.3, 0.4], 0.0, expert, policy).item() == 0
    assert gp("input", [0.3, 0.4], 0.0, expert, policy).item() == pytest.approx(3.0 * 0.25, rel=1e-5)


def test_weight_gradient_penalty_is_over_the_parameters_of_the_mean_logit() -> None:
    # all interpolates between equal points are that point: d mean(h) / d(w, b) = (x, 1)
    x = torch.tensor([[2.0, -1.0]])
    expected = 3.0 * (math.sqrt(2**2 + 1 + 1) - 1) ** 2
    assert gp("weight", [0.3, 0.1], 0.7, x.expand(5, 2), x.expand(7, 2)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["input", "bound", "weight"])
def test_gradient_penalty_is_on_pairs_that_count(kind: str) -> None:
    """Burn-in and restarts: what weighs nothing may be anything; where all count, a plain mean to the last bit."""
    reward = make_reward(gp=kind, gp_weight=3.0, act="tanh")
    with torch.no_grad():
        for parameter in reward.parameters():
            parameter.mul_(2.0 if kind == "bound" else 1.0)  # steep enough to be felt
    expert, policy = numbers(40, 5), numbers(30, 5, seed=1)
    keep_e, keep_p = (numbers(40, seed=2) > 0).float(), (numbers(30, seed=3) > 0).float()

    def penalty(x: Tensor, y: Tensor, v: Tensor, w: Tensor) -> Tensor:
        torch.manual_seed(4)
        return reward.loss(x, y, v, w)[0]["gp"]

    strange = torch.where(keep_e[:, None] > 0, expert, 5.0), torch.where(keep_p[:, None] > 0, policy, -7.0)
    expected = penalty(expert, policy, keep_e, keep_p)
    torch.testing.assert_close(penalty(*strange, keep_e, keep_p), expected)
    for one, other in ((strange[0], policy), (expert, strange[1])):
        assert abs(penalty(one, other, torch.ones(40), torch.ones(30)) - expected) > 1e-3
    torch.manual_seed(4)
    x, _ = interpolates(expert, policy)
    h, params = reward.net(x), list(reward.net.parameters())
    if kind == "weight":
        norm = sum(g.square().sum() for g in torch.autograd.grad(h.mean(), params, create_graph=True)) + 1e-12
        plain = 3.0 * (norm.sqrt() - 1).square()
    else:
        off = steepness(h, x) - 1
        assert kind == "input" or bool((off > 0).any() & (off < 0).any())
        plain = 3.0 * (off.relu() if kind == "bound" else off).square().mean()
    found = penalty(expert, policy, torch.ones(40), torch.ones(30))
    assert torch.equal(found, plain)
    for a, b in zip(*(torch.autograd.grad(v, params, allow_unused=True) for v in (found, plain)), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_interpolates_lie_between_expert_and_policy() -> None:
    torch.manual_seed(0)
    reward = make_reward(1, 1, gp="input")
    seen: list[Tensor] = []
    reward.net.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    reward.loss(torch.zeros(4000, 2), torch.ones(3000, 2), torch.ones(4000), torch.ones(3000))
    mixed = seen[-1].detach()
    assert mixed.shape == (4000, 2) and torch.equal(mixed[:, 0], mixed[:, 1]), "one coefficient per sample"
    assert mixed.min() >= 0 and mixed.max() <= 1
    assert mixed.mean().item() == pytest.approx(0.5, abs=0.02) and mixed.std().item() == pytest.approx(
        12**-0.5, abs=0.02
    )


def test_no_penalty_adds_no_term() -> None:
    losses, _ = make_reward(gp="none").loss(numbers(4, 5), numbers(4, 5, seed=1), torch.ones(4), torch.ones(4))
    assert set(losses) == {"bce"}


def test_bad_options_are_told() -> None:
    with pytest.raises(ValueError, match=r"reward\.map: 'probability' is none of prob, logit, softplus, log_d"):
        make_reward(map="probability")
    with pytest.raises(ValueError, match=r"reward\.gp: 'inputs' is none of none, input, bound, weight"):
        make_reward(gp="inputs")
