"""Presets as built objects: sizes of the networks, no option without effect (algorithms 3.1, 3.2, 5.1.10)."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from agent.agent import Agent, UpdateOptions
from agent.build import ConfigError, build_agent, pick_bf16
from agent.config import CONFIGS, load_config
from agent.memory import TransitionMemory
from agent.optim import OAdam, Optimiser
from agent.penalties import Coefficient, Penalty
from agent.policy.backprop import BackpropPolicy
from agent.policy.bc import BCPolicy
from agent.policy.iq import IQPolicy
from agent.policy.nu_dice import NuDicePolicy
from agent.policy.sac import SACPolicy
from agent.policy.td3_bc import TD3BCPolicy
from agent.reward.aihf import AIHFReward
from agent.reward.airl import AIRLReward
from agent.reward.bce import BCEReward
from agent.reward.clare import CLAREReward
from agent.reward.f_div import FDivReward
from agent.reward.fitted import FittedReward
from agent.reward.frozen import FrozenReward
from agent.reward.ipm import IPMReward
from agent.reward.ml import MLReward
from agent.rounds import RewardRounds
from agent.starts import MixtureStarts, ReplayStarts
from models.actor_critic import Actor, Critics, DeterministicActor, SquashedActor
from models.mlp_ensemble import FitOptions, MLPEnsemble
from models.nets import MLP, Decoder, Encoder, StackedMLP
from models.reward_net import CostNet, RatioNet, RewardNet, RunningMoments
from models.rssm import RSSM
from models.state_model import RecurrentStateModel, StateEnsemble, StateModel
from models.world_model import FrameStack, PixelWorldModel

ROOT = Path(__file__).resolve().parents[1]
ALGORITHMS = sorted(path.stem for path in (CONFIGS / "algo").glob("*.yaml"))
SIZES = sorted(path.stem for path in (CONFIGS / "size").glob("*.yaml") if path.stem != "debug")
TOLD = {algo: OmegaConf.load(CONFIGS / "algo" / f"{algo}.yaml").algo.get("obs") for algo in ALGORITHMS}
CASES = [(obs, algo) for obs in ("pixels", "state") for algo in ALGORITHMS if TOLD[algo] is None or obs in TOLD[algo]]
SPACES: dict[str, tuple[str, tuple[int, ...], int]] = {  # task, shape of its observations, size of its actions
    "pixels": ("kitchen", (64, 64, 3), 9),
    "state": ("hopper", (11,), 3),
}


def test_the_documentation_says_which_observations_a_method_takes() -> None:
    table = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8").split("| `algo` | obs |")[1].split("\n\n")[0]
    letters = {"pixels": "p", "state": "s"}
    rows = [[cell.strip() for cell in row.split("|")[1:3]] for row in table.splitlines()[2:]]
    told = {name.strip("`* "): set(obs.split()) for names, obs in rows for name in names.split(",")}
    assert len(told) > 30
    assert told == {a: {letters[o] for o in TOLD[a] or letters} for a in told}


def test_other_observations_are_refused() -> None:
    with pytest.raises(ConfigError, match="algo=clare: learns from state alone: obs=state"):
        load_config(["algo=clare", "obs=pixels"])
    with pytest.raises(ConfigError, match="algo=pdac: learns from pixels alone: obs=pixels"):
        load_config(["algo=pdac", "obs=state"])


@functools.cache
def preset(algo: str, size: str, obs: str = "pixels", *more: str) -> dict[str, Any]:
    return load_config([f"algo={algo}", f"size={size}", f"obs={obs}", f"task={SPACES[obs][0]}", *more])[0]


def build(algo: str, size: str, obs: str = "pixels", *more: str) -> Agent:
    torch.manual_seed(0)
    _, shape, actions = SPACES[obs]
    return build_agent(preset(algo, size, obs, *more), actions, torch.device("cpu"), shape)


def widths(net: nn.Module) -> list[tuple[int, int]]:
    """(inputs, outputs) of every dense layer of an MLP, or of one member of a stack of them."""
    if isinstance(net, StackedMLP):
        return [(layer.weight.shape[1], layer.weight.shape[2]) for layer in net.layers]
    return [(layer.in_features, layer.out_features) for layer in net.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("obs", "algo"), CASES)
def test_every_preset_can_be_built_at_every_size(obs: str, algo: str, size: str) -> None:
    agent, config = build(algo, size, obs), preset(algo, size, obs)
    assert (config["algo"]["name"], config["size"]["name"], config["obs"]["name"]) == (algo, size, obs)
    assert (agent.reward is None) == (config["reward"]["kind"] == "none")
    for name, optimiser in agent.optimisers.items():
        group = optimiser.adam.param_groups[0]
        asked = config["optim"][name]
        assert group["lr"] == asked["lr"] and group["eps"] == asked["eps"] and optimiser.clip == asked["clip"]
        assert isinstance(optimiser.adam, OAdam) == (asked.get("kind") == "oadam")
        assert group["lr"] * group["weight_decay"] == pytest.approx(asked["wd"])
        assert optimiser.l2 == asked.get("l2", 0.0)
    assert (
        agent.options.bf16 == pick_bf16(config["data"]["bf16"], torch.device("cpu"))
        and agent.options.ema == config["ema"]
    )
    assert agent.options.joint_batch == config["data"]["joint_batch"]
    assert agent.options.horizon == config["policy"].get("horizon", 0)
    assert agent.options.real_fraction == config["data"]["real_fraction"]
    if agent.world.can_imagine:
        assert agent.penalty.alpha == config["penalty"]["alpha"]
    remembers = agent.world.learns == "fit" and agent.policy.wants == "transitions"
    assert (agent.memory.capacity if agent.memory is not None else 0) == remembers * config["data"]["memory"]


@pytest.mark.parametrize(
    ("obs", "algo", "part", "told"),
    [
        ("pixels", "gail", "reward=airl", "known of real transitions only; this model imagines"),
        ("pixels", "mm", "reward=f_div", "need an environment, and obs=state"),
        ("state", "bc", "world_model=frames", "does not take observations"),
        ("pixels", "offline_ml_irl", "reward=clare", "no such option"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(obs: str, algo: str, part: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build(algo, "debug", obs, part)


@pytest.mark.parametrize(
    ("algo", "obs", "more", "told"),
    [
        ("hype", "state", ("penalty=ens_std_mean", "penalty.alpha=5"), "nothing is uncertain without dynamics"),
        ("mm", "state", ("starts=mixture",), "no dynamics to imagine with"),
        ("hyper", "pixels", ("starts.window=0.1",), "starts.window"),
        ("cmil", "pixels", ("data.near_enough=0", "data.rest_all=true"), "data.rest_all: there is nothing near enough"),
        ("offline_ml_irl", "state", ("starts=replay", "starts.env_reset=0.5"), "steps no environment"),
        ("gail", "state", ("starts.env_reset=0.5",), "would also take episodes that begin within a demonstration"),
        ("gail", "state", ("reward.noise=1", "reward.noise_in_reward=true"), "reward.noise_in_reward"),
    ],
)
def test_what_would_do_nothing_is_refused(algo: str, obs: str, more: tuple[str, ...], told: str) -> None:
    _, shape, actions = SPACES[obs]
    with pytest.raises(ConfigError, match=told):
        build_agent(preset(algo, "debug", obs, *more), actions, torch.device("cpu"), shape)


def test_expert_resets_from_pixels_show_the_model_as_many_demonstrations_as_own_episodes() -> None:
    """Algorithms 4.4 (1:1) and 4.3 (five frames of history), also where CMIL's paper has neither (size=base)."""
    for size, rows in (("small", 4), ("base", 5)):
        for algo in ("hyper", "hyper_pess"):
            data = preset(algo, size)["data"]
            assert (data["expert_fraction"], data["joint_batch"], data["burn_in"]) == (0.0, True, rows)
        assert preset("cmil_resets", size)["data"]["burn_in"] == rows
    assert preset("cmil", "base")["data"]["burn_in"] == 0 and preset("cmil", "base")["data"]["expert_fraction"] is None


