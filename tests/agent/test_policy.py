"""Actor and critic losses against hand computation and finite differences (algorithms 2.6, 3.1, 3.2, 5.6.2-4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agent.imagine import imagine, penalised
from agent.penalties import make_penalty
from agent.policy.backprop import BackpropPolicy
from agent.policy.base import ClonePairs, DataPairs, PolicyBatch, clone_loss
from agent.policy.bc import BCPolicy
from models.actor_critic import Actor
from models.latent import HeadStats, Latent, Losses, Rollout
from models.nets import frozen
from tests.agent.learner import POLICY, FixedDist, LinearCritics, make_policy, no_clone, rollout
from tests.models.tiny import numbers

F, A, H, N = 3, 2, 3, 2  # Q: two rewards and a bootstrap
GAMMA, LAMBDA, ETA, BETA = POLICY["gamma"], POLICY["lambda_"], POLICY["entropy"], POLICY["beta_bc"]
FEAT, ACTION, REWARD, ENTROPY = (
    numbers(H + 1, N, F),
    numbers(H, N, A, seed=1).tanh(),
    numbers(H, N, seed=2),
    numbers(H, N, seed=3),
)
DATA = DataPairs(
    feat=numbers(3, F, seed=4),
    action=numbers(3, A, seed=5).tanh(),
    reward=numbers(3, seed=6),
    start=torch.tensor([1, 0, 1]),
    weight=torch.tensor([1.0, 1.0, 0.0]),
)


def with_linear_critics(policy: BackpropPolicy) -> BackpropPolicy:
    """Online and target critics of known, different weights; neither of the two is the smaller one everywhere."""
    n, a = POLICY["critics"], A if policy.q else 0
    policy.critics = LinearCritics(numbers(n, F, seed=10), numbers(n, a, seed=11))
    policy.target = LinearCritics(numbers(n, F, seed=12), numbers(n, a, seed=13))
    policy.target.requires_grad_(False)
    return policy


def values(critics: nn.Module, feat: Tensor, action: Tensor) -> list[list[float]]:
    """[critic][sample]."""
    w, v = critics.w.tolist(), critics.v.tolist()
    return [
        [
            sum(x * y for x, y in zip(f, w[i], strict=True)) + sum(x * y for x, y in zip(a, v[i], strict=False))
            for f, a in zip(feat.tolist(), action.tolist(), strict=True)
        ]
        for i in range(len(w))
    ]


def along(critics: nn.Module, pick: Callable[[list[float]], float], rows: int) -> list[list[float]]:
    """[k][n]: the picked critic's value of every pair (or, beyond the last action, state) of the rollout."""
    padded = torch.cat([ACTION, torch.zeros(1, N, A)])
    by_row = [values(critics, FEAT[k], padded[k]) for k in range(rows)]
    return [[pick([q[i][n] for i in range(len(q))]) for n in range(N)] for q in by_row]


def returns(value: list[list[float]], alive: Tensor | None = None) -> list[list[float]]:
    """R_k of all samples by the recursion of algorithms 2.7, one number at a time; gamma is 0 into rows not alive."""
    gamma = GAMMA * (torch.ones(H + 1, N) if alive is None else alive)
    out: list[list[float]] = []
    for k in range(len(value) - 1):
        row = []
        for n in range(N):
            ahead = value[-1][n]
            for j in reversed(range(k, len(value) - 1)):
                ahead = REWARD[j, n].item() + gamma[j + 1, n].item() * ((1 - LAMBDA) * value[j + 1][n] + LAMBDA * ahead)
            row.append(ahead)
        out.append(row)
    return out


def batch(policy: BackpropPolicy, **changes: Any) -> PolicyBatch:
    given = {"rollout": rollout(FEAT, ACTION, entropy=ENTROPY), "reward": REWARD, "data": DATA} | changes
    reward = given["reward"] if policy.q else given["reward"][:H]
    return PolicyBatch(no_clone(policy, F, A), given["rollout"], reward, given["data"])


