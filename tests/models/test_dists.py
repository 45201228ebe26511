"""Latent distributions and the policy heads (algorithms 2.1, 2.5, 2.6, 5.2.8)."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from models.dists import (
    ACTION_CLIP,
    CategoricalLatent,
    GaussianLatent,
    Idle,
    PointMass,
    SquashedNormal,
    TruncatedNormal,
)
from tests.models.tiny import numbers

CASES = [(0.0, 0.1), (0.0, 2.1), (0.7, 0.3), (-0.95, 0.1), (0.999999, 0.1), (-1.0, 2.1), (1.0, 1.1)]


def single(loc: float, std: float, n: int = 1, dtype: torch.dtype = torch.float64) -> TruncatedNormal:
    """n independent one-dimensional copies: log_prob and entropy are (n,)."""
    return TruncatedNormal(torch.full((n, 1), loc, dtype=dtype), torch.full((n, 1), std, dtype=dtype))


def reference(loc: float, std: float) -> stats.rv_continuous:
    return stats.truncnorm((-1 - loc) / std, (1 - loc) / std, loc, std)


# ---------------------------------------------------------------------- truncated normal


@pytest.mark.parametrize(("loc", "std"), CASES)
def test_density_integrates_to_one_and_is_the_truncated_normal(loc: float, std: float) -> None:
    x = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    log_prob = single(loc, std, len(x)).log_prob(x[:, None])
    assert float(torch.trapezoid(log_prob.exp(), x)) == pytest.approx(1.0, abs=1e-6)
    assert log_prob.numpy() == pytest.approx(reference(loc, std).logpdf(x.numpy()), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("loc", "std"), CASES)
def test_samples_lie_inside_and_follow_the_distribution(loc: float, std: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = single(loc, std, 4000, dtype).rsample()
    assert float(x.abs().max()) < 1.0
    assert stats.kstest(x.flatten().numpy(), reference(loc, std).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("loc", "std"), CASES)
def test_entropy_is_that_of_the_samples(loc: float, std: float) -> None:
    torch.manual_seed(0)
    dist = single(loc, std, 20000)
    estimate = -dist.log_prob(dist.rsample())
    exact = float(dist.entropy()[0])
    assert exact == pytest.approx(float(reference(loc, std).entropy()), abs=1e-8)
    assert abs(float(estimate.mean()) - exact) < 4 * float(estimate.std()) / math.sqrt(20000) + 1e-4


def test_log_prob_and_entropy_sum_over_action_dimensions() -> None:
    loc, std = torch.tensor([[0.2, -0.4, 0.9]]), torch.tensor([[0.3, 1.0, 0.2]])
    x = torch.tensor([[0.1, 0.5, -0.2]])
    parts = [TruncatedNormal(loc[:, i : i + 1], std[:, i : i + 1]) for i in range(3)]
    whole = TruncatedNormal(loc, std)
    torch.testing.assert_close(whole.entropy(), torch.stack([p.entropy() for p in parts]).sum(0))
    torch.testing.assert_close(
        whole.log_prob(x), torch.stack([p.log_prob(x[:, i : i + 1]) for i, p in enumerate(parts)]).sum(0)
    )


def sample_at(loc: Tensor, std: Tensor) -> Tensor:
    """A reparameterised sample with the same uniform draw at every call."""
    torch.manual_seed(7)
    return TruncatedNormal(loc, std).rsample()


def test_gradient_of_the_sample_by_finite_differences() -> None:
    loc = torch.tanh(numbers(64, dtype=torch.float64)).requires_grad_()
    std = (0.15 + 1.8 * torch.sigmoid(numbers(64, seed=1, dtype=torch.float64))).requires_grad_()
    grads = torch.autograd.grad(sample_at(loc, std).sum(), (loc, std))
    eps = 1e-5
    with torch.no_grad():
        by_loc = (sample_at(loc + eps, std) - sample_at(loc - eps, std)) / (2 * eps)
        by_std = (sample_at(loc, std + eps) - sample_at(loc, std - eps)) / (2 * eps)
    torch.testing.assert_close(grads[0], by_loc, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(grads[1], by_std, rtol=1e-5, atol=1e-7)


def test_clipping_a_sample_does_not_stop_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    # An untruncated draw far outside, as rounding could produce it: the value is clipped, the gradient is not.
    monkeypatch.setattr(torch.special, "ndtri", lambda u: 0 * u + 5.0)
    loc = torch.tensor([0.5], requires_grad=True)
    x = TruncatedNormal(loc, torch.tensor([0.3])).rsample()
    assert x.item() == pytest.approx(ACTION_CLIP, abs=2e-7) and x.item() < 1
    assert float(torch.autograd.grad(x.sum(), loc)[0]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("edge", [-1.0, 1.0])
def test_log_prob_and_its_gradient_are_finite_at_clipped_demo_actions(edge: float) -> None:
    raw = torch.cat([torch.linspace(-30, 30, 61), torch.linspace(-40, 40, 61)])
    raw = torch.stack([raw.roll(3), raw.flip(0)], -1).requires_grad_()  # (n, 2): one action dimension
    action = torch.full((len(raw), 1), edge).clamp(-ACTION_CLIP, ACTION_CLIP)
    log_prob = TruncatedNormal.from_raw(raw).log_prob(action)
    (grad,) = torch.autograd.grad(log_prob.sum(), raw)
    assert bool(log_prob.isfinite().all()) and bool(grad.isfinite().all())
    entropy = TruncatedNormal.from_raw(raw).entropy()
    assert bool(entropy.isfinite().all())
    assert bool(torch.autograd.grad(entropy.sum(), raw)[0].isfinite().all())


def test_raw_outputs_become_loc_and_std() -> None:
    dist = TruncatedNormal.from_raw(torch.tensor([[0.5, -50.0, 0.0, 50.0]]), min_std=0.1)
    assert dist.loc.tolist()[0] == pytest.approx([math.tanh(0.5), -1.0])
    assert dist.std.tolist()[0] == pytest.approx([1.1, 2.1])
    assert TruncatedNormal.from_raw(torch.tensor([[0.0, -90.0]]), min_std=0.1).std.item() == pytest.approx(0.1)
    assert dist.mode()[0, 1].item() > -1.0, "the mode lies in the open interval"
    assert dist.mode()[0, 0].item() == pytest.approx(math.tanh(0.5))


# ---------------------------------------------------------------------- squashed normal

SQUASHED = [(0.0, 0.3), (0.0, 1.0), (0.8, 0.5), (-1.5, 0.1)]


def squashed(mean: float, std: float, n: int = 1, dtype: torch.dtype = torch.float64) -> SquashedNormal:
    """n independent one-dimensional copies."""
    return SquashedNormal(torch.full((n, 1), mean, dtype=dtype), torch.full((n, 1), math.log(std), dtype=dtype))


def test_squashed_kl_is_that_of_the_densities() -> None:
    """Against quadrature over actions, two dimensions with the same parameters: twice one dimension's."""
    p, q = squashed(0.3, 0.4), squashed(-0.2, 0.7)
    x = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1, None]
    log_p, log_q = p.log_prob(x), q.log_prob(x)
    expected = torch.trapezoid(log_p.exp() * (log_p - log_q), x[:, 0]).item()
    assert p.kl(q).item() == pytest.approx(expected, rel=1e-4)
    both = [SquashedNormal(d.mean.expand(1, 2), d.log_std.expand(1, 2)) for d in (p, q)]
    assert both[0].kl(both[1]).item() == pytest.approx(2 * expected, rel=1e-4)
    assert p.kl(p).item() == 0.0
    idle = Idle(p, torch.tensor([[1.0]], dtype=torch.float64))
    assert idle.kl(q).item() == 0.0


