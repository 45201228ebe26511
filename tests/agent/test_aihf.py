"""AIHF's reward: Bradley-Terry on segments beside the likelihood of demonstrations (algorithms 3.15, 5.5.6)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agent import artefact
from agent.config import load_config
from agent.label import synthetic
from agent.optim import Optimiser
from agent.reward.aihf import AIHFReward
from agent.reward.ml import MLReward
from agent.rewards import rank_correlation
from agent.rounds import RewardRounds
from agent.starts import ReplayStarts
from demos import preferences
from models.latent import Latent
from models.world_model import Chunk
from tests.agent.recorded import comparisons, line, seen_comparisons
from tests.agent.runs import assert_same, differences, lines, local, start, state
from tests.agent.test_upkeep import DATA, Learner
from tests.models.tiny import numbers

F, A, N, T, GAMMA, TAU = 3, 2, 6, 4, 0.9, 0.2
LIKELIHOOD: dict[str, Any] = {
    "inputs": "state_action",
    "hidden": 16,
    "layers": 2,
    "act": "relu",
    "clamp": "soft",
    "bound": 10.0,
    "weighting": "discounted",
    "gamma": GAMMA,
}
OPTIONS: dict[str, Any] = LIKELIHOOD | {
    "w_demo": 1.0,
    "w_pref": 1.0,
    "demo_loss": "linear",
    "temperature": TAU,
    "comparisons": 64,
    "segment_gamma": 1.0,
}
TINY = ("obs=state", "data.batch=16", "data.length=2", "data.updates_per_step=0.2", "data.seed_steps=30",
        "data.reward_every=30", "steps=90", "eval.every=90")  # fmt: skip


def make(**options: Any) -> AIHFReward:
    """In double precision, where the network itself returns floats."""
    torch.manual_seed(0)
    one: Any = AIHFReward(F, A, **(OPTIONS | options)).double()
    one.reward = lambda x: one.clamp(one.net.net(x).squeeze(-1), one.bound)
    return one


def given() -> tuple[Tensor, Tensor]:
    """Segments (N, 2, T, F + A), and labels (N,) of every kind."""
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(N, 2, T, F + A)))
    return x, torch.tensor([0.0, 1.0, 1.0, 0.0, 0.5, 1.0], dtype=torch.float64)


def gradient(reward: MLReward, value: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(reward.parameters()), retain_graph=True)])


@pytest.mark.parametrize(("segment_gamma", "w_pref"), [(1.0, 1.0), (0.7, 2.5)])
def test_gradient_of_the_preferences_in_closed_form(segment_gamma: float, w_pref: float) -> None:
    """w/tau E[ sigmoid(-(R_w - R_l)/tau) (grad R_w - grad R_l) ], times what a likelihood's step weighs; a tie pulls
    the returns together.
    """
    reward = make(segment_gamma=segment_gamma, w_pref=w_pref)
    x, label = given()
    losses, found = reward.preference(x, label)
    c, expected, log_likelihood = TAU * (1 - GAMMA), torch.zeros(()), 0.0
    discount = segment_gamma ** torch.arange(T)
    for pair, y in zip(x, label, strict=True):
        one, two = ((reward.reward(segment) * discount).sum() for segment in pair)
        for win, loss, votes in ((two, one, y), (one, two, 1 - y)):
            wrong = torch.sigmoid(-(win - loss) / TAU).detach()
            expected = expected + votes / N / TAU * wrong * (gradient(reward, win) - gradient(reward, loss))
            log_likelihood += (votes / N * torch.log(torch.sigmoid((win - loss) / TAU))).item()
    torch.testing.assert_close(gradient(reward, losses.total), -w_pref * c * expected, rtol=1e-9, atol=1e-12)
    assert losses.total.item() == pytest.approx(-w_pref * c * log_likelihood, rel=1e-9)
    assert found["bradley_terry"].item() == pytest.approx(-log_likelihood, rel=1e-9)


def test_gradient_by_finite_differences() -> None:
    reward = make(demo_loss="logistic", act="elu")
    x, label = given()
    pairs = numbers(9, F + A).double(), numbers(7, F + A, seed=1).double()
    tracks = (torch.arange(9) // 5, 2), (torch.arange(7) // 4, 2)
    weights = [reward.weights(torch.arange(len(p)) % 5, 2).double() for p in pairs]

    def total() -> Tensor:
        return reward.loss(*pairs, *weights, tracks)[0].total + reward.preference(x, label)[0].total

    slope = gradient(reward, total())
    generator = torch.Generator().manual_seed(0)
    way, size = torch.randn(len(slope), generator=generator, dtype=torch.float64), 1e-6
    values = []
    flat = torch.nn.utils.parameters_to_vector(reward.parameters()).detach()
    for sign in (1, -1):
        torch.nn.utils.vector_to_parameters(flat + sign * size * way, reward.parameters())
        values.append(total().item())
    assert (values[0] - values[1]) / (2 * size) == pytest.approx(float(slope @ way), rel=1e-6)


def test_both_terms_are_log_likelihoods_of_one_temperature() -> None:
    """The specification's objective, times tau (1 - gamma): demonstrations and comparisons share one scale."""
    reward = make(w_demo=0.5, w_pref=3.0)
    x, label = given()
    steps = torch.arange(5)
    expert, policy = numbers(5, F + A).double(), numbers(5, F + A, seed=1).double()
    weights = [reward.weights(steps, 1).double()] * 2
    demo = reward.loss(expert, policy, *weights)[0].total
    ours, theirs = ((GAMMA**steps * reward.reward(p)).sum() for p in (expert, policy))
    gap = (reward.reward(x).sum(-1) / TAU).diff(dim=1)[:, 0]
    bradley_terry = (label * torch.log(torch.sigmoid(gap)) + (1 - label) * torch.log(torch.sigmoid(-gap))).mean()
    wanted = -TAU * (1 - GAMMA) * (0.5 * (ours - theirs) / TAU + 3.0 * bradley_terry)
    torch.testing.assert_close(demo + reward.preference(x, label)[0].total, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("lipschitz", [0.0, 0.01])
def test_without_preferences_it_is_maximum_likelihood_irl(lipschitz: float) -> None:
    """Bit by bit, its bound on the steepness included."""
    both = ((MLReward, LIKELIHOOD), (AIHFReward, OPTIONS | {"w_pref": 0.0}))
    plain, reward = (kind(F, A, **(more | {"lipschitz": lipschitz})) for kind, more in both)
    reward.load_state_dict(plain.state_dict())
    assert not differences(dict(plain.state_dict()), dict(reward.state_dict()))
    expert, policy = numbers(5, F + A), numbers(8, F + A, seed=1)
    found = []
    for one in (plain, reward):
        weights = [one.weights(torch.arange(len(p)), 1) for p in (expert, policy)]
        torch.manual_seed(0)  # interpolates
        losses = one.loss(expert, policy, *weights)[0]
        assert ("gp" in losses) == (lipschitz > 0)
        found.append((losses.total, gradient(one, losses.total)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert reward.needs_demos and not reward.needs_preferences and not reward.needs_tracks


def test_without_demonstrations_it_is_bradley_terry() -> None:
    reward = make(w_demo=0.0, w_pref=1.0)
    x, label = given()
    logit = reward.reward(x).sum(-1).diff(dim=1)[:, 0] / TAU
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logit, label)
    loss = reward.preference(x, label)[0].total
    assert torch.equal(loss, plain) and torch.equal(gradient(reward, loss), gradient(reward, plain))
    assert reward.needs_preferences and not reward.needs_demos


def test_the_logistic_loss_of_demonstrations_prefers_each_to_each_of_the_policys() -> None:
    reward = make(demo_loss="logistic", w_demo=2.0)
    time = [torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 1, 0, 0, 1, 2, 3])]
    tracks = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 2, 2, 2, 2])
    x = [numbers(len(t), F + A, seed=i).double() for i, t in enumerate(time)]
    weights = [reward.weights(t, n).double() for t, n in zip(time, (2, 3), strict=True)]
    told = (tracks[0], 2), (tracks[1], 3)
    loss = reward.loss(x[0], x[1], *weights, told)[0].total
    returns = [[(GAMMA ** t[k == i] * reward.reward(p[k == i])).sum() for i in range(int(k.max()) + 1)]
               for t, k, p in zip(time, tracks, x, strict=True)]  # fmt: skip
    each = torch.stack([torch.log(torch.sigmoid((e - p) / TAU)) for e in returns[0] for p in returns[1]])
    torch.testing.assert_close(loss, -2.0 * TAU * (1 - GAMMA) * each.mean(), rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="compares whole trajectories"):
        reward.loss(x[0], x[1], *weights)
    # a rollout of which a cut has left nothing, in the middle or at the end, is no trajectory of return 0
    fewer = reward.weights(time[1], 5).double()
    again = reward.loss(x[0], x[1], weights[0], fewer, (told[0], (torch.where(tracks[1] == 2, 3, tracks[1]), 5)))
    torch.testing.assert_close(again[0].total, loss, rtol=1e-6, atol=1e-9)


