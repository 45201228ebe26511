"""Probabilistic MLP ensemble: likelihood, bounds, fitting, elites (algorithms 2.2, 5.1.9, 5.2.6, 5.2.7, 5.3.4)."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare, spearmanr
from torch import Tensor

from agent import checkpoint
from agent.penalties import ens_std_mean, make_penalty
from models.latent import HeadStats
from models.mlp_ensemble import DELTA_FLOOR, FitOptions, FitStopped, MLPEnsemble, layer_l2, mopo_l2
from tests.models.tiny import numbers

FEAT, ACTION = 3, 2
QUICK = FitOptions(lr=3e-3, batch=32, max_epochs=4)


def make(members: int = 3, elites: int = 2, *, hidden: int = 16, layers: int = 2, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"feat": FEAT, "action": ACTION} | {k: options.pop(k) for k in ("feat", "action") if k in options}
    return MLPEnsemble(hidden=hidden, layers=layers, members=members, elites=elites, l2=(), **sizes, **options)


def transitions(n: int = 200, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A smooth map with a little noise."""
    feat, action = numbers(n, FEAT, seed=seed), numbers(n, ACTION, seed=seed + 1).tanh()
    step = torch.tanh(feat @ numbers(FEAT, FEAT, seed=99) + action @ numbers(ACTION, FEAT, seed=98))
    return feat, action, feat + 0.3 * step + 0.02 * numbers(n, FEAT, seed=seed + 2)


