"""Compose, check and resolve the configuration."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import math
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from agent.build import ConfigError, pick_device
from demos.dataset import write_atomic

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_PATHS = ("run", "init", "demos", "dataset", "preferences", "reward.path", "world_model.path", "task.options.kwargs")
# Smallest values that make sense; a smaller one would divide by zero, loop for ever, or learn from nothing.
_LEAST = {
    "seed": 0,
    "steps": 0,
    "minutes": 0,
    "threads": 0,
    "ema": 0,
    "n_demos": 1,
    "log_every": 1,
    "choose": 0,
    "eval.every": 1,
    "eval.episodes": 1,
    "eval.seed": 0,
    "data.batch": 1,
    "data.length": 2,
    "data.envs": 1,
    "data.episodes_per_cycle": 0,
    "data.updates_per_step": 0,
    "data.burn_in": 0,
    "data.from_start": 0,
    "data.clone_own": 0,
    "data.near_enough": 0,
    "clone_noise": 0,
    "data.memory": 1,
    "data.real_fraction": 0,
    "data.fit_every": 0,
    "data.imagine_every": 0,
    "data.reward_every": 0,
    "data.reward_steps": 0,
    "data.reward_batch": 1,
    "data.rollouts_per_step": 0,
    "data.seed_steps": 0,
    "policy.temperature": 0,
    "policy.horizon": 2,
    "policy.critics": 1,
    "policy.target_every": 1,
    "policy.polyak_every": 1,
    "policy.hold": 1,
    "policy.delay": 1,
    "policy.hidden": 1,
    "policy.layers": 0,
    "policy.gamma": 0,
    "policy.lambda_": 0,
    "policy.polyak": 0,
    "policy.min_std": 0,
    "reward.past": 1,
    "reward.members": 1,
    "reward.hidden": 1,
    "save_seconds": 0,
    "world_model.members": 1,
    "world_model.stoch": 1,
    "world_model.deter": 1,
    "world_model.depth": 1,
    "world_model.max_epochs": 1,
    "world_model.max_updates": 0,
    "world_model.patience": 1,
    "world_model.batch": 1,
    "world_model.hidden": 1,
    "world_model.holdout": 0,
    "world_model.obs_std": 1e-3,
    "world_model.blur": 0,
    "world_model.margin": 0,
    "world_model.std_floor": 1e-9,
}
_MOST = {  # the same at the other end
    "seed": (1 << 32) - 1,
    "threads": 1024,
    "ema": 1,
    "data.from_start": 1,
    "data.real_fraction": 1,
    "policy.gamma": 1,
    "policy.lambda_": 1,
    "policy.polyak": 1,
    "world_model.holdout": 0.9,
}
_SCHEDULED = ("data.expert_fraction",)  # numbers that may be [[update, number], ...] (`agent.sampler`)
_STAGE = {"name", "updates", "parts", "lr", "fits", "check_every", "patience", "tolerance"}
_PARTS = ("policy", "reward", "world")  # that learn in a gradient step; a stage may clone instead of "policy"
_OPTIONAL = ("n_demos", "task.options.dt")  # numbers that may be null
# where things are, how long and how often: what a resumed run may change
_NOT_IDENTITY = (
    "run",
    "init",
    "steps",
    "minutes",
    "threads",
    "quiet",
    "eval",
    "choose",
    "choose_by",
    "save_seconds",
    "log_every",
    "official_counts",
    "device",
    "demos",
    "demos_task",
    "dataset",
    "preferences",
    "graph",
)
_NOT_IDENTITY_OF_TASK = ("recordings", "learned", "dt")  # of task=own: where recordings lie, the pace
GROUPS = sorted(p.name for p in CONFIGS.iterdir() if p.is_dir() and not p.name.startswith("_"))


def usage() -> str:
    """What the command line takes: the choices of each group, and the commented keys of configs/train.yaml."""
    lines = ["python -m agent.train KEY=VALUE ...", ""]
    for group in ("task", "obs", "algo", "size"):
        names = sorted(p.stem for p in (CONFIGS / group).glob("[!_]*.yaml"))
        names = ["auto (base on CUDA, small otherwise)", *names] if group == "size" else names
        lines += textwrap.wrap(f"{group}: {', '.join(names)}", 118, subsequent_indent="    ")
    keys = (CONFIGS / "train.yaml").read_text().split("\n\n", 1)[1]
    return "\n".join([*lines, "", keys.rstrip(), "", f"Keys of the parts: {CONFIGS}/{{{','.join(GROUPS)}}}/*.yaml"])


def _keys(node: Mapping[str, Any], prefix: str = "") -> list[str]:
    out = []
    for key, value in node.items():
        out.append(prefix + key)
        if isinstance(value, Mapping):
            out += _keys(value, f"{prefix}{key}.")
    return out


def _nearest(word: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, choices, 1, 0.4)
    return f"; did you mean {close[0]!r}?" if close else ""


def _quoted(override: str) -> str:
    """Paths, and JSON, are taken as they are: no comma, bracket or equals sign in them means anything."""
    key, value = override.split("=", 1)
    if key not in _PATHS or value in ("", "null") or value[0] in "'\"":
        return override
    # a backslash means itself, except before a quote
    value = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"{key}='{value}'"


def _at_home(override: str) -> str:
    """``~`` in a path means the user's folder, which shells leave alone behind a key."""
    key, value = override.split("=", 1)
    return f"{key}={Path(value).expanduser()}" if key in _PATHS and value.startswith("~") else override


