"""ValueDICE: its dual on tables, the identity behind its linear term, who moves what (algorithms 3.13, 5.5.8)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agent.optim import Optimiser
from agent.policy.base import BothBatch
from agent.policy.nu_dice import NuDicePolicy
from models.latent import Transitions
from tests.agent.batches import CLONE, A, F, N
from tests.agent.test_iq import BATCH, OWN, TableCritic
from tests.models.tiny import numbers

GAMMA, S, ACTIONS = 0.9, 5, 2
OPTIONS: dict[str, Any] = {
    "hidden": 16,
    "layers": 1,
    "act": "elu",
    "gamma": GAMMA,
    "zeta": 0.0,
    "gp_weight": 0.0,
    "orthogonal": 0.0,
    "min_log_std": -5.0,
    "max_log_std": 2.0,
    "explore_noise": 0.0,
}


def make(feat: int = F, action: int = A, **options: Any) -> NuDicePolicy:
    torch.manual_seed(0)
    return NuDicePolicy(feat, action, **(OPTIONS | options))


class Chooses(nn.Module):
    """One action (S,) in each of the states that are unit vectors."""

    def __init__(self, choice: Tensor) -> None:
        super().__init__()
        self.choice = choice

    def forward(self, feat: Tensor) -> Chooses:
        self.chosen = self.choice[feat.argmax(-1)][:, None].double()
        return self

    def rsample(self) -> Tensor:
        return self.chosen


@dataclasses.dataclass
class Table:
    """A deterministic process whose first states are the expert's, a deterministic policy, every pair as a batch."""

    expert: Tensor  # d^E (S, A)
    policy: Tensor  # d^pi (S,), of the pairs that the policy chooses
    nu: Tensor  # (S, A), of nu - gamma nu' = log d^pi / d^E
    choice: Tensor
    pairs: Transitions


def table(seed: int) -> Table:
    g = torch.Generator().manual_seed(seed)
    leads = torch.randint(S, (S, ACTIONS), generator=g)
    choice = torch.randint(ACTIONS, (S,), generator=g)
    expert = torch.rand(S, ACTIONS, generator=g, dtype=torch.float64)
    expert /= expert.sum()
    every, unit = torch.arange(S), torch.eye(S, dtype=torch.float64)
    moves = unit[leads[every, choice]]  # (s, s') of the policy
    visits = torch.linalg.solve(unit - GAMMA * moves.T, (1 - GAMMA) * expert.sum(-1))
    ratio = (visits / expert[every, choice]).log()
    nu = torch.full((S, ACTIONS), -1e3, dtype=torch.float64)  # what the policy never does
    nu[every, choice] = torch.linalg.solve(unit - GAMMA * moves, ratio)
    s, a = (x.flatten() for x in torch.meshgrid(every, torch.arange(ACTIONS), indexing="ij"))
    none = torch.zeros(len(s), dtype=torch.float64)
    pairs = Transitions(unit[s], a[:, None].double(), unit[leads[s, a]], none, expert.flatten())
    return Table(expert, visits, nu, choice, pairs)


def tabular(found: Table, nu: Tensor, zeta: float = 0.0) -> Any:
    policy: Any = make(S, 1, zeta=zeta)
    policy.actor, policy.critics = Chooses(found.choice), TableCritic(nu.clone())
    return policy


def dual(found: Table, nu: Tensor, own: Tensor | None = None, zeta: float = 0.0) -> Tensor:
    """J of a table; ``own``: weights (S, A) of the policy's pairs."""
    policy = tabular(found, nu, zeta)
    weight = torch.zeros(S, ACTIONS).double() if own is None else own
    batch = BothBatch(found.pairs, dataclasses.replace(found.pairs, weight=weight.flatten()), CLONE)
    ahead = policy.actor(found.pairs.next_feat).rsample()
    return policy.objective(batch, policy.actor(found.pairs.feat).rsample(), ahead, ahead)[0]


