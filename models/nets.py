"""Networks: MLP, stacked (ensemble) MLP, image encoder and decoder. Keras-style initialisation (algorithms 1.7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.deconv import ConvTranspose2


def glorot_(weight: Tensor, fan_in: int, fan_out: int) -> Tensor:
    """Glorot-uniform in place: the default of Dense and Conv layers in the official (Keras) code."""
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    with torch.no_grad():
        return weight.uniform_(-bound, bound)


def linear(fan_in: int, fan_out: int, bias: bool = True) -> nn.Linear:
    """A Linear layer with Glorot-uniform weights and zero bias."""
    layer = nn.Linear(fan_in, fan_out, bias=bias)
    glorot_(layer.weight, fan_in, fan_out)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


@contextmanager
def frozen(*modules: nn.Module | None) -> Iterator[None]:
    """Gradients pass through these modules to their inputs, never to their weights."""
    params = [p for m in modules if m is not None for p in m.parameters() if p.requires_grad]
    for p in params:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in params:
            p.requires_grad_(True)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"elu": F.elu, "relu": F.relu}
# their gradients need the result alone, and take a third of the time from it
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {"elu": partial(F.elu, inplace=True), "relu": F.relu_}
_ACTIVATION_MODULES: dict[str, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU}


def known(act: str) -> str:
    """The name of an activation. Raises ValueError when there is none of that name."""
    if act not in ACTIVATIONS:
        raise ValueError(f"act: {act!r} is none of {', '.join(ACTIVATIONS)}")
    return act


class MLP(nn.Sequential):
    """``layers`` hidden layers of ``hidden`` units, then a linear output: (..., n_in) -> (..., n_out)."""

    def __init__(self, n_in: int, n_out: int, *, hidden: int, layers: int, act: str = "elu") -> None:
        sizes = [n_in] + [hidden] * layers
        modules: list[nn.Module] = []
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            modules += [linear(a, b), _ACTIVATION_MODULES[known(act)]()]
        super().__init__(*modules, linear(sizes[-1], n_out))


class StackedLinear(nn.Module):
    """K independent Linear layers in one batched product: (K, N, n_in) or (N, n_in) -> (K, N, n_out)."""

    def __init__(self, members: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(glorot_(torch.empty(members, n_in, n_out), n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(members, 1, n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Apply member k to x[k] (or every member to the shared x)."""
        k, n_in, n_out = self.weight.shape
        if x.dim() == 2 and n_in <= 128 and x.device.type == "cpu":
            x = x.expand(k, -1, -1)  # copies of so small an input cost less than the wide product's transposed output
        if x.dim() == 2:  # one wide product instead of K copies of the input
            y = F.linear(x, self.weight.transpose(1, 2).reshape(k * n_out, n_in), self.bias.flatten())
            return y.view(x.shape[0], k, n_out).transpose(0, 1)
        if n_out == 1 and x.device.type == "cpu":
            # with one column, forward and backward together take less than half the time of a batched product
            return (x * self.weight.mT).sum(-1, keepdim=True) + self.bias
        return torch.baddbmm(self.bias.to(x.dtype), x, self.weight.to(x.dtype))