def _check_value(key: str, value: Any, default: Any) -> None:
    """Raise ConfigError unless ``value`` is of the kind that the key holds by default (null: a number, or none)."""

    def number(x: Any) -> bool:
        return isinstance(x, int | float) and not isinstance(x, bool)

    if key in _SCHEDULED and isinstance(value, list):
        told = [number(x) for knot in value for x in (knot if isinstance(knot, list) and len(knot) == 2 else [None])]
        if not told or not all(told) or any(a[0] >= b[0] for a, b in zip(value, value[1:], strict=False)):
            raise ConfigError(f"{key}={value}: expected a number, or [[update, number], ...] with rising updates")
        return
    numeric = number(default) or (default is None and value is not None and key not in _PATHS)
    kinds: dict[str, bool] = {
        "true or false": isinstance(default, bool) and not isinstance(value, bool),
        "a number": numeric and not number(value) and not (value is None and key in _OPTIONAL),
        "a finite number": numeric and number(value) and not math.isfinite(value),
        "a whole number": isinstance(default, int) and isinstance(value, float) and not value.is_integer(),
        "a word": isinstance(default, str) and default != "auto" and not isinstance(value, str),
        "a list": isinstance(default, list) and not isinstance(value, list),
        "several keys; set one of them": isinstance(default, dict) and not isinstance(value, dict),
    }
    wrong = next((kind for kind, found in kinds.items() if found), None)
    if wrong is not None:
        raise ConfigError(f"{key}={'null' if value is None else value}: expected {wrong}")


def _size(overrides: list[str]) -> tuple[list[str], str]:
    """Resolve ``size=auto`` (and its absence) before composition; says which and why."""
    asked = next((o.split("=", 1)[1] for o in overrides if o.startswith("size=")), "auto")
    if asked != "auto":
        return overrides, ""
    device = next((o.split("=", 1)[1] for o in overrides if o.startswith("device=")), "auto")
    cuda = pick_device(device).type == "cuda"
    size, cause = ("base", "CUDA is in use") if cuda else ("small", "there is no CUDA device in use")
    why = f"size=auto: {size}, because {cause}"
    return [o for o in overrides if not o.startswith("size=")] + [f"size={size}"], why


