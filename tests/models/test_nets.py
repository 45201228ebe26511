"""Networks: shapes, initialisation, ensembles, freezing, augmentation (algorithms 1.6, 1.7, 2.1, 5.2.4)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.actor_critic import Actor, Critics
from models.nets import MLP, Decoder, Encoder, StackedLinear, StackedMLP, frozen, random_shift
from tests.models.tiny import numbers


def frames(*lead: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*lead, 64, 64, 3), generator=g, dtype=torch.uint8)


def same_with_gradients(net: nn.Module, found: torch.Tensor, expected: torch.Tensor) -> None:
    """The values, and the gradients of all weights along one direction."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    along = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(y, list(net.parameters()), along) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_encoder_halves_four_times_to_2x2_and_flattens() -> None:
    encoder = Encoder(48)
    sizes: list[tuple[int, ...]] = []
    for conv in encoder.convs:
        conv.register_forward_hook(lambda module, args, out: sizes.append(tuple(out.shape[1:])))
    embed = encoder(frames(1))  # the last layer, 6 -> 2, is a product without its module
    assert sizes == [(48, 31, 31), (96, 14, 14), (192, 6, 6)] and encoder.convs[-1].out_channels == 384
    assert embed.shape == (1, 1536) and encoder.size == 1536


@pytest.mark.parametrize("act", ["elu", "relu"])
def test_encoder_sees_pixels_in_minus_half_to_half(act: str) -> None:
    torch.manual_seed(0)
    encoder, image = Encoder(2, act=act), frames(2)
    before = image.clone()
    x = image.permute(0, 3, 1, 2).float() / 255 - 0.5
    for conv in encoder.convs:
        x = getattr(F, act)(F.conv2d(x, conv.weight, conv.bias, stride=2))
    same_with_gradients(encoder, encoder(image), x.flatten(1))
    assert torch.equal(image, before)


def deconvolutions(decoder: Decoder) -> list[nn.ConvTranspose2d]:
    return [module for module in decoder.modules() if isinstance(module, nn.ConvTranspose2d)]


@pytest.mark.parametrize("act", ["elu", "relu"])
def test_decoder_is_the_chain_of_transposed_convolutions(act: str) -> None:
    torch.manual_seed(0)
    decoder = Decoder(10, 2, act=act)
    convs = deconvolutions(decoder)
    with torch.no_grad():
        for conv in convs:
            conv.bias.normal_()
    feat = numbers(3, 10)
    x = decoder.input(feat)[:, :, None, None]  # no activation between the linear layer and the first deconvolution
    sizes = []
    for i, conv in enumerate(convs):
        x = F.conv_transpose2d(x if i == 0 else getattr(F, act)(x), conv.weight, conv.bias, stride=2)
        sizes.append(x.shape[-1])
    assert sizes == [5, 13, 30, 64]
    found = decoder(feat)
    assert found.shape == (3, 64, 64, 3)
    same_with_gradients(decoder, found, x.permute(0, 2, 3, 1))


def test_decoder_sizes_of_the_paper() -> None:
    decoder = Decoder(7, 48)
    assert [c.out_channels for c in deconvolutions(decoder)] == [192, 96, 48, 3]
    assert [c.kernel_size[0] for c in deconvolutions(decoder)] == [5, 5, 6, 6]
    assert decoder.input.out_features == 1536


@pytest.mark.parametrize("module", [MLP(40, 8, hidden=60, layers=1), StackedMLP(3, 40, hidden=60, layers=1)])
def test_linear_layers_start_glorot_uniform_with_zero_bias(module: nn.Module) -> None:
    weights = [p for n, p in module.named_parameters() if "weight" in n]
    biases = [p for n, p in module.named_parameters() if "bias" in n]
    assert all(not b.any() for b in biases)
    bound = math.sqrt(6 / (40 + 60))
    assert weights[0].abs().max() <= bound
    assert weights[0].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_mlp_counts_hidden_layers() -> None:
    net = MLP(4, 3, hidden=5, layers=2)
    assert [type(m) for m in net] == [nn.Linear, nn.ELU, nn.Linear, nn.ELU, nn.Linear]
    assert net(torch.zeros(2, 7, 4)).shape == (2, 7, 3)


def test_stacked_layers_equal_their_members() -> None:
    torch.manual_seed(0)
    layer = StackedLinear(3, 4, 5)
    with torch.no_grad():
        layer.bias.normal_()
    x, own = numbers(6, 4), numbers(3, 6, 4, seed=1)
    shared, each = layer(x), layer(own)
    for k in range(3):
        torch.testing.assert_close(shared[k], x @ layer.weight[k] + layer.bias[k])
        torch.testing.assert_close(each[k], own[k] @ layer.weight[k] + layer.bias[k])
    net = StackedMLP(3, 4, hidden=5, layers=2)
    out = net(numbers(2, 6, 4))
    assert out.shape == (3, 2, 6)
    for k in range(3):
        y = numbers(2, 6, 4)
        for i, part in enumerate(net.layers):
            y = y @ part.weight[k] + part.bias[k]
            y = F.elu(y) if i < 2 else y
        torch.testing.assert_close(out[k], y[..., 0])