class Spy:
    """Records what ``fit`` trains on and what it holds out; ``script`` (epochs, 2, N) replaces its scores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: MLPEnsemble, script: Tensor | None = None) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.held: list[tuple[Tensor, Tensor]] = []
        self.scores: list[Tensor] = []
        self.weights: list[dict[str, Tensor]] = []
        loss, scores = model.loss, model.scores

        def spy_loss(x: Tensor, target: Tensor) -> Tensor:
            self.batches.append((x.clone(), target.clone()))
            return loss(x, target)

        def spy_scores(x: Tensor, target: Tensor) -> Tensor:
            self.held.append((x, target))
            self.scores.append(scores(x, target) if script is None else script[len(self.scores)])
            self.weights.append({k: v.detach().clone() for k, v in model.named_parameters()})
            return self.scores[-1]

        monkeypatch.setattr(model, "loss", spy_loss)
        monkeypatch.setattr(model, "scores", spy_scores)


# ---------------------------------------------------------------------- networks


def test_initial_weights_are_truncated_normal() -> None:
    model = make(7, 5, hidden=200, layers=2)
    for weight, fan_in in zip(model.weights, [FEAT + ACTION, 200, 200], strict=True):
        std = 0.5 / math.sqrt(fan_in)
        assert weight.abs().max().item() <= 2 * std + 1e-6
        assert weight.std().item() == pytest.approx(0.88 * std, rel=0.05), "std of a normal cut at 2 std"
    assert all(not bias.any() for bias in model.biases)


def test_members_are_separate_networks_on_normalised_clipped_inputs() -> None:
    model = make()
    model.mean.copy_(numbers(FEAT + ACTION))
    model.std.copy_(torch.rand(FEAT + ACTION) + 0.5)
    feat, action = 6 * numbers(50, FEAT, seed=1), 6 * numbers(50, ACTION, seed=2)
    mean, logvar = model(feat, action)
    x = ((torch.cat([feat, action], 1) - model.mean) / model.std).clamp(-10, 10)
    assert (x.abs() == 10).any()
    for i in range(3):
        y = x
        for k, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
            y = (F.silu(y) if k else y) @ weight[i] + bias[i]
        rho = y[:, FEAT:]
        high, low = model.max_logvar[i], model.min_logvar[i]
        bounded = high - torch.log1p(torch.exp(high - rho))
        bounded = low + torch.log1p(torch.exp(bounded - low))
        torch.testing.assert_close(mean[i], y[:, :FEAT])
        torch.testing.assert_close(logvar[i], bounded, rtol=1e-4, atol=1e-5)


def test_prediction_is_in_units_of_the_feature() -> None:
    model, (feat, action, _) = make(), transitions(20)
    model.delta_mean.copy_(torch.tensor([1.0, -2.0, 0.0]))
    model.delta_std.copy_(torch.tensor([0.1, 2.0, 5.0]))
    mean, logvar = model(feat, action)
    predicted, std = model.predict(feat, action)
    torch.testing.assert_close(predicted, feat + model.delta_mean + mean * model.delta_std)
    torch.testing.assert_close(std.square(), logvar.exp() * model.delta_std.square())


def test_log_variance_is_clamped_softly_between_its_bounds() -> None:
    model = make(members=2, elites=1)
    with torch.no_grad():
        model.max_logvar.copy_(torch.tensor([0.5, 1.0])[:, None, None].expand(2, 1, FEAT))
        model.min_logvar.copy_(torch.tensor([-10.0, -3.0])[:, None, None].expand(2, 1, FEAT))
    rho = torch.linspace(-20, 20, 401)[None, :, None].expand(2, -1, FEAT)
    mean, logvar = model._split(torch.cat([torch.zeros_like(rho), rho], -1).double())
    assert not mean.any()
    slack = F.softplus(model.min_logvar - model.max_logvar)  # the second clamp lifts the upper bound by this
    assert (logvar >= model.min_logvar - 1e-6).all() and (logvar <= model.max_logvar + slack + 1e-6).all()
    assert (logvar.diff(dim=1) > 0).all()
    torch.testing.assert_close(logvar[0, 150], rho[0, 150].double(), rtol=0, atol=0.01)  # rho = -5, far from both


def test_likelihood_is_the_gaussian_one() -> None:
    model = make().double()
    x, target = numbers(3, 8, FEAT + ACTION, dtype=torch.float64), numbers(3, 8, FEAT, seed=1, dtype=torch.float64)
    mean, logvar = model._split(model._raw(x))
    log_prob = torch.distributions.Normal(mean, (0.5 * logvar).exp()).log_prob(target)
    nll = (-2 * log_prob - math.log(2 * math.pi)).mean((1, 2))
    bounds = 0.01 * (model.max_logvar.sum((1, 2)) - model.min_logvar.sum((1, 2)))
    torch.testing.assert_close(model.nll(model._raw(x), target), nll)
    torch.testing.assert_close(model.loss(x, target), nll + bounds)


def test_scores_are_means_over_all_rows() -> None:
    model = make()
    x, target = numbers(9000, FEAT + ACTION), numbers(9000, FEAT, seed=1)  # more than two blocks
    mean, logvar = model._split(model._shared(x))
    error = (mean - target).square()
    expected = torch.stack([error.mean((1, 2)), (logvar + error / logvar.exp()).mean((1, 2))])
    torch.testing.assert_close(model.scores(x, target), expected)


def test_a_members_loss_moves_no_other_member() -> None:
    model = make()
    x, target = numbers(3, 8, FEAT + ACTION), numbers(3, 8, FEAT, seed=1)
    for grad in torch.autograd.grad(model.loss(x, target)[1], list(model.parameters())):
        assert not grad[0].any() and grad[1].any() and not grad[2].any()


def test_autocast_around_it_changes_nothing() -> None:
    model, (feat, action, _) = make(), transitions(20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = model(feat, action)
    assert all(torch.equal(a, b) for a, b in zip(inside, model(feat, action), strict=True))


@pytest.mark.parametrize("options", [{"elites": 4}, {"elites": 0}])
def test_impossible_numbers_of_elites_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="elites of 3 members"):
        make(**options)


def test_a_wrong_number_of_l2_coefficients_is_refused() -> None:
    with pytest.raises(ValueError, match="2 coefficients for 2 hidden layers"):
        MLPEnsemble(FEAT, ACTION, hidden=4, layers=2, members=2, elites=1, l2=(0.1, 0.1))


# ---------------------------------------------------------------------- elites


@pytest.mark.parametrize("n", [1, 4, 8])
def test_every_row_draws_each_elite_equally_often(n: int) -> None:
    model = make(6, 4)
    model.elites.copy_(torch.tensor([5, 0, 3, 2]))
    torch.manual_seed(0)
    drawn = torch.stack([model.drawn(model.draw_slots(n)) for _ in range(2000)])
    assert set(drawn.unique().tolist()) == {0, 2, 3, 5}
    for row in range(n):
        counts = torch.bincount(drawn[:, row], minlength=6)[[0, 2, 3, 5]]
        assert chisquare(counts).pvalue > 0.001
    pairs = torch.bincount(drawn[:-1, 0] * 6 + drawn[1:, 0], minlength=36)
    assert chisquare(pairs[pairs > 0]).pvalue > 0.001 and (pairs > 0).sum() == 16, "consecutive draws are independent"


@pytest.mark.parametrize("n", [1, 3, 4, 11])
def test_drawn_elites_predict_their_rows(n: int) -> None:
    model = make(6, 4)
    model.elites.copy_(torch.tensor([5, 0, 3, 2]))
    feat, action, _ = transitions(n)
    slots = model.draw_slots(n)
    for ours, all_members in zip(model.forward_slots(feat, action, slots), model(feat, action), strict=True):
        torch.testing.assert_close(ours, all_members[model.drawn(slots), torch.arange(n)])


def test_identical_members_do_not_disagree() -> None:
    model, (feat, action, _) = make(7, 5), transitions(30)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p[:1].expand_as(p))
    mean, _ = model(feat, action)
    assert torch.equal(ens_std_mean(HeadStats(mean.transpose(0, 1))), torch.zeros(30))


# ---------------------------------------------------------------------- fitting


def test_fit_learns_and_reports() -> None:
    model, data = make(), transitions(1000)
    found = model.fit(*data, FitOptions(lr=3e-3, batch=64, max_epochs=15))
    assert found["mse"] < 0.15 and found["mse_elites"] <= found["mse"]
    assert found["rows"] == 1000 and found["updates"] == found["epochs"] * math.ceil(800 / 64)
    mean, _ = model.predict(*transitions(100, seed=7)[:2])
    error = (mean - transitions(100, seed=7)[2]).square().mean((1, 2)) / (data[2] - data[0]).var(0).mean()
    assert (error < 0.2).all()


def test_members_train_on_own_resamples_that_exclude_the_hold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (feat, action, next_feat) = make(), transitions(200)
    spy = Spy(monkeypatch, model)
    model.fit(feat, action, next_feat, FitOptions(batch=50, max_epochs=2))

    def names(x: Tensor) -> list[float]:  # rows are told apart by their first entry
        return [round(v, 5) for v in x[..., 0].flatten().tolist()]

    everything = set(names(model.inputs(feat, action)))
    held = set(names(spy.held[0][0]))
    assert len(everything) == 200 and len(held) == 40
    assert model.held_out is not None and set(names(model.inputs(feat, action)[model.held_out])) == held
    epochs = [torch.cat([x for x, _ in spy.batches[i : i + 4]], 1) for i in (0, 4)]
    seen = [[names(epoch[i]) for i in range(3)] for epoch in epochs]
    for member in range(3):
        assert len(seen[0][member]) == 160 and set(seen[0][member]) <= everything - held
        assert 85 <= len(set(seen[0][member])) <= 117, "with replacement: about 63 % of the rows"
        assert sorted(seen[0][member]) == sorted(seen[1][member]) and seen[0][member] != seen[1][member]
    assert len({frozenset(names_) for names_ in seen[0]}) == 3
    x, target = spy.batches[0]
    row = names(model.inputs(feat, action)).index(names(x[2, 7])[0])
    expected = (next_feat[row] - feat[row] - model.delta_mean) / model.delta_std
    torch.testing.assert_close(target[2, 7], expected, rtol=1e-4, atol=1e-5)


def test_normalisers_are_the_training_rows_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (feat, action, next_feat) = make(), transitions(100)
    feat[:, 1] = next_feat[:, 1] = 4.0  # never moves
    spy = Spy(monkeypatch, model)
    model.fit(feat, action, next_feat, QUICK)
    x = model.inputs(feat, action)
    held = (x[:, None] == spy.held[0][0][None]).all(-1).any(1)
    assert held.sum() == 20
    joint, delta = torch.cat([feat, action], 1)[~held], (next_feat - feat)[~held]
    torch.testing.assert_close(model.mean, joint.mean(0))
    torch.testing.assert_close(model.delta_mean, delta.mean(0))
    keep = torch.arange(FEAT + ACTION) != 1
    torch.testing.assert_close(model.std[keep], joint.std(0, correction=0)[keep])
    assert model.std[1].item() == pytest.approx(1e-3) and model.delta_std[1].item() == pytest.approx(DELTA_FLOOR)
    moved = model.predict(feat, action)[0] - feat
    assert moved[..., 1].abs().max().item() < 1e-4


def test_without_normalisation_networks_see_numbers_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLARE's code (algorithms 2.2): no statistics, no clip, and deltas in units of the feature."""
    model, (feat, action, next_feat) = make(normalise=False), transitions(100)
    feat, next_feat = 100 * feat, 100 * next_feat
    spy = Spy(monkeypatch, model)
    model.fit(feat, action, next_feat, QUICK)
    joint, delta = torch.cat([feat, action], 1), next_feat - feat
    assert joint.abs().max() > 100 and torch.equal(model.inputs(feat, action), joint)
    x, target = spy.held[0]
    at = (x[:, None] == joint[None]).all(-1).float().argmax(1)
    assert torch.equal(x, joint[at]) and torch.equal(target, delta[at])
    mean, logvar = model(feat, action)
    predicted, std = model.predict(feat, action)
    assert torch.equal(predicted, feat + mean) and torch.equal(std, (0.5 * logvar).exp())


