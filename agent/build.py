"""From a resolved configuration to objects. The one place that knows which class a ``kind`` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from agent.agent import Agent, UpdateOptions
from agent.ending import TERMINATIONS, UNCHANGED
from agent.errors import ConfigError
from agent.memory import TransitionMemory
from agent.penalties import make_penalty
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
from agent.reward.leak import LeakReward
from agent.reward.ml import MLReward
from agent.reward.truth import TruthReward
from agent.starts import MixtureStarts, ReplayStarts
from models.actor_critic import SquashedActor
from models.dists import CategoricalLatent, GaussianLatent
from models.state_model import RecurrentStateModel, StateEnsemble, StateModel
from models.world_model import FrameStack, PixelWorldModel

Config = Mapping[str, Any]


def _without(config: Config, *names: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in names}


def _rssm(config: Config, action: int, obs: tuple[int, ...]) -> PixelWorldModel | RecurrentStateModel:
    latent: GaussianLatent | CategoricalLatent
    if config["latent"] == "gaussian":
        latent = GaussianLatent(config["stoch"])
    elif config["latent"] == "categorical":
        latent = CategoricalLatent(config["stoch"], config["classes"])
    else:
        raise ConfigError(f"world_model.latent: {config['latent']!r} is none of gaussian, categorical")
    options = _without(config, "kind", "latent", "stoch", "classes")
    if config["kind"] == "rssm_state":
        return RecurrentStateModel(obs[0], action=action, latent=latent, **options)
    return PixelWorldModel(action=action, latent=latent, **options)


def _ensemble(config: Config, action: int, obs: tuple[int, ...]) -> StateEnsemble:
    world = StateEnsemble(obs[0], action, **_without(config, "kind", "path"))
    world.given = config.get("path") is not None  # its weights: agent.train
    return world


def _frozen(config: Config, world: Any, action: int) -> FrozenReward:
    """The reward of another run, for features of ``world``. Raises ConfigError when it does not fit."""
    from agent import artefact

    if config["path"] is None:
        raise ConfigError("reward=frozen: reward.path=DIR is missing: a run, or what agent.rewards wrote of one")
    found = artefact.read(Path(config["path"]))
    sizes, kind = (found.card["feat"], found.card["action"]), found.card["reward"]
    if not hasattr(world, "state") or sizes != (world.feat, action):
        raise ConfigError(f"reward.path: {config['path']} is about {sizes[0]} state entries and {sizes[1]} actions")
    learned = REWARDS[kind["kind"]](kind, world, action)
    learned.load_state_dict(found.weights)
    alone = learned.alone() if hasattr(learned, "alone") else learned
    return FrozenReward(alone, *found.normaliser, world.state)


def _truth(config: Config, world: Any, action: int) -> TruthReward | FittedReward:
    """The environment's reward: of transitions as they come, of imagined ones as a network predicts it."""
    if not world.can_imagine:
        return TruthReward()
    options = {name: config[name] for name in ("hidden", "layers", "act")}  # others are of the reward it stands for
    return FittedReward(world.feat, action, policy_data="told", **options)