def test_layer_normalisation_bounds_values_far_from_the_data() -> None:
    """Hidden units have norm sqrt(n) whatever the input: |Q| <= sqrt(n) |last weights| + |bias|, per member."""
    net, plain = (StackedMLP(2, 4, hidden=16, layers=2, act="relu", norm=norm) for norm in (True, False))
    plain.load_state_dict(net.state_dict())
    x = numbers(50, 4)
    y = x
    for part in net.layers[:-1]:
        y = y @ part.weight[0] + part.bias[0]
        y = F.relu((y - y.mean(-1, keepdim=True)) / torch.sqrt(y.var(-1, unbiased=False, keepdim=True) + 1e-5))
    torch.testing.assert_close(net(x)[0], (y @ net.layers[-1].weight[0] + net.layers[-1].bias[0])[:, 0])
    bound = 4 * net.layers[-1].weight.norm(dim=(1, 2)) + net.layers[-1].bias.abs()[:, 0, 0]
    assert (net(1e4 * x).abs() <= bound[:, None]).all() and not (plain(1e4 * x).abs() <= bound[:, None]).all()


def test_values_are_not_rounded_to_bf16() -> None:
    """Between 32 and 64 bf16 has steps of a quarter: whole TD errors."""
    torch.manual_seed(0)
    net = StackedMLP(2, 4, hidden=16, layers=2, act="relu")
    with torch.no_grad():
        net.layers[-1].bias.fill_(50.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = net(numbers(200, 4))
    assert value.dtype == torch.float32 and len(value[0].unique()) > 150
    assert (value[0] != value[0].bfloat16().float()).float().mean() > 0.9


def test_members_of_an_ensemble_start_different() -> None:
    out = StackedMLP(2, 4, hidden=5, layers=2)(numbers(6, 4))
    assert (out[0] - out[1]).abs().min() > 1e-4


def test_actor_and_critics_shapes() -> None:
    feat, action = numbers(2, 3, 10), numbers(2, 3, 4)
    dist = Actor(10, 4, hidden=8, layers=4)(feat)
    assert dist.loc.shape == (2, 3, 4) and dist.entropy().shape == (2, 3)
    assert Critics(10, 4, number=2, hidden=8, layers=4)(feat, action).shape == (2, 2, 3)
    values = Critics(10, 0, number=1, hidden=8, layers=4)
    assert torch.equal(values(feat, action), values(feat, -action)), "V ignores the action"


def test_frozen_modules_pass_gradients_to_their_inputs_only() -> None:
    net, x = MLP(3, 1, hidden=4, layers=1), numbers(5, 3).requires_grad_()
    next(net.parameters()).requires_grad_(False)  # was not trainable before: is not afterwards
    with frozen(net, None):
        y = net(x).sum()
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]
    assert torch.autograd.grad(y, x, retain_graph=True)[0].any()
    grads = torch.autograd.grad(y, [p for p in net.parameters() if p.requires_grad], allow_unused=True)
    assert all(g is None for g in grads)
    with pytest.raises(RuntimeError, match="stop"), frozen(net):
        raise RuntimeError("stop")
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]


# ---------------------------------------------------------------------- augmentation


def test_random_shift_moves_a_whole_chunk_alike_and_repeats_edges() -> None:
    torch.manual_seed(0)
    pad, image = 3, frames(40, 1).expand(40, 4, 64, 64, 3)
    shifted = random_shift(image, pad)
    assert shifted.shape == image.shape and shifted.dtype == torch.uint8
    assert all(torch.equal(shifted[:, 0], shifted[:, t]) for t in range(4)), "constant in time: motion stays motion"
    padded = F.pad(image[:, 0].permute(0, 3, 1, 2).float(), (pad,) * 4, mode="replicate").permute(0, 2, 3, 1)
    found = set()
    for b in range(40):
        matches = [
            (i, j)
            for i in range(2 * pad + 1)
            for j in range(2 * pad + 1)
            if torch.equal(padded[b, i : i + 64, j : j + 64], shifted[b, 0].float())
        ]
        assert len(matches) == 1
        found.add(matches[0])
    assert len(found) > 15, "each chunk draws its own shift"
    assert {0, 2 * pad} <= {i for i, _ in found} and {0, 2 * pad} <= {j for _, j in found}


def test_no_padding_changes_nothing() -> None:
    image = frames(2, 3)
    assert torch.equal(random_shift(image, 0), image)
