"""Every row of the table of methods (algorithms 4.4) through the command: a cycle, no leak, exact resume (5.1.3,
5.7.6).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.sampler import Sampler
from demos.dataset import files, shipped
from models.state_model import StateEnsemble
from tests.agent.recorded import comparisons, line, pictures, seen_comparisons
from tests.agent.runs import assert_same, lines, local, poison, start, state, trained
from tests.test_presets import CASES

STATE = ("bc", "mm", "bc_reg", "filter", "hype", "hype_filter", "gail", "airl", "dac", "hyper", "hyper_pess", "cmil",
         "cmil_resets", "hype_official", "hyper_antmaze", "hyper_official", "ml_irl", "ml_irl_s", "ml_irl_official",
         "offline_ml_irl", "mopo", "f_irl", "iq_learn", "value_dice", "aihf", "aihf_offline")  # fmt: skip
OFFLINE = ("offline_ml_irl", "aihf_offline", "mopo")  # learn from recorded transitions
PIXELS = ("bc", "hype", "gail", "dac", "pdac", "hyper", "hyper_pess", "cmil", "cmil_resets", "vmail", "bc_rssm",
          "bc_cnn", "iq_learn", "value_dice", "ml_irl", "offline_ml_irl", "aihf", "aihf_offline")  # fmt: skip
STATE += ("cmil_recurrent", "clare", "clare_official", "offline_ml_irl_official", "cmil_offline_to_online", "hyper_bc")
STATE += ("rlhf", "cmil_ml", "mopo_official", "f_irl_official", "iq_learn_official", "value_dice_official",
          "gail_official", "offline_ml_irl_leak", "mm_official", "bc_reg_official", "filter_official",
          "dac_official", "airl_official", "hyper_recurrent", "cmil_paper")  # fmt: skip
OFFLINE += ("offline_ml_irl_leak", "mopo_official", "clare", "clare_official", "offline_ml_irl_official")
PIXELS += ("cmil_offline_to_online", "rlhf", "cmil_ml", "mm", "bc_reg", "expert", "ml_irl_s")
ROWS = [("state", algo) for algo in STATE] + [("pixels", algo) for algo in PIXELS]
# methods that must not know the true reward (those from pixels that learn on chunks: test_trainer)
BLIND = ("hyper", "hype", "airl", "cmil", "filter", "ml_irl", "f_irl", "iq_learn", "value_dice", "offline_ml_irl",
         "aihf", "aihf_offline", "clare", "cmil_offline_to_online", "mm", "bc_reg", "gail", "dac", "hype_filter",
         "hyper_pess", "hyper_bc", "cmil_resets", "hype_official", "hyper_antmaze", "hyper_official", "bc",
         "ml_irl_s", "rlhf", "cmil_ml", "ml_irl_official", "offline_ml_irl_official", "clare_official",
         "f_irl_official", "iq_learn_official", "value_dice_official", "gail_official", "mm_official",
         "bc_reg_official", "filter_official", "dac_official", "airl_official", "cmil_recurrent",
         "hyper_recurrent", "cmil_paper")  # fmt: skip
BLIND_PIXELS = ("hyper", "gail", "pdac", "cmil_resets", "hype", "hyper_pess", "dac", "mm", "iq_learn", "value_dice",
                "cmil_offline_to_online", "cmil_ml", "aihf", "aihf_offline", "rlhf", "bc_reg", "bc",
                "ml_irl_s")  # fmt: skip
# from pixels these differ from cmil and vmail in numbers alone; test_presets builds them
NUMBERS = {("pixels", algo) for algo in ("cmil_official", "cmil_paper", "vmail_official")}
# told the true reward, which is what they are for, or (test_trainer, test_pixel_ml) poisoned there
TOLD = {("state", algo) for algo in ("expert", "mopo", "mopo_official", "offline_ml_irl_leak")} | {("pixels", "expert")}
ELSEWHERE = {("pixels", a) for a in ("cmil", "vmail", "bc_rssm", "bc_cnn", "ml_irl", "offline_ml_irl")}
# three episodes of 30 steps, the first of which only seeds
SMALL: dict[str, tuple[str, ...]] = {
    "state": ("obs=state", "data.batch=16", "data.length=2", "data.updates_per_step=0.2", "data.seed_steps=30",
              "data.reward_batch=32", "data.reward_every=30", "data.fit_every=30", "size.horizon=3"),
    "pixels": ("obs=pixels", "size.pretrain=2", "size.clone=2", "data.updates_per_step=0.07"),
}  # fmt: skip
# what official presets fix at every size
FIXED = ("data.imagine_every=8", "data.rollouts_per_step=4", "data.memory=2000", "data.reward_start=8",
         "data.reward_every=8", "world_model.max_updates=20", "world_model.hidden=32", "save_seconds=1e9")  # fmt: skip
# collect episodes for the reward alone
FRESH = ("hype_official", "hyper_official", "mm_official", "bc_reg_official", "filter_official")
MEMORY = ("cmil_recurrent", "hyper_recurrent")  # learn as from pixels
MORE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(FRESH, ("data.reward_fresh=1", "data.reward_start=0")),
    "airl_official": ("data.updates_per_step=0.2", "data.seed_steps=30"),
    "filter_official": ("data.reward_fresh=1", "data.reward_start=0", "data.updates_per_step=0.4"),
    "clare": ("size.clare.every=8", "penalty=ens_std_mean"),  # std is much the same everywhere after 20 steps
    "clare_official": (*FIXED, "penalty=ens_std_mean", "reward.past=100"),
    "offline_ml_irl_official": (*FIXED, "data.rollout_horizon=[5,5,0,1]"),
    "mopo_official": (*FIXED, "size.offline_fit_reward=10", "data.rollout_horizon=[2,2,0,1]"),
    "rlhf": ("data.reward_steps=4",),
    **dict.fromkeys(MEMORY, ("data.batch=2", "data.length=6", "size.pretrain=2", "data.updates_per_step=0.07")),
    "f_irl_official": ("reward.ratio_steps=10",),
}


def settings(obs: str, algo: str) -> tuple[str, ...]:
    """Arguments of a tiny run of a method."""
    compared = comparisons() if obs == "state" else seen_comparisons()
    told = (f"preferences={compared}", "reward.comparisons=4") if algo.startswith(("aihf", "rlhf")) else ()
    if algo in OFFLINE and obs == "pixels":
        rare = ("data.updates_per_step=1", "steps=6", "eval.every=6")
        return (f"algo={algo}", f"obs={obs}", f"dataset={pictures()}", *rare, *told)
    if algo in OFFLINE:
        rare = ("size.epoch=8", "size.offline_ml_every=8", "size.offline_fit=20", "data.updates_per_step=1")
        batch = ("data.batch=16", "data.length=2", f"dataset={line()}")
        rare += MORE.get(algo, ())
        return (f"algo={algo}", "obs=state", *batch, *rare, *told, "steps=24", "eval.every=24")
    if algo.startswith("bc") and not algo.startswith("bc_reg"):
        return (f"algo={algo}", f"obs={obs}", "data.updates_per_step=1", "data.length=4", "steps=6", "eval.every=6")
    more = ("steps=90", "eval.every=90")
    fitted = obs == "state" and algo.startswith(("hyper", "cmil")) and algo not in MEMORY
    fit = ("world_model.max_updates=20",) if fitted else ()
    if algo == "cmil_offline_to_online":
        more += (f"dataset={line() if obs == 'state' else shipped('line')}",)
    return (f"algo={algo}", *SMALL[obs], *more, *fit, *told, *MORE.get(algo, ()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """(observations, method) -> the uninterrupted tiny run, made once."""

    @functools.cache
    def made(obs: str, algo: str) -> Path:
        run = tmp_path_factory.mktemp(f"{obs}-{algo}") / "run"
        start(run, *settings(obs, algo))
        return run

    return made


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    local(monkeypatch)


def test_the_table_is_complete() -> None:
    """No preset is left out, with any observations that it takes: neither of the cycles nor of the poison."""
    expert = {("state", "expert")}  # its own test
    assert set(ROWS) | NUMBERS | expert == set(CASES)
    blind = {("state", algo) for algo in BLIND} | {("pixels", algo) for algo in BLIND_PIXELS}
    assert blind | TOLD | ELSEWHERE | NUMBERS == set(CASES) and not blind & (TOLD | ELSEWHERE | NUMBERS)


@pytest.mark.parametrize(("obs", "algo"), ROWS, ids=lambda value: value)
def test_one_cycle(whole: Callable[[str, str], Path], obs: str, algo: str) -> None:
    """Counters, finite weights that moved, an evaluation, and nothing of the environment's reward."""
    found, logged = state(whole(obs, algo)), lines(whole(obs, algo))
    for name, module in found["modules"].items():
        for key, value in module.items():
            assert np.isfinite(np.asarray(value.float())).all(), (name, key)
    counters = found["counters"]
    online = counters.get("env_steps", 0) > 0
    assert online == (algo not in OFFLINE and (not algo.startswith("bc") or algo.startswith("bc_reg")))
    assert counters["updates"] >= 6
    if online:
        kinds = [counters.get(f"env_steps/{kind}", 0) for kind in ("policy", "seed", "reward")]
        assert counters["env_steps"] == sum(kinds) and (kinds[2] > 0) == (algo in FRESH)
        # episodes that begin in the middle of a demonstration end earlier, so that the last one overshoots
        assert 90 <= counters["env_steps"] < 120 and (counters["env_steps"] == 90 or "filter" in algo)
    assert any("eval/score_mode" in line for line in logged)
    learned = ("train/loss/", "train/reward/", "train/model/")
    assert any(key.startswith(learned) for line in logged for key in line)


