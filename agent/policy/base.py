"""What policy optimisers share: the batch they see and the behaviour-cloning term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from models.dists import ACTION_CLIP, ActionDist
from models.latent import Rollout, Transitions


@dataclass(frozen=True)
class ClonePairs:
    """Demo pairs: feat (n, F) posterior features, action (n, A), weight (n,) zero where a pair is not to be used."""

    feat: Tensor
    action: Tensor
    weight: Tensor

    def detach(self) -> ClonePairs:
        """Without history: cloning does not train what made the features."""
        return ClonePairs(self.feat.detach(), self.action, self.weight)


@dataclass(frozen=True)
class DataPairs:
    """Replay pairs (z_j, a_j) whose successor z_{j+1} is an imagination start (the data term of CMIL's critic).

    feat (n, F), action (n, A), reward (n,) noise-free and unpenalised, start (n,) index of z_{j+1} among the
    rollouts' N, weight (n,).
    """

    feat: Tensor
    action: Tensor
    reward: Tensor
    start: Tensor
    weight: Tensor


@dataclass(frozen=True)
class PolicyBatch:
    """Everything a policy optimiser may use in one update; fields that it does not want are None.

    reward: (H, N) = r - alpha_pen u of the rollout's pairs.
    """

    clone: ClonePairs
    rollout: Rollout | None = None
    reward: Tensor | None = None
    data: DataPairs | None = None


@dataclass(frozen=True)
class TransitionBatch:
    """What an off-policy optimiser uses in one update.

    reward: (n,) of ``pairs``, already penalised. clone: demo pairs for the BC term. index: number of the update.
    """

    pairs: Transitions
    reward: Tensor
    clone: ClonePairs
    index: int


@dataclass(frozen=True)
class BothBatch:
    """What an optimiser that owns its reward (``wants = "both"``) compares in one update: demonstrated transitions and
    the agent's own; weights of the latter are 0 where there are none yet. clone: demo pairs for the BC term.
    """

    expert: Transitions
    own: Transitions
    clone: ClonePairs


class HasClone(Protocol):
    """A batch of either kind: all that cloning needs."""

    @property
    def clone(self) -> ClonePairs:
        """Demo pairs."""
        ...


def row_shares(weight: Tensor) -> Tensor:
    """weight (n,) -> shares (n,) that sum to 1 (to 0 where no row counts): ``(x * share).sum()`` is a weighted mean."""
    return weight / weight.sum().clamp_min(1.0)


@torch.no_grad()
def polyak_(target: nn.Module, online: nn.Module, share: float) -> None:
    """Move the target's parameters by ``share`` of the way towards the online ones."""
    torch._foreach_lerp_([*target.parameters()], [*online.parameters()], share)


def clone_loss(actor: Callable[[Tensor], ActionDist], pairs: ClonePairs) -> tuple[Tensor, dict[str, Tensor]]:
    """L_BC = -mean log pi(a | s) (algorithms 2.8), and the squared error of the mode per pair as a metric."""
    dist = actor(pairs.feat)
    total = pairs.weight.sum().clamp_min(1.0)
    nll = -(dist.log_prob(pairs.action.clamp(-ACTION_CLIP, ACTION_CLIP)) * pairs.weight).sum() / total
    error = ((dist.mode() - pairs.action).square().sum(-1) * pairs.weight).sum() / total
    return nll, {"bc_nll": nll.detach(), "bc_error": error.detach(), "bc_std": dist.std.mean().detach()}
