"""Lambda-returns (algorithms 2.7, 5.6.1)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.returns import lambda_return
from tests.models.tiny import numbers


def n_step(reward: Tensor, value: Tensor, gamma: float, k: int, n: int) -> Tensor:
    """G_k^(n): n rewards from k on, then the value of row k + n."""
    return sum((gamma**i * reward[k + i] for i in range(n)), start=gamma**n * value[k + n])


def brute_force(reward: Tensor, value: Tensor, gamma: float, lambda_: float) -> Tensor:
    """CMIL eq. 11: the exponentially weighted mixture of all n-step returns, the longest with the remaining weight."""
    n = len(reward)
    out = []
    for k in range(n):
        left = n - k
        total = lambda_ ** (left - 1) * n_step(reward, value, gamma, k, left)
        for m in range(1, left):
            total = total + (1 - lambda_) * lambda_ ** (m - 1) * n_step(reward, value, gamma, k, m)
        out.append(total)
    return torch.stack(out)


def fixture(n: int = 7) -> tuple[Tensor, Tensor]:
    return numbers(n, 3, dtype=torch.float64), numbers(n + 1, 3, seed=1, dtype=torch.float64)


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_lambda_return_is_the_mixture_of_n_step_returns(n: int, lambda_: float) -> None:
    reward, value = fixture(n)
    torch.testing.assert_close(lambda_return(reward, value, 0.9, lambda_), brute_force(reward, value, 0.9, lambda_))


def test_lambda_zero_is_one_step_and_lambda_one_is_monte_carlo() -> None:
    reward, value = fixture()
    torch.testing.assert_close(lambda_return(reward, value, 0.9, 0.0), reward + 0.9 * value[1:])
    total = value[-1]
    for k in reversed(range(7)):
        total = reward[k] + 0.9 * total
        torch.testing.assert_close(lambda_return(reward, value, 0.9, 1.0)[k], total)


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_constant_reward_with_its_true_value_is_a_fixed_point(lambda_: float) -> None:
    value = torch.full((9,), 2.0 / (1 - 0.9), dtype=torch.float64)
    torch.testing.assert_close(lambda_return(torch.full((8,), 2.0).double(), value, 0.9, lambda_), value[:-1])


def test_constant_reward_with_zero_values_has_the_closed_form() -> None:
    n, x = 8, 0.9 * 0.95
    found = lambda_return(torch.ones(n, dtype=torch.float64), torch.zeros(n + 1, dtype=torch.float64), 0.9, 0.95)
    expected = [(1 - x ** (n - k)) / (1 - x) for k in range(n)]
    assert found.tolist() == pytest.approx(expected)


def test_a_zero_discount_stops_credit() -> None:
    reward, value = fixture()
    discount = torch.full((7, 3), 0.9, dtype=torch.float64)
    discount[3] = 0.0
    found = lambda_return(reward, value, discount, 0.95)
    torch.testing.assert_close(found[3], reward[3])
    later = reward.clone(), value.clone()
    later[0][4:] += 5.0
    later[1][4:] += 5.0
    torch.testing.assert_close(lambda_return(*later, discount, 0.95)[:4], found[:4])
    torch.testing.assert_close(lambda_return(reward, value, torch.full((7, 3), 0.9).double(), 0.95)[4:], found[4:])


def test_gradients_reach_every_reward_and_value_that_counts() -> None:
    reward, value = (x.requires_grad_() for x in fixture())
    by_reward, by_value = torch.autograd.grad(lambda_return(reward, value, 0.9, 0.95)[0].sum(), (reward, value))
    assert by_reward[:, 0].tolist() == pytest.approx([(0.9 * 0.95) ** k for k in range(7)])
    assert not by_value[0].any() and (by_value[1:] != 0).all(), "v_0 is no part of R_0"


def test_wrong_number_of_values_is_told() -> None:
    with pytest.raises(ValueError, match="one more value than rewards, got 7 and 7"):
        lambda_return(torch.zeros(7), torch.zeros(7), 0.9, 0.9)