def test_methods_differ_in_what_they_do(whole: Callable[[str, str], Path]) -> None:
    """HyPER fits and imagines; MM does neither; both play reward rounds."""
    seen = {algo: {key for line in lines(whole("state", algo)) for key in line} for algo in ("hyper", "mm")}
    assert {"train/model/imagined", "train/reward/gap"} <= seen["hyper"]
    assert "train/reward/gap" in seen["mm"] and "train/model/imagined" not in seen["mm"]


@pytest.mark.parametrize(
    ("obs", "algo"), [("state", algo) for algo in BLIND] + [("pixels", algo) for algo in BLIND_PIXELS]
)
def test_true_rewards_never_reach_a_learner(
    whole: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obs: str, algo: str
) -> None:
    """Algorithms 5.1.3: poisoned rewards of environment, demonstrations and data set, the same parameters."""
    clean, given = whole(obs, algo), settings(obs, algo)
    poison(monkeypatch)
    # what is loaded from pictures is poisoned on the way
    other = obs == "state" and any(a.startswith("dataset=") for a in given)
    recorded = (f"dataset={line(poison=True)}",) if other else ()
    start(tmp_path / "poisoned", *given, *recorded)
    assert_same(clean, tmp_path / "poisoned")


def test_the_poison_is_found_where_something_leaks(
    whole: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Algorithms 3.10, O1: what the tests above could not miss, in the one preset that is told on purpose."""
    whole("state", "offline_ml_irl_leak")
    poison(monkeypatch)
    start(tmp_path / "poisoned", *settings("state", "offline_ml_irl_leak"))
    with pytest.raises(AssertionError):
        assert_same(whole("state", "offline_ml_irl_leak"), tmp_path / "poisoned")


@pytest.mark.parametrize(
    "algo",
    ["hyper", "hype", "hype_official", "cmil", "ml_irl", "aihf", "f_irl", "iq_learn", "value_dice",
     "cmil_offline_to_online", *OFFLINE],
)  # fmt: skip
def test_resumed_equals_uninterrupted(whole: Callable[[str, str], Path], tmp_path: Path, algo: str) -> None:
    """Algorithms 5.7.5, with imagined transitions, fits and reward rounds in between."""
    for steps in (7, 17, 24) if algo in OFFLINE else (30, 60, 90):
        start(tmp_path / "pieces", *settings("state", algo), f"steps={steps}")
    assert_same(whole("state", algo), tmp_path / "pieces")


def test_experts_learn_from_the_true_reward_and_nothing_else(run_dir: Path, tmp_path: Path) -> None:
    """``reward=truth`` sees the environment's reward; without it ``demos=none`` is refused."""
    arguments = ("algo=expert", *SMALL["state"], "steps=90", "eval.every=90")
    start(run_dir, *arguments)
    rewards = [line["train/reward"] for line in lines(run_dir) if "train/reward" in line]
    assert rewards and all(0 <= r <= 1 for r in rewards), "LineEnv's reward is a share of good steps"
    assert not trained(run_dir)["modules"].get("reward")
    start(tmp_path / "none", "algo=hype", "demos=none", *SMALL["state"], expect=1)


@pytest.mark.parametrize(("obs", "algo"), [("pixels", "cmil"), ("state", "cmil"), ("state", "hyper")])
def test_the_true_reward_of_imagined_steps_is_predicted(run_dir: Path, obs: str, algo: str) -> None:
    """``reward=truth``, the control of a method that imagines: beside demonstrations, which have no rewards."""
    start(run_dir, *settings(obs, algo), "reward=truth", "optim.reward.lr=1e-2")
    found = [line["train/unexplained"] for line in lines(run_dir) if "train/unexplained" in line]
    assert found and all(0 <= value < 9 for value in found) and found[-1] > 0, "0 before the first own episode"
    assert trained(run_dir)["modules"]["reward"]
    assert state(run_dir)["replay"]["layout"]["truth"]


def test_methods_on_recorded_transitions_never_step_an_environment(whole: Callable[[str, str], Path]) -> None:
    """Algorithms 5.1.6; and they do what they say: one fit, rollouts every epoch, rounds after the first."""
    for algo in OFFLINE:
        found = state(whole("state", algo))
        counters = found["counters"]
        assert found["step"] == counters["updates"] == 24
        assert not any(value for name, value in counters.items() if name.startswith(("env_steps", "episodes")))
        seen = [key for line in lines(whole("state", algo)) for key in line]
        fits = [line for line in lines(whole("state", algo)) if "train/model/mse" in line]
        assert len(fits) == 1 and fits[0]["step"] == 2, "logged every second update: of the first ones alone"
        assert seen.count("train/model/imagined") == 3
        rounds = {"mopo": 1}.get(algo, 2)  # from update 8 on every 8; once
        assert counters["reward_rounds"] == rounds
    held = state(whole("state", "offline_ml_irl"))["replay"]["episodes"]
    assert [bool(entry[3]) for entry in held] == [True] * 3 + [False] * 20


@pytest.mark.parametrize("obs", ["state", "pixels"])
def test_recorded_transitions_before_the_first_step_are_the_agents_own(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, obs: str
) -> None:
    """Algorithms 4.3, offline to online: the model learns from them, before any step; what is shown or cloned never."""
    fitted: list[int] = []
    chunks: list[tuple[bool, bool, int]] = []
    fit, draw = StateEnsemble.fit, Sampler.draw

    def noted(self: Any, feat: Any, *rest: Any) -> Any:
        fitted.append(len(feat))
        return fit(self, feat, *rest)

    def drawn(self: Any, rng: Any, paid: float) -> Any:
        own, expert = draw(self, rng, paid)
        chunks.append((bool(own.expert.any()), bool(expert.expert.all()), paid))
        return own, expert

    monkeypatch.setattr(StateEnsemble, "fit", noted)
    monkeypatch.setattr(Sampler, "draw", drawn)
    start(run_dir, *settings(obs, "cmil_offline_to_online"), "data.expert_fraction=0.0")
    before = [(own, expert) for own, expert, paid in chunks if paid == 0]
    assert len(before) == (12 if obs == "state" else 6) and len(chunks) > len(before)
    assert {(own, expert) for own, expert, _ in chunks} == {(False, True)}
    held = state(run_dir)["replay"]["episodes"]
    shown = [bool(entry[3]) for entry in held]
    recorded = 20 if obs == "state" else len(files(shipped("line")))
    assert shown == [True] * 3 + [False] * (recorded + 3)
    if obs == "state":
        pairs = [entry[2] - 1 for entry in held]
        before_steps, after = sum(pairs[:-3]), sum(pairs[:-1])
        assert fitted[:3] == [before_steps, before_steps, after], "size.state_offline_fits; after seeding as ever"
    assert any("train/reward" in line or "train/d_gap" in line for line in lines(run_dir) if line["step"] == 0)


@pytest.mark.parametrize("algo", ["offline_ml_irl", "f_irl"])
def test_a_reward_can_be_taken_to_another_run(whole: Callable[[str, str], Path], run_dir: Path, algo: str) -> None:
    """Reward transfer (algorithms 3.11): frozen in MOPO, without demonstrations or true rewards."""
    source = whole("state", algo)
    poisoned = f"dataset={line(poison=True)}"
    start(run_dir, *settings("state", "mopo"), poisoned, "reward=frozen", f"reward.path={source}")
    given, kept = (trained(run)["modules"]["reward"] for run in (source, run_dir))
    assert {f"learned.{key}" for key in given} | {"mean", "std"} == set(kept)
    assert all(np.array_equal(value, kept[f"learned.{key}"]) for key, value in given.items()), "nothing of it moves"
    assert "reward" not in trained(run_dir)["optimisers"]


def test_an_adaptive_penalty_resumes_with_its_coefficient(run_dir: Path, tmp_path: Path) -> None:
    options = (*settings("state", "offline_ml_irl"), "penalty.target=0.01")
    start(run_dir, *options, "steps=16")
    for steps in (9, 16):
        start(tmp_path / "pieces", *options, f"steps={steps}")
    assert_same(run_dir, tmp_path / "pieces")
    assert float(trained(run_dir)["modules"]["coefficient"]["log_alpha"]) < -0.001, "u is far above the target"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("algo=offline_ml_irl",), "learns from recorded transitions: dataset=PATH is missing"),
        (("algo=ml_irl", "dataset=somewhere"), "algo=ml_irl makes its own transitions"),
        (("algo=offline_ml_irl", "dataset={line}", "demos=none"), "demos=none: algo=offline_ml_irl learns from demon"),
        (("algo=mopo", "dataset={poisoned}"), "reward: is not told, or not finite, in some row"),
        (("algo=mopo", "dataset={line}", "reward=frozen"), "reward.path=DIR is missing"),
        (("algo=mopo", "dataset={line}", "reward=frozen", "reward.path=nowhere"), "nowhere: no such run folder"),
        (("algo=offline_ml_irl", "dataset={line}", "data.episodes_per_cycle=1"), "steps no environment"),
        (("algo=offline_ml_irl", "dataset={line}", "reward.policy_data=fresh"), "policy_data=fresh"),
        (("algo=ml_irl", "reward.policy_data=imagined"), "this world model has no dynamics"),
        (("algo=gail", "reward=fitted"), "is fitted to the rewards of a data set"),
        (("algo=clare", "dataset={line}", "penalty=none"), "penalty other than none"),
        (("algo=clare", "dataset={line}", "data.reward_start=0"), "data.reward_start above 0"),
        (("algo=ml_irl", "reward=clare"), "by a state model's uncertainty"),
        (("algo=cmil_offline_to_online",), "learns from recorded transitions: dataset=PATH is missing"),
        (("algo=iq_learn", "reward=gail"), "owns its reward"),
        (("algo=gail", "reward=none"), "needs a reward learner"),
        (("algo=hyper", "policy.reference=clone"), "no stage of data.stages clones"),
        (("algo=f_irl", "obs=pixels"), "obs=state"),
        (("algo=aihf",), "learns from comparisons: preferences=PATH is missing"),
        (("algo=aihf", "preferences=nowhere.npz"), "nowhere.npz: path: no such file"),
        (("algo=aihf", "preferences={line}"), "file: truncated or corrupt npz"),
        (("algo=ml_irl", "preferences={told}"), "algo=ml_irl learns from no comparisons"),
        (("algo=aihf", "preferences={told}", "reward.w_pref=0"), "none with reward.w_pref=0"),
        (("algo=aihf", "preferences={told}", "task=count"), "task: is 'line'; this run is about 'count'"),
        (("algo=aihf", "preferences={told}", "reward.policy_data=replay"), "replay shows no whole trajectories"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    paths = {"line": line(), "poisoned": line(poison=True), "told": comparisons()}
    given = [argument.format(**paths) for argument in arguments]
    obs = () if any(argument.startswith("obs=") for argument in arguments) else ("obs=state",)
    start(tmp_path / "run", *given, *obs, expect=1)
    error = capsys.readouterr().err.strip()
    assert told in error and "\n" not in error, error
