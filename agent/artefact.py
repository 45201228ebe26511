"""Learned rewards as files: what another run, or another program, needs to compute the same numbers (algorithms 3.7).

    FOLDER/reward.json           model card: task, observations, inputs, settings, normaliser, where it comes from
    FOLDER/reward.safetensors    weights

A run folder can stand for its own artefact. Only rewards of single pairs (s, a) of states have one: one of pixels means
nothing without its encoder. Of AIRL's, which is one of transitions, the part without shaping goes elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from agent.build import ConfigError
from demos.dataset import write_atomic
from models.state_model import CLIP

CARD, WEIGHTS = "reward.json", "reward.safetensors"
FORMAT = 1
# kinds of reward that are functions of (s, a) alone, or leave one to others (AIRL without its shaping)
PORTABLE = ("ml", "aihf", "ipm", "bce", "fitted", "f_div", "clare", "airl")


@dataclass(frozen=True)
class Artefact:
    """card: JSON-able, see ``from_run``; weights: the reward's tensors."""

    card: dict[str, Any]
    weights: dict[str, Tensor]

    @property
    def normaliser(self) -> tuple[Tensor, Tensor, float]:
        """mean (d,), std (d,) and clip with which states become what the reward takes; 0, 1, inf for none."""
        given = self.card["normaliser"]
        clip = float("inf") if given["clip"] is None else float(given["clip"])
        return torch.tensor(given["mean"]), torch.tensor(given["std"]), clip

    def save(self, folder: Path) -> None:
        """Write both files. Raises OSError, DemoError when the disk refuses."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().clone().contiguous() for name, value in self.weights.items()}
        write_atomic(folder / WEIGHTS, save_tensors(tensors))
        write_atomic(folder / CARD, json.dumps(self.card, indent=1).encode())


def read(path: Path) -> Artefact:
    """Of a run folder, an artefact's folder, or its card. Raises ConfigError, CheckpointError if it is none."""
    folder = path.parent if path.name == CARD else path
    if not (folder / CARD).is_file():
        from agent.finished import open_run

        return describe(path, *open_run(path))
    try:
        card = json.loads((folder / CARD).read_bytes())
        weights = load_tensors((folder / WEIGHTS).read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{folder}: not a readable reward ({error})") from error
    if card.get("format") != FORMAT:
        raise ConfigError(f"{folder / CARD}: format {card.get('format')!r}, this version reads {FORMAT}")
    return Artefact(card, weights)


def describe(run: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> Artefact:
    """The artefact of an opened run. Raises ConfigError for a reward that cannot stand alone."""
    kind, world = config["reward"]["kind"], state["modules"].get("world", {})
    if kind not in PORTABLE:
        raise ConfigError(f"{run}: a reward of kind {kind!r} does not stand alone ({', '.join(PORTABLE)} do)")
    if config["obs"]["name"] != "state":
        raise ConfigError(f"{run}: a reward of pixels means nothing without its encoder; those of states stand alone")
    if config["world_model"]["kind"] not in ("state", "mlp"):
        raise ConfigError(f"{run}: a reward of a recurrent model's features means nothing without that model")
    if config["data"].get("termination") == "absorbing":
        raise ConfigError(f"{run}: a reward of absorbing states, too, does not stand alone: data.termination=mask")
    layout, clipped = state["replay"]["layout"], config["world_model"]["normalise"]
    card = {
        "format": FORMAT,
        "task": config["task"]["name"],
        "obs": config["obs"]["name"],
        "feat": layout["obs_shape"][0],
        "action": layout["action_size"],
        "input": "state (d,) -> (state - mean) / std cut to +-clip; the reward takes [that, action in [-1, 1]]",
        "reward": dict(config["reward"]),
        "normaliser": {"mean": world["mean"].tolist(), "std": world["std"].tolist(), "clip": CLIP if clipped else None},
        # likelihood identifies a reward over the temperature of the policy that it explains (algorithms 2.5)
        "temperature": _temperature(state["modules"]["policy"]),
        "provenance": {
            "run": run.resolve().name,
            "method": config["algo"]["name"],
            "step": int(state["step"]),
            "updates": int(state["counters"]["updates"]),
            "seed": config["seed"],
            "demonstrations": Path(str(config["demos"])).name,
            "n_demos": config["n_demos"],
            "data_set": None if config.get("dataset") is None else Path(config["dataset"]).name,
        },
    }
    return Artefact(card, dict(state["modules"]["reward"]))


def _temperature(policy: Mapping[str, Tensor]) -> float | None:
    if "log_temperature" in policy:
        return float(policy["log_temperature"].exp())
    return float(policy["fixed_temperature"]) if "fixed_temperature" in policy else None
