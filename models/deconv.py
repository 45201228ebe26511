"""Transposed convolutions of stride 2 whose passes are quick on a processor; elsewhere, PyTorch's own.

oneDNN, which computes them on processors, is slow in three places that these networks meet: odd kernels, few output
channels, and the bias's gradient. The same numbers come sooner from other products (two cores with AVX-512 and bf16,
1600 pictures: forward 0.41 -> 0.19 s for 5x5 kernels, 0.24 -> 0.08 s for 3 channels; bias 0.20 -> 0.01 s).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEW = 4  # output channels up to which the sub-pixel form is the quicker one


class ConvTranspose2(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d(inputs, outputs, kernel, stride=2)``: (n, I, h, w) -> (n, O, 2 (h - 1) + kernel, ...).

    Differentiable once on processors.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, 2)

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """Apply it; weight and bias are taken in the input's type."""
        assert self.bias is not None and output_size is None
        if input.device.type != "cpu":
            return super().forward(input)
        y: Tensor = _ConvTranspose2.apply(input, self.weight.to(input.dtype), self.bias.to(input.dtype))
        return y


def _sub_pixel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """For even k. A pixel sees every other kernel element in either direction, so four kernels of half the size give
    the four pixels of each 2 x 2 block at once.
    """
    i, o, k, _ = weight.shape
    half = k // 2
    blocks = weight.view(i, o, half, 2, half, 2).flip(2, 4).permute(1, 3, 5, 0, 2, 4)  # (O, 2, 2, I, k/2, k/2)
    kernel = blocks.reshape(4 * o, i, half, half).contiguous(memory_format=torch.channels_last)
    return F.pixel_shuffle(F.conv2d(x, kernel, bias.repeat_interleave(4), padding=half - 1), 2)


class _ConvTranspose2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        k = weight.shape[-1]
        if k % 2 == 0 and weight.shape[1] <= FEW:
            y = _sub_pixel(x, weight, bias)
        elif k % 2:  # with a row and a column of zeros, whose products are cut off again
            even = F.pad(weight, (0, 1, 0, 1)).contiguous(memory_format=torch.channels_last)
            y = F.conv_transpose2d(x, even, bias, 2)[..., :-1, :-1]
        else:
            y = F.conv_transpose2d(x, weight, bias, 2)
        return y.contiguous(memory_format=torch.channels_last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        dx = F.conv2d(grad, weight, None, 2) if ctx.needs_input_grad[0] else None
        dw = db = None
        if ctx.needs_input_grad[1]:
            # the adjoint of a convolution: its weight's gradient with input and output gradient exchanged
            dw = torch.ops.aten.convolution_backward(
                x, grad, weight, None, [2, 2], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
            )[1]
        if ctx.needs_input_grad[2]:
            rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
            db = (rows.new_ones(1, len(rows)) @ rows)[0]
        return dx, dw, db
