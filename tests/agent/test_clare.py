"""CLARE: weights of data by the model's uncertainty, the loss and its optimum, rounds, the official preset's missing
bootstrap (algorithms 3.12, 5.5.7).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.config import load_config
from agent.data import Replay
from agent.memory import TransitionMemory
from agent.optim import Optimiser
from agent.reward.clare import CLAREReward, point_weights
from agent.rounds import RewardRounds
from agent.starts import MixtureStarts
from agent.upkeep import Upkeep
from tests.agent.batches import PAIRS
from tests.agent.test_sac import batch, make_sac
from tests.agent.test_upkeep import DATA, Learner, episode
from tests.models.tiny import numbers

F, A = 3, 2
OPTIONS: dict[str, Any] = {
    "hidden": 16,
    "layers": 2,
    "act": "silu",
    "threshold": 0.5,
    "regularisation": 0.7,
    "added": 6,
    "anchor": False,
}
ROUND = DATA | {"reward_restart": False}


def make(feat: int = F, action: int = A, **options: Any) -> CLAREReward:
    torch.manual_seed(0)
    return CLAREReward(feat, action, **(OPTIONS | options))


# ---------------------------------------------------------------------- weights


def test_weights_are_their_definition() -> None:
    """Two demonstrated and four other transitions: n_hi = 1, n_lo = 3, N / N_E = 3; at the threshold itself nothing."""
    c = torch.tensor([0.9, 0.2, 0.1, 0.6, 0.5, 0.3])
    assert point_weights(c, 2, 0.5).tolist() == pytest.approx([-3.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    assert point_weights(c, 2, 0.95).tolist() == pytest.approx([0.0] * 6), "all demonstrations are known"
    assert point_weights(c, 1, 0.15).tolist() == pytest.approx([-6.0, 0.0, 6.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_weights_move_mass_and_make_none(threshold: float) -> None:
    """Z = 1 + mean beta = 1, and what is sought, E + D beta, is a distribution without unknown demonstrations."""
    torch.manual_seed(0)
    c, expert = torch.rand(400, dtype=torch.float64), 30
    beta = point_weights(c, expert, threshold)
    assert (1 + beta.mean()).item() == pytest.approx(1.0, abs=1e-12)
    sought = beta / 400
    sought[:expert] += 1 / expert
    assert sought.sum().item() == pytest.approx(1.0) and (sought >= -1e-15).all()
    assert sought[:expert][c[:expert] > threshold].abs().max() < 1e-15
    assert (sought[c < threshold] > 0).all() and not sought[expert:][c[expert:] > threshold].any()


def test_a_model_that_is_certain_of_nothing_is_told() -> None:
    with pytest.raises(ValueError, match=r"reward\.threshold: 0\.5, but no transition's uncertainty is below 0\.62"):
        point_weights(torch.tensor([0.62, 0.9, 1.0]), 1, 0.5)


# ---------------------------------------------------------------------- loss


def test_loss_is_its_definition() -> None:
    reward, z = make(), torch.tensor(0.8)
    expert, data, model, beta = numbers(4, F + A), numbers(5, F + A, seed=1), numbers(3, F + A, seed=2), numbers(5)
    losses, metrics = reward.loss(expert, data, beta, model, z)
    e, d, m = ([reward.reward(row).item() for row in rows] for rows in (expert, data, model))
    weighted = sum(b * r for b, r in zip(beta.tolist(), d, strict=True)) / 5
    squares = sum(r**2 for r in m + d) / 8
    assert losses["match"].item() == pytest.approx(0.8 * sum(m) / 3 - sum(e) / 4 - weighted, abs=1e-6)
    assert losses["norm"].item() == pytest.approx(0.7 * 0.8 * squares, abs=1e-6)
    assert metrics["r_model"].item() == pytest.approx(sum(m) / 3, abs=1e-6)


def test_gradient_by_finite_differences() -> None:
    reward = make()
    given = numbers(4, F + A), numbers(5, F + A, seed=1), numbers(5), numbers(3, F + A, seed=2), torch.tensor(0.8)
    params = list(reward.parameters())
    ways = [torch.randn_like(p) for p in params]

    def at(step: float) -> float:
        with torch.no_grad():
            for p, way in zip(params, ways, strict=True):
                p.add_(way, alpha=step)
            value = reward.loss(*given)[0].total.item()
            for p, way in zip(params, ways, strict=True):
                p.sub_(way, alpha=step)
        return value

    grads = torch.autograd.grad(reward.loss(*given)[0].total, params)
    slope = sum((g * way).sum().item() for g, way in zip(grads, ways, strict=True))
    assert (at(3e-3) - at(-3e-3)) / 6e-3 == pytest.approx(slope, rel=5e-3)


def test_the_optimum_compares_what_is_sought_with_what_is_imagined() -> None:
    """At every point: r = (p_E + p_D beta - Z p_M) / (c_reg Z (p_M + p_D)), here with p as counts of four points."""
    points, c = torch.eye(4), torch.tensor([0.9, 0.1, 0.2, 0.7])
    expert, data, model = [0, 1], [0, 1, 1, 2, 3, 3], [1, 2, 2, 3]  # point 3 is imagined, but unknown and not sought
    order = [*expert, *data]  # all data, the demonstrations first
    beta = point_weights(c[order], len(expert), 0.5)
    reward = make(2, 2, hidden=64)
    optimiser = Optimiser(reward.parameters(), lr=3e-3, clip=100.0, eps=1e-8, wd=0.0)
    weights = 4 * len(order) // len(model)  # both kinds in equal numbers, as in a round
    for _ in range(600):
        x = points[expert], points[order].repeat(4, 1), beta.repeat(4), points[model].repeat(weights, 1)
        optimiser.step(reward.loss(*x, 1 + beta.mean())[0].total)
    p_e, p_d, p_m = (torch.bincount(torch.tensor(k), minlength=4) / len(k) for k in (expert, order, model))
    moved = torch.zeros(4).index_add(0, torch.tensor(order), beta) / len(order)
    best = (p_e + moved - p_m) / (0.7 * (p_m + p_d))
    torch.testing.assert_close(reward.reward(points).detach(), best, atol=0.03, rtol=0.03)
    assert best[1] == best.max() and (best[2:] < 0).all()
    assert best[0] == pytest.approx(0.0, abs=1e-6), "shown once, but of this the model knows nothing"


def test_anchor_makes_going_on_worth_more_than_ending() -> None:
    """Imagined pairs have a mean of one standard deviation above 0; what is fitted is the same."""
    expert, data, model = numbers(8, F + A), numbers(30, F + A, seed=1), numbers(40, F + A, seed=2) - 1
    given = expert, data, numbers(30, seed=3), model, torch.tensor(1.3)
    plain, anchored = make(), make(anchor=True)
    losses, same = plain.loss(*given), anchored.loss(*given)
    assert losses[1] == same[1] and losses[0].total.item() == same[0].total.item()
    rewards = anchored.reward(model)
    assert rewards.mean().item() == pytest.approx(rewards.std(correction=0).item(), rel=1e-4)
    shift = anchored.reward(data) - plain.reward(data)
    torch.testing.assert_close(shift, shift[:1].expand(30), atol=1e-5, rtol=0, msg="a shift, no change of scale")


@pytest.mark.parametrize("bad", [{"threshold": 1.0}, {"threshold": 0.0}, {"added": 0}, {"act": "sine"}])
def test_bad_options_are_told(bad: dict[str, Any]) -> None:
    (name,) = bad
    with pytest.raises(ValueError, match=rf"reward\.{name}: "):
        make(**bad)


# ---------------------------------------------------------------------- rounds


@pytest.fixture
def replay(tmp_path: Path) -> Any:
    """Recorded states 0..9 and 30..39, demonstrated 10..19; the heads disagree by the state itself (`test_upkeep`)."""
    replay = Replay(tmp_path, obs_shape=(1,), obs_dtype=np.float32, action_size=1, capacity=1000, budget_gb=1.0)
    episode(replay, 10, expert=True)
    episode(replay, 0)
    episode(replay, 30)
    yield replay
    replay.close()


def learner() -> Any:
    found = Learner(MixtureStarts(1.0), "ens_std_mean")
    found.reward = make(1, 1, threshold=0.4)
    found.past = TransitionMemory(1, 1, 10)
    found.optimisers = {"reward": Optimiser(found.reward.parameters(), lr=1e-3, clip=100.0, eps=1e-8, wd=0.0)}
    i = torch.arange(100.0, 105.0)[:, None]
    found.memory.add(i, i, i, torch.zeros(5), torch.zeros(5))
    return found


def test_data_is_weighted_by_the_models_uncertainty_about_it(replay: Replay) -> None:
    """c = state / 39: known are the states up to 15; of the demonstrated ones 16 to 19 are not."""
    agent = learner()
    work = RewardRounds(agent, replay, ROUND)
    agent.reward.loss = lambda *given: seen.append(given) or CLAREReward.loss(agent.reward, *given)
    seen: list[tuple[Tensor, ...]] = []
    before = torch.get_rng_state()
    weighted = work._weights()
    assert torch.equal(before, torch.get_rng_state()), "a resumed run, which computes this again, goes on as it would"
    states = weighted.x[:, 0]
    assert states.tolist() == [*range(10, 20), *range(10), *range(30, 40)] and weighted.expert == 10
    known = 3 * 4 / 16
    expected = [known if s < 15.6 else -3.0 if s < 20 else 0.0 for s in states.tolist()]
    assert weighted.beta.tolist() == pytest.approx(expected)
    found = work.play(1, np.random.default_rng(0), [])
    assert len(seen) == DATA["reward_steps"] and found["reward/unknown"].item() == pytest.approx(0.4)
    for expert, data, beta, model, z in seen:
        assert z.item() == pytest.approx(1.0)
        assert set(expert[:, 0].tolist()) <= set(range(10, 20)) and set(model[:, 0].tolist()) <= set(range(100, 105))
        assert beta.tolist() == pytest.approx([expected[states.tolist().index(s)] for s in data[:, 0].tolist()])
        assert torch.allclose(data[:, 1], data[:, 0] / 1e4), "the action taken in the state"


def test_the_mean_weight_enters_z(replay: Replay) -> None:
    """5.5.7. The mean of ``point_weights`` is 0, and so Z = 1 tells nothing: here of others, over all data and not over
    the rows of a batch.
    """
    agent, seen = learner(), []
    work = RewardRounds(agent, replay, ROUND)
    agent.reward.loss = lambda *given: seen.append(given[-1].item()) or CLAREReward.loss(agent.reward, *given)
    ours = work._weights()
    work.weighted = ours._replace(beta=torch.linspace(-1.0, 3.0, len(ours.beta)))
    work.play(1, np.random.default_rng(0), [])
    assert seen == pytest.approx([2.0] * ROUND["reward_steps"])


def test_rounds_keep_what_was_imagined_before(replay: Replay) -> None:
    agent = learner()
    work = RewardRounds(agent, replay, ROUND)
    work.play(1, np.random.default_rng(0), [])
    assert agent.past.filled == 6, "reward.added of them"
    i = torch.full((500, 1), 200.0)
    agent.memory.add(i, i, i, torch.zeros(500), torch.zeros(500))
    work.play(2, np.random.default_rng(0), [])
    kept = agent.past.feat[:, 0]
    assert agent.past.filled == 10 and (kept == 200).sum() == 6 and (kept < 105).sum() == 4, "the oldest go first"


def test_weights_belong_to_one_fit(replay: Replay) -> None:
    agent = learner()
    work = Upkeep(agent, replay, ROUND, total=1000)
    work.rounds.play(1, np.random.default_rng(0), [])
    first = work.rounds.weighted
    work.rounds.play(2, np.random.default_rng(0), [])
    assert work.rounds.weighted is first is not None, "computed once"
    work.fit()
    assert work.rounds.weighted is None


# ---------------------------------------------------------------------- official preset


def test_the_official_preset_learns_values_of_one_step() -> None:
    """The code's mask: targets are rewards, whatever follows; our default bootstraps."""
    ours, code = (
        load_config([f"algo={a}", "obs=state", "task=hopper", "size=base"])[0] for a in ("clare", "clare_official")
    )
    assert (ours["policy"]["gamma"], code["policy"]["gamma"]) == (0.99, 0.0)
    elsewhere = dataclasses.replace(PAIRS, next_feat=PAIRS.next_feat + 3, done=1 - PAIRS.done)
    for config, same in ((ours, False), (code, True)):
        found = []
        for pairs in (PAIRS, elsewhere):
            policy = make_sac(gamma=config["policy"]["gamma"])
            found.append(policy.losses(batch(pairs=pairs))[0]["critics"].total)
        assert torch.equal(*found) == same
    names = ("bc_weight", "reward_scale", "polyak", "target_entropy")
    assert [code["policy"][name] for name in names] == [0.25, 1.0, 0.005, -1.0]
    assert [ours["policy"][name] for name in names] == [2.5, 0.05, 0.02, -1.0], "values of many steps"
    assert (ours["reward"]["anchor"], code["reward"]["anchor"]) == (True, False)
    for config in (ours, code):
        data, reward = config["data"], config["reward"]
        assert (reward["layers"], reward["hidden"], reward["act"], reward["threshold"]) == (4, 256, "silu", 0.5)
        assert (config["optim"]["reward"]["lr"], config["optim"]["reward"]["l2"]) == (5e-5, 1e-5)
        assert (data["reward_steps"], data["reward_batch"], data["rollout_horizon"][:2]) == (5, 5000, [5, 5])
        assert (config["starts"]["p"], config["penalty"]["alpha"]) == (1.0, 0.0)
        assert config["penalty"]["name"] == "max_aleatoric"
        assert data["imagine_every"] * data["rollouts_per_step"] == 5000 and data["imagine_every"] == 20
        assert (reward["past"], reward["added"]) == (1_200_000, 25_000)
        first, later = 20 * 20, 500 * 20
        assert (data["reward_start"], data["reward_every"], config["steps"]) == (first, later, first + 9 * later)
    model = code["world_model"]
    assert (model["hidden"], model["layers"], model["members"], model["elites"], model["lr"]) == (256, 4, 7, 5, 1e-3)
    assert (model["batch"], model["l2"], model["max_logvar"], model["termination"]) == (256, 7.5e-5, 2.0, "none")
    assert (model["tolerance"], model["patience"], model["holdout"]) == (0.0, 5, 0.0), "any improvement; 1000 rows"
    assert not (model["normalise"] or model["normalise_fit"] or model["normalise_penalty"])
