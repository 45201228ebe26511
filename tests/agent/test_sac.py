"""SAC's losses by hand, in closed form and on tiny problems (algorithms 1.4, 2.5, 5.1.2, 5.6.4, 5.6.5, 5.6.8)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agent.optim import Optimiser
from agent.policy.base import ClonePairs, PolicyBatch, TransitionBatch
from agent.policy.sac import SACPolicy
from models.dists import SquashedNormal
from models.latent import Transitions
from tests.agent.batches import CLONE, PAIRS, REWARD, A, F, N
from tests.agent.learner import LinearCritics
from tests.models.tiny import numbers

SAC: dict[str, Any] = {
    "hidden": 16,
    "layers": 1,
    "act": "relu",
    "critics": 2,
    "critic_norm": False,
    "gamma": 0.9,
    "polyak": 0.1,
    "polyak_every": 1,
    "hold": 1,
    "temperature": "auto",
    "initial_temperature": 0.5,
    "target_entropy": -0.5,
    "reference": "uniform",
    "soft": True,
    "reward_scale": 1.0,
    "bc": "nll",
    "bc_weight": 0.0,
    "min_log_std": -5.0,
    "max_log_std": 2.0,
    "explore_noise": 0.0,
}


def make_sac(feat: int = F, action: int = A, seed: int = 0, **options: Any) -> SACPolicy:
    torch.manual_seed(seed)
    return SACPolicy(feat, action, **(SAC | options))


def batch(index: int = 0, pairs: Transitions = PAIRS, reward: Tensor = REWARD) -> TransitionBatch:
    return TransitionBatch(pairs, reward, CLONE, index)


def optimisers(policy: SACPolicy, lr: float = 1e-2) -> dict[str, Optimiser]:
    return {name: Optimiser(p, lr=lr, clip=100.0, eps=1e-8, wd=0.0) for name, p in policy.groups().items()}


class FixedActor(nn.Module):
    """Draws the same action everywhere, and says that its log density is ``log_pi``."""

    def __init__(self, action: Tensor, log_pi: float) -> None:
        super().__init__()
        self.action, self.log_pi = nn.Parameter(action), log_pi

    def forward(self, feat: Tensor) -> FixedActor:
        self.rows = len(feat)
        return self

    def decides(self, feat: Tensor) -> Tensor:
        return torch.ones(len(feat))

    def rsample_with_log_prob(self) -> tuple[Tensor, Tensor]:
        return self.action.expand(self.rows, -1), torch.full((self.rows,), self.log_pi) + 0 * self.action.sum()


def by_hand(log_pi: float = -0.7, **options: Any) -> SACPolicy:
    """Known critics, known targets, a known action."""
    policy = make_sac(**options)
    policy.actor = FixedActor(torch.tensor([0.3, -0.8]), log_pi)
    policy.critics = LinearCritics(numbers(2, F, seed=10), numbers(2, A, seed=11))
    policy.target = LinearCritics(numbers(2, F, seed=12), numbers(2, A, seed=13)).requires_grad_(False)
    return policy


def value(critics: nn.Module, i: int, feat: Tensor, action: Tensor) -> float:
    return ((feat * critics.w[i]).sum() + (action * critics.v[i]).sum()).item()


# ---------------------------------------------------------------------- by hand


def test_critic_loss_by_hand() -> None:
    """Row 1 terminated and does not bootstrap; row 3 does not count."""
    policy, total, a = by_hand(reward_scale=3.0, temperature=0.5), 0.0, torch.tensor([0.3, -0.8])
    for n in range(3):
        ahead = min(value(policy.target, i, PAIRS.next_feat[n], a) for i in range(2)) + 3 * 0.5 * 0.7
        y = 3 * REWARD[n].item() + (0.0 if n == 1 else 0.9 * ahead)
        total += sum((value(policy.critics, i, PAIRS.feat[n], PAIRS.action[n]) - y) ** 2 for i in range(2)) / 3
    losses, metrics = policy.losses(batch())
    assert losses["critics"].total.item() == pytest.approx(total, rel=1e-5)
    assert metrics["td_error"].item() == pytest.approx(total / 2, rel=1e-5)
    q = [value(policy.critics, i, PAIRS.feat[n], PAIRS.action[n]) for i in range(2) for n in range(3)]
    assert metrics["q"].item() == pytest.approx(sum(q) / 6, rel=1e-5)
    assert metrics["entropy"].item() == pytest.approx(0.7) and metrics["temperature"].item() == 0.5
    assert not any(m.requires_grad for m in metrics.values())


def test_actor_loss_by_hand() -> None:
    policy, total, a = by_hand(temperature=0.5), 0.0, torch.tensor([0.3, -0.8])
    lowest = [min((value(policy.critics, i, PAIRS.feat[n], a), i) for i in range(2)) for n in range(3)]
    total = sum(0.5 * -0.7 - q for q, _ in lowest) / 3
    loss = policy.losses(batch())[0]["actor"].total
    assert loss.item() == pytest.approx(total, rel=1e-5)
    expected = -torch.stack([policy.critics.v[i].detach() for _, i in lowest]).mean(0)
    torch.testing.assert_close(torch.autograd.grad(loss, policy.actor.action)[0], expected)


def test_the_unit_of_values_changes_no_optimum() -> None:
    """With critics that hold c Q instead of Q, losses are those of c = 1 times c^2 and c."""
    one, scaled = by_hand(temperature=0.5), by_hand(temperature=0.5, reward_scale=0.1)
    for critics in (scaled.critics, scaled.target):
        with torch.no_grad():
            for p in critics.parameters():
                p.mul_(0.1)
    found, expected = scaled.losses(batch())[0], one.losses(batch())[0]
    torch.testing.assert_close(found["critics"].total, 0.01 * expected["critics"].total)
    torch.testing.assert_close(found["actor"].total, 0.1 * expected["actor"].total)


def test_termination_masks_the_future_and_a_time_out_does_not() -> None:
    def target_moves(done: float) -> bool:
        policy = by_hand()
        pairs = dataclasses.replace(PAIRS, done=torch.full((N,), done))
        before = policy.losses(batch(pairs=pairs))[0]["critics"].total.item()
        ahead = dataclasses.replace(pairs, next_feat=pairs.next_feat + 1)
        return policy.losses(batch(pairs=ahead))[0]["critics"].total.item() != before

    assert target_moves(0.0) and not target_moves(1.0)


# ---------------------------------------------------------------------- temperature


@pytest.mark.parametrize(("log_pi", "rises"), [(2.0, True), (0.5, False)])
def test_temperature_rises_when_the_entropy_is_below_its_target(log_pi: float, rises: bool) -> None:
    """The target is -0.5 per dimension, -1 in all, so that log pi = 1 is in balance."""
    policy = by_hand(log_pi=log_pi)
    loss = policy.losses(batch())[0]["temperature"].total
    assert loss.item() == pytest.approx(-math.log(0.5) * (log_pi - 1.0), rel=1e-5)
    optimisers(policy)["temperature"].step(loss)
    assert (policy.temperature.item() > 0.5) == rises


def test_fixed_temperature_is_not_learned_and_others_are_refused() -> None:
    policy = make_sac(temperature=0)
    assert set(policy.groups()) == set(policy.losses(batch())[0]) == {"actor", "critics"}
    assert policy.temperature.item() == 0.0 and "fixed_temperature" in policy.state_dict()
    with pytest.raises(ValueError, match="neither auto nor a number"):
        make_sac(temperature="automatic")
    with pytest.raises(ValueError, match="none of nll, mse"):
        make_sac(bc="l2")


# ---------------------------------------------------------------------- who moves, and when


@pytest.mark.parametrize("name", ["actor", "critics", "temperature"])
def test_each_loss_moves_only_its_own_parameters(name: str) -> None:
    policy = make_sac(bc_weight=1.0)
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    opts, losses = optimisers(policy), policy.losses(batch())[0]
    assert set(losses) == set(opts)
    opts[name].step(losses[name].total)
    moved = {n for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    own = {id(p) for p in opts[name].params}
    assert moved and moved == {n for n, p in policy.named_parameters() if id(p) in own}
    assert all(p.requires_grad for p in policy.critics.parameters()), "frozen for the actor's loss only"


def test_an_encoder_behind_the_features_learns_from_the_critics_alone() -> None:
    leaves = [x.clone().requires_grad_() for x in (PAIRS.feat, PAIRS.next_feat, CLONE.feat)]
    pairs = dataclasses.replace(PAIRS, feat=leaves[0], next_feat=leaves[1])
    policy = make_sac(bc_weight=1.0)
    clone = ClonePairs(leaves[2], CLONE.action, CLONE.weight)
    losses, _ = policy.losses(TransitionBatch(pairs, REWARD, clone, 0))
    reached = {
        name: [g is not None for g in torch.autograd.grad(loss.total, [*leaves, p], allow_unused=True)]
        for (name, loss), p in zip(losses.items(), (next(iter(policy.groups()[n])) for n in losses), strict=True)
    }
    assert reached == {
        "critics": [True, False, False, True],
        "actor": [False, False, False, True],
        "temperature": [False, False, False, True],
    }


def test_hold_lets_the_actor_learn_in_every_nth_update() -> None:
    policy = make_sac(hold=3, bc_weight=1.0)
    kinds = [set(policy.losses(batch(index))[0]) for index in range(4)]
    assert kinds == [{"actor", "critics", "temperature"}, {"critics"}, {"critics"}, {"actor", "critics", "temperature"}]


def test_targets_follow_in_closed_form() -> None:
    policy = make_sac(polyak=0.1, polyak_every=2)
    start = [p.clone() for p in policy.target.parameters()]
    with torch.no_grad():
        for p in policy.critics.parameters():
            p.add_(1.0)
    for index in range(6):  # of which 0, 2 and 4 count
        policy.after_update(index)
    for p, q, s in zip(policy.target.parameters(), policy.critics.parameters(), start, strict=True):
        torch.testing.assert_close(p.detach(), (q + 0.9**3 * (s - q)).detach())


# ---------------------------------------------------------------------- cloning


def test_clone_terms_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_sac()
    dist = policy.actor(CLONE.feat)
    nll = -(dist.log_prob(CLONE.action) * CLONE.weight).sum().item() / 3
    losses, metrics = policy.clone(PolicyBatch(CLONE))
    assert set(losses) == {"actor"} and losses["actor"]["bc"].item() == pytest.approx(nll, rel=1e-5)
    assert metrics["bc_nll"].item() == pytest.approx(nll, rel=1e-5)
    monkeypatch.setattr(SquashedNormal, "rsample", SquashedNormal.mode)
    mse = ((dist.mode() - CLONE.action).square().mean(-1) * CLONE.weight).sum().item() / 3
    assert make_sac(bc="mse").clone(PolicyBatch(CLONE))[0]["actor"]["bc"].item() == pytest.approx(mse, rel=1e-5)
    weighted = make_sac(bc="mse", bc_weight=2.0).losses(batch())[0]["actor"]
    assert weighted["bc"].item() == pytest.approx(2 * mse, rel=1e-5) and set(weighted) == {"rl", "bc"}


# ---------------------------------------------------------------------- tiny problems


def bandit(bc_weight: float, bc: str = "nll") -> float:
    """One state, one step, the best action is 0.5; demonstrations do -0.6. Returns the learned mode.

    The actor starts when the critics know something; before, it would run into saturation.
    """
    policy = make_sac(1, 1, act="elu", hidden=32, temperature=0.01, bc_weight=bc_weight, bc=bc)
    opts, ones = optimisers(policy), torch.ones(64, 1)
    opts["actor"].restart(2e-3)
    demos = ClonePairs(ones, torch.full((64, 1), -0.6), torch.ones(64))
    for index in range(400):
        a = 2 * torch.rand(64, 1) - 1
        pairs = Transitions(ones, a, ones, torch.ones(64), torch.ones(64))
        losses, _ = policy.losses(TransitionBatch(pairs, -(a[:, 0] - 0.5).square(), demos, index))
        learned = [name for name in losses if name == "critics" or index > 200]
        for name in learned:
            opts[name].differentiate(losses[name].total)
        for name in learned:
            opts[name].apply()
    return policy.actor(ones[:1]).mode().item()


def test_bandit_learns_the_best_action() -> None:
    assert bandit(0.0) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("bc", ["nll", "mse"])
def test_bc_weight_pulls_towards_the_demonstrations(bc: str) -> None:
    assert bandit(10.0, bc) == pytest.approx(-0.6, abs=0.2)


def cloned(demonstrated: Tensor, **options: Any) -> tuple[SACPolicy, dict[str, Optimiser], ClonePairs]:
    """One state; a clone of ``demonstrated`` actions (n, 1), which pi_ref remembers."""
    policy = make_sac(1, 1, act="elu", hidden=32, reference="clone", **options)
    opts, demos = optimisers(policy), ClonePairs(torch.ones(64, 1), demonstrated, torch.ones(64))
    opts["actor"].restart(5e-3)
    for index in range(1200):
        if index == 600:
            opts["actor"].restart(5e-4)
        opts["actor"].step(policy.clone(PolicyBatch(demos))[0]["actor"].total)
    return policy, opts, demos


@pytest.mark.parametrize("tau", [0.02, 0.2, 5.0])
def test_temperature_is_the_price_of_leaving_the_clone(tau: float) -> None:
    """pi_ref is N(-0.4, 0.3) before its tanh, Q(a) = -(a - 0.5)^2: the best squashed normal by quadrature."""
    u = -0.4 + 0.3 * torch.erfinv(2 * (torch.arange(64) + 0.5) / 64 - 1) * math.sqrt(2)
    policy, opts, demos = cloned(torch.tanh(u)[:, None], temperature=tau)
    reference = policy.reference
    assert reference is not None
    before = [p.clone() for p in reference.parameters()]
    dist = reference(demos.feat[:1])
    assert dist.mean.item() == pytest.approx(-0.4, abs=0.02) and dist.std.item() == pytest.approx(0.3, abs=0.02)

    class Known(nn.Module):
        def forward(self, feat: Tensor, action: Tensor) -> Tensor:
            return -(action[..., 0] - 0.5).square().expand(2, -1)

    policy.critics = Known()
    feat = torch.ones(256, 1)
    pairs = Transitions(feat, torch.zeros(256, 1), feat, torch.ones(256), torch.ones(256))
    for index in range(900):
        if index == 600:
            opts["actor"].restart(5e-4)
        opts["actor"].step(policy.losses(TransitionBatch(pairs, torch.zeros(256), demos, index))[0]["actor"].total)
    mean, std = torch.meshgrid(torch.linspace(-1, 1, 201), torch.linspace(0.02, 0.6, 117), indexing="ij")
    nodes = torch.linspace(-4, 4, 161)
    weight = torch.exp(-0.5 * nodes.square())
    q = -(torch.tanh(mean[..., None] + std[..., None] * nodes) - 0.5).square() @ (weight / weight.sum())
    kl = 0.5 * ((std / 0.3).square() + ((mean + 0.4) / 0.3).square() - 1) - (std / 0.3).log()
    best = (q - tau * kl).argmax()
    found = policy.actor(feat[:1])
    assert found.mean.item() == pytest.approx(mean.flatten()[best].item(), abs=0.04)
    assert found.std.item() == pytest.approx(std.flatten()[best].item(), abs=0.04)
    assert all(torch.equal(p, q) for p, q in zip(before, reference.parameters(), strict=True))  # only cloning moves it


@pytest.mark.parametrize("soft", [True, False])
def test_values_pay_for_leaving_the_clone_if_soft(soft: bool) -> None:
    """y = r + gamma (min Qbar - tau KL(pi || pi_ref)), at the next state's action; or without that price."""
    policy = make_sac(reference="clone", temperature=0.5, soft=soft)
    reference = policy.reference
    assert reference is not None
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.1)
    torch.manual_seed(3)
    td = policy.losses(batch())[0]["critics"].total.item()
    torch.manual_seed(3)
    with torch.no_grad():
        dist, other = policy.actor(PAIRS.next_feat), reference(PAIRS.next_feat)
        normals = [torch.distributions.Normal(d.mean, d.std) for d in (dist, other)]
        price = 0.5 * torch.distributions.kl_divergence(*normals).sum(-1)
        assert price.mean() > 0.01
        value = policy.target(PAIRS.next_feat, dist.rsample()).amin(0) - (price if soft else 0.0)
        y = REWARD + 0.9 * (1 - PAIRS.done) * value
        error = (policy.critics(PAIRS.feat, PAIRS.action) - y).square()
    assert td == pytest.approx((error * PAIRS.weight).sum().item() / PAIRS.weight.sum().item(), rel=1e-5)