def test_where_the_bounds_of_log_variances_begin() -> None:
    for model, high in ((make(), 0.5), (make(max_logvar=2.0), 2.0)):
        assert (model.max_logvar == high).all() and (model.min_logvar == -10).all() and model.max_logvar.requires_grad


@pytest.mark.parametrize(("n", "held"), [(10, 2), (400, 80), (6000, 1000), (15_000, 1500)])
def test_size_of_the_hold_out(n: int, held: int) -> None:
    model, data = make(), transitions(n)
    *_, train, hold = model._prepare(*data, 0.1)
    assert len(hold) == held and sorted([*train.tolist(), *hold.tolist()]) == list(range(n))


def test_hold_out_is_capped() -> None:
    model, n = make(members=1, elites=1, feat=1, action=1), 600_000
    zeros = torch.zeros(n, 1)
    assert len(model._prepare(zeros, zeros, zeros, 0.1)[3]) == 50_000


def test_members_return_to_their_own_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = make(5, 2), transitions(60)
    spy = Spy(monkeypatch, model)
    options = FitOptions(lr=0.05, batch=16, max_epochs=60, patience=60, tolerance=0.0)
    found = model.fit(*data, options)
    mse, nll = torch.stack(spy.scores, 1)
    best, at = mse.min(0)
    assert len(mse) == 60 == found["epochs"] and len(at.unique()) > 1 and at.min() < 59
    monkeypatch.undo()
    torch.testing.assert_close(model.scores(*spy.held[-1])[0], best)
    for name, p in model.named_parameters():
        for i in range(5):
            assert torch.equal(p[i], spy.weights[at[i]][name][i]), name
    assert model.elites.tolist() == best.argsort()[:2].tolist()
    assert found["mse"] == pytest.approx(best.mean().item())
    assert found["mse_elites"] == pytest.approx(best.sort().values[:2].mean().item())
    assert found["nll"] == pytest.approx(nll[at, torch.arange(5)].mean().item())


