"""End to end: methods learn LineEnv from pixels and from states, and CMIL trains on the demonstrations
released with its paper (slow).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent import evaluate
from agent.evaluate import Options
from agent.reward.bce import BCEReward
from envs.make import make
from envs.toy import line_expert
from tests.agent.recorded import comparisons, line, pendulum, swing_up, swung_up
from tests.agent.runs import LocalVector, lines, state
from tests.agent.runs import start as train

pytestmark = pytest.mark.slow
EPISODES = 40


def played(seeds: list[int], policy: Any) -> np.ndarray:
    """Scores of a function (state, rng) -> action on LineEnv."""
    env, rng, scores = make("line", "state"), np.random.default_rng(0), []
    for seed in seeds:
        _, info = env.reset(seed=seed)
        over = False
        while not over:
            _, _, terminated, truncated, info = env.step(policy(info["state"], rng))
            over = terminated or truncated
        scores.append(info["score"])
    return np.array(scores)


def judged(run: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores (EPISODES,) of a run's mode and of its samples, of the expert and of chance, on the same seeds."""
    results = evaluate.evaluate(Options(run, episodes=EPISODES, videos=False))["results"]
    mode, sampled = (np.array([each["score"] for each in results[kind]["each"]]) for kind in ("mode", "sampled"))
    seeds = [each["seed"] for each in results["mode"]["each"]]
    expert = played(seeds, lambda state, rng: line_expert(state))
    chance = played(seeds, lambda state, rng: rng.uniform(-1, 1, 1).astype(np.float32))
    return mode, sampled, expert, chance


def permutation_test(a: np.ndarray, b: np.ndarray, draws: int = 10_000) -> float:
    """One-sided p-value of mean(a) > mean(b) for pairs: if nothing differs, the signs are exchangeable."""
    difference = a - b
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (draws, len(difference)))
    return float((1 + ((signs * difference).mean(1) >= difference.mean()).sum()) / (draws + 1))


@pytest.mark.parametrize(
    ("obs", "algo"),
    [("pixels", "cmil"), ("pixels", "cmil_resets"), ("pixels", "hyper"), ("state", "cmil_recurrent")],
    ids=lambda value: value,
)
def test_cloning_and_imagination_learn_line(run_dir: Path, obs: str, algo: str) -> None:
    """Algorithms 5.7.1: better than random, and 90 % of the expert."""
    settings = ("n_demos=10", "steps=3000", "eval.every=3000", "data.updates_per_step=0.2", "log_every=100")
    # two numbers tell less of a goal than 64 x 64 pixels do: a sharper likelihood of them, and more updates
    more = ("world_model.obs_std=0.1", "data.updates_per_step=0.5") if obs == "state" else ()
    train(run_dir, f"algo={algo}", f"obs={obs}", *settings, "data.batch=4", "data.length=10", "size.horizon=5", *more)
    mode, sampled, expert, chance = judged(run_dir)
    for scores in (mode, sampled):
        assert permutation_test(scores, chance) < 0.001, (scores.mean(), chance.mean())
    assert mode.mean() >= 0.9 * expert.mean(), (mode.mean(), expert.mean())
    assert permutation_test(chance, expert) > 0.99, "the test itself can tell worse from better"


# Nothing is cloned: what is learned comes through the model, from what the reward says of imagined steps.
IMAGINED = ("n_demos=10", "steps=1500", "eval.every=1500", "log_every=100", "data.batch=4", "data.length=10",
            "size.horizon=8", "data.updates_per_step=0.6", "policy.beta_bc=0", "policy.gamma=0.9",
            "policy.entropy=0.03", "policy.target_every=10", "size.pretrain=300", "size.pretrain_parts=[world]",
            "size.clone=0", "optim.world.lr=1e-3", "optim.actor.lr=3e-4", "optim.critics.lr=1e-3",
            "optim.reward.lr=1e-3")  # fmt: skip
SMOOTH = ("reward.noise=0", "reward.gp=bound", "reward.gp_weight=1")
CMIL = (*IMAGINED, *SMOOTH, "penalty.alpha=0.3")


@pytest.mark.parametrize("method", [("algo=cmil",), ("algo=cmil_recurrent", "obs=state")], ids=["pixels", "state"])
def test_imagination_alone_learns_line(run_dir: Path, method: tuple[str, ...]) -> None:
    """Without a demonstrated action half of the expert's score, the discriminator's work alone."""
    train(run_dir, *method, *CMIL)
    mode, _, expert, chance = judged(run_dir)
    assert permutation_test(mode, chance) < 0.001 and mode.mean() >= 0.5 * expert.mean(), (mode.mean(), expert.mean())


