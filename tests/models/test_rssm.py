"""The recurrent ensemble: core, heads, KL balance, member draws, episode borders (algorithms 2.1, 5.1.9, 5.2.1-5)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from models.dists import CategoricalLatent, GaussianLatent
from models.latent import Latent
from models.rssm import RSSM, kl_loss
from tests.models.tiny import ACTION, DETER, EMBED, STOCH, equal_latents, make_rssm, numbers

# ---------------------------------------------------------------------- KL


def leaves(scale: float = 1.0, b: int = 4, t: int = 5) -> tuple[GaussianLatent, Tensor, Tensor]:
    """Posterior and prior parameters (float64, valid stds) as leaves."""
    latent = GaussianLatent(3)
    std = [torch.sigmoid(numbers(b, t, 3, seed=s, dtype=torch.float64)) + 0.3 for s in (1, 3)]
    mean = [scale * numbers(b, t, 3, seed=s, dtype=torch.float64) for s in (0, 2)]
    post, prior = (torch.cat([m, s], -1).requires_grad_() for m, s in zip(mean, std, strict=True))
    return latent, post, prior


@pytest.mark.parametrize("balance", [0.8, 0.5, 0.0, 1.0])
def test_kl_balance_scales_the_two_gradients(balance: float) -> None:
    latent, post, prior = leaves(3.0)
    plain = latent.kl(post, prior).mean()
    of_post, of_prior = torch.autograd.grad(plain, (post, prior))
    loss, value = kl_loss(latent, post, prior, balance=balance, free=0.0)
    grads = torch.autograd.grad(loss, (post, prior))
    torch.testing.assert_close(grads[0], (1 - balance) * of_post)
    torch.testing.assert_close(grads[1], balance * of_prior)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(value, plain.detach())
    assert not value.requires_grad


def test_below_the_free_nats_no_gradient_flows() -> None:
    latent, post, prior = leaves(0.1)
    assert 0 < latent.kl(post, prior).mean() < 1.0
    loss, value = kl_loss(latent, post, prior, balance=0.8, free=1.0)
    assert loss.item() == 1.0 and 0 < value.item() < 1.0, "the metric still shows the KL itself"
    for grad in torch.autograd.grad(loss, (post, prior)):
        assert not grad.any()


def test_free_nats_apply_to_the_mean_not_to_each_step() -> None:
    latent, post, prior = leaves(0.1)
    with torch.no_grad():
        post[0, 0, :3] += 20.0  # one step with a large KL among many small ones
    per_step = latent.kl(post, prior)
    assert per_step.mean() > 1.0 and (per_step < 1.0).sum() > 15
    loss, _ = kl_loss(latent, post, prior, balance=0.8, free=1.0)
    torch.testing.assert_close(loss, per_step.mean())
    assert abs(loss.item() - per_step.clamp_min(1.0).mean().item()) > 0.1
    (grad,) = torch.autograd.grad(loss, prior)
    assert grad.flatten(0, 1).abs().sum(-1).min() > 0, "the small steps are trained, too"


# ---------------------------------------------------------------------- recurrent core


def by_hand(rssm: RSSM, stoch: np.ndarray, action: np.ndarray, deter: np.ndarray) -> np.ndarray:
    """One recurrent step in numpy, in the words of algorithms 2.1."""
    p = {name: value.detach().double().numpy() for name, value in rssm.named_parameters()}

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    e = np.concatenate([stoch, action], -1) @ np.concatenate([p["in_stoch.weight"], p["in_action.weight"]], 1).T
    e += p["in_action.bias"]
    e = np.where(e > 0, e, np.exp(e) - 1)
    parts = np.concatenate([e, deter], -1) @ p["gru.weight"].T + p["gru.bias"]
    parts = (parts - parts.mean(-1, keepdims=True)) / np.sqrt(parts.var(-1, keepdims=True) + 1e-3)
    parts = parts * p["gru_norm.weight"] + p["gru_norm.bias"]
    reset, cand, update = np.split(parts, 3, -1)
    update = sigmoid(update - 1)
    return update * np.tanh(sigmoid(reset) * cand) + (1 - update) * deter


def test_recurrent_step_equals_a_hand_written_one() -> None:
    rssm = make_rssm()
    stoch, action, deter = numbers(7, STOCH), numbers(7, ACTION, seed=1), numbers(7, DETER, seed=2)
    found = rssm.recur(stoch, rssm.in_action(action), deter)
    expected = by_hand(rssm, stoch.double().numpy(), action.double().numpy(), deter.double().numpy())
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=2e-5, atol=1e-6)


def test_posterior_sees_memory_and_the_present_observation() -> None:
    rssm = make_rssm()
    embed, action = numbers(2, 3, EMBED), numbers(2, 3, ACTION, seed=1)
    first = torch.tensor([[True, False, False]] * 2)
    z = rssm.observe(embed, action, first, sample=False)
    other = embed.clone()
    other[:, 2] += 1.0
    seen = rssm.observe(other, action, first, sample=False)
    assert torch.equal(seen.deter, z.deter), "the memory of row t does not contain observation t"
    assert torch.equal(seen.params[:, :2], z.params[:, :2]) and not torch.allclose(seen.params[:, 2], z.params[:, 2])
    raw = rssm.post_out(torch.nn.functional.elu(rssm.post_deter(z.deter[:, 2]) + rssm.post_embed(embed[:, 2])))
    torch.testing.assert_close(z.params[:, 2], rssm.latent.params(raw))
    assert torch.equal(z.stoch, z.params[..., :STOCH]), "sample=False takes the mode"
    assert torch.equal(z.feat, torch.cat([z.stoch, z.deter], -1))


@pytest.mark.parametrize("sample", [True, False])
def test_filter_is_observe_one_row_at_a_time(sample: bool) -> None:
    rssm = make_rssm()
    embed, action = numbers(2, 5, EMBED), numbers(2, 5, ACTION, seed=1)
    first = torch.tensor([[True, False, False, True, False], [True, False, True, False, False]])
    torch.manual_seed(3)
    whole = rssm.observe(embed, action, first, sample=sample)
    torch.manual_seed(3)
    z = rssm.initial(2)
    for t in range(5):
        z = rssm.filter(embed[:, t], action[:, t], first[:, t], z, sample=sample)
        for a, b in zip(vars(z).values(), vars(whole[:, t]).values(), strict=True):
            torch.testing.assert_close(a, b)


# ---------------------------------------------------------------------- is_first


def test_posterior_after_a_reset_is_that_of_a_fresh_chunk() -> None:
    rssm = make_rssm()
    embed, action = numbers(2, 7, EMBED), numbers(2, 7, ACTION, seed=1)  # a non-zero action at the reset row, too
    first = torch.zeros(2, 7, dtype=torch.bool)
    first[:, 0] = first[:, 3] = True
    torch.manual_seed(5)
    whole = rssm.observe(embed, action, first)
    torch.manual_seed(5)
    for _ in range(3):  # the draws that the first three rows consumed
        torch.randn_like(rssm.initial(2).stoch)
    fresh = rssm.observe(embed[:, 3:], action[:, 3:], first[:, 3:])
    torch.testing.assert_close(whole.feat[:, 3:], fresh.feat)
    torch.testing.assert_close(whole.params[:, 3:], fresh.params)
    reset = rssm.observe(embed[:, 3:], action[:, 3:] * (~first[:, 3:, None]), first[:, 3:], sample=False)
    again = rssm.observe(embed[:, 3:], action[:, 3:], first[:, 3:], sample=False)
    assert equal_latents(reset, again), "is_first zeroes the action that is stored there"


def test_nothing_crosses_the_border_of_an_episode() -> None:
    rssm = make_rssm()
    embed, action = numbers(2, 6, EMBED).requires_grad_(), numbers(2, 6, ACTION, seed=1).requires_grad_()
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[:, 0] = first[0, 3] = True  # only the first chunk is cut
    z = rssm.observe(embed, action, first, sample=False)
    grads = torch.autograd.grad(z.feat[:, 3:].square().sum() + z.params[:, 3:].square().sum(), (embed, action))
    for grad in grads:
        assert not grad[0, :3].any() and grad[1, 1:3].any()
    assert not grads[1][0, 3].any(), "nor does the action stored at the first row matter"
    changed = rssm.observe(torch.cat([embed[:, :3] + 9, embed[:, 3:]], 1), action, first, sample=False)
    assert equal_latents(changed[0, 3:], z[0, 3:]) and not equal_latents(changed[1, 3:], z[1, 3:])


# ---------------------------------------------------------------------- heads and members


def test_drawn_priors_are_rows_of_all_heads() -> None:
    rssm = make_rssm(members=4)
    deter = numbers(3, 5, DETER)
    every = rssm.latent.params(rssm.heads(deter.flatten(0, 1)))  # (K, B*T, P)
    member = torch.tensor([2, 0, 3, 3, 1])
    found = rssm.priors(deter, member)
    for t, k in enumerate(member.tolist()):
        torch.testing.assert_close(found[:, t], every[k].unflatten(0, (3, 5))[:, t])
    for k in range(4):  # by hand: Linear, ELU, Linear of that member's weights
        x = torch.nn.functional.elu(deter.flatten(0, 1) @ rssm.prior_in.weight[k] + rssm.prior_in.bias[k])
        torch.testing.assert_close(every[k], rssm.latent.params(x @ rssm.prior_out.weight[k] + rssm.prior_out.bias[k]))


@pytest.mark.parametrize("categorical", [False, True])
def test_head_statistics_do_not_depend_on_whether_the_std_is_asked_for(categorical: bool) -> None:
    rssm = make_rssm(categorical=categorical)
    deter = numbers(5, DETER)
    both, only = rssm.head_stats(deter, need_std=True), rssm.head_stats(deter, need_std=False)
    assert both.mean.shape == (5, 3, STOCH) and both.std is not None and both.std.shape == (5, 3, STOCH)
    assert only.std is None
    torch.testing.assert_close(both.mean, only.mean)
    params = rssm.latent.params(rssm.heads(deter)).transpose(0, 1)
    if isinstance(rssm.latent, CategoricalLatent):
        torch.testing.assert_close(both.mean, params.exp())
    else:
        torch.testing.assert_close(torch.cat([both.mean, both.std], -1), params)


def test_the_drawn_members_kl_is_an_unbiased_estimate_of_the_ensembles() -> None:
    rssm = make_rssm(members=2)
    z = rssm.observe(numbers(4, 3, EMBED), numbers(4, 3, ACTION, seed=1), torch.zeros(4, 3, dtype=torch.bool))
    wanted = list(rssm.prior_in.parameters()) + list(rssm.prior_out.parameters()) + list(rssm.post_out.parameters())

    def found(members: list[int]) -> list[Tensor]:
        """Loss and gradients with these members at the three time steps."""
        loss, _ = kl_loss(rssm.latent, z.params, rssm.priors(z.deter, torch.tensor(members)), balance=0.8, free=0.0)
        return [loss.detach(), *torch.autograd.grad(loss, wanted, retain_graph=True)]

    draws = [found(list(m)) for m in itertools.product(range(2), repeat=3)]
    alone = [found([k] * 3) for k in range(2)]
    for a, b in zip(zip(*draws, strict=True), zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(torch.stack(a).mean(0), torch.stack(b).mean(0), rtol=1e-4, atol=1e-6)


def tell_members_apart(rssm: RSSM) -> None:
    """Member k predicts the mean k everywhere."""
    with torch.no_grad():
        rssm.prior_out.weight.zero_()
        rssm.prior_out.bias[..., :STOCH] = torch.arange(rssm.members)[:, None, None].float()


def test_one_member_per_imagined_step_for_the_whole_batch() -> None:
    rssm = make_rssm(members=4)
    tell_members_apart(rssm)
    torch.manual_seed(0)
    z, action = rssm.initial(6), numbers(6, ACTION)
    drawn: list[int] = []
    draw = rssm.draw_member
    rssm.draw_member = lambda: drawn.append(draw()) or torch.tensor([drawn[-1]])
    for _ in range(30):
        after, _ = rssm.step(z, action, stats=False)
        used = after.params[:, :STOCH].unique()
        assert len(used) == 1, "all samples of a step use the same member"
        assert used.item() == drawn[-1]
    assert len(drawn) == 30 and len(set(map(int, drawn))) == 4, "each step draws anew"
    seen = torch.cat([draw() for _ in range(2000)]).numpy()
    assert chisquare(np.bincount(seen, minlength=4)).pvalue > 1e-3
    pairs = np.bincount(4 * seen[:-1:2] + seen[1::2], minlength=16)
    assert chisquare(pairs).pvalue > 1e-3, "the draws of successive steps are independent"


def test_disagreement_is_that_of_all_members_at_the_pair() -> None:
    rssm = make_rssm(members=4)
    z = Latent(numbers(5, DETER), numbers(5, STOCH, seed=1), numbers(5, 2 * STOCH, seed=2))
    action = numbers(5, ACTION, seed=3)
    after, stats = rssm.step(z, action, need_std=True)
    assert stats is not None
    expected = rssm.head_stats(rssm.recur(z.stoch, rssm.in_action(action), z.deter), need_std=True)
    torch.testing.assert_close(stats.mean, expected.mean)
    torch.testing.assert_close(stats.std, expected.std)
    assert any(torch.allclose(after.params[:, :STOCH], stats.mean[:, k], atol=1e-5) for k in range(4))
    assert rssm.step(z, action, stats=False)[1] is None


def test_imagined_steps_and_observed_rows_share_one_memory() -> None:
    """From the posterior of row 0, the action stored at row 1 leads to the memory of row 1."""
    rssm = make_rssm(members=1)
    embed, action = numbers(2, 2, EMBED), numbers(2, 2, ACTION, seed=1)
    first = torch.tensor([[True, False]] * 2)
    z = rssm.observe(embed, action, first, sample=False)
    after, _ = rssm.step(z[:, 0], action[:, 1], sample=False)
    torch.testing.assert_close(after.deter, z.deter[:, 1])
    torch.testing.assert_close(after.params, rssm.priors(z.deter[:, 1:], torch.tensor([0]))[:, 0])
    assert torch.equal(after.stoch, after.params[:, :STOCH])


def test_posterior_does_not_depend_on_the_members() -> None:
    rssm = make_rssm()
    args = numbers(2, 4, EMBED), numbers(2, 4, ACTION, seed=1), torch.zeros(2, 4, dtype=torch.bool)
    z = rssm.observe(*args, sample=False)
    heads = [*rssm.prior_in.parameters(), *rssm.prior_out.parameters()]
    grads = torch.autograd.grad(z.feat.sum() + z.params.sum(), heads, allow_unused=True)
    assert all(g is None for g in grads)
    # the prior's side of the KL gives the posterior no gradient, either
    prior = rssm.priors(z.deter.detach(), torch.zeros(4, dtype=torch.long))
    loss, _ = kl_loss(rssm.latent, z.params, prior, balance=1.0, free=0.0)
    assert all(
        g is None or not g.any() for g in torch.autograd.grad(loss, rssm.post_out.parameters(), allow_unused=True)
    )
