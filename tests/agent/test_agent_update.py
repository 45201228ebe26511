"""One gradient step: what is joined, in which order, which parameters move (algorithms 3.1, 5.6.2-4, 5.6.8)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from agent.agent import FULL, Agent, UpdateOptions
from agent.penalties import make_penalty
from agent.policy.base import PolicyBatch
from agent.policy.bc import BCPolicy
from agent.starts import MixtureStarts, ReplayStarts
from models.latent import Latent, Losses
from models.state_model import StateModel
from models.world_model import Chunk, FrameStack
from tests.agent.learner import OPTIM, make_agent
from tests.models.tiny import ACTION, DETER, STOCH, equal_latents, make_chunk, numbers

GROUPS = ("world", "reward", "actor", "critics")


@pytest.fixture(scope="module")
def chunks() -> tuple[Chunk, Chunk]:
    """An agent chunk and an expert chunk, the second with a restart."""
    return make_chunk(2, 5, seed=1), make_chunk(2, 5, seed=2, expert=True, restart=3)


def update(agent: Agent, chunks: tuple[Chunk, Chunk], index: int = 1, parts: Iterable[str] = FULL) -> dict[str, Tensor]:
    torch.manual_seed(11)
    return agent.update(*chunks, index, frozenset(parts))


def weights(agent: Agent) -> dict[str, list[Tensor]]:
    """A copy of the parameters of each optimiser, and of the targets."""
    found = {name: [p.detach().clone() for p in o.params] for name, o in agent.optimisers.items()}
    target = getattr(agent.policy, "target", None)
    return found | {"target": [p.clone() for p in target.parameters()] if target is not None else []}


def moved(agent: Agent, before: dict[str, list[Tensor]]) -> set[str]:
    """Names of the groups in which a single bit has changed."""
    after = weights(agent)
    return {n for n, ps in before.items() if any(not torch.equal(p, q) for p, q in zip(ps, after[n], strict=True))}


def differences(a: Agent, b: Agent, name: str) -> bool:
    """Whether a single bit of these parameters differs."""
    return any(not torch.equal(p, q) for p, q in zip(weights(a)[name], weights(b)[name], strict=True))


def only(agent: Agent, name: str) -> Agent:
    """Switch off all optimisers but one."""
    for other, optimiser in agent.optimisers.items():
        if other != name:
            optimiser.apply = lambda: torch.zeros(())
    return agent


def capture(agent: Agent) -> list[PolicyBatch]:
    """Batches that the policy is given from now on."""
    batches: list[PolicyBatch] = []
    losses = agent.policy.losses

    def spy(batch: PolicyBatch) -> Any:
        batches.append(batch)
        return losses(batch)

    agent.policy.losses = spy
    return batches


def counting(b: int, t: int, base: int, *, expert: bool = False) -> Chunk:
    """Observation of row t of chunk b: base + 100 b + t; the action stored one row later is ten times that."""
    number = base + 100 * torch.arange(float(b))[:, None] + torch.arange(float(t))
    action = torch.zeros(b, t, ACTION)
    action[:, 1:] = 10 * number[:, :-1, None]
    given = make_chunk(b, t, expert=expert, size=2)
    return dataclasses.replace(given, obs=number[..., None].expand(b, t, STOCH), action=action)


def see_numbers(agent: Agent) -> None:
    """Posteriors of a counting chunk are its numbers."""

    def observe(chunk: Chunk) -> Latent:
        lead = chunk.action.shape[:2]
        return Latent(torch.zeros(*lead, DETER), chunk.obs, torch.zeros(*lead, 2 * STOCH))

    agent.world.observe = observe


# ---------------------------------------------------------------------- which parameters move


@pytest.mark.parametrize("name", GROUPS)
def test_each_optimiser_moves_its_own_parameters_alone(name: str, chunks: tuple[Chunk, Chunk]) -> None:
    agent = only(make_agent(), name)
    before = weights(agent)
    update(agent, chunks)
    assert moved(agent, before) == {name}


def test_optimisers_share_no_parameter_and_miss_none() -> None:
    agent = make_agent()
    owned = [id(p) for o in agent.optimisers.values() for p in o.params]
    assert tuple(agent.optimisers) == GROUPS and len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in agent.parameters() if p.requires_grad}


@pytest.mark.parametrize("options", [{}, {"policy": {"critic": "v", "critics": 1, "data_critic": False}}])
def test_each_loss_reaches_only_its_own_parameters(options: dict[str, Any], chunks: tuple[Chunk, Chunk]) -> None:
    """World model, reward and critics are bit-identical after the actor's step because no gradient exists."""
    agent = make_agent(**options)
    reached: dict[str, set[str]] = {}
    for name, optimiser in agent.optimisers.items():

        def differentiate(loss: Tensor, name: str = name, original: Any = optimiser.differentiate) -> None:
            groups = {n: o.params for n, o in agent.optimisers.items()}
            every = [p for params in groups.values() for p in params]
            grads = iter(torch.autograd.grad(loss, every, allow_unused=True, retain_graph=True))
            reached[name] = {n for n, params in groups.items() for _ in params if next(grads) is not None}
            original(loss)

        optimiser.differentiate = differentiate
    update(agent, chunks)
    assert reached == {name: {name} for name in GROUPS}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (FULL, {*GROUPS}),
        ({"world"}, {"world"}),
        ({"world", "clone"}, {"world", "actor"}),
        ({"clone"}, {"actor"}),
        ({"policy"}, {"actor", "critics"}),
        ({"reward", "policy"}, {"reward", "actor", "critics"}),
    ],
)
def test_parts_of_an_update(parts: frozenset[str], expected: set[str], chunks: tuple[Chunk, Chunk]) -> None:
    agent = make_agent()
    before = weights(agent)
    metrics = update(agent, chunks, parts=parts)
    assert moved(agent, before) == expected
    assert not any(v.requires_grad for v in metrics.values()) and all(bool(v.isfinite()) for v in metrics.values())
    assert {name.split("/")[1] for name in metrics if name.startswith("grad/")} == expected


