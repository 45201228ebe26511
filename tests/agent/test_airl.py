"""AIRL: structure and identification; presets of GAIL and DAC; the true reward (algorithms 3.4, 3.9, 5.5.5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import configs
from agent.reward.airl import LOG_PI_BOUND, AIRLReward
from agent.reward.bce import BCEReward
from agent.reward.truth import TruthReward
from models.reward_net import RewardNet
from tests.models.tiny import numbers

AIRL: dict[str, Any] = {"hidden": 16, "layers": 1, "act": "relu", "gamma": 0.9, "map": "f", "state_only": False}


def make(feat: int = 3, action: int = 2, *, seed: int = 0, **options: Any) -> AIRLReward:
    torch.manual_seed(seed)
    return AIRLReward(feat, action, **(AIRL | options))


def preset(name: str) -> dict[str, Any]:
    """configs/reward/<name>.yaml with small networks."""
    found: Any = OmegaConf.load(Path(configs.__file__).parent / "reward" / f"{name}.yaml")
    found["hidden"] = 16
    if "gamma" in found:
        found["gamma"] = 0.9
    return {key: found[key] for key in found if key != "kind"}


def batch(n: int, centre: float, seed: int, *, log_pi: float = 0.0) -> dict[str, Tensor]:
    """Transitions (n,) around ``centre`` in state and action."""
    feat, action, ahead = numbers(n, 1, seed=seed), numbers(n, 1, seed=seed + 1), numbers(n, 1, seed=seed + 2)
    plain = {"feat": feat + centre, "action": action + centre, "next_feat": ahead + centre}
    return plain | {"done": torch.zeros(n), "log_pi": torch.full((n,), log_pi)}


# ---------------------------------------------------------------------- structure


def test_terms_of_f() -> None:
    reward = make()
    feat, action, ahead = numbers(4, 3), numbers(4, 2, seed=1), numbers(4, 3, seed=2)
    done, log_pi = torch.tensor([0.0, 1, 0, 1]), numbers(4, seed=3)
    x = reward.inputs(feat, action, noisy=True, next_feat=ahead, done=done, log_pi=log_pi)
    g = reward.net["g"](torch.cat([feat, action], -1))
    f = g + 0.9 * (1 - done) * reward.net["phi"](ahead) - reward.net["phi"](feat)
    for name, expected in (("f", f), ("g", g), ("logit", f - log_pi)):
        reward.map = name
        torch.testing.assert_close(reward.reward(x), expected)
    torch.testing.assert_close(reward.score(x), f.exp() / (f.exp() + log_pi.exp()))


def test_loss_is_that_of_the_discriminator() -> None:
    reward = make(1, 1)
    expert, policy = (reward.inputs(noisy=False, **batch(6, c, s, log_pi=-0.7)) for c, s in ((1.0, 0), (-1.0, 5)))
    keep = torch.tensor([1.0, 1, 0, 1, 0, 1])
    losses, metrics = reward.loss(expert, policy, keep, torch.ones(6))
    d_expert, d_policy = reward.score(expert)[keep > 0], reward.score(policy)
    torch.testing.assert_close(losses.total, -d_expert.log().mean() - (1 - d_policy).log().mean())
    torch.testing.assert_close(metrics["d_expert"], d_expert.mean())
    torch.testing.assert_close(metrics["d_policy"], d_policy.mean())


def test_only_the_networks_are_trained() -> None:
    reward = make(1, 1)
    expert, policy = (reward.inputs(noisy=False, **batch(6, c, s)).requires_grad_() for c, s in ((1.0, 0), (-1.0, 5)))
    loss = reward.loss(expert, policy, torch.ones(6), torch.ones(6))[0].total
    wanted = [expert, policy, *reward.parameters()]
    to_expert, to_policy, *to_net = torch.autograd.grad(loss, wanted, allow_unused=True)
    assert to_expert is None and to_policy is None
    assert [g is not None for g in to_net].count(False) == 0


def test_densities_at_the_ends_of_the_actions_are_cut() -> None:
    """What a squashed policy says of saturated actions would outweigh all that f knows."""
    reward = make(1, 1, map="logit")
    told = {value: reward.reward(reward.inputs(noisy=False, **batch(3, 0.0, 0, log_pi=value))) for value in (0.0, 3.0)}
    torch.testing.assert_close(told[0.0] - told[3.0], torch.full((3,), 3.0))
    for extreme in (-1e4, -float("inf"), float("inf")):
        bounded = reward.reward(reward.inputs(noisy=False, **batch(3, 0.0, 0, log_pi=extreme)))
        expected = torch.full((3,), -LOG_PI_BOUND if extreme > 0 else LOG_PI_BOUND)
        torch.testing.assert_close(bounded - told[0.0], expected)


def test_what_is_missing_is_told() -> None:
    with pytest.raises(ValueError, match="next_feat, done and log_pi are needed"):
        make().inputs(numbers(4, 3), numbers(4, 2), noisy=False)
    with pytest.raises(ValueError, match=r"reward\.map: 'h' is none of f, g, logit"):
        make(map="h")
    with pytest.raises(ValueError, match=r"reward\.policy_data: 'fresh', but AIRL needs real transitions"):
        make(policy_data="fresh")
    with pytest.raises(ValueError, match="truth is needed"):
        TruthReward().inputs(numbers(4, 3), numbers(4, 2), noisy=False)


# ---------------------------------------------------------------------- orientation and presets


@pytest.mark.parametrize("state_only", [False, True])
@pytest.mark.parametrize("name", ["f", "g", "logit"])
def test_expert_like_transitions_earn_more(name: str, state_only: bool) -> None:
    reward = make(1, 1, map=name, state_only=state_only)
    expert, policy = (reward.inputs(noisy=False, **batch(64, c, s, log_pi=-1.0)) for c, s in ((2.0, 0), (-2.0, 5)))
    fit(reward, expert, policy)
    assert reward.reward(expert).mean() > reward.reward(policy).mean() + 0.5


@pytest.mark.parametrize("name", ["gail", "dac"])
def test_gail_and_dac_are_discriminators_on_replay(name: str) -> None:
    options = preset(name)
    reward = BCEReward(1, 1, **options)
    assert reward.policy_data == "replay" and options["gp"] == "input" and options["noise"] == 0
    torch.manual_seed(0)
    expert, policy = numbers(64, 2) + 2, numbers(64, 2, seed=1) - 2
    fit(reward, expert, policy)
    r = reward.reward(torch.cat([expert, policy]))
    assert r[:64].mean() > r[64:].mean() + 0.5
    assert bool((r >= 0).all()) == (name == "gail"), "-log(1 - D) >= 0; the logit has both signs"


def fit(reward: AIRLReward | BCEReward, expert: Tensor, policy: Tensor) -> None:
    optimiser = torch.optim.Adam(reward.parameters(), lr=0.02)
    for _ in range(60):
        loss = reward.loss(expert, policy, torch.ones(len(expert)), torch.ones(len(policy)))[0].total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@pytest.mark.parametrize(("act", "expected"), [("elu", -0.6321206), ("tanh", -0.7615942), ("relu", 0.0)])
def test_activation_of_the_discriminator(act: str, expected: float) -> None:
    net = RewardNet(1, hidden=1, layers=1, act=act)
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(1.0 if p.dim() == 2 else 0.0)
    assert net(torch.tensor([[-1.0]])).item() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match=r"reward\.act: 'gelu' is none of elu, tanh, relu"):
        RewardNet(1, hidden=1, layers=1, act="gelu")


def test_true_reward_is_handed_through() -> None:
    reward, truth = TruthReward(), numbers(4, 3)
    x = reward.inputs(numbers(4, 3, 2), numbers(4, 3, 1), noisy=True, truth=truth)
    assert x.shape == (4, 3, 1) and torch.equal(reward.reward(x), truth)
    losses, metrics = reward.loss(x, x, truth, truth)
    assert not losses and not metrics and not list(reward.parameters())
    assert set(preset("truth")) == {"hidden", "layers", "act"}, "of the network that predicts it where a model imagines"


# ---------------------------------------------------------------------- identification (5.5.5)

S, A, GAMMA = 5, 2, 0.9
NEXT = torch.tensor([[(s + 1 + a) % S for a in range(A)] for s in range(S)])  # each state is linked with the one after


def soft_expert(r: Tensor) -> Tensor:
    """log pi(a|s) (S, A) of the soft-optimal policy for r(s) at temperature 1."""
    v = torch.zeros(S, dtype=torch.float64)
    for _ in range(500):
        v = torch.logsumexp(r[:, None] + GAMMA * v[NEXT], 1)
    return r[:, None] + GAMMA * v[NEXT] - v[:, None]


def recovered(r: Tensor, *, state_only: bool, gamma: float = GAMMA) -> Tensor:
    """g (S, A) that AIRL's loss has its minimum at when the policy has become the expert; tabular g and phi.

    Newton's method with short steps from random tables; whatever the data leave open stays as it was.
    """
    reward = make(S, S * A, layers=0, state_only=state_only, gamma=gamma)
    eye = torch.eye(S)
    s, a = (i.flatten() for i in torch.meshgrid(torch.arange(S), torch.arange(A), indexing="ij"))
    log_pi = soft_expert(r)[s, a]
    x = reward.inputs(
        *(eye[s], torch.eye(S * A)),  # "actions" name the pair: linear functions of them are tables
        noisy=False,
        next_feat=eye[NEXT[s, a]],
        done=torch.zeros(S * A),
        log_pi=log_pi.float(),
    )
    weight = log_pi.exp().float()  # states alike: any occupancy with full support has the same minimum
    params = list(reward.parameters())
    for _ in range(25):
        loss = reward.loss(x, x, weight, weight)[0].total
        grad = torch.cat([g.flatten() for g in torch.autograd.grad(loss, params, create_graph=True)])
        rows = [torch.autograd.grad(g, params, retain_graph=True) for g in grad]
        hessian = torch.stack([torch.cat([y.flatten() for y in row]) for row in rows])
        step = torch.linalg.pinv(hessian, rtol=1e-5, hermitian=True) @ grad.detach()
        step *= (1 / step.abs().max()).clamp_max(1)  # far from the minimum the loss is flatter than its parabola
        with torch.no_grad():
            for p, d in zip(params, step.split([p.numel() for p in params]), strict=True):
                p -= d.view_as(p)
    if gamma == GAMMA:
        torch.testing.assert_close(reward.score(x), torch.full((S * A,), 0.5), atol=1e-4, rtol=0)
    reward.map = "g"
    return reward.reward(x).detach().view(S, A)


def unlike(g: Tensor, r: Tensor) -> float:
    """How far g (S, A) is from r (S,) plus a constant: standard deviation of the difference."""
    return float((g - r[:, None]).std())


def test_state_only_g_recovers_a_state_only_reward_up_to_a_constant() -> None:
    r = numbers(S, seed=4, dtype=torch.float64)
    assert r.std() > 0.5
    assert unlike(recovered(r, state_only=True), r) < 1e-3
    assert unlike(recovered(r, state_only=False), r) > 0.1, "shaping may hide in a g(s, a)"
    assert unlike(recovered(r, state_only=True, gamma=0.5), r) > 0.1, "the discount must be the policy's"
