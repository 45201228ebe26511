"""World models behind one interface (algorithms 4.3, part W): ``PixelWorldModel`` (RSSM ensemble) and
``FrameStack``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.dists import CategoricalLatent, GaussianLatent
from models.latent import HeadStats, Latent, Losses
from models.nets import MLP, Decoder, Encoder, random_shift
from models.rssm import RSSM, kl_loss


@dataclass(frozen=True)
class Chunk:
    """A batch of chunks in storage convention (``action[:, t]`` led to ``obs[:, t]``), tensors on the device.

    obs: (B, T, 64, 64, 3) uint8 or (B, T, d) float, action: (B, T, A), is_first/is_last/is_terminal: (B, T) bool,
    expert: (B,) bool, valid: (B, T) bool: the posterior of this row has seen enough history to be learned from,
    truth: (B, T) the environment's reward of the step that led to the row, only of a replay that keeps it
    (``reward=truth``), imitated: (B,) bool, own episodes that are cloned beside demonstrations, only where some may be
    (``data.clone_own``).
    """

    obs: Tensor
    action: Tensor
    is_first: Tensor
    is_last: Tensor
    is_terminal: Tensor
    expert: Tensor
    valid: Tensor
    truth: Tensor | None = None
    imitated: Tensor | None = None


class WorldModel(Protocol):
    """The verbs that the agent needs; pixels and state differ only here."""

    feat: int
    can_imagine: bool  # has ``step``
    learns: str
    """Who trains it: "likelihood": ``loss`` in every update; "fit": ``fit`` on all data now and then; "policy": the
    policy's loss through the latents of ``loss``; "none": nobody."""

    def loss(self, chunk: Chunk) -> tuple[Losses, Latent, dict[str, Tensor]]:
        """Named loss terms, the posteriors (B, T) computed on the way, and metrics."""
        ...

    def augmented(self, chunk: Chunk) -> Chunk:
        """The chunk as it is learned from: randomly shifted pictures, states as they are."""
        ...

    def observe(self, chunk: Chunk) -> Latent:
        """Filter a chunk to latents (B, T)."""
        ...

    def initial(self, n: int) -> Any:
        """Carry of n fresh episodes, for ``filter``."""
        ...

    def filter(self, obs: Tensor, action: Tensor, is_first: Tensor, carry: Any, *, sample: bool) -> tuple[Latent, Any]:
        """One acting step: (n, ...) observation and the action that led to it -> Latent (n,), carry."""
        ...

    def step(self, z: Latent, action: Tensor, *, stats: bool, need_std: bool) -> tuple[Latent, HeadStats | None]:
        """One imagined step."""
        ...

    def terminated(self, feat: Tensor) -> Tensor:
        """feat (n, F) -> bool (n,): whether the episode ends here. Where nothing is known: nowhere (algorithms 1.4)."""
        ...


def scale_image(image: Tensor) -> Tensor:
    """uint8 [0, 255] -> float [-.5, .5] (algorithms 1.6)."""
    return image.float() / 255.0 - 0.5