def test_without_a_penalty_term_or_reward_noise(chunks: tuple[Chunk, Chunk]) -> None:
    for options in ({"penalty": "none"}, {"penalty": "ens_std"}, {"reward": {"noise_in_reward": False}}):
        agent = make_agent(**options)
        assert all(bool(v.isfinite()) for v in update(agent, chunks).values())
        assert all(bool(p.isfinite().all()) for p in agent.parameters())


# ---------------------------------------------------------------------- order


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("fast", "others"), [("reward", ["actor", "critics"]), ("actor", ["critics", "reward"])])
def test_all_gradients_belong_to_the_same_weights(
    fast: str, others: list[str], bf16: bool, chunks: tuple[Chunk, Chunk]
) -> None:
    """How far one optimiser moves changes nothing for the others in the same update."""
    found = []
    for lr in (1e-6, 0.5):
        agent = make_agent(optim={fast: {"lr": lr}}, bf16=bf16)
        update(agent, chunks)
        found.append(weights(agent))
    assert all(torch.equal(p, q) for name in others for p, q in zip(found[0][name], found[1][name], strict=True))
    assert not torch.equal(found[0][fast][0], found[1][fast][0])


@pytest.mark.parametrize("bf16", [False, True])
def test_replay_posteriors_precede_the_model_step_and_expert_posteriors_follow_it(
    bf16: bool, chunks: tuple[Chunk, Chunk]
) -> None:
    agent = make_agent(optim={"world": {"lr": 0.05}}, bf16=bf16)
    before = copy.deepcopy(agent)
    seen: dict[str, Any] = {}
    sample, observe = agent.starts.sample, agent.world.observe

    def spy_sample(own: Latent, demo: Latent, valid: Tensor) -> Any:
        seen.update(own=own, demo=demo)
        return sample(own, demo, valid)

    def spy_observe(chunk: Chunk) -> Latent:
        seen["rng"] = torch.get_rng_state()
        return observe(chunk)

    agent.starts.sample = spy_sample
    agent.world.observe = spy_observe
    update(agent, chunks)

    torch.manual_seed(11)
    with before.autocast():
        old = before.world.loss(chunks[0])[1]
    assert equal_latents(seen["own"], old.detach())

    def again(learner: Agent) -> Latent:
        torch.set_rng_state(seen["rng"])
        with torch.no_grad(), learner.autocast():
            return learner.world.observe(chunks[1])

    assert not equal_latents(seen["demo"], again(before))
    assert equal_latents(seen["demo"], again(agent)), "the model that is imagined with has seen the demonstrations"
    assert not seen["own"].feat.requires_grad and not seen["demo"].feat.requires_grad