def losses(policy: BackpropPolicy, **changes: Any) -> dict[str, Losses]:
    return policy.losses(batch(policy, **changes))[0]


# ---------------------------------------------------------------------- by hand


def test_actor_objective_of_two_steps_by_hand() -> None:
    policy = with_linear_critics(make_policy(beta_bc=0.0))
    value = along(policy.critics, min, H)
    ret = returns(value)
    gain = [
        GAMMA**k * ((1 - LAMBDA) * value[k][n] + LAMBDA * ret[k][n] + ETA * ENTROPY[k, n].item())
        for k in range(H - 1)
        for n in range(N)
    ]
    assert losses(policy)["actor"]["rl"].item() == pytest.approx(-sum(gain) / len(gain), rel=1e-5)
    scaled = with_linear_critics(make_policy(beta_bc=0.0, rl_scale=3.0))
    assert losses(scaled)["actor"]["rl"].item() == pytest.approx(-3 * sum(gain) / len(gain), rel=1e-5)


@pytest.mark.parametrize("shift", [0, 1], ids=["gamma^k", "gamma^(k+1)"])
def test_model_critic_loss_by_hand(shift: int) -> None:
    policy = with_linear_critics(make_policy(critic_weight_shift=shift))
    target = returns(along(policy.target, min, H))
    total = [
        GAMMA ** (k + shift) * 0.5 * (values(policy.critics, FEAT[k], ACTION[k])[i][n] - target[k][n]) ** 2
        for i in range(2)
        for k in range(H - 1)
        for n in range(N)
    ]
    assert losses(policy)["critics"]["model"].item() == pytest.approx(sum(total) / len(total), rel=1e-5)


def test_data_critic_loss_by_hand() -> None:
    policy = with_linear_critics(make_policy())
    value = along(policy.target, min, H)
    target = returns(value)
    total = 0.0
    for i in range(2):
        predicted = values(policy.critics, DATA.feat, DATA.action)[i]
        for j in (0, 1):  # the third pair has no weight
            start = int(DATA.start[j])
            y = DATA.reward[j].item() + GAMMA * ((1 - LAMBDA) * value[0][start] + LAMBDA * target[0][start])
            total += 0.5 * (predicted[j] - y) ** 2 / 2
    assert losses(policy)["critics"]["data"].item() == pytest.approx(total / 2, rel=1e-5)
    assert "data" not in losses(with_linear_critics(make_policy(data_critic=False)))["critics"]
    assert "data" not in losses(policy, data=None)["critics"]


def test_state_value_critics_by_hand() -> None:
    """V-MAIL: all H rewards count, V_H bootstraps, V(z_k) is regressed on the return that starts at z_k."""
    policy = with_linear_critics(make_policy(critic="v", beta_bc=0.0))
    value, target = along(policy.critics, min, H + 1), returns(along(policy.target, min, H + 1))
    ret = returns(value)
    found = losses(policy)
    gain = [GAMMA**k * (ret[k][n] + ETA * ENTROPY[k, n].item()) for k in range(H) for n in range(N)]
    assert found["actor"]["rl"].item() == pytest.approx(-sum(gain) / len(gain), rel=1e-5)
    total = [
        GAMMA**k * 0.5 * (values(policy.critics, FEAT[k], ACTION[k])[i][n] - target[k][n]) ** 2
        for i in range(2)
        for k in range(H)
        for n in range(N)
    ]
    assert found["critics"]["model"].item() == pytest.approx(sum(total) / len(total), rel=1e-5)