class RecurrentModel(nn.Module):
    """Encoder, RSSM ensemble, decoder (algorithms 2.1) and, optionally, a behaviour head: all but what kind of
    observations it sees.

    ``decode_rows`` > 0 reconstructs that many random rows of each chunk: an unbiased estimate of the likelihood for a
    fraction of its cost. ``behaviour_scale`` > 0 adds a head that predicts the expert's next action from the feature,
    *with* gradient into the model, so that what the expert reacts to is represented before reconstruction finds it
    (small sizes).
    """

    can_imagine = True
    learns = "likelihood"

    def __init__(
        self,
        encoder: Any,
        decoder: Callable[[int], nn.Module],
        *,
        action: int,
        latent: GaussianLatent | CategoricalLatent,
        deter: int,
        hidden: int,
        members: int,
        kl_scale: float = 1.0,
        kl_balance: float = 0.8,
        free_nats: float = 1.0,
        decode_rows: int = 0,
        behaviour_scale: float = 0.0,
        behaviour_hidden: int = 200,
    ) -> None:
        """encoder: (n, ...) -> (n, ``encoder.size``). decoder: makes one of features of a size."""
        super().__init__()
        self.encoder = encoder
        self.rssm = RSSM(latent, deter=deter, hidden=hidden, members=members, embed=encoder.size, action=action)
        self.feat = latent.stoch + deter
        self.decoder = decoder(self.feat)
        self.behaviour = MLP(self.feat, action, hidden=behaviour_hidden, layers=2) if behaviour_scale > 0 else None
        self.kl_scale, self.kl_balance, self.free_nats = kl_scale, kl_balance, free_nats
        self.decode_rows, self.behaviour_scale = decode_rows, behaviour_scale

    def encode(self, obs: Tensor) -> Tensor:
        """Observations (n, ...) -> (n, E)."""
        return self.encoder(obs)

    def embed(self, obs: Tensor) -> Tensor:
        """Observations (B, T, ...) -> (B, T, E)."""
        return self.encode(obs.flatten(0, 1)).unflatten(0, obs.shape[:2])

    def missed(self, feat: Tensor, obs: Tensor) -> tuple[Losses, dict[str, Tensor]]:
        """Negative log-likelihood of observations (B, T, ...) at feat (B, T, F), and metrics."""
        raise NotImplementedError

    def augmented(self, chunk: Chunk) -> Chunk:
        """The chunk as it is learned from."""
        raise NotImplementedError

    def observe(self, chunk: Chunk) -> Latent:
        """Posteriors (B, T) of a chunk, sampled, from zero initial states."""
        return self.rssm.observe(self.embed(chunk.obs), chunk.action, chunk.is_first)

    def loss(self, chunk: Chunk) -> tuple[Losses, Latent, dict[str, Tensor]]:
        """Negative ELBO: unit-Gaussian likelihood (summed over entries, mean over B, T) + balanced KL.

        What is seen is augmented, what is to be reconstructed is not: latents need not say where the camera stands, nor
        the decoder draw the same room in every place.
        """
        z = self.observe(self.augmented(chunk))
        b, t = chunk.action.shape[:2]
        member = torch.randint(self.rssm.members, (t,), device=z.deter.device)
        prior = self.rssm.priors(z.deter, member)
        kl, kl_value = kl_loss(self.rssm.latent, z.params, prior, balance=self.kl_balance, free=self.free_nats)
        feat, target = z.feat, chunk.obs
        if 0 < self.decode_rows < t:
            rows = torch.rand(b, t, device=feat.device).argsort(1)[:, : self.decode_rows]
            pick = torch.arange(b, device=feat.device)[:, None]
            feat, target = feat[pick, rows], target[pick, rows]
        losses, metrics = self.missed(feat, target)
        losses["kl"] = self.kl_scale * kl
        metrics["kl"] = kl_value
        if self.behaviour is not None:
            # pair (feat_t, action_{t+1}) of expert rows only
            keep = (chunk.expert[:, None] & chunk.valid[:, :-1] & ~chunk.is_first[:, 1:]).float()
            predicted = torch.tanh(self.behaviour(z.feat[:, :-1]).float())
            miss = (predicted - chunk.action[:, 1:]).square().sum(-1)
            miss = (miss * keep).sum() / keep.sum().clamp_min(1.0)
            losses["behaviour"] = self.behaviour_scale * miss
            metrics["behaviour_error"] = miss.detach()
        return losses, z, metrics

    def initial(self, n: int) -> Latent:
        """Zero latent of n episodes."""
        return self.rssm.initial(n)

    def filter(
        self, obs: Tensor, action: Tensor, is_first: Tensor, carry: Latent, *, sample: bool = True
    ) -> tuple[Latent, Latent]:
        """One posterior step: obs (n, ...), the action that led to it (n, A), is_first (n,)."""
        z = self.rssm.filter(self.encode(obs), action, is_first, carry, sample=sample)
        return z, z

    def step(
        self, z: Latent, action: Tensor, *, stats: bool = True, need_std: bool = False
    ) -> tuple[Latent, HeadStats | None]:
        """One imagined step (see ``RSSM.step``)."""
        return self.rssm.step(z, action, stats=stats, need_std=need_std)

    def terminated(self, feat: Tensor) -> Tensor:
        """Nowhere: there is no discount head."""
        return torch.zeros_like(feat[..., 0], dtype=torch.bool)