WORLD_MODELS: dict[str, Callable[[Config, int, tuple[int, ...]], Any]] = {
    "rssm": _rssm,
    "rssm_state": _rssm,
    "frames": lambda config, action, obs: FrameStack(action=action, **_without(config, "kind")),
    "state": lambda config, action, obs: StateModel(obs[0], **_without(config, "kind")),
    "mlp": _ensemble,
}
REWARDS: dict[str, Callable[[Config, Any, int], Any]] = {
    "bce": lambda config, world, action: BCEReward(world.feat, action, **_without(config, "kind")),
    "ipm": lambda config, world, action: IPMReward(world.feat, action, **_without(config, "kind")),
    "airl": lambda config, world, action: AIRLReward(world.feat, action, **_without(config, "kind")),
    "ml": lambda config, world, action: MLReward(world.feat, action, **_without(config, "kind")),
    "ml_leak": lambda config, world, action: LeakReward(world.feat, action, **_without(config, "kind")),
    "f_div": lambda config, world, action: FDivReward(world.feat, **_without(config, "kind")),
    "aihf": lambda config, world, action: AIHFReward(world.feat, action, **_without(config, "kind")),
    "clare": lambda config, world, action: CLAREReward(world.feat, action, **_without(config, "kind", "past")),
    "fitted": lambda config, world, action: FittedReward(world.feat, action, **_without(config, "kind")),
    "frozen": _frozen,
    "truth": _truth,
    "none": lambda config, world, action: None,
}
STARTS: dict[str, Callable[[Config], Any]] = {
    "replay": lambda config: ReplayStarts(**_without(config, "kind")),
    "mixture": lambda config: MixtureStarts(**_without(config, "kind")),
}
POLICIES: dict[str, Callable[[Config, int, int], Any]] = {
    "backprop": lambda config, feat, action: BackpropPolicy(feat, action, **_without(config, "kind", "horizon")),
    "bc": lambda config, feat, action: BCPolicy(feat, action, **_without(config, "kind")),
    "iq": lambda config, feat, action: IQPolicy(feat, action, **_without(config, "kind")),
    "nu_dice": lambda config, feat, action: NuDicePolicy(feat, action, **_without(config, "kind")),
    "sac": lambda config, feat, action: SACPolicy(feat, action, **_without(config, "kind")),
    "td3_bc": lambda config, feat, action: TD3BCPolicy(feat, action, **_without(config, "kind")),
}


def _make(table: dict[str, Any], config: Config, part: str, *shapes: Any) -> Any:
    """The object that ``config[part]`` describes. Raises ConfigError for a kind or an option that there is not."""
    kind = config[part]["kind"]
    if kind not in table:
        raise ConfigError(f"{part}.kind: {kind!r} is none of {', '.join(table)}")
    try:
        return table[kind](config[part], *shapes)
    except TypeError as error:  # an option of another kind: a preset that is not meant for this observation
        cause = str(error).split(" got ")[-1]
        raise ConfigError(
            f"algo={config['algo']['name']} with obs={config['obs']['name']}: {part} {kind!r} has no such option "
            f"({cause}); docs/algorithms.md tells which observations each algorithm takes"
        ) from error


def build_agent(config: Config, action: int, device: torch.device, obs: tuple[int, ...] = (64, 64, 3)) -> Agent:
    """Assemble the six parts for actions of size ``action`` and observations of shape ``obs``; deterministic given
    torch's seed. Raises ConfigError.
    """
    kind = config["world_model"]["kind"]
    if (kind in ("state", "mlp", "rssm_state")) != (len(obs) == 1):
        raise ConfigError(f"world_model={kind} does not take observations of shape {obs}: choose it by obs=")
    termination = config["data"].get("termination", "mask")  # runs of earlier versions tell none
    flagged = termination == "absorbing"
    _check_termination(config, termination)
    more = {"world_model": _without(config["world_model"]) | {"flagged": True}} if flagged else {}
    world = _make(WORLD_MODELS, {**config, **more} if more else config, "world_model", action, obs).to(device)
    reward = _make(REWARDS, config, "reward", world, action)
    policy = _make(POLICIES, config, "policy", world.feat, action).to(device)
    penalty = make_penalty(config["penalty"]["name"], config["penalty"]["alpha"], config["penalty"]["target"])
    if penalty.coefficient is not None:
        penalty.coefficient.to(device)
    _check_parts(config, world, reward, policy)
    if flagged:
        _check_flag(reward, policy)
        policy.actor.flagged = True
    memory = past = None
    if policy.wants == "transitions" and world.learns == "fit":
        memory = TransitionMemory(world.feat, action, config["data"]["memory"]).to(device)
    if reward is not None and reward.policy_data == "weighted":
        if memory is None or penalty.u is None or config["data"]["reward_start"] < 1:
            raise ConfigError(
                f"reward={config['reward']['kind']} weighs data by a state model's uncertainty, against what that has "
                "imagined: obs=state, policy=sac, penalty other than none, data.reward_start above 0"
            )
        past = TransitionMemory(world.feat, action, config["reward"]["past"]).to(device)
    options = UpdateOptions(
        config["policy"].get("horizon", 0),
        config["data"]["joint_batch"],
        pick_bf16(config["data"]["bf16"], device),
        config["ema"],
        config.get("clone_noise", 0.0),  # runs of earlier versions can be evaluated
        config["data"]["real_fraction"],
        ema_warm_up=config["init"] is None,
    )
    return Agent(
        world,
        reward.to(device) if reward is not None else None,
        _make(STARTS, config, "starts"),
        penalty,
        policy,
        config["optim"],
        options,
        memory,
        past,
    )


