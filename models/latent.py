"""Shared value objects of the latent world model.

Shape legend used in every file of ``models`` and ``agent``:
B batch, T time in a chunk, H imagined steps, N flattened batch of starts, K ensemble heads, S stoch, D deter, F feat,
A action.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Latent:
    """What a world model needs to continue from a moment: any leading shape (...), e.g. (B, T) or (N,).

    deter: (..., D) recurrent memory (D = 0 where a model has none).
    stoch: (..., S) sampled part.
    params: (..., P) distribution parameters that ``stoch`` was drawn from (see ``dists.LatentDist``).
    """

    deter: Tensor
    stoch: Tensor
    params: Tensor

    @property
    def feat(self) -> Tensor:
        """(..., F): concat(stoch, deter), the vector that every learner sees."""
        return torch.cat([self.stoch, self.deter], -1)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Latent:
        """Apply ``fn`` to every tensor (detach, flatten, index, ...)."""
        return Latent(*(fn(getattr(self, f.name)) for f in fields(self)))

    def detach(self) -> Latent:
        """The same numbers without history."""
        return self.map(Tensor.detach)

    def flatten(self) -> Latent:
        """(B, T, ...) -> (B*T, ...)."""
        return self.map(lambda x: x.flatten(0, 1))

    def __getitem__(self, index: Any) -> Latent:
        return self.map(lambda x: x[index])


def stack_latents(latents: list[Latent], dim: int) -> Latent:
    """Stack per-step latents along a new axis ``dim``."""
    return Latent(*(torch.stack([getattr(z, f.name) for z in latents], dim) for f in fields(Latent)))


@dataclass(frozen=True)
class HeadStats:
    """Predictions of the K ensemble members at one (latent, action): mean (..., K, S), std (..., K, S) or None.

    ``std`` is only computed when the penalty in use declares ``needs_std`` (it doubles the heads' cost).
    Discrete latents report class probabilities as the mean (algorithms 2.1).
    """

    mean: Tensor
    std: Tensor | None = None


@dataclass(frozen=True)
class Rollout:
    """An imagined rollout; pair k is (feat[k], action[k]) and u[k] belongs to pair k.

    feat: (H+1, N, F), action: (H, N, A), u: (H, N) penalty before weighting,
    alive: (H+1, N) float 1 until the imagined episode terminates, entropy: (H, N) of the acting policy.
    """

    feat: Tensor
    action: Tensor
    u: Tensor
    alive: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class Transitions:
    """A batch of transitions; ``to_pairs`` made the pairs, so that row i is one (s, a, s').

    feat: (n, F), action: (n, A), next_feat: (n, F), done: (n,) float 1 where s' is a true termination, never at a
    time-out (algorithms 1.4), weight: (n,) 0 where a row is not to be used.
    """

    feat: Tensor
    action: Tensor
    next_feat: Tensor
    done: Tensor
    weight: Tensor


class Losses(dict[str, Tensor]):
    """Named loss terms; ``total`` is their sum, so no term is logged but forgotten, or added but unlogged."""

    @property
    def total(self) -> Tensor:
        """Scalar sum of all terms."""
        return torch.stack([value for value in self.values()]).sum()
