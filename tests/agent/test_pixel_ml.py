"""Likelihood rewards from pictures: pieces of demonstrations beside rollouts, a model that is fitted and then stays,
and the whole methods through the command line (algorithms 4.5).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agent import artefact, holdout, rewards
from agent.agent import Agent
from agent.beside import beside
from agent.build import ConfigError
from agent.data import Replay
from agent.penalties import make_penalty
from agent.rounds import RewardRounds
from agent.starts import ReplayStarts
from demos import dataset
from envs import vector
from envs.episode import Episode
from models.latent import Latent
from models.world_model import Chunk
from tests.agent.learner import make_agent
from tests.agent.recorded import pictures
from tests.agent.runs import LocalVector, assert_same, lines, local, start, state, trained
from tests.agent.test_rounds import GAMMA, Whole, episode
from tests.agent.test_trainer import at_call
from tests.agent.test_upkeep import DATA, Learner, World
from tests.models.tiny import ACTION

# ---------------------------------------------------------------------- pieces of demonstrations beside rollouts


class Filtering(World):
    """Counts up like its base; what it sees is the state."""

    def observe(self, chunk: Chunk) -> Latent:
        return self.latent(chunk.obs)


class Player(Learner):
    """u of a pair is its state; the policy's action is 0.25."""

    def __init__(self) -> None:
        super().__init__(ReplayStarts(), "ens_std_mean")
        self.world, self.reward = Filtering(), Whole("chunks")

    def autocast(self) -> Any:
        return contextlib.nullcontext()


PIECES: dict[str, Any] = DATA | {
    "reward_restart": False,
    "reward_steps": 1,
    "reward_rollouts": 40,
    "reward_horizon": 6,
    "reward_cut": 0.9,
    "reward_expert": "posterior",
    "length": 3,
    "burn_in": 0,
    "from_start": 0.0,
}


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    """Demonstrations that begin at 0, 8 and 20, of 12, 3 and 9 steps; recorded states from 0 to 17."""
    options: dict[str, Any] = {"obs_shape": (1,), "obs_dtype": np.float32, "action_size": 1, "capacity": 1000}
    replay = Replay(tmp_path, **options, budget_gb=1.0)
    for first, steps in ((0, 12), (8, 3), (20, 9)):
        episode(replay, first, steps, expert=True)
    episode(replay, 0, 18)
    yield replay
    replay.close()


def ends(first: float) -> list[float]:
    """The last states of the demonstrations that hold the state ``first``, in which one can still act."""
    return [last for low, last in ((0, 11), (8, 10), (20, 28)) if low <= first <= last]


def cut(first: float, limit: float, horizon: int, last: float) -> int:
    """Pairs of a rollout from ``first`` that count, one at a time."""
    count = 0
    while count < horizon and first + count <= limit and first + count <= last:
        count += 1
    return count


def test_both_sides_are_cut_at_the_same_time_and_weigh_the_same(replay: Replay) -> None:
    """Against brute force: where the model is unsure, or the demonstration is over, both sums end."""
    found = beside(Player(), replay, PIECES, np.random.default_rng(0))  # type: ignore[arg-type]
    starts, lengths = found.expert_feat[0, :, 0].tolist(), found.kept.sum(0).tolist()
    assert 14 <= found.limit <= 17, "the quantile of recorded states"
    limit = float(found.limit)
    assert all(n in [cut(s, limit, 6, e) for e in ends(s)] for s, n in zip(starts, lengths, strict=True))
    reached = {(s > limit, s + n > limit and n > 0, n == 6) for s, n in zip(starts, lengths, strict=True)}
    assert len(reached) >= 3, "some are never sure, some are cut, some are whole"
    for n, length in enumerate(lengths):
        assert found.kept[:length, n].all() and not found.kept[length:, n].any(), "what follows a cut is gone too"
        alike = found.expert_feat[:length, n] == found.policy_feat[:length, n]
        assert alike.all(), "one state begins both, and this world goes on as demonstrated"
    action, taken_in = found.expert_action[found.kept], found.expert_feat[found.kept]
    assert torch.allclose(action, taken_in / 1e4), "the action taken in the state"
    assert bool((found.policy_action == 0.25).all())


