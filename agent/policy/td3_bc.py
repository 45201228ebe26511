"""TD3+BC on transitions (Fujimoto and Gu 2021, arXiv:2106.06860; HyPE on AntMaze, algorithms 3.5)."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from agent.policy.base import ClonePairs, HasClone, TransitionBatch, clone_loss, polyak_, row_shares
from models.actor_critic import Critics, DeterministicActor
from models.latent import Losses, Transitions
from models.nets import frozen


class TD3BCPolicy(nn.Module):
    """Deterministic actor held near the data, critics with smoothed targets; actor and targets move less often.

    a'   = clip(pibar(s') + clip(sigma eps, -c, c), -1, 1),                     eps ~ N(0, 1)
    y    = c_r r + gamma (1 - done) min_i Qbar_i(s', a')
    L_Q  = sum_i mean (Q_i(s, a) - y)^2
    L_pi = -(alpha / mean |Q_1(s, pi(s))|) mean Q_1(s, pi(s)) + mean (pi(s) - a)^2    every ``delay``-th update
    """

    wants = "transitions"

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        hidden: int,
        layers: int,
        act: str,
        critics: int,
        critic_norm: bool,
        gamma: float,
        polyak: float,
        delay: int,
        alpha: float,
        target_noise: float,
        noise_clip: float,
        bc_rows: str,
        reward_scale: float,
        explore_noise: float,
    ) -> None:
        """target_noise, noise_clip: sigma and c. polyak: share of the way that targets go. bc_rows: the squared error
        is that of "all" rows of the batch, or of the "demos". Raises ValueError on another choice.
        """
        super().__init__()
        if bc_rows not in ("all", "demos"):
            raise ValueError(f"policy.bc_rows: {bc_rows!r} is none of all, demos")
        self.actor = DeterministicActor(feat, action, hidden=hidden, layers=layers, act=act)
        self.critics = Critics(feat, action, number=critics, hidden=hidden, layers=layers, act=act, norm=critic_norm)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.gamma, self.polyak, self.delay, self.alpha = gamma, polyak, delay, alpha
        self.target_noise, self.noise_clip, self.bc_rows = target_noise, noise_clip, bc_rows
        self.reward_scale, self.explore_noise = reward_scale, explore_noise

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Parameters by optimiser name."""
        return {"actor": self.actor.parameters(), "critics": self.critics.parameters()}

    def losses(self, batch: TransitionBatch) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """The critics' loss, and in every ``delay``-th update the actor's, at the same weights."""
        share = row_shares(batch.pairs.weight)
        critics, metrics = self._critic_loss(batch.pairs, batch.reward, share)
        losses = {"critics": critics}
        if batch.index % self.delay == 0:
            losses["actor"] = self._actor_loss(batch.pairs, batch.clone, share)
        return losses, metrics

    def _critic_loss(self, pairs: Transitions, reward: Tensor, share: Tensor) -> tuple[Losses, dict[str, Tensor]]:
        with torch.no_grad():
            ahead = self.target_actor(pairs.next_feat).mode()
            noise = (self.target_noise * torch.randn_like(ahead)).clamp(-self.noise_clip, self.noise_clip)
            value = self.target(pairs.next_feat, (ahead + noise).clamp(-1, 1)).amin(0)
            y = self.reward_scale * reward + self.gamma * (1 - pairs.done) * value
        q = self.critics(pairs.feat, pairs.action)
        loss = ((q - y).square() * share).sum()
        return Losses(td=loss), {"q": (q.detach() * share).sum() / len(q), "td_error": loss.detach() / len(q)}

    def _actor_loss(self, pairs: Transitions, demos: ClonePairs, share: Tensor) -> Losses:
        feat = pairs.feat.detach()  # an encoder behind the features learns from the critics alone
        chosen = self.actor(feat).mode()
        with frozen(self.critics):
            q = self.critics(feat, chosen)[0]
        scale = self.alpha / (q.detach().abs() * share).sum().clamp_min(1e-6)
        if self.bc_rows == "all":
            bc = _squared_error(chosen, pairs.action, share)
        else:
            bc = _squared_error(self.actor(demos.feat.detach()).mode(), demos.action, row_shares(demos.weight))
        return Losses(rl=-scale * (q * share).sum(), bc=bc)

    def clone(self, batch: HasClone) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """Least squares on the demos alone (BC initialisation)."""
        nll, metrics = clone_loss(self.actor, batch.clone.detach())
        return {"actor": Losses(bc=nll)}, metrics

    def after_update(self, update: int) -> None:
        """Both targets follow when the actor has learned."""
        if update % self.delay == 0:
            polyak_(self.target, self.critics, self.polyak)
            polyak_(self.target_actor, self.actor, self.polyak)


def _squared_error(chosen: Tensor, action: Tensor, share: Tensor) -> Tensor:
    """Mean over rows (n,) and dimensions of (n, A)."""
    return ((chosen - action).square().mean(-1) * share).sum()
