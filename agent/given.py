"""What a run is given: demonstrations, recorded transitions, and the shapes of both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from agent.agent import Agent
from agent.build import ConfigError
from agent.data import Replay
from demos import dataset, preferences, robot
from demos.preferences import Comparisons
from envs.episode import Episode

RANGE = "recorded_actions"  # of an episode's meta: what its data set recorded of the actions
TOLD = ("truth", "fitted", "ml_leak")  # rewards that the replay keeps the true ones for
IMAGINES = ("rssm", "rssm_state", "mlp")  # world models that may be fitted to demonstrations, whatever the reward is
UNTAUGHT = ("truth", "fitted", "frozen", "none")  # rewards that no demonstration teaches


class Spaces(NamedTuple):
    """What observations and actions look like."""

    obs_shape: tuple[int, ...]
    obs_dtype: np.dtype
    action_size: int


@dataclass(frozen=True)
class Given:
    """demos: demonstrations. recorded: transitions of any quality, for methods that learn from them. comparisons: of
    segments, for rewards that preferences teach. more: there are further demonstrations than ``n_demos`` asks for.
    """

    demos: list[Episode]
    recorded: list[Episode]
    like: Spaces
    comparisons: Comparisons | None = None
    more: bool = False

    def checksums(self) -> dict[str, str]:
        """Of all that there is: a resumed run needs the same."""
        kinds = {"demos_sha256": self.demos, "dataset_sha256": self.recorded}
        found = {
            name: hashlib.sha256("".join(map(dataset.checksum, episodes)).encode()).hexdigest()
            for name, episodes in kinds.items()
            if episodes
        }
        return found if self.comparisons is None else found | {"preferences_sha256": self.comparisons.checksum()}

    @property
    def robot(self) -> dict[str, Any] | None:
        """What the demonstrations tell of the robot (units of the actions, names, camera, pace); None: nothing.

        "action" holds "recorded", too, where it is told: {"low", "high"} (A,), the least and greatest commands, units
        as there.
        """
        found = next((one.meta["robot"] for one in (*self.demos[:1], *self.recorded[:1]) if "robot" in one.meta), None)
        ranges = [one.meta[RANGE] for one in (*self.demos, *self.recorded) if RANGE in one.meta]
        if found is None or "action" not in found or not ranges:
            return found
        low, high = np.min([one["low"] for one in ranges], 0), np.max([one["high"] for one in ranges], 0)
        return found | {"action": found["action"] | {"recorded": {"low": low.tolist(), "high": high.tolist()}}}

    @property
    def notes(self) -> list[str]:
        """What readers of the files noted, each once."""
        found = (note for one in (*self.demos, *self.recorded) for note in one.meta.get("notes", ()))
        return [f"demonstrations: {note}" for note in dict.fromkeys(map(str, found))]

    @property
    def rows(self) -> int:
        """Rows of all that is given."""
        return sum(map(len, (*self.demos, *self.recorded)))


def simulated(config: Mapping[str, Any]) -> bool:
    """Whether the run's task can be played; otherwise there are recordings alone."""
    return bool(config["task"].get("simulated", True))


def named(config: Mapping[str, Any], task: str) -> str | None:
    """The task that episodes must name, None for any: of one's own robot or simulator they name what they like."""
    return None if config["task"].get("any_demos", not simulated(config)) else task


def gather(config: Mapping[str, Any]) -> Given:
    """Load what the configuration names. Raises ConfigError for what is missing or does not fit; DemoError."""
    task, obs = config["demos_task"], config["obs"]["key"]
    if not simulated(config) and config["data"]["episodes_per_cycle"] > 0:
        raise ConfigError(
            f"task={config['task']['name']} has no simulator, and algo={config['algo']['name']} plays episodes in one: "
            "choose a method that does not (bc; bc_rssm, bc_cnn from pixels; offline_ml_irl with dataset=PATH)"
        )
    demos: list[Episode] = []
    if config["demos"] != "none":
        if config["reward"]["kind"] == "truth" and config["world_model"]["kind"] not in IMAGINES:
            raise ConfigError("reward=truth learns from the environment alone: demos=none")
        if config["demos"] == "shipped" and not simulated(config):
            raise ConfigError(f"task={config['task']['name']} learns from your own recordings: demos=PATH is missing")
        source = dataset.shipped(task) if config["demos"] == "shipped" else Path(config["demos"])
        options = config["task"]["options"]
        try:
            limit = None if config["n_demos"] is None else config["n_demos"] + 1
            demos = dataset.load(source, task=named(config, task), limit=limit, obs_keys=(obs,), options=options)
        except dataset.DemoError as error:
            hint = "; if another task's are meant (data transfer): demos_task=TASK" if error.key == "task" else ""
            raise dataset.DemoError(error.path, error.key, error.reason + hint) from error
    _check_dynamics(config)
    kept = demos[: config["n_demos"]]
    recorded = _recorded(config)
    like = _spaces(config, kept, recorded)
    return Given(kept, recorded, like, _comparisons(config, like), more=len(demos) > len(kept))


