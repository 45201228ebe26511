"""The off-policy gradient step: rewards are the reward learner's of this moment, demonstrations are what it calls
expert, and every loss moves its own parameters alone (algorithms 1.5, 5.1.4, 5.5.2, 5.6.8).
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agent.agent import FULL, Agent
from agent.data import Replay
from agent.policy.base import TransitionBatch
from agent.sampler import Sampler
from models.world_model import Chunk
from tests.agent.test_ending import build
from tests.models.tiny import numbers

IPM = ("algo=hype", "reward.policy_data=replay")  # a step in every update, as from pixels
HIGH = ("optim.reward.lr=0.05",)


def make(algo: str, *more: str, obs: str = "state") -> Agent:
    torch.manual_seed(0)
    agent: Agent = build(algo, obs, *more)
    return agent


def seen(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> list[tuple[TransitionBatch, Any]]:
    """What the policy is given from now on, and a copy of the reward learner at that moment."""
    found: list[tuple[TransitionBatch, Any]] = []
    losses = agent.policy.losses

    def noted(batch: TransitionBatch) -> Any:
        found.append((batch, copy.deepcopy(agent.reward)))
        return losses(batch)

    monkeypatch.setattr(agent.policy, "losses", noted)
    return found


def by_hand(algo: str, reward: Any, feat: Tensor, action: Tensor) -> Tensor:
    """The reward of pairs, from the network's bare output; higher = more expert-like (algorithms 2.4)."""
    out = reward.net(torch.cat([feat, action], -1))
    if algo == "gail":
        return F.softplus(out)
    if algo == "dac":
        return out
    # anchored: the policy's pairs are worth one standard deviation on average
    return -out.mean(0) - (reward.policy_moments.mean - reward.policy_moments.var.sqrt())


# ---------------------------------------------------------------------- relabelling


@pytest.mark.parametrize("algo", ["gail", "dac", "hype", "mm"])
def test_rewards_of_stored_transitions_are_those_of_the_newest_reward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algo: str
) -> None:
    """Algorithms 5.1.4: another reward network, the same rows: other rewards, in full, and nothing stored changes."""
    agent = make(algo, "data.termination=mask")
    replay = Replay(tmp_path, obs_shape=(11,), obs_dtype=np.float32, action_size=3, capacity=400, budget_gb=1.0)
    rng = np.random.default_rng(0)
    for expert in (True, False, False):
        flags = np.arange(12) == 0, np.arange(12) == 11, np.zeros(12, bool)
        obs, action = rng.normal(size=(12, 11)), rng.uniform(-1, 1, (12, 3)) * (np.arange(12) > 0)[:, None]
        replay.add_episode(obs.astype(np.float32), action.astype(np.float32), *flags, expert=expert)
    how = {"sample_by": "row", "from_start": 0.0, "batch": 32, "length": 2, "burn_in": 0, "joint_batch": False}
    sampler = Sampler(replay, how | {"expert_fraction": 0.25}, torch.device("cpu"), online=True)
    batches, stored = seen(agent, monkeypatch), replay.pairs()
    for change in (False, True, False):
        if change:
            with torch.no_grad():
                for i, p in enumerate(agent.reward.parameters()):
                    p.add_(0.3 * numbers(*p.shape, seed=i))
        agent.update(*sampler.draw(np.random.default_rng(7), 0.0), 0, frozenset({"policy"}))
    (first, old), (second, new), (third, _) = batches
    pairs = first.pairs
    for other in (second, third):
        assert all(torch.equal(x, y) for x, y in zip(vars(pairs).values(), vars(other.pairs).values(), strict=True))
    torch.testing.assert_close(first.reward, by_hand(algo, old, pairs.feat, pairs.action).detach())
    torch.testing.assert_close(second.reward, by_hand(algo, new, pairs.feat, pairs.action).detach())
    assert (second.reward - first.reward).abs().mean() > 0.05 and torch.equal(second.reward, third.reward)
    assert first.reward.std() > 1e-3 and not first.reward.requires_grad
    after = replay.pairs()
    for name in ("obs", "action", "next_obs", "done", "time"):
        assert np.array_equal(getattr(stored, name), getattr(after, name)), name


