"""Penalties: definitions, the square-root trap, symmetry, scale, the one place of the sign (algorithms 2.3, 5.3)."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

from agent import penalties
from agent.imagine import penalised
from agent.penalties import make_penalty
from models.latent import HeadStats
from tests.models.tiny import numbers

DISAGREEMENT = ("ens_std_mean", "max_pairwise", "max_dev")
ALL = (*DISAGREEMENT, "max_aleatoric", "ens_var", "ens_std")
DRAWN = ("ens_var_drawn", "ens_std_drawn", "loglik_var")  # estimates, from one sample of every member


def stats(n: int = 4, k: int = 5, d: int = 3, *, dtype: torch.dtype = torch.float64) -> HeadStats:
    return HeadStats(numbers(n, k, d, dtype=dtype), torch.sigmoid(numbers(n, k, d, seed=1, dtype=dtype)) + 0.1)


def u(name: str, given: HeadStats) -> Tensor:
    penalty = make_penalty(name, 1.0)
    assert penalty.u is not None
    return penalty.u(given if penalty.needs_std else dataclasses.replace(given, std=None))


def brute_force(name: str, mean: list[list[float]], std: list[list[float]]) -> float:
    """One state-action pair in plain Python: mean and std of K members over d dimensions."""
    k, d = len(mean), len(mean[0])
    centre = [sum(m[j] for m in mean) / k for j in range(d)]
    spread = [sum((m[j] - centre[j]) ** 2 for m in mean) / k for j in range(d)]
    total = [sum(s[j] ** 2 for s in std) / k + spread[j] for j in range(d)]
    if name == "ens_std_mean":
        return sum(math.sqrt(v) for v in spread) / d
    if name == "max_pairwise":
        return max(math.dist(a, b) for a, b in itertools.combinations(mean, 2))
    if name == "max_dev":
        return max(math.dist(m, centre) for m in mean)
    if name == "max_aleatoric":
        return max(math.hypot(*s) for s in std)
    if name == "ens_var":
        return sum(total) / d
    assert name == "ens_std"
    return sum(math.sqrt(v) for v in total) / d


@pytest.mark.parametrize("name", ALL)
def test_penalty_is_its_definition(name: str) -> None:
    given = stats()
    assert given.std is not None
    expected = [brute_force(name, m, s) for m, s in zip(given.mean.tolist(), given.std.tolist(), strict=True)]
    assert u(name, given).tolist() == pytest.approx(expected, rel=1e-9)


def test_every_penalty_is_tested() -> None:
    assert set(penalties._TABLE) == {*ALL, *DRAWN, "none"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [2, 3, 5, 7, 10])
@pytest.mark.parametrize("name", DISAGREEMENT)
def test_identical_members_do_not_disagree_and_have_finite_gradients(name: str, k: int, dtype: torch.dtype) -> None:
    mean = numbers(50, 1, 8, dtype=dtype).expand(50, k, 8).clone().requires_grad_()
    found = u(name, HeadStats(mean))
    assert not found.any(), "exactly zero, also after rounding"
    (grad,) = torch.autograd.grad(found.sum(), mean)
    assert bool(grad.isfinite().all()) and not grad.any()


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_where_some_dimensions_agree(name: str) -> None:
    given = stats(dtype=torch.float32)
    mean = given.mean.clone()
    mean[:, :, 0] = 0.3
    mean[0] = mean[0, :1]
    assert given.std is not None
    leaves = mean.requires_grad_(), given.std.clone().requires_grad_()
    grads = torch.autograd.grad(u(name, HeadStats(*leaves)).sum(), leaves, allow_unused=True)
    assert any(g is not None for g in grads)
    assert all(g is None or bool(g.isfinite().all()) for g in grads)


@pytest.mark.parametrize("name", ["ens_std_mean", "max_pairwise", "max_dev", "ens_var", "ens_std"])
def test_gradient_by_finite_differences(name: str) -> None:
    given = stats(n=2, k=3, d=2)
    assert torch.autograd.gradcheck(
        lambda mean: u(name, HeadStats(mean, given.std)), given.mean.clone().requires_grad_(), eps=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("name", ALL)
def test_order_of_the_members_does_not_matter(name: str) -> None:
    given = stats()
    assert given.std is not None
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(u(name, HeadStats(given.mean[:, order], given.std[:, order])), u(name, given))


@pytest.mark.parametrize("name", ALL)
def test_scale_and_translation(name: str) -> None:
    given = stats()
    assert given.std is not None
    power = 2 if name == "ens_var" else 1
    torch.testing.assert_close(u(name, HeadStats(3 * given.mean, 3 * given.std)), 3**power * u(name, given))
    torch.testing.assert_close(u(name, HeadStats(given.mean + 5, given.std)), u(name, given))


@pytest.mark.parametrize("name", ALL)
def test_shape_is_the_batch(name: str) -> None:
    given = HeadStats(numbers(2, 4, 5, 3), torch.ones(2, 4, 5, 3))
    assert u(name, given).shape == (2, 4)


@pytest.mark.parametrize("name", (*ALL, *DRAWN))
def test_penalised_reward_never_exceeds_the_reward_and_falls_with_alpha(name: str) -> None:
    given, reward = stats(n=200), numbers(200, seed=2, dtype=torch.float64)
    torch.manual_seed(0)
    amount = u(name, given)
    assert amount.shape == (200,) and bool((amount >= 0).all())
    used = [penalised(reward, amount, make_penalty(name, alpha)) for alpha in (0.0, 0.5, 1.0, 10.0)]
    assert torch.equal(used[0], reward)
    for low, high in itertools.pairwise(used):
        assert bool((high < low).all())
    torch.testing.assert_close(used[3], reward - 10 * amount)


# ---------------------------------------------------------------------- penalties of sampled next states


def many(mean: list[list[float]], std: list[list[float]], n: int = 200_000) -> HeadStats:
    """The same members (K, S) in n rows."""
    torch.manual_seed(0)
    return HeadStats(*(torch.tensor(x, dtype=torch.float64).expand(n, -1, -1) for x in (mean, std)))


def test_drawn_variances_count_the_aleatoric_part_twice() -> None:
    """E Var_i(y_i) = mean sigma^2 + the unbiased Var_i(mu_i), in every dimension."""
    mean, std = [[0.0, 1.0], [1.0, 1.0], [2.0, 4.0]], [[0.5, 1.0], [1.0, 2.0], [0.5, 1.0]]
    expected = [2 * 0.5 + 1.0, 2 * 2.0 + 3.0]
    found = u("ens_var_drawn", many(mean, std))
    assert found.mean().item() == pytest.approx(sum(expected) / 2, rel=0.01)
    given = many([[0.0], [0.0]], [[1.0], [1.0]])
    torch.manual_seed(1)
    squared = u("ens_std_drawn", given).square()
    torch.manual_seed(1)
    torch.testing.assert_close(squared, u("ens_var_drawn", given))


def test_likelihoods_of_a_sample_differ_as_much_as_the_members() -> None:
    """N(m, 1) and N(-m, 1): log p_1 - log p_2 = 2 m s, so that E u = m^2 E s^2 = m^2 (m^2 + 1), in any units."""
    m = 0.7
    for unit in (1.0, 100.0):
        found = u("loglik_var", many([[m * unit], [-m * unit]], [[unit], [unit]]))
        assert found.mean().item() == pytest.approx(m**2 * (m**2 + 1), rel=0.02)
    assert not u("loglik_var", many([[m, 2.0]] * 3, [[0.3, 5.0]] * 3, n=50)).any(), "who agrees is certain"


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_penalties_are_positive_with_finite_gradients(name: str) -> None:
    given = stats(n=50)
    assert given.std is not None
    leaves = given.mean.clone().requires_grad_(), given.std.clone().requires_grad_()
    found = u(name, HeadStats(*leaves))
    assert found.shape == (50,) and bool((found >= 0).all())
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(found.sum(), leaves))
    assert u(name, HeadStats(numbers(2, 4, 5, 3), torch.ones(2, 4, 5, 3))).shape == (2, 4)


def test_no_penalty_is_no_function() -> None:
    none = make_penalty("none", 0.0)
    assert none.u is None and not none.needs_std


def test_bad_penalties_are_told() -> None:
    with pytest.raises(ValueError, match=r"penalty\.name: 'ens_st' is none of none, ens_std_mean"):
        make_penalty("ens_st", 1.0)
    with pytest.raises(ValueError, match=r"penalty\.alpha: -1.* is negative"):
        make_penalty("ens_std_mean", -1.0)


def test_heads_compute_a_std_only_where_it_is_needed() -> None:
    needs = {name for name in (*ALL, *DRAWN) if make_penalty(name, 1.0).needs_std}
    assert needs == {"max_aleatoric", "ens_var", "ens_std", *DRAWN}


# ---------------------------------------------------------------------- a coefficient that adapts


@pytest.mark.parametrize(("u", "target", "alpha"), [(0.5, 1.0, 1.0), (4.0, 0.1, 3.0), (0.01, 0.5, 0.5)])
def test_an_adaptive_coefficient_converges_to_its_target(u: float, target: float, alpha: float) -> None:
    """Algorithms 5.3.6, on a constant stream, from above and from below."""
    penalty = make_penalty("ens_std", alpha, target, rate=0.02)
    assert penalty.coefficient is not None and float(penalty.alpha) == pytest.approx(alpha)
    gaps = []
    for _ in range(800):
        penalty.adapt(torch.full((7, 3), u))
        gaps.append(abs(float(penalty.alpha) * u - target))
    assert gaps[-1] < 1e-3 * target
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(gaps)), "without overshooting"


def test_where_nothing_is_uncertain_the_coefficient_grows_slowly() -> None:
    """u = 0 has no answer: a step of at most ``rate``, never infinity."""
    penalty = make_penalty("ens_std", 1.0, 1.0, rate=0.1)
    for _ in range(10):
        penalty.adapt(torch.zeros(5))
    assert float(penalty.alpha) == pytest.approx(math.exp(1.0))
    penalty.adapt(torch.full((5,), 1e9))
    assert float(penalty.alpha) == pytest.approx(math.exp(0.9)), "nor does one bad rollout end all penalties"


def test_the_adaptive_coefficient_is_the_one_that_is_used() -> None:
    penalty = make_penalty("ens_std", 2.0, 1.0)
    torch.testing.assert_close(penalised(torch.ones(3), torch.ones(3), penalty), torch.full((3,), -1.0))
    fixed = make_penalty("ens_std", 2.0)
    fixed.adapt(torch.full((3,), 1e6))
    assert fixed.alpha == 2.0


def test_targets_that_nothing_reaches_are_refused() -> None:
    for given in (("none", 0.0, 1.0), ("ens_std", 0.0, 1.0), ("ens_std", 1.0, 0.0)):
        with pytest.raises(ValueError, match=r"penalty\.target"):
            make_penalty(*given)
