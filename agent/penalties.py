"""Uncertainty penalties: pure functions of HeadStats, u >= 0 of shape = batch (algorithms 2.3). The sign lives in
``imagine.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.latent import HeadStats


def _safe_sqrt(x: Tensor) -> Tensor:
    """sqrt with value and gradient exactly 0 at 0: identical members would give an infinite derivative."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def _deviation(stats: HeadStats) -> Tensor:
    """mu_i - mu_bar: (..., K, S). Relative to the first member, so that equal members differ by exactly 0, not by
    rounding.
    """
    shifted = stats.mean - stats.mean[..., :1, :].detach()
    return shifted - shifted.mean(-2, keepdim=True)


def _member_var(stats: HeadStats) -> Tensor:
    return _deviation(stats).square().mean(-2)  # population variance over K: (..., S)


def ens_std_mean(stats: HeadStats) -> Tensor:
    """mean_d sqrt((1/K) sum_i (mu_i - mu_bar)^2): CMIL's code (C8)."""
    return _safe_sqrt(_member_var(stats)).mean(-1)


def max_aleatoric(stats: HeadStats) -> Tensor:
    """max_i ||sigma_i||_2: MOPO's code."""
    assert stats.std is not None
    return stats.std.norm(dim=-1).amax(-1)


def ens_var(stats: HeadStats) -> Tensor:
    """mean_d [mean_i sigma_i^2 + Var_i(mu_i)]: total variance of the mixture."""
    assert stats.std is not None
    return (stats.std.square().mean(-2) + _member_var(stats)).mean(-1)


def ens_std(stats: HeadStats) -> Tensor:
    """mean_d sqrt(mean_i sigma_i^2 + Var_i(mu_i))."""
    assert stats.std is not None
    return _safe_sqrt(stats.std.square().mean(-2) + _member_var(stats)).mean(-1)


def max_pairwise(stats: HeadStats) -> Tensor:
    """max_{i,j} ||mu_i - mu_j||_2: MOReL."""
    gap = stats.mean.unsqueeze(-2) - stats.mean.unsqueeze(-3)
    return _safe_sqrt(gap.square().sum(-1).flatten(-2).amax(-1))


def max_dev(stats: HeadStats) -> Tensor:
    """max_i ||mu_i - mu_bar||_2: MOPO's alternative, CLARE."""
    return _safe_sqrt(_deviation(stats).square().sum(-1).amax(-1))


def _drawn(stats: HeadStats) -> Tensor:
    """One sample of every member: (..., K, S)."""
    assert stats.std is not None
    return stats.mean + stats.std * torch.randn_like(stats.mean)


def _drawn_var(stats: HeadStats) -> Tensor:
    assert stats.std is not None
    return stats.std.square().mean(-2) + _drawn(stats).var(-2)  # the variance that divides by K - 1: (..., S)


def ens_var_drawn(stats: HeadStats) -> Tensor:
    """mean_d [mean_i sigma_i^2 + Var_i(y_i)], y_i ~ N(mu_i, sigma_i^2): offline ML-IRL's code, where the aleatoric part
    counts twice.
    """
    return _drawn_var(stats).mean(-1)


def ens_std_drawn(stats: HeadStats) -> Tensor:
    """mean_d sqrt(mean_i sigma_i^2 + Var_i(y_i)), y_i as in ``ens_var_drawn``."""
    return _safe_sqrt(_drawn_var(stats)).mean(-1)


def loglik_var(stats: HeadStats) -> Tensor:
    """Var_i log p_i(s'), s' a sample of one member, all equally likely: LOMPO."""
    assert stats.std is not None
    ys = _drawn(stats)
    pick = torch.randint(ys.shape[-2], ys.shape[:-2], device=ys.device)[..., None, None]
    y = ys.gather(-2, pick.expand(*ys.shape[:-2], 1, ys.shape[-1]))
    log_p = -(0.5 * ((y - stats.mean) / stats.std).square() + stats.std.log()).sum(-1)
    return (log_p - log_p[..., :1]).var(-1, correction=0)


class Coefficient(nn.Module):
    """alpha_pen that adapts so that the mean of alpha_pen u comes to ``target`` (algorithms 4.3, ``auto``).

        log alpha <- log alpha + rate (1 - alpha mean(u) / target), the last factor cut to +-1

    A module, so that checkpoints hold it.
    """

    settings = ("log_alpha",)  # another run's belongs to its own penalties (``init=RUN``)
    log_alpha: Tensor

    def __init__(self, alpha: float, target: float, rate: float) -> None:
        super().__init__()
        self.target, self.rate = target, rate
        self.register_buffer("log_alpha", torch.tensor(alpha).log())

    @property
    def alpha(self) -> Tensor:
        """alpha_pen, ()."""
        return self.log_alpha.exp()

    @torch.no_grad()
    def adapt(self, u: Tensor) -> None:
        """One step on penalties u of imagined pairs, of any shape."""
        self.log_alpha += self.rate * (1 - self.alpha * u.mean() / self.target).clamp(-1, 1)


@dataclass(frozen=True)
class Penalty:
    """A penalty and its coefficient alpha_pen >= 0. ``u`` maps HeadStats (..., K, S) to (...); None means no
    penalty. ``coefficient``: one that adapts, ``fixed`` is only where it began.
    """

    name: str
    fixed: float
    u: Callable[[HeadStats], Tensor] | None
    needs_std: bool = False
    coefficient: Coefficient | None = None

    @property
    def alpha(self) -> float | Tensor:
        """alpha_pen as it is now."""
        return self.fixed if self.coefficient is None else self.coefficient.alpha

    def adapt(self, u: Tensor) -> None:
        """Let an adaptive coefficient take note of the penalties of imagined pairs."""
        if self.coefficient is not None:
            self.coefficient.adapt(u)


_TABLE: dict[str, tuple[Callable[[HeadStats], Tensor] | None, bool]] = {
    "none": (None, False),
    "ens_std_mean": (ens_std_mean, False),
    "max_aleatoric": (max_aleatoric, True),
    "ens_var": (ens_var, True),
    "ens_std": (ens_std, True),
    "max_pairwise": (max_pairwise, False),
    "max_dev": (max_dev, False),
    "ens_var_drawn": (ens_var_drawn, True),
    "ens_std_drawn": (ens_std_drawn, True),
    "loglik_var": (loglik_var, True),
}


def make_penalty(name: str, alpha: float, target: float | None = None, rate: float = 1e-3) -> Penalty:
    """Look a penalty up by name. ``target``: adapt alpha, from the given one on, so that mean(alpha u) is this.

    Raises ValueError for an unknown name, a negative coefficient, or a target that nothing can reach.
    """
    if name not in _TABLE:
        raise ValueError(f"penalty.name: {name!r} is none of {', '.join(_TABLE)}")
    if alpha < 0:
        raise ValueError(f"penalty.alpha: {alpha} is negative; penalties are positive and subtracted once")
    if target is None:
        return Penalty(name, float(alpha), *_TABLE[name])
    if target <= 0 or alpha <= 0 or _TABLE[name][0] is None:
        raise ValueError(f"penalty.target: {target} is reached with a penalty, a target and a first alpha above 0 only")
    return Penalty(name, float(alpha), *_TABLE[name], Coefficient(float(alpha), float(target), rate))
