"""Dreamer's Adam (algorithms 1.7, 5.6.7)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from agent.optim import Optimiser
from tests.agent.learner import OPTIM
from tests.models.tiny import numbers


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def optimiser(*params: nn.Parameter, **options: float) -> Optimiser:
    return Optimiser(params, **(OPTIM | options))


@pytest.mark.parametrize("lr", [1e-4, 1e-2, 1.0])
def test_decay_does_not_depend_on_the_learning_rate(lr: float) -> None:
    w = parameter(2.0, -3.0)
    opt = optimiser(w, lr=lr, wd=0.1)
    for _ in range(2):
        opt.step((0 * w).sum())  # no gradient: only the decay moves the weights
    torch.testing.assert_close(w.data, torch.tensor([2.0, -3.0]) * 0.9**2)


def test_decay_is_applied_before_the_step() -> None:
    w = parameter(2.0)
    optimiser(w, lr=0.5, wd=0.1, eps=1e-8).step(w.sum())
    assert w.item() == pytest.approx(0.9 * 2.0 - 0.5, rel=1e-5)  # Adam's first step has the size of lr


def test_steps_are_those_of_adam_with_the_given_eps() -> None:
    ours, theirs = parameter(1.0, -2.0), parameter(1.0, -2.0)
    opt, adam = optimiser(ours, wd=0.0, eps=1e-2), torch.optim.Adam([theirs], lr=1e-3, eps=1e-2)
    for scale in (1.0, -0.3, 0.01):
        opt.step((scale * ours.square()).sum())
        adam.zero_grad()
        (scale * theirs.square()).sum().backward()
        adam.step()
    torch.testing.assert_close(ours.data, theirs.data)


def test_gradients_are_clipped_by_their_global_norm() -> None:
    a, b = parameter(0.0), parameter(0.0)
    opt = optimiser(
        a, b, clip=1.0, eps=1e3, lr=1.0, wd=0.0
    )  # a huge eps makes Adam's step proportional to the gradient
    norm = opt.step(30 * a.sum() + 40 * b.sum())
    assert norm.item() == pytest.approx(50.0), "reported before clipping"
    assert (a / b).item() == pytest.approx(0.75, rel=1e-3) and a.item() == pytest.approx(-0.6 / 1e3, rel=1e-2)
    assert opt.params[0].grad is None


def test_other_parameters_are_not_touched() -> None:
    own, other = parameter(1.0), parameter(1.0)
    other.grad = torch.tensor([7.0])
    unused = parameter(5.0)
    optimiser(own, unused).step((own * other).sum())
    assert own.item() != 1.0 and other.item() == 1.0 and other.grad.item() == 7.0
    assert unused.item() == 5.0, "what the loss does not depend on stays"


def test_differentiate_and_apply_are_the_two_halves_of_a_step() -> None:
    """Both losses see the weights of before: the fused update would otherwise change them behind autograd's back."""
    w, v = parameter(2.0), parameter(3.0)
    first, second = optimiser(w, lr=0.5, wd=0.0), optimiser(v, lr=0.5, wd=0.0, eps=1e3)
    loss = (w * v).sum()
    first.differentiate(loss.clone())
    second.differentiate((w * v).sum())
    assert w.item() == 2.0 and v.item() == 3.0
    first.apply()
    second.apply()
    assert w.item() == pytest.approx(1.5, rel=1e-5) and v.item() == pytest.approx(3.0 - 0.5 * 2.0 / 1e3, rel=1e-5)


def test_state_survives_a_round_trip() -> None:
    a, b = nn.Parameter(numbers(3)), nn.Parameter(numbers(3))
    one, two = optimiser(a), optimiser(b)
    one.step(a.square().sum())
    with torch.no_grad():
        b.copy_(a)
    two.adam.load_state_dict(copy.deepcopy(one.adam.state_dict()))
    one.step((a * 3).sum())
    two.step((b * 3).sum())
    assert torch.equal(a, b)
