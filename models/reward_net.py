"""Scalar networks h(feat, a) and cost ensembles f(feat, a) behind the learned rewards, and what their losses share
(algorithms 2.4).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nets import StackedLinear, linear

ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}


class RewardNet(nn.Module):
    """h: concatenated [feat, a] (..., F + A) -> (...), float32; higher = more expert-like."""

    def __init__(self, n_in: int, *, hidden: int, layers: int, act: str = "elu") -> None:
        """act: elu, tanh (DAC), relu, silu (CLARE). Raises ValueError for another one."""
        super().__init__()
        if act not in ACTIVATIONS:
            raise ValueError(f"reward.act: {act!r} is none of {', '.join(ACTIVATIONS)}")
        sizes = [n_in, *[hidden] * layers]
        modules: list[nn.Module] = []
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            modules += [linear(a, b), ACTIVATIONS[act]()]
        self.net = nn.Sequential(*modules, linear(sizes[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logit of "expert"."""
        return self.net(x).float().squeeze(-1)


class RatioNet(nn.Module):
    """log of a density ratio: ``blocks`` residual layers h <- h + tanh(W h) of ``hidden`` units (f-IRL's classifier).

    (..., F) -> (...), float32; higher = more expert-like.
    """

    def __init__(self, n_in: int, *, hidden: int, blocks: int) -> None:
        super().__init__()
        self.first, self.last = linear(n_in, hidden), linear(hidden, 1)
        self.blocks = nn.ModuleList(linear(hidden, hidden) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Logit of "expert"."""
        h = torch.tanh(self.first(x))
        for block in self.blocks:
            h = h + torch.tanh(block(h))
        return self.last(h).float().squeeze(-1)


class CostNet(nn.Module):
    """K independent costs f_k (lower = more expert-like), ReLU, orthogonal weights, no output activation (HyPE code).

    clip: soft bound c, f = c tanh(f_raw / c), so that a gradient is left beyond it; 0: none.
    """

    def __init__(self, n_in: int, *, members: int, hidden: int, layers: int, clip: float = 0.0) -> None:
        super().__init__()
        self.members, self.clip = members, clip
        sizes = [n_in, *[hidden] * layers, 1]
        stacked = [StackedLinear(members, a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        for layer in stacked:
            for k in range(members):
                nn.init.orthogonal_(layer.weight[k])
        self.layers = nn.ModuleList(stacked)

    def forward(self, x: Tensor) -> Tensor:
        """Every member on the same inputs: (..., X) -> (K, ...), float32."""
        return self.each(x.reshape(-1, x.shape[-1])).reshape(-1, *x.shape[:-1])

    def each(self, x: Tensor) -> Tensor:
        """Member k on its own rows: (K, n, X) -> (K, n), float32. (n, X) stands for the same rows for all."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        f = last(x).float().squeeze(-1)
        return self.clip * torch.tanh(f / self.clip) if self.clip > 0 else f


class RunningMoments(nn.Module):
    """Mean and standard deviation of vectors (n, X), experts and policy counting half each; 0 and 1 before any data.

    A plain average of the batches at first, later an exponential one with ``rate`` for the newest. ``floor``: least
    standard deviation, so that entries which hardly move are not blown up to noise.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, size: int, *, rate: float, floor: float) -> None:
        super().__init__()
        self.rate, self.floor = rate, floor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def update(self, expert: Tensor, policy: Tensor, expert_weight: Tensor, policy_weight: Tensor) -> None:
        """Take in a batch (n, X), (m, X) with weights (n,), (m,); nothing where either has no weight."""
        kinds = (expert, expert_weight[:, None]), (policy, policy_weight[:, None])
        mean = sum((0.5 * weighted_mean(x, w, 0) for x, w in kinds), start=torch.zeros_like(self.mean))
        var = sum((0.5 * weighted_mean((x - mean).square(), w, 0) for x, w in kinds), start=torch.zeros_like(self.var))
        there = both_present(expert_weight, policy_weight)
        self.count += there
        rate = there * (1 / self.count.clamp_min(1)).clamp_min(self.rate)
        self.mean.lerp_(mean, rate)
        self.var.lerp_(var, rate)

    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / std, of the same shape (..., X)."""
        return (x - self.mean) / self.var.sqrt().clamp_min(self.floor)


class Anchor(RunningMoments):
    """Rewards less the running mean of the policy's own, plus one standard deviation of those: what ends an episode
    (reward 0 ever after) is worse than going on as the policy does. Without it the offset of a reward that only
    compares decides between clinging to life and suicide (algorithms 1.4, 3.5).
    """

    def __init__(self, rate: float) -> None:
        super().__init__(1, rate=rate, floor=1e-6)

    def take(self, own: Tensor, weight: Tensor) -> None:
        """The policy's rewards (n,), before they are shifted, with weights (n,)."""
        self.update(own[:, None], own[:, None], weight, weight)

    def forward(self, r: Tensor) -> Tensor:
        """Shifted rewards, of the same shape (...)."""
        return r - (self.mean - self.var.sqrt()).squeeze(0)


# D = sigmoid(h) is the probability of "expert"; every map is increasing in h (algorithms 2.4)
REWARD_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "prob": torch.sigmoid,  # D in (0, 1): CMIL and V-MAIL code
    "logit": lambda h: h,  # log D - log(1 - D): CMIL paper eq. 10, DAC, AIRL
    "softplus": F.softplus,  # -log(1 - D) >= 0: GAIL
    "log_d": lambda h: -F.softplus(-h),  # log D <= 0
}


def weighted_mean(x: Tensor, weight: Tensor, dim: int = -1) -> Tensor:
    """Mean of x along ``dim`` with weights that sum to anything >= 0 (broadcast over the rest); 0 without weight."""
    return (x * weight).sum(dim) / weight.sum(dim).clamp_min(1e-6)


def both_present(expert_weight: Tensor, policy_weight: Tensor) -> Tensor:
    """Scalar 1 if both kinds have a pair that counts, else 0."""
    return ((expert_weight.sum() > 0) & (policy_weight.sum() > 0)).float()


def bce_loss(expert: Tensor, policy: Tensor, expert_weight: Tensor, policy_weight: Tensor) -> Tensor:
    """-E_E[log D] - E_pi[log(1 - D)] from logits; both means weighted. 0 while only one kind is there: against nothing,
    every pair would be called the expert's.
    """
    both = weighted_mean(F.softplus(-expert), expert_weight) + weighted_mean(F.softplus(policy), policy_weight)
    return both * both_present(expert_weight, policy_weight)


def interpolates(expert: Tensor, policy: Tensor) -> tuple[Tensor, Tensor]:
    """eps x_E + (1 - eps) x_pi with eps ~ U(0, 1) a row and x_pi drawn from the policy's rows, and its row numbers.

    (n, X), (m, X) -> (n, X) that collects gradients, (n,).
    """
    pick = torch.randint(policy.shape[0], (expert.shape[0],), device=expert.device)
    eps = torch.rand(expert.shape[0], 1, device=expert.device)
    return (eps * expert + (1 - eps) * policy[pick]).requires_grad_(True), pick


def steepness(value: Tensor, x: Tensor) -> Tensor:
    """||d value / d x|| of every row of x (..., X), for values that depend on their own row alone: (...), with
    gradients.
    """
    (grad,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return torch.sqrt(grad.square().sum(-1) + 1e-12)
