"""How episodes end in the replay, and what learners make of it (algorithms 1.4, 5.1.2): ``data.termination``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import evaluate
from agent.batch import to_device, transitions
from agent.build import ConfigError, build_agent
from agent.chunks import pairs_of
from agent.data import Replay
from agent.ending import TERMINATIONS, Rows, ended, stored_shape
from agent.policy.base import ClonePairs, TransitionBatch
from envs import toy
from models.actor_critic import SquashedActor
from models.latent import Transitions
from models.state_model import StateModel
from tests.agent.runs import assert_same, local, start, state, trained
from tests.agent.test_sac import make_sac
from tests.models.tiny import numbers
from tests.test_presets import preset

MEAN, STD = torch.tensor([10.0, 20.0]), torch.tensor([2.0, 4.0])
ABSORBING = [0.0, 0.0, 1.0]


def episode(*, terminal: bool, first: float = 1.0) -> Rows:
    """Three steps: states (1, 10), (2, 20), ...; the action taken in state (k, 10 k) is k / 10; rewards are k."""
    state = np.array([[first + t, 10 * (first + t)] for t in range(4)], np.float32)
    action = np.concatenate([[[0.0]], state[:3, :1] / 10]).astype(np.float32)
    flags = (np.arange(4) == 0, np.arange(4) == 3, (np.arange(4) == 3) & terminal)
    return Rows(state, action, *flags, truth=np.arange(4, dtype=np.float32))


def make_replay(folder: Path, termination: str, **options: Any) -> Replay:
    shapes: dict[str, Any] = {"obs_shape": (2,), "obs_dtype": np.float32, "action_size": 1}
    return Replay(folder, **shapes, capacity=200, budget_gb=1.0, termination=termination, **options)


def add(replay: Replay, rows: Rows, *, expert: bool = False, horizon: int = 0) -> int:
    return replay.add_episode(**rows._asdict(), expert=expert, horizon=horizon)


def drawn(replay: Replay, world: StateModel, which: Any = "all") -> Transitions:
    """Chunks of two rows, enough of them that all pairs are there, as learners see them."""
    rows = replay.sample(300, 2, np.random.default_rng(0), which=which)
    chunk = to_device(rows, 0, torch.device("cpu"))
    return transitions(world.observe(chunk), chunk)


def kinds(pairs: Transitions) -> set[tuple[Any, ...]]:
    """The different transitions (s, a, s', done, weight) of a batch."""
    rows = torch.cat([pairs.feat, pairs.action, pairs.next_feat, pairs.done[:, None], pairs.weight[:, None]], 1)
    return {tuple(round(x, 4) for x in row) for row in rows.tolist()}


# ---------------------------------------------------------------------- the door


def test_absorbing_rows_by_hand() -> None:
    given = episode(terminal=True)
    rows = ended(given, "absorbing", 0)
    np.testing.assert_array_equal(rows.obs, [[1, 10, 0], [2, 20, 0], [3, 30, 0], ABSORBING, ABSORBING])
    np.testing.assert_allclose(rows.action[:, 0], [0, 0.1, 0.2, 0.3, 0])
    assert rows.is_first.tolist() == [True] + 4 * [False] and rows.is_last.tolist() == 4 * [False] + [True]
    assert not rows.is_terminal.any() and rows.truth is not None and rows.truth.tolist() == [0, 1, 2, 3, 0]
    assert all(x.dtype == y.dtype for x, y in zip(rows, given, strict=True)), "nothing is promoted"
    assert given.obs[-1].tolist() == [4, 40] and given.is_terminal[-1], "what was given is not touched"


def test_time_outs_stay_time_outs() -> None:
    rows = ended(episode(terminal=False), "absorbing", 9)
    np.testing.assert_array_equal(rows.obs, [[1, 10, 0], [2, 20, 0], [3, 30, 0], [4, 40, 0]])
    for termination in ("fixed_horizon", "ignore", "mask"):
        same = ended(episode(terminal=False), termination, 9)
        assert all(np.array_equal(x, y) for x, y in zip(same, episode(terminal=False), strict=True)), termination


def test_a_fixed_horizon_repeats_the_terminal_row() -> None:
    rows = ended(episode(terminal=True), "fixed_horizon", 6)
    np.testing.assert_array_equal(rows.obs[:, 0], [1, 2, 3, 4, 4, 4, 4])
    np.testing.assert_allclose(rows.action[:, 0], [0, 0.1, 0.2, 0.3, 0, 0, 0])
    assert rows.is_last.tolist() == 6 * [False] + [True] and not rows.is_terminal.any()
    assert rows.truth is not None and rows.truth.tolist() == [0, 1, 2, 3, 0, 0, 0]
    assert len(ended(episode(terminal=True), "fixed_horizon", 3).obs) == 4, "it ended with the clock"


def test_only_mask_masks_and_unknown_modes_are_refused() -> None:
    for termination in TERMINATIONS:
        assert ended(episode(terminal=True), termination, 5).is_terminal.any() == (termination == "mask")
    with pytest.raises(ValueError, match=r"data\.termination: 'absorb' is none of mask, ignore"):
        ended(episode(terminal=True), "absorb", 5)
    assert [stored_shape((2,), t) for t in TERMINATIONS] == [(2,), (2,), (2,), (3,)]


def test_pairs_without_a_replay_are_those_with_one(tmp_path: Path) -> None:
    """What only a reward's round sees is what it would see of the replay."""
    replay = make_replay(tmp_path, "absorbing")
    episodes = [episode(terminal=True), episode(terminal=False, first=5.0)]
    for rows in episodes:
        add(replay, rows)
    own, held = pairs_of([ended(rows, "absorbing", 0) for rows in episodes]), replay.pairs()
    for name, a, b in zip(own._fields, own, held, strict=True):
        assert np.array_equal(a, b) if b is not None else a is None, name


# ---------------------------------------------------------------------- through the replay to the targets


@pytest.mark.parametrize("which", ["expert", "online"])
def test_exactly_one_kind_of_transition_more_and_no_mask(tmp_path: Path, which: str) -> None:
    """The brute-force list of a three-step episode, of demonstrations and of the agent's own alike."""
    ordinary = [(1, 10, 0, 0.1, 2, 20, 0), (2, 20, 0, 0.2, 3, 30, 0)]
    last = {"absorbing": (3, 30, 0, 0.3, *ABSORBING), "mask": (3, 30, 0.3, 4, 40)}
    found = {}
    for termination in ("absorbing", "mask"):
        replay = make_replay(tmp_path / termination, termination)
        add(replay, episode(terminal=True), expert=which == "expert")
        found[termination] = kinds(drawn(replay, StateModel(2, flagged=termination == "absorbing"), which))
    extra = (*ABSORBING, 0.0, *ABSORBING)
    assert found["absorbing"] == {(*row, 0.0, 1.0) for row in (*ordinary, last["absorbing"], extra)}
    assert len(found["mask"]) == 3 and (*last["mask"], 1.0, 1.0) in found["mask"]


CLONES = ClonePairs(numbers(1, 3), numbers(1, 1), torch.ones(1))


def test_soft_targets_never_stop_at_a_termination(tmp_path: Path) -> None:
    """SAC's target of every pair of the episode, by hand: what absorbs goes on with action 0, without entropy."""
    replay, world = make_replay(tmp_path, "absorbing"), StateModel(2, flagged=True)
    add(replay, episode(terminal=True))
    pairs = drawn(replay, world)
    torch.manual_seed(0)
    policy = make_sac(3, 1, critics=1, gamma=0.9, temperature=0.5)
    policy.actor.flagged = True
    reward = pairs.feat[:, 0] + 100 * pairs.feat[:, 2]
    seen: list[torch.Tensor] = []
    real = policy.target.forward

    def noted(feat: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        seen.append(action)
        return real(feat, action)

    policy.target.forward = noted  # type: ignore[method-assign]
    torch.manual_seed(3)
    losses, _ = policy.losses(TransitionBatch(pairs, reward, CLONES, 0))
    torch.manual_seed(3)
    ahead, log_pi = policy.actor(pairs.next_feat).rsample_with_log_prob()
    absorbed = pairs.next_feat[:, 2] == 1
    assert bool(absorbed.any()) and not seen[0][absorbed].any() and bool((seen[0][~absorbed] != 0).all())
    bonus = torch.where(absorbed, 0.0, -0.5 * log_pi)
    y = reward + 0.9 * (real(pairs.next_feat, ahead)[0] + bonus)
    expected = (policy.critics(pairs.feat, pairs.action)[0] - y).square().mean()
    torch.testing.assert_close(losses["critics"].total, expected)


def test_the_actor_learns_nothing_in_absorbing_states() -> None:
    """Its losses are those of the same batch without them."""
    torch.manual_seed(0)
    policy = make_sac(3, 1, critics=2)
    policy.actor.flagged = True
    feat = torch.tensor([[1.0, 2.0, 0.0], ABSORBING, [3.0, 4.0, 0.0], ABSORBING])
    pairs = Transitions(feat, torch.zeros(4, 1), feat, torch.zeros(4), torch.ones(4))

    def losses(rows: list[int]) -> dict[str, torch.Tensor]:
        part = Transitions(*(x[rows] for x in vars(pairs).values()))
        found, _ = policy.losses(TransitionBatch(part, torch.zeros(len(rows)), CLONES, 0))
        return {name: found[name].total for name in ("actor", "temperature")}

    with pytest.MonkeyPatch.context() as patch:  # the same noise for the same state
        patch.setattr(torch, "randn_like", lambda x: 0.1 * x)
        every, few = losses([0, 1, 2, 3]), losses([0, 2])
    torch.testing.assert_close(every, few)


def test_an_idle_actor_is_the_actor_elsewhere() -> None:
    torch.manual_seed(0)
    actor = SquashedActor(3, 2, hidden=8, layers=1)
    feat = torch.tensor([[1.0, 2.0, 0.0], ABSORBING])
    plain = actor(feat)
    actor.flagged = True
    idle, x = actor(feat), torch.tensor([[0.3, -0.2], [0.0, 0.0]])
    for made in (idle.mode(), idle.rsample(), idle.std):
        assert bool((made[0] != 0).all()) and not made[1].any()
    assert torch.equal(idle.mode()[0], plain.mode()[0]) and idle.log_prob(x)[0] == plain.log_prob(x)[0]
    assert idle.log_prob(x)[1] == 0 and idle.entropy()[1] == 0
    assert actor.decides(feat).tolist() == [1, 0]
    idle.rsample().sum().backward()
    assert all(p.grad is not None for p in actor.parameters())


# ---------------------------------------------------------------------- features


def test_flagged_features_normalise_states_and_leave_the_absorbing_one() -> None:
    world = StateModel(2, normalise=True, flagged=True)
    world.set_normaliser(torch.stack([MEAN - STD, MEAN + STD]))
    state = torch.tensor([[12.0, 16.0]])
    torch.testing.assert_close(world.latent(state).feat, torch.tensor([[1.0, -1.0, 0.0]]))
    stored = torch.tensor([[12.0, 16.0, 0.0], ABSORBING])
    torch.testing.assert_close(world.latent(stored).feat, torch.tensor([[1.0, -1.0, 0.0], ABSORBING]))
    acting, _ = world.filter(state, torch.zeros(1, 1), torch.ones(1), world.initial(1))
    assert acting.feat.tolist() == [[1.0, -1.0, 0.0]] and world.feat == 3, "the environment's states are not absorbing"


# ---------------------------------------------------------------------- survival


@pytest.mark.parametrize(("termination", "better"), [("mask", "linger"), ("absorbing", "imitate")])
def test_what_gail_rewards_is_survival_unless_the_end_is_judged_too(
    tmp_path: Path, termination: str, better: str
) -> None:
    """Rewards D in (0, 1): 1/2 where nothing tells the policy from demonstrations, which end after three steps, and 0.1
    where it lingers for ever, seen through. The fixed points of SAC's target (without entropy) over the replay's pairs.
    """
    gamma, flagged = 0.99, termination == "absorbing"
    replay, world = make_replay(tmp_path, termination), StateModel(2, flagged=flagged)
    add(replay, episode(terminal=True))
    still = episode(terminal=False)
    add(replay, still._replace(obs=np.full_like(still.obs, -1), action=np.zeros_like(still.action)))
    pairs = drawn(replay, world)
    at, to, done = (x.tolist() for x in (pairs.feat[:, 0], pairs.next_feat[:, 0], pairs.done))
    ahead = {s: (following, over) for s, following, over in zip(at, to, done, strict=True)}
    value = dict.fromkeys([*at, *to], 0.0)
    for _ in range(3000):
        for s, (following, over) in ahead.items():
            value[s] = (0.1 if s == -1 else 0.5) + gamma * (1 - over) * value[following]
    linger, imitate = value[-1.0], value[1.0]
    assert linger == pytest.approx(0.1 / (1 - gamma)), "a time-out goes on"
    after = gamma**3 / (1 - gamma) if flagged else 0.0
    assert imitate == pytest.approx(0.5 * (1 + gamma + gamma**2 + after))
    assert {"linger": linger > imitate, "imitate": imitate > linger}[better]


# ---------------------------------------------------------------------- whole runs


@pytest.fixture
def falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """LineEnv ends an episode left of -0.2."""
    local(monkeypatch)
    real: Any = toy.LineEnv.step

    def step(self: Any, action: np.ndarray) -> Any:
        obs, reward, _, truncated, info = real(self, action)
        return obs, reward, bool(obs[0] < -0.2), truncated, info

    monkeypatch.setattr(toy.LineEnv, "step", step)


RUN = ("algo=dac", "obs=state", "steps=120", "eval.every=120", "data.batch=16", "data.length=2", "data.seed_steps=10",
       "data.updates_per_step=0.2")  # fmt: skip


def test_a_run_with_absorbing_states_resumes_exactly(run_dir: Path, tmp_path: Path, falls: None) -> None:
    start(run_dir, *RUN)
    for steps in (40, 80, 120):
        start(tmp_path / "pieces", *RUN, f"steps={steps}")
    assert_same(run_dir, tmp_path / "pieces")
    found = trained(run_dir)["replay"]
    assert found["layout"]["termination"] == "absorbing" and found["layout"]["obs_shape"] == [1]
    replay = Replay(run_dir / "replay", obs_shape=(1,), obs_dtype=np.float32, action_size=1, capacity=1000000,
                    budget_gb=10.0, termination="absorbing")  # fmt: skip
    replay.load_state_dict(found)
    flags = [replay.get(i).obs[0, -2:, 1].tolist() for i in replay.ids("online")]
    replay.close()
    assert [1.0, 1.0] in flags, "an episode that fell, or the test shows nothing"
    assert all(flag in ([1.0, 1.0], [0.0, 0.0]) for flag in flags)
    assert evaluate.main([f"run={run_dir}", "episodes=2", "mode=mode"]) == 0, "which sees the environment's states"
    report = json.loads((run_dir / "eval.json").read_text())
    assert report["results"]["mode"]["each"][0]["steps"] > 0


def test_another_mode_is_another_run(run_dir: Path, falls: None, capsys: pytest.CaptureFixture[str]) -> None:
    start(run_dir, *RUN, "steps=30")
    start(run_dir, *RUN, "data.termination=mask", expect=1)
    assert "data.termination" in capsys.readouterr().err


@pytest.mark.parametrize("algo", ["value_dice", "iq_learn", "gail", "airl", "hype", "ml_irl"])
def test_methods_without_a_model_take_other_ends(run_dir: Path, falls: None, algo: str) -> None:
    termination = "fixed_horizon" if algo == "ml_irl" else "absorbing"
    more = ("data.reward_every=30", "data.reward_batch=16", f"data.termination={termination}")
    start(run_dir, *RUN, f"algo={algo}", *more, "steps=60", "eval.every=60")
    for module in state(run_dir)["modules"].values():
        assert all(bool(torch.isfinite(value).all()) for value in module.values())
    if algo == "ml_irl":
        rows = [entry[2] for entry in state(run_dir)["replay"]["episodes"]]
        assert set(rows) == {toy.LineEnv.horizon + 1}


def build(algo: str, obs: str, *more: str) -> Any:
    shape, actions = ((11,), 3) if obs == "state" else ((64, 64, 3), 9)
    return build_agent(preset(algo, "debug", obs, *more), actions, torch.device("cpu"), shape)


@pytest.mark.parametrize(
    ("algo", "obs", "more", "cause"),
    [
        ("hyper", "state", ("data.termination=absorbing",), "algo=hyper would fit its model to transitions that no"),
        ("cmil", "pixels", ("data.termination=fixed_horizon",), "algo=cmil would fit its model"),
        ("cmil_recurrent", "state", ("data.termination=fixed_horizon",), "algo=cmil_recurrent would fit its model"),
        ("gail", "pixels", ("data.termination=absorbing",), "pictures have no entry|fit its model"),
        ("pdac", "pixels", ("data.termination=absorbing",), "pictures have no entry for a flag: obs=state"),
        ("ml_irl", "state", ("data.termination=absorbing",), "compares whole trajectories"),
        ("f_irl", "state", ("data.termination=absorbing",), "compares whole trajectories"),
        ("hype", "state", ("policy=td3_bc", "data.termination=absorbing"), "policy=sac, nu_dice or iq"),
        ("hyper", "state", ("data.termination=ignore",), r"world_model\.termination=none"),
        ("hype", "state", ("data.termination=never",), "'never' is none of mask, ignore, fixed_horizon, absorbing"),
    ],
)
def test_ends_that_do_not_fit_a_method_are_refused(algo: str, obs: str, more: tuple[str, ...], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        build(algo, obs, *more)


def test_presets_choose_by_what_is_observed() -> None:
    for algo, obs, expected in (("dac", "state", "absorbing"), ("value_dice", "state", "absorbing"),
                                ("dac", "pixels", "ignore"), ("gail", "state", "mask"), ("hype", "state", "mask"),
                                ("gail", "pixels", "ignore"), ("cmil", "pixels", "ignore"),
                                ("ml_irl_official", "state", "fixed_horizon")):  # fmt: skip
        assert preset(algo, "small", obs)["data"]["termination"] == expected, (algo, obs)
    agent = build("dac", "state")
    assert agent.world.feat == 12 and agent.policy.actor.flagged and agent.slow["actor"].flagged