@pytest.mark.parametrize(
    "algo",
    [
        pytest.param("hyper", marks=pytest.mark.xfail(reason="one side only: 0.41 of 0.82")),
        "hyper_pess",
    ],
)
def test_expert_resets_alone_learn_line_from_pixels(run_dir: Path, algo: str) -> None:
    """The same with moment matching for a reward and imagination that begins at demonstrations half of the time."""
    train(run_dir, f"algo={algo}", *IMAGINED)
    mode, _, expert, chance = judged(run_dir)
    assert permutation_test(mode, chance) < 0.001 and mode.mean() >= 0.5 * expert.mean(), (mode.mean(), expert.mean())


def test_vmail_learns_line_from_pixels(run_dir: Path) -> None:
    """Which never clones: 90 % of the expert, in 3000 steps (in 1500 with AVX-512 alone)."""
    train(run_dir, "algo=vmail", *IMAGINED, *SMOOTH, "steps=3000", "eval.every=3000")
    mode, _, expert, chance = judged(run_dir)
    assert permutation_test(mode, chance) < 0.001 and mode.mean() >= 0.9 * expert.mean(), (mode.mean(), expert.mean())


def test_imagination_follows_the_reward(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with its sign turned: the goal is what the policy keeps away from."""
    honest = BCEReward.reward
    monkeypatch.setattr(BCEReward, "reward", lambda self, x: -honest(self, x))
    train(run_dir, "algo=cmil", *CMIL)
    mode, _, expert, chance = judged(run_dir)
    assert permutation_test(mode, chance) > 0.1 and mode.mean() < 0.3 * expert.mean(), (mode.mean(), chance.mean())


def test_imagination_follows_the_true_reward(run_dir: Path) -> None:
    """The control of every method that imagines (``reward=truth``)."""
    train(run_dir, "algo=cmil", *IMAGINED, "reward=truth", "penalty.alpha=0.3")
    mode, _, expert, chance = judged(run_dir)
    assert permutation_test(mode, chance) < 0.001 and mode.mean() >= 0.5 * expert.mean(), (mode.mean(), expert.mean())


@pytest.mark.parametrize("algo", ["hype", "pdac"])
def test_off_policy_critics_learn_line_from_pixels(run_dir: Path, algo: str) -> None:
    """Algorithms 5.7.1, for SAC on features and for critics that train the encoder: 60 % of the expert."""
    settings = ("n_demos=10", "steps=3000", "eval.every=3000", "data.updates_per_step=1", "log_every=100")
    train(
        run_dir, f"algo={algo}", *settings, "data.batch=4", "data.length=10", "policy.gamma=0.9", "policy.polyak=0.02"
    )
    scores, _, expert, chance = judged(run_dir)
    assert permutation_test(scores, chance) < 0.001, (scores.mean(), chance.mean())
    assert scores.mean() >= 0.6 * expert.mean(), (scores.mean(), expert.mean())


def test_cmil_trains_on_the_demonstrations_of_its_paper(
    run_dir: Path, datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = datasets / "cmil" / "kitchen"
    if not folder.is_dir():
        pytest.skip("the CMIL demonstrations are not there: ../shared/datasets/cmil/kitchen does not exist")
    monkeypatch.setattr("envs.vector.VectorEnv", LocalVector)
    settings = ("task=kitchen", f"demos={folder}", "n_demos=10", "steps=560", "eval.every=560", "eval.videos=true")
    train(run_dir, *settings, "data.updates_per_step=0.01", "eval.at_start=true")
    counters = state(run_dir)["counters"]
    assert (counters["env_steps"], counters["episodes"], counters["updates"]) == (560, 2, 8 + 5)
    *shown, first, second = [entry[3] for entry in state(run_dir)["replay"]["episodes"]]
    assert shown and all(shown) and not first and not second
    scores = [line["eval/score_mode"] for line in lines(run_dir) if "eval/score_mode" in line]
    assert len(scores) == 2 and all(0 <= score <= 4 for score in scores)
    assert list(run_dir.glob("videos/policy-*.gif")) and list(run_dir.glob("videos/open_loop-*.gif"))


LIKELIHOOD = ("obs=state", "n_demos=10", "steps=3000", "eval.every=3000", "data.batch=64", "size.state_units=64",
              "size.state_layers=2", "data.updates_per_step=1", "policy.gamma=0.9", "policy.temperature=0.05",
              "eval.episodes=5", "data.envs=1", "log_every=200")  # fmt: skip
ONLINE = ("policy.reward_scale=0.5", "data.seed_steps=300", "data.reward_every=150",
          "data.reward_steps=5", "data.reward_episodes=20", "size.ml_units=64", "size.ml_lr=5e-4")  # fmt: skip
OFFLINE = ("policy.reward_scale=0.5", "size.offline_fit=1500", "size.epoch=50",
           "size.offline_rollouts=8", "size.offline_memory=20000", "size.offline_ml_every=50",
           "size.offline_ml_lr=1e-3", "data.reward_steps=5", "penalty.alpha=0.1", "data.length=2")  # fmt: skip

COMPARED = ("reward.temperature=0.05",)  # the policy's, at which comparisons are read
# further options, and the share of the expert's score that is asked for
LIKELIEST: dict[str, tuple[tuple[str, ...], float]] = {
    "ml_irl": (ONLINE, 0.9),
    "ml_irl_s": (ONLINE, 0.9),
    "f_irl": ((*ONLINE, "reward.ratio_steps=150"), 0.9),
    "aihf": ((*ONLINE, *COMPARED), 0.9),
    "offline_ml_irl": (OFFLINE, 0.9),
    "aihf_offline": ((*OFFLINE, *COMPARED), 0.8),
    "mopo": ((*OFFLINE, "demos=none", "size.offline_fit_reward=1000"), 0.8),
    "iq_learn": (("data.seed_steps=300", "optim.actor.lr=1e-3", "policy.temperature=0.01", "policy.polyak=0.02"), 0.7),
    "value_dice": (("data.seed_steps=300", "optim.actor.lr=1e-4"), 0.8),
}
NONE_OF = {"value_dice": ("policy.temperature",), "mopo": ("policy.reward_scale", "data.reward_steps")}


@pytest.mark.parametrize("algo", LIKELIEST)
def test_likelihood_rewards_and_their_rivals_learn_line_from_states(run_dir: Path, algo: str) -> None:
    """Algorithms 5.7.1, online and from recorded wandering, by the same parts."""
    more, share = LIKELIEST[algo]
    offline = more[: len(OFFLINE)] == OFFLINE
    told = (f"preferences={comparisons(200, 10)}",) if algo.startswith("aihf") else ()
    given = (*more, *told, *((f"dataset={line(episodes=40)}",) if offline else ("data.length=2",)))
    settings = [x for x in (*LIKELIHOOD, *given) if not x.startswith(NONE_OF.get(algo, ("none",)))]
    train(run_dir, f"algo={algo}", *settings)
    scores, _, expert, chance = judged(run_dir)
    assert permutation_test(scores, chance) < 0.001, (scores.mean(), chance.mean())
    assert scores.mean() >= share * expert.mean(), (scores.mean(), expert.mean())
    assert state(run_dir)["counters"].get("env_steps", 0) == (0 if offline else 3000)


def test_imagination_learns_line_from_states(run_dir: Path) -> None:
    """Algorithms 5.7.1: CMIL from states without a cloned action."""
    settings = ("algo=cmil", "obs=state", "n_demos=10", "steps=1500", "eval.every=1500", "data.updates_per_step=0.6",
                "policy.beta_bc=0", "policy.gamma=0.9", "policy.entropy=0.03", "policy.target_every=10",
                "size.horizon=8", "size.state_units=64", "size.state_layers=2", "size.model_hidden=64",
                "data.batch=16", "optim.actor.lr=1e-3", "optim.critics.lr=1e-3", "optim.reward.lr=1e-3",
                "data.seed_steps=300", "penalty.alpha=1", "eval.episodes=5", "data.envs=1")  # fmt: skip
    train(run_dir, *settings)
    scores, _, expert, chance = judged(run_dir)
    assert permutation_test(scores, chance) < 0.001 and scores.mean() >= 0.9 * expert.mean(), scores.mean()


CLARE = ("algo=clare", "obs=state", "n_demos=10", "steps=1500", "eval.every=1500", "data.batch=64", "data.length=2",
         "data.updates_per_step=1", "data.reward_batch=512", "size.state_units=64", "size.state_layers=2",
         "size.offline_fit=1500", "size.epoch=50", "size.offline_rollouts=8", "size.offline_memory=20000",
         "size.clare.every=50", "size.clare.lr=1e-3", "policy.gamma=0.9", "penalty=ens_std_mean", "eval.episodes=5",
         "data.envs=1", "log_every=500")  # fmt: skip


def test_clare_learns_line_from_states(run_dir: Path) -> None:
    """Algorithms 5.7.1, with its cloning term: better than random, and 80 % of the expert without a step of it."""
    train(run_dir, *CLARE, f"dataset={line(episodes=40)}")
    scores, _, expert, chance = judged(run_dir)
    assert permutation_test(scores, chance) < 0.001 and scores.mean() >= 0.8 * expert.mean(), scores.mean()
    rewards = [x for x in lines(run_dir) if "train/reward/r_expert" in x][-1]
    assert rewards["train/reward/r_expert"] > max(rewards["train/reward/r_data"], rewards["train/reward/r_model"])


MATCHING = ("obs=state", "n_demos=10", "steps=2500", "eval.every=2500", "data.batch=64", "data.length=2",
            "size.state_units=64", "size.state_layers=2", "size.model_hidden=64", "size.state_clone=300", "ema=0.99",
            "policy.gamma=0.9", "data.seed_steps=250", "data.reward_every=125",
            "data.reward_steps=10", "data.reward_batch=128", "data.fit_every=125", "data.rollouts_per_step=20",
            "data.memory=20000", "data.rollout_horizon=[1,5,0,1500]", "eval.episodes=2", "data.envs=1",
            "log_every=200")  # fmt: skip


@pytest.mark.parametrize(
    "algo", ["mm", "hype", "filter", "hype_filter", "bc_reg", "gail", "airl", "dac", "hyper", "hyper_pess", "hyper_bc"]
)
def test_matching_moments_learns_line_from_states(run_dir: Path, algo: str) -> None:
    """Algorithms 5.7.1 for every method of 3.4-3.6 and 3.9: better than random, 60 % of the expert, HyPER 90 %."""
    # imagined transitions that come and go take more updates
    more = (f"data.updates_per_step={2 if algo.startswith('hyper') else 1}",)
    if algo == "hyper":
        more += ("steps=4000", "eval.every=4000")
    train(run_dir, f"algo={algo}", *MATCHING, *more)
    scores, _, expert, chance = judged(run_dir)
    assert permutation_test(scores, chance) < 0.001, (scores.mean(), chance.mean())
    share = 0.9 if algo == "hyper" else 0.6
    assert scores.mean() >= share * expert.mean(), (scores.mean(), expert.mean())


SWING_UP = ("task=gym", "task.options.id=Pendulum-v1", "obs=state", "size=small", "n_demos=5", "steps=3000",
            "eval.every=200", "eval.episodes=20", "data.envs=1", "data.batch=64", "data.length=2",
            "data.seed_steps=400", "data.updates_per_step=4", "policy.gamma=0.95", "ema=0.99", "size.state_units=64",
            "log_every=1000")  # fmt: skip


def test_demonstrated_transitions_save_environment_steps(tmp_path: Path) -> None:
    """Algorithms 5.7.4: on the pendulum, from five demonstrations, HyPE is at nine tenths of the way from chance to the
    expert in fewer steps than MM (three seeds), and both get there.
    """
    seeds = range(40_000, 40_020)
    expert = np.mean([swung_up(seed, swing_up)[1] for seed in seeds])
    noise = np.random.default_rng(0)
    chance = np.mean([swung_up(seed, lambda _: noise.uniform(-1, 1, 1).astype(np.float32))[1] for seed in seeds])
    target = chance + 0.9 * (expert - chance)
    needed: dict[str, list[int]] = {"hype": [], "mm": []}
    for algo, steps in needed.items():
        for seed in range(3):
            run = tmp_path / f"{algo}-{seed}"
            train(run, f"algo={algo}", *SWING_UP, f"demos={pendulum()}", f"seed={seed}", f"eval.stop_at={target}")
            steps.append(int(state(run)["step"]))
            assert [line["eval/score_mode"] for line in lines(run) if "eval/score_mode" in line][-1] >= target, steps
    assert sum(needed["hype"]) < sum(needed["mm"]), needed