class PixelWorldModel(RecurrentModel):
    """The recurrent model of pictures (..., 64, 64, 3) uint8."""

    def __init__(self, *, depth: int, shift: int = 0, act: str = "elu", **options: Any) -> None:
        """shift: pixels by which chunks are shifted at random, at most. options: see ``RecurrentModel``."""
        super().__init__(Encoder(depth, act=act), lambda feat: Decoder(feat, depth, act=act), **options)
        self.shift = shift

    def decode(self, feat: Tensor) -> Tensor:
        """feat (..., F) -> image mean (..., 64, 64, 3) in [-.5, .5]."""
        return self.decoder(feat.flatten(0, -2)).float().unflatten(0, feat.shape[:-1])

    def missed(self, feat: Tensor, obs: Tensor) -> tuple[Losses, dict[str, Tensor]]:
        """Squared error, summed over pixels."""
        error = (self.decode(feat) - scale_image(obs)).square().flatten(2).sum(-1).mean()
        return Losses(image=0.5 * error), {"image_error": error.detach()}

    def augmented(self, chunk: Chunk) -> Chunk:
        """The chunk with its frames shifted at random, so that it is not learned by heart."""
        return replace(chunk, obs=random_shift(chunk.obs, self.shift))

    def open_loop(self, chunk: Chunk, context: int) -> Tensor:
        """Observe ``context`` rows, then imagine with the recorded actions: image means (B, T, 64, 64, 3) in [0, 1]."""
        rows = ("obs", "action", "is_first", "is_last", "is_terminal", "valid")
        head = Chunk(**{name: getattr(chunk, name)[:, :context] for name in rows}, expert=chunk.expert)
        posts = self.observe(head)
        feats = [posts.feat]
        z = posts[:, -1]
        for t in range(context, chunk.action.shape[1]):
            z, _ = self.step(z, chunk.action[:, t], stats=False)
            feats.append(z.feat[:, None])
        return (self.decode(torch.cat(feats, 1)) + 0.5).clamp(0, 1)


class FrameStack(nn.Module):
    """No dynamics: the encoder on the last three frames, trained by the policy's loss (``bc_cnn``; algorithms 3.3)."""

    can_imagine = False
    learns = "policy"

    def __init__(
        self, *, action: int, depth: int, frames: int = 3, size: int = 256, shift: int = 4, act: str = "elu"
    ) -> None:
        super().__init__()
        self.frames, self.shift = frames, shift
        self.encoder = Encoder(depth, 3 * frames, act)
        self.project = nn.Sequential(nn.Linear(self.encoder.size, size), nn.LayerNorm(size), nn.Tanh())
        self.feat = size

    def _latent(self, stacked: Tensor) -> Latent:
        feat = self.project(self.encoder(stacked)).float()
        return Latent(feat[..., :0], feat, feat[..., :0])

    def observe(self, chunk: Chunk) -> Latent:
        """Features (B, T) of stacked frames; rows before an episode's first frame repeat that frame."""
        obs = chunk.obs
        b, t = obs.shape[:2]
        rows = torch.arange(t, device=obs.device).expand(b, t)
        start = torch.where(chunk.is_first, rows, 0).cummax(1).values  # first row of the episode that row t belongs to
        back = [torch.maximum(rows - k, start) for k in reversed(range(self.frames))]
        pick = torch.arange(b, device=obs.device)[:, None]
        stacked = torch.cat([obs[pick, r] for r in back], -1)
        return self._latent(stacked.flatten(0, 1)).map(lambda x: x.unflatten(0, (b, t)))

    def augmented(self, chunk: Chunk) -> Chunk:
        """The chunk with its frames shifted at random."""
        return replace(chunk, obs=random_shift(chunk.obs, self.shift))

    def loss(self, chunk: Chunk) -> tuple[Losses, Latent, dict[str, Tensor]]:
        """Nothing to fit without a policy: no terms, and the features (B, T) of shifted frames, for a policy's loss."""
        return Losses(), self.observe(self.augmented(chunk)), {}

    def initial(self, n: int) -> Tensor:
        """The last ``frames`` frames of n episodes."""
        return torch.zeros(n, self.frames, 64, 64, 3, dtype=torch.uint8, device=next(self.parameters()).device)

    def filter(
        self, obs: Tensor, action: Tensor, is_first: Tensor, carry: Tensor, *, sample: bool = True
    ) -> tuple[Latent, Tensor]:
        """Shift the newest frame in; a first frame fills the whole stack."""
        shifted = torch.cat([carry[:, 1:], obs[:, None]], 1)
        carry = torch.where(is_first[:, None, None, None, None], obs[:, None].expand_as(shifted), shifted)
        stacked = carry.permute(0, 2, 3, 1, 4).flatten(3)
        return self._latent(stacked), carry

    def step(
        self, z: Latent, action: Tensor, *, stats: bool = True, need_std: bool = False
    ) -> tuple[Latent, HeadStats | None]:
        """Not available."""
        raise NotImplementedError("this world model has no dynamics: choose an algorithm that does not imagine")