def test_random_target_is_one_critic_per_update() -> None:
    """C4: the official code draws one target critic for the whole update; ours takes the minimum of each pair."""
    by_min = losses(with_linear_critics(make_policy()))["critics"].total.item()
    alone = []
    for i in range(2):
        policy = with_linear_critics(make_policy())
        with torch.no_grad():
            policy.target.w.copy_(policy.target.w[i].expand(2, F).clone())
            policy.target.v.copy_(policy.target.v[i].expand(2, A).clone())
        alone.append(losses(policy)["critics"].total.item())
    policy = with_linear_critics(make_policy(target_reduce="random"))
    torch.manual_seed(0)
    found = [losses(policy)["critics"].total.item() for _ in range(60)]
    first = [x == pytest.approx(alone[0], rel=1e-5) for x in found]
    assert all(f or x == pytest.approx(alone[1], rel=1e-5) for f, x in zip(first, found, strict=True))
    assert 15 <= sum(first) <= 45, "each is drawn half of the time"
    assert by_min not in [pytest.approx(x, rel=1e-3) for x in alone], "the fixture can tell the variants apart"
    actor = losses(policy)["actor"]["rl"].item()
    assert actor == losses(with_linear_critics(make_policy()))["actor"]["rl"].item(), (
        "the actor always uses the minimum"
    )


def test_the_step_into_a_termination_is_worth_its_reward_and_later_ones_do_not_count() -> None:
    """Algorithms 1.4, "mask"."""
    policy = with_linear_critics(make_policy(beta_bc=0.0, data_critic=False))
    alive = torch.ones(H + 1, N)
    alive[1:, 0] = 0.0
    found = losses(policy, rollout=rollout(FEAT, ACTION, alive=alive, entropy=ENTROPY))
    weight = torch.tensor([[1.0, 1.0], [0.0, GAMMA]])
    predicted = policy.critics(FEAT[:2], ACTION[:2])
    target = torch.tensor(returns(along(policy.target, min, H), alive))
    assert target[0, 0] == REWARD[0, 0]
    torch.testing.assert_close(found["critics"]["model"], 0.5 * (weight * (predicted - target).square()).mean())
    value = along(policy.critics, min, H)
    ret = torch.tensor(returns(value, alive))
    gain = (1 - LAMBDA) * torch.tensor(value[: H - 1]) + LAMBDA * ret + ETA * ENTROPY[: H - 1]
    torch.testing.assert_close(found["actor"]["rl"], -(weight * gain).mean())


def test_soft_values_count_the_entropy_of_later_actions() -> None:
    """R_k = r_k + gamma [eta Ent_{k+1} + (1 - lambda) Q_{k+1} + lambda R_{k+1}], for actor, critics and recorded pairs;
    nothing follows a termination.
    """
    policy = with_linear_critics(make_policy(beta_bc=0.0, soft=True))
    alive = torch.ones(H + 1, N)
    alive[2:, 0] = 0.0

    def soft(value: list[list[float]]) -> list[list[float]]:
        out = [list(value[-1])]
        for k in (1, 0):
            row = []
            for n in range(N):
                ahead = ETA * ENTROPY[k + 1, n].item() + (1 - LAMBDA) * value[k + 1][n] + LAMBDA * out[0][n]
                row.append(REWARD[k, n].item() + GAMMA * alive[k + 1, n].item() * ahead)
            out.insert(0, row)
        return out[:-1]

    value, kept = along(policy.critics, min, H), along(policy.target, min, H)
    ret, target = soft(value), soft(kept)
    gain, model, data = 0.0, 0.0, 0.0
    for n in range(N):
        for k in range(H - 1):
            weight = GAMMA**k * alive[k, n].item()
            bonus = ETA * ENTROPY[k, n].item()
            gain += weight * ((1 - LAMBDA) * value[k][n] + LAMBDA * ret[k][n] + bonus) / (N * (H - 1))
            for i in range(2):
                predicted = values(policy.critics, FEAT[k], ACTION[k])[i][n]
                model += weight * 0.5 * (predicted - target[k][n]) ** 2 / (2 * N * (H - 1))
    for j in (0, 1):  # the third pair has no weight
        n = int(DATA.start[j])
        ahead = ETA * ENTROPY[0, n].item() + (1 - LAMBDA) * kept[0][n] + LAMBDA * target[0][n]
        for i in range(2):
            predicted = values(policy.critics, DATA.feat, DATA.action)[i][j]
            data += 0.5 * (predicted - DATA.reward[j].item() - GAMMA * ahead) ** 2 / 4
    found = losses(policy, rollout=rollout(FEAT, ACTION, alive=alive, entropy=ENTROPY))
    assert found["actor"]["rl"].item() == pytest.approx(-gain, rel=1e-5)
    assert found["critics"]["model"].item() == pytest.approx(model, rel=1e-5)
    assert found["critics"]["data"].item() == pytest.approx(data, rel=1e-5)
    with pytest.raises(ValueError, match=r"policy\.soft"):
        make_policy(critic="v", soft=True)


