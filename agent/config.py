"""Compose, check and resolve the configuration."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agent.build import ConfigError, pick_device

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
GROUPS = sorted(p.name for p in CONFIGS.iterdir() if p.is_dir() and not p.name.startswith("_"))


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


def _size(overrides: list[str]) -> tuple[list[str], str]:
    """Resolve ``size=auto`` (and its absence) before composition; says which and why."""
    asked = next((o.split("=", 1)[1] for o in overrides if o.startswith("size=")), "auto")
    if asked != "auto":
        return overrides, ""
    device = next((o.split("=", 1)[1] for o in overrides if o.startswith("device=")), "auto")
    cuda = pick_device(device).type == "cuda"
    why = f"size=auto: {'base' if cuda else 'small'}, because {'CUDA is in use' if cuda else 'there is no CUDA device in use'}"
    return [o for o in overrides if not o.startswith("size=")] + [f"size={'base' if cuda else 'small'}"], why


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
            choices = sorted(p.stem for p in (CONFIGS / key).glob("*.yaml"))
            if value not in choices:
                raise ConfigError(f"{key}={value}: no such {key}{_nearest(value, choices)} (known: {', '.join(choices)})")
    given, note = _size(given)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("configs", version_base="1.3"):
            groups = [o for o in given if o.split("=", 1)[0] in GROUPS]
            plain = compose("train", groups)
            for o in given:
                key = o.split("=", 1)[0]
                if key not in GROUPS and OmegaConf.select(plain, key, throw_on_missing=False) is None and key not in _keys(plain):
                    known = [k for k in _keys(plain) if not k.startswith("size.")]
                    raise ConfigError(f"unknown key {key!r}{_nearest(key, known)}")
            config = compose("train", given)
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(re.sub(r"\s+", " ", str(error)).strip()) from error
    assert isinstance(resolved, dict)
    return {str(k): v for k, v in resolved.items()}, note


def dump_config(config: Mapping[str, Any], path: Path) -> None:
    """Write the resolved configuration as YAML."""
    node: DictConfig = OmegaConf.create(dict(config))
    path.write_text(OmegaConf.to_yaml(node))


def read_config(path: Path) -> dict[str, Any]:
    """Inverse of ``dump_config``. Raises ConfigError when the file is missing or unreadable."""
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{path}: not a readable run configuration ({error})") from error
    assert isinstance(loaded, dict)
    return {str(k): v for k, v in loaded.items()}


def set_threads(threads: int) -> None:
    """``threads`` torch threads (0 leaves torch's choice, one per physical core), and memory that is kept between updates.

    glibc returns large blocks to the system at once, so that every update would fault its activations in again: 15 % of a step.
    """
    if threads > 0:
        torch.set_num_threads(threads)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library: merely slower
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
