"""Dreamer's Adam and optimistic Adam (algorithms 1.7, 5.6.6, 5.6.7)."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from agent import checkpoint
from agent.optim import Optimiser
from tests.agent.learner import OPTIM
from tests.models.tiny import numbers


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def optimiser(*params: nn.Parameter, **options: Any) -> Optimiser:
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


def test_what_belongs_to_the_device_stays_when_a_checkpoint_comes_from_another() -> None:
    """``capturable`` is true on CUDA alone, where a graph of updates could not be captured without it."""
    a, b = optimiser(nn.Parameter(numbers(3))), optimiser(nn.Parameter(numbers(3)))
    saved = copy.deepcopy(a.state_dict())
    b.adam.param_groups[0]["capturable"] = True
    b.load_state_dict(saved)
    assert b.adam.param_groups[0]["capturable"] is True
    a.load_state_dict(copy.deepcopy(b.state_dict()))
    assert a.adam.param_groups[0]["capturable"] is False


@pytest.mark.parametrize("kind", ["adam", "oadam"])
def test_gradients_reach_their_own_weights_whatever_their_strides(kind: str) -> None:
    """The fused update ignores strides, and autograd.grad returns what the backward pass happened to lay out."""
    w, direction = nn.Parameter(torch.zeros(3, 5)), numbers(5, 3)
    opt = optimiser(w, kind=kind, lr=0.1, wd=0.0, eps=1e-8)
    loss = (w.t().contiguous() * direction).sum()
    assert torch.autograd.grad(loss, w, retain_graph=True)[0].stride() != w.stride(), "or the test shows nothing"
    opt.step(loss)
    assert torch.equal(w.detach().sign(), -direction.t().sign())


@pytest.mark.parametrize("kind", ["adam", "oadam"])
def test_a_resumed_step_is_the_same_for_weights_of_other_strides(kind: str, tmp_path: Path) -> None:
    """Checkpoints hold moments row by row, and the fused update walks through memory."""
    whole = nn.Parameter(numbers(3, 4).t())
    cut = nn.Parameter(whole.detach().clone(memory_format=torch.preserve_format))
    assert not cut.is_contiguous(), "or the test shows nothing"
    slope = numbers(4, 3, seed=1)
    first = optimiser(whole, kind=kind)
    for _ in range(2):
        first.step((slope * whole).sum())
    begun = optimiser(cut, kind=kind)
    begun.step((slope * cut).sum())
    checkpoint.save(tmp_path, {"step": 1, "optimisers": {"w": begun.state_dict()}}, fingerprint={})
    back = checkpoint.load(tmp_path)
    assert back is not None
    resumed = optimiser(cut, kind=kind)
    resumed.load_state_dict(back["optimisers"]["w"])
    resumed.step((slope * cut).sum())
    assert torch.equal(cut, whole)


def test_two_optimistic_steps_by_hand() -> None:
    lr, eps, beta1, beta2 = 0.1, 1e-3, 0.9, 0.999
    w, m, v = 2.0, 0.0, 0.0
    p = parameter(w)
    opt = optimiser(p, kind="oadam", lr=lr, eps=eps, wd=0.0)
    for t, g in ((1, 0.5), (2, -3.0)):
        eta = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        w += eta * m / (v**0.5 + eps)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        w -= 2 * eta * m / (v**0.5 + eps)
        opt.step((g * p).sum())
        assert p.item() == pytest.approx(w, rel=1e-5)


def test_first_optimistic_step_is_twice_the_sign() -> None:
    p, g = nn.Parameter(numbers(4, 3)), numbers(4, 3, seed=1)
    before = p.detach().clone()
    optimiser(p, kind="oadam", lr=0.01, eps=1e-8, wd=0.0).step((p * g).sum())
    torch.testing.assert_close(p.detach() - before, -0.02 * g.sign(), rtol=1e-3, atol=1e-5)


def test_optimistic_adam_decays_like_adam_and_leaves_the_unused() -> None:
    w, unused = parameter(2.0), parameter(5.0)
    opt = optimiser(w, unused, kind="oadam", lr=0.5, wd=0.1)
    opt.step((0 * w).sum())
    assert w.item() == pytest.approx(1.8) and unused.item() == 5.0


@pytest.mark.parametrize("kind", ["adam", "oadam"])
def test_restart_forgets_the_moments_and_keeps_the_decay(kind: str) -> None:
    w, size = parameter(0.0), 2 if kind == "oadam" else 1
    opt = optimiser(w, kind=kind, lr=0.5, eps=1e-8, wd=0.0)
    for _ in range(3):
        opt.step(-7 * w.sum())
    with torch.no_grad():
        w.zero_()
    opt.restart(0.25)
    assert opt.lr == 0.5, "later rounds divide the configured rate"
    opt.step(w.sum())
    assert w.item() == pytest.approx(-0.25 * size, rel=1e-4)
    decayed = parameter(2.0)
    opt = optimiser(decayed, kind=kind, lr=0.5, wd=0.1)
    opt.restart(0.05)
    opt.step((0 * decayed).sum())
    assert decayed.item() == pytest.approx(1.8)


def test_optimistic_state_survives_a_file() -> None:
    a, b = nn.Parameter(numbers(3)), nn.Parameter(numbers(3))
    one, two = optimiser(a, kind="oadam"), optimiser(b, kind="oadam")
    one.step(a.square().sum())
    with torch.no_grad():
        b.copy_(a)
    file = io.BytesIO()
    torch.save(one.adam.state_dict(), file)
    file.seek(0)
    two.adam.load_state_dict(torch.load(file, weights_only=True))
    for opt, p in ((one, a), (two, b)):
        opt.step((p * 3).sum())
    assert torch.equal(a, b)


def test_a_saw_tooth_is_a_falling_rate_and_a_fresh_optimiser() -> None:
    """Algorithms 3.5: HyPE's policy, whose optimisers are made anew in each round. The decay does not fall."""
    a, b, lr, teeth = parameter(2.0, -1.0), parameter(2.0, -1.0), 0.1, 3
    given: dict[str, Any] = {"kind": "oadam", "lr": lr, "eps": 1e-3, "wd": 0.1}
    saw, plain = optimiser(a, **given, saw=teeth), optimiser(b, **given)
    for k in range(2 * teeth + 1):
        scale = 1.0 + k * (-1) ** k
        rate = lr * (1 - k % teeth / teeth)
        if k % teeth == 0:
            plain.restart(rate)
        for group in plain.adam.param_groups:
            group["lr"], group["weight_decay"] = rate, plain.wd / rate
        for opt, p in ((saw, a), (plain, b)):
            opt.step((scale * p * torch.tensor([1.0, 0.5])).sum())
        torch.testing.assert_close(a.data, b.data)


