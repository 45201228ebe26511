"""Lambda-returns."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_return(reward: Tensor, value: Tensor, discount: Tensor | float, lambda_: float) -> Tensor:
    """R_k for k = 0..N-1 of N rewards and N+1 values; ``value[N]`` bootstraps (algorithms 2.7, CMIL eq. 11).

    reward: (N, ...), value: (N+1, ...), discount: (N, ...) or a number -> (N, ...).

        k        0     1     2   ...   N-1    N
        reward   r0    r1    r2        r_{N-1}
        value    (v0)  v1    v2        v_{N-1} v_N      R_N = v_N;  R_k = r_k + d_k [(1-lambda) v_{k+1} + lambda
        R_{k+1}]
    """
    n = reward.shape[0]
    if value.shape[0] != n + 1:
        raise ValueError(f"lambda_return needs one more value than rewards, got {value.shape[0]} and {n}")
    steps = [discount] * n if isinstance(discount, float | int) else list(discount)
    out: list[Tensor] = []
    ahead = value[n]
    for k in reversed(range(n)):
        ahead = reward[k] + steps[k] * ((1 - lambda_) * value[k + 1] + lambda_ * ahead)
        out.append(ahead)
    return torch.stack(out[::-1])