def test_a_model_that_stays_as_it_is_sees_augmented_chunks(chunks: tuple[Chunk, Chunk]) -> None:
    """Else the frames that are cloned would be learned by heart in a frozen model."""
    agent = make_agent()
    seen: list[Chunk] = []
    observe = agent.world.observe
    agent.world.augmented = lambda chunk: dataclasses.replace(chunk, obs=255 - chunk.obs)
    agent.world.observe = lambda chunk: seen.append(chunk) or observe(chunk)
    update(agent, chunks, parts=("reward", "policy"))
    assert [c.expert.all().item() for c in seen] == [True, False]
    assert all(torch.equal(c.obs, 255 - given.obs) for c, given in zip(seen, reversed(chunks), strict=True))


def test_joint_batch_fits_the_model_on_both_chunks(chunks: tuple[Chunk, Chunk]) -> None:
    agent = make_agent(joint_batch=True)
    seen: list[Any] = []
    loss, sample = agent.world.loss, agent.starts.sample
    agent.world.loss = lambda chunk: seen.append(chunk) or loss(chunk)
    agent.starts.sample = lambda own, demo, valid: seen.append((own, demo)) or sample(own, demo, valid)
    batches = capture(agent)
    update(agent, chunks)
    joined, (own, demo) = seen
    assert joined.truth is None, "no world model sees the environment's reward"
    for name in (f.name for f in dataclasses.fields(Chunk) if f.name not in ("truth", "imitated")):
        assert torch.equal(getattr(joined, name), torch.cat([getattr(c, name) for c in chunks]))
    assert own.feat.shape == demo.feat.shape == (2, 5, STOCH + DETER)
    assert torch.equal(batches[0].clone.feat.unflatten(0, (2, 4)), demo.feat[:, :-1])
    world = make_agent(joint_batch=True).world
    torch.manual_seed(11)
    z = world.loss(joined)[1]
    assert equal_latents(own, z[:2].detach()) and equal_latents(demo, z[2:].detach()), "agent chunks come first"


def test_demonstrations_alone_are_one_chunk(chunks: tuple[Chunk, Chunk]) -> None:
    agent = make_agent()
    seen: list[tuple[Latent, Latent]] = []
    sample = agent.starts.sample
    agent.starts.sample = lambda own, demo, valid: seen.append((own, demo)) or sample(own, demo, valid)
    update(agent, (chunks[1], chunks[1]))
    assert seen[0][0] is seen[0][1]


@pytest.mark.parametrize("index", [0, 1, 99, 100, 200])
def test_targets_follow_the_critics_after_their_step(index: int, chunks: tuple[Chunk, Chunk]) -> None:
    agent = make_agent()
    before = weights(agent)
    update(agent, chunks, index)
    after = weights(agent)
    same = all(torch.equal(p, q) for p, q in zip(after["target"], after["critics"], strict=True))
    assert same == (index % 100 == 0)
    assert ("target" in moved(agent, before)) == same


