"""State world models: normalised states, imagined steps, statistics for penalties, termination (algorithms 4.3)."""

from __future__ import annotations

import inspect
from typing import Any, cast

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from agent.penalties import ens_std_mean, make_penalty
from models.latent import Latent
from models.state_model import StateEnsemble, StateModel
from models.world_model import Chunk, WorldModel
from tests.conftest import ROOT
from tests.models.tiny import numbers

OBS, ACTION = 3, 2


def make(seed: int = 0, **options: Any) -> StateEnsemble:
    torch.manual_seed(seed)
    sizes = {"hidden": 16, "layers": 2, "members": 5, "elites": 3, "lr": 3e-3, "batch": 32, "max_epochs": 5}
    return StateEnsemble(OBS, ACTION, **(sizes | options))


def transitions(n: int = 200, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    state, action = numbers(n, OBS), numbers(n, ACTION, seed=1).tanh()
    step = torch.tanh(state @ numbers(OBS, OBS, seed=2) + action @ numbers(ACTION, OBS, seed=3))
    return scale * state, action, scale * (state + 0.3 * step + 0.02 * numbers(n, OBS, seed=4))


def fitted(seed: int = 0, scale: float = 1.0, **options: Any) -> StateEnsemble:
    model = make(seed, **options)
    state, action, after = transitions(scale=scale)
    model.set_normaliser(state)
    model.fit(model.latent(state).feat, action, model.latent(after).feat)
    return model


def chunk(state: Tensor) -> Chunk:
    b, t = state.shape[:2]
    no = torch.zeros(b, t, dtype=torch.bool)
    return Chunk(state, torch.zeros(b, t, ACTION), no, no, no, torch.zeros(b, dtype=torch.bool), ~no)


# ---------------------------------------------------------------------- states as features


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_normalisation_the_feature_is_the_state(dtype: torch.dtype) -> None:
    model, state = StateModel(OBS), 100 * numbers(2, 5, OBS, dtype=dtype)
    model.set_normaliser(state.flatten(0, 1).float())
    z = model.observe(chunk(state))
    assert torch.equal(z.feat, state.float()) and torch.equal(z.stoch, z.feat) and model.feat == OBS
    assert z.deter.shape == z.params.shape == (2, 5, 0)


def test_normalised_features_have_unit_scale_and_are_clipped() -> None:
    model = StateModel(OBS, normalise=True, std_floor=0.1)
    state = numbers(500, OBS) * torch.tensor([3.0, 0.5, 0.001]) + torch.tensor([100.0, 0.0, -7.0])
    model.set_normaliser(state)
    feat = model.latent(state).feat
    torch.testing.assert_close(feat.mean(0), torch.zeros(OBS), rtol=0, atol=1e-3)
    torch.testing.assert_close(feat.std(0, correction=0), torch.tensor([1.0, 1.0, 0.01]), rtol=0.05, atol=0)
    torch.testing.assert_close(model.state(feat), state)
    far = model.latent(torch.tensor([[1000.0, -1000.0, -7.0]])).feat
    assert far[0, :2].tolist() == [10.0, -10.0]


def test_every_verb_gives_the_same_feature() -> None:
    model, state = StateModel(OBS, normalise=True), numbers(2, 4, OBS)
    model.set_normaliser(numbers(50, OBS, seed=1) * 4 + 2)
    losses, z, metrics = model.loss(chunk(state))
    assert not losses and not metrics
    carry: Any = model.initial(2)
    for t in range(4):
        for sample in (True, False):
            now, carry = model.filter(state[:, t], torch.zeros(2, ACTION), torch.zeros(2).bool(), carry, sample=sample)
            assert torch.equal(now.feat, z.feat[:, t]) and torch.equal(now.feat, model.latent(state[:, t]).feat)
    assert len(carry) == 2


def test_statistics_are_part_of_the_state_dict() -> None:
    model, other, state = StateModel(OBS, normalise=True), StateModel(OBS, normalise=True), numbers(20, OBS)
    model.set_normaliser(3 * state + 1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.latent(state).feat, model.latent(state).feat)
    assert not torch.equal(StateModel(OBS, normalise=True).latent(state).feat, model.latent(state).feat)


def test_no_dynamics_no_parameters() -> None:
    model = StateModel(OBS)
    assert not model.can_imagine and model.learns == "none" and not list(model.parameters())
    with pytest.raises(NotImplementedError, match="no dynamics"):
        model.step(model.latent(numbers(2, OBS)), numbers(2, ACTION))


def test_both_are_world_models() -> None:
    models: list[WorldModel] = [StateModel(OBS), make()]  # the type checker reads this
    assert [(m.feat, m.can_imagine, m.learns) for m in models] == [(OBS, False, "none"), (OBS, True, "fit")]


# ---------------------------------------------------------------------- imagined steps


def step(model: StateEnsemble, feat: Tensor, action: Tensor, seed: int = 0, **options: Any) -> tuple[Latent, Any]:
    torch.manual_seed(seed)
    empty = feat[..., :0]
    return model.step(Latent(empty, feat, empty), action, **({"stats": False} | options))


def test_a_step_is_a_sample_of_the_drawn_elite() -> None:
    """Every row's next feature has that mean and spread; 4000 draws per row."""
    model = fitted()
    feat, action = numbers(3, OBS, seed=5).repeat_interleave(4000, 0), numbers(3, ACTION).repeat_interleave(4000, 0)
    after = step(model, feat, action)[0].feat.view(3, 4000, OBS)
    mean, std = (x[model.ensemble.elites].view(3, 3, 4000, OBS)[:, :, 0] for x in model.ensemble.predict(feat, action))
    mixture = (std.square() + mean.square()).mean(0) - mean.mean(0).square()  # (rows, OBS), over elites
    assert ((after.mean(1) - mean.mean(0)).abs() < 5 * (mixture / 4000).sqrt()).all()
    torch.testing.assert_close(after.var(1), mixture, rtol=0.15, atol=0)


def test_without_sampling_a_step_is_an_elites_mean() -> None:
    model = fitted()
    feat, action, _ = transitions(30)
    after = step(model, feat, action, sample=False)[0].feat
    mean = model.ensemble.predict(feat, action)[0][model.ensemble.elites]
    distance = (mean - after).abs().amax(-1)  # (elites, rows)
    assert distance.min(0).values.max() < 1e-5
    assert len(distance.argmin(0).unique()) == 3, "rows draw different elites"


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_what_else_is_asked_for_does_not_change_the_step(n: int) -> None:
    model = fitted()
    feat, action, _ = transitions(n)
    plain, nothing = step(model, feat, action)
    for options in ({"stats": True}, {"stats": True, "need_std": True}):
        with_stats, stats = step(model, feat, action, **options)
        torch.testing.assert_close(with_stats.feat, plain.feat)
        assert stats.mean.shape == (n, 5, OBS) and (stats.std is not None) == ("need_std" in options)
    assert nothing is None and plain.deter.shape == plain.params.shape == (n, 0)


def test_statistics_are_all_members_predictions() -> None:
    model, (feat, action, _) = fitted(normalise_penalty=False), transitions(20)
    _, stats = step(model, feat, action, stats=True, need_std=True)
    mean, std = model.ensemble.predict(feat, action)
    torch.testing.assert_close(stats.mean, mean.transpose(0, 1))
    torch.testing.assert_close(stats.std, std.transpose(0, 1))


@pytest.mark.parametrize("penalty", ["ens_std_mean", "max_pairwise", "max_dev", "max_aleatoric", "ens_std"])
def test_normalised_penalties_do_not_depend_on_units(penalty: str) -> None:
    """5.3.3: the same data in millimetres give the same u, in raw units a thousand times as much."""
    u = make_penalty(penalty, 1.0).u
    assert u is not None
    for normalised in (True, False):
        found = []
        for scale in (1.0, 1024.0):  # a power of two: the same rounding
            model = fitted(scale=scale, normalise=False, normalise_penalty=normalised)
            feat, action, _ = transitions(20, scale)
            found.append(u(step(model, feat, action, stats=True, need_std=True)[1]))
        torch.testing.assert_close(found[1], found[0] * (1.0 if normalised else 1024.0), rtol=1e-3, atol=1e-6)


def test_identical_members_do_not_disagree_and_have_finite_gradients() -> None:
    model, (feat, action, _) = fitted(), transitions(20)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p[:1].expand_as(p))
    action.requires_grad_()
    u = ens_std_mean(step(model, feat, action, stats=True)[1])
    assert torch.equal(u, torch.zeros(20))
    assert torch.autograd.grad(u.sum(), action)[0].isfinite().all()


