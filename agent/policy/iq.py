"""IQ-Learn: one soft Q-function is policy and reward at once (Garg et al. 2021, arXiv:2106.12142; algorithms 3.14)."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from agent.policy.base import BothBatch, HasClone, clone_loss, polyak_, row_shares
from models.actor_critic import Critics, SquashedActor
from models.latent import Losses, Transitions
from models.nets import frozen

STATES = ("v0", "value", "value_expert")
REGULARISED = ("both", "expert")
BOOTSTRAPS = ("critic", "target")


class IQPolicy(nn.Module):
    """Squashed-normal actor and a critic that is fitted to the expert's pairs, with no reward but the one it implies:

        V(s) = Q(s, a) - tau log pi(a|s),  a ~ pi(.|s)        y = gamma (1 - done) V(s')           r(s, a, s') = Q - y
        L_Q  = - mean_E r + value + 1/(4 chi) mean r^2
        L_pi = mean [tau log pi(a|s) - Q(s, a)]

    value is (1 - gamma) mean_E V(s), with every demonstrated state as a first one (v0); or what telescopes to that,
    mean (V(s) - y) over all states (value), or the expert's (value_expert). It telescopes only where the gradient goes
    through y as well; official runs take y from a target network instead, as a constant.
    """

    wants = "both"

    def __init__(
        self,
        feat: int,
        action: int,
        *,
        hidden: int,
        layers: int,
        act: str,
        critic_norm: bool,
        gamma: float,
        polyak: float,
        temperature: float,
        states: str,
        bootstrap: str,
        regularised: str,
        chi: float,
        min_log_std: float,
        max_log_std: float,
        explore_noise: float,
    ) -> None:
        """temperature: tau. states: v0, value or value_expert. bootstrap: y from the critic, with its gradient, or from
        the target. regularised: whose r^2, both or expert. polyak: share of the way that the target goes in an update.
        Raises ValueError on bad options.
        """
        super().__init__()
        for name, value, known in (
            ("states", states, STATES),
            ("regularised", regularised, REGULARISED),
            ("bootstrap", bootstrap, BOOTSTRAPS),
        ):
            if value not in known:
                raise ValueError(f"policy.{name}: {value!r} is none of {', '.join(known)}")
        self.actor = SquashedActor(
            feat, action, hidden=hidden, layers=layers, act=act, min_log_std=min_log_std, max_log_std=max_log_std
        )
        self.critics = Critics(feat, action, number=1, hidden=hidden, layers=layers, act=act, norm=critic_norm)
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.gamma, self.polyak, self.temperature = gamma, polyak, temperature
        self.states, self.regularised, self.chi = states, regularised, chi
        self.through = bootstrap == "critic"
        self.explore_noise = explore_noise

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Parameters by optimiser name."""
        return {"actor": self.actor.parameters(), "critics": self.critics.parameters()}

    def value(self, critics: nn.Module, feat: Tensor) -> Tensor:
        """V (n,) of states (n, F) from one sampled action each; gradients reach the critic alone."""
        with torch.no_grad():
            action, log_pi = self.actor(feat).rsample_with_log_prob()
        return critics(feat, action)[0] - self.temperature * log_pi

    def ahead(self, pairs: Transitions) -> Tensor:
        """y (n,) of transitions."""
        value = self.value(self.critics if self.through else self.target, pairs.next_feat)
        return self.gamma * (1 - pairs.done) * (value if self.through else value.detach())

    def losses(self, batch: BothBatch) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """Critic's and actor's loss at the same weights."""
        expert, own = batch.expert, batch.own
        pairs = Transitions(*(torch.cat([getattr(kind, name) for kind in (expert, own)]) for name in vars(expert)))
        every = row_shares(pairs.weight)
        demos = row_shares(torch.cat([expert.weight, torch.zeros_like(own.weight)]))
        y, v = self.ahead(pairs), self.value(self.critics, pairs.feat)
        reward = self.critics(pairs.feat, pairs.action)[0] - y
        if self.states == "v0":
            value = (1 - self.gamma) * (demos * v).sum()
        else:
            value = ((every if self.states == "value" else demos) * (v - y)).sum()
        squared = ((every if self.regularised == "both" else demos) * reward.square()).sum()
        critics = Losses(expert=-(demos * reward).sum(), value=value, chi=squared / (4 * self.chi))
        actor, entropy = self._actor_loss(pairs.feat.detach(), every)
        with torch.no_grad():
            metrics = {
                "reward_expert": (demos * reward).sum(),
                "reward_own": (row_shares(own.weight) * reward[len(expert.weight) :]).sum(),
                "v": (every * v).sum(),
                "entropy": entropy,
            }
        return {"actor": actor, "critics": critics}, metrics

    def _actor_loss(self, feat: Tensor, share: Tensor) -> tuple[Losses, Tensor]:
        action, log_pi = self.actor(feat).rsample_with_log_prob()
        with frozen(self.critics):
            q = self.critics(feat, action)[0]
        return Losses(rl=((self.temperature * log_pi - q) * share).sum()), -(log_pi.detach() * share).sum()

    def clone(self, batch: HasClone) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """The BC term alone (BC initialisation)."""
        nll, metrics = clone_loss(self.actor, batch.clone.detach())
        return {"actor": Losses(bc=nll)}, metrics

    def after_update(self, update: int) -> None:
        """The target follows."""
        polyak_(self.target, self.critics, self.polyak)