class NoSynchronisation(TorchDispatchMode):
    """Fails where the host would have to wait for a device's numbers."""

    READS = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.equal.default,
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in self.READS, f"{func} reads a tensor on the host"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("parts", [FULL, {"world", "clone"}])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "joint_batch": True,
            "starts": ReplayStarts(2),
            "world": {"decode_rows": 2, "shift": 2, "behaviour_scale": 1.0},
        },
        {"starts": MixtureStarts(0.5), "penalty": "ens_std", "policy": {"target_reduce": "random"}},
        {"policy": {"critic": "v", "critics": 1}, "reward": {"gp": "input", "noise_in_reward": False}},
        {"reward": {"gp": "weight"}, "bf16": True},
    ],
)
def test_a_gradient_step_never_waits_for_the_device(
    options: dict[str, Any], parts: Iterable[str], chunks: tuple[Chunk, Chunk]
) -> None:
    """So that updates can be queued, and captured as CUDA graphs. Optimisers, torch's own, are left out."""
    agent = make_agent(**options)
    for optimiser in agent.optimisers.values():
        optimiser.apply = lambda: torch.zeros(())
    with NoSynchronisation():
        agent.gradient_step(*chunks, frozenset(parts))


# ---------------------------------------------------------------------- what is joined with what


@pytest.mark.parametrize("per_chunk", [0, 4])
def test_pairs_of_the_learner_are_aligned(per_chunk: int) -> None:
    agent = make_agent(starts=ReplayStarts(per_chunk))
    see_numbers(agent)
    batches = capture(agent)
    own, demo = counting(3, 7, base=1), counting(2, 7, base=1001, expert=True)
    own.is_first[1, 4] = True
    own.valid[2, :2] = False  # burn-in
    demo.is_first[0, 5] = True
    demo.valid[1, 0] = False
    update(agent, (own, demo), parts={"reward", "policy"})
    clone, data, rollout = batches[0].clone, batches[0].data, batches[0].rollout
    assert data is not None and rollout is not None

    # demo pairs (z_t, a_t): the action is the one taken in z_t, stored at row t + 1
    assert torch.equal(clone.action, 10 * clone.feat[:, :1].expand_as(clone.action))
    weight = torch.ones(2, 6)
    weight[0, 4] = 0  # row 5 begins another episode
    weight[1, 0] = 0
    assert torch.equal(clone.weight, weight.flatten())

    # replay pairs (z_j, a_j) whose successor z_{j+1} is the start of rollout data.start
    counts = data.weight > 0
    z, successor = data.feat[:, 0], rollout.feat[0, data.start, 0]
    assert torch.equal(data.action[counts], 10 * z[counts, None].expand(-1, ACTION))
    assert torch.equal(successor[counts], z[counts] + 1)
    # successors are rows 1..T-2 (T - 2 pairs a chunk), none of them a first row, all of the z_j with enough history
    allowed = {float(1 + 100 * b + t) for b in range(3) for t in range(1, 6)} - {105.0, 201 + 1.0, 201 + 2.0}
    found = set(successor[counts].tolist())
    assert found <= allowed and len(found) == int(counts.sum())
    if per_chunk == 0:
        assert found == allowed
    else:
        assert found == allowed & set(rollout.feat[0, :, 0].tolist())


def test_data_rewards_are_clean_and_unpenalised() -> None:
    own, demo = counting(3, 7, base=0), counting(2, 7, base=0, expert=True)
    small = dataclasses.replace(own, obs=own.obs / 300, action=own.action / 3000)
    agent = make_agent(reward={"noise": 5.0})
    see_numbers(agent)
    before = copy.deepcopy(agent.reward)
    batches = capture(agent)
    update(agent, (small, demo), parts={"policy"})
    data = batches[0].data
    assert data is not None and before is not None
    clean = before.reward(torch.cat([data.feat, data.action], -1))
    assert torch.equal(data.reward, clean) and not data.reward.requires_grad
    assert clean.std() > 0