def _check_parts(config: Config, world: Any, reward: Any, policy: Any) -> None:
    """Raise ConfigError for parts that do not go together."""
    if policy.wants == "rollout" and not world.can_imagine:
        raise ConfigError("policy: this optimiser imagines, but the world model has no dynamics")
    if policy.wants == "both" and reward is not None:
        raise ConfigError("policy: this optimiser owns its reward and takes no other: reward=none")
    if policy.wants in ("rollout", "transitions") and reward is None:
        raise ConfigError("policy: this optimiser needs a reward learner, but reward.kind is none")
    if reward is not None and world.can_imagine and (reward.needs_truth or reward.needs_next):
        raise ConfigError(f"reward={config['reward']['kind']} is known of real transitions only; this model imagines")
    source = "none" if reward is None else reward.policy_data
    offline = config["data"]["regime"] == "offline"
    if source in ("fresh", "tracks") and (offline or not hasattr(world, "latent")):
        raise ConfigError(f"reward.policy_data={source}: rounds on new episodes need an environment, and obs=state")
    if config["data"].get("reward_fresh", 0) > 0 and source not in ("fresh", "tracks"):
        raise ConfigError("data.reward_fresh: episodes of their own are for rewards that learn in rounds on new ones")
    if source in ("imagined", "chunks") and not world.can_imagine:
        raise ConfigError(f"reward.policy_data={source}: this world model has no dynamics")
    if source == "truth" and not offline:
        raise ConfigError(f"reward={config['reward']['kind']} is fitted to the rewards of a data set: dataset=PATH")
    if offline and config["data"]["episodes_per_cycle"] > 0:
        raise ConfigError("data.episodes_per_cycle: a method that learns from a data set steps no environment")
    cloned = config["init"] is not None or any("clone" in stage["parts"] for stage in config["data"]["stages"])
    _check_effect(config, world, reward, policy, offline)
    if getattr(policy, "reference", None) is not None and not cloned:
        raise ConfigError("policy.reference=clone: no stage of data.stages clones, and there is no init=RUN that did")
    if source == "imagined" and policy.wants != "transitions" and reward.needs_rounds:
        raise ConfigError("reward.policy_data=imagined: comparisons enter in rounds of the reward, as with policy=sac")
    tau = getattr(reward, "tau", None)
    told = config["policy"].get("temperature", config["policy"].get("entropy"))
    if tau is not None and told != tau:
        raise ConfigError(
            f"reward.temperature={tau:g}: comparisons are read at the policy's temperature, which is {told}: both the "
            "same number"
        )


