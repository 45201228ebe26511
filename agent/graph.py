"""Whole updates as CUDA graphs: at RSSM sizes a GPU waits for kernel launches, not for arithmetic."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from agent.agent import FULL, Agent
from models.world_model import Chunk

Key = tuple[frozenset[str], tuple[int, ...], bool, tuple[bool, ...]]
WARMUP = 3  # eager updates on a side stream before the capture: allocators, optimiser states, library handles


def key_of(own: Chunk, demo: Chunk, parts: frozenset[str]) -> Key:
    """What one graph is good for: parts, (B, T, A), one chunk for both, and which of the agent's tensors there are."""
    return parts, tuple(own.action.shape), demo is own, tuple(getattr(own, f.name) is None for f in fields(Chunk))


def _like(chunk: Chunk) -> Chunk:
    rows: list[Any] = [getattr(chunk, f.name) for f in fields(Chunk)]
    empty: list[Any] = [None if x is None else torch.empty_like(x) for x in rows]
    return Chunk(*empty)


def _copy(source: Chunk, target: Chunk) -> None:
    for f in fields(Chunk):
        if getattr(source, f.name) is not None:
            getattr(target, f.name).copy_(getattr(source, f.name), non_blocking=True)


class GraphedUpdate:
    """``Agent.update`` replayed from one captured graph per set of parts and shapes; same arguments, same numbers.

    Random numbers come from the device's default generator, which graphs advance correctly.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._calls: dict[Key, int] = {}
        self._graphs: dict[Key, tuple[torch.cuda.CUDAGraph, list[str], Tensor]] = {}
        self._chunks: dict[Key, tuple[Chunk, Chunk]] = {}
        self._stream = torch.cuda.Stream()

    def __call__(self, own: Chunk, demo: Chunk, index: int, parts: frozenset[str] = FULL) -> dict[str, Tensor]:
        """One update; metrics are fresh tensors on the device."""
        key = key_of(own, demo, parts)
        if key not in self._chunks:
            static = _like(own)
            self._chunks[key] = (static, static if demo is own else _like(demo))
        chunks = self._chunks[key]
        _copy(own, chunks[0])
        if demo is not own:
            _copy(demo, chunks[1])
        count = self._calls[key] = self._calls.get(key, 0) + 1
        if count <= WARMUP:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                metrics = self.agent.gradient_step(*chunks, parts)
            torch.cuda.current_stream().wait_stream(self._stream)
        else:
            if key not in self._graphs:
                self._graphs[key] = self._capture(chunks, parts)
            graph, names, values = self._graphs[key]
            graph.replay()
            metrics = dict(zip(names, values.clone().unbind(), strict=True))
        self.agent.after_step(index)
        return metrics

    def _capture(
        self, chunks: tuple[Chunk, Chunk], parts: frozenset[str]
    ) -> tuple[torch.cuda.CUDAGraph, list[str], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            metrics = self.agent.gradient_step(*chunks, parts)
            values = torch.stack([v.float().reshape(()) for v in metrics.values()])
        return graph, list(metrics), values
