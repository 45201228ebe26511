"""Policies of experts that act on states: what `ars` and `ppo` find, and `runner` records."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demos.errors import DemoError

TRIALS = 5  # episodes that compare policies
TRIAL_SEED = 10**6


@dataclass(frozen=True)
class Policy:
    """The action clip(W_n tanh(... tanh(W_1 x + b_1) ...) + b_n, -1, 1) of x = (s - mean) / std; n = 1: linear.

    Attributes:
        weights: W_1 (h, d), ..., W_n (A, h).
        biases: b_1 (h,), ..., b_n (A,).
        mean, std: (d,) of the states that it learned from.
        source: how it was found, for people.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    mean: np.ndarray
    std: np.ndarray
    source: str = ""

    @classmethod
    def linear(cls, weight: np.ndarray, mean: np.ndarray, std: np.ndarray, source: str = "") -> Policy:
        """One without hidden layers or bias: weight (A, d)."""
        return cls((weight,), (np.zeros(len(weight)),), mean, std, source)

    def act(self, state: np.ndarray) -> np.ndarray:
        """Return the action (A,) float64 for a state (d,)."""
        x = (state - self.mean) / self.std
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.tanh(weight @ x + bias)
        return np.clip(self.weights[-1] @ x + self.biases[-1], -1.0, 1.0)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all. Raises DemoError where that cannot be."""
        rows: dict[str, Any] = {"source": self.source}
        rows |= {name: [np.round(x, 6).tolist() for x in getattr(self, name)] for name in ("weights", "biases")}
        rows |= {name: np.round(getattr(self, name), 6).tolist() for name in ("mean", "std")}
        text = "{\n" + ",\n".join(f'  "{name}": {json.dumps(values)}' for name, values in rows.items()) + "\n}\n"
        try:
            beside = path.with_name(path.name + ".tmp")
            beside.write_text(text)
            os.replace(beside, path)
        except OSError as error:
            raise DemoError(path, "out", f"cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read what `save` wrote. Raises DemoError when it is no such file."""
        try:
            rows = json.loads(path.read_text())
            weights, biases = (tuple(np.asarray(x, float) for x in rows[name]) for name in ("weights", "biases"))
            mean, std = (np.asarray(rows[name], float) for name in ("mean", "std"))
            found = cls(weights, biases, mean, std, str(rows["source"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DemoError(path, "policy", f"is not a policy: {error}") from error
        if not found._consistent():
            raise DemoError(path, "policy", "expected weights that fit each other, mean (d,) and positive std (d,)")
        return found

    def _consistent(self) -> bool:
        """Whether all shapes fit and every number is one."""
        if self.mean.ndim != 1 or self.std.shape != self.mean.shape or not (self.std > 0).all():
            return False
        size = len(self.mean)
        if not self.weights or len(self.weights) != len(self.biases):
            return False
        for weight, bias in zip(self.weights, self.biases, strict=True):
            if bias.ndim != 1 or weight.shape != (len(bias), size):
                return False
            size = len(bias)
        return all(np.isfinite(x).all() for x in (*self.weights, *self.biases, self.mean, self.std))


class Moments:
    """Running mean and standard deviation of states (d,)."""

    def __init__(self, size: int) -> None:
        """Begin with nothing seen."""
        self._count, self._sum, self._square = 0, np.zeros(size), np.zeros(size)

    def add(self, state: np.ndarray) -> None:
        """Count one state."""
        self._count += 1
        self._sum += state
        self._square += state * state

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and std (d,); 0 and 1 of nothing."""
        if self._count == 0:
            return self._sum, np.ones_like(self._sum)
        mean = self._sum / self._count
        return mean, np.sqrt(np.maximum(self._square / self._count - mean**2, 1e-8))


def episode(env: Any, policy: Policy, seed: int, seen: Moments | None = None) -> tuple[float, int]:
    """Return the return and the length of one episode; states go to `seen`."""
    state, _ = env.reset(seed=seed)
    total, steps, over = 0.0, 0, False
    while not over:
        if seen is not None:
            seen.add(state)
        state, reward, terminated, truncated, _ = env.step(policy.act(state).astype(np.float32))
        total, steps, over = total + reward, steps + 1, terminated or truncated
    return total, steps


def trials(env: Any, policy: Policy) -> list[float]:
    """Returns of the episodes that compare policies."""
    return [episode(env, policy, TRIAL_SEED + i)[0] for i in range(TRIALS)]