def _check_effect(config: Config, world: Any, reward: Any, policy: Any, offline: bool) -> None:
    """Raise ConfigError for what would be accepted and then do nothing."""
    starts = config["starts"]
    if not world.can_imagine and config["penalty"]["name"] != "none":
        raise ConfigError(f"penalty={config['penalty']['name']}: nothing is uncertain without dynamics: penalty=none")
    if not world.can_imagine and starts["kind"] == "mixture":
        raise ConfigError("starts=mixture: this world model has no dynamics to imagine with (FILTER: starts.env_reset)")
    if starts.get("window", 0.0) > 0 and policy.wants == "rollout":
        raise ConfigError(
            "starts.window: rollouts in every gradient step begin in all of the demonstrations: policy=sac"
        )
    if config["data"].get("rest_all", False) and not config["data"]["near_enough"] > 0:
        raise ConfigError("data.rest_all: there is nothing near enough to rest at: data.near_enough=1")
    if starts.get("env_reset", 0.0) > 0 and offline:
        raise ConfigError("starts.env_reset: a method that learns from a data set steps no environment")
    if starts.get("env_reset", 0.0) > 0 and reward is not None and reward.policy_data == "replay":
        raise ConfigError(
            "starts.env_reset: this reward would also take episodes that begin within a demonstration for the policy's "
            "own: one that is learned in rounds, reward.policy_data=fresh"
        )
    rounds = reward is not None and reward.policy_data in ("fresh", "tracks")
    if starts.get("env_reset", 0.0) >= 1 and rounds and config["data"]["reward_fresh"] == 0:
        raise ConfigError(
            "starts.env_reset=1: the reward compares episodes from the task's own start, and there "
            "would be none: data.reward_fresh=4, or less than 1"
        )
    if reward is not None and reward.noise_in_reward and policy.wants != "rollout":
        raise ConfigError("reward.noise_in_reward: only rewards of imagined rollouts see the discriminator's input")


def _check_flag(reward: Any, policy: Any) -> None:
    """Raise ConfigError for parts that know nothing of an absorbing state."""
    if not isinstance(policy.actor, SquashedActor):
        raise ConfigError("data.termination=absorbing: policy=sac, nu_dice or iq; others act in absorbing states")
    if reward is not None and (reward.needs_weights or reward.policy_data == "tracks"):
        raise ConfigError(
            "data.termination=absorbing: this reward compares whole trajectories, and absorbing states end none"
        )


def _check_termination(config: Config, termination: str) -> None:
    """Raise ConfigError for a mode that does not exist, or that the world model knows nothing of."""
    if termination not in TERMINATIONS:
        raise ConfigError(f"data.termination: {termination!r} is none of {', '.join(TERMINATIONS)}")
    kind, given = config["world_model"]["kind"], config["data"]["regime"].startswith("offline")
    if termination not in UNCHANGED and (kind in ("mlp", "rssm", "rssm_state") or given):
        raise ConfigError(
            f"data.termination={termination}: algo={config['algo']['name']} would fit its model to transitions that no "
            "environment made; it is for methods without dynamics or data set"
        )
    if termination == "absorbing" and kind != "state":
        lacking = "pictures have" if config["obs"]["name"] == "pixels" else f"world_model={kind} has"
        raise ConfigError(f"data.termination=absorbing: {lacking} no entry for a flag: obs=state, world_model=state")
    if termination == "ignore" and config["world_model"].get("termination", "none") != "none":
        raise ConfigError("data.termination=ignore: imagination would still end: world_model.termination=none")


def pick_device(name: str) -> torch.device:
    """``auto``: CUDA when there is one. One that is named becomes the current one, on which graphs are captured.

    Raises ConfigError for a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is not a device (auto, cpu, cuda, cuda:N)") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: {name!r} is not supported (auto, cpu, cuda, cuda:N)")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda asked for, but torch sees no CUDA device")
    if device.index is not None and device.type == "cuda":
        if device.index >= (count := torch.cuda.device_count()):
            raise ConfigError(f"device: {name}: there are {count} CUDA devices, counted from 0")
        torch.cuda.set_device(device)
    return device


def pick_bf16(choice: bool | str, device: torch.device) -> bool:
    """``auto``: bf16 products where the hardware has them. Raises ConfigError for anything but auto, true, false.

    A processor without them (AVX2 only, say) emulates them element by element: ten times slower than float32.
    """
    if isinstance(choice, bool):
        return choice
    if choice != "auto":
        raise ConfigError(f"data.bf16: {choice!r} is none of auto, true, false")
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