def _check_dynamics(config: Mapping[str, Any]) -> None:
    """Raise ConfigError where transitions of another task's demonstrations would be the policy's own (data transfer):
    they are of other dynamics, and values would learn from them.
    """
    fraction = config["data"]["expert_fraction"]
    if config["demos_task"] != config["task"]["name"] and config["obs"]["key"] == "state" and fraction not in (None, 0):
        raise ConfigError(
            f"demos_task={config['demos_task']}: the policy would learn from transitions of other dynamics "
            f"(data.expert_fraction={fraction}): data.expert_fraction=0"
        )


def _recorded(config: Mapping[str, Any]) -> list[Episode]:
    """The transitions of ``dataset=PATH``, for methods that learn from such; with rewards where these are told.

    Raises ConfigError when it is missing, or not wanted; DemoError.
    """
    method, path = config["algo"]["name"], config["dataset"]
    wanted = config["data"]["regime"] in ("offline", "offline_to_online")
    if wanted and path is None:
        raise ConfigError(f"algo={method} learns from recorded transitions: dataset=PATH is missing")
    if path is None:
        return []
    if not wanted:
        raise ConfigError(f"dataset={path}: algo={method} makes its own transitions (demonstrations: demos=PATH)")
    keys, told = (config["obs"]["key"],), config["reward"]["kind"] in TOLD
    task = config["task"]
    name = named(config, task["name"])
    return dataset.load(Path(path), task=name, obs_keys=keys, rewards=told, options=task["options"])


def _comparisons(config: Mapping[str, Any], like: Spaces) -> Comparisons | None:
    """Those of ``preferences=PATH``. Raises ConfigError when they are missing, or not wanted, or differ in shape from
    what the run sees; DemoError.
    """
    method, path, wanted = config["algo"]["name"], config["preferences"], config["reward"].get("w_pref", 0) > 0
    if wanted and path is None:
        raise ConfigError(
            f"algo={method} learns from comparisons: preferences=PATH is missing (python -m agent.label makes them); "
            "reward.w_pref=0 does without"
        )
    if path is None:
        return None
    if not wanted:
        none = ", or none with reward.w_pref=0" if "w_pref" in config["reward"] else ""
        raise ConfigError(f"preferences={path}: algo={method} learns from no comparisons{none}")
    task = config["task"]
    found = preferences.load(path, task=named(config, task["name"]), key=config["obs"]["key"], options=task["options"])
    if found.obs.shape[3:] != like.obs_shape or found.action.shape[3:] != (like.action_size,):
        raise ConfigError(
            f"preferences={path}: observations {found.obs.shape[3:]} and {found.action.shape[3]} actions, the run has "
            f"{like.obs_shape} and {like.action_size}"
        )
    return found


def fill(
    replay: Replay, agent: Agent, demos: Sequence[Episode], recorded: Sequence[Episode], key: str, horizon: int
) -> None:
    """Put what a new run is given into its replay; of states the agent learns their scale first."""
    each = [*((demo, True) for demo in demos), *((episode, False) for episode in recorded)]
    if each and key == "state" and not agent.world.has_statistics:  # else weights (init) are used to these
        agent.set_normaliser(torch.from_numpy(np.concatenate([e.obs[key] for e, _ in each])))
    for one, expert in each:
        flags = (one.is_first, one.is_last, one.is_terminal)
        told: dict[str, Any] = {"truth": one.reward, "horizon": horizon}
        replay.add_episode(one.obs[key], one.action, *flags, expert=expert, **told)


def _spaces(config: Mapping[str, Any], demos: Sequence[Episode], recorded: Sequence[Episode]) -> Spaces:
    """Of the demonstrations and the data set, or, where there are none, of the environment. ConfigError when they
    differ.
    """
    from envs.make import make

    still = config["data"]["episodes_per_cycle"] == 0 and not recorded
    untaught = config["reward"]["kind"] in UNTAUGHT or config["reward"].get("w_demo") == 0
    if not demos and (still or not untaught):
        raise ConfigError(f"demos=none: algo={config['algo']['name']} learns from demonstrations")
    kinds = []
    for first in (*demos[:1], *recorded[:1]):
        obs = first.obs[config["obs"]["key"]]
        kinds.append(Spaces(obs.shape[1:], obs.dtype, first.action.shape[1]))
    if kinds and kinds[0] != kinds[-1]:
        raise ConfigError(f"demos and dataset differ: {kinds[0]} and {kinds[-1]}")
    if demos and recorded:
        one, other = (episodes[0].meta.get("robot", {}) for episodes in (demos, recorded))
        differs = robot.differing(one, other, config["obs"]["key"], both=not simulated(config))
        if differs is not None:
            raise ConfigError(f"demos and dataset are not of one robot: {differs}")
    if kinds:
        return kinds[0]
    env = make(config["task"]["name"], config["obs"]["name"], **config["task"]["options"])
    try:
        space, actions = env.observation_space, env.action_space
        assert space.shape is not None and space.dtype is not None and actions.shape is not None
        return Spaces(space.shape, np.dtype(space.dtype), actions.shape[0])
    finally:
        env.close()