@pytest.mark.parametrize("seed", range(5))
def test_the_least_dual_is_the_divergence(seed: int) -> None:
    """5.5.8: min_nu J = -KL(d^pi || d^E), at the nu of the log ratio."""
    found = table(seed)
    expert = found.expert[torch.arange(S), found.choice]
    divergence = (found.policy * (found.policy / expert).log()).sum()
    assert divergence > 0.05
    least = dual(found, found.nu)
    torch.testing.assert_close(least, -divergence)
    for i in range(20):
        other = found.nu + 0.3 * numbers(S, ACTIONS, seed=i, dtype=torch.float64)
        assert dual(found, other) > least


def test_at_the_least_dual_nu_has_no_gradient() -> None:
    found = table(0)
    policy = tabular(found, found.nu)
    own = dataclasses.replace(found.pairs, weight=torch.zeros_like(found.pairs.weight))
    ahead = policy.actor(found.pairs.next_feat).rsample()
    first = policy.actor(found.pairs.feat).rsample()
    objective, _ = policy.objective(BothBatch(found.pairs, own, CLONE), first, ahead, ahead)
    (grad,) = torch.autograd.grad(objective, [policy.critics.q])
    torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-12, rtol=0)


def test_first_states_are_worth_what_nu_changes_along_the_policy() -> None:
    """5.5.8: (1 - gamma) E[nu_0] = E_{d^pi}[nu - gamma nu'] for any nu: with the policy's own visits the linear term
    does not depend on zeta.
    """
    found = table(1)
    visits = torch.zeros(S, ACTIONS).double()
    visits[torch.arange(S), found.choice] = found.policy
    nu = numbers(S, ACTIONS, seed=3, dtype=torch.float64)
    policy = tabular(found, nu)
    batch = BothBatch(found.pairs, dataclasses.replace(found.pairs, weight=visits.flatten()), CLONE)
    ahead = policy.actor(found.pairs.next_feat).rsample()
    _, metrics = policy.objective(batch, policy.actor(found.pairs.feat).rsample(), ahead, ahead)
    torch.testing.assert_close(metrics["dual_start"], metrics["nu_own"])
    for zeta in (0.1, 0.5):
        mixed = (1 - zeta) * found.expert + zeta * visits
        change = policy.change(found.pairs, ahead).view(S, ACTIONS)
        expected = (mixed * change.exp()).sum().log() - metrics["dual_start"]
        torch.testing.assert_close(dual(found, nu, visits, zeta), expected)


def test_each_loss_moves_its_own_weights_only_and_in_opposite_directions() -> None:
    policy = make(zeta=0.1, gp_weight=10.0, orthogonal=1e-4)
    losses, _ = policy.losses(BATCH)
    torch.testing.assert_close(losses["actor"]["dual"], -losses["critics"]["dual"])
    for name, group in policy.groups().items():
        params = list(group)
        for other, loss in losses.items():
            grads = torch.autograd.grad(loss.total, params, allow_unused=True, retain_graph=True)
            assert all((g is None) == (name != other) for g in grads)


def test_without_own_transitions_nothing_is_mixed() -> None:
    none = dataclasses.replace(OWN, weight=torch.zeros(N))
    batch = BothBatch(BATCH.expert, none, CLONE)
    found = []
    for zeta in (0.0, 0.5):
        torch.manual_seed(1)
        found.append(make(zeta=zeta).losses(batch)[0]["critics"]["dual"])
    torch.testing.assert_close(*found)
    assert found[0].isfinite()


def test_nothing_follows_a_termination() -> None:
    policy = make()
    ends = dataclasses.replace(OWN, done=torch.ones(N))
    torch.testing.assert_close(policy.change(ends, OWN.action), policy.critics(OWN.feat, OWN.action)[0])