def test_where_cmil_begins_to_imagine() -> None:
    """Ours from pixels on a laptop at demonstrated states, half of the time; the paper's and its code's nowhere."""
    for size, p in (("small", 0.5), ("base", 0.0)):
        starts = preset("cmil", size)["starts"]
        assert (starts["kind"], starts["p"]) == ("mixture", p)
        assert preset("cmil_resets", size)["starts"]["p"] == 0.5
        for algo in ("cmil_official", "cmil_paper"):
            assert preset(algo, size)["starts"]["kind"] == "replay"
        assert preset("cmil", size, "state")["starts"]["kind"] == "replay"
    assert preset("cmil", "small", "pixels", "starts=replay")["starts"]["kind"] == "replay"
    assert preset("cmil", "small")["starts"] == preset("cmil_resets", "small")["starts"]


def test_a_maze_ends_at_its_goal_and_nothing_is_better_than_to_be_there() -> None:
    for algo in ("hyper_bc", "hyper_antmaze", "mm", "hype", "gail"):
        for task, mode in (("antmaze-umaze", "ignore"), ("antmaze-large", "ignore"), ("hopper", "mask")):
            found, _ = load_config([f"algo={algo}", "obs=state", f"task={task}"])
            assert found["data"]["termination"] == mode
    dac, _ = load_config(["algo=dac", "obs=state", "task=antmaze-umaze"])
    assert dac["data"]["termination"] == "absorbing", "a method's own way of ending goes first"


def test_only_our_own_small_cmil_looks_ten_steps_ahead() -> None:
    """What critics say of a hundred steps misleads it (benchmark/results); the papers' presets keep their discount."""
    for algo, size, gamma in (
        ("cmil", "small", 0.9),
        ("cmil", "base", 0.99),
        ("cmil_official", "small", 0.99),
        ("cmil_paper", "small", 0.99),
        ("vmail", "small", 0.99),
    ):
        assert preset(algo, size)["policy"]["gamma"] == gamma, (algo, size)
    assert preset("cmil", "small", "state")["policy"]["gamma"] == 0.99


