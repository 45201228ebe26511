"""Updates on torch's ``meta`` device, which has shapes and no numbers: whatever lies on another device, or waits for a
number, fails there as it would fail or wait on a GPU (algorithms 1: no host synchronisation).
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from agent.build import build_agent
from agent.optim import Optimiser
from models.world_model import Chunk
from tests.test_presets import SPACES, preset

META = torch.device("meta")
# every model, policy and reward once
STATE = (
    "hyper",
    "hyper_antmaze",
    "cmil",
    "cmil_recurrent",
    "ml_irl",
    "airl",
    "dac",
    "iq_learn",
    "value_dice",
    "clare",
    "bc",
)
PIXELS = ("cmil", "vmail", "pdac", "hype", "ml_irl", "bc_cnn")


class Plain(contextlib.nullcontext[None]):
    """In place of autocast, which there is none of on this device."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


def chunk(config: dict[str, Any], shape: tuple[int, ...], actions: int, *, expert: bool) -> Chunk:
    """Of the shapes that the configuration asks for."""
    rows, steps = config["data"]["batch"], config["data"]["length"]
    flagged = config["data"]["termination"] == "absorbing"
    size = (shape[0] + flagged,) if len(shape) == 1 else shape
    obs = torch.empty(rows, steps, *size, dtype=torch.float32 if len(size) == 1 else torch.uint8, device=META)
    flags = [torch.zeros(rows, steps, dtype=torch.bool, device=META) for _ in range(4)]
    whose = torch.full((rows,), expert, device=META)
    told = config["reward"]["kind"] in ("truth", "fitted", "ml_leak")
    truth = torch.empty(rows, steps, device=META) if told else None
    imitated = torch.ones(rows, dtype=torch.bool, device=META) if config["data"]["clone_own"] and not expert else None
    return Chunk(obs, torch.empty(rows, steps, actions, device=META), *flags[:3], whose, flags[3], truth, imitated)


@pytest.mark.parametrize(("obs", "algo"), [("state", a) for a in STATE] + [("pixels", a) for a in PIXELS])
def test_an_update_mixes_no_devices_and_waits_for_no_number(
    obs: str, algo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", Plain)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(Optimiser, "apply", lambda self: torch.zeros((), device=META))  # fused: not there
    config, (_, shape, actions) = preset(algo, "debug", obs, "data.bf16=false"), SPACES[obs]
    agent = build_agent(config, actions, META, shape)
    if obs == "state":
        agent.set_normaliser(torch.randn(50, *shape))
    if agent.memory is not None:
        n, feat = 40, agent.world.feat
        sizes = ((n, feat), (n, actions), (n, feat), (n,), (n,))
        agent.memory.add(*(torch.empty(*size, device=META) for size in sizes))
    own, demo = (chunk(config, shape, actions, expert=expert) for expert in (False, True))
    for parts in (frozenset(config["data"]["parts"]), frozenset({"clone"})):
        metrics = agent.update(own, demo, 0, parts)
        assert metrics and all(value.device == META for name, value in metrics.items() if not name.startswith("grad/"))