def test_at_equal_returns_the_logistic_loss_has_half_the_linear_gradient() -> None:
    """Algorithms 5.5.6: the same direction. Returns are equal where the output layer is zero."""
    slopes = []
    for demo_loss in ("linear", "logistic"):
        reward = make(demo_loss=demo_loss)
        last: Any = reward.net.net[-1]
        last.weight.data.zero_()
        x = [numbers(4, F + A, seed=i).double() for i in range(2)]
        weights = [reward.weights(torch.tensor([0, 1, 0, 1]), 2).double()] * 2
        tracks = ((torch.tensor([0, 0, 1, 1]), 2),) * 2
        slopes.append(gradient(reward, reward.loss(x[0], x[1], *weights, tracks)[0].total))
    torch.testing.assert_close(2 * slopes[1], slopes[0], rtol=1e-6, atol=1e-9)
    assert slopes[0].abs().max() > 1e-4


def test_agreement_counts_the_comparisons_that_the_reward_ranks_as_told() -> None:
    reward = make()
    x, _ = given()
    better = (reward.reward(x).sum(-1).diff(dim=1)[:, 0] > 0).double()
    assert (
        reward.preference(x, better)[1]["agreement"] == 1.0 and reward.preference(x, 1 - better)[1]["agreement"] == 0.0
    )
    mixed = torch.where(torch.arange(N) < 2, better, 0.5)
    assert reward.preference(x, mixed)[1]["agreement"] == 1.0, "ties say nothing"