@pytest.mark.parametrize(("mean", "std"), SQUASHED)
def test_squashed_density_integrates_to_one_and_obeys_the_change_of_variables(mean: float, std: float) -> None:
    x = torch.linspace(-1, 1, 20001, dtype=torch.float64)[1:-1]
    log_prob = squashed(mean, std, len(x)).log_prob(x[:, None])
    assert float(torch.trapezoid(log_prob.exp(), x)) == pytest.approx(1.0, abs=1e-3)
    normal = torch.distributions.Normal(torch.tensor(mean).to(x), torch.tensor(std, dtype=x.dtype))
    torch.testing.assert_close(log_prob, normal.log_prob(torch.atanh(x)) - torch.log1p(-x.square()))


@pytest.mark.parametrize(("mean", "std"), SQUASHED)
def test_squashed_samples_follow_the_distribution_and_know_their_density(mean: float, std: float) -> None:
    torch.manual_seed(0)
    x, log_prob = squashed(mean, std, 4000).rsample_with_log_prob()
    assert stats.kstest(torch.atanh(x).flatten().numpy(), stats.norm(mean, std).cdf).pvalue > 1e-3
    torch.testing.assert_close(log_prob, squashed(mean, std, 4000).log_prob(x))
    entropy = squashed(mean, std, 4000).entropy()
    assert float(entropy.mean()) == pytest.approx(-float(log_prob.mean()), abs=5 * float(log_prob.std()) / 4000**0.5)