@pytest.mark.parametrize("stats", [True, False])
def test_a_step_is_differentiable_in_state_and_action(stats: bool) -> None:
    model = fitted().double()
    feat, action = (x[:4].double().requires_grad_() for x in transitions()[:2])

    def outputs(feat: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        z, found = step(model, feat, action, stats=stats, need_std=stats)
        return (z.feat, found.mean, found.std) if stats else (z.feat,)

    assert torch.autograd.gradcheck(outputs, (feat, action), eps=1e-6, atol=1e-6)
    grads = torch.autograd.grad(outputs(feat, action)[0].sum(), (feat, action))
    assert all(grad.abs().min() > 0 for grad in grads)


def test_a_rollout_that_leaves_the_data_does_not_blow_up() -> None:
    """Inputs are clipped, so that far away a step is as long as it is at the clip."""
    model, action = fitted(), torch.ones(50, ACTION)
    z = model.latent(transitions(50)[0])
    for _ in range(200):
        before = z
        z, _ = model.step(z, action, stats=False)
    assert z.feat.isfinite().all() and (z.feat - before.feat).abs().max() < 30
    far = [model.ensemble.predict(torch.full((1, OBS), x), action[:1])[0] - x for x in (1e3, 1e4)]
    torch.testing.assert_close(far[0], far[1], rtol=0, atol=1e-2)


def test_a_fit_is_reported_and_improves_the_prediction() -> None:
    model = make(max_epochs=30)
    state, action, after = transitions()
    before = (model.ensemble.predict(state, action)[0] - after).square().mean()
    found = model.fit(state, action, after)
    assert (model.ensemble.predict(state, action)[0] - after).square().mean() < 0.3 * before
    assert set(found) == {"mse", "mse_elites", "nll", "epochs", "updates", "rows"} and found["epochs"] == 30


# ---------------------------------------------------------------------- termination


def test_termination_looks_at_the_state_in_its_own_units() -> None:
    model = StateEnsemble(11, 3, hidden=4, layers=1, members=2, elites=1, termination="hopper")
    states = numbers(100, 11) * 0.1 + torch.tensor([1.25] + [0.0] * 10)
    model.set_normaliser(states)
    upright, fallen = torch.zeros(11), torch.zeros(11)
    upright[0], fallen[0] = 1.2, 0.6
    feat = model.latent(torch.stack([upright, fallen])).feat
    assert model.terminated(feat).tolist() == [False, True]


def test_without_a_rule_nothing_terminates() -> None:
    for model in (StateModel(OBS), make()):
        done = model.terminated(numbers(4, OBS))
        assert done.shape == (4,) and not done.any()


def test_unknown_termination_is_refused() -> None:
    with pytest.raises(ValueError, match=r"world_model\.termination: 'cheetah' is none of none, hopper"):
        make(termination="cheetah")


def test_options_of_the_ensemble_reach_it() -> None:
    clare = {"normalise_fit": False, "normalise_penalty": False, "l2": 7.5e-5, "max_logvar": 2.0}
    for options, l2 in (({}, (2.5e-5, 5e-5, 1e-4)), (clare, (7.5e-5,) * 3)):
        ensemble = make(**options).ensemble
        assert (ensemble.normalise, ensemble.l2) == (not options, l2)
        assert (ensemble.max_logvar == (2.0 if options else 0.5)).all()


def test_there_are_no_units_that_nothing_looked_at() -> None:
    with pytest.raises(ValueError, match=r"world_model\.normalise_penalty"):
        make(normalise_fit=False)


# ---------------------------------------------------------------------- configuration


@pytest.mark.parametrize(("kind", "cls"), [("state", StateModel), ("mlp", StateEnsemble)])
def test_every_option_is_set_by_the_configuration(kind: str, cls: type) -> None:
    config = cast(DictConfig, OmegaConf.load(ROOT / "configs" / "world_model" / f"{kind}.yaml"))
    options = {n for n, p in inspect.signature(cls).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    told = {"flagged"} if kind == "state" else set()  # follows from data.termination
    given = {"kind", *(() if kind == "state" else ("path",))}  # whose model it is, agent.train reads
    assert set(config) - given == options - told and config["kind"] == kind
    numeric = {"lr", "tolerance", "holdout", "std_floor", "max_logvar"} & set(config)
    assert all(isinstance(config[name], float) for name in numeric)
