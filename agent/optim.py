"""Dreamer's Adam and optimistic Adam (algorithms 1.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class OAdam(torch.optim.Optimizer):
    """Optimistic Adam (Daskalakis et al. 2018, arXiv:1711.00141, as in HyPE's code; algorithms 1.7).

    With d = m / (sqrt(v) + eps), m and v Adam's moments, and eta = lr sqrt(1 - beta2^t) / (1 - beta1^t):

        w <- w - eta_t (2 d_t - d_{t-1}),    d_0 = 0

    so that a fresh optimiser's first step is about -2 lr sign(g). ``weight_decay`` as in AdamW, before the step.

    saw: where it is not 0, lr falls linearly, from its value in the first of ``saw`` steps to 1 / saw of it in the
    last; then it begins again, without moments (HyPE's saw-tooth; algorithms 3.5). The rate is a function of the saved
    count of steps, computed on the device. The decay keeps its size.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        eps: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        saw: int = 0,
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay, "betas": betas, "saw": saw})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient. All state is tensors on the device: no synchronisation.

        Raises ValueError when given a closure.
        """
        if closure is not None:
            raise ValueError("OAdam: closures are not supported")
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["count"] = torch.zeros((), device=p.device)
                    for name in ("mean", "square", "direction"):
                        state[name] = torch.zeros_like(p)
                count, mean, square, direction = (state[k] for k in ("count", "mean", "square", "direction"))
                rate = group["lr"]
                if group["saw"] > 0:
                    young = count < group["saw"]
                    for kept in (count, mean, square, direction):
                        kept.mul_(young)
                    rate = rate * (1 - count / group["saw"])
                count += 1
                eta = rate * (1 - beta2**count).sqrt() / (1 - beta1**count)
                p.mul_(1 - group["lr"] * group["weight_decay"]).addcmul_(direction, eta)
                mean.lerp_(p.grad, 1 - beta1)
                square.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                torch.sqrt(square, out=direction).add_(group["eps"])
                torch.div(mean, direction, out=direction)
                p.addcmul_(direction, eta, value=-2)


class Optimiser:
    """Adam with global-norm clipping and a decoupled decay w <- (1 - wd) w that does not depend on the learning rate.

    AdamW multiplies by (1 - lr * weight_decay), so weight_decay = wd / lr. ``kind``: "adam", or "oadam" with the same
    clipping and decay.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        clip: float,
        eps: float,
        wd: float,
        l2: float = 0.0,
        kind: str = "adam",
        saw: int = 0,
    ) -> None:
        """lr: stays in ``self.lr`` whatever ``rate`` sets. l2: coefficient of 1/2 ||w||^2 in the loss, which Adam
        rescales with the rest of the gradient (``weight_decay`` of plain Adam). saw: see ``OAdam``. Raises ValueError
        on other kinds, and for a saw of plain Adam, whose rate is no tensor.
        """
        if kind not in ("adam", "oadam"):
            raise ValueError(f"optim.kind: {kind!r} is none of adam, oadam")
        if saw < 0 or (saw > 0 and kind != "oadam"):
            raise ValueError(f"optim.saw: {saw} updates a tooth: a number above 0, with kind=oadam; or 0")
        self.params = list(params)
        self.lr, self.clip, self.wd, self.l2 = lr, clip, wd, l2
        self.shared: Callable[[list[nn.Parameter]], None] | None = None  # averages gradients (agent.parallel)
        cuda = bool(self.params) and self.params[0].is_cuda
        self.adam: torch.optim.Optimizer
        if kind == "oadam":
            self.adam = OAdam(self.params, lr=lr, eps=eps, weight_decay=wd / lr, saw=saw)
        else:
            self.adam = torch.optim.AdamW(
                self.params, lr=lr, eps=eps, weight_decay=wd / lr, fused=True, capturable=cuda
            )

    def restart(self, lr: float) -> None:
        """Forget all moments and go on with learning rate ``lr`` (HyPE's reward player, each round)."""
        self.adam.state.clear()
        self.rate(lr)

    def rate(self, lr: float | None = None) -> None:
        """Go on with learning rate ``lr``, with its own again when there is none; moments stay."""
        lr = self.lr if lr is None else lr
        for group in self.adam.param_groups:
            group["lr"], group["weight_decay"] = lr, self.wd / lr

    def state_dict(self) -> dict[str, Any]:
        """Moments, counts and rates, for a checkpoint."""
        return self.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``. Files hold moments row by row; here they lie in memory as their parameters do,
        because the fused update walks through both.
        """
        kept = [group.get("capturable") for group in self.adam.param_groups]
        self.adam.load_state_dict(state)
        for group, capturable in zip(self.adam.param_groups, kept, strict=True):
            if capturable is not None:  # belongs to the device, which may be another one than the checkpoint's
                group["capturable"] = capturable
        for p, held in self.adam.state.items():
            for name, value in held.items():
                if isinstance(value, Tensor) and value.shape == p.shape and value.stride() != p.stride():
                    held[name] = torch.empty_like(p).copy_(value)

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
            # the fused update walks through memory: a gradient with other strides would go to the wrong weights
            p.grad = g if g is None or g.stride() == p.stride() else torch.empty_like(p).copy_(g)
        if self.shared is not None:
            self.shared(self.params)

    @torch.no_grad()
    def apply(self) -> Tensor:
        """Clip and update. Returns the gradient norm before clipping as a tensor: no synchronisation."""
        moved: list[Tensor] = [p for p in self.params if p.grad is not None]
        if not moved:
            return torch.zeros((), device=self.params[0].device)
        # torch's clip_grad_norm_ and zero_grad, without their walks and checks
        grads = [p.grad for p in moved if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        torch._foreach_mul_(grads, (self.clip / (norm + 1e-6)).clamp(max=1.0))
        if self.l2 > 0:
            torch._foreach_add_(grads, moved, alpha=self.l2)
        self.adam.step()
        for p in moved:
            p.grad = None
        return norm
