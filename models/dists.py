"""Distributions: latent Gaussians and categoricals; policy heads: truncated normal, squashed normal, point mass."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_LOG_2 = math.log(2.0)
ACTION_CLIP = 1.0 - 1e-6  # demo actions and samples stay inside the open support (algorithms 2.6, 2.8)


def normal_kl(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor) -> Tensor:
    """KL(N(m1, s1^2) || N(m2, s2^2)) of independent dimensions, summed over the last: (..., D) -> (...)."""
    return (torch.log(s2 / s1) + (s1.square() + (m1 - m2).square()) / (2 * s2.square()) - 0.5).sum(-1)


class ActionDist(Protocol):
    """What learners and collectors ask of a policy's distribution over actions (..., A) in [-1, 1]."""

    @property
    def std(self) -> Tensor:
        """Spread per dimension, for metrics: (..., A)."""
        ...

    def mode(self) -> Tensor:
        """The action to take without exploration (..., A)."""
        ...

    def rsample(self) -> Tensor:
        """Reparameterised sample (..., A)."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at x (..., A), summed over A: (...)."""
        ...

    def entropy(self) -> Tensor:
        """Differential entropy or an unbiased estimate of it, summed over A: (...)."""
        ...


class LatentDist(Protocol):
    """How raw network outputs become a stochastic latent. ``raw`` and ``params`` are (..., P)."""

    stoch: int
    raw_size: int

    def params(self, raw: Tensor) -> Tensor:
        """Raw outputs to distribution parameters (..., P)."""
        ...

    def sample(self, params: Tensor) -> Tensor:
        """Reparameterised (or straight-through) sample (..., S)."""
        ...

    def mode(self, params: Tensor) -> Tensor:
        """Most likely value (..., S)."""
        ...

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """KL(p || q) summed over latent dimensions: (...)."""
        ...

    def mean_raw(self, raw: Tensor) -> Tensor:
        """The part of HeadStats.mean, from raw outputs (..., raw_size) or their mean part: (..., S)."""
        ...


class GaussianLatent:
    """Diagonal Gaussian with std = 2 sigmoid(raw/2) + 0.1 in (0.1, 2.1) (CMIL code; algorithms 2.1)."""

    def __init__(self, stoch: int) -> None:
        self.stoch = stoch
        self.raw_size = 2 * stoch
        self.mean_size = stoch  # the first mean_size raw outputs determine HeadStats.mean

    def params(self, raw: Tensor) -> Tensor:
        """[mean, raw std] -> [mean, std]."""
        mean, std = raw.float().chunk(2, -1)
        return torch.cat([mean, 2 * torch.sigmoid(std / 2) + 0.1], -1)

    def sample(self, params: Tensor) -> Tensor:
        """mean + std * N(0, 1)."""
        mean, std = params.chunk(2, -1)
        return mean + std * torch.randn_like(mean)

    def mode(self, params: Tensor) -> Tensor:
        """The mean."""
        return params.chunk(2, -1)[0]

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """Closed form for diagonal Gaussians, summed over dimensions."""
        return normal_kl(*p.chunk(2, -1), *q.chunk(2, -1))

    def mean_raw(self, raw: Tensor) -> Tensor:
        """The mean part of the raw outputs."""
        return raw[..., : self.stoch].float()

    def std(self, params: Tensor) -> Tensor:
        """Standard deviation (..., S) for HeadStats."""
        return params.chunk(2, -1)[1]


