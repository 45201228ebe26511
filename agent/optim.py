"""Dreamer's Adam (algorithms 1.7)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Optimiser:
    """Adam with global-norm clipping and a decoupled decay w <- (1 - wd) w that does not depend on the learning rate.

    AdamW multiplies by (1 - lr * weight_decay), so weight_decay = wd / lr. Returns the gradient norm as a tensor: no synchronisation.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, clip: float, eps: float, wd: float) -> None:
        self.params = list(params)
        self.clip = clip
        cuda = bool(self.params) and self.params[0].is_cuda
        self.adam = torch.optim.AdamW(self.params, lr=lr, eps=eps, weight_decay=wd / lr, fused=True, capturable=cuda)

    def step(self, loss: Tensor) -> Tensor:
        """Differentiate ``loss``, clip, update; gradients of other parameters are not touched."""
        grads = torch.autograd.grad(loss, self.params, allow_unused=True)
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g
        norm = nn.utils.clip_grad_norm_(self.params, self.clip)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return norm