def scripted(monkeypatch: pytest.MonkeyPatch, mse: Tensor, nll: Tensor) -> tuple[MLPEnsemble, Spy, dict[str, float]]:
    """Fit with made-up hold-out scores, (epochs, N) each; patience 3, tolerance 2 %."""
    model = make(members=2, elites=1)
    spy = Spy(monkeypatch, model, torch.stack([mse, nll], 1))
    return model, spy, model.fit(*transitions(50), FitOptions(patience=3, tolerance=0.02, batch=64))


def kept(model: MLPEnsemble, spy: Spy) -> list[list[int]]:
    """Epochs whose weights each member has now."""
    now = model.weights[0]
    return [[e for e, w in enumerate(spy.weights) if torch.equal(w["weights.0"][i], now[i])] for i in range(2)]


def test_fit_stops_when_no_member_improves_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors: member 1 falls by 5 % an epoch up to number 4; member 0 by half a per cent, enough in every fifth."""
    epochs = torch.arange(20.0)
    mse = torch.stack([0.995**epochs, 2 * 0.95 ** epochs.clamp_max(4)], 1)
    model, spy, found = scripted(monkeypatch, mse, torch.zeros(20, 2))
    assert found["epochs"] == 9, "numbers 0 to 5 improve, 6 to 8 do not"
    assert model.elites.tolist() == [0]
    assert kept(model, spy) == [[5], [4]], "5 is more than 2 % below 0; 8 is level with 5, with the same likelihood"


def test_likelihood_decides_between_level_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variances that still come down go on; errors that grow are no price for them."""
    epochs = torch.arange(20.0)
    nll = torch.stack([-0.1 * epochs.clamp_max(6), -0.1 * epochs.clamp_max(6)], 1)
    mse = torch.ones(20, 2)
    mse[2:, 0], mse[3:, 1] = 1.015, 1.03
    model, spy, found = scripted(monkeypatch, mse, nll)
    assert found["epochs"] == 10, "numbers 0 to 6 improve, 7 to 9 do not"
    assert kept(model, spy) == [[6], [2]]
    assert found["mse"] == pytest.approx((1.015 + 1.0) / 2) and found["nll"] == pytest.approx((-0.6 - 0.2) / 2)