def test_the_penalty_holds_nus_slope_at_one_and_units_apart() -> None:
    policy: Any = make(gp_weight=10.0, orthogonal=1.0)

    class Slope(nn.Module):
        def __init__(self, slope: float) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(slope))

        def forward(self, feat: Tensor, action: Tensor) -> Tensor:
            return (self.slope * feat[:, 0])[None]

    for slope, penalty in ((1.0, 0.0), (3.0, 40.0)):
        policy.critics = Slope(slope)
        assert policy.losses(BATCH)[0]["critics"]["gp"].item() == pytest.approx(penalty, abs=1e-4)
    counts_nowhere = dataclasses.replace(BATCH.expert, weight=torch.zeros(N))
    for batch in (BothBatch(counts_nowhere, OWN, CLONE), BothBatch(counts_nowhere, counts_nowhere, CLONE)):
        assert policy.losses(batch)[0]["critics"]["gp"].item() == 0.0, "pairs that do not count are penalised nowhere"
    with torch.no_grad():
        for layer in policy.actor.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.zero_()
        policy.actor.net[-1].weight[:2, 0] = torch.tensor([2.0, 3.0])
    # two units with product 6, counted from both sides
    assert policy.losses(BATCH)[0]["actor"]["orthogonal"].item() == pytest.approx(72.0)


class Squares(nn.Module):
    """nu = the sum of the squared features: its slope is 2 ||feat||, wherever that is."""

    def forward(self, feat: Tensor, action: Tensor) -> Tensor:
        return (feat.square().sum(-1) + 0 * action.sum(-1))[None]


def slopes(batch: BothBatch) -> float:
    """The gradient penalty with ``Squares``: (2 r - 1)^2 of the features at distance r from 0."""
    policy: Any = make(gp_weight=1.0)
    policy.critics = Squares()
    return policy.losses(batch)[0]["critics"]["gp"].item()


@pytest.mark.parametrize("own", [True, False])
def test_the_penalty_is_of_pairs_and_of_next_ones(own: bool) -> None:
    """Where all present features lie at distance 1 in one direction, all next ones at 2: half of (2 - 1)^2 and half of
    (4 - 1)^2; and where nothing is its own (offline), of the expert's pairs with one another.
    """
    unit = torch.eye(F)[:1].expand(N, -1)
    there = Transitions(unit, OWN.action, 2 * unit, torch.zeros(N), torch.ones(N))
    other = there if own else dataclasses.replace(OWN, weight=torch.zeros(N))
    assert slopes(BothBatch(there, other, CLONE)) == pytest.approx(5.0, abs=1e-4)


def test_demonstrations_alone_keep_nu_from_falling_without_end() -> None:
    """zeta = 0, no own transitions: nu's slopes stay about 1, and so its values within the reach of the data."""
    policy = make(hidden=32, gp_weight=10.0, act="relu")
    optimiser = Optimiser(policy.critics.parameters(), lr=3e-3, clip=100.0, eps=1e-8, wd=0.0)
    expert = Transitions(*(numbers(32, n, seed=i) for i, n in enumerate((F, A, F))), torch.zeros(32), torch.ones(32))
    batch = BothBatch(expert, dataclasses.replace(expert, weight=torch.zeros(32)), CLONE)
    for _ in range(400):
        optimiser.step(policy.losses(batch)[0]["critics"].total)
    x = torch.cat([expert.feat, expert.action], -1).requires_grad_(True)
    (grad,) = torch.autograd.grad(policy.critics(x[:, :F], x[:, F:]).sum(), x)
    assert grad.norm(dim=-1).max() < 2.0


def test_the_policy_comes_to_do_what_the_expert_does() -> None:
    """One state that never ends, one dimension: the expert's actions are about 0.5, the agent's own -0.5."""
    policy = make(1, 1, hidden=32, gp_weight=10.0, zeta=0.1, act="relu")
    optimisers = {n: Optimiser(p, lr=3e-3, clip=100.0, eps=1e-8, wd=0.0) for n, p in policy.groups().items()}
    feat, one = torch.zeros(64, 1), torch.ones(64)
    for _ in range(600):
        noise = 0.1 * torch.randn(64, 1)
        kinds = (Transitions(feat, a + noise, feat, 0 * one, one) for a in (0.5, -0.5))
        losses, _ = policy.losses(BothBatch(*kinds, CLONE))
        for name, loss in losses.items():
            optimisers[name].differentiate(loss.total)
        for name in losses:
            optimisers[name].apply()
    assert policy.actor(feat[:1]).mode().item() == pytest.approx(0.5, abs=0.25)