def test_values_of_expert_resets_are_normalised_from_pixels_and_states() -> None:
    """Without it they run away (benchmark/results); CMIL's are its paper's."""
    for obs in ("pixels", "state"):
        policy = build("hyper", "debug", obs).policy
        assert policy.critics.nets.norm and policy.target.nets.norm
    assert not build("cmil", "debug").policy.critics.nets.norm


def test_networks_of_the_official_preset() -> None:
    """Algorithms 2.1 and 3.1: the sizes that the official code builds."""
    agent = build("cmil_official", "base")
    world, policy = agent.world, agent.policy
    assert isinstance(world, PixelWorldModel) and isinstance(policy, BackpropPolicy)
    assert world.feat == 760 and world.encoder.size == 1536 and world.encoder.convs[0].out_channels == 48
    assert world.encoder.act(torch.tensor(-1.0)).item() == pytest.approx(-0.632, abs=1e-3), "ELU"
    assert world.rssm.gru.weight.shape == (3 * 400, 400 + 400)
    assert world.rssm.prior_in.weight.shape == (10, 400, 400) and world.rssm.prior_out.weight.shape == (10, 400, 720)
    assert world.rssm.post_embed.weight.shape == (400, 1536) and world.behaviour is None and world.decode_rows == 0
    assert widths(policy.actor.net) == [(760, 400), (400, 400), (400, 400), (400, 400), (400, 18)]
    assert widths(policy.critics.nets) == [(769, 400), (400, 400), (400, 400), (400, 400), (400, 1)]
    assert policy.critics.nets.layers[0].weight.shape[0] == 2
    assert agent.reward is not None and agent.slow is None and not agent.options.joint_batch
    assert isinstance(agent.starts, ReplayStarts) and agent.starts.per_chunk == 0


def test_discriminator_of_the_official_preset() -> None:
    reward = build("cmil_official", "base").reward
    assert reward is not None and widths(reward.net.net) == [(769, 200), (200, 200), (200, 1)]


def test_length_of_the_official_preset() -> None:
    assert preset("cmil_official", "base")["steps"] == 200_000


@pytest.mark.parametrize("size", ["base", "small"])
@pytest.mark.parametrize("algo", [a for a in ALGORITHMS if a.startswith("vmail")])
def test_vmail_learns_from_demonstrations_through_its_discriminator_only(algo: str, size: str) -> None:
    """Algorithms 3.2: no BC. Otherwise the baseline is not the baseline."""
    config = preset(algo, size)
    assert config["policy"]["beta_bc"] == 0 and config["world_model"]["behaviour_scale"] == 0
    assert not [s["name"] for s in config["data"]["stages"] if s["updates"] > 0 and "clone" in s["parts"]]


# ---------------------------------------------------------------------- options without effect

BUILT = (
    *(Agent, UpdateOptions, Penalty, Optimiser, ReplayStarts, MixtureStarts),
    *(BCEReward, IPMReward, AIRLReward, RewardNet, RatioNet, CostNet, RunningMoments),
    *(MLReward, AIHFReward, FDivReward, FittedReward, FrozenReward, RewardRounds, Coefficient),
    CLAREReward,
    *(
        BackpropPolicy,
        BCPolicy,
        SACPolicy,
        TD3BCPolicy,
        IQPolicy,
        NuDicePolicy,
        Actor,
        SquashedActor,
        DeterministicActor,
        Critics,
    ),
    *(PixelWorldModel, FrameStack, RSSM, Encoder, Decoder, MLP, StackedMLP),
    *(StateModel, StateEnsemble, MLPEnsemble, FitOptions, TransitionMemory, OAdam),
)


def attributes_read() -> set[str]:
    """Names x of all expressions `something.x` that read."""
    found = set()
    for package in ("agent", "models"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    found.add(node.attr)
    return found


@pytest.mark.parametrize("cls", BUILT, ids=lambda cls: cls.__name__)
def test_no_option_is_accepted_and_then_ignored(cls: type) -> None:
    """What a class is given it uses, and what it stores for later somebody reads."""
    read = attributes_read()
    if "__init__" not in vars(cls) or hasattr(cls, "__dataclass_fields__"):
        assert set(cls.__dataclass_fields__) - {"name"} <= read
        return
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls.__init__))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    given = {a.arg for a in (*tree.args.args, *tree.args.kwonlyargs)} - {"self"}
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    assert given - used <= ({"action"} if cls is FrameStack else set()), "a frame stack needs no action"
    stored = {
        n.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and isinstance(n.value, ast.Name)
    }
    assert stored <= read


def _options(cls: type) -> set[str]:
    """Names of what a class takes, also of what it passes on to the class that it extends."""
    given = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    base = next(base for base in cls.__mro__[1:] if "__init__" in vars(base))
    more = _options(base) if any(p.kind is p.VAR_KEYWORD for p in given) else set()
    return more | {p.name for p in given if p.kind is not p.VAR_KEYWORD}


