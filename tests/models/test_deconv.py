"""Transposed convolutions, value and gradients, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.deconv import FEW, ConvTranspose2


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "size"),
    [(8, 6, 5, 5), (8, 6, 6, 13), (8, 3, 6, 30), (4, FEW, 4, 3), (4, 2, 5, 1), (3, 5, 4, 2)],
    ids=["odd", "even", "few outputs", "few outputs, small", "odd, few outputs", "even, small"],
)
def test_every_form_is_the_transposed_convolution(inputs: int, outputs: int, kernel: int, size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, inputs, size, size, dtype=torch.float64, requires_grad=True)
    layer = ConvTranspose2(inputs, outputs, kernel).double()
    ours, theirs = layer(x), F.conv_transpose2d(x, layer.weight, layer.bias, 2)
    torch.testing.assert_close(ours, theirs)
    along = torch.randn_like(theirs)
    for a, b in zip(*(torch.autograd.grad(y, [x, *layer.parameters()], along) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_only_gradients_that_are_wanted_are_computed() -> None:
    x, layer = torch.randn(2, 3, 4, 4, requires_grad=True), ConvTranspose2(3, 2, 5).requires_grad_(False)
    layer(x).sum().backward()
    expected = torch.autograd.grad(F.conv_transpose2d(x, layer.weight, None, 2).sum(), x)[0]
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, expected)