def test_the_experts_side_can_be_what_the_model_predicts_of_its_actions(replay: Replay) -> None:
    """Here of a world that is moved by actions, which demonstrated states are not."""

    class Moved(Filtering):
        def step(self, z: Latent, action: Tensor, **options: Any) -> tuple[Latent, Any]:
            return Latent(z.deter, z.stoch + 1e4 * action, z.params), super().step(z, action, **options)[1]

    agent = Player()
    agent.world = Moved()
    seen, told = (
        beside(agent, replay, PIECES | {"reward_cut": 1, "reward_expert": kind}, np.random.default_rng(0))  # type: ignore[arg-type]
        for kind in ("posterior", "prior")
    )
    assert torch.equal(seen.expert_action, told.expert_action) and torch.equal(seen.policy_feat, told.policy_feat)
    moved = told.expert_feat[0] + 1e4 * told.expert_action[:-1].cumsum(0)
    assert torch.equal(seen.expert_feat[0], told.expert_feat[0]) and torch.allclose(moved, told.expert_feat[1:])
    assert not torch.equal(seen.expert_feat, told.expert_feat)
    with pytest.raises(ConfigError, match="reward_expert: 'both' is none of posterior, prior"):
        RewardRounds(agent, replay, PIECES | {"reward_expert": "both"})  # type: ignore[arg-type]


@pytest.mark.parametrize("quantile", [0.5, 0.9, 1])
def test_sums_of_a_round_have_equal_weights(replay: Replay, quantile: float) -> None:
    agent = Player()
    work = RewardRounds(agent, replay, PIECES | {"reward_cut": quantile})  # type: ignore[arg-type]
    assert work.wanted
    metrics = work.play(1, np.random.default_rng(1), [])
    (expert, w), (policy, v) = agent.reward.given
    assert torch.equal(w, v) and torch.equal(expert[:, 0], policy[:, 0])
    again = beside(agent, replay, PIECES | {"reward_cut": quantile}, np.random.default_rng(1))  # type: ignore[arg-type]
    wanted = sum(GAMMA**t / 40 for n in again.kept.sum(0).tolist() for t in range(n))
    assert w.sum().item() == pytest.approx(wanted, rel=1e-5) and len(w) == int(again.kept.sum())
    assert metrics["reward/length"].item() == pytest.approx(len(w) / 40)
    assert metrics["reward/u"].item() == pytest.approx(again.u.mean().item()), "of whole rollouts, cut or not"
    assert (metrics["reward/u_limit"] == torch.inf) == (quantile == 1)


def test_pieces_begin_after_the_history_that_posteriors_want(replay: Replay) -> None:
    options = PIECES | {"burn_in": 2, "reward_cut": 1, "reward_horizon": 0, "from_start": 1.0}
    found = beside(Player(), replay, options, np.random.default_rng(0))  # type: ignore[arg-type]
    assert found.kept.shape == (2, 40), "0: what a chunk of 3 rows has"
    assert set(found.expert_feat[0, :, 0].tolist()) == {2, 10, 22}
    assert {(s, n) for s, n in zip(found.expert_feat[0, :, 0].tolist(), found.kept.sum(0).tolist(), strict=True)} == {
        (2, 2),
        (10, 1),  # its demonstration has three steps
        (22, 2),
    }


def test_without_a_measure_of_disagreement_nothing_is_cut(replay: Replay) -> None:
    agent = Player()
    agent.penalty = make_penalty("none", 0.0)
    found = beside(agent, replay, PIECES | {"reward_cut": 0.0}, np.random.default_rng(0))  # type: ignore[arg-type]
    assert found.limit == torch.inf and not found.u.any()


# ---------------------------------------------------------------------- held-out episodes


def recorded(number: int, rows: int = 30) -> list[Episode]:
    """Episodes of random pictures."""
    rng, made = np.random.default_rng(0), []
    for _ in range(number):
        flags = [np.zeros(rows, bool) for _ in range(3)]
        flags[0][0] = flags[1][-1] = True
        action = rng.uniform(-1, 1, (rows, ACTION)).astype(np.float32)
        image = rng.integers(0, 256, (rows, 64, 64, 3), dtype=np.uint8)
        made.append(Episode({"image": image}, action, *flags, np.full(rows, np.nan, np.float32), None, {}))
    return made


def test_the_error_is_that_of_predictions_from_five_rows() -> None:
    agent, episodes = make_agent(), recorded(2, rows=45)
    held = holdout.HoldOut(agent, episodes, "image")
    assert held.chunk.obs.shape[:2] == (4, 20), "rows 0 and 20 of each"
    before = torch.get_rng_state()
    error = held.error()
    assert held.error() == error and torch.equal(before, torch.get_rng_state()), "looking changes nothing"
    assert torch.equal(held.chunk.obs[1], torch.from_numpy(episodes[0].obs["image"][20:40]))
    assert (
        held.chunk.is_first[:, 0].all() and not held.chunk.is_first[:, 1:].any() and not held.chunk.action[:, 0].any()
    )
    torch.manual_seed(0)
    with torch.no_grad():
        picture = agent.world.open_loop(held.chunk, 5)
    total = 0.0
    for b in range(4):
        for t in range(5, 20):
            total += float((picture[b, t] - held.chunk.obs[b, t] / 255).square().sum()) / (4 * 15)
    assert error == pytest.approx(total, rel=1e-4)


