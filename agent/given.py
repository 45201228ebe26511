"""What a run is given: demonstrations, recorded transitions, and the shapes of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent.build import ConfigError
from demos import dataset
from envs.episode import Episode

TOLD = ("truth", "fitted")  # rewards that the replay keeps the true ones for
UNTAUGHT = (*TOLD, "frozen", "none")  # rewards that no demonstration teaches


class Spaces(NamedTuple):
    """What observations and actions look like."""

    obs_shape: tuple[int, ...]
    obs_dtype: np.dtype
    action_size: int


@dataclass(frozen=True)
class Given:
    """demos: demonstrations. recorded: transitions of any quality, for methods that step no environment."""

    demos: list[Episode]
    recorded: list[Episode]
    like: Spaces

    @property
    def rows(self) -> int:
        """Rows that a replay must hold from the start, where nothing that is recorded may give way."""
        return sum(map(len, (*self.demos, *self.recorded))) if self.recorded else 0


def gather(config: Mapping[str, Any]) -> Given:
    """Load what the configuration names. Raises ConfigError for what is missing or does not fit; DemoError."""
    task, obs = config["task"]["name"], config["obs"]["key"]
    demos: list[Episode] = []
    if config["demos"] != "none":
        if config["reward"]["kind"] == "truth":
            raise ConfigError("reward=truth learns from the environment alone: demos=none")
        source = dataset.shipped(task) if config["demos"] == "shipped" else Path(config["demos"])
        options = config["task"]["options"]
        demos = dataset.load(source, task=task, limit=config["n_demos"], obs_keys=(obs,), options=options)
    recorded = _recorded(config)
    return Given(demos, recorded, _spaces(config, demos, recorded))


def _recorded(config: Mapping[str, Any]) -> list[Episode]:
    """The transitions of ``dataset=PATH``, for methods that step no environment; with rewards where these are told.

    Raises ConfigError when it is missing, or not wanted; DemoError.
    """
    method, path, wanted = config["algo"]["name"], config["dataset"], config["data"]["regime"] == "offline"
    if wanted and path is None:
        raise ConfigError(f"algo={method} learns from recorded transitions: dataset=PATH is missing")
    if path is None:
        return []
    if not wanted:
        raise ConfigError(f"dataset={path}: algo={method} makes its own transitions (demonstrations: demos=PATH)")
    keys, told = (config["obs"]["key"],), config["reward"]["kind"] in TOLD
    task = config["task"]
    return dataset.load(Path(path), task=task["name"], obs_keys=keys, rewards=told, options=task["options"])


def _spaces(config: Mapping[str, Any], demos: Sequence[Episode], recorded: Sequence[Episode]) -> Spaces:
    """Of the demonstrations and the data set, or, where there are none, of the environment. ConfigError when they
    differ.
    """
    from envs.make import make

    still = config["data"]["episodes_per_cycle"] == 0 and not recorded
    if not demos and (still or config["reward"]["kind"] not in UNTAUGHT):
        raise ConfigError(f"demos=none: algo={config['algo']['name']} learns from demonstrations")
    kinds = []
    for first in (*demos[:1], *recorded[:1]):
        obs = first.obs[config["obs"]["key"]]
        kinds.append(Spaces(obs.shape[1:], obs.dtype, first.action.shape[1]))
    if kinds and kinds[0] != kinds[-1]:
        raise ConfigError(f"demos and dataset differ: {kinds[0]} and {kinds[-1]}")
    if kinds:
        return kinds[0]
    env = make(config["task"]["name"], config["obs"]["name"], **config["task"]["options"])
    try:
        space, actions = env.observation_space, env.action_space
        assert space.shape is not None and space.dtype is not None and actions.shape is not None
        return Spaces(space.shape, np.dtype(space.dtype), actions.shape[0])
    finally:
        env.close()