def load_config(overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """``KEY=VALUE`` strings -> (resolved plain dict, a note on what ``auto`` chose).

    Raises ConfigError in one line, naming the nearest valid key or choice.
    """
    given = list(overrides)
    for o in given:
        if "=" not in o or o.startswith(("-", "+", "~")):
            raise ConfigError(f"{o!r}: arguments have the form key=value")
        key, value = o.split("=", 1)
        if key in GROUPS and value != "auto":
            choices = sorted(p.stem for p in (CONFIGS / key).glob("[!_]*.yaml"))
            if value not in choices:
                raise ConfigError(
                    f"{key}={value}: no such {key}{_nearest(value, choices)} (known: {', '.join(choices)})"
                )
    given, note = _size([_quoted(_at_home(o)) for o in given])
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            groups = [o for o in given if o.split("=", 1)[0] in GROUPS]
            plain = compose("train", groups)
            for o in given:
                _parse(o)
                key = o.split("=", 1)[0]
                if (
                    key not in GROUPS
                    and OmegaConf.select(plain, key, throw_on_missing=False) is None
                    and key not in _keys(plain)
                ):
                    known = [k for k in _keys(plain) if not k.startswith("size.")]
                    raise ConfigError(f"unknown key {key!r}{_nearest(key, known)}")
            config = compose("train", given) if len(groups) < len(given) else plain
        resolved, defaults = (OmegaConf.to_container(c, resolve=True, throw_on_missing=True) for c in (config, plain))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_line(error)) from error
    assert isinstance(resolved, dict) and isinstance(defaults, dict)
    algo, obs = resolved["algo"], resolved["obs"]["name"]
    if obs not in algo.get("obs", (obs,)):
        raise ConfigError(f"algo={algo['name']}: learns from {' or '.join(algo['obs'])} alone: obs={algo['obs'][0]}")
    for key in (o.split("=", 1)[0] for o in given):
        if key not in GROUPS:
            *path, last = key.split(".")
            holder, default = resolved, defaults
            for part in path:
                holder, default = holder[part], default[part]
            _check_value(key, holder[last], default[last])
            if isinstance(default[last], int) and isinstance(holder[last], float):
                holder[last] = int(holder[last])  # 1e5 is a whole number, too
    for key, least in _LEAST.items():
        found: Any = resolved
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, str | list | dict):
            continue
        if found is not None and found < least:
            raise ConfigError(f"{key}={found}: expected at least {least}")
        if found is not None and found > _MOST.get(key, found):
            raise ConfigError(f"{key}={found}: expected at most {_MOST[key]}")
    _check_horizon(resolved["data"].get("rollout_horizon"))
    burn_in, length = resolved["data"]["burn_in"], resolved["data"]["length"]
    if burn_in > length - 2:
        raise ConfigError(f"data.burn_in={burn_in}: leaves no pair of {length} rows")
    _check_parts("data.parts", resolved["data"]["parts"], _PARTS)
    _check_names("official_counts", resolved["official_counts"], ("demos", "clone"))
    _check_stages(resolved["data"]["stages"])
    for name, optimiser in resolved["optim"].items():
        if not optimiser["lr"] > 0:
            raise ConfigError(f"optim.{name}.lr={optimiser['lr']}: expected more than 0")
    return {str(k): v for k, v in resolved.items()}, note


def _check_names(where: str, given: Any, known: Sequence[str]) -> None:
    """Raise ConfigError where ``given`` is not a list of ``known`` names."""
    for name in given if isinstance(given, list) else [given]:
        if name not in known:
            raise ConfigError(f"{where}: {name!r} is none of {', '.join(known)}{_nearest(str(name), known)}")


def _check_horizon(given: Any) -> None:
    """Raise ConfigError unless imagined rollouts grow from one length to another between two steps."""
    if given is None:
        return
    whole = isinstance(given, list) and len(given) == 4 and all(isinstance(x, int | float) for x in given)
    if not whole or min(given[:2]) < 1 or given[2] < 0 or given[3] < given[2]:
        raise ConfigError(f"data.rollout_horizon={given}: expected [length, length, step, step], both rising")