@pytest.mark.parametrize("noisy", [True, False])
def test_discriminator_and_policy_share_one_noisy_input(noisy: bool, chunks: tuple[Chunk, Chunk]) -> None:
    """C2: the policy's reward is that of the noisy pairs which the discriminator is trained on, minus the penalty."""
    agent = make_agent(reward={"noise_in_reward": noisy, "noise": 2.0})
    assert agent.reward is not None
    inputs: list[Tensor] = []
    agent.reward.net.register_forward_hook(lambda module, args, out: inputs.append(args[0]))
    batches = capture(agent)
    reward_net = copy.deepcopy(agent.reward)
    update(agent, chunks)
    rollout, reward = batches[0].rollout, batches[0].reward
    assert rollout is not None and reward is not None
    of_policy, _, expert, trained = inputs[:4]  # the second are the data critic's pairs
    clean = torch.cat([rollout.feat[:-1], rollout.action], -1)
    assert of_policy.shape == clean.shape == (4, 10, STOCH + DETER + ACTION)
    if noisy:
        assert torch.equal(of_policy.flatten(0, 1), trained)
        assert (of_policy - clean).std().item() == pytest.approx(2.0, rel=0.2)
    else:
        assert torch.equal(of_policy, clean)
        assert (of_policy.flatten(0, 1) - trained).std().item() == pytest.approx(2.0, rel=0.2)
    noise = expert - torch.cat([batches[0].clone.feat, batches[0].clone.action], -1)
    assert noise.std().item() == pytest.approx(2.0, rel=0.2), "fresh noise for the expert"
    assert rollout.u.min() >= 0 and bool(rollout.u.any())
    torch.testing.assert_close(reward, reward_net.reward(of_policy) - 3.0 * rollout.u)


def test_rollouts_start_at_all_replay_posteriors(chunks: tuple[Chunk, Chunk]) -> None:
    agent = make_agent()
    batches = capture(agent)
    seen: list[Latent] = []
    sample = agent.starts.sample
    agent.starts.sample = lambda own, demo, valid: seen.append(own) or sample(own, demo, valid)
    update(agent, chunks)
    rollout = batches[0].rollout
    assert rollout is not None
    assert torch.equal(rollout.feat[0], seen[0].feat.flatten(0, 1)) and rollout.action.shape == (4, 10, ACTION)


def test_only_starts_that_follow_a_replay_pair_are_its_target(chunks: tuple[Chunk, Chunk]) -> None:
    counted, seen = [], []
    for p in (0.0, 0.5, 1.0):
        agent = make_agent(starts=MixtureStarts(p))
        sample = agent.starts.sample
        agent.starts.sample = lambda *given, sample=sample: seen.append(sample(*given)) or seen[-1]
        batches = capture(agent)
        update(agent, chunks)
        assert batches[0].data is not None
        counted.append(batches[0].data.weight > 0)
    assert counted[0].sum() == 2 * 3 and not counted[2].any(), "rows 1 to 3 of each chunk of five"
    assert torch.equal(counted[1], counted[0] & seen[1].own) and 0 < counted[1].sum() < 6


def test_chunks_of_one_transition_have_no_data_pairs() -> None:
    agent = make_agent()
    batches = capture(agent)
    update(agent, (make_chunk(4, 2, seed=1), make_chunk(4, 2, seed=2, expert=True)))
    assert batches[0].data is None and batches[0].rollout is not None