def test_comparisons_are_drawn_by_the_generator_that_is_given() -> None:
    reward = make(comparisons=50)
    with pytest.raises(ValueError, match="no comparisons were given"):
        reward.drawn(np.random.default_rng(0))
    obs, action = np.arange(N * 2 * T, dtype=np.float32).reshape(N, 2, T, 1), np.zeros((N, 2, T, A), np.float32)
    reward.take(obs, action, np.arange(N, dtype=np.float32), torch.device("cpu"))
    one, two, three = (reward.drawn(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.obs, two.obs) and not torch.equal(one.obs, three.obs)
    assert set(one.label.tolist()) == set(range(N)), "fewer than asked for: with replacement"
    for drawn, label in zip(one.obs, one.label, strict=True):
        np.testing.assert_array_equal(drawn.numpy(), obs[int(label)])
    assert not any("told" in name for name in reward.state_dict()), "they are no part of a checkpoint"


def test_pictures_are_filtered_from_the_first_of_their_segment() -> None:
    """Feature t has seen picture t and the action before it, and goes with the action taken then; short of history, the
    first pairs are left out.
    """

    class Filter(nn.Module):
        def observe(self, chunk: Chunk) -> Latent:
            assert chunk.is_first[:, 0].all() and not chunk.is_first[:, 1:].any() and not chunk.is_terminal.any()
            seen = torch.cat([chunk.obs.float().mean((2, 3, 4))[..., None], 100 * chunk.action], -1)
            return Latent(seen[..., :0], seen, seen[..., :0])

    class Asked(AIHFReward):
        def preference(self, x: Tensor, label: Tensor) -> Any:
            self.asked = x
            return super().preference(x, label)

    learner: Any = Learner(ReplayStarts())
    learner.world, learner.autocast = Filter(), contextlib.nullcontext
    learner.reward = Asked(2, 1, **(OPTIONS | {"w_demo": 0.0, "comparisons": 3}))
    learner.optimisers = {"reward": Optimiser(learner.reward.parameters(), lr=1e-3, clip=1.0, eps=1e-8, wd=0.0)}
    obs = np.arange(2 * 5, dtype=np.uint8).reshape(1, 2, 5, 1, 1, 1) * np.ones((1, 2, 5, 4, 4, 3), np.uint8)
    action = np.arange(2 * 5, dtype=np.float32).reshape(1, 2, 5, 1) / 100
    learner.reward.take(obs, action, np.ones(1, np.float32), torch.device("cpu"))
    data = DATA | {"reward_restart": False, "reward_steps": 1, "burn_in": 2}
    found = RewardRounds(learner, None, data).play(1, np.random.default_rng(0), [])  # type: ignore[arg-type]
    assert learner.reward.asked.shape == (3, 2, 3, 3) and "reward/bradley_terry" in found
    for first, segment in zip((0, 5), learner.reward.asked[0], strict=True):
        times = torch.tensor([2.0, 3.0, 4.0]) + first
        torch.testing.assert_close(segment, torch.stack([times, times - 1, times / 100], -1))


def test_a_reward_of_comparisons_alone_ranks_states_as_the_truth() -> None:
    """RLHF on a line: 400 comparisons, a tenth of which are wrong."""
    rng = np.random.default_rng(0)
    walk = np.clip(rng.uniform(-1, 1, (400, 2, 1)) + 0.15 * rng.normal(size=(400, 2, 10)).cumsum(-1), -1, 1)
    truth = -np.abs(walk - 0.5)
    label, _ = synthetic(truth.sum(-1), 0.1, rng)
    torch.manual_seed(0)
    reward = AIHFReward(1, 1, **(OPTIONS | {"w_demo": 0.0, "inputs": "state", "hidden": 32, "gamma": 0.99}))
    optimiser = Optimiser(reward.parameters(), lr=3e-3, clip=100.0, eps=1e-8, wd=0.0, l2=1e-3)
    reward.take(walk[..., None].astype(np.float32), np.zeros((400, 2, 10, 1), np.float32), label, torch.device("cpu"))
    for _ in range(400):
        told = reward.drawn(rng)
        losses, found = reward.preference(reward.inputs(told.obs, told.action, noisy=True), told.label)
        optimiser.step(losses.total)
    grid = torch.linspace(-1, 1, 101)[:, None]
    with torch.no_grad():
        learned = reward.reward(grid).numpy()
    assert rank_correlation(learned, -np.abs(grid[:, 0].numpy() - 0.5)) > 0.95
    assert 0.8 < float(found["agreement"]) <= 1.0


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"demo_loss": "hinge"}, r"reward\.demo_loss: 'hinge' is none of linear, logistic"),
        ({"w_demo": -1.0}, r"reward\.w_demo: -1.0 is no weight"),
        ({"w_pref": float("nan")}, r"reward\.w_pref: nan is no weight"),
        ({"w_demo": 0.0, "w_pref": 0.0}, "nothing to learn from"),
        ({"temperature": "auto"}, "'auto' is no temperature"),
        ({"temperature": 0.0}, "0.0 is no temperature"),
        ({"comparisons": 0}, "out of range"),
        ({"segment_gamma": 1.5}, "out of range"),
        ({"weighting": "mean"}, "mean has no scale"),
        ({"policy_data": "replay"}, "replay shows no whole trajectories"),
        ({"inputs": "action"}, r"reward\.inputs: 'action' is none of"),
    ],
)
def test_bad_options_are_told(bad: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make(**bad)


# ---- through the command ----
@pytest.fixture
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    local(monkeypatch)


@pytest.mark.usefixtures("_local")
def test_special_cases_are_the_methods_that_they_are_called(tmp_path: Path) -> None:
    """w_pref = 0: ML-IRL, bit by bit. w_demo = 0: RLHF, which demonstrations do not enter, and which needs none."""
    start(tmp_path / "ml", "algo=ml_irl", *TINY)
    start(tmp_path / "none", "algo=aihf", "reward.w_pref=0", *TINY)
    assert_same(tmp_path / "ml", tmp_path / "none")
    told = f"preferences={comparisons()}"
    start(tmp_path / "rlhf", "algo=aihf", "reward.w_demo=0", told, "demos=none", *TINY)
    found = lines(tmp_path / "rlhf")
    assert any("train/reward/bradley_terry" in line for line in found)
    assert not any("train/reward/gap" in line for line in found)
    both = tmp_path / "both"
    start(both, "algo=aihf", told, "reward.demo_loss=logistic", *TINY)
    assert any({"train/reward/gap", "train/reward/agreement"} <= set(line) for line in lines(both))


@pytest.mark.usefixtures("_local")
def test_comparisons_are_read_at_the_policys_temperature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tmp_path / "run", "algo=aihf", "reward.w_pref=0", *TINY, "policy.temperature=0.05", expect=1)
    assert "reward.temperature=0.2: comparisons are read at the policy's temperature, which is 0.05" in (
        capsys.readouterr().err
    )
    for obs, name in (("state", "temperature"), ("pixels", "entropy")):
        config, _ = load_config([f"obs={obs}", "task=line", "algo=aihf_offline", "size=debug"])
        assert config["policy"][name] == config["reward"]["temperature"] == 0.2
    start(tmp_path / "run", "algo=aihf", "reward.w_pref=0", *TINY, "policy.temperature=0.05", "reward.temperature=0.05")