# ---------------------------------------------------------------------- who is moved by what


def test_critic_losses_train_the_critics_alone() -> None:
    policy = with_linear_critics(make_policy())
    feat, action, reward = (x.clone().requires_grad_() for x in (FEAT, ACTION, REWARD))
    data = DataPairs(DATA.feat, DATA.action, DATA.reward, DATA.start, DATA.weight)
    loss = losses(policy, rollout=rollout(feat, action), reward=reward, data=data)["critics"].total
    wanted = [feat, action, reward, *policy.actor.parameters(), *policy.critics.parameters()]
    *others, w, v = torch.autograd.grad(loss, wanted, allow_unused=True)
    assert all(g is None for g in others) and bool(w.any()) and bool(v.any())


def test_actor_loss_passes_through_the_critics_without_training_them() -> None:
    policy = with_linear_critics(make_policy())
    feat, action, reward = (x.clone().requires_grad_() for x in (FEAT, ACTION, REWARD))
    loss = losses(policy, rollout=rollout(feat, action), reward=reward)["actor"].total
    wanted = [feat, action, reward, policy.critics.w, policy.critics.v]
    by_feat, by_action, by_reward, *critics = torch.autograd.grad(loss, wanted, allow_unused=True)
    assert critics == [None, None]
    assert bool(by_action[H - 1].any()), "the bootstrap moves the last action"
    assert bool(by_action[0].any()) and bool(by_feat[1].any())
    assert bool(by_reward[: H - 1].all()) and not by_reward[H - 1].any(), "C7: the last pair only bootstraps"
    assert all(p.requires_grad for p in policy.critics.parameters()), "they can be trained afterwards"


@pytest.mark.parametrize("every", [100, 3])
def test_targets_are_copied_at_update_0_and_every_so_many(every: int) -> None:
    policy = with_linear_critics(make_policy(target_every=every))
    copied = []
    for update in range(2 * every + 2):
        with torch.no_grad():
            policy.critics.w.fill_(float(update))
        policy.after_update(update)
        if policy.target.w[0, 0].item() == update and torch.equal(policy.target.v, policy.critics.v):
            copied.append(update)
    assert copied == [0, every, 2 * every]


def test_new_targets_equal_the_critics_and_are_not_trained() -> None:
    policy = make_policy()
    pairs = zip(policy.target.parameters(), policy.critics.parameters(), strict=True)
    assert all(torch.equal(p, q) and p is not q for p, q in pairs)
    assert not any(p.requires_grad for p in policy.target.parameters())
    trained = {id(p) for params in policy.groups().values() for p in params}
    assert trained == {id(p) for p in policy.parameters() if p.requires_grad}
    assert list(policy.groups()) == ["actor", "critics"]


# ---------------------------------------------------------------------- finite differences