def test_diagnostics_are_free_of_noise(chunks: tuple[Chunk, Chunk]) -> None:
    agent = make_agent(reward={"noise": 50.0})
    reward = copy.deepcopy(agent.reward)
    batches = capture(agent)
    metrics = update(agent, chunks)
    rollout, clone = batches[0].rollout, batches[0].clone
    assert rollout is not None and reward is not None
    d_expert = torch.sigmoid(reward.net(torch.cat([clone.feat, clone.action], -1))).mean()
    d_policy = torch.sigmoid(reward.net(torch.cat([rollout.feat[0], rollout.action[0]], -1))).mean()
    torch.testing.assert_close(metrics["d_gap"], (d_expert - d_policy).detach())
    torch.testing.assert_close(metrics["u_weighted"], 3.0 * rollout.u.mean().detach())


# ---------------------------------------------------------------------- behaviour cloning


def frame_agent() -> Agent:
    torch.manual_seed(0)
    world = FrameStack(action=ACTION, depth=2, size=8, shift=2)
    policy = BCPolicy(8, ACTION, hidden=8, layers=1, min_std=0.1)
    options = UpdateOptions(0, False, False)
    return Agent(world, None, ReplayStarts(), make_penalty("none", 0.0), policy, {"actor": OPTIM}, options)


def test_cloning_on_frames_trains_the_encoder(chunks: tuple[Chunk, Chunk]) -> None:
    agent = frame_agent()
    assert list(agent.optimisers) == ["actor"]
    assert {id(p) for p in agent.optimisers["actor"].params} == {id(p) for p in agent.parameters()}
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    update(agent, (chunks[1], chunks[1]))
    still = [name for name, p in agent.named_parameters() if torch.equal(p, before[name])]
    assert not still


def test_cloning_on_posteriors_leaves_the_model_to_its_likelihood(chunks: tuple[Chunk, Chunk]) -> None:
    agent = make_agent(clone=True)
    assert list(agent.optimisers) == ["world", "actor"]
    agent = only(agent, "actor")
    before = weights(agent)
    update(agent, (chunks[1], chunks[1]))
    assert moved(agent, before) == {"actor"}