@pytest.mark.parametrize("before", [2, 3, 4])
def test_a_saw_tooth_goes_on_where_it_was(before: int) -> None:
    """The rate is a function of the saved count: in the middle of a tooth, between two, at the beginning of one."""
    whole, parts = nn.Parameter(numbers(3)), nn.Parameter(numbers(3))
    one, two = (optimiser(p, kind="oadam", lr=0.1, saw=3) for p in (whole, parts))
    for k in range(7):
        one.step((whole * (k - 3)).sum())
        if k == before:
            file = io.BytesIO()
            torch.save(two.adam.state_dict(), file)
            file.seek(0)
            two = optimiser(parts, kind="oadam", lr=0.1, saw=3)
            two.adam.load_state_dict(torch.load(file, weights_only=True))
        two.step((parts * (k - 3)).sum())
    assert torch.equal(whole, parts)


def test_kinds_and_closures_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"optim\.saw: 5 updates a tooth: .* kind=oadam"):
        optimiser(parameter(0.0), saw=5)
    with pytest.raises(ValueError, match=r"optim\.saw: -1"):
        optimiser(parameter(0.0), kind="oadam", saw=-1)
    with pytest.raises(ValueError, match="none of adam, oadam"):
        optimiser(parameter(0.0), kind="sgd")
    with pytest.raises(ValueError, match="closures"):
        optimiser(parameter(0.0), kind="oadam").adam.step(lambda: 0.0)
