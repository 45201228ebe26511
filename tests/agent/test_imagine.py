"""Imagined rollouts: what belongs to one pair, what gradients may pass (algorithms 2.6, 5.1.1, 5.2.5)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from agent.imagine import imagine
from agent.penalties import make_penalty
from envs.episode import to_pairs
from models.actor_critic import Actor
from models.latent import HeadStats, Latent
from tests.agent.learner import FixedDist
from tests.models.tiny import ACTION, DETER, STOCH, make_world, numbers


class CountingWorld:
    """The state is the step number; the action in it must be ten times that; u of the pair is the state plus 100."""

    def __init__(self, end: float = 1e9) -> None:
        self.end = end
        self.asked: list[dict[str, Any]] = []

    def step(self, z: Latent, action: Tensor, *, stats: bool, need_std: bool) -> tuple[Latent, HeadStats | None]:
        self.asked.append({"stats": stats, "need_std": need_std})
        assert torch.equal(action, 10 * z.stoch)
        u = 100 + z.stoch
        heads = HeadStats(torch.stack([u, -u], -2), torch.stack([u, -u], -2)) if stats else None
        return Latent(z.deter, z.stoch + 1, z.params), heads

    def terminated(self, feat: Tensor) -> Tensor:
        return feat[..., 0] >= self.end


def starts(*values: float) -> Latent:
    stoch = torch.tensor(values, dtype=torch.float32)[:, None]
    return Latent(stoch[:, :0], stoch, stoch[:, :0])


def ten_times(feat: Tensor) -> FixedDist:
    return FixedDist(10 * feat)


def test_imagined_pairs_join_state_action_and_penalty() -> None:
    world = CountingWorld()
    rollout = imagine(world, ten_times, starts(3, 7), 4, make_penalty("ens_std_mean", 1.0))
    assert rollout.feat[..., 0].tolist() == [[3, 7], [4, 8], [5, 9], [6, 10], [7, 11]]
    assert torch.equal(rollout.action, 10 * rollout.feat[:-1])
    assert not torch.equal(rollout.action[:-1], 10 * rollout.feat[2:]), "a pairing one step late would not pass"
    assert rollout.u.tolist() == [[103, 107], [104, 108], [105, 109], [106, 110]], "u_k belongs to (z_k, a_k)"
    assert torch.equal(rollout.entropy, (10 * rollout.feat[:-1, :, 0]).square()), "the entropy of pi(.|z_k)"
    assert torch.equal(rollout.alive, torch.ones(5, 2))
    # the one conversion of stored rows gives the same pairs when the rollout is stored like an episode
    stored = torch.cat([torch.zeros(1, 2, 1), rollout.action])
    pairs = to_pairs(rollout.feat, stored)
    assert torch.equal(pairs.state, rollout.feat[:-1]) and torch.equal(pairs.action, rollout.action)


def test_nothing_is_alive_after_a_termination() -> None:
    """Algorithms 1.4, "mask": the pair that ends the episode counts, what follows does not."""
    rollout = imagine(CountingWorld(end=8), ten_times, starts(3, 7), 4, make_penalty("none", 0.0))
    assert rollout.alive.tolist() == [[1, 1], [1, 0], [1, 0], [1, 0], [1, 0]]
    over = imagine(CountingWorld(end=8), ten_times, starts(3, 8), 2, make_penalty("none", 0.0))
    assert over.alive.tolist() == [[1, 0], [1, 0], [1, 0]], "a start after which nothing comes"


@pytest.mark.parametrize(
    ("name", "stats", "need_std"), [("none", False, False), ("max_dev", True, False), ("max_aleatoric", True, True)]
)
def test_the_world_model_computes_what_the_penalty_needs(name: str, stats: bool, need_std: bool) -> None:
    world = CountingWorld()
    rollout = imagine(world, ten_times, starts(1, 2), 3, make_penalty(name, 0.5))
    assert world.asked == [{"stats": stats, "need_std": need_std}] * 3
    assert rollout.u.shape == (3, 2) and bool(rollout.u.any()) == stats


def test_actor_sees_detached_features_and_starts_are_detached() -> None:
    world, seen = make_world(), []
    actor = Actor(STOCH + DETER, ACTION, hidden=8, layers=1)
    start = Latent(*(numbers(5, n).requires_grad_() for n in (DETER, STOCH, 2 * STOCH)))

    def policy(feat: Tensor) -> Any:
        seen.append(feat)
        return actor(feat)

    rollout = imagine(world, policy, start, 3, make_penalty("ens_std_mean", 1.0))
    assert len(seen) == 3 and not any(feat.requires_grad for feat in seen)
    assert all(torch.equal(feat, rollout.feat[k]) for k, feat in enumerate(seen))
    grads = torch.autograd.grad(
        rollout.feat[-1].sum(), [start.deter, start.stoch], allow_unused=True, retain_graph=True
    )
    assert grads == (None, None)
    for value in (rollout.feat[1], rollout.feat[3], rollout.u[0], rollout.u[2], rollout.entropy[0]):
        reached = torch.autograd.grad(value.sum(), list(actor.parameters()), allow_unused=True, retain_graph=True)
        assert all(g is not None and g.any() for g in reached), "dynamics and penalty are differentiable in the actions"


def test_the_first_penalty_is_differentiable_at_the_start() -> None:
    """Pitfall 3 of algorithms 2.1: members of a fresh ensemble may agree; gradients must stay finite."""
    world = make_world()
    with torch.no_grad():  # all heads alike
        for p in (*world.rssm.prior_in.parameters(), *world.rssm.prior_out.parameters()):
            p.copy_(p[:1].clone().expand_as(p))
    actor = Actor(STOCH + DETER, ACTION, hidden=8, layers=1)
    rollout = imagine(world, actor, world.initial(4), 3, make_penalty("ens_std_mean", 1.0))
    grads = torch.autograd.grad(rollout.u.sum() + rollout.feat.sum(), list(actor.parameters()))
    assert all(bool(g.isfinite().all()) for g in grads)
    assert rollout.u.abs().max() < 1e-6


def test_imagining_recorded_actions_composes_single_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(members=1)
    rssm = world.rssm
    monkeypatch.setattr(rssm.latent, "sample", rssm.latent.mode)  # heads without variance
    recorded = iter(numbers(4, 3, ACTION))
    start = Latent(numbers(3, DETER, seed=1), numbers(3, STOCH, seed=2), numbers(3, 2 * STOCH, seed=3))
    rollout = imagine(world, lambda feat: FixedDist(next(recorded)), start, 4, make_penalty("none", 0.0))
    deter, stoch = start.deter, start.stoch
    for k, action in enumerate(numbers(4, 3, ACTION)):
        torch.testing.assert_close(rollout.feat[k], torch.cat([stoch, deter], -1))
        deter = rssm.recur(stoch, rssm.in_action(action), deter)
        stoch = rssm.latent.params(rssm.heads(deter)[0])[:, :STOCH]
    torch.testing.assert_close(rollout.feat[4], torch.cat([stoch, deter], -1))
