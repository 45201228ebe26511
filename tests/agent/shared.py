"""What `test_parallel` lets torchrun start, twice: ``python -m tests.agent.shared FOLDER``. Process 0 writes
FOLDER/found.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from agent.optim import Optimiser
from agent.parallel import Team
from models.world_model import Chunk
from tests.agent.runs import local, start

RATE = {"lr": 1e-2, "clip": 100.0, "eps": 1e-8, "wd": 0.0}


def chunk(batch: int, seed: int) -> Chunk:
    """(batch, 2) rows of three numbers; the first half is demonstrated."""
    rng = torch.Generator().manual_seed(seed)
    flags = [torch.zeros(batch, 2, dtype=torch.bool) for _ in range(3)]
    expert = torch.arange(batch) < batch // 2
    valid = torch.ones(batch, 2, dtype=torch.bool)
    return Chunk(torch.randn(batch, 2, 3, generator=rng), torch.zeros(batch, 2, 1), *flags, expert, valid)


class Line(nn.Module):
    """Learns to say 1 of what it sees; counts what it has seen, and the demonstrated share of it."""

    learns, memory, reward, slow, coefficient, past = "none", None, None, None, None, None

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.world = nn.Linear(3, 1)
        self.world.register_buffer("seen", torch.zeros(2))
        self.world.learns = "none"  # type: ignore[assignment]
        self.policy = nn.Module()
        self.policy.wants = "pairs"  # type: ignore[assignment]
        self.optimisers = {"w": Optimiser([self.world.weight, self.world.bias], **RATE)}
        self.noise: list[float] = []
        self.heard: list[float] = []
        self.practice = torch.ones(())

    def update(self, own: Chunk, demo: Chunk, index: int, parts: frozenset[str]) -> dict[str, torch.Tensor]:
        """One step; process 1 goes astray in update 7."""
        self.noise.append(float(torch.rand(())))
        self.heard.append(float(self.practice))
        loss = (self.world(own.obs) - 1).square().mean() + (self.world(demo.obs) + 1).square().mean()
        self.optimisers["w"].step(loss)
        if index == 7 and os.environ["RANK"] == "1":
            self.world.bias.data += 1
        self.world.seen += torch.tensor([float(own.obs.sum()), float(own.expert.float().mean())])
        return {"loss": loss.detach()}

    def learner_state(self) -> Any:
        return {"w": self.optimisers["w"].state_dict()}

    def load_learner_state(self, state: Any) -> None:
        self.optimisers["w"].load_state_dict(state["w"])


def together(found: dict[str, Any]) -> None:
    """Shared updates against the same ones by one process."""
    agent, alone = Line(), Line()
    with Team.joined({"data": {"batch": 4}, "device": "cpu", "seed": 5}) as team:
        assert team is not None
        team.take(agent)  # type: ignore[arg-type]
        if team.rank > 0:
            agent.world.weight.data += 3  # which process 0 puts right
            try:
                team.serve()
            except RuntimeError as error:
                Path(sys.argv[1], "told").write_text(str(error))
            Path(sys.argv[1], "noise").write_text(json.dumps(agent.noise))
            Path(sys.argv[1], "heard").write_text(json.dumps(agent.heard))
            return
        team.sync()
        parts = frozenset({"world"})
        for index in range(6):
            own, demo = chunk(4, index), chunk(4, 100 + index)
            if index == 3:
                for one in (agent, alone):
                    one.optimisers["w"].rate(1e-1)
                team.rates({"w": 1e-1, "another": 1.0})
            demo = own if index == 4 else demo
            agent.practice.fill_(index / 4)
            team.update(own, demo, index, parts)
            alone.update(own, demo, index, parts)
        team.agree()
        found["weights"] = [
            float((a - b).detach().abs().max()) for a, b in zip(agent.parameters(), alone.parameters(), strict=True)
        ]
        found["moved"] = float((agent.world.weight - Line().world.weight).detach().abs().max())
        found["seen"], found["share"] = agent.world.seen.tolist(), [float(chunk(4, i).obs[::2].sum()) for i in range(6)]
        team.update(chunk(4, 0), chunk(4, 1), 7, parts)
        with pytest.raises(RuntimeError, match="the weights of 1 of 2 processes have come to differ"):
            team.agree()


def main() -> None:
    """Everything, in one start."""
    folder, found = Path(sys.argv[1]), dict[str, Any]()
    patch = pytest.MonkeyPatch()
    local(patch)
    for run, steps in (("whole", 120), ("pieces", 60), ("pieces", 120)):
        start(folder / run, f"steps={steps}", "eval.every=1000")
    start(folder / "refused", "algo=hype", "obs=state", "data.batch=16", expect=1)
    together(found)
    if os.environ["RANK"] == "0":
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