def test_the_averaged_weights_are_the_ones_that_are_judged_and_kept() -> None:
    agent = make_agent(ema=0.9)
    held = holdout.HoldOut(agent, recorded(1), "image")
    good, best = held.error(), holdout.snapshot(agent)
    with torch.no_grad():
        for p in agent.world.parameters():
            p.add_(1.0)
    assert held.error() == good, "the newest weights do not act"
    with torch.no_grad():
        for p in agent.slow["world"].parameters():  # type: ignore[index]
            p.add_(1.0)
    assert held.error() != good
    holdout.settle(agent, best)
    assert held.error() == good
    for one, two in zip(agent.world.parameters(), agent.slow["world"].parameters(), strict=True):  # type: ignore[index]
        assert torch.equal(one, two), "from here the model that learns the policy is the one that acts"


def test_episodes_that_are_put_aside_are_not_learned_from() -> None:
    episodes = recorded(10, rows=2)
    for share, number in ((0.0, 0), (0.01, 1), (0.25, 2), (0.5, 5)):
        kept, aside = holdout.split(episodes, share, np.random.default_rng(0))
        assert len(aside) == number and len(kept) == 10 - number
        assert {id(e) for e in kept} | {id(e) for e in aside} == {id(e) for e in episodes}
    assert holdout.split([], 0.1, np.random.default_rng(0)) == ([], [])
    with pytest.raises(ConfigError, match="leaves none to learn from"):
        holdout.split(episodes[:1], 0.1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="is no share"):
        holdout.split(episodes, 1.0, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="has 20 rows"):
        holdout.HoldOut(make_agent(), recorded(1, rows=19), "image")


# ---------------------------------------------------------------------- whole runs

OFFLINE = ("algo=offline_ml_irl", "obs=pixels", "data.updates_per_step=1", "steps=6", "eval.every=6")


def begin(run: Path, *more: str, expect: int = 0) -> None:
    """A tiny offline run from pictures: four updates of the model, six of the policy."""
    given = {argument.split("=", 1)[0] for argument in more}
    kept = (argument for argument in (*OFFLINE, f"dataset={pictures()}") if argument.split("=", 1)[0] not in given)
    start(run, *kept, *more, expect=expect)


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    local(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run without interruption."""
    run = tmp_path_factory.mktemp("pixel-ml") / "run"
    with pytest.MonkeyPatch.context() as patch:
        local(patch)
        begin(run)
    yield run


def test_no_environment_is_stepped_and_recorded_rows_are_no_demonstrations(whole: Path) -> None:
    found = state(whole)
    counters = found["counters"]
    assert (counters["stage0"], counters["updates"], found["step"], counters["reward_rounds"]) == (4, 10, 6, 3)
    assert not any(value for name, value in counters.items() if name.startswith(("env_steps", "episodes")))
    assert [bool(entry[3]) for entry in found["replay"]["episodes"]] == [True] * 3 + [False] * 5, "one is put aside"
    names = {key for line in lines(whole) for key in line}
    assert {"train/model/open_loop", "train/reward/u", "train/reward/u_limit", "train/entropy"} <= names


def test_the_model_is_fitted_and_then_stays(whole: Path, run_dir: Path) -> None:
    begin(run_dir, "steps=0")
    before, after = trained(run_dir)["modules"], trained(whole)["modules"]
    assert all(torch.equal(value, after["world"][name]) for name, value in before["world"].items())
    for name, value in after["slow"].items():
        if name.startswith("world."):
            assert torch.equal(value, after["world"][name.removeprefix("world.")]), "what acts sees what was learned on"
    for part in ("policy", "reward"):
        assert any(not torch.equal(value, after[part][name]) for name, value in before[part].items()), part


def test_resumed_equals_uninterrupted(whole: Path, run_dir: Path) -> None:
    """Algorithms 5.7.5: within the fit, when best weights are kept; at its end; between rounds."""
    for call in (3, 1, 3):
        with pytest.MonkeyPatch.context() as patch:
            at_call(patch, Agent, "update", call, lambda: signal.raise_signal(signal.SIGINT))
            begin(run_dir, expect=130)
    assert state(run_dir)["counters"]["updates"] == 7
    begin(run_dir)
    assert_same(run_dir, whole)


def test_the_fit_ends_when_its_error_lessens_no_more(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checks without a twentieth less; then the weights of the last check that had it, also after a resume."""
    errors, kept = iter([50.0, 40.0, 39.0, 41.0, 1.0]), []
    snapshot = holdout.snapshot

    def keep(agent: Agent) -> Any:
        kept.append(snapshot(agent))
        return kept[-1]

    monkeypatch.setattr(holdout, "snapshot", keep)
    monkeypatch.setattr(holdout.HoldOut, "error", lambda self: next(errors))
    stage = "{name: fit, updates: 40, parts: [world, clone], check_every: 3, patience: 2, tolerance: 0.05}"
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, Agent, "update", 8, lambda: signal.raise_signal(signal.SIGINT))
        begin(run_dir, f"data.stages=[{stage}]", "steps=2", expect=130)
    begin(run_dir, f"data.stages=[{stage}]", "steps=2")
    found = state(run_dir)
    assert found["counters"]["stage0"] == 12 and found["counters"]["stage0_best"] == 40 and found["step"] == 2
    assert len(kept) == 2 and not found["held_out"]
    assert all(torch.equal(value, found["modules"]["world"][name]) for name, value in kept[1]["world"].items())
    assert "fit: over after 12 updates, open-loop error 40" in (run_dir / "log.txt").read_text()