def test_every_option_of_a_part_is_set_by_a_configuration() -> None:
    """Defaults in code that no file shows could not be found in a run's config.yaml."""
    cmil, frames = preset("cmil", "small"), preset("bc_cnn", "small")
    hype, hyper = preset("hype", "small", "state"), preset("hyper", "small", "state")
    td3 = preset("hype", "small", "state", "policy=td3_bc")
    parts: list[tuple[type, dict[str, Any]]] = [
        *((PixelWorldModel, cmil["world_model"]), (FrameStack, frames["world_model"])),
        (RecurrentStateModel, preset("cmil_recurrent", "small", "state")["world_model"]),
        *((StateModel, hype["world_model"]), (StateEnsemble, hyper["world_model"])),
        *((BCEReward, preset(algo, "small", obs)["reward"]) for obs, algo in (("pixels", "cmil"), ("state", "gail"))),
        *(
            (BCEReward, preset("dac", "small", "state")["reward"]),
            (AIRLReward, preset("airl", "small", "state")["reward"]),
        ),
        *((IPMReward, preset("hype", "small", obs)["reward"]) for obs in ("pixels", "state")),
        *((BackpropPolicy, cmil["policy"]), (BCPolicy, frames["policy"])),
        *((SACPolicy, hype["policy"]), (TD3BCPolicy, td3["policy"])),
        (IQPolicy, preset("iq_learn", "small", "state")["policy"]),
        (NuDicePolicy, preset("value_dice", "small", "state")["policy"]),
        (MLReward, preset("ml_irl", "small", "state")["reward"]),
        (FDivReward, preset("f_irl", "small", "state")["reward"]),
        (FittedReward, preset("mopo", "small", "state")["reward"]),
        (CLAREReward, preset("clare", "small", "state")["reward"]),
        *((ReplayStarts, hype["starts"]), (MixtureStarts, hyper["starts"])),
    ]
    for cls, node in parts:
        positional = {"self", "obs", "feat", "action", "encoder", "decoder"}
        options = _options(cls) - positional
        assert options - set(node) <= {"behaviour_hidden", "flagged"}, cls.__name__  # flagged: data.termination