@pytest.mark.usefixtures("_local")
def test_a_run_goes_on_with_the_comparisons_that_it_began_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved.npz"
    start(run, "algo=aihf", f"preferences={comparisons()}", *TINY, "steps=30")
    moved.write_bytes(comparisons().read_bytes())
    start(run, "algo=aihf", f"preferences={moved}", *TINY, "steps=60")
    capsys.readouterr()
    start(run, "algo=aihf", f"preferences={comparisons(seed=1)}", *TINY, expect=1)
    told = capsys.readouterr().err.strip()
    assert "preferences_sha256" in told and "\n" not in told
    assert state(run)["step"] == 60, "nothing was lost"


@pytest.mark.usefixtures("_local")
def test_from_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Segments are filtered by the world model, each from its first picture on; a resumed run goes on exactly."""
    told = ("algo=aihf", "obs=pixels", f"preferences={seen_comparisons()}", "reward.comparisons=3")
    more = ("size.pretrain=2", "data.reward_every=3", "data.reward_horizon=4", "data.updates_per_step=0.1", "steps=60")
    start(tmp_path / "whole", *told, *more, "eval.every=60")
    assert any({"train/reward/gap", "train/reward/agreement"} <= set(line) for line in lines(tmp_path / "whole"))
    for steps in (30, 60):
        start(tmp_path / "pieces", *told, *more, "eval.every=60", f"steps={steps}")
    assert_same(tmp_path / "whole", tmp_path / "pieces")
    capsys.readouterr()
    start(tmp_path / "state", "algo=aihf", "obs=state", told[2], expect=1)
    assert "the comparisons are of images, this run sees states" in capsys.readouterr().err


@pytest.mark.usefixtures("_local")
def test_it_can_be_taken_to_another_run(tmp_path: Path) -> None:
    start(tmp_path / "run", "algo=aihf", f"preferences={comparisons()}", *TINY)
    assert artefact.read(tmp_path / "run").card["reward"]["kind"] == "aihf"
    offline = ("data.batch=16", "data.length=2", "size.epoch=8", "size.offline_fit=20", "steps=8", "eval.every=8")
    frozen = ("reward=frozen", f"reward.path={tmp_path / 'run'}")
    start(tmp_path / "mopo", "algo=mopo", "obs=state", f"dataset={line()}", *frozen, *offline)
    given, kept = (state(tmp_path / name)["modules"]["reward"] for name in ("run", "mopo"))
    assert all(torch.equal(value, kept[f"learned.{key}"]) for key, value in given.items())


def test_comparisons_of_other_shapes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local(monkeypatch)
    found = preferences.load(comparisons())
    wide = np.repeat(found.obs, 2, -1)
    preferences.save(tmp_path / "wide.npz", preferences.Comparisons("state", wide, *_rest(found)))
    start(tmp_path / "run", "algo=aihf", f"preferences={tmp_path / 'wide.npz'}", *TINY, expect=1)
    assert "observations (2,) and 1 actions, the run has (1,) and 1" in capsys.readouterr().err


def _rest(found: preferences.Comparisons) -> tuple[Any, ...]:
    return found.action, found.label, found.number, found.meta