def test_every_update_asks_the_reward_that_the_last_one_left(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make("gail", *HIGH)
    batches, given = seen(agent, monkeypatch), chunks("state")
    for index in range(3):
        agent.update(*given, index)
    for batch, reward in batches:
        expected = by_hand("gail", reward, batch.pairs.feat, batch.pairs.action).detach()
        torch.testing.assert_close(batch.reward, expected)
    assert (batches[2][0].reward - batches[0][0].reward).abs().mean() > 0.05


def test_imagined_transitions_pay_the_penalty_and_real_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make("hyper_pess", "penalty.alpha=2.0", "reward.standardise=false", "data.real_fraction=0.25")
    n, memory = 64, agent.memory
    assert memory is not None
    u = numbers(n, seed=3).abs() + 0.5
    memory.add(numbers(n, 11), numbers(n, 3, seed=1).tanh(), numbers(n, 11, seed=2), torch.zeros(n), u)
    batches, (own, demo) = seen(agent, monkeypatch), chunks("state")
    agent.update(own, demo, 0)
    (batch, reward), real = batches[0], round(0.25 * len(own.obs))
    learned = by_hand("hyper", reward, batch.pairs.feat, batch.pairs.action).detach()
    paid = learned - batch.reward
    torch.testing.assert_close(paid[:real], torch.zeros(real))
    of = [(memory.feat[:n] == feat).all(1).nonzero().item() for feat in batch.pairs.feat[real:]]
    torch.testing.assert_close(paid[real:], 2.0 * u[of], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- who is the expert


def chunks(obs: str, n: int = 16) -> tuple[Chunk, Chunk]:
    """An agent chunk, of which a quarter is demonstrated, and an expert chunk. Demonstrated states and actions are
    around 1 and .8, others around -1 and -.8.
    """
    t, shape, actions = (2, (11,), 3) if obs == "state" else (4, (64, 64, 3), 9)

    def chunk(expert: Tensor, seed: int) -> Chunk:
        rows, side = len(expert), 2 * expert.float() - 1
        lead = (rows, 1, *[1] * len(shape))
        if obs == "state":
            seen = side.view(lead) + 0.3 * numbers(rows, t, *shape, seed=seed)
        else:
            noise = 20 * numbers(rows, t, *shape, seed=seed)
            seen = (128 + 80 * side.view(lead) + noise).clamp(0, 255).to(torch.uint8)
        action = (0.8 * side.view(rows, 1, 1) + 0.1 * numbers(rows, t, actions, seed=seed + 1)).clamp(-0.99, 0.99)
        none = torch.zeros(rows, t, dtype=torch.bool)
        first = none.clone()
        first[:, 0] = True
        action[first] = 0
        return Chunk(seen, action, first, none, none, expert, ~none)

    mixed = torch.arange(n) < n // 4
    return chunk(mixed, 5), chunk(torch.ones(n, dtype=torch.bool), 9)


@pytest.mark.parametrize(
    ("more", "obs"),
    [
        (("algo=gail",), "state"),
        (("algo=dac", "data.termination=mask"), "state"),
        (("algo=airl",), "state"),
        (IPM, "state"),
        (("algo=pdac",), "pixels"),
    ],
)
def test_demonstrations_become_what_earns_more(
    more: tuple[str, ...], obs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roles within the agent's own update, and their orientation after some of them (algorithms 5.5.2)."""
    agent = make(more[0].split("=")[1], *more[1:], "optim.reward.lr=0.02", obs=obs)
    own, demo = chunks(obs, 16 if obs == "state" else 4)
    loss, told = agent.reward.loss, []
    monkeypatch.setattr(agent.reward, "loss", lambda *args: told.append(args) or loss(*args))
    for index in range(25 if obs == "state" else 8):
        agent.update(own, demo, index)
    x_expert, x_policy, w_expert, w_policy = told[0]
    actions, steps, width = demo.action.shape[-1], demo.action.shape[1] - 1, own.action.shape[-1]
    feat = agent.world.feat
    mine = (~own.expert).repeat_interleave(steps)
    assert torch.equal(x_expert[:, feat : feat + actions], demo.action[:, 1:].flatten(0, 1))
    assert torch.equal(x_policy[:, feat : feat + width], own.action[:, 1:].flatten(0, 1))
    assert bool((w_expert > 0).all()) and torch.equal(w_policy > 0, mine), "a demonstration is no pair of the policy"
    with torch.no_grad():
        x = [each.detach() for each in told[-1][:2]]
        earned = [agent.reward.reward(each) for each in x]
    assert earned[0].mean() > earned[1][mine].mean() + 0.1


def test_airl_knows_what_follows_and_how_likely_the_policy_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """D = sigmoid(f - log pi(a|s)) of replayed actions under the policy of this moment (algorithms 3.9)."""
    agent = make("airl")
    own, demo = chunks("state")
    loss, told = agent.reward.loss, []
    monkeypatch.setattr(agent.reward, "loss", lambda *args: told.append(args) or loss(*args))
    for index in range(3):
        before = copy.deepcopy(agent.policy.actor)
        agent.update(own, demo, index)
        for x, chunk in zip(told[-1][:2], (demo, own), strict=True):
            feat, ahead = (agent.world.latent(chunk.obs[:, t]).feat for t in (0, 1))
            with torch.no_grad():
                log_pi = before(feat).log_prob(chunk.action[:, 1]).clamp(-30, 30)
            parts = feat, chunk.action[:, 1], ahead, torch.zeros(len(feat), 1), log_pi[:, None]
            torch.testing.assert_close(x, torch.cat(parts, -1))
    assert (told[0][0][:, -1] - told[2][0][:, -1]).abs().max() > 1e-4, "not that of the policy that acted"


# ---------------------------------------------------------------------- who moves


PARTS: dict[str, tuple[tuple[str, ...], str, set[str]]] = {
    "sac": (("algo=gail",), "state", {"reward", "actor", "critics", "temperature"}),
    "sac, ipm": (IPM, "state", {"reward", "actor", "critics", "temperature"}),
    "sac, cloning": (("algo=bc_reg",), "state", {"actor", "critics", "temperature"}),
    "sac, a model, a reference": (("algo=hyper_bc",), "state", {"actor", "critics"}),
    "td3_bc": (("algo=gail", "policy=td3_bc"), "state", {"reward", "actor", "critics"}),
    "iq": (("algo=iq_learn",), "state", {"actor", "critics"}),
    "iq, pixels": (("algo=iq_learn",), "pixels", {"actor", "critics", "world"}),
    "value_dice": (("algo=value_dice",), "state", {"actor", "critics"}),
    "pdac": (("algo=pdac",), "pixels", {"reward", "actor", "critics", "temperature"}),
    "gail, pixels": (("algo=gail",), "pixels", {"world", "reward", "actor", "critics", "temperature"}),
}


@pytest.mark.parametrize("name", PARTS)
def test_each_loss_of_an_off_policy_learner_moves_its_own_parameters_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Algorithms 5.6.8, by the gradients that there are and by what each optimiser alone changes. P-DAC's encoder is
    the critics' (3.4).
    """
    more, obs, groups = PARTS[name]
    given = chunks(obs, 16 if obs == "state" else 2)
    if "value_dice" in more[0]:  # absorbing: one more entry, that of the flag
        given = tuple(dataclasses.replace(c, obs=torch.cat([c.obs, 0 * c.obs[..., :1]], -1)) for c in given)
    agent = make(more[0].split("=")[1], *more[1:], obs=obs)
    learned = {
        n: {k for k, p in agent.named_parameters() if any(p is q for q in o.params)}
        for n, o in agent.optimisers.items()
    }
    trained = {k for k, p in agent.named_parameters() if p.requires_grad and not k.startswith("slow.")}
    idle = {"reward"} if "bc_reg" in more[0] or "hyper" in more[0] else set()  # rounds, not gradient steps
    fitted = {k for k in trained if k.startswith("world.")} if agent.world.learns == "fit" else set()
    assert set(learned) == groups | idle and set().union(*learned.values()) == trained - fitted
    assert sum(map(len, learned.values())) == len(trained - fitted), "no parameter has two optimisers"
    encoder = {k for k in trained if k.startswith("world.")}
    if agent.world.learns == "policy":
        assert encoder and encoder <= learned["critics"]
    for alone in groups:
        agent = make(more[0].split("=")[1], *more[1:], obs=obs)
        for other, optimiser in agent.optimisers.items():
            if other != alone:
                monkeypatch.setattr(optimiser, "apply", lambda: torch.zeros(()))
        reached: dict[str, set[str]] = {}
        params = {k: p for k, p in agent.named_parameters() if p.requires_grad}
        optimiser, original = agent.optimisers[alone], agent.optimisers[alone].differentiate

        def differentiate(loss: Tensor, params: Any = params, reached: Any = reached, real: Any = original) -> None:
            grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True, retain_graph=True)
            reached["by"] = {k for k, g in zip(params, grads, strict=True) if g is not None}
            real(loss)

        monkeypatch.setattr(optimiser, "differentiate", differentiate)
        before = {k: p.detach().clone() for k, p in agent.named_parameters()}
        agent.gradient_step(*given, FULL, 0)
        moved = {k for k, p in agent.named_parameters() if not torch.equal(p, before[k])}
        assert moved and moved <= learned[alone], alone
        assert reached["by"] <= learned[alone], alone
        if alone == "critics" and agent.world.learns == "policy":
            assert moved & encoder, "the critics train the encoder"