def test_bf16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated bf16 made an update ten times slower than float32."""
    cpu = torch.device("cpu")
    for has_avx512, has_amx, expected in ((True, False, True), (False, True, True), (False, False, False)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has_avx512: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has_amx: has)
        assert pick_bf16("auto", cpu) is expected
    assert pick_bf16(True, cpu) is True and pick_bf16(False, cpu) is False
    with pytest.raises(ConfigError, match=r"data\.bf16: 'maybe' is none of auto, true, false"):
        pick_bf16("maybe", cpu)


def test_likelihood_methods_from_pixels_are_what_the_specification_says() -> None:
    """Algorithms 4.5: gamma .97 and 50 pairs, temperature .2 in values that count it, a cut at the 99th percentile. Our
    own small one looks ten steps ahead, as CMIL does.
    """
    for size in SIZES:
        for algo in ("offline_ml_irl", "ml_irl"):
            config = preset(algo, size)
            data, policy, reward = config["data"], config["policy"], config["reward"]
            gamma, bound = (0.9, 1.0) if size == "small" else (0.97, 10.0)
            assert (reward["kind"], reward["policy_data"], reward["gamma"], reward["weighting"]) == (
                *("ml", "chunks", gamma, "discounted"),
            )
            assert (policy["kind"], policy["gamma"], policy["entropy"], policy["soft"]) == (
                "backprop",
                gamma,
                0.2,
                True,
            )
            assert (data["reward_expert"], reward["bound"]) == ("prior", bound)
            assert (data["reward_horizon"], data["reward_cut"], config["penalty"]["name"]) == (50, 0.99, "ens_std_mean")
            assert config["optim"]["reward"]["l2"] == 1e-3
            parts = {"offline_ml_irl": ["reward", "policy"], "ml_irl": ["world", "reward", "policy"]}
            assert data["parts"] == parts[algo] and [s["parts"] for s in data["stages"]] == [["world", "clone"]]
        offline = preset("offline_ml_irl", size)["data"]
        assert offline["joint_batch"] and offline["expert_fraction"] == 0.0, "half of the model's batch is demonstrated"
        assert offline["holdout"] == 0.1 and offline["episodes_per_cycle"] == offline["seed_steps"] == 0
        assert offline["stages"][0]["patience"] == 5 and offline["stages"][0]["check_every"] > 0


def test_a_likelihood_in_place_of_the_discriminator_and_comparisons_alone() -> None:
    """Algorithms 4.5: nothing but the reward differs from CMIL; 3.15: a reward first, then a policy that is shown
    nothing.
    """
    for obs in ("pixels", "state"):
        plain, likely = preset("cmil", "small", obs), preset("cmil_ml", "small", obs)
        assert {k for k in plain if plain[k] != likely[k]} == {"algo", "reward", "optim"}
        assert (likely["reward"]["kind"], likely["reward"]["policy_data"], likely["reward"]["clamp"]) == (
            *("ml", "imagined", "soft"),
        )
        assert likely["optim"]["reward"] == plain["optim"]["reward"] | {"l2": 1e-3}
        told = preset("rlhf", "small", obs)
        assert (told["reward"]["w_demo"], told["reward"]["w_pref"], told["data"]["expert_fraction"]) == (0.0, 1.0, 0.0)
        assert told["optim"]["reward"]["lr"] == 3e-4
    assert (told["data"]["reward_every"], told["data"]["reward_steps"]) == (0, 1000), "from state once"


def test_mopo_is_what_the_specification_says() -> None:
    """Algorithms 3.11, the column of the code, hopper-medium."""
    config = preset("mopo_official", "base", "state")
    data, policy, model = config["data"], config["policy"], config["world_model"]
    assert (model["members"], model["elites"], config["penalty"]["name"], config["penalty"]["alpha"]) == (
        *(7, 5, "max_aleatoric", 5.0),
    )
    assert model["holdout"] == 0.0, "a fifth, at most 1000"
    assert data["imagine_every"] * data["rollouts_per_step"] == 50_000 and data["rollout_horizon"] == [5, 5, 0, 1]
    assert data["memory"] == 5 * 50_000 * 5 and data["real_fraction"] == 0.05
    assert (policy["gamma"], policy["polyak"], 3 * policy["target_entropy"]) == (0.99, 0.005, -3.0)


def test_likelihood_methods_are_what_the_specification_says() -> None:
    """Algorithms 3.7 and 3.10, the column of our defaults and, online, of the official code."""
    ours, code = preset("ml_irl", "base", "state"), preset("ml_irl_official", "base", "state")
    reward, optim = ours["reward"], ours["optim"]["reward"]
    assert (reward["hidden"], reward["layers"], reward["act"], reward["clamp"]) == (128, 2, "relu", "soft")
    assert (optim["lr"], optim["l2"], optim["wd"], reward["weighting"]) == (1e-4, 1e-3, 0.0, "discounted")
    for config in (ours, code):
        assert config["policy"]["temperature"] == 0.2 and config["policy"]["gamma"] == reward["gamma"] == 0.99
        assert (config["data"]["reward_every"], config["data"]["reward_steps"]) == (5000, 1)
        assert config["data"]["act"] == "sampled", "the stochastic policy"
    assert (ours["data"]["reward_episodes"], code["data"]["reward_episodes"]) == (5, 10)
    assert (code["reward"]["weighting"], code["reward"]["clamp"], code["reward"]["hidden"]) == ("sum", "hard", 64)
    policy, data, rates = code["policy"], code["data"], code["optim"]
    assert (policy["reward_scale"], policy["polyak"], policy["critic_norm"]) == (1.0, 0.005, False)
    assert (policy["hidden"], policy["layers"], policy["gamma"]) == (256, 2, 0.99)
    assert (data["batch"], data["expert_fraction"], data["seed_steps"], data["termination"]) == (
        *(100, 0.0, 1000, "fixed_horizon"),
    )
    assert (rates["actor"]["lr"], rates["critics"]["lr"], rates["reward"]["lr"]) == (1e-3, 1e-3, 1e-4)
    assert rates["reward"]["l2"] == 1e-3 and code["steps"] == 1_000_000 and code["ema"] == 0.0
    assert code["world_model"]["normalise"] is False
    assert preset("ml_irl_s", "base", "state")["reward"]["inputs"] == "state"
    offline = preset("offline_ml_irl", "base", "state")
    data = offline["data"]
    assert (data["reward_every"] / data["imagine_every"], data["imagine_every"]) == (20, 1000)
    assert data["rollouts_per_step"] * data["imagine_every"] == 20_000
    assert (data["real_fraction"], data["expert_fraction"]) == (0.4, 0.5), "a fifth of the batch is demonstrated"
    assert (offline["starts"]["kind"], offline["starts"]["p"]) == ("mixture", 0.5)
    assert (offline["policy"]["reward_scale"], offline["policy"]["polyak"]) == (0.05, 0.02)
    from_pixels = preset("offline_ml_irl", "base", "pixels")
    assert from_pixels["starts"]["kind"] == "replay" and from_pixels["data"]["expert_fraction"] == 0.0
    assert data["reward_horizon"] == 200 and data["fit_every"] == 0 and offline["world_model"]["max_updates"] == 0
    assert offline["policy"]["temperature"] == "auto" and offline["policy"]["target_entropy"] == -0.5
    five_epochs = 5 * data["rollouts_per_step"] * data["imagine_every"] * data["rollout_horizon"][1]
    assert data["memory"] == five_epochs
    assert preset("mopo", "base", "state")["penalty"]["name"] == "max_aleatoric"


def test_hype_and_hyper_official_are_the_codes_column() -> None:
    """Algorithms 3.5 and 3.6, the rows of Hopper: teeth of the learning rate as long as a round, four episodes for each
    of them alone.
    """
    hype, hyper = preset("hype_official", "small", "state"), preset("hyper_official", "small", "state")
    updates = hype["data"]["reward_every"] * hype["data"]["updates_per_step"]
    assert updates == 5000
    for name in ("actor", "critics", "temperature"):
        settings = hype["optim"][name]
        assert (settings["kind"], settings["lr"], settings["saw"]) == ("oadam", 7.3e-4, updates)
        assert hyper["optim"][name]["saw"] == 0, "only on two tasks"
    for config in (hype, hyper):
        assert config["data"]["reward_fresh"] == 4 and config["data"]["reward_restart"] is True
        assert (config["data"]["reward_steps"], config["data"]["reward_batch"]) == (1, 4096)
        assert (config["reward"]["gp_target"], config["reward"]["gp_weight"]) == (0.4, 10.0)
        assert (config["optim"]["reward"]["kind"], config["optim"]["reward"]["lr"]) == ("oadam", 8e-4)
    assert (hype["policy"]["gamma"], hype["policy"]["polyak"], hype["data"]["act"]) == (0.98, 0.02, "sampled")
    assert (hyper["data"]["act"], hyper["data"]["updates_per_step"], hyper["starts"]["per_batch"]) == ("mode", 30, True)
    for config, hidden in ((hype, 256), (hyper, 512)):
        policy, reward = config["policy"], config["reward"]
        assert (policy["hidden"], policy["layers"], policy["act"], policy["temperature"]) == (hidden, 2, "relu", "auto")
        assert (reward["hidden"], reward["layers"], reward["anchor"], reward["standardise"]) == (256, 2, False, False)
        assert (config["data"]["batch"], config["world_model"]["normalise"]) == (256, False)
    assert (hype["policy"]["target_entropy"], hype["steps"]) == (-1.0, 1_000_000)
    assert hype["data"]["expert_fraction"] == [[0, 0.2], [200_000, 0.1], [1_000_000, 0.01]]
    data, model, optim = hyper["data"], hyper["world_model"], hyper["optim"]
    agent = build("hyper_official", "debug", "state")  # of a task with Hopper's three actions
    assert agent.policy.target_entropy == pytest.approx(1.0, abs=1e-3), "+1 nat in all (HR6)"
    assert [optim[name]["lr"] for name in ("actor", "critics", "temperature")] == [3e-4] * 3
    assert (hyper["policy"]["polyak"], hyper["policy"]["polyak_every"], hyper["policy"]["gamma"]) == (5e-3, 4, 0.99)
    assert (model["hidden"], model["layers"], model["members"], model["elites"]) == (400, 4, 7, 5)
    assert (model["lr"], model["l2"], model["holdout"], model["patience"], model["tolerance"]) == (
        *(3e-4, 5e-5, 0.2, 10, 0.01),
    )
    assert model["normalise_fit"] and model["max_updates"] == 0
    assert (hyper["reward"]["members"], hyper["reward"]["reduce"], hyper["reward"]["clip"]) == (7, "max", 0.0)
    assert (data["fit_every"], data["rollouts_per_step"], data["rollout_horizon"]) == (
        125,
        400,
        [1, 25, 20_000, 100_000],
    )
    assert (data["reward_every"], data["seed_steps"], hyper["steps"]) == (1000, 1000, 150_000)
    assert (data["real_fraction"], data["expert_fraction"], hyper["starts"]["p"]) == (0.0, 0.0, 0.5)


def differing(algo: str, other: str, obs: str = "state") -> set[str]:
    """Dotted names of the settings in which two presets differ, but for their own names."""

    def flat(node: Any, path: str = "") -> dict[str, Any]:
        if not isinstance(node, dict) or not node:
            return {path: node}
        return {k: v for key, value in node.items() for k, v in flat(value, f"{path}.{key}" if path else key).items()}

    a, b = (flat({k: v for k, v in preset(name, "small", obs).items() if k != "algo"}) for name in (algo, other))
    return {key for key in a.keys() | b.keys() if a.get(key, "-") != b.get(key, "-")}


def test_what_moment_matching_becomes_with_resets_clones_and_demonstrated_transitions() -> None:
    """Algorithms 3.5: each differs from its base in what it is named after, ours and the code's."""
    for resets, base in (("filter", "mm"), ("hype_filter", "hype"), ("filter_official", "mm_official")):
        assert differing(resets, base) == {"starts.env_reset"}
        assert preset(base, "small", "state")["starts"]["env_reset"] == 0
        assert preset(resets, "small", "state")["starts"]["env_reset"] == 0.5
    for clones, base in (("bc_reg", "mm"), ("bc_reg_official", "mm_official")):
        assert {"policy.bc", "policy.bc_weight"} <= differing(clones, base)
        assert differing(clones, base) <= {"policy.bc", "policy.bc_weight", "clone_noise"}
        policy = preset(clones, "small", "state")["policy"]
        assert (policy["bc"], policy["bc_weight"]) == ("mse", 1.0)
        assert preset(base, "small", "state")["policy"]["bc_weight"] == 0
    for base, hype in (("mm", "hype"), ("mm_official", "hype_official")):
        assert differing(base, hype) == {"data.expert_fraction"}
        assert preset(base, "small", "state")["data"]["expert_fraction"] == 0.0
        assert preset(hype, "small", "state")["data"]["expert_fraction"] != 0.0


