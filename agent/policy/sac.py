"""Soft actor-critic on transitions (algorithms 2.5; Haarnoja et al. 2018, arXiv:1812.05905)."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from agent.policy.base import ClonePairs, HasClone, TransitionBatch, clone_loss, polyak_, row_shares
from models.actor_critic import Critics, SquashedActor
from models.latent import Losses, Transitions
from models.nets import frozen

REFERENCE_SHARE = 0.01


class SACPolicy(nn.Module):
    """Squashed-normal actor, an ensemble of critics with Polyak targets, fixed or automatic temperature tau.

    y     = c r + gamma (1 - done) [min_i Qbar_i(s', a') - c tau log pi(a'|s')],     a' ~ pi(.|s')
    L_Q   = sum_i mean (Q_i(s, a) - y)^2
    L_pi  = mean [c tau log pi(a|s) - min_i Q_i(s, a)] + bc_weight L_BC,             a ~ pi(.|s) reparameterised
    L_tau = -mean [log tau (log pi(a|s) + target_entropy A)]                         if tau is automatic

    c is ``reward_scale``, the unit in which values are learned; the optimum does not depend on it. A step of the
    optimiser moves a value by as much whatever its size, so that values in the hundreds follow a reward only slowly.

    ``reference="clone"``: KL(pi(.|s) || pi_ref(.|s)) takes the place of log pi(a|s) in all of them, so that tau is the
    price of leaving pi_ref, the clone as BC initialisation left it, wherever the policy goes (algorithms 3.15); else
    pi_ref is uniform. Without ``soft`` y has no such term: values are of rewards alone.

    Absorbing states teach the critics alone; in them a' = 0 is certain.
    """

    wants = "transitions"
    settings = ("fixed_temperature",)  # tensors that the configuration gives, which no other run's weights replace

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
        polyak_every: int,
        hold: int,
        temperature: float | str,
        initial_temperature: float,
        target_entropy: float,
        reward_scale: float,
        bc: str,
        bc_weight: float,
        min_log_std: float,
        max_log_std: float,
        explore_noise: float,
        reference: str = "uniform",
        soft: bool = True,
    ) -> None:
        """temperature: a number, or "auto": learned from ``initial_temperature`` on. target_entropy: nats per action
        dimension. polyak: share of the way that targets go, every ``polyak_every`` updates. hold: actor and temperature
        learn in every ``hold``-th update. reference: "uniform" or "clone". bc: "nll", or "mse" of sampled actions.
        Raises ValueError on other choices.
        """
        super().__init__()
        if isinstance(temperature, str) and temperature != "auto":
            raise ValueError(f"policy.temperature: {temperature!r} is neither auto nor a number")
        if reference not in ("uniform", "clone"):
            raise ValueError(f"policy.reference: {reference!r} is none of uniform, clone")
        if bc not in ("nll", "mse"):
            raise ValueError(f"policy.bc: {bc!r} is none of nll, mse")
        self.actor = SquashedActor(
            feat, action, hidden=hidden, layers=layers, act=act, min_log_std=min_log_std, max_log_std=max_log_std
        )
        self.critics = Critics(feat, action, number=critics, hidden=hidden, layers=layers, act=act, norm=critic_norm)
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.reference = copy.deepcopy(self.actor).requires_grad_(False) if reference == "clone" else None
        self.automatic = temperature == "auto"
        start = initial_temperature if isinstance(temperature, str) else temperature
        # not a fixed number's logarithm: 0 is the temperature of a policy that does not care for entropy
        self.log_temperature = nn.Parameter(torch.tensor(start).log()) if self.automatic else None
        self.register_buffer("fixed_temperature", None if self.automatic else torch.tensor(float(start)))
        self.target_entropy = target_entropy * action
        self.gamma, self.reward_scale, self.soft = gamma, reward_scale, soft
        self.polyak, self.polyak_every, self.hold = polyak, polyak_every, hold
        self.bc, self.bc_weight, self.explore_noise = bc, bc_weight, explore_noise

    @property
    def temperature(self) -> Tensor:
        """tau (), without history."""
        if self.log_temperature is None:
            return self.get_buffer("fixed_temperature")
        return self.log_temperature.detach().exp()

    def groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Parameters by optimiser name."""
        found: dict[str, Iterable[nn.Parameter]] = {
            "actor": self.actor.parameters(),
            "critics": self.critics.parameters(),
        }
        return found if self.log_temperature is None else found | {"temperature": [self.log_temperature]}

    def losses(self, batch: TransitionBatch) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """Losses of all groups that learn in this update, all at the same weights."""
        share, temperature = row_shares(batch.pairs.weight), self.temperature
        critics, metrics = self._critic_loss(batch.pairs, batch.reward, share, temperature)
        losses = {"critics": critics}
        if batch.index % self.hold == 0:
            # an encoder behind the features learns from the critics alone
            feat = batch.pairs.feat.detach()
            decided = row_shares(batch.pairs.weight * self.actor.decides(feat))
            losses |= self._actor_losses(feat, decided, temperature)
            if self.bc_weight > 0:
                bc, found = self._clone_term(batch.clone)
                losses["actor"]["bc"] = self.bc_weight * bc
                metrics |= found
        return losses, metrics

    def _critic_loss(
        self, pairs: Transitions, reward: Tensor, share: Tensor, temperature: Tensor
    ) -> tuple[Losses, dict[str, Tensor]]:
        with torch.no_grad():
            ahead, price = self._sample(pairs.next_feat)
            value = self.target(pairs.next_feat, ahead).amin(0)
            if self.soft:
                value = value - self.reward_scale * temperature * price
            y = self.reward_scale * reward + self.gamma * (1 - pairs.done) * value
        q = self.critics(pairs.feat, pairs.action)
        loss = ((q - y).square() * share).sum()
        metrics = {
            "q": (q.detach() * share).sum() / len(q),
            "td_error": loss.detach() / len(q),
            "entropy": -(price * share).sum(),  # relative to pi_ref
            "temperature": temperature,
        }
        return Losses(td=loss), metrics

    def _actor_losses(self, feat: Tensor, share: Tensor, temperature: Tensor) -> dict[str, Losses]:
        action, price = self._sample(feat)
        with frozen(self.critics):
            q = self.critics(feat, action).amin(0)
        losses = {"actor": Losses(rl=((self.reward_scale * temperature * price - q) * share).sum())}
        if self.log_temperature is not None:
            excess = ((price.detach() + self.target_entropy) * share).sum()
            losses["temperature"] = Losses(entropy=-self.log_temperature * excess)
        return losses

    def _sample(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        """feat (n, F) -> a ~ pi(.|s) (n, A), and what tau is the price of: log pi(a|s) or KL(pi || pi_ref), (n,)."""
        dist = self.actor(feat)
        action, log_pi = dist.rsample_with_log_prob()
        return action, log_pi if self.reference is None else dist.kl(self.reference(feat))

    def _clone_term(self, pairs: ClonePairs) -> tuple[Tensor, dict[str, Tensor]]:
        """L_BC (algorithms 2.8), or the mean squared error of sampled actions (BC-Reg; algorithms 3.5)."""
        detached = pairs.detach()
        if self.bc == "nll":
            return clone_loss(self.actor, detached)
        error = (self.actor(detached.feat).rsample() - pairs.action).square().mean(-1)
        mse = (error * row_shares(pairs.weight)).sum()
        return mse, {"bc_mse": mse.detach()}

    def clone(self, batch: HasClone) -> tuple[dict[str, Losses], dict[str, Tensor]]:
        """The BC term alone (BC initialisation). The reference follows, as an average over 1 / REFERENCE_SHARE updates:
        neighbouring ones act differently.
        """
        bc, metrics = self._clone_term(batch.clone)
        if self.reference is not None:
            polyak_(self.reference, self.actor, REFERENCE_SHARE)
        return {"actor": Losses(bc=bc)}, metrics

    def after_update(self, update: int) -> None:
        """Targets follow at updates 0, ``polyak_every``, 2 ``polyak_every``, ..."""
        if update % self.polyak_every == 0:
            polyak_(self.target, self.critics, self.polyak)