def test_squashed_density_of_a_sample_survives_saturation() -> None:
    """tanh(12) is 1 in float32, where the action no longer tells u."""
    torch.manual_seed(0)
    x, log_prob = squashed(12.0, 0.5, 500, torch.float32).rsample_with_log_prob()
    assert float(x.max()) == 1.0 and bool(log_prob.isfinite().all())
    # log N(u) - log(1 - tanh(u)^2), and for large u the latter is log 4 - 2 u
    assert float(log_prob.mean()) == pytest.approx(
        -0.5 - math.log(0.5 * math.sqrt(2 * math.pi)) + 24 - math.log(4), abs=0.3
    )


@pytest.mark.parametrize("edge", [-1.0, -ACTION_CLIP, ACTION_CLIP, 1.0])
def test_squashed_log_prob_and_its_gradient_are_finite_at_clipped_demo_actions(edge: float) -> None:
    raw = torch.stack([torch.linspace(-30, 30, 61), torch.linspace(-40, 40, 61).roll(7)], -1).requires_grad_()
    log_prob = SquashedNormal.from_raw(raw).log_prob(torch.full((61, 1), edge))
    (grad,) = torch.autograd.grad(log_prob.sum(), raw)
    assert bool(log_prob.isfinite().all()) and bool(grad.isfinite().all())


def test_squashed_raw_outputs_mode_and_sums() -> None:
    dist = SquashedNormal.from_raw(torch.tensor([[0.5, 30.0, -9.0, 9.0]]), -5.0, 2.0)
    assert dist.std.tolist()[0] == pytest.approx([math.exp(-5), math.exp(2)])
    assert dist.mode()[0, 0].item() == pytest.approx(math.tanh(0.5)) and dist.mode()[0, 1].item() < 1.0
    x = torch.tensor([[0.1, -0.6]])
    parts = [
        SquashedNormal(dist.mean[:, i : i + 1], dist.log_std[:, i : i + 1]).log_prob(x[:, i : i + 1]) for i in (0, 1)
    ]
    torch.testing.assert_close(dist.log_prob(x), parts[0] + parts[1])


def test_squashed_sample_has_the_gradient_of_the_change_of_variables() -> None:
    mean, log_std = torch.tensor([[0.3]], requires_grad=True), torch.tensor([[-0.5]], requires_grad=True)
    torch.manual_seed(3)
    x = SquashedNormal(mean, log_std).rsample()
    slope = 1 - x.item() ** 2
    grads = torch.autograd.grad(x.sum(), (mean, log_std))
    assert grads[0].item() == pytest.approx(slope, rel=1e-4)
    assert grads[1].item() == pytest.approx(slope * (math.atanh(x.item()) - 0.3), rel=1e-4)