def test_gail_official_is_the_codes_column() -> None:
    """Algorithms 3.9, the row of Hopper: log D (f-IRL's repository), times .2, beside an entropy of weight 1."""
    config = preset("gail_official", "small", "state")
    reward, policy, data, optim = (config[part] for part in ("reward", "policy", "data", "optim"))
    assert (reward["kind"], reward["map"], reward["hidden"], reward["act"]) == ("bce", "log_d", 128, "tanh")
    assert (reward["layers"], reward["gp"], reward["gp_weight"]) == (2, "input", 4.0)
    assert (policy["reward_scale"], policy["reward_scale"] * policy["temperature"]) == (0.2, 1.0)
    assert (policy["hidden"], policy["layers"], policy["critic_norm"]) == (256, 2, False)
    assert (data["batch"], data["capacity"], data["updates_per_step"]) == (256, 201_000, 0.1)
    assert [optim[name]["lr"] for name in ("reward", "actor", "critics")] == [3e-4] * 3
    assert (config["n_demos"], config["steps"], config["ema"]) == (1, 1_000_000, 0.0)


@pytest.mark.parametrize(("algo", "least"), [("hype_official", 5), ("hyper_official", 5), ("airl_official", 3)])
def test_overrides_that_an_official_preset_names_for_other_tasks_exist(algo: str, least: int) -> None:
    told = (CONFIGS / "algo" / f"{algo}.yaml").read_text(encoding="utf-8").split("defaults:")[0]
    named = [word.rstrip(".,:") for word in told.replace("\n# ", " ").split() if "=" in word.strip("=.,")]
    assert len(named) >= least
    for override in named:
        task = "ant" if "contact" in override else "hopper"
        config = load_config([f"algo={algo}", "obs=state", f"task={task}", override])[0]
        *path, last = override.split("=")[0].split(".")
        assert last in functools.reduce(lambda node, key: node[key], path, config), override


