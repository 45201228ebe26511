"""Dreamer's Adam (algorithms 1.7)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Optimiser:
    """Adam with global-norm clipping and a decoupled decay w <- (1 - wd) w that does not depend on the learning rate.

    AdamW multiplies by (1 - lr * weight_decay), so weight_decay = wd / lr.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, clip: float, eps: float, wd: float) -> None:
        self.params = list(params)
        self.clip = clip
        cuda = bool(self.params) and self.params[0].is_cuda
        self.adam = torch.optim.AdamW(self.params, lr=lr, eps=eps, weight_decay=wd / lr, fused=True, capturable=cuda)

    def step(self, loss: Tensor) -> Tensor:
        """``differentiate`` and ``apply``."""
        self.differentiate(loss)
        return self.apply()

    def differentiate(self, loss: Tensor) -> None:
        """Gradients of ``loss`` for ``apply``; gradients of other parameters are not touched.

        Losses that share weights are all differentiated before any optimiser moves: the fused update changes weights
        without autograd noticing, so a later backward pass through them would silently use the new values.
        """
        grads = torch.autograd.grad(loss, self.params, allow_unused=True)
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g

    def apply(self) -> Tensor:
        """Clip and update. Returns the gradient norm before clipping as a tensor: no synchronisation."""
        norm = nn.utils.clip_grad_norm_(self.params, self.clip)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return norm