class LinearWorld(nn.Module):
    """z' = A z + B a + w_k with given noise; two members that disagree linearly in (z, a)."""

    def __init__(self, horizon: int, n: int) -> None:
        super().__init__()
        d = {"dtype": torch.float64}
        self.a = nn.Parameter(0.8 * torch.eye(2, **d) + 0.1 * numbers(2, 2, seed=20).double())
        self.b = nn.Parameter(numbers(2, 1, seed=21).double())
        self.gap = nn.Parameter(0.2 * numbers(2, 3, seed=22).double())
        self.noise, self.k = 0.1 * numbers(horizon, n, 2, seed=23).double(), 0

    def step(self, z: Latent, action: Tensor, *, stats: bool, need_std: bool) -> tuple[Latent, HeadStats | None]:
        after = z.stoch @ self.a.T + action @ self.b.T + self.noise[self.k]
        self.k += 1
        gap = torch.cat([z.stoch, action], -1) @ self.gap.T
        return Latent(z.deter, after, z.params), HeadStats(torch.stack([after + gap, after - gap], 1))

    def terminated(self, feat: Tensor) -> Tensor:
        return torch.zeros_like(feat[..., 0], dtype=torch.bool)


class QuadraticReward(nn.Module):
    """-(z' Q z + c a^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.tensor([[1.0, 0.2], [0.2, 0.5]], dtype=torch.float64))

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        return -(z @ self.q * z).sum(-1) - 0.3 * a.square().sum(-1)


class QuadraticCritics(nn.Module):
    """Two quadratic functions of (z, a), or of z alone."""

    def __init__(self, uses_action: bool) -> None:
        super().__init__()
        size = 3 if uses_action else 2
        self.uses_action, self.m = uses_action, nn.Parameter(numbers(2, size, size, seed=24).double())

    def forward(self, feat: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([feat, action], -1) if self.uses_action else feat
        return torch.stack([-(x @ m * x).sum(-1) for m in self.m])


class LinearActor(nn.Module):
    """a = gain z + bias, plus noise that the caller gives."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(numbers(1, 2, seed=25).double())
        self.bias = nn.Parameter(numbers(1, seed=26).double())

    def forward(self, feat: Tensor, noise: Tensor | float = 0.0) -> FixedDist:
        return FixedDist(feat @ self.gain.T + self.bias, noise)


@pytest.mark.parametrize("critic", ["q", "v"])
@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_policy_gradient_by_finite_differences(critic: str, alpha: float) -> None:
    """Linear-Gaussian model, quadratic reward and critics, fixed noise, float64."""
    horizon, n = 5, 4
    world, reward, actor = LinearWorld(horizon, n), QuadraticReward(), LinearActor()
    critics = QuadraticCritics(critic == "q")
    policy = make_policy(2, 1, critic=critic, beta_bc=0.0, data_critic=False, entropy=0.3)
    policy.actor, policy.critics, policy.target = actor, critics, critics
    start = numbers(n, 2, seed=27).double()
    noise = 0.2 * numbers(horizon, n, 1, seed=28).double()
    penalty = make_penalty("ens_std_mean", alpha)

    def loss(inputs: Tensor | None = None) -> tuple[Tensor, Rollout]:
        """The actor's loss; ``inputs`` (H, n, 2) are what the actor sees instead of the states of this rollout."""
        world.k, steps = 0, iter(range(horizon))

        def act(feat: Tensor) -> FixedDist:
            k = next(steps)
            return actor(feat if inputs is None else inputs[k], noise[k])

        latent = Latent(start[:, :0], start, start[:, :0])
        with frozen(world, reward):
            found = imagine(world, act, latent, horizon, penalty)
            used = penalised(reward(found.feat[:-1], found.action), found.u, penalty)
        clone = ClonePairs(start[:1], noise[0, :1], torch.ones(1).double())
        return policy.losses(PolicyBatch(clone, found, used))[0]["actor"].total, found

    total, base = loss()
    params = [actor.gain, actor.bias]
    others = [*world.parameters(), *reward.parameters(), critics.m]
    grads = torch.autograd.grad(total, [*params, *others], allow_unused=True)
    assert all(g is None for g in grads[2:]), "only the actor is reached"

    def differences(inputs: Tensor | None) -> Tensor:
        out = []
        with torch.no_grad():
            for p in params:
                for i in range(p.numel()):
                    ends = []
                    for eps in (1e-5, -1e-5):
                        p.view(-1)[i] += eps
                        ends.append(loss(inputs)[0])
                        p.view(-1)[i] -= eps
                    out.append((ends[0] - ends[1]) / 2e-5)
        return torch.stack(out)

    found = torch.cat([g.flatten() for g in grads[:2]])
    torch.testing.assert_close(found, differences(base.feat.detach()), rtol=1e-6, atol=1e-8)
    gap = (found - differences(None)).abs().max() / found.abs().max()
    assert gap > 1e-2, "the actor's input is detached: feedback through the visited states is not differentiated"