@pytest.mark.parametrize("algo", ["offline_ml_irl", "ml_irl"])
def test_true_rewards_never_reach_a_learner(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algo: str
) -> None:
    """Algorithms 5.1.3: poisoned rewards of environment, demonstrations and data set, the same parameters."""

    def run(folder: Path) -> None:
        if algo == "offline_ml_irl":
            begin(folder, "steps=2")
        else:
            start(folder, f"algo={algo}", "size.pretrain=1", "data.updates_per_step=0.07", "steps=30", "eval.every=30")

    run(run_dir)
    rng, real = np.random.default_rng(0), dataset.load

    class Poisoned(LocalVector):
        """Lies about everything that only evaluation may know."""

        def step(self, actions: np.ndarray, which: Any = None) -> Any:
            obs, reward, terminated, truncated, infos = super().step(actions, which)
            return (
                obs,
                np.full_like(reward, np.nan),
                terminated,
                truncated,
                [i | {"score": rng.random()} for i in infos],
            )

    def load(*args: Any, **kwargs: Any) -> Any:
        return [
            dataclasses.replace(e, reward=rng.normal(size=len(e)).astype(np.float32)) for e in real(*args, **kwargs)
        ]

    monkeypatch.setattr(vector, "VectorEnv", Poisoned)
    monkeypatch.setattr(dataset, "load", load)
    run(tmp_path / "poisoned")
    assert_same(run_dir, tmp_path / "poisoned")


def test_the_online_form_learns_model_and_policy_together(run_dir: Path) -> None:
    options = ("algo=ml_irl", "size.pretrain=1", "data.updates_per_step=0.07", "eval.every=60", "log_every=1")
    start(run_dir, *options, "steps=30")
    before = trained(run_dir)["modules"]
    start(run_dir, *options, "steps=60")
    after = trained(run_dir)["modules"]
    for part in ("world", "policy", "reward"):
        assert any(not torch.equal(value, after[part][name]) for name, value in before[part].items()), part
    assert state(run_dir)["counters"]["reward_rounds"] >= 2


def test_a_reward_of_pictures_is_looked_at_with_its_encoder_and_goes_nowhere(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "reward"
    assert rewards.main([f"run={whole}", f"out={out}", f"dataset={pictures()}", "device=cpu"]) == 0
    assert "means nothing without its encoder" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {"eval.json", "along.png"}
    report = json.loads((out / "eval.json").read_text())
    assert report["transitions"] == 6 * 30 and np.isfinite(report["mean"])
    with pytest.raises(ConfigError, match="means nothing without its encoder"):
        artefact.read(whole)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("data.holdout=0.999",), "leaves none to learn from"),
        (("data.holdout=2",), "data.holdout: 2"),
        (("data.parts=[world, critic]",), "data.parts: 'critic' is none of policy, reward, world"),
        (("reward.policy_data=fresh",), "need an environment"),
        (("policy.critic=v",), "policy.soft"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    run_dir: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    begin(run_dir, *arguments, expect=1)
    error = capsys.readouterr().err.strip()
    assert told in error and "\n" not in error, error