def test_offline_ml_irl_official_is_the_codes_column() -> None:
    """Algorithms 3.10 and 2.5; the row of hopper-medium."""
    config = preset("offline_ml_irl_official", "small", "state")
    data, reward, optim = config["data"], config["reward"], config["optim"]
    assert (reward["weighting"], reward["clamp"], reward["bound"]) == ("mean", "hard", 10.0)  # O3, O6
    assert (reward["hidden"], reward["layers"], reward["policy_data"]) == (256, 2, "imagined")
    assert (optim["reward"]["lr"], optim["reward"]["l2"], data["reward_steps"]) == (1e-4, 1e-3, 1)  # O6, O7
    assert data["rollouts_per_step"] * data["imagine_every"] == 50_000 and data["imagine_every"] == 1000
    assert data["memory"] == 5 * 50_000 * data["rollout_horizon"][0] and data["rollout_horizon"][:2] == [43, 43]
    assert (data["reward_start"], data["reward_every"], data["reward_horizon"]) == (1000, 20_000, 200)
    assert (data["reward_rollouts"], data["real_fraction"], data["batch"]) == (1, 0.05, 256)
    assert data["expert_fraction"] == 0.0 and config["starts"]["kind"] == "replay"
    assert config["policy"]["reward_scale"] == 1.0
    policy, model = config["policy"], config["world_model"]
    assert (policy["hidden"], policy["layers"], policy["temperature"]) == (256, 3, "auto")
    assert (policy["target_entropy"], policy["gamma"], policy["polyak"], optim["actor"]["lr"]) == (
        -0.5,
        0.99,
        5e-3,
        3e-4,
    )
    assert (model["hidden"], model["members"], model["elites"], model["holdout"], model["lr"]) == (200, 7, 5, 0.2, 1e-3)
    assert (config["penalty"]["name"], config["penalty"]["alpha"]) == ("ens_std_drawn", 37.28)  # O4
    assert not model["normalise_penalty"] and config["steps"] == 1_000_000


def test_f_irl_official_is_the_codes_column() -> None:
    """Algorithms 3.8, and 3.7 for what they share."""
    config = preset("f_irl_official", "small", "state")
    data, reward, policy, optim = (config[part] for part in ("data", "reward", "policy", "optim"))
    assert (reward["kind"], reward["divergence"], reward["clamp"], reward["bound"]) == ("f_div", "fkl", "hard", 10.0)
    assert (reward["hidden"], reward["layers"], reward["act"]) == (64, 2, "relu")
    assert (reward["ratio_hidden"], reward["ratio_blocks"], reward["ratio_clamp"]) == (128, 3, 10.0)
    assert (reward["ratio_steps"], reward["ratio_batch"], data["reward_restart"]) == (1200, 800, False)
    assert [optim[name]["lr"] for name in ("reward", "classifier", "actor", "critics")] == [1e-4, 3e-4, 1e-3, 1e-3]
    assert (optim["reward"]["l2"], optim["classifier"]["l2"]) == (1e-3, 1e-4)
    assert (policy["hidden"], policy["layers"], policy["critics"], policy["critic_norm"]) == (256, 2, 2, False)
    assert (policy["temperature"], policy["gamma"], policy["polyak"], policy["reward_scale"]) == (0.2, 0.99, 5e-3, 1.0)
    assert (data["batch"], data["updates_per_step"], data["expert_fraction"], data["act"]) == (100, 1.0, 0.0, "sampled")
    assert (data["reward_every"], data["reward_steps"], data["reward_episodes"]) == (5000, 1, 10)
    assert data["termination"] == "fixed_horizon" and not config["world_model"]["normalise"]
    assert config["steps"] == 200 * 5000


