"""IQ-Learn: its losses by hand, the telescoping identity, the reward that a soft Q-function implies (algorithms 3.14,
5.5.9).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agent.optim import Optimiser
from agent.policy.base import BothBatch, row_shares
from agent.policy.iq import IQPolicy
from models.latent import Transitions
from tests.agent.batches import CLONE, PAIRS, A, F, N
from tests.agent.learner import LinearCritics
from tests.agent.test_sac import FixedActor
from tests.models.tiny import numbers
from tests.theory.tabular import GAMMA, draws, occupancy, soft_optimum

IQ: dict[str, Any] = {
    "hidden": 16,
    "layers": 1,
    "act": "relu",
    "critic_norm": False,
    "gamma": GAMMA,
    "polyak": 0.1,
    "temperature": 0.3,
    "states": "v0",
    "bootstrap": "target",
    "regularised": "both",
    "chi": 0.5,
    "min_log_std": -5.0,
    "max_log_std": 2.0,
    "explore_noise": 0.0,
}
OWN = Transitions(
    numbers(N, F, seed=20), numbers(N, A, seed=21).tanh(), numbers(N, F, seed=22), torch.zeros(N), torch.ones(N)
)
BATCH = BothBatch(PAIRS, OWN, CLONE)


def make(feat: int = F, action: int = A, **options: Any) -> IQPolicy:
    torch.manual_seed(0)
    return IQPolicy(feat, action, **(IQ | options))


def by_hand(log_pi: float = -0.7, **options: Any) -> IQPolicy:
    """A known critic, a known target, a known action."""
    policy: Any = make(**options)
    policy.actor = FixedActor(torch.tensor([0.3, -0.8]), log_pi)
    policy.critics = LinearCritics(numbers(1, F, seed=10), numbers(1, A, seed=11))
    policy.target = LinearCritics(numbers(1, F, seed=12), numbers(1, A, seed=13)).requires_grad_(False)
    return policy


@pytest.mark.parametrize("regularised", ["both", "expert"])
@pytest.mark.parametrize("states", ["v0", "value", "value_expert"])
def test_losses_by_hand(states: str, regularised: str) -> None:
    policy: Any = by_hand(states=states, regularised=regularised)
    found, metrics = policy.losses(BATCH)
    r, v, y, shares = {}, {}, {}, {}
    for name, pairs in (("expert", PAIRS), ("own", OWN)):
        action = policy.actor.action.expand(N, -1)
        y[name] = GAMMA * (1 - pairs.done) * (policy.target(pairs.next_feat, action)[0] + 0.3 * 0.7)
        v[name] = policy.critics(pairs.feat, action)[0] + 0.3 * 0.7
        r[name] = policy.critics(pairs.feat, pairs.action)[0] - y[name]
        shares[name] = row_shares(pairs.weight)
    mean = {name: (lambda x, name=name: (shares[name] * x[name]).sum()) for name in shares}
    of = {name: mean[name]({k: v[k] - y[k] for k in v}) for name in v}
    square = {name: mean[name]({k: r[k].square() for k in r}) for name in r}
    expected = {
        "v0": (1 - GAMMA) * mean["expert"](v),
        "value": (3 * of["expert"] + 4 * of["own"]) / 7,  # 3 of the demonstrated rows count, and 4 own ones
        "value_expert": of["expert"],
    }[states]
    chi = (3 * square["expert"] + 4 * square["own"]) / 7 if regularised == "both" else square["expert"]
    torch.testing.assert_close(found["critics"]["expert"], -mean["expert"](r))
    torch.testing.assert_close(found["critics"]["value"], expected)
    torch.testing.assert_close(found["critics"]["chi"], chi / 2)
    torch.testing.assert_close(metrics["reward_own"], mean["own"](r).detach())
    # the actor learns in the states of both: tau log pi - Q = -v
    torch.testing.assert_close(found["actor"]["rl"], -(3 * mean["expert"](v) + 4 * mean["own"](v)) / 7)


def test_what_follows_has_a_gradient_only_by_the_critic_itself() -> None:
    for bootstrap in ("critic", "target"):
        policy = make(bootstrap=bootstrap)
        policy.target.load_state_dict(policy.critics.state_dict())
        torch.manual_seed(1)
        y = policy.ahead(OWN)
        assert y.requires_grad == (bootstrap == "critic")
        torch.manual_seed(1)
        torch.testing.assert_close(y, GAMMA * policy.value(policy.critics, OWN.next_feat))


def test_each_loss_moves_its_own_weights_only() -> None:
    policy = make()
    losses, _ = policy.losses(BATCH)
    for name, group in policy.groups().items():
        params = list(group)
        for other, loss in losses.items():
            grads = torch.autograd.grad(loss.total, params, allow_unused=True, retain_graph=True)
            assert all((g is None) == (name != other) for g in grads)


def test_without_own_transitions_the_loss_is_the_experts() -> None:
    policy = by_hand(states="value")
    none = dataclasses.replace(OWN, weight=torch.zeros(N))
    losses, metrics = policy.losses(BothBatch(PAIRS, none, CLONE))
    expert, _ = by_hand(states="value_expert", regularised="expert").losses(BATCH)
    assert metrics["reward_own"] == 0
    torch.testing.assert_close(dict(losses["critics"]), dict(expert["critics"]))


class TableCritic(nn.Module):
    """Q of states that are unit vectors (n, S) and actions that are numbers (n, 1)."""

    def __init__(self, q: Tensor) -> None:
        super().__init__()
        self.q = nn.Parameter(q)

    def forward(self, feat: Tensor, action: Tensor) -> Tensor:
        return self.q[feat.argmax(-1), action[:, 0].long()][None]


class TableActor(nn.Module):
    """pi(a|s) (S, A) over such actions."""

    def __init__(self, policy: Tensor) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, feat: Tensor) -> TableActor:
        self.rows = self.policy[feat.argmax(-1)]
        return self

    def rsample_with_log_prob(self) -> tuple[Tensor, Tensor]:
        action = torch.multinomial(self.rows, 1)
        return action.double(), self.rows.gather(-1, action)[:, 0].log()


def test_values_telescope_to_those_of_the_first_states() -> None:
    """5.5.9: E_rho[V(s) - gamma V(s')] = (1 - gamma) E[V(s_0)] for any V, through the loss's own terms."""
    for draw in draws(40, 0):
        rho, n = occupancy(draw.true, draw.policy, draw.start), draw.true.shape[1]
        policy: Any = by_hand(states="value", bootstrap="critic", temperature=0.0)
        policy.critics = TableCritic(numbers(n, 1, seed=1, dtype=torch.float64))
        policy.actor = TableActor(torch.ones(n, 1).double())
        states = torch.eye(n).double()
        for i in range(len(rho)):
            flow = torch.from_numpy(rho[i][..., None] * draw.true[i]).sum(1)  # (s, s')
            s, ahead = (x.flatten() for x in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"))
            zero = torch.zeros(n * n).double()
            # as exact a batch as there is: every transition, as often as the policy makes it
            own = Transitions(states[s], zero[:, None], states[ahead], zero, flow.flatten())
            losses, _ = policy.losses(BothBatch(dataclasses.replace(own, weight=zero), own, CLONE))
            first = (1 - GAMMA) * (torch.from_numpy(draw.start[i]) * policy.critics.q[:, 0]).sum()
            torch.testing.assert_close(losses["critics"]["value"], first)
            # and so do the gradients: the policy's own visits push down the values of first states alone
            kinds = [torch.autograd.grad(x, [policy.critics.q])[0] for x in (losses["critics"]["value"], first)]
            torch.testing.assert_close(*kinds)


def test_the_soft_optimal_q_function_implies_the_reward_it_is_optimal_for() -> None:
    """5.5.9: r = Q - gamma E V. V of a single action is exact, since Q - log pi is the same for all."""
    for draw in draws(20, 1):
        _, q, pi = soft_optimum(draw.true, draw.reward)
        policy: Any = make(temperature=1.0)
        for i in range(len(q)):
            n, actions = q[i].shape
            policy.target, policy.actor = TableCritic(torch.from_numpy(q[i])), TableActor(torch.from_numpy(pi[i]))
            states, zero = torch.eye(n).double(), torch.zeros(n).double()
            # gamma V(s') of every state, then its mean over where (s, a) leads
            ahead = policy.ahead(Transitions(states, zero[:, None], states, zero, zero + 1)).numpy()
            np.testing.assert_allclose(q[i] - draw.true[i] @ ahead, draw.reward[i], atol=1e-9)


def test_the_policy_comes_to_do_what_the_expert_does() -> None:
    """One state, one dimension: the expert's actions are 0.5, the agent's own -0.5."""
    torch.manual_seed(0)
    policy = make(1, 1, temperature=0.01, hidden=32)
    optimisers = {n: Optimiser(p, lr=3e-3, clip=100.0, eps=1e-8, wd=0.0) for n, p in policy.groups().items()}
    feat, ends = torch.zeros(32, 1), torch.ones(32)
    kinds = (Transitions(feat, torch.full((32, 1), a), feat, ends, ends) for a in (0.5, -0.5))
    batch = BothBatch(*kinds, CLONE)
    for step in range(400):
        losses, _ = policy.losses(batch)
        for name, loss in losses.items():
            optimisers[name].differentiate(loss.total)
        for name in losses:
            optimisers[name].apply()
        policy.after_update(step)
    assert policy.actor(feat[:1]).mode().item() > 0.2


@pytest.mark.parametrize("bad", [{"states": "all"}, {"regularised": "none"}, {"bootstrap": "no"}])
def test_bad_options_are_told(bad: dict[str, str]) -> None:
    (name,) = bad
    with pytest.raises(ValueError, match=rf"policy\.{name}: '{bad[name]}' is none of"):
        make(**bad)
