"""Recurrent state-space model with an ensemble of prior heads (algorithms 2.1; CMIL, DreamerV2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dists import CategoricalLatent, GaussianLatent
from models.latent import HeadStats, Latent, stack_latents
from models.nets import StackedLinear, glorot_, linear


class RSSM(nn.Module):
    """One recurrent core and one posterior, shared by K prior heads; only the heads differ between members.

    row          t-1                    t
    action                              a_t          (led to row t)
    deter        h_{t-1} -----GRU-----> h_t = GRU([z_{t-1}, a_t], h_{t-1})
    prior                               head_i(h_t), i drawn once per time step for the whole batch
    posterior                           q([h_t, embed_t])
    """

    def __init__(
        self,
        latent: GaussianLatent | CategoricalLatent,
        *,
        deter: int,
        hidden: int,
        members: int,
        embed: int,
        action: int,
    ) -> None:
        super().__init__()
        self.latent, self.deter, self.members = latent, deter, members
        stoch = latent.stoch
        self.in_stoch = nn.Linear(stoch, hidden, bias=False)  # [z, a] -> e, split so that a whole chunk's
        self.in_action = nn.Linear(action, hidden)  # actions are projected in one product
        for layer in (self.in_stoch, self.in_action):
            glorot_(layer.weight, stoch + action, hidden)
        nn.init.zeros_(self.in_action.bias)
        self.gru = linear(hidden + deter, 3 * deter)
        self.gru_norm = nn.LayerNorm(3 * deter, eps=1e-3)
        self.prior_in = StackedLinear(members, deter, hidden)
        self.prior_out = StackedLinear(members, hidden, latent.raw_size)
        self.post_deter = nn.Linear(deter, hidden, bias=False)
        self.post_embed = nn.Linear(embed, hidden)
        for layer in (self.post_deter, self.post_embed):
            glorot_(layer.weight, deter + embed, hidden)
        nn.init.zeros_(self.post_embed.bias)
        self.post_out = linear(hidden, latent.raw_size)

    def initial(self, n: int) -> Latent:
        """The zero state of n episodes."""
        like = self.post_out.bias
        zeros = [like.new_zeros(n, size) for size in (self.deter, self.latent.stoch, self.latent.raw_size)]
        return Latent(*zeros)

    def recur(self, stoch: Tensor, action_in: Tensor, deter: Tensor) -> Tensor:
        """One GRU step: (n, S), projected action (n, hidden), (n, D) -> (n, D). Update bias -1; one LayerNorm over
        all gates.
        """
        e = F.elu(self.in_stoch(stoch) + action_in)
        parts = self.gru_norm(self.gru(torch.cat([e, deter.to(e.dtype)], -1)).float())
        reset, cand, update = parts.chunk(3, -1)
        update = torch.sigmoid(update - 1)
        return update * torch.tanh(torch.sigmoid(reset) * cand) + (1 - update) * deter

    def _posterior(self, deter: Tensor, embed_in: Tensor, sample: bool) -> Latent:
        params = self.latent.params(self.post_out(F.elu(self.post_deter(deter) + embed_in)))
        return Latent(deter, self.latent.sample(params) if sample else self.latent.mode(params), params)

    def observe(self, embed: Tensor, action: Tensor, is_first: Tensor, *, sample: bool = True) -> Latent:
        """Posterior scan: embed (B, T, E), action (B, T, A), is_first (B, T) -> Latent (B, T).

        ``is_first`` zeroes the previous state and the previous action before the step.
        """
        keep = (~is_first).float()[..., None]  # (B, T, 1)
        action_in = self.in_action(action * keep)
        embed_in = self.post_embed(embed)
        z = self.initial(embed.shape[0])
        out = []
        for t in range(embed.shape[1]):
            deter = self.recur(z.stoch * keep[:, t], action_in[:, t], z.deter * keep[:, t])
            z = self._posterior(deter, embed_in[:, t], sample)
            out.append(z)
        return stack_latents(out, 1)

    def filter(self, embed: Tensor, action: Tensor, is_first: Tensor, z: Latent, *, sample: bool = True) -> Latent:
        """One posterior step for acting: embed (n, E), action that led here (n, A), is_first (n,), previous Latent
        (n,).
        """
        keep = (~is_first).float()[..., None]
        deter = self.recur(z.stoch * keep, self.in_action(action * keep), z.deter * keep)
        return self._posterior(deter, self.post_embed(embed), sample)

    def draw_member(self) -> Tensor:
        """Index of the member used at one time step, as a (1,) tensor on the device (no synchronisation)."""
        return torch.randint(self.members, (1,), device=self.post_out.bias.device)

    def priors(self, deter: Tensor, member: Tensor) -> Tensor:
        """Parameters of one drawn head per time step: deter (B, T, D), member (T,) -> (B, T, P).

        Only the drawn heads are evaluated: the others enter neither the KL nor its gradient.
        """
        x = deter.transpose(0, 1)  # (T, B, D)
        w1, b1 = self.prior_in.weight[member], self.prior_in.bias[member]
        w2, b2 = self.prior_out.weight[member], self.prior_out.bias[member]
        raw = torch.baddbmm(b2, F.elu(torch.baddbmm(b1, x, w1)), w2)
        return self.latent.params(raw.transpose(0, 1))

    def heads(self, deter: Tensor, full: bool = True) -> Tensor:
        """Raw outputs of all K heads: deter (n, D) -> (K, n, raw); only the outputs that fix the mean unless
        ``full``.
        """
        x = F.elu(self.prior_in(deter))
        if full:
            return self.prior_out(x)
        size = self.latent.mean_size
        return torch.baddbmm(
            self.prior_out.bias[..., :size].to(x.dtype), x, self.prior_out.weight[..., :size].to(x.dtype)
        )

    def head_stats(self, deter: Tensor, *, need_std: bool) -> HeadStats:
        """HeadStats (n, K, S) of all members at deter (n, D)."""
        raw = self.heads(deter, full=need_std)
        mean = self.latent.mean_raw(raw).transpose(0, 1)
        return HeadStats(mean, self.latent.std(self.latent.params(raw)).transpose(0, 1) if need_std else None)

    def step(
        self, z: Latent, action: Tensor, *, sample: bool = True, stats: bool = True, need_std: bool = False
    ) -> tuple[Latent, HeadStats | None]:
        """One imagined step from (z, a), both (n,): next Latent and, if ``stats``, the members' predictions at (z,
        a).
        """
        deter = self.recur(z.stoch, self.in_action(action), z.deter)
        member = self.draw_member()
        head_stats = self.head_stats(deter, need_std=need_std) if stats else None
        # weight[member] with a (1,) index: a 0-d index would be read on the host, which waits for the device
        (w1, w2), (b1, b2) = (
            [getattr(p, n)[member][0] for p in (self.prior_in, self.prior_out)] for n in ("weight", "bias")
        )
        raw = F.linear(F.elu(F.linear(deter, w1.t(), b1[0])), w2.t(), b2[0])
        params = self.latent.params(raw)
        return Latent(deter, self.latent.sample(params) if sample else self.latent.mode(params), params), head_stats


def kl_loss(
    rssm_latent: GaussianLatent | CategoricalLatent, post: Tensor, prior: Tensor, *, balance: float, free: float
) -> tuple[Tensor, Tensor]:
    """Balanced KL with free nats on the mean over batch and time ("free_avg"; algorithms 2.1).

    post, prior: (B, T, P). Returns (loss, mean KL). Below ``free`` nats both gradients are exactly zero.
    """
    lhs = rssm_latent.kl(post, prior.detach()).mean()
    rhs = rssm_latent.kl(post.detach(), prior).mean()
    loss = (1 - balance) * lhs.clamp_min(free) + balance * rhs.clamp_min(free)
    return loss, rhs.detach()