def test_unknown_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"policy.reference: 'expert' is none of uniform, clone"):
        make_sac(reference="expert")


def test_soft_q_is_that_of_soft_policy_evaluation() -> None:
    """Three states in a ring, s -> s + 1 whatever is done, r(s, a) = c_s a, and a fixed policy:
    Q(s, a) = c_s a + gamma V(s + 1) with V = E[c a] + tau H + gamma P V, expectations by quadrature.
    """
    gamma, tau, c = 0.5, 0.3, torch.tensor([1.0, -0.5, 0.2])
    policy = make_sac(3, 1, critics=1, gamma=gamma, temperature=tau, polyak=0.2, hidden=32)
    opts, states = optimisers(policy, 5e-3), torch.eye(3)
    with torch.no_grad():
        grid = torch.linspace(-1, 1, 4001)[1:-1]
        dist = policy.actor(states)
        each = SquashedNormal(dist.mean.expand(3, len(grid))[..., None], dist.log_std.expand(3, len(grid))[..., None])
        log_prob = each.log_prob(grid.expand(3, -1)[..., None])
        density = log_prob.exp()
        mean = torch.trapezoid(density * grid, grid)
        entropy = -torch.trapezoid(density * log_prob, grid)
        step = torch.eye(3).roll(1, 1)  # row s: s + 1
        v = torch.linalg.solve(torch.eye(3) - gamma * step, c * mean + tau * entropy)
    torch.manual_seed(0)
    n = 192
    s = torch.arange(n) % 3
    for index in range(700):
        if index == 400:
            opts["critics"].restart(5e-4)
        a = 2 * torch.rand(n, 1) - 1
        pairs = Transitions(states[s], a, states[(s + 1) % 3], torch.zeros(n), torch.ones(n))
        loss = policy.losses(TransitionBatch(pairs, c[s] * a[:, 0], CLONE, index))[0]["critics"].total
        opts["critics"].step(loss)
        policy.after_update(index)
    a = torch.linspace(-0.9, 0.9, 9).repeat(3, 1)
    with torch.no_grad():
        q = policy.critics(states[:, None].expand(3, 9, 3), a[..., None])[0]
    torch.testing.assert_close(q, c[:, None] * a + gamma * (step @ v)[:, None], rtol=0, atol=0.06)