def test_point_mass_clones_by_least_squares() -> None:
    dist = PointMass(torch.tensor([[0.5, -0.25]]))
    assert torch.equal(dist.mode(), dist.loc) and torch.equal(dist.rsample(), dist.loc)
    assert dist.log_prob(torch.tensor([[0.0, 0.25]])).tolist() == pytest.approx([-0.5])
    assert dist.entropy().tolist() == [0.0] and dist.std.tolist() == [[0.0, 0.0]]


# ---------------------------------------------------------------------- latents


def test_gaussian_parameters_have_a_bounded_std() -> None:
    params = GaussianLatent(2).params(torch.tensor([1.0, -3.0, 0.0, -60.0]))
    assert params.tolist() == pytest.approx([1.0, -3.0, 1.1, 0.1])
    assert GaussianLatent(1).params(torch.tensor([0.0, 60.0]))[1].item() == pytest.approx(2.1)
    assert GaussianLatent(1).params(torch.tensor([0.0, 2.0]))[1].item() == pytest.approx(2 / (1 + math.exp(-1)) + 0.1)


def test_gaussian_kl_is_the_closed_form_summed_over_dimensions() -> None:
    latent = GaussianLatent(3)
    p = latent.params(numbers(5, 6))
    q = latent.params(numbers(5, 6, seed=1))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(*p.chunk(2, -1)), torch.distributions.Normal(*q.chunk(2, -1))
    ).sum(-1)
    torch.testing.assert_close(latent.kl(p, q), expected)
    torch.testing.assert_close(latent.kl(p, p), torch.zeros(5), atol=1e-6, rtol=0)


def test_gaussian_sample_has_the_mean_and_std_and_mode_is_the_mean() -> None:
    torch.manual_seed(0)
    params = torch.tensor([1.0, -2.0, 0.5, 2.0])
    x = GaussianLatent(2).sample(params.expand(20000, 4))
    assert x.mean(0).tolist() == pytest.approx([1.0, -2.0], abs=0.05)
    assert x.std(0).tolist() == pytest.approx([0.5, 2.0], rel=0.03)
    assert GaussianLatent(2).mode(params).tolist() == [1.0, -2.0]


def test_categorical_samples_are_one_hot_with_the_right_frequencies() -> None:
    torch.manual_seed(0)
    latent = CategoricalLatent(2, 3)
    params = latent.params(numbers(1, 6)).expand(6000, 6)
    x = latent.sample(params).unflatten(-1, (2, 3))
    assert sorted(x.unique().tolist()) == pytest.approx([0.0, 1.0], abs=1e-6)
    torch.testing.assert_close(x.sum(-1), torch.ones(6000, 2))
    counts, expected = x.round().sum(0), 6000 * params[0].exp().unflatten(-1, (2, 3))
    for group in range(2):
        assert stats.chisquare(counts[group].double(), expected[group].double(), sum_check=False).pvalue > 1e-3


def test_categorical_gradient_is_that_of_the_probabilities() -> None:
    latent = CategoricalLatent(2, 3)
    raw, w = numbers(4, 6).requires_grad_(), numbers(4, 6, seed=1)
    straight = torch.autograd.grad((latent.sample(latent.params(raw)) * w).sum(), raw)[0]
    smooth = torch.autograd.grad((latent.params(raw).exp() * w).sum(), raw)[0]
    torch.testing.assert_close(straight, smooth)


def test_categorical_kl_and_head_statistics() -> None:
    latent = CategoricalLatent(2, 3)
    p, q = latent.params(numbers(4, 6)), latent.params(numbers(4, 6, seed=1))
    split = [torch.distributions.Categorical(logits=x.unflatten(-1, (2, 3))) for x in (p, q)]
    torch.testing.assert_close(latent.kl(p, q), torch.distributions.kl_divergence(*split).sum(-1))
    probs = latent.mean_raw(numbers(4, 6))
    torch.testing.assert_close(probs, p.exp())
    torch.testing.assert_close(latent.std(p), (probs * (1 - probs)).sqrt())
    assert latent.mode(p).unflatten(-1, (2, 3)).argmax(-1).equal(split[0].probs.argmax(-1))
