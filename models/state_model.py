"""World models for state observations (algorithms 4.3, part W): ``StateModel`` (no dynamics), ``StateEnsemble`` (states
are all there is to know) and ``RecurrentStateModel`` (they are not).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.latent import HeadStats, Latent, Losses
from models.mlp_ensemble import FitOptions, MLPEnsemble, Pause, layer_l2, never
from models.nets import MLP
from models.termination import TERMINATIONS
from models.world_model import Chunk, RecurrentModel

CLIP = 10.0  # normalised states are clipped to +-CLIP standard deviations


class Scaled:
    """Statistics that states are normalised by, kept in a module's buffers ``mean`` and ``std``: (state - mean) / std
    clipped to +-10; 0 and 1 until ``set_normaliser``.

    Features computed before a change of statistics mean something else afterwards: set them before anything learns, and
    again only together with a new ``fit`` (algorithms 4.3, contract of ``feat``).

    std_floor: least std, in the state's own units, so that an entry that hardly moves in the demonstrations does not
    jump to the clip where the agent moves it a little.
    """

    mean: Tensor
    std: Tensor
    normalise: bool
    std_floor: float

    @property
    def has_statistics(self) -> bool:
        """Whether ``set_normaliser`` has set some, here or in the run that the weights are from."""
        return bool(self.mean.any() or (self.std != 1).any())

    def set_normaliser(self, states: Tensor) -> None:
        """Mean and std of states (n, d), none of them absorbing; nothing happens without ``normalise``."""
        if self.normalise:
            self.mean[: states.shape[1]] = states.mean(0)
            self.std[: states.shape[1]] = states.std(0, correction=0).clamp_min(self.std_floor)


class StateModel(Scaled, nn.Module):
    """The state is the feature; there are no dynamics and nothing to train.

    flagged: features have one entry more, 1 in the absorbing state, which is 0 otherwise, and 0 in all others; states
    without it (the environment's) are none (algorithms 1.4).
    """

    can_imagine = False
    learns = "none"

    def __init__(self, obs: int, *, normalise: bool = False, std_floor: float = 1e-2, flagged: bool = False) -> None:
        super().__init__()
        self.feat, self.normalise, self.std_floor, self.flagged = obs + flagged, normalise, std_floor, flagged
        self.register_buffer("mean", torch.zeros(self.feat))
        self.register_buffer("std", torch.ones(self.feat))

    def latent(self, state: Tensor) -> Latent:
        """Raw states (..., d) -> Latent (...) with feat = (normalised) state."""
        feat, mean = state.to(self.mean.dtype), self.mean
        if self.flagged:
            if feat.shape[-1] < self.feat:
                feat = torch.cat([feat, torch.zeros_like(feat[..., :1])], -1)
            mean = mean * (1 - feat[..., -1:])
        if self.normalise:
            feat = ((feat - mean) / self.std).clamp(-CLIP, CLIP)
        return self._wrap(feat)

    @staticmethod
    def _wrap(feat: Tensor) -> Latent:
        return Latent(feat[..., :0], feat, feat[..., :0])

    def state(self, feat: Tensor) -> Tensor:
        """Inverse of ``latent`` within the clip: feat (..., d) -> raw state (..., d)."""
        return feat * self.std + self.mean  # 1 and 0 without ``normalise``

    def augmented(self, chunk: Chunk) -> Chunk:
        """The chunk itself: what is cloned is blurred instead (``clone_noise``)."""
        return chunk

    def observe(self, chunk: Chunk) -> Latent:
        """States (B, T) of a chunk."""
        return self.latent(chunk.obs)

    def loss(self, chunk: Chunk) -> tuple[Losses, Latent, dict[str, Tensor]]:
        """Nothing is fitted by gradient steps of the agent: no terms."""
        return Losses(), self.observe(chunk), {}

    def initial(self, n: int) -> Tensor:
        """A state needs no memory: an empty carry (n, 0)."""
        return self.mean.new_zeros(n, 0)

    def filter(
        self, obs: Tensor, action: Tensor, is_first: Tensor, carry: Tensor, *, sample: bool = True
    ) -> tuple[Latent, Tensor]:
        """One acting step: the state (n, d) as a Latent (n,); the other arguments are other models'."""
        return self.latent(obs), carry

    def step(
        self, z: Latent, action: Tensor, *, stats: bool = True, need_std: bool = False, sample: bool = True
    ) -> tuple[Latent, HeadStats | None]:
        """Not available."""
        raise NotImplementedError("this world model has no dynamics: choose an algorithm that does not imagine")

    def terminated(self, feat: Tensor) -> Tensor:
        """feat (..., F) -> (...) bool: nowhere, since nothing is imagined."""
        return TERMINATIONS["none"](feat)


class StateEnsemble(StateModel):
    """Probabilistic MLP ensemble on states (algorithms 2.2), fitted now and then to all transitions by ``fit``.

    A step draws one elite per sample. ``normalise_penalty``: HeadStats in units of the training deltas' std, so that
    one penalty weight means the same across tasks (algorithms 2.3), else in units of feat. ``termination``: name of
    the known rule that ends imagined episodes (``models.termination``).

    Imagined features are not clipped: with ``normalise_fit`` the ensemble clips its inputs, so its deltas are bounded
    and a rollout that leaves the data moves on at a bounded speed instead of blowing up.
    """

    can_imagine = True
    learns = "fit"
    given = False  # fitted by another run: stays as it is

    def __init__(
        self,
        obs: int,
        action: int,
        *,
        hidden: int = 200,
        layers: int = 4,
        members: int = 7,
        elites: int = 5,
        l2: bool | float | str = "auto",
        lr: float = 1e-3,
        batch: int = 256,
        max_epochs: int = 1000,
        max_updates: int = 0,
        patience: int = 5,
        tolerance: float = 0.01,
        holdout: float = 0.1,
        normalise: bool = True,
        std_floor: float = 1e-2,
        normalise_fit: bool = True,
        max_logvar: float = 0.5,
        normalise_penalty: bool = True,
        termination: str = "none",
    ) -> None:
        """l2: see ``layer_l2``; lr to holdout: ``FitOptions``; normalise_fit, max_logvar: ``MLPEnsemble``.
        Raises ValueError on bad options.
        """
        super().__init__(obs, normalise=normalise, std_floor=std_floor)
        if termination not in TERMINATIONS:
            raise ValueError(f"world_model.termination: {termination!r} is none of {', '.join(TERMINATIONS)}")
        if normalise_penalty and not normalise_fit:
            raise ValueError("world_model.normalise_penalty: in units that normalise_fit=false leaves unknown")
        self.ensemble = MLPEnsemble(
            obs,
            action,
            hidden=hidden,
            layers=layers,
            members=members,
            elites=elites,
            l2=layer_l2(l2, layers),
            normalise=normalise_fit,
            max_logvar=max_logvar,
        )
        self.options = FitOptions(lr, batch, max_epochs, max_updates, patience, tolerance, holdout)
        self.normalise_penalty = normalise_penalty
        self.ends = TERMINATIONS[termination]

    def fit(
        self,
        feat: Tensor,
        action: Tensor,
        next_feat: Tensor,
        pause: Pause = never,
        weight: Tensor | None = None,
    ) -> dict[str, float]:
        """Fit the ensemble to transitions (n, F), (n, A), (n, F) in units of feat (see ``MLPEnsemble.fit``)."""
        return self.ensemble.fit(feat, action, next_feat, self.options, pause, weight)

    @property
    def held_out(self) -> Tensor | None:
        """Which rows (m,) of what was fitted last no member has seen."""
        return self.ensemble.held_out

    def step(
        self, z: Latent, action: Tensor, *, stats: bool = True, need_std: bool = False, sample: bool = True
    ) -> tuple[Latent, HeadStats | None]:
        """One imagined step from z (n,) with action (n, A): next Latent (n,) and, if ``stats``, HeadStats (n, N, F).

        Differentiable in z and action: next = feat + delta_mean + delta_std (mu + sigma eps). Given the same random
        state the next Latent does not depend on what else is asked for (up to rounding).
        """
        model, feat = self.ensemble, z.feat
        slots = model.draw_slots(len(feat))
        head_stats: HeadStats | None = None
        if stats:
            means, logvars = model(feat, action)  # (N, n, F)
            head_stats = self._head_stats(feat, means, logvars, need_std)
            member, row = model.drawn(slots), torch.arange(len(feat), device=feat.device)
            mean, logvar = means[member, row], logvars[member, row]
        else:
            mean, logvar = model.forward_slots(feat, action, slots)
        if sample:
            mean = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        return self._wrap(feat + model.to_delta(mean)), head_stats

    def _head_stats(self, feat: Tensor, means: Tensor, logvars: Tensor, need_std: bool) -> HeadStats:
        std = (0.5 * logvars).exp() if need_std else None
        if not self.normalise_penalty:
            means = feat + self.ensemble.to_delta(means)
            std = std * self.ensemble.delta_std if std is not None else None
        return HeadStats(means.transpose(0, 1), std.transpose(0, 1) if std is not None else None)

    def terminated(self, feat: Tensor) -> Tensor:
        """Does the task's rule end an episode that arrives at feat (..., F)? (...) bool."""
        return self.ends(self.state(feat))


class StateEncoder(nn.Module):
    """Two hidden layers: (n, d) -> (n, size)."""

    def __init__(self, obs: int, size: int) -> None:
        super().__init__()
        self.net, self.size = MLP(obs, size, hidden=size, layers=1), size

    def forward(self, x: Tensor) -> Tensor:
        """Normalised states to embeddings."""
        return F.elu(self.net(x))


class RecurrentStateModel(Scaled, RecurrentModel):
    """The recurrent model of states (..., d): for what a single state does not tell, as how far a task has come, and
    for what it tells too much of, as where exactly an object was put down, which a few demonstrations have learned by
    heart.

    obs_std: std of the Gaussian likelihood of normalised states. blur: std of an offset that is added to all states of
    a chunk alike, as pictures are shifted (``PixelWorldModel``): what is seen is elsewhere each time, and motion stays
    motion. margin: by how many standard deviations an entry may leave the range of what statistics are of; it is cut
    there, so that what never moved in the demonstrations, as a knob that the arm brushes against, throws nobody off.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        obs: int,
        *,
        obs_std: float = 1.0,
        blur: float = 0.0,
        margin: float = CLIP,
        std_floor: float = 1e-2,
        hidden: int,
        **options: Any,
    ) -> None:
        super().__init__(
            StateEncoder(obs, hidden), lambda feat: MLP(feat, obs, hidden=hidden, layers=2), hidden=hidden, **options
        )
        self.obs_std, self.blur, self.margin = obs_std, blur, margin
        self.normalise, self.std_floor = True, std_floor
        for name, value in (("mean", 0.0), ("std", 1.0), ("low", -CLIP), ("high", CLIP)):
            self.register_buffer(name, torch.full((obs,), value))

    def set_normaliser(self, states: Tensor) -> None:
        """Mean, std and range of states (n, d)."""
        super().set_normaliser(states)
        least, most = ((x - self.mean) / self.std for x in states.aminmax(dim=0))
        self.low.copy_((least - self.margin).clamp_min(-CLIP))
        self.high.copy_((most + self.margin).clamp_max(CLIP))

    def _scaled(self, obs: Tensor) -> Tensor:
        return torch.clamp((obs.to(self.mean.dtype) - self.mean) / self.std, self.low, self.high)

    def encode(self, obs: Tensor) -> Tensor:
        """States (n, d) -> (n, E)."""
        return self.encoder(self._scaled(obs))

    def missed(self, feat: Tensor, obs: Tensor) -> tuple[Losses, dict[str, Tensor]]:
        """Squared error in units of ``obs_std``, summed over entries."""
        error = (self.decoder(feat).float() - self._scaled(obs)).square().sum(-1).mean()
        return Losses(state=0.5 * error / self.obs_std**2), {"state_error": error.detach()}

    def augmented(self, chunk: Chunk) -> Chunk:
        """The chunk with a random offset each, so that it is not learned by heart."""
        if self.blur == 0:
            return chunk
        offset = self.blur * self.std * torch.randn_like(chunk.obs[:, :1])
        return replace(chunk, obs=chunk.obs + offset)
