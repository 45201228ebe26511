"""Weights of earlier moments that are worth keeping: the game between reward and policy may leave a good policy again.

RUN/best      those that scored best when the run was monitored: the task's own score chose them
RUN/chosen    those that the learned reward chose, from demonstrations and the run's own episodes alone
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from agent import checkpoint
from agent.agent import Agent
from agent.batch import to_device, transitions
from agent.checkpoint import CheckpointError
from agent.data import Replay
from agent.finished import FOLDERS
from demos.dataset import write_atomic
from demos.errors import DemoError

CANDIDATES = "candidates"


def keep_best(
    run: Path, agent: Agent, step: int, counters: Mapping[str, float], fingerprint: Mapping[str, Any]
) -> None:
    """Write the weights to RUN/best. Raises CheckpointError."""
    modules = {n: m.state_dict() for n in checkpoint.WEIGHTS if (m := getattr(agent, n)) is not None}
    state = {"step": step, "modules": modules, "counters": dict(counters)}
    checkpoint.save(run / FOLDERS["best"], state, fingerprint=fingerprint, keep=1)


@dataclass(frozen=True)
class Candidate:
    """Weights that have acted, in RUN/candidates. step, updates: when; episodes: what they did, in the replay."""

    step: int
    updates: int
    episodes: tuple[int, ...]

    @property
    def file(self) -> str:
        """Its name in the folder."""
        return f"step-{self.step:09d}.safetensors"


class Chosen:
    """Of the weights that have acted, those whose own episodes the reward adds up to most, by the reward as it is now.

    A reward that has since learned from many policies ranks what each of them did far better than it led any of them at
    its time. Sums go over whole episodes, undiscounted: early weights and late ones begin alike and differ in how long
    they keep it up. Where rewards are costs, ending early does not pay: each step counts from the worst candidate's
    mean (algorithms 1.4).

    Nothing that learns reads any of this, and nothing here reads an environment's reward.
    """

    def __init__(self, run: Path, agent: Agent, replay: Replay, keep: int, fingerprint: Mapping[str, Any]) -> None:
        """keep: so many candidates stay when there are twice as many; 0: none, as without a learned reward."""
        self.run, self.agent, self.replay, self.fingerprint = run, agent, replay, fingerprint
        learned = agent.reward is not None and not agent.reward.needs_truth
        self.keep = keep if learned else 0
        self.candidates: list[Candidate] = []  # oldest first
        self._published: Candidate | None = None

    def add(self, step: int, updates: int, episodes: Sequence[int]) -> None:
        """The acting weights have just collected ``episodes``, all from the task's own start.

        Raises CheckpointError when they cannot be written.
        """
        if not self.keep or not episodes:
            return
        candidate = Candidate(step, updates, tuple(episodes))
        tensors = {f"{n}/{key}": value for n, m in self._modules().items() for key, value in m.state_dict().items()}
        folder = self.run / CANDIDATES
        try:
            folder.mkdir(exist_ok=True)
            write_atomic(folder / candidate.file, save_tensors({k: v.cpu().contiguous() for k, v in tensors.items()}))
        except (OSError, DemoError) as error:
            raise CheckpointError(f"weights that may be chosen were not kept: {error}") from error
        self.candidates.append(candidate)
        if len(self.candidates) > 2 * self.keep:
            best = [candidate for _, candidate in self.ranked()[: self.keep]]
            self.candidates = [c for c in self.candidates if c in best]

    def ranked(self) -> list[tuple[float, Candidate]]:
        """What the reward says of each candidate's episodes that the replay still holds, best first."""
        held, found = set(self.replay.ids("online")), []
        for candidate in self.candidates:
            sums = [self._summed(number) for number in candidate.episodes if number in held]
            if sums and (self.run / CANDIDATES / candidate.file).is_file():
                total, steps = (sum(column) / len(sums) for column in zip(*sums, strict=True))
                found.append((total, steps, candidate))
        floor = min((0.0, *(total / steps for total, steps, _ in found)))
        values = [(total - floor * steps, candidate) for total, steps, candidate in found]
        return sorted(values, key=lambda value: (value[0], value[1].step), reverse=True)

    def publish(self) -> Candidate | None:
        """Write the best candidate to RUN/chosen and return it. Raises CheckpointError."""
        if not self.keep or not (ranked := self.ranked()):
            return None
        best = ranked[0][1]
        if best != self._published:
            path = self.run / CANDIDATES / best.file
            try:
                tensors = load_tensors(path.read_bytes())
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path}: not readable ({error})") from error
            modules: dict[str, dict[str, torch.Tensor]] = {n: {} for n in self._modules()}
            for key, value in tensors.items():
                name, inner = key.split("/", 1)
                modules[name][inner] = value
            state = {"step": best.step, "modules": modules, "counters": {"updates": float(best.updates)}}
            checkpoint.save(self.run / FOLDERS["chosen"], state, fingerprint=self.fingerprint, keep=1)
            self._published = best
        return best

    def tidy(self) -> None:
        """Remove files of weights that are no candidates any more; only after a checkpoint that does not name them."""
        if (folder := self.run / CANDIDATES).is_dir():
            names = {candidate.file for candidate in self.candidates}
            for path in folder.glob("step-*"):
                if path.name not in names:
                    path.unlink(missing_ok=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """For the checkpoint."""
        return [dataclasses.asdict(candidate) for candidate in self.candidates]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Inverse of ``state_dict``."""
        self.candidates = [Candidate(c["step"], c["updates"], tuple(c["episodes"])) for c in state]

    def _modules(self) -> dict[str, Any]:
        """What acts."""
        agent = self.agent
        return {"world": agent.world, "policy": agent.policy} if agent.slow is None else {"slow": agent.slow}

    @torch.no_grad()
    def _summed(self, episode: int) -> tuple[float, float]:
        """Sum of the rewards of an episode, and its steps. Looking does not change the training's random numbers."""
        agent = self.agent
        chunk = to_device(self.replay.get(episode), 0, agent.device)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), agent.autocast():
            torch.manual_seed(0)
            pairs = transitions(agent.world.observe(chunk), chunk)
            reward = agent.reward.reward(agent.reward_inputs(pairs)).float()
        return float((reward * pairs.weight).sum()), float(pairs.weight.sum())
