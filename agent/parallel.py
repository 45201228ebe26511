"""``torchrun --nproc_per_node=N -m agent.train ...``: each update's chunks are shared out among N processes.

Process 0 is the run: it plays, keeps the replay, looks and saves. The others hold the same agent and wait for their
share of each update. Gradients are averaged before an optimiser moves, so that weights and moments stay equal; of what
else an update changes, such as running scales, process 0's counts. A mean over a share's valid rows stands for one over
the batch's, and metrics are those of process 0's share.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from agent import checkpoint
from agent.agent import FULL, Agent
from agent.build import ConfigError, pick_device
from models.world_model import Chunk

WITHIN = ("imagined", "replay", "told")  # a reward's pairs, where it learns in the updates themselves
PATIENCE = datetime.timedelta(days=30)  # the others wait while process 0 plays


class Team:
    """One of the processes that learn together, and how it talks with the others."""

    def __init__(self, rank: int, size: int, device: torch.device, seed: int) -> None:
        """Join them. seed: the run's."""
        self.rank, self.size, self.device, self.seed = rank, size, device, seed
        if not dist.is_initialized():  # once in a process's life
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
            atexit.register(dist.destroy_process_group)
        # what is told is told through the processors
        self._words = dist.new_group(backend="gloo", timeout=PATIENCE) if device.type == "cuda" else None
        self.agent: Any = None

    @classmethod
    @contextlib.contextmanager
    def joined(cls, config: Mapping[str, Any]) -> Iterator[Team | None]:
        """As torchrun's environment says; None where there is one process. At the end the others are let go.

        Raises ConfigError for a batch that cannot be shared out equally.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            yield None
            return
        batch = config["data"]["batch"]
        if batch % size:
            raise ConfigError(f"data.batch={batch}: {size} processes cannot share it out equally")
        device = pick_device(config["device"])
        if device.type == "cuda":
            device = pick_device(f"cuda:{os.environ['LOCAL_RANK']}")
        team = cls(int(os.environ["RANK"]), size, device, config["seed"])
        try:
            yield team
        finally:
            team.close()

    def take(self, agent: Agent) -> None:
        """The agent that this process learns with. Raises ConfigError for methods that do more than share chunks."""
        apart = agent.policy.wants in ("transitions", "both") or agent.world.learns == "fit"
        rounds = agent.reward is not None and agent.reward.policy_data not in WITHIN
        if apart or rounds or agent.memory is not None:
            raise ConfigError("torchrun: this method learns between its updates as well: start it without")
        self.agent = agent
        for optimiser in agent.optimisers.values():
            optimiser.shared = self._average
        modules = [m for n in checkpoint.MODULES if n != "slow" and (m := getattr(agent, n)) is not None]
        self._buffers = [b for m in modules for b in m.buffers() if b.is_floating_point()]

    # ---- process 0 ----
    def update(self, own: Chunk, demo: Chunk, index: int, parts: frozenset[str] = FULL) -> dict[str, Tensor]:
        """``Agent.update`` by all of them, each with every ``size``-th chunk."""
        self._tell("update", index, parts, self._layout(own), None if demo is own else self._layout(demo))
        mine = self._deal(own)
        return self._step(mine, mine if demo is own else self._deal(demo), index, parts)

    def rates(self, rates: Mapping[str, float | None]) -> None:
        """Learning rates of the optimisers, as process 0 has just set its own."""
        self._tell("rates", dict(rates))

    def sync(self) -> None:
        """Give the others all that process 0 has learned or loaded."""
        modules = {n: m.state_dict() for n in checkpoint.MODULES if (m := getattr(self.agent, n)) is not None}
        self._tell("state", _on_processor(modules), _on_processor(self.agent.learner_state()))

    def agree(self) -> None:
        """Raise RuntimeError when the processes' weights have come to differ."""
        self._tell("agree")
        self._agree()

    def close(self) -> None:
        """Let the others go, where they wait."""
        if self.rank == 0 and self.agent is not None:
            with contextlib.suppress(RuntimeError):  # they may have ended for the same reason
                self._tell("stop")

    # ---- the others ----
    def serve(self) -> int:
        """Do what process 0 says, until it says stop; 0. Signals are its own business, and it saves."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        while True:
            word, *told = self._hear()
            if word == "update":
                index, parts, own, demo = told
                mine = self._dealt(own)
                self._step(mine, mine if demo is None else self._dealt(demo), index, parts)
            elif word == "rates":
                for name, lr in told[0].items():
                    if name in self.agent.optimisers:
                        self.agent.optimisers[name].rate(lr)
            elif word == "state":
                modules, learner = told
                for name, state in modules.items():
                    getattr(self.agent, name).load_state_dict(state)
                self.agent.load_learner_state(learner)
            elif word == "agree":
                self._agree()
            else:
                return 0

    # ---- all ----
    def _step(self, own: Chunk, demo: Chunk, index: int, parts: frozenset[str]) -> dict[str, Tensor]:
        if self.rank > 0:  # whose random numbers no checkpoint holds: they follow from the update's number
            (seed,) = np.random.SeedSequence([self.seed, self.rank, index]).generate_state(1)
            torch.manual_seed(int(seed))
        dist.broadcast(self.agent.practice, 0)  # which process 0 sets between updates
        metrics: dict[str, Tensor] = self.agent.update(own, demo, index, parts)
        if self._buffers:
            flat = torch.cat([b.reshape(-1).float() for b in self._buffers])
            dist.broadcast(flat, 0)
            for buffer, value in zip(self._buffers, flat.split([b.numel() for b in self._buffers]), strict=True):
                buffer.copy_(value.view_as(buffer))
        return metrics

    def _average(self, params: Sequence[nn.Parameter]) -> None:
        """Gradients become their mean over the processes."""
        grads = [p.grad for p in params if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        flat /= self.size
        for grad, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    def _agree(self) -> None:
        params = [p for o in self.agent.optimisers.values() for p in o.params]
        mine = torch.stack([p.detach().double().sum() for p in params]) if params else torch.zeros(1).double()
        theirs = mine.clone()
        dist.broadcast(theirs, 0)
        differ = (mine != theirs).any().to(torch.float32)
        dist.all_reduce(differ)
        if differ > 0:
            raise RuntimeError(f"the weights of {int(differ)} of {self.size} processes have come to differ")

    # ---- words and chunks ----
    def _tell(self, *words: Any) -> None:
        dist.broadcast_object_list([words], 0, group=self._words)

    def _hear(self) -> tuple[Any, ...]:
        heard: list[Any] = [None]
        dist.broadcast_object_list(heard, 0, group=self._words)
        words: tuple[Any, ...] = heard[0]
        return words

    def _layout(self, chunk: Chunk) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of one share of each tensor that there is."""
        there = {f.name: getattr(chunk, f.name) for f in fields(Chunk) if getattr(chunk, f.name) is not None}
        return {name: (x.dtype, (len(x) // self.size, *x.shape[1:])) for name, x in there.items()}

    def _deal(self, chunk: Chunk) -> Chunk:
        """Process 0's share, after the others have theirs: demonstrations, which come first, are in each."""
        mine = {}
        for name, (dtype, shape) in self._layout(chunk).items():
            parts = [getattr(chunk, name)[i :: self.size].contiguous() for i in range(self.size)]
            mine[name] = torch.empty(shape, dtype=dtype, device=self.device)
            dist.scatter(mine[name], parts, src=0)
        return Chunk(**mine)

    def _dealt(self, layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> Chunk:
        """This process's share."""
        mine = {name: torch.empty(shape, dtype=dtype, device=self.device) for name, (dtype, shape) in layout.items()}
        for share in mine.values():
            dist.scatter(share, None, src=0)
        return Chunk(**mine)


def _on_processor(state: Any) -> Any:
    """The same with tensors that every process can hold, whatever its device."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, Mapping):
        return {key: _on_processor(value) for key, value in state.items()}
    return [_on_processor(value) for value in state] if isinstance(state, list) else state
