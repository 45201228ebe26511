"""Seconds per training step, as JSON: ``python -m benchmark.step size=base [updates=3] [data.bf16=true] [KEY=VALUE of
the training configuration]``.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import replace

import torch

from agent.build import ConfigError, build_agent, pick_device
from agent.config import load_config, set_threads
from agent.graph import GraphedUpdate
from demos.cli import asks_for_help
from models.world_model import Chunk

WARM_UP = 5  # one more than CUDA graphs need before they replay


def random_chunk(batch: int, length: int, action: int, device: torch.device, expert: bool) -> Chunk:
    """A chunk of noise with the shapes of a training batch."""
    first = torch.zeros(batch, length, dtype=torch.bool, device=device)
    first[:, 0] = True
    never = torch.zeros_like(first)
    obs = torch.randint(0, 256, (batch, length, 64, 64, 3), dtype=torch.uint8, device=device)
    actions = torch.rand(batch, length, action, device=device) * 1.8 - 0.9
    return Chunk(obs, actions, first, never, never, torch.full((batch,), expert, device=device), ~never)


def main(argv: list[str] | None = None) -> None:
    """Time full updates on random data, after warm-up updates: memory grows during the first."""
    args = list(sys.argv[1:] if argv is None else argv)
    if asks_for_help(args):
        print("python -m benchmark.step [size=small] [updates=3] [any key of agent.train]")
        return
    told = next((a.split("=")[1] for a in args if a.startswith("updates=")), "3")
    if not told.isdigit() or int(told) < 1:
        raise ConfigError(f"updates={told}: a number above 0")
    updates = int(told)
    config, note = load_config([a for a in args if not a.startswith("updates=")])
    device = pick_device(config["device"])
    set_threads(config["threads"])
    torch.manual_seed(0)
    agent = build_agent(config, 9, device)
    data = config["data"]
    graphed = config["graph"] and device.type == "cuda"
    step = GraphedUpdate(agent) if graphed else agent.update
    own, demo = (random_chunk(data["batch"], data["length"], 9, device, e) for e in (False, True))
    if data["clone_own"]:
        own = replace(own, imitated=torch.ones(data["batch"], dtype=torch.bool, device=device))
    seconds = []
    for index in range(WARM_UP + updates):
        start = time.perf_counter()
        step(own, demo, index)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    parts = sum(p.numel() for p in agent.parameters())
    print(
        json.dumps(
            {
                "size": config["size"]["name"],
                "algo": config["algo"]["name"],
                "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
                "threads": torch.get_num_threads(),
                "batch": data["batch"],
                "length": data["length"],
                "horizon": config["policy"].get("horizon", 0),
                "members": config["world_model"].get("members", 0),
                "bf16": agent.options.bf16,
                "graph": graphed,
                "parameters": parts,
                "seconds_per_update": round(statistics.median(seconds[WARM_UP:]), 4),
                "seconds": [round(s, 4) for s in seconds[WARM_UP:]],
                "note": note,
            }
        )
    )


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"benchmark.step: {error}")