def _check_parts(where: str, given: Any, known: Sequence[str]) -> None:
    """Raise ConfigError for unknown parts of an update, and for a reward without the policy whose pairs it sees."""
    _check_names(where, given, known)
    if "reward" in given and "policy" not in given:
        raise ConfigError(f"{where}: reward learns in the updates of policy: both, or neither")


def _check_stages(stages: Sequence[Any]) -> None:
    """Raise ConfigError where a stage lacks its name, updates or parts, or has others than there are."""
    needed = {"name", "updates", "parts"}
    for stage in stages:
        if not isinstance(stage, dict) or not needed <= stage.keys() <= _STAGE:
            more = ", ".join(sorted(_STAGE - needed))
            raise ConfigError(f"data.stages: {stage!r}: name, updates and parts are needed; {more} may be")
        where = f"data.stages: {stage['name']}"
        _check_parts(where, stage["parts"], (*_PARTS, "clone"))
        if not isinstance(stage["updates"], int | float) or stage["updates"] < 0:
            raise ConfigError(f"{where}: updates={stage['updates']!r} is no number of updates")


def _line(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r" To append to your config use \+\S+", "", text)  # no key is added here
    return re.sub(r" See https?://\S+ for details", "", text)


def _parse(override: str) -> None:
    """Raise ConfigError, naming the argument, when its value is not one of the configuration language."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ConfigError(f"{override!r} cannot be read: {_line(error)}") from error
    if parsed.is_sweep_override():
        raise ConfigError(f"{override!r}: one value is expected; a list is written [a,b]")


def dump_config(config: Mapping[str, Any], path: Path) -> None:
    """Write the resolved configuration as YAML, whole or not at all. Raises DemoError when the disk refuses."""
    node: DictConfig = OmegaConf.create(dict(config))
    write_atomic(path, OmegaConf.to_yaml(node).encode())


def read_config(path: Path) -> dict[str, Any]:
    """Inverse of ``dump_config``. Raises ConfigError when the file is missing or unreadable."""
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: not a readable run configuration (no such file: is this a run folder?)") from error
    except (OSError, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable run configuration ({_line(error)})") from error
    tables = ("task", "obs", "algo", "data")
    if not isinstance(loaded, dict) or not all(isinstance(loaded.get(table), dict) for table in tables):
        raise ConfigError(f"{path}: not the configuration of a run of this project")
    return {str(k): v for k, v in loaded.items()}


def fingerprint(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the configuration that a checkpoint must agree with: everything but where, how long and how often.

    Of ``size`` and ``obs`` only their names: they are tables of what other settings may refer to, and count where they
    are referred to. A table that has got an entry for another algorithm leaves a run what it was.

    Of a fingerprint, also of one that an earlier version saved with more in it, it is what counts today.
    """
    kept = {k: v for k, v in config.items() if k not in _NOT_IDENTITY}
    if kept.get("render") == "fast":  # as all pictures were before it could be chosen
        del kept["render"]
    kept["algo"] = {"name": config["algo"]["name"]}  # what it observes is told by obs
    options = {k: v for k, v in config["task"]["options"].items() if k not in _NOT_IDENTITY_OF_TASK}
    kept["task"] = dict(config["task"]) | {"options": options}
    tables = {table: config[table] for table in ("size", "obs")}
    return kept | {name: table["name"] if isinstance(table, Mapping) else table for name, table in tables.items()}


def set_threads(threads: int) -> None:
    """``threads`` torch threads (0 leaves torch's choice, one per physical core), and memory that is kept between
    updates.

    glibc returns large blocks to the system at once, so that every update would fault its activations in again: 15 %
    of a step.
    """
    if threads > 0:
        torch.set_num_threads(threads)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library: merely slower
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
