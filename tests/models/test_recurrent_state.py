"""The recurrent model of states: likelihood in units of their spread, offsets of whole chunks, filtering."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.dists import GaussianLatent
from models.state_model import CLIP, RecurrentStateModel
from models.world_model import Chunk, WorldModel
from tests.models.tiny import ACTION, DETER, STOCH, numbers

OBS = 3
SCALE, CENTRE = torch.tensor([2.0, 0.1, 50.0]), torch.tensor([0.0, 7.0, -300.0])


def make(seed: int = 0, **options: Any) -> RecurrentStateModel:
    torch.manual_seed(seed)
    sizes = {"deter": DETER, "hidden": 8, "members": 3, "behaviour_hidden": 8, "action": ACTION}
    model = RecurrentStateModel(OBS, latent=GaussianLatent(STOCH), **(sizes | options))
    model.set_normaliser(states(400, seed=9))
    return model


def states(*shape: int, seed: int = 0) -> Tensor:
    return CENTRE + SCALE * numbers(*shape, OBS, seed=seed)


def make_chunk(b: int = 2, t: int = 6, expert: bool = True) -> Chunk:
    no = torch.zeros(b, t, dtype=torch.bool)
    first = no.clone()
    first[:, 0] = True
    action = numbers(b, t, ACTION, seed=1).tanh()
    action[first] = 0
    return Chunk(states(b, t), action, first, no, no, torch.full((b,), expert), ~no)


def test_the_likelihood_is_a_gaussian_of_normalised_states() -> None:
    model, chunk = make(obs_std=0.3), make_chunk()
    torch.manual_seed(1)
    losses, z, metrics = model.loss(chunk)
    target = ((chunk.obs - model.mean) / model.std).clamp(model.low, model.high)
    log_prob = torch.distributions.Normal(model.decoder(z.feat), 0.3).log_prob(target).sum(-1).mean()
    constant = OBS * np.log(0.3 * np.sqrt(2 * np.pi))
    assert losses["state"].item() == pytest.approx(-(log_prob.item() + constant), rel=1e-4)
    assert metrics["state_error"].item() == pytest.approx(2 * 0.3**2 * losses["state"].item(), rel=1e-4)
    assert set(losses) == {"state", "kl"}


def test_units_of_states_do_not_matter() -> None:
    model, other = make(), make()
    unit = torch.tensor([1000.0, 3.0, 0.02])
    other.set_normaliser(unit * states(400, seed=9))
    torch.testing.assert_close(model.encode(states(5)), other.encode(unit * states(5)), rtol=1e-3, atol=1e-4)


def test_entries_are_cut_where_they_leave_the_range_of_the_demonstrations() -> None:
    model = make(margin=0.5)
    shown = torch.tensor([[1.0, 0.0, 5.0], [3.0, 0.0, 6.0]])  # the second entry never moves
    model.set_normaliser(shown)
    assert model.mean.tolist() == [2.0, 0.0, 5.5] and model.std.tolist() == pytest.approx([1.0, 0.01, 0.5])
    assert model.low.tolist() == [-1.5, -0.5, -1.5] and model.high.tolist() == [1.5, 0.5, 1.5]
    far, edge = torch.tensor([[9.0, 3.0, -100.0]]), torch.tensor([[3.5, 0.005, 4.75]])
    assert torch.equal(model.encode(far), model.encode(edge))
    assert not torch.equal(model.encode(edge), model.encode(torch.tensor([[3.4, 0.0, 4.8]])))
    wide = make(margin=100.0)
    wide.set_normaliser(shown)
    assert wide.high.tolist() == [CLIP] * 3 and wide.low.tolist() == [-CLIP] * 3


def test_an_offset_moves_a_whole_chunk_by_its_share_of_the_spread() -> None:
    model, chunk = make(blur=0.5), make_chunk(b=2000, t=3)
    torch.manual_seed(0)
    offset = model.augmented(chunk).obs - chunk.obs
    assert torch.allclose(offset, offset[:, :1].expand_as(offset), atol=1e-3), "motion stays motion"
    torch.testing.assert_close(offset[:, 0].std(0) / model.std, torch.full((OBS,), 0.5), rtol=0.1, atol=0)
    assert make(blur=0.0).augmented(chunk) is chunk


def test_what_is_reconstructed_is_not_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, chunk, seen = make(blur=0.5), make_chunk(), []
    monkeypatch.setattr(model, "missed", lambda feat, obs: (seen.append(obs), type(model).missed(model, feat, obs))[1])
    model.loss(chunk)
    assert torch.equal(seen[0], chunk.obs)


def test_every_parameter_is_trained() -> None:
    model = make(members=1, free_nats=0.0, behaviour_scale=1.0)
    losses, _, _ = model.loss(make_chunk())
    grads = torch.autograd.grad(losses.total, list(model.parameters()), allow_unused=True)
    assert not [n for (n, _), g in zip(model.named_parameters(), grads, strict=True) if g is None or not g.any()]


def test_filtering_step_by_step_is_observing_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model, chunk = make(), make_chunk()
    monkeypatch.setattr(model.rssm.latent, "sample", model.rssm.latent.mode)
    whole, carry = model.observe(chunk), model.initial(2)
    for t in range(chunk.action.shape[1]):
        z, carry = model.filter(chunk.obs[:, t], chunk.action[:, t], chunk.is_first[:, t], carry)
        torch.testing.assert_close(z.feat, whole.feat[:, t])


def test_it_is_a_world_model_with_statistics() -> None:
    model: WorldModel = make()
    assert model.can_imagine and model.learns == "likelihood" and model.feat == STOCH + DETER
    torch.manual_seed(0)
    fresh = RecurrentStateModel(OBS, latent=GaussianLatent(STOCH), deter=DETER, hidden=8, members=3, action=ACTION)
    assert not fresh.has_statistics and make().has_statistics
    fresh.load_state_dict(make().state_dict())
    assert torch.equal(fresh.encode(states(2)), make().encode(states(2)))