def test_noise_blurs_what_is_cloned_and_nothing_else(
    chunks: tuple[Chunk, Chunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(reward={"noise": 0.0})
    agent.options = dataclasses.replace(agent.options, clone_noise=0.3)
    exact, cloned, compared = agent._pairs, agent.policy.losses, agent.reward.loss
    seen: dict[str, Any] = {}

    def keep(name: str, value: Any) -> Any:
        seen[name] = value
        return value

    monkeypatch.setattr(agent, "_pairs", lambda *of: keep("pairs", exact(*of)))
    monkeypatch.setattr(agent.policy, "losses", lambda batch: cloned(keep("batch", batch)))
    monkeypatch.setattr(agent.reward, "loss", lambda expert, *more: compared(keep("expert", expert), *more))
    update(agent, chunks)
    pairs, clone = seen["pairs"], seen["batch"].clone
    noise = clone.feat - pairs.feat
    assert noise.std().item() == pytest.approx(0.3, rel=0.2) and noise.mean().abs().item() < 0.1
    assert torch.equal(clone.action, pairs.action) and torch.equal(clone.weight, pairs.weight)
    assert torch.equal(seen["expert"], torch.cat([pairs.feat, pairs.action], -1))


def test_own_episodes_that_came_near_are_cloned_and_shown_to_nobody_as_demonstrations(
    monkeypatch: pytest.MonkeyPatch, chunks: tuple[Chunk, Chunk]
) -> None:
    first = chunks[0].is_first.clone()
    first[1, 2] = True
    chunks = dataclasses.replace(chunks[0], is_first=first), chunks[1]

    def learned(imitated: list[bool] | None) -> tuple[PolicyBatch, Tensor, Tensor]:
        agent = make_agent(joint_batch=True)
        batches, loss, compared = capture(agent), agent.reward.loss, []
        monkeypatch.setattr(agent.reward, "loss", lambda x, *rest: compared.append(x) or loss(x, *rest))
        flags = None if imitated is None else torch.tensor(imitated)
        metrics = update(agent, (dataclasses.replace(chunks[0], imitated=flags), chunks[1]))
        return batches[0], compared[0], metrics["bc_nll"]

    batch, expert, nll = learned([False, True])
    alone, same_expert, nll_alone = learned(None)
    own = chunks[0]
    demo, more = batch.clone.action.split(8)
    assert torch.equal(demo, alone.clone.action) and torch.equal(more.unflatten(0, (2, 4)), own.action[:, 1:])
    # what follows in a chunk after its episode is of another one, which may not have come near
    weight = (own.valid[:, :-1] & (own.is_first[:, 1:].cumsum(1) == 0)).float()
    assert 0 < weight[1].sum() == 1 < own.valid[1, :-1].sum() - 1
    weight[0] = 0
    assert torch.equal(batch.clone.weight[8:], weight.flatten()) and torch.equal(
        batch.clone.weight[:8], alone.clone.weight
    )
    assert torch.equal(expert, same_expert) and len(expert) == 8, "the reward is shown demonstrations alone"
    assert nll != nll_alone and learned([False, False])[2] == pytest.approx(float(nll_alone))


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_practice_is_the_share_of_the_return_that_the_actor_hears(share: float, chunks: tuple[Chunk, Chunk]) -> None:
    whole, part = make_agent(), make_agent()
    part.practice.fill_(share)
    first, second = update(whole, chunks), update(part, chunks)
    assert (
        second["loss/actor_rl"] == pytest.approx(share * float(first["loss/actor_rl"])) and first["loss/actor_rl"] != 0
    )
    for name in ("actor_bc", "critics_model", "critics_data"):
        assert second[f"loss/{name}"] == first[f"loss/{name}"]
    assert not differences(whole, part, "critics") and differences(whole, part, "actor")


def test_cloning_converges_to_the_demonstrated_actions() -> None:
    agent = frame_agent()
    chunk = make_chunk(1, 4, seed=3, expert=True)
    agent.world.shift = 0
    agent.optimisers["actor"].adam.param_groups[0]["lr"] = 1e-2
    errors = [agent.update(chunk, chunk, i)["bc_error"].item() for i in range(25)]
    assert errors[-1] < 0.2 * errors[0]


# ---------------------------------------------------------------------- acting


def test_acting_follows_the_policy(chunks: tuple[Chunk, Chunk]) -> None:
    agent, chunk = make_agent(), chunks[0]
    obs, action = chunk.obs[:, 0].numpy(), np.full((2, ACTION), 0.3, np.float32)
    first, carry = np.array([True, False]), agent.world.initial(2)
    one, after = agent.act(obs, action, first, carry, mode=True)
    two, _ = agent.act(obs, action, first, carry, mode=True)
    assert one.shape == (2, ACTION) and one.dtype == np.float32
    assert np.array_equal(one, two)
    near = np.stack([agent.act(obs, action, first, carry, mode=True, noise=0.01)[0] for _ in range(60)])
    assert np.abs(near - one).std() == pytest.approx(0.006, rel=0.3), "exploration around the mode"
    z, _ = agent.world.filter(chunk.obs[:, 0], torch.from_numpy(action), torch.from_numpy(first), carry, sample=False)
    np.testing.assert_allclose(one, agent.policy.actor(z.feat).mode().detach().numpy(), rtol=1e-5)
    assert torch.equal(after.feat, z.feat)
    sampled = [agent.act(obs, action, first, carry, mode=False)[0] for _ in range(2)]
    assert not np.array_equal(*sampled)
    noisy = np.stack([agent.act(obs, action, first, carry, mode=False, noise=5.0)[0] for _ in range(40)])
    assert np.abs(noisy).max() == 1.0 and (np.abs(noisy) == 1.0).mean() > 0.5, "noise is added, then clipped"


def test_averaged_weights_act(chunks: tuple[Chunk, Chunk]) -> None:
    agent = make_agent(ema=0.9, optim={name: {"lr": 0.05} for name in GROUPS})
    assert agent.slow is not None and not any(p.requires_grad for p in agent.slow.parameters())
    newest = [*agent.world.parameters(), *agent.policy.actor.parameters()]
    expected = [p.detach().clone() for p in newest]
    for index in (0, 1, 500):
        update(agent, chunks, index)
        decay = min(0.9, (1 + index) / (10 + index))
        expected = [decay * slow + (1 - decay) * p.detach() for slow, p in zip(expected, newest, strict=True)]
    for found, wanted in zip(agent.slow.parameters(), expected, strict=True):
        torch.testing.assert_close(found.data, wanted, rtol=1e-4, atol=1e-6)
    inputs = chunks[0].obs[:, 0].numpy(), np.zeros((2, ACTION), np.float32), np.array([True, True])
    carry = agent.world.initial(2)
    averaged, _ = agent.act(*inputs, carry, mode=True)
    with torch.no_grad():
        for p, slow in zip(newest, agent.slow.parameters(), strict=True):
            p.copy_(slow)
    slow_modules, agent.slow = agent.slow, None
    assert np.array_equal(agent.act(*inputs, carry, mode=True)[0], averaged)
    assert slow_modules is not None and make_agent().slow is None


def test_weights_of_another_run_keep_their_average() -> None:
    """The short memory of a young average would replace it by one update's weights (``init=RUN``)."""
    agent = make_agent(ema=0.9)
    agent.options = dataclasses.replace(agent.options, ema_warm_up=False)
    assert agent.slow is not None
    before = [p.detach().clone() for p in agent.slow.parameters()]
    newest = [*agent.world.parameters(), *agent.policy.actor.parameters()]
    with torch.no_grad():
        for p in newest:
            p.add_(1.0)
    agent.average(0)
    for slow, was in zip(agent.slow.parameters(), before, strict=True):
        torch.testing.assert_close(slow.data, was + 0.1, rtol=1e-5, atol=1e-5)


def test_statistics_are_copied_and_not_averaged() -> None:
    """Features between two scales would mean something that neither policy was trained on."""
    torch.manual_seed(0)
    world, policy = StateModel(3, normalise=True), BCPolicy(3, ACTION, hidden=8, layers=1, min_std=0.1)
    options = UpdateOptions(0, False, False, ema=0.9)
    agent = Agent(world, None, ReplayStarts(), make_penalty("none", 0.0), policy, {"actor": OPTIM}, options)
    assert agent.slow is not None
    world.set_normaliser(5 + 3 * numbers(50, 3))
    agent.average(100)
    for name, buffer in world.named_buffers():
        assert torch.equal(agent.slow["world"].get_buffer(name), buffer), name
    obs = numbers(2, 3, seed=1).numpy()
    acted, _ = agent.act(obs, np.zeros((2, ACTION), np.float32), np.ones(2, bool), world.initial(2), mode=True)
    with torch.no_grad():
        np.testing.assert_allclose(acted, policy.actor(world.latent(torch.from_numpy(obs)).feat).mode(), rtol=1e-5)


def test_averaging_does_not_change_what_is_learned(chunks: tuple[Chunk, Chunk]) -> None:
    found = []
    for ema in (0.0, 0.99):
        agent = make_agent(ema=ema)
        update(agent, chunks)
        found.append(weights(agent))
    assert all(torch.equal(p, q) for name in found[0] for p, q in zip(found[0][name], found[1][name], strict=True))


def test_named_losses_add_up() -> None:
    losses = Losses(a=torch.tensor(1.5), b=torch.tensor(-0.25))
    assert losses.total.item() == 1.25


def test_a_module_in_the_agent_is_saved() -> None:
    names = {name for name, child in make_agent().named_children() if isinstance(child, nn.Module)}
    assert names == {"world", "reward", "policy"}