def test_iq_learn_official_is_the_codes_column() -> None:
    """Algorithms 3.14 and 2.5; the row of hopper."""
    config = preset("iq_learn_official", "small", "state")
    data, policy, optim = config["data"], config["policy"], config["optim"]
    assert (policy["hidden"], policy["layers"], policy["act"], policy["critic_norm"]) == (256, 2, "relu", False)
    assert (policy["states"], policy["regularised"], policy["bootstrap"], policy["chi"]) == (
        "v0",
        "both",
        "target",
        0.5,
    )
    assert (policy["temperature"], policy["gamma"], policy["polyak"]) == (0.01, 0.99, 5e-3)
    assert (optim["actor"]["lr"], optim["critics"]["lr"]) == (3e-5, 3e-4)
    assert (data["batch"], data["updates_per_step"], data["expert_fraction"], data["act"]) == (256, 1.0, 0.0, "sampled")
    assert data["termination"] == "mask" and policy["explore_noise"] == 0.0 and config["steps"] == 500_000
    built = build("iq_learn_official", "small", "state")
    assert isinstance(built.policy, IQPolicy) and isinstance(built.world, StateModel) and not built.world.normalise
    assert len(built.policy.critics.nets.layers[0].weight) == 1 and not built.policy.critics.nets.norm, "a single Q"


def test_value_dice_official_is_the_codes_column() -> None:
    """Algorithms 3.13."""
    config = preset("value_dice_official", "small", "state")
    data, policy, optim = config["data"], config["policy"], config["optim"]
    assert (policy["hidden"], policy["layers"], policy["act"], policy["gamma"]) == (256, 2, "relu", 0.99)
    assert (policy["zeta"], policy["gp_weight"], policy["explore_noise"]) == (0.1, 10.0, 0.1)
    assert policy["orthogonal"] > 0 and data["act"] == "mode"
    assert (optim["actor"]["lr"], optim["critics"]["lr"]) == (1e-5, 1e-3)
    assert (data["batch"], data["updates_per_step"], data["termination"]) == (256, 5.0, "absorbing")
    assert data["expert_fraction"] == 0.0 and config["world_model"]["normalise"] and config["steps"] == 100_000


@pytest.mark.parametrize("obs", ["pixels", "state"])
def test_value_dice_does_not_decay(obs: str) -> None:
    """At a rate of 1e-5 a decay of 1e-6 a step is AdamW's 0.1, where the source has Adam (algorithms 3.13)."""
    for name in ("actor", "critics"):
        settings = preset("value_dice", "small", obs)["optim"][name]
        assert (settings["wd"], settings["eps"]) == (0.0, 1e-8)


def test_airl_official_is_the_codes_column() -> None:
    """Algorithms 3.9: what AIRL has for itself in that column."""
    config = preset("airl_official", "small", "state")
    reward, policy, data = config["reward"], config["policy"], config["data"]
    assert [config["optim"][name]["lr"] for name in ("reward", "actor", "critics")] == [1e-4] * 3
    assert (reward["hidden"], reward["layers"], reward["act"], "gp" in reward) == (256, 2, "relu", False)
    assert (reward["state_only"], reward["map"]) == (True, "g"), "for transfer: unshaped"
    assert (policy["temperature"], policy["reward_scale"], policy["hidden"]) == (1.0, 1.0, 256)
    assert (data["batch"], data["capacity"], data["updates_per_step"]) == (256, 11_000, 0.001)
    assert config["n_demos"] == 1, "of up to 1001 rows, beside the newest 1e4 own ones"


def test_dac_official_is_the_codes_column() -> None:
    """Algorithms 3.4: the variant with SAC; 2.5 for what that has in common with the others."""
    config = preset("dac_official", "small", "state")
    reward, policy, data = config["reward"], config["policy"], config["data"]
    assert [config["optim"][name]["lr"] for name in ("reward", "actor", "critics")] == [1e-3, 1e-5, 1e-3]
    assert (reward["hidden"], reward["layers"], reward["act"]) == (256, 2, "tanh")
    assert (reward["gp"], reward["gp_weight"], reward["map"]) == ("input", 10.0, "logit")
    assert (policy["hidden"], policy["layers"], policy["gamma"], policy["polyak"]) == (256, 2, 0.99, 0.005)
    assert (data["batch"], data["updates_per_step"], data["termination"]) == (256, 5.0, "absorbing")
    assert data["expert_fraction"] == 0.0, "the policy learns from its own transitions alone"


@pytest.mark.parametrize("algo", [a for a in ALGORITHMS if a.endswith("_official") and TOLD[a] != ["pixels"]])
def test_official_optimisers_are_plain(algo: str) -> None:
    """Algorithms 1.7: clipping, a large eps and decay are CMIL's and V-MAIL's; nor does an average act (2.5)."""
    agent = build(algo, "debug", "state")
    assert {"actor", "critics"} <= set(agent.optimisers) and agent.slow is None
    for name, optimiser in agent.optimisers.items():
        assert (optimiser.clip, optimiser.wd, optimiser.adam.param_groups[0]["eps"]) == (1e9, 0.0, 1e-8), name
