"""Numbers of one fixed, tiny CMIL step: they change when anything in the computation does.

To renew them after an intended change: ``python -m tests.agent.test_golden`` prints the new ones; say in the commit why
they changed. Weights and frames are made by a formula; the random draws are those of torch's CPU generator.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from agent.agent import Agent
from models.world_model import Chunk
from tests.agent.learner import make_agent
from tests.models.tiny import make_chunk

GOLDEN = {
    "grad/actor": 0.911152,
    "grad/critics": 0.619773,
    "grad/reward": 0.331745,
    "grad/world": 3401.37,
    "loss/actor_bc": 2.91413,
    "loss/actor_rl": -0.464199,
    "loss/critics_data": 0.14078,
    "loss/critics_model": 0.0132069,
    "loss/reward_bce": 1.38395,
    "loss/world_behaviour": 1.09503,
    "loss/world_image": 1726.66,
    "loss/world_kl": 0.198668,
    "u": 0.0917606,
    "u_weighted": 0.275282,
}


def formula(agent: Agent) -> None:
    """Weights that do not depend on how layers are initialised: sines, scaled by the number of inputs."""
    with torch.no_grad():
        for i, p in enumerate(agent.parameters()):
            n = torch.arange(p.numel(), dtype=torch.float64)
            scale = 1.0 if p.dim() < 2 else (p.numel() / p.shape[0]) ** -0.5
            neutral = 1.0 if p.dim() == 1 and bool((p == 1).all()) else 0.0  # of a LayerNorm's weight
            p.copy_((0.5 * scale * torch.sin(1.7 * n + i)).view(p.shape) + neutral)
        for p, q in zip(agent.policy.target.parameters(), agent.policy.critics.parameters(), strict=True):
            p.copy_(q)


def chunk(expert: bool) -> Chunk:
    """Waves instead of noise; one of the replay chunks is a demonstration."""
    given = make_chunk(2, 4, expert=expert, restart=2 if expert else None)
    n = torch.arange(given.obs.numel(), dtype=torch.float64)
    obs = (127.5 + 127.5 * torch.sin(0.01 * n + expert)).to(torch.uint8).view(given.obs.shape)
    action = 0.8 * torch.sin(torch.arange(float(given.action.numel()))).view(given.action.shape)
    action[given.is_first] = 0
    return dataclasses.replace(given, obs=obs, action=action, expert=torch.tensor([expert, True]))


def step() -> dict[str, float]:
    """Metrics of the second of two updates."""
    agent = make_agent(world={"behaviour_scale": 1.0, "free_nats": 0.1})
    formula(agent)
    torch.manual_seed(0)
    for index in range(2):
        metrics = agent.update(chunk(False), chunk(True), index)
    return {name: value.item() for name, value in sorted(metrics.items()) if name.startswith(("loss/", "grad/", "u"))}


def test_golden_step() -> None:
    found = step()
    assert set(found) == set(GOLDEN)
    wrong = {n: (found[n], GOLDEN[n]) for n in GOLDEN if found[n] != pytest.approx(GOLDEN[n], rel=1e-4, abs=1e-5)}
    assert not wrong, f"found, expected: {wrong}; if this was intended, see this file's first lines"


if __name__ == "__main__":
    print("GOLDEN = {\n" + "".join(f'    "{name}": {value:.6g},\n' for name, value in step().items()) + "}")