class CategoricalLatent:
    """``groups`` one-hot variables of ``classes`` classes with straight-through samples (DreamerV2; algorithms 2.1)."""

    def __init__(self, groups: int, classes: int) -> None:
        self.groups, self.classes = groups, classes
        self.stoch = groups * classes
        self.raw_size = self.stoch
        self.mean_size = self.stoch

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.groups, self.classes))

    def params(self, raw: Tensor) -> Tensor:
        """Raw logits -> normalised log-probabilities."""
        return F.log_softmax(self._split(raw.float()), -1).flatten(-2)

    def sample(self, params: Tensor) -> Tensor:
        """One-hot sample; gradient of the probabilities passes straight through."""
        probs = self._split(params).exp()
        # Gumbel-max draws without leaving the device
        noise = -torch.log(-torch.log(torch.rand_like(probs).clamp(1e-10, 1 - 1e-7)))
        hard = F.one_hot((self._split(params) + noise).argmax(-1), self.classes).to(probs.dtype)
        return (hard + probs - probs.detach()).flatten(-2)

    def mode(self, params: Tensor) -> Tensor:
        """One-hot of the most likely class."""
        return F.one_hot(self._split(params).argmax(-1), self.classes).to(params.dtype).flatten(-2)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """Sum over groups of categorical KL."""
        return (p.exp() * (p - q)).sum(-1)

    def mean_raw(self, raw: Tensor) -> Tensor:
        """Class probabilities, whose spread over members is the disagreement."""
        return self.params(raw).exp()

    def std(self, params: Tensor) -> Tensor:
        """Bernoulli std of each class indicator."""
        probs = params.exp()
        return (probs * (1 - probs)).clamp_min(0).sqrt()


def _log_cdf_gap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    cdf_a, cdf_b = torch.special.ndtr(a), torch.special.ndtr(b)
    gap = (cdf_b - cdf_a).clamp_min(1e-8)
    return cdf_a, gap, gap.log()