class StackedMLP(nn.Module):
    """K independent MLPs with one output each, evaluated together: (..., n_in) -> (K, ...).

    ``norm``: layer normalisation (without learned scale) before every activation. It bounds the output off the data by
    the norm of the last weights, which keeps critics that learn many times for each new transition from running away
    (Ball et al. 2023, arXiv:2302.02948).
    """

    def __init__(
        self, members: int, n_in: int, *, hidden: int, layers: int, act: str = "elu", norm: bool = False
    ) -> None:
        super().__init__()
        self.act, self.norm = ACTIVATIONS[known(act)], norm
        sizes = [n_in] + [hidden] * layers + [1]
        self.layers = nn.ModuleList(StackedLinear(members, a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Scalars of all members, float32."""
        lead = x.shape[:-1]
        y = x.reshape(-1, x.shape[-1])
        *hidden, last = self.layers
        for layer in hidden:
            y = layer(y)
            y = self.act(F.layer_norm(y, y.shape[-1:]) if self.norm else y)
        with torch.autocast(y.device.type, enabled=False):  # bf16 would round a value of 50 to quarters
            return last(y.float()).reshape(-1, *lead)


def _init_conv(conv: nn.Conv2d | nn.ConvTranspose2d, fan_in: int, fan_out: int) -> None:
    glorot_(conv.weight, fan_in, fan_out)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)


class Encoder(nn.Module):
    """Four stride-2 convolutions, 64 -> 31 -> 14 -> 6 -> 2 (algorithms 2.1): (n, 64, 64, C) uint8 -> (n, 32 depth)."""

    def __init__(self, depth: int, channels: int = 3, act: str = "elu") -> None:
        super().__init__()
        self.act = IN_PLACE[known(act)]
        sizes = [channels, depth, 2 * depth, 4 * depth, 8 * depth]
        convs = [nn.Conv2d(a, b, 4, 2) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        for conv in convs:
            _init_conv(conv, conv.in_channels * 16, conv.out_channels * 16)
        self.convs = nn.ModuleList(convs)
        self.size = 32 * depth

    def forward(self, image: Tensor) -> Tensor:
        """Channels-last frames to flat embeddings; x/255 - 0.5 before the first convolution (algorithms 1.6).

        The permuted view is already in channels_last memory: no copy but the conversion to the type that products use.
        """
        kind = image.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        x = image.permute(0, 3, 1, 2).to(dtype).sub_(127.5).mul_(1 / 255)
        *convs, last = self.convs
        assert isinstance(last, nn.Conv2d)
        for conv in convs:
            x = self.act(conv(x))
        # a 2 x 2 output is one matrix product over four windows; as a convolution its backward pass takes twice as long
        rows = x.permute(0, 2, 3, 1)
        windows = [rows[:, i : i + 4, j : j + 4].flatten(1) for i in (0, 2) for j in (0, 2)]
        weight = last.weight.permute(0, 2, 3, 1).flatten(1)
        return self.act(F.linear(torch.stack(windows), weight, last.bias)).permute(1, 2, 0).flatten(1)


class Decoder(nn.Module):
    """Linear, then four transposed convolutions 1 -> 5 -> 13 -> 30 -> 64 (algorithms 2.1): (n, F) -> (n, 64, 64, 3)."""

    def __init__(self, n_in: int, depth: int, channels: int = 3, act: str = "elu") -> None:
        super().__init__()
        self.act = IN_PLACE[known(act)]
        self.input = linear(n_in, 32 * depth)
        sizes = [32 * depth, 4 * depth, 2 * depth, depth, channels]
        kernels = [5, 5, 6, 6]
        convs = [ConvTranspose2(a, b, k) for a, b, k in zip(sizes[:-1], sizes[1:], kernels, strict=True)]
        for conv, k in zip(convs, kernels, strict=True):
            _init_conv(conv, conv.in_channels * k * k, conv.out_channels * k * k)
        self.first, self.convs = convs[0], nn.ModuleList(convs[1:])

    def forward(self, feat: Tensor) -> Tensor:
        """Mean of a unit-variance Gaussian over pixels in [-.5, .5]."""
        # On a 1x1 input a transposed convolution is one matrix product; as a convolution its backward pass is many
        # times slower.
        weight = self.first.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (5 * 5 * out, in)
        bias = None if self.first.bias is None else self.first.bias.repeat(25)
        x = self.act(F.linear(self.input(feat), weight, bias)).unflatten(-1, (5, 5, -1)).permute(0, 3, 1, 2)
        *convs, last = self.convs
        for conv in convs:
            x = self.act(conv(x))
        return last(x).permute(0, 2, 3, 1)


def random_shift(image: Tensor, pad: int) -> Tensor:
    """Shift each chunk by up to ``pad`` pixels, edges repeated: (B, T, 64, 64, C) -> same; one shift for a whole chunk.

    The augmentation of DrQ (random crops of the padded frame), constant in time so that motion stays motion.
    """
    if pad == 0:
        return image
    b, _, h, w, c = image.shape
    offset = torch.randint(-pad, pad + 1, (2, b, 1), device=image.device)
    each = torch.arange(b, device=image.device)[:, None]
    rows = (torch.arange(h, device=image.device) + offset[0]).clamp(0, h - 1)  # (B, h)
    left, right = (image[..., i : i + 1, :].expand(-1, -1, -1, pad, -1) for i in (0, w - 1))
    padded = torch.cat([left, image, right], -2).flatten(-2)
    # every horizontal shift is a window of the padded rows, so that whole rows of w * c bytes are copied at once
    windows = padded.unfold(-1, w * c, c).permute(0, 3, 2, 1, 4)  # (B, 2 pad + 1, h, T, w * c)
    return windows[each, offset[1] + pad, rows].transpose(1, 2).unflatten(-1, (w, c))
