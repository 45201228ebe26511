"""Fits, imagined transitions and reward rounds at cadences of their own (algorithms 3.5, 3.6, 4.1)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn

from agent.data import Replay
from agent.memory import TransitionMemory
from agent.penalties import make_penalty
from agent.reward.base import RewardLearner
from agent.starts import MixtureStarts, ReplayStarts
from agent.upkeep import Upkeep
from models.latent import HeadStats, Latent, Losses
from models.mlp_ensemble import FitStopped
from tests.agent.learner import FixedDist

DATA: dict[str, Any] = {
    "updates_per_step": 2.0,
    "fit_every": 5,
    "model_mixture": "all",
    "rollouts_per_step": 4,
    "rollout_horizon": [1, 3, 100, 200],
    "reward_every": 10,
    "reward_steps": 2,
    "reward_batch": 16,
    "reward_restart": True,
    "reward_start": 0,
    "reward_horizon": 0,
    "reward_rollouts": 4,
    "imagine_every": 5,
    "episodes_per_cycle": 1,
}


class World(nn.Module):
    """The state counts up by the action / 10; it ends at 1000; what it is fitted to is kept."""

    learns, can_imagine, given = "fit", True, False

    def __init__(self) -> None:
        super().__init__()
        self.fitted: list[tuple[Tensor, Tensor, Tensor]] = []
        self.held_out = torch.tensor([3, 7])

    def fit(
        self, feat: Tensor, action: Tensor, next_feat: Tensor, pause: Any, weight: Tensor | None
    ) -> dict[str, float]:
        self.fitted.append((feat, action, next_feat))
        self.weight = weight
        return {"updates": 7.0}

    def latent(self, obs: Tensor) -> Latent:
        return Latent(obs[..., :0], obs, obs[..., :0])

    def step(self, z: Latent, action: Tensor, *, stats: bool, need_std: bool) -> tuple[Latent, HeadStats | None]:
        ahead = z.stoch + 1
        heads = HeadStats(torch.stack([z.stoch, -z.stoch], -2)) if stats else None
        return Latent(z.deter, ahead, z.params), heads

    def terminated(self, feat: Tensor) -> Tensor:
        return feat[..., 0] >= 1000


class Reward(RewardLearner):
    """Keeps the pairs of its rounds."""

    policy_data = "fresh"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def inputs(self, feat: Tensor, action: Tensor, *, noisy: bool) -> Tensor:
        return torch.cat([feat, action], -1)

    def loss(self, expert: Tensor, policy: Tensor, w: Tensor, v: Tensor) -> tuple[Losses, dict[str, Tensor]]:
        assert torch.equal(w, torch.ones_like(w)) and torch.equal(v, torch.ones_like(v))
        self.seen.append((expert, policy))
        return Losses(ipm=torch.zeros(())), {"gap": torch.zeros(())}


class Optim:
    lr = 0.8

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.steps = 0

    def restart(self, lr: float) -> None:
        self.rates.append(lr)

    def step(self, loss: Tensor) -> Tensor:
        self.steps += 1
        return torch.zeros(())


class Policy(nn.Module):
    wants = "transitions"

    def actor(self, feat: Tensor) -> FixedDist:
        return FixedDist(torch.full_like(feat[..., :1], 0.25))


class Learner(nn.Module):
    """The attributes of an agent that upkeep looks at."""

    def __init__(self, starts: ReplayStarts, penalty: str = "none") -> None:
        super().__init__()
        self.world, self.reward, self.policy, self.starts = World(), Reward(), Policy(), starts
        self.penalty = make_penalty(penalty, 1.0 if penalty != "none" else 0.0)
        self.memory, self.optimisers = TransitionMemory(1, 1, 500), {"reward": Optim()}
        self.device = torch.device("cpu")


def episode(replay: Replay, first: float, rows: int = 11, *, expert: bool = False) -> int:
    """obs counts up from ``first``; the action taken in obs is obs / 1e4."""
    obs = (first + np.arange(rows, dtype=np.float32))[:, None]
    action = np.concatenate([np.zeros((1, 1), np.float32), obs[:-1] / 1e4])
    flags = [np.zeros(rows, bool) for _ in range(3)]
    flags[0][0] = flags[1][-1] = True
    return replay.add_episode(obs, action.astype(np.float32), *flags, expert=expert)


@pytest.fixture
def replay(tmp_path: Path) -> Any:
    replay = Replay(tmp_path, obs_shape=(1,), obs_dtype=np.float32, action_size=1, capacity=1000, budget_gb=1.0)
    episode(replay, 500, expert=True)
    episode(replay, 0)
    episode(replay, 100)
    yield replay
    replay.close()


def upkeep(replay: Replay, starts: ReplayStarts | None = None, penalty: str = "none", **data: Any) -> Upkeep:
    return Upkeep(Learner(starts or ReplayStarts(), penalty), replay, DATA | data, total=1000)  # type: ignore[arg-type]


def test_a_fit_that_is_stopped_is_not_counted(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    work = upkeep(replay)
    counters: dict[str, float] = defaultdict(float)

    def stopped(*_: Any) -> dict[str, float]:
        assert work.pause is _[3]
        raise FitStopped

    monkeypatch.setattr(work.agent.world, "fit", stopped)
    with pytest.raises(FitStopped):
        work.before(counters, np.random.default_rng(0), [])
    assert not any(counters.values()) and not work.agent.optimisers["reward"].steps


def test_cadences_count_paid_updates(replay: Replay) -> None:
    """Every 5 and 10 environment steps at two updates a step: every 10th and 20th update, the first included."""
    work, counters, rng = upkeep(replay), defaultdict(float), np.random.default_rng(0)
    for _ in range(41):
        work.before(counters, rng, replay.ids("online"))
    assert counters["paid"] == 41 and len(work.agent.world.fitted) == 5 and counters["reward_rounds"] == 3
    optim = work.agent.optimisers["reward"]
    assert optim.rates == pytest.approx([0.8, 0.8, 0.4]) and optim.steps == 6, "lr / max(k - 1, 1), two steps a round"


def test_fit_sees_every_transition_once(replay: Replay) -> None:
    work = upkeep(replay)
    work.fit()
    feat, action, ahead = work.agent.world.fitted[0]
    assert sorted(feat[:, 0].tolist()) == [*range(10), *range(100, 110), *range(500, 510)]
    assert torch.equal(ahead, feat + 1) and torch.allclose(action, feat / 1e4)


def test_doubt_about_what_no_member_has_seen(replay: Replay) -> None:
    """Algorithms 2.3: beside u along rollouts; looking spends no random number of the training."""
    work = upkeep(replay, penalty="ens_std_mean")
    before = torch.get_rng_state()
    found = work.fit()
    assert torch.equal(torch.get_rng_state(), before)
    states = work.agent.world.fitted[0][0][[3, 7], 0]  # the heads are +-state
    assert float(found["model/u_held_out"]) == pytest.approx(float(states.mean()))
    assert "model/u_held_out" not in upkeep(replay).fit(), "nothing is uncertain without a penalty"


def test_rounds_join_demonstrations_and_the_named_episodes(replay: Replay) -> None:
    work = upkeep(replay)
    work.rounds.play(1, np.random.default_rng(0), replay.ids("online")[-1:])
    expert, policy = work.agent.reward.seen[0]
    assert bool((expert[:, 0] >= 500).all()) and bool(((policy[:, 0] >= 100) & (policy[:, 0] < 110)).all())
    for x in (expert, policy):
        assert torch.allclose(x[:, 1], x[:, 0] / 1e4), "the action taken in the state, not the one that led to it"


def test_imagined_transitions_follow_each_other(replay: Replay) -> None:
    work = upkeep(replay, penalty="ens_std_mean")
    found = work.imagine(150.0, np.random.default_rng(0), 0.15)
    memory = work.agent.memory
    assert work.horizon(150.0) == 2 and memory.filled == 40 == int(found["model/imagined"])
    first, second = memory.feat[:20, 0], memory.feat[20:40, 0]
    assert torch.equal(second, first + 1) and torch.equal(memory.next_feat[:20, 0], second)
    assert bool((memory.action[:40] == 0.25).all())
    assert torch.equal(memory.u[:40], memory.feat[:40, 0]), "the spread of the heads at (s, a)"
    assert set(first.tolist()) <= {*range(10), *range(100, 110)}, "replay starts: the agent's own states"


def test_terminated_rollouts_end(replay: Replay) -> None:
    episode(replay, 990, rows=11)
    work = upkeep(replay, MixtureStarts(0.0))
    work.imagine(200.0, np.random.default_rng(0), 0.2)
    memory = work.agent.memory
    feat, ahead, done = (getattr(memory, k)[: memory.filled] for k in ("feat", "next_feat", "done"))
    assert done.sum() > 0 and torch.equal(done[:, None], (ahead >= 1000).float())
    assert bool((feat < 1000).all()), "nothing is imagined after a termination"


def test_expert_resets_and_their_window(replay: Replay) -> None:
    work = upkeep(replay, MixtureStarts(1.0, window=0.25))
    rng = np.random.default_rng(0)
    for step, low, high in ((0.0, 1.0, 1.0), (500.0, 0.5, 0.75), (1000.0, 0.0, 0.25)):
        work.agent.memory = TransitionMemory(1, 1, 500)
        work.imagine(step, rng, step / 1000)
        position = (work.agent.memory.feat[:20, 0] - 500) / 10
        if low == 1:  # the last state that an action was taken in
            low = 0.9
        assert bool(((position >= low) & (position <= high)).all()), step
    plain = upkeep(replay, MixtureStarts(0.5))
    plain.imagine(0.0, rng, 0.0)
    share = float((plain.agent.memory.feat[:20, 0] >= 500).float().mean())
    assert 0 < share < 1


@pytest.mark.parametrize("expert", [True, False])
def test_imagination_begins_in_every_state_alike(replay: Replay, expert: bool) -> None:
    """Algorithms 4.3 and 5.5.10: uniform over episode and t, however long an episode is; never in its last state."""
    episode(replay, 700, rows=4, expert=True)
    episode(replay, 800, rows=31, expert=True)
    episode(replay, 200, rows=3)
    pairs, where = replay.pairs("expert" if expert else "online"), None
    if expert:  # as of a window of demonstrated time (HyPER on AntMaze)
        where = pairs.position <= 0.5
    drawn = upkeep(replay)._states(pairs, 4000, np.random.default_rng(0), where).stoch.flatten()
    expected = sorted(pairs.obs[where if where is not None else slice(None), 0].tolist())
    found, counts = drawn.unique(return_counts=True)
    assert found.tolist() == expected and len(expected) == (6 + 2 + 16 if expert else 10 + 10 + 2)
    assert chisquare(counts).pvalue > 1e-3


def test_every_depth_of_a_rollout_fits_into_the_memory(replay: Replay) -> None:
    """Otherwise later steps push out the starts, and expert resets with them."""
    work = upkeep(replay, MixtureStarts(1.0), rollouts_per_step=1000.0)
    work.imagine(200.0, np.random.default_rng(0), 0.2)
    memory = work.agent.memory
    depth = work.horizon(200.0)
    assert memory.capacity - depth < memory.filled <= memory.capacity and depth == 3
    starts = memory.feat[: memory.filled // depth, 0]
    assert bool(((starts >= 500) & (starts < 510)).all()), "all of them demonstrated states"


def test_the_model_learns_from_both_kinds_alike_where_it_shall(replay: Replay) -> None:
    plain, even = upkeep(replay), upkeep(replay, model_mixture="one_to_one")
    plain.fit()
    assert plain.agent.world.weight is None and len(plain.agent.world.fitted[0][0]) == 30
    even.fit()
    feat, _, ahead = even.agent.world.fitted[0]
    shown = feat[:, 0] >= 500
    weight = even.agent.world.weight
    assert torch.equal(ahead, feat + 1) and shown.sum() == 10
    assert weight[shown].sum() == pytest.approx(1.0) and weight[~shown].sum() == pytest.approx(1.0)
    for part in (weight[shown], weight[~shown]):
        assert bool((part == part[0]).all())


def test_horizon_grows_linearly(replay: Replay) -> None:
    assert [upkeep(replay).horizon(s) for s in (0, 100, 150, 200, 1e9)] == [1, 1, 2, 3, 3]


def test_cadences_that_come_once_or_start_later(replay: Replay) -> None:
    """Where nothing is stepped, updates count; 0 is once (algorithms 3.10: a model that is fitted and then frozen)."""
    work = upkeep(replay, updates_per_step=1.0, fit_every=0, reward_every=6, reward_start=4, episodes_per_cycle=0)
    counters, rng, horizons = defaultdict(float), np.random.default_rng(0), []
    real = work.imagine
    work.imagine = lambda step, *rest: horizons.append(step) or real(step, *rest)  # type: ignore[method-assign]
    rounds = []
    for update in range(17):
        before = counters["reward_rounds"]
        work.before(counters, rng, [])
        counters["updates"] += 1
        rounds += [update] if counters["reward_rounds"] > before else []
    assert len(work.agent.world.fitted) == 1 and rounds == [4, 10, 16] and horizons == [0, 5, 10, 15]
    assert "env_steps" not in counters