class TruncatedNormal:
    """Normal(loc, std) restricted to (-1, 1), independent per dimension; loc, std: (..., A).

    The actor's head (algorithms 2.6): loc = tanh(m), std = 2 sigmoid(raw/2) + 0.1. ``log_prob`` and ``entropy`` sum
    over A.
    """

    def __init__(self, loc: Tensor, std: Tensor) -> None:
        self.loc, self.std = loc, std
        self._a, self._b = (-1 - loc) / std, (1 - loc) / std
        self._cdf_a, self._gap, self._log_gap = _log_cdf_gap(self._a, self._b)

    @classmethod
    def from_raw(cls, raw: Tensor, min_std: float = 0.1) -> TruncatedNormal:
        """Split a network output (..., 2A) into loc and std."""
        m, s = raw.float().chunk(2, -1)
        return cls(torch.tanh(m), 2 * torch.sigmoid(s / 2) + min_std)

    def rsample(self) -> Tensor:
        """Reparameterised sample by the inverse CDF, clipped to +-(1 - 1e-6) with a straight-through gradient."""
        u = self._cdf_a + torch.rand_like(self.loc) * self._gap
        x = self.loc + self.std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
        return x + (x.clamp(-ACTION_CLIP, ACTION_CLIP) - x).detach()

    def mode(self) -> Tensor:
        """Highest density: loc, clipped to the open interval."""
        return self.loc.clamp(-ACTION_CLIP, ACTION_CLIP)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at x in (-1, 1), summed over A: (...)."""
        z = (x - self.loc) / self.std
        return (-0.5 * z.square() - _LOG_SQRT_2PI - self.std.log() - self._log_gap).sum(-1)

    def entropy(self) -> Tensor:
        """Closed-form differential entropy, summed over A: (...)."""
        phi_a = torch.exp(-0.5 * self._a.square() - _LOG_SQRT_2PI)
        phi_b = torch.exp(-0.5 * self._b.square() - _LOG_SQRT_2PI)
        edge = (self._a * phi_a - self._b * phi_b) / (2 * self._gap)
        return (0.5 + _LOG_SQRT_2PI + self.std.log() + self._log_gap + edge).sum(-1)


class SquashedNormal:
    """tanh(u), u ~ Normal(mean, std), independent per dimension; mean, log_std: (..., A) (SAC; algorithms 2.5).

    ``std`` is that of u, before the tanh. ``log_prob`` and ``entropy`` sum over A.
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std, self.std = mean, log_std, log_std.exp()

    @classmethod
    def from_raw(cls, raw: Tensor, min_log_std: float = -5.0, max_log_std: float = 2.0) -> SquashedNormal:
        """Split a network output (..., 2A) into mean and log std, the latter clipped to its bounds."""
        mean, log_std = raw.float().chunk(2, -1)
        return cls(mean, log_std.clamp(min_log_std, max_log_std))

    def rsample(self) -> Tensor:
        """Reparameterised sample in [-1, 1]."""
        return self.rsample_with_log_prob()[0]

    def rsample_with_log_prob(self) -> tuple[Tensor, Tensor]:
        """A sample (..., A) and its log density (...): exact where rounding has made tanh(u) = 1 and u is lost."""
        noise = torch.randn_like(self.mean)
        u = self.mean + self.std * noise
        return torch.tanh(u), self._density(u, noise)

    def mode(self) -> Tensor:
        """tanh(mean), the median, which SAC takes for the mode; in the open interval."""
        return torch.tanh(self.mean).clamp(-ACTION_CLIP, ACTION_CLIP)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at x in [-1, 1], summed over A: (...); finite at the ends, which count as +-(1 - 1e-6)."""
        u = torch.atanh(x.clamp(-ACTION_CLIP, ACTION_CLIP))
        return self._density(u, (u - self.mean) / self.std)

    def _density(self, u: Tensor, z: Tensor) -> Tensor:
        """log N(u) - log |d tanh(u) / du| with 1 - tanh(u)^2 = 4 / (e^u + e^-u)^2, which does not underflow."""
        slope = 2 * (_LOG_2 - u - F.softplus(-2 * u))
        return (-0.5 * z.square() - _LOG_SQRT_2PI - self.log_std - slope).sum(-1)

    def entropy(self) -> Tensor:
        """There is no closed form: -log_prob of one sample, an unbiased estimate (...)."""
        return -self.rsample_with_log_prob()[1]

    def kl(self, other: SquashedNormal) -> Tensor:
        """KL(self || other), summed over A: (...). That of the normals, since both go through the same tanh."""
        return normal_kl(self.mean, self.std, other.mean, other.std)


class Idle:
    """A squashed normal, except where ``idle`` (..., 1) is 1: there nothing is decided, and action 0 is certain.

    Its log density and entropy count as 0, so that neither rewards nor teaches anything.
    """

    def __init__(self, dist: SquashedNormal, idle: Tensor) -> None:
        self.dist, self.free = dist, 1 - idle

    @property
    def std(self) -> Tensor:
        """Of the normal before the tanh, where something is decided (..., A)."""
        return self.dist.std * self.free

    def rsample(self) -> Tensor:
        """Reparameterised sample in [-1, 1]."""
        return self.rsample_with_log_prob()[0]

    def rsample_with_log_prob(self) -> tuple[Tensor, Tensor]:
        """A sample (..., A) and its log density (...)."""
        action, log_prob = self.dist.rsample_with_log_prob()
        return action * self.free, log_prob * self.free[..., 0]

    def mode(self) -> Tensor:
        """tanh(mean), or 0."""
        return self.dist.mode() * self.free

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at x in [-1, 1], summed over A: (...)."""
        return self.dist.log_prob(x) * self.free[..., 0]

    def entropy(self) -> Tensor:
        """An unbiased estimate (...)."""
        return -self.rsample_with_log_prob()[1]

    def kl(self, other: SquashedNormal) -> Tensor:
        """KL(self || other) where something is decided, else 0: (...)."""
        return self.dist.kl(other) * self.free[..., 0]


class PointMass:
    """A deterministic policy's "distribution" at loc (..., A) (TD3).

    It has no density: ``log_prob`` is the negative squared error, so that cloning by likelihood is least squares.
    """

    def __init__(self, loc: Tensor) -> None:
        self.loc = loc

    @property
    def std(self) -> Tensor:
        """Zero (..., A)."""
        return torch.zeros_like(self.loc)

    def mode(self) -> Tensor:
        """The action itself."""
        return self.loc

    def rsample(self) -> Tensor:
        """The action itself."""
        return self.loc

    def log_prob(self, x: Tensor) -> Tensor:
        """-|x - loc|^2, summed over A: (...)."""
        return -(x - self.loc).square().sum(-1)

    def entropy(self) -> Tensor:
        """Zero (...): nothing is drawn."""
        return torch.zeros_like(self.loc[..., 0])
