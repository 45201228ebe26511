"""Tiny training runs for the tests of the loop and of the commands."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import checkpoint, config, plots, train
from demos import dataset
from envs import vector
from envs.vector import VectorEnv

# Twelve updates in four episodes after eight of pre-training; the target critics are copied within them.
TINY = (
    "task=line",
    "size=debug",
    "threads=1",
    "quiet=true",
    "n_demos=3",
    "steps=120",
    "log_every=2",
    "eval.every=60",
    "eval.videos=false",
    "save_seconds=1e9",
    "data.updates_per_step=0.1",
    "data.batch=2",
    "data.length=6",
    "size.horizon=3",
)
# What tells time rather than training.
CLOCKS = ("seconds", "cpu_seconds")


class LocalVector(VectorEnv):
    """Environments in this process: no start-up time."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"processes": False}))


@functools.cache
def _composed(overrides: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    return _load_config(overrides)


_load_config = config.load_config


def cached_config(overrides: list[str]) -> tuple[dict[str, Any], str]:
    """`load_config` that composes only once for runs which differ in their folder."""
    runs = [o.split("=", 1)[1] for o in overrides if o.startswith("run=")]
    composed, note = _composed(tuple(o for o in overrides if not o.startswith("run=")))
    return copy.deepcopy(composed) | {"run": runs[-1] if runs else None}, note


def local(patch: pytest.MonkeyPatch) -> None:
    """Let training runs of this process use LocalVector, draw nothing, and compose equal configurations once.

    Nothing waits for the disk: only a power cut, not a kill, could tell.
    """
    patch.setattr(os, "fsync", lambda _: None)
    patch.setattr(config, "load_config", cached_config)
    patch.setattr(vector, "VectorEnv", LocalVector)
    patch.setattr(plots, "curves", lambda run: run)
    patch.setattr(plots, "theorem2", lambda run: run)


def poison(patch: pytest.MonkeyPatch) -> None:
    """Algorithms 5.1.3: from now on training runs are lied to about everything that only evaluation may know. Rewards
    of environments are NaN; what else these tell of an episode, and rewards of recorded ones, are any numbers.
    """
    rng, load = np.random.default_rng(0), dataset.load

    class Poisoned(LocalVector):
        def step(self, actions: np.ndarray, which: Any = None) -> Any:
            obs, reward, terminated, truncated, infos = super().step(actions, which)
            lies = {"score": rng.random(), "success": bool(rng.random() < 0.5), "tasks_done": np.ones(1, np.float32)}
            return obs, np.full_like(reward, np.nan), terminated, truncated, [info | lies for info in infos]

    def loaded(*args: Any, **kwargs: Any) -> Any:
        return [
            dataclasses.replace(e, reward=rng.normal(size=len(e)).astype(np.float32)) for e in load(*args, **kwargs)
        ]

    patch.setattr(vector, "VectorEnv", Poisoned)
    patch.setattr(dataset, "load", loaded)


def overrides(run: Path, *arguments: str) -> list[str]:
    """TINY, as far as `arguments` do not say otherwise, and `arguments`."""
    given = {argument.split("=", 1)[0] for argument in arguments}
    kept = [argument for argument in TINY if argument.split("=", 1)[0] not in given]
    return [*kept, *arguments, f"run={run}"]


def start(run: Path, *arguments: str, expect: int = 0) -> None:
    """`agent.train` in this process, with `overrides`."""
    assert train.main(overrides(run, *arguments)) == expect


def replaced(patch: pytest.MonkeyPatch) -> set[str]:
    """The names of the files that are written whole or not at all from now on."""
    seen: set[str] = set()
    replace = os.replace

    def spy(source: Any, target: Any) -> None:
        seen.add(Path(target).name)
        replace(source, target)

    patch.setattr(os, "replace", spy)
    return seen


def state(run: Path) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    found = checkpoint.load(run / "checkpoint")
    assert found is not None
    return found


def differences(a: Any, b: Any, path: str = "state") -> list[str]:
    """Where two nested states differ in a single bit."""
    if type(a) is not type(b):
        return [f"{path}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, dict):
        found = [f"{path}.{key}: only in one" for key in a.keys() ^ b.keys()]
        return found + [d for key in a.keys() & b.keys() for d in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{path}: {len(a)} and {len(b)} entries"]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}.{i}")]
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        same = a.dtype == b.dtype and np.array_equal(a, b)
    else:
        same = a == b
    return [] if same else [path]


def trained(run: Path, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """What two equal trainings have in common: weights, optimisers, replay index, counters, random states."""
    found = state(run)
    counters = {k: v for k, v in found["counters"].items() if k not in CLOCKS and k not in without}
    return {key: found[key] for key in ("step", "modules", "optimisers", "replay", "rng", "chosen")} | {
        "counters": counters
    }


def assert_same(a: Path, b: Path, *, without: tuple[str, ...] = ()) -> None:
    """Two runs have reached the same state, bit by bit."""
    found = differences(trained(a, without=without), trained(b, without=without))
    assert not found, found[:10]


def lines(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def moments(run: Path) -> list[tuple[Any, ...]]:
    """(step, updates, kind) of every line of metrics.jsonl."""
    return [(m["step"], m["updates"], min(k for k in m if "/" in k).split("/")[0]) for m in lines(run)]