# ---------------------------------------------------------------------- behaviour cloning


def test_clone_loss_is_the_weighted_mean_negative_log_likelihood() -> None:
    torch.manual_seed(0)
    actor = Actor(F, A, hidden=8, layers=1)
    feat, action = numbers(6, F), numbers(6, A, seed=1).tanh()
    weight = torch.tensor([1.0, 0, 1, 1, 0, 1])
    nll, metrics = clone_loss(actor, ClonePairs(feat, action, weight))
    kept = weight > 0
    torch.testing.assert_close(nll, -actor(feat[kept]).log_prob(action[kept]).mean())
    torch.testing.assert_close(
        metrics["bc_error"], (actor(feat[kept]).mode() - action[kept]).square().sum(-1).mean().detach()
    )
    assert clone_loss(actor, ClonePairs(feat, action, 0 * weight))[0].item() == 0.0


def test_demo_actions_at_the_bounds_are_learned_from() -> None:
    torch.manual_seed(0)
    actor = Actor(F, A, hidden=8, layers=1)
    action = torch.ones(6, A)
    action[::2] = -1
    nll, _ = clone_loss(actor, ClonePairs(numbers(6, F), action, torch.ones(6)))
    grads = torch.autograd.grad(nll, list(actor.parameters()))
    assert bool(nll.isfinite()) and all(bool(g.isfinite().all()) for g in grads)


def test_bc_term_is_added_with_its_weight() -> None:
    policy = with_linear_critics(make_policy())
    clone = ClonePairs(numbers(5, F), numbers(5, A, seed=1).tanh(), torch.ones(5))
    given = PolicyBatch(clone, rollout(FEAT, ACTION), REWARD, DATA)
    nll, _ = clone_loss(policy.actor, clone)
    found = policy.losses(given)[0]["actor"]
    torch.testing.assert_close(found["bc"], BETA * nll)
    torch.testing.assert_close(found.total, found["rl"] + BETA * nll)
    torch.testing.assert_close(policy.clone(given)[0]["actor"].total, nll)
    assert "bc" not in with_linear_critics(make_policy(beta_bc=0.0)).losses(given)[0]["actor"]


def test_behaviour_cloning_optimises_nothing_else() -> None:
    torch.manual_seed(0)
    policy = BCPolicy(F, A, hidden=8, layers=1, min_std=0.1, scale=2.0)
    clone = ClonePairs(numbers(5, F), numbers(5, A, seed=1).tanh(), torch.ones(5))
    found, metrics = policy.losses(PolicyBatch(clone))
    torch.testing.assert_close(found["actor"].total, 2 * clone_loss(policy.actor, clone)[0])
    assert set(found) == {"actor"} and set(found["actor"]) == {"bc"}
    assert not any(v.requires_grad for v in metrics.values())


def test_bad_options_are_told() -> None:
    with pytest.raises(ValueError, match=r"policy\.critic: 'Q' is none of q, v"):
        make_policy(critic="Q")
    with pytest.raises(ValueError, match=r"policy\.target_reduce: 'mean' is none of min, random"):
        make_policy(target_reduce="mean")