def test_caps() -> None:
    data = transitions(100)
    assert make().fit(*data, FitOptions(batch=16, max_updates=7))["updates"] == 7
    assert make().fit(*data, FitOptions(batch=16, max_epochs=3))["epochs"] == 3
    frozen = make().fit(*data, FitOptions(lr=0.0, batch=16, patience=4))
    assert frozen["epochs"] == 5, "the first epoch sets the mark"


def test_l2_is_that_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    l2 = (0.3, 0.0, 0.7)
    model = MLPEnsemble(FEAT, ACTION, hidden=8, layers=2, members=2, elites=2, l2=l2)
    ours, spy = copy.deepcopy(model), Spy(monkeypatch, model)
    model.fit(*transitions(50), FitOptions(lr=0.01, batch=16, max_updates=3))
    adam = torch.optim.Adam(ours.parameters(), lr=0.01)
    for x, target in spy.batches:
        decay = sum(0.5 * c * w.square().sum() for c, w in zip(l2, ours.weights, strict=True))
        adam.zero_grad()
        (ours.loss(x, target).sum() + decay).backward()
        adam.step()
    for a, b in zip(model.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_mopos_coefficients() -> None:
    assert mopo_l2(4) == (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4) and mopo_l2(1) == (2.5e-5, 1e-4)


def test_coefficients_of_all_layers() -> None:
    assert layer_l2("auto", 3) == layer_l2(True, 3) == mopo_l2(3), "true in runs of earlier versions"
    assert layer_l2(7.5e-5, 3) == (7.5e-5,) * 4 and layer_l2(1.0, 2) == (1.0,) * 3
    assert layer_l2(0, 2) == layer_l2(False, 2) == (0.0,) * 3
    for bad in ("mopo", -1e-5):
        with pytest.raises(ValueError, match=r"world_model\.l2: .*, expected auto or a number"):
            layer_l2(bad, 2)


def equal(a: MLPEnsemble, b: MLPEnsemble) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_fit_is_deterministic_given_the_seed() -> None:
    models = [make() for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        torch.manual_seed(seed)
        model.fit(*transitions(), QUICK)
    assert equal(models[0], models[1]) and not equal(models[0], models[2])


def test_a_restored_model_continues_identically() -> None:
    model = make()
    model.fit(*transitions(), QUICK)
    restored, state = make(seed=9), torch.get_rng_state()
    restored.load_state_dict(model.state_dict())
    for m in (model, restored):
        torch.set_rng_state(state)
        m.fit(*transitions(300, seed=3), QUICK)
    assert equal(model, restored)
    assert all(p.grad is None for p in model.parameters())


def test_a_fit_starts_from_the_current_weights() -> None:
    model, data = make(), transitions(500)
    model.fit(*data, FitOptions(lr=3e-3, batch=32, max_epochs=20))
    again = model.fit(*data, FitOptions(lr=1e-4, batch=32, max_updates=1))
    fresh = make().fit(*data, FitOptions(lr=1e-4, batch=32, max_updates=1))
    assert again["mse"] < 0.3 * fresh["mse"]


def test_unusable_transitions_are_refused() -> None:
    feat, action, next_feat = transitions(20)
    with pytest.raises(ValueError, match="cannot fit to feat"):
        make().fit(feat[:4], action[:4], next_feat[:4], QUICK)
    with pytest.raises(ValueError, match="cannot fit to feat"):
        make().fit(feat, action[:10], next_feat, QUICK)
    next_feat[3, 1] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        make().fit(feat, action, next_feat, QUICK)


# ---------------------------------------------------------------------- what it is for


def test_learns_a_linear_system_and_its_noise() -> None:
    """5.2.7: s' = A s + B a + noise, of another size in every entry."""
    g = torch.Generator().manual_seed(0)
    a_matrix, b_matrix = torch.tensor([[0.9, 0.2], [-0.3, 0.8]]), torch.tensor([[0.0, 0.5]])
    noise = torch.tensor([0.05, 0.3])

    def draw(n: int) -> tuple[Tensor, Tensor, Tensor]:
        s, a = torch.randn(n, 2, generator=g), torch.rand(n, 1, generator=g) * 2 - 1
        return s, a, s @ a_matrix.T + a @ b_matrix

    s, a, mean = draw(4000)
    model = make(feat=2, action=1, hidden=48)
    model.fit(s, a, mean + noise * torch.randn(4000, 2, generator=g), FitOptions(lr=1e-3, batch=128, max_epochs=30))
    s, a, mean = draw(1000)
    predicted, std = (x[model.elites].mean(0) for x in model.predict(s, a))
    assert ((predicted - mean).square().mean(0).sqrt() < 0.35 * noise + 0.01).all()
    variance = std.square().mean(0) / noise.square()
    assert ((variance > 0.8) & (variance < 1.2)).all()


def test_uncertainty_grows_with_the_distance_to_the_data() -> None:
    """5.3.4, of the total (ens_std) and of the members' disagreement. Not asked of a member's own variance, which need
    not grow away from the data.
    """
    edges = torch.linspace(1.0, 5.0, 9)
    x = torch.cat([edges, -edges])[:, None]
    by_seed: dict[str, list[Tensor]] = {"ens_std": [], "ens_std_mean": []}
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        s = torch.rand(300, 1, generator=g) * 2 - 1
        model = make(7, 5, feat=1, action=1, hidden=32, seed=seed)
        delta = 0.5 * torch.sin(3 * s) + 0.05 * torch.randn(300, 1, generator=g)
        model.fit(s, torch.zeros_like(s), s + delta, FitOptions(lr=3e-3, batch=64, max_updates=120))
        mean, logvar = (each.transpose(0, 1).detach() for each in model(x, torch.zeros_like(x)))
        heads = HeadStats(mean, (0.5 * logvar).exp())
        for name, found in by_seed.items():
            penalty = make_penalty(name, 1.0)
            assert penalty.u is not None
            found.append(penalty.u(heads).view(2, -1).mean(0))
    for name, found in by_seed.items():
        assert min(spearmanr(edges, u).statistic for u in found) > 0.8, name
        assert (torch.stack(found).mean(0).diff() > 0).all(), name


def stopped(model: Any, data: tuple[Tensor, ...], at: int) -> None:
    """Leave a fit after ``at`` updates, and find all as before it."""
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(FitStopped):
        model.fit(*data, QUICK, lambda progress: progress.updates == at)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random) and model.unfinished is not None


@pytest.mark.parametrize("at", [1, 5, 7, 19])  # of 20 updates, five an epoch
def test_a_fit_that_is_left_goes_on_as_if_it_had_not_been(at: int, tmp_path: Path) -> None:
    """Also from a checkpoint, in another process; more than once, at an epoch's end and within one."""
    data = transitions()
    whole = make()
    expected, random = whole.fit(*data, QUICK), torch.get_rng_state()
    assert expected["updates"] == 20
    model = make()
    stopped(model, data, at)
    modules, learner = {"world": model.state_dict()}, {"fit": model.unfinished}
    checkpoint.save(tmp_path, {"step": 0, "modules": modules, "optimisers": learner}, fingerprint={})
    back = checkpoint.load(tmp_path)
    assert back is not None
    parts, seen = make(seed=1), []
    parts.load_state_dict(back["modules"]["world"])
    make()  # leaves the random state in which the whole fit began
    parts.unfinished = back["optimisers"]["fit"]
    if at < 19:
        stopped(parts, data, at + 1)
    found = parts.fit(*data, QUICK, lambda progress: bool(seen.append(progress.updates)))
    assert found == expected and parts.unfinished is None and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in parts.state_dict().items())
    assert torch.equal(parts.held_out, whole.held_out)
    assert seen == list(range(at + 2, 20)), "nothing is done twice"


def test_a_fit_that_is_left_tells_nothing_of_other_data() -> None:
    """Other rows are held out: it begins again."""
    model, other = make(), make()
    stopped(model, transitions(), 7)
    torch.manual_seed(3)
    found = model.fit(*transitions(150), QUICK)
    torch.manual_seed(3)
    assert found == other.fit(*transitions(150), QUICK)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_weights_say_how_often_transitions_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine tenths of the rows together as often as the last tenth."""
    model, (feat, action, ahead) = make(), transitions(4000)
    mark = torch.arange(4000) >= 3600
    feat[mark] += 50  # the normaliser clips, but tells them apart
    weight = torch.where(mark, 1 / 400, 1 / 3600)
    spy = Spy(monkeypatch, model)
    model.fit(
        feat, action, ahead + 50 * mark[:, None], FitOptions(batch=256, max_epochs=3, patience=100), weight=weight
    )
    drawn = torch.cat([x[:, :, 0].flatten() for x, _ in spy.batches])
    marked = (drawn > drawn.mean()).float().mean().item()
    assert marked == pytest.approx(0.5, abs=0.03)
