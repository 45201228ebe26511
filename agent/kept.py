"""Weights of earlier moments that are worth keeping: the game between reward and policy may leave a good policy again.

RUN/best      those that scored best when the run was monitored: the task's own score chose them
RUN/chosen    those whose own episodes came nearest to the demonstrations: no score and no reward chose them
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from agent import checkpoint
from agent.agent import Agent
from agent.checkpoint import CheckpointError
from agent.finished import FOLDERS
from agent.nearness import Nearness
from demos.dataset import write_atomic
from demos.errors import DemoError

CANDIDATES = "candidates"
NEIGHBOURS = (3, 2, 1)  # how much a moment itself counts, those next to it, and those beyond: one episode may be luck


def keep_best(
    run: Path, agent: Agent, step: int, counters: Mapping[str, float], fingerprint: Mapping[str, Any]
) -> None:
    """Write the weights to RUN/best. Raises CheckpointError."""
    modules = {n: m.state_dict() for n in checkpoint.WEIGHTS if (m := getattr(agent, n)) is not None}
    state = {"step": step, "modules": modules, "counters": dict(counters)}
    checkpoint.save(run / FOLDERS["best"], state, fingerprint=fingerprint, keep=1)


@dataclass(frozen=True)
class Candidate:
    """Weights that have acted. step, updates: when; episodes: what they did, in the replay."""

    step: int
    updates: int
    episodes: tuple[int, ...]

    @property
    def file(self) -> str:
        """Its name in the folder."""
        return f"step-{self.step:09d}.safetensors"


class Chosen:
    """Of the weights that have acted, those whose own episodes come nearest to what was demonstrated
    (``agent.nearness``). Weights that differ by a few updates from weights that fail are not to be trusted, so a
    moment's distance is averaged with those of the two before and the two after it (``NEIGHBOURS``).

    Nothing that learns reads any of this, and nothing here reads an environment's reward.
    """

    def __init__(self, run: Path, nearness: Nearness, keep: int, fingerprint: Mapping[str, Any]) -> None:
        """keep: so many candidates stay when there are twice as many, beside the newest two; 0: none, as without
        demonstrations.
        """
        self.nearness, self.agent, self.replay = nearness, nearness.agent, nearness.replay
        self.run, self.fingerprint, self.keep = run, fingerprint, keep
        self.candidates: list[Candidate] = []  # whose weights are kept, oldest first
        self.played: list[Candidate] = []  # and all moments, which are the candidates' neighbours
        self._published: Candidate | None = None

    def add(self, step: int, updates: int, episodes: Sequence[int]) -> None:
        """The acting weights have just collected ``episodes``, all from the task's own start.

        Raises CheckpointError when they cannot be written.
        """
        if not self.keep or not episodes or not self.replay.expert_rows:
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
        self.played.append(candidate)
        reach = len(NEIGHBOURS) - 1
        if len(self.candidates) > 2 * self.keep + reach:
            newest = self.candidates[len(self.candidates) - reach :]  # what comes after them is not known yet
            best = [candidate for _, candidate in self.ranked() if candidate not in newest][: self.keep]
            self.candidates = [c for c in self.candidates if c in best + newest]
            held = set(self.replay.ids("online"))
            self.played = [c for c in self.played if held.intersection(c.episodes)]

    def ranked(self) -> list[tuple[float, Candidate]]:
        """Each candidate's distance, the weighted mean over itself and its neighbours (each the mean over those of its
        episodes that the replay still holds), nearest first and of equals the newest.
        """
        held = set(self.replay.ids("online"))
        played = [(c, numbers) for c in self.played if (numbers := [n for n in c.episodes if n in held])]
        there = [i for i, (c, _) in enumerate(played) if c in self.candidates and self._path(c).is_file()]
        if not there:
            return []
        reach = len(NEIGHBOURS) - 1
        near = {i: range(max(0, i - reach), min(len(played), i + reach + 1)) for i in there}
        moments = sorted({j for around in near.values() for j in around})
        far = self.nearness.distances(number for j in moments for number in played[j][1])
        mean = {j: sum(far[number] for number in played[j][1]) / len(played[j][1]) for j in moments}

        def averaged(i: int) -> float:
            weights = {j: NEIGHBOURS[abs(j - i)] for j in near[i]}
            return sum(w * mean[j] for j, w in weights.items()) / sum(weights.values())

        return sorted(((averaged(i), played[i][0]) for i in there), key=lambda pair: (pair[0], -pair[1].step))

    def publish(self) -> Candidate | None:
        """Write the best candidate to RUN/chosen and return it. Raises CheckpointError."""
        if not self.keep or not (ranked := self.ranked()):
            return None
        best = ranked[0][1]
        if best != self._published:
            path = self._path(best)
            try:
                tensors = load_tensors(path.read_bytes())
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path}: not readable ({error})") from error
            modules: dict[str, dict[str, Tensor]] = {n: {} for n in self._modules()}
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
        """For the checkpoint: all moments, and of which the weights are kept."""
        return [dataclasses.asdict(c) | {"kept": c in self.candidates} for c in self.played]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Inverse of ``state_dict``."""
        self.played = [Candidate(c["step"], c["updates"], tuple(c["episodes"])) for c in state]
        # a checkpoint of before moments were averaged names candidates alone
        self.candidates = [c for c, told in zip(self.played, state, strict=True) if told.get("kept", True)]

    def _modules(self) -> dict[str, Any]:
        """What acts."""
        agent = self.agent
        return {"world": agent.world, "policy": agent.policy} if agent.slow is None else {"slow": agent.slow}

    def _path(self, candidate: Candidate) -> Path:
        return self.run / CANDIDATES / candidate.file
